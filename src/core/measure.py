"""Everything the theory says of a layer, for every Linear and Conv2d of any torch model, in one pass over the data.

    table = measure(model, batches)
    print(table)

Of each layer Z = H Wᵀ + b, over all samples: Target Linearity of its inputs and outputs, the surrogate, the spectrum
of its Gram matrix G = WᵀW, the residual of the Feature Learning Equation, the cosines of G with the Virtual
Covariance's change and with the average gradient outer product, linear CKA with the targets, and Neural Collapse.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from .collapse import class_means, collapse, nearest_mean_disagreement
from .layer_table import LayerRow, LayerTable
from .linearity import moments_surrogate, report
from .moments import FeatureMoments
from .virtual import feature_learning_residual, layer_features, layer_rows, layer_weight

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

    The model is measured in evaluation mode and left as it was: its mode, parameters, gradients, buffers and hooks,
    and the state of torch's random generators.

    Args:
        model: any torch module whose layers are called as modules.
        batches: of (x, y), or dicts with "labels" for models that take keywords. y: class indices (N,); of tokens
            (N, T), −100 where a position is to be ignored; or targets (N, c).
        loss: from outputs and y to the sum of every sample's loss. Default: cross-entropy for classes, squared error.
        names: regular expression; only layers whose name it matches somewhere.
        reduction: what is done where a sample's features of a layer are a map of positions but its target is one.
            "exact": all positions side by side, up to 8,192 dimensions. "pool": the mean over positions.
            "project": side by side, and beyond `projected` dimensions a fixed Gaussian projection to that many.
        projected: dimensions after "project".
        gradients_of_outputs: the average gradient outer product takes a backward pass for each output: False leaves
            it out.
        all_reduce: merge with the other processes of torch.distributed, each given one or more batches of its own.

    Returns:
        a row a layer, see `LayerRow`.

    Raises:
        ValueError: no layers, no batches, or features beyond 8,192 dimensions with reduction "exact".
    """
    chosen = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and re.search(names, name)
    }
    if not chosen:
        raise ValueError(f"the model has no Linear or Conv2d whose name matches {names!r}")
    layers = {name: _Layer(name, layer, reduction, projected) for name, layer in chosen.items()}
    called: dict[str, _Layer] = {}
    with _left_as_it_was(model, list(chosen.values())), ExitStack() as hooks:
        for name, layer in layers.items():
            handle = chosen[name].register_forward_hook(layer.keep)
            hooks.callback(handle.remove)
        for batch in batches:
            inputs, y = _split(batch, next(model.parameters()).device)
            outputs = _prediction(model(**inputs) if isinstance(inputs, Mapping) else model(inputs))
            called |= {name: layer for name, layer in layers.items() if layer.calls}
            _add(list(called.values()), outputs, y, loss or _default_loss, gradients_of_outputs)
    if not called:
        raise ValueError("no batches, or none of the layers is called: nothing was measured")
    if all_reduce:
        for layer in called.values():
            layer.all_reduce()
    return LayerTable(layer.row() for layer in called.values())


