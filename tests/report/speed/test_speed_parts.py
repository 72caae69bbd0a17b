"""What the benchmark times is what it says: order, formulas, laws, and the GPU's way."""

import os
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from core.polar import polar_by_products, polar_by_singular_values, polar_factor
from experiment import grokking, staircase
from lab.errors import UserError
from lab.replicas import Replica
from report.speed import growth, measuring, published, timing, training, whitening
from simulated_gpu import SimulatedGPU, move


def test_computations_are_timed_in_turn_and_the_first_round_warms_up(monkeypatch):
    called, clock, pauses = [], [0.0], iter([9.0, 3.0, 2.0, 4.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def slow():
        called.append("slow")
        clock[0] += next(pauses)

    def fast():
        called.append("fast")
        clock[0] += 0.5

    assert timing.in_turn(3, slow, fast) == [3.0, 0.5]
    assert called == ["slow", "fast"] * 4


def test_the_largest_memory_is_that_since_it_was_asked_for():
    before = timing.restart_peak()
    torch.ones(25, 2**18).sum()  # 25 MB, freed again
    assert 24 < timing.peak(before) < 40
    assert timing.peak(timing.restart_peak()) < 24


def test_a_process_alone_is_another_whose_death_is_one_line():
    assert timing.alone(os.getpid) != os.getpid()
    with pytest.raises(UserError, match="a process that measures has died"):
        timing.alone(os._exit, 3)


def test_images_one_by_one_are_those_that_are_trained_on():
    images = timing.synthetic(5, published.MNIST)
    samples = published.OneByOne(images)
    assert len(samples) == 5
    x = torch.stack([samples[i][0] for i in range(5)])
    torch.testing.assert_close(x, images.scale(images.x_train))
    assert [samples[i][1] for i in range(5)] == images.y_train.tolist()


def schulz(x: np.ndarray) -> np.ndarray:
    """Ten quintic steps on singular values."""
    for _ in range(10):
        x = x * (15 - 10 * x**2 + 3 * x**4) / 8
    return x


def test_the_published_step_is_its_formula():
    images = timing.synthetic(64, published.MNIST)  # one batch, so that the order does not matter
    torch.manual_seed(0)
    before = published.published_network(images)
    plain, whitened = (published.published_network(images) for _ in range(2))
    for model in (plain, whitened):
        model.load_state_dict(before.state_dict())
        published.published_epoch(images, model, whitened=model is whitened)
    for first, second, result in zip(*(m[1::2] for m in (before, plain, whitened)), strict=True):
        w1, w2 = (layer.weight.detach().double().numpy() for layer in (first, second))
        u, s, vt = np.linalg.svd(w1 @ w2.T)
        expected = u @ np.diag(schulz(s / np.linalg.norm(s))) @ vt @ w2
        np.testing.assert_allclose(result.weight.detach().numpy(), expected, atol=1e-5)
        assert not torch.equal(result.weight, first.weight)


@pytest.mark.parametrize("width", [30, 70])
def test_both_ways_give_the_same_ridge_fit(width):
    g = torch.Generator().manual_seed(0)
    h, y = torch.randn(50, width, generator=g), torch.randn(50, generator=g)
    residual = staircase.ridge_fit(h, y, 0.01)[1]
    torch.testing.assert_close(published.printed_fit(h, y, 0.01), y - residual)


def test_the_ways_that_are_exact_give_the_same_factor():
    matrix = whitening.layer_step(32, "cpu")[0]
    exact = polar_factor(matrix)
    torch.testing.assert_close(polar_by_singular_values(matrix), exact)
    torch.testing.assert_close(polar_by_products(matrix), exact, atol=1e-4, rtol=0)
    identity = torch.eye(32).expand(1, 32, 32)
    torch.testing.assert_close(exact @ exact.mT, identity, atol=1e-5, rtol=0)


def test_the_layer_that_is_whitened_takes_a_short_step():
    before, after = whitening.layer_step(32, "cpu")
    assert before.shape == after.shape == (1, 32, 32)
    step = torch.linalg.matrix_norm(after - before) / torch.linalg.matrix_norm(before)
    assert 1e-4 < float(step) < 1e-2


def test_the_law_of_training_is_the_rounds_of_its_jobs(monkeypatch):
    monkeypatch.setattr(growth, "dealt_seconds", Mock())
    points = growth.training_growth((1, 2, 5, 20), (1, 2), 8, 1, "cpu")
    assert [p.cost for p in points if p.series == "training, 1 job"] == [1, 2, 5, 20]
    assert [p.cost for p in points if p.series == "training, 2 jobs"] == [1, 1, 3, 10]
    assert len(points) == 8


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(nn.Module, "to", move)
    # asks the driver
    monkeypatch.setattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", Mock())
    with SimulatedGPU() as simulated:
        yield simulated


SEEDS = [Replica(seed, {"lr": 0.01}) for seed in range(2)]
ON_GPU = {
    "mlp": lambda: training.train_mlp(timing.synthetic(64, (1, 8, 8), "cuda"), SEEDS),
    "vae": lambda: training.train_vae(
        timing.synthetic(64, (1, 8, 8), "cuda"), [Replica(0, {"lr": 0.01}, {"beta": 1.0})] * 2
    ),
    "grokking": lambda: training.train_grokking(grokking.addition(7, 0.3, "cuda"), SEEDS),
    "whitening": lambda: whitening.whitening_rows(1, "cuda", width=8),
    "measuring": lambda: measuring.against_forward(300, 1, "cuda"),
    "epoch": lambda: published.epoch_rows(64, 1, "cuda", seeds=2),
    "measures": lambda: published.measures_row(300, 1, "cuda"),
    "solve": lambda: published.solve_row((8, 1024), 1, "cuda"),
    "growth": lambda: growth.measure_streams([(100, 8)], "cuda"),
    "growth of training": lambda: growth.training_growth((1, 2), (1, 2), 64, 1, "cuda"),
    "growth of whitening": lambda: growth.whitening_growth((8,), 1, "cuda"),
}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", ON_GPU)
def test_what_is_timed_on_a_gpu_stays_there(name):
    assert ON_GPU[name]()
