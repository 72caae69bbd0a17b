"""One pass of all samples through replicated networks and back, layer by layer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from lab.models import CNN, MLP, Conv3x3, Linear


@dataclass(frozen=True)
class Snapshot:
    """One pass through R networks and back; every list has an entry a linear layer."""

    weights: list[Tensor]  # W (R, m, d), kernels as rows
    features: list[Tensor]  # H (R, N, d) that W reads, patches as rows
    responses: list[Tensor]  # Z = HWᵀ + b (R, N, m), in one graph with the outputs
    response_gradients: list[Tensor]  # ∂L/∂Z (R, N, m) of the mean loss L
    weight_gradients: list[Tensor]  # ∂L/∂W (R, m, d)
    outputs: Tensor  # (R, N, c)
    losses: Tensor  # L (R,)

    @cached_property
    def slopes(self) -> list[Tensor]:
        """J = ∂f/∂H (R, N, d) of the one output f."""
        slopes = torch.autograd.grad(self.outputs.sum(), self.responses, retain_graph=True)
        return [slope @ weight for slope, weight in zip(slopes, self.weights, strict=True)]


def linear_layers(model: MLP | CNN) -> list[Linear | Conv3x3]:
    """The layers in the order in which samples pass them."""
    return [*model.layers] if isinstance(model, MLP) else [*model.convolutions, model.readout]


def look(model: MLP | CNN, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Snapshot:
    """A snapshot of R networks, which shares their memory: it is true until their next step.

    As `backward`, it adds to the gradients of their parameters.

    Args:
        model: of R replicas.
        x: samples (R, N, …).
        loss: from outputs (R, N, c) to mean losses (R,).
    """
    layers = linear_layers(model)
    inputs, responses = [], []

    def keep(_: torch.nn.Module, arguments: tuple[Tensor], response: Tensor) -> None:
        response.retain_grad()
        inputs.append(arguments[0].detach())
        responses.append(response)

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    outputs = model(x)
    for hook in hooks:
        hook.remove()
    losses = loss(outputs)
    losses.sum().backward(retain_graph=True)  # of the sum, so that replicas do not mix
    return Snapshot(
        weights=[layer.weight.detach().flatten(2) for layer in layers],
        features=[_input_rows(layer, h) for layer, h in zip(layers, inputs, strict=True)],
        responses=responses,
        response_gradients=[_response_rows(z.grad) for z in responses],
        weight_gradients=[layer.weight.grad.flatten(2) for layer in layers],
        outputs=outputs,
        losses=losses.detach(),
    )


def _input_rows(layer: torch.nn.Module, h: Tensor) -> Tensor:
    """What each row of a weight is multiplied with: (R, N, …) -> (R, rows, d)."""
    if not isinstance(layer, Conv3x3):
        return h
    patches = functional.unfold(h.flatten(0, 1), 3, padding=1)  # (R·N, 9c, positions)
    return patches.mT.reshape(len(h), -1, patches.shape[1])


def _response_rows(z: Tensor) -> Tensor:
    """Responses as rows: (R, N, m) as it is, (R, N, m, H, W) -> (R, N·H·W, m)."""
    return z if z.ndim == 3 else z.movedim(2, -1).flatten(1, 3)
