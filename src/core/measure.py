"""What the theory says of a layer, for every Linear and Conv2d of any torch model, in one pass.

    table = measure(model, batches)
    print(table)

Of each layer Z = H Wᵀ + b, over all samples: Target Linearity of its inputs and outputs, the
surrogate, the spectrum of its Gram matrix G = WᵀW, the residual of the Feature Learning Equation,
the cosines of G with the Virtual Covariance Shift and with the average gradient outer product,
linear CKA with the targets, and Neural Collapse. This file collects what the layers are given and
their gradients; layer_sums.py turns the sums into the measures.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .agop import output_gradients
from .layer_sums import LayerSums
from .layer_table import LayerTable
from .layers import layer_features, layer_rows, layer_weight
from .virtual import feature_learning_residual

LARGEST = 8192  # dimensions of features whose moments are kept
IGNORED = -100  # class of positions that count for nothing, as in torch
Reduction = Literal["exact", "pool", "project"]
Loss = Callable[[Tensor, Tensor], Tensor]


def measure(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss: Loss | None = None,
    names: str = "",
    reduction: Reduction = "exact",
    projected: int = 2048,
    gradients_of_outputs: bool = True,
    all_reduce: bool = False,
) -> LayerTable:
    """Measure every Linear and Conv2d of a model that is called, in one pass over the data.

    The model is measured in evaluation mode and left as it was: its mode, parameters, gradients,
    buffers and hooks, and the state of torch's random generators.

    Args:
        model: any torch module whose layers are called as modules.
        batches: of (x, y), or dicts with "labels" for models that take keywords. y: class indices
            (N,); of tokens (N, T), −100 where a position is to be ignored; or targets (N, c).
        loss: from outputs and y to the sum of every sample's loss. Default: cross-entropy for
            classes, squared error.
        names: regular expression; only layers whose name it matches somewhere.
        reduction: what is done where a sample's features of a layer are a map of positions but its
            target is one. "exact": all positions side by side, up to 8,192 dimensions. "pool": the
            mean over positions. "project": side by side, and beyond `projected` dimensions a fixed
            Gaussian projection to that many.
        projected: dimensions after "project".
        gradients_of_outputs: the average gradient outer product takes a backward pass for each
            output: False leaves it out.
        all_reduce: merge with the other processes of torch.distributed, each given one or more
            batches of its own.

    Returns:
        a row a layer, see `LayerRow`.

    Raises:
        ValueError: no layers, no batches, or features beyond 8,192 dimensions with reduction
            "exact".
    """
    modules = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and re.search(names, name)
    }
    if not modules:
        raise ValueError(f"the model has no Linear or Conv2d whose name matches {names!r}")
    collectors = {name: Collector(name, module) for name, module in modules.items()}
    called: dict[str, Collector] = {}
    with _left_as_it_was(model, list(modules.values())), ExitStack() as hooks:
        for name, collector in collectors.items():
            handle = modules[name].register_forward_hook(collector.keep)
            hooks.callback(handle.remove)
        for batch in batches:
            inputs, y = _split(batch, next(model.parameters()).device)
            outputs = _prediction(model(**inputs) if isinstance(inputs, Mapping) else model(inputs))
            with_calls = {
                name: collector for name, collector in collectors.items() if collector.calls
            }
            called |= with_calls
            now = [collector for collector in called.values() if collector.calls]
            _add_gradients(now, (loss or _default_loss)(outputs, y))
            if gradients_of_outputs and outputs.ndim == 2:
                _add_output_gradients(now, outputs)
            is_classified = outputs.ndim == 2 and not y.is_floating_point() and y.ndim == 1
            predicted = outputs.detach().argmax(-1) if is_classified else None
            for collector in now:
                collector.add_moments(y, predicted, reduction, projected)
                collector.calls = []
    if not called:
        raise ValueError("no batches, or none of the layers is called: nothing was measured")
    if all_reduce:
        for collector in called.values():
            collector.sums.all_reduce()
    rows = (c.sums.row(c.name, type(c.layer).__name__) for c in called.values())
    return LayerTable(rows)


class Collector:
    """Keeps a layer's calls on one batch, and adds them to its sums."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        self.name, self.layer = name, layer
        self.sums = LayerSums(layer_weight(layer, layer.weight.detach()))
        self.calls: list[tuple[Tensor, Tensor]] = []  # inputs and outputs

    def keep(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook: remember this call; what follows may change its copy in place."""
        self.calls.append((inputs[0].detach().clone(), output))
        return output.clone()

    def add_gradients(
        self, gradients: Sequence[Tensor | None], weight_gradient: Tensor | None
    ) -> None:
        """Add ∂L/∂W of a batch, and compare the two sides of the Feature Learning Equation.

        gradients: ∂L/∂Z of each call; None where the loss does not depend on it.
        """
        if weight_gradient is None:
            return
        pairs = zip(self.calls, gradients, strict=True)
        rows = [
            (layer_features(self.layer, inputs), layer_rows(self.layer, gradient))
            for (inputs, _), gradient in pairs
            if gradient is not None
        ]
        h, dz = (torch.cat(parts, 1) for parts in zip(*rows, strict=True))  # (g, N, d), (g, N, m)
        dw = layer_weight(self.layer, weight_gradient)  # (g, m, d)
        weight = self.sums.weight
        residual = feature_learning_residual(h, weight, dz @ weight, dw, blocks=True)
        self.sums.residual = max(self.sums.residual, residual)
        self.sums.add_weight_gradient(dw)

    def add_output_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """Add ∂f/∂Z of each call, for one output."""
        for gradient in gradients:
            if gradient is not None:
                self.sums.add_output_gradient(layer_rows(self.layer, gradient))

    def add_moments(
        self, y: Tensor, predicted: Tensor | None, reduction: Reduction, projected: int
    ) -> None:
        """Add the moments of inputs and outputs with the targets, and what is predicted."""
        inputs, outputs = (torch.cat(parts) for parts in zip(*self.calls, strict=True))
        y = y.repeat(len(self.calls), *[1] * (y.ndim - 1))
        sides = ((inputs, self.sums.inputs), (outputs.detach(), self.sums.outputs))
        for features, moments in sides:
            paired = self._rows(features, y, reduction, projected)
            if paired is not None:
                moments.update(*paired)
        if predicted is not None and inputs.ndim == 2 and len(inputs) == len(predicted):
            self.sums.predictions.append((inputs, predicted))

    def _rows(
        self, features: Tensor, y: Tensor, reduction: Reduction, projected: int
    ) -> tuple[Tensor, Tensor] | None:
        """Features (N, d) and targets, a sample or token a row; None where they do not match."""
        is_convolution = isinstance(self.layer, nn.Conv2d)
        is_class = not y.is_floating_point()
        if is_class and y.ndim > 1:  # a class a token
            if is_convolution or features.shape[:-1] != y.shape:
                return None
            return features[y != IGNORED], y[y != IGNORED]
        if len(features) != len(y):
            return None
        if is_class:
            features, y = features[y != IGNORED], y[y != IGNORED]
        if features.ndim == 2:
            return features, y
        if reduction == "pool":
            positions = features.flatten(2).mT if is_convolution else features.flatten(1, -2)
            return positions.mean(1), y
        flat = features.flatten(1)
        if reduction == "project" and flat.shape[1] > projected:
            return self._project(flat, projected), y
        if flat.shape[1] > LARGEST:
            raise ValueError(
                f"{self.name}: features of {flat.shape[1]} dimensions; take reduction 'pool' or "
                "'project', or leave the layer out by names"
            )
        return flat, y

    def _project(self, features: Tensor, dimensions: int) -> Tensor:
        """A Gaussian projection (N, dimensions), the same in every batch."""
        g = torch.Generator().manual_seed(0)
        matrix = torch.randn(features.shape[1], dimensions, generator=g) / math.sqrt(dimensions)
        reduced = features @ matrix.to(features)
        ratio = reduced.double().square().sum(1) / features.double().square().sum(1)
        self.sums.reduction_error += float((ratio - 1).abs().sum())
        self.sums.reduced_samples += len(features)
        return reduced


def _add_gradients(collectors: Sequence[Collector], loss: Tensor) -> None:
    """Add the gradients of a batch's loss to the layers that it called."""
    weights = [collector.layer.weight for collector in collectors]
    tensors = [output for collector in collectors for _, output in collector.calls]
    gradients = torch.autograd.grad(
        loss, [*tensors, *weights], retain_graph=True, allow_unused=True
    )
    by_layer = _by_layer(collectors, gradients[: len(tensors)])
    weight_gradients = gradients[len(tensors) :]
    for collector, calls, dw in zip(collectors, by_layer, weight_gradients, strict=True):
        collector.add_gradients(calls, dw)


def _add_output_gradients(collectors: Sequence[Collector], outputs: Tensor) -> None:
    """Add the gradients of each of the network's outputs (N, c)."""
    tensors = [output for collector in collectors for _, output in collector.calls]
    for gradients in output_gradients(outputs, tensors):
        for collector, calls in zip(collectors, _by_layer(collectors, gradients), strict=True):
            collector.add_output_gradients(calls)


def _by_layer(
    collectors: Sequence[Collector], gradients: Sequence[Tensor | None]
) -> Iterator[Sequence[Tensor | None]]:
    """Gradients of all calls, those of each layer together."""
    start = 0
    for collector in collectors:
        yield gradients[start : start + len(collector.calls)]
        start += len(collector.calls)


def _default_loss(outputs: Tensor, y: Tensor) -> Tensor:
    if y.is_floating_point():
        return (outputs - y).square().sum()
    logits, labels = outputs.flatten(0, -2), y.flatten()
    return functional.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)


def _split(batch: Any, device: torch.device) -> tuple[Any, Tensor]:
    """Inputs and targets of a batch, on the device."""
    if isinstance(batch, Mapping):
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        return moved, moved.pop("labels")
    x, y = batch
    return x.to(device), y.to(device)


def _prediction(outputs: Any) -> Tensor:
    """The tensor of outputs: itself, its `logits`, or the first of several."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        return outputs["logits"]
    return outputs.logits if hasattr(outputs, "logits") else outputs[0]


@contextmanager
def _left_as_it_was(model: nn.Module, layers: Sequence[nn.Module]) -> Iterator[None]:
    """Mode, gradients of the layers' weights and random states are as before at the end."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(layer.weight, layer.weight.requires_grad) for layer in layers]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
            for module, _ in modes:
                module.training = False
            for weight, _ in wanted:
                weight.requires_grad_()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, needed in wanted:
            weight.requires_grad_(needed)
