"""Figures 5 and 10 against torch.distributions, plain networks and loops, and what can be interpolated by hand."""

import itertools
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

import checkpoints
import cli
import data
import oracles
import results
import training
from core.linearity import surrogate, target_linearity
from experiment import vae_target_linearity, vae_train
from models import VAE
from training import Replica

SHAPE, TRAIN, TEST, CLASSES = (1, 5, 4), 60, 40, 10
BETAS, SEEDS, EPOCHS, HIDDEN, LATENT, SAMPLES = (0.1, 1.0, 10.0), (0, 3), 3, 9, 3, 50
SIZES = {"beta": 3, "seed": 2, "epoch": EPOCHS + 1, "shown_epoch": EPOCHS + 1, "lambda": 5, "image": CLASSES}
SIZES |= dict(zip(("channel", "row", "column"), SHAPE, strict=True))
SMALL = {"betas": BETAS, "seeds": SEEDS, "epochs": EPOCHS, "hidden": HIDDEN, "latent": LATENT, "samples": SAMPLES}
SMALL |= {"batch_size": 16, "learning_rate": 0.03}
MEASURED = {"steps": 5, "pairs": 4000}


def write_data(path, classes=CLASSES, shape=SHAPE, scale=None):
    """Planted classes with black and white pixels among the grey ones; floats times `scale` where one is given."""
    rng, parts = np.random.default_rng(0), {}
    pattern = rng.integers(-60, 315, (classes, *shape))
    for part, n in (("train", TRAIN), ("test", TEST)):
        y = np.arange(n)[::-1] % classes
        shown = pattern if part == "train" else 76 + 0.4 * pattern  # so that the best epoch is not the last
        x = (shown[y] + rng.integers(-40, 40, (n, *shape))).clip(0, 255).astype(np.uint8)
        x = np.moveaxis(x, 1, -1) if len(shape) == 3 else x
        parts |= {f"x_{part}": x if scale is None else scale * (x / 255), f"y_{part}": y}
    np.savez(path, **parts)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vae")


@pytest.fixture(scope="module")
def config(folder):
    """Of vae_target_linearity, which is one of vae_train too."""
    path = write_data(folder / "planted.npz")
    where = {"datasets": (str(path),), "results": folder / "results", "device": "cpu", "jobs": 1}
    return vae_target_linearity.Config(**where, **SMALL, **MEASURED)


@pytest.fixture(scope="module")
def images(config):
    return vae_train.load(config, config.datasets[0])


@pytest.fixture(scope="module")
def trained(config):
    return vae_train.run(config, config.datasets[0])


@pytest.fixture(scope="module")
def measured(config, trained):
    return vae_target_linearity.run(config, config.datasets[0])


def build(seeds=(0, 1, 2), dtype=torch.float64, d=20):
    return VAE(d, HIDDEN, LATENT, [training.generator(seed, "weights") for seed in seeds]).to(dtype)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Plain:
    """One replica of a VAE in torch's own layers."""

    def __init__(self, model, r=0):
        self.encoder, self.decoder = oracles.torch_layers(model.encoder, r), oracles.torch_layers(model.decoder, r)

    def parameters(self):
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def mean(self, x):
        return self.encoder(x)[:, :LATENT]

    def terms(self, x, noise):
        """Binary cross-entropy, divergence and mean squared error of each image, by torch.distributions."""
        out = self.encoder(x)
        posterior = Normal(out[:, :LATENT], (out[:, LATENT:] / 2).exp())
        pixels = self.decoder(posterior.loc + noise * posterior.scale).sigmoid()
        x = x.flatten(1)
        likelihood = (x * pixels.log() + (1 - x) * (1 - pixels).log()).sum(1)
        divergence = kl_divergence(posterior, Normal(torch.zeros(()).to(x), torch.ones(()).to(x))).sum(1)
        return -likelihood, divergence, ((pixels - x) ** 2).mean(1)


def restored(config, images, beta, seed, epoch):
    """A checkpoint as plain networks, read by torch alone."""
    content = torch.load(vae_train.checkpoint(config, images, beta, seed, epoch), weights_only=True)
    model = VAE(20, HIDDEN, LATENT, [torch.Generator()])
    model.load_state_dict(content["state"])
    return Plain(model), content


