"""The experiment on Neural Collapse against NumPy's definitions, and what its theory predicts of its numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

import cli
import data
import training
from core.linearity import target_linearity
from experiment import neural_collapse
from experiment.neural_collapse import Config
from models import MLP
from oracles import torch_layers

SMALL = {"epochs": 3, "every": 2, "width": 12, "depth": 2, "seeds": (0, 1), "jobs": 1}
FOLDER = cli.ROOT / "data"


@torch.no_grad()
def test_measures_are_those_of_each_layers_features() -> None:
    images = data.load("digits", FOLDER, "cpu")
    model = MLP((64, 12, 12, 10), [training.generator(seed, "weights") for seed in (0, 1)])
    found = neural_collapse.measure(model, images)
    y = images.y_train.numpy()
    for r in range(2):
        h, hidden = images.scale(images.x_train, torch.float32), []
        for module in torch_layers(model, r):
            h = module(h)
            hidden += [h] if isinstance(module, torch.nn.GELU) else []
        predicted = h.argmax(1).numpy()
        assert found["train_accuracy"][r] == pytest.approx((predicted == y).mean(), abs=1e-3)
        for layer, h in enumerate(hidden):
            features = h.double().numpy()
            means = np.array([features[y == k].mean(0) for k in range(10)])
            within, between = np.cov((features - means[y]).T, bias=True), np.cov(means[y].T, bias=True)
            nearest = ((features[:, None] - means) ** 2).sum(-1).argmin(1)
            nc1 = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 10
            assert found["nc1"][r, layer] == pytest.approx(nc1, rel=1e-3)
            assert found["tl"][r, layer] == pytest.approx(target_linearity(h, images.y_train), abs=1e-5)
            assert found["nc4"][r, layer] == pytest.approx((nearest != predicted).mean(), abs=2e-3)


def test_the_rate_falls_by_ten_after_each_third() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    neural_collapse.anneal(9, optimizer)
    rates = []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    assert rates == pytest.approx([1] * 3 + [0.1] * 3 + [0.01] * 3)


def test_a_seed_alone_equals_the_same_seed_beside_another() -> None:
    config = Config(**SMALL)
    replicas = [training.Replica(seed, {"lr": 0.05}) for seed in config.seeds]
    together = neural_collapse.train_group(config, "digits", replicas)
    for r, replica in enumerate(replicas):
        for name, values in neural_collapse.train_group(config, "digits", [replica]).items():
            np.testing.assert_allclose(values[0], together[name][r], rtol=1e-3, err_msg=name)


def test_collapse_comes_with_linearity() -> None:
    preset = {"epochs": 16, "every": 4, "width": 32, "depth": 2, "batch_size": 16, "seeds": (0,), "jobs": 1}
    arrays = neural_collapse.run(Config(**preset), "digits")
    assert (arrays["tl_intercept"] >= arrays["tl_bound"] - 1e-9).all()
    assert (arrays["tl_intercept"] >= arrays["tl"] - 1e-9).all()
    assert arrays["train_accuracy"][0, -1] > 0.95
    first, last = arrays["nc1"][0, [0, -1], -1]
    assert last < first / 3
    assert arrays["tl"][0, -1, -1] > arrays["tl"][0, 0, -1] + 0.2
    assert arrays["nc4"][0, -1, -1] < 0.1 < 0.8 < arrays["nc4"][0, 0, -1]


def test_arrays_have_the_axes_that_are_named() -> None:
    arrays = neural_collapse.run(Config(**SMALL), "digits")
    sizes = {"seed": 2, "epoch": 3, "layer": 2}
    expected = {name: tuple(sizes[a] for a in axes) for name, axes in neural_collapse.AXES.items()}
    assert {name: values.shape for name, values in arrays.items()} == expected
    assert all(np.isfinite(values).all() for values in arrays.values())


def test_a_class_without_training_images_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    x = {f"x_{split}": rng.integers(0, 256, (9, 4, 4), dtype=np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "gap.npz", **x, y_train=np.arange(9) % 2 * 2, y_test=np.arange(9) % 3)
    words = ["--datasets", str(tmp_path / "gap.npz"), "--results", str(tmp_path / "results")]
    monkeypatch.setattr("sys.argv", ["neural_collapse.py", *words])
    with pytest.raises(cli.ConfigError, match="a class has no training images"):
        neural_collapse.main()
    assert not list(tmp_path.rglob("*/*.npz"))
