"""What is kept of a result that is not yet whole, and the lock of whoever makes it.

Beside RESULT.npz: .partial/RESULT.lock, and .partial/RESULT/KEY with a file for each replica, where
KEY names code, packages, data and processor. A file holds what became of the replica: its arrays,
or how it diverged and what was measured before. Jobs of a cluster are known in DIGEST.jobs beside
it, where DIGEST is KEY's first part, without the processor.
"""

from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from lab import files, results
from lab.errors import Diverged, ResultError
from lab.replicas import Outcome, Replica


class Partial:
    """What has become so far of the replicas of a result.

    Args:
        result: path of the result.
        key: of what is kept.
        apart: what --overwrite has done, which only --overwrite goes on from.
    """

    def __init__(self, result: Path, key: str, apart: bool = False) -> None:
        self.result = result
        self.root = result.parent / ".partial" / result.stem
        self.folder = self.root / f"{key}{'-overwrite' * apart}"
        self.jobs = self.root / f"{key.partition('-')[0]}{'-overwrite' * apart}.jobs"
        self._apart = apart
        self.lock = self.root.with_name(f"{self.root.name}.lock")

    def get(self, replica: Replica, any_processor: bool = False) -> Outcome | None:
        """None where it is not done, or what lies there is not whole or not its own.

        any_processor: may have made it, where this one has not.
        """
        for place in (self.folder, *(self.folders() if any_processor else ())):
            if (outcome := self._read(replica, place)) is not None:
                return outcome
        return None

    def folders(self) -> list[Path]:
        """Where replicas of the same code, packages and data are kept, one a kind of processor."""
        digest = self.folder.name.partition("-")[0]
        found = sorted(place for place in self.root.glob(f"{digest}-*/") if not place.is_symlink())
        return [place for place in found if place.name.endswith("-overwrite") == self._apart]

    def _read(self, replica: Replica, folder: Path) -> Outcome | None:
        try:
            arrays, meta = results.read_npz(folder / self._path(replica).name, strict=True)
        except Exception:  # absent, or nearly anything else
            return None
        if meta.get("replica") != results.plain(asdict(replica)):
            return None
        if "diverged" not in meta:
            return arrays
        message, epoch = meta.get("message"), meta["diverged"]
        is_whole = isinstance(message, str) and message.isprintable() and type(epoch) is int
        return Diverged(message, epoch, arrays) if is_whole else None

    def put(self, replica: Replica, outcome: Outcome) -> None:
        meta = {"replica": results.plain(asdict(replica))}
        if isinstance(outcome, Diverged):
            meta |= {"diverged": outcome.epoch, "message": str(outcome)}
        arrays = outcome.arrays if isinstance(outcome, Diverged) else outcome
        results.write_npz(self._path(replica), arrays, meta)

    def drop(self, replica: Replica) -> None:
        """Forget what has become of a replica, wherever it was made."""
        for place in self.folders():
            files.remove(place / self._path(replica).name)

    def begin(self, name: str) -> bool:
        """Whether this is the first time that something is begun; from now on it is not."""
        path = self.folder / f"{name}.begun"
        if files.exists(path):
            return False
        files.write_whole(path, lambda _: None)
        return True

    def _path(self, replica: Replica) -> Path:
        return self.folder / f"{results.digest(asdict(replica))}.npz"

    def in_use(self, shared: bool = False) -> AbstractContextManager[None]:
        """The lock of the result and its checkpoints; see files.locked.

        shared: by those that only read.
        """
        return files.locked(self.lock, str(self.result), shared=shared)

    def check(self) -> None:
        """Raise ResultError unless the result can be written, and what is kept until then."""
        for place in (self.root.parent, self.root, self.folder, self.jobs):
            if place.is_symlink():
                raise ResultError(f"{place} is a link, which is not followed: remove it")
        for folder in (self.result.parent, self.root):
            files.check_writable(folder)

    def clean(self) -> None:
        """Remove all that is kept, of whatever key, and what processes that were killed left."""
        files.remove(self.root)
        files.remove_left(self.result)

    def clean_left(self) -> None:
        """Remove what a process that was killed left of a result that is whole.

        Raises:
            ResultError: it is in use.
        """
        if files.exists(self.folder) or files.exists(self.lock):
            with self.in_use():
                files.remove(self.folder)
                if self.root.is_dir() and not any(self.root.iterdir()):
                    files.remove(self.root)
