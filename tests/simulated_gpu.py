"""A GPU simulated on the CPU: tensors that know that they are on it, computed where they are.

Inside `SimulatedGPU()` a tensor made on "cuda", moved to it, or computed from one that is there, is
a Resident. Whole experiments run, and their numbers can be compared with the CPU's; but Residents
and tensors of one or more axes that stayed on the CPU cannot meet in an operation, as on a GPU.
Each function that waits for the GPU is noted.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

# they bring values to the host, or need them for a shape
WAIT = {"item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"}
WAIT |= {"nonzero", "unique", "masked_select", "equal", "allclose"}
# they may mix devices: copies, and indices on the CPU into a tensor on the GPU
MIX = {"copy_", "__getitem__", "__setitem__", "__set__", "as_subclass"}


class Resident(Tensor):
    """A tensor on the simulated GPU."""


def place(tensor: Tensor, on_gpu: bool) -> Tensor:
    is_there = isinstance(tensor, Resident) == on_gpu
    return tensor if is_there else tensor.as_subclass(Resident if on_gpu else Tensor)


class SimulatedGPU(TorchFunctionMode):
    """See the module's docstring; `waits` are names of functions, one for each wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        getter = getattr(function, "__self__", None)
        if name == "__get__" and getter in (Tensor.device, Tensor.is_cuda, Tensor.is_cpu):
            device = (
                torch.device("cuda", 0) if isinstance(args[0], Resident) else torch.device("cpu")
            )
            is_wanted = {Tensor.is_cuda: device.type == "cuda", Tensor.is_cpu: device.type == "cpu"}
            return is_wanted.get(getter, device)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_gpu = any(isinstance(tensor, Resident) for tensor in tensors)
        if on_gpu and name in WAIT:
            self.waits.append(name)
        if name in {"cpu", "numpy", "tolist"}:
            return function(place(args[0], False), *args[1:], **kwargs)
        if name == "to":
            return self._move(function, *args, **kwargs)
        device = kwargs.pop("device", None)
        if device is not None:
            on_gpu = torch.device(device).type == "cuda"
            if on_gpu and kwargs.get("generator") is not None:
                raise RuntimeError(f"{name}: a generator on the CPU cannot draw on the GPU")
        elif on_gpu and name not in MIX:
            stayed = [t.shape for t in tensors if t.ndim > 0 and not isinstance(t, Resident)]
            if stayed:
                raise RuntimeError(f"{name}: of shapes {stayed} on the CPU, the others on the GPU")
        elif name == "__getitem__" and on_gpu and not isinstance(args[0], Resident):
            raise RuntimeError("a tensor on the CPU cannot be indexed by one on the GPU")
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **kwargs)
        if name == "copy_":
            return args[0]
        return tree_map_only(Tensor, lambda tensor: place(tensor, on_gpu), result)

    def _move(self, function: Callable, tensor: Tensor, *to: Any, **options: Any) -> Tensor:
        """`tensor.to(…)` of a device, a dtype, or both, or of another tensor."""
        was_there = on_gpu = isinstance(tensor, Resident)
        dtype = tensor.dtype
        for value in (*to, *options.values()):
            if isinstance(value, Tensor):
                on_gpu, dtype = isinstance(value, Resident), value.dtype
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, str | torch.device):
                on_gpu = torch.device(value).type == "cuda"
        if was_there and not on_gpu:
            self.waits.append("to")
        with torch._C.DisableTorchFunctionSubclass():
            return place(function(tensor, dtype), on_gpu)


def move(module: nn.Module, *to: Any, **options: Any) -> nn.Module:
    """`module.to(…)`: parameters and buffers are replaced, for a Resident is another class."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = nn.Parameter(
                    p.detach().to(*to, **options), p.requires_grad
                )
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(*to, **options)
    return module
