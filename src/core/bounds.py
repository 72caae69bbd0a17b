"""Three bounds of the paper, each beside what it bounds: Theorem 2, Propositions 1 and 3."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .batch import scalar
from .linearity import EPS, read_out, weight_rows
from .moments import FeatureMoments

# the largest slope of GELU, zΦ(z), at z = √2: Φ(√2) + √2 φ(√2) = 1.1289…
GELU_LIPSCHITZ = (1 + math.erf(1)) / 2 + 1 / (math.e * math.sqrt(math.pi))
SLACK = 1e-9  # share by which rounding may exceed a bound that is attained


def theorem2_bound(moments: FeatureMoments, weight: Tensor, ridge: float) -> float | Tensor:
    """1 − C / S(G_id), C = ‖Y‖⁴ c₀² (2λ + c₁²)² / (4λ ‖Y − Ȳ‖²), at most T_λ (paper, Theorem 2).

    S(G_id) = ‖YᵀHWᵀ‖² with H and Y as given, not centred; c₀ = ‖W‖_op and c₁ = ‖H‖_F, the least
    that the theorem allows. It never exceeds −1 and says nothing of T_λ, which is above it for
    every λ whatever the features are (ours):

        S ≤ c₀² c₁² ‖Y‖² and (2λ + c₁²)² ≥ 8λ c₁², so C / S ≥ 2 ‖Y‖² / ‖Y − Ȳ‖² ≥ 2;
        Y − Ŷ_λ = λ (HHᵀ + λI)⁻¹ Y is no longer than Y, so T_λ ≥ 1 − ‖Y‖² / ‖Y − Ȳ‖²,

    and T_λ ≥ 0 with Y centred in the numerator too, as `linearity.target_linearity` takes it.
    It is −1 where Y is centred, Y = u pᵀ and H = u vᵀ share a direction u, v is the top right
    singular vector of W, and 2λ = c₁². A bound that can bite: `linearity.surrogate_share`.

    Args:
        moments: of H (…, N, d) and Y.
        weight: W (…, m, d).
        ridge: λ.

    Returns:
        (…); −inf where S is zero, nan where W or Y is.

    Raises:
        ValueError: λ is not above zero, or a weight for other features.
    """
    if not ridge > 0:
        raise ValueError(f"ridge must be above zero, not {ridge}")
    rows, n = weight_rows(moments, weight), moments.n
    mean, target_mean = moments.feature_mean, moments.target_mean
    cross = moments.cross + n * mean[..., :, None] * target_mean[..., None, :]  # HᵀY (…, d, c)
    surrogate = (rows @ cross).square().sum((-2, -1))
    spread = moments.target_variance.sum(-1)  # ‖Y − Ȳ‖²
    targets = spread + n * target_mean.square().sum(-1)  # ‖Y‖²
    features = moments.scatter.diagonal(dim1=-2, dim2=-1).sum(-1) + n * mean.square().sum(-1)  # c₁²
    operator = torch.linalg.matrix_norm(rows, 2)  # c₀
    c = (targets * operator * (2 * ridge + features)).square() / (4 * ridge * spread)
    return scalar(1 - c / surrogate)


def activation_bound(
    pre: Tensor,
    post_gradient: Tensor,
    input_norm2: Tensor,
    rate: float,
    activation: Callable[[Tensor], Tensor],
    lipschitz: float,
) -> tuple[Tensor, Tensor]:
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
        two bool tensors (…, N, m). The bound is allowed SLACK of itself and the rounding of σ(z)
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
        bound = change.abs() <= (1 + SLACK) * lipschitz**2 * rate * a.abs() + rounding
        signs = (change.sign() == -a.sign()) | ((slope * step).abs() <= rounding)
    return bound, signs


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
