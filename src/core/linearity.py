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


def report(moments: FeatureMoments) -> LinearityReport:
    """Target Linearity of accumulated moments, with rank, condition and chance level.

    The columns are scaled to unit length, so their units do not decide the rank. A column that is constant
    to rounding is dropped. Eigenvalues of the correlation matrix below max(n, d)·2⁻⁵² of the largest are cut, in
    singular values about 3·10⁻⁶ for 50,000 samples. So, in features of lower rank whose means are of the order of
    their spread, rounding in float32 is cut; rounding in bfloat16 or float16 is not and counts as features.

    Raises:
        ValueError: no samples, values that are not finite, or targets that are constant, for which TL has no
            meaning.

    Warns:
        RuntimeWarning: n ≤ d, where every target is linear in features of full rank.
    """
    if not moments.n:
        raise ValueError("no samples: update the moments before their report")
    total = moments.target_scatter.trace()
    if not (math.isfinite(total) and bool(torch.isfinite(moments.scatter.diagonal()).all())):
        raise ValueError("features or targets are not finite")
    if total <= moments.n * (_rounding(moments.target_mean) ** 2).sum():
        raise ValueError("the targets are constant: Target Linearity has no meaning")
    n, d = moments.n, moments.d
    if n <= d:
        warnings.warn(f"{n} samples of {d} features: any target may be linear in them", RuntimeWarning, stacklevel=2)

    norms = moments.scatter.diagonal().clamp_min(0).sqrt()  # (d,)
    varies = norms > math.sqrt(n) * _rounding(moments.feature_mean)
    scale = torch.where(varies, 1 / norms, 0.0)  # D^(-1/2)
    eigenvalues, vectors = torch.linalg.eigh(moments.scatter * scale * scale[:, None])  # of D^(-1/2) S D^(-1/2)
    cutoff = max(n, d) * EPS
    kept = (eigenvalues > cutoff * eigenvalues[-1]) & (eigenvalues > 0)
    root = eigenvalues[kept].rsqrt()  # (rank,)
    basis = vectors[:, kept] * root  # (d, rank), so that S⁺ = D^(-1/2) basis basisᵀ D^(-1/2) on the range of S
    cross = basis.mT @ (scale[:, None] * moments.cross)  # (rank, c)
    scaled_mean = scale * moments.feature_mean  # (d,)
    mean = basis.mT @ scaled_mean  # (rank,)

    # in columns of unit length about zero, so that one far column does not hide the means of the others
    length = (norms**2 + n * moments.feature_mean**2).sqrt()
    share = torch.where(varies, 1 / length, 0.0)
    span = torch.linalg.qr((norms * share)[:, None] * vectors[:, kept]).Q  # range of S
    centre = math.sqrt(n) * moments.feature_mean * share
    outside = centre - span @ (span.mT @ centre)
    constant = bool((moments.feature_mean[~varies] != 0).any())  # a dropped column that is not zero
    constant |= bool(outside.norm() > math.sqrt(cutoff) * centre.norm())
    rank = int(kept.sum())
    explained = (cross**2).sum()
    share_of_constant = 1.0  # how much of the constant function is linear in the features
    if not constant:
        along = n * (mean**2).sum()
        explained = explained - n * ((cross.mT @ mean) ** 2).sum() / (1 + along)
        share_of_constant = float(along / (1 + along))
    value = min(max(float(explained / total), 0.0), 1.0)
    # centred targets fill n − 1 dimensions at random; the features span these many of them on average
    chance = min((rank + constant - share_of_constant) / (n - 1), 1.0)
    return LinearityReport(
        value=value,
        rank=rank,
        condition=float(root.max() / root.min()) if rank else 1.0,
        cutoff=cutoff,
        n=n,
        d=d,
        chance=chance,
        adjusted=(value - chance) / (1 - chance) if chance < 1 else math.nan,
    )


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
