"""Homogeneous networks: what the paper's Theorems 3 and 4 rest on, measured.

A network with one output reads a layer's features h through W, its next weight. f is the rest of
the network, from h to the output; of N samples h_i the outputs are f_i = f(h_i), the gradients J_i
= ∂f/∂h at h_i and the targets y_i. f is m-homogeneous where f(ch) = c^m f(h) for all c > 0; then
Jᵀh = m f (Euler). Without biases a ReLU network is 1-homogeneous; each squared ReLU doubles the
degree.

The surrogate is S = yᵀ H WᵀW Hᵀ y of H (N, d), with targets as they are given. Everything is
computed in float64, without gradients; leading axes are a batch, and broadcast.
"""

import math

import torch
from torch import Tensor

from .batch import ratio, scalar

EPS = 2.0**-52


def taylor_error(
    features: Tensor, gradients: Tensor, outputs: Tensor, degree: float, own_size: bool = False
) -> float | Tensor:
    """‖E‖ / ‖(f_i − f_k)_ik‖ over all N² pairs (paper, Lemma 3).

    The lemma is that E_ik = h_iᵀJ_k − f_i − (m − 1) f_k is about zero. By Euler's identity E_ik is

        f(h_k) + J_kᵀ(h_i − h_k) − f(h_i),

    the error of f's first-order Taylor expansion about one sample at another: zero where f is
    linear, and otherwise what is nonlinear in f between the samples, which the rest of the network
    has still to supply. Sequential linearisation is its fall from layer to layer. At 1 the
    expansion is no better than to take f_k for f_i. The size of the differences, and not of
    f_i + (m − 1) f_k, which any constant in f makes large (ours).

    Args:
        features: H (…, N, d).
        gradients: J (…, N, d).
        outputs: f (…, N).
        degree: m, of f from these features on.
        own_size: over ‖(f_i + (m − 1) f_k)_ik‖ instead, as `taylor_error_sum` is over its sum.

    Returns:
        nan where all outputs are the same, or zero.

    Raises:
        ValueError: shapes that do not go together.
    """
    error = _errors(features, gradients, outputs, degree)
    f = outputs.detach().double()
    other = degree - 1 if own_size else -1
    size = f[..., :, None] + other * f[..., None, :]
    return ratio(torch.linalg.matrix_norm(error), torch.linalg.matrix_norm(size))


def taylor_error_sum(
    features: Tensor, targets: Tensor, gradients: Tensor, outputs: Tensor, degree: float
) -> float | Tensor:
    """‖Eᵀy‖ / ‖p‖, p_k = fᵀy + (m − 1) f_k Σy: Lemma 3 summed over samples (paper, appendix A.2).

    Σ_i y_i h_iᵀJ_k is what enters the change of the surrogate (Theorem 3); the lemma takes p_k for
    it. Appendix A.2 conjectures that such sums are nearer than their terms.

    Args:
        targets: y (…, N). The others as `taylor_error`.

    Returns:
        nan where p is zero.

    Raises:
        ValueError: shapes that do not go together.
    """
    _check(features, targets)
    y, f = targets.detach().double(), outputs.detach().double()
    error = _errors(features, gradients, outputs, degree)
    summed = (error.mT @ y[..., None])[..., 0]  # (…, N)
    expected = (f * y).sum(-1, keepdim=True) + (degree - 1) * f * y.sum(-1, keepdim=True)
    return ratio(summed.norm(dim=-1), expected.norm(dim=-1))


def expansion_sum(features: Tensor, gradients: Tensor, outputs: Tensor) -> float | Tensor:
    """Σ_ij e_ij / Σ_ij |e_ij|, e_ij = f_i − f_j − (h_i − h_j)ᵀJ_j (paper, Proposition 4).

    Zero for homogeneous f of samples with Σh = 0 and Σf = 0: summed over pairs, f_i − f_j
    vanishes, and so does h_iᵀJ_j by Σh; h_jᵀJ_j is m f_j by Euler, and vanishes by Σf. Neither
    Euler nor Σf = 0 can be done without.

    Args as `taylor_error`.

    Returns:
        in [−1, 1]; nan where every error is rounding, as of a linear f.

    Raises:
        ValueError: shapes that do not go together.
    """
    h, j, f = _matched(features, gradients, outputs)
    at_own = (h * j).sum(-1)  # h_jᵀJ_j (…, N)
    error = f[..., :, None] - f[..., None, :] - h @ j.mT + at_own[..., None, :]
    terms = (h.abs().sum(-2) * j.abs().sum(-2)).sum(-1)  # of all that the products are sums of
    size = error.abs().sum((-2, -1))
    return scalar(torch.where(size > 64 * EPS * terms, error.sum((-2, -1)) / size, math.nan))


