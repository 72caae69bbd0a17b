"""Target Linearity and the surrogate, from one pass of sums.

TL(H, Y) = 1 − min_B ‖Y − H B‖²_F / ‖Y‖²_F with Y column-centred and no intercept (paper, Target Linearity):
how much of the targets is a linear function of the features.

With S the centred scatter of the features, μ their mean and C = Hᵀ(Y − Ȳ), which does not depend on μ:
    with an intercept          TL₁ = tr(Cᵀ S⁺ C) / ‖Y‖²
    without, as in the paper   TL  = TL₁ − n ‖Cᵀ S⁺ μ‖² / (1 + n μᵀ S⁺ μ) / ‖Y‖²
unless μ has a part outside the range of S: then the constant is itself a linear function of the features
and TL = TL₁. (The second line is the Sherman–Morrison formula for HᵀH = S + n μ μᵀ.)
"""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from .moments import FeatureMoments

EPS = 2.0**-52


class NotFiniteError(ValueError):
    """Features that hold an infinity or no number."""


@dataclass(frozen=True)
class LinearityReport:
    """Target Linearity and what is needed to judge it.

    value: TL in [0, 1].
    rank: numerical rank of the centred features, their columns scaled to unit length.
    condition: their condition number, largest over smallest singular value kept (1 for rank 0).
    cutoff: eigenvalues of their correlation matrix below cutoff × the largest count as zero.
    n, d: samples and features.
    chance: mean TL of targets that have nothing to do with the features, about rank / n.
    adjusted: (value − chance) / (1 − chance), zero on average at chance level; nan where chance is 1.
    """

    value: float
    rank: int
    condition: float
    cutoff: float
    n: int
    d: int
    chance: float
    adjusted: float


def report(moments: FeatureMoments, intercept: bool = False) -> LinearityReport:
    """Target Linearity of accumulated moments, with rank, condition and chance level; with `intercept`, TL₁.

    The columns are scaled to unit length, so their units do not decide the rank. A column that is constant
    to rounding is dropped. Eigenvalues of the correlation matrix below max(n, d)·2⁻⁵² of the largest are cut, in
    singular values about 3·10⁻⁶ for 50,000 samples. So, in features of lower rank whose means are of the order of
    their spread, rounding in float32 is cut; rounding in bfloat16 or float16 is not and counts as features.

    Raises:
        ValueError: no samples, targets that are not finite, or constant ones, for which TL has no meaning.
        NotFiniteError: features that are not finite.

    Warns:
        RuntimeWarning: n ≤ d, where every target is linear in features of full rank.
    """
    span = _span(moments)
    total = moments.target_variance.sum()
    if not math.isfinite(total):
        raise ValueError("targets are not finite")
    if total <= moments.n * (_rounding(moments.target_mean) ** 2).sum():
        raise ValueError("the targets are constant: Target Linearity has no meaning")
    n, d = moments.n, moments.d
    if n <= d:
        warnings.warn(f"{n} samples of {d} features: any target may be linear in them", RuntimeWarning, stacklevel=2)

    cross = span.basis.mT @ moments.cross  # (rank, c)
    explained = (cross**2).sum()
    share_of_constant = 1.0  # how much of the constant function is linear in the features
    if span.ones is None and not intercept:
        mean = span.basis.mT @ moments.feature_mean  # (rank,)
        along = n * (mean**2).sum()
        explained = explained - n * ((cross.mT @ mean) ** 2).sum() / (1 + along)
        share_of_constant = float(along / (1 + along))
    value = min(max(float(explained / total), 0.0), 1.0)
    # centred targets fill n − 1 dimensions at random; the features span these many of them on average
    rank = span.basis.shape[1]
    chance = min((rank + (span.ones is not None or intercept) - share_of_constant) / (n - 1), 1.0)
    return LinearityReport(
        value=value,
        rank=rank,
        condition=float((span.eigenvalues.max() / span.eigenvalues.min()).sqrt()) if rank else 1.0,
        cutoff=span.cutoff,
        n=n,
        d=d,
        chance=chance,
        adjusted=(value - chance) / (1 - chance) if chance < 1 else math.nan,
    )


def read_out(moments: FeatureMoments) -> Tensor:
    """The least-squares map behind Target Linearity: B (d, c) with Y − Ȳ ≈ H B, without an intercept.

    On the samples of the moments, 1 − ‖Y − Ȳ − H B‖² / ‖Y − Ȳ‖² is TL; for other samples predict H B + ȳ. Where
    several B fit equally well, this is one of them.

    Returns:
        (d, c) float64.

    Raises:
        ValueError: no samples.
        NotFiniteError: features that are not finite.
    """
    span = _span(moments)
    slopes = span.basis @ (span.basis.mT @ moments.cross)  # S⁺ C (d, c), the map with an intercept
    mean = moments.feature_mean
    if span.ones is not None:
        return slopes - torch.outer(span.ones, mean @ slopes)  # the intercept as a function of the features
    towards = span.basis @ (span.basis.mT @ mean)  # S⁺ μ (d,)
    return slopes - torch.outer(towards, mean @ slopes) * (moments.n / (1 + moments.n * (mean @ towards)))


