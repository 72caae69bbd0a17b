"""What the published code's formulas give on the same features, beside the exact ones.

No figure of the paper: it measures why the published curves of Figures 4 and 9 look as they do. The network of
Figure 4 is trained with one seed; before training and after each epoch its hidden features on the training set
are given to both formulas for Target Linearity. Then, on samples drawn at random, the surrogate is computed
through the N × N matrix Z Zᵀ as published, and by the identity.

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

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli
import data
import training
from core.linearity import report, surrogate
from core.moments import FeatureMoments
from models import MLP
from results import Arrays, Partial


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figure 4, for fewer epochs."""

    datasets: tuple[str, ...] = ("cifar10",)
    """mnist, svhn, cifar10, cifar100, digits, or paths of .npz files"""
    seed: int = 0
    """draws initial weights and batch orders"""
    epochs: int = 20
    """passes over the training set"""
    learning_rate: float = 0.0005
    """rate of SGD"""
    momentum: float = 0.8
    """momentum of SGD"""
    batch_size: int = 64
    """samples a step"""
    width: int = 256
    """units of a hidden layer"""
    depth: int = 4
    """hidden layers"""
    surrogate_samples: int = 10_000
    """samples for the N × N matrix of the published surrogate: 10,000 take 0.4 GB"""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("epochs", "learning_rate", "batch_size", "width", "depth", "surrogate_samples")
        cli.check(self, positive=positive, natural=("seed",), fractions=("momentum",))
        cli.check_datasets(self.datasets)


QUICK: dict[str, Any] = {"datasets": ("digits",), "learning_rate": 0.1, "width": 64}
AXES = {
    "tl": ("epoch", "layer"),
    "tl_published": ("epoch", "layer"),
    "condition": ("epoch", "layer"),
    "surrogate": ("layer",),
    "surrogate_published": ("layer",),
    "surrogate_seconds": ("formula",),  # the identity, the published
    "epoch": ("epoch",),
    "layer": ("layer",),
}


def published_linearity(features: Tensor, targets: Tensor) -> float:
    """TL as the published code computes it: the normal equations inverted in float32, a ridge if that fails."""
    h, y = features.float(), targets.float()  # (N, d), (N, c) column-centred
    gram = h.mT @ h
    try:
        inverse = torch.linalg.inv(gram)
    except RuntimeError:
        inverse = torch.linalg.inv(gram + 1e-5 * torch.eye(len(gram), device=gram.device))
    residual = y - h @ (inverse @ (h.mT @ y))
    return float(1 - residual.square().sum() / y.square().sum())


def published_surrogate(features: Tensor, weight: Tensor, targets: Tensor) -> float:
    """The surrogate through the N × N matrix Z Zᵀ, in float32."""
    z = features @ weight.detach().mT  # (N, m)
    return float((targets.mT @ (z @ z.mT) @ targets).trace() / targets.shape[1])


def timed(compute: Callable[[], float], repeats: int = 3) -> tuple[float, float]:
    """A value and the median seconds that computing it takes."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = compute()
        seconds.append(time.perf_counter() - start)
    return value, float(np.median(seconds))


def run(config: Config, dataset: str) -> Arrays:
    """Train one network and measure its hidden features by both formulas; arrays as in AXES."""
    images = data.load(dataset, config.data, config.resolved_device)
    widths = (images.x_train[0].numel(), *[config.width] * config.depth, images.classes)
    model = MLP(widths, [training.generator(config.seed, "weights")]).to(config.resolved_device)
    one_hot = functional.one_hot(images.y_train).float()
    targets = one_hot - one_hot.mean(0)

    def hidden() -> list[Tensor]:
        chunks = [model.hidden(x) for x, _ in training.batches(images, "train", 1, torch.float32)]
        return [torch.cat([chunk[layer][0] for chunk in chunks]) for layer in range(config.depth)]

    def measure(_: torch.nn.Module) -> dict[str, Tensor]:
        features = hidden()
        exact = [report(FeatureMoments().update(h, images.y_train)) for h in features]
        published = [published_linearity(h, targets) for h in features]
        values = {"tl": [e.value for e in exact], "tl_published": published, "condition": [e.condition for e in exact]}
        return {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}  # (1, layer)

    trained = training.train(
        model,
        images,
        [training.Replica(config.seed, {"lr": config.learning_rate})],
        functools.partial(torch.optim.SGD, momentum=config.momentum, fused=True),
        measure,
        epochs=config.epochs,
        batch_size=config.batch_size,
        description=images.name,
    )
    arrays = {name: value[0] for name, value in trained.items()}
    g = training.generator(config.seed, "measurement")
    few = torch.randperm(len(one_hot), generator=g)[: config.surrogate_samples]  # data may be sorted by class
    few = few.to(one_hot.device)
    rows = []
    with torch.no_grad():
        for h, layer in zip(hidden(), model.layers[1:], strict=True):
            weight, y = layer.weight[0], images.y_train[few]
            centred = one_hot[few] - one_hot[few].mean(0)
            exact = timed(lambda h=h, w=weight, y=y: surrogate(h[few], w, y))
            rows.append((*exact, *timed(lambda h=h, w=weight, y=centred: published_surrogate(h[few], w, y))))
    value, seconds, published_value, published_seconds = np.array(rows).T
    return arrays | {
        "surrogate": value,
        "surrogate_published": published_value,
        "surrogate_seconds": np.array([np.median(seconds), np.median(published_seconds)]),
        "epoch": np.arange(config.epochs + 1),
        "layer": np.arange(1, config.depth + 1),
    }


def main() -> None:
    config = cli.parse(Config, QUICK, description=__doc__)
    cli.prepare(config)
    for dataset in config.datasets:
        images = data.load(dataset, config.data, config.resolved_device)
        output = cli.Output(images.name, {"dataset": images.name, **config.hyperparameters("datasets")})

        def compute(_: Sequence[cli.Output], __: Partial, dataset: str = dataset) -> list[Arrays]:
            return [run(config, dataset)]

        cli.produce(config, "published_formulas", images, AXES, [output], compute)


if __name__ == "__main__":
    cli.run(main)
