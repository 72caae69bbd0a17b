"""Folders that say what they were made from, with a digest of each file, once they are whole."""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lab import files

MARK = "origin.json"  # written last


class Unusable(Exception):
    """A folder is not marked, or not what was marked; the message goes on from its path."""


def mark(folder: Path, origin: Mapping[str, Any]) -> None:
    """Say what a folder was made from, and what is in it."""
    files.remove_left(folder / MARK)
    every = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MARK)
    digests = {path.name: files.sha256(path) for path in every}
    content = json.dumps({**origin, "files": digests}).encode()
    files.write_whole(folder / MARK, lambda file: file.write(content))


def read(folder: Path, without: Sequence[str] = ()) -> dict[str, Any]:
    """What a folder was made from, and its files: name -> SHA-256.

    without: patterns of names that may have been removed since.

    Raises:
        Unusable: not marked, or a file is not the one that was there.
    """
    try:
        with files.open_plain(folder / MARK, follow=False) as file:
            said = json.loads(file.read())
        digests = dict(said["files"])
    except FileNotFoundError as error:
        raise Unusable("is not whole") from error
    except Exception as error:  # nearly anything, of a foreign file
        raise Unusable("is not a checkpoint of this project") from error
    for name, digest in digests.items():
        if any(fnmatch(name, pattern) for pattern in without):
            continue
        try:
            intact = Path(name).name == name and files.sha256(folder / name) == digest
        except OSError as error:
            raise Unusable(f"lacks {name}") from error
        if not intact:
            raise Unusable(f"was damaged after it was written ({name})")
    return said
