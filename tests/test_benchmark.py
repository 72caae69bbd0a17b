"""The benchmark: what it times is what it says, and its tables are those of its file."""

import sys
import time
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

import benchmark
from lab.errors import ConfigError
from report.speed import entries, layers, tables, timing, training
from report.speed.entries import Peak, Point, Row
from simulated_gpu import SimulatedGPU, move

MB = 2**20
SIZES = (10.0, 100.0, 1000.0)
POINTS = [Point("sums", "d", size, size**2, 0.01 * size**1.5, 50.0) for size in SIZES]
POINTS += [Point("spectra", "d", size, size**3, 1e-6 * size**3) for size in SIZES]
PEAKS = [
    Peak("whiten", "mnist", 900.0, 40.0, False),
    Peak("whiten", "cifar", 5000.0, 8.0, True),
    Peak("staircase", "its own", 400.0, 8.0, True),
]


@pytest.fixture
def tiny(monkeypatch):
    """Sizes that take no time."""
    small = {
        timing: {"ROUNDS": 1, "SECONDS": 0.0},
        layers: {"SAMPLES": 500, "PUBLISHED_SAMPLES": 300, "WIDTHS": (8, 16), "WIDTH": 8},
        training: {"PUBLISHED_SAMPLES": 64, "REPLICAS": (1, 2), "SEEDS": 2},
    }
    small[layers] |= {"NUMBERS": (100, 200), "DIM": 8, "DIMS": (4, 8), "NUMBER": 200, "BATCH": 50}
    small[training] |= {"GROWTH_SAMPLES": 64}
    for module, values in small.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_everything_is_measured_kept_and_shown(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--results", str(tmp_path)])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of its own processes, as torch in the tests
    benchmark.main()
    result = entries.results.read(entries.path(tmp_path))
    rows = entries.entries(result, "row")
    assert len(rows) == 6
    assert all(row.ours > 0 < row.theirs for row in rows)
    series = dict.fromkeys(point.series for point in entries.entries(result, "point"))
    assert len(series) == 6
    printed = capsys.readouterr().out
    assert all(table in printed for table in tables.tables(result))


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="no GPU"):
        benchmark.Config(device="cuda")


class TestTables:
    def test_they_are_those_of_the_entries_that_were_written(self, tmp_path):
        row = Row("measuring", 0.02, "an N × N matrix", 3.0, "s", 100.0)
        rate = Row("a sum", 20.0, "a loop", 10.0, "a/s", 1.0)
        assert tables.speed_section(tmp_path) == ""
        result = entries.write(tmp_path, [row, rate, *POINTS[::-1], *PEAKS], "cpu", 120.0)
        head, *shown = tables.speed_section(tmp_path).split("\n\n")
        assert f"{result.meta['commit']}) in 2 minutes." in head
        lines = [[line.split(" | ")[1:] for line in t.splitlines()[2:]] for t in shown]
        assert lines[0] == [
            ["0.020 s", "an N × N matrix", "3.00 s", "150×", "100× |"],
            ["20.0 a/s", "a loop", "10.0 a/s", "2.00×", "1× |"],  # of a rate more is better
        ]
        spectra = ["10 to 1,000", "0.001 to 1,000", "3.00", "3.00", "", " |"]
        sums = ["10 to 1,000", "0.316 to 316", "1.50", "2.00", "50.0 to 50.0", "0.00 |"]
        assert lines[1] == [spectra, sums]
        whiten = ["900 (in the first 40 s)", "5,000 (above 4,096)", " |"]
        assert lines[2] == [whiten, ["", "", "400 |"]]

    def test_a_slope_is_least_squares_on_logarithmic_axes(self):
        values = np.square(SIZES) * np.array([1.0, 2.0, 1.0])  # symmetric about the middle
        assert tables.slope(SIZES, values) == pytest.approx(2)
        values = SIZES * np.array([1.0, 1.0, 8.0])
        assert tables.slope(SIZES, values) == pytest.approx(1 + np.log10(8) / 2)

    @pytest.mark.parametrize(
        ("value", "text"),
        [(1234.5, "1,234"), (99.44, "99.4"), (2.345, "2.35"), (0.1234, "0.123"), (0.0, "0.000")],
    )
    def test_a_number_has_three_digits(self, value, text):
        assert tables.number(value) == text


def test_computations_are_timed_in_turn(monkeypatch):
    called = []
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    ways = (lambda: called.append("slow") or time.sleep(0.02), lambda: called.append("fast"))
    slow, fast = timing.in_turn(*ways)
    assert slow >= 0.02
    assert fast < 0.01
    order = [way for way, before in zip(called, [None, *called], strict=False) if way != before]
    assert order == ["slow", "fast"] * timing.ROUNDS


def test_the_largest_memory_is_that_of_the_computation():
    assert 24 < timing.peak(lambda: torch.ones(25, 2**18).sum()) < 40  # 25 MB, freed again
    assert timing.PAGE <= timing.peak(lambda: None) < 5


def schulz(x):
    """Ten quintic steps on singular values."""
    for _ in range(10):
        x = x * (15 - 10 * x**2 + 3 * x**4) / 8
    return x


def test_the_published_step_is_its_formula():
    images = timing.synthetic(64, timing.MNIST)  # one batch, so that the order does not matter
    samples = training.OneByOne(images)
    x = torch.stack([samples[i][0] for i in range(len(samples))])
    torch.testing.assert_close(x, images.scale(images.x_train))
    before, plain, whitened = (training.published_network(images) for _ in range(3))
    for model in (plain, whitened):
        model.load_state_dict(before.state_dict())
        training.published_epoch(images, model, whitened=model is whitened)
    for first, second, result in zip(*(m[1::2] for m in (before, plain, whitened)), strict=True):
        w1, w2 = (layer.weight.detach().double().numpy() for layer in (first, second))
        u, s, vt = np.linalg.svd(w1 @ w2.T)
        expected = u @ np.diag(schulz(s / np.linalg.norm(s))) @ vt @ w2
        np.testing.assert_allclose(result.weight.detach().numpy(), expected, atol=1e-5)
        assert not torch.equal(result.weight, first.weight)


@pytest.mark.usefixtures("tiny")
def test_the_law_of_training_is_the_rounds_of_its_jobs(monkeypatch):
    monkeypatch.setattr(training, "dealt", Mock())
    monkeypatch.setattr(training, "REPLICAS", (1, 2, 5, 20))
    costs = [point.cost for point in training.growth("cpu")]
    assert costs == [1, 2, 5, 20, 1, 1, 3, 10]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("measure", benchmark.PARTS, ids=lambda part: part.__name__)
def test_what_is_timed_on_a_gpu_stays_there(measure, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(nn.Module, "to", move)
    # asks the driver
    monkeypatch.setattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", Mock())
    monkeypatch.setattr(torch.accelerator, "synchronize", Mock())  # what the timer waits for
    with SimulatedGPU():
        assert list(measure("cuda"))
