"""What the benchmark measures: entries of three kinds, and their file.

RESULTS/benchmark/benchmark.npz, or benchmark-cuda.npz of a GPU, has an array KIND_FIELD of each
field of each kind, one value an entry.
"""

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from lab import provenance, results
from lab.results import Result


class Row(NamedTuple):
    """Two numbers measured in turn."""

    what: str
    ours: float
    against: str  # what ours is compared with
    theirs: float
    unit: str  # of both; one that ends in "/s" is a rate, of which more is better
    aim: float  # the least gain that is asked for


class Point(NamedTuple):
    """One size of a series whose growth is measured."""

    series: str
    axis: str  # what grows
    size: float
    cost: float  # what the operations are proportional to, where the series' law holds
    seconds: float
    megabytes: float = float("nan")  # largest memory; nan where it was not measured


class Peak(NamedTuple):
    """The largest memory of a script's processes together, as it was measured at first."""

    script: str
    data: str
    megabytes: float
    seconds: float  # that it ran
    ended: bool  # whether it ran to its end


Entry = Row | Point
KINDS: dict[str, Any] = {"row": Row, "point": Point, "peak": Peak}


def path(root: Path, name: str = "benchmark.npz", device: str = "cpu") -> Path:
    """Of a file of the benchmark on a device, "cpu" or "cuda"; root: folder of the results."""
    own = Path(name)
    return root / "benchmark" / (name if device == "cpu" else f"{own.stem}-{device}{own.suffix}")


def entries(result: Result, kind: str) -> list[Any]:
    """The entries of one kind, a key of KINDS, in the order in which they were measured."""
    columns = (result[f"{kind}_{name}"].tolist() for name in KINDS[kind]._fields)
    return list(map(KINDS[kind], *columns))


def write(root: Path, found: Sequence[Entry], device: str, seconds: float) -> Result:
    """Write the file of these entries; device: "cpu" or "cuda"; seconds that they took."""
    arrays = {
        f"{key}_{name}": np.array([getattr(e, name) for e in found if isinstance(e, kind)])
        for key, kind in KINDS.items()
        for name in kind._fields
    }
    axes = {name: (name.partition("_")[0],) for name in arrays}
    source = SimpleNamespace(name="synthetic", fingerprint="none")
    meta = results.make_meta("benchmark", "benchmark", {}, axes, source, device, seconds)
    date = datetime.now(UTC).date().isoformat()
    part = {"seconds": seconds, "date": date, "commit": meta["commit"]}
    result = Result(arrays, meta | {"machine": machine(device), "parts": {"all": part}})
    results.write(path(root, device=device), result)
    return result


def machine(device: str) -> str:
    """The processor, its cores and, where it computes, the GPU."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    name = next((s.partition(": ")[2] for s in lines if s.startswith("model name")), name)
    gpu = f", {provenance.device_name(device)}" if device == "cuda" else ""
    return f"{name}, {provenance.device_name('cpu').partition('(')[2].rstrip(')')}{gpu}"
