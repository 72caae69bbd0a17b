"""FeatureMoments: the sums equal those of two passes over all the data, however they were gathered."""

import io
from itertools import permutations

import numpy as np
import pytest
import torch

from core import moments
from core.linearity import moments_surrogate, read_out, report, response_norm
from core.moments import FeatureMoments

SUMS = ("feature_mean", "target_mean", "scatter", "cross", "target_scatter")


def draw(n=60, d=5, targets="matrix", seed=0):
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=g, dtype=torch.float64) + torch.arange(d)
    if targets == "matrix":
        return features, torch.randn(n, 3, generator=g, dtype=torch.float64) - 2
    return features, torch.randint(4, (n,), generator=g)


def two_passes(features, targets):
    """The sums in extended precision: means first, then products of differences."""
    h = features.to(torch.float64).numpy().astype(np.longdouble)
    y = targets.numpy()
    y = (np.eye(y.max() + 1)[y] if y.ndim == 1 else y).astype(np.longdouble)
    dh, dy = h - h.mean(0), y - y.mean(0)
    return dict(zip(SUMS, (h.mean(0), y.mean(0), dh.T @ dh, dh.T @ dy, dy.T @ dy), strict=True))


def gather(features, targets, size=None, diagonal=False):
    found = FeatureMoments(diagonal_targets=diagonal)
    for h, y in zip(features.split(size or len(features)), targets.split(size or len(features)), strict=True):
        found.update(h, y)
    return found


def assert_sums(found, expected, tolerance=1e-12):
    for name in SUMS:
        want = np.asarray(expected[name], dtype=np.float64)
        scale = max(1.0, np.abs(want).max())
        assert getattr(found, name).shape == want.shape, name
        np.testing.assert_allclose(getattr(found, name).numpy(), want, rtol=0, atol=tolerance * scale, err_msg=name)


def assert_same(found, expected, tolerance=1e-12):
    assert (found.n, found.d, found.c) == (expected.n, expected.d, expected.c)
    assert_sums(found, {name: getattr(expected, name).numpy() for name in SUMS}, tolerance)


@pytest.mark.parametrize("targets", ["matrix", "classes"])
@pytest.mark.parametrize("size", [1, 7, 60])
def test_sums_equal_two_passes_for_any_batch_size(size, targets):
    features, y = draw(targets=targets)
    found = gather(features, y, size)
    assert found.n == 60
    assert_sums(found, two_passes(features, y))
    assert all(getattr(found, name).dtype == torch.float64 for name in SUMS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_features_are_summed_in_float64(dtype):
    features, y = draw(n=500)
    assert_sums(gather(features.to(dtype), y, 64), two_passes(features.to(dtype), y))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.bool])
def test_any_integer_type_counts_as_class_indices(dtype):
    features, y = draw(targets="classes")
    assert_same(gather(features, (y % 2).to(dtype)), gather(features, y % 2))


@pytest.mark.parametrize("size", [1, 7, 400])
def test_offset_keeps_digits_that_the_sum_of_squares_loses(size):
    g = torch.Generator().manual_seed(0)
    features = torch.randn(400, 3, generator=g, dtype=torch.float64) + 1e8
    targets = torch.randn(400, 2, generator=g, dtype=torch.float64) - 1e8
    expected = two_passes(features, targets)
    found = gather(features, targets, size)
    for name in ("scatter", "cross", "target_scatter"):
        want = expected[name].astype(np.float64)
        assert np.abs(getattr(found, name).numpy() - want).max() < 1e-6 * np.abs(want).max()
    naive = features.mT @ features - 400 * torch.outer(features.mean(0), features.mean(0))
    assert np.abs(naive.numpy() - expected["scatter"]).max() > 0.01 * np.abs(expected["scatter"]).max()


def test_class_first_seen_in_a_later_batch_has_been_zero_so_far():
    features, y = draw(targets="classes")
    y = y.sort().values  # class 3 is in the last batches only
    found = gather(features, y, 7)
    assert found.c == 4
    assert_sums(found, two_passes(features, y))


