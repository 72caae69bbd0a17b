"""Checkpoints of a run: their names, and .pt files of a model's state, read without pickle.

Those of a result RESULT.npz are RESULT/seedS/checkpoint-N, N an epoch or, of transformers' Trainer,
a step.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.errors import ResultError
from lab.results import plain, write_whole
from lab.runs import Run


def seed_folder(run: Run, seed: int) -> Path:
    """The folder of one seed's checkpoints."""
    return run.path.with_suffix("") / f"seed{seed}"


def checkpoint(run: Run, seed: int, number: int | str, suffix: str = "") -> Path:
    """The file, with its suffix, or folder of one checkpoint."""
    return seed_folder(run, seed) / f"checkpoint-{number}{suffix}"


def identity(run: Run, seed: int) -> dict[str, Any]:
    """What a checkpoint must say it was made from."""
    data = run.source.fingerprint
    return plain({"settings": run.settings, "seed": seed, "data": data})


def remedy(script: str) -> str:
    """What to do about a checkpoint that cannot be used."""
    again = "and --overwrite where its result is there"
    return f"run src/experiment/{script}.py with the same options, {again}"


def check_identity(
    path: Path, said: Mapping[str, Any], wanted: Mapping[str, Any], script: str
) -> None:
    """Raise ResultError where a checkpoint says that it was made from something else."""
    unlike = [key for key, value in wanted.items() if said.get(key) != value]
    if unlike:
        raise ResultError(f"{path} was made with another {' and '.join(unlike)}: {remedy(script)}")


def write(path: Path, state: Mapping[str, Tensor], origin: Mapping[str, Any]) -> None:
    """Write a state dict, whole or not at all; `origin` says what it was made from."""
    content = {"state": dict(state), "origin": plain(origin)}
    write_whole(path, lambda file: torch.save(content, file))


def restore(
    model: nn.Module, path: Path, wanted: Mapping[str, Any], script: str
) -> Mapping[str, Any]:
    """Load a checkpoint into a model.

    Args:
        model: of the architecture that was saved.
        path: the file.
        wanted: what must have made it, `identity`; every key is compared.
        script: that makes it, for the message.

    Returns:
        what the checkpoint says it was made from.

    Raises:
        ResultError: missing, no checkpoint of this project, made otherwise, or of another
            architecture.
    """
    if not path.is_file():
        raise ResultError(f"no checkpoint {path}: {remedy(script)}")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        state, origin = content["state"], dict(content["origin"])
    except Exception as error:  # torch, pickle and zipfile raise nearly anything on a foreign file
        reason = "is not a checkpoint of this project"
        raise ResultError(f"{path} {reason}: {remedy(script)}") from error
    check_identity(path, origin, wanted, script)
    try:
        model.load_state_dict(state)
    except Exception as error:
        raise ResultError(f"{path} is of another architecture: {remedy(script)}") from error
    return origin
