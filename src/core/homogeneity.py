"""Homogeneous networks: what the paper's Theorems 3 and 4 rest on, measured.

A network with one output reads a layer's features h through W, its next weight. f is the rest of
the network, from h to the output; of N samples h_i the outputs are f_i = f(h_i), the gradients J_i
= ∂f/∂h at h_i and the targets y_i. f is m-homogeneous where f(ch) = c^m f(h) for all c > 0; then
Jᵀh = m f (Euler). Without biases a ReLU network is 1-homogeneous; each squared ReLU doubles the
degree.

The surrogate is S = yᵀ H WᵀW Hᵀ y of H (N, d), with targets as they are given. Everything is
computed in float64, without gradients; leading axes are a batch, and broadcast.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .batch import ratio, scalar

EPS = 2.0**-52
TICKS = 2**40  # a segment's length: breakpoints are rounded to whole ticks
SPAN = TICKS + 1  # the breakpoints of all pairs are one sorted list of pair × SPAN + ticks


def taylor_error(
    features: Tensor, gradients: Tensor, outputs: Tensor, degree: float
) -> float | Tensor:
    """‖HJᵀ − T‖ / ‖T‖ over all N² pairs, T_ik = f_i + (m − 1) f_k (paper, Lemma 3).

    The lemma is h_iᵀJ_k ≈ f_i + (m − 1) f_k. By Euler's identity what separates the two sides is

        f(h_k) + J_kᵀ(h_i − h_k) − f(h_i),

    the error of f's first-order Taylor expansion about one sample at another: zero where f is
    linear, and otherwise what is nonlinear in f between the samples, which the rest of the network
    has still to supply. Sequential linearisation is its fall from layer to layer.

    Args:
        features: H (…, N, d).
        gradients: J (…, N, d).
        outputs: f (…, N).
        degree: m, of f from these features on.

    Returns:
        nan where T is zero.

    Raises:
        ValueError: shapes that do not go together.
    """
    error, linear = _pairs(features, gradients, outputs, degree)
    return ratio(torch.linalg.matrix_norm(error), torch.linalg.matrix_norm(linear))


def taylor_error_sum(
    features: Tensor, gradients: Tensor, outputs: Tensor, degree: float
) -> float | Tensor:
    """Sum of the errors of Lemma 3 over all pairs, over that of their absolute values.

    Zero for centred features and outputs (paper, Proposition 4): summed over i and k the errors are

        Σ_ik (h_iᵀJ_k − f_i − (m − 1) f_k) = (Σ_i h_i)ᵀ(Σ_k J_k) − mN Σ_i f_i.

    Both sums must vanish, over the same samples; what ReLU puts out is never centred. That these
    are Taylor errors needs homogeneity, that they add up to zero does not.

    Args and raises as `taylor_error`.

    Returns:
        in [−1, 1]; 0 where every error is rounding, as of a linear f.
    """
    error, _ = _pairs(features, gradients, outputs, degree)
    h, j = (x.detach().double().abs().sum(-2) for x in (features, gradients))
    terms = (h * j).sum(-1)  # absolute values of all that the products are sums of
    size = error.abs().sum((-2, -1))
    return scalar(torch.where(size > 64 * EPS * terms, error.sum((-2, -1)) / size, 0.0))


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
    slope: float | Tensor,
    distance: float | Tensor,
) -> float | Tensor:
    """C₀‖y‖⁴ / Ψ, Ψ = N (‖y‖₁ + 2NMBδ)²: lower bound of S (paper, Theorem 4, m = 1).

    It rests on Lemma 4, h_iᵀJ_k = f_i + ε with |ε| ≤ 2MBδ, of a ReLU network without biases. With
    p_j the points where the segment from h_k to h_i leaves one linear region for the next, and ∇_j
    the gradient before p_j,

        ε = h_iᵀ(J_k − J_i) = Σ_j h_iᵀ(∇_j − ∇_{j+1}) = Σ_j (h_i − p_j)ᵀ(∇_j − ∇_{j+1}),

    for p_jᵀ∇_j and p_jᵀ∇_{j+1} are both f(p_j). With a mean over k in the AGOP, C₀ ≤ C (‖y‖₁ +
    2NMBδ)² follows: the factor N in Ψ is more than is needed.

    Args:
        constant: C₀ (…), as in `surrogate_floor_homogeneous`.
        targets: y (…, N).
        crossed: M (…), the most boundaries between two samples; see `crossed_regions`.
        slope: B (…) ≥ ‖∇f‖.
        distance: δ (…) ≥ ‖h_i − h_k‖.
    """
    y = targets.detach().double()
    n = y.shape[-1]
    psi = n * (y.abs().sum(-1) + 2 * n * crossed * slope * distance) ** 2
    return scalar(constant * y.square().sum(-1) ** 2 / psi)


@torch.no_grad()
def crossed_regions(
    layers: Sequence[tuple[Tensor, Tensor | None]],
    first: Tensor,
    second: Tensor,
    relu_first: bool = False,
) -> Tensor:
    """M: boundaries of linear regions on the segments between pairs of inputs (paper, Lemma 4).

    Counts the points inside a segment where some unit of a ReLU network changes its sign, by the
    exact piecewise linear path: the units of a layer are linear between the breakpoints so far,
    their zeros there are new breakpoints. Signs that change at one point, to 2⁻⁴⁰ of the segment,
    count once; a unit that reaches zero and turns back does not count.

    Args:
        layers: weight (…, m, d) and bias (…, m) or None of every linear layer, ReLU between them.
        first: a (…, P, d).
        second: b (…, P, d).
        relu_first: whether the inputs pass a ReLU before the first layer.

    Returns:
        (…, P) int64.
    """
    if first.ndim > 2:
        rows = range(len(first))
        one = [[(w[r], None if b is None else b[r]) for w, b in layers] for r in rows]
        counts = [crossed_regions(one[r], first[r], second[r], relu_first) for r in rows]
        return torch.stack(counts)
    start = SPAN * torch.arange(len(first), device=first.device)
    points = torch.stack([start, start + TICKS], dim=1).flatten()  # (V,)
    path = torch.stack([first, second], dim=1).flatten(0, 1).double()  # (V, d)
    if relu_first:
        points, path = _bend(points, path)
    for weight, bias in layers[:-1]:  # after the last nothing bends
        path = path @ weight.double().mT
        points, path = _bend(points, path if bias is None else path + bias.double())
    return torch.bincount(points // SPAN, minlength=len(first)) - 2


def _bend(points: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
    """Piecewise linear paths after a ReLU: breakpoints (V,), sorted, and values there (V, m)."""
    signs = path.sign()
    inside = points[:-1] % SPAN < TICKS  # from the end of a pair to the next pair there is no piece
    crosses = (signs[:-1] * signs[1:] < 0) & inside[:, None]  # (V − 1, m)
    piece, unit = crosses.nonzero(as_tuple=True)
    here, there = path[piece, unit], path[piece + 1, unit]
    ticks = (here / (here - there) * points.diff()[piece]).round().long()
    zeros = points[piece] + ticks
    refined = torch.cat([points, zeros]).unique()  # sorted
    left = (torch.searchsorted(points, refined, right=True) - 1).clamp_max(len(points) - 2)
    share = (refined - points[left]).double() / points.diff()[left]
    bent = path[left].lerp(path[left + 1], share[:, None])
    bent[torch.searchsorted(refined, zeros), unit] = 0.0
    return refined, bent.clamp_min(0)


def _pairs(
    features: Tensor, gradients: Tensor, outputs: Tensor, degree: float
) -> tuple[Tensor, Tensor]:
    """Errors of Lemma 3 and its right-hand side, pair (i, k) in row i, column k; (…, N, N)."""
    _check(features, outputs)
    if features.shape != gradients.shape:
        shapes = f"{tuple(features.shape)} and {tuple(gradients.shape)}"
        raise ValueError(f"features and gradients must have one shape (…, N, d), not {shapes}")
    h, j, f = (x.detach().double() for x in (features, gradients, outputs))
    linear = f[..., :, None] + (degree - 1) * f[..., None, :]
    return h @ j.mT - linear, linear


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
