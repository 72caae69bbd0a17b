"""Leading axes: of a batch (2, 3, …), every function gives what a loop over its entries gives."""

import math
from dataclasses import asdict, is_dataclass

import numpy as np
import pytest
import torch

from cases import draw, gather, make, signs
from core.agop import average_gradient_outer_product, gram_agop_cosine
from core.batch import ratio, scalar, total
from core.collapse import class_means, collapse, nearest_mean_disagreement
from core.gram import (
    cosine,
    effective_rank,
    gram_preserving_update,
    newton_schulz,
    polar_factor,
    weight_gram,
)
from core.linearity import (
    held_out_linearity,
    moments_surrogate,
    read_out,
    report,
    response_norm,
    surrogate,
    target_linearity,
)
from core.virtual import (
    feature_learning_residual,
    gram_shift_cosine,
    virtual_covariance,
    virtual_covariance_shift,
    virtual_update,
)
from oracles import difference

HARD = ("full rank", "rank 5", "constant column")
HARD += ("offset and rank 3", "nothing but zeros", "mean outside a range of rank 3")
PAIRS = [make(features, "matrix") for features in HARD]
H, Y = (torch.stack(tensors).unflatten(0, (2, 3)) for tensors in zip(*PAIRS, strict=True))
# four classes, of other sizes in every entry
LABELS = torch.stack([(torch.arange(120) % k).clamp(max=3) for k in range(5, 11)]).view(2, 3, 120)
W = draw(2, 3, 4, 9, seed=1)  # of four outputs, of the features H
A = draw(2, 3, 120, 9, seed=2)  # ∂L/∂H
DW = draw(2, 3, 4, 9, seed=3)  # ∂L/∂W
K = draw(2, 3, 4, 4, seed=4)
K = K @ K.mT


def outer_product(h, weight):
    h = h.clone().requires_grad_()
    return average_gradient_outer_product((h @ weight.mT).sin() @ weight, [h])[0]


def held_out(h, y):
    """Of the last 40 samples, by the map of the first 80."""
    fitted = gather(h[..., :80, :], y[..., :80, :])
    return held_out_linearity(fitted, gather(h[..., 80:, :], y[..., 80:, :]))


FUNCTIONS = {
    "average_gradient_outer_product": (outer_product, H, W),
    "gram_agop_cosine": (gram_agop_cosine, W, K),
    "class_means": (lambda h, y: class_means(gather(h, y)), H, LABELS),
    "collapse": (lambda h, y: collapse(gather(h, y)), A, LABELS),
    "collapse of hard features": (lambda h, y, w: collapse(gather(h, y), w), H, LABELS, W),
    "nearest_mean_disagreement": (nearest_mean_disagreement, A, LABELS, draw(2, 3, 9, 4)),
    "weight_gram": (weight_gram, W),
    "weight_gram of kernels": (lambda w: weight_gram(w, kernel_axes=2), draw(2, 3, 4, 2, 3, 3)),
    "cosine": (cosine, W, DW),
    "effective_rank": (effective_rank, W * torch.arange(6).view(2, 3, 1, 1)),
    "polar_factor": (polar_factor, W),
    "newton_schulz": (newton_schulz, W * torch.logspace(-3, 3, 6).view(2, 3, 1, 1)),
    "gram_preserving_update, wide": (gram_preserving_update, W, DW),
    "gram_preserving_update, tall": (gram_preserving_update, W.mT, DW.mT),
    "report": (lambda h, y: report(gather(h, y)), H, Y),
    "report with an intercept": (lambda h, y: report(gather(h, y), intercept=True), H, Y),
    "read_out": (lambda h, y: read_out(gather(h, y)), H, Y),
    "held_out_linearity": (held_out, H, Y),
    "target_linearity": (target_linearity, H, LABELS),
    "surrogate": (surrogate, H, W, LABELS),
    "moments_surrogate": (lambda h, y, w: moments_surrogate(gather(h, y), w), H, Y, W),
    "response_norm": (lambda h, y, w: response_norm(gather(h, y), w), H, Y, W),
    "virtual_update": (lambda h, a: virtual_update(h, a, 0.1), H, A),
    "virtual_covariance": (lambda h, a: virtual_covariance(h, a, 0.1), H, A),
    "virtual_covariance_shift": (lambda h, a: virtual_covariance_shift(h, a, 0.1), H, A),
    "feature_learning_residual": (feature_learning_residual, H, W, A, DW),
    "gram_shift_cosine": (gram_shift_cosine, W, DW),
}


