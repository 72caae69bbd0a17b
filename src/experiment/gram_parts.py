"""What the Gram's change is made of: the Virtual Covariance Shift, and a term of second order.

Finding (ours, behind Figure 7): the shift decides where the Gram matrix grows, the term of second
order in the rate by how much.

    python src/experiment/gram_parts.py --datasets cifar10
    python src/experiment/gram_parts.py --learning-rates 0.05 --batch-sizes 64 --epochs 10
    python src/experiment/gram_parts.py --scale quick

A step of plain gradient descent, G = ∂L/∂W and A = ∂L/∂H of its batch's mean loss, changes a
layer's Gram matrix by exactly

    ΔWᵀW = −γ (AᵀH + HᵀA) + γ² GᵀG = VCS + γ² (GᵀG − AᵀA),

for WᵀG = AᵀH. The diagonals of the parts are summed over training, at several rates and batch
sizes. Control: labels permuted once, which leave nothing to learn but single samples.

Results: results/SCALE/gram_parts/DATASET-LABELS-lrRATE-bBATCH-DIGEST.npz, arrays as in AXES.
"""

import functools
import itertools
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

from core.gram import cosine
from core.virtual import gram_change_diagonals
from lab import cli, runs, training
from lab.models import MLP
from lab.replicas import Replica, generators, make_optimizer
from lab.results import Arrays
from lab.runs import Run

LABELS = ("true", "shuffled")


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters, ours; Figure 7's network is one of these, whose batch size is not stated."""

    # mnist, svhn, cifar10, cifar100, digits, or your own: see docs/data.md
    datasets: tuple[str, ...] = cli.each(("cifar10",))
    label_sets: tuple[str, ...] = cli.each(LABELS)  # true: the data's; shuffled: permuted once
    learning_rates: tuple[float, ...] = cli.each((0.005, 0.01, 0.05))  # γ; the paper's is 0.05
    batch_sizes: tuple[int, ...] = cli.each((16, 64, 256, 1024))  # samples a step
    seeds: tuple[int, ...] = (0, 1, 2)  # a seed draws initial weights, batch orders, permutations
    epochs: int = 2  # passes over the training set
    measurements: int = 2  # points of measurement an epoch
    width: int = 256  # units of a hidden layer
    depth: int = 1  # hidden layers; the paper's "two-layer" may be 1 or 2

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, zero=("seeds",), choices={"label_sets": LABELS})
        cli.check_datasets(self.datasets)


QUICK: dict[str, Any] = {
    "datasets": ("digits",),
    "learning_rates": (0.01, 0.05),
    "batch_sizes": (16, 64),
    "width": 64,
}

# of ΔWᵀW since the start, Σ VCS, its part −γ (AᵀH + HᵀA), and Σ γ² (GᵀG − AᵀA)
PARTS = ("change", "vcs", "first_order", "second_order")
DRAWN = ("change", "vcs", "second_order")  # whose diagonals are kept as images
_POINT, _LAYER = ("seed", "point"), ("seed", "point", "layer")
AXES = {
    **{f"trace_{part}": _LAYER for part in PARTS},
    # Σ γ² ‖G‖², and Σ γ² ⟨G, G′⟩ of successive steps
    "trace_moment": _LAYER,
    "trace_successive": _LAYER,
    # Pearson's ρ of the diagonal of ΔWᵀW with another; nan at the start
    **{f"rho_{part}": _LAYER for part in PARTS[1:]},
    # ‖d − d'‖ / ‖d‖, d the diagonal of ΔWᵀW, d' of the sum of its parts; nan at the start
    "identity_error": _LAYER,
    **{f"diagonal_{part}": ("seed", "input") for part in DRAWN},  # layer 1, last point
    "image_shape": ("image_axis",),  # channels, height, width
    "test_accuracy": _POINT,
    "test_loss": _POINT,  # mean cross-entropy in nats
    **{name: (name,) for name in ("seed", "point", "layer")},  # point: epochs since the start
}


