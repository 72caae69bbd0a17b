"""Neural Collapse and Target Linearity by epoch and layer; the paper has no such figure.

The paper recovers Neural Collapse as an extreme case (Proposition 2). Here an MLP is trained far
beyond the epoch from which it classifies every training image right (the terminal phase of Papyan,
Han and Donoho, PNAS 2020). By epoch and hidden layer: Target Linearity, NC1 to NC4, and the least
Target Linearity that NC1 allows (core/collapse.py).

    python src/experiment/neural_collapse.py --datasets mnist
    python src/experiment/neural_collapse.py --scale quick

Results: results/SCALE/neural_collapse/DATASET-DIGEST.npz, arrays as in AXES. All but test_accuracy
are measured on the training set.
"""

import functools
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

from core.collapse import class_means, collapse, nearest_mean_disagreement
from core.linearity import report
from core.moments import FeatureMoments
from lab import cli, runs, training
from lab.data import Images
from lab.errors import DataError
from lab.models import MLP
from lab.replicas import Replica, generators, make_optimizer
from lab.results import Arrays
from lab.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters, ours: the paper has no such experiment.

    Momentum and the two falls of the rate are those of Papyan, Han and Donoho.
    """

    # mnist, svhn, cifar10, cifar100, digits, or your own: see docs/data.md
    datasets: tuple[str, ...] = cli.each(("digits", "mnist"))
    # rate of SGD, a tenth of it after a third of the epochs, a hundredth after two thirds
    learning_rate: float = 0.05
    momentum: float = 0.9  # momentum of SGD
    # weight decay of SGD, on all parameters; under Papyan, Han and Donoho's 5e-4 a few of MNIST's
    # images are never fitted
    weight_decay: float = 5e-5
    seeds: tuple[int, ...] = (0, 1, 2)  # a seed draws initial weights and batch orders
    epochs: int = 200  # passes over the training set
    every: int = 5  # epochs from one measurement to the next
    batch_size: int = 64  # samples a step
    width: int = 256  # units of a hidden layer
    depth: int = 4  # hidden layers

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, zero=("seeds", "weight_decay"), fractions=("momentum",))
        cli.check_datasets(self.datasets)


QUICK: dict[str, Any] = {
    "datasets": ("digits",),
    "epochs": 40,
    "every": 4,
    "batch_size": 16,
    "width": 64,
}

_EPOCH, _LAYER = ("seed", "epoch"), ("seed", "epoch", "layer")
AXES = {
    "tl": _LAYER,  # the paper's, without an intercept
    "tl_intercept": _LAYER,
    "tl_bound": _LAYER,  # tl_intercept is at least this, by NC1
    "chance": _LAYER,  # mean of tl over random targets
    **dict.fromkeys(("nc1", "nc2_norm", "nc2_angle", "nc4"), _LAYER),
    "nc3": _EPOCH,  # of the last hidden layer and the classifier that reads it
    **dict.fromkeys(("train_accuracy", "train_loss", "test_accuracy"), _EPOCH),
    **{name: (name,) for name in ("seed", "epoch", "layer")},
}


def moments_measures(moments: FeatureMoments) -> dict[str, Tensor]:
    """Target Linearity, NC1 and NC2 (R,) of one hidden layer."""
    linearity, collapsed = report(moments), collapse(moments)
    return {
        "tl": linearity.value,
        "tl_intercept": report(moments, intercept=True).value,
        "chance": linearity.chance,
        **{name: getattr(collapsed, name) for name in ("tl_bound", "nc1", "nc2_norm", "nc2_angle")},
    }


@torch.no_grad()
def layer_measures(model: MLP, images: Images) -> dict[str, Tensor]:
    """Accuracies, loss and NC3 (R,), and the measures of every hidden layer (R, layer)."""
    *_, classifier = model.layers
    weight = classifier.weight  # (R, c, width)
    replicas, depth = len(weight), len(model.layers) - 1
    moments = [FeatureMoments() for _ in range(depth)]
    for x, y in training.whole_batches(images, "train", replicas, weight.dtype):
        for sums, h in zip(moments, model.hidden(x), strict=True):
            sums.update(h, y)
    means = [class_means(sums) for sums in moments]  # (R, width, c)
    disagreement = torch.zeros(replicas, depth, dtype=torch.float64, device=weight.device)
    for x, y in training.whole_batches(images, "train", replicas, weight.dtype):
        hidden = model.hidden(x)
        predicted = classifier(hidden[-1]).argmax(-1)  # (R, B)
        for layer, h in enumerate(hidden):
            share = nearest_mean_disagreement(h, predicted, means[layer])
            disagreement[:, layer] += len(y) * share
    rows = [moments_measures(sums) for sums in moments]
    return {
        **{name: torch.stack([row[name] for row in rows], -1) for name in rows[0]},
        "nc3": collapse(moments[-1], weight).nc3,
        "nc4": disagreement / len(images.x_train),
        **training.evaluate(model, images, "train"),
        "test_accuracy": training.evaluate(model, images, "test")["test_accuracy"],
    }


def anneal(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Divide the rate by ten after a third of the steps, and after two thirds."""
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 3, 2 * steps // 3])
    optimizer.register_step_post_hook(lambda *_: schedule.step())


def run(config: Config, dataset: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch; name -> (R, measured epochs, …)."""
    images = cli.load_images(config, dataset)
    widths = (images.x_train[0].numel(), *[config.width] * config.depth, images.classes)
    model = MLP(widths, generators(replicas, "weights")).to(config.resolved_device)
    options = {"momentum": config.momentum, "weight_decay": config.weight_decay, "fused": True}
    optimizer = make_optimizer(torch.optim.SGD, model, replicas, **options)
    anneal(optimizer, config.epochs * -(-len(images.x_train) // config.batch_size))
    orders = generators(replicas, "order")
    measured = training.measured_epochs(config.epochs, config.every)
    description = f"{images.name} seed {replicas[0].seed}"
    with training.Epochs(config.epochs, model, description) as epochs:
        for epoch in epochs:  # 0: before training
            if epoch > 0:
                for x, y in training.shuffled_batches(images, config.batch_size, orders):
                    training.cross_entropy(model(x), y).backward()
                    optimizer.step()
                    optimizer.zero_grad()
            if epoch in measured:
                epochs.record(layer_measures(model, images))
    return epochs.arrays


def check_classes(images: Images) -> None:
    """Raise DataError where a class has no mean."""
    if len(images.y_train.unique()) < images.classes:
        reason = "a class has no training images, and so no mean"
        raise DataError(f"{images.name}: {reason}; leave it out")


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    for dataset in config.datasets:  # before any work
        check_classes(cli.load_images(config, dataset))
    for dataset in config.datasets:
        images = cli.load_images(config, dataset)
        settings = {"dataset": images.name, **config.hyperparameters()}
        replicas = tuple(Replica(seed, {"lr": config.learning_rate}) for seed in config.seeds)
        result = Run(config, "neural_collapse", images.name, settings, images, AXES, replicas)
        points = {
            "seed": config.seeds,
            "epoch": training.measured_epochs(config.epochs, config.every),
            "layer": range(1, config.depth + 1),
        }
        for _, arrays in runs.train(functools.partial(run, config, dataset), [result]):
            result.save(arrays | points)


if __name__ == "__main__":
    cli.run(main)
