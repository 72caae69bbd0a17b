"""Results that are to be made: which are missing, training, resuming, saving.

planned = [Run(config, "whiten", name, settings, images, AXES, replicas) for … in …]
for run, arrays in train(functools.partial(train_replicas, config), planned):
    run.save(arrays)
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lab import context, files, program, provenance, results
from lab.cli import Common
from lab.errors import ConfigError, Diverged, ResultError
from lab.partial import Partial
from lab.replicas import Outcome, Replica, deal, describe
from lab.results import Arrays, Source

# beside a finished replica's arrays: what it took, the processor, and the epoch in which it
# diverged or -1
SECONDS, DEVICE, DIVERGED = "replica_seconds", "replica_device", "replica_diverged"


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
    further: Mapping[str, str] = field(default_factory=dict)  # other data: name -> fingerprint
    # whether a replica has all the checkpoints that belong to the result
    has_checkpoints: Callable[["Run", Replica], bool] = lambda *_: True

    @property
    def inputs(self) -> dict[str, str]:
        """All that it reads: name -> fingerprint."""
        return {self.source.name: self.source.fingerprint, **self.further}

    @cached_property
    def path(self) -> Path:
        """Of the result; one that was made when digests were shorter keeps its name."""
        folder = self.config.results / self.config.scale / self.experiment
        name, earlier = self.name, self.config.earlier
        if Path(name).name != name or name.startswith(".") or not name.isprintable():
            raise ConfigError(f"{name!a} cannot be the name of a file: choose another")
        lengths = results.DIGITS_BEFORE, results.DIGITS
        digests = (results.digest(self.settings, earlier, length) for length in lengths)
        before, path = (folder / f"{name}-{digest}.npz" for digest in digests)
        return before if files.exists(before) and not self._unlike(before) else path

    def _unlike(self, path: Path) -> list[str]:
        """The settings in which the result that is there differs; none where it is damaged."""
        try:
            found = results.plain(self.config.earlier) | results.read(path).config
        except ResultError:
            return []
        wanted = results.plain(self.settings)
        names = found.keys() | wanted.keys()
        return sorted(key for key in names if found.get(key) != wanted.get(key))

    def missing(self) -> bool:
        """Whether it has to be made; says so where not, and whether the program has changed since.

        Raises:
            ResultError: the result that is there has another configuration, or was made from other
                data.
        """
        if self.config.overwrite or not files.exists(self.path):
            return True
        found = results.read(self.path)
        if unlike := self._unlike(self.path):
            reason = f"was made with another {' and '.join(unlike)}"
            raise ResultError(f"{self.path} {reason}: move it away, or give --overwrite")
        if found.meta["data"]["fingerprint"] != self.source.fingerprint:
            name = self.source.name
            remedy = "rename yours, or give --overwrite"
            raise ResultError(f"{self.path} was made from other data named {name}: {remedy}")
        made_by, runs_now = _in_words(found.meta["commit"]), _in_words(provenance.commit())
        changed = f" by {made_by}; this is {runs_now}, --overwrite makes it again"
        line = f"already there: {self.path}{changed if made_by != runs_now else ''}"
        print(f"{line}{found.warning}", flush=True)
        return False

    @property
    def is_complete(self) -> bool:
        """Whether result and checkpoints are there and may stay."""
        if self.config.overwrite or not files.exists(self.path):
            return False
        return all(self.has_checkpoints(self, replica) for replica in self.replicas)

    @cached_property
    def key(self) -> str:
        """Names the code, packages, processor and data that all of it must share."""
        return provenance.key(self.source.fingerprint, self.config.resolved_device)

    @cached_property
    def partial(self) -> Partial:
        """What is kept of the replicas until all are done."""
        return Partial(self.path, self.key, apart=self.config.overwrite)

    def save(self, arrays: Mapping[str, Any]) -> None:
        """Write the result, and drop what was kept of the replicas."""
        arrays = {name: np.asarray(values) for name, values in arrays.items()}
        seconds = float(arrays.pop(SECONDS).sum())
        devices = arrays.pop(DEVICE, np.array(())).flatten().tolist()
        epochs = arrays.pop(DIVERGED, np.array(())).flatten().tolist()
        meta = results.make_meta(
            self.experiment,
            self.name,
            self.settings,
            self.axes,
            self.source,
            self.config.resolved_device,
            seconds,
        )
        pairs = zip(self.replicas, epochs, strict=False)
        diverged = [{**asdict(replica), "epoch": e} for replica, e in pairs if e >= 0]
        meta |= {"diverged": results.plain(diverged)} if diverged else {}
        meta |= {"device": " and ".join(dict.fromkeys(devices))} if devices else {}
        results.write(self.path, results.Result(arrays, meta))
        self.partial.clean()
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

    A replica that diverges stops no other: it is nan from that epoch on, and the program ends with
    an error when all is done. A run all of whose replicas diverge is not yielded. Of a run that is
    there the replicas that lack checkpoints are trained again, for their checkpoints alone.

    Args:
        function: a picklable function from R replicas to name -> (R, …).
        planned: runs of one configuration.
        jobs: processes on the CPU, where it is not for the configuration to say.

    Yields:
        each run as soon as it is whole, and its arrays, name -> (replica, …), with the seconds of
        each and the epoch in which it diverged.
    """
    with ExitStack() as locks:
        missing = [run for run in planned if _claim(run, locks)]
        done = {run.name: _kept(run) for run in missing}
        waiting = [
            (run, i) for run in missing for i in range(len(run.replicas)) if i not in done[run.name]
        ]
        for run in missing:
            _check_processors(run, done[run.name].values())
        if context.current().repairs:
            there = [run for run in planned if run.name not in done]
            waiting += [(run, i) for run in there for i in _without_checkpoints(run, locks)]
        yield from _whole(missing, done)
        for run, i, outcome in _deal(function, waiting, jobs):
            if run.name not in done:
                _report_repair(run, i, outcome)
                continue
            if run.config.cluster == "none":  # else the task has
                run.partial.put(run.replicas[i], outcome)
            done[run.name][i] = outcome
            _check_processors(run, done[run.name].values())
            yield from _whole([run], done)


