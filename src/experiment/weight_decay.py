"""Equation 1 under weight decay is FACT. Ours: the paper cites FACT in A.1 without this.

Claim: where training with decay λ comes to rest, ∂L/∂W = −λW, and the Feature Learning Equation
says that WᵀW = −(1/λ)(∂L/∂H)ᵀH (Boix-Adserà et al., arXiv:2507.05644). FACT is for decay that is
part of the loss, by whatever optimizer, and not for AdamW's.

    python src/experiment/weight_decay.py --datasets mnist
    python src/experiment/weight_decay.py --scale quick

An MLP is trained on all samples at once, in float64, an epoch a step: by gradient descent with
momentum at several λ, by Adam with its decay in the loss, and by AdamW. About 5 minutes of two
cores; at quick scale 10 seconds.

Results: results/SCALE/weight_decay/DATASET-LOSS-DIGEST.npz, arrays as in AXES.
"""

import functools
import itertools
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import program

program.begin(__name__)

import torch
from torch import Tensor

from core.agop import average_gradient_outer_product, gram_agop_cosine
from core.fact import fact_cosine, fact_error
from core.linearity import report
from core.moments import FeatureMoments
from core.virtual import gram_shift_cosine
from experiment._statement_networks import NETWORKS, Task, build_mlp, make_task
from lab import cli, runs, training
from lab.models import MLP
from lab.replicas import Replica, in_batches, make_optimizer
from lab.results import Arrays
from lab.runs import Run
from lab.snapshot import look

