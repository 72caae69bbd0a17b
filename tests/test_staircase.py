"""Figure 8 against scikit-learn, a naive training loop in plain torch, and what least squares predicts."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

import cli
import results
import training
from experiment import staircase
from experiment.staircase import AXES, Config, Network, Source, draw, ridge_residual, run, target, train_group
from training import Replica

SMALL = Config(widths=(8,), seeds=(42, 3), samples=40, epochs=50, learning_rate=0.05, device="cpu", jobs=1)
CURVES = [name for name, axes in AXES.items() if len(axes) == 2]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(h, y, ridge):
    """The coefficients of scikit-learn's ridge fit."""
    return Ridge(alpha=ridge, fit_intercept=False, solver="svd").fit(h, y).coef_


def test_target_sums_the_four_products():
    x = normal(50, 6)
    expected = [a * b * c * d + a * b * c + a * b + a for a, b, c, d, *_ in x.tolist()]
    np.testing.assert_allclose(target(x), expected, rtol=1e-13, atol=1e-13)


def test_draws_are_standard_normal_and_of_their_seed_alone():
    x, y = draw(42, 20_000, 10)
    assert (x.shape, y.shape, x.dtype, y.dtype) == ((20_000, 10), (20_000,), torch.float32, torch.float32)
    np.testing.assert_allclose(np.cov(x.T), np.eye(10), atol=0.05)
    np.testing.assert_allclose(x.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(y, target(x.double()), rtol=1e-5, atol=1e-5)
    assert torch.equal(draw(42, 20_000, 10)[0], x)
    assert not torch.equal(draw(43, 20_000, 10)[0], x)


def test_fingerprint_is_of_the_data_alone():
    fingerprint = Source(SMALL).fingerprint
    assert len(fingerprint) == 16
    assert int(fingerprint, 16)
    assert Source(replace(SMALL, widths=(9,), learning_rate=0.1)).fingerprint == fingerprint
    others = [{"seeds": (42, 4)}, {"seeds": (3, 42)}, {"samples": 41}, {"inputs": 11}]
    assert len({Source(replace(SMALL, **other)).fingerprint for other in others} | {fingerprint}) == 5


@pytest.mark.parametrize("ridge", [0.01, 10.0])
@pytest.mark.parametrize("shape", [(30, 7), (12, 12), (7, 30), (30, 1), (1, 5)], ids=str)
def test_ridge_residual_equals_scikit_learn(shape, ridge):
    h, y = normal(*shape).relu(), normal(shape[0], seed=1)
    expected = y.numpy() - h.numpy() @ fitted(h.numpy(), y.numpy(), ridge)
    np.testing.assert_allclose(ridge_residual(h, y, ridge), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(30, 7), (7, 30)], ids=str)
