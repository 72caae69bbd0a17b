"""The Gram's movement beside the Virtual Covariance's: a plain loop, and what theory predicts."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import oracles
from experiment import gram_virtual_covariance
from experiment.gram_virtual_covariance import Config
from lab import cli
from lab.errors import ConfigError, Diverged
from lab.models import MLP
from lab.replicas import Replica, generator

SMALL = {"samples": 40, "width": 8, "seeds": (0, 1), "points": 2, "device": "cpu"}
CHANGES = ("relative_error", "cosine_vc", "cosine_agop_change")  # nan at the start


def run(config, batch_size=None):
    """name -> (rate, seed, …)."""
    replicas = [Replica(s, settings={"rate": rate}) for rate in config.rates for s in config.seeds]
    arrays = gram_virtual_covariance.run(config, "digits", batch_size, replicas)
    grid = len(config.rates), len(config.seeds)
    return {name: values.reshape(*grid, *values.shape[1:]) for name, values in arrays.items()}


def cosine(a, b):
    return (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)


def inputs(network, sample):
    """The inputs of every linear layer for one sample, with gradients, and the outputs."""
    features, h = [], sample.clone().requires_grad_()
    for part in network:
        if isinstance(part, nn.Linear):
            h.retain_grad()
            features.append(h)
        h = part(h)
    return features, h


def by_hand(config, rate, seed):
    """After full-batch training, sample by sample: ΔG, ΔVC, G and AGOP of every layer; the loss."""
    images = cli.load_images(config, "digits")
    order = torch.randperm(len(images.x_train), generator=generator(0, "measurement"))
    chosen = order[: config.samples]
    x = images.scale(images.x_train[chosen], torch.float64).flatten(1)
    y = images.y_train[chosen]
    widths = (64, *[config.width] * config.depth, 10)
    model = MLP(widths, [generator(seed, "weights")])
    network = oracles.torch_layers(model, 0)[1:].double()  # without nn.Flatten
    linears = [part for part in network if isinstance(part, nn.Linear)]
    initial = [layer.weight.detach().clone() for layer in linears]
    moved = [np.zeros((layer.in_features,) * 2) for layer in linears]
    for _ in range(round(config.time / rate)):
        network.zero_grad()
        rows = []
        for sample, label in zip(x, y, strict=True):
            features, output = inputs(network, sample)
            (functional.cross_entropy(output, label) / len(x)).backward()
            rows.append([(h.detach().numpy(), h.grad.numpy()) for h in features])
        for i in range(len(linears)):
            before = sum(np.outer(row[i][0], row[i][0]) for row in rows)
            virtual = [h - rate * a for h, a in (row[i] for row in rows)]
            moved[i] += sum(np.outer(h, h) for h in virtual) - before
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= rate * parameter.grad
    grams = [(layer.weight.T @ layer.weight).detach().numpy() for layer in linears]
    change = [now - (w.T @ w).numpy() for now, w in zip(grams, initial, strict=True)]
    agop = [np.zeros_like(m) for m in moved]
    for sample in x:
        features, output = inputs(network, sample)
        for value in output:
            gradients = torch.autograd.grad(value, features, retain_graph=True)
            for total, g in zip(agop, gradients, strict=True):
                total += np.outer(g.numpy(), g.numpy())
    return change, moved, grams, agop, functional.cross_entropy(network(x), y).item()


def test_equals_a_loop_over_samples_in_plain_torch():
    config = Config(**SMALL, rates=(0.5,), time=3.0)
    arrays = run(config)
    for j, seed in enumerate(config.seeds):
        *layers, loss = by_hand(config, 0.5, seed)
        for i, (change, moved, gram, agop) in enumerate(zip(*layers, strict=True)):
            expected = {
                "relative_error": np.linalg.norm(change - moved) / np.linalg.norm(moved),
                "gram_change": np.linalg.norm(change) / np.linalg.norm(gram - change),
                "cosine_vc": cosine(change, moved),
                "cosine_agop": cosine(gram, agop),
                "cosine_agop_change": cosine(change, agop),
            }
            for name, value in expected.items():
                assert arrays[name][0, j, -1, i] == pytest.approx(value, rel=1e-7), name
        assert arrays["loss"][0, j, -1] == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize(("batch_size", "tolerance"), [(None, 0.05), (16, 0.2)])
def test_the_difference_falls_in_proportion_to_the_rate(batch_size, tolerance):
    config = Config(**SMALL | {"seeds": (0, 1, 2)}, rates=(0.02, 0.01, 0.005), time=2.0)
    arrays = run(config, batch_size)
    error = arrays["relative_error"][:, :, -1].mean(1)  # (rate, layer)
    slopes = np.polyfit(np.log(config.rates), np.log(error), 1)[0]
    np.testing.assert_allclose(slopes, 1, atol=tolerance)
    assert (arrays["residual"] < 1e-12).all()  # the Feature Learning Equation is exact


def test_only_changes_are_nan_at_the_start():
    arrays = run(Config(**SMALL, rates=(0.1,), time=2.0), 16)
    for name, values in arrays.items():
        start, later = values[:, :, 0], values[:, :, 1:]
        assert np.isnan(start).all() if name in CHANGES else np.isfinite(start).all(), name
        assert np.isfinite(later).all(), name


def test_rates_that_leave_a_point_without_a_step_are_refused():
    with pytest.raises(ConfigError, match="rates are too large"):
        Config(rates=(1.0,), time=4.0, points=10)


@pytest.mark.parametrize(
    ("rates", "time", "points"),
    [
        ((0.7, 0.35), 1.0, 1),  # were .7 and 1.05, both called 1
        ((0.1, 0.3), 40.0, 10),
        ((0.1,), 1.05, 1),
        ((0.1, 0.1000001), 40.0, 10),
        ((0.3,), 1.0, 1),
        ((0.5,), 1.2, 1),
    ],
)
def test_a_time_that_is_no_whole_number_of_steps_is_refused(rates, time, points):
    with pytest.raises(ConfigError, match="a whole number of steps at every rate, which it is not"):
        Config(rates=rates, time=time, points=points)


@pytest.mark.parametrize(
    ("rates", "time", "points"),
    [((0.7, 0.35), 1.4, 1), ((0.1, 0.05, 0.0125), 40.0, 10), ((0.3, 0.1), 0.9, 3)],
)
def test_the_axis_is_what_was_trained(rates, time, points):
    config = Config(rates=rates, time=time, points=points)
    for rate in rates:
        steps = np.arange(points + 1) * config.stride(rate)
        np.testing.assert_allclose(steps * rate, np.linspace(0, time, points + 1), rtol=1e-9)


@pytest.mark.parametrize(("time", "rate"), [(1e300, 0.1), (1e300, 1e-300), (1e7, 0.1), (1.0, 1e-9)])
def test_a_time_that_never_ends_is_refused(time, rate):
    with pytest.raises(ConfigError, match="time must be at most 10,000,000 steps"):
        Config(rates=(rate,), time=time)


@pytest.mark.parametrize("rate", [1e100, 1e155, 1e300])
def test_a_step_that_leaves_the_finite_numbers_is_one_line(rate):
    with pytest.raises(Diverged, match="seed 0: training diverged in epoch 1"):
        run(Config(**SMALL | {"points": 1}, rates=(rate,), time=rate))
