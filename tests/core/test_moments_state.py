"""FeatureMoments copied, saved, restored, read in part; and what they keep of targets."""

import copy
import io

import numpy as np
import pytest
import torch

from cases import gather
from core.collapse import class_means, collapse
from core.linearity import (
    moments_surrogate,
    read_out,
    report,
    response_cka,
    response_norm,
    ridge_linearity,
)
from core.moments import FeatureMoments
from sums import DIAGONAL, EVERY_KIND, ONE_AND_BATCH, assert_same, part, sample


@DIAGONAL
@ONE_AND_BATCH
def test_state_survives_torch_save_and_goes_on_from_there(kind, diagonal):
    features, y = sample(kind)
    first = gather(*part(features, y, slice(33)), diagonal_targets=diagonal)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    actual = FeatureMoments.from_state_dict(torch.load(file, weights_only=True))
    assert_same(actual, first, tolerance=0)
    assert actual.diagonal_targets is diagonal
    rest = part(features, y, slice(33, None))
    assert_same(actual.update(*rest), first.update(*rest), tolerance=0)


def test_state_is_a_copy_in_both_directions():
    actual = gather(*sample())
    state = actual.state_dict()
    FeatureMoments.from_state_dict(state).update(*sample(seed=1))
    actual.update(*sample(seed=1))
    assert_same(FeatureMoments.from_state_dict(state), gather(*sample()), tolerance=0)


@ONE_AND_BATCH
@DIAGONAL
def test_a_copy_shares_nothing(diagonal, kind):
    actual = gather(*sample(kind), diagonal_targets=diagonal)
    for other in (copy.copy(actual), copy.deepcopy(actual)):
        assert_same(other, actual, tolerance=0)
        assert other.diagonal_targets is diagonal
        other.update(*sample(kind, seed=1))
        assert_same(actual, gather(*sample(kind), diagonal_targets=diagonal), tolerance=0)
    assert copy.copy(FeatureMoments(diagonal)).diagonal_targets is diagonal


@DIAGONAL
@ONE_AND_BATCH
def test_state_may_be_arrays(kind, diagonal):
    actual = gather(*sample(kind), diagonal_targets=diagonal)
    file = io.BytesIO()
    np.savez(file, **{name: value.numpy() for name, value in actual.state_dict().items()})
    file.seek(0)
    restored = FeatureMoments.from_state_dict(np.load(file, allow_pickle=False))
    assert_same(restored, actual, tolerance=0)
    assert (type(restored.n), type(restored.one_hot)) == (int, bool)
    assert_same(restored.update(*sample(kind, 5, 1)), actual.update(*sample(kind, 5, 1)))


@EVERY_KIND
def test_the_norm_of_the_target_scatter_is_that_of_the_matrix(kind):
    actual = gather(*sample(kind))
    expected = torch.linalg.matrix_norm(actual.target_scatter)
    np.testing.assert_allclose(actual.target_norm, expected, rtol=1e-12)


def test_without_the_whole_scatter_of_real_targets_its_norm_is_not_known():
    assert gather(*sample(), diagonal_targets=True).target_norm.isnan()
    classes = gather(*sample("classes"), diagonal_targets=True)
    assert classes.target_norm == gather(*sample("classes")).target_norm


def test_classes_are_moved_to_other_places():
    features, y = sample("classes")
    places = torch.tensor([4, 0, 6, 1])
    actual = gather(features, y, 7).arrange(places, 7)
    assert_same(actual, gather(features, places[y]))


def test_many_classes_take_the_room_of_one_row_each():
    """Their scatter would be a matrix of 100 GB."""
    features, y = sample("classes")
    actual = gather(features, y + 100_000, 7)
    assert max(value.numel() for value in actual.state_dict().values()) == 5 * 100_004
    assert report(actual).value == pytest.approx(report(gather(features, y)).value, rel=1e-12)


@pytest.mark.parametrize("size", [1e-170, 1e170])
def test_sizes_whose_squares_float64_does_not_hold_are_refused(size):
    features, y = sample()
    for batch, what in (((size * features, y), "features"), ((features, size * y), "targets")):
        with pytest.raises(ValueError, match=f"{what} of size .* multiply all of them"):
            FeatureMoments().update(*batch)
    assert FeatureMoments().update(0 * features, y).n == 60


@pytest.mark.parametrize("index", [2**20, 10**9, 2**62])
def test_a_class_index_that_no_sums_have_room_for_is_refused(index):
    features, y = sample("classes")
    actual = gather(features, y)
    for moments in (FeatureMoments(), actual):
        with pytest.raises(ValueError, match=f"class index {index}: .*torch.unique"):
            moments.update(features, torch.where(y == 3, index, y))
    assert_same(actual, gather(features, y), tolerance=0)


def test_targets_without_columns_are_refused():
    features, _ = sample()
    for targets in (torch.zeros(60, 0), torch.zeros(60, 0, dtype=torch.long)):
        with pytest.raises(ValueError, match="no columns"):
            FeatureMoments().update(features, targets)


