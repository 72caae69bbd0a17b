"""Figure 1 against a plain training loop, scikit-learn and NumPy, and what its theory predicts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import make_swiss_roll
from sklearn.linear_model import LinearRegression
from torch import nn

import oracles
from experiment import swissroll
from experiment.swissroll import Config
from lab.errors import ConfigError, Diverged
from lab.models import MLP
from lab.replicas import Replica, generator

SIZES = {"samples": 200, "epochs": 12, "seeds": (0, 3), "last_frame": 8, "every": 4}
SMALL = Config(**SIZES, virtual_rates=(1.0, 700.0, 1e5), device="cpu")
BY_RATE = ("r2_by_rate", "r2_frozen_by_rate")
BY_EPOCH = ("r2", "r2_frozen", "loss", "alignment", "first_order_alignment")


def run(config):
    replicas = [Replica(seed, {"lr": config.learning_rate}) for seed in config.seeds]
    return swissroll.run(config, replicas)


@pytest.fixture(scope="module")
def small():
    return run(SMALL)


def scaled(values):
    return (values - values.min(axis=0)) / (values.max(axis=0) - values.min(axis=0))


def cosine(a, b):
    return np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)


def r2(points, target):
    return LinearRegression().fit(points, target).score(points, target)


def by_hand(config, seed):
    """What one seed should give: torch's own layers in float64, every sum formed anew."""
    roll, position = make_swiss_roll(config.samples, random_state=config.data_seed)
    points, target = scaled(roll[:, [0, 2]]), scaled(position)
    widths = (2, *[config.width] * config.depth, 1)
    network = oracles.torch_layers(MLP(widths, [generator(seed, "weights")]), 0).double()
    first = network[1]
    first.bias = None
    rate, gradients = config.virtual_rate, []
    rows = {name: [] for name in (*BY_EPOCH, "gram", "points")}
    for epoch in range(config.epochs + 1):
        x = torch.tensor(points, requires_grad=True)
        loss = nn.functional.mse_loss(network(x), torch.tensor(target)[:, None])
        network.zero_grad()
        loss.backward()
        gradients.append(x.grad.numpy().copy())
        total = sum(gradients[:epoch], np.zeros_like(points))
        virtual = points - rate * total
        weight = first.weight.detach().numpy().copy()
        rows["loss"].append(loss.item())
        rows["gram"].append(weight.T @ weight)
        rows["points"].append(scaled(virtual))
        rows["r2"].append(r2(virtual, target))
        rows["r2_frozen"].append(r2(points - rate * epoch * gradients[0], target))
        if epoch > 0:
            moved = rows["gram"][-1] - rows["gram"][0]
            change = virtual.T @ virtual - points.T @ points
            first_order = -rate * (total.T @ points + points.T @ total)
            rows["alignment"].append(cosine(moved, change))
            rows["first_order_alignment"].append(cosine(moved, first_order))
        else:
            rows["alignment"].append(np.nan)
            rows["first_order_alignment"].append(np.nan)
        with torch.no_grad():
            for p in network.parameters():
                p -= config.learning_rate * p.grad
    last = config.last_frame
    sums = sum(gradients[:last], np.zeros_like(points)), last * gradients[0]
    for name, total in zip(BY_RATE, sums, strict=True):
        rows[name] = [r2(points - rate * total, target) for rate in config.virtual_rates]
    rows["points_frozen"] = scaled(points - rate * sums[1])
    return {name: np.array(values) for name, values in rows.items()}


@pytest.mark.parametrize("r", [0, 1])
def test_a_seed_equals_a_plain_loop_in_float64(small, r):
    expected = by_hand(SMALL, SMALL.seeds[r])
    for name in (*BY_EPOCH, *BY_RATE, "gram"):
        np.testing.assert_allclose(small[name][r], expected[name], 1e-5, 2e-5, err_msg=name)
    points = expected["points"][[0, 4, 8]]  # of [0, 1], which float16 holds to 2.5e-4
    np.testing.assert_allclose(small["points"][r], points, atol=2.7e-4)
    np.testing.assert_allclose(small["points_frozen"][r], expected["points_frozen"], atol=2.7e-4)


def test_epoch_0_is_the_swiss_roll_itself(small):
    roll, position = make_swiss_roll(200, random_state=0)
    source = swissroll.swiss_roll(SMALL)
    np.testing.assert_allclose(source.target, scaled(position), atol=1e-7)
    np.testing.assert_allclose(source.points, scaled(roll[:, [0, 2]]), atol=1e-7)
    np.testing.assert_array_equal(small["points"][:, 0], np.stack([source.points] * 2).astype("f2"))


def test_the_fingerprint_is_of_the_data():
    def fingerprint(**changes):
        return swissroll.swiss_roll(replace(SMALL, **changes)).fingerprint

    assert fingerprint(width=8, epochs=3) == fingerprint()
    assert len({fingerprint(), fingerprint(samples=201), fingerprint(data_seed=1)}) == 3


def test_too_few_samples_for_a_fit_are_refused():
    with pytest.raises(ConfigError, match="samples must be 3 or more"):
        Config(samples=2)


@pytest.mark.parametrize("epochs", [1, 12])
def test_training_that_leaves_the_finite_numbers_is_one_line(epochs):
    with pytest.raises(Diverged, match="lower the learning rate"):
        run(replace(SMALL, epochs=epochs, learning_rate=1e25))


@pytest.mark.parametrize("rate", [1e100, 1e155, 1e300])
def test_virtual_points_that_leave_the_finite_numbers_are_one_line(rate):
    for rates in ({"virtual_rate": rate}, {"virtual_rates": (1.0, rate)}):
        with pytest.raises(Diverged, match=f"γ = {rate:g} are not finite".replace("+", r"\+")):
            run(replace(SMALL, **rates))
