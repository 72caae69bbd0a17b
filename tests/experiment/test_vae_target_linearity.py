"""Figures 5 and 10, measuring: against least squares, plain networks, and what is known by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import oracles
from cases import draw
from core.linearity import surrogate
from experiment import vae_ceiling, vae_target_linearity, vae_train
from lab import cli, results, runs
from lab.errors import ConfigError, DataError, ResultError
from planted_vae import (
    BETAS,
    CLASSES,
    EPOCHS,
    GRID,
    LATENT,
    PAIRS,
    REPLICAS,
    SAMPLES,
    SEEDS,
    SHAPE,
    STEPS,
    TEST,
    Trained,
    run_script,
    write_data,
)

SHARES = torch.linspace(0, 1, STEPS)[:, None]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def measures(trained):
    arrays = vae_target_linearity.run(*trained.configs, trained.dataset, REPLICAS)
    return runs.unflatten(arrays, len(BETAS), len(SEEDS))


@pytest.fixture(scope="module")
def shown(trained):
    return vae_target_linearity.show(*trained.configs, trained.images)


class Handmade:
    """An autoencoder whose latents are the pixels, and whose images are a function of them."""

    def __init__(self, function):
        self.function = function

    def encode(self, x):
        pixels = x.flatten(2)
        return pixels, torch.zeros_like(pixels)

    def decode(self, z):
        return self.function(z).logit()


@pytest.mark.parametrize("curvature", [0.0, 1.0])
def test_a_quadratic_autoencoder_differs_from_its_ends_by_the_known_amount(curvature):
    pairs = draw(2, 6, *SHAPE).sigmoid()
    first, second = (x.flatten(1)[:, None] for x in pairs)
    model = Handmade(lambda z: (1 - curvature) * z + curvature * z**2)
    decoded, pixels, ends = vae_target_linearity.interpolate(model, pairs, STEPS)
    shares = SHARES.double()
    expected = -curvature * shares * (1 - shares) * (first - second) ** 2
    torch.testing.assert_close(decoded - ends, expected, rtol=1e-7, atol=1e-14)
    torch.testing.assert_close(pixels, shares * first + (1 - shares) * second)


def test_pixels_become_bytes_by_rounding():
    pixels = torch.tensor([0.0, 1.0, 0.4 / 255, 0.6 / 255, 254.4 / 255, 100 / 255])
    images = vae_target_linearity.to_bytes(pixels, (1, 2, 3))
    assert images.dtype == np.uint8
    assert images.tolist() == [[[0, 255, 0], [1, 254, 100]]]


@torch.no_grad()
def test_target_linearity_and_surrogate_are_those_of_means_and_pixels(trained, measures):
    x, pixels = trained.measured, trained.measured.flatten(1).double()
    for b, s in GRID:
        for epoch in range(EPOCHS + 1):
            network, _ = trained.restore(b, s, epoch)
            means, weight = network.mean(x), network.decoder[1].weight  # after nn.Flatten
            expected = {
                "tl": oracles.least_squares(means, pixels),
                "rank": LATENT,
                "chance": oracles.chance(means),
                "surrogate": surrogate(means, weight, pixels),
            }
            for name, value in expected.items():
                assert measures[name][b, s, epoch] == pytest.approx(value, rel=1e-4, abs=1e-5), name


@torch.no_grad()
def test_interpolation_errors_are_near_their_means_over_every_pair_of_test_images(
    trained, measures
):
    x = trained.images.x_test / 255
    first, second = torch.cartesian_prod(torch.arange(TEST), torch.arange(TEST)).T
    for b in range(len(BETAS)):
        network, _ = trained.restore(b, 1, EPOCHS)
        z = network.mean(x)
        latents, pixels, ends = (
            SHARES * part[first, None] + (1 - SHARES) * part[second, None]
            for part in (z, x.flatten(1), network.decode(z))
        )  # (TEST², STEPS, …)
        decoded = network.decode(latents.flatten(0, 1)).view_as(pixels)
        for name, other in (("interpolation_error", pixels), ("decoder_nonlinearity", ends)):
            errors = ((decoded - other) ** 2).mean((1, 2))
            difference = measures[name][b, 1, -1] - errors.mean()
            assert abs(difference) < 4 * errors.std() / PAIRS**0.5
            assert errors.mean() > 0


@torch.no_grad()
def test_both_sides_of_proposition_3_equal_a_loop_over_every_pair(trained, measures):
    x = trained.measured.flatten(1)
    n = len(x)
    for b, s in GRID[::2]:
        network, _ = trained.restore(b, s, "best")
        z = network.mean(trained.measured)
        rows = np.column_stack([z.double().numpy(), np.ones(n)])
        coefficients = np.linalg.lstsq(rows, x.double().numpy(), rcond=None)[0]
        totals = dict.fromkeys(("mixture_left", "mixture_decoder"), 0.0)
        for i in range(n):
            mixed = (x[i] + x).numpy() / 2
            fitted = (rows[i] + rows) / 2 @ coefficients
            decoded = network.decode((z[i] + z) / 2).numpy()
            totals["mixture_left"] += np.linalg.norm(fitted - mixed, axis=1).sum() / n**2
            totals["mixture_decoder"] += np.linalg.norm(decoded - mixed, axis=1).sum() / n**2
        right = np.linalg.norm(rows @ coefficients - x.numpy(), axis=1).mean()
        for name, value in (totals | {"mixture_right": right}).items():
            assert measures[name][b, s] == pytest.approx(value, rel=1e-5), name


def loop_over_pairs(z, x, share):
    """Proposition 3's left and right side for the least-squares map, one pair after the other."""
    rows = np.column_stack([z, np.ones(len(z))])
    coefficients = np.linalg.lstsq(rows, x, rcond=None)[0]
    total = 0.0
    for i in range(len(x)):
        fitted = (share * rows[i] + (1 - share) * rows) @ coefficients
        total += np.linalg.norm(fitted - share * x[i] - (1 - share) * x, axis=1).sum()
    return total / len(x) ** 2, np.linalg.norm(rows @ coefficients - x, axis=1).mean()


