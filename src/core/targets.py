"""Targets, looked at once: whatever form a batch gives them in becomes one, or is refused.

A target is a class, an index from 0 on, or a row of numbers. A sample has one, or one at each of
its positions, as tokens and pixels have.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .batch import power_of_two

IGNORED = -100  # class of positions that count for nothing, as in torch


class NotFiniteError(ValueError):
    """Features that hold an infinity or no number, or whose squares float64 does not hold."""


SQUARED = (1e-140, 1e140)  # sizes whose squares, and sums of them, float64 holds


@dataclass(frozen=True)
class Targets:
    """Targets of N samples, at positions of shape P = counted.shape[1:], or P = () for one each."""

    values: Tensor  # int64 classes (N, *P), or a matrix (N, c)
    counted: Tensor  # (N, *P) bool: False where a target is to be ignored

    @property
    def are_classes(self) -> bool:
        return not self.values.is_floating_point()


class Classes:
    """Columns for the classes that occur, so that sums grow with them and not with an index."""

    def __init__(self) -> None:
        self.seen = torch.empty(0, dtype=torch.int64)  # class of each column

    def columns(self, targets: Targets) -> Targets:
        """Targets whose classes are columns, a new one for a class that was not seen before."""
        if not targets.are_classes:
            return targets
        self.seen = self.seen.to(targets.values.device)
        present = targets.values[targets.counted].unique()
        self.seen = torch.cat([self.seen, present[~torch.isin(present, self.seen)]])
        ascending, column = self.seen.sort()
        place = torch.searchsorted(ascending, targets.values).clamp(max=len(ascending) - 1)
        return Targets(column[place], targets.counted)

    def places(self, classes: Tensor) -> Tensor:
        """The place of each column among ascending classes (c,)."""
        return torch.searchsorted(classes, self.seen.to(classes.device))


def dense(values: Any, what: str = "targets") -> Tensor:
    """Numbers as a plain tensor without a graph, all integer types as int64.

    Args:
        values: a tensor, a NumPy array, or a list of numbers, whose reals are then float64.
        what: their name in an error.

    Raises:
        ValueError: complex or sparse tensors, and what is no array of numbers.
    """
    if not isinstance(values, Tensor):
        try:
            array = torch.as_tensor(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{what} must be a tensor or an array of numbers") from error
        if array.is_floating_point() and not hasattr(values, "dtype"):
            array = torch.as_tensor(values, dtype=torch.float64)
        values = array
    if values.is_complex():
        raise ValueError(f"{what} are complex: give real and imaginary parts as columns")
    if values.layout != torch.strided:
        raise ValueError(f"{what} are sparse: give them as .to_dense()")
    values = values.detach()
    return values if values.is_floating_point() else values.long()


def rescaled(values: Tensor, by_column: bool = False) -> Tensor:
    """Over powers of two where the squares would leave float64; measures of shares stay.

    Args:
        values: (…, N, d); what is no such matrix of float64 is returned as it is.
        by_column: a power for each of the d columns; otherwise one for each matrix.
    """
    if values.dtype != torch.float64 or values.ndim < 2 or not values.numel():
        return values
    axes = -2 if by_column else (-2, -1)
    size = torch.linalg.vector_norm(values, math.inf, axes, keepdim=True)
    lost = ~_is_held(size)
    return values / torch.where(lost, power_of_two(size), 1.0) if bool(lost.any()) else values


def _is_held(size: Tensor) -> Tensor:
    """Whether float64 holds the squares of numbers of this size, as far as they are numbers."""
    return (size == 0) | ((size >= SQUARED[0]) & (size <= SQUARED[1])) | ~size.isfinite()


def pair(features: Any, targets: Any) -> tuple[Tensor, Tensor, bool]:
    """Features (…, N, d) and targets as tensors, and whether the targets are class indices.

    Raises:
        ValueError: the two cannot go together, or their squares leave float64.
    """
    features, targets = dense(features, "features"), dense(targets)
    if features.ndim < 2 or not features.shape[-1] or not features.is_floating_point():
        kind = f"{features.dtype} {tuple(features.shape)}"
        raise ValueError(f"features must be floating-point (N, d) or (…, N, d), d ≥ 1, not {kind}")
    real = targets.is_floating_point()
    if targets.ndim == 1 and real:
        raise ValueError(
            "targets (N,) must be integer class indices; give one real target as (N, 1)"
        )
    leading, n = features.shape[:-2], features.shape[-2]
    one_hot = not real and (
        targets.ndim == 1 or (len(leading) > 0 and targets.ndim == features.ndim - 1)
    )
    if not one_hot and targets.ndim and not targets.shape[-1]:
        raise ValueError(f"targets {tuple(targets.shape)} have no columns")
    inner = 1 if one_hot else 2
    if targets.ndim < inner or (targets.ndim > inner and targets.shape[:-inner] != leading):
        what = "class indices (N,) or a matrix (N, c), with the features' leading axes or none"
        raise ValueError(f"targets must be {what}, not {tuple(targets.shape)}")
    if targets.shape[-inner] != n:
        raise ValueError(f"{n} samples of features but {targets.shape[-inner]} of targets")
    if one_hot and targets.numel() and int(targets.min()) < 0:
        raise ValueError(
            f"class index {int(targets.min())} is negative: leave out the rows to be ignored"
        )
    if not real and not one_hot and targets.shape[-1] == 1:
        raise ValueError("integer targets (N, 1): give class indices as (N,), or a number as float")
    for what, values in (("features", features), ("targets", targets)):
        if values.dtype == torch.float64 and values.numel():
            size = torch.linalg.vector_norm(values, math.inf)
            if not bool(_is_held(size)):
                raise (NotFiniteError if what == "features" else ValueError)(
                    f"{what} of size {float(size):.0e}, whose squares float64 does not hold: "
                    "multiply all of them by one factor first"
                )
    return features, targets, one_hot


def align(
    outputs: Tensor, y: Tensor, *, classes_last: bool = False, exact: bool = True
) -> tuple[Tensor, Targets]:
    """Outputs and targets in forms that go together.

    Reals: (N,) or (N, c); of more axes, as images, a sample's are one row. Integers: classes (N,)
    or (N, 1); a class a position, with the outputs' classes on the last axis (as tokens have them
    in transformers) or on the first after N (as torch's cross-entropy has them); or, where they
    have the outputs' shape, as labels of several classes at once, numbers.

    Args:
        outputs: (N,), (N, K), (N, *P, K) or (N, K, *P).
        y: as `dense` returns it.
        classes_last: the classes are the outputs' last axis, even where the shapes leave both.
        exact: refuse what does not go together. Otherwise, as for a loss of one's own, such
            targets are read by themselves.

    Returns:
        outputs (N, *P, K), and the targets.

    Raises:
        ValueError: another form, or shapes that do not go together.
    """
    if not outputs.ndim or not y.ndim or len(outputs) != len(y):
        raise ValueError(f"outputs {_shape(outputs)} and targets {_shape(y)}: not as many samples")
    if outputs.ndim == 1:
        outputs = outputs[:, None]
    if y.is_floating_point() or (y.shape == outputs.shape and outputs.shape[1:].numel() > 1):
        return _reals(outputs, y, exact)
    return _classes(outputs, y, classes_last, exact)


def _reals(outputs: Tensor, y: Tensor, exact: bool) -> tuple[Tensor, Targets]:
    if not bool(y.isfinite().all()):
        raise ValueError("targets hold nan or infinity: leave these samples out")
    y = y[:, None] if y.ndim == 1 else y
    if exact and y.shape != outputs.shape:
        raise ValueError(
            f"outputs {_shape(outputs)} and real targets {_shape(y)}: give targets of the outputs' "
            "shape, or a loss"
        )
    real = y if y.is_floating_point() else y.to(torch.get_default_dtype())
    counted = torch.ones(len(y), dtype=torch.bool, device=y.device)
    return outputs, Targets(real.flatten(1), counted)


def _classes(outputs: Tensor, y: Tensor, classes_last: bool, exact: bool) -> tuple[Tensor, Targets]:
    if y.ndim > 1 and y.shape[1] == 1 and y.ndim == outputs.ndim:
        y = y[:, 0]  # (N, 1), or masks (N, 1, H, W)
    last = y.shape == outputs.shape[:-1]
    first = y.shape == (len(outputs), *outputs.shape[2:])
    if exact and not (last or first):
        raise ValueError(
            f"outputs {_shape(outputs)} and classes {_shape(y)}: say with output= which tensor "
            "predicts a class for each, or give a loss"
        )
    if last and first and y.ndim > 1 and not classes_last:
        raise ValueError(
            f"outputs {_shape(outputs)} and classes {_shape(y)}: which axis holds the classes? "
            "Give output=lambda z: z.movedim(1, -1) where it is the first after the samples, or "
            "output=lambda z: z where it is the last"
        )
    if first and not last:
        outputs = outputs.movedim(1, -1)
    k = outputs.shape[-1]
    if exact and k == 1:
        raise ValueError(
            "one output and integer targets: give targets.float() for squared error, or a loss"
        )
    counted = y != IGNORED
    if bool(counted.any()):
        lowest, highest = (int(v) for v in y[counted].aminmax())
        if lowest < 0 or (exact and highest >= k):
            raise ValueError(
                f"classes from {lowest} to {highest}, and outputs for {k}: 0 to {k - 1}"
            )
    return outputs, Targets(y, counted)


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
