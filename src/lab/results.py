"""Results: one .npz a run, named arrays beside a JSON string that says what made them.

Path: RESULTS/SCALE/EXPERIMENT/NAME-DIGEST.npz, where DIGEST is of the whole configuration: two
configurations never share a file, and what is there is compared with what is asked for. A file is
written whole or not at all, read without pickle, and carries a digest of its own content.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lab import files, provenance
from lab.errors import ResultError

SCHEMA = 1
DIGITS, DIGITS_BEFORE = 16, 8  # of the digest in a file's name; results of before keep theirs
Arrays = dict[str, np.ndarray]


class Source(Protocol):
    """What a result is made from: data with a name and a fingerprint, as data.Images."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Result:
    """Named arrays and what made them."""

    arrays: Arrays
    # schema, experiment, name, config (every number that shaped the arrays), axes (array name ->
    # names of its axes), data (name, fingerprint), versions, commit, sources, device, seconds;
    # diverged, where replicas have: of each its seed, options and settings, and the epoch
    meta: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        return self.meta["config"]

    @property
    def name(self) -> str:
        return self.meta["name"]

    @property
    def label(self) -> str:
        """The name of the data."""
        return self.meta["data"]["name"]

    @property
    def diverged(self) -> list[dict[str, Any]]:
        """The replicas whose arrays are nan from an epoch on: seed, options, settings, epoch."""
        return self.meta.get("diverged", [])

    def divergence(self, seed: int) -> int | None:
        """The epoch in which the replica of a seed diverged, if it did; one replica a seed."""
        return next((entry["epoch"] for entry in self.diverged if entry["seed"] == seed), None)

    def without_diverged(self) -> "Result":
        """Its arrays without the seeds of which a replica diverged."""
        if not self.diverged:
            return self
        gone = [entry["seed"] for entry in self.diverged]
        kept = np.flatnonzero(~np.isin(self["seed"], gone))
        axes = self.meta["axes"]
        arrays = {
            name: array.take(kept, axes[name].index("seed")) if "seed" in axes[name] else array
            for name, array in self.arrays.items()
        }
        return Result(arrays, self.meta)

    @property
    def warning(self) -> str:
        """What has diverged, to stand behind the result's name; empty where nothing has."""
        return "".join(f"; seed {d['seed']} diverged in epoch {d['epoch']}" for d in self.diverged)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            where = f"result {self.meta['experiment']}/{self.name}"
            raise ResultError(f"{where} has no array {name}: run its experiment with --overwrite")
        return self.arrays[name]


