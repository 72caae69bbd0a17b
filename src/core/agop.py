"""The average gradient outer product (AGOP), and the Neural Feature Ansatz: G ∝ AGOP.

    AGOP(h) = 1/N Σ over samples and outputs of ∂f/∂h ∂f/∂hᵀ

(Radhakrishnan, Beaglehole, Pandit and Belkin, "Mechanism for feature learning in neural networks
and backpropagation-free machine learning models", Science 2024). Of the inputs h of a layer z = Wh
+ b it is WᵀKW with K the AGOP of z.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .batch import ratio, summable, total, unit


def output_gradients(
    outputs: Tensor, tensors: Sequence[Tensor]
) -> Iterator[tuple[Tensor | None, ...]]:
    """For each of c outputs its gradients with respect to tensors in its graph.

    Args:
        outputs: f (…, N, c), each sample's a function of that sample alone.
        tensors: of any shapes.

    Yields:
        c times a gradient for each tensor, of its shape; None where the output does not depend on
        it.
    """
    for output in outputs.flatten(0, -2).sum(0):
        yield torch.autograd.grad(output, tensors, retain_graph=True, allow_unused=True)


def average_gradient_outer_product(outputs: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
    """AGOP of several layers' features in one graph with the outputs.

    Args:
        outputs: f (…, N, c).
        features: of each layer h (…, N, d); leading axes are a batch of independent networks.

    Returns:
        for each layer (…, d, d), in the features' dtype; zero where the outputs do not depend on
        them.
    """
    sums = [h.new_zeros(*h.shape[:-2], h.shape[-1], h.shape[-1]) for h in features]
    for gradients in output_gradients(outputs, features):
        for outer, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                outer += gradient.mT @ gradient
    return [outer / outputs.shape[-2] for outer in sums]


def gram_agop_cosine(weight: Tensor, outer: Tensor, blocks: bool = False) -> float | Tensor:
    """Frobenius cosine of G = WᵀW and WᵀKW, the AGOP of a layer's inputs; from m × m matrices.

    With P = WWᵀ: tr(G WᵀKW) = tr(PKP), ‖WᵀKW‖² = tr((KP)²), ‖G‖ = ‖P‖. In float64.

    Args:
        weight: W (…, m, d).
        outer: K (…, m, m), the AGOP of the layer's outputs z, up to a factor.
        blocks: see batch.py.

    Returns:
        nan where one of the two is zero.
    """
    w, k = (unit(summable(t).to(torch.float64), blocks)[0] for t in (weight, outer))
    p = w @ w.mT  # (…, m, m)
    kp = k @ p
    product = (p * kp.mT).sum((-2, -1))
    gram, agop = p.square().sum((-2, -1)), (kp * kp.mT).sum((-2, -1))  # ‖G‖², ‖WᵀKW‖²
    product, gram, agop = (total(values, blocks) for values in (product, gram, agop))
    return ratio(product, gram.sqrt() * agop.clamp_min(0).sqrt())
