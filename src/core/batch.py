"""Leading axes: every function of core takes a batch of matrices, as the weights of replicas.

Of one matrix a measure is a Python number; of a batch (…, m, n) it is a tensor (…). A function with
an argument `blocks` then reads the last leading axis as the diagonal blocks of one matrix, as the
groups of a convolution are: what it measures is that matrix.
"""

import math

import torch
from torch import Tensor


def scalar(value: Tensor) -> float | Tensor:
    """A tensor without axes as a Python number, any other as it is."""
    return value.item() if value.ndim == 0 else value


def total(values: Tensor, blocks: bool) -> Tensor:
    """Sums (…) over entries of matrices, or over those of the block-diagonal ones made of them."""
    return values.sum(-1) if blocks else values


def ratio(value: Tensor, norm: Tensor) -> float | Tensor:
    """value / norm as `scalar`; nan where the norm is zero, whatever rounding left of the value."""
    return scalar(torch.where(norm > 0, value / norm, math.nan))
