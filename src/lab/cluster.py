"""Replicas as jobs of a cluster: by submitit, on Slurm or in processes here, or as sbatch lines.

The missing replicas of a result are the tasks of one job array. A task trains what is its own as a
process of this machine would, and writes a file for each replica, as if it had been made here (see
lab.partial); the program waits for the files, and joins them. Where the program is killed the jobs
go on, and the same command takes what is made, waits for what still runs, and submits the rest.

A replica is made by the task that holds it, see lab.holders: one that is in Slurm's queue is waited
for, and where it has left the queue and no file the replica goes to another. All this lies in
.partial/RESULT/DIGEST.jobs, beside submitit's logs, and is gone when the result is saved.
"""

import ast
import itertools
import json
import os
import pickle
import secrets
import shlex
import shutil
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from lab import cpu, files, holders, program, provenance, replicas, results, runs
from lab.cli import Common
from lab.errors import ConfigError, ResultError, UserError
from lab.holders import Held
from lab.partial import Partial
from lab.replicas import Outcome, Replica, describe
from lab.runs import Run
from lab.workers import TRIES, Died

SOURCE = Path(__file__).resolve().parents[1]
LONGEST = 30.0  # seconds from one look at the queue to the next
Function = Callable[[Sequence[Replica]], results.Arrays]


@dataclass(frozen=True)
class Task:
    """Trains some replicas of a result, where it is called, and writes a file for each."""

    function: Function
    config: Common
    name: str  # of the result
    path: Path
    fingerprint: str  # of its data
    replicas: tuple[Replica, ...]
    held: Held  # what a claim of its own says

    def __call__(self) -> None:
        device = self.config.resolved_device
        key = provenance.key(self.fingerprint, device)
        partial = Partial(self.path, key, apart=self.config.overwrite)
        files.remove(_error(partial, self.held))  # of an earlier start, which Slurm repeats
        try:
            if self.config.device not in ("auto", device):
                reason = "the job has no GPU: add --cluster-options gpus=1"
                raise ConfigError(f"device {self.config.device}: {reason}")
            self._train(partial, device)
        except Exception as error:
            line = program.explain(error)
            if type(error).__name__ == "UncompletedJobError":  # by which submitit ends it
                remedy = "give more hours or max_num_timeout, and go on by the same command"
                line = f"{self.name}: time was up too often: {remedy}"
            said = {"line": line, "trace": traceback.format_exc()}
            content = json.dumps(said).encode()
            files.write_whole(_error(partial, self.held), lambda file: file.write(content))
            raise

    def _train(self, partial: Partial, device: str) -> None:
        own = [r for r in self.replicas if holders.holder(partial, r) == self.held]
        own = [replica for replica in own if partial.get(replica, any_processor=True) is None]
        jobs = int(os.environ.get("SLURM_CPUS_PER_TASK", 1)) if device == "cpu" else None
        made = runs.produce(self.function, own, [self.name] * len(own), device, jobs)
        for position, outcome in made:
            partial.put(own[position], outcome)
            print(f"made {describe(own[position])} of {self.name}", flush=True)

    def checkpoint(self) -> Any:
        """What submitit queues again when time is up, or another job goes before: all of it."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def deal(
    function: Function, waiting: Sequence[tuple[Run, int]]
) -> Iterator[tuple[Run, int, Outcome]]:
    """What becomes of replicas that are jobs, each as soon as its task has ended.

    With --cluster print, of those that are made; lines are printed for the others.

    Args:
        function: picklable, of a module that can be imported; see runs.train.
        waiting: runs of one configuration, and positions of their replicas.

    Raises:
        Died: a replica's task ended twice, and left nothing.
        UserError: what a task ended with.
    """
    config = waiting[0][0].config
    left, tries = list(waiting), Counter[tuple[str, int]]()
    pause, jobs = 0.0, []
    with replicas.progress_bar(len(left), f"{config.cluster} {waiting[0][0].name}") as bar:
        while left:
            time.sleep(pause)
            held = [holders.holder(run.partial, run.replicas[i]) for run, i in left]
            queued = _queued({holder[0] for holder in held if holder})
            lost: dict[str, list[tuple[Run, int]]] = {}
            there = []
            for (run, i), holder in zip(left, held, strict=True):
                if holder is not None and (queued is None or holder in queued):
                    there.append((run, i))
                elif (outcome := runs.kept(run, i)) is not None:
                    bar.update()
                    yield run, i, outcome
                else:
                    if pause and holder is not None:  # else an earlier program's
                        tries[run.name, i] += 1
                        _report_end(run, i, holder, tries[run.name, i])
                    lost.setdefault(run.name, []).append((run, i))
            left = [*there, *itertools.chain(*lost.values())]
            for pairs in lost.values():
                # submitit ends those of this machine that nothing refers to
                jobs += _submit(function, pairs[0][0], [i for _, i in pairs])
            if config.cluster == "print":
                if there:
                    folder = left[0][0].partial.jobs
                    said = f"in the queue: {len(there)} replicas; then run this command again"
                    print(f"{said}; where none was submitted, remove {folder}")
                return
            pause = min(1.2 * pause + 1, LONGEST)
    for run in {run.name: run for run, _ in waiting}.values():
        if files.exists(run.path) and not config.overwrite:  # it lacked checkpoints alone
            run.partial.clean()


def check_idle(run: Run) -> None:
    """Raise ResultError while jobs of a cluster make some of a run's replicas."""
    names = {holder[0] for r in run.replicas if (holder := holders.holder(run.partial, r))}
    queued = _queued(names)
    if queued is None or queued:
        jobs = " and ".join(sorted(names))
        remedy = f"cancel {jobs}; where none was submitted, remove {run.partial.jobs}"
        raise ResultError(f"{run.path} is made by jobs: add --cluster again, or {remedy}")


