"""Results: one .npz a run, named arrays beside a JSON string that says what made them.

Path: RESULTS/SCALE/EXPERIMENT/NAME-DIGEST.npz, where DIGEST is of the whole configuration: two
configurations never share a file. A file is written whole or not at all, and read without pickle.
"""

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

SCHEMA = 1
Arrays = dict[str, np.ndarray]


class Source(Protocol):
    """What a result is made from: data with a name and a fingerprint, as data.Images."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...


class ResultError(Exception):
    """A result file cannot be used; the message is one line that says what to do."""


@dataclass(frozen=True)
class Result:
    """Named arrays and what made them.

    arrays: name -> array. meta: schema, experiment, name, config (every number that shaped the arrays), axes
    (array name -> names of its axes), data (name, fingerprint), versions, commit, device, seconds.
    """

    arrays: Arrays
    meta: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        return self.meta["config"]

    @property
    def label(self) -> str:
        return self.meta["data"]["name"]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]


def plain(value: Any) -> Any:
    """A configuration value as JSON holds it: dataclasses as dicts, tuples as lists, paths as strings.

    Numbers that are equal become the same number, so that 1 and 1.0 name one configuration.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if dataclasses.is_dataclass(value):
        return plain(dataclasses.asdict(value))
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, str | int | float | None) else str(value)


def digest(config: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that name a configuration."""
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode()).hexdigest()[:8]


def path_for(root: Path, scale: str, experiment: str, name: str, config: Mapping[str, Any]) -> Path:
    return root / scale / experiment / f"{name}-{digest(config)}.npz"


def make_meta(
    experiment: str,
    name: str,
    config: Mapping[str, Any],
    axes: Mapping[str, tuple[str, ...]],
    data: Source,
    device: str,
    seconds: float,
) -> dict[str, Any]:
    """The JSON part of a result."""
    import torch

    installed = {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "torchvision")}
    return {
        "schema": SCHEMA,
        "experiment": experiment,
        "name": name,
        "config": plain(config),
        "axes": plain(axes),
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **installed},
        "commit": _commit(),
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu ({os.cpu_count()} cores)",
        "seconds": round(seconds, 1),
    }


def save(path: Path, result: Result) -> None:
    """Write a result atomically: into a temporary file beside `path`, then renamed."""
    axes = result.meta["axes"]
    for name, array in result.arrays.items():
        if name in ("meta", "file"):  # one is the JSON string's, the other an argument of numpy.savez
            raise ResultError(f"no array of a result can be named {name!r}")
        if len(axes.get(name, ())) != array.ndim:
            raise ResultError(f"array {name!r} of shape {array.shape} needs a name for each axis, got {axes.get(name)}")
    write_npz(path, {**result.arrays, "meta": np.array(json.dumps(result.meta))})


def read_npz(path: Path) -> Arrays:
    """Every array of an .npz file, without pickle."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to `path` whole or not at all."""
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Make a file of what `write` writes, or, where it fails, leave what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: Path) -> Result:
    """Read a result; raises ResultError where the file is not one of this schema."""
    try:
        arrays = read_npz(path)
        meta = json.loads(str(arrays.pop("meta")))
        schema = meta["schema"]
    except FileNotFoundError as error:
        raise ResultError(f"no result file {path}: run its experiment") from error
    except Exception as error:  # zipfile, zlib, json and numpy raise nearly anything on a foreign file
        raise ResultError(f"{path} is not a result file of this project: move it away") from error
    if schema != SCHEMA:
        raise ResultError(f"{path} has schema {schema}, not {SCHEMA}: run its experiment again")
    return Result(arrays, meta)


def find(root: Path, scale: str, experiment: str, like: Mapping[str, Any], **wanted: Any) -> list[Result]:
    """The results of an experiment whose configuration has the wanted values, sorted by name.

    Of several that share a name, the one whose configuration differs least from `like`.
    """
    best: dict[str, tuple[int, Result]] = {}
    for path in sorted((root / scale / experiment).glob("*.npz")):
        result = load(path)
        if all(result.config.get(key) == plain(value) for key, value in wanted.items()):
            unlike = sum(result.config.get(key, value) != value for key, value in plain(like).items())
            if result.meta["name"] not in best or unlike < best[result.meta["name"]][0]:
                best[result.meta["name"]] = unlike, result
    return [result for _, (_, result) in sorted(best.items())]


def is_there(path: Path, data: Source) -> bool:
    """Whether `path` holds a result made from this data; raises ResultError where it was made from other data."""
    if not path.exists():
        return False
    made_from = load(path).meta["data"]["fingerprint"]
    if made_from != data.fingerprint:
        raise ResultError(f"{path} was made from other data named {data.name}: rename yours, or give --overwrite")
    print(f"already there: {path}")
    return True


def partial_folder(path: Path, data: Source) -> Path:
    """Where the finished replicas of the run that makes `path` wait for the rest: one a data set and commit."""
    return path.parent / ".partial" / path.stem / f"{data.fingerprint}-{_commit()}"


def check_writable(root: Path) -> None:
    """Raise ResultError unless results can be written under `root`; creates nothing."""
    existing = root.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ResultError(f"results cannot be written to {root}: {existing} is not a folder that you may write to")


class Partial:
    """Finished replicas of a run that is not yet whole, so that a run that was cut off resumes.

    A mapping from what names a replica to its arrays, one file each under `folder`. With `fresh`, what an
    earlier run left is not seen.
    """

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self.folder = folder
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        self._start = time.perf_counter()
        earlier = self.get({"seconds": "of all replicas"})
        self._earlier = float(earlier["seconds"]) if earlier else 0.0

    @property
    def seconds(self) -> float:
        """Seconds of work so far; of a run that was cut off, up to the last replica that it finished."""
        return self._earlier + time.perf_counter() - self._start

    def _path(self, piece: Mapping[str, Any]) -> Path:
        return self.folder / f"{digest(piece)}.npz"

    def get(self, piece: Mapping[str, Any]) -> Arrays | None:
        try:
            return read_npz(self._path(piece))
        except Exception:  # absent, or damaged: then it is computed again
            return None

    def put(self, piece: Mapping[str, Any], arrays: Arrays) -> None:
        write_npz(self._path(piece), arrays)
        write_npz(self._path({"seconds": "of all replicas"}), {"seconds": np.array(self.seconds)})


@cache
def _commit() -> str:
    """The commit of the code that runs, with "-dirty" where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
