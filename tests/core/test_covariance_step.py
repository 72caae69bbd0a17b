"""The step that gives the Gram matrix the shift itself, against dense matrices in float64."""

import pytest
import torch

from cases import draw
from core.covariance_step import covariance_step
from core.virtual import virtual_covariance_shift

SHAPES = {"wide": (3, 40, 5), "short": (6, 8, 5), "tall": (9, 4, 5)}  # m, d, N


@pytest.fixture(params=SHAPES)
def layer(request):
    """W, H and A, and WᵀW + VCS."""
    m, d, n = SHAPES[request.param]
    weight, h, a = draw(m, d, seed=1), draw(n, d, seed=2), draw(n, d, seed=3)
    wanted = weight.mT @ weight + virtual_covariance_shift(h, a, 0.3)
    return weight, h, a, wanted


def test_the_gram_is_the_nearest_of_its_rank(layer):
    weight, h, a, wanted = layer
    values, vectors = torch.linalg.eigh(wanted)
    kept = values.clamp_min(0)
    kept[: -len(weight) or None] = 0 if len(weight) < len(values) else kept[: -len(weight)]
    nearest = vectors @ torch.diag(kept) @ vectors.mT
    after = covariance_step(weight, h, a, 0.3)
    torch.testing.assert_close(after.mT @ after, nearest, rtol=1e-9, atol=1e-9)


def test_no_other_weight_of_that_gram_is_nearer(layer):
    weight, h, a, _ = layer
    after = covariance_step(weight, h, a, 0.3)
    for seed in range(20):
        turned = torch.linalg.qr(draw(len(weight), len(weight), seed=seed)).Q @ after
        assert (after - weight).norm() <= (turned - weight).norm()


def test_a_short_step_is_the_whitened_step_of_gradient_descent(layer):
    """To first order: what is dropped of it leaves the Gram matrix as it is."""
    weight, h, a, _ = layer
    slopes = []
    for rate in (1e-3, 1e-4):
        after = covariance_step(weight, h, a, rate)
        change = (after.mT @ after - weight.mT @ weight) / rate
        slopes.append((change + a.mT @ h + h.mT @ a).norm())
    rank = min(weight.shape)
    if rank == weight.shape[1]:  # else the shift leaves the matrices of rank m
        assert slopes[1] < 0.2 * slopes[0]


def test_a_batch_is_each_of_its_layers():
    w, h, a = draw(2, 3, 7, seed=4), draw(2, 5, 7, seed=5), draw(2, 5, 7, seed=6)
    both = covariance_step(w, h, a, 0.1)
    for r in range(2):
        torch.testing.assert_close(both[r], covariance_step(w[r], h[r], a[r], 0.1))


def test_without_a_gradient_nothing_moves():
    w, h = draw(3, 7, seed=4), draw(5, 7, seed=5)
    torch.testing.assert_close(covariance_step(w, h, 0 * h, 0.5), w)
