"""Does the Gram matrix learn the Virtual Covariance? No figure of the paper; its central claim, measured.

One step of gradient descent moves a layer's Gram G = WᵀW by what it moves the Virtual Covariance by, up to a term of
second order in the rate η. So over training of the same length (steps × η), G(t) − G(0) should differ from the
accumulated change of the Virtual Covariance by an amount proportional to η. An MLP is trained in float64 by plain
gradient descent, on all samples at once and by mini-batches, at several rates.

    python src/experiment/gram_virtual_covariance.py --datasets mnist
    python src/experiment/gram_virtual_covariance.py --scale quick

Results: results/SCALE/gram_virtual_covariance/DATASET-BATCH-DIGEST.npz, BATCH full or the batch size, arrays as in
AXES.
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
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli
import data
import training
from core.virtual import feature_learning_residual, virtual_covariance_change
from models import MLP
from results import Arrays, Partial
from training import Replica


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters, ours: the paper has no such experiment."""

    datasets: tuple[str, ...] = ("digits", "mnist")
    """mnist, svhn, cifar10, cifar100, digits, or paths of .npz files"""
    batch_sizes: tuple[int, ...] = (0, 64)
    """samples a step; 0: all of them"""
    rates: tuple[float, ...] = (0.1, 0.05, 0.025, 0.0125)
    """rates η of gradient descent, without momentum"""
    time: float = 40.0
    """length of training, steps × rate, the same for every rate"""
    points: int = 10
    """moments at which is measured, evenly spaced in time, beside the start"""
    samples: int = 1000
    """training samples, drawn at random"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """a seed draws initial weights and batches"""
    width: int = 128
    """units of a hidden layer"""
    depth: int = 2
    """hidden layers"""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("rates", "time", "points", "samples", "width", "depth")
        cli.check(self, positive=positive, natural=("batch_sizes", "seeds"))
        cli.check_datasets(self.datasets)
        if min(self.steps(rate) for rate in self.rates) < self.points:
            raise cli.ConfigError("rates are too large: training must have a step or more for every point")

    def steps(self, rate: float) -> int:
        """Steps of a run, a multiple of the points."""
        return self.points * round(self.time / rate / self.points)


QUICK: dict[str, Any] = {"datasets": ("digits",), "rates": (0.1, 0.05, 0.025), "samples": 500, "width": 32}

_BY_LAYER = ("rate", "seed", "point", "layer")
AXES = {
    "relative_error": _BY_LAYER,  # ‖ΔG − ΔVC‖ / ‖ΔVC‖, since the start; nan at the start, as all changes
    "cosine_vc": _BY_LAYER,  # of ΔG and ΔVC
    "cosine_agop": _BY_LAYER,  # of G and the average gradient outer product of the outputs
    "cosine_agop_change": _BY_LAYER,  # of ΔG and the average gradient outer product
    "residual": _BY_LAYER,  # of the Feature Learning Equation, on all samples
    "gram_change": _BY_LAYER,  # ‖ΔG‖ / ‖G(0)‖
    "loss": ("rate", "seed", "point"),  # on all samples, mean cross-entropy in nats
    "accuracy": ("rate", "seed", "point"),
    **{name: (name,) for name in ("rate", "seed", "point", "layer")},  # point: its time, steps × rate
}


def features_of(model: MLP, x: Tensor) -> list[Tensor]:
    """Inputs H of every layer, each (R, N, d), in one graph with the outputs; the last entry is the outputs."""
    h = [x.requires_grad_()]
    for layer in model.layers[:-1]:
        h.append(model.activation(layer(h[-1])))
    return [*h, model.layers[-1](h[-1])]


def grams(model: MLP) -> list[Tensor]:
    """G of every layer, (R, d, d)."""
    return [layer.weight.detach().mT @ layer.weight.detach() for layer in model.layers]


def gradient_outer_products(model: MLP, x: Tensor) -> list[Tensor]:
    """Σ over samples and outputs of ∂f/∂h ∂f/∂hᵀ for every layer's inputs h, (R, d, d)."""
    *h, outputs = features_of(model, x)
    total = [
        torch.zeros(part.shape[0], part.shape[-1], part.shape[-1], dtype=part.dtype, device=x.device) for part in h
    ]
    for output in outputs.sum((0, 1)):
        for part, gradient in zip(total, torch.autograd.grad(output, h, retain_graph=True), strict=True):
            part += gradient.mT @ gradient
    return total


