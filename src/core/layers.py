"""The product that a layer takes, as matrices: Z = H Wᵀ + b, for linear layers and convolutions.

A convolution is a linear layer on patches (paper, appendix C.1): its kernels are rows of W, the
patches rows of H, with one matrix for each group. A transposed one multiplies pixels, rows of H
with as many entries as there are input channels; what it then adds up, a patch of outputs for each
pixel, are the rows of Z. Every matrix has the groups as its first axis, one for a linear layer, so
that Z = H Wᵀ + b group by group.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .layout import Layout

LINEAR = Layout()
Ends = tuple[tuple[int, int], ...]  # what is added before and after, by axis


@dataclass(frozen=True)
class Product:
    """How inputs, outputs and weight of one of torch's linear functions are read as matrices."""

    layout: Layout = LINEAR
    kernel: tuple[int, ...] = ()  # its size, by axis of the maps; () for a linear layer
    stride: tuple[int, ...] = ()
    padding: Ends = ()
    dilation: tuple[int, ...] = ()
    transposed: bool = False

    def weight(self, weight: Tensor) -> Tensor:
        """W, or ∂L/∂W: (g, m, d)."""
        return self.layout.read(weight)

    def inputs(self, inputs: Tensor) -> Tensor:
        """H (g, N·positions, d) of inputs (…, d), or maps (N, c, …)."""
        return self._rows(inputs, patches=not self.transposed)

    def outputs(self, outputs: Tensor) -> Tensor:
        """Z, or ∂L/∂Z: (g, N·positions, m), rows that belong to those of `inputs`."""
        return self._rows(outputs, patches=self.transposed)

    def samples(self, features: Tensor) -> Tensor:
        """Inputs or outputs with the samples first and the features last: (…, d)."""
        return self._maps(features).movedim(1, -1) if self.kernel else features

    def _rows(self, tensor: Tensor, patches: bool) -> Tensor:
        if not self.kernel:
            return tensor.reshape(1, -1, tensor.shape[-1])
        axes, maps = len(self.kernel), self._maps(tensor)
        if patches:
            maps = functional.pad(maps, [n for ends in reversed(self.padding) for n in ends])
            steps = zip(self.kernel, self.stride, self.dilation, strict=True)
            for axis, (k, stride, dilation) in enumerate(steps, start=2):
                maps = maps.unfold(axis, dilation * (k - 1) + 1, stride)[..., ::dilation]
        channels = maps.unflatten(1, (self.layout.groups, -1))  # (N, g, c, *positions, *kernel)
        rows = channels.movedim(1, 0).movedim(2, 2 + axes)  # (g, N, *positions, c, *kernel)
        return rows.flatten(2 + axes).flatten(1, 1 + axes)

    def _maps(self, tensor: Tensor) -> Tensor:
        """With an axis of samples, which torch's convolutions do without for one."""
        return tensor if tensor.ndim == len(self.kernel) + 2 else tensor[None]


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Product:
    return Product()


def _added(input: Tensor, mat1: Tensor, mat2: Tensor, **_: Any) -> Product:
    """torch.addmm(b, H, Wᵀ), which transformers' Conv1D takes."""
    return Product(Layout(rows=(1,)))


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Product:
    kernel = tuple(weight.shape[2:])
    stride, dilation = (_each(value, len(kernel)) for value in (stride, dilation))
    if padding == "same":
        spans = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        ends = tuple((span // 2, span - span // 2) for span in spans)
    else:
        ends = tuple((p, p) for p in _each(0 if padding == "valid" else padding, len(kernel)))
    return Product(Layout(groups=groups), kernel, stride, ends, dilation)


def _transposed(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Product:
    kernel = tuple(weight.shape[2:])
    stride, dilation, padding, beyond = (
        _each(value, len(kernel)) for value in (stride, dilation, padding, output_padding)
    )
    # what is beyond the last patch: it would otherwise begin another
    ends = tuple((p, p - extra) for p, extra in zip(padding, beyond, strict=True))
    layout = Layout(tuple(range(1, weight.ndim)), groups)
    return Product(layout, kernel, stride, ends, dilation, transposed=True)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values * axes if len(values) == 1 else values


# torch's functions -> how they are read, and the places of inputs and weight among their arguments
PRODUCTS: dict[Callable[..., Tensor], tuple[Callable[..., Product], tuple[str, str]]] = {
    functional.linear: (_linear, ("input", "weight")),
    torch.addmm: (_added, ("mat1", "mat2")),
    functional.conv1d: (_convolution, ("input", "weight")),
    functional.conv2d: (_convolution, ("input", "weight")),
    functional.conv3d: (_convolution, ("input", "weight")),
    functional.conv_transpose1d: (_transposed, ("input", "weight")),
    functional.conv_transpose2d: (_transposed, ("input", "weight")),
    functional.conv_transpose3d: (_transposed, ("input", "weight")),
}
