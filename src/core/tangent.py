"""Gram whitening in its tangent form: the part of an update that leaves WᵀW as it is.

To first order an update Δ changes the Gram matrix of W (m, d) by WᵀΔ + ΔᵀW. The updates that change
nothing are the tangent space T = {Δ' : WᵀΔ' + Δ'ᵀW = 0} of the weights with W's Gram; whitening
drops from Δ the Δ' in T that is nearest to it (paper, section 2). `gram.gram_preserving_update` is
the same to first order, computed by Procrustes.
"""

import torch
from torch import Tensor

from .linearity import EPS


def tangent_part(weight: Tensor, update: Tensor) -> Tensor:
    """Δ' of T nearest to Δ in the Frobenius norm; whitening keeps Δ − Δ' (paper, section 2).

    Let W = U diag(s) Vᵀ with the r singular values s above zero, and E = UᵀΔV (r, r). Then

        Δ' = (I − UUᵀ) Δ + U X Vᵀ,  X_ij = s_j (s_j E_ij − s_i E_ji) / (s_i² + s_j²).

    Proof. Multiplied from both sides by V and its complement V₀, the condition of T says that
    diag(s) UᵀΔ'V is skew and diag(s) UᵀΔ'V₀ zero. So Δ' is free outside the columns of W and
    UᵀΔ'V₀ = 0, and of the pairs with s_i X_ij = −s_j X_ji the nearest to (E_ij, E_ji) is X.

    Where W has full rank, tall or wide, T = {ΩW : Ω skew}: with P = WWᵀ, as (Δ − ΩW)Wᵀ has to be
    symmetric, Δ' = ΩW for the solution of ΩP + PΩ = ΔWᵀ − WΔᵀ (unique for m ≤ d). Where it has not,
    T holds more: what maps the complement of W's rows into that of its columns changes the Gram
    by its square only. Procrustes keeps that part, so there the two forms differ to first order.

    Args:
        weight: W (…, m, d). Singular values below max(m, d)·2⁻⁵² of the largest count as zero.
        update: Δ (…, m, d).

    Returns:
        (…, m, d) in the update's dtype, computed in float64.

    Raises:
        ValueError: weight and update are not matrices of one shape.
    """
    if weight.shape != update.shape or weight.ndim < 2:
        shapes = f"{tuple(weight.shape)} and {tuple(update.shape)}"
        raise ValueError(f"weight and update must be matrices of one shape, not {shapes}")
    w, delta = weight.to(torch.float64), update.to(torch.float64)
    left, s, right = torch.linalg.svd(w, full_matrices=False)  # (…, m, k), (…, k), (…, k, d)
    kept = s > max(w.shape[-2:]) * EPS * s[..., :1]
    s, left = s * kept, left * kept[..., None, :]
    inside = left.mT @ delta  # (…, k, d), zero where W has no column
    e = inside @ right.mT  # (…, k, k)
    rows, columns = s[..., :, None], s[..., None, :]
    size = rows.square() + columns.square()
    x = torch.where(size > 0, columns * (columns * e - rows * e.mT) / size, 0.0)
    return (delta + left @ (x @ right - inside)).to(update.dtype)
