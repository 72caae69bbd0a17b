"""FeatureMoments: the sums equal those of two passes over all the data, however they were gathered."""

import io
from itertools import permutations

import numpy as np
import pytest
import torch

from core import moments
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


def gather(features, targets, size=None):
    found = FeatureMoments()
    for h, y in zip(features.split(size or len(features)), targets.split(size or len(features)), strict=True):
        found.update(h, y)
    return found


def assert_sums(found, expected, tolerance=1e-12):
    for name in SUMS:
        want = np.asarray(expected[name], dtype=np.float64)
        scale = max(1.0, np.abs(want).max())
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
