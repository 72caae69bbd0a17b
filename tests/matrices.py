"""Matrices of given rank and spectrum, their shapes and precisions, shared by the tests."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cases import draw

SHAPES = [(8, 5), (5, 8), (6, 6), (1, 7), (7, 1), (1, 1)]
PRECISION = {torch.float32: 1e-5, torch.float64: 1e-12}


def low_rank(m: int, n: int, rank: int) -> Tensor:
    return draw(m, rank) @ draw(rank, n, seed=1)


def spectrum(values: Sequence[float] | Tensor, m: int, n: int) -> tuple[Tensor, Tensor]:
    """A matrix with these singular values, and its polar factor where all are above zero."""
    left, _ = torch.linalg.qr(draw(m, len(values)))
    right, _ = torch.linalg.qr(draw(n, len(values), seed=1))
    return left * torch.as_tensor(values, dtype=torch.float64) @ right.mT, left @ right.mT
