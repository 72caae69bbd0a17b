"""What every experiment script has in common: flags, the command line, what may be asked."""

import dataclasses
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

import torch
import tyro

from lab import data, files, provenance
from lab.errors import ConfigError
from lab.program import run as run

ROOT = Path(__file__).resolve().parents[2]
Scale = Literal["paper", "quick"]
T = TypeVar("T")
MOST = 10_000_000  # the largest count that a field may hold: more epochs would never end
MOST_LAYERS = 10_000  # the largest depth: memory is not what more would lack
SEEDS = 2**63  # seeds are below it, as results hold them as int64


def each(values: tuple[Any, ...]) -> Any:
    """The default of a field with one result file for each of its values."""
    return dataclasses.field(default=values, metadata={"each": True})


def added(default: Any, earlier: Any) -> Any:
    """The default of a field added after results were made; `earlier` is what it was in those.

    A result made at that value keeps the name that it had before, and results without the field are
    found by it. `earlier` stays when the default changes.
    """
    return dataclasses.field(default=default, metadata={"earlier": earlier})


@dataclass(frozen=True, kw_only=True)
class Common:
    """Where and how to run; none of these changes a number in the results."""

    # paper: the paper's settings; quick: the same figure in minutes on two CPU cores, without a
    # network
    scale: Scale = "paper"
    data: Path = ROOT / "data"  # folder of torchvision's data sets, downloaded into it on first use
    results: Path = ROOT / "results"  # folder of the results
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto takes the GPU where there is one
    # processes: on the CPU each trains one replica at a time with one thread; on GPUs each has one
    # and trains as many replicas at once as its memory takes; None: one a core, or one a GPU
    jobs: int | None = None
    overwrite: bool = False  # run again what is already there
    # where replicas are trained: here; as tasks of Slurm, by submitit; in processes that submitit
    # starts here; or wherever the sbatch lines are given that are printed. A task takes a replica,
    # or a result has as many tasks as jobs says
    cluster: Literal["none", "slurm", "local", "print"] = "none"
    # key=value …, as submitit's SlurmExecutor has them, or sbatch where lines are printed; also the
    # gpus of a task and the hours of its time limit
    cluster_options: tuple[str, ...] = ()
    mixed_processors: bool = False  # join replicas that were made on several kinds of them

    def __post_init__(self) -> None:
        if self.device == "cuda" and self.cluster == "none" and not torch.cuda.is_available():
            raise ConfigError("device cuda: PyTorch finds no GPU here; take --device cpu or auto")

    @property
    def resolved_device(self) -> str:
        """Of this process: who submits the jobs of a cluster may have no GPU, which they have."""
        return "cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu"

    def hyperparameters(self) -> dict[str, Any]:
        """Every field that shapes the numbers of each of the configuration's results."""
        common = {field.name for field in dataclasses.fields(Common)}
        own = (field for field in dataclasses.fields(self) if field.name not in common)
        return {f.name: getattr(self, f.name) for f in own if not f.metadata.get("each")}

    @property
    def earlier(self) -> dict[str, Any]:
        """Field added later -> its value in the results that were made before; see `added`."""
        fields = dataclasses.fields(self)
        return {f.name: f.metadata["earlier"] for f in fields if "earlier" in f.metadata}