def plain(value: Any) -> Any:
    """A value as JSON holds it: dataclasses as dicts, tuples as lists, paths as strings.

    Numbers that are equal become the same number, so that 1 and 1.0 name one configuration.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if dataclasses.is_dataclass(value):
        return plain(dataclasses.asdict(value))
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, str | int | float | None) else str(value)


def digest(
    settings: Mapping[str, Any], earlier: Mapping[str, Any] | None = None, digits: int = DIGITS
) -> str:
    """Hexadecimal digits that name a configuration.

    Args:
        settings: name -> value.
        earlier: settings added later, with the value that results had before: at that value a
            setting does not count, so those results keep their names.
        digits: how many; fewer are the first of more.
    """
    settings, earlier = plain(settings), plain(earlier or {})
    named = {k: v for k, v in settings.items() if k not in earlier or v != earlier[k]}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:digits]


def make_meta(
    experiment: str,
    name: str,
    settings: Mapping[str, Any],
    axes: Mapping[str, tuple[str, ...]],
    source: Source,
    device: str,
    seconds: float,
) -> dict[str, Any]:
    """The JSON part of a result."""
    return {
        "schema": SCHEMA,
        "experiment": experiment,
        "name": name,
        "config": plain(settings),
        "axes": plain(axes),
        "data": {"name": source.name, "fingerprint": source.fingerprint},
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "sources": provenance.sources(),
        "device": provenance.device_name(device),
        "seconds": round(seconds, 1),
    }


def write(path: Path, result: Result) -> None:
    """Write a result, whole or not at all."""
    axes = result.meta["axes"]
    for name, array in result.arrays.items():
        if name in ("meta", "file"):  # one is the JSON string's, the other numpy.savez's argument
            raise ResultError(f"no array of a result can be named {name!r}")
        if array.dtype.hasobject:
            raise ResultError(f"array {name!r} holds objects, which only pickle could write")
        if len(axes.get(name, ())) != array.ndim:
            shape, names = array.shape, axes.get(name)
            raise ResultError(
                f"array {name!r} of shape {shape} needs a name for each axis, got {names}"
            )
    write_npz(path, result.arrays, result.meta)


def read(path: Path) -> Result:
    """Read a result; raises ResultError where the file is not one of this schema."""
    if not files.exists(path):
        raise ResultError(f"no result file {path}: run its experiment")
    try:
        arrays, meta = read_npz(path)
        schema = meta["schema"]
    except Damaged as error:
        raise ResultError(f"{path} {error}: run its experiment with --overwrite") from error
    except Exception as error:  # nearly anything, on a foreign file
        raise ResultError(f"{path} is not a result file of this project: move it away") from error
    if schema != SCHEMA:
        raise ResultError(f"{path} has schema {schema}, not {SCHEMA}: run its experiment again")
    if lacking := _lacking(arrays, meta):
        reason = f"is not a result file of this project, it has no {lacking}"
        raise ResultError(f"{path} {reason}: move it away")
    return Result(arrays, meta)


_META: dict[str, type | tuple[type, ...]] = {
    "experiment": str,
    "name": str,
    "config": dict,
    "axes": dict,
    "data": dict,
    "commit": str,
    "device": str,
    "seconds": (int, float),
}


def _lacking(arrays: Arrays, meta: Mapping[str, Any]) -> str | None:
    """What a result must have and this one has not."""
    for key, kind in _META.items():
        if not isinstance(meta.get(key), kind):
            return key
    if not all(isinstance(meta["data"].get(key), str) for key in ("name", "fingerprint")):
        return "name and fingerprint of its data"
    for name, array in arrays.items():
        axes = meta["axes"].get(name)
        if not isinstance(axes, list) or len(axes) != array.ndim:
            return f"axes of {name}"
    diverged = meta.get("diverged", [])
    entries = diverged if isinstance(diverged, list) else [None]
    for entry in entries:
        whole = isinstance(entry, dict) and (entry.get("seed"), entry.get("epoch"))
        if not whole or not all(type(number) is int for number in whole):
            return "list of what has diverged"
    if not all(text.isprintable() for text in _texts(meta)):  # it may be shown in a terminal
        return "plain text"
    return None


def _texts(value: Any) -> Iterator[str]:
    """Every string in JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for entry in [*value, *(value.values() if isinstance(value, dict) else ())]:
            yield from _texts(entry)


def find(
    root: Path,
    scale: str,
    experiment: str,
    wanted: Mapping[str, Any],
    earlier: Mapping[str, Any] | None = None,
) -> list[Result]:
    """The results of an experiment whose configuration holds every wanted value, sorted by name.

    Those that differ in their seeds alone are joined: seeds can be made one by one.

    Args:
        root, scale, experiment: name their folder.
        wanted: setting -> value.
        earlier: setting added later -> its value in results that do not have it.

    Raises:
        ResultError: of one name there are several, which differ in settings that are not wanted, or
            in data.
    """
    by_name: dict[str, list[tuple[Path, dict[str, Any], Result]]] = {}
    for path in sorted((root / scale / experiment).glob("*.npz")):
        result = read(path)
        config = plain(earlier or {}) | result.config
        if any(key not in config or config[key] != value for key, value in plain(wanted).items()):
            continue
        group = by_name.setdefault(result.name, [])
        for other, twin, _ in group[:1]:
            unlike = {k for k in config.keys() | twin.keys() if config.get(k) != twin.get(k)}
            if unlike - {"seeds"} or not unlike:
                raise ResultError(
                    f"{other} and {path.name} are both named {result.name}: say which one by its "
                    f"{' or '.join(sorted(unlike)) or 'place'}, or move one away"
                )
        group.append((path, config, result))
    return [join({path: r for path, _, r in by_name[name]}) for name in sorted(by_name)]