def predicted_surrogate_change(
    features: Tensor, targets: Tensor, outputs: Tensor, descent: Tensor, rate: float
) -> float | Tensor:
    """2γ (fᵀy)(yᵀKg), K = HHᵀ: what one step of W adds to S, to first order (paper, Theorem 3).

    Gradient descent moves WᵀW by γ Σ_k g_k (J_k h_kᵀ + h_k J_kᵀ) + O(γ²), and S by

        2γ Σ_k g_k (Σ_i y_i h_iᵀJ_k)(h_kᵀHᵀy) + O(γ²).

    By Lemma 3 the inner sum is fᵀy + (m − 1) f_k Σ_i y_i, which is fᵀy for m = 1, and for every m
    where the targets are centred. A linear f obeys the lemma, so there the first order is exact.

    Args:
        features: H (…, N, d).
        targets: y (…, N).
        outputs: f (…, N).
        descent: g = −∂L/∂f (…, N).
        rate: γ.

    Raises:
        ValueError: shapes that do not go together.
    """
    _check(features, targets, outputs, descent)
    y, f, g = (x.detach().double() for x in (targets, outputs, descent))
    along = (_sum_rows(features, y) * _sum_rows(features, g)).sum(-1)  # yᵀHHᵀg
    return scalar(2 * rate * (f * y).sum(-1) * along)


def surrogate_change(
    features: Tensor, targets: Tensor, before: Tensor, after: Tensor
) -> float | Tensor:
    """S(W⁺ᵀW⁺) − S(WᵀW) at fixed features: ΔWu · (2Wu + ΔWu) with u = Hᵀy, ΔW = W⁺ − W.

    Written so, a change keeps the digits that ΔW has, however small beside W.

    Args:
        features: H (…, N, d).
        targets: y (…, N).
        before: W (…, m, d).
        after: W⁺ (…, m, d).

    Raises:
        ValueError: shapes that do not go together.
    """
    _check(features, targets)
    u = _sum_rows(features, targets.detach().double())[..., None]  # (…, d, 1)
    w, w_next = before.detach().double(), after.detach().double()
    step = (w_next - w) @ u  # (…, m, 1)
    return scalar((step * (2 * (w @ u) + step)).sum((-2, -1)))


def ansatz_scale(gram: Tensor, agop: Tensor) -> float | Tensor:
    """C of the least-squares fit WᵀW ≈ C·AGOP, tr(G A) / ‖A‖² (Neural Feature Ansatz).

    Args:
        gram: G = WᵀW (…, d, d).
        agop: A = N⁻¹ Σ_k J_kJ_kᵀ (…, d, d) of the features that W reads.

    Returns:
        nan where the AGOP is zero.
    """
    g, a = gram.detach().double(), agop.detach().double()
    return ratio((g * a).sum((-2, -1)), a.square().sum((-2, -1)))


def ansatz_surrogate_ratio(
    features: Tensor, targets: Tensor, weight: Tensor, agop: Tensor
) -> float | Tensor:
    """C‖y‖⁴ / S with C of `ansatz_scale`: 1 where the premises of Theorem 4 hold.

    If WᵀW = C·AGOP, then S = C N⁻¹ Σ_k (Σ_i y_i h_iᵀJ_k)². If f interpolates, f = y, and Lemma 3
    holds, the inner sum is ‖y‖² + (m − 1) y_k Σ_i y_i: S = C‖y‖⁴ for m = 1 or centred targets.

    Args:
        features: H (…, N, d).
        targets: y (…, N).
        weight: W (…, m, d).
        agop: (…, d, d), of these features.

    Returns:
        nan where S is zero.

    Raises:
        ValueError: shapes that do not go together.
    """
    _check(features, targets)
    w, y = weight.detach().double(), targets.detach().double()
    scale = torch.as_tensor(ansatz_scale(w.mT @ w, agop), dtype=w.dtype, device=w.device)
    response = w @ _sum_rows(features, y)[..., None]  # WHᵀy (…, m, 1)
    return ratio(scale * y.square().sum(-1) ** 2, response.square().sum((-2, -1)))


