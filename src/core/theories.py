"""What other theories of feature learning say of a layer Z = H Wᵀ + b, as numbers.

Row i of A = ∂L/∂H and of ∂L/∂Z is the gradient of sample i's loss, A = ∂L/∂Z W by this weight
alone.

- Canonical Representation Hypothesis (Ziyin, Chuang, Galanti and Poggio, "Formation of
  representations in neural networks", arXiv:2410.03006): on the input's side HᵀH ∝ AᵀA ∝ WᵀW, on
  the output's ZᵀZ ∝ (∂L/∂Z)ᵀ ∂L/∂Z ∝ WWᵀ, second moments that are not centred.
- Law of data separation (He and Su, PNAS 2023, arXiv:2210.17020): tr(Σ_W Σ_B⁺) falls by one factor
  a layer.
- Compression and discrimination (Wang et al., JMLR, arXiv:2311.02960): tr Σ_W / tr Σ_B falls by one
  factor a layer, and 1 − max cos(μ_k, μ_l) rises linearly, as proved for deep linear networks.
- Equal gain per layer (He and Su, arXiv:2408.13442): 1 − R² of a linear map from the features to
  the target falls by one factor a layer. It is 1 − Target Linearity.
- Deep Neural Regression Collapse (Rangamani and Unal, arXiv:2603.23805): NRC1 to NRC4, of which
  NRC2 is `linear_cka`, and NRC4 is 1 − Target Linearity up to the targets' variance.
- Linearity of a layer (Razzhigaev et al., "Your transformer is secretly linear", arXiv:2405.12250):
  R² of the linear map from a layer's features to the next layer's, both centred. It is TL₁ with
  these for targets: `report(FeatureMoments().update(features, next), intercept=True)`.

FACT, the Neural Feature Ansatz and the Virtual Covariance Shift are in fact.py, agop.py and
virtual.py. Leading axes are a batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .batch import scalar, summable, unit
from .collapse import class_means, collapse
from .gram import cosine
from .linearity import EPS, weight_rows
from .moments import FeatureMoments

# names for `measure(…, theories=…)`; the Ansatz and the Virtual Covariance Shift need none
THEORIES = ("fact", "crh", "separation", "compression", "regression", "linearity")


def check_theories(theories: Sequence[str]) -> frozenset[str]:
    """The names as a set; ValueError where one is not in THEORIES."""
    if isinstance(theories, str):
        raise ValueError(f'theories is a tuple of names, as ("{theories}",)')
    if unknown := sorted(set(theories) - set(THEORIES)):
        raise ValueError(f"theories are {', '.join(THEORIES)}, not {unknown[0]!r}")
    return frozenset(theories)


@dataclass(frozen=True)
class Alignments:
    """Cosines of the Canonical Representation Hypothesis, one at full alignment.

    R, W and G are representations, weights and gradients: RWA is HᵀH and WᵀW on the input's side,
    ZᵀZ and WWᵀ on the output's; nan where one of two is zero.
    """

    rwa_in: float | Tensor
    gwa_in: float | Tensor
    rga_in: float | Tensor
    rwa_out: float | Tensor
    gwa_out: float | Tensor
    rga_out: float | Tensor


def canonical_alignments(
    weight: Tensor, inputs: Tensor, outputs: Tensor, gradients: Tensor, blocks: bool = False
) -> Alignments:
    """The six alignments of the Canonical Representation Hypothesis, in float64.

    Frobenius cosines of second moments, as the hypothesis has them; its authors plot Pearson's
    correlation of the entries of covariances, of features and gradients over their norms.

    Args:
        weight: W (…, m, d).
        inputs: Σ hhᵀ (…, d, d) over samples, up to a factor, as all of these.
        outputs: Σ zzᵀ (…, m, m).
        gradients: Σ (∂L/∂z)(∂L/∂z)ᵀ (…, m, m).
        blocks: see batch.py.
    """
    given = (summable(t).to(torch.float64) for t in (weight, inputs, outputs, gradients))
    w, h, z, g = (unit(matrix, blocks)[0] for matrix in given)
    sides = {"in": (h, w.mT @ w, w.mT @ g @ w), "out": (z, w @ w.mT, g)}
    cosines = {}
    for side, matrices in sides.items():
        if blocks:  # side by side they have the same products
            matrices = tuple(matrix.flatten(-3, -2) for matrix in matrices)
        r, gram, gradient = matrices
        pairs = {"rwa": (r, gram), "gwa": (gram, gradient), "rga": (r, gradient)}
        cosines |= {f"{name}_{side}": cosine(*pair) for name, pair in pairs.items()}
    return Alignments(**cosines)


@dataclass(frozen=True)
class ClassSeparation:
    """How far the classes are apart; nan where the class means are one point to rounding."""

    separation: float | Tensor  # tr(Σ_W Σ_B⁺), K times NC1
    compression: float | Tensor  # tr Σ_W / tr Σ_B
    discrimination: float | Tensor  # 1 − max over pairs of classes of cos(μ_k, μ_l)


def class_separation(moments: FeatureMoments) -> ClassSeparation:
    """Separation, compression and discrimination of features (…, N, d) and their classes.

    Σ_W and Σ_B are as in collapse.py. The class means of the cosines are not centred.

    Raises and warns as `collapse` does.
    """
    separation = moments.c * torch.as_tensor(collapse(moments).nc1, dtype=torch.float64)
    means = class_means(moments)  # (…, d, K)
    apart = (means - moments.feature_mean[..., None]).square().sum(-2)  # ‖μ_k − μ‖² (…, K)
    between = (moments.target_mean * apart).sum(-1)
    total = moments.scatter.diagonal(dim1=-2, dim2=-1).sum(-1) / moments.n
    compression = ((total - between) / between).clamp_min(0)
    directions = means / means.norm(dim=-2, keepdim=True)
    cosines = directions.mT @ directions
    same = torch.eye(moments.c, dtype=torch.bool, device=cosines.device)
    nearest = cosines.masked_fill(same, -math.inf).amax((-2, -1))
    undefined = separation.isnan()
    return ClassSeparation(
        separation=scalar(separation),
        compression=scalar(torch.where(undefined, math.nan, compression)),
        discrimination=scalar(torch.where(undefined, math.nan, 1 - nearest)),
    )


@dataclass(frozen=True)
class RegressionCollapse:
    """NRC1 and NRC3 of a layer's inputs, zero and one at full collapse."""

    # NRC1: share of the features' variance outside their k first principal axes
    outside: float | Tensor
    # NRC3: mean cosine of the principal angles between these axes and the k first right singular
    # vectors of the weight; nan without a weight, or where k exceeds one of its sides
    subspace: float | Tensor


