"""Exact Gram whitening of one layer, against other ways to its polar factor."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from core.gram import gram_preserving_update
from core.polar import (
    newton_schulz,
    polar_by_products,
    polar_by_singular_values,
    polar_factor,
    products,
)
from lab import cpu
from report.speed.entries import Row
from report.speed.timing import in_turn


def products_alone(matrix: Tensor) -> Tensor:
    """As many products of square matrices (…, n, n) as `polar_by_products` takes, and no more."""
    for _ in range(products(matrix.dtype)):
        result = matrix @ matrix
    return result


Polar = Callable[[Tensor], Tensor]
# what, by which polar factor, against what, by which, and the gain that is asked for
PAIRS: tuple[tuple[str, Polar, str, Polar, float], ...] = (
    ("exact whitening", polar_factor, "ten Newton–Schulz steps", newton_schulz, 1.0),
    (
        "exact whitening by products",
        polar_by_products,
        "by singular values",
        polar_by_singular_values,
        1.0,
    ),
    (
        "exact whitening by products",
        polar_by_products,
        "as many products alone",
        products_alone,
        0.5,
    ),
)


def layer_step(width: int, device: str) -> tuple[Tensor, Tensor]:
    """Weights (B, width, width) before and after a step; B = 20 on a GPU, one on a CPU core."""
    g = torch.Generator().manual_seed(0)
    shape = (20 if device == "cuda" else 1, width, width)
    before = (torch.rand(shape, generator=g) * 2 - 1) / width**0.5
    after = before + 1e-3 * torch.randn(shape, generator=g) / width**0.5
    return before.to(device), after.to(device)


def whitening_rows(repeats: int, device: str, width: int = 256) -> list[Row]:
    """A square layer, with one thread, as in training."""
    step = layer_step(width, device)
    rows = []
    for what, polar, against, other, aim in PAIRS:
        with cpu.threads(1):
            ways = (functools.partial(gram_preserving_update, *step, p) for p in (polar, other))
            ours, theirs = in_turn(repeats, *ways)
        if polar is polar_by_products:
            what = f"{what}, {products(step[0].dtype)} of them"
        what = f"{what}, {len(step[0])} × {width} × {width}"
        rows.append(Row(what, 1e3 * ours, against, 1e3 * theirs, "ms", aim))
    return rows