EMPTY = {
    "d": lambda m: m.d,
    "c": lambda m: m.c,
    "counts": lambda m: m.counts,
    "target_norm": lambda m: m.target_norm,
    "feature_mean": lambda m: m.feature_mean,
    "an entry": lambda m: m[0],
    "columns": lambda m: m.columns(slice(1)),
    "stack": lambda m: FeatureMoments.stack([m, m]),
    "report": report,
    "ridge": lambda m: ridge_linearity(m, 1.0),
    "read_out": read_out,
    "surrogate": lambda m: moments_surrogate(m, torch.ones(2, 3)),
    "response norm": lambda m: response_norm(m, torch.ones(2, 3)),
    "CKA": lambda m: response_cka(m, torch.ones(2, 3)),
    "class means": class_means,
    "collapse": collapse,
}


@pytest.mark.parametrize("measure", EMPTY.values(), ids=EMPTY)
def test_without_samples_there_is_nothing_to_measure(measure):
    for moments in (FeatureMoments(), copy.copy(FeatureMoments())):
        with pytest.raises(ValueError, match="no samples: update the moments first"):
            measure(moments)


def test_any_other_name_is_not_known():
    assert not hasattr(FeatureMoments(), "sums")
    with pytest.raises(AttributeError, match="sums"):
        _ = gather(*sample()).sums


@DIAGONAL
@pytest.mark.parametrize("kind", ["classes", "matrix", "replicas, classes each"])
def test_moments_made_in_inference_mode_go_on_outside_and_the_other_way_round(kind, diagonal):
    features, y = sample(kind)
    parts = [part(features, y, rows) for rows in (slice(20), slice(20, 60))]
    with torch.inference_mode():
        first, second = (gather(*(t.clone() for t in p), diagonal_targets=diagonal) for p in parts)
        merged = FeatureMoments(diagonal).merge(first).merge(second)
        copies = [copy.copy(merged), copy.deepcopy(merged), FeatureMoments(diagonal).merge(merged)]
        copies.append(FeatureMoments.from_state_dict(merged.state_dict()))
    whole = gather(features, y, diagonal_targets=diagonal)
    twice = gather(features, y, diagonal_targets=diagonal).update(features, y)
    for moments in (merged, *copies):
        assert_same(moments, whole)
        moments.update(features, y)
        assert_same(moments, twice)
    with torch.inference_mode():
        outside = gather(features, y, diagonal_targets=diagonal).merge(first)
        assert_same(outside.update(features, y).merge(second), twice.merge(whole))
        if kind == "classes":
            arranged = gather(features, y, diagonal_targets=diagonal).arrange(torch.arange(4), 6)
    if kind == "classes":
        assert arranged.update(features, y + 2).n == 120


def test_a_state_of_means_alone_is_read():
    """As they were saved before there were origins."""
    actual = gather(*sample())
    state = actual.state_dict()
    for of in ("feature", "target"):
        state[f"{of}_mean"] = state.pop(f"{of}_origin") + state.pop(f"{of}_offset")
    restored = FeatureMoments.from_state_dict(state)
    assert_same(restored, actual)
    assert_same(restored.update(*sample(seed=1)), actual.update(*sample(seed=1)))


@DIAGONAL
def test_state_before_the_first_batch_keeps_its_kind(diagonal):
    actual = FeatureMoments.from_state_dict(FeatureMoments(diagonal).state_dict())
    expected = gather(*sample(), diagonal_targets=diagonal)
    assert actual.n == 0
    assert_same(actual.update(*sample()), expected)


def test_an_index_of_the_leading_axes_is_read_without_a_copy():
    features, y = sample("replicas, classes each")
    batch = gather(features, y)
    assert_same(batch[1], gather(features[1], y[1]))
    assert_same(batch[:, 2], gather(features[:, 2], y[:, 2]))
    assert batch[1, 2].scatter.data_ptr() == batch.scatter[1, 2].data_ptr()


@EVERY_KIND
def test_moments_side_by_side_are_each_what_they_were(kind):
    features, y = sample(kind)
    several = [gather(scale * features, y) for scale in (1, 3)]
    stacked, leading = FeatureMoments.stack(several), several[0].batch_shape
    assert stacked.batch_shape == (*leading, 2)
    for i, moments in enumerate(several):
        assert_same(stacked[(*[slice(None)] * len(leading), i)], moments)


@DIAGONAL
@pytest.mark.parametrize("kind", ["matrix", "replicas, a matrix each"])
@pytest.mark.parametrize("columns", [slice(0, 2), slice(1, 3)], ids=str)
def test_columns_are_the_moments_of_these_targets_alone(columns, kind, diagonal):
    features, y = sample(kind)
    whole, before = gather(features, y, 7, diagonal), gather(features, y, 7, diagonal)
    actual, alone = whole.columns(columns), gather(features, y[..., columns], 7, diagonal)
    assert_same(actual, alone)
    assert_same(FeatureMoments(diagonal).merge(actual), alone)
    assert_same(FeatureMoments.from_state_dict(actual.state_dict()), alone)
    assert_same(whole, before, tolerance=0)


@DIAGONAL
def test_columns_of_class_indices_are_their_one_hot_columns(diagonal):
    features, y = sample("classes")
    actual = gather(features, y, 7, diagonal).columns(slice(1, 3))
    one_hot = torch.stack([(y == 1).double(), (y == 2).double()], 1)
    assert_same(actual, gather(features, one_hot, 7, diagonal))
    # they are columns, no longer classes
    again = gather(features, one_hot, 60, diagonal).merge(actual)
    twice = gather(features.repeat(2, 1), one_hot.repeat(2, 1), 60, diagonal)
    assert_same(again, twice)