def join(parts: Mapping[Path, Result]) -> Result:
    """Results of one configuration with several seeds as one, path -> result; a seed counts once.

    It has the arrays that all of them have, which older ones may lack. Of what made them it holds
    every different answer, and the seconds of all together.

    Raises:
        ResultError: they were made from other data, or arrays without seeds differ.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    in_order = sorted(parts.items(), key=lambda part: -len(part[1]["seed"]))
    (first_path, first), *_ = in_order
    shared = set.intersection(*(set(part.arrays) for part in parts.values()))
    axes = {name: first.meta["axes"][name] for name in first.arrays if name in shared}
    chosen: dict[int, tuple[int, int]] = {}  # seed -> which part, and where in it
    for i, (path, part) in enumerate(in_order):
        fixed = [name for name in axes if "seed" not in axes[name]]
        same = part.meta["data"] == first.meta["data"]
        if not same or not all(_equal(part[name], first[name]) for name in fixed):
            reason = "differ in more than their seeds: move one away"
            raise ResultError(f"{first_path} and {path.name} {reason}")
        for j, seed in enumerate(part["seed"].tolist()):
            chosen.setdefault(seed, (i, j))
    arrays = {name: first[name] for name in axes}
    for name in axes:
        if "seed" in axes[name]:
            axis = axes[name].index("seed")
            rows = [in_order[i][1][name].take(j, axis) for _, (i, j) in sorted(chosen.items())]
            arrays[name] = np.stack(rows, axis)
    metas = [part.meta for _, part in in_order]
    meta = first.meta | {
        "config": first.config | {"seeds": sorted(chosen)},
        "seconds": sum(meta["seconds"] for meta in metas),
        **{k: " and ".join(dict.fromkeys(meta[k] for meta in metas)) for k in ("commit", "device")},
    }
    diverged = {entry["seed"]: entry for part in parts.values() for entry in part.diverged}
    return Result(arrays, meta | ({"diverged": list(diverged.values())} if diverged else {}))


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == b.dtype.kind == "f")


class Damaged(Exception):
    """The content of a file is not what was written."""


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write arrays and a JSON string with their digest to `path`, whole or not at all."""
    text = json.dumps({**meta, "digest": content_digest(arrays, meta)})
    content = {**arrays, "meta": np.array(text)}
    files.write_whole(path, lambda file: np.savez_compressed(file, allow_pickle=False, **content))


def read_npz(path: Path, strict: bool = False) -> tuple[Arrays, dict[str, Any]]:
    """Arrays and meta of an .npz file, without pickle.

    strict: follow no link, and take no file without a digest, which results of before do not have.

    Raises:
        Damaged: the content has another digest than its own.
        Exception: nearly any, on a foreign file.
    """
    with (
        files.open_plain(path, follow=not strict) as stream,
        np.load(stream, allow_pickle=False) as file,
    ):
        arrays = {name: file[name] for name in file.files}
    meta = dict(json.loads(str(arrays.pop("meta"))))
    written = meta.pop("digest", None)
    if (strict or written is not None) and written != content_digest(arrays, meta):
        raise Damaged("was damaged after it was written")
    return arrays, meta


def content_digest(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal digits, of arrays with their names, dtypes and shapes, and meta."""
    content = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        content.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        content.update(array.tobytes())
    return content.hexdigest()
