"""A layer's row of measures, computed from its sums alone, against dense matrices and loops."""

import math

import numpy as np
import pytest
import torch

from cases import draw, gather
from core.collapse import collapse
from core.layer_sums import LayerSums
from core.linearity import report
from oracles import centred, chance, difference, least_squares

M, D, N, CLASSES = 5, 4, 60, 3
LABELS = torch.arange(N) % CLASSES
FEATURES = draw(N, D, seed=5) + 2  # H
OUTPUTS = draw(N, M, seed=6) + FEATURES.sum(1, keepdim=True)  # Z
GRADIENTS = [draw(2, M, D, seed=seed) for seed in (1, 2)]  # ∂L/∂W of two batches, of two groups
OUTPUT_GRADIENTS = [draw(2, 8, M, seed=seed) for seed in (3, 4)]  # ∂f/∂Z


def layer_sums(groups: int = 1, m: int = M) -> LayerSums:
    """All sums of a layer but the predictions."""
    sums = LayerSums(draw(groups, m, D))
    sums.inputs.update(FEATURES, LABELS)
    sums.outputs.update(OUTPUTS, LABELS)
    for gradient in GRADIENTS:
        sums.add_weight_gradient(gradient[:groups, :m])
    for gradient in OUTPUT_GRADIENTS:
        sums.add_output_gradient(gradient[:groups, :, :m])
    return sums


@pytest.fixture(params=[1, 2], ids=["one group", "two groups"])
def groups(request) -> int:
    return request.param


def dense(blocks) -> np.ndarray:
    """The block-diagonal matrix."""
    return torch.block_diag(*blocks).numpy()


def cosine(a, b) -> float:
    return (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)


def test_the_spectrum_is_that_of_the_gram_matrix(groups):
    sums = layer_sums(groups)
    row, weight = sums.row("layer", "Linear"), dense(sums.weight)
    eigenvalues = np.linalg.eigvalsh(weight.T @ weight)  # positive, for W has full column rank
    share = eigenvalues / eigenvalues.sum()
    assert row.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-10)
    assert row.condition == pytest.approx(np.linalg.cond(weight), rel=1e-10)
    assert (row.name, row.kind, row.m, row.d, row.n) == ("layer", "Linear", M, D, N)


def test_the_cosines_are_those_of_dense_matrices(groups):
    sums = layer_sums(groups)
    row, weight = sums.row("layer", "Linear"), dense(sums.weight)
    cross = weight.T @ dense(sum(GRADIENTS)[:groups])
    rows = [dense(gradient[:groups]) for gradient in OUTPUT_GRADIENTS]
    agop = weight.T @ sum(z.T @ z for z in rows) @ weight
    assert row.cosine_vc == pytest.approx(cosine(weight.T @ weight, -(cross + cross.T)), rel=1e-10)
    assert row.cosine_agop == pytest.approx(cosine(weight.T @ weight, agop), rel=1e-10)


def test_gradients_are_summed_in_float64():
    sums = LayerSums(draw(1, M, D).float())
    for gradient in (torch.full((1, M, D), 1e8), torch.ones(1, M, D)):
        sums.add_weight_gradient(gradient)
    for gradient in (torch.full((1, 1, M), 1e4), torch.ones(1, 1, M)):
        sums.add_output_gradient(gradient)
    for total in (sums.weight_gradient, sums.output_outer):
        assert torch.equal(total, torch.full_like(total, 1e8 + 1, dtype=torch.float64))


def test_target_linearity_is_least_squares_and_the_surrogate_is_of_the_layers_own_weight():
    sums = layer_sums()
    row = sums.row("layer", "Linear")
    assert row.tl_in == pytest.approx(least_squares(FEATURES, LABELS), abs=1e-12)
    assert row.tl_out == pytest.approx(least_squares(OUTPUTS, LABELS), abs=1e-12)
    assert row.chance_in == pytest.approx(chance(FEATURES), abs=1e-12)
    assert row.chance_out == pytest.approx(chance(OUTPUTS), abs=1e-12)
    for tl, level, adjusted in (
        (row.tl_in, row.chance_in, row.adjusted_in),
        (row.tl_out, row.chance_out, row.adjusted_out),
    ):
        assert adjusted == pytest.approx((tl - level) / (1 - level))
    responses = centred(LABELS).T @ (FEATURES @ sums.weight[0].mT).numpy()
    assert row.surrogate == pytest.approx((responses**2).sum() / CLASSES, rel=1e-12)