class _Layer:
    """The sums of one layer. g: groups of a convolution, 1 else."""

    def __init__(self, name: str, layer: nn.Module, reduction: Reduction, projected: int) -> None:
        self.name, self.layer, self.reduction, self.projected = name, layer, reduction, projected
        self.weight = layer_weight(layer, layer.weight.detach())  # (g, m, d)
        self.calls: list[tuple[Tensor, Tensor]] = []  # inputs and outputs of this batch
        zeros = {"dtype": torch.float64, "device": self.weight.device}
        self.weight_gradient = torch.zeros(self.weight.shape, **zeros)
        self.outer = torch.zeros(*self.weight.shape[:2], self.weight.shape[1], **zeros)  # Σ ∂f/∂z ∂f/∂zᵀ (g, m, m)
        self.outputs_seen = False
        self.residual = 0.0
        self.reduced = False  # whether the sums are those of all processes
        self.inputs, self.outputs = FeatureMoments(), FeatureMoments()
        self.reduction_error = torch.zeros(2, **zeros)  # sum over samples, and their number
        self.kept: list[
            tuple[Tensor, Tensor]
        ] = []  # inputs and the network's classes, of a layer with an output a class

    def keep(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook: remember this call; what follows gets a copy, which it may change in place."""
        self.calls.append((inputs[0].detach().clone(), output))
        return output.clone()

    def learn(self, gradients: Sequence[Tensor | None], weight_gradient: Tensor | None) -> None:
        """Add ∂L/∂W of a batch, and compare the two sides of the Feature Learning Equation."""
        if weight_gradient is None:
            return
        pairs = zip(self.calls, gradients, strict=True)
        rows = [(layer_features(self.layer, h), layer_rows(self.layer, dz)) for (h, _), dz in pairs if dz is not None]
        features, rows_of_outputs = (torch.cat(parts, 1) for parts in zip(*rows, strict=True))  # (g, N, d), (g, N, m)
        of_weight = layer_weight(self.layer, weight_gradient)
        residual = feature_learning_residual(features, self.weight, rows_of_outputs @ self.weight, of_weight)
        self.residual = max(self.residual, residual)
        self.weight_gradient += of_weight

    def add_output_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        for gradient in gradients:
            if gradient is not None:
                rows = layer_rows(self.layer, gradient).to(torch.float64)  # (g, N, m)
                self.outer += rows.mT @ rows
        self.outputs_seen = True

    def compare(self, y: Tensor, predicted: Tensor | None) -> None:
        """Add the moments of inputs and outputs with the targets."""
        inputs, outputs = (torch.cat(parts) for parts in zip(*self.calls, strict=True))
        y = y.repeat(len(self.calls), *[1] * (y.ndim - 1))
        for features, moments in ((inputs, self.inputs), (outputs.detach(), self.outputs)):
            rows, targets = self._rows(features, y)
            if rows is not None:
                moments.update(rows, targets)
        if predicted is not None and inputs.ndim == 2 and len(inputs) == len(predicted):
            self.kept.append((inputs, predicted))

    def _rows(self, features: Tensor, y: Tensor) -> tuple[Tensor | None, Tensor]:
        """Features (N, D) and their targets, a sample or a token a row; None where they do not belong together."""
        convolution = isinstance(self.layer, nn.Conv2d)
        tokens = not y.is_floating_point() and y.ndim > 1
        if tokens and not convolution and features.shape[:-1] == y.shape:
            counted = y != IGNORED
            return features[counted], y[counted]
        if tokens or len(features) != len(y):
            return None, y
        if not y.is_floating_point():
            features, y = features[y != IGNORED], y[y != IGNORED]
        if features.ndim == 2:
            return features, y
        if self.reduction == "pool":
            return features.flatten(2).mean(2) if convolution else features.flatten(1, -2).mean(1), y
        flat = features.flatten(1)
        if self.reduction == "project" and flat.shape[1] > self.projected:
            g = torch.Generator().manual_seed(0)
            matrix = torch.randn(flat.shape[1], self.projected, generator=g) / math.sqrt(self.projected)
            reduced = flat @ matrix.to(flat)
            ratio = reduced.double().square().sum(1) / flat.double().square().sum(1)
            self.reduction_error += torch.stack([(ratio - 1).abs().sum(), torch.tensor(len(flat)).to(ratio)])
            return reduced, y
        if flat.shape[1] > LARGEST:
            raise ValueError(
                f"{self.name}: features of {flat.shape[1]} dimensions; take reduction 'pool' or 'project', "
                "or leave the layer out by names"
            )
        return flat, y

    def all_reduce(self) -> None:
        self.reduced = True
        self.inputs.all_reduce()
        self.outputs.all_reduce()
        for total in (self.weight_gradient, self.outer, self.reduction_error):
            dist.all_reduce(total)
        residual = torch.tensor(self.residual, dtype=torch.float64, device=self.weight.device)
        dist.all_reduce(residual, dist.ReduceOp.MAX)
        self.residual = float(residual)

    def row(self) -> LayerRow:
        weight = self.weight.to(torch.float64)
        eigenvalues = torch.linalg.svdvals(weight).flatten().square()  # of G
        share = eigenvalues / eigenvalues.sum()
        _, m, d = weight.shape
        measures = self._of_features() | self._of_collapse()
        return LayerRow(
            name=self.name,
            kind=type(self.layer).__name__,
            d=d,
            m=m,
            effective_rank=float(torch.special.entr(share).sum().exp()),
            condition=float((eigenvalues.max() / eigenvalues.min()).sqrt()),
            residual=self.residual,
            **self._of_gram(weight),
            **measures,
            reduction_error=float(self.reduction_error[0] / self.reduction_error[1].clamp_min(1)),
        )

    def _of_gram(self, weight: Tensor) -> dict[str, float]:
        """Cosines of G, from m × m matrices alone: with X = Wᵀ ∂L/∂W = AᵀH and K = Σ ∂f/∂z ∂f/∂zᵀ, WᵀKW is the AGOP."""
        p = weight @ weight.mT  # WWᵀ, with the norm of G
        q = self.weight_gradient @ weight.mT  # tr(GX) = tr(PQ), tr(X²) = tr(Q²)
        norm = (
            (2 * ((p @ self.weight_gradient) * self.weight_gradient).sum() + 2 * (q * q.mT).sum()).clamp_min(0).sqrt()
        )
        along = -2 * (p * q).sum()  # of G and −(X + Xᵀ)
        kp = self.outer @ p
        agop = (kp * kp.mT).sum().clamp_min(0).sqrt()  # ‖WᵀKW‖
        with_agop = (p * kp.mT).sum()
        return {
            "cosine_vc": _ratio(along, p.norm() * norm),
            "cosine_agop": _ratio(with_agop, p.norm() * agop) if self.outputs_seen else math.nan,
        }

    def _of_features(self) -> dict[str, Any]:
        values: dict[str, Any] = dict.fromkeys(
            ("tl_in", "tl_out", "chance", "surrogate", "cka_in", "cka_out"), math.nan
        )
        for side, moments in (("in", self.inputs), ("out", self.outputs)):
            if moments.n:
                found = report(moments)
                values[f"tl_{side}"] = found.value
                scatters = moments.scatter.norm() * moments.target_scatter.norm()
                values[f"cka_{side}"] = _ratio(moments.cross.square().sum(), scatters)
                if side == "in":
                    values["chance"] = found.chance
        flat = self.weight.flatten(0, 1)
        if self.inputs.n and len(self.weight) == 1 and self.inputs.d == flat.shape[1]:
            values["surrogate"] = moments_surrogate(self.inputs, flat)
        return values | {"n": self.inputs.n}

    def _of_collapse(self) -> dict[str, float]:
        values = dict.fromkeys(("nc1", "nc2_norm", "nc2_angle", "nc3", "nc4"), math.nan)
        moments = self.inputs
        if moments.n and moments.classes and bool((moments.target_mean > 0).all()):
            classifier = self.weight.shape[:2] == (1, moments.c) and self.weight.shape[2] == moments.d
            found = collapse(moments, self.weight[0] if classifier else None)
            values |= {"nc1": found.nc1, "nc2_norm": found.nc2_norm, "nc2_angle": found.nc2_angle}
            if classifier:
                values["nc3"] = found.nc3
            if classifier and self.kept:
                values["nc4"] = self._nc4(class_means(moments))
        return values

    def _nc4(self, means: Tensor) -> float:
        features, predicted = (torch.cat(parts) for parts in zip(*self.kept, strict=True))
        share = nearest_mean_disagreement(features, predicted, means)
        counts = torch.tensor([share * len(features), len(features)], dtype=torch.float64, device=means.device)
        if self.reduced:
            dist.all_reduce(counts)
        return float(counts[0] / counts[1])


def _ratio(value: Tensor, by: Tensor) -> float:
    return float(value / by) if by > 0 else math.nan


def _add(layers: Sequence[_Layer], outputs: Tensor, y: Tensor, loss: Loss, gradients_of_outputs: bool) -> None:
    """Add one batch to the layers that it called, and forget its tensors."""
    layers = [layer for layer in layers if layer.calls]
    tensors = [output for layer in layers for _, output in layer.calls]
    weights = [layer.layer.weight for layer in layers]

    def by_layer(gradients: Sequence[Tensor | None]) -> list[Sequence[Tensor | None]]:
        ends = [sum(len(layer.calls) for layer in layers[: i + 1]) for i in range(len(layers))]
        return [gradients[end - len(layer.calls) : end] for layer, end in zip(layers, ends, strict=True)]

    gradients = torch.autograd.grad(loss(outputs, y), [*tensors, *weights], retain_graph=True, allow_unused=True)
    of_outputs = by_layer(gradients[: len(tensors)])
    for layer, of_calls, of_weight in zip(layers, of_outputs, gradients[len(tensors) :], strict=True):
        layer.learn(of_calls, of_weight)
    if gradients_of_outputs and outputs.ndim == 2:
        for output in outputs.sum(0):
            of_one = torch.autograd.grad(output, tensors, retain_graph=True, allow_unused=True)
            for layer, of_calls in zip(layers, by_layer(of_one), strict=True):
                layer.add_output_gradients(of_calls)
    classes = outputs.detach().argmax(-1) if outputs.ndim == 2 and not y.is_floating_point() and y.ndim == 1 else None
    for layer in layers:
        layer.compare(y, classes)
        layer.calls = []


def _default_loss(outputs: Tensor, y: Tensor) -> Tensor:
    if y.is_floating_point():
        return (outputs - y).square().sum()
    return functional.cross_entropy(outputs.flatten(0, -2), y.flatten(), reduction="sum", ignore_index=IGNORED)


def _split(batch: Any, device: torch.device) -> tuple[Any, Tensor]:
    """Inputs and targets of a batch, on the device."""
    if isinstance(batch, Mapping):
        moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
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
    """Evaluation mode, gradients of the layers' weights, and random states: all as before at the end."""
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