class TestLoss:
    def test_terms_equal_those_of_torch_distributions_on_grey_pixels(self):
        model, x, noise = build(), normal(3, 7, *SHAPE).sigmoid(), normal(3, 7, LATENT, seed=1)
        found = vae_train.terms(model, x, noise)
        for r in range(3):
            for term, expected in zip(found, Plain(model, r).terms(x[r], noise[r]), strict=True):
                assert term.shape == (3, 7)
                torch.testing.assert_close(term[r], expected, rtol=1e-12, atol=1e-12)

    def test_cross_entropy_of_black_and_white_pixels_is_the_bernoulli_log_likelihood(self):
        model, x, noise = build(), normal(3, 7, *SHAPE).gt(0).double(), normal(3, 7, LATENT, seed=1)
        bce, _, _ = vae_train.terms(model, x, noise)
        mean, log_variance = model.encode(x)
        logits = model.decode(mean + noise * log_variance.exp().sqrt())
        torch.testing.assert_close(-bce, Bernoulli(logits=logits).log_prob(x.flatten(2)).sum(-1))

    def test_divergence_is_the_mean_log_ratio_of_the_densities(self):
        model, x = build([5]), normal(1, 4, *SHAPE).sigmoid()
        _, kl, _ = vae_train.terms(model, x, torch.zeros(1, 4, LATENT, dtype=torch.float64))
        mean, log_variance = (part[0] for part in model.encode(x))
        posterior = Normal(mean, (log_variance / 2).exp())
        z = posterior.loc + posterior.scale * normal(40_000, 4, LATENT)
        ratio = (posterior.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1)
        np.testing.assert_allclose(kl[0].detach(), ratio.mean(0).detach(), rtol=0, atol=0.02)

    def test_gradient_of_a_batch_of_betas_is_that_of_each_alone(self):
        replicas = [Replica(seed, settings={"beta": beta}) for seed, beta in ((0, 0.1), (0, 10.0), (3, 1.0))]
        loss, noises = vae_train.objective(replicas, LATENT), [training.generator(r.seed, "noise") for r in replicas]
        model, x = build([0, 0, 3]), normal(3, 16, *SHAPE).sigmoid()
        for _ in range(2):  # the second batch has noise of its own
            model.zero_grad()
            loss(model, x, torch.zeros(3, 16)).backward()
            gradients = [p.grad for p in model.parameters()]
            for r, replica in enumerate(replicas):
                network = Plain(model, r)
                bce, kl, _ = network.terms(x[r], torch.randn(16, LATENT, generator=noises[r]).double())
                (bce.sum() / 16 + replica.settings["beta"] * kl.sum() / 16).backward()
                for gradient, p in zip(gradients, network.parameters(), strict=True):
                    torch.testing.assert_close(gradient[r], p.grad, rtol=1e-5, atol=1e-9)

    def test_evaluation_is_the_mean_over_all_images_with_the_same_noise_for_every_model(self, config, images):
        model = build([4, 4, 5], torch.float32)
        betas = torch.tensor([0.1, 10.0, 10.0], dtype=torch.float64)
        with torch.no_grad():
            found = vae_train.evaluate(config, model, images, betas)
        assert found.keys() == {f"{split}_{name}" for split in ("train", "test") for name in vae_train.MEASURES}
        assert torch.equal(found["test_bce"][0], found["test_bce"][1])
        for split, x in (("train", vae_train.measured_images(config, images)), ("test", images.x_test)):
            noise = torch.randn(len(x), LATENT, generator=training.generator(0, "measurement"))
            for r, beta in enumerate((0.1, 10.0, 10.0)):
                bce, kl, mse = (term.mean().item() for term in Plain(model, r).terms(x / 255, noise))
                expected = {"bce": bce, "kl": kl, "mse": mse, "loss": bce + beta * kl}
                for name, value in expected.items():
                    assert found[f"{split}_{name}"][r].item() == pytest.approx(value, rel=1e-5), name

    def test_evaluation_in_small_batches_draws_other_noise_of_the_same_size(self, config, images, monkeypatch):
        model, betas = build([4], torch.float32), torch.ones(1, dtype=torch.float64)
        with torch.no_grad():
            whole = vae_train.evaluate(config, model, images, betas)
            monkeypatch.setattr(training, "EVALUATION_BATCH", 7)
            parts = vae_train.evaluate(config, model, images, betas)
        for name in whole:
            assert parts[name].item() == pytest.approx(whole[name].item(), rel=0.02), name
        assert parts["test_kl"].item() == pytest.approx(whole["test_kl"].item(), rel=1e-6)  # which needs no noise


