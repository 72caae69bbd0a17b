"""The Gram matrix, polar factors and Gram-preserving updates against SciPy in float64."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from cases import draw
from core.gram import (
    complement_update,
    cosine,
    effective_rank,
    gram_preserving_update,
    step_matched_update,
    weight_gram,
)
from matrices import PRECISION, SHAPES, low_rank, spectrum
from oracles import difference


def nearest(before, after):
    """The matrix with the Gram of `after` that is nearest to `before`, by SciPy in float64."""
    before, after = (w.double().numpy() for w in (before, after))
    return scipy.linalg.orthogonal_procrustes(after.T, before.T)[0].T @ after


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 3, 2, 2)])
def test_weight_gram_sums_outer_products_of_rows(shape):
    weight = draw(*shape)
    expected = sum(np.outer(row, row) for row in weight.flatten(1).numpy())
    assert difference(weight_gram(weight, kernel_axes=len(shape) - 2), expected) < 1e-14


def test_weight_gram_of_replicas_is_one_matrix_each():
    assert weight_gram(draw(3, 4, 6)).shape == (3, 6, 6)
    assert weight_gram(draw(3, 4, 2, 5, 5), kernel_axes=2).shape == (3, 50, 50)


@pytest.mark.parametrize(("shape", "kernel_axes"), [((3,), 0), ((4, 3, 3), 2)])
def test_weight_gram_of_fewer_axes_is_an_error(shape, kernel_axes):
    with pytest.raises(ValueError, match=f"{2 + kernel_axes} or more axes"):
        weight_gram(torch.ones(shape), kernel_axes)


def test_cosine_is_that_of_the_entries_as_one_vector():
    a, b = draw(4, 6), draw(4, 6, seed=1)
    expected = np.corrcoef(np.stack([a - a.mean(), b - b.mean()]).reshape(2, -1))[0, 1]
    assert cosine(a - a.mean(), b - b.mean()) == pytest.approx(expected, rel=1e-12)
    assert cosine(a, -3 * a) == pytest.approx(-1, rel=1e-14)
    assert math.isnan(cosine(a, 0 * b))


def test_effective_rank_is_the_exponential_entropy_of_the_eigenvalues():
    weight = draw(5, 8)
    eigenvalues = np.linalg.eigvalsh(weight_gram(weight))[-5:]
    share = eigenvalues / eigenvalues.sum()
    expected = np.exp(-(share * np.log(share)).sum())
    assert effective_rank(weight) == pytest.approx(expected, rel=1e-10)
    assert effective_rank(100 * weight.mT) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_effective_rank_of_equal_eigenvalues_is_the_rank(rank):
    assert effective_rank(spectrum([2.0] * rank, 5, 7)[0]) == pytest.approx(rank, rel=1e-12)


def test_effective_rank_of_zero_is_nan():
    assert math.isnan(effective_rank(torch.zeros(3, 4)))


UPDATES = {
    "small step": lambda m, d: (draw(m, d), draw(m, d) + 0.01 * draw(m, d, seed=1)),
    "unrelated": lambda m, d: (draw(m, d), draw(m, d, seed=1)),
    "rank lost": lambda m, d: (draw(m, d), low_rank(m, d, 2)),
    "from zero": lambda m, d: (torch.zeros(m, d, dtype=torch.float64), draw(m, d)),
}


@pytest.mark.parametrize("update", UPDATES)
def test_update_has_the_gram_of_after_and_is_as_near_to_before_as_can_be(update):
    for shape in SHAPES:
        for dtype, precision in PRECISION.items():
            before, after = (w.to(dtype) for w in UPDATES[update](*shape))
            result = gram_preserving_update(before, after)
            assert result.dtype == dtype
            assert difference(weight_gram(result.double()), weight_gram(after.double())) < precision
            distance = np.linalg.norm((result - before).double())
            least = np.linalg.norm(nearest(before, after) - before.double().numpy())
            assert distance == pytest.approx(least, rel=10 * precision, abs=precision)


@pytest.mark.parametrize("update", ["small step", "unrelated"])
def test_update_equals_scipy_procrustes(update):
    for shape in SHAPES:
        before, after = UPDATES[update](*shape)
        assert difference(gram_preserving_update(before, after), nearest(before, after)) < 1e-9


@pytest.mark.parametrize("shapes", [((3, 4), (4, 3)), ((3,), (3,)), ((2, 3, 4), (3, 4))])
def test_update_of_weights_that_are_not_matrices_of_one_shape_is_an_error(shapes):
    with pytest.raises(ValueError, match="one shape"):
        gram_preserving_update(*(torch.ones(shape) for shape in shapes))


@pytest.mark.parametrize("shape", [(4, 7), (6, 6), (8, 3)], ids=["wide", "square", "tall"])
def test_controls_keep_the_first_gram_or_the_whitened_length(shape):
    before, step = draw(2, *shape), 0.1 * draw(2, *shape, seed=1)
    whitened = gram_preserving_update(before, before + step)
    complement = complement_update(before, before + step)
    matched = step_matched_update(before, before + step)
    for i, (first, change) in enumerate(zip(before, step, strict=True)):
        assert difference(complement[i], nearest(first + change, first)) < 1e-12
        share = (whitened[i] - first).norm() / change.norm()
        assert 0 < share < 1
        assert difference(matched[i], first + share * change) < 1e-12
    assert difference(weight_gram(complement), weight_gram(before)) < 1e-12
    assert torch.equal(step_matched_update(before, before), before)
