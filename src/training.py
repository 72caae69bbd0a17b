"""Training R replicas of a model as one batch, and dealing replicas out to processes.

Seeds mean something: initial weights, batch order and measurement draw from generators of their own, so
measuring never changes training, and replica r of a batch is trained as it would be alone.
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
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

import cpu
from core.linearity import NotFiniteError
from data import Images
from results import Arrays, Partial

STREAMS = ("weights", "order", "measurement", "labels", "noise")
EVALUATION_BATCH = 2000


class Diverged(Exception):
    """Training left the finite numbers; the message is one line that says what to do."""


@dataclass(frozen=True)
class Replica:
    """One run of a batch: its seed, and what may differ within the batch.

    options: of the optimizer, as lr. settings: whatever else the experiment varies, as a label's noise.
    """

    seed: int
    options: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)


def generator(seed: int, stream: str) -> torch.Generator:
    """The generator of one purpose (one of STREAMS) of one seed, on the CPU."""
    state = np.random.SeedSequence([seed, STREAMS.index(stream)]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def parameter_groups(model: nn.Module, replicas: Sequence[Replica]) -> tuple[list[dict], Callable[[], None]]:
    """Optimizer groups for a model whose parameters have a leading replica axis, one for each set of options.

    Where options differ, each group holds views of the rows of its replicas, so that any torch.optim optimizer can
    give replicas options of their own.

    Returns:
        (groups, share): call share() after each backward pass to hand the gradients to the views.
    """
    parameters = list(model.parameters())
    groups, links = [], []
    for options, members in itertools.groupby(enumerate(replicas), key=lambda pair: dict(pair[1].options)):
        rows = [r for r, _ in members]
        if len(rows) == len(replicas):  # views would cost a twentieth of a step of the MLP
            return [{"params": parameters, **options}], lambda: None
        part = slice(rows[0], rows[-1] + 1)
        views = [nn.Parameter(p.detach()[part]) for p in parameters]
        links += [(view, p, part) for view, p in zip(views, parameters, strict=True)]
        groups.append({"params": views, **options})

    def share() -> None:
        for view, parameter, part in links:
            view.grad = None if parameter.grad is None else parameter.grad[part]

    return groups, share


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy over each replica's batch, summed over replicas; x (R, B, …), y (R, B)."""
    return functional.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum") / y.shape[1]


def train(
    model: nn.Module,
    data: Images,
    replicas: Sequence[Replica],
    optimizer: Callable[[list[dict]], torch.optim.Optimizer],
    measure: Callable[[nn.Module], dict[str, Tensor]],
    *,
    epochs: int,
    batch_size: int,
    every: int = 1,
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] = cross_entropy,
    labels: Tensor | None = None,
    attach: Callable[[torch.optim.Optimizer], Any] | None = None,
    description: str = "",
) -> Arrays:
    """Train by mini-batches, every replica on a batch order of its own.

    Args:
        model: parameters (R, …); the default loss wants logits (R, B, c) of images (R, B, …).
        data: on the model's device.
        replicas: the R replicas, in the order of the model's replica axis.
        optimizer: makes the optimizer from parameter groups.
        measure: called at `measured_epochs`; name -> (R, …).
        epochs: passes over the training set.
        batch_size: the last batch of an epoch may be smaller.
        every: epochs from one measurement to the next.
        loss: from model, x (R, B, …) and y (R, B) to the sum over replicas of each one's mean loss: so their
            gradients do not mix.
        labels: (R, N) labels of each replica, instead of the data's.
        attach: called once with the optimizer, for hooks.
        description: shown beside the progress bar.

    Returns:
        name -> (R, measured epochs, …), what `measure` returned.

    Raises:
        Diverged: a parameter or a feature is no longer finite.
    """
    parameters = list(model.parameters())
    groups, share = parameter_groups(model, replicas)
    stepper = optimizer(groups)
    if attach is not None:
        attach(stepper)
    orders = [generator(replica.seed, "order") for replica in replicas]
    device = data.x_train.device
    dtype = parameters[0].dtype
    wanted = measured_epochs(epochs, every)
    with progress(epochs, description) as bar, cpu.kernels_for(parameters):
        record = [_measured(measure, model)]
        for epoch in range(1, epochs + 1):
            order = torch.stack([torch.randperm(len(data.x_train), generator=g) for g in orders])  # (R, N)
            for index in order.to(device).split(batch_size, dim=1):  # (R, B)
                # index_select copies whole rows: seven times faster here than indexing
                batch = data.x_train.index_select(0, index.flatten()).unflatten(0, index.shape)
                target = data.y_train.take(index) if labels is None else labels.gather(1, index)  # (R, B)
                loss(model, data.scale(batch, dtype), target).backward()
                share()
                try:
                    stepper.step()
                except torch.linalg.LinAlgError as error:  # a projection of what is not finite
                    raise Diverged(_diverged(description, epoch)) from error
                for parameter in parameters:
                    parameter.grad = None
            if not all(bool(p.isfinite().all()) for p in parameters):
                raise Diverged(_diverged(description, epoch))
            if epoch in wanted:
                try:
                    record.append(_measured(measure, model))
                except NotFiniteError as error:
                    raise Diverged(_diverged(description, epoch)) from error
            bar.set_postfix({k: f"{v.mean():.4g}" for k, v in record[-1].items() if v.ndim == 1})
            bar.update()
    return {name: np.stack([row[name] for row in record], axis=1) for name in record[0]}


