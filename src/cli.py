"""What every experiment script has in common: shared flags, the command line, one-line errors."""

import contextlib
import dataclasses
import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import tyro

import data
import results
import training

ROOT = Path(__file__).resolve().parents[1]
T = TypeVar("T", bound="Common")


class ConfigError(Exception):
    """A hyperparameter that cannot be; the message is one line."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """Where and how to run; none of these changes a number in the results."""

    scale: Literal["paper", "quick"] = "paper"
    """paper: the paper's settings; quick: the same figure in minutes on two CPU cores, without a network"""
    data: Path = ROOT / "data"
    """folder of torchvision's data sets; they are downloaded into it on first use"""
    results: Path = ROOT / "results"
    """folder of the results"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU where there is one"""
    jobs: int = 0
    """processes on the CPU, each training one replica at a time with one thread; 0: one a core.
    On a GPU all replicas are trained as one batch by one process"""
    overwrite: bool = False
    """run again what is already there"""

    def __post_init__(self) -> None:
        if self.jobs < 0:
            raise ConfigError(f"jobs must be 0 or more, not {self.jobs}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device cuda: PyTorch finds no GPU here; take --device cpu or auto")

    @property
    def resolved_device(self) -> str:
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def hyperparameters(self, *without: str, of: type | None = None) -> dict[str, Any]:
        """Every field that shapes the numbers: all but the common ones and those named; of a base class, if given."""
        left_out = {field.name for field in dataclasses.fields(Common)}.union(without)
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(of or self) if f.name not in left_out}


def check(
    config: Any,
    *,
    positive: Sequence[str] = (),
    natural: Sequence[str] = (),
    fractions: Sequence[str] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
    empty: Sequence[str] = (),
) -> None:
    """Raise ConfigError where a field's value cannot be, or a tuple is empty or repeats itself.

    Args:
        config: a configuration.
        positive: names of number or number-tuple fields whose values must be above zero.
        natural: names of number or number-tuple fields whose values may be zero but not below.
        fractions: names of number fields whose values must be in [0, 1).
        choices: name of a tuple field -> values it may hold.
        empty: names of tuple fields that may be empty.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, tuple) and (len(set(value)) < len(value) or (not value and field.name not in empty)):
            raise ConfigError(f"{field.name} must name one or more different values, not {value}")
    for name in (*positive, *natural):
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not 0 <= number < float("inf") or (number == 0 and name in positive):
                raise ConfigError(
                    f"{name} must be {'above zero' if name in positive else 'zero or above'}, not {number}"
                )
    for name in fractions:
        if not 0 <= getattr(config, name) < 1:
            raise ConfigError(f"{name} must be in [0, 1), not {getattr(config, name)}")
    for name, allowed in (choices or {}).items():
        for value in getattr(config, name):
            if value not in allowed:
                raise ConfigError(f"{name}: unknown {value!r}, one of {', '.join(allowed)}")


def parse(kind: type[T], quick: Mapping[str, Any], argv: Sequence[str] | None = None, description: str = "") -> T:
    """The configuration that the command line asks for; `quick` replaces defaults under --scale quick."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    presets = {"paper": kind(), "quick": kind(scale="quick", **quick)}
    scales = re.findall(r"(?:^| )--scale[ =](\w+)", " ".join(arguments))
    default = presets.get(scales[-1] if scales else "paper", presets["paper"])
    message = io.StringIO()
    before = os.environ.get("COLUMNS")
    if not {"-h", "--help"} & set(arguments):
        os.environ["COLUMNS"] = "10000"  # tyro draws a box around its message: let no line of it be broken
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(kind, default=default, args=arguments, description=description)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        text = re.sub(r"\x1b\[[0-9;]*m|[\u2500-\u257f]|-{3,}", "", message.getvalue())
        reason = [line.strip() for line in text.splitlines() if line.strip()][1:2]  # below the box's title
        raise ConfigError(f"{(reason or ['unreadable command line'])[0]} (--help lists the options)") from stop
    finally:
        if before is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = before


def check_datasets(names: Sequence[str]) -> None:
    """Raise DataError or ConfigError unless every name is a data set's and no two results would share a name."""
    for name in names:
        data.check_name(name)
    labels = [data.label(name) for name in names]
    for twice in {name for name in labels if labels.count(name) > 1}:
        raise ConfigError(f"datasets: two are named {twice}, and so would their results be: rename one file")


def prepare(config: Any) -> None:
    """Find out, before any work, whether every data set can be had and results can be written."""
    results.check_writable(config.results)
    for dataset in config.datasets:
        data.load(dataset, config.data, config.resolved_device)


@dataclass(frozen=True)
class Output:
    """One result file to be made: its name, and the settings that its path is named after."""

    name: str
    settings: dict[str, Any]


def produce(
    config: Common,
    experiment: str,
    source: results.Source,
    axes: Mapping[str, tuple[str, ...]],
    outputs: Sequence[Output],
    compute: Callable[[Sequence[Output], results.Partial], Sequence[results.Arrays]],
) -> None:
    """Compute the outputs that are not yet there, together, and save each; a run that was cut off resumes.

    Args:
        config: where to write, and whether to overwrite.
        experiment: names the folder of the results.
        source: the data they are made from.
        axes: array name -> names of its axes.
        outputs: the files of one run.
        compute: from the outputs that are missing to their arrays.
    """
    paths = [results.path_for(config.results, config.scale, experiment, o.name, o.settings) for o in outputs]
    pairs = list(zip(outputs, paths, strict=True))
    missing = [(o, path) for o, path in pairs if config.overwrite or not results.is_there(path, source)]
    if not missing:
        return
    folder = results.partial_folder(missing[0][1], source)
    partial = results.Partial(folder, config.overwrite)
    runs = compute([output for output, _ in missing], partial)
    seconds = partial.seconds / len(missing)
    for (output, path), arrays in zip(missing, runs, strict=True):
        meta = results.make_meta(
            experiment, output.name, output.settings, axes, source, config.resolved_device, seconds
        )
        results.save(path, results.Result(arrays, meta))
        print(f"saved {path} ({seconds:.0f} s)", flush=True)
    shutil.rmtree(folder.parent, ignore_errors=True)


def produce_each(
    config: Common,
    experiment: str,
    source: results.Source,
    axes: Mapping[str, tuple[str, ...]],
    axis: str,
    outputs: Sequence[Output],
    compute: Callable[[tuple[Any, ...], results.Partial], results.Arrays],
) -> None:
    """One result for each value of an axis, which is the first of every array that has it; all computed together.

    Args:
        axis: its name; each output's value is in its settings under this name.
        compute: from values to arrays.
        config, experiment, source, axes, outputs: as for `produce`.
    """
    along = [name for name, names in axes.items() if axis in names]

    def compute_missing(missing: Sequence[Output], partial: results.Partial) -> list[results.Arrays]:
        arrays = compute(tuple(output.settings[axis] for output in missing), partial)
        return [arrays | {name: arrays[name][i : i + 1] for name in along} for i in range(len(missing))]

    produce(config, experiment, source, axes, outputs, compute_missing)


def run(main: Callable[[], None]) -> None:
    """Call a script's main; an error of the user's is one line and exit status 2."""
    try:
        main()
    except (ConfigError, data.DataError, results.ResultError, training.Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the replicas that are done", file=sys.stderr)
        sys.exit(130)
