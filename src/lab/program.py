"""How a program begins and ends: signals, streams, processes, its last line and its status.

    sys.path.insert(0, …)
    from lab import program

    program.begin(__name__)  # before anything that takes long to import
    …
    if __name__ == "__main__":
        program.run(main)

Nothing that a program writes is ever half there, so it can end at any moment: on a signal it kills
its children, says one line and is gone, even while a library computes.
"""

import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType

from lab import context, files
from lab.errors import UserError, first_line

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESUMES = "stopped; the same command goes on from the replicas that are done"
WRONG = 2  # exit status where the user has to do something
# in messages of torch, of Python's threads and of the loader of libraries
ALLOCATION = ("can't allocate memory", "out of memory", "not enough memory")
ALLOCATION += ("can't start new thread", "failed to map segment", "cannot allocate memory")

_last_words = RESUMES


def begin(name: str, last_words: str = RESUMES) -> None:
    """Call first in a program, with its __name__: from here on any signal is one line.

    A signal ends it with status 128 + n. Where it is only imported nothing happens.

    last_words: what it says then.
    """
    global _last_words
    if name in ("__main__", "__mp_main__"):
        sys.excepthook = _end_with_one_line
        if sys.stdout is not None:
            sys.stdout.reconfigure(errors="replace")  # as "β 1" where the terminal has no Greek
    if name == "__mp_main__":
        end_with_parent()
    if name != "__main__":
        return
    _last_words = last_words
    import psutil  # noqa: F401, so that it is there when it is needed

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # the bytecode that handles a signal waits for a library's call to return; this thread does not
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, _handle)


def _handle(number: int, _: object) -> None:
    time.sleep(3)  # the thread is at it; it may have been cut off from signals by a library
    _end(number)


def _watch(reader: int) -> None:
    while number := os.read(reader, 1):
        if number[0] in SIGNALS:
            _end(number[0])


def _end(number: int) -> None:
    kill_children()
    files.remove_unfinished()
    with suppress(OSError):
        os.write(2, f"{_last_words}\n".encode())  # whatever holds the stream's lock
    os._exit(128 + number)


def kill_children() -> None:
    """Kill every process that this one has started, and theirs."""
    import psutil

    for _ in range(3):  # one may have been starting another
        if not (children := psutil.Process().children(recursive=True)):
            return
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=0.5)


def _say(line: str) -> None:
    """To standard error, if anybody listens."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def run(main: Callable[[], None]) -> None:
    """Call a program's main; what the user can mend is one line and exit status 2."""
    try:
        with context.within(deferred=[]) as here:
            _importable(main)()
        if here.deferred:
            first, *others = here.deferred
            raise UserError(f"{first} (and {len(others)} more)" if others else str(first))
    except KeyboardInterrupt:  # where signals are not for this program to handle
        _say(_last_words)
        sys.exit(128 + signal.SIGINT)
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        line = explain(error)
        if line is None:
            raise
        _say(" ".join(f"error: {line}".splitlines()))  # a name may hold a line break
        sys.exit(WRONG)


def _importable(main: Callable[[], None]) -> Callable[[], None]:
    """With --cluster an experiment's main is that of its module, which tasks elsewhere import."""
    path = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    is_script = main.__module__ == "__main__" and path.parent.name == "experiment"
    if not is_script or not any(word.startswith("--cluster") for word in sys.argv):
        return main
    return import_module(f"experiment.{path.stem}").main


def _end_with_one_line(kind: type, error: BaseException, trace: TracebackType | None) -> None:
    """Of what no main has caught: too little memory for what is imported is no defect either."""
    if isinstance(error, ImportError | MemoryError | RuntimeError) and (line := explain(error)):
        _say(f"error: {line}")
        os._exit(WRONG)
    sys.__excepthook__(kind, error, trace)


def defer(error: UserError) -> None:
    """End with this error, but first go on."""
    context.current().deferred.append(error)


def explain(error: Exception) -> str | None:
    """One line for an error of the user's, of the file system or of memory; None for a defect."""
    if isinstance(error, UserError):
        return str(error)
    first = first_line(error)
    if isinstance(error, MemoryError) or any(part in str(error).lower() for part in ALLOCATION):
        return f"not enough memory ({first}): lower --jobs, or what the run is asked for"
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else first
    return None


@functools.cache
def end_with_parent() -> None:
    """Let this process, a child, never outlive the one that started it."""
    threading.Thread(target=_outlive, args=(os.getppid(),), daemon=True).start()


def _outlive(parent: int) -> None:
    # multiprocessing names the parent only after the main module has been imported
    while multiprocessing.parent_process() is None and os.getppid() == parent:
        time.sleep(0.1)
    if (process := multiprocessing.parent_process()) is not None:
        process.join()
    os._exit(1)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes started inside never see a terminal's signals: it is for their parent to end them.

    This process sees them as always: one of its other threads, or it afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