@pytest.mark.parametrize("reverse", [False, True], ids=["other-has-more", "self-has-more"])
def test_merge_pads_the_side_that_has_seen_fewer_classes(reverse):
    features, y = draw(targets="classes")
    y = y.sort().values
    parts = [gather(features[:20], y[:20]), gather(features[20:], y[20:])]
    assert parts[0].c < parts[1].c
    assert_sums(parts[reverse].merge(parts[not reverse]), two_passes(features, y))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_merge_order_does_not_matter(order):
    features, y = draw(targets="classes")
    parts = [(features[:1], y[:1]), (features[1:40], y[1:40]), (features[40:], y[40:])]
    found = FeatureMoments()
    for i in order:
        found.merge(gather(*parts[i]))
    assert_same(found, gather(features, y))


def test_merge_leaves_the_other_as_it_was_and_shares_no_memory_with_it():
    other, before = gather(*draw()), gather(*draw())
    for found in (FeatureMoments(), gather(*draw(seed=1))):
        found.merge(other).update(*draw(seed=2))
        assert_same(other, before, tolerance=0)


def test_merge_with_empty_changes_nothing():
    found = gather(*draw()).merge(FeatureMoments())
    assert_same(found, gather(*draw()), tolerance=0)
    assert FeatureMoments().merge(FeatureMoments()).n == 0


def test_merge_with_itself_counts_every_sample_twice():
    found = gather(*draw())
    expected = gather(*(torch.cat([part, part]) for part in draw()))
    assert_same(found.merge(found), expected)


def test_empty_batch_adds_nothing():
    features, y = draw(targets="classes")
    found = gather(features, y).update(features[:0], y[:0])
    assert_same(found, gather(features, y), tolerance=0)
    assert FeatureMoments().update(features[:0], y[:0]).n == 0


def test_state_survives_torch_save_and_goes_on_from_there():
    features, y = draw(targets="classes")
    first = gather(features[:33], y[:33])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    found = FeatureMoments.from_state_dict(torch.load(file, weights_only=True))
    assert_same(found, first, tolerance=0)
    assert_same(found.update(features[33:], y[33:]), first.update(features[33:], y[33:]), tolerance=0)
    assert FeatureMoments.from_state_dict(FeatureMoments().state_dict()).n == 0


def test_state_is_a_copy_in_both_directions():
    found = gather(*draw())
    state = found.state_dict()
    FeatureMoments.from_state_dict(state).update(*draw(seed=1))
    found.update(*draw(seed=1))
    assert_same(FeatureMoments.from_state_dict(state), gather(*draw()), tolerance=0)


def test_batch_bigger_than_a_block_equals_small_batches():
    g = torch.Generator().manual_seed(0)
    features, y = torch.randn(9000, 130, generator=g) + 3, torch.randint(5, (9000,), generator=g)
    assert features.numel() > moments.BLOCK
    assert_same(gather(features, y), gather(features, y, 1000))


@pytest.mark.parametrize("block", [1, 12, 13])
def test_size_of_the_block_does_not_matter(block, monkeypatch):
    expected = gather(*draw(targets="classes"))
    monkeypatch.setattr(moments, "BLOCK", block)
    assert_same(gather(*draw(targets="classes")), expected)


def test_inputs_need_not_be_contiguous():
    features, y = draw()
    wide = torch.stack([features, features + 1], dim=-1)
    for h in (features.mT.contiguous().mT, wide[..., 0], features.flip(0).flip(0)):
        assert_same(gather(h, y.mT.contiguous().mT), gather(features, y))
    assert_same(gather(features[:1].expand(9, -1), y[:9]), gather(features[:1].repeat(9, 1), y[:9]))


def test_features_that_carry_a_gradient_leave_no_graph_behind():
    features, y = draw()
    found = gather(features.requires_grad_(), y, 7)
    assert not any(getattr(found, name).requires_grad for name in SUMS)


