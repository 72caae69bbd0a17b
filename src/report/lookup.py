"""The results that a figure or a claim is about, and numbers with their spread."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lab import cli, results
from lab.results import Result, plain


def experiment(name: str) -> ModuleType:
    """A script of src/experiment as a module."""
    return import_module(f"experiment.{name}")


def lookup(
    script: ModuleType, root: Path, scale: str, without: Sequence[str] = (), **changes: Any
) -> list[Result]:
    """The results that a script makes by default at a scale, of whatever seeds, sorted by name.

    Args:
        script: of src/experiment.
        root: folder of the results.
        scale: "paper" or "quick".
        without: settings that may have any value.
        changes: settings that are not the script's default.

    Raises:
        ResultError: of one name there are several, which differ in `without`.
    """
    wanted, earlier = _wanted(script, scale, changes)
    free = {"seeds"} - changes.keys() | set(without)
    wanted = {name: value for name, value in wanted.items() if name not in free}
    return results.find(root, scale, _name(script), wanted, earlier)


def divergences(root: Path, scale: str, scripts: Iterable[str]) -> list[str]:
    """A line for each result of these scripts of which a replica diverged."""
    every = (path for name in scripts for path in sorted((root / scale / name).glob("*.npz")))
    lines = [f"{path.stem}{results.read(path).warning}" for path in every]
    return [line for line in lines if ";" in line]


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as words of a command line."""
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in settings.items())
    return [word for pair in pairs for word in pair]


def command(
    script: str, scale: str, settings: Mapping[str, Any] | None = None, after: str = ""
) -> str:
    """What makes a script's results at a scale.

    Args:
        script: of src/experiment.
        scale: "paper" or "quick".
        settings: that are not the script's default.
        after: another script, which has to be run before.
    """
    at_scale = "" if scale == "paper" else f" --scale {scale}"
    first = f"{after}.py{at_scale}, then " if after else ""
    words = " ".join([f"python src/experiment/{script}.py", *flags(settings or {})])
    return f"{first}{words}{at_scale}"


def explain_missing(script: ModuleType, root: Path, scale: str, **changes: Any) -> str:
    """What to say where `lookup` finds nothing: how to make results, and what others there are."""
    lines = [f"no results at {scale} scale: {command(_name(script), scale, changes)}"]
    wanted = plain(_wanted(script, scale, changes)[0])
    for path in sorted((root / scale / _name(script)).glob("*.npz")):
        config = results.read(path).config
        unlike = (k for k in wanted if k in config and config[k] != wanted[k])
        lines.append(f"{path.name} is there, with {', '.join(f'{k} {config[k]}' for k in unlike)}")
    return "\n".join(lines)


def _wanted(
    script: ModuleType, scale: str, changes: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the script's results with some changed, and `earlier` of the configuration."""
    fields = {field.name for field in dataclasses.fields(script.Config)}
    changed = {name: value for name, value in changes.items() if name in fields}
    config = cli.preset(script, scale, **changed)
    return changes | config.hyperparameters(), config.earlier


def _name(script: ModuleType) -> str:
    return script.__name__.rpartition(".")[2]


def mean_spread(values: np.ndarray, digits: int = 2) -> str:
    """ "mean ± 2 standard deviations" over seeds."""
    spread = f" ± {2 * values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"
