"""Lazy or rich as width grows, with more samples than units. Ours; Figure 8 has fewer samples.

An MLP is trained in three parametrisations that agree at the base width: standard, NTK (Jacot et
al., 2018) and μP (Yang and Hu, arXiv:2011.14522; Yang et al., arXiv:2203.03466), for SGD without
multipliers, with n the width over the base width:

               standard          NTK                μP
    input      rate η            η                  ηn
    hidden     η                 η/n                η
    output     η, variance 1/n   η/n, variance 1/n  η/n, variance 1/n²

How far features and their kernels move, and Target Linearity by layer.

    python src/experiment/parametrisation.py --datasets mnist
    python src/experiment/parametrisation.py --scale quick

Results: results/SCALE/parametrisation/DATASET-PARAMETRISATION-widthWIDTH-DIGEST.npz, arrays as in
AXES.
"""

import dataclasses
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

from lab import cli, hidden, runs, training
from lab.data import Images
from lab.models import MLP
from lab.replicas import Replica, generator, generators, in_batches
from lab.results import Arrays
from lab.runs import Run

PARAMETRISATIONS = ("standard", "ntk", "mup")


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters, ours: the paper has no such experiment."""

    # mnist, svhn, cifar10, cifar100, digits, or your own: see docs/data.md
    datasets: tuple[str, ...] = cli.each(("mnist", "cifar10"))
    parametrisations: tuple[str, ...] = cli.each(PARAMETRISATIONS)  # standard, ntk, mup
    widths: tuple[int, ...] = cli.each((64, 128, 256, 512, 1024))  # units of a hidden layer
    base_width: int = 64  # at which the three agree
    learning_rate: float = 0.1  # η of SGD without momentum
    seeds: tuple[int, ...] = (0, 1, 2)  # a seed draws initial weights and batch orders
    epochs: int = 20  # passes over the training samples
    every: int = 5  # epochs from one measurement to the next; the last epoch is measured too
    batch_size: int = 64  # samples a step
    samples: int = 10_000  # training samples, drawn once for all runs
    depth: int = 2  # hidden layers

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, zero=("seeds",), choices={"parametrisations": PARAMETRISATIONS})
        cli.check_datasets(self.datasets)


QUICK: dict[str, Any] = {
    "datasets": ("digits",),
    "widths": (16, 64),
    "base_width": 16,
    "seeds": (0, 1),
    "epochs": 10,
}

_EPOCH, _LAYER = ("seed", "epoch"), ("seed", "epoch", "layer")
AXES = {
    "feature_change": _LAYER,  # ‖H − H₀‖ / ‖H₀‖ on the training samples, H₀ before training
    "kernel_change": _LAYER,  # ‖HHᵀ − H₀H₀ᵀ‖ / ‖H₀H₀ᵀ‖
    **dict.fromkeys(("tl", "chance"), _LAYER),  # Target Linearity on the training samples
    **{f"{split}_{name}": _EPOCH for split in ("train", "test") for name in ("accuracy", "loss")},
    **{name: (name,) for name in ("seed", "epoch", "layer")},
}


def scales(parametrisation: str, n: float, layers: int) -> list[tuple[float, float, float]]:
    """Of each layer the factors of its initial weight, of the weight's rate and of the bias'.

    n: width over base width.
    """
    inner = layers - 2
    return {
        "standard": [(1.0, 1.0, 1.0)] * layers,
        "ntk": [(1.0, 1.0, 1.0), *[(1.0, 1 / n, 1.0)] * inner, (1.0, 1 / n, 1.0)],
        "mup": [(1.0, n, n), *[(1.0, 1.0, n)] * inner, (n**-0.5, 1 / n, 1.0)],
    }[parametrisation]


def build(
    config: Config, images: Images, parametrisation: str, width: int, replicas: Sequence[Replica]
) -> tuple[MLP, torch.optim.Optimizer]:
    """The network and its optimizer."""
    widths = (images.x_train[0].numel(), *[width] * config.depth, images.classes)
    model = MLP(widths, generators(replicas, "weights")).to(config.resolved_device)
    groups = []
    every = scales(parametrisation, width / config.base_width, len(model.layers))
    for layer, (size, of_weight, of_bias) in zip(model.layers, every, strict=True):
        with torch.no_grad():
            layer.weight *= size
        for parameter, factor in ((layer.weight, of_weight), (layer.bias, of_bias)):
            groups.append({"params": [parameter], "lr": config.learning_rate * factor})
    return model, torch.optim.SGD(groups)


@torch.no_grad()
def features(model: MLP, images: Images) -> list[Tensor]:
    """H (R, N, width) of each hidden layer, float32."""
    replicas = len(model.layers[0].weight)
    batches = training.whole_batches(images, "train", replicas, torch.float32)
    parts = [model.hidden(x) for x, _ in batches]
    return [torch.cat(layer, 1) for layer in zip(*parts, strict=True)]


def changes(start: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Relative change (R,) of features (R, N, d) and of their kernels, from d × d matrices."""
    norm = torch.linalg.matrix_norm
    before, after, cross = (a.mT @ b for a, b in ((start, start), (now, now), (start, now)))
    before, after, cross = (norm(m.double()).square() for m in (before, after, cross))
    kernel = (before + after - 2 * cross).clamp_min(0).sqrt() / before.sqrt()
    return norm((now - start).double()) / norm(start.double()), kernel


