"""Which directions of the features count: rank, condition number and cutoff."""

import math

import numpy as np
import pytest
import torch

from cases import gather, latent, low_rank, make, signs
from core.linearity import report
from oracles import least_squares

EPS = 2.0**-52
FEW_SAMPLES = pytest.mark.filterwarnings("ignore:.* samples of .* features:RuntimeWarning")
RANKS_OF_NINE_COLUMNS = {
    "mean not zero": 9,
    "columns scaled 1e-4 to 1e4": 9,
    "offset of one column": 9,
    "rank 5": 5,
    "duplicated columns": 3,
    "constant column": 8,
}


@pytest.mark.parametrize(("features", "rank"), RANKS_OF_NINE_COLUMNS.items())
def test_rank_and_condition_are_those_of_centred_columns_of_unit_length(features, rank):
    h, y = make(features, "matrix")
    columns = (h - h.mean(0)).numpy()
    columns = columns[:, columns.std(0) > 1e-12]
    values = np.linalg.svd(columns / np.linalg.norm(columns, axis=0), compute_uv=False)
    result = report(gather(h, y))
    assert (result.n, result.d, result.rank) == (120, 9, rank)
    assert result.condition == pytest.approx(values[0] / values[rank - 1], rel=1e-6)


PLANTED_RANKS = {
    "rank 1": 1,
    "rank 9": 9,
    "zero column": 8,
    "nothing but a constant": 0,
    "nothing but zeros": 0,
    "rank 3 scaled 1e-4 to 1e4": 3,
    "offset and rank 3": 3,
    "offset inside a range of rank 3": 3,
    "N < d": 29,
    "N < d with an offset": 29,
    "N < d, rank 5": 5,
    "N = d": 29,
}


@FEW_SAMPLES
def test_rank_is_the_planted_one():
    results = {name: report(gather(*make(name, "matrix"))) for name in PLANTED_RANKS}
    assert {name: result.rank for name, result in results.items()} == PLANTED_RANKS
    assert all(result.condition == 1 for result in results.values() if not result.rank)


@pytest.mark.filterwarnings("ignore::core.linearity.LostDigits")
@pytest.mark.parametrize(("factor", "rank", "value"), [(100, 2, 0.5), (0.01, 1, 0)])
def test_eigenvalues_are_cut_at_the_cutoff(factor, rank, value):
    a, b, c = signs(3).T
    cutoff = 64 * EPS
    # two columns of correlation 1 − δ²/2 + …: eigenvalues 2 and δ²/2
    delta = 2 * math.sqrt(factor * cutoff)
    h = torch.stack([a, math.cos(delta) * a + math.sin(delta) * b], dim=1)
    result = report(gather(h, torch.stack([b, c], dim=1)))
    assert result.cutoff == cutoff
    assert result.rank == rank
    assert result.value == pytest.approx(value, abs=1e-3)


@FEW_SAMPLES
def test_the_cutoff_grows_with_the_larger_of_samples_and_features():
    assert report(gather(*make("full rank", "matrix"))).cutoff == 120 * EPS
    assert report(gather(*make("N < d", "matrix"))).cutoff == 50 * EPS


@pytest.mark.parametrize(
    ("dtype", "rank"), [(torch.float32, 10), (torch.bfloat16, 30), (torch.float16, 30)]
)
def test_rounding_in_float32_is_cut_and_in_half_precision_counts_as_features(dtype, rank):
    rng = np.random.default_rng(0)
    h = torch.from_numpy(low_rank(rng, 500, 30, 10))
    y = torch.from_numpy(latent(h.numpy(), 3, rng))
    result = report(gather(h.to(dtype), y))
    assert result.rank == rank
    if rank == 10:  # what the product has before it is rounded
        assert result.value == pytest.approx(least_squares(h, y), abs=1e-6)
    else:
        assert result.value == pytest.approx(least_squares(h.to(dtype), y), abs=1e-9)
