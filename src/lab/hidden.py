"""Measures of every hidden layer of replicated networks, in one pass over a split."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from core.linearity import (
    moments_surrogate,
    report,
    response_cka,
    response_norm,
    surrogate_share,
)
from core.moments import FeatureMoments
from lab.data import Images
from lab.models import MLP
from lab.networks import Stacked, evaluating
from lab.training import score, whole_batches


@torch.no_grad()
def one_pass(
    model: MLP | Stacked, images: Images, split: str, labels: Tensor | None = None
) -> list[tuple[list[FeatureMoments], dict[str, Tensor]]]:
    """Moments of the hidden features, accuracy and loss, under each of K labellings.

    Args:
        model: R replicas.
        images: the data.
        split: "train" or "test".
        labels: (K, R, N); by default one labelling, the data's.

    Returns:
        for each labelling the moments of every hidden layer, with leading axis R, and accuracy and
        loss (mean cross-entropy in nats), (R,) each.
    """
    parameter, y = next(model.parameters()), images.split(split)[1]
    replicas = len(parameter)
    labels = y.expand(1, replicas, -1) if labels is None else labels
    moments = [FeatureMoments() for _ in model.readers[1:]]
    total = torch.zeros(len(labels), 2, replicas, dtype=torch.float64, device=y.device)
    start = 0
    for x, _ in whole_batches(images, split, replicas, parameter.dtype):
        part = labels[..., start : start + x.shape[1]]  # (K, R, B)
        start += x.shape[1]
        with evaluating(model):
            hidden, logits = model.with_hidden(x)  # (R, B, d) each, (R, B, c)
        total += torch.stack([torch.stack(score(logits, labelling)) for labelling in part])
        # all labellings side by side: their sums are one matrix product
        # (R, B, K·c)
        targets = functional.one_hot(part, images.classes).permute(1, 2, 0, 3).flatten(2)
        for sums, h in zip(moments, hidden, strict=True):
            sums.update(h, targets.double())
    labellings = []
    for k, (accuracy, loss) in enumerate(total / len(y)):
        columns = slice(k * images.classes, (k + 1) * images.classes)
        scores = {"accuracy": accuracy, "loss": loss}
        labellings.append(([sums.columns(columns) for sums in moments], scores))
    return labellings


def linearity(moments: Sequence[FeatureMoments]) -> dict[str, Tensor]:
    """tl, rank and chance level of every hidden layer, (R, layer) float64.

    Layers of one width are solved as one batch, which a GPU takes at once.
    """
    names = {"tl": "value", "rank": "rank", "chance": "chance"}
    widths: dict[int, list[int]] = {}
    for layer, sums in enumerate(moments):
        widths.setdefault(sums.d, []).append(layer)
    found = {}  # layer -> measures, (R,) each
    for layers in widths.values():
        reports = report(FeatureMoments.stack([moments[layer] for layer in layers]))
        columns = [getattr(reports, key).unbind(-1) for key in names.values()]
        found |= dict(zip(layers, zip(*columns, strict=True), strict=True))
    by_measure = zip(*(found[layer] for layer in range(len(moments))), strict=True)
    return {
        name: torch.stack(values, -1).double()
        for name, values in zip(names, by_measure, strict=True)
    }


def responses(
    moments: Sequence[FeatureMoments], weights: Sequence[Tensor | None]
) -> dict[str, Tensor]:
    """Measures of every hidden layer's responses Z = HWᵀ, (R, layer) float64.

    surrogate, ‖Z‖², and the surrogate normalised in two ways, `surrogate_share` and `response_cka`.

    weights: W (R, m, d) that reads each hidden layer; nan at None.
    """
    measures = {
        "surrogate": moments_surrogate,
        "response_norm": response_norm,
        "surrogate_share": surrogate_share,
        "response_cka": response_cka,
    }
    undefined = moments[0].scatter.new_full(moments[0].batch_shape, torch.nan)
    return {
        name: torch.stack(
            [
                undefined if weight is None else measure(sums, weight)
                for sums, weight in zip(moments, weights, strict=True)
            ],
            -1,
        )
        for name, measure in measures.items()
    }
