"""Where a model's weights are, and whether its layers can be watched: read off its modules."""

import sys

import torch
from torch import nn

from .collector import is_layer


def execution_device(model: nn.Module) -> torch.device:
    """The device that a model's inputs are to be on.

    Of offloaded weights, which are on "meta" between calls, it is where accelerate's hooks fetch
    them to.

    Raises:
        ValueError: weights without numbers, which no hook fetches.
    """
    for module in model.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    devices = [parameter.device for parameter in model.parameters()]
    if any(device.type == "meta" for device in devices):
        raise ValueError('weights on the "meta" device, without numbers: load them first')
    return devices[0] if devices else torch.device("cpu")


def check_kind(model: nn.Module) -> None:
    """ValueError of a model whose layers are not modules that it calls with whole weights."""
    for module in model.modules():
        if isinstance(module, _sharded()):
            raise ValueError(
                f"{type(module).__name__}: its weights are in pieces (fully_shard, FSDP); measure "
                "a copy with the full state dict"
            )
    kinds = {torch.jit.ScriptModule: "scripted or traced (torch.jit)"}
    if not any(map(is_layer, model.modules())):  # torch.fx.symbolic_trace keeps them
        kinds[torch.fx.GraphModule] = "a graph (torch.export)"
    for kind, name in kinds.items():
        if isinstance(model, kind):
            raise ValueError(f"the model is {name}, without layers: measure what it was made from")


def _sharded() -> tuple[type, ...]:
    """Classes of modules with sharded weights; none where torch has not loaded them."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return () if fsdp is None else (fsdp.FSDPModule, fsdp.FullyShardedDataParallel)
