"""The paper's statements, each measured beside what it says. Ours: the paper tests none of them.

Claim: Theorems 1 to 4, Lemmas 3 and 4, Propositions 1, 2 and 4, and the two forms of whitening, on
networks that meet their assumptions (no biases, one output) and on the paper's own.

    python src/experiment/statements.py --datasets mnist
    python src/experiment/statements.py --scale quick

Every network is trained by gradient descent with momentum on all samples at once, in float64, an
epoch a step. Proposition 3 is about autoencoders: vae_target_linearity.py measures it.

Results: results/SCALE/statements/DATASET-NETWORK-DIGEST.npz, arrays as in AXES: each network has
those of the statements that are about it.
"""

import functools
import itertools
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

from core.moments import FeatureMoments
from lab import cli, runs, training
from lab import statement_measures as measures
from lab.data import Images
from lab.errors import DataError
from lab.models import CNN, MLP
from lab.replicas import Replica, generator, make_optimizer
from lab.results import Arrays
from lab.runs import Run
from lab.snapshot import Snapshot, linear_layers, look
from lab.statement_networks import NETWORKS, Task, build_cnn, build_mlp, draw_samples, make_task

OPTIMIZERS = ("plain", "momentum", "adam")


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters, ours: the paper has no such experiment."""

    # mnist, svhn, cifar10, cifar100, digits, or paths of .npz files
    datasets: tuple[str, ...] = cli.each(("digits", "mnist"))
    networks: tuple[str, ...] = cli.each(tuple(NETWORKS))  # see lab/statement_networks.py
    learning_rate: float | None = None  # rate of gradient descent; None: the network's own
    momentum: float = 0.9  # momentum of gradient descent
    seeds: tuple[int, ...] = (0, 1, 2)  # a seed draws initial weights
    epochs: int = 2000  # steps of training; measured at 0, 1, 3, 10, 32, … and the last
    # steps over which the Virtual Covariance Shift is accumulated, under each of OPTIMIZERS
    steps: int = 100
    adam_rate: float = 0.001  # rate of Adam
    samples: int = 1000  # training samples, drawn at random
    cnn_samples: int = 100  # the same for the CNN
    rates: tuple[float, ...] = (10.0, 0.1, 0.001, 0.00001)  # γ of single steps
    # λ of Theorem 2
    ridges: tuple[float, ...] = (0.01, 1.0, 100.0, 10_000.0, 1_000_000.0)
    pairs: int = 500  # pairs of samples between which linear regions are counted
    width: int = 64  # units of a hidden layer
    depth: int = 4  # hidden layers; squared_relu has one fewer, so that it trains
    channels: int = 8  # channels of a convolution

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {"networks": tuple(NETWORKS)}
        cli.check(self, zero=("seeds",), fractions=("momentum",), choices=choices)
        cli.check_datasets(self.datasets)

    def rate(self, network: str) -> float:
        return self.learning_rate or NETWORKS[network].rate

    def number(self, network: str) -> int:
        """How many samples a network is trained on."""
        return self.cnn_samples if network == "cnn" else self.samples


QUICK: dict[str, Any] = {
    "datasets": ("digits",),
    "seeds": (0, 1),
    "epochs": 300,
    "steps": 30,
    "samples": 300,
    "cnn_samples": 50,
    "pairs": 100,
    "width": 32,
    "depth": 3,
}

_EPOCH, _LAYER = ("seed", "epoch"), ("seed", "epoch", "layer")
_RATE, _RIDGE = ("seed", "epoch", "rate", "layer"), ("seed", "epoch", "ridge", "layer")
_UNITS, _STEP = ("seed", "epoch", "rate", "hidden_layer"), ("seed", "optimizer", "step", "layer")
AXES = {
    # layer l reads H_l through W_l: layer 1 reads the samples, the last is the read-out; measures
    # of steps are nan in layers without a gradient, as where ReLU units have died
    "loss": _EPOCH,  # mean over samples
    "accuracy": _EPOCH,
    # Theorem 1, all networks. One step of gradient descent at rate γ: ‖ΔG − VCS‖ / ‖VCS‖
    "one_step_error": _RATE,
    # from the start on, Σ VCS with γ the optimizer's rate
    "accumulated_error": _STEP,  # ‖ΔG − Σ VCS‖ / ‖Σ VCS‖
    "accumulated_cosine": _STEP,  # of ΔG and Σ VCS
    # Proposition 1, relu, gelu, tanh: shares of samples and units where the bound holds, and where
    # the signs agree, with ‖h‖ = 1 ("unit") and with the inputs' own norms ("own")
    **dict.fromkeys(("activation_bound_unit", "activation_signs_unit"), _UNITS),
    **dict.fromkeys(("activation_bound_own", "activation_signs_own"), _UNITS),
    # Theorem 2, all MLPs
    "theorem2_bound": _RIDGE,
    "ridge_tl": _RIDGE,  # T_λ, which it bounds
    "tl_intercept": _LAYER,
    "tl_bound": _LAYER,  # ours: tl_intercept is at least this, the surrogate normalised
    "surrogate": _LAYER,  # S(G_id), over the number of outputs
    # Theorem 3, homogeneous networks: of one step at the smallest rate
    "surrogate_change": _LAYER,
    "predicted_change": _LAYER,
    # Lemma 3, homogeneous networks: what is nonlinear in the rest of the network between samples
    "taylor_error": _LAYER,
    # Proposition 4, homogeneous networks: the sum of Lemma 3's errors over that of their sizes
    "taylor_error_sum": _LAYER,  # features and outputs centred
    "taylor_error_sum_uncentred": _LAYER,  # as they are
    # Lemma 4, relu: boundaries of linear regions between two samples, mean and most over pairs
    **dict.fromkeys(("crossed", "crossed_most"), _LAYER),
    # Theorem 4
    "ansatz_cosine": _LAYER,  # of WᵀW and AGOP, all MLPs; one at the last layer by construction
    "ansatz_ratio": _LAYER,  # C_l ‖y‖⁴ / S, homogeneous networks: one where its premises hold
    "surrogate_floor": _LAYER,  # its lower bound of S, homogeneous networks
    # Proposition 2, the last layer of the networks with classes
    "cka": _EPOCH,  # S_cls / (‖G_id‖_F ‖YYᵀ‖_F)
    **dict.fromkeys(("nc1", "nc2_norm", "nc2_angle"), _EPOCH),
    # whitening, all networks: Procrustes and tangent form of a step of gradient descent at rate γ
    "whitening_cosine": _RATE,
    "whitening_ratio": _RATE,  # length by Procrustes over length in tangent form
    # share of a step's squared length that whitening discards, of the gradient and of momentum's
    **dict.fromkeys(("discarded_gradient", "discarded_momentum"), _LAYER),
    **{name: (name,) for name in ("seed", "epoch", "rate", "ridge", "layer", "hidden_layer")},
    **{name: (name,) for name in ("optimizer", "step")},
}


def measured(last: int) -> list[int]:
    """0, before training, 1, 3, 10, 32, 100, … and the last."""
    powers = (round(10 ** (k / 2)) for k in itertools.count())
    return sorted({0, *itertools.takewhile(lambda number: number < last, powers), last})


def build(config: Config, task: Task, replicas: Sequence[Replica]) -> MLP | CNN:
    """The network of a task, before training."""
    if task.network is NETWORKS["cnn"]:
        return build_cnn(task, config.channels, replicas)
    hidden = max(1, config.depth - task.network.fewer)
    return build_mlp(task, config.width, hidden, replicas)


def snapshot_measures(
    config: Config, task: Task, model: MLP | CNN, buffers: Mapping[Tensor, Tensor]
) -> dict[str, Tensor]:
    """All measures of R networks at one moment of training.

    buffers: weight -> momentum's buffer, where there is one.
    """
    network, replicas = task.network, len(next(model.parameters()))
    now = look(model, task.x.expand(replicas, *task.x.shape), task.loss)
    weights = [layer.weight for layer in linear_layers(model)]
    steps = [config.momentum * buffers.get(weight, 0) + weight.grad for weight in weights]
    model.zero_grad()
    values = {"loss": now.losses, "accuracy": task.accuracy(now.outputs.detach())}
    values |= measures.theorem1(now, config.rates)
    values |= measures.whitening(now, [step.flatten(2) for step in steps], config.rates)
    if network.lipschitz:
        values |= measures.proposition1(now, network.activation, network.lipschitz, config.rates)
    if isinstance(model, CNN):
        return values
    targets = task.targets if network.degree else task.labels
    moments = [FeatureMoments().update(h, targets) for h in now.features]
    values |= measures.linearity(moments, now.weights, config.ridges) | measures.ansatz(now)
    if network.degree:
        return values | homogeneous_measures(config, task, model, now, moments)
    return values | measures.proposition2(moments[-1], now.weights[-1])


def homogeneous_measures(
    config: Config, task: Task, model: MLP, now: Snapshot, moments: list[FeatureMoments]
) -> dict[str, Tensor]:
    """Theorems 3 and 4, Lemmas 3 and 4, Proposition 4, of a network that is homogeneous."""
    y, degree = task.targets[:, 0], task.network.degree
    degrees = [degree**left for left in reversed(range(len(now.weights)))]
    values = measures.theorem3(now, y, min(config.rates)) | measures.lemma3(now, degrees)
    values |= measures.proposition4(model, now, degrees) | measures.theorem4(now, y)
    crossed = torch.zeros_like(values["taylor_error"])
    if task.network is NETWORKS["relu"]:
        drawn = torch.randint(len(y), (2, config.pairs), generator=generator(0, "measurement"))
        values |= measures.lemma4(now, drawn.to(y.device))
        crossed = values["crossed_most"]
    return values | measures.theorem4_floor(now, y, moments, degree, crossed)


def train(config: Config, name: str, task: Task, replicas: Sequence[Replica]) -> Arrays:
    """Train by gradient descent with momentum, and measure; name -> (R, measured epochs, …)."""
    model = build(config, task, replicas)
    options = {"lr": config.rate(name), "momentum": config.momentum}
    optimizer = make_optimizer(torch.optim.SGD, model, replicas, fused=True, **options)
    x, at = task.x.expand(len(replicas), *task.x.shape), measured(config.epochs)
    with training.Epochs(config.epochs, model, f"{name} seed {replicas[0].seed}") as epochs:
        for epoch in epochs:  # 0: before training
            if epoch > 0:
                task.loss(model(x)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            if epoch in at:
                buffers = {p: state["momentum_buffer"] for p, state in optimizer.state.items()}
                epochs.record(snapshot_measures(config, task, model, buffers))
    return epochs.arrays


def accumulate(config: Config, name: str, task: Task, replicas: Sequence[Replica]) -> Arrays:
    """Σ VCS of the first steps under each of OPTIMIZERS; name -> (R, optimizer, step, layer)."""
    rate, at = config.rate(name), measured(config.steps)[1:]
    kinds = {
        "plain": (torch.optim.SGD, {"lr": rate}),
        "momentum": (torch.optim.SGD, {"lr": rate, "momentum": config.momentum}),
        "adam": (torch.optim.Adam, {"lr": config.adam_rate}),
    }
    x, parts = task.x.expand(len(replicas), *task.x.shape), []
    for optimizer_name in OPTIMIZERS:
        kind, options = kinds[optimizer_name]
        model = build(config, task, replicas)
        optimizer = make_optimizer(kind, model, replicas, fused=True, **options)
        sums = measures.ShiftSums(model, options["lr"])
        with training.Epochs(config.steps, model, f"{name} {optimizer_name}") as steps:
            for step in steps:
                if step > 0:
                    sums.add(look(model, x, task.loss))
                    optimizer.step()
                    optimizer.zero_grad()
                if step in at:
                    steps.record(sums.compare())
        parts.append(steps.arrays)
    return {key: np.stack([part[key] for part in parts], 1) for key in parts[0]}


def run(config: Config, dataset: str, name: str, replicas: Sequence[Replica]) -> Arrays:
    """Train and measure the replicas of one network as one batch; name -> (R, …)."""
    images = cli.load_images(config, dataset)
    task = make_task(NETWORKS[name], images, config.number(name))
    return train(config, name, task, replicas) | accumulate(config, name, task, replicas)


def check_images(config: Config, images: Images) -> None:
    """Raise DataError where a network cannot be trained or measured on the drawn samples."""
    few = f"a class is not among the {config.samples} samples that are drawn"
    one_kind = "the samples that are drawn are all of odd, or all of even classes"
    flat = f"a CNN needs images of 4×4 pixels or more, not samples of {images.shape}"
    for name in config.networks:
        _, labels = draw_samples(images, config.number(name))
        if name == "cnn":
            reason = flat if len(images.shape) != 3 or min(images.shape[1:]) < 4 else None
        elif NETWORKS[name].degree:
            reason = one_kind if len((labels % 2).unique()) < 2 else None
        else:  # Neural Collapse is of every class
            reason = few if len(labels.unique()) < images.classes else None
        if reason:
            raise DataError(f"{images.name}: {reason}; leave {name} out of --networks")


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    for dataset in config.datasets:  # before any work
        check_images(config, cli.load_images(config, dataset))
    replicas = tuple(Replica(seed) for seed in config.seeds)
    for dataset, name in itertools.product(config.datasets, config.networks):
        images = cli.load_images(config, dataset)
        varied = {"dataset": images.name, "network": name, "rate": config.rate(name)}
        settings = varied | config.hyperparameters()
        result = Run(
            config, "statements", f"{images.name}-{name}", settings, images, AXES, replicas
        )
        train_replicas = functools.partial(run, config, dataset, name)
        for _, arrays in runs.train(train_replicas, [result]):
            layers = arrays["one_step_error"].shape[-1]
            points = {"epoch": measured(config.epochs), "step": measured(config.steps)[1:]}
            points |= {"layer": range(1, layers + 1), "hidden_layer": range(1, layers)}
            points |= {"seed": config.seeds, "optimizer": OPTIMIZERS}
            result.save(arrays | points | {"rate": config.rates, "ridge": config.ridges})


if __name__ == "__main__":
    cli.run(main)
