"""Measuring features, against the forward pass that makes them."""

import torch
from torch import Tensor

from core.linearity import moments_surrogate, report, response_norm
from core.moments import FeatureMoments
from lab import memory, training
from lab.data import Images
from lab.models import MLP
from lab.replicas import generator
from report.speed.entries import Row
from report.speed.timing import alone, in_turn, peak, restart_peak, synthetic

WIDTHS = (3072, 256, 256, 256, 256, 10)  # Figure 4 on CIFAR-10
SPARE = 200.0  # MB that measuring may take beyond the data


def network(device: str) -> MLP:
    """The network of Figure 4, before training."""
    return MLP(WIDTHS, [generator(0, "weights")]).to(device)


@torch.no_grad()
def hidden_layers(model: MLP, images: Images) -> list[Tensor]:
    """Features (N, width) of every hidden layer on the training images."""
    batches = training.whole_batches(images, "train", 1, torch.float32)
    chunks = [model.hidden(x) for x, _ in batches]
    return [torch.cat(layer, 1)[0] for layer in zip(*chunks, strict=True)]


def against_forward(samples: int, repeats: int, device: str) -> tuple[float, float, float]:
    """Seconds of all measures and of the forward pass, and MB that measuring takes."""
    model, images = network(device), synthetic(samples, device=device)
    hidden = hidden_layers(model, images)

    def measure() -> None:
        for h, layer in zip(hidden, model.layers[1:], strict=True):
            moments = FeatureMoments().update(h, images.y_train)
            report(moments)
            moments_surrogate(moments, layer.weight[0])
            response_norm(moments, layer.weight[0])

    before = restart_peak()
    measure()
    extra = peak(before)
    measures, forward = in_turn(repeats, measure, lambda: hidden_layers(model, images))
    return measures, forward, extra


def measuring_rows(samples: int, repeats: int, device: str) -> list[Row]:
    """In a process of its own, whose largest memory is then that of measuring."""
    memory.check("measuring", samples * 3 * 32 * 32, 9)  # bytes, and as floats
    measures, forward, extra = alone(against_forward, samples, repeats, device)
    what = f"all measures of 4 hidden layers of width 256, {samples:,} samples"
    return [
        Row(what, measures, "the forward pass", forward, "s", 1),
        Row("memory of the same, beyond the data", extra, "what it may take", SPARE, "MB", 1),
    ]
