"""Figure 12: what random labels do to Target Linearity.

Claim: as more labels are random, Target Linearity falls, up to half of them; with more, training is
slow at first, and Target Linearity of the middle layers then rises suddenly. Each label is redrawn
uniformly with probability p, in training and test set alike. Target Linearity is measured against
the labels trained on, and against the true ones.

    python src/experiment/random_label.py --datasets cifar10
    python src/experiment/random_label.py --scale quick

Results: results/SCALE/random_label/DATASET-pP[-ARCHITECTURE]-DIGEST.npz, arrays as in AXES. The
labels trained on are where(redrawn, new_label, true label). A seed redraws in the same order at
every p, so a label that is redrawn at one p is redrawn at every larger one, and alike.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import program

program.begin(__name__)

import numpy as np
import torch
from torch import Tensor

from lab import architectures, cli, hidden, runs, training
from lab.data import Images
from lab.errors import ConfigError
from lab.models import MLP
from lab.networks import Stacked
from lab.replicas import Replica, generators, make_optimizer
from lab.results import Arrays
from lab.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(architectures.Chosen):
    """Hyperparameters of Figure 12, the paper's; it had one seed."""

    # mnist, svhn, cifar10, cifar100, digits, or your own: see docs/data.md
    datasets: tuple[str, ...] = cli.each(("cifar10",))
    # probability p that a label is redrawn
    probabilities: tuple[float, ...] = cli.each((0.0, 0.25, 0.5, 0.75, 0.9, 1.0))
    learning_rate: float = 0.005  # rate of SGD
    momentum: float = 0.95  # momentum of SGD
    seeds: tuple[int, ...] = (0, 1, 2)  # a seed draws initial weights, batch orders and labels
    epochs: int = 200  # passes over the training set
    # epochs from one measurement to the next; one costs as much as half an epoch of training
    every: int = 5
    batch_size: int = 64  # samples a step
    depth: int = 3  # hidden layers, or blocks

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, zero=("seeds", "probabilities"), fractions=("momentum",))
        if max(self.probabilities) > 1:
            raise ConfigError(f"probabilities must be in [0, 1], not {max(self.probabilities)}")
        cli.check_datasets(self.datasets)


QUICK: dict[str, Any] = {
    "datasets": ("digits",),
    "learning_rate": 0.02,
    "epochs": 40,
    "every": 2,
    "width": 64,
}

_EPOCH, _LAYER = ("seed", "epoch"), ("seed", "epoch", "layer")
SPLITS = ("train", "test")
LABELLINGS = ("", "_true")  # measured against the labels as redrawn, and against the true ones
MEASURES = {"accuracy": _EPOCH, "loss": _EPOCH, "tl": _LAYER, "rank": _LAYER, "chance": _LAYER}
AXES = {
    **{
        f"{split}_{name}{labelling}": axes
        for split in SPLITS
        for labelling in LABELLINGS
        for name, axes in MEASURES.items()
    },
    **{f"{split}_redrawn": ("seed", f"{split}_sample") for split in SPLITS},
    **{f"{split}_new_label": ("seed", f"{split}_sample") for split in SPLITS},
    **{name: (name,) for name in ("seed", "epoch", "layer")},
}


def draw_labels(images: Images, replicas: Sequence[Replica]) -> dict[str, Tensor]:
    """SPLIT_redrawn and SPLIT_new_label of every sample, (R, N) each, on the CPU."""
    rows = []
    for replica, g in zip(replicas, generators(replicas, "labels"), strict=True):
        row = {}
        for split in SPLITS:
            n = len(images.split(split)[1])
            level = torch.rand(n, generator=g)  # the same at every p
            row[f"{split}_redrawn"] = level < replica.settings["probability"]
            row[f"{split}_new_label"] = torch.randint(images.classes, (n,), generator=g)
        rows.append(row)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def labellings(images: Images, split: str, drawn: Mapping[str, Tensor]) -> Tensor:
    """(2, R, N) labels of each replica, as redrawn and true; `drawn` is from `draw_labels`."""
    true = images.split(split)[1]
    redrawn, new = (drawn[f"{split}_{name}"].to(true.device) for name in ("redrawn", "new_label"))
    return torch.stack([torch.where(redrawn, new, true), true.expand_as(new)])


def layer_measures(
    model: MLP | Stacked, images: Images, split: str, labels: Tensor
) -> dict[str, Tensor]:
    """Accuracy and loss (R,), and measures of every hidden layer (R, layer), of each labelling."""
    values = {}
    passes = hidden.one_pass(model, images, split, labels)
    for labelling, (moments, scores) in zip(LABELLINGS, passes, strict=True):
        measures = scores | hidden.linearity(moments)
        values |= {f"{split}_{name}{labelling}": value for name, value in measures.items()}
    return values


def run(config: Config, dataset: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch, each on its own labels; name -> (R, …)."""
    images = cli.load_images(config, dataset)
    drawn = draw_labels(images, replicas)
    labels = {split: labellings(images, split, drawn) for split in SPLITS}
    model = architectures.make(config, images, replicas)
    optimizer = make_optimizer(
        torch.optim.SGD, model, replicas, momentum=config.momentum, fused=True
    )
    orders = generators(replicas, "order")
    first = replicas[0]
    description = f"{images.name} p {first.settings['probability']} seed {first.seed}"
    measured = training.measured_epochs(config.epochs, config.every)
    with training.Epochs(config.epochs, model, description) as epochs:
        for epoch in epochs:  # 0: before training
            if epoch > 0:
                for x, y in training.shuffled_batches(
                    images, config.batch_size, orders, labels=labels["train"][0]
                ):
                    training.cross_entropy(model(x), y).backward()
                    optimizer.step()
                    optimizer.zero_grad()
            if epoch in measured:
                measures = [layer_measures(model, images, s, labels[s]) for s in SPLITS]
                epochs.record(measures[0] | measures[1])
    smallest = np.min_scalar_type(images.classes - 1)
    return epochs.arrays | {
        name: values.numpy() if values.dtype == torch.bool else values.numpy().astype(smallest)
        for name, values in drawn.items()
    }


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    for dataset in config.datasets:
        images = cli.load_images(config, dataset)
        architectures.check(config, images)
        planned, further = [], architectures.inputs(config)
        for p in config.probabilities:
            settings = {"dataset": images.name, "probability": p, **config.hyperparameters()}
            replicas = tuple(
                Replica(seed, {"lr": config.learning_rate}, {"probability": p})
                for seed in config.seeds
            )
            name = f"{images.name}-p{p!r}{architectures.suffix(config)}"
            made_from = (name, settings, images, AXES, replicas, further)
            planned.append(Run(config, "random_label", *made_from))
        epochs = training.measured_epochs(config.epochs, config.every)
        for result, arrays in runs.train(functools.partial(run, config, dataset), planned):
            layers = range(1, arrays["train_tl"].shape[-1] + 1)
            result.save(arrays | {"seed": config.seeds, "epoch": epochs, "layer": layers})


if __name__ == "__main__":
    cli.run(main)
