"""A step that gives the weight Gram matrix the Virtual Covariance Shift itself (ours).

A step of gradient descent moves WᵀW by the shift −γ(AᵀH + HᵀA) + γ²AᵀA up to a term of second order
in γ, which at usual rates is most of it. Here the new weight is made from the wanted matrix:

    W⁺ = Q M^½,  M the matrix of rank at most m nearest to (WᵀW + VCS)₊,

with Q such that W⁺ is nearest to W. "Virtual covariance learning" is known from an abstract alone
(a workshop paper before arXiv 2605.06258); this is a reading of it, not its code.
"""

import torch
from torch import Tensor

from .polar import polar_factor


def covariance_step(weight: Tensor, features: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """W⁺ (…, m, d) with W⁺ᵀW⁺ nearest to WᵀW + VCS among matrices of rank at most m.

    All of M lies in the span of the rows of W, H and A, in whose coordinates it is small where d is
    large.

    Args:
        weight: W (…, m, d).
        features: H (…, N, d).
        gradient: A = ∂L/∂H (…, N, d) by this weight alone.
        rate: γ.

    Returns:
        in the weight's dtype.
    """
    m, n = weight.shape[-2], features.shape[-2]
    rows = torch.cat([weight, features, gradient], -2)  # (…, m + 2N, d)
    of_shift = weight.new_tensor([[0.0, -rate], [-rate, rate * rate]])
    shift = torch.kron(of_shift, torch.eye(n).to(weight))
    parts = torch.block_diag(torch.eye(m).to(weight), shift)  # WᵀW + VCS = rowsᵀ parts rows
    if len(parts) < rows.shape[-1]:
        basis, factor = torch.linalg.qr(rows.mT)  # (…, d, k), (…, k, k)
        wanted = factor @ parts @ factor.mT
    else:
        basis, wanted = None, rows.mT @ parts @ rows
    values, vectors = torch.linalg.eigh(wanted)
    values, vectors = values[..., -m:].clamp_min(0), vectors[..., -m:]
    root = values.sqrt()[..., :, None] * vectors.mT  # (…, ≤ m, k)
    root = root if basis is None else root @ basis.mT
    return polar_factor(weight @ root.mT) @ root
