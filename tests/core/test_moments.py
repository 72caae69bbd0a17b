"""FeatureMoments: the sums equal those of two passes over all data, however they were gathered."""

from itertools import permutations

import numpy as np
import pytest
import torch

from cases import gather
from core import moments
from core.linearity import moments_surrogate, read_out, report, response_norm
from core.moments import SUMS, FeatureMoments
from sums import (
    DIAGONAL,
    EVERY_KIND,
    ONE_AND_BATCH,
    assert_same,
    assert_sums,
    is_matrix,
    part,
    sample,
    two_passes,
)


@EVERY_KIND
def test_sums_equal_two_passes_for_any_batch_size(kind):
    features, y = sample(kind)
    batch, inner = features.shape[:-2], 2 if is_matrix(y) else 1
    for size in (1, 7, 60):
        actual = gather(features, y, size)
        columns = 3 if is_matrix(y) else 4
        assert (actual.n, actual.d, actual.c, actual.batch_shape) == (60, 5, columns, batch)
        assert actual.one_hot == (not is_matrix(y))
        for index in np.ndindex(*batch):
            targets = y[index] if y.ndim > inner else y
            assert_sums(actual[index], two_passes(features[index], targets))


def test_features_of_any_precision_are_summed_in_float64():
    features, y = sample()
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert_sums(gather(features.to(dtype), y, 7), two_passes(features.to(dtype), y))


@ONE_AND_BATCH
def test_any_integer_type_counts_as_class_indices(kind):
    features, y = sample(kind)
    for dtype in (torch.uint8, torch.int32, torch.bool):
        assert_same(gather(features, (y % 2).to(dtype)), gather(features, y % 2))


def test_an_integer_matrix_is_a_matrix():
    features, y = sample("classes")
    rows = torch.nn.functional.one_hot(y)
    actual = FeatureMoments().update(features, rows)
    assert not actual.one_hot
    assert_sums(actual, two_passes(features, rows))


@DIAGONAL
@EVERY_KIND
def test_merging_in_any_order_and_from_saved_states_changes_nothing(kind, diagonal):
    features, y = sample(kind)  # parts have seen one, three and four classes
    whole = gather(features, y, diagonal_targets=diagonal)
    rows = (slice(0, 1), slice(1, 40), slice(40, 60))
    parts = [gather(*part(features, y, r), diagonal_targets=diagonal) for r in rows]
    for order in permutations(parts):
        merged = FeatureMoments(diagonal)
        for other in order:
            merged.merge(FeatureMoments.from_state_dict(other.state_dict()))
        assert_same(merged, whole)


@ONE_AND_BATCH
def test_merge_leaves_the_other_as_it_was_and_shares_no_memory_with_it(kind):
    other, before = gather(*sample(kind)), gather(*sample(kind))
    for moments_before in (FeatureMoments(), gather(*sample(kind, seed=1))):
        moments_before.merge(other).update(*sample(kind, seed=2))
        assert_same(other, before, tolerance=0)


def test_what_is_empty_adds_nothing():
    features, y = sample("classes")
    actual = gather(features, y).merge(FeatureMoments()).update(features[:0], y[:0])
    assert_same(actual, gather(features, y), tolerance=0)
    assert FeatureMoments().update(features[:0], y[:0]).merge(FeatureMoments()).n == 0


def test_merge_with_itself_counts_every_sample_twice():
    actual = gather(*sample())
    assert_same(actual.merge(actual), gather(*(torch.cat([half, half]) for half in sample())))


@ONE_AND_BATCH
def test_size_of_the_block_does_not_matter(kind, monkeypatch):
    expected = gather(*sample(kind))
    for block in (1, 12, 13, 100):
        monkeypatch.setattr(moments, "BLOCK", block)
        assert_same(gather(*sample(kind)), expected)


def test_inputs_need_not_be_contiguous():
    features, y = sample("replicas, a matrix each")
    expected = gather(features, y)
    wide = torch.stack([features, features + 1], dim=-1)
    for h in (features.mT.contiguous().mT, wide[..., 0]):
        assert not h.is_contiguous()
        assert_same(gather(h, y.mT.contiguous().mT), expected)
    repeated = features[:, :, :1].expand(2, 3, 60, 5)
    assert_same(gather(repeated, y), gather(repeated.contiguous(), y))


