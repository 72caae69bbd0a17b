"""Neural Collapse: how far features are from one point a class at the vertices of a simplex.

NC1 to NC4 of Papyan, Han and Donoho, "Prevalence of neural collapse during the terminal phase of
deep learning training" (PNAS 2020). With n_k samples and mean μ_k of class k of K, μ the mean of
all samples and M (d, K) the columns μ_k − (mean of the class means):

    Σ_B = Σ_k (n_k / n) (μ_k − μ)(μ_k − μ)ᵀ,  Σ_W the scatter within classes over n,  Σ_W + Σ_B = S
    / n NC1 = tr(Σ_W Σ_B⁺) / K
    NC2   lengths and angles of the columns of M, of a simplex all equal and cos = −1 / (K − 1)
    NC3 = ‖W / ‖W‖ − Mᵀ / ‖M‖‖²
    NC4   share of samples that the nearest class mean classifies otherwise than the network

Target Linearity follows from NC1 (ours). With π_k = n_k / n, Π = diag(π) and U (d, K) of columns
√π_k (μ_k − μ), so that Σ_B = UUᵀ, Target Linearity with an intercept is

    TL₁ = tr(Π Uᵀ(Σ_W + Σ_B)⁺U) / (1 − Σ π_k²),

for classes of equal size Pillai's trace tr((Σ_W + Σ_B)⁺ Σ_B) over K − 1. What varies outside the
range of Σ_B can only help the fit: Uᵀ(Σ_W + Σ_B)⁺U ≥ (I + A)⁻¹ on the range of U⁺, where A = U⁺ Σ_W
U⁺ᵀ has the trace K NC1. As 1 / (1 + a) is convex, and Π at most max π_k, with Σ_B of rank K − 1

    TL₁ ≥ 1 / (1 + κ K NC1),  κ = max π_k / (1 − Σ π_k²), for classes of equal size 1 / (K − 1).

It is an equality where classes have one size and Σ_W is the same in every direction of the range of
Σ_B, uncorrelated with the rest. NC1 → 0 so forces TL₁ → 1; the converse fails, for what a linear
map can subtract counts in NC1 alone.
"""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from .batch import scalar, summable, unit
from .linearity import DIGITS, EPS, LostDigits, rounding, weight_rows
from .moments import FeatureMoments

MANY_CLASSES = 4096  # beyond them Neural Collapse, whose tables grow as their square, is left out


@dataclass(frozen=True)
class CollapseReport:
    """NC1 to NC3 of one layer, all zero at full collapse, and what NC1 says of Target Linearity.

    Numbers, or tensors (…) of moments with leading axes. Where the class means are one point to
    rounding, as those of constant features, NC1 to NC3 are nan and the bound is 0.
    """

    nc1: float | Tensor  # tr(Σ_W Σ_B⁺) / K
    nc2_norm: float | Tensor  # standard deviation of the lengths ‖M_k‖ over their mean
    nc2_angle: float | Tensor  # mean over pairs of classes of |cos(M_k, M_l) + 1 / (K − 1)|
    # ‖W / ‖W‖ − Mᵀ / ‖M‖‖²_F, in [0, 4]; None without the classifier's weight
    nc3: float | Tensor | None
    # TL with an intercept is at least this; 1 / (1 + κ K NC1) where rank Σ_B = K − 1
    tl_bound: float | Tensor


def has_collapse(moments: FeatureMoments) -> bool:
    """Whether Neural Collapse has a meaning: 2 to 4,096 classes, each with samples, that vary."""
    if not moments.n or not moments.one_hot or not 1 < moments.c <= MANY_CLASSES:
        return False
    if moments.n == moments.c:  # one sample a class: nothing varies within it
        return False
    return bool((moments.target_mean > 0).all() & moments.scatter.isfinite().all())


def class_means(moments: FeatureMoments) -> Tensor:
    """Means μ_k of the features of each class (…, d, K), of moments whose targets are classes.

    Raises:
        ValueError: no samples, targets that are not classes, or a class without samples.
    """
    apart = _apart(moments)
    return moments.feature_mean[..., None] + apart