H, Y = torch.ones(6, 5), torch.ones(6, 3)
REJECTED = {
    "fewer feature columns": (H[:, :4], Y, "4 columns"),
    "more target columns": (H, torch.ones(6, 4), "4 columns"),
    "fewer samples of targets": (H, Y[:5], "6 samples"),
    "negative class": (H, torch.tensor([0, 1, 2, -100, 0, 1]), "-100"),
    "float (N,) targets": (H, Y[:, 0], "integer"),
    "targets of three axes": (H, Y[..., None], "targets must be"),
    "targets of no axis": (H, torch.tensor(1), "targets"),
    "features of three axes": (H[None], Y, "floating-point"),
    "integer features": (H.long(), Y, "int64"),
}


@pytest.mark.parametrize(("features", "targets", "message"), list(REJECTED.values()), ids=REJECTED)
def test_rejected_batch_says_why_and_leaves_the_moments_as_they_were(features, targets, message):
    found = gather(*draw())
    with pytest.raises(ValueError, match=message) as error:
        found.update(features, targets)
    assert "\n" not in str(error.value)
    assert_same(found, gather(*draw()), tolerance=0)


def test_rejected_matrix_leaves_moments_of_classes_as_they_were():
    found = gather(*draw(targets="classes"))
    with pytest.raises(ValueError, match="3 columns"):
        found.update(H, Y)
    assert_same(found, gather(*draw(targets="classes")), tolerance=0)


def test_rejected_class_in_a_later_block_leaves_the_moments_as_they_were(monkeypatch):
    monkeypatch.setattr(moments, "BLOCK", 5)  # one row a block
    found = gather(*draw(targets="classes"))
    with pytest.raises(ValueError, match="negative"):
        found.update(H, torch.tensor([0, 1, 2, 3, 4, -1]))
    assert_same(found, gather(*draw(targets="classes")), tolerance=0)


def test_rejected_merge_leaves_the_moments_as_they_were():
    found = gather(*draw())
    with pytest.raises(ValueError, match="4 columns"):
        found.merge(gather(*draw(d=4)))
    assert_same(found, gather(*draw()), tolerance=0)


@pytest.mark.parametrize("diagonal", [False, True], ids=["whole scatter", "diagonal"])
@pytest.mark.parametrize("part", [slice(0, 2), slice(1, 3), slice(2, None), slice(0, 3)], ids=str)
def test_columns_are_the_moments_of_these_targets_alone(part, diagonal):
    features, y = draw()
    found, alone = gather(features, y, 7, diagonal).columns(part), gather(features, y[:, part], 7, diagonal)
    assert_same(found, alone)
    assert report(found).value == pytest.approx(report(alone).value, abs=1e-14)
    assert_same(FeatureMoments(diagonal).merge(found), alone)
    assert_same(FeatureMoments.from_state_dict(found.state_dict()), alone)


@pytest.mark.parametrize("diagonal", [False, True], ids=["whole scatter", "diagonal"])
def test_columns_of_class_indices_are_their_one_hot_columns(diagonal):
    features, y = draw(targets="classes")
    found = gather(features, y, 7, diagonal).columns(slice(1, 3))
    one_hot = torch.stack([(y == 1).double(), (y == 2).double()], 1)
    assert_same(found, gather(features, one_hot, 7, diagonal))
    again = gather(features, one_hot, 60, diagonal).merge(found)  # they are columns, no longer classes
    assert_same(again, gather(features.repeat(2, 1), one_hot.repeat(2, 1), 60, diagonal))


def test_two_labellings_gathered_at_once_are_each_what_they_are_alone():
    features, y = draw(targets="classes")
    other = y.flip(0)
    both = gather(features, torch.cat([torch.eye(4)[y], torch.eye(4)[other]], 1), 7)
    for part, labels in ((slice(0, 4), y), (slice(4, 8), other)):
        found, alone = both.columns(part), gather(features, labels)
        assert report(found).value == pytest.approx(report(alone).value, abs=1e-13)
        assert_same(found, alone)