class ChangeParts:
    """Diagonals of the parts of a layer's ΔWᵀW since the start, (R, d) float64."""

    def __init__(self, weight: Tensor, rate: float) -> None:
        """weight: W (R, m, d), as it changes; rate: γ."""
        self.weight, self.rate = weight, rate
        self.start = self._gram()
        self.sums = [torch.zeros_like(self.start) for _ in range(3)]
        self.successive = self.start.new_zeros(len(weight))  # (R,)
        self.before: Tensor | None = None  # G of the step before

    def _gram(self) -> Tensor:
        return self.weight.double().square().sum(-2)

    def add(self, features: Tensor, gradient: Tensor, weight_gradient: Tensor) -> None:
        """One step: H and A = ∂L/∂H (R, B, d), G = ∂L/∂W (R, m, d)."""
        parts = gram_change_diagonals(features, gradient, weight_gradient, self.rate)
        for total, part in zip(self.sums, parts, strict=True):
            total += part
        if self.before is not None:
            self.successive += self.rate**2 * (self.before * weight_gradient).sum((-2, -1))
        self.before = weight_gradient

    def diagonals(self) -> dict[str, Tensor]:
        """PARTS, name -> (R, d)."""
        first_order, outer, moment = self.sums
        values = (self._gram() - self.start, first_order + outer, first_order, moment - outer)
        return dict(zip(PARTS, values, strict=True))

    def measures(self) -> dict[str, Tensor]:
        """Name -> (R,)."""
        parts = self.diagonals()
        change = parts["change"]
        rest = change - parts["vcs"] - parts["second_order"]
        row = {f"trace_{name}": diagonal.sum(-1) for name, diagonal in parts.items()}
        row |= {f"rho_{name}": correlation(change, parts[name]) for name in PARTS[1:]}
        row["identity_error"] = rest.norm(dim=-1) / change.norm(dim=-1)
        return row | {"trace_moment": self.sums[2].sum(-1), "trace_successive": self.successive}


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's ρ of vectors (R, d); (R,)."""
    return cosine(*((x - x.mean(-1, keepdim=True))[..., None] for x in (a, b)))


def run(
    config: Config, dataset: str, labels: str, batch_size: int, replicas: Sequence[Replica]
) -> Arrays:
    """Train replicas of one rate as one batch; name -> (R, …)."""
    images = cli.load_images(config, dataset)
    widths = (images.x_train[0].numel(), *[config.width] * config.depth, images.classes)
    model = MLP(widths, generators(replicas, "weights")).to(config.resolved_device)
    optimizer = make_optimizer(torch.optim.SGD, model, replicas, fused=True)
    orders, own = generators(replicas, "order"), None
    if labels == "shuffled":
        draws = generators(replicas, "labels")
        order = torch.stack([torch.randperm(len(images.y_train), generator=g) for g in draws])
        own = images.y_train[order.to(images.y_train.device)]  # (R, N)
    weights = [layer.weight for layer in model.layers]
    layers = [ChangeParts(weight.detach(), replicas[0].options["lr"]) for weight in weights]
    epochs = range(config.epochs)
    batches = (training.shuffled_batches(images, batch_size, orders, labels=own) for _ in epochs)
    steps = itertools.chain.from_iterable(batches)
    total = config.epochs * -(-len(images.x_train) // batch_size)
    last = config.epochs * config.measurements
    ends = np.linspace(0, total, last + 1).round().astype(int)  # steps done at each point
    description = f"{images.name} {labels} batch {batch_size} seed {replicas[0].seed}"
    with training.Epochs(last, model, description) as points:
        for point in points:  # 0: before training
            for x, y in itertools.islice(steps, int(ends[point] - ends[max(point - 1, 0)])):
                x = x.flatten(2).requires_grad_()
                hidden = model.hidden(x)
                for h in hidden:
                    h.retain_grad()
                training.cross_entropy(model.layers[-1](hidden[-1]), y).backward()
                for layer, weight, h in zip(layers, weights, (x, *hidden), strict=True):
                    layer.add(h.detach(), h.grad, weight.grad)
                optimizer.step()
                optimizer.zero_grad()
            rows = [layer.measures() for layer in layers]
            measures = {name: torch.stack([row[name] for row in rows], -1) for name in rows[0]}
            points.record(training.evaluate(model, images, "test") | measures)
    diagonals = layers[0].diagonals()
    kept = {f"diagonal_{part}": diagonals[part].float().cpu().numpy() for part in DRAWN}
    return points.arrays | kept


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    grid = (config.datasets, config.label_sets, config.learning_rates, config.batch_sizes)
    for dataset, labels, rate, batch_size in itertools.product(*grid):
        images = cli.load_images(config, dataset)
        varied = {"dataset": images.name, "labels": labels, "rate": rate, "batch_size": batch_size}
        settings = varied | config.hyperparameters()
        replicas = tuple(Replica(seed, {"lr": rate}) for seed in config.seeds)
        name = f"{images.name}-{labels}-lr{rate}-b{batch_size}"
        result = Run(config, "gram_parts", name, settings, images, AXES, replicas)
        train_replicas = functools.partial(run, config, dataset, labels, batch_size)
        for _, arrays in runs.train(train_replicas, [result]):
            points = np.arange(config.epochs * config.measurements + 1) / config.measurements
            own = {"seed": config.seeds, "image_shape": images.shape}
            layers = range(1, config.depth + 2)
            result.save(arrays | own | {"point": points, "layer": layers})


if __name__ == "__main__":
    cli.run(main)
