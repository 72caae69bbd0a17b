"""Does Target Linearity subsume Neural Collapse? No figure of the paper, but a claim of its abstract, measured.

An MLP is trained far beyond the epoch from which it classifies every training image right (the terminal phase of
Papyan, Han and Donoho, PNAS 2020). By epoch and hidden layer: Target Linearity, NC1 to NC4, and the
least Target Linearity that NC1 allows (core/collapse.py).

    python src/experiment/neural_collapse.py --datasets mnist
    python src/experiment/neural_collapse.py --scale quick

Results: results/SCALE/neural_collapse/DATASET-DIGEST.npz, arrays as in AXES. All but test_accuracy is of the
training set.
"""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli
import data
import training
from core.collapse import class_means, collapse, nearest_mean_disagreement
from core.linearity import report
from core.moments import FeatureMoments
from models import MLP
from results import Arrays, Partial
from training import Replica


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters, ours: the paper has no such experiment.

    Momentum and the rate's two falls are Papyan, Han and Donoho's.
    """

    datasets: tuple[str, ...] = ("digits", "mnist")
    """mnist, svhn, cifar10, cifar100, digits, or paths of .npz files"""
    learning_rate: float = 0.05
    """rate of SGD, a tenth of it after a third of the epochs, a hundredth after two thirds"""
    momentum: float = 0.9
    """momentum of SGD"""
    weight_decay: float = 5e-5
    """of SGD, on all parameters; under their 5e-4 a few of MNIST's images are never fitted"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """a seed draws initial weights and batch orders"""
    epochs: int = 200
    """passes over the training set"""
    every: int = 5
    """epochs from one measurement to the next"""
    batch_size: int = 64
    """samples a step"""
    width: int = 256
    """units of a hidden layer"""
    depth: int = 4
    """hidden layers"""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("learning_rate", "epochs", "every", "batch_size", "width", "depth")
        cli.check(self, positive=positive, natural=("seeds", "weight_decay"), fractions=("momentum",))
        cli.check_datasets(self.datasets)


QUICK: dict[str, Any] = {"datasets": ("digits",), "epochs": 40, "every": 4, "batch_size": 16, "width": 64}

_BY_EPOCH, _BY_LAYER = ("seed", "epoch"), ("seed", "epoch", "layer")
AXES = {
    "tl": _BY_LAYER,  # the paper's, without an intercept
    "tl_intercept": _BY_LAYER,
    "tl_bound": _BY_LAYER,  # tl_intercept is at least this, by NC1
    "chance": _BY_LAYER,  # of tl
    **dict.fromkeys(("nc1", "nc2_norm", "nc2_angle", "nc4"), _BY_LAYER),
    "nc3": _BY_EPOCH,  # of the last hidden layer and the classifier that reads it
    **dict.fromkeys(("train_accuracy", "train_loss", "test_accuracy"), _BY_EPOCH),
    **{name: (name,) for name in ("seed", "epoch", "layer")},
}


def collapse_of(moments: FeatureMoments, classifier: Tensor | None) -> dict[str, float]:
    """The measures of one hidden layer, but NC4; nc3 is nan without a classifier's weight."""
    found, linear = collapse(moments, classifier), report(moments)
    return {
        "tl": linear.value,
        "tl_intercept": report(moments, intercept=True).value,
        "chance": linear.chance,
        **{name: getattr(found, name) for name in ("tl_bound", "nc1", "nc2_norm", "nc2_angle")},
        "nc3": float("nan") if found.nc3 is None else found.nc3,
    }


@torch.no_grad()
def measure(model: MLP, images: data.Images) -> dict[str, Tensor]:
    """Accuracies and loss (R,), and the measures of every hidden layer on the training set (R, layer)."""
    weight = model.layers[-1].weight  # (R, c, width)
    replicas, depth = len(weight), len(model.layers) - 1
    moments = [[FeatureMoments() for _ in range(depth)] for _ in range(replicas)]
    for x, y in training.batches(images, "train", replicas, weight.dtype):
        for n, h in enumerate(model.hidden(x)):
            for r in range(replicas):
                moments[r][n].update(h[r], y)
    means = [[class_means(sums) for sums in row] for row in moments]
    disagreement = torch.zeros(replicas, depth, dtype=torch.float64)
    for x, _ in training.batches(images, "train", replicas, weight.dtype):
        hidden = model.hidden(x)
        predictions = model.layers[-1](hidden[-1]).argmax(-1)  # (R, B)
        for n, h in enumerate(hidden):
            for r in range(replicas):
                disagreement[r, n] += len(h[r]) * nearest_mean_disagreement(h[r], predictions[r], means[r][n])
    rows = [
        [collapse_of(sums, weight[r] if sums is row[-1] else None) for sums in row] for r, row in enumerate(moments)
    ]
    values = {
        name: torch.tensor([[cell[name] for cell in row] for row in rows], dtype=torch.float64) for name in rows[0][0]
    }
    test = training.evaluate(model, images, "test")
    return {
        **values,
        "nc3": values["nc3"][:, -1],
        "nc4": disagreement / len(images.x_train),
        **training.evaluate(model, images, "train"),
        "test_accuracy": test["test_accuracy"],
    }


def anneal(steps: int, optimizer: torch.optim.Optimizer) -> None:
    """Divide the rate by ten after a third of the steps, and after two thirds."""
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 3, 2 * steps // 3])
    optimizer.register_step_post_hook(lambda *_: schedule.step())


def train_group(config: Config, dataset: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch; name -> (R, measured epochs, …)."""
    images = data.load(dataset, config.data, config.resolved_device)
    widths = (images.x_train[0].numel(), *[config.width] * config.depth, images.classes)
    model = MLP(widths, [training.generator(r.seed, "weights") for r in replicas]).to(config.resolved_device)
    steps = config.epochs * -(-len(images.x_train) // config.batch_size)
    return training.train(
        model,
        images,
        replicas,
        functools.partial(torch.optim.SGD, momentum=config.momentum, weight_decay=config.weight_decay, fused=True),
        lambda model: measure(model, images),
        epochs=config.epochs,
        batch_size=config.batch_size,
        every=config.every,
        attach=functools.partial(anneal, steps),
        description=f"{images.name} seed {replicas[0].seed}",
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
    named = {"seed": config.seeds, "layer": range(1, config.depth + 1)}
    named |= {"epoch": training.measured_epochs(config.epochs, config.every)}
    return training.grid({"seed": config.seeds}, runs) | {name: np.array(values) for name, values in named.items()}


def main() -> None:
    config = cli.parse(Config, QUICK, description=__doc__)
    cli.prepare(config)
    for dataset in config.datasets:
        images = data.load(dataset, config.data, config.resolved_device)
        if len(images.y_train.unique()) < images.classes:
            raise cli.ConfigError(f"{images.name}: a class has no training images, and so no mean; leave it out")
        output = cli.Output(images.name, {"dataset": images.name, **config.hyperparameters("datasets")})

        def compute(_: Sequence[cli.Output], partial: Partial, dataset: str = dataset) -> list[Arrays]:
            return [run(config, dataset, partial)]

        cli.produce(config, "neural_collapse", images, AXES, [output], compute)


if __name__ == "__main__":
    cli.run(main)
