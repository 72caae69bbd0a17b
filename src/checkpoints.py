"""Checkpoints: .pt files of a model's state, written whole or not at all, read without pickle's code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from results import ResultError, plain, write_whole


def save(path: Path, state: Mapping[str, Tensor], made: Mapping[str, Any]) -> None:
    """Write a state dict; `made` says what made it (settings, seed, epoch, data) and is checked on reading."""
    write_whole(path, lambda file: torch.save({"state": dict(state), "made": plain(made)}, file))


def restore(model: nn.Module, path: Path, made: Mapping[str, Any], script: str) -> Mapping[str, Any]:
    """Load a checkpoint into a model.

    Args:
        model: of the architecture that was saved.
        path: the file.
        made: what must have made it; every key is compared.
        script: that makes it, for the message.

    Returns:
        what the checkpoint says made it.

    Raises:
        ResultError: missing, no checkpoint of this project, made otherwise, or of another architecture.
    """
    remedy = f"run src/experiment/{script}.py with the same options, and --overwrite where its result is there"
    if not path.is_file():
        raise ResultError(f"no checkpoint {path}: {remedy}")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        state, found = content["state"], content["made"]
        keys = {key: found.get(key) for key in made}
    except Exception as error:  # torch, pickle and zipfile raise nearly anything on a foreign file
        raise ResultError(f"{path} is not a checkpoint of this project: {remedy}") from error
    unlike = [key for key, value in plain(made).items() if keys[key] != value]
    if unlike:
        raise ResultError(f"{path} was made with another {' and '.join(unlike)}: {remedy}")
    try:
        model.load_state_dict(state)
    except Exception as error:
        raise ResultError(f"{path} is of another architecture: {remedy}") from error
    return found
