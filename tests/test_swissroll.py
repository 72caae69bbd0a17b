"""Figure 1 against a plain training loop, scikit-learn and NumPy, and the script as a user runs it."""

import hashlib
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import make_swiss_roll
from sklearn.linear_model import LinearRegression
from torch import nn

import cli
import results
import training
from experiment import swissroll
from experiment.swissroll import Config

SMALL = Config(samples=200, epochs=12, seeds=(0, 3), last_frame=8, every=4, device="cpu")
BY_EPOCH = ("r2", "loss", "alignment", "first_order_alignment")


@pytest.fixture(scope="module")
def small():
    return swissroll.run(SMALL)


def scaled(values):
    return (values - values.min(axis=0)) / (values.max(axis=0) - values.min(axis=0))


def sequential(config, seed):
    """The network as plain layers, in float64: draws in the order W₁, b₁ (dropped), W₂, b₂, …"""
    g, d, layers = training.generator(seed, "weights"), 2, []
    for m in (*[config.width] * config.depth, 1):
        linear = nn.Linear(d, m, bias=bool(layers))
        weight, bias = (torch.empty(*s).uniform_(-(d**-0.5), d**-0.5, generator=g) for s in ((m, d), (m,)))
        linear.weight.data = weight.double()
        if layers:
            linear.bias.data = bias.double()
        layers += [linear, nn.GELU()]
        d = m
    return nn.Sequential(*layers[:-1])


def plainly(config, seed):
    """What one seed should give, by other means: every sum formed anew, NumPy and scikit-learn."""
    roll, position = make_swiss_roll(config.samples, random_state=config.data_seed)
    points, target = scaled(roll[:, [0, 2]]), scaled(position)
    model, gradients = sequential(config, seed), []
    rows = {name: [] for name in (*BY_EPOCH, "gram", "points")}
    for epoch in range(config.epochs + 1):
        x = torch.tensor(points, requires_grad=True)
        loss = nn.functional.mse_loss(model(x), torch.tensor(target)[:, None])
        model.zero_grad()
        loss.backward()
        total = np.sum(gradients[:epoch], axis=0) if epoch else np.zeros_like(points)
        virtual = points - config.virtual_rate * total
        weight = model[0].weight.detach().numpy().copy()
        rows["loss"].append(loss.item())
        rows["gram"].append(weight.T @ weight)
        rows["points"].append(scaled(virtual))
        rows["r2"].append(LinearRegression().fit(virtual, target).score(virtual, target))
        if epoch:
            moved = rows["gram"][-1] - rows["gram"][0]
            first = -config.virtual_rate * (total.T @ points + points.T @ total)
            for name, change in (
                ("alignment", virtual.T @ virtual - points.T @ points),
                ("first_order_alignment", first),
            ):
                cosine = np.sum(moved * change) / np.linalg.norm(moved) / np.linalg.norm(change)
                rows[name].append(cosine)
        else:
            rows["alignment"].append(np.nan)
            rows["first_order_alignment"].append(np.nan)
        gradients.append(x.grad.numpy().copy())
        with torch.no_grad():
            for p in model.parameters():
                p -= config.learning_rate * p.grad
    return {name: np.array(values) for name, values in rows.items()}