class TestMeasuredImages:
    def test_are_training_images_without_repetition_and_the_same_for_every_run(self, config, images):
        found = vae_train.measured_images(config, images)
        assert len(found) == SAMPLES
        rows = {image.numpy().tobytes() for image in found}
        assert rows < {image.numpy().tobytes() for image in images.x_train}
        assert len(rows) == SAMPLES
        other = replace(config, seeds=(9,), betas=(1.0, 3.0))
        assert torch.equal(vae_train.measured_images(other, images), found)

    def test_are_all_of_them_where_there_are_fewer_than_asked_for(self, config, images):
        assert len(vae_train.measured_images(replace(config, samples=1000), images)) == TRAIN


class TestTraining:
    def test_arrays_have_the_axes_they_are_documented_with(self, trained):
        assert trained.keys() == vae_train.AXES.keys()
        for name, axes in vae_train.AXES.items():
            assert trained[name].shape == tuple(SIZES[axis] for axis in axes), name
            assert np.isfinite(trained[name]).all(), name
        assert trained["beta"].tolist() == list(BETAS)

    def test_a_replica_equals_a_plain_loop(self, config, images, trained):
        network = Plain(build([3], torch.float32))
        stepper = torch.optim.Adam(network.parameters(), lr=0.03)
        order, noises = training.generator(3, "order"), training.generator(3, "noise")
        for epoch in range(EPOCHS + 1):
            x = vae_train.measured_images(config, images) / 255
            noise = torch.randn(len(x), LATENT, generator=training.generator(0, "measurement"))
            for name, values in zip(("bce", "kl", "mse"), network.terms(x, noise), strict=True):
                found = trained[f"train_{name}"][2, 1, epoch]
                assert found == pytest.approx(values.mean().item(), rel=2e-3), (name, epoch)
            for index in torch.randperm(TRAIN, generator=order).split(16):
                noise = torch.randn(len(index), LATENT, generator=noises)
                bce, kl, _ = network.terms(images.x_train[index] / 255, noise)
                stepper.zero_grad()
                (bce + 10.0 * kl).mean().backward()
                stepper.step()

    def test_a_replica_of_a_batch_equals_the_same_run_alone(self, config, trained, tmp_path):
        replicas = [Replica(s, {"lr": 0.03}, {"beta": beta}) for beta in BETAS for s in SEEDS]
        together = vae_train.train_group(replace(config, results=tmp_path), config.datasets[0], replicas)
        for name, values in together.items():
            alone = trained[name].reshape(6, *trained[name].shape[2:])
            np.testing.assert_allclose(values, alone, rtol=1e-3, atol=1e-4, err_msg=name)

    def test_loss_falls_and_is_the_weighted_sum(self, trained):
        betas = np.array(BETAS)[:, None, None]
        for split in ("train", "test"):
            total = trained[f"{split}_bce"] + betas * trained[f"{split}_kl"]
            np.testing.assert_allclose(trained[f"{split}_loss"], total, rtol=1e-12)
            assert (trained[f"{split}_loss"][..., 1] < trained[f"{split}_loss"][..., 0]).all()

    def test_epochs_0_are_the_papers(self):
        config = vae_train.Config()
        assert [vae_train.epochs(config, name) for name in ("mnist", "cifar10")] == [10, 30]
        assert vae_train.epochs(replace(config, epochs=4), "mnist") == 4

    def test_the_paper_settings(self):
        config = vae_train.Config()
        assert config.betas == (0.05, 0.1, 0.5, 1, 2, 5, 10)
        assert (config.learning_rate, config.batch_size, config.hidden, config.latent) == (1e-4, 128, 512, 32)
        assert (config.datasets, config.samples) == (("mnist", "cifar10"), 10_000)
        assert vae_target_linearity.Config().steps == 10


