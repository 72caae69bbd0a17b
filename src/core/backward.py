"""Gradients of a batch, of its loss and of each output, added to the layers that it called."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .agop import output_gradients
from .calls import Call
from .collector import Collector
from .rows import foreign_rows
from .targets import IGNORED, Targets


def default_loss(outputs: Tensor, targets: Targets) -> Tensor:
    """Cross-entropy of classes, or squared error, summed over the targets that are counted."""
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if not targets.are_classes:
        return (outputs.flatten(1) - targets.values).square().sum()
    logits, labels = outputs.flatten(0, -2), targets.values.flatten()
    return functional.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)


def add_gradients(layers: Sequence[Collector], loss: Tensor, mask: Tensor | None) -> None:
    """Add the gradients of a batch's loss to the layers that it called."""
    calls = _in_graph(layers)
    if not isinstance(loss, Tensor) or loss.ndim:
        kind = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the loss is to be one number, a tensor without axes, not {kind}")
    if not calls or not loss.requires_grad:
        return
    tensors = [*(call.outputs for _, call in calls), *(call.weight for _, call in calls)]
    try:
        gradients = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        hidden = [x.name for x in layers if not any(c.outputs.requires_grad for c in x.calls)]
        raise ValueError(
            f"{', '.join(hidden)}: the checkpointing around these layers hides gradients; give it "
            "use_reentrant=False"
        ) from error
    half = len(calls)
    for (layer, call), dz, dw in zip(calls, gradients[:half], gradients[half:], strict=True):
        if dz is not None:
            layer.add_gradients(call, dz, dw, mask)


def judge_rows(layers: Sequence[Collector], outputs: Tensor, causal: bool) -> None:
    """Whether rows of the layers that are new are the samples; of one sample alone they are."""
    layers = [layer for layer in layers if layer.rows_seen is None]
    if len(outputs) < 2 or not layers:
        return
    reasons = iter(foreign_rows(outputs, [call for x in layers for call in x.calls], causal))
    for layer in layers:
        layer.judge_rows(list(itertools.islice(reasons, len(layer.calls))))


def add_output_gradients(layers: Sequence[Collector], outputs: Tensor) -> None:
    """Add the gradients of each of the network's outputs (N, c)."""
    calls = _in_graph(layers)
    if not calls or not outputs.requires_grad:
        return
    for gradients in output_gradients(outputs, [call.outputs for _, call in calls]):
        for (layer, call), gradient in zip(calls, gradients, strict=True):
            if gradient is not None:
                layer.sums.add_output_gradient(call.product.outputs(gradient))


def _in_graph(layers: Sequence[Collector]) -> list[tuple[Collector, Call]]:
    """Calls whose outputs can have a gradient, of all layers."""
    return [(layer, call) for layer in layers for call in layer.calls if call.outputs.requires_grad]
