"""Replicas: R networks trained as one batch, or dealt out to processes; seeds that mean something.

Initial weights, batch order and measurement draw from generators of their own, so measuring never
changes training, and replica r of a batch is trained as it would be alone.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from lab import context, cpu, gpus, workers
from lab.errors import Diverged

STREAMS = ("weights", "order", "measurement", "labels", "noise")
Function = Callable[[Sequence["Replica"]], dict[str, np.ndarray]]
Outcome = dict[str, np.ndarray] | Diverged  # of one replica


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
) -> Iterator[tuple[int, Outcome]]:
    """Train replicas the way that is fastest on the device; the numbers do not depend on the way.

    A GPU trains as many as its memory takes as one batch, and each GPU its part: see `gpus.deal`.
    On a CPU each of `jobs` processes trains one replica at a time with one thread, which keeps a
    replica's weights in its core's cache.

    Args:
        function: a picklable function from R replicas to name -> (R, …).
        replicas: all replicas.
        device: "cpu" or "cuda".
        jobs: processes; None for one a core, or one a GPU.

    Yields:
        the position of each replica and its arrays, without the replica axis, as soon as it is
        done; or, where it has diverged, how.
    """
    cpu.keep_freed_memory()
    attempt = functools.partial(_attempt, function)
    names = [describe(replica) for replica in replicas]
    if device == "cuda":
        yield from gpus.deal(attempt, replicas, names, jobs)
        return
    tasks = [[replica] for replica in replicas]
    jobs = jobs or cpu.available_cores()
    if jobs <= 1:
        outputs = enumerate(map(functools.partial(_in_one_thread, attempt), tasks))
    else:
        outputs = workers.work(attempt, tasks, jobs, names)
    for i, (outcome,) in outputs:
        yield i, outcome


def in_batches(
    train: Callable[[Any, Sequence[Replica]], dict[str, np.ndarray]],
    replicas: Sequence[Replica],
    setting: str,
) -> dict[str, np.ndarray]:
    """Train replicas whose networks differ by a setting, those of one value as one batch.

    train: from a value and its replicas to name -> (R, …).
    """
    groups = itertools.groupby(replicas, key=lambda replica: replica.settings[setting])
    parts = [train(value, list(group)) for value, group in groups]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _attempt(function: Function, replicas: Sequence[Replica]) -> list[Outcome]:
    """What becomes of each replica; of a batch in which one diverges the halves are trained."""
    try:
        arrays = function(replicas)
        return [{name: values[r] for name, values in arrays.items()} for r in range(len(replicas))]
    except Diverged as error:
        if len(replicas) == 1:
            return [error]
    half = len(replicas) // 2  # the error is gone, and with it the memory that its frames held
    return _attempt(function, replicas[:half]) + _attempt(function, replicas[half:])


def _in_one_thread(
    attempt: Callable[[Sequence[Replica]], list[Outcome]], replicas: Sequence[Replica]
) -> list[Outcome]:
    with cpu.threads(1), cpu.flush_denormals():
        return attempt(replicas)


def describe(replica: Replica) -> str:
    """A replica in words, as "seed 3, lr 0.1"."""
    varied = {**replica.options, **replica.settings}
    return ", ".join([f"seed {replica.seed}", *(f"{k} {v}" for k, v in varied.items())])


def progress_bar(total: int, description: str) -> tqdm:
    """A progress bar on this process' own line; quiet where there is no terminal."""
    line = context.current().line
    return tqdm(total=total, desc=description, position=line, disable=None, leave=False)
