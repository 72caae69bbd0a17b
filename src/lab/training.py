"""Training by mini-batches: epochs, batches, losses and accuracies of R replicas at once."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from core.linearity import NotFiniteError
from lab import cpu
from lab.data import Images
from lab.errors import Diverged
from lab.networks import evaluating
from lab.replicas import progress_bar
from lab.results import Arrays

EVALUATION_BATCH = 2000


class Epochs:
    """The epochs of a training loop, and what is recorded of them.

        with Epochs(20, model, "mnist seed 0") as epochs:
            for epoch in epochs:  # 0: before training
                if epoch > 0:
                    ...  # train
                epochs.record(measures)
        return epochs.arrays

    It shows a progress bar, takes the CPU kernels that are fastest for the model, and ends with
    Diverged where a parameter, a feature or a measure is no longer finite. A measure may be nan
    from the start, as the angle to a change is before there is one.

    unchecked: measures that may be anything.
    """

    def __init__(
        self, last: int, model: nn.Module, description: str, unchecked: Collection[str] = ()
    ) -> None:
        self.last, self.description, self.unchecked = last, description, unchecked
        self.parameters = list(model.parameters())
        self.epoch = 0
        self.rows: dict[int, Arrays] = {}  # by epoch

    def __enter__(self) -> "Epochs":
        self.context = ExitStack()
        self.bar = self.context.enter_context(progress_bar(self.last, self.description))
        self.context.enter_context(cpu.kernels_for(self.parameters))
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.context.close()
        # what is not finite fails in a projection or in the eigenvalues of the features
        if isinstance(error, torch.linalg.LinAlgError | NotFiniteError):
            raise self._diverged() from error

    def __iter__(self) -> Iterator[int]:
        for epoch in range(self.last + 1):
            self.epoch = epoch
            yield epoch
            self.check(self.parameters)
            self.bar.update(epoch > 0)

    def check(self, values: Iterable[Tensor]) -> None:
        """Raise Diverged unless all values are finite."""
        if not all(bool(value.isfinite().all()) for value in values):
            raise self._diverged()

    def record(self, measures: Mapping[str, Tensor]) -> None:
        """Keep measures at this epoch, name -> (R, …)."""
        row = {name: value.detach().cpu().numpy().copy() for name, value in measures.items()}
        first = next(iter(self.rows.values()), row)
        for name in row.keys() - set(self.unchecked):
            undefined = np.isnan(first[name])
            if not (np.isfinite(row[name]) | undefined).all():
                raise self._diverged()
        self.rows[self.epoch] = row
        numbers = {name: f"{v.mean():.4g}" for name, v in row.items() if v.ndim == 1}
        self.bar.set_postfix(numbers, refresh=False)

    @property
    def arrays(self) -> Arrays:
        """What was recorded: name -> (R, recorded epochs, …)."""
        rows = list(self.rows.values())
        return {name: np.stack([row[name] for row in rows], 1) for name in rows[0]}

    def _diverged(self) -> Diverged:
        self.rows.pop(self.epoch, None)
        before = self.arrays if self.rows else {}
        alone = {name: values[0] for name, values in before.items() if len(values) == 1}
        return Diverged.at(self.description, self.epoch, alone)


def measured_epochs(epochs: int, every: int) -> list[int]:
    """0, before training, every so many epochs, and the last."""
    return sorted({*range(0, epochs, every), epochs})


def shuffled_batches(
    images: Images,
    batch_size: int,
    orders: Sequence[torch.Generator],
    dtype: torch.dtype = torch.float32,
    labels: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch, every replica's in an order of its own; the last may be smaller.

    Args:
        images: on the model's device.
        batch_size: B.
        orders: a generator for each of R replicas.
        dtype: of the images.
        labels: (R, N) labels of each replica, instead of the data's.

    Yields:
        scaled images (R, B, …) and their labels (R, B).
    """
    samples = len(images.x_train)
    order = torch.stack([torch.randperm(samples, generator=g) for g in orders])  # (R, N)
    for index in order.to(images.x_train.device).split(batch_size, dim=1):  # (R, B)
        # index_select copies whole rows: seven times faster here than indexing
        batch = images.x_train.index_select(0, index.flatten()).unflatten(0, index.shape)
        target = images.y_train.take(index) if labels is None else labels.gather(1, index)
        yield images.scale(batch, dtype), target


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy over each replica's batch, summed over replicas, so gradients do not mix.

    Args:
        logits: (R, B, c).
        y: (R, B).
    """
    flat = logits.flatten(0, 1), y.flatten()
    return functional.cross_entropy(*flat, reduction="sum") / y.shape[1]


def whole_batches(
    images: Images, split: str, replicas: int, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scaled (R, B, …) batches of a split, the same for every replica, and labels (B,)."""
    parts = (part.split(EVALUATION_BATCH) for part in images.split(split))
    for x, y in zip(*parts, strict=True):
        yield images.scale(x, dtype)[None].expand(replicas, *x.shape), y


def score(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Number right and summed cross-entropy in nats of each replica, (R,) float64.

    Args:
        logits: (R, B, c).
        y: (B,) or (R, B).
    """
    right = (logits.argmax(-1) == y).sum(-1, dtype=torch.float64)
    labels = y.expand(logits.shape[:2])
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return right, loss.view(labels.shape).sum(-1, dtype=torch.float64)


@torch.no_grad()
def evaluate(model: nn.Module, images: Images, split: str) -> dict[str, Tensor]:
    """SPLIT_accuracy and SPLIT_loss (mean cross-entropy in nats), each (R,) float64."""
    parameter = next(model.parameters())
    replicas, device = len(parameter), parameter.device
    total = torch.zeros(2, replicas, dtype=torch.float64, device=device)
    with evaluating(model):
        for x, y in whole_batches(images, split, replicas, parameter.dtype):
            total += torch.stack(score(model(x), y))
    accuracy, loss = total / len(images.split(split)[1])
    return {f"{split}_accuracy": accuracy, f"{split}_loss": loss}
