"""Checkpoints of a run: their names, and .pt files of a model's state, read without pickle.

Those of a result RESULT.npz are RESULT/seedS/checkpoint-N, N an epoch or, of transformers' Trainer,
a step. Each says what it was made from and which it is, and carries a digest of its content.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lab import files, results
from lab.cli import Common
from lab.errors import Diverged, ResultError
from lab.results import plain
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
    again = "which makes those that are missing, and all of them with --overwrite"
    return f"run src/experiment/{script}.py with the same options, {again}"


def mismatch(said: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """How a checkpoint was made from something else, in words that go on from its path."""
    unlike = [key for key, value in wanted.items() if said.get(key) != value]
    return f"was made with another {' and '.join(unlike)}" if unlike else None


def training(
    script: ModuleType, config: Common, name: str, wanted: Mapping[str, Any], **own: Any
) -> Any:
    """The configuration that another script trained with, as its result says.

    Args:
        script: it, of src/experiment.
        config: says where results are, and how to run.
        name: of the result.
        wanted: settings that select it among those of the name.
        own: fields that do not stand in it.

    Raises:
        ResultError: there is none, or there are several.
    """
    place, default = script.__name__.rpartition(".")[2], script.Config()
    every = results.find(config.results, config.scale, place, wanted, default.earlier)
    found = next((result for result in every if result.name == name), None)
    if found is None:
        settings = ", ".join(f"{key} {value}" for key, value in plain(wanted).items())
        where = f"{name} of {settings} in {config.results / config.scale / place}"
        raise ResultError(f"no result {where}: run src/experiment/{place}.py")
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(Common)}
    for key, value in {**default.earlier, **found.config, **own}.items():
        if key in default.__dataclass_fields__:
            kind = type(getattr(default, key))  # JSON has no tuples, nor dataclasses
            value = kind(**value) if isinstance(value, dict) else value
            fields[key] = tuple(value) if isinstance(value, list) else value
    return script.Config(**fields)


def check_identity(
    path: Path, said: Mapping[str, Any], wanted: Mapping[str, Any], script: str
) -> None:
    """Raise ResultError where a checkpoint says that it was made from something else."""
    if wrong := mismatch(said, wanted):
        raise ResultError(f"{path} {wrong}: {remedy(script)}")


def divergence(trained: Run, seed: int) -> Diverged | None:
    """How training diverged, if it did: from that epoch on there are no checkpoints."""
    epoch = results.read(trained.path).divergence(seed) if files.exists(trained.path) else None
    return None if epoch is None else Diverged.at(f"{trained.name} seed {seed}", epoch)


@contextmanager
def reading(trained: Iterable[Run]) -> Iterator[None]:
    """Let nobody make these runs' checkpoints while they are read."""
    with ExitStack() as locks:
        for run in trained:
            locks.enter_context(run.partial.in_use(shared=True))
        yield


def write(path: Path, state: Mapping[str, Tensor], origin: Mapping[str, Any]) -> None:
    """Write a state dict, whole or not at all; `origin` says what it was made from."""
    state, origin = dict(state), plain(origin)
    content = {"state": state, "origin": origin, "digest": content_digest(state, origin)}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    files.write_whole(path, lambda file: file.write(buffer.getbuffer()))


def content_digest(state: Mapping[str, Tensor], origin: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal digits, of origin and of tensors, with names, dtypes and shapes."""
    content = hashlib.sha256(json.dumps(origin, sort_keys=True).encode())
    for name, values in state.items():
        content.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        content.update(values.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


def restore(
    model: nn.Module, path: Path, wanted: Mapping[str, Any], script: str
) -> Mapping[str, Any]:
    """Load a checkpoint into a model.

    Args:
        model: of the architecture that was saved.
        path: the file.
        wanted: what must have made it, `identity`, and which it is; every key is compared.
        script: that makes it, for the message.

    Returns:
        what the checkpoint says it was made from.

    Raises:
        ResultError: missing, no checkpoint of this project, damaged, made otherwise, of another
            architecture, or with weights that are not finite.
    """
    if not path.is_file():
        raise ResultError(f"no checkpoint {path}: {remedy(script)}")
    try:
        with files.open_plain(path) as file:
            content = torch.load(file, weights_only=True, map_location="cpu")
        state, origin = content["state"], dict(content["origin"])
        intact = content["digest"] == content_digest(state, origin)
    except Exception as error:  # torch, pickle and zipfile raise nearly anything on a foreign file
        reason = "is not a checkpoint of this project"
        raise ResultError(f"{path} {reason}: remove it, then {remedy(script)}") from error
    if not intact:
        damaged = "was damaged after it was written"
        raise ResultError(f"{path} {damaged}: remove it, then {remedy(script)}")
    check_identity(path, origin, wanted, script)
    try:
        model.load_state_dict(state)
    except Exception as error:
        raise ResultError(f"{path} is of another architecture: {remedy(script)}") from error
    if not all(bool(values.isfinite().all()) for values in state.values()):
        raise ResultError(f"{path} has weights that are not finite: {remedy(script)}")
    return origin