class TestCheckpoints:
    def test_every_one_of_the_run_is_there_and_nothing_else(self, config, images, trained):
        expected = {
            vae_train.checkpoint(config, images, beta, seed, epoch)
            for beta, seed, epoch in itertools.product(BETAS, SEEDS, (*range(EPOCHS + 1), "best"))
        }
        assert len(expected) == 30
        assert set(config.results.rglob("*.pt")) == expected
        assert {path for path in (config.results / "paper" / "vae_train").rglob("*") if path.is_file()} == expected

    def test_each_gives_the_numbers_of_its_epoch(self, config, images, trained):
        noise = torch.randn(TEST, LATENT, generator=training.generator(0, "measurement"))
        for (b, beta), (s, seed), epoch in itertools.product(enumerate(BETAS), enumerate(SEEDS), range(EPOCHS + 1)):
            network, content = restored(config, images, beta, seed, epoch)
            for name, values in zip(("bce", "kl", "mse"), network.terms(images.x_test / 255, noise), strict=True):
                assert trained[f"test_{name}"][b, s, epoch] == pytest.approx(values.mean().item(), rel=1e-5)
            assert content["made"]["seed"] == seed
            assert content["made"]["epoch"] == epoch
            assert content["made"]["data"] == images.fingerprint
            assert content["made"]["settings"]["beta"] == beta

    def test_best_is_that_of_the_lowest_test_loss(self, config, images, trained):
        assert set(trained["best_epoch"].flatten()) == {1, 2}
        for (b, beta), (s, seed) in itertools.product(enumerate(BETAS), enumerate(SEEDS)):
            epoch = int(np.argmin(trained["test_loss"][b, s]))
            (_, best), (_, of_epoch) = (restored(config, images, beta, seed, e) for e in ("best", epoch))
            assert trained["best_epoch"][b, s] == best["made"]["epoch"] == epoch
            assert all(torch.equal(best["state"][name], of_epoch["state"][name]) for name in best["state"])

    def test_best_is_the_first_of_the_lowest_and_each_replicas_own(self, config, images, monkeypatch, tmp_path):
        planted = [[5.0, 2.0, 3.0, 2.0], [1.0, 4.0, 0.5, 0.25]]
        losses = iter(torch.tensor(planted, dtype=torch.float64).T)
        monkeypatch.setattr(vae_train, "evaluate", lambda *_: {"test_loss": next(losses)})
        config = replace(config, results=tmp_path)
        replicas = [Replica(0, settings={"beta": 0.1}), Replica(3, settings={"beta": 10.0})]
        model, seen = build([0, 3], torch.float32), []
        keeper = vae_train.Keeper(config, images, replicas)
        for _ in range(4):
            seen.append([model.decoder.layers[0].bias[r].tolist() for r in range(2)])
            keeper(model)
            with torch.no_grad():
                model.decoder.layers[0].bias += 1
        for r, (replica, best) in enumerate(zip(replicas, (1, 3), strict=True)):
            for name, epoch in (("best", best), *((e, e) for e in range(4))):
                _, content = restored(config, images, replica.settings["beta"], replica.seed, name)
                assert content["made"]["epoch"] == epoch
                assert content["state"]["decoder.layers.0.bias"].tolist() == [seen[epoch][r]]


class Handmade:
    """An autoencoder whose latents are the pixels, and whose images are a function of them."""

    def __init__(self, function):
        self.function = function

    def encode(self, x):
        pixels = x.flatten(2)
        return pixels, torch.zeros_like(pixels)

    def decode(self, z):
        return self.function(z).logit()


def pairs(n=6):
    return normal(2, n, *SHAPE).sigmoid()


