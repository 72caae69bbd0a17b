"""How speed and memory are measured: in turn, and since a moment."""

import ctypes
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from lab.data import Images

ROUNDS = 3
SECONDS = 0.5  # that each computation is repeated for, in each round
PAGE = 4096 / 2**20  # MB
MNIST = (1, 28, 28)  # shape of an image


def in_turn(*computations: Callable[[], object], threads: int | None = None) -> list[float]:
    """Median seconds of computations timed in turn, so that a slow moment hits all of them.

    threads: of torch; None leaves their number alone.
    """
    from torch.utils.benchmark import Timer  # looks for CUDA's compiler, and says what it lacks

    number = threads or torch.get_num_threads()
    timers = [Timer("f()", globals={"f": f}, num_threads=number) for f in computations]
    rounds = [[t.blocked_autorange(min_run_time=SECONDS) for t in timers] for _ in range(ROUNDS)]
    return np.median([[m.median for m in measured] for measured in rounds], axis=0).tolist()


def peak(compute: Callable[[], object]) -> float:
    """The most MB that a computation holds beyond those before it; nan where no system says.

    At least PAGE, below which nothing is seen.
    """
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        compute()
        return max(PAGE, (torch.cuda.max_memory_allocated() - before) / 2**20)
    if not (references := Path("/proc/self/clear_refs")).exists():  # Linux alone
        return math.nan
    with suppress(AttributeError, OSError):  # glibc alone: hand back what was freed
        ctypes.CDLL(None).malloc_trim(0)
    references.write_text("5")  # the largest memory is counted from here on
    before = _status("VmRSS")
    compute()
    return max(PAGE, (_status("VmHWM") - before) / 1024)


def _status(key: str) -> int:
    """KB that Linux counts for this process."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0])


def synthetic(samples: int, shape: tuple[int, ...] = (3, 32, 32), device: str = "cpu") -> Images:
    """Random images of ten classes, by default of CIFAR-10's size."""
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (samples, *shape), dtype=torch.uint8, generator=g)
    y = torch.arange(samples) % 10
    return Images("synthetic", x, y, x[:64], y[:64]).to(torch.device(device))