def _claim(run: Run, locks: ExitStack) -> bool:
    """Whether a run is to be made, by this process, which has its lock from then on."""
    if not run.missing():
        with suppress(ResultError):  # another process may be at it
            run.partial.clean_left()
        return False
    run.partial.check()
    locks.enter_context(run.partial.in_use())
    if run.config.cluster == "none" and files.exists(run.partial.jobs):
        from lab import cluster

        cluster.check_idle(run)
    # it may have been made meanwhile
    return run.config.overwrite or not files.exists(run.path) or run.missing()


def _kept(run: Run) -> dict[int, Outcome]:
    """What has become of replicas in earlier, unfinished runs, by position."""
    found: dict[int, Outcome] = {}
    for i in range(len(run.replicas)):
        if (outcome := kept(run, i)) is not None:
            found[i] = outcome
    shapes = {i: _shapes(arrays) for i, arrays in found.items() if not isinstance(arrays, Diverged)}
    unlike = {i for i in shapes if shapes[i] != shapes[min(shapes)]}
    return {i: outcome for i, outcome in found.items() if i not in unlike}


def kept(run: Run, i: int) -> Outcome | None:
    """What has become of a replica earlier, or elsewhere, with its checkpoints."""
    config, replica = run.config, run.replicas[i]
    outcome = run.partial.get(replica, config.mixed_processors or config.cluster != "none")
    diverged = isinstance(outcome, Diverged)
    if outcome is None or not (diverged or run.has_checkpoints(run, replica)):
        return None
    arrays = outcome.arrays if diverged else outcome
    seconds, device = (arrays.get(name, np.zeros(1)) for name in (SECONDS, DEVICE))
    is_own = seconds.shape == device.shape == () and str(device).isprintable()
    return outcome if is_own else None


def _check_processors(run: Run, outcomes: Iterable[Outcome]) -> None:
    """Raise ResultError where they are of several kinds, unless that was asked for."""
    arrays = [done.arrays if isinstance(done, Diverged) else done for done in outcomes]
    kinds = Counter(provenance.kind(str(done[DEVICE])) for done in arrays)
    if len(kinds) > 1 and not run.config.mixed_processors:
        made = " and ".join(f"{number} replicas on {kind}" for kind, number in kinds.items())
        remedy = f"give --mixed-processors to join them, or remove a folder of {run.partial.root}"
        raise ResultError(f"{run.name} has {made}: {remedy}")


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: values.shape for name, values in arrays.items()}


def _without_checkpoints(run: Run, locks: ExitStack) -> list[int]:
    """Positions of replicas that lack some; the run is locked where there are any."""
    lacking = [i for i, replica in enumerate(run.replicas) if not run.has_checkpoints(run, replica)]
    if lacking:
        found = results.read(run.path)
        lacking = [i for i in lacking if found.divergence(run.replicas[i].seed) is None]
    if lacking:
        locks.enter_context(run.partial.in_use())
    return lacking


