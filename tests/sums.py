"""Features, targets and the sums of them computed another way, for the tests of FeatureMoments."""

import numpy as np
import pytest
import torch

from core.moments import SUMS

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