@torch.no_grad()
def test_proposition_3_has_its_left_side_at_every_share(trained, measures):
    x = trained.measured.flatten(1).double().numpy()
    b, s = GRID[1]
    network, _ = trained.restore(b, s, "best")
    z = network.mean(trained.measured).double().numpy()
    expected = [loop_over_pairs(z, x, share)[0] for share in vae_target_linearity.SHARES]
    assert measures["share_left"][b, s] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(measures["share_left"][..., -1], measures["mixture_left"])
    assert (np.diff(measures["share_left"]) < 0).all()  # the more alike the shares, the less


def test_proposition_3_of_principal_components_equals_a_loop_over_pairs(trained):
    x = trained.measured.flatten(1).double().numpy()
    z = PCA(LATENT).fit_transform(x)
    sizes = {"components": LATENT, "samples": SAMPLES, "mixed": 40}
    config = vae_ceiling.Config(**sizes)
    measured = vae_ceiling.run(config, trained.dataset, REPLICAS[:1])
    few, z = x[:40], z[:40]
    for i, share in enumerate(vae_ceiling.SHARES):
        left, right = loop_over_pairs(z, few, share)
        assert measured["mixture_left"][0, i] == pytest.approx(left)
        assert measured["mixture_right"][0] == pytest.approx(right)
        constant, _ = loop_over_pairs(np.zeros((40, 1)), few, share)
        assert measured["mixture_constant"][0, i] == pytest.approx(constant)
    rest = (few - few.mean(0)) - z @ np.linalg.lstsq(z, few - few.mean(0), rcond=None)[0]
    rms = np.sqrt((rest**2).sum(1).mean())
    assert measured["mixture_rms"][0] == pytest.approx(rms)
    assert measured["mixture_right"][0] < rms  # Jensen


def test_proposition_3_holds_for_the_least_squares_map_and_may_fail_for_the_decoder(measures):
    assert (measures["mixture_left"] < measures["mixture_right"]).all()
    assert (measures["mixture_decoder"] > measures["mixture_right"]).any()


def test_pairs_are_the_same_for_every_model_and_run(trained, measures):
    again = vae_target_linearity.run(*trained.configs, trained.dataset, REPLICAS[3:4])
    b, s = GRID[3]
    for name, values in again.items():
        np.testing.assert_array_equal(values[0], measures[name][b, s], err_msg=name)


def test_best_epoch_is_the_one_of_training(trained, measures):
    expected = trained.arrays["test_loss"].argmin(-1)
    np.testing.assert_array_equal(measures["best_epoch"], expected)


def test_variance_around_own_mean_equals_a_loop_over_images(trained):
    rows = trained.measured.flatten(1).double().numpy()
    centred = rows - rows.mean(0)
    own = sum(((row - row.mean()) ** 2).sum() for row in centred)
    share = vae_target_linearity.variance_around_own_mean(trained.train_config, trained.images)
    assert share == pytest.approx(own / (centred**2).sum(), rel=1e-6)  # pixels are float32
    assert 0.5 < share < 1


def test_the_ceiling_is_what_as_many_principal_components_reach_as_there_are_latents(
    trained, measures
):
    pixels = trained.measured.flatten(1).double()
    components = PCA(LATENT).fit_transform(pixels.numpy())
    config = vae_ceiling.Config(components=LATENT, samples=SAMPLES)
    ceiling = vae_ceiling.run(config, trained.dataset, REPLICAS[:1])["ceiling_tl"][0]
    expected = [oracles.least_squares(torch.tensor(components[:, :k]), pixels) for k in (1, LATENT)]
    assert ceiling[[0, -1]] == pytest.approx(expected)
    assert ceiling.shape == (LATENT,)
    assert measures["tl"].max() < ceiling[-1] < 1