def _deal(
    function: Callable[[Sequence[Replica]], Arrays],
    waiting: Sequence[tuple[Run, int]],
    jobs: int | None,
) -> Iterator[tuple[Run, int, Outcome]]:
    """What becomes of each waiting replica, with the seconds that it took."""
    if not waiting:
        return
    config = waiting[0][0].config
    if config.cluster != "none":
        from lab import cluster  # whose tasks train with `produce`

        yield from cluster.deal(function, waiting)
        return
    data = {name: digest for run, _ in waiting for name, digest in run.inputs.items()}
    replicas = [run.replicas[i] for run, i in waiting]
    names = [run.name for run, _ in waiting]
    faithful, device = provenance.Faithful(function, data), config.resolved_device
    for position, outcome in produce(faithful, replicas, names, device, jobs or config.jobs):
        yield *waiting[position], outcome


def produce(
    function: Callable[[Sequence[Replica]], Arrays],
    replicas: Sequence[Replica],
    names: Sequence[str],
    device: str,
    jobs: int | None,
) -> Iterator[tuple[int, Outcome]]:
    """What becomes of each replica, by position, with its seconds and its processor.

    Args:
        function, replicas, device, jobs: see replicas.deal.
        names: of the replicas' results, for messages.
    """
    start = time.perf_counter()
    for position, outcome in deal(function, replicas, device=device, jobs=jobs):
        now = time.perf_counter()
        _check_measured(names[position], replicas[position], outcome)
        arrays = outcome.arrays if isinstance(outcome, Diverged) else outcome
        arrays[SECONDS] = np.array(now - start)
        arrays[DEVICE] = np.array(provenance.device_name(device))
        start = now
        yield position, outcome


def _check_measured(name: str, replica: Replica, outcome: Outcome) -> None:
    """Raise ResultError where a replica that did not diverge gives nothing but nan."""
    if isinstance(outcome, Diverged):
        return
    for key, values in outcome.items():
        if values.dtype.kind == "f" and values.size and np.isnan(values).all():
            what = f"{name}, {describe(replica)}: {key} is nan throughout"
            raise ResultError(f"{what}, so nothing is saved: take more or other samples")


def _whole(
    candidates: Sequence[Run], done: Mapping[str, Mapping[int, Outcome]]
) -> Iterator[tuple[Run, Arrays]]:
    """The runs of which every replica is done."""
    for run in candidates:
        outcomes = [done[run.name].get(i) for i in range(len(run.replicas))]
        if None in outcomes:
            continue
        for outcome in outcomes:
            if isinstance(outcome, Diverged):
                program.defer(outcome)
        if all(isinstance(outcome, Diverged) for outcome in outcomes):
            run.partial.clean()
        else:
            yield run, _join(run.name, outcomes)


def _join(name: str, outcomes: Sequence[Outcome]) -> Arrays:
    """Arrays of every replica, name -> (R, …); one that diverged is nan from its epoch on."""
    whole = [outcome for outcome in outcomes if not isinstance(outcome, Diverged)]
    like, rows = whole[0], []
    if any(_shapes(outcome) != _shapes(like) for outcome in whole):
        raise ResultError(f"what is kept of {name} is of other shapes: remove its .partial folder")
    for outcome in outcomes:
        if isinstance(outcome, Diverged):
            rows.append({**_fill(outcome.arrays, like), DIVERGED: np.array(outcome.epoch)})
        else:
            rows.append({**outcome, DIVERGED: np.array(-1)})
    return stack(rows)


def _fill(known: Arrays, like: Arrays) -> Arrays:
    """What was measured before a replica diverged, and nan after, in the shapes of another."""
    arrays = {}
    for name, values in like.items():
        arrays[name] = np.full(values.shape, np.nan)
        if name in known and values.ndim and known[name].shape[1:] == values.shape[1:]:
            arrays[name][: len(known[name])] = known[name]
    return arrays | {name: known[name] for name in (SECONDS, DEVICE)}


def _report_repair(run: Run, i: int, outcome: Outcome) -> None:
    """Say that checkpoints were made again, and whether the result holds the same numbers."""
    if isinstance(outcome, Diverged):
        program.defer(outcome)
        return
    result, same = results.read(run.path), True
    for name, values in outcome.items():
        if run.axes.get(name, ())[:1] == ("seed",) and name in result.arrays:
            is_float = values.dtype.kind == "f"
            same &= np.array_equal(result[name][i], values, equal_nan=is_float)
    unlike = "" if same else ", with other numbers than the result: --overwrite makes both again"
    print(f"made the checkpoints of {describe(run.replicas[i])} again: {run.path}{unlike}")


def stack(parts: Sequence[Arrays]) -> Arrays:
    """Arrays of the same names, stacked: name -> (parts, …)."""
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def unflatten(arrays: Mapping[str, np.ndarray], *sizes: int) -> Arrays:
    """The replica axis as a grid of these sizes: name -> (*sizes, …)."""
    return {name: values.reshape(*sizes, *values.shape[1:]) for name, values in arrays.items()}