LOSSES = {  # each with GELU and an output a class
    "cross_entropy": NETWORKS["gelu"],
    "squared": NETWORKS["gelu_squared_loss"],  # ½‖f − (y − ȳ)‖², y one-hot
}


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters, ours: the paper has no such experiment."""

    # mnist, svhn, cifar10, cifar100, digits, or your own: see docs/data.md
    datasets: tuple[str, ...] = cli.each(("digits", "mnist"))
    losses: tuple[str, ...] = cli.each(tuple(LOSSES))  # cross_entropy, squared: mean over samples
    decays: tuple[float, ...] = (0.01, 0.003, 0.001, 0.0001)  # λ under gradient descent
    learning_rate: float = 0.2  # rate of gradient descent
    momentum: float = 0.9  # momentum of gradient descent
    adam_decay: float = 0.003  # λ of Adam, part of the loss
    # of AdamW, not part of the loss; 2 forgets the start as fast as gradient descent at λ = .001
    adamw_decay: float = 2.0
    adam_rate: float = 0.001  # rate of Adam and AdamW
    seeds: tuple[int, ...] = (0, 1, 2)  # a seed draws initial weights
    epochs: int = 2000  # steps of training
    # epochs from one measurement to the next; the last epoch is measured too
    every: int = 100
    samples: int = 300  # training samples, drawn at random
    width: int = 32  # units of a hidden layer
    depth: int = 2  # hidden layers

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {"losses": tuple(LOSSES)}
        cli.check(self, zero=("seeds",), fractions=("momentum",), choices=choices)
        cli.check_datasets(self.datasets)

    @property
    def arms(self) -> list[tuple[str, float]]:
        """Optimizers, each with its λ."""
        descent = [("sgd", decay) for decay in self.decays]
        return [*descent, ("adam", self.adam_decay), ("adamw", self.adamw_decay)]

    @property
    def measured(self) -> list[int]:
        """Epochs at which the network is measured."""
        return training.measured_epochs(self.epochs, self.every)


QUICK: dict[str, Any] = {
    "datasets": ("digits",),
    "decays": (0.01, 0.001),
    "seeds": (0, 1),
    "epochs": 300,
    "samples": 200,
}

_EPOCH, _LAYER = ("arm", "seed", "epoch"), ("arm", "seed", "epoch", "layer")
AXES = {
    # layer l reads H_l through W_l: layer 1 reads the samples, the last is the read-out; cosines
    # and errors are nan where a layer's weight or gradient is zero
    "stationarity": _LAYER,  # ‖∂L/∂W + λW‖ / ‖λW‖: zero where L + λ‖W‖²/2 is stationary
    "fact_error": _LAYER,  # ‖WᵀW + AᵀH/λ‖ / ‖WᵀW‖, A = ∂L/∂H
    "cosine_fact": _LAYER,  # of WᵀW and −AᵀH
    "cosine_shift": _LAYER,  # of WᵀW and −(AᵀH + HᵀA)
    # of WᵀW and the average gradient outer product; one at the last layer by construction
    "cosine_agop": _LAYER,
    "tl": _LAYER,  # Target Linearity of H_l
    "weight_norm": _LAYER,  # ‖W‖
    "loss": _EPOCH,  # L, mean over samples, without the decay
    "accuracy": _EPOCH,  # on the training samples
    "optimizer": ("arm",),
    "decay": ("arm",),
    **{name: (name,) for name in ("arm", "seed", "epoch", "layer")},  # arm: its position
}
UNDEFINED = (
    "stationarity",
    "fact_error",
    *(f"cosine_{name}" for name in ("fact", "shift", "agop")),
)


def measures(task: Task, model: MLP, decay: float) -> dict[str, Tensor]:
    """The measures of every layer (R, layer), with loss and accuracy (R,)."""
    now = look(model, task.x.expand(len(model.layers[0].weight), *task.x.shape), task.loss)
    model.zero_grad()
    norm = torch.linalg.matrix_norm
    outer = average_gradient_outer_product(now.outputs, now.responses)
    rows = []
    for i, (weight, gradient) in enumerate(zip(now.weights, now.weight_gradients, strict=True)):
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # where N ≤ d
            linearity = report(FeatureMoments().update(now.features[i], task.labels))
        row = {
            "stationarity": norm(gradient + decay * weight) / norm(decay * weight),
            "fact_error": fact_error(weight, gradient, decay),
            "cosine_fact": fact_cosine(weight, gradient),
            "cosine_shift": gram_shift_cosine(weight, gradient),
            "cosine_agop": gram_agop_cosine(weight, outer[i]),
            "tl": linearity.value,
            "weight_norm": norm(weight),
        }
        rows.append(row)
    values = {name: torch.stack([row[name] for row in rows], -1) for name in rows[0]}
    return values | {"loss": now.losses, "accuracy": task.accuracy(now.outputs.detach())}


def train(config: Config, task: Task, arm: int, replicas: Sequence[Replica]) -> Arrays:
    """Train the replicas of one arm as one batch; name -> (R, measured epochs, …)."""
    model = build_mlp(task, config.width, config.depth, replicas)
    name, decay = config.arms[arm]
    kind, options = {
        "sgd": (torch.optim.SGD, {"lr": config.learning_rate, "momentum": config.momentum}),
        "adam": (torch.optim.Adam, {"lr": config.adam_rate}),
        "adamw": (torch.optim.AdamW, {"lr": config.adam_rate}),
    }[name]
    optimizer = make_optimizer(kind, model, replicas, fused=True, weight_decay=decay, **options)
    x, description = task.x.expand(len(replicas), *task.x.shape), f"{name} {decay:g}"
    description += f" seed {replicas[0].seed}"
    with training.Epochs(config.epochs, model, description, UNDEFINED) as epochs:
        for epoch in epochs:  # 0: before training
            if epoch > 0:
                task.loss(model(x)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            if epoch in config.measured:
                epochs.record(measures(task, model, decay))
    return epochs.arrays


def run(config: Config, dataset: str, loss: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas, all of one arm as one batch; name -> (R, measured epochs, …)."""
    task = make_task(LOSSES[loss], cli.load_images(config, dataset), config.samples)
    return in_batches(functools.partial(train, config, task), replicas, "arm")


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    pairs = itertools.product(range(len(config.arms)), config.seeds)
    replicas = tuple(Replica(seed, settings={"arm": arm}) for arm, seed in pairs)
    optimizers, decays = zip(*config.arms, strict=True)
    for dataset, loss in itertools.product(config.datasets, config.losses):
        images = cli.load_images(config, dataset)
        settings = {"dataset": images.name, "loss": loss} | config.hyperparameters()
        name = f"{images.name}-{loss}"
        result = Run(config, "weight_decay", name, settings, images, AXES, replicas)
        train_replicas = functools.partial(run, config, dataset, loss)
        for _, arrays in runs.train(train_replicas, [result]):
            arrays = runs.unflatten(arrays, len(optimizers), len(config.seeds))
            points = {"epoch": config.measured, "layer": range(1, config.depth + 2)}
            points |= {"arm": range(len(optimizers)), "seed": config.seeds}
            result.save(arrays | points | {"optimizer": optimizers, "decay": decays})


if __name__ == "__main__":
    cli.run(main)