def test_features_that_carry_a_gradient_leave_no_graph_behind():
    features, y = sample()
    actual = gather(features.requires_grad_(), y, 7)
    assert not any(getattr(actual, name).requires_grad for name in SUMS)


H, Y = torch.ones(6, 5), torch.ones(6, 3)
REJECTED = {
    "fewer feature columns": (H[:, :4], Y, "4 columns"),
    "more target columns": (H, torch.ones(6, 4), "4 columns"),
    "classes after a matrix": (H, torch.arange(6), "class indices"),
    "leading axes": (H[None], Y, r"leading axes \(1,\), not \(\)"),
    "fewer samples of targets": (H, Y[:5], "6 samples"),
    "fewer class indices": (H, torch.arange(5), "6 samples"),
    "negative class": (H, torch.tensor([0, 1, 2, -100, 0, 1]), "-100"),
    "float (N,) targets": (H, Y[:, 0], "integer"),
    "targets of three axes": (H, Y[..., None], "targets must be"),
    "targets of other leading axes": (H.expand(2, 6, 5), Y.expand(3, 6, 3), "targets must be"),
    "classes of other leading axes": (H.expand(2, 6, 5), Y[:, 0].long().expand(3, 6), "targets"),
    "targets of no axis": (H, torch.tensor(1), "targets"),
    "features of one axis": (H[:, 0], Y, "floating-point"),
    "integer features": (H.long(), Y, "int64"),
}


@pytest.mark.parametrize(("features", "targets", "message"), REJECTED.values(), ids=REJECTED)
def test_a_rejected_batch_says_why_and_leaves_the_moments_as_they_were(features, targets, message):
    actual = gather(*sample())
    with pytest.raises(ValueError, match=message) as error:
        actual.update(features, targets)
    assert "\n" not in str(error.value)
    assert_same(actual, gather(*sample()), tolerance=0)


def test_a_rejected_batch_leaves_moments_of_classes_as_they_were(monkeypatch):
    monkeypatch.setattr(moments, "BLOCK", 5)  # one row a block: the last one is wrong
    actual = gather(*sample("classes"))
    for targets, message in ((Y, "3 columns"), (torch.tensor([0, 1, 2, 3, 4, -1]), "negative")):
        with pytest.raises(ValueError, match=message):
            actual.update(H, targets)
    assert_same(actual, gather(*sample("classes")), tolerance=0)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (gather(*sample(d=4)), "4 columns"),
        (gather(*sample("classes")), "class indices"),
        (gather(*sample("replicas, a matrix each")), "leading axes"),
        (gather(*sample(), diagonal_targets=True), "diagonal_targets"),
    ],
)
def test_a_rejected_merge_leaves_both_as_they_were(other, message):
    actual, state = gather(*sample()), other.state_dict()
    with pytest.raises(ValueError, match=message) as error:
        actual.merge(other)
    assert "\n" not in str(error.value)
    assert_same(actual, gather(*sample()), tolerance=0)
    assert_same(other, FeatureMoments.from_state_dict(state), tolerance=0)


@EVERY_KIND
def test_the_diagonal_of_the_target_scatter_is_all_that_target_linearity_needs(kind):
    features, y = sample(kind)
    actual, whole = gather(features, y, 7, diagonal_targets=True), gather(features, y)
    diagonal = whole.target_scatter.diagonal(dim1=-2, dim2=-1)
    np.testing.assert_allclose(actual.target_scatter, diagonal, rtol=1e-12)
    for moments_of_targets in (actual, whole):
        np.testing.assert_allclose(moments_of_targets.target_variance, diagonal, rtol=1e-12)
    for name in ("value", "chance", "adjusted", "condition", "rank"):
        values = [np.asarray(getattr(report(sums), name)) for sums in (actual, whole)]
        np.testing.assert_allclose(*values, rtol=1e-12, atol=1e-12)
    weight = torch.ones(2, 5)
    for measure in (moments_surrogate, response_norm):
        values = [np.asarray(measure(sums, weight)) for sums in (actual, whole)]
        np.testing.assert_allclose(*values, rtol=1e-12)
    np.testing.assert_allclose(read_out(actual), read_out(whole), rtol=0, atol=1e-12)
