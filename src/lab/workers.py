"""Processes that each do one task after the other, and what becomes of one that dies."""

import fcntl
import itertools
import multiprocessing
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from tqdm import tqdm

from lab import context, cpu, program
from lab.context import Context
from lab.errors import UserError

TRIES = 2  # of a task whose process dies
_CONTEXT = multiprocessing.get_context("spawn")


class Died(UserError):
    """A process ended before its task did, and again when it was tried once more."""


class Worker:
    """A process that lives as long as this one, for starting one takes seconds."""

    def __init__(self, line: int) -> None:
        self.line = line  # of its progress bar
        self.connection, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs,), daemon=True)
        resource_tracker.ensure_running()  # starting it lets the signals through again
        with program.signals_blocked():
            self.process.start()
        theirs.close()

    def give(self, function: Callable, task: Any, processes: int) -> None:
        with suppress(OSError):  # it has died, as `take` finds out
            self.connection.send((function, task, Context(self.line, processes)))

    def take(self) -> tuple[bool, Any]:
        """Whether the task ended well, and its output or error; EOFError where it has died."""
        try:
            return self.connection.recv()
        except OSError as error:
            raise EOFError from error

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


_idle: list[Worker] = []


def work(
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    jobs: int,
    names: Sequence[str],
    after: Sequence[Collection[int]] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Outputs of a picklable function, in the order in which its tasks are done.

    Args:
        function: of one task.
        tasks: picklable.
        jobs: processes, of which there are never more than tasks.
        names: of the tasks, in the message where their process dies.
        after: positions of the tasks that must be done before each is begun; None: it can be at
            once.

    Yields:
        position of a task and its output.

    Raises:
        Died: a process died over the same task twice.
        Exception: whatever the function raises, at once; what else was being done is lost.
    """
    jobs = min(jobs, len(tasks))
    waiting, tries, done = list(range(len(tasks))), Counter[int](), set[int]()
    busy: dict[Worker, int] = {}
    try:
        while waiting or busy:
            ready = (i for i in waiting if after is None or done.issuperset(after[i]))
            for i in list(itertools.islice(ready, jobs - len(busy))):
                waiting.remove(i)
                worker = _hire(busy)
                busy[worker] = i
                worker.give(function, tasks[i], jobs)
            heard = wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in heard]:
                i = busy[worker]
                try:
                    well, output = worker.take()
                except EOFError:
                    tries[i] += 1
                    _report_death(names[i], worker, tries[i])
                    waiting.append(i)  # the last, when less is being done
                    worker.end()
                    del busy[worker]
                    continue
                del busy[worker]
                _idle.append(worker)
                if not well:
                    raise output
                done.add(i)
                yield i, output
    finally:
        for worker in busy:
            worker.end()


def _hire(busy: Collection[Worker]) -> Worker:
    while _idle:
        worker = _idle.pop()
        if worker.process.is_alive():
            return worker
        worker.end()
    lines = {worker.line for worker in busy}
    return Worker(next(line for line in itertools.count() if line not in lines))


def _report_death(name: str, worker: Worker, tries: int) -> None:
    """Say how a process has died, or raise Died where its task has had its tries."""
    worker.process.join(1)
    time.sleep(0.1)  # what ends a whole group of processes reaches this one too, which says so
    status = worker.process.exitcode
    how = f"ended with status {status}"
    if status is not None and status < 0:
        how = f"was killed by {signal.Signals(-status).name}"
    if status == -signal.SIGKILL:
        how += ", likely for lack of memory: lower --jobs"
    if tries >= TRIES:
        raise Died(f"the process of {name} {how}; what is done is kept")
    line = f"the process of {name} {how}; it is tried once more"
    print(line, file=sys.stderr, flush=True)


def _serve(connection: Connection) -> None:
    program.end_with_parent()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    cpu.keep_freed_memory()
    tqdm.set_lock(_TerminalLock())
    while True:
        try:
            function, task, given = connection.recv()
        except (EOFError, OSError):
            return
        try:
            with context.within(**vars(given)):
                answer = True, function(task)
        except Exception as error:
            answer = False, _portable(error)
        try:
            connection.send(answer)
        except OSError:  # nobody wants it any more
            return


def _portable(error: Exception) -> Exception:
    """An error that can be pickled, with its traceback as a note."""
    lines = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"In a worker:\n{lines}")
    return error


class _TerminalLock:
    """Lets one process at a time draw its bar; the system frees it where that process dies."""

    def __init__(self) -> None:
        self._threads, self._depth = threading.RLock(), 0

    def acquire(self, *_: Any, **__: Any) -> bool:
        self._threads.acquire()
        self._depth += 1
        if self._depth == 1:
            self._lock("LOCK_EX")
        return True

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._lock("LOCK_UN")
        self._threads.release()

    @staticmethod
    def _lock(what: str) -> None:
        if sys.stderr.isatty():
            with suppress(OSError):
                fcntl.lockf(sys.stderr.fileno(), getattr(fcntl, what))

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: Any) -> None:
        self.release()
