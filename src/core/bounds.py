"""Bounds of the paper beside what they bound: Theorem 2, Lemmas 1, 2 and 5, Propositions 1 and 3.

Where a sharper bound follows from the same proof, or is free, it stands beside the printed one and
is ours.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .batch import ratio, scalar
from .linearity import EPS, read_out, ridge_linearity, weight_rows
from .moments import FeatureMoments

# the largest slope of GELU, zΦ(z), at z = √2: Φ(√2) + √2 φ(√2) = 1.1289…
GELU_LIPSCHITZ = (1 + math.erf(1)) / 2 + 1 / (math.e * math.sqrt(math.pi))
SLACK = 1e-9  # share by which rounding may exceed a bound that is attained
SHARE_ROUNDING = 1e-3  # rounding that a step's share of its bound may have


def theorem2_bound(
    moments: FeatureMoments, weight: Tensor, ridge: float, as_printed: bool = True
) -> float | Tensor:
    """1 − C / S(G_id), at most T_λ (paper, Theorem 2), or 1 − C' / S(G_id) of ours.

        C  = ‖Y‖⁴ c₀² (2λ + c₁²)² / (4 λ        ‖Y − Ȳ‖²)
        C' = ‖Y‖⁴ c₀² (2λ + c₁²)² / (4 (λ + c₁²) ‖Y − Ȳ‖²)

    S(G_id) = ‖YᵀHWᵀ‖² with H and Y as given, not centred; c₀ = ‖W‖_op and c₁ = ‖H‖_F, the least
    that the theorem allows. As printed it never exceeds −1 and says nothing of T_λ, which is above
    it for every λ whatever the features are (ours):

        S ≤ c₀² c₁² ‖Y‖² and (2λ + c₁²)² ≥ 8λ c₁², so C / S ≥ 2 ‖Y‖² / ‖Y − Ȳ‖² ≥ 2;
        Y − Ŷ_λ = λ (HHᵀ + λI)⁻¹ Y is no longer than Y, so T_λ ≥ 1 − ‖Y‖² / ‖Y − Ȳ‖²,

    and T_λ ≥ 0 with Y centred in the numerator too, as `linearity.target_linearity` takes it.
    It is −1 where Y is centred, Y = u pᵀ and H = u vᵀ share a direction u, v is the top right
    singular vector of W, and 2λ = c₁².

    C' leaves one wasted step of the proof out. With A = λI + HHᵀ of eigenvalues in [λ, λ + c₁²],
    ‖Y − Ŷ_λ‖² = λ² tr(YᵀA⁻²Y) ≤ λ tr(YᵀA⁻¹Y), and by Kantorovich's inequality

        tr(YᵀA⁻¹Y) ≤ (2λ + c₁²)² ‖Y‖⁴ / (4λ (λ + c₁²) tr(YᵀAY)),

    where tr(YᵀAY) ≥ tr(YᵀHHᵀY) ≥ S / c₀²; the proof of C bounds λ + c₁² by λ from below once more.
    With r = S / (c₀² c₁² ‖Y‖²) and Y centred it tends to 1 − 1 / (4r) as λ → 0: above zero where
    r > 1/4, and 3/4 at the most.

    Args:
        moments: of H (…, N, d) and Y.
        weight: W (…, m, d).
        ridge: λ.
        as_printed: C, or else C'.

    Returns:
        (…); −inf where S is zero, nan where W or Y is.

    Raises:
        ValueError: λ is not above zero, or a weight for other features.
    """
    if not ridge > 0:
        raise ValueError(f"ridge must be above zero, not {ridge}")
    rows = weight_rows(moments, weight)
    surrogate = (rows @ _cross(moments)).square().sum((-2, -1))
    spread = moments.target_variance.sum(-1)  # ‖Y − Ȳ‖²
    targets = _target_norm2(moments)
    features = _gram(moments).diagonal(dim1=-2, dim2=-1).sum(-1)  # c₁²
    operator = torch.linalg.matrix_norm(rows, 2)  # c₀
    least = ridge if as_printed else ridge + features
    c = (targets * operator * (2 * ridge + features)).square() / (4 * least * spread)
    return scalar(1 - c / surrogate)


def linearity_bounds(
    moments: FeatureMoments, weight: Tensor
) -> tuple[float | Tensor, float | Tensor]:
    """Two lower bounds of TL with an intercept, never below `linearity.surrogate_share` (ours).

    G = Z_cZ_cᵀ of the centred Z = HWᵀ, and Y centred. GY lies in the span of the centred features,
    so what Y has along GY, or within its columns, is linear in them:

        tr(YᵀGY)² / (‖Y‖² ‖GY‖²)  and  tr(YᵀGY (YᵀG²Y)⁺ YᵀGY) / ‖Y‖²,

    the second no less than the first. Equal to TL₁ where Y lies in an eigenspace of G, as at Neural
    Collapse. With B = WC, C = HᵀY, and S_z = WSWᵀ: YᵀGY = BᵀB and YᵀG²Y = BᵀS_zB, which is taken in
    the coordinates of S_z's eigenvectors: no digits are lost to squares.

    Args:
        moments: of H (…, N, d) and Y.
        weight: W (…, m, d).

    Returns:
        (…) and (…); nan where YᵀGY is zero.
    """
    rows = weight_rows(moments, weight)
    aligned = rows @ moments.cross  # B = Z_cᵀY (…, m, c)
    total = moments.target_variance.sum(-1)
    values, vectors = torch.linalg.eigh(rows @ moments.scatter @ rows.mT)
    cutoff = 64 * max(moments.n, values.shape[-1]) * EPS * values[..., -1:]
    turned = vectors.mT @ aligned  # VᵀB = diag(s) UᵀY for Z_c = U diag(s) Vᵀ
    within = torch.where(values > cutoff, values.rsqrt(), 0.0)[..., None] * turned  # UᵀY
    spread = values.clamp_min(0).sqrt()[..., None] * turned  # GY = U · this
    aligned2 = aligned.square().sum((-2, -1))
    line = aligned2.square() / (total * spread.square().sum((-2, -1)))
    left, sizes, _ = torch.linalg.svd(spread, full_matrices=False)
    left = left * (sizes > max(spread.shape[-2:]) * EPS * sizes[..., :1])[..., None, :]
    columns = (left.mT @ within).square().sum((-2, -1)) / total
    return scalar(line), scalar(torch.where(aligned2 > 0, columns, math.nan))


def layer_surrogate_ratio(
    moments: FeatureMoments, weight: Tensor
) -> tuple[float | Tensor, float | Tensor]:
    """S(G_id) / (c₀² S(HHᵀ)), c₀ = ‖W‖_op, at most one (paper, Lemma 1), and a mean.

    HHᵀ is the G'_σ of the layer before, whose activations the features H are. Y centred. W takes a
    direction of the features that is drawn at random to ‖W‖²_F / d of its squared length on
    average: ‖W‖²_F / (d c₀²) is what says nothing of Y.

    Returns:
        (…) and (…); the first nan where S(HHᵀ) is zero.
    """
    rows = weight_rows(moments, weight)
    operator2 = torch.linalg.matrix_norm(rows, 2).square()
    before = moments.cross.square().sum((-2, -1))
    after = (rows @ moments.cross).square().sum((-2, -1))
    mean = rows.square().sum((-2, -1)) / (moments.d * operator2)
    return ratio(after, operator2 * before), scalar(mean)


def kantorovich(moments: FeatureMoments, ridges: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Lemma 2: tr(YᵀA⁻²Y) and two upper bounds of it, A = λI + HHᵀ, each times a² / ‖Y‖².

    a = λ + λ_min and b = λ + λ_max are the ends of A's spectrum (a = λ for N > d). As printed,

        tr(YᵀA⁻²Y) ≤ κ ‖Y‖⁴ / tr(YᵀAY), κ = (a + b)² / 4a³;

    ours has κ = (a + b)² / 4a²b, from YᵀA⁻²Y ≤ YᵀA⁻¹Y / a and Kantorovich's inequality. What is
    known without either is ‖Y‖² / a², which is 1 here. The printed bound is never below it, as
    tr(YᵀAY) ≤ b‖Y‖² and (a + b)² ≥ 4ab (ours). Y is centred, H is not.

    Args:
        moments: of H (…, N, d) and Y.
        ridges: λ > 0.

    Returns:
        the left side, the bound as printed and ours, (…, ridge) each.
    """
    spectrum = torch.linalg.eigvalsh(_gram(moments)).clamp_min(0)  # of HᵀH
    rank = moments.d - moments.n  # below zero where HHᵀ has a null space
    least = spectrum[..., rank] if rank >= 0 else torch.zeros_like(spectrum[..., 0])
    total = moments.target_variance.sum(-1)
    aligned = moments.cross.square().sum((-2, -1))  # tr(YᵀHHᵀY)
    sides = []
    for ridge in ridges:
        a, b = ridge + least, ridge + spectrum[..., -1]
        left = (1 - torch.as_tensor(ridge_linearity(moments, ridge))) * (a / ridge) ** 2
        ours = (a + b).square() / (4 * b) * total / (ridge * total + aligned)
        sides.append((left, ours * b / a, ours))
    left, printed, ours = (torch.stack(side, -1) for side in zip(*sides, strict=True))
    return left, printed, ours