def _queued(names: Collection[str]) -> set[Held] | None:
    """Tasks of these job arrays that wait or run; None where Slurm does not answer."""
    here = {name for name in names if name.startswith("local_")}
    found = set[Held]()
    if here:
        for process in psutil.process_iter(["cmdline"]):
            *_, name, task = ("", "", *Path((process.info["cmdline"] or [""])[-1]).parts)
            found |= {(name, int(task))} if name in here else set()
    if here == set(names) or shutil.which("squeue") is None:
        return found
    command = ["squeue", "--noheader", "--array", "--format=%j %K", f"--name={','.join(names)}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    for name, task in map(str.split, answer.stdout.splitlines()):
        found.add((name, int(task) if task.isdigit() else 0))  # a task alone is no array
    return found


def _error(partial: Partial, held: Held) -> Path:
    return partial.jobs / held[0] / f"{held[1]}.error"


def _report_end(run: Run, i: int, held: Held, times: int) -> None:
    """Raise what the task of a replica ended with, or Died where it has had its tries."""
    path = _error(run.partial, held)
    if path.is_file():
        said = json.loads(path.read_text())
        if said["line"]:
            raise UserError(said["line"])
        error = RuntimeError(f"the task of {run.name}, {describe(run.replicas[i])} failed")
        error.add_note(said["trace"])
        raise error
    what = f"the job of {run.name}, {describe(run.replicas[i])} ended and left nothing"
    if times >= TRIES:
        raise Died(f"{what}, {times} times: see {path.parent}; what is done is kept")
    print(f"{what}; it is submitted once more", file=sys.stderr, flush=True)


def _options(config: Common) -> dict[str, Any]:
    """As submitit and sbatch name them: hours become minutes, and gpus are of a node."""
    options: dict[str, Any] = {}
    for option in config.cluster_options:
        name, _, text = option.partition("=")
        try:
            options[name] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            options[name] = text
    if "hours" in options:
        options["time"] = round(60 * float(options.pop("hours")))
    if "gpus" in options:
        options["gpus_per_node"] = options.pop("gpus")
    return options


def _submit(function: Function, run: Run, positions: Sequence[int]) -> list[Any]:
    """Submit some replicas of a run, or print how to; submitit's jobs."""
    config, is_local = run.config, run.config.cluster == "local"
    name = f"{'local_' * is_local}{run.experiment}-{secrets.token_hex(8)}"
    number = config.jobs or (cpu.available_cores() if is_local else len(positions))
    faithful, tasks = provenance.Faithful(function, run.inputs), []
    for i in positions:
        run.partial.drop(run.replicas[i])  # what may lie there without its checkpoints
    for part in np.array_split(positions, min(number, len(positions))):
        held = name, len(tasks)
        own = [run.replicas[i] for i in part]
        own = tuple(replica for replica in own if holders.take(run.partial, replica, held))
        path, data = run.path.absolute(), run.source.fingerprint
        if own:
            tasks.append(Task(faithful, config, run.name, path, data, own, held))
    folder = (run.partial.jobs / name).absolute()
    above = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    python = f"env {shlex.quote(f'PYTHONPATH={above}')} {shlex.quote(sys.executable)}"
    if not tasks:
        return []
    if config.cluster == "print":
        _print(tasks, folder, python, _options(config))
        return []
    what = f"{len(positions)} replicas of {run.name} in {len(tasks)} tasks"
    print(f"submitted {what}, {name}; they go on where this program is ended", flush=True)
    return _execute(tasks, folder, python, _options(config))


def _execute(
    tasks: Sequence[Task], folder: Path, python: str, options: dict[str, Any]
) -> list[Any]:
    import submitit

    times = {"max_num_timeout": options.pop("max_num_timeout", 3)}
    if folder.name.startswith("local_"):
        jobs = []
        options = {"timeout_min": options.pop("time", 60 * 24 * 365), **options}
        for i, task in enumerate(tasks):
            executor = submitit.LocalExecutor(folder / str(i), python=python, **times)
            executor.update_parameters(**options)
            jobs.append(executor.submit(task))
        return jobs
    try:
        executor = submitit.SlurmExecutor(folder, python=python, **times)
        executor.update_parameters(**options | {"job_name": folder.name})
        return executor.submit_array(tasks)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"cluster: {' '.join(str(error).split())}") from error


def _print(tasks: Sequence[Task], folder: Path, python: str, options: dict[str, Any]) -> None:
    """Write the tasks to a file, and print the line that submits them."""
    path = folder / "tasks.pickle"
    files.write_whole(path, lambda file: pickle.dump(tasks, file))
    words = {name.replace("_", "-"): value for name, value in options.items()}
    words |= {"job-name": folder.name, "array": f"0-{len(tasks) - 1}", "open-mode": "append"}
    words |= {"output": f"{folder}/%a.log"}
    flags = [f"--{key}" if value is True else f"--{key}={value}" for key, value in words.items()]
    one = f"{python} -m lab.cluster {shlex.quote(str(path))} $SLURM_ARRAY_TASK_ID"
    print(shlex.join(["sbatch", *flags, "--requeue", "--wrap", one]), flush=True)


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        todo = pickle.load(file)
    todo[int(sys.argv[2])]()