class TestInterpolation:
    @pytest.mark.parametrize("steps", [2, 5, 10])
    def test_mix_goes_in_even_steps_from_the_second_to_the_first(self, steps):
        first, second = pairs()
        found = vae_target_linearity.mix(first, second, steps)
        assert found.shape == (6, steps, *SHAPE)
        for n, k in itertools.product(range(6), range(steps)):
            share = k / (steps - 1)
            torch.testing.assert_close(found[n, k], share * first[n] + (1 - share) * second[n])
        assert torch.equal(found[:, 0], second)
        assert torch.equal(found[:, -1], first)

    def test_a_linear_autoencoder_interpolates_as_pixels_do(self):
        found = vae_target_linearity.interpolate(Handmade(lambda z: z), pairs(), 5)
        for part in found[1:]:
            torch.testing.assert_close(found[0], part, rtol=0, atol=1e-14)

    def test_a_quadratic_one_differs_from_its_ends_by_the_known_amount(self):
        decoded, of_pixels, of_ends = vae_target_linearity.interpolate(Handmade(lambda z: z**2), pairs(), 5)
        first, second = (x.flatten(1)[:, None] for x in pairs())
        share = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
        torch.testing.assert_close(decoded - of_ends, -share * (1 - share) * (first - second) ** 2)
        torch.testing.assert_close(of_pixels, share * first + (1 - share) * second)

    def test_ends_are_the_reconstructions_of_either_image(self):
        model, x = build([2]), pairs()
        decoded, of_pixels, of_ends = vae_target_linearity.interpolate(model, x, 4)
        network = Plain(model)
        for end, k in ((0, -1), (1, 0)):
            expected = network.decoder(network.mean(x[end])).sigmoid()
            torch.testing.assert_close(decoded[:, k], expected)
            torch.testing.assert_close(of_ends[:, k], expected)
            torch.testing.assert_close(of_pixels[:, k], x[end].flatten(1))

    def test_an_image_and_itself_have_nothing_between_them(self):
        x = pairs()[:1].expand(2, -1, *SHAPE)
        decoded, _, of_ends = vae_target_linearity.interpolate(build([2]), x, 4)
        torch.testing.assert_close(decoded, of_ends)
        torch.testing.assert_close(decoded, decoded[:, :1].expand_as(decoded))

    def test_pixels_become_bytes_by_rounding(self):
        pixels = torch.tensor([0.0, 1.0, 0.4 / 255, 0.6 / 255, 254.4 / 255, 100 / 255]).repeat(3, 1)
        found = vae_target_linearity.to_bytes(pixels, (1, 2, 3))
        assert found.dtype == np.uint8
        assert found.tolist() == [[[[0, 255, 0], [1, 254, 100]]]] * 3


class TestMeasures:
    def test_arrays_have_the_axes_they_are_documented_with(self, measured):
        assert measured.keys() == vae_target_linearity.AXES.keys()
        for name, axes in vae_target_linearity.AXES.items():
            assert measured[name].shape == tuple(SIZES[axis] for axis in axes), name
            assert np.isfinite(measured[name]).all(), name
        assert measured["shown_epoch"].tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(measured["lambda"], [0, 0.25, 0.5, 0.75, 1])

    def test_target_linearity_and_surrogate_are_those_of_means_and_centred_pixels(self, config, images, measured):
        x = vae_train.measured_images(config, images) / 255
        pixels = x.flatten(1).double()
        pixels -= pixels.mean(0)
        for (b, beta), (s, seed), epoch in itertools.product(enumerate(BETAS), enumerate(SEEDS), range(EPOCHS + 1)):
            network, _ = restored(config, images, beta, seed, epoch)
            with torch.no_grad():
                means = network.mean(x)
            at = b, s, epoch
            assert measured["tl"][at] == pytest.approx(oracles.least_squares(means, pixels), abs=1e-5)
            assert measured["tl"][at] == pytest.approx(target_linearity(means, pixels), abs=1e-5)
            assert measured["rank"][at] == LATENT
            assert measured["chance"][at] == pytest.approx(oracles.chance(means), abs=1e-5)
            weight = network.decoder[1].weight  # after nn.Flatten
            assert measured["surrogate"][at] == pytest.approx(surrogate(means, weight, pixels), rel=1e-4)
            z = means.double().numpy() @ weight.detach().double().numpy().T
            expected = np.linalg.norm(pixels.numpy().T @ z) ** 2 / 20
            assert measured["surrogate"][at] == pytest.approx(expected, rel=1e-4)

    def test_interpolation_errors_are_near_their_means_over_every_pair_of_test_images(self, config, images, measured):
        x = images.x_test / 255
        shares = torch.linspace(0, 1, 5)[:, None]
        for b, beta in enumerate(BETAS):
            network, _ = restored(config, images, beta, SEEDS[1], EPOCHS)
            with torch.no_grad():
                z, ends = network.mean(x), network.decoder(network.mean(x)).sigmoid()
                errors = []
                for i, j in itertools.product(range(TEST), repeat=2):
                    decoded = network.decoder(shares * z[i] + (1 - shares) * z[j]).sigmoid()
                    linear = [shares * part[i] + (1 - shares) * part[j] for part in (x.flatten(1), ends)]
                    errors.append([((decoded - part) ** 2).mean().item() for part in linear])
            expected = np.mean(errors, 0)
            found = [measured[name][b, 1, -1] for name in ("interpolation_error", "decoder_nonlinearity")]
            spread = np.std(errors, 0) / MEASURED["pairs"] ** 0.5
            assert (np.abs(found - expected) < 4 * spread).all()
            assert (expected > 0).all()

    def test_pairs_are_the_same_for_every_model_and_run(self, config, measured):
        again = vae_target_linearity.measure(config, config.datasets[0], [Replica(3, settings={"beta": 1.0})])
        for name, values in again.items():
            np.testing.assert_array_equal(values[0], measured[name][1, 1], err_msg=name)

    def test_variance_around_own_mean_equals_a_loop_over_images(self, config, images, measured):
        rows = [image.flatten().double() / 255 for image in vae_train.measured_images(config, images)]
        mean = [sum(float(row[k]) for row in rows) / SAMPLES for k in range(20)]
        own = total = 0.0
        for row in rows:
            centred = [float(value) - of_column for value, of_column in zip(row, mean, strict=True)]
            around = sum(centred) / 20
            own += sum((value - around) ** 2 for value in centred)
            total += sum(value**2 for value in centred)
        assert measured["variance_around_own_mean"] == pytest.approx(own / total, rel=1e-6)  # pixels are float32
        assert 0.5 < own / total < 1

    def test_best_epoch_is_the_one_of_training(self, trained, measured):
        np.testing.assert_array_equal(measured["best_epoch"], trained["best_epoch"])


