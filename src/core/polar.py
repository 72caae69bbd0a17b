"""The orthogonal polar factor of a matrix: by singular values, by matrix products, as published.

A = P Σ Qᵀ has the polar factor P Qᵀ, the matrix with orthonormal rows or columns nearest to A. On a
CPU the singular value decomposition takes the time of some twenty matrix products. A GPU is made
for products: there an iteration of products alone is taken, and the decomposition for those
matrices of a batch that it does not settle.
"""

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

CUSHION = 0.1  # see `scales`


def polar_factor(matrix: Tensor) -> Tensor:
    """Orthogonal polar factor: the matrix with orthonormal rows or columns nearest to `matrix`.

    Where A has not full rank, the nearest matrix is not unique and this is one of them (Higham,
    "Functions of Matrices", 2008, chapter 8). On a GPU it is `polar_by_products`, and what comes
    out of that is waited for once.

    Args:
        matrix: (…, m, n), tall, wide or square; leading axes are a batch.

    Returns:
        (…, m, n) in the matrix' dtype; half precisions are computed in float32. In the direction of
        a singular value σ the relative error is about the dtype's precision times σ_max / σ.

    Raises:
        LinAlgError: a matrix that holds a nan.
    """
    working = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    if not matrix.is_cuda:
        return polar_by_singular_values(working).to(matrix.dtype)
    factor = polar_by_products(working)
    unsettled = is_nan(factor)
    if unsettled.any():
        factor[unsettled] = polar_by_singular_values(working[unsettled])
    return factor.to(matrix.dtype)


def polar_by_singular_values(matrix: Tensor) -> Tensor:
    """The polar factor P Qᵀ (…, m, n) of a matrix P Σ Qᵀ in float32 or float64, on any device."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


def is_nan(matrix: Tensor) -> Tensor:
    """Which matrices (…) of a batch (…, m, n) hold a nan."""
    return matrix.isnan().flatten(-2).any(-1)


def polar_by_products(matrix: Tensor) -> Tensor:
    """The polar factor by matrix products alone, nan where they do not settle it.

    Newton–Schulz steps X ← ρ X (3 I − ρ² XᵀX) / 2 from X₀ = A / ‖AᵀA‖_F^½, with the `scales` ρ of
    Chen and Chow, "A stable scaling of Newton–Schulz for improving the sign function computation of
    a Hermitian matrix" (Argonne preprint ANL/MCS-P5059-0114, 2014). A step is odd in X, so it keeps
    the singular vectors, and it acts on each singular value alone. It adds rounding errors of the
    size of ‖X‖, which the later steps enlarge as they do the small singular values: an error as
    that of the singular value decomposition, with no inverse and no square of a condition number.

    The number of steps is fixed, see `products`, so nothing is waited for. A matrix is settled
    where R = I − XᵀX before the last step, which leaves ¾ R² + ¼ R³, has ‖R‖_F ≤ 4 √ε. So are those
    with σ_max / σ_min up to 10⁷ in float32 and 10¹⁵ in float64, with some room.

    Args:
        matrix: (…, m, n), tall, wide or square, on any device; leading axes are a batch.

    Returns:
        (…, m, n) in the matrix' dtype; half precisions are computed in float32, also inside
        autocast, and float32 as such, also where TF32 is allowed. All of a matrix is nan where it
        is not settled: of lower rank or larger condition number, not finite, or of entries whose
        fourth powers leave the dtype's range.
    """
    m, n = matrix.shape[-2:]
    if m < n:
        return polar_by_products(matrix.mT).mT
    x = matrix.to(torch.promote_types(matrix.dtype, torch.float32)).reshape(-1, m, n)
    norm = torch.linalg.matrix_norm
    with full_precision(matrix.device.type):
        x = x / norm(x.mT @ x, keepdim=True).sqrt()
        for scale in scales(x.dtype):
            gram = x.mT @ x  # (…, n, n)
            x = torch.baddbmm(x, x, gram, beta=1.5 * scale, alpha=-0.5 * scale**3)
    identity = torch.eye(n, dtype=x.dtype, device=x.device)
    rest = norm(identity - gram, keepdim=True)  # (…, 1, 1)
    settled = rest <= 4 * math.sqrt(torch.finfo(x.dtype).eps)
    return torch.where(settled, x, math.nan).reshape(matrix.shape).to(matrix.dtype)


@functools.cache
def scales(dtype: torch.dtype) -> tuple[float, ...]:
    """The ρ of each step of `polar_by_products`.

    x ↦ ρ x (3 − ρ² x²) / 2 with ρ² = 3 / (1 + l + l²) maps [l, 1] to [l', 1]: its largest value is
    1, its smallest, l', that at both ends. From l = ε / 16 on each step makes l 2.47 times as
    large, until 1 − l is √ε / 32; a last step with ρ = 1 leaves the square of that. With so small
    an l, ρ would bring singular values near 1 down to l', among rounding errors: it is taken for l
    = CUSHION at least, which keeps them above 0.24.
    """
    eps = torch.finfo(dtype).eps
    least, chosen = eps / 16, []
    while 1 - least > math.sqrt(eps) / 32:
        lower = max(least, CUSHION)
        scale = math.sqrt(3 / (1 + lower + lower * lower))
        least = scale * least * (3 - (scale * least) ** 2) / 2
        chosen.append(scale)
    return (*chosen, 1.0)


def products(dtype: torch.dtype) -> int:
    """Matrix products that `polar_by_products` takes: two a step and one for the norm."""
    return 1 + 2 * len(scales(dtype))


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Matrix products of float32 in float32: no autocast on this type of device, no TF32."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        matmul.fp32_precision = before


def newton_schulz(matrix: Tensor, steps: int = 10) -> Tensor:
    """The published approximation of the polar factor: quintic Newton–Schulz steps.

    X₀ = A / ‖A‖_F, then X ← X (15 I − 10 XᵀX + 3 (XᵀX)²) / 8. A singular value x of X₀ grows by a
    factor of at most 15/8 a step, so after ten steps the directions with σ / ‖A‖_F below about 10⁻³
    are still short of one; they shrink the weight each time it is used. Use `polar_factor` unless
    you reproduce the published figure.

    Args:
        matrix: (…, m, n); leading axes are a batch.
        steps: number of steps; the published code takes ten.

    Returns:
        (…, m, n) in the matrix' dtype; zero where the matrix is zero.
    """
    norm = torch.linalg.matrix_norm(matrix, keepdim=True)
    x = matrix / norm.clamp_min(torch.finfo(matrix.dtype).tiny)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for _ in range(steps):
        gram = x.mT @ x  # (…, n, n)
        x = x @ (15 * identity - 10 * gram + 3 * gram @ gram) / 8
    return x