def test_columns_leave_the_whole_as_it_was():
    whole = gather(*draw())
    whole.columns(slice(0, 1))
    assert_same(whole, gather(*draw()), tolerance=0)
    assert_same(whole.update(*draw(seed=1)), gather(*draw()).update(*draw(seed=1)), tolerance=0)


@pytest.mark.parametrize("targets", ["matrix", "classes"])
@pytest.mark.parametrize("size", [1, 7, 60])
def test_diagonal_of_the_target_scatter_is_all_that_target_linearity_needs(size, targets):
    features, y = draw(targets=targets)
    y = y.sort(0).values  # classes that appear later
    found, whole = gather(features, y, size, diagonal=True), gather(features, y)
    assert found.target_scatter.shape == (whole.c,)
    np.testing.assert_allclose(found.target_scatter, whole.target_scatter.diagonal(), rtol=1e-12)
    for name in SUMS[:-1]:
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=0, atol=1e-10, err_msg=name)
    a, b = report(found), report(whole)
    assert (a.rank, a.n, a.d, a.cutoff) == (b.rank, b.n, b.d, b.cutoff)
    for name in ("value", "chance", "adjusted", "condition"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), abs=1e-12)
    weight = torch.ones(2, 5)
    for measure in (moments_surrogate, response_norm):
        assert measure(found, weight) == pytest.approx(measure(whole, weight), rel=1e-12)
    np.testing.assert_allclose(read_out(found), read_out(whole), rtol=0, atol=1e-12)


def test_diagonal_sums_may_be_merged_in_any_order_and_saved():
    features, y = draw(targets="classes")
    y = y.sort().values
    whole = gather(features, y, diagonal=True)
    parts = [(features[:1], y[:1]), (features[1:40], y[1:40]), (features[40:], y[40:])]
    for order in permutations(parts):
        found = FeatureMoments(diagonal_targets=True)
        for part in order:
            saved = gather(*part, diagonal=True).state_dict()
            found.merge(FeatureMoments.from_state_dict(saved))
        assert_same(found, whole)
    file = io.BytesIO()
    torch.save(found.state_dict(), file)
    file.seek(0)
    again = FeatureMoments.from_state_dict(torch.load(file, weights_only=True))
    assert again.diagonal_targets is True
    assert_same(again.update(features, y), found.update(features, y), tolerance=0)


def test_diagonal_sums_stay_diagonal_when_saved_before_the_first_batch():
    state = FeatureMoments(diagonal_targets=True).state_dict()
    assert_same(
        FeatureMoments.from_state_dict(state).merge(gather(*draw(), diagonal=True)), gather(*draw(), diagonal=True)
    )


def test_diagonal_keeps_digits_that_the_sum_of_squares_loses():
    g = torch.Generator().manual_seed(0)
    targets = torch.randn(400, 2, generator=g, dtype=torch.float64) - 1e8
    expected = two_passes(targets, targets)["target_scatter"].astype(np.float64).diagonal()
    found = gather(torch.ones(400, 1), targets, 7, diagonal=True).target_scatter
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("diagonal", [False, True])
def test_merge_of_a_whole_scatter_and_a_diagonal_is_refused_and_changes_nothing(diagonal):
    found, other = gather(*draw(), diagonal=diagonal), gather(*draw(), diagonal=not diagonal)
    with pytest.raises(ValueError, match="diagonal_targets") as error:
        found.merge(other)
    assert "\n" not in str(error.value)
    assert_same(found, gather(*draw(), diagonal=diagonal), tolerance=0)


@pytest.mark.parametrize("diagonal", [False, True], ids=["whole scatter", "diagonal"])
@pytest.mark.parametrize("targets", ["matrix", "classes"])
def test_target_variance_is_the_sum_of_squares_around_each_columns_mean(targets, diagonal):
    features, y = draw(targets=targets)
    rows = np.eye(4)[y] if targets == "classes" else y.numpy()
    expected = [sum((value - column.mean()) ** 2 for value in column) for column in rows.T]
    np.testing.assert_allclose(gather(features, y, 7, diagonal).target_variance, expected, rtol=1e-12)