def _gram(moments: FeatureMoments) -> Tensor:
    """HᵀH (…, d, d), not centred."""
    mean = moments.feature_mean
    return moments.scatter + moments.n * mean[..., :, None] * mean[..., None, :]


def _cross(moments: FeatureMoments) -> Tensor:
    """HᵀY (…, d, c), not centred."""
    mean, target_mean = moments.feature_mean, moments.target_mean
    return moments.cross + moments.n * mean[..., :, None] * target_mean[..., None, :]


def _target_norm2(moments: FeatureMoments) -> Tensor:
    """‖Y‖² (…), not centred."""
    mean2 = moments.target_mean.square().sum(-1)
    return moments.target_variance.sum(-1) + moments.n * mean2


def activation_bound(
    pre: Tensor,
    post_gradient: Tensor,
    input_norm2: Tensor,
    rate: float,
    activation: Callable[[Tensor], Tensor],
    lipschitz: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Whether each unit's step is bounded by the virtual one, and of its sign (paper, Prop. 1).

    One layer σ(Wh), W updated by the loss of one sample, each sample alone: z = Wh moves to
    z⁺ = z − γ ‖h‖² σ'(z) ⊙ a with a = ∂L/∂σ(z). The virtual update of the output is −γa, so

        |σ(z⁺) − σ(z)| ≤ L |z⁺ − z| = L γ ‖h‖² |σ'(z)| |a| ≤ L² γ |a|  where ‖h‖ ≤ 1,

    attained at ‖h‖ = 1 by ReLU units that stay active; longer inputs exceed it by up to ‖h‖².
    The signs of σ(z⁺) − σ(z) and −a agree for a monotone σ, as z⁺ − z has that of −σ'(z) a. For
    any σ they do to first order, −γ ‖h‖² σ'(z)² a; a step across a minimum, as GELU's at
    −0.75, can turn them.

    L is 1 for ReLU and tanh, GELU_LIPSCHITZ = 1.1289… for GELU.

    Args:
        pre: z (…, N, m).
        post_gradient: a (…, N, m), of each sample's own loss.
        input_norm2: ‖h‖² (…, N).
        rate: γ.
        activation: σ, elementwise and differentiable by autograd.
        lipschitz: L.

    Returns:
        two bool tensors (…, N, m), and what share of its bound each step is, nan where the bound
        is within rounding. The bound is allowed SLACK of itself and the rounding of σ(z)
        and σ(z⁺). Signs also agree where the first-order change is within that rounding: float64
        cannot tell them there, and where σ'(z) = 0 (a ReLU unit that is off) nothing moves, which
        the proposition lets be of either sign.
    """
    a, norm2 = post_gradient.to(torch.float64), input_norm2.to(torch.float64)[..., None]
    z = pre.detach().to(torch.float64).requires_grad_()
    with torch.enable_grad():
        output = activation(z)
        (slope,) = torch.autograd.grad(output.sum(), z)  # σ'(z)
    with torch.no_grad():
        step = -rate * norm2 * slope * a
        moved = activation(z + step)
        change = moved - output
        size = output.abs() + moved.abs() + lipschitz * (z.abs() + (z + step).abs())
        rounding = 16 * EPS * size
        limit = lipschitz**2 * rate * a.abs()
        bound = change.abs() <= (1 + SLACK) * limit + rounding
        share = torch.where(limit > rounding / SHARE_ROUNDING, change.abs() / limit, math.nan)
        signs = (change.sign() == -a.sign()) | ((slope * step).abs() <= rounding)
    return bound, signs, share


def interpolation_bound(
    latents: Tensor, inputs: Tensor, share: float
) -> tuple[float | Tensor, float | Tensor]:
    """Both sides of Proposition 3 for g, the least-squares map with an intercept from Z to X.

    Left, N⁻² Σ_ij ‖g(αz_i + (1−α)z_j) − (αx_i + (1−α)x_j)‖; right, N⁻¹ Σ_i ‖g(z_i) − x_i‖. As g is
    affine the error of a pair is αr_i + (1−α)r_j with r_i = g(z_i) − x_i, so left ≤ right by the
    triangle inequality, and the least over all decoders is no more. The proposition is no more
    than that: it tells nothing of the decoder that was trained. Nor is the right side √(1 − TL₁)
    times the root mean square distance σ of the inputs from their mean, which is the residuals'
    root mean square: a mean is at most that (Jensen), and equal where all residuals are as long.

    Args:
        latents: Z (…, N, k).
        inputs: X (…, N, d).
        share: α in [0, 1].

    Returns:
        left and right, (…).

    Raises:
        ValueError: a share outside [0, 1], or samples that do not match.
        NotFiniteError: latents that are not finite.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], not {share}")
    moments = FeatureMoments(diagonal_targets=True).update(latents, inputs)
    z, x = latents.to(torch.float64), inputs.to(torch.float64)
    mean, target_mean = moments.feature_mean[..., None, :], moments.target_mean[..., None, :]
    residuals = (z - mean) @ read_out(moments, intercept=True) - (x - target_mean)  # (…, N, d)
    gram = residuals @ residuals.mT  # (…, N, N)
    norm2 = gram.diagonal(dim1=-2, dim2=-1)
    first, second = share**2 * norm2[..., :, None], (1 - share) ** 2 * norm2[..., None, :]
    # a pair that cancels keeps half the digits; the sum of many does not feel it
    pairs = (first + second + 2 * share * (1 - share) * gram).clamp_min(0).sqrt()
    return scalar(pairs.mean((-2, -1))), scalar(norm2.sqrt().mean(-1))
