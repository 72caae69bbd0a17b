"""What makes training fast on a CPU: threads, denormal numbers, kept memory, kernels."""

import ctypes
import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Run with this many torch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Count numbers below the smallest normal one (10⁻³⁸ in float32) as zero, in this thread.

    Gradients of units that are switched off fall so low late in training, and a CPU takes a hundred
    times longer to multiply such numbers: steps of the MLP at rate 0.1 took four times as long
        after twenty epochs.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def kernels_for(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """PyTorch's own CPU kernels instead of oneDNN's, unless the model convolves.

    Between matrix products oneDNN's GELU takes 50 µs on 64 × 256 numbers, PyTorch's 20: a twentieth
    of a step of the MLP in all. Without oneDNN convolutions would be slow.

    Args:
        parameters: those with more than three axes are kernels, (R, m, c, height, width).
    """
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = before and any(p.ndim > 3 for p in parameters)
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


@functools.cache
def keep_freed_memory() -> None:
    """Keep freed blocks in the process (glibc only; elsewhere nothing happens).

    glibc hands blocks of megabytes back to the system when they are freed, and each step would
    fault its gradients and activations in again.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        mallopt(option, 1 << 30)
