"""Dealing tasks out to GPUs, with a stand-in for their memory, in processes on the CPU."""

import os
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab import context, gpus, program, workers


class StandIn(gpus.Memory):
    """Memory with room for so many tasks, and some that is taken whatever their number."""

    def __init__(self, room, fixed=0.0, does=lambda tasks: [("done", task) for task in tasks]):
        self.room, self.fixed, self.does = room, fixed, does
        self.tried, self.chosen = [], None

    def attempt(self, tasks):
        self.tried.append(len(tasks))
        if self.fixed + len(tasks) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.does(tasks)

    def choose(self):
        assert self.chosen in (None, context.current().line)
        self.chosen = context.current().line

    def clear(self):
        self.largest = len(self.tried)

    def share(self):
        return (self.fixed + max(self.tried[self.largest :])) / self.room


def deal(memory, tasks, jobs=1):
    return dict(gpus.deal(memory.attempt, tasks, [f"task {t}" for t in tasks], jobs, memory))


def test_all_that_fit_are_one_part_and_are_not_measured():
    memory = StandIn(20)
    memory.share = memory.clear = Mock(side_effect=AssertionError)
    assert deal(memory, range(20)) == {i: ("done", i) for i in range(20)}
    assert memory.tried == [20]


@pytest.mark.parametrize(
    ("tasks", "room", "tried"),
    [
        (40, 39, [40, 20, 20]),
        (40, 12, [40, 20, 10, 10, 10, 10]),
        (100, 31, [100, 50, 25, 25, 25, 25]),
        (100, 49, [100, 50, 25, 38, 37]),
        (7, 1, [7, 3, 1, *[1] * 6]),
        (2, 1, [2, 1, 1]),
    ],
)
def test_a_full_memory_halves_a_part_and_the_rest_is_cut_by_its_measure(tasks, room, tried):
    memory = StandIn(room)
    assert deal(memory, range(tasks)) == {i: ("done", i) for i in range(tasks)}
    assert memory.tried == tried


@given(st.integers(1, 200), st.integers(1, 200), st.floats(0, 50))
def test_parts_are_few_and_none_but_the_first_is_too_large(tasks, room, fixed):
    memory = StandIn(room + fixed, fixed)
    assert deal(memory, range(tasks)) == {i: ("done", i) for i in range(tasks)}
    fits = [size for size in memory.tried if size <= room]
    first = memory.tried.index(fits[0])
    assert memory.tried[first:] == fits
    if fixed == 0:  # else what is fixed counts with every task
        assert len(fits) <= -(-tasks // room) + 1


def test_a_measure_that_is_too_low_never_gives_what_was_too_large():
    memory = StandIn(12)
    memory.share = lambda: 0.01
    assert deal(memory, range(40)) == {i: ("done", i) for i in range(40)}
    assert memory.tried == [40, 20, 10, 15, 7, 15, 7, 8, 8]


def test_memory_that_shrinks_halves_again_and_goes_on():
    memory = StandIn(8)

    def others_come(tasks):
        memory.room = 3
        return [("done", task) for task in tasks]

    memory.does = others_come
    assert deal(memory, range(20)) == {i: ("done", i) for i in range(20)}
    assert memory.tried[:3] == [20, 10, 5]
    assert all(size <= 3 for size in memory.tried[-4:])


def test_a_task_that_does_not_fit_alone_is_the_users_error():
    with pytest.raises(torch.OutOfMemoryError) as caught:
        deal(StandIn(0), range(4))
    assert program.explain(caught.value).startswith("not enough memory (CUDA out of memory")


def test_other_errors_are_not_taken_for_a_full_memory():
    def fail(tasks):
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        deal(StandIn(5, does=fail), range(4))


def process(tasks):
    return [(os.getpid(), task) for task in tasks]


@pytest.mark.slow
def test_parts_are_done_side_by_side_by_processes_that_keep_their_gpu():
    found = deal(StandIn(9, does=process), range(8), jobs=2)
    assert [found[i][1] for i in range(8)] == list(range(8))
    first, second = ({found[i][0] for i in part} for part in (range(4), range(4, 8)))
    assert len(first) == len(second) == 1
    assert first != second
    assert os.getpid() not in first | second
    found = deal(StandIn(3, does=process), range(16), jobs=2)  # each first tries eight
    assert [found[i][1] for i in range(16)] == list(range(16))
    assert {process for process, _ in found.values()} == first | second
    lines = {worker.line for worker in workers._idle}
    assert len(lines) == len(workers._idle)  # the number of its GPU


@pytest.mark.slow
def test_processes_are_no_more_than_tasks():
    found = deal(StandIn(9, does=process), range(1), jobs=3)
    assert found[0][1] == 0


@pytest.mark.parametrize(
    ("jobs", "there", "processes"), [(None, 0, 1), (None, 4, 4), (2, 4, 2), (8, 4, 4), (1, 4, 1)]
)
def test_a_process_a_gpu_and_no_more_than_asked_for(jobs, there, processes, monkeypatch):
    work = Mock(side_effect=lambda function, parts, *_: ((i, (p, 9)) for i, p in enumerate(parts)))
    monkeypatch.setattr(workers, "work", work)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    tasks = range(8)
    found = dict(gpus.deal(list, tasks, [f"task {t}" for t in tasks], jobs))
    assert found == {i: i for i in tasks}
    if processes == 1:
        assert not work.called
    else:
        (_, parts, given, names), _ = work.call_args
        assert (len(parts), given) == (processes, processes)
        assert names[0] == f"task 0 and {8 // processes - 1} more"


def test_a_gpus_memory_is_what_is_free_or_held_by_this_process(monkeypatch):
    cuda = SimpleNamespace(
        mem_get_info=lambda: (60, 100),
        memory_reserved=lambda: 20,
        max_memory_reserved=lambda: 40,
        set_device=Mock(),
        device_count=lambda: 4,
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    memory = gpus.Memory()
    assert memory.share() == 0.5
    with context.within(line=6):
        memory.choose()
    cuda.set_device.assert_called_once_with(2)