def check(
    config: Any,
    *,
    zero: Sequence[str] = (),
    fractions: Sequence[str] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
    empty: Sequence[str] = (),
) -> None:
    """Raise ConfigError where a field's value cannot be.

    Numbers, alone or in a tuple, must be above zero, and whole ones not above MOST, a depth not
    above MOST_LAYERS, seeds below 2^63; tuples must not be empty or repeat a value. The exceptions
    are listed.

    Args:
        config: a configuration.
        zero: fields that may be zero.
        fractions: fields that must be in [0, 1).
        choices: tuple field -> values that it may hold.
        empty: tuple fields that may be empty.
    """
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        is_empty = value == () and name not in (*empty, "cluster_options")
        if is_empty or (isinstance(value, tuple) and len(set(value)) < len(value)):
            raise ConfigError(f"{name} must name one or more different values, not {value}")
        for number in _numbers(value):
            if name in fractions:
                if not 0 <= number < 1:
                    raise ConfigError(f"{name} must be in [0, 1), not {number}")
            elif not 0 <= number < float("inf") or (number == 0 and name not in zero):
                least = "zero or above" if name in zero else "above zero"
                raise ConfigError(f"{name} must be {least}, not {number}")
            most = SEEDS - 1 if "seed" in name else MOST_LAYERS if name == "depth" else MOST
            if isinstance(number, int) and number > most:
                limit = "below 2^63" if "seed" in name else f"at most {most:,}"
                raise ConfigError(f"{name} must be {limit}, not {number}")
    for name, allowed in (choices or {}).items():
        for value in getattr(config, name):
            if value not in allowed:
                raise ConfigError(f"{name}: unknown {value!r}, one of {', '.join(allowed)}")


def _numbers(value: Any) -> Iterator[float]:
    for entry in value if isinstance(value, tuple) else (value,):
        if isinstance(entry, int | float) and not isinstance(entry, bool):
            yield entry


def preset(script: ModuleType, scale: Scale = "paper", **changes: Any) -> Any:
    """A script's configuration at a scale, with some fields changed."""
    quick = script.QUICK if scale == "quick" else {}
    return script.Config(**{"scale": scale, **quick, **changes})


@dataclass(frozen=True)
class _Scale:
    scale: Scale = "paper"


def parse(
    kind: type[T],
    quick: Mapping[str, Any],
    description: str | None = None,
    argv: Sequence[str] | None = None,
) -> T:
    """The configuration that the command line asks for; `quick`: the defaults of --scale quick."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    preset: dict[str, Any] = {}
    if issubclass(kind, Common):
        chosen, _ = tyro.cli(_Scale, args=arguments, return_unknown_args=True, add_help=False)
        preset = {"scale": chosen.scale, **(quick if chosen.scale == "quick" else {})}
    config = tyro.cli(kind, default=kind(**preset), args=arguments, description=description)
    if issubclass(kind, Common):
        check_cluster(config)
    return config


def check_cluster(config: Common) -> None:
    """Raise ConfigError where jobs could not be submitted from here."""
    kind, options = config.cluster, config.cluster_options
    wrong = [option for option in options if not re.fullmatch(r"\w+=.+", option)]
    if options and kind == "none":
        raise ConfigError("cluster_options need a cluster: add --cluster slurm")
    if wrong:
        raise ConfigError(f"cluster_options must be key=value, not {wrong[0]!r}")
    if kind in ("slurm", "local") and find_spec("submitit") is None:
        remedy = "pip install -r requirements-cluster.txt, or take --cluster print"
        raise ConfigError(f"cluster {kind} needs the package submitit: {remedy}")
    if kind == "slurm" and shutil.which("sbatch") is None:
        raise ConfigError(
            "cluster slurm: there is no sbatch here; run it where Slurm's commands are"
        )


def check_datasets(names: Sequence[str]) -> None:
    """Raise unless every name is a data set's and no two results would share a name."""
    for name in names:
        data.check_name(name)
    labels = [data.label(name) for name in names]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"datasets: two are named {label}, as their results: rename one file")


def prepare(config: Any) -> None:
    """Find out, before any work, whether every data set can be had and results can be written."""
    files.check_writable(config.results / config.scale)
    for dataset in getattr(config, "datasets", ()):
        load_images(config, dataset)


def load_images(config: Common, dataset: str) -> data.Images:
    """A data set on the configuration's device; in a worker, the one that its parent has."""
    images = data.load_images(dataset, config.data, config.resolved_device)
    provenance.check_fingerprint(images.name, images.fingerprint)
    return images