def residuals(model: MLP, x: Tensor, y: Tensor) -> Tensor:
    """Residual of the Feature Learning Equation of every replica and layer, (R, layer), of the loss on x (R, N, d)."""
    *h, outputs = features_of(model, x)
    loss = functional.cross_entropy(outputs.flatten(0, 1), y.repeat(len(x)), reduction="sum") / len(y)
    weights = [layer.weight for layer in model.layers]
    gradients = torch.autograd.grad(loss, [*h, *weights])
    layers = list(zip(h, weights, gradients[: len(h)], gradients[len(h) :], strict=True))
    rows = [
        [feature_learning_residual(*(part[r].detach() for part in of_layer)) for of_layer in layers]
        for r in range(len(x))
    ]
    return torch.tensor(rows, dtype=torch.float64)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Frobenius cosine of matrices (R, d, d), (R,); nan where one is zero."""
    return (a * b).sum((1, 2)) / (a.norm(dim=(1, 2)) * b.norm(dim=(1, 2)))


def train_group(config: Config, dataset: str, batch_size: int, rate: float, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch; name -> (R, points + 1, …)."""
    images = data.load(dataset, config.data, config.resolved_device)
    chosen = torch.randperm(len(images.x_train), generator=training.generator(0, "measurement"))[: config.samples]
    chosen = chosen.to(images.x_train.device)
    x = images.scale(images.x_train[chosen], torch.float64).flatten(1)  # (N, d)
    y = images.y_train[chosen]
    widths = (x.shape[1], *[config.width] * config.depth, images.classes)
    model = MLP(widths, [training.generator(r.seed, "weights") for r in replicas]).to(x)
    orders = [training.generator(r.seed, "order") for r in replicas]
    start = grams(model)
    moved = [torch.zeros_like(gram) for gram in start]  # accumulated change of the Virtual Covariance
    everything = x.expand(len(replicas), *x.shape)
    steps = config.steps(rate)
    record: list[dict[str, Tensor]] = []

    def measure() -> dict[str, Tensor]:
        now = grams(model)
        change = [a - b for a, b in zip(now, start, strict=True)]
        agop = gradient_outer_products(model, everything.clone())
        errors = [(c - v).norm(dim=(1, 2)) / v.norm(dim=(1, 2)) for c, v in zip(change, moved, strict=True)]
        sizes = [c.norm(dim=(1, 2)) / g.norm(dim=(1, 2)) for c, g in zip(change, start, strict=True)]
        by_layer = {
            "relative_error": errors,
            "cosine_vc": [cosine(c, v) for c, v in zip(change, moved, strict=True)],
            "cosine_agop": [cosine(g, a) for g, a in zip(now, agop, strict=True)],
            "cosine_agop_change": [cosine(c, a) for c, a in zip(change, agop, strict=True)],
            "gram_change": sizes,
        }
        with torch.no_grad():
            right, loss = training.score(model(everything), y)
        values = {name: torch.stack(layers, -1) for name, layers in by_layer.items()}
        values["residual"] = residuals(model, everything.clone(), y)
        return values | {"loss": loss / len(y), "accuracy": right / len(y)}

    with training.progress(steps, f"{images.name} rate {rate} seed {replicas[0].seed}") as bar:
        for step in range(steps + 1):
            if step % (steps // config.points) == 0:
                record.append(measure())
            if step == steps:
                break
            if batch_size:
                index = torch.stack([torch.randint(len(x), (batch_size,), generator=g) for g in orders]).to(x.device)
            else:
                index = torch.arange(len(x), device=x.device).expand(len(replicas), -1)
            *h, outputs = features_of(model, x[index])
            # the mean over each replica's samples, summed over replicas: their gradients do not mix
            loss = functional.cross_entropy(outputs.flatten(0, 1), y[index].flatten(), reduction="sum") / index.shape[1]
            parameters = list(model.parameters())
            gradients = torch.autograd.grad(loss, [*h, *parameters])
            for part, features, gradient in zip(moved, h, gradients, strict=False):
                part += virtual_covariance_change(features.detach(), gradient, rate)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients[len(h) :], strict=True):
                    parameter -= rate * gradient
            if not bool(loss.isfinite()):
                raise training.Diverged(f"{images.name}: training diverged at rate {rate}; lower the rates")
            bar.update()
    return {name: torch.stack([row[name] for row in record], 1).cpu().numpy() for name in record[0]}


def run(config: Config, dataset: str, batch_size: int, partial: Partial | None = None) -> Arrays:
    """Train a data set at every rate with every seed; arrays as in AXES."""
    runs = []
    for rate in config.rates:
        runs += training.train_all(
            functools.partial(train_group, config, dataset, batch_size, rate),
            [Replica(seed, settings={"rate": rate}) for seed in config.seeds],
            device=config.resolved_device,
            jobs=config.jobs,
            partial=partial,
        )
    arrays = training.grid({"rate": config.rates, "seed": config.seeds}, runs)
    times = np.linspace(0, config.time, config.points + 1)
    named = {"rate": config.rates, "seed": config.seeds, "point": times, "layer": range(1, config.depth + 2)}
    return arrays | {name: np.array(values) for name, values in named.items()}


def main() -> None:
    config = cli.parse(Config, QUICK, description=__doc__)
    cli.prepare(config)
    fixed = config.hyperparameters("datasets", "batch_sizes")
    for dataset in config.datasets:
        images = data.load(dataset, config.data, config.resolved_device)
        for batch_size in config.batch_sizes:
            settings = {"dataset": images.name, "batch_size": batch_size, **fixed}
            output = cli.Output(f"{images.name}-{batch_size or 'full'}", settings)

            def compute(
                _: Sequence[cli.Output], partial: Partial, dataset: str = dataset, batch_size: int = batch_size
            ) -> list[Arrays]:
                return [run(config, dataset, batch_size, partial)]

            cli.produce(config, "gram_virtual_covariance", images, AXES, [output], compute)


if __name__ == "__main__":
    cli.run(main)