def test_there_is_no_surrogate_of_groups_or_of_features_that_the_weight_does_not_multiply():
    assert math.isnan(layer_sums(groups=2).row("layer", "Conv2d").surrogate)
    sums = layer_sums()
    sums.inputs = gather(draw(N, D + 1), LABELS)  # positions side by side, or projected
    row = sums.row("layer", "Conv2d")
    assert math.isnan(row.surrogate)
    assert row.tl_in == report(sums.inputs).value


def test_cka_equals_the_ratio_of_products_of_kernels_of_samples():
    row = layer_sums().row("layer", "Linear")
    targets = centred(LABELS) @ centred(LABELS).T
    for value, features in ((row.cka_in, FEATURES), (row.cka_out, OUTPUTS)):
        h = features.numpy() - features.numpy().mean(0)
        assert value == pytest.approx(cosine(h @ h.T, targets), rel=1e-12)


def test_collapse_is_that_of_the_inputs_and_nc3_and_nc4_are_of_a_classifier_alone():
    sums = layer_sums()
    row, expected = sums.row("layer", "Linear"), collapse(sums.inputs)
    assert (row.nc1, row.nc2_norm) == (expected.nc1, expected.nc2_norm)
    assert row.nc2_angle == expected.nc2_angle
    assert math.isnan(row.nc3)
    assert math.isnan(row.nc4)

    sums = layer_sums(m=CLASSES)
    row = sums.row("layer", "Linear")
    assert row.nc3 == collapse(sums.inputs, sums.weight[0]).nc3
    assert math.isnan(row.nc4)  # without predictions


def test_one_sample_a_class_is_no_collapse():
    sums = layer_sums()
    sums.inputs = gather(FEATURES[:5], torch.arange(5))
    assert math.isnan(sums.row("layer", "Linear").nc1)


def test_of_two_classes_there_is_no_nc2():
    """Two means are opposite about their mean, collapsed or not."""
    sums = layer_sums()
    sums.inputs = gather(FEATURES, LABELS % 2)
    row = sums.row("layer", "Linear")
    assert row.nc1 == collapse(sums.inputs).nc1
    assert math.isnan(row.nc2_norm)
    assert math.isnan(row.nc2_angle)


def test_nc4_counts_where_the_nearest_class_mean_disagrees_with_the_network():
    sums, predicted = layer_sums(m=CLASSES), torch.arange(N) // 7 % CLASSES
    sums.predictions = list(zip(FEATURES.split(7), predicted.split(7), strict=True))
    means = torch.stack([FEATURES[k == LABELS].mean(0) for k in range(CLASSES)])
    nearest = torch.tensor([int((h - means).norm(dim=1).argmin()) for h in FEATURES])
    expected = float((nearest != predicted).double().mean())
    assert 0 < expected < 1
    assert sums.row("layer", "Linear").nc4 == pytest.approx(expected)


@pytest.mark.parametrize("targets", [2 * LABELS, FEATURES.sin()], ids=["absent class", "matrix"])
def test_there_is_no_collapse_where_a_class_is_absent_or_targets_are_a_matrix(targets):
    sums = layer_sums()
    sums.inputs = gather(FEATURES, targets)
    row = sums.row("layer", "Linear")
    assert all(math.isnan(value) for value in (row.nc1, row.nc2_norm, row.nc2_angle, row.nc3))
    assert row.tl_in == pytest.approx(least_squares(FEATURES, targets), abs=1e-12)


def test_what_was_not_summed_is_nan():
    weight = draw(1, M, D)
    row = vars(LayerSums(weight).row("layer", "Linear"))
    known = {"name", "kind", "d", "m", "n", "effective_rank", "condition", "reduction_error"}
    assert {name for name in row.keys() - known if not math.isnan(row[name])} == set()
    assert (row["n"], row["reduction_error"]) == (0, 0)
    assert difference(row["condition"], np.linalg.cond(weight[0])) < 1e-12


def test_the_reduction_error_is_the_mean_over_samples_that_were_reduced():
    sums = layer_sums()
    sums.reduction_error, sums.reduced_samples, sums.residual = 0.6, 3, 1e-9
    row = sums.row("layer", "Linear")
    assert row.reduction_error == pytest.approx(0.2)
    assert row.residual == 1e-9
