"""The tangent part of an update against SciPy's null space and its Lyapunov solver."""

import numpy as np
import pytest
import scipy.linalg
import torch

from cases import draw
from core.gram import gram_preserving_update
from core.tangent import tangent_part
from oracles import difference

SHAPES = [(4, 6), (6, 4), (5, 5), (1, 4), (4, 1), (1, 1)]


def low_rank(m, d, rank):
    return draw(m, rank, seed=2) @ draw(rank, d, seed=3) if rank else draw(m, d) * 0


def nearest(weight, update):
    """Δ projected on the null space of vec Δ' ↦ WᵀΔ' + Δ'ᵀW, written out entry by entry."""
    w, (m, d) = weight.numpy(), weight.shape
    condition = np.zeros((d, d, m, d))
    for i in range(d):
        for j in range(d):
            condition[i, j, :, j] += w[:, i]
            condition[i, j, :, i] += w[:, j]
    basis = scipy.linalg.null_space(condition.reshape(d * d, m * d), rcond=1e-12)
    return (basis @ (basis.T @ update.numpy().ravel())).reshape(m, d)


@pytest.mark.parametrize("shape", SHAPES)
def test_of_full_rank_it_is_the_projection_on_the_null_space(shape):
    weight, update = draw(*shape), draw(*shape, seed=1)
    expected = nearest(weight, update)
    np.testing.assert_allclose(tangent_part(weight, update), expected, atol=1e-13)


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_of_any_rank_it_is_the_projection_on_the_null_space(shape, rank):
    weight, update = low_rank(*shape, rank), draw(*shape, seed=1)
    assert difference(tangent_part(weight, update), nearest(weight, update)) < 1e-12


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_rotations_are_dropped_whole_and_what_is_kept_has_no_tangent_part(shape):
    weight, square = draw(*shape), draw(shape[0], shape[0], seed=1)
    turned = (square - square.mT) @ weight
    assert difference(tangent_part(weight, turned), turned) < 1e-12
    update = draw(*shape, seed=2)
    kept = update - tangent_part(weight, update)
    assert tangent_part(weight, kept).norm() < 1e-13 * update.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_procrustes_is_the_same_to_first_order(shape):
    weight, update = draw(*shape), draw(*shape, seed=1)
    kept = update - tangent_part(weight, update)
    apart = []
    for rate in (1e-2, 1e-3, 1e-4):
        moved = gram_preserving_update(weight, weight + rate * update) - weight
        apart.append(float((moved - rate * kept).norm() / rate))
    if shape[0] == 1:  # the only tangent vector of one row is zero
        assert max(apart) < 1e-10
    else:
        np.testing.assert_allclose(np.diff(np.log10(apart)), -1, atol=0.1)


def test_of_a_batch_it_is_that_of_each_entry_in_the_updates_dtype():
    weight, update = draw(2, 3, 4, 6), draw(2, 3, 4, 6, seed=1, dtype=torch.float32)
    weight[1, 2] = low_rank(4, 6, 2)
    result = tangent_part(weight, update)
    assert result.dtype == torch.float32
    for index in np.ndindex(2, 3):
        expected = nearest(weight[index], update[index].double())
        assert difference(result[index], expected) < 1e-6


@pytest.mark.parametrize("shapes", [((3, 4), (4, 3)), ((3,), (3,)), ((2, 3, 4), (3, 4))])
def test_weights_and_updates_of_other_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="one shape"):
        tangent_part(*(torch.ones(shape) for shape in shapes))
