"""FeatureMoments: the sums equal those of two passes over all data, however they were gathered."""

import io
from itertools import permutations

import numpy as np
import pytest
import torch

from cases import gather
from core import moments
from core.linearity import moments_surrogate, read_out, report, response_norm
from core.moments import SUMS, FeatureMoments

# leading axes of the features, and of the targets that go with them
KINDS = {
    "matrix": ((), (60, 3)),
    "classes": ((), (60,)),
    "replicas, a matrix each": ((2, 3), (2, 3, 60, 3)),
    "replicas, one matrix": ((2, 3), (60, 3)),
    "replicas, classes each": ((2, 3), (2, 3, 60)),
    "replicas, one vector of classes": ((2, 3), (60,)),
}
DIAGONAL = pytest.mark.parametrize("diagonal", [False, True], ids=["whole scatter", "diagonal"])
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
ONE_AND_BATCH = pytest.mark.parametrize("kind", ["classes", "replicas, classes each"])


def sample(kind="matrix", d=5, seed=0):
    """Features with means of 0 to d − 1, and targets; class 3 is in the last 12 rows only."""
    g = torch.Generator().manual_seed(seed)
    batch, shape = KINDS[kind]
    features = torch.randn(*batch, 60, d, generator=g, dtype=torch.float64) + torch.arange(d)
    if shape[-1] == 3:
        return features, torch.randn(*shape, generator=g, dtype=torch.float64) - 2
    targets = torch.randint(3, shape, generator=g)
    targets[..., 48:] = 3
    return features, targets


def is_matrix(targets):
    return targets.is_floating_point()


def part(features, targets, rows):
    """Some of the samples."""
    return features[..., rows, :], targets[..., rows, :] if is_matrix(targets) else targets[
        ..., rows
    ]


def two_passes(features, targets):
    """The sums in extended precision: means first, then products of differences."""
    h = features.to(torch.float64).numpy().astype(np.longdouble)
    y = targets.numpy()
    y = (np.eye(y.max() + 1)[y] if y.ndim == 1 else y).astype(np.longdouble)
    dh, dy = h - h.mean(0), y - y.mean(0)
    return dict(zip(SUMS, (h.mean(0), y.mean(0), dh.T @ dh, dh.T @ dy, dy.T @ dy), strict=True))


def assert_sums(actual, expected, tolerance=1e-12):
    for name in SUMS:
        want = np.asarray(expected[name], dtype=np.float64)
        value = getattr(actual, name)
        assert (value.dtype, value.shape) == (torch.float64, want.shape), name
        scale = max(1.0, np.abs(want).max())
        np.testing.assert_allclose(value, want, rtol=0, atol=tolerance * scale, err_msg=name)


def assert_same(actual, expected, tolerance=1e-12):
    assert (actual.n, actual.d, actual.c) == (expected.n, expected.d, expected.c)
    assert (actual.one_hot, actual.batch_shape) == (expected.one_hot, expected.batch_shape)
    assert_sums(actual, {name: getattr(expected, name).numpy() for name in SUMS}, tolerance)


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
def test_an_offset_keeps_digits_that_the_sum_of_squares_loses(diagonal):
    g = torch.Generator().manual_seed(0)
    features = torch.randn(400, 3, generator=g, dtype=torch.float64) + 1e8
    targets = torch.randn(400, 2, generator=g, dtype=torch.float64) - 1e8
    expected = two_passes(features, targets)
    if diagonal:
        expected["target_scatter"] = expected["target_scatter"].diagonal()
    actual = gather(features, targets, 7, diagonal)
    for name in ("scatter", "cross", "target_scatter"):
        want = expected[name].astype(np.float64)
        assert np.abs(getattr(actual, name).numpy() - want).max() < 1e-6 * np.abs(want).max()
    naive = features.mT @ features - 400 * torch.outer(features.mean(0), features.mean(0))
    scatter = expected["scatter"].astype(np.float64)
    assert np.abs(naive.numpy() - scatter).max() > 0.01 * np.abs(scatter).max()


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
