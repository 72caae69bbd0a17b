"""What the benchmark measures: entries of three kinds, and their file.

RESULTS/benchmark/benchmark.npz, or benchmark-cuda.npz of a GPU, has the arrays KIND_FIELD of each
kind, one value an entry, and KIND_part, the part of the benchmark that measured it. A part that is
measured again replaces its own entries alone.
"""

import dataclasses
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lab import files, provenance, results
from lab.errors import ResultError
from lab.results import Arrays, Result


@dataclass(frozen=True)
class Row:
    """Two numbers measured in turn."""

    what: str
    ours: float
    against: str  # what ours is compared with
    theirs: float
    unit: str  # of both; one that ends in "/s" is a rate, of which more is better
    aim: float  # the least gain that is asked for

    @property
    def gain(self) -> float:
        """How many times better ours is."""
        is_rate = self.unit.endswith("/s")
        return self.ours / self.theirs if is_rate else self.theirs / self.ours


@dataclass(frozen=True)
class Point:
    """One size of a series whose growth is measured."""

    series: str
    axis: str  # what grows
    size: float
    cost: float  # what the operations are proportional to, where the series' law holds
    seconds: float
    megabytes: float = float("nan")  # largest memory; nan where it was not measured


@dataclass(frozen=True)
class Peak:
    """The largest memory of a script's processes together."""

    script: str
    data: str
    megabytes: float
    seconds: float  # that it ran
    ended: bool  # whether it ran to its end


Entry = Row | Point | Peak
KINDS: dict[str, type[Entry]] = {"row": Row, "point": Point, "peak": Peak}


@dataclass(frozen=True)
class Part:
    """What one part of the benchmark measured, and what it says of itself."""

    entries: Sequence[Entry]
    seconds: float  # that measuring took
    config: Mapping[str, Any]
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())
    commit: str = field(default_factory=provenance.commit)


@dataclass(frozen=True)
class _Source:
    """As results.Source: what is measured is made from random numbers."""

    name: str = "synthetic"
    fingerprint: str = "none"


def path(root: Path, name: str = "benchmark.npz", device: str = "cpu") -> Path:
    """Of a file of the benchmark on a device, "cpu" or "cuda"; root: folder of the results."""
    own = Path(name)
    return root / "benchmark" / (name if device == "cpu" else f"{own.stem}-{device}{own.suffix}")


def read(root: Path, device: str = "cpu") -> Result | None:
    """What was measured on a device, if anything was."""
    file = path(root, device=device)
    return results.read(file) if files.exists(file) else None


def entries(result: Result, kind: type[Entry]) -> list[Any]:
    """The entries of one kind, part by part."""
    rows = (entry for part in _parts(result).values() for entry in part.entries)
    return [entry for entry in rows if isinstance(entry, kind)]


def kept(root: Path, renewed: Collection[str], device: str) -> dict[str, Part]:
    """The parts of the file that stay when those of these names are measured again.

    Raises:
        ResultError: they were measured on another machine or by other versions.
    """
    result = read(root, device)
    if result is None or result.meta["parts"].keys() <= set(renewed):
        return {}
    now = _environment(device)
    if unlike := " and ".join(key for key in now if result.meta[key] != now[key]):
        raise ResultError(
            f"{path(root, device=device)} has another {unlike}: measure all parts again"
        )
    return {name: part for name, part in _parts(result).items() if name not in renewed}


def write(root: Path, parts: Mapping[str, Part], device: str) -> Result:
    """Write the file of these parts; device: "cpu" or "cuda"."""
    arrays = _arrays(parts)
    axes = {name: (name.partition("_")[0],) for name in arrays}
    total = sum(part.seconds for part in parts.values())
    meta = results.make_meta("benchmark", "benchmark", {}, axes, _Source(), device, total)
    told = {
        name: {key: getattr(part, key) for key in ("seconds", "config", "date", "commit")}
        for name, part in parts.items()
    }
    result = Result(arrays, meta | _environment(device) | {"parts": results.plain(told)})
    results.write(path(root, device=device), result)
    return result


def _environment(device: str) -> dict[str, Any]:
    """What all parts of one file share."""
    return {"machine": machine(device), "versions": provenance.versions()}


def machine(device: str) -> str:
    """The processor, its cores and, where it computes, the GPU."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        name = next((s.partition(": ")[2] for s in lines if s.startswith("model name")), name)
    gpu = f", {provenance.device_name(device)}" if device == "cuda" else ""
    return f"{name}, {provenance.device_name('cpu').partition('(')[2].rstrip(')')}{gpu}"


def _arrays(parts: Mapping[str, Part]) -> Arrays:
    arrays = {}
    for name, kind in KINDS.items():
        pairs = [(key, e) for key, part in parts.items() for e in part.entries]
        pairs = [(key, entry) for key, entry in pairs if isinstance(entry, kind)]
        arrays[f"{name}_part"] = np.array([key for key, _ in pairs], str)
        for column in dataclasses.fields(kind):
            values = [getattr(entry, column.name) for _, entry in pairs]
            arrays[f"{name}_{column.name}"] = np.array(values, column.type)
    return arrays


def _parts(result: Result) -> dict[str, Part]:
    parts = {name: Part([], **told) for name, told in result.meta["parts"].items()}
    for name, kind in KINDS.items():
        names = [column.name for column in dataclasses.fields(kind)]
        columns = [result[f"{name}_{column}"].tolist() for column in names]
        for key, *values in zip(result[f"{name}_part"].tolist(), *columns, strict=True):
            parts[key].entries.append(kind(*values))
    return parts
