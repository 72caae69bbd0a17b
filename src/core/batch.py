"""Leading axes: every function of core takes a batch of matrices, as the weights of replicas.

Of one matrix a measure is a Python number; of a batch (…, m, n) it is a tensor (…). A function with
an argument `blocks` then reads the last leading axis as the diagonal blocks of one matrix, as the
groups of a convolution are: what it measures is that matrix.
"""

import math

import torch
from torch import Tensor

WITHOUT_FLOAT64 = ("mps",)  # types of devices, Apple's


def scalar(value: Tensor) -> float | Tensor:
    """A tensor without axes as a Python number, any other as it is."""
    return value.item() if value.ndim == 0 else value


def total(values: Tensor, blocks: bool) -> Tensor:
    """Sums (…) over entries of matrices, or over those of the block-diagonal ones made of them."""
    return values.sum(-1) if blocks else values


def ratio(value: Tensor, norm: Tensor) -> float | Tensor:
    """value / norm as `scalar`; nan where the norm is zero, whatever rounding left of the value."""
    return scalar(torch.where(norm > 0, value / norm, math.nan))


def summable(tensor: Tensor) -> Tensor:
    """The tensor on a device that has float64: on the CPU where its own has not."""
    return tensor.cpu() if tensor.device.type in WITHOUT_FLOAT64 else tensor


def unit(matrix: Tensor, blocks: bool = False) -> tuple[Tensor, Tensor]:
    """Matrices (…, m, n) over a power of two, so that their largest entry is in [1, 2).

    So products of them, and squares of those, leave no dtype's range where their shares matter; the
    division is exact but for entries that fall below that range.

    Args:
        matrix: any floating dtype.
        blocks: one power for all blocks of a matrix.

    Returns:
        the matrices, and the powers (…, 1, 1), or (…, 1, 1, 1) of blocks, in float64. Both as they
        are where all entries are zero or one is not finite.
    """
    axes = (-3, -2, -1) if blocks else (-2, -1)
    power = power_of_two(matrix.detach().abs().amax(axes, keepdim=True))
    return matrix / power, power.to(torch.float64)


def power_of_two(size: Tensor) -> Tensor:
    """The largest power of two that is no more than a size; 1 of zero and what is not finite."""
    has_one = (size > 0) & size.isfinite()
    return torch.where(has_one, size / (2 * torch.frexp(size).mantissa), 1.0)


def frobenius(matrix: Tensor, blocks: bool = False) -> Tensor:
    """Frobenius norms (…) in float64, also where squares of entries would leave its range."""
    scaled, power = unit(matrix.to(torch.float64), blocks)
    squares = total(scaled.square().sum((-2, -1)), blocks)
    return squares.sqrt() * power.flatten(-3 if blocks else -2)[..., 0]
