"""Features and targets that are hard for least squares, and seeded draws, shared by the tests."""

import math

import numpy as np
import torch
from torch import Tensor

from core.moments import FeatureMoments


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal values, the same in every dtype up to rounding."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)


def signs(bits: int) -> Tensor:
    """Orthogonal columns of ±1 (64, bits)."""
    index = torch.arange(64)
    return torch.stack([1 - 2 * (index >> bit & 1) for bit in range(bits)], dim=1).double()


def gather(
    features: Tensor, targets: Tensor, size: int | None = None, diagonal_targets: bool = False
) -> FeatureMoments:
    """Moments updated with batches of `size` samples; integer targets are class indices."""
    moments = FeatureMoments(diagonal_targets)
    axis = -2 if targets.is_floating_point() else -1
    size = size or features.shape[-2]
    for h, y in zip(features.split(size, -2), targets.split(size, axis), strict=True):
        moments.update(h, y)
    return moments


def low_rank(rng, n, d, rank, offset=0.0):
    return (rng.normal(size=(n, rank)) + offset) @ rng.normal(size=(rank, d))


def with_columns(h, **columns):
    """`h` with some of its columns replaced: c2=… is column 2."""
    for name, column in columns.items():
        h[:, int(name[1:])] = column
    return h


def beside(column, h):
    return np.column_stack([column, h])


FEATURES = {
    "full rank": lambda r: r.normal(size=(120, 9)),
    "one column": lambda r: r.normal(size=(120, 1)),
    "mean not zero": lambda r: r.normal(size=(120, 9)) + r.normal(size=9),
    "rank 1": lambda r: low_rank(r, 120, 9, 1),
    "rank 5": lambda r: low_rank(r, 120, 9, 5),
    "rank 9": lambda r: low_rank(r, 120, 9, 9),
    "mean inside a range of rank 3": lambda r: low_rank(r, 120, 9, 3, offset=2),
    "mean outside a range of rank 3": lambda r: low_rank(r, 120, 9, 3) + r.normal(size=9),
    "duplicated columns": lambda r: np.repeat(r.normal(size=(120, 3)) + 1, 3, axis=1),
    "zero column": lambda r: with_columns(r.normal(size=(120, 9)) + 1, c4=0),
    "nothing but zeros": lambda r: np.zeros((120, 9)),
    "constant column": lambda r: with_columns(r.normal(size=(120, 9)) + 1, c4=0.1),
    "nothing but a constant": lambda r: np.full((120, 9), 0.3),
    "constant, zero and duplicated columns": lambda r: with_columns(
        low_rank(r, 120, 9, 4, 1), c0=0, c1=-3, c2=7
    ),
    "columns scaled 1e-4 to 1e4": lambda r: (r.normal(size=(120, 9)) + 1) * np.logspace(-4, 4, 9),
    "rank 3 scaled 1e-4 to 1e4": lambda r: low_rank(r, 120, 9, 3) * np.logspace(-4, 4, 9),
    "offset of one column": lambda r: r.normal(size=(120, 9)) + 1e5 * np.eye(9)[2],
    "offset of all columns": lambda r: r.normal(size=(120, 9)) + 1e5,
    "offset and rank 3": lambda r: low_rank(r, 120, 9, 3) + 1e5,
    "offset inside a range of rank 3": lambda r: low_rank(r, 120, 9, 3, offset=1e5),
    "offset and duplicated columns": lambda r: np.repeat(r.normal(size=(120, 3)) + 1e5, 3, axis=1),
    "offset beside rank 3": lambda r: beside(
        r.normal(size=120) + 1e5, low_rank(r, 120, 8, 3) + r.normal(size=8)
    ),
    "offset beside rank 3, many samples": lambda r: beside(
        r.normal(size=20000) + 1e5, low_rank(r, 20000, 4, 2) + np.array([0.1, 0.2, -0.1, 0.3])
    ),
    "offset beside a constant": lambda r: with_columns(r.normal(size=(120, 9)) + 1e5, c4=1e-3),
    "N < d": lambda r: r.normal(size=(30, 50)),
    "N < d, rank 5": lambda r: low_rank(r, 30, 50, 5),
    "N < d with an offset": lambda r: r.normal(size=(30, 50)) + 1e5,
    "N = d": lambda r: r.normal(size=(30, 30)),
    "N = d + 1": lambda r: r.normal(size=(31, 30)) + 0.5,
    "N = d + 1 with a constant": lambda r: with_columns(r.normal(size=(31, 30)), c4=2),
}


def latent(h, c, rng):
    """Targets (N, c) that are partly linear in the standardised features."""
    z = (h - h.mean(0)) / np.where(h.std(0) > 1e-9 * np.abs(h).max(), h.std(0), np.inf)
    return z @ rng.normal(size=(h.shape[1], c)) / math.sqrt(h.shape[1]) + rng.normal(
        size=(len(h), c)
    )


def class_indices(h, c, rng):
    return np.argmax(latent(h, c, rng) + rng.normal(size=c), axis=1)


TARGETS = {
    "one target": lambda h, r: latent(h, 1, r) + 3,
    "matrix": lambda h, r: latent(h, 4, r) * [1, 10, 0.1, 1] + [0, 100, -1, 5],
    "3 classes": lambda h, r: class_indices(h, 3, r),
    "100 classes": lambda h, r: np.where(np.arange(len(h)) == 0, 99, class_indices(h, 100, r)),
}


def make(features: str, targets: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    h = FEATURES[features](rng)
    return torch.from_numpy(h), torch.from_numpy(np.asarray(TARGETS[targets](h, rng)))
