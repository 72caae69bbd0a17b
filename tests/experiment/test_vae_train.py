"""Figures 5 and 10, training: against torch.distributions and a plain loop; what is kept of it."""

from dataclasses import replace

import pytest
import torch

from cases import draw
from experiment import vae_target_linearity, vae_train
from lab import data, results
from lab.errors import DataError
from lab.replicas import Replica, generator
from planted_vae import (
    BETAS,
    EPOCHS,
    GRID,
    LATENT,
    PIXELS,
    SAMPLES,
    SEEDS,
    SHAPE,
    SIZES,
    TEST,
    TRAIN,
    Plain,
    Trained,
    build,
    files,
    measurement_noise,
    restore,
    run_script,
    write_data,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("vae"))


def test_terms_equal_those_of_torch_distributions():
    model, x, noise = build(range(3)), draw(3, 7, *SHAPE).sigmoid(), draw(3, 7, LATENT, seed=1)
    terms = vae_train.terms(model, x, noise)
    for r in range(3):
        for term, expected in zip(terms, Plain(model, r).terms(x[r], noise[r]), strict=True):
            torch.testing.assert_close(term[r], expected, rtol=1e-12, atol=1e-12)


def test_gradient_of_a_batch_of_betas_is_that_of_each_alone():
    betas = torch.tensor([0.1, 10.0, 1.0])
    model, x, noise = build([0, 0, 3]), draw(3, 16, *SHAPE).sigmoid(), draw(3, 16, LATENT, seed=1)
    vae_train.objective(model, x, noise, betas).backward()
    for r, beta in enumerate(betas):
        network = Plain(model, r)
        bce, kl, _ = network.terms(x[r], noise[r])
        (bce.sum() / 16 + beta.double() * kl.sum() / 16).backward()
        gradients = [p.grad[r] for p in model.parameters()]
        for gradient, parameter in zip(gradients, network.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-5, atol=1e-9)


def test_measures_are_means_over_all_images_with_the_same_noise_for_every_model(trained):
    config, images = trained.train_config, trained.images
    model, betas = build([4, 4, 5], torch.float32), (0.1, 10.0, 10.0)
    measures = vae_train.mean_terms(config, model, images, torch.tensor(betas).double())
    assert torch.equal(measures["test_bce"][0], measures["test_bce"][1])
    for split, x in (("train", trained.measured), ("test", images.x_test / 255)):
        for r, beta in enumerate(betas):
            terms = Plain(model, r).terms(x, measurement_noise(len(x)))
            bce, kl, mse = (term.mean().item() for term in terms)
            expected = {"bce": bce, "kl": kl, "mse": mse, "loss": bce + beta * kl}
            for name, value in expected.items():
                assert measures[f"{split}_{name}"][r].item() == pytest.approx(value, rel=1e-5), name


def test_measured_images_are_different_training_images_the_same_for_every_run(trained):
    config, images = trained.train_config, trained.images
    x = vae_train.measured_images(config, images)
    rows = {image.numpy().tobytes() for image in x}
    assert len(x) == len(rows) == SAMPLES
    assert rows < {image.numpy().tobytes() for image in images.x_train}
    other = replace(config, seeds=(9,), betas=(1.0, 3.0))
    assert torch.equal(vae_train.measured_images(other, images), x)
    assert len(vae_train.measured_images(replace(config, samples=1000), images)) == TRAIN


def test_a_replica_equals_a_plain_loop(trained):
    network = Plain(build([3], torch.float32))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    order, source = generator(3, "order"), generator(3, "noise")
    x = trained.measured
    for epoch in range(EPOCHS + 1):
        terms = network.terms(x, measurement_noise(len(x)))
        for name, values in zip(("bce", "kl", "mse"), terms, strict=True):
            value = trained.arrays[f"train_{name}"][2, 1, epoch]
            assert value == pytest.approx(values.mean().item(), rel=2e-3), (name, epoch)
        for index in torch.randperm(TRAIN, generator=order).split(16):
            noise = torch.randn(len(index), LATENT, generator=source)
            bce, kl, _ = network.terms(trained.images.x_train[index] / 255, noise)
            optimizer.zero_grad()
            (bce + 10.0 * kl).mean().backward()
            optimizer.step()
    for split in ("train", "test"):
        losses = trained.arrays[f"{split}_loss"]
        assert (losses[..., 1] < losses[..., 0]).all()


