"""Target Linearity and the surrogate, from one pass of sums.

TL(H, Y) = 1 − min_B ‖Y − H B‖²_F / ‖Y‖²_F with Y column-centred and no intercept (paper, Definition
2 at λ = 0): how much of the targets is a linear function of the features.

With S the centred scatter of the features, μ their mean and C = Hᵀ(Y − Ȳ), which does not depend on
μ:

    with an intercept          TL₁ = tr(Cᵀ S⁺ C) / ‖Y‖²
    without, as in the paper   TL  = TL₁ − n ‖Cᵀ S⁺ μ‖² / (1 + n μᵀ S⁺ μ) / ‖Y‖²

unless μ has a part outside the range of S: then the constant is itself a linear function of the
features and TL = TL₁. (The second line is the Sherman–Morrison formula for HᵀH = S + n μ μᵀ.)
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .batch import frobenius, ratio, scalar, summable, unit
from .moments import FeatureMoments
from .targets import SQUARED, NotFiniteError, dense, rescaled

EPS = 2.0**-52
DIGITS = 1e-6  # what rounding may do to a measure without a warning


class LostDigits(RuntimeWarning):
    """A measure is not known to a millionth, for the numbers that it is made of."""


@dataclass(frozen=True)
class LinearityReport:
    """Target Linearity and what is needed to judge it: numbers, or tensors (…) of a batch."""

    value: float | Tensor  # TL in [0, 1]
    # numerical rank of the centred features, their columns scaled to unit length
    rank: int | Tensor
    condition: float | Tensor  # their condition number, over the singular values kept; 1 for rank 0
    # eigenvalues of their correlation matrix below cutoff × the largest count as zero
    cutoff: float
    n: int  # samples
    d: int  # features
    # mean TL of targets that have nothing to do with the features, about rank / n
    chance: float | Tensor
    # (value − chance) / (1 − chance), zero on average at chance; nan where chance is 1
    adjusted: float | Tensor


def report(moments: FeatureMoments, intercept: bool = False) -> LinearityReport:
    """Target Linearity of accumulated moments, or TL₁; with rank, condition and chance level.

    The columns are scaled to unit length, so their units do not decide the rank. A column that is
    constant to rounding is dropped. Eigenvalues of the correlation matrix below max(n, d)·2⁻⁵² of
    the largest are cut, in singular values about 3·10⁻⁶ for 50,000 samples and 7·10⁻⁶ for 200,000.
    So, in features of lower rank whose means are of the order of their spread, rounding in float32
    is cut; rounding in bfloat16 or float16 is not and counts as features. The cost: a real
    direction of so small a share is lost as well.

    Raises:
        ValueError: no samples, targets that are not finite, or constant ones, for which TL has no
            meaning.
        NotFiniteError: features that are not finite, or of so small a spread that float64 does not
            hold its square.

    Warns:
        RuntimeWarning: n ≤ d, where every target is linear in features of full rank.
        LostDigits: columns that are dropped for a spread of a few roundings of their mean, or
            targets along directions so short that rounding may move TL by more than 10⁻⁶.
    """
    span = _span(moments)
    variance = moments.target_variance  # (…, c)
    total = variance.sum(-1)  # ‖Y‖² (…)
    if not bool(total.isfinite().all()):
        raise ValueError("targets are not finite")
    if bool((variance <= moments.n * rounding(moments.target_mean) ** 2).all(-1).any()):
        raise ValueError("the targets are constant: Target Linearity has no meaning")
    n, d = moments.n, moments.d
    if n <= d:
        message = f"{n} samples of {d} features: any target may be linear in them"
        warnings.warn(message, RuntimeWarning, stacklevel=2)

    cross = span.basis.mT @ moments.cross  # (…, d, c)
    explained = cross.square().sum((-2, -1))
    with_constant = torch.ones_like(span.constant) if intercept else span.constant
    mean = (span.basis.mT @ moments.feature_mean[..., None])[..., 0]  # (…, d)
    along = n * mean.square().sum(-1)
    towards = (cross.mT @ mean[..., None])[..., 0]  # (…, c)
    lost = n * towards.square().sum(-1) / (1 + along)
    value = (torch.where(with_constant, explained, explained - lost) / total).clamp(0, 1)
    # Λ^½ B of the map B, without its part for the constant
    shift = torch.where(with_constant, 0.0, n / (1 + along))[..., None, None]
    slopes = cross - shift * mean[..., :, None] * towards[..., None, :]
    _warn_of_lost_digits(span, slopes, total)
    # centred targets fill n − 1 dimensions at random; the features span these many of them on
    # average
    # of the constant that is linear in H
    constant_share = torch.where(with_constant, 1.0, along / (1 + along))
    dimensions = span.rank + with_constant.double() - constant_share
    chance = (dimensions / (n - 1)).clamp(max=1)
    smallest = torch.where(span.kept, span.eigenvalues, math.inf).amin(-1)
    condition = torch.where(span.rank > 0, (span.eigenvalues.amax(-1) / smallest).sqrt(), 1.0)
    return LinearityReport(
        value=scalar(value),
        rank=scalar(span.rank),
        condition=scalar(condition),
        cutoff=span.cutoff,
        n=n,
        d=d,
        chance=scalar(chance),
        adjusted=scalar(torch.where(chance < 1, (value - chance) / (1 - chance), math.nan)),
    )


def _warn_of_lost_digits(span: "_Span", slopes: Tensor, total: Tensor) -> None:
    """See `report`; slopes: Λ^½ B (…, d, c) for the map B and the eigenvalues Λ; total: ‖Y‖² (…).

    Rounding moves the correlation matrix by E, of some 2⁻⁵² λ_max, and so TL by tr(BᵀEB) / ‖Y‖². By
    what 400 matrices of conditions up to 10⁷ were off, ‖E‖ is 0.003 to 1.8 times that.
    """
    if bool(span.rounded.any()):
        warnings.warn(
            "features that vary by a few roundings of their mean are taken for constant: subtract "
            "the mean before they are rounded",
            LostDigits,
            stacklevel=3,
        )
    squares = torch.where(span.kept, slopes.square().sum(-1) / span.eigenvalues, 0.0).sum(-1)
    error = 2 * EPS * span.eigenvalues[..., -1] * squares / total
    if bool((error > DIGITS).any()):
        warnings.warn(
            "the targets lie along directions in which the features hardly vary: Target Linearity "
            f"may be off by more than {DIGITS:.0e}",
            LostDigits,
            stacklevel=3,
        )


def read_out(moments: FeatureMoments, intercept: bool = False) -> Tensor:
    """The least-squares map behind Target Linearity: B (…, d, c) with Y − Ȳ ≈ H B.

    On the samples of the moments, 1 − ‖Y − Ȳ − H B‖² / ‖Y − Ȳ‖² is TL; for other samples predict H
    B + ȳ. With an intercept, Y − Ȳ ≈ (H − μ) B, and the share explained is TL₁. Where several B fit
    equally well, this is one of them.

    Returns:
        (…, d, c) float64.

    Raises:
        ValueError: no samples.
        NotFiniteError: features that are not finite.
    """
    return _map(moments, intercept)[0]


def _map(moments: FeatureMoments, intercept: bool = False) -> tuple[Tensor, Tensor]:
    """B (…, d, c) of `read_out`, and Bᵀμ (…, c), of which far means would leave no digits."""
    span = _span(moments)
    inner = span.basis.mT @ moments.cross  # (…, d, c)
    slopes = span.basis @ inner  # S⁺ C, the map with an intercept
    mean = moments.feature_mean[..., None]  # (…, d, 1)
    within = span.basis.mT @ mean
    at_mean = inner.mT @ within  # Cᵀ S⁺ μ (…, c, 1)
    if intercept:
        return slopes, at_mean[..., 0]
    kept = 1 + moments.n * within.square().sum(-2, keepdim=True)
    shrunk = span.basis @ within * moments.n / kept
    is_linear = span.constant[..., None, None]
    # the intercept as a function of the features, or as much of it as they can give
    constant = torch.where(is_linear, span.ones[..., None], shrunk)
    return slopes - constant @ at_mean.mT, torch.where(is_linear, 0.0, at_mean / kept)[..., 0]


def held_out_linearity(fitted: FeatureMoments, other: FeatureMoments) -> float | Tensor:
    """1 − ‖Y − ȳ − H B‖² / ‖Y − ȳ‖² of other samples, with B and ȳ of the fitted ones.

    B is `read_out`. On the samples that were fitted this is TL; on others it is 1 at best and has
    no lower bound.

    Args:
        fitted: moments (…) of the samples that B and ȳ are taken from.
        other: moments (…) of the samples that are predicted, with the same features and targets.

    Raises as `read_out` does.
    """
    b, at_fitted = _map(fitted)  # (…, d, c), (…, c)
    shift = other.target_mean - fitted.target_mean  # (…, c)
    variance = other.target_variance.sum(-1)  # (…)
    # Σ (y − ȳ − Bᵀh)² about the means of the other samples, and n times its square at their means
    quadratic = (b * (other.scatter @ b)).sum((-2, -1))
    scatter = variance - 2 * (b * other.cross).sum((-2, -1)) + quadratic
    moved = other.feature_origin - fitted.feature_origin
    moved = moved + other.feature_offset - fitted.feature_offset  # of the means (…, d)
    at_mean = shift - (b.mT @ moved[..., None])[..., 0] - at_fitted
    error = scatter + other.n * at_mean.square().sum(-1)
    return scalar(1 - error / (variance + other.n * shift.square().sum(-1)))


@dataclass(frozen=True)
class _Span:
    """The linear functions of the features."""

    basis: Tensor  # (…, d, d), S⁺ = basis basisᵀ; zero columns where a value is cut
    eigenvalues: Tensor  # (…, d) of the correlation matrix, ascending
    kept: Tensor  # (…, d) bool, of the eigenvalues
    cutoff: float  # see LinearityReport
    constant: Tensor  # (…) bool: whether the constant is one of the functions
    ones: Tensor  # v (…, d) with H v = 1 where it is
    rounded: Tensor  # (…) bool: whether columns are dropped that do vary

    @property
    def rank(self) -> Tensor:
        return self.kept.sum(-1)


def _span(moments: FeatureMoments) -> _Span:
    n, d, mean = moments.n, moments.d, moments.feature_mean  # (…, d)
    diagonal = moments.scatter.diagonal(dim1=-2, dim2=-1)
    if not bool(diagonal.isfinite().all()):
        raise NotFiniteError("features are not finite")
    moves = (moments.feature_offset != 0) | (moments.cross != 0).any(-1)
    if bool((moves & (diagonal < n * SQUARED[0] ** 2)).any()):
        raise NotFiniteError(
            f"features that vary by less than {SQUARED[0]:.0e}, whose squares float64 does not "
            "hold: multiply them by a factor first"
        )
    norms = diagonal.clamp_min(0).sqrt()  # (…, d)
    varies = norms > math.sqrt(n) * rounding(mean)
    scale = torch.where(varies, 1 / norms, 0.0)  # D^(-1/2)
    correlation = moments.scatter * scale[..., None, :] * scale[..., :, None]
    eigenvalues, vectors = torch.linalg.eigh(correlation)
    cutoff = max(n, d) * EPS
    kept = (eigenvalues > cutoff * eigenvalues[..., -1:]) & (eigenvalues > 0)
    inverse_roots = torch.where(kept, eigenvalues.rsqrt(), 0.0)
    basis = scale[..., :, None] * vectors * inverse_roots[..., None, :]

    # in columns of unit length about zero, so that one far column does not hide the means of the
    # others
    share = torch.where(varies, 1 / (norms**2 + n * mean**2).sqrt(), 0.0)
    centre = math.sqrt(n) * mean * share
    deficient = kept.sum(-1) < varies.sum(-1)  # (…)
    # the mean's part outside the range of S, none where S has full rank
    outside = torch.zeros_like(mean)
    if bool(deficient.any()):
        spanning = (norms * share)[..., :, None] * vectors * kept[..., None, :]
        orthogonal = torch.linalg.qr(
            spanning.flip(-1)
        ).Q  # kept columns first: they span the first of Q
        first = torch.arange(d, device=mean.device) < kept.sum(-1, keepdim=True)
        range_of_s = orthogonal * first[..., None, :]
        within = range_of_s @ (range_of_s.mT @ centre[..., None])
        outside = torch.where(deficient[..., None], centre - within[..., 0], 0.0)
    from_outside = share * outside * (math.sqrt(n) / (outside * centre).sum(-1, keepdim=True))
    has_outside = outside.norm(dim=-1) > math.sqrt(cutoff) * centre.norm(dim=-1)

    dropped = torch.where(varies, 0.0, mean)  # columns that are constant
    largest = dropped.abs().argmax(-1, keepdim=True)
    from_dropped = torch.zeros_like(mean).scatter(-1, largest, 1 / mean.gather(-1, largest))
    has_dropped = (dropped != 0).any(-1)
    ones = torch.where(has_outside[..., None], from_outside, 0.0)
    ones = torch.where(has_dropped[..., None], from_dropped, ones)
    rounded = ((diagonal > 0) & ~varies).any(-1)
    return _Span(basis, eigenvalues, kept, cutoff, has_dropped | has_outside, ones, rounded)


def target_linearity(features: Any, targets: Any, ridge: float = 0.0) -> float | Tensor:
    """T_λ(H, Y) = 1 − ‖Y − Ŷ_λ‖² / ‖Y‖² in [0, 1], Y column-centred (paper, Definition 2).

    Ŷ_λ = H (HᵀH + λI)⁻¹ Hᵀ Y. As printed, Y is not centred in the numerator; the published code
    centres it, and so does this one.

    Args:
        features: H (…, N, d), any floating dtype, or an array; computed in float64.
        targets: class indices (N,) or (…, N), or a matrix (N, c) or (…, N, c).
        ridge: λ, 0 in every experiment of the paper.

    Raises and warns as `report` does.
    """
    features, targets = dense(features, "features"), dense(targets)
    targets = rescaled(targets)  # their size does not matter
    if not ridge:  # nor that of each column of the features
        features = rescaled(features, by_column=True)
    moments = FeatureMoments().update(features, targets)
    linearity = report(moments)
    return ridge_linearity(moments, ridge) if ridge else linearity.value


def ridge_linearity(moments: FeatureMoments, ridge: float) -> float | Tensor:
    """T_λ of accumulated moments for λ > 0; see `target_linearity`.

    With A = S + λI, HᵀH + λI = A + n μμᵀ is inverted by the Sherman–Morrison formula, so that the
    features may be far from zero; and ‖Y‖² − ‖Y − H B‖² = tr(BᵀC) + λ ‖B‖².

    Raises:
        ValueError: λ is not above zero.
    """
    if not ridge > 0:
        raise ValueError(f"ridge must be above zero, not {ridge}: report gives TL without one")
    scatter, mean = moments.scatter, moments.feature_mean[..., None]  # (…, d, d), (…, d, 1)
    identity = torch.eye(moments.d, dtype=scatter.dtype, device=scatter.device)
    factor = torch.linalg.cholesky(scatter + ridge * identity)
    slopes = torch.cholesky_solve(moments.cross, factor)  # A⁻¹C (…, d, c)
    towards = torch.cholesky_solve(mean, factor)  # A⁻¹μ (…, d, 1)
    share = moments.n / (1 + moments.n * (mean.mT @ towards))
    slopes = slopes - share * towards @ (mean.mT @ slopes)  # B
    explained = (slopes * (moments.cross + ridge * slopes)).sum((-2, -1))
    return scalar(explained / moments.target_variance.sum(-1))


def surrogate(features: Tensor, weight: Tensor, targets: Tensor) -> float | Tensor:
    """S(H, W, Y) = ‖Yᵀ H Wᵀ‖²_F / c, Y column-centred, for c targets (paper, section 4).

    How far the next layer's Gram matrix aligns the features with the targets. Grows as N².

    Args:
        features: H (…, N, d), the output of a layer.
        weight: W (…, m, d) of the layer after it.
        targets: class indices (N,) or (…, N), or a matrix (N, c) or (…, N, c).
    """
    return moments_surrogate(FeatureMoments().update(features, targets), weight)


def moments_surrogate(moments: FeatureMoments, weight: Tensor) -> float | Tensor:
    """`surrogate` of accumulated moments, for any next-layer weight (…, m, d): ‖W C‖²_F / c."""
    rows = weight_rows(moments, weight)
    return scalar((rows @ moments.cross).square().sum((-2, -1)) / moments.c)


def response_norm(moments: FeatureMoments, weight: Tensor) -> float | Tensor:
    """‖H Wᵀ‖²_F = tr(W S Wᵀ) + n ‖W μ‖² of accumulated moments and a weight W (…, m, d)."""
    rows = weight_rows(moments, weight)
    about_mean = ((rows @ moments.scatter) * rows).sum((-2, -1))
    at_mean = (rows @ moments.feature_mean[..., None]).square().sum((-2, -1))
    return scalar(about_mean + moments.n * at_mean)


def surrogate_share(moments: FeatureMoments, weight: Tensor) -> float | Tensor:
    """S_cls / (‖Z_c‖²_op ‖Y‖²) in [0, 1], a lower bound of TL with an intercept (ours).

    Z_c is the centred HWᵀ and S_cls = tr(YᵀZ_c Z_cᵀY), Y column-centred. Z_c Z_cᵀ is at most
    ‖Z_c‖²_op times the projection onto the range of Z_c, which lies in that of the centred H; and
    tr(YᵀPY) / ‖Y‖² with P the projection onto the latter is TL with an intercept. Equal where Y
    lies in the top eigenspace of Z_c Z_cᵀ, as at Neural Collapse.

    Args:
        moments: of H (…, N, d) and Y.
        weight: W (…, m, d).
    """
    rows, _ = unit(weight_rows(moments, weight))
    aligned = frobenius(rows @ moments.cross)  # √S_cls
    largest = torch.linalg.eigvalsh(rows @ moments.scatter @ rows.mT)[..., -1]  # ‖Z_c‖²_op
    return scalar((aligned / largest) * (aligned / moments.target_variance.sum(-1)))


def response_cka(moments: FeatureMoments, weight: Tensor) -> float | Tensor:
    """Linear CKA of responses HWᵀ and targets: S_cls / (‖Z_cZ_cᵀ‖_F ‖YYᵀ‖_F), in [0, 1].

    The surrogate of the paper's Proposition 2, normalised (Kornblith et al., 2019); 1 at Neural
    Collapse. The moments keep the whole scatter of the targets.

    Args:
        moments: of H (…, N, d) and Y.
        weight: W (…, m, d).
    """
    if moments.diagonal_targets:
        raise ValueError("CKA needs the whole scatter of the targets: diagonal_targets is set")
    rows, _ = unit(weight_rows(moments, weight))
    scatter = rows @ moments.scatter @ rows.mT
    return linear_cka(scatter, rows @ moments.cross, frobenius(moments.target_scatter))


def linear_cka(scatter: Tensor, cross: Tensor, target_norm: Tensor) -> float | Tensor:
    """‖C‖² / (‖S‖ ‖Σ (y − ȳ)(y − ȳ)ᵀ‖) of scatters S (…, d, d) and C (…, d, c); nan of a zero."""
    aligned, norm = frobenius(cross), frobenius(scatter)
    return ratio(aligned / target_norm * aligned, norm)


def weight_rows(moments: FeatureMoments, weight: Tensor) -> Tensor:
    """W (…, m, d) in the dtype and on the device of the moments; ValueError where d differs."""
    if weight.ndim < 2 or weight.shape[-1] != moments.d:
        shape = tuple(weight.shape)
        raise ValueError(f"a weight for {moments.d} features is (…, m, {moments.d}), not {shape}")
    return summable(weight.detach()).to(moments.scatter)


def rounding(mean: Tensor) -> Tensor:
    """Standard deviation that rounding alone may give a constant column of this mean in float64."""
    return 64 * EPS * mean.abs()