@dataclass(frozen=True)
class _Span:
    """The linear functions of the features.

    basis: (d, rank) with S⁺ = basis basisᵀ on the range of S. eigenvalues: (rank,), those kept of the correlation
    matrix. cutoff: see `report`. ones: v (d,) with H v = 1 where the constant is one of the functions, else None.
    """

    basis: Tensor
    eigenvalues: Tensor
    cutoff: float
    ones: Tensor | None


def _span(moments: FeatureMoments) -> _Span:
    if not moments.n:
        raise ValueError("no samples: update the moments first")
    n, mean = moments.n, moments.feature_mean
    diagonal = moments.scatter.diagonal()
    if not bool(torch.isfinite(diagonal).all()):
        raise NotFiniteError("features are not finite")
    norms = diagonal.clamp_min(0).sqrt()  # (d,)
    varies = norms > math.sqrt(n) * _rounding(mean)
    scale = torch.where(varies, 1 / norms, 0.0)  # D^(-1/2)
    eigenvalues, vectors = torch.linalg.eigh(moments.scatter * scale * scale[:, None])  # of D^(-1/2) S D^(-1/2)
    cutoff = max(n, moments.d) * EPS
    kept = (eigenvalues > cutoff * eigenvalues[-1]) & (eigenvalues > 0)
    basis = scale[:, None] * vectors[:, kept] * eigenvalues[kept].rsqrt()

    # in columns of unit length about zero, so that one far column does not hide the means of the others
    share = torch.where(varies, 1 / (norms**2 + n * mean**2).sqrt(), 0.0)
    centre = math.sqrt(n) * mean * share
    outside = torch.zeros_like(mean)  # the mean's part outside the range of S, none where S has full rank
    if kept.sum() < varies.sum():
        range_of_s = torch.linalg.qr((norms * share)[:, None] * vectors[:, kept]).Q
        outside = centre - range_of_s @ (range_of_s.mT @ centre)
    dropped = torch.where(varies, 0.0, mean)
    ones = None
    if bool((dropped != 0).any()):  # a column that is constant and not zero
        ones = torch.zeros_like(mean)
        largest = dropped.abs().argmax()
        ones[largest] = 1 / mean[largest]
    elif bool(outside.norm() > math.sqrt(cutoff) * centre.norm()):
        ones = share * outside * (math.sqrt(n) / (outside @ centre))
    return _Span(basis, eigenvalues[kept], cutoff, ones)


def target_linearity(features: Tensor, targets: Tensor) -> float:
    """TL(H, Y) in [0, 1] (paper, Target Linearity).

    Args:
        features: H (N, d), any floating dtype; computed in float64.
        targets: class indices (N,) or a matrix (N, c).

    Raises and warns as `report` does.
    """
    return report(FeatureMoments().update(features, targets)).value


def surrogate(features: Tensor, weight: Tensor, targets: Tensor) -> float:
    """S(H, W, Y) = ‖Yᵀ H Wᵀ‖²_F / c, with Y column-centred, for c targets (paper, surrogate).

    How far the next layer's Gram matrix aligns the features with the targets. Grows as N².

    Args:
        features: H (N, d), the output of a layer.
        weight: W (m, d) of the layer after it; kernels count as rows.
        targets: class indices (N,) or a matrix (N, c).
    """
    return moments_surrogate(FeatureMoments().update(features, targets), weight)


def moments_surrogate(moments: FeatureMoments, weight: Tensor) -> float:
    """`surrogate` of accumulated moments, for any next-layer weight (m, d): ‖W C‖²_F / c."""
    return float((_rows(moments, weight) @ moments.cross).square().sum() / moments.c)


def response_norm(moments: FeatureMoments, weight: Tensor) -> float:
    """‖H Wᵀ‖²_F of accumulated moments: tr(W S Wᵀ) + n ‖W μ‖², for any next-layer weight W (m, d)."""
    rows = _rows(moments, weight)
    scatter = ((rows @ moments.scatter) * rows).sum()
    return float(scatter + moments.n * (rows @ moments.feature_mean).square().sum())


def _rows(moments: FeatureMoments, weight: Tensor) -> Tensor:
    rows = weight.detach().flatten(1).to(moments.scatter)
    if rows.shape[1] != moments.d:
        raise ValueError(f"a weight for {moments.d} features has {moments.d} columns, not {rows.shape[1]}")
    return rows


def _rounding(mean: Tensor) -> Tensor:
    """Standard deviation that rounding alone may give a constant column of this mean in float64."""
    return 64 * EPS * mean.abs()
