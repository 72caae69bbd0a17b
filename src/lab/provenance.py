"""What made a number: code, packages, processor, data; and that every process has the same."""

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lab import context
from lab.errors import DataError

SOURCES = ("core", "lab", "experiment")  # the folders of src whose code shapes numbers


@cache
def commit() -> str:
    """The commit of the code that runs; see `commit_of`."""
    return commit_of(Path(__file__).resolve())


def commit_of(place: Path) -> str:
    """The commit of the tree of this module, with "-dirty" where files differ or are new in src.

    "unknown" where the tree is no repository of its own, be it within another's.
    """
    environment = {name: v for name, v in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        # without a lock of the index, which a program that is killed would leave
        command = ["git", "--no-optional-locks", "-C", str(place.parents[2]), *words]
        options = {"capture_output": True, "text": True, "check": True}
        return subprocess.run(command, env=environment, **options).stdout.strip()

    try:
        below = git("rev-parse", "--show-prefix")  # the root of the repository
        git("ls-files", "--error-unmatch", str(place))
        if below:
            return "unknown"
        described = git("describe", "--always", "--abbrev=12")
        differs = git("status", "--porcelain", "--untracked-files=no")
        differs += git("ls-files", "--others", "--exclude-standard", "src")
        return f"{described}-dirty" if differs else described
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@cache
def sources() -> str:
    """Sixteen hexadecimal digits that name the code that runs, committed or not."""
    return digest_code(Path(__file__).parents[1])


def digest_code(root: Path) -> str:
    """Of the names and the content of the files below SOURCES, or of the archive they are in."""
    content = hashlib.sha256()
    for archive in (path for path in (root, *root.parents) if path.is_file()):
        content.update(hashlib.sha256(archive.read_bytes()).digest())
    for path in sorted(file for folder in SOURCES for file in (root / folder).rglob("*.py")):
        content.update(json.dumps(path.relative_to(root).as_posix()).encode())
        content.update(hashlib.sha256(path.read_bytes()).digest())
    return content.hexdigest()[:16]


sources()  # what is edited from here on is not what runs


def versions() -> dict[str, str]:
    """Of Python and the packages whose code shapes numbers."""
    packages = ("numpy", "scipy", "scikit-learn", "torchvision")
    own = {"python": platform.python_version(), "torch": torch.__version__}
    return own | {package: version(package) for package in packages}


def device_name(device: str) -> str:
    """The processor in words; device: "cpu" or "cuda"."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu ({os.cpu_count()} cores)"


def key(data: str, device: str) -> str:
    """Names all that parts of one result must share, as DIGEST-PROCESSOR.

    Args:
        data: fingerprint of the data.
        device: "cpu" or "cuda".
    """
    shared = json.dumps([data, sources(), versions()])
    processor = re.sub(r"[^\w.]+", "-", kind(device_name(device)))
    return f"{hashlib.sha256(shared.encode()).hexdigest()[:16]}-{processor}"


def kind(name: str) -> str:
    """The kind of a processor, by `device_name`: "cpu", however many cores, or the GPU's name."""
    return "cpu" if name.startswith("cpu") else name


@dataclass(frozen=True)
class Faithful:
    """A function that works only with the code and the data of the process that made it.

    Workers start later, from files that may have changed.
    """

    function: Callable[[Any], Any]
    data: Mapping[str, str]  # name -> fingerprint
    code: str = field(default_factory=lambda: sources())

    def __call__(self, argument: Any) -> Any:
        if sources() != self.code:
            raise DataError(_changed("the source code"))
        with context.within(data=self.data):
            return self.function(argument)


def check_fingerprint(name: str, fingerprint: str) -> None:
    """Raise DataError where data are not those that the program was started with."""
    if context.current().data.get(name, fingerprint) != fingerprint:
        raise DataError(_changed(name))


def _changed(what: str) -> str:
    return f"{what} has changed since the program was started: start it again"
