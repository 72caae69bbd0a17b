"""Does the Gram matrix learn the Virtual Covariance? Ours: the paper's central claim, measured.

Claim: over training of the same length, steps × η, the change of a layer's Gram G = WᵀW differs
from the accumulated change of the Virtual Covariance by an amount in proportion to the rate η.

    python src/experiment/gram_virtual_covariance.py --datasets mnist
    python src/experiment/gram_virtual_covariance.py --scale quick

One step of gradient descent changes both alike, up to a term of second order in η. An MLP is
trained in float64 by plain gradient descent, on all samples at once and by mini-batches, at several
rates.

Results: results/SCALE/gram_virtual_covariance/DATASET-BATCH-DIGEST.npz, BATCH full or the batch
size, arrays as in AXES.
"""

import functools
import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import program

program.begin(__name__)

import numpy as np
import torch
from torch import Tensor

from core.agop import average_gradient_outer_product
from core.gram import cosine, weight_gram
from core.virtual import feature_learning_residual, virtual_covariance_shift
from lab import cli, runs, training
from lab.errors import ConfigError
from lab.models import MLP
from lab.replicas import Replica, generator, generators
from lab.results import Arrays
from lab.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters, ours: the paper has no such experiment."""

    # mnist, svhn, cifar10, cifar100, digits, or your own: see docs/data.md
    datasets: tuple[str, ...] = cli.each(("digits", "mnist"))
    batch_sizes: tuple[int | None, ...] = cli.each((None, 64))  # samples a step; None: all of them
    # rates η of gradient descent, without momentum
    rates: tuple[float, ...] = (0.1, 0.05, 0.025, 0.0125)
    time: float = 40.0  # length of training, steps × rate, the same for every rate
    points: int = 10  # measurements after the start, evenly spaced in time
    samples: int = 1000  # training samples, drawn at random
    seeds: tuple[int, ...] = (0, 1, 2)  # a seed draws initial weights and batches
    width: int = 128  # units of a hidden layer
    depth: int = 2  # hidden layers

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, zero=("seeds",))
        cli.check_datasets(self.datasets)
        for rate in self.rates:
            steps = self.time / rate / self.points  # from one point to the next
            if steps * self.points > cli.MOST:
                raise ConfigError(f"time must be at most {cli.MOST:,} steps, at rate {rate} too")
            if steps < 0.5:
                raise ConfigError("rates are too large: every point must have a step or more")
            if not math.isclose(steps, round(steps), rel_tol=1e-9):  # the axis is of all rates
                whole = "time / points must be a whole number of steps at every rate"
                raise ConfigError(f"{whole}, which it is not at {rate}")

    def stride(self, rate: float) -> int:
        """Steps from one point to the next."""
        return round(self.time / rate / self.points)


QUICK: dict[str, Any] = {
    "datasets": ("digits",),
    "rates": (0.1, 0.05, 0.025),
    "samples": 500,
    "width": 32,
}

_POINT, _LAYER = ("rate", "seed", "point"), ("rate", "seed", "point", "layer")
AXES = {
    # of the changes since the start, nan at the start
    "relative_error": _LAYER,  # ‖ΔG − ΔVC‖ / ‖ΔVC‖
    "cosine_vc": _LAYER,  # of ΔG and ΔVC
    "cosine_agop_change": _LAYER,  # of ΔG and the average gradient outer product of the outputs
    "gram_change": _LAYER,  # ‖ΔG‖ / ‖G(0)‖
    "cosine_agop": _LAYER,  # of G and the average gradient outer product
    "residual": _LAYER,  # of the Feature Learning Equation, on all samples
    "loss": _POINT,  # mean cross-entropy in nats, on all samples
    "accuracy": _POINT,  # on all samples
    **{name: (name,) for name in ("rate", "seed", "point", "layer")},  # point: steps × rate
}


def forward(model: MLP, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Inputs H of every layer (R, N, d) and the outputs (R, N, c), in one graph."""
    x = x.detach().requires_grad_()
    hidden = model.hidden(x)
    return [x, *hidden], model.layers[-1](hidden[-1])


