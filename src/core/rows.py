"""Whether a layer's rows are the samples: seen by gradients, for shapes may agree by chance.

Rows are samples where the output for a sample depends on its own row alone. They are not inside of
a sort by length, where the sequence is the first axis, or in an expert that is given as many tokens
as there are samples. Behind the inputs of a decoder, which sees no later token, positions are those
of the targets where an output depends on no later row; those of an encoder are not. Ours.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .calls import Call

DRAWS = 3  # random halves of the samples: two samples that are exchanged are in both or none of
# all three in one of eight cases, a sorted batch hardly ever


def foreign_rows(outputs: Tensor, calls: Sequence[Call], causal: bool) -> list[str | None]:
    """Why the rows of a call are not those of the targets; "" where they are.

    Args:
        outputs: the network's predictions (N, *P, K), for N ≥ 2, in one graph with the calls.
        calls: of layers, in this graph or not.
        causal: whether the outputs are those of a decoder at its positions P = (T,).

    Returns:
        a reason, "", or None where no gradient shows it.
    """
    n, kinds = len(outputs), outputs.shape[-1]
    g = torch.Generator().manual_seed(0)
    within = [i for i, call in enumerate(calls) if call.outputs.requires_grad]
    if not within or not outputs.requires_grad:
        return [None] * len(calls)
    cut = outputs.shape[1] // 2 if causal else 0
    seen = torch.zeros(len(calls), 3, dtype=torch.bool, device=outputs.device)
    for _ in range(DRAWS):
        chosen = (torch.randperm(n, generator=g) < n // 2).to(outputs.device)
        towards = torch.randn(kinds, generator=g).to(outputs)  # a sum may be constant, of softmax
        towards = towards * chosen.view(n, *[1] * (outputs.ndim - 1))
        if cut:
            towards = towards * (torch.arange(outputs.shape[1]) < cut).to(outputs)[:, None]
        gradients = torch.autograd.grad(
            outputs,
            [calls[i].outputs for i in within],
            towards.expand_as(outputs),
            retain_graph=True,
            allow_unused=True,
        )
        for i, gradient in zip(within, gradients, strict=True):
            if gradient is not None:
                rows = calls[i].by_sample(gradient)
                seen[i] |= _seen(rows, chosen, cut if rows.shape[:-1] == outputs.shape[:-1] else 0)
    return [_reason(*flags) for flags in seen.tolist()]


def _seen(rows: Tensor, chosen: Tensor, cut: int) -> Tensor:
    """Whether a gradient (N, *Q, m) of some samples is at them, at others, and beyond positions."""
    if len(rows) != len(chosen) or not bool(rows.isfinite().all()):
        return torch.zeros(3, dtype=torch.bool, device=chosen.device)
    any_of = (rows != 0).flatten(1).any(1).to(chosen.device)
    later = (rows[:, cut:] != 0).any() if cut else torch.zeros((), dtype=torch.bool)
    return torch.stack([any_of[chosen].any(), any_of[~chosen].any(), later.to(chosen.device)])


def _reason(own: bool, others: bool, later: bool) -> str | None:
    if others:
        return "the output for a sample depends on rows of others: they are not the samples"
    if later:
        return "outputs depend on later rows: they are not at the decoder's positions"
    return "" if own else None