def test_ridge_residual_is_float64_of_float32_and_takes_a_batch(shape):
    h, y = normal(3, *shape).float(), normal(3, shape[0], seed=1).float()
    found = ridge_residual(h, y, 0.01)
    assert found.dtype == torch.float64
    for r in range(3):
        hat = h[r].double().numpy()
        inverse = np.linalg.inv(hat.T @ hat + 0.01 * np.eye(shape[1]))
        target = y[r].double().numpy()
        np.testing.assert_allclose(found[r], target - hat @ (inverse @ (hat.T @ target)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("features", ["dead", "collapsed"])
@pytest.mark.parametrize("shape", [(30, 7), (7, 30)], ids=str)
def test_ridge_residual_of_features_of_low_rank(shape, features):
    h = torch.zeros(shape) if features == "dead" else 100 * normal(shape[0], 1) * torch.ones(shape)
    y = normal(shape[0], seed=1)
    expected = y.numpy() - h.numpy() @ fitted(h.double().numpy(), y.numpy(), 0.01)
    np.testing.assert_allclose(ridge_residual(h, y, 0.01), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", [8, 60])
def test_no_output_of_the_network_has_a_smaller_ridge_objective_than_y_ols(width):
    x, y = draw(0, 40, 10)
    model = Network((10, width, width), [training.generator(0, "weights")])
    with torch.no_grad():
        h = model.features(x.mT[None])
        error = (y - model.readout(h)[0]).double()
        readout = (model.weights[-1][0, 0] / width**0.5).double()
    y, residual = y.double(), ridge_residual(h[0].mT, y, 0.01)
    smallest = float(y @ residual)  # the objective at its minimum
    assert residual.square().sum() <= smallest <= error.square().sum() + 0.01 * readout.square().sum()


def test_initial_weights_are_normal_with_variance_one_over_fan_in():
    model = Network((300, 400, 100), [training.generator(seed, "weights") for seed in range(3)])
    assert [tuple(w.shape) for w in model.weights] == [(3, 400, 300), (3, 100, 400), (3, 1, 100)]
    for weight in model.weights:
        scaled = (weight.detach() * weight.shape[2] ** 0.5).flatten()
        tolerance = 5 / len(scaled) ** 0.5
        assert scaled.mean() == pytest.approx(0, abs=tolerance)
        assert scaled.square().mean() == pytest.approx(1, abs=2 * tolerance)
        assert scaled.pow(4).mean() == pytest.approx(3, abs=15 * tolerance)


def naive(config, width, seed):
    """One replica of the figure, from torch's own layers and scikit-learn: name -> (measurements,)."""
    x, y = draw(seed, config.samples, config.inputs)
    weights = Network((config.inputs, *[width] * (config.depth - 1)), [training.generator(seed, "weights")]).weights
    layers = []
    for weight in weights:
        layer = nn.Linear(weight.shape[2], weight.shape[1], bias=False)
        layer.weight.data = weight.detach()[0].clone()
        layers += [layer, nn.ReLU()]
    hidden, last = nn.Sequential(*layers[:-2]), layers[-2]
    optimizer = torch.optim.SGD([*hidden.parameters(), *last.parameters()], lr=config.learning_rate)
    rows = []
    for epoch in range(config.epochs + 1):
        h = hidden(x)
        output = last(h)[:, 0] / width**0.5
        if epoch % config.every == 0 or epoch == config.epochs:
            features, target, found = (a.detach().double().numpy() for a in (h, y, output))
            y_ols = features @ fitted(features, target, config.ridge)
            before = rows[0][-2:] if rows else (y_ols, features)
            pairs = [(target, y_ols), (found, y_ols), (target, found), (y_ols, before[0])]
            movement = np.linalg.norm(features - before[1]) / np.linalg.norm(before[1])
            rows.append((*(np.mean((a - b) ** 2) for a, b in pairs), movement, y_ols, features))
        optimizer.zero_grad()
        nn.functional.mse_loss(output, y).backward()
        optimizer.step()
    return dict(zip(CURVES, zip(*(row[:-2] for row in rows), strict=True), strict=True))


@pytest.mark.parametrize(("depth", "width"), [(2, 8), (3, 8), (3, 64), (4, 16)])
def test_run_equals_a_naive_loop(depth, width):
    config = replace(SMALL, depth=depth)
    found = run(config, width)
    assert found["epoch"].tolist() == [0, 20, 40, 50]
    assert found["seed"].tolist() == [42, 3]
    for r, seed in enumerate(config.seeds):
        for name, expected in naive(config, width, seed).items():
            np.testing.assert_allclose(found[name][r], expected, rtol=1e-3, atol=1e-6, err_msg=name)
    assert (found["loss"][:, -1] < found["loss"][:, 0]).all()


@pytest.mark.parametrize("width", [8, 64])
def test_replica_of_a_batch_equals_the_same_run_alone(width):
    replicas = [Replica(seed) for seed in (42, 7, 3)]
    together = train_group(SMALL, width, replicas)
    assert together.keys() == set(CURVES)
    for r, replica in enumerate(replicas):
        alone = train_group(SMALL, width, [replica])
        for name, values in together.items():
            np.testing.assert_allclose(values[r], alone[name][0], rtol=1e-4, atol=1e-6, err_msg=name)
    assert len(set(together["loss"][:, 0])) == 3


def test_the_same_seed_gives_the_same_bits():
    first, second = run(SMALL, 16), run(SMALL, 16)
    for name in AXES:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_measuring_more_often_changes_no_measurement():
    rarely, often = run(SMALL, 16), run(replace(SMALL, every=1), 16)
    for name in CURVES:
        np.testing.assert_array_equal(rarely[name], often[name][:, [0, 20, 40, 50]], err_msg=name)


def test_with_hardly_a_ridge_the_distances_are_the_sides_of_a_right_triangle():
    found = run(
        replace(SMALL, samples=400, ridge=1e-6), 8
    )  # y − y_ols is orthogonal to everything linear in H, ŷ and y_ols too
    np.testing.assert_allclose(found["loss"], found["ols_error"] + found["ols_distance"], rtol=1e-4)
    assert (found["ols_error"] > 0.1).all()


def test_wider_than_the_samples_y_ols_is_the_target_and_cannot_move():
    found = run(replace(SMALL, ridge=1e-9), 200)
    assert (found["ols_error"] < 1e-12).all()
    assert (found["ols_movement"] < 1e-12).all()
    np.testing.assert_allclose(found["ols_distance"], found["loss"], rtol=1e-5)
    assert (found["feature_movement"][:, -1] > 0.05).all()


@pytest.mark.parametrize(
    "wrong",
    [{"depth": 1}, {"inputs": 3}, {"widths": (8, 8)}, {"widths": ()}, {"widths": (0,)}, {"seeds": (-1,)}]
    + [{name: 0} for name in ("epochs", "every", "samples", "ridge", "learning_rate")],
    ids=str,
)
def test_what_cannot_be_is_one_line(wrong):
    with pytest.raises(cli.ConfigError, match=next(iter(wrong))) as error:
        Config(**wrong)
    assert "\n" not in str(error.value)


class TestScript:
    @pytest.fixture
    def main(self, monkeypatch, tmp_path):
        """Runs the script at tiny size with further words; returns the exit status."""
        sizes = ["--widths", 8, 64, "--seeds", 1, 2, "--samples", 40, "--epochs", 30]
        words = [*sizes, "--scale", "quick", "--device", "cpu", "--jobs", 1, "--results", tmp_path]

        def main(*further):
            monkeypatch.setattr(sys, "argv", [staircase.__file__, *map(str, (*words, *further))])
            try:
                cli.run(staircase.main)
            except SystemExit as stop:
                return stop.code
            return 0

        return main

    def found(self, root):
        return results.find(root, "quick", "staircase", {})

    def test_saves_one_result_a_width(self, main, tmp_path):
        assert main() == 0
        saved = self.found(tmp_path)
        assert [run.meta["name"] for run in saved] == ["width64", "width8"]
        for result in saved:
            assert result.label == "staircase"
            assert result.meta["axes"] == {name: list(axes) for name, axes in AXES.items()}
            assert result.arrays.keys() == AXES.keys()
            assert all(result[name].shape == (2, 3) and result[name].dtype == np.float64 for name in CURVES)
            assert all(np.isfinite(result[name]).all() for name in CURVES)
            assert result["epoch"].tolist() == [0, 20, 30]
        config = Config(seeds=(1, 2), samples=40, epochs=30, jobs=1, device="cpu")
        for name, values in run(config, 8).items():
            np.testing.assert_array_equal(saved[1][name], values, err_msg=name)

    def test_an_interrupted_run_keeps_what_is_finished(self, main, monkeypatch, tmp_path):
        trained, stops = [], iter([False, False, False, True])

        def train(config, width, replicas):
            trained.append((width, replicas[0].seed))
            if next(stops, False):
                raise KeyboardInterrupt
            return train_group(config, width, replicas)

        monkeypatch.setattr(staircase, "train_group", train)
        assert main() == 130
        assert [run.meta["name"] for run in self.found(tmp_path)] == ["width8"]
        trained.clear()
        assert main() == 0
        assert trained == [(64, 2)]
        trained.clear()
        assert main() == 0
        assert trained == []

    def test_other_draws_make_other_files(self, main, tmp_path):
        assert main() == main("--seeds", 1, 3) == 0
        assert len(list(tmp_path.rglob("*.npz"))) == 4

    @pytest.mark.parametrize("rate", [100, 1e9])
    def test_a_rate_at_which_training_diverges_is_one_line(self, main, capsys, rate):
        assert main("--learning-rate", rate, "--every", 1) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: width 8 seed 1: training diverged")
        assert err.count("\n") == 1
