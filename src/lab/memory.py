"""What the shapes of a run need of memory, known before any of it is asked for."""

from contextlib import suppress
from pathlib import Path

import psutil

from lab import context
from lab.errors import ConfigError

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def limit() -> int:
    """Bytes that this machine has, or that this process may use of them."""
    limits = [psutil.virtual_memory().total]
    for path in _LIMITS:  # of a container
        with suppress(OSError, ValueError):  # "max"
            limits.append(int(Path(path).read_text()))
    with suppress(ImportError, ValueError):
        import resource

        allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
        limits += [] if allowed == resource.RLIM_INFINITY else [allowed]
    return min(limits)


def check(what: str, numbers: float, size: int = 4) -> None:
    """Raise ConfigError where so many numbers do not fit into memory; a lower bound is enough.

    Args:
        what: needs them, for the message.
        numbers: how many.
        size: bytes of each.
    """
    processes = context.current().processes
    needed, there = processes * numbers * size, limit()
    if needed > there:
        jobs = f" in {processes} processes" if processes > 1 else ""
        sizes = f"{needed / 2**30:,.0f} GiB{jobs}, and there are {there / 2**30:,.0f}"
        raise ConfigError(f"memory: {what} needs at least {sizes}: ask for less")


def check_training(parameters: float, size: int = 4) -> None:
    """Raise ConfigError where a model, its gradients and an optimizer's two moments do not fit."""
    check(f"training {parameters:,.0f} parameters", 4 * parameters, size)
