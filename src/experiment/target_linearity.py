"""Figures 4 and 9: Target Linearity and the surrogate, layer by layer, during training.

Claim: both rise during training, and deeper layers are more target-linear. Figure 4 is SGD, Figure
9 Adam.

    python src/experiment/target_linearity.py --datasets cifar10
    python src/experiment/target_linearity.py --optimizer adam
    python src/experiment/target_linearity.py --learning-rate 0.0005
    python src/experiment/target_linearity.py --architecture resnet --optimizer adam
    python src/experiment/target_linearity.py --scale quick

Results: results/SCALE/target_linearity/DATASET-OPTIMIZER[-ARCHITECTURE]-DIGEST.npz, arrays as in
AXES. All curves share one epoch axis: 0 is before training, and all that belongs to an epoch is
measured at once.
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
from torch import Tensor

from lab import architectures, cli, hidden, runs, training
from lab.data import Images
from lab.models import MLP
from lab.networks import Stacked
from lab.replicas import Replica, generators, make_optimizer
from lab.results import Arrays
from lab.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(architectures.Chosen):
    """Hyperparameters of Figures 4 and 9, the paper's; it had one seed."""

    # mnist, svhn, cifar10, cifar100, digits, or your own: see docs/data.md
    datasets: tuple[str, ...] = cli.each(("cifar10", "cifar100"))
    optimizer: Literal["sgd", "adam"] = "sgd"  # sgd is Figure 4, adam is Figure 9
    # rate of either optimizer; None: 0.005 for SGD, the text's (the published code has 0.0005), and
    # 0.0005 for Adam, which only the code states
    learning_rate: float | None = None
    momentum: float = 0.8  # momentum of SGD; Adam takes none
    seeds: tuple[int, ...] = (0, 1, 2)  # a seed draws initial weights and batch orders
    epochs: int = 100  # passes over the training set
    batch_size: int = 64  # samples a step
    depth: int = 4  # hidden layers, or blocks

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, zero=("seeds",), fractions=("momentum",))
        cli.check_datasets(self.datasets)

    @property
    def rate(self) -> float:
        return self.learning_rate or {"sgd": 0.005, "adam": 0.0005}[self.optimizer]

    def hyperparameters(self) -> dict[str, Any]:
        """With the rate that is taken, and without momentum for Adam, which takes none."""
        settings = {**super().hyperparameters(), "learning_rate": self.rate}
        unused = {"momentum"} if self.optimizer == "adam" else set()
        return {k: v for k, v in settings.items() if k not in unused}


QUICK: dict[str, Any] = {
    "datasets": ("digits",),
    "learning_rate": 0.1,
    "epochs": 40,
    "width": 64,
}

_EPOCH, _LAYER = ("seed", "epoch"), ("seed", "epoch", "layer")
SPLITS = ("train", "test")
# of hidden layer n: its output, with the weight of the next
PER_LAYER = ("tl", "rank", "chance", "surrogate", "response_norm")
PER_LAYER += ("surrogate_share", "response_cka")  # the surrogate, normalised
AXES = {
    **{f"{split}_{name}": _EPOCH for split in SPLITS for name in ("accuracy", "loss")},
    **{f"{split}_{name}": _LAYER for split in SPLITS for name in PER_LAYER},
    **{name: (name,) for name in ("seed", "epoch", "layer")},
}


def layer_measures(model: MLP | Stacked, images: Images, split: str) -> dict[str, Tensor]:
    """Accuracy and loss (R,), and the measures of every hidden layer (R, layer), in one pass."""
    ((moments, scores),) = hidden.one_pass(model, images, split)
    values = scores | hidden.linearity(moments) | hidden.responses(moments, model.readers[1:])
    return {f"{split}_{name}": value for name, value in values.items()}


def run(config: Config, dataset: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch and measure them at every epoch; name -> (R, epoch, …)."""
    images = cli.load_images(config, dataset)
    model = architectures.make(config, images, replicas)
    if config.optimizer == "sgd":
        kind, options = torch.optim.SGD, {"momentum": config.momentum}
    else:
        kind, options = torch.optim.Adam, {}
    optimizer = make_optimizer(kind, model, replicas, fused=True, **options)
    orders = generators(replicas, "order")
    description = f"{images.name} {config.optimizer} seed {replicas[0].seed}"
    with training.Epochs(config.epochs, model, description) as epochs:
        for epoch in epochs:  # 0: before training
            if epoch > 0:
                for x, y in training.shuffled_batches(images, config.batch_size, orders):
                    training.cross_entropy(model(x), y).backward()
                    optimizer.step()
                    optimizer.zero_grad()
            measures = [layer_measures(model, images, split) for split in SPLITS]
            epochs.record(measures[0] | measures[1])
    return epochs.arrays


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    for dataset in config.datasets:
        images = cli.load_images(config, dataset)
        architectures.check(config, images)
        name = f"{images.name}-{config.optimizer}{architectures.suffix(config)}"
        settings = {"dataset": images.name, **config.hyperparameters()}
        replicas = tuple(Replica(seed, {"lr": config.rate}) for seed in config.seeds)
        further = architectures.inputs(config)
        result = Run(config, "target_linearity", name, settings, images, AXES, replicas, further)
        for _, arrays in runs.train(functools.partial(run, config, dataset), [result]):
            layers = range(1, arrays["train_tl"].shape[-1] + 1)
            points = {"epoch": range(config.epochs + 1), "layer": layers}
            result.save(arrays | {"seed": config.seeds} | points)


if __name__ == "__main__":
    cli.run(main)
