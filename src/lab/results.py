"""Results: one .npz a run, named arrays beside a JSON string that says what made them.

Path: RESULTS/SCALE/EXPERIMENT/NAME-DIGEST.npz, where DIGEST is of the whole configuration: two
configurations never share a file. A file is written whole or not at all, and read without pickle.
"""

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from lab.errors import ResultError

SCHEMA = 1
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
    # names of its axes), data (name, fingerprint), versions, commit, device, seconds
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

    def __getitem__(self, name: str) -> np.ndarray:
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


def digest(settings: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> str:
    """Eight hexadecimal digits that name a configuration.

    Args:
        settings: name -> value.
        earlier: settings added later, with the value that results had before: at that value a
            setting does not count, so those results keep their names.
    """
    settings, earlier = plain(settings), plain(earlier or {})
    named = {k: v for k, v in settings.items() if k not in earlier or v != earlier[k]}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:8]


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
    import torch

    packages = ("numpy", "scipy", "scikit-learn", "torchvision")
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    is_gpu = device == "cuda"
    return {
        "schema": SCHEMA,
        "experiment": experiment,
        "name": name,
        "config": plain(settings),
        "axes": plain(axes),
        "data": {"name": source.name, "fingerprint": source.fingerprint},
        "versions": versions | {package: version(package) for package in packages},
        "commit": commit(),
        "device": torch.cuda.get_device_name() if is_gpu else f"cpu ({os.cpu_count()} cores)",
        "seconds": round(seconds, 1),
    }


def write(path: Path, result: Result) -> None:
    """Write a result atomically: into a temporary file beside `path`, then renamed."""
    axes = result.meta["axes"]
    for name, array in result.arrays.items():
        if name in ("meta", "file"):  # one is the JSON string's, the other numpy.savez's argument
            raise ResultError(f"no array of a result can be named {name!r}")
        if len(axes.get(name, ())) != array.ndim:
            shape, names = array.shape, axes.get(name)
            raise ResultError(
                f"array {name!r} of shape {shape} needs a name for each axis, got {names}"
            )
    write_npz(path, {**result.arrays, "meta": np.array(json.dumps(result.meta))})


def read(path: Path) -> Result:
    """Read a result; raises ResultError where the file is not one of this schema."""
    try:
        arrays = read_npz(path)
        meta = json.loads(str(arrays.pop("meta")))
        schema = meta["schema"]
    except FileNotFoundError as error:
        raise ResultError(f"no result file {path}: run its experiment") from error
    except Exception as error:  # nearly anything, on a foreign file
        raise ResultError(f"{path} is not a result file of this project: move it away") from error
    if schema != SCHEMA:
        raise ResultError(f"{path} has schema {schema}, not {SCHEMA}: run its experiment again")
    return Result(arrays, meta)


def find(
    root: Path,
    scale: str,
    experiment: str,
    wanted: Mapping[str, Any],
    earlier: Mapping[str, Any] | None = None,
) -> list[Result]:
    """The results of an experiment whose configuration holds every wanted value, sorted by name.

    Args:
        root, scale, experiment: name their folder.
        wanted: setting -> value.
        earlier: setting added later -> its value in results that do not have it.

    Raises:
        ResultError: of one name there are several, which differ in settings that are not wanted.
    """
    by_name: dict[str, tuple[Path, dict[str, Any], Result]] = {}
    for path in sorted((root / scale / experiment).glob("*.npz")):
        result = read(path)
        config = plain(earlier or {}) | result.config
        if any(key not in config or config[key] != value for key, value in plain(wanted).items()):
            continue
        if result.name in by_name:
            other, twin, _ = by_name[result.name]
            unlike = sorted(k for k in config.keys() | twin.keys() if config.get(k) != twin.get(k))
            raise ResultError(
                f"{other} and {path.name} are both named {result.name}: say which one by its "
                f"{' or '.join(unlike) or 'place'}, or move one away"
            )
        by_name[result.name] = path, config, result
    return [by_name[name][-1] for name in sorted(by_name)]


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


def check_writable(root: Path) -> None:
    """Raise ResultError unless results can be written under `root`; creates nothing."""
    existing = root.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = f"{existing} is not a folder that you may write to"
        raise ResultError(f"results cannot be written to {root}: {reason}")


@cache
def commit() -> str:
    """The commit of the code that runs, with "-dirty" where files differ from it."""
    folder = str(Path(__file__).parent)
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