def collapse(moments: FeatureMoments, weight: Tensor | None = None) -> CollapseReport:
    """NC1 to NC3 of features and their classes.

    Args:
        moments: of class indices.
        weight: (…, K, d) of the classifier that reads these features.

    Raises:
        ValueError: as `class_means`; one class alone; a weight for other features.

    Warns:
        LostDigits: a measure so near to zero that rounding may have changed it by a millionth.
    """
    apart = _apart(moments)
    classes = moments.c
    if classes == 1:
        raise ValueError("Neural Collapse compares classes: all samples are of one")
    mean, total = moments.feature_mean, moments.scatter / moments.n  # S / n (…, d, d)
    share = moments.target_mean  # π (…, K)
    size = (mean.square() + total.diagonal(dim1=-2, dim2=-1)).sqrt()
    u = apart * share.sqrt()[..., None, :]  # Σ_B = U Uᵀ
    varies = u.norm(dim=-1) > rounding(size)  # features whose class means differ
    apart, u = (torch.where(varies[..., None], matrix, 0.0) for matrix in (apart, u))

    # of U and not of Σ_B, whose eigenvalues are the squares: half of their digits would be lost
    axes, values, loadings = torch.linalg.svd(u, full_matrices=False)
    rank = min(moments.d, classes - 1)  # at most: U √π = 0
    axes, values, loadings = axes[..., :rank], values[..., :rank], loadings[..., :rank, :]
    kept = values > max(u.shape[-2:]) * EPS * values[..., :1]  # (…, r)
    along = ((total @ axes) * axes).sum(-2)  # qᵀ (Σ_W + Σ_B) q of each axis q of Σ_B
    ratio = (along / values.square() - 1).clamp_min(0)  # qᵀ Σ_W q / qᵀ Σ_B q
    nc1 = torch.where(kept, ratio, 0.0).sum(-1) / classes
    # tr(Π U⁺U): 1 − Σ π² where Σ_B has rank K − 1, the targets' variance; less where it has not
    reached = (kept * (loadings.square() * share[..., None, :]).sum(-1)).sum(-1)
    largest = share.amax(-1)
    tl_bound = reached / (1 - share.square().sum(-1)) / (1 + largest * classes * nc1 / reached)
    distinct = reached > 0

    centred = apart - apart.mean(-1, keepdim=True)
    norms = centred.norm(dim=-2)  # (…, K)
    cosines = (centred.mT @ centred) / (norms[..., :, None] * norms[..., None, :])
    pairs = ~torch.eye(classes, dtype=torch.bool, device=cosines.device)
    nc3 = None
    if weight is not None:
        given = [unit(m)[0] for m in (weight_rows(moments, weight), centred.mT)]
        rows, means = (m / torch.linalg.matrix_norm(m, keepdim=True) for m in given)
        nc3 = (rows - means).square().sum((-2, -1))
    nc1 = torch.where(distinct, nc1, math.nan)
    nc2_norm = norms.std(-1, correction=0) / norms.mean(-1)
    nc2_angle = (cosines[..., pairs] + 1 / (classes - 1)).abs().mean(-1)

    # what rounding does to them: NC1 is a difference of ratios to Σ_B's eigenvalues
    spread = torch.linalg.matrix_norm(total)
    of_nc1 = torch.where(kept, spread[..., None] / values.square(), 0.0).sum(-1) / classes
    of_nc2 = 1 + spread.sqrt() / norms.mean(-1)
    errors = [("NC1", nc1, of_nc1)]
    if classes > 2:  # two means are always opposite
        errors += [("NC2 of lengths", nc2_norm, of_nc2), ("NC2 of angles", nc2_angle, of_nc2)]
    if nc3 is not None:
        errors.append(("NC3", nc3, of_nc2 * nc3.sqrt()))
    lost = [name for name, value, e in errors if bool((2 * EPS * e > DIGITS * value).any())]
    if lost:
        warnings.warn(
            f"{', '.join(lost)} so near to zero that rounding changes it by a millionth or more",
            LostDigits,
            stacklevel=2,
        )
    return CollapseReport(
        nc1=scalar(nc1),
        nc2_norm=scalar(nc2_norm),
        nc2_angle=scalar(nc2_angle),
        nc3=None if nc3 is None else scalar(nc3),
        tl_bound=scalar(torch.where(distinct, tl_bound, 0.0)),
    )


def _apart(moments: FeatureMoments) -> Tensor:
    """μ_k − μ (…, d, K): Σ_{i in k} (h_i − μ), the cross scatter's column k, over n_k."""
    if not moments.one_hot:
        raise ValueError("Neural Collapse is of classes: update the moments with class indices")
    counts = moments.n * moments.target_mean  # (…, K)
    absent = (counts < 0.5).nonzero()
    if len(absent):
        raise ValueError(f"class {int(absent[0, -1])} has no samples")
    return moments.cross / counts[..., None, :]


def nearest_mean_disagreement(features: Tensor, predicted: Tensor, means: Tensor) -> float | Tensor:
    """NC4: share of samples whose nearest class mean is not the class that the network predicts.

    Args:
        features: (…, N, d). predicted: (…, N) class indices. means: (…, d, K), as `class_means`.
    """
    centre = means.mean(-1, keepdim=True)  # distances far from zero lose their digits
    points = summable(features).to(means) - centre.mT
    nearest = torch.cdist(points, (means - centre).mT.contiguous()).argmin(-1)
    return scalar((nearest != summable(predicted)).double().mean(-1))