class TestShown:
    def ends(self, images, classes):
        return [next(x for x, y in zip(images.x_test, images.y_test, strict=True) if y == label) for label in classes]

    def interpolated(self, network, first, second):
        """Floats (5, 20) decoded between two images, and of their pixels."""
        x = torch.stack([first, second]) / 255
        shares = torch.linspace(0, 1, 5)[:, None]
        with torch.no_grad():
            a, b = network.mean(x)
            return network.decoder(shares * a + (1 - shares) * b).sigmoid(), (
                shares * x[0].flatten() + (1 - shares) * x[1].flatten()
            )

    def test_by_epoch_and_by_beta_go_between_the_papers_digits(self, config, images, measured):
        rows = {
            "by_epoch": ((1, 8), [(1.0, epoch) for epoch in range(EPOCHS + 1)]),
            "by_beta": ((8, 2), [(beta, "best") for beta in BETAS]),
        }
        for name, (classes, models) in rows.items():
            for i, (beta, epoch) in enumerate(models):
                network, _ = restored(config, images, beta, SEEDS[0], epoch)
                decoded, of_pixels = self.interpolated(network, *self.ends(images, classes))
                found = measured[name][i].reshape(5, 20).astype(int)
                assert np.abs(found - (255 * decoded).round().int().numpy()).max() <= 1
                assert measured[f"{name}_mse"][i] == pytest.approx(((decoded - of_pixels) ** 2).mean().item(), rel=1e-4)
            pixels = measured[f"{name}_pixels"].reshape(5, 20).astype(int)
            assert np.abs(pixels - (255 * of_pixels).round().int().numpy()).max() <= 1
            np.testing.assert_array_equal(measured[f"{name}_pixels"][-1], self.ends(images, classes)[0])
            np.testing.assert_array_equal(measured[f"{name}_pixels"][0], self.ends(images, classes)[1])

    def test_originals_are_the_first_test_images_of_each_class_and_reconstructions_are_theirs(
        self, config, images, measured
    ):
        originals = torch.stack(self.ends(images, range(CLASSES)))
        np.testing.assert_array_equal(measured["originals"], originals)
        for b, beta in enumerate(BETAS):
            network, _ = restored(config, images, beta, SEEDS[0], "best")
            with torch.no_grad():
                decoded = network.decoder(network.mean(originals / 255)).sigmoid()
            found = measured["reconstructions"][b].reshape(CLASSES, 20).astype(int)
            assert np.abs(found - (255 * decoded).round().int().numpy()).max() <= 1

    def test_shown_epochs_go_evenly_from_before_training_to_the_last(self, config):
        shown = vae_target_linearity.show(replace(config, shown_epochs=2), config.datasets[0])
        assert shown["shown_epoch"].tolist() == [0, EPOCHS]