def test_every_epoch_and_the_best_are_kept_and_give_the_numbers_of_their_epoch(trained):
    images, kept = trained.images, set()
    best_epochs = trained.arrays["test_loss"].argmin(-1)
    assert set(best_epochs.flatten()) == {1, 2}  # neither the first nor the last
    for b, s in GRID:
        for name in (*range(EPOCHS + 1), "best"):
            kept.add(vae_train.checkpoint_path(trained.plan[BETAS[b]], SEEDS[s], name))
            network, origin = trained.restore(b, s, name)
            epoch = int(best_epochs[b, s]) if name == "best" else name
            settings = {"dataset": "planted", "beta": BETAS[b], **SIZES}
            identity = {"settings": settings, "seed": SEEDS[s], "data": images.fingerprint}
            assert origin == results.plain(identity | {"epoch": epoch, "checkpoint": name})
            terms = network.terms(images.x_test / 255, measurement_noise(TEST))
            for term, values in zip(("bce", "kl", "mse"), terms, strict=True):
                value = trained.arrays[f"test_{term}"][b, s, epoch]
                assert value == pytest.approx(values.mean().item(), rel=1e-5)
    assert set(trained.config.results.rglob("*.pt")) == kept


def test_best_is_the_first_of_the_lowest_and_each_replicas_own(trained, monkeypatch, tmp_path):
    losses = iter(torch.tensor([[5.0, 2.0, 3.0, 2.0], [1.0, 4.0, 0.5, 0.25]]).double().T)
    monkeypatch.setattr(vae_train, "mean_terms", lambda *_: {"test_loss": next(losses)})
    config = replace(trained.train_config, results=tmp_path)
    pairs = [(0.1, 0), (10.0, 3)]
    replicas = [Replica(seed, {"lr": 0.03}, {"beta": beta}) for beta, seed in pairs]
    vae_train.run(config, trained.dataset, replicas)
    plan = vae_train.plan(config, trained.images)
    for (beta, seed), epoch in zip(pairs, (1, 3), strict=True):
        best, origin = restore(plan, beta, seed, "best")
        network, _ = restore(plan, beta, seed, epoch)
        assert origin["epoch"] == epoch
        for p, expected in zip(best.parameters(), network.parameters(), strict=True):
            assert torch.equal(p, expected)


def test_epochs_not_given_are_the_papers():
    config = vae_train.Config()
    assert [config.with_epochs(name).epochs for name in ("mnist", "cifar10")] == [10, 30]
    assert replace(config, epochs=4).with_epochs("mnist").epochs == 4
    assert "epochs" not in config.hyperparameters()
    assert config.with_epochs("mnist").hyperparameters()["epochs"] == 10


UNFIT = {
    "flat rows": {"shape": (PIXELS,), "scale": 1.0},
    "above 1": {"scale": 1.01},
    "below 0": {"scale": -1.0},
}


@pytest.mark.parametrize("module", [vae_train, vae_target_linearity], ids=lambda m: m.__name__)
@pytest.mark.parametrize("kind", UNFIT)
def test_unfit_images_are_refused_before_the_fit_ones_are_worked_on(
    module, kind, monkeypatch, tmp_path
):
    fit = write_data(tmp_path / "fit.npz")
    unfit = write_data(tmp_path / "unfit.npz", **UNFIT[kind])
    with pytest.raises(DataError, match="unfit: the VAE needs images"):
        run_script(monkeypatch, module, tmp_path, "--datasets", fit, unfit)
    assert set(files(tmp_path)) == {fit, unfit}


def test_floats_in_0_to_1_are_fit(tmp_path):
    path = write_data(tmp_path / "floats.npz", scale=1.0)
    images = vae_train.load_images(vae_train.Config(device="cpu"), str(path))
    assert images.scale(images.x_train).max() == 1


def test_cifar100_is_not_shifted_for_it(trained, monkeypatch):
    images = trained.images
    monkeypatch.setattr(data, "load_images", lambda *_: replace(images, mean=0.5, std=0.5))
    x = vae_train.load_images(trained.config, "cifar100").scale(images.x_train)
    assert (x.min(), x.max()) == (0, 1)