def first_images(images, classes):
    pairs = list(zip(images.x_test, images.y_test.tolist(), strict=True))
    return torch.stack([next(x for x, y in pairs if y == label) for label in classes])


def assert_bytes(images, pixels):
    """Equal up to the rounding of the pixels, floats in [0, 1]."""
    expected = (255 * pixels).round().int().numpy()
    assert np.abs(images.reshape(expected.shape).astype(int) - expected).max() <= 1


@torch.no_grad()
def test_the_shown_interpolations_go_between_the_papers_digits(trained, shown):
    models = {
        "by_epoch": ((1, 8), [(1, epoch) for epoch in range(EPOCHS + 1)]),
        "by_beta": ((8, 2), [(b, "best") for b in range(len(BETAS))]),
    }
    for name, (classes, rows) in models.items():
        ends = first_images(trained.images, classes)
        first, second = ends.flatten(1) / 255
        pixels = SHARES * first + (1 - SHARES) * second
        for i, (b, epoch) in enumerate(rows):
            network, _ = trained.restore(b, 0, epoch)
            first_mean, second_mean = network.mean(ends / 255)
            decoded = network.decode(SHARES * first_mean + (1 - SHARES) * second_mean)
            error = ((decoded - pixels) ** 2).mean().item()
            assert_bytes(shown[name][i], decoded)
            assert shown[f"{name}_mse"][i] == pytest.approx(error, rel=1e-4)
        assert_bytes(shown[f"{name}_pixels"], pixels)
    assert shown["shown_epoch"].tolist() == [0, 1, 2, 3]


def test_fewer_shown_epochs_are_the_first_the_last_and_even_ones_between(trained, monkeypatch):
    monkeypatch.setattr(vae_target_linearity, "SHOWN_EPOCHS", 2)
    few = vae_target_linearity.show(*trained.configs, trained.images)
    assert few["shown_epoch"].tolist() == [0, EPOCHS]


@torch.no_grad()
def test_originals_are_one_test_image_a_class_and_reconstructions_are_theirs(trained, shown):
    originals = first_images(trained.images, range(CLASSES))
    np.testing.assert_array_equal(shown["originals"], originals)
    for b in range(len(BETAS)):
        network, _ = trained.restore(b, 0, "best")
        reconstructions = network.decode(network.mean(originals / 255))
        assert_bytes(shown["reconstructions"][b], reconstructions)


def test_how_it_was_trained_stands_in_the_result_of_training(monkeypatch, tmp_path):
    """Whatever that was: its name and settings hold all of it; what is not one training is none."""
    path = write_data(tmp_path / "planted.npz")

    def run(module, *words):
        run_script(monkeypatch, module, tmp_path, "--datasets", path, *words)

    def measured():
        found = (tmp_path / "results" / "paper" / "vae_target_linearity").glob("*.npz")
        return [results.read(file).config for file in found]

    unlike = {"batch_size": 5, "learning_rate": 0.5, "samples": 17}
    words = (f"--{name.replace('_', '-')}={value}" for name, value in unlike.items())
    run(vae_train, *words)
    run(vae_target_linearity)
    (config,) = measured()
    assert config.items() >= (unlike | {"epochs": 1, "hidden": 4, "latent": 2}).items()
    run(vae_train, "--betas=1")
    with pytest.raises(ResultError, match="say which one by its batch_size"):
        run(vae_target_linearity)
    for file in (tmp_path / "results" / "paper" / "vae_train").glob("planted-beta1.0-*.npz"):
        if results.read(file).config["batch_size"] == 5:
            file.unlink()
    with pytest.raises(ResultError, match="planted: some β were trained otherwise"):
        run(vae_target_linearity)
    assert len(measured()) == 1


def test_images_without_the_classes_that_are_shown_are_refused(monkeypatch, tmp_path):
    path = write_data(tmp_path / "three.npz", classes=3)
    with pytest.raises(DataError, match="three: no test image of class 8"):
        run_script(monkeypatch, vae_target_linearity, tmp_path, "--datasets", path)


@pytest.mark.parametrize("wrong", [{"steps": 1}, {"shown_beta": 3.0}], ids=str)
def test_interpolations_that_cannot_be_shown_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        vae_target_linearity.Config(**wrong)


def test_what_is_measured_of_committed_trainings_keeps_its_name():
    paths = sorted((cli.ROOT / "results" / "paper" / "vae_target_linearity").glob("*.npz"))
    for path in paths:
        measured = results.read(path)
        images, config = SimpleNamespace(name=measured.label), vae_target_linearity.Config()
        training = vae_target_linearity.find_training(config, images)
        assert vae_target_linearity.plan(config, training, images).path == path
    assert paths
