"""Figure 12: what random labels do to Target Linearity.

Claim: as more labels are random, Target Linearity and its order by depth fall. Each label is redrawn uniformly
with probability p, in training and test set alike. Target Linearity is measured against the labels trained on, and
against the true ones.

    python src/experiment/random_label.py --datasets cifar10
    python src/experiment/random_label.py --scale quick

Results: results/SCALE/random_label/DATASET-pP-DIGEST.npz, one a probability, arrays as in AXES. The labels are
where(redrawn, new_label, true label); a seed redraws in the same order at every p, so those of a larger p include
those of a smaller.
"""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
    """Hyperparameters of Figure 12, the paper's; it had one seed."""

    datasets: tuple[str, ...] = ("cifar10",)
    """mnist, svhn, cifar10, cifar100, digits, or paths of .npz files"""
    probabilities: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
    """probability p that a label is redrawn"""
    learning_rate: float = 0.005
    """rate of SGD"""
    momentum: float = 0.95
    """momentum of SGD"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """a seed draws initial weights, batch orders and labels"""
    epochs: int = 200
    """passes over the training set"""
    every: int = 5
    """epochs from one measurement to the next; one costs as much as half an epoch of training"""
    batch_size: int = 64
    """samples a step"""
    width: int = 256
    """units of a hidden layer"""
    depth: int = 3
    """hidden layers"""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("learning_rate", "epochs", "every", "batch_size", "width", "depth")
        cli.check(self, positive=positive, natural=("seeds", "probabilities"), fractions=("momentum",))
        if max(self.probabilities) > 1:
            raise cli.ConfigError(f"probabilities must be in [0, 1], not {max(self.probabilities)}")
        cli.check_datasets(self.datasets)


QUICK: dict[str, Any] = {"datasets": ("digits",), "learning_rate": 0.02, "epochs": 40, "every": 2, "width": 64}

_BY_EPOCH = ("probability", "seed", "epoch")
_BY_LAYER = (*_BY_EPOCH, "layer")
SPLITS = ("train", "test")
KINDS = ("", "_true")  # against the labels as redrawn, and against the true ones
MEASURES = {"accuracy": _BY_EPOCH, "loss": _BY_EPOCH, "tl": _BY_LAYER, "rank": _BY_LAYER, "chance": _BY_LAYER}
AXES = {
    **{f"{split}_{name}{kind}": axes for split in SPLITS for kind in KINDS for name, axes in MEASURES.items()},
    **{f"{split}_redrawn": ("probability", "seed", f"{split}_sample") for split in SPLITS},
    **{f"{split}_new_label": ("seed", f"{split}_sample") for split in SPLITS},
    **{name: (name,) for name in ("probability", "seed", "epoch", "layer")},
}


def draw(images: data.Images, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Split -> a level in [0, 1) of every sample, redrawn where p is above it, and its new label; (N,) each."""
    g = training.generator(seed, "labels")
    sizes = {split: (len(images.split(split)[1]),) for split in SPLITS}
    return {s: (torch.rand(n, generator=g), torch.randint(images.classes, n, generator=g)) for s, n in sizes.items()}


def labels(images: data.Images, split: str, replicas: Sequence[Replica]) -> Tensor:
    """(2, R, N) labels of each replica, as redrawn and true."""
    true = images.split(split)[1]
    rows = []
    for replica in replicas:
        level, new = (part.to(true.device) for part in draw(images, replica.seed)[split])
        rows.append(torch.where(level < replica.settings["probability"], new, true))
    return torch.stack([torch.stack(rows), true.expand(len(rows), -1)])


def train_group(config: Config, dataset: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch; name -> (R, measured epochs, …)."""
    images = data.load(dataset, config.data, config.resolved_device)
    widths = (images.x_train[0].numel(), *[config.width] * config.depth, images.classes)
    model = MLP(widths, [training.generator(r.seed, "weights") for r in replicas]).to(config.resolved_device)
    of_split = {split: labels(images, split, replicas) for split in SPLITS}

    def measure(model: MLP) -> dict[str, Tensor]:
        values = {}
        for split in SPLITS:
            for kind, sums, score in zip(KINDS, *layers.one_pass(model, images, split, of_split[split]), strict=True):
                measured = score | layers.linearity(sums)
                values |= {f"{split}_{name}{kind}": value for name, value in measured.items()}
        return values

    return training.train(
        model,
        images,
        replicas,
        functools.partial(torch.optim.SGD, momentum=config.momentum, fused=True),
        measure,
        epochs=config.epochs,
        batch_size=config.batch_size,
        every=config.every,
        labels=of_split["train"][0],
        description=f"{images.name} p {replicas[0].settings['probability']} seed {replicas[0].seed}",
    )


def run(config: Config, dataset: str, partial: Partial | None = None) -> Arrays:
    """Train a data set at every probability with every seed; arrays as in AXES."""
    runs = training.train_all(
        functools.partial(train_group, config, dataset),
        [
            Replica(seed, {"lr": config.learning_rate}, {"probability": p})
            for p in config.probabilities
            for seed in config.seeds
        ],
        device=config.resolved_device,
        jobs=config.jobs,
        partial=partial,
    )
    arrays = training.grid({"probability": config.probabilities, "seed": config.seeds}, runs)
    draws = [draw(data.load(dataset, config.data, config.resolved_device), seed) for seed in config.seeds]
    for split in SPLITS:
        level, new = (torch.stack(parts).numpy() for parts in zip(*(drawn[split] for drawn in draws), strict=True))
        arrays[f"{split}_redrawn"] = np.stack([level < p for p in config.probabilities])
        arrays[f"{split}_new_label"] = new.astype(np.min_scalar_type(int(new.max())))
    named = {"probability": config.probabilities, "seed": config.seeds}
    named |= {"epoch": training.measured_epochs(config.epochs, config.every), "layer": range(1, config.depth + 1)}
    return arrays | {name: np.array(values) for name, values in named.items()}


def main() -> None:
    config = cli.parse(Config, QUICK, description=__doc__)
    cli.prepare(config)
    fixed = config.hyperparameters("datasets", "probabilities")
    for dataset in config.datasets:
        images = data.load(dataset, config.data, config.resolved_device)
        outputs = [
            cli.Output(f"{images.name}-p{p!r}", {"dataset": images.name, "probability": p, **fixed})
            for p in config.probabilities
        ]

        def compute(probabilities: tuple[float, ...], partial: Partial, dataset: str = dataset) -> Arrays:
            return run(replace(config, probabilities=probabilities), dataset, partial)

        cli.produce_each(config, "random_label", images, AXES, "probability", outputs, compute)


if __name__ == "__main__":
    cli.run(main)