def fields(result):
    """Of a report, or the result alone."""
    return asdict(result) if is_dataclass(result) else {"result": result}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_batch_equals_a_loop_over_its_entries(name):
    function, *arguments = FUNCTIONS[name]
    batch = fields(function(*arguments))
    for index in np.ndindex(2, 3):
        for key, expected in fields(function(*(a[index] for a in arguments))).items():
            value = batch[key]
            if torch.is_tensor(expected):  # a matrix, for a number is a Python number
                assert expected.ndim > 0
            if torch.is_tensor(value):
                np.testing.assert_allclose(
                    value[index], expected, rtol=1e-7, atol=1e-9, err_msg=f"{key} {index}"
                )
            else:  # of the whole batch
                assert value == expected


@pytest.mark.filterwarnings("ignore::core.linearity.LostDigits")
def test_eigenvalues_are_cut_relative_to_the_largest_of_each_entry():
    a, b, c = signs(3).T
    delta = math.sqrt(5 * 64 * 2.0**-52)  # eigenvalues 2, 1 and 2.5 times the relative cutoff
    near = torch.stack([a, math.cos(delta) * a + math.sin(delta) * b, c], 1)
    equal = torch.stack([a, a, a], 1)  # eigenvalues 3, 0 and 0
    result = report(gather(torch.stack([near, equal]), torch.stack([b, c], 1)))
    assert result.rank.tolist() == [3, 1]


def test_a_mean_is_outside_the_range_relative_to_its_own_length():
    low_rank = draw(120, 3) @ draw(3, 9, seed=1)
    low_rank = low_rank - low_rank.mean(0)
    features = torch.stack([low_rank + 1e-8, low_rank + 1e5])
    maps = read_out(gather(features, Y[0, 0]))
    for h, actual in zip(features, maps, strict=True):
        assert difference(actual, read_out(gather(h, Y[0, 0]))) < 1e-6


BLOCKS = {
    "gram_agop_cosine": (gram_agop_cosine, W, K),
    "effective_rank": (effective_rank, W),
    "gram_shift_cosine": (gram_shift_cosine, W, DW),
    "feature_learning_residual": (feature_learning_residual, H, W, A, DW),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_the_diagonal_of_one_matrix(name):
    function, *arguments = BLOCKS[name]
    batch = function(*arguments, blocks=True)
    assert batch.shape == (2,)
    for i in range(2):
        dense = [torch.block_diag(*matrix[i]) for matrix in arguments]
        assert function(*(a[i] for a in arguments), blocks=True) == pytest.approx(function(*dense))
        assert float(batch[i]) == pytest.approx(function(*dense))


def test_a_number_of_one_matrix_is_pythons():
    one, batch = torch.tensor(2.5), torch.tensor([1.0, 2.0])
    assert type(scalar(one)) is float
    assert scalar(batch) is batch
    assert total(batch, blocks=False) is batch
    assert total(batch, blocks=True) == 3


def test_a_ratio_over_zero_is_nan_whatever_rounding_left():
    values = ratio(torch.tensor([3.0, 1e-20, 0.0]), torch.tensor([2.0, 0.0, 0.0]))
    assert values.tolist() == pytest.approx([1.5, math.nan, math.nan], nan_ok=True)
