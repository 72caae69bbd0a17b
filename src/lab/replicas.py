"""Replicas: R networks trained as one batch, or dealt out to processes; seeds that mean something.

Initial weights, batch order and measurement draw from generators of their own, so measuring never
changes training, and replica r of a batch is trained as it would be alone.
"""

import functools
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from lab import cpu

STREAMS = ("weights", "order", "measurement", "labels", "noise")
Function = Callable[[Sequence["Replica"]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Replica:
    """One network of a batch: its seed, and what may differ within the batch."""

    seed: int
    options: Mapping[str, float] = field(default_factory=dict)  # of the optimizer, as lr
    # whatever else the experiment varies
    settings: Mapping[str, float] = field(default_factory=dict)


def generator(seed: int, stream: str) -> torch.Generator:
    """The generator of one purpose (one of STREAMS) of one seed, on the CPU."""
    sequence = np.random.SeedSequence([seed, STREAMS.index(stream)])
    state = sequence.generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def generators(replicas: Sequence[Replica], stream: str) -> list[torch.Generator]:
    """The generator of one purpose for each replica."""
    return [generator(replica.seed, stream) for replica in replicas]


def make_optimizer(
    kind: type[torch.optim.Optimizer],
    model: nn.Module,
    replicas: Sequence[Replica],
    **options: Any,
) -> torch.optim.Optimizer:
    """Any torch.optim optimizer, with each replica's own options, for parameters (R, …).

    Where options differ, each parameter group holds views of the rows of its replicas, which get
    their gradients before the step.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    alike = itertools.groupby(enumerate(replicas), key=lambda pair: dict(pair[1].options))
    groups = [(own, [r for r, _ in members]) for own, members in alike]
    if len(groups) == 1:  # views would cost a twentieth of a step of the MLP
        return kind(parameters, **{**options, **groups[0][0]})
    links = []
    views_by_group = []
    for own, rows in groups:
        part = slice(rows[0], rows[-1] + 1)
        views = [nn.Parameter(p.detach()[part]) for p in parameters]
        links += [(view, p, part) for view, p in zip(views, parameters, strict=True)]
        views_by_group.append({"params": views, **own})

    def share_gradients(*_: Any) -> None:
        for view, parameter, part in links:
            view.grad = None if parameter.grad is None else parameter.grad[part]

    def drop_gradients(*_: Any) -> None:
        for parameter in parameters:
            parameter.grad = None

    optimizer = kind(views_by_group, **options)
    optimizer.register_step_pre_hook(share_gradients)
    optimizer.register_step_post_hook(drop_gradients)
    return optimizer


def deal(
    function: Function, replicas: Sequence[Replica], *, device: str, jobs: int | None = None
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Train replicas the way that is fastest on the device; the numbers do not depend on the way.

    A GPU trains all as one batch. On a CPU each of `jobs` processes trains one replica at a time
    with one thread, which keeps a replica's weights in its core's cache.

    Args:
        function: a picklable function from R replicas to name -> (R, …).
        replicas: all replicas.
        device: "cpu" or "cuda".
        jobs: processes on the CPU; None for one a core.

    Yields:
        the position of each replica and its arrays, without the replica axis, as soon as it is
        done.
    """
    everyone = list(range(len(replicas)))
    groups = [everyone] if device == "cuda" else [[i] for i in everyone]
    jobs = jobs or cpu.available_cores()
    cpu.keep_freed_memory()
    if device == "cuda" or jobs <= 1:
        outputs = _one_by_one(function, groups, replicas, device)
    else:
        outputs = _in_processes(function, groups, replicas, jobs)
    for members, arrays in outputs:
        for r, i in enumerate(members):
            yield i, {name: values[r] for name, values in arrays.items()}


def _one_by_one(
    function: Function, groups: list[list[int]], replicas: Sequence[Replica], device: str
) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
    for members in groups:
        with cpu.threads(torch.get_num_threads() if device == "cuda" else 1), cpu.flush_denormals():
            arrays = function([replicas[i] for i in members])
        yield members, arrays


def _in_processes(
    function: Function, groups: list[list[int]], replicas: Sequence[Replica], jobs: int
) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
    try:
        # which the workers inherit: it is for this process to stop them
        with _interrupts_ignored():
            futures = {
                _pool(jobs).submit(function, [replicas[i] for i in members]): members
                for members in groups
            }
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:
        _pool(jobs).shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()
        _pool.cache_clear()
        raise


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives interrupts, and only it may say what they do
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@functools.cache
def _pool(jobs: int) -> ProcessPoolExecutor:
    """Worker processes that live as long as this one, for starting one takes seconds."""
    context = multiprocessing.get_context("spawn")
    shared = (context.RLock(), context.Value("i", 0))
    return ProcessPoolExecutor(jobs, context, _start_worker, shared)


_position = 0  # line of this process' progress bar


def progress_bar(total: int, description: str) -> tqdm:
    """A progress bar on this process' own line; quiet where there is no terminal."""
    return tqdm(total=total, desc=description, position=_position, disable=None, leave=False)


def _start_worker(lock: Any, counter: Any) -> None:
    global _position
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    cpu.keep_freed_memory()
    parent = multiprocessing.parent_process()
    never_outlive = threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True)
    never_outlive.start()
    tqdm.set_lock(lock)
    with counter.get_lock():
        _position = counter.value
        counter.value += 1