def measures(model: MLP, images: Images, start: Sequence[Tensor]) -> dict[str, Tensor]:
    """All arrays at one epoch, (R,) and (R, layer)."""
    scores = training.evaluate(model, images, "train") | training.evaluate(model, images, "test")
    ((moments, _),) = hidden.one_pass(model, images, "train")
    linearity = hidden.linearity(moments)
    pairs = [changes(*pair) for pair in zip(start, features(model, images), strict=True)]
    of_features, of_kernels = (torch.stack(values, -1) for values in zip(*pairs, strict=True))
    moved = {"feature_change": of_features, "kernel_change": of_kernels}
    return scores | moved | {name: linearity[name] for name in ("tl", "chance")}


def load(config: Config, dataset: str) -> Images:
    """The data set with some of its training samples alone."""
    images = cli.load_images(config, dataset).shuffled(generator(0, "measurement"))
    rows = slice(config.samples)
    first = {"x_train": images.x_train[rows], "y_train": images.y_train[rows]}
    return dataclasses.replace(images, **first)


def train(
    config: Config, dataset: str, parametrisation: str, width: int, replicas: Sequence[Replica]
) -> Arrays:
    """Train replicas of one width as one batch; name -> (R, measured epochs, …)."""
    images = load(config, dataset)
    model, optimizer = build(config, images, parametrisation, width, replicas)
    orders, start = generators(replicas, "order"), features(model, images)
    description = f"{images.name} {parametrisation} width {width} seed {replicas[0].seed}"
    with training.Epochs(config.epochs, model, description) as epochs:
        for epoch in epochs:  # 0: before training
            if epoch > 0:
                for x, y in training.shuffled_batches(images, config.batch_size, orders):
                    training.cross_entropy(model(x), y).backward()
                    optimizer.step()
                    optimizer.zero_grad()
            if epoch in training.measured_epochs(config.epochs, config.every):
                epochs.record(measures(model, images, start))
    return epochs.arrays


def run(config: Config, dataset: str, parametrisation: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas, those of one width as one batch; name -> (R, measured epochs, …)."""
    return in_batches(functools.partial(train, config, dataset, parametrisation), replicas, "width")


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    points = {"seed": config.seeds, "layer": range(1, config.depth + 1)}
    points["epoch"] = training.measured_epochs(config.epochs, config.every)
    for dataset, parametrisation in itertools.product(config.datasets, config.parametrisations):
        images = cli.load_images(config, dataset)
        planned = []
        for width in config.widths:
            settings = {"dataset": images.name, "parametrisation": parametrisation, "width": width}
            settings |= config.hyperparameters()
            name = f"{images.name}-{parametrisation}-width{width}"
            replicas = tuple(Replica(seed, settings={"width": width}) for seed in config.seeds)
            made_from = (name, settings, images, AXES, replicas)
            planned.append(Run(config, "parametrisation", *made_from))
        compute = functools.partial(run, config, dataset, parametrisation)
        for result, arrays in runs.train(compute, planned):
            result.save(arrays | points)


if __name__ == "__main__":
    cli.run(main)
