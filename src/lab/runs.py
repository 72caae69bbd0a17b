"""Results that are to be made: which are missing, training, resuming, saving.

planned = [Run(config, "whiten", name, settings, images, AXES, replicas) for … in …]
for run, arrays in train(functools.partial(train_replicas, config), planned):
    run.save(arrays)
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lab import results
from lab.cli import Common
from lab.errors import ResultError
from lab.replicas import Replica, deal
from lab.results import Arrays, Source

SECONDS = "replica_seconds"  # beside a finished replica's arrays: what it took


@dataclass(frozen=True)
class Run:
    """One result that is to be made."""

    config: Common
    experiment: str  # names its folder
    name: str  # of the file, before the digest of the settings
    settings: Mapping[str, Any]  # every number that shapes the arrays
    source: Source  # the data it is made from
    axes: Mapping[str, tuple[str, ...]]  # array name -> names of its axes
    replicas: tuple[Replica, ...]  # what is trained for it

    @property
    def path(self) -> Path:
        folder = self.config.results / self.config.scale / self.experiment
        return folder / f"{self.name}-{results.digest(self.settings, self.config.earlier)}.npz"

    def missing(self) -> bool:
        """Whether it has to be made; says so where not, and whether the program has changed since.

        Raises:
            ResultError: the result that is there was made from other data.
        """
        if self.config.overwrite or not self.path.exists():
            return True
        meta = results.read(self.path).meta
        if meta["data"]["fingerprint"] != self.source.fingerprint:
            name = self.source.name
            remedy = "rename yours, or give --overwrite"
            raise ResultError(f"{self.path} was made from other data named {name}: {remedy}")
        made_by, runs_now = _in_words(meta["commit"]), _in_words(results.commit())
        changed = f" by {made_by}; this is {runs_now}, --overwrite makes it again"
        print(f"already there: {self.path}{changed if made_by != runs_now else ''}", flush=True)
        return False

    @cached_property
    def partial(self) -> "Partial":
        """The replicas that are done."""
        folder = self.path.parent / ".partial" / self.path.stem
        return Partial(
            folder / f"{self.source.fingerprint}-{results.commit()}", self.config.overwrite
        )

    def save(self, arrays: Mapping[str, Any]) -> None:
        """Write the result, and drop what was kept of the replicas."""
        arrays = {name: np.asarray(values) for name, values in arrays.items()}
        seconds = float(arrays.pop(SECONDS).sum())
        meta = results.make_meta(
            self.experiment,
            self.name,
            self.settings,
            self.axes,
            self.source,
            self.config.resolved_device,
            seconds,
        )
        results.write(self.path, results.Result(arrays, meta))
        shutil.rmtree(self.partial.folder.parent, ignore_errors=True)
        print(f"saved {self.path} ({seconds:.0f} s)", flush=True)


def _in_words(commit: str) -> str:
    """A commit, as git describes it."""
    if commit == "unknown":
        return "an unknown commit"
    name = commit.removesuffix("-dirty")
    return f"commit {name}" + (" with uncommitted changes" if name != commit else "")


def train(
    function: Callable[[Sequence[Replica]], Arrays], planned: Sequence[Run], jobs: int | None = None
) -> Iterator[tuple[Run, Arrays]]:
    """Train the replicas of all missing runs together, but those that an earlier run finished.

    Args:
        function: a picklable function from R replicas to name -> (R, …).
        planned: runs of one configuration.
        jobs: processes on the CPU, where it is not for the configuration to say.

    Yields:
        each run as soon as it is whole, and its arrays, name -> (replica, …), with the seconds of
        each.
    """
    missing = [run for run in planned if run.missing()]
    finished: dict[str, dict[int, Arrays]] = {run.name: {} for run in missing}
    waiting: list[tuple[Run, int]] = []
    for run in missing:
        for i, replica in enumerate(run.replicas):
            arrays = run.partial.get(asdict(replica))
            if arrays is None:
                waiting.append((run, i))
            else:
                finished[run.name][i] = arrays
    yield from ((run, _join(run, finished)) for run in missing if _is_whole(run, finished))
    if not waiting:
        return
    config = waiting[0][0].config
    dealt = deal(
        function,
        [run.replicas[i] for run, i in waiting],
        device=config.resolved_device,
        jobs=jobs or config.jobs,
    )
    start = time.perf_counter()
    for position, arrays in dealt:
        run, i = waiting[position]
        now = time.perf_counter()
        arrays = {**arrays, SECONDS: np.array(now - start)}
        start = now
        run.partial.put(asdict(run.replicas[i]), arrays)
        finished[run.name][i] = arrays
        if _is_whole(run, finished):
            yield run, _join(run, finished)


def _is_whole(run: Run, finished: Mapping[str, Mapping[int, Arrays]]) -> bool:
    return len(finished[run.name]) == len(run.replicas)


def _join(run: Run, finished: Mapping[str, Mapping[int, Arrays]]) -> Arrays:
    return stack([finished[run.name][i] for i in range(len(run.replicas))])


def stack(parts: Sequence[Arrays]) -> Arrays:
    """Arrays of the same names, stacked: name -> (parts, …)."""
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def unflatten(arrays: Mapping[str, np.ndarray], *sizes: int) -> Arrays:
    """The replica axis as a grid of these sizes: name -> (*sizes, …)."""
    return {name: values.reshape(*sizes, *values.shape[1:]) for name, values in arrays.items()}


class Partial:
    """Finished replicas of a run that is not yet whole, one file each under `folder`.

    A mapping from what names a replica to its arrays. With `fresh`, what an earlier run left is not
    seen.
    """

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self.folder = folder
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)

    def _path(self, piece: Mapping[str, Any]) -> Path:
        return self.folder / f"{results.digest(piece)}.npz"

    def get(self, piece: Mapping[str, Any]) -> Arrays | None:
        try:
            return results.read_npz(self._path(piece))
        except Exception:  # absent, or damaged: then it is computed again
            return None

    def put(self, piece: Mapping[str, Any], arrays: Arrays) -> None:
        results.write_npz(self._path(piece), arrays)