def layer_measures(
    model: MLP, x: Tensor, y: Tensor, initial: Sequence[Tensor], moved: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The measures of every layer (R, layer), with loss and accuracy (R,).

    Args:
        model: R replicas.
        x: all samples (R, N, d).
        y: their labels (R, N).
        initial: G(0) of every layer (R, d, d).
        moved: ΔVC of every layer, the accumulated change of the Virtual Covariance (R, d, d).
    """
    features, outputs = forward(model, x)
    weights = [layer.weight for layer in model.layers]
    agops = average_gradient_outer_product(outputs, features)
    loss = training.cross_entropy(outputs, y)
    gradients = torch.autograd.grad(loss, [*features, *weights])
    right, total_loss = training.score(outputs.detach(), y)
    norm = torch.linalg.matrix_norm
    rows = []
    for i, weight in enumerate(w.detach() for w in weights):
        gram, agop, shift = weight_gram(weight), agops[i], moved[i]
        change = gram - initial[i]
        pair = gradients[i], gradients[len(features) + i]  # ∂L/∂H, ∂L/∂W
        row = {
            "relative_error": norm(change - shift) / norm(shift),
            "cosine_vc": cosine(change, shift),
            "cosine_agop": cosine(gram, agop),
            "cosine_agop_change": cosine(change, agop),
            "gram_change": norm(change) / norm(initial[i]),
            "residual": feature_learning_residual(features[i].detach(), weight, *pair),
        }
        rows.append(row)
    measures = {name: torch.stack([row[name] for row in rows], -1) for name in rows[0]}
    samples = y.shape[1]
    return measures | {"loss": total_loss / samples, "accuracy": right / samples}


def descend(model: MLP, x: Tensor, y: Tensor, rate: float, moved: Sequence[Tensor]) -> None:
    """One step of gradient descent; adds what it changes of the Virtual Covariance to `moved`.

    Args:
        model: R replicas.
        x: a batch (R, B, d).
        y: its labels (R, B).
        rate: η.
        moved: ΔVC of every layer (R, d, d).
    """
    features, outputs = forward(model, x)
    parameters = list(model.parameters())
    loss = training.cross_entropy(outputs, y)
    gradients = torch.autograd.grad(loss, [*features, *parameters])
    for total, h, gradient in zip(moved, features, gradients, strict=False):
        total += virtual_covariance_shift(h.detach(), gradient, rate)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients[len(features) :], strict=True):
            parameter -= rate * gradient


def train(
    config: Config, dataset: str, batch_size: int | None, rate: float, replicas: Sequence[Replica]
) -> Arrays:
    """Train the replicas of one rate as one batch; name -> (R, points + 1, …)."""
    images = cli.load_images(config, dataset)
    chosen = torch.randperm(len(images.x_train), generator=generator(0, "measurement"))
    chosen = chosen[: config.samples].to(images.x_train.device)
    x = images.scale(images.x_train[chosen], torch.float64).flatten(1)  # (N, d)
    y = images.y_train[chosen]
    x_all, y_all = x.expand(len(replicas), *x.shape), y.expand(len(replicas), -1)
    widths = (x.shape[1], *[config.width] * config.depth, images.classes)
    model = MLP(widths, generators(replicas, "weights")).to(x)
    orders = generators(replicas, "order")
    initial = [weight_gram(layer.weight.detach()) for layer in model.layers]
    moved = [torch.zeros_like(gram) for gram in initial]  # ΔVC

    description = f"{images.name} rate {rate} seed {replicas[0].seed}"
    with training.Epochs(config.points, model, description) as points:
        for point in points:  # 0: before training
            if point > 0:
                for _ in range(config.stride(rate)):
                    batch, labels = x_all, y_all
                    if batch_size is not None:
                        index = [torch.randint(len(x), (batch_size,), generator=g) for g in orders]
                        index = torch.stack(index).to(x.device)  # (R, B)
                        batch, labels = x[index], y[index]
                    descend(model, batch, labels, rate, moved)
            measures = layer_measures(model, x_all, y_all, initial, moved)
            sizes = [torch.linalg.matrix_norm(shift) for shift in moved]
            points.check([*sizes, measures["gram_change"], measures["loss"]])
            points.record(measures)
    return points.arrays


def run(
    config: Config, dataset: str, batch_size: int | None, replicas: Sequence[Replica]
) -> Arrays:
    """Train replicas, all of one rate as one batch; name -> (R, points + 1, …)."""
    groups = itertools.groupby(replicas, key=lambda replica: replica.settings["rate"])
    parts = [train(config, dataset, batch_size, rate, list(group)) for rate, group in groups]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    pairs = itertools.product(config.rates, config.seeds)
    replicas = tuple(Replica(seed, settings={"rate": rate}) for rate, seed in pairs)
    for dataset, batch_size in itertools.product(config.datasets, config.batch_sizes):
        images = cli.load_images(config, dataset)
        name = f"{images.name}-{batch_size or 'full'}"
        varied = {"dataset": images.name, "batch_size": batch_size}
        settings = varied | config.hyperparameters()
        result = Run(config, "gram_virtual_covariance", name, settings, images, AXES, replicas)
        train_replicas = functools.partial(run, config, dataset, batch_size)
        for _, arrays in runs.train(train_replicas, [result]):
            arrays = runs.unflatten(arrays, len(config.rates), len(config.seeds))
            times = np.linspace(0, config.time, config.points + 1)
            points = {"point": times, "layer": range(1, config.depth + 2)}
            result.save(arrays | {"rate": config.rates, "seed": config.seeds} | points)


if __name__ == "__main__":
    cli.run(main)
