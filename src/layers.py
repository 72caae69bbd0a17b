"""Measures of every hidden layer of replicated MLPs, in one pass over a split."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

import training
from core.linearity import moments_surrogate, report, response_norm
from core.moments import FeatureMoments
from data import Images
from models import MLP

Moments = list[list[FeatureMoments]]  # [replica][hidden layer]


@torch.no_grad()
def one_pass(
    model: MLP, images: Images, split: str, labels: Tensor | None = None
) -> tuple[list[Moments], list[dict[str, Tensor]]]:
    """The hidden features' moments, and the accuracy and loss, under each of K labellings.

    Args:
        model: R replicas.
        images: the data.
        split: "train" or "test".
        labels: (K, R, N) labels; by default one labelling, the data's.

    Returns:
        (moments, scores), a list of K each; a score has accuracy and loss (mean cross-entropy in nats), (R,).
    """
    weights = [layer.weight for layer in model.layers]
    replicas, y = len(weights[0]), images.split(split)[1]
    labels = y.expand(1, replicas, -1) if labels is None else labels
    kinds, classes = len(labels), images.classes
    moments = [[FeatureMoments() for _ in weights[1:]] for _ in range(replicas)]
    total = torch.zeros(kinds, 2, replicas, dtype=torch.float64, device=y.device)
    start = 0
    for x, _ in training.batches(images, split, replicas, weights[0].dtype):
        part = labels[..., start : start + x.shape[1]]  # (K, R, B)
        start += x.shape[1]
        hidden = model.hidden(x)
        logits = model.layers[-1](hidden[-1])  # (R, B, c)
        total += torch.stack([torch.stack(training.score(logits, of_kind)) for of_kind in part])
        targets = functional.one_hot(part, classes).permute(1, 2, 0, 3).flatten(2)  # (R, B, K·c)
        for r in range(replicas):
            for sums, h in zip(moments[r], hidden, strict=True):
                sums.update(h[r], targets[r])
    sides = [slice(k * classes, (k + 1) * classes) for k in range(kinds)]
    of_kind = [[[sums.columns(side) for sums in row] for row in moments] for side in sides]
    means = total / len(y)
    return of_kind, [{"accuracy": accuracy, "loss": loss} for accuracy, loss in means]


def linearity(moments: Moments) -> dict[str, Tensor]:
    """tl, rank and chance level of every hidden layer, (R, layer) float64."""
    found = [[report(sums) for sums in row] for row in moments]
    names = {"tl": "value", "rank": "rank", "chance": "chance"}
    return {
        name: torch.tensor([[getattr(cell, key) for cell in row] for row in found], dtype=torch.float64)
        for name, key in names.items()
    }


def responses(moments: Moments, weights: Sequence[Tensor]) -> dict[str, Tensor]:
    """surrogate and ‖Z‖² of every hidden layer's output with the next layer's weight, (R, layer) float64.

    weights: those of the layers after the hidden ones, each (R, m, d).
    """
    measures = {"surrogate": moments_surrogate, "response_norm": response_norm}
    return {
        name: torch.tensor(
            [[measure(sums, w[r]) for sums, w in zip(row, weights, strict=True)] for r, row in enumerate(moments)],
            dtype=torch.float64,
        )
        for name, measure in measures.items()
    }