TINY = {"betas": (0.1, 1.0), "seeds": (0, 3), "epochs": 1, "hidden": 4, "latent": 2, "pairs": 3, "steps": 2}


@pytest.fixture
def script(monkeypatch, capsys, tmp_path):
    """Runs one of the two scripts at tiny size on a file's images; returns exit status, stdout and stderr."""

    def call(module, *paths, flags=(), **further):
        given = {name: value for name, value in (TINY | further).items() if hasattr(module.Config, name)}
        words = [*flags, "--device", "cpu", "--jobs", "1", "--results", tmp_path / "results", "--datasets", *paths]
        for name, value in given.items():
            words += [f"--{name.replace('_', '-')}", *(value if isinstance(value, tuple) else (value,))]
        monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, words)])
        capsys.readouterr()
        try:
            cli.run(module.main)
            status = 0
        except SystemExit as stop:
            status = stop.code
        return SimpleNamespace(status=status, **capsys.readouterr()._asdict())

    return call


def below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_one_line(run):
    return run.status == 2 and run.out == "" and run.err.startswith("error: ") and run.err.count("\n") == 1


def other_architecture(path, _):
    made = torch.load(path, weights_only=True)["made"]
    checkpoints.save(path, VAE(20, 7, 2, [torch.Generator()]).state_dict(), made)


SPOILT = {  # what is done to a checkpoint, given it and one of another replica, and what the message must say
    "missing": (lambda path, _: path.unlink(), "no checkpoint"),
    "text": (lambda path, _: path.write_text("not a checkpoint"), "is not a checkpoint"),
    "cut short": (lambda path, _: path.write_bytes(path.read_bytes()[:1000]), "is not a checkpoint"),
    "of another replica": (lambda path, other: path.write_bytes(other.read_bytes()), "another settings and seed"),
    "of another architecture": (other_architecture, "architecture"),
}


class TestCheckpointsThatCannotBeUsed:
    @pytest.fixture
    def path(self, tmp_path):
        return write_data(tmp_path / "planted.npz")

    @pytest.fixture
    def checkpoint(self, path, script, tmp_path):
        """Path of a checkpoint of a finished vae_train, by β, seed and epoch."""
        assert script(vae_train, path).status == 0
        config = vae_target_linearity.Config(datasets=(str(path),), results=tmp_path / "results", **TINY)
        images = vae_train.load(config, str(path))
        return lambda beta, seed, epoch: vae_train.checkpoint(config, images, beta, seed, epoch)

    def test_all_there_it_runs(self, path, checkpoint, script, tmp_path):
        before = below(tmp_path)
        run = script(vae_target_linearity, path)
        assert (run.status, run.err) == (0, "")
        (made,) = below(tmp_path).keys() - before.keys()
        assert run.out.startswith(f"saved {made} ")
        assert results.load(made).arrays.keys() == vae_target_linearity.AXES.keys()
        assert before.items() <= below(tmp_path).items()

    def test_before_vae_train_it_says_so_and_writes_nothing(self, path, script, tmp_path):
        before = below(tmp_path)
        run = script(vae_target_linearity, path)
        assert is_one_line(run), run.err
        assert "no checkpoint" in run.err
        assert "vae_train.py" in run.err
        assert below(tmp_path) == before

    def test_of_a_vae_train_with_other_options_are_no_use(self, path, checkpoint, script, tmp_path):
        before = below(tmp_path)
        run = script(vae_target_linearity, path, hidden=5)
        assert is_one_line(run), run.err
        assert "no checkpoint" in run.err
        assert below(tmp_path) == before

    @pytest.mark.parametrize("spoilt", SPOILT)
    @pytest.mark.parametrize("epoch", [0, 1, "best"])
    def test_one_that_is_spoilt_is_named_and_nothing_is_written(
        self, epoch, spoilt, path, checkpoint, script, tmp_path
    ):
        spoil, message = SPOILT[spoilt]
        spoil(checkpoint(0.1, 0, epoch), checkpoint(1.0, 3, epoch))
        before = below(tmp_path)
        run = script(vae_target_linearity, path)
        assert is_one_line(run), run.err
        assert str(checkpoint(0.1, 0, epoch)) in run.err
        assert message in run.err
        assert "run src/experiment/vae_train.py" in run.err
        assert below(tmp_path) == before

    def test_one_missing_of_the_last_replica_leaves_no_result(self, path, checkpoint, script, tmp_path):
        checkpoint(1.0, 3, 1).unlink()
        before = below(tmp_path)
        run = script(vae_target_linearity, path)
        assert is_one_line(run), run.err
        assert str(checkpoint(1.0, 3, 1)) in run.err
        assert all(".partial" in made.parts for made in below(tmp_path).keys() - before.keys())  # what is finished

    def test_the_remedy_works(self, path, checkpoint, script, tmp_path):
        whole = below(tmp_path)
        checkpoint(1.0, 0, 1).write_text("not a checkpoint")
        checkpoint(1.0, 3, "best").unlink()
        assert script(vae_target_linearity, path).status == 2
        assert script(vae_train, path).status == 0  # its result is there
        assert script(vae_target_linearity, path).status == 2
        assert script(vae_train, path, flags=["--overwrite"]).status == 0
        assert script(vae_target_linearity, path).status == 0
        after = below(tmp_path)
        assert all(after[path] == content for path, content in whole.items() if path.suffix == ".pt")


