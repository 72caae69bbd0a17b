"""Files: written whole or not at all, read only where they are plain, locked while in use.

What a file system refuses is a ResultError: one line with the path and the reason.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from lab.errors import ResultError

_unfinished: set[Path] = set()  # what this process is writing


@contextmanager
def explained(path: Path, failed: str) -> Iterator[None]:
    """What the system refuses inside as one line: PATH cannot be written, …"""
    try:
        yield
    except OSError as error:
        raise ResultError(f"{path} cannot be {failed}: {error.strerror or error}") from error


def exists(path: Path) -> bool:
    """Whether anything lies there, be it a link to nothing; a name that cannot be is refused."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ResultError(f"{path} cannot be used: {error.strerror}") from error
    return True


def open_plain(path: Path, follow: bool = True) -> BinaryIO:
    """A plain file for reading; whatever else lies there, such as a FIFO, is an OSError at once.

    follow: a link.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return os.fdopen(handle, "rb")


def sha256(path: Path) -> str:
    """Of the content of a plain file, in hexadecimal digits."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Make a file of what `write` writes, or, where it fails, leave what was there.

    The file's mode is what the umask leaves of 0666. What processes that were killed had begun to
    write as the same file is removed.
    """
    with explained(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_left(path)
        with _temporary(path, folder=False) as (temporary, handle):
            with os.fdopen(handle, "wb", closefd=False) as file:
                write(file)
                file.flush()
                os.fsync(handle)
            os.replace(temporary, path)


@contextmanager
def folder_whole(path: Path) -> Iterator[Path]:
    """An empty folder, which becomes `path` where all inside ends well, and else is gone."""
    with explained(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path, folder=True) as (temporary, _):
            yield temporary
            remove(path)
            os.replace(temporary, path)


def _prefix(path: Path) -> str:
    """How the temporary files of one file begin: short, whatever its own name."""
    return f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]}-"


@contextmanager
def _temporary(path: Path, folder: bool) -> Iterator[tuple[Path, int]]:
    """A new file or folder beside `path`, open and locked; it is gone afterwards.

    By the lock `remove_left` tells it from what a process that was killed has left.
    """
    while True:
        temporary = path.with_name(f"{_prefix(path)}{secrets.token_hex(4)}.tmp")
        _unfinished.add(temporary)
        try:
            if folder:
                temporary.mkdir()
            flags = os.O_RDONLY if folder else os.O_WRONLY | os.O_CREAT | os.O_EXCL
            handle = os.open(temporary, flags, 0o666)
            try:
                _flock(handle, wait=True)
                if _is_same(temporary, handle):  # nobody took it for left before it was locked
                    yield temporary, handle
                    return
            finally:
                os.close(handle)
        finally:
            remove(temporary)
            _unfinished.discard(temporary)


def _flock(handle: int, wait: bool) -> bool:
    """Whether this process now has the lock of an open file; False where there are no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that it holds; nothing there is fine."""
    with explained(path, "removed"):
        try:
            is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
            shutil.rmtree(path) if is_folder else path.unlink()
        except FileNotFoundError:
            return


def remove_unfinished() -> None:
    """Remove what this process was writing; for a program that ends at once."""
    for path in list(_unfinished):
        with suppress(ResultError):
            remove(path)


def remove_left(path: Path) -> None:
    """Remove what processes that were killed had begun to write as `path`.

    What is still being written is locked, and stays; so does all where there are no locks.
    """
    for left in path.parent.glob(f"{_prefix(path)}*.tmp"):
        with suppress(OSError, ResultError):  # gone meanwhile, or not for this user to remove
            handle = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if _flock(handle, wait=False):
                    remove(left)
            finally:
                os.close(handle)


def check_writable(folder: Path) -> None:
    """Raise ResultError unless files can be written into a folder, or it can be made.

    Leaves everything as it was: a file is tried, in the folder or the next above that is there.
    """
    above = (folder.absolute(), *folder.absolute().parents)
    for place in reversed(above):
        if exists(place) and not place.is_dir():
            raise ResultError(f"{folder} cannot be written to: {place} is not a folder")
    place = next(place for place in above if place.is_dir())
    for name in above[0].relative_to(place).parts:
        exists(place / name)  # whether it can be a name there
    with explained(folder, "written to"):
        try:
            remove_left(place / "probe")
            with _temporary(place / "probe", folder=False) as (_, handle):
                os.write(handle, b"a disk that is full takes an empty file")
        except FileNotFoundError:
            if place.is_dir():
                raise
            check_writable(folder)  # another program has removed what it had made


@contextmanager
def locked(path: Path, what: str, wait: bool = False, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a file, which is there only as long as somebody holds it.

    The system gives it back when a process ends, in whatever way. Where the file system has no
    locks, nothing is locked.

    Args:
        path: of the lock.
        what: is in use, for the message.
        wait: for whoever holds it, instead of failing.
        shared: several may hold it at once, but none that did not ask to share.

    Raises:
        ResultError: another process holds it.
    """
    handle = _acquire(path, what, wait, shared)
    try:
        yield
    finally:
        if handle is not None:
            _release(path, handle)


def _acquire(path: Path, what: str, wait: bool, shared: bool) -> int | None:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        with explained(path, "locked"):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if wait:
                print(f"waiting: {what} is in use by another process", flush=True)
                fcntl.flock(handle, kind)
                os.close(handle)
                continue
            holder = os.read(handle, 20).decode(errors="replace").strip()
            os.close(handle)
            process = f"another process{f', {holder}' if holder else ''}"
            raise ResultError(f"{what} is in use by {process}: wait until it has ended") from error
        except OSError:
            os.close(handle)
            return None
        if _is_same(path, handle):
            with suppress(OSError):  # a full disk takes no number
                os.ftruncate(handle, 0)
                os.pwrite(handle, b"" if shared else str(os.getpid()).encode(), 0)
            return handle
        os.close(handle)  # whoever held it removed the file meanwhile


def _is_same(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _release(path: Path, handle: int) -> None:
    with suppress(OSError):  # others may share it
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    os.close(handle)
