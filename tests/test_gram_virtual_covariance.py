"""The Gram's movement beside the Virtual Covariance's: naive loops, and what theory predicts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import cli
import data
import training
from experiment import gram_virtual_covariance
from experiment.gram_virtual_covariance import Config
from models import MLP

SMALL = {"samples": 40, "width": 8, "seeds": (0, 1), "points": 2, "jobs": 1, "device": "cpu"}


def plain(seed: int, widths: tuple[int, ...]) -> nn.Sequential:
    """The replica of one seed as a network of torch's own layers, float64."""
    model = MLP(widths, [training.generator(seed, "weights")])
    parts: list[nn.Module] = []
    for layer in model.layers:
        linear = nn.Linear(layer.weight.shape[2], layer.weight.shape[1])
        linear.weight.data, linear.bias.data = layer.weight.data[0], layer.bias.data[0]
        parts += [linear, nn.GELU()]
    return nn.Sequential(*parts[:-1]).double()


def subset(config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    images = data.load("digits")
    chosen = torch.randperm(len(images.x_train), generator=training.generator(0, "measurement"))[: config.samples]
    return images.scale(images.x_train[chosen], torch.float64).flatten(1), images.y_train[chosen]


def naive(config: Config, rate: float, seed: int) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray], float]:
    """ΔG, accumulated ΔVC and the AGOP of every layer after full-batch training, sample by sample, and the loss."""
    x, y = subset(config)
    model = plain(seed, (64, *[config.width] * config.depth, 10))
    linears = [part for part in model if isinstance(part, nn.Linear)]
    start = [layer.weight.detach().clone() for layer in linears]
    moved = [np.zeros((layer.in_features,) * 2) for layer in linears]

    def inputs(sample: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        found, h = [], sample
        for part in model:
            if isinstance(part, nn.Linear):
                h = h.detach().requires_grad_() if not found else h
                h.retain_grad()
                found.append(h)
            h = part(h)
        return found, h

    for _ in range(config.steps(rate)):
        model.zero_grad()
        of_samples = []
        for sample, label in zip(x, y, strict=True):
            features, output = inputs(sample)
            (functional.cross_entropy(output, label) / len(x)).backward()
            of_samples.append([(h.detach().numpy(), h.grad.numpy()) for h in features])
        for i in range(len(linears)):
            before = sum(np.outer(row[i][0], row[i][0]) for row in of_samples)
            after = sum(np.outer(h - rate * a, h - rate * a) for h, a in (row[i] for row in of_samples))
            moved[i] += after - before
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= rate * parameter.grad
    change = [(b.weight.T @ b.weight - a.T @ a).detach().numpy() for a, b in zip(start, linears, strict=True)]
    agop = [np.zeros_like(m) for m in moved]
    for sample in x:
        features, output = inputs(sample)
        for value in output:
            for total, g in zip(agop, torch.autograd.grad(value, features, retain_graph=True), strict=True):
                total += np.outer(g.numpy(), g.numpy())
    return change, moved, agop, functional.cross_entropy(model(x), y).item()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def test_equals_a_loop_over_samples_in_plain_torch():
    config = Config(**SMALL, rates=(0.5,), time=3.0)
    arrays = gram_virtual_covariance.run(config, "digits", 0)
    for j, seed in enumerate(config.seeds):
        change, moved, agop, loss = naive(config, 0.5, seed)
        for i, (c, v, a) in enumerate(zip(change, moved, agop, strict=True)):
            found = {name: arrays[name][0, j, -1, i] for name in ("relative_error", "cosine_vc", "cosine_agop_change")}
            assert found["relative_error"] == pytest.approx(np.linalg.norm(c - v) / np.linalg.norm(v), rel=1e-7)
            assert found["cosine_vc"] == pytest.approx(cosine(c, v), rel=1e-9)
            assert found["cosine_agop_change"] == pytest.approx(cosine(c, a), rel=1e-9)
        assert arrays["loss"][0, j, -1] == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("batch_size", [0, 16])
def test_the_difference_falls_in_proportion_to_the_rate(batch_size):
    config = Config(**SMALL | {"seeds": (0, 1, 2)}, rates=(0.02, 0.01, 0.005), time=2.0)
    arrays = gram_virtual_covariance.run(config, "digits", batch_size)
    error = arrays["relative_error"][:, :, -1].mean(1)  # (rate, layer)
    slopes = np.polyfit(np.log(config.rates), np.log(error), 1)[0]
    np.testing.assert_allclose(slopes, 1, atol=0.05 if batch_size == 0 else 0.2)


def test_the_feature_learning_equation_is_exact():
    arrays = gram_virtual_covariance.run(Config(**SMALL, rates=(0.1,), time=1.0), "digits", 16)
    assert (arrays["residual"] < 1e-12).all()


@pytest.mark.parametrize("batch_size", [0, 16])
def test_a_seed_alone_equals_the_same_seed_beside_another(batch_size):
    config = Config(**SMALL, rates=(0.1,), time=2.0)
    replicas = [training.Replica(seed) for seed in config.seeds]
    together = gram_virtual_covariance.train_group(config, "digits", batch_size, 0.1, replicas)
    for r, replica in enumerate(replicas):
        alone = gram_virtual_covariance.train_group(config, "digits", batch_size, 0.1, [replica])
        for name, values in alone.items():
            atol = 1e-14 if name == "residual" else 0  # which is rounding itself
            np.testing.assert_allclose(values[0], together[name][r], rtol=1e-9, atol=atol, err_msg=name)


def test_arrays_have_the_axes_that_are_named():
    config = Config(**SMALL, rates=(0.1, 0.2), time=2.0)
    arrays = gram_virtual_covariance.run(config, "digits", 16)
    sizes = {"rate": 2, "seed": 2, "point": 3, "layer": 3}
    expected = {name: tuple(sizes[a] for a in axes) for name, axes in gram_virtual_covariance.AXES.items()}
    assert {name: values.shape for name, values in arrays.items()} == expected
    assert np.isnan(arrays["relative_error"][:, :, 0]).all()
    assert np.isfinite(arrays["relative_error"][:, :, 1:]).all()


def test_rates_that_leave_a_point_without_a_step_are_refused_in_one_line():
    with pytest.raises(cli.ConfigError, match="rates are too large"):
        Config(rates=(1.0,), time=5.0, points=10)


def test_a_second_run_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = "--scale quick --time 2 --points 2 --seeds 0 --samples 30 --width 4 --rates 0.1 --batch-sizes 0 --jobs 1"
    monkeypatch.setattr("sys.argv", ["gram_virtual_covariance.py", *words.split(), "--results", str(tmp_path)])
    gram_virtual_covariance.main()
    (path,) = tmp_path.rglob("*.npz")
    before = path.stat().st_mtime_ns
    gram_virtual_covariance.main()
    assert path.stat().st_mtime_ns == before
    assert "already there" in capsys.readouterr().out
