"""Does it help to give the Gram matrix the Virtual Covariance Shift itself? Ours: no figure has it.

Claim, of an abstract that came before the paper: weights that are set from the wanted covariance
need one or two epochs where SGD needs ten to twenty. Every layer takes `core.covariance_step`,
biases plain steps; beside it plain SGD, each at several rates.

    python src/experiment/covariance_learning.py --datasets mnist
    python src/experiment/covariance_learning.py --scale quick

Results: results/SCALE/covariance_learning/DATASET-METHOD-lrRATE-DIGEST.npz, arrays as in AXES.
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

import torch
from torch import Tensor

from core.covariance_step import covariance_step
from lab import cli, runs, training
from lab.models import MLP
from lab.replicas import Replica, generators, in_batches
from lab.results import Arrays
from lab.runs import Run

METHODS = ("plain", "covariance")


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters, ours; the network is Figure 2's."""

    # mnist, svhn, cifar10, cifar100, digits, or your own: see docs/data.md
    datasets: tuple[str, ...] = cli.each(("mnist", "cifar10"))
    methods: tuple[str, ...] = cli.each(METHODS)  # plain, covariance
    # rates of either method, without momentum
    learning_rates: tuple[float, ...] = cli.each((0.05, 0.1, 0.2, 0.5, 1.0))
    seeds: tuple[int, ...] = (0, 1, 2)  # a seed draws initial weights and batch orders
    epochs: int = 2  # passes over the training set
    batch_size: int = 64  # samples a step
    width: int = 256  # units of a hidden layer
    depth: int = 2  # hidden layers

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, zero=("seeds",), choices={"methods": METHODS})
        cli.check_datasets(self.datasets)


QUICK: dict[str, Any] = {"datasets": ("digits",), "learning_rates": (0.1, 0.5), "width": 32}

_EPOCH = ("seed", "epoch")
AXES = {
    **dict.fromkeys(("test_accuracy", "test_loss"), _EPOCH),
    **{name: (name,) for name in ("seed", "epoch")},
}


def step(model: MLP, x: Tensor, y: Tensor, method: str, rate: float) -> None:
    """One step of every layer."""
    readings, logits = model.products(x)
    for reading in readings:
        reading.keep_gradients()
    training.cross_entropy(logits, y).backward()
    with torch.no_grad():
        for layer, reading in zip(model.layers, readings, strict=True):
            if method == "plain":
                layer.weight -= rate * layer.weight.grad
            else:
                gradient = reading.gradient()  # A, by this weight as it is
                layer.weight.copy_(covariance_step(layer.weight, reading.features, gradient, rate))
            layer.bias -= rate * layer.bias.grad
    model.zero_grad()


def train(
    config: Config, dataset: str, method: str, rate: float, replicas: Sequence[Replica]
) -> Arrays:
    """Train replicas of one rate as one batch; name -> (R, epoch)."""
    images = cli.load_images(config, dataset)
    widths = (images.x_train[0].numel(), *[config.width] * config.depth, images.classes)
    model = MLP(widths, generators(replicas, "weights")).to(config.resolved_device)
    orders = generators(replicas, "order")
    description = f"{images.name} {method} lr {rate} seed {replicas[0].seed}"
    with training.Epochs(config.epochs, model, description) as epochs:
        for epoch in epochs:  # 0: before training
            if epoch > 0:
                for x, y in training.shuffled_batches(images, config.batch_size, orders):
                    step(model, x, y, method, rate)
            epochs.record(training.evaluate(model, images, "test"))
    return epochs.arrays


def run(config: Config, dataset: str, method: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas, those of one rate as one batch; name -> (R, epoch)."""
    return in_batches(functools.partial(train, config, dataset, method), replicas, "rate")


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    points = {"seed": config.seeds, "epoch": range(config.epochs + 1)}
    for dataset, method in itertools.product(config.datasets, config.methods):
        images = cli.load_images(config, dataset)
        planned = []
        for rate in config.learning_rates:
            settings = {"dataset": images.name, "method": method, "learning_rate": rate}
            settings |= config.hyperparameters()
            name = f"{images.name}-{method}-lr{rate!r}"
            replicas = tuple(Replica(seed, settings={"rate": rate}) for seed in config.seeds)
            made_from = (name, settings, images, AXES, replicas)
            planned.append(Run(config, "covariance_learning", *made_from))
        for result, arrays in runs.train(functools.partial(run, config, dataset, method), planned):
            result.save(arrays | points)


if __name__ == "__main__":
    cli.run(main)
