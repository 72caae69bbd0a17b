"""Running a model, and reading batches, without leaving a trace."""

import functools
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients, eager; at the end all is as before.

    Modes, buffers and the state of torch's random generators are put back.
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    fast = torch.backends.mha.get_fastpath_enabled()
    buffers = [_Buffer(*owned) for owned in _buffers(model)]
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            if "torch._dynamo" in sys.modules:  # nothing is compiled without it
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            torch.backends.mha.set_fastpath_enabled(False)  # it calls no layer
            for module, _ in modes:
                module.training = False
                if hasattr(module, "disable_observer"):  # quantisation: it counts in this mode too
                    module.disable_observer()
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes:
            module.training = mode
        for buffer in buffers:
            buffer.put_back()


@contextmanager
def unread(batches: Any) -> Iterator[None]:
    """What a DataLoader draws its batches by is as before in the end.

    Generators of the loader, its samplers and its data set are put back, torch's, NumPy's and
    Python's; and what the loader and its samplers count, as their epochs.
    """
    put_back: list[Callable[[], Any]] = []
    for owner in _owners(batches):
        for name, value in vars(owner).items():
            if isinstance(value, torch.Generator):
                put_back.append(functools.partial(value.set_state, value.get_state()))
            elif isinstance(value, random.Random):
                put_back.append(functools.partial(value.setstate, value.getstate()))
            elif hasattr(value, "bit_generator"):  # NumPy's
                numpy, state = value.bit_generator, value.bit_generator.state
                put_back.append(functools.partial(setattr, numpy, "state", state))
            if isinstance(value, int | float | None) and isinstance(owner, DataLoader | Sampler):
                put_back.append(functools.partial(vars(owner).__setitem__, name, value))
    try:
        yield
    finally:
        for one in put_back:
            one()


def _owners(batches: Any) -> list[Any]:
    """An object that gives batches, and the loaders, samplers and data sets inside of it."""
    owners: dict[int, Any] = {}
    queue = [batches]
    while queue:
        owner = queue.pop()
        if id(owner) not in owners and hasattr(owner, "__dict__"):
            owners[id(owner)] = owner
            inside = vars(owner).values()
            queue += [part for part in inside if isinstance(part, DataLoader | Sampler | Dataset)]
    return list(owners.values())


@contextmanager
def own_precision(device: torch.device) -> Iterator[Callable[[], torch.autocast]]:
    """Without autocast; what it gives puts the caller's on again for a while."""
    kind = device.type
    settings = {
        "dtype": torch.get_autocast_dtype(kind),
        "enabled": torch.is_autocast_enabled(kind),
        "cache_enabled": torch.is_autocast_cache_enabled(),
    }
    with torch.autocast(kind, enabled=False):
        yield functools.partial(torch.autocast, kind, **settings)


def _buffers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            yield module, name, buffer


class _Buffer:
    """A buffer as it is now."""

    def __init__(self, module: nn.Module, name: str, tensor: Tensor) -> None:
        self.module, self.name, self.tensor = module, name, tensor
        self.value, self.version = tensor.clone(), version(tensor)

    def put_back(self) -> None:
        setattr(self.module, self.name, self.tensor)
        if version(self.tensor) != self.version:  # a write would trouble a graph that saved it
            with torch.no_grad():
                self.tensor.resize_(self.value.shape).copy_(self.value)


def version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