UNFIT = {
    "flat rows": {"shape": (20,), "scale": 1.0},
    "above 1": {"shape": SHAPE, "scale": 1.01},
    "below 0": {"shape": SHAPE, "scale": -1.0},
}


@pytest.mark.parametrize("module", [vae_train, vae_target_linearity], ids=["vae_train", "vae_target_linearity"])
class TestUnfitImages:
    @pytest.fixture(autouse=True)
    def no_work(self, monkeypatch):
        monkeypatch.setattr(training, "train_all", lambda *_, **__: pytest.fail("work has begun"))

    @pytest.mark.parametrize("unfit", UNFIT)
    def test_are_one_line(self, module, unfit, script, tmp_path):
        path = write_data(tmp_path / "unfit.npz", **UNFIT[unfit])
        run = script(module, path)
        assert is_one_line(run), run.err
        assert run.err.startswith("error: unfit: the VAE needs images")
        assert set(below(tmp_path)) == {path}

    def test_are_refused_before_the_fit_ones_are_worked_on(self, module, script, tmp_path):
        path, unfit = write_data(tmp_path / "fit.npz"), write_data(tmp_path / "unfit.npz", **UNFIT["above 1"])
        run = script(module, path, unfit)
        assert is_one_line(run), run.err
        assert run.err.startswith("error: unfit: the VAE needs images")
        assert set(below(tmp_path)) == {path, unfit}


def test_floats_in_0_to_1_are_fit(script, tmp_path):
    path = write_data(tmp_path / "floats.npz", scale=1.0)
    assert script(vae_train, path).status == 0
    run = script(vae_target_linearity, path)
    assert (run.status, run.err) == (0, "")
    (result,) = results.find(tmp_path / "results", "paper", "vae_target_linearity", {})
    x = np.load(path)["x_test"]
    first = np.round(255 * x[np.arange(TEST)[::-1] % CLASSES == 0][0]).astype(np.uint8)
    np.testing.assert_array_equal(result["originals"][0, 0], first[..., 0])


def test_images_without_the_classes_that_are_shown_are_measured_or_refused_in_one_line(script, tmp_path):
    path = write_data(tmp_path / "three.npz", classes=3)
    assert script(vae_train, path).status == 0
    run = script(vae_target_linearity, path)
    assert run.status == 0 or is_one_line(run)


def test_cifar100_is_not_shifted_for_it(config, images, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_: replace(images, mean=0.5, std=0.5))
    loaded = vae_train.load(config, "cifar100")
    assert loaded.scale(images.x_train).min() >= 0
    assert loaded.scale(images.x_train).max() == 1


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (vae_train.Config, {"betas": (0.0,)}),
        (vae_train.Config, {"betas": ()}),
        (vae_train.Config, {"epochs": -1}),
        (vae_train.Config, {"latent": 0}),
        (vae_train.Config, {"samples": 0}),
        (vae_target_linearity.Config, {"steps": 1}),
        (vae_target_linearity.Config, {"pairs": 0}),
        (vae_target_linearity.Config, {"shown_beta": 3.0}),
        (vae_target_linearity.Config, {"shown_epochs": 1}),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line(kind, wrong):
    with pytest.raises(cli.ConfigError, match=next(iter(wrong))) as error:
        kind(**wrong)
    assert "\n" not in str(error.value)
