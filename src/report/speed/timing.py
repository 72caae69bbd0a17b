"""How speed and memory are measured: in turn, in fresh processes, dealt as experiments deal."""

import ctypes
import functools
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from lab import memory, program, training
from lab.data import Images
from lab.errors import UserError
from lab.replicas import Replica, deal, generators
from lab.results import Arrays

T = TypeVar("T")
PAGE = 1 / 256  # MB


def synchronise() -> None:
    """Wait until the GPU, if one is used, has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def once(compute: Callable[[], object]) -> float:
    """Seconds of a computation."""
    start = time.perf_counter()
    compute()
    synchronise()
    return time.perf_counter() - start


def in_turn(repeats: int, *computations: Callable[[], object]) -> list[float]:
    """Median seconds of computations run in turn, so that a slow moment hits all of them."""
    rounds = [list(map(once, computations)) for _ in range(repeats + 1)]
    return np.median(rounds[1:], axis=0).tolist()  # the first round warms up


def alone(function: Callable[..., T], *arguments: object) -> T:
    """What a picklable function returns in a new process, whose memory is its alone."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        with program.signals_blocked():
            outcome = pool.submit(function, *arguments)
        try:
            return outcome.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process that measures has died, likely for lack of memory"
            ) from error


def restart_peak() -> float:
    """Count the largest memory from here on; MB held, of the GPU where it is used.

    nan where the system does not say.
    """
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    if not (references := Path("/proc/self/clear_refs")).exists():  # Linux alone
        return math.nan
    with suppress(AttributeError, OSError):  # glibc alone: hand back what was freed
        ctypes.CDLL(None).malloc_trim(0)
    references.write_text("5")
    return _status("VmRSS")


def peak(before: float) -> float:
    """The most MB since `restart_peak`, beyond those before; a page of memory at least."""
    if torch.cuda.is_initialized():
        most = torch.cuda.max_memory_allocated() / 2**20
    else:
        most = _status("VmHWM") if Path("/proc/self/status").exists() else math.nan
    return max(most - before, PAGE)


def _status(key: str) -> float:
    """MB that Linux counts for this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{key}:")[1].split()[0]) / 1024


def synthetic(samples: int, shape: tuple[int, ...] = (3, 32, 32), device: str = "cpu") -> Images:
    """Random images of ten classes, by default of CIFAR-10's size."""
    memory.check(f"{samples:,} random images", samples * math.prod(shape), 1)
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (samples, *shape), dtype=torch.uint8, generator=g)
    y = torch.arange(samples) % 10
    return Images("synthetic", x, y, x[:64], y[:64]).to(torch.device(device))


def timed_epochs(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Images,
    batch_size: int,
    replicas: Sequence[Replica],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    epochs: int = 1,
) -> Arrays:
    """Train R replicas; the share of the seconds that falls to each, (R,).

    loss: of scaled images (R, B, …) and labels (R, B); by default the model's cross-entropy.
    """
    orders = generators(replicas, "order")
    dtype = next(model.parameters()).dtype

    def cross_entropy(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return training.cross_entropy(model(x), y)

    start = time.perf_counter()
    with training.Epochs(epochs, model, "") as loop:
        for _ in range(epochs):
            for x, y in training.shuffled_batches(images, batch_size, orders, dtype):
                (loss or cross_entropy)(x, y).backward()
                optimizer.step()
                optimizer.zero_grad()
        loop.record({})
    synchronise()
    return {"seconds": np.full(len(replicas), (time.perf_counter() - start) / len(replicas))}


def dealt_seconds(
    group: Callable[..., Arrays],
    images: Images,
    replicas: Sequence[Replica],
    device: str,
    jobs: int | None = None,
) -> float:
    """Train replicas as the experiments deal them; their own seconds, added up.

    group: a picklable function of images and replicas, to "seconds" (R,).
    """
    dealt = deal(functools.partial(group, images), replicas, device=device, jobs=jobs)
    return sum(float(arrays["seconds"]) for _, arrays in dealt)