def regression_collapse(
    moments: FeatureMoments, weight: Tensor | None = None
) -> RegressionCollapse:
    """NRC1 and NRC3, with k the rank of the centred targets.

    Args:
        moments: of H (…, N, d) and Y, with the whole scatter of the targets. Leading entries have
            targets of one rank.
        weight: W (…, m, d) that reads the features.

    Raises:
        ValueError: targets of which only the diagonal is kept, of different ranks, or constant.
    """
    if moments.diagonal_targets:
        raise ValueError("collapse of regression needs the whole scatter: diagonal_targets is set")
    eigenvalues = torch.linalg.eigvalsh(moments.target_scatter)  # ascending
    cutoff = max(moments.n, moments.c) * EPS * eigenvalues[..., -1:].clamp_min(0)
    ranks = (eigenvalues > cutoff).sum(-1).unique().tolist()
    if len(ranks) > 1 or not ranks[0]:
        reason = "constant" if ranks == [0] else f"of ranks {ranks}"
        raise ValueError(f"collapse of regression asks for the targets' rank; these are {reason}")
    k = ranks[0]
    variances, axes = torch.linalg.eigh(moments.scatter)
    variances = variances.clamp_min(0)
    # the tail itself: one minus the head would lose it where it is small
    outside = variances[..., : max(0, moments.d - k)].sum(-1) / variances.sum(-1)
    subspace = torch.full_like(outside, math.nan)
    if weight is not None and k <= min(weight.shape[-2:]):
        rows, _ = unit(weight_rows(moments, weight))
        read = torch.linalg.svd(rows, full_matrices=False).Vh[..., :k, :]
        subspace = torch.linalg.svdvals(read @ axes[..., -k:]).mean(-1)
    return RegressionCollapse(scalar(outside), scalar(subspace))
