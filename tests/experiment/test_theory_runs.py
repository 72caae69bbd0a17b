"""The script of the theories: its own sums and scores, against autograd and scikit-learn."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch.nn import functional

from core.gram import cosine
from core.virtual import virtual_covariance_shift
from experiment import theories
from experiment._theory_networks import NETWORKS, build, gram_layers
from experiment.grokking import addition
from lab.data import Images
from lab.replicas import Replica
from tiny import TINY, tiny


@pytest.fixture(scope="module")
def images() -> Images:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(150, 1, 8, 8))).float()
    y = torch.from_numpy(rng.integers(0, 4, 150))
    return Images("tiny", x[:90], y[:90], x[90:], y[90:], unit=1.0)


def network(name: str, images: Images) -> torch.nn.Module:
    return build(dataclasses.replace(NETWORKS[name], width=8), images, 3)


def test_the_summed_shift_is_that_of_features_and_their_gradients(images: Images) -> None:
    model, rate = network("sgd", images).double(), 1e-7
    summed = theories.SummedShift(model)
    layers = gram_layers(model)
    expected = dict.fromkeys(layers, 0.0)
    for rows in (slice(0, 30), slice(30, 60)):
        h, inputs = images.x_train[rows].double(), {}
        for name, module in model.named_children():
            if name in layers:
                h = inputs[name] = h.detach().requires_grad_() if not inputs else h
                h.retain_grad()
            h = module(h)
        functional.cross_entropy(h, images.y_train[rows]).backward()
        for name, features in inputs.items():
            shift = virtual_covariance_shift(features.detach(), features.grad, rate)
            expected[name] = expected[name] + shift
        summed.add(rate)
        model.zero_grad()
    for name, shift in expected.items():
        assert (summed.total(name) - shift).norm() < 1e-5 * shift.norm()
        gram = layers[name].weight.detach().mT @ layers[name].weight.detach()
        assert summed.cosines(name)["summed_shift"] == pytest.approx(cosine(gram, shift), abs=1e-5)


def test_the_gram_changes_by_the_sum_over_all_steps(images: Images, monkeypatch) -> None:
    """Theorem 1: of gradient descent, up to a term of second order in the rate."""
    descent = dataclasses.replace(
        NETWORKS["sgd"], width=8, epochs=3, learning_rate=1e-3, momentum=0.0, batch_size=10
    )
    monkeypatch.setitem(NETWORKS, "sgd", descent)
    arrays = theories.train(theories.Config(device="cpu"), "sgd", images, Replica(0))
    assert arrays["change_shift"][:, -1] == pytest.approx(1, abs=1e-3)


def test_the_whole_gradient_is_of_the_mean_loss(images: Images) -> None:
    model = network("cnn", images)
    scores = theories.whole_gradient(model, images)
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    logits = model(images.x_train)
    loss = functional.cross_entropy(logits, images.y_train)
    loss.backward()
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)
    right = (logits.argmax(1) == images.y_train).double().mean()
    assert scores == pytest.approx({"train_accuracy": right.item(), "train_loss": loss.item()})


def test_the_probe_is_least_squares_on_other_samples_than_the_test(images: Images) -> None:
    model, held_out, test = network("sgd", images), slice(30), slice(30, None)
    scores = theories.predictions(model, images, 70, held_out, test)
    with torch.no_grad():
        h = model[:-1](images.x_train[:70]).double()
        fit = LinearRegression().fit(h, functional.one_hot(images.y_train[:70]))
        predicted = fit.predict(model[:-1](images.x_test[held_out])).argmax(1)
        right = model(images.x_test[test]).argmax(1) == images.y_test[test]
    assert scores["probe_accuracy"] == (predicted == images.y_test[held_out].numpy()).mean()
    assert scores["test_accuracy"] == pytest.approx(right.double().mean().item())


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_labels_are_redrawn_by_their_share(images: Images, share: float) -> None:
    drawn = theories.with_random_labels(images, share, 3)
    kept = (drawn.y_train == images.y_train).double().mean().item()
    assert kept == pytest.approx(1 - 0.75 * share, abs=0.1)  # one of four is drawn again
    assert torch.equal(drawn.x_test, images.x_test)
    assert torch.equal(drawn.y_test, theories.with_random_labels(images, share, 3).y_test)


@pytest.mark.parametrize("name", ["grokking", "transformer", "resnet"])
def test_networks_that_quick_scale_leaves_out(name: str, images: Images) -> None:
    config = tiny(theories, networks=(name,), modulus=7)
    data = addition(7, 0.3) if NETWORKS[name].is_addition else images
    arrays = theories.train(config, name, data, Replica(0))
    layers = len(gram_layers(build(config.network(name), data, 0)))
    for array, axes in theories.AXES.items():
        if array in arrays:
            sizes = {"seed": 1, "epoch": TINY["epochs"] + 1, "layer": layers, "pair": layers - 1}
            assert arrays[array].shape == tuple(sizes[axis] for axis in axes), array
    assert np.isfinite(arrays["agop"]).all()
    assert arrays["agop"][0, :, -1] == pytest.approx(1, abs=1e-5)  # at the last layer


def test_a_network_of_maps_needs_images(images: Images) -> None:
    flat = dataclasses.replace(images, x_train=images.x_train.flatten(1))
    config = tiny(theories, networks=("resnet",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theories.cli, "load_images", lambda *_: flat)
        with pytest.raises(theories.ConfigError, match=r"resnet needs images"):
            theories.check_images(config)


def test_what_is_measured_is_of_every_class_where_data_are_sorted_by_class(monkeypatch) -> None:
    y = torch.arange(3).repeat_interleave(40)
    x = torch.eye(3)[y] + 0.1 * torch.randn(120, 3, generator=torch.Generator().manual_seed(0))
    images = Images("sorted", x, y, x, y, unit=1.0)
    seen = []
    monkeypatch.setattr(theories, "measures", lambda _, images, *__: seen.append(images) or {})
    config = tiny(theories, epochs=1, width=8, measured=40)
    theories.train(config, "adam", images, Replica(0))
    for now in seen:
        assert now.y_train[:40].bincount(minlength=3).min() > 5  # measured
        assert now.y_test[:60].bincount(minlength=3).min() > 5  # held out
    assert seen
