"""Figures 8 and 3 against scikit-learn, a plain training loop, and what least squares predicts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

import cases
from experiment import staircase
from experiment.staircase import Config, Network, Source, coordinates, draw, ridge_fit
from lab.errors import ConfigError, Diverged
from lab.replicas import Replica, generator

SMALL = Config(seeds=(42, 3), samples=40, epochs=50, learning_rate=0.05, device="cpu")
CURVES = [name for name, axes in staircase.AXES.items() if axes == ("seed", "epoch")]
PATHS = ["output_coordinates", "ols_coordinates"]


def run(config, width):
    replicas = [Replica(seed, {"lr": config.learning_rate}) for seed in config.seeds]
    return staircase.run(config, width, replicas)


def fit(h, y, ridge):
    """scikit-learn's ridge coefficients (HᵀH + λI)⁻¹ Hᵀ y."""
    return Ridge(alpha=ridge, fit_intercept=False, solver="svd").fit(h, y).coef_


def test_the_target_sums_the_four_products():
    x = cases.draw(50, 6)
    expected = [a * b * c * d + a * b * c + a * b + a for a, b, c, d, *_ in x.tolist()]
    np.testing.assert_allclose(staircase.staircase(x), expected, rtol=1e-13, atol=1e-13)


def test_draws_are_standard_normal_and_of_their_seed_alone():
    config = replace(SMALL, samples=20_000)
    x, y = draw(config, 42)
    assert (x.shape, y.shape) == ((20_000, 10), (20_000,))
    assert x.dtype == y.dtype == torch.float32
    np.testing.assert_allclose(np.cov(x.T), np.eye(10), atol=0.05)
    np.testing.assert_allclose(x.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(y, staircase.staircase(x.double()), rtol=1e-5, atol=1e-5)
    assert torch.equal(draw(config, 42)[0], x)
    assert not torch.equal(draw(config, 43)[0], x)


def test_samples_held_out_are_others_with_the_same_target():
    (x, _), (held_out, y) = draw(SMALL, 42), draw(SMALL, 42, held_out=True)
    assert held_out.shape == x.shape
    assert not set(held_out.flatten().tolist()) & set(x.flatten().tolist())
    np.testing.assert_allclose(y, staircase.staircase(held_out.double()), rtol=1e-5, atol=1e-5)


def test_the_fingerprint_is_of_the_data_alone():
    def fingerprint(**changes):
        return Source(replace(SMALL, **changes)).fingerprint

    assert fingerprint(widths=(9,), learning_rate=0.1) == fingerprint()
    others = [{"seeds": (42, 4)}, {"seeds": (3, 42)}, {"samples": 41}, {"inputs": 11}]
    assert len({fingerprint(**other) for other in others} | {fingerprint()}) == 5


@pytest.mark.parametrize("ridge", [0.01, 10.0])
@pytest.mark.parametrize("shape", [(30, 7), (7, 30), (1, 5)], ids=str)
def test_the_ridge_fit_equals_scikit_learn_also_of_features_of_low_rank(shape, ridge):
    dense = cases.draw(*shape).relu()
    collapsed = cases.draw(shape[0], 1) * torch.ones(shape)
    h = torch.stack([dense, collapsed, torch.zeros(shape)]).float()
    y = cases.draw(3, shape[0], seed=1).float()
    fitted = ridge_fit(h, y, ridge)
    assert all(part.dtype == torch.float64 for part in fitted)
    for r, (coefficients, residual) in enumerate(zip(*fitted, strict=True)):
        features, target = h[r].double().numpy(), y[r].double().numpy()
        expected = fit(features, target, ridge)
        np.testing.assert_allclose(coefficients, expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(residual, target - features @ expected, rtol=0, atol=1e-9)


def test_initial_weights_are_normal_with_variance_one_over_fan_in():
    model = Network((300, 400, 100), [generator(seed, "weights") for seed in range(3)])
    shapes = [(3, 400, 300), (3, 100, 400), (3, 1, 100)]
    assert [tuple(weight.shape) for weight in model.weights] == shapes
    for weight in model.weights:
        scaled = (weight.detach() * weight.shape[2] ** 0.5).flatten()
        tolerance = 5 / len(scaled) ** 0.5
        assert scaled.mean() == pytest.approx(0, abs=tolerance)
        assert scaled.square().mean() == pytest.approx(1, abs=2 * tolerance)
        assert scaled.pow(4).mean() == pytest.approx(3, abs=15 * tolerance)


def by_hand(config, width, seed):
    """One replica, from torch's own layers and scikit-learn: name -> (measured epochs,)."""
    (x, y), (x_held_out, y_held_out) = draw(config, seed), draw(config, seed, held_out=True)
    widths = (config.inputs, *[width] * (config.depth - 1))
    layers = []
    for weight in Network(widths, [generator(seed, "weights")]).weights:
        layer = nn.Linear(weight.shape[2], weight.shape[1], bias=False)
        layer.weight.data = weight.detach()[0].clone()
        layers += [layer, nn.ReLU()]
    hidden, last = nn.Sequential(*layers[:-2]), layers[-2]
    parameters = [*hidden.parameters(), *last.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=config.learning_rate)
    rows = []
    for epoch in range(config.epochs + 1):
        h = hidden(x)
        output = last(h)[:, 0] / width**0.5
        if epoch % config.every == 0 or epoch == config.epochs:
            features, target, predicted = (a.detach().double().numpy() for a in (h, y, output))
            coefficients = fit(features, target, config.ridge)
            y_ols = features @ coefficients
            if epoch == 0:
                before, y_ols_before = features, y_ols
            pairs = [(target, y_ols), (predicted, y_ols), (target, predicted)]
            distances = [np.mean((a - b) ** 2) for a, b in pairs]
            kernel = features @ features.T
            distances += [v @ kernel @ v for v in (predicted - y_ols, target)]
            distances.append(np.mean((y_ols - y_ols_before) ** 2))
            movement = np.linalg.norm(features - before) / np.linalg.norm(before)
            h_held_out = hidden(x_held_out).detach().double().numpy()
            readout = last.weight.detach().double().numpy()[0] / width**0.5
            others = [
                np.mean((y_held_out.double().numpy() - h_held_out @ map_) ** 2)
                for map_ in (coefficients, readout)
            ]
            rows.append((*distances, movement, *others))
        optimizer.zero_grad()
        nn.functional.mse_loss(output, y).backward()
        optimizer.step()
    return dict(zip(CURVES, np.array(rows).T, strict=True))


@pytest.mark.parametrize(("depth", "width"), [(2, 8), (3, 64), (4, 16)])
def test_run_equals_a_plain_loop(depth, width):
    config = replace(SMALL, depth=depth)
    arrays = run(config, width)
    for r, seed in enumerate(config.seeds):
        for name, expected in by_hand(config, width, seed).items():
            np.testing.assert_allclose(arrays[name][r], expected, 1e-3, 1e-6, err_msg=name)
    assert (arrays["loss"][:, -1] < arrays["loss"][:, 0]).all()


def test_coordinates_are_of_the_projection_onto_the_plane_of_y_and_both_fits():
    y, output, y_ols, a, b = cases.draw(5, 30)
    plane = staircase.initial_plane((y - output)[None], (y - y_ols)[None])
    span = torch.stack([y - output, y - y_ols], dim=1)
    onto_span = span @ torch.linalg.pinv(span)
    at_a, at_b, to_ols, to_y = (
        coordinates(v[None], plane)[0] for v in (a, b, y_ols - output, y - y_ols)
    )
    np.testing.assert_allclose(at_a[:2] @ at_b[:2], a @ onto_span @ b, rtol=1e-10)
    np.testing.assert_allclose(at_a[2], (a - onto_span @ a).norm(), rtol=1e-10)
    # from ŷ to y_ols it goes to the right, from there to y upwards
    np.testing.assert_allclose(to_ols, [(y_ols - output).norm(), 0, 0], atol=1e-12)
    assert to_y[1] > 0


def test_paths_start_in_their_plane_and_are_as_far_from_the_target_as_the_errors_say():
    arrays = run(SMALL, 16)
    for name, error in zip(PATHS, ("loss", "ols_error"), strict=True):
        points = arrays[name]  # (seed, epoch, 3), from the target
        norms = np.square(points).sum(-1) / SMALL.samples
        np.testing.assert_allclose(norms, arrays[error], rtol=1e-10)
        np.testing.assert_allclose(points[:, 0, 2], 0, atol=1e-10)
        assert (points[:, 1:, 2] > 1e-4).all()


@pytest.mark.parametrize("wrong", [{"depth": 1}, {"inputs": 3}], ids=str)
def test_a_network_or_target_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Config(**wrong)


# features so large that rounding swallows the ridge; an output that is not finite
@pytest.mark.parametrize("rate", [100, 1e9])
def test_training_that_diverges_is_one_line(rate):
    with pytest.raises(Diverged, match="width 8 seed 42: training diverged in epoch"):
        run(replace(SMALL, learning_rate=rate, every=1), 8)
