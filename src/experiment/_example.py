"""An example, of no figure: is a ReLU network less target-linear? CONTRIBUTING.md goes through it.

    python src/experiment/_example.py --activation gelu --results mine
    python src/experiment/_example.py --scale quick

Results: results/SCALE/_example/DATASET-ACTIVATION-DIGEST.npz, arrays as in AXES.
"""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import program

program.begin(__name__)

import torch
from torch.nn import functional

from lab import cli, hidden, runs, training
from lab.models import MLP
from lab.replicas import Replica, generators, make_optimizer
from lab.results import Arrays
from lab.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Every number that shapes the result."""

    datasets: tuple[str, ...] = cli.each(("mnist",))  # one result each; see docs/data.md
    activation: Literal["relu", "gelu"] = "relu"  # between the layers
    learning_rate: float = 0.1  # rate of SGD
    seeds: tuple[int, ...] = (0, 1, 2)  # a seed draws initial weights and batch orders
    epochs: int = 20  # passes over the training set
    width: int = 64  # units of each of two hidden layers

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, zero=("seeds",))
        cli.check_datasets(self.datasets)


QUICK: dict[str, Any] = {"datasets": ("digits",), "epochs": 5}
AXES = {name: (name,) for name in ("seed", "epoch", "layer")}
AXES |= {"test_tl": ("seed", "epoch", "layer"), "test_loss": ("seed", "epoch")}


def run(config: Config, dataset: str, replicas: Sequence[Replica]) -> Arrays:
    """Train R replicas as one batch; name -> (R, epoch, …)."""
    images = cli.load_images(config, dataset)
    widths = (images.x_train[0].numel(), config.width, config.width, images.classes)
    activation = getattr(functional, config.activation)
    model = MLP(widths, generators(replicas, "weights"), activation).to(config.resolved_device)
    optimizer = make_optimizer(torch.optim.SGD, model, replicas)
    orders = generators(replicas, "order")
    with training.Epochs(config.epochs, model, f"{images.name} seed {replicas[0].seed}") as epochs:
        for epoch in epochs:  # 0: before training
            if epoch > 0:
                for x, y in training.shuffled_batches(images, 64, orders):
                    training.cross_entropy(model(x), y).backward()
                    optimizer.step()
                    optimizer.zero_grad()
            ((moments, scores),) = hidden.one_pass(model, images, "test")
            measures = {"test_loss": scores["loss"], "test_tl": hidden.linearity(moments)["tl"]}
            epochs.record(measures)
    return epochs.arrays


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)  # data and folder are there, or it ends in one line
    for dataset in config.datasets:
        images = cli.load_images(config, dataset)
        settings = {"dataset": images.name, **config.hyperparameters()}
        replicas = tuple(Replica(seed, {"lr": config.learning_rate}) for seed in config.seeds)
        name = f"{images.name}-{config.activation}"
        result = Run(config, "_example", name, settings, images, AXES, replicas)
        for _, arrays in runs.train(functools.partial(run, config, dataset), [result]):
            points = {"seed": config.seeds, "epoch": range(config.epochs + 1), "layer": (1, 2)}
            result.save(arrays | points)


if __name__ == "__main__":
    cli.run(main)
