"""Figures 4 and 9: Target Linearity and the surrogate, layer by layer, during training.

Claim: both rise during training, and deeper layers are more target-linear. Figure 4 is SGD, Figure 9 Adam.

    python src/experiment/target_linearity.py --datasets cifar10
    python src/experiment/target_linearity.py --optimizer adam
    python src/experiment/target_linearity.py --scale quick

Results: results/SCALE/target_linearity/DATASET-OPTIMIZER-DIGEST.npz, arrays as in AXES. All curves share one
epoch axis: 0 is before training, and everything at an epoch is measured at the same moment.
"""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli
import data
import layers
import training
from models import MLP
from results import Arrays, Partial
from training import Replica


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figures 4 and 9, the paper's; it had one seed."""

    datasets: tuple[str, ...] = ("cifar10", "cifar100")
    """mnist, svhn, cifar10, cifar100, digits, or paths of .npz files"""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """sgd is Figure 4, adam is Figure 9"""
    learning_rate: float = 0.0005
    """rate of either optimizer"""
    momentum: float = 0.8
    """momentum of SGD; Adam takes none"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """a seed draws initial weights and batch orders"""
    epochs: int = 100
    """passes over the training set"""
    batch_size: int = 64
    """samples a step"""
    width: int = 256
    """units of a hidden layer"""
    depth: int = 4
    """hidden layers"""

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(
            self,
            positive=("learning_rate", "epochs", "batch_size", "width", "depth"),
            natural=("seeds",),
            fractions=("momentum",),
        )
        cli.check_datasets(self.datasets)


QUICK: dict[str, Any] = {"datasets": ("digits",), "learning_rate": 0.1, "epochs": 40, "width": 64}

_BY_EPOCH, _BY_LAYER = ("seed", "epoch"), ("seed", "epoch", "layer")
PER_LAYER = ("tl", "rank", "chance", "surrogate", "response_norm")  # of hidden layer n: its output, the next weight
AXES = {
    **{f"{split}_{name}": _BY_EPOCH for split in ("train", "test") for name in ("accuracy", "loss")},
    **{f"{split}_{name}": _BY_LAYER for split in ("train", "test") for name in PER_LAYER},
    **{name: (name,) for name in ("seed", "epoch", "layer")},
}


def measure(model: MLP, images: data.Images, split: str) -> dict[str, Tensor]:
    """Accuracy, loss (R,) and the measures of every hidden layer (R, layer), in one pass over a split."""
    (moments,), (score,) = layers.one_pass(model, images, split)
    weights = [layer.weight for layer in model.layers[1:]]
    values = score | layers.linearity(moments) | layers.responses(moments, weights)
    return {f"{split}_{name}": value for name, value in values.items()}


def train_group(config: Config, dataset: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch; name -> (R, epochs + 1, …)."""
    images = data.load(dataset, config.data, config.resolved_device)
    widths = (images.x_train[0].numel(), *[config.width] * config.depth, images.classes)
    model = MLP(widths, [training.generator(r.seed, "weights") for r in replicas]).to(config.resolved_device)
    sgd = functools.partial(torch.optim.SGD, momentum=config.momentum, fused=True)
    adam = functools.partial(torch.optim.Adam, fused=True)
    return training.train(
        model,
        images,
        replicas,
        {"sgd": sgd, "adam": adam}[config.optimizer],
        lambda model: measure(model, images, "train") | measure(model, images, "test"),
        epochs=config.epochs,
        batch_size=config.batch_size,
        description=f"{images.name} {config.optimizer} seed {replicas[0].seed}",
    )


def run(config: Config, dataset: str, partial: Partial | None = None) -> Arrays:
    """Train a data set with every seed; arrays as in AXES."""
    runs = training.train_all(
        functools.partial(train_group, config, dataset),
        [Replica(seed, {"lr": config.learning_rate}) for seed in config.seeds],
        device=config.resolved_device,
        jobs=config.jobs,
        partial=partial,
    )
    named = {"seed": config.seeds, "epoch": range(config.epochs + 1), "layer": range(1, config.depth + 1)}
    return training.grid({"seed": config.seeds}, runs) | {name: np.array(values) for name, values in named.items()}


def main() -> None:
    config = cli.parse(Config, QUICK, description=__doc__)
    cli.prepare(config)
    unused = ("momentum",) if config.optimizer == "adam" else ()
    for dataset in config.datasets:
        images = data.load(dataset, config.data, config.resolved_device)
        settings = {"dataset": images.name, **config.hyperparameters("datasets", *unused)}
        output = cli.Output(f"{images.name}-{config.optimizer}", settings)

        def compute(_: Sequence[cli.Output], partial: Partial, dataset: str = dataset) -> list[Arrays]:
            return [run(config, dataset, partial)]

        cli.produce(config, "target_linearity", images, AXES, [output], compute)


if __name__ == "__main__":
    cli.run(main)
