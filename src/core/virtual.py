"""The virtual update of a layer's features, and the Virtual Covariance.

One layer is Z = H Wᵀ + b with features H (N, d), one sample a row, weight W (m, d) and loss L; A =
∂L/∂H (N, d). Gradient descent on the features themselves would move them to H⁺ = H − γA, whose
uncentred covariance H⁺ᵀH⁺ (d, d) is the Virtual Covariance. Gradient descent on the weights with
rate γ moves the Gram matrix G = WᵀW by

    ΔG = −γ (AᵀH + HᵀA) + γ² (∂L/∂W)ᵀ ∂L/∂W,

for Wᵀ ∂L/∂W = AᵀH: to first order by the Virtual Covariance Shift (paper, Theorem 1).

Covariances are sums over samples: those of a whole set are the sums of its batches', where A is the
gradient of one loss, the set's. Leading axes are a batch.
"""

import functools

import torch
from torch import Tensor

from .batch import ratio, scalar, summable, total, unit

LEAST = 1e-10  # ‖X + Xᵀ‖² / ‖X‖² below which rounding leaves the cosine fewer than 6 digits


def virtual_update(features: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """H⁺ = H − γA (paper, Definition 1).

    Args:
        features: H (…, N, d), any floating dtype.
        gradient: A = ∂L/∂H (…, N, d).
        rate: γ.

    Returns:
        (…, N, d), in the wider dtype of the two.

    Raises:
        ValueError: features and gradient are not matrices of one shape.
    """
    _check(features, gradient)
    return features - rate * gradient


def virtual_covariance(features: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """VC = H⁺ᵀH⁺ (paper, Definition 1), uncentred and not divided by N.

    Args and raises as `virtual_update`.

    Returns:
        (…, d, d) float64, computed in float64 throughout.
    """
    _check(features, gradient)
    h, a = (summable(t).to(torch.float64) for t in (features, gradient))
    moved = virtual_update(h, a, rate)
    return moved.mT @ moved


def virtual_covariance_shift(features: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """VCS = VC − HᵀH = −γ (AᵀH + HᵀA) + γ² AᵀA (paper, Definition 1).

    Computed so, it keeps its digits where γ is tiny.

    Args and raises as `virtual_update`.

    Returns:
        (…, d, d) float64, computed in float64 throughout; not finite where γ² AᵀA is not.
    """
    _check(features, gradient)
    h, a = (summable(t).to(torch.float64) for t in (features, gradient))
    step = rate * a
    cross = step.mT @ h
    return step.mT @ step - (cross + cross.mT)


def gram_change_diagonals(
    features: Tensor, gradient: Tensor, weight_gradient: Tensor, rate: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Diagonals of the parts of ΔG in a step of gradient descent (ours, from Equation 1).

    ΔG = −γ (AᵀH + HᵀA) + γ² (∂L/∂W)ᵀ ∂L/∂W = VCS + γ² ((∂L/∂W)ᵀ ∂L/∂W − AᵀA), exactly. Sums over
    columns: no d × d matrix.

    Args:
        features: H (…, N, d), all samples that reach the weight.
        gradient: A = ∂L/∂H (…, N, d).
        weight_gradient: ∂L/∂W (…, m, d).
        rate: γ.

    Returns:
        diagonals (…, d), in the dtypes given, of −γ (AᵀH + HᵀA), of γ² AᵀA, which is the rest of
        the Virtual Covariance Shift, and of γ² (∂L/∂W)ᵀ ∂L/∂W, which is the rest of ΔG.

    Raises:
        ValueError: features and gradient are not matrices of one shape.
    """
    _check(features, gradient)
    first_order = -2 * rate * (gradient * features).sum(-2)
    outer, second_order = (rate**2 * m.square().sum(-2) for m in (gradient, weight_gradient))
    return first_order, outer, second_order


def feature_learning_residual(
    features: Tensor,
    weight: Tensor,
    gradient: Tensor,
    weight_gradient: Tensor,
    blocks: bool = False,
) -> float | Tensor:
    """Distance from the Feature Learning Equation: ‖Wᵀ ∂L/∂W − AᵀH‖ / ‖AᵀH‖.

    An identity (paper, Equation 1): what is left is rounding, in the dtype that is given, float32
    for half precisions. Sizes do not matter: factors are scaled before they are multiplied.

    Args:
        features: H (…, N, d), all samples that reach the weight.
        weight: W (…, m, d).
        gradient: A = ∂L/∂H (…, N, d), as ∂L/∂Z W.
        weight_gradient: ∂L/∂W (…, m, d).
        blocks: see batch.py.

    Returns:
        the relative Frobenius distance; zero where both sides are, not finite where AᵀH alone is.
    """
    _check(features, gradient)
    given = [summable(t) for t in (weight, weight_gradient, gradient, features)]
    working = functools.reduce(torch.promote_types, (t.dtype for t in given), torch.float32)
    (w, of_w), (dw, of_dw), (a, of_a), (h, of_h) = (unit(t.to(working), blocks) for t in given)
    left, right = w.mT @ dw, a.mT @ h  # (…, d, d), each in units of its own
    left *= (of_w / of_a * (of_dw / of_h)).to(working)  # quotients: products may leave the range
    difference = left - right
    distance, size = (total(m.square().sum((-2, -1)), blocks).sqrt() for m in (difference, right))
    is_zero = total(difference.abs().amax((-2, -1)), blocks) == 0
    return scalar(torch.where(is_zero, 0.0, distance / size))  # nan where one side is


def gram_shift_cosine(
    weight: Tensor, weight_gradient: Tensor, blocks: bool = False
) -> float | Tensor:
    """Frobenius cosine of G = WᵀW and −(AᵀH + HᵀA), the Virtual Covariance Shift at a small rate.

    From m × m matrices alone: with X = Wᵀ ∂L/∂W = AᵀH, P = WWᵀ and Q = ∂L/∂W Wᵀ, ‖G‖ = ‖P‖,
    tr(GX) = tr(PQ), tr(X²) = tr(Q²) and ‖X‖² = tr(∂L/∂Wᵀ P ∂L/∂W). In float64.

    Args:
        weight: W (…, m, d).
        weight_gradient: ∂L/∂W (…, m, d).
        blocks: see batch.py.

    Returns:
        nan where one of the two is zero, or X + Xᵀ so much smaller than X that it is rounding.
    """
    w, g = (unit(summable(t).to(torch.float64), blocks)[0] for t in (weight, weight_gradient))
    p = w @ w.mT  # (…, m, m)
    q = g @ w.mT
    square = ((p @ g) * g).sum((-2, -1))  # ‖X‖²
    shift = 2 * (square + (q * q.mT).sum((-2, -1)))  # ‖X + Xᵀ‖²
    product = -2 * (p * q).sum((-2, -1))
    gram = p.square().sum((-2, -1))  # ‖G‖²
    product, gram, square, shift = (
        total(values, blocks) for values in (product, gram, square, shift)
    )
    shift = torch.where(shift > LEAST * square, shift, 0.0)
    return ratio(product, gram.sqrt() * shift.sqrt())


def _check(features: Tensor, gradient: Tensor) -> None:
    if features.shape != gradient.shape or features.ndim < 2:
        shapes = f"{tuple(features.shape)} and {tuple(gradient.shape)}"
        raise ValueError(
            f"features and gradient must be matrices (…, N, d) of one shape, not {shapes}"
        )
