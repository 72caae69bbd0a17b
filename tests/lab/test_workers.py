"""Workers: what becomes of tasks whose process dies, and of the processes that are left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import kill_harness
from lab import context, workers
from lab.errors import ConfigError, Diverged

pytestmark = pytest.mark.slow


def act(task: tuple) -> object:
    """Do what a task says."""
    kind, *arguments = task
    if kind == "die":  # so many times
        number, times, folder = arguments
        seen = len(list(Path(folder).iterdir()))
        if seen < times:
            (Path(folder) / str(seen)).touch()
            os.kill(os.getpid(), number)
        return f"done after {seen}"
    if kind == "raise":
        raise arguments[0]
    if kind == "blocked":
        return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    if kind == "context":
        return context.current()
    if kind == "sleep":
        time.sleep(arguments[0])
    return arguments[0], os.getpid()


def run(tasks, jobs=2, after=None):
    names = [f"task {i}" for i in range(len(tasks))]
    return dict(workers.work(act, tasks, jobs, names, after))


def spawned() -> set[int]:
    found = psutil.Process().children(recursive=True)
    return {child.pid for child in found if "spawn_main" in kill_harness.command(child)}


@pytest.fixture
def assert_nobody_works_on():
    """Of the processes that are new, all that are left wait for a task."""
    others = spawned() - {worker.process.pid for worker in workers._idle}

    def check() -> None:
        assert spawned() - others == {worker.process.pid for worker in workers._idle}

    return check


def test_processes_are_as_many_as_asked_and_serve_again(assert_nobody_works_on, capfd):
    first = run([("return", i) for i in range(6)])
    assert [first[i][0] for i in range(6)] == list(range(6))
    second = run([("return", i) for i in range(2)], jobs=10**6)
    used = {process for _, process in (*first.values(), *second.values())}
    assert len(used) == 2
    told = run([("context",)] * 2).values()
    assert [context.processes for context in told] == [2, 2]
    assert len({context.line for context in told}) == 2
    assert_nobody_works_on()
    assert capfd.readouterr() == ("", "")


def test_a_task_waits_for_those_before_it_and_others_do_not(tmp_path):
    tasks = [("return", 0), ("sleep", 0.2), ("return", 2), ("return", 3)]
    tasks.append(("die", signal.SIGKILL, 1, tmp_path))
    order = list(run(tasks, after=[{1, 2}, {4}, set(), {0}, set()]))
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert order.index(2) < order.index(4) < order.index(1) < order.index(0) < order.index(3)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_task_whose_process_dies_is_tried_once_more_and_the_others_go_on(number, tmp_path, capfd):
    found = run([("return", 0), ("die", number, 1, tmp_path), ("return", 2), ("return", 3)])
    assert found[1] == "done after 1"
    assert [found[i][0] for i in (0, 2, 3)] == [0, 2, 3]
    memory = ", likely for lack of memory: lower --jobs" * (number == signal.SIGKILL)
    line = f"the process of task 1 was killed by {number.name}{memory}; it is tried once more\n"
    assert capfd.readouterr().err == line


def test_a_task_whose_process_dies_twice_ends_the_run_with_one_line(
    assert_nobody_works_on, tmp_path, capfd
):
    tasks = [("return", 0), ("die", signal.SIGKILL, 9, tmp_path), ("sleep", 60)]
    making = workers.work(act, tasks, 3, ["task 0", "task 1", "task 2"])
    assert next(making)[0] == 0  # what is done is kept
    with pytest.raises(workers.Died, match=r"^the process of task 1 was killed by SIGKILL, likely"):
        next(making)
    assert len(list(tmp_path.iterdir())) == workers.TRIES
    assert_nobody_works_on()
    assert capfd.readouterr().err.count("\n") == 1


def test_a_worker_that_died_while_it_had_nothing_to_do_is_replaced(capfd):
    run([("return", 0)])
    for worker in workers._idle:
        worker.process.kill()
        worker.process.join()
    assert run([("return", 1)])[0][0] == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "error", [ConfigError("ask for something else"), Diverged("it did", 3), ValueError("a defect")]
)
def test_an_error_comes_back_with_all_that_it_holds_and_nobody_works_on(
    error, assert_nobody_works_on
):
    with pytest.raises(type(error)) as caught:
        run([("raise", error), ("sleep", 60)])
    assert str(caught.value) == str(error)
    assert getattr(caught.value, "epoch", None) == getattr(error, "epoch", None)
    assert "in act" in caught.value.__notes__[0]
    assert_nobody_works_on()


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def raise_unpicklable(_):
    raise Unpicklable("this", "that")


def test_an_error_that_cannot_be_sent_is_told():
    with pytest.raises(RuntimeError, match="Unpicklable: this and that"):
        list(workers.work(raise_unpicklable, [None], 1, [""]))


def test_a_run_that_is_given_up_leaves_nobody_at_work(assert_nobody_works_on):
    making = workers.work(act, [("return", 0), ("sleep", 10**6)], 2, ["", ""])
    assert next(making)[0] == 0
    making.close()
    assert_nobody_works_on()


OUTLIVED = """
import os, sys
sys.path[:0] = {folders!r}
import psutil, test_workers
from lab import context, workers

if __name__ == "__main__":
    making = workers.work(test_workers.act, [("blocked",), ("sleep", 10**6)], 2, ["", ""])
    print(*map(int, next(making)[1]))
    print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
    os.kill(os.getpid(), 9)
"""


def test_a_worker_hears_no_terminal_and_does_not_outlive_the_process_that_asked(tmp_path):
    source = Path(workers.__file__).parents[1]
    folders = [str(source), *(str(Path(file).parent) for file in (kill_harness.__file__, __file__))]
    (tmp_path / "program.py").write_text(OUTLIVED.format(folders=folders))
    words = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    blocked, children = done.stdout.splitlines()
    assert blocked == f"{signal.SIGHUP:d} {signal.SIGINT:d}"  # of the first that is started too
    processes = [
        psutil.Process(pid) for pid in map(int, children.split()) if psutil.pid_exists(pid)
    ]
    _, alive = psutil.wait_procs(processes, timeout=600)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