def measured_epochs(epochs: int, every: int) -> list[int]:
    """0, before training, every so many epochs, and the last."""
    return sorted({*range(0, epochs, every), epochs})


def _diverged(description: str, epoch: int) -> str:
    return f"{description}: training diverged in epoch {epoch}; lower the learning rate"


@torch.no_grad()
def _measured(measure: Callable[[nn.Module], dict[str, Tensor]], model: nn.Module) -> Arrays:
    return {name: value.detach().cpu().numpy().copy() for name, value in measure(model).items()}


def batches(data: Images, split: str, replicas: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """Scaled (R, B, …) batches of "train" or "test", the same for every replica, and their labels (B,)."""
    for x, y in zip(*(part.split(EVALUATION_BATCH) for part in data.split(split)), strict=True):
        yield data.scale(x, dtype)[None].expand(replicas, *x.shape), y


def score(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits (R, B, c) and labels (B,) or (R, B): number right and summed cross-entropy, each (R,) in float64."""
    right = (logits.argmax(-1) == y).sum(-1, dtype=torch.float64)
    replicas, size, _ = logits.shape
    loss = functional.cross_entropy(logits.flatten(0, 1), y.expand(replicas, size).flatten(), reduction="none")
    return right, loss.view(replicas, size).sum(-1, dtype=torch.float64)


@torch.no_grad()
def evaluate(model: nn.Module, data: Images, split: str) -> dict[str, Tensor]:
    """SPLIT_accuracy and SPLIT_loss (mean cross-entropy in nats), each (R,) float64."""
    parameter = next(model.parameters())
    total = torch.zeros(2, parameter.shape[0], dtype=torch.float64, device=parameter.device)
    for x, y in batches(data, split, parameter.shape[0], parameter.dtype):
        total += torch.stack(score(model(x), y))
    accuracy, loss = total / len(data.split(split)[1])
    return {f"{split}_accuracy": accuracy, f"{split}_loss": loss}


def train_all(
    train_group: Callable[[Sequence[Replica]], Arrays],
    replicas: Sequence[Replica],
    *,
    device: str,
    jobs: int = 0,
    partial: Partial | None = None,
) -> list[Arrays]:
    """Train replicas the way that is fastest on the device; the numbers do not depend on the way.

    A GPU trains all as one batch. On a CPU each of `jobs` processes trains one replica at a time with one
    thread, which keeps a replica's weights in its core's cache.

    Args:
        train_group: a picklable function from R replicas to name -> (R, …).
        replicas: all replicas.
        device: "cpu" or "cuda".
        jobs: processes on the CPU; 0 for one a core.
        partial: where finished replicas are kept and looked up, so that a run that was cut off resumes.

    Returns:
        one dict of arrays (without the replica axis) for each replica, in order.
    """
    pieces = [asdict(replica) for replica in replicas]
    done: dict[int, Arrays] = {}
    for i, piece in enumerate(pieces):
        if partial is not None and (arrays := partial.get(piece)) is not None:
            done[i] = arrays

    def keep(members: Sequence[int], arrays: Arrays) -> None:
        for position, i in enumerate(members):
            done[i] = {name: value[position] for name, value in arrays.items()}
            if partial is not None:
                partial.put(pieces[i], done[i])

    rest = [i for i in range(len(replicas)) if i not in done]
    groups = [rest] if device == "cuda" and rest else [[i] for i in rest]
    jobs = jobs or cpu.available_cores()
    cpu.keep_freed_memory()
    if device == "cuda" or jobs <= 1:
        with cpu.threads(torch.get_num_threads() if device == "cuda" else 1), cpu.denormals_flushed():
            for group in groups:
                keep(group, train_group([replicas[i] for i in group]))
    else:
        _train_in_processes(train_group, [(group, [replicas[i] for i in group]) for group in groups], jobs, keep)
    return [done[i] for i in range(len(replicas))]


def _train_in_processes(train_group: Callable, groups: list, jobs: int, keep: Callable) -> None:
    try:
        with _interrupts_ignored():  # which the workers inherit: it is for this process to stop them
            futures = {_pool(jobs).submit(train_group, members): indices for indices, members in groups}
        for future in as_completed(futures):
            keep(futures[future], future.result())
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
    return ProcessPoolExecutor(jobs, context, _start_worker, (context.RLock(), context.Value("i", 0)))


_position = 0  # line of this process' progress bar


def progress(total: int, description: str) -> tqdm:
    """A progress bar on this process' own line; quiet where there is no terminal."""
    return tqdm(total=total, desc=description, position=_position, disable=None, leave=False)


def _start_worker(lock: Any, counter: Any) -> None:
    global _position
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    cpu.keep_freed_memory()
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()  # never outlive it
    tqdm.set_lock(lock)
    with counter.get_lock():
        _position = counter.value
        counter.value += 1


def grid(axes: Mapping[str, Sequence[Any]], runs: Sequence[Arrays]) -> Arrays:
    """Arrays of runs listed in row-major order of `axes`, joined: name -> (*len(axis) for each axis, …)."""
    shape = tuple(len(values) for values in axes.values())
    return {name: np.stack([run[name] for run in runs]).reshape(*shape, *runs[0][name].shape) for name in runs[0]}
