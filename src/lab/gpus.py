"""Tasks on GPUs: as many at once as memory takes, and parts side by side where GPUs are several.

What a task needs of a GPU's memory is not known before it has been done. All are tried at once;
where memory is full half of them are, and so on; the first part that fits is measured, and the rest
is done in as few parts as fit by that measure.
"""

import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from lab import context, workers

Attempt = Callable[[Sequence[Any]], list[Any]]  # tasks -> an output each


class Memory:
    """The memory of this process' GPU."""

    def choose(self) -> None:
        """Take a GPU that is no other worker's; it stays the same in the life of a process."""
        torch.cuda.set_device(context.current().line % torch.cuda.device_count())

    def clear(self) -> None:
        """Free what an attempt has left, and measure what is taken from here on."""
        gc.collect()  # an optimizer and its hooks refer to each other
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def share(self) -> float:
        """The largest share of it that was taken since `clear`, of what this process may take."""
        free, _ = torch.cuda.mem_get_info()
        return torch.cuda.max_memory_reserved() / (free + torch.cuda.memory_reserved())


def deal(
    attempt: Attempt,
    tasks: Sequence[Any],
    names: Sequence[str],
    jobs: int | None = None,
    memory: Memory | None = None,
) -> Iterator[tuple[int, Any]]:
    """Outputs of all tasks, in the order in which they are done.

    Args:
        attempt: does some of the tasks at once; picklable where GPUs are several.
        tasks: picklable, too.
        names: of the tasks, in the message where their process dies.
        jobs: processes, each with a GPU of its own; None, or more than there are: all GPUs. One
            works in this process.
        memory: a stand-in for that of GPUs, of which there are then as many as `jobs`.

    Yields:
        position of a task and its output.

    Raises:
        OutOfMemoryError: memory does not take one task.
        Exception: whatever `attempt` raises.
    """
    if memory is None:
        memory, there = Memory(), max(1, torch.cuda.device_count())
        jobs = min(jobs or there, there)
    jobs = jobs or 1
    waiting, room = list(range(len(tasks))), len(tasks)
    while waiting:
        number = max(-(-len(waiting) // room), min(jobs, len(waiting)))
        parts = [part.tolist() for part in np.array_split(waiting, number)]
        given = [[tasks[i] for i in part] for part in parts]
        if jobs == 1:
            outputs = enumerate(map(functools.partial(first_that_fit, attempt, memory), given))
        else:
            function = functools.partial(_on_own_gpu, attempt, memory)
            outputs = workers.work(function, given, jobs, [_all(names, part) for part in parts])
        waiting, rooms = [], []
        for k, (done, takes) in outputs:
            yield from zip(parts[k], done, strict=False)
            waiting += parts[k][len(done) :]
            rooms.append(takes)
        room = min(rooms)


def _all(names: Sequence[str], part: Sequence[int]) -> str:
    return names[part[0]] + (f" and {len(part) - 1} more" if len(part) > 1 else "")


def _on_own_gpu(attempt: Attempt, memory: Memory, tasks: Sequence[Any]) -> tuple[list[Any], int]:
    memory.choose()
    return first_that_fit(attempt, memory, tasks)


def first_that_fit(attempt: Attempt, memory: Memory, tasks: Sequence[Any]) -> tuple[list[Any], int]:
    """Outputs of as many of the first tasks as memory takes, and how many it takes at once.

    The latter is what is known of it: all, where all fit; else by the share that the first took,
    which counts as in proportion to their number. Convolutions are in float32 from here on, as on a
    CPU; PyTorch's default is TF32, with 10 bits.
    """
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    size = too_many = len(tasks)
    while True:
        try:
            done = attempt(tasks[:size])
            break
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        # the error is gone, and with it the frames that held the memory
        too_many, size = size, size // 2
        memory.clear()
    if size == len(tasks):
        return done, size
    return done, max(size, min(too_many - 1, int(size / memory.share())))
