"""What the published code's formulas give on the same features, beside the exact ones.

No figure of the paper: it measures why the published curves of Figures 4 and 9 look as they do. The
network of Figure 4 is trained with one seed. Before training and after each epoch, Target Linearity
of its hidden features on the training set is computed by both formulas. Then, on samples drawn at
random, the surrogate is computed through the N × N matrix Z Zᵀ as published, and by the identity.

    python src/experiment/published_formulas.py --datasets cifar10
    python src/experiment/published_formulas.py --scale quick

Results: results/SCALE/published_formulas/DATASET-DIGEST.npz, arrays as in AXES.
"""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import program

program.begin(__name__)

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from core.linearity import report, surrogate
from core.moments import FeatureMoments
from lab import cli, memory, runs, training
from lab.data import Images
from lab.models import MLP
from lab.replicas import Replica, generators, make_optimizer
from lab.results import Arrays
from lab.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figure 4, for fewer epochs."""

    # mnist, svhn, cifar10, cifar100, digits, or your own: see docs/data.md
    datasets: tuple[str, ...] = cli.each(("cifar10",))
    seed: int = 0  # draws initial weights, batch orders and the surrogate's samples
    epochs: int = 20  # passes over the training set
    learning_rate: float = 0.0005  # rate of SGD
    momentum: float = 0.8  # momentum of SGD
    batch_size: int = 64  # samples a step
    width: int = 256  # units of a hidden layer
    depth: int = 4  # hidden layers
    # samples for the N × N matrix of the published surrogate: 10,000 take 0.4 GB
    surrogate_samples: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, zero=("seed",), fractions=("momentum",))
        cli.check_datasets(self.datasets)


QUICK: dict[str, Any] = {
    "datasets": ("digits",),
    "learning_rate": 0.1,
    "width": 64,
}

AXES = {
    "tl": ("epoch", "layer"),
    "tl_published": ("epoch", "layer"),
    "condition": ("epoch", "layer"),  # condition number of the centred features
    "surrogate": ("layer",),
    "surrogate_published": ("layer",),
    "surrogate_seconds": ("formula",),  # a layer, by the identity and as published
    **{name: (name,) for name in ("epoch", "layer")},
}


def published_linearity(features: Tensor, targets: Tensor) -> float:
    """TL as the published code has it: normal equations inverted in float32, a ridge if that fails.

    features: (N, d). targets: (N, c), column-centred.
    """
    h, y = features.float(), targets.float()
    gram = h.mT @ h
    try:
        inverse = torch.linalg.inv(gram)
    except RuntimeError:
        inverse = torch.linalg.inv(gram + 1e-5 * torch.eye(len(gram), device=gram.device))
    residual = y - h @ (inverse @ (h.mT @ y))
    return float(1 - residual.square().sum() / y.square().sum())


def published_surrogate(features: Tensor, weight: Tensor, targets: Tensor) -> float:
    """The surrogate through the N × N matrix Z Zᵀ, in float32; targets (N, c), column-centred."""
    z = features @ weight.mT  # (N, m)
    return float((targets.mT @ (z @ z.mT) @ targets).trace() / targets.shape[1])


def one_hot(images: Images) -> Tensor:
    """Training targets (N, c)."""
    return functional.one_hot(images.y_train).float()


@torch.no_grad()
def hidden_features(model: MLP, images: Images) -> list[Tensor]:
    """The hidden features (N, width) of a model with one replica, on the training set."""
    chunks = [model.hidden(x) for x, _ in training.whole_batches(images, "train", 1, torch.float32)]
    return [torch.cat(layer, dim=1)[0] for layer in zip(*chunks, strict=True)]


def linearity_measures(model: MLP, images: Images) -> dict[str, Tensor]:
    """Target Linearity of every hidden layer by both formulas, (1, layer)."""
    features, targets = hidden_features(model, images), one_hot(images)
    exact = [report(FeatureMoments().update(h, images.y_train)) for h in features]
    values = {
        "tl": [layer.value for layer in exact],
        "tl_published": [published_linearity(h, targets - targets.mean(0)) for h in features],
        "condition": [layer.condition for layer in exact],
    }
    return {name: torch.tensor([row], dtype=torch.float64) for name, row in values.items()}


@torch.no_grad()
def surrogate_measures(model: MLP, images: Images, samples: int, g: torch.Generator) -> Arrays:
    """The surrogate of every hidden layer by both formulas (1, layer), and their seconds (1, 2)."""
    chosen = torch.randperm(len(images.y_train), generator=g)[:samples]  # data may be sorted
    memory.check("an N × N matrix", len(chosen) ** 2)
    chosen = chosen.to(images.y_train.device)
    y, targets = images.y_train[chosen], one_hot(images)[chosen]
    targets = targets - targets.mean(0)
    rows = []
    for features, layer in zip(hidden_features(model, images), model.layers[1:], strict=True):
        h, weight = features[chosen], layer.weight[0]
        exact = timed(functools.partial(surrogate, h, weight, y))
        rows.append((*exact, *timed(functools.partial(published_surrogate, h, weight, targets))))
    value, seconds, published, published_seconds = np.array(rows).T
    return {
        "surrogate": value[None],
        "surrogate_published": published[None],
        "surrogate_seconds": np.median([[seconds, published_seconds]], axis=-1),
    }


def timed(compute: Callable[[], float], repeats: int = 3) -> tuple[float, float]:
    """A value and the median seconds that computing it takes."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = compute()
        seconds.append(time.perf_counter() - start)
    return value, float(np.median(seconds))


def run(config: Config, dataset: str, replicas: Sequence[Replica]) -> Arrays:
    """Train one replica and measure its hidden features by both formulas; name -> (1, …)."""
    images = cli.load_images(config, dataset)
    widths = (images.x_train[0].numel(), *[config.width] * config.depth, images.classes)
    model = MLP(widths, generators(replicas, "weights")).to(config.resolved_device)
    optimizer = make_optimizer(
        torch.optim.SGD, model, replicas, momentum=config.momentum, fused=True
    )
    orders = generators(replicas, "order")
    unchecked = ("tl_published", "condition")  # both may overflow
    with training.Epochs(config.epochs, model, images.name, unchecked) as epochs:
        for epoch in epochs:  # 0: before training
            if epoch > 0:
                for x, y in training.shuffled_batches(images, config.batch_size, orders):
                    training.cross_entropy(model(x), y).backward()
                    optimizer.step()
                    optimizer.zero_grad()
            epochs.record(linearity_measures(model, images))
    (g,) = generators(replicas, "measurement")
    return epochs.arrays | surrogate_measures(model, images, config.surrogate_samples, g)


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    for dataset in config.datasets:
        images = cli.load_images(config, dataset)
        settings = {"dataset": images.name, **config.hyperparameters()}
        replicas = (Replica(config.seed, {"lr": config.learning_rate}),)
        result = Run(config, "published_formulas", images.name, settings, images, AXES, replicas)
        compute = functools.partial(run, config, dataset)
        for _, arrays in runs.train(compute, [result], jobs=1):  # one replica needs no processes
            values = {name: array[0] for name, array in arrays.items()}
            points = {"epoch": range(config.epochs + 1), "layer": range(1, config.depth + 1)}
            result.save(values | points)


if __name__ == "__main__":
    cli.run(main)