def surrogate_floor_homogeneous(
    constant: float | Tensor, targets: Tensor, degree: float, layers_left: int
) -> float | Tensor:
    """C₀‖y‖² / Φ, Φ = (m^(L−l) − 1)² + 1: lower bound of S at layer l (paper, Theorem 4, m > 1).

    f has degree M = m^(L−l). Under Theorem 4's premises, and with C₀ ≤ ‖HWᵀ‖²,

        C₀ ≤ C N⁻¹ Σ_ik (y_i + (M − 1) y_k)² = C‖y‖² Φ for Σy = 0,

    and S = C‖y‖⁴. The bound grows with l.

    Args:
        constant: C₀ (…).
        targets: y (…, N), centred.
        degree: m, of one activation.
        layers_left: L − l, activations between the features and the output.
    """
    norm2 = targets.detach().double().square().sum(-1)
    return scalar(constant * norm2 / ((degree**layers_left - 1) ** 2 + 1))


def surrogate_floor_piecewise(
    constant: float | Tensor,
    targets: Tensor,
    crossed: float | Tensor,
    size: float | Tensor,
    jump: float | Tensor,
    as_printed: bool = True,
) -> float | Tensor:
    """C₀‖y‖⁴ / Ψ: lower bound of S at layer l (paper, Theorem 4, m = 1).

    Ψ = N (‖y‖₁ + 2NMBδ)² as printed, and (‖y‖₂ + 2√N MBδ)² of ours, which is never more. Both rest
    on Lemma 4, h_iᵀJ_k = f_i + ε with |ε| ≤ E = 2MBδ (see regions.py). With f = y and the Ansatz

        C₀ ≤ ‖HWᵀ‖² = C N⁻¹ Σ_ik (h_iᵀJ_k)² ≤ C Σ_i (|y_i| + E)² = C (‖y‖₂² + 2E‖y‖₁ + NE²),

    which is at most C (‖y‖₂ + √N E)²; and S = C‖y‖⁴ by Lemma 3. The printed Ψ is larger by N at
    E → ∞ and by N‖y‖₁² / ‖y‖₂² at E = 0.

    Args:
        constant: C₀ (…), as in `surrogate_floor_homogeneous`.
        targets: y (…, N).
        crossed: M (…), the most boundaries between two samples: of this layer.
        size: B (…) ≥ ‖h_i‖: one for all layers.
        jump: δ (…), the largest jump of ∇f from a region to the next: one for all layers.
    """
    y = targets.detach().double()
    n, norm2 = y.shape[-1], y.square().sum(-1)
    if as_printed:
        psi = n * (y.abs().sum(-1) + 2 * n * crossed * size * jump) ** 2
    else:
        psi = (norm2.sqrt() + 2 * n**0.5 * crossed * size * jump) ** 2
    return scalar(constant * norm2**2 / psi)


def _errors(features: Tensor, gradients: Tensor, outputs: Tensor, degree: float) -> Tensor:
    """E of Lemma 3 (…, N, N), pair (i, k) in row i, column k."""
    h, j, f = _matched(features, gradients, outputs)
    return h @ j.mT - f[..., :, None] - (degree - 1) * f[..., None, :]


def _matched(features: Tensor, gradients: Tensor, outputs: Tensor) -> tuple[Tensor, ...]:
    """H, J and f in float64; ValueError where they do not go together."""
    _check(features, outputs)
    if features.shape != gradients.shape:
        shapes = f"{tuple(features.shape)} and {tuple(gradients.shape)}"
        raise ValueError(f"features and gradients must have one shape (…, N, d), not {shapes}")
    return tuple(x.detach().double() for x in (features, gradients, outputs))


def _sum_rows(features: Tensor, shares: Tensor) -> Tensor:
    """Hᵀv (…, d) of H (…, N, d) and v (…, N)."""
    return (features.detach().double().mT @ shares[..., None])[..., 0]


def _check(features: Tensor, *values: Tensor) -> None:
    """Values (…, N) for each sample of the features (…, N, d), with no more leading axes."""
    for value in values:
        fits = value.ndim > 0 and features.ndim > value.ndim
        if not fits or value.shape[-1] != features.shape[-2]:
            shapes = f"{tuple(features.shape)} and {tuple(value.shape)}"
            raise ValueError(f"features (…, N, d) need values (…, N) of a sample, not {shapes}")