def same_bits(some, others):
    assert some.keys() == others.keys()
    assert [k for k in some if some[k].dtype != others[k].dtype or some[k].tobytes() != others[k].tobytes()] == []


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_equals_a_plain_training_loop_in_float64(small, seed):
    expected = plainly(SMALL, SMALL.seeds[seed])
    for name in (*BY_EPOCH, "gram"):
        np.testing.assert_allclose(small[name][seed], expected[name], atol=2e-5, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(small["points"][seed], expected["points"][list(SMALL.frames)], atol=1e-5)


def test_arrays_have_the_axes_they_are_documented_with(small):
    sizes = {"seed": 2, "epoch": 13, "frame": 3, "sample": 200, "coordinate": 2, "row": 2, "column": 2}
    assert small.keys() == swissroll.AXES.keys()
    for name, axes in swissroll.AXES.items():
        assert small[name].shape == tuple(sizes[axis] for axis in axes), name
    assert small["frame"].tolist() == [0, 4, 8]
    assert small["epoch"].tolist() == list(range(13))


def test_epoch_0_is_the_swiss_roll_itself(small):
    roll, position = make_swiss_roll(200, random_state=0)
    np.testing.assert_allclose(small["points"][0, 0], scaled(roll[:, [0, 2]]), atol=1e-7)
    np.testing.assert_allclose(small["target"], scaled(position), atol=1e-7)
    assert small["r2"][0, 0] == small["r2"][1, 0]
    assert np.isnan(small["alignment"][:, 0]).all()
    assert not np.isnan(small["alignment"][:, 1:]).any()


def test_r2_of_the_kept_points_is_the_r2_saved(small):
    for seed in range(2):
        for points, epoch in zip(small["points"][seed], small["frame"], strict=True):
            fit = LinearRegression().fit(points.astype(np.float64), small["target"].astype(np.float64))
            r2 = fit.score(points.astype(np.float64), small["target"].astype(np.float64))
            assert r2 == pytest.approx(small["r2"][seed, epoch], abs=1e-6)


def test_the_gram_follows_the_first_order_of_the_virtual_covariance(small):
    assert small["first_order_alignment"][:, 1:].min() > 0.9999
    gentle = swissroll.run(replace(SMALL, virtual_rate=1e-6))
    np.testing.assert_allclose(gentle["alignment"][:, 1:], small["first_order_alignment"][:, 1:], atol=1e-6)


def test_the_virtual_rate_changes_the_points_and_not_the_training(small):
    other = swissroll.run(replace(SMALL, virtual_rate=70.0))
    same_bits({k: small[k] for k in ("loss", "gram")}, {k: other[k] for k in ("loss", "gram")})
    assert (small["points"][:, 1:] != other["points"][:, 1:]).any()


def test_same_seed_same_bits_and_a_seed_alone_too(small):
    same_bits(small, swissroll.run(SMALL))
    alone = swissroll.run(replace(SMALL, seeds=(3,)))
    names = (*BY_EPOCH, "gram", "points")
    same_bits({k: alone[k] for k in names}, {k: small[k][1:] for k in names})


def test_a_batch_of_replicas_equals_each_alone(small):
    batch = swissroll.train_group(SMALL, [training.Replica(seed) for seed in SMALL.seeds])
    for name, value in batch.items():
        np.testing.assert_allclose(value, small[name], atol=1e-5, err_msg=name)


def test_measuring_less_often_and_stopping_sooner_changes_nothing(small):
    shorter = swissroll.run(replace(SMALL, epochs=5, every=1))
    for name in BY_EPOCH:
        assert shorter[name].tobytes() == small[name][:, :6].tobytes()
    assert shorter["frame"].tolist() == [0, 1, 2, 3, 4, 5]


def test_the_fingerprint_is_of_the_data():
    roll = swissroll.swiss_roll(50, 0)
    digest = hashlib.sha256()
    for array in (roll.points, roll.target):
        digest.update(str((torch.float32, array.shape)).encode() + array.tobytes())
    assert roll.fingerprint == digest.hexdigest()[:16]
    assert swissroll.swiss_roll(50, 0).fingerprint == roll.fingerprint
    assert len({swissroll.swiss_roll(n, seed).fingerprint for n, seed in ((50, 0), (51, 0), (50, 1))}) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 2},
        {"epochs": 0},
        {"learning_rate": -0.1},
        {"virtual_rate": float("inf")},
        {"seeds": ()},
        {"seeds": (1, 1)},
        {"seeds": (-1,)},
        {"every": 0},
        {"last_frame": -1},
    ],
)
def test_a_hyperparameter_that_cannot_be_is_an_error(wrong):
    with pytest.raises(cli.ConfigError, match=next(iter(wrong))):
        Config(**wrong)


def test_training_that_leaves_the_finite_numbers_is_one_line():
    with pytest.raises(training.Diverged, match="lower the learning rate"):
        swissroll.run(replace(SMALL, learning_rate=1e6))


def test_the_script_saves_once(tmp_path, monkeypatch, capsys):
    words = ["--samples", "50", "--epochs", "2", "--seeds", "1", "--results", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [swissroll.__file__, *words])
    cli.run(swissroll.main)
    assert capsys.readouterr().out.startswith("saved ")
    config = Config(samples=50, epochs=2, seeds=(1,))
    (result,) = results.find(tmp_path, "paper", "swissroll", config.hyperparameters())
    same_bits(result.arrays, swissroll.run(replace(config, device="cpu")))
    assert result.config == results.plain(config.hyperparameters())
    assert result.meta["data"] == {"name": "swissroll", "fingerprint": swissroll.swiss_roll(50, 0).fingerprint}
    cli.run(swissroll.main)
    assert capsys.readouterr().out.startswith("already there: ")


def test_the_paper_settings():
    config = Config()
    settings = (config.samples, config.data_seed, config.width, config.depth, config.learning_rate, config.epochs)
    assert settings == (1000, 0, 32, 2, 0.05, 100)
    assert config.virtual_rate == 700
    assert {0, 10, 20, 30, 40, 50} <= set(config.frames)


def test_a_network_that_hardly_learns_gives_the_points_of_one_that_is_never_trained():
    config = swissroll.Config(samples=60, epochs=20, seeds=(0, 1), learning_rate=1e-9, jobs=1)
    arrays = swissroll.run(config)
    np.testing.assert_allclose(arrays["r2"], arrays["r2_frozen"], atol=1e-6)
    assert (np.abs(np.diff(arrays["r2_frozen"])) > 1e-4).any()
