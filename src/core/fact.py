"""FACT: what the Feature Learning Equation becomes under weight decay.

Where L + λ‖W‖²/2 is stationary, ∂L/∂W = −λW. The Feature Learning Equation Wᵀ ∂L/∂W = AᵀH (paper,
Equation 1) then says that

    WᵀW = −(1/λ) AᵀH,    A = ∂L/∂H

(Boix-Adserà et al., "FACT: the Features At Convergence Theorem for neural networks",
arXiv:2507.05644; this line from Equation 1 is ours). It is for decay that is part of the loss, as
SGD's and Adam's is, and not for AdamW's, which the gradient's rescaling leaves out.

Elsewhere the two sides differ by Wᵀ(W + (1/λ) ∂L/∂W). Leading axes are a batch.
"""

import torch
from torch import Tensor

from .batch import ratio, total


def check_decay(decay: float) -> None:
    """Raise ValueError unless λ is a positive number."""
    if not 0 < decay < float("inf"):
        raise ValueError(f"the decay must be a positive number, not {decay}")


def fact_cosine(weight: Tensor, weight_gradient: Tensor, blocks: bool = False) -> float | Tensor:
    """Frobenius cosine of WᵀW and −AᵀH = −Wᵀ ∂L/∂W, in which λ has no part; in float64.

    Args:
        weight: W (…, m, d).
        weight_gradient: ∂L/∂W (…, m, d), without the decay's λW.
        blocks: see batch.py.

    Returns:
        nan where one of the two is zero or not finite.
    """
    w, g = (_scaled(matrix, blocks)[0] for matrix in (weight, weight_gradient))
    left = _left(w)
    gram, learnt = left @ w, left @ g  # as WᵀW and AᵀH up to a rotation of their rows
    product = total((gram * learnt).sum((-2, -1)), blocks)
    return ratio(-product, _norm(gram, blocks) * _norm(learnt, blocks))


def fact_error(
    weight: Tensor, weight_gradient: Tensor, decay: float, blocks: bool = False
) -> float | Tensor:
    """Relative error ‖WᵀW + AᵀH/λ‖ / ‖WᵀW‖ with AᵀH = Wᵀ ∂L/∂W; in float64.

    Args:
        weight: W (…, m, d).
        weight_gradient: ∂L/∂W (…, m, d), without the decay's λW.
        decay: λ of L + λ‖W‖²/2, L that of the gradient.
        blocks: see batch.py.

    Returns:
        1 where AᵀH is zero; nan where W is zero; not finite where one of the two is not.

    Raises:
        ValueError: the decay is not a positive number.
    """
    check_decay(decay)
    w, size = _scaled(weight, blocks)
    rest = w + weight_gradient.to(torch.float64) / size / decay  # zero at a stationary point
    left = _left(w)
    return ratio(_norm(left @ rest, blocks), _norm(left @ w, blocks))


def _scaled(matrix: Tensor, blocks: bool) -> tuple[Tensor, Tensor]:
    """In float64 with a largest entry of 1, and what it was divided by."""
    matrix = matrix.to(torch.float64)
    size = matrix.abs().amax((-3, -2, -1) if blocks else (-2, -1), keepdim=True)
    size = torch.where(size == 0, 1.0, size)
    return matrix / size, size


def _left(w: Tensor) -> Tensor:
    """Wᵀ (d, m), or of a wide W the m × m factor R of Wᵀ = QR: ‖RX‖ = ‖WᵀX‖ for any X."""
    m, d = w.shape[-2:]
    return torch.linalg.qr(w.mT, mode="r").R if m < d else w.mT


def _norm(matrix: Tensor, blocks: bool) -> Tensor:
    return total(matrix.square().sum((-2, -1)), blocks).sqrt()
