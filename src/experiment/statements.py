"""The paper's statements, each measured beside what it says. Ours: the paper tests none of them.

Claim: Theorems 1 to 4, Lemmas 1 to 5, Propositions 1, 2 and 4, the signs of section 4.2, and the
two forms of whitening, on networks that meet their assumptions (no biases, one output) and on the
paper's own.

    python src/experiment/statements.py --datasets mnist
    python src/experiment/statements.py --networks relu squared_relu --seeds 3 4 5 6 7 8 9
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
from torch.nn import functional

from core.moments import FeatureMoments
from experiment import _statement_homogeneous as homogeneous
from experiment import _statement_measures as measures
from experiment._statement_networks import (
    NETWORKS,
    Task,
    build_cnn,
    build_mlp,
    draw_samples,
    make_task,
    squared_relu,
)
from lab import cli, runs, training
from lab.data import Images
from lab.errors import DataError
from lab.models import CNN, MLP
from lab.replicas import Replica, generator, generators, make_optimizer
from lab.results import Arrays
from lab.runs import Run
from lab.snapshot import Snapshot, linear_layers, look

OPTIMIZERS = ("plain", "momentum", "adam")
EXPANDED = (
    functional.relu,
    squared_relu,
    torch.tanh,
)  # activations on which Proposition 4 is measured


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters, ours: the paper has no such experiment."""

    # mnist, svhn, cifar10, cifar100, digits, or your own: see docs/data.md
    datasets: tuple[str, ...] = cli.each(("digits", "mnist"))
    networks: tuple[str, ...] = cli.each(tuple(NETWORKS))  # see _statement_networks.py
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
    pairs: int = 500  # pairs of samples, drawn at random, between which regions are counted
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
_BEFORE_LAST = ("seed", "epoch", "hidden_layer")  # of which it is the index as well
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
    # what share of its bound a unit's step is, ‖h‖ = 1: its mean and the largest
    **dict.fromkeys(("activation_share", "activation_most"), _UNITS),
    # Theorem 2, all MLPs but relu_binary; targets centred
    "theorem2_bound": _RIDGE,
    "theorem2_refined": _RIDGE,  # ours: C' in place of C
    "ridge_tl": _RIDGE,  # T_λ, which both bound
    "tl_intercept": _LAYER,
    # ours: tl_intercept is at least each of these. The surrogate normalised, and projections of Y
    # onto GY and onto the columns of GY
    **dict.fromkeys(("tl_bound", "tl_bound_line", "tl_bound_columns"), _LAYER),
    "surrogate": _LAYER,  # S(G_id), over the number of outputs
    # Lemma 1, as Theorem 2: S(G_id) / (c₀² S(HHᵀ)), and its mean over directions of the features
    **dict.fromkeys(("lemma1_ratio", "lemma1_chance"), _LAYER),
    # Lemma 2, as Theorem 2: YᵀA⁻²Y, its bound and ours, over what is known without: ‖Y‖² / λ²
    **dict.fromkeys(("lemma2_left", "lemma2_bound", "lemma2_refined"), _RIDGE),
    # Lemma 5, as Theorem 2, and Proposition 2 in the last layer: S_cls / (‖G_id‖_F ‖YYᵀ‖_F)
    "cka": _LAYER,
    # Theorem 3, homogeneous networks: of one step at the smallest rate
    "surrogate_change": _LAYER,
    "predicted_change": _LAYER,
    # signs of section 4.2, homogeneous networks and relu_binary: fᵀy / ‖y‖²; cosines of f and y and
    # of Hᵀy and Hᵀg, whose product is yᵀKg; mean h_iᵀh_k within classes less across, over that of
    # ‖h‖²
    **dict.fromkeys(("output_product", "output_cosine"), _EPOCH),
    **dict.fromkeys(("descent_cosine", "nearer"), _LAYER),
    # Lemma 3, homogeneous networks: what is nonlinear in the rest of the network between samples
    "taylor_error": _LAYER,  # by pairs, over the size of all f_i − f_k
    "taylor_error_terms": _LAYER,  # by pairs, over what is predicted
    "taylor_error_sum": _LAYER,  # summed over samples with y, over the sum that is predicted
    "euler_error": _LAYER,  # of a sample with itself, h_kᵀJ_k = m f_k
    # Proposition 4, relu, squared_relu and tanh (not homogeneous): the sum of all Taylor errors
    # over that of their sizes; Σh = 0, and Σf = 0 by the read-out
    "expansion_sum": _BEFORE_LAST,
    "expansion_sum_not_centred": _BEFORE_LAST,  # Σf ≠ 0
    # Lemma 4, relu, on the segments between pairs: boundaries of linear regions, mean and most; B
    # and δ; the share of pairs that obey it; median and largest share of its bound that an error
    # is; medians of bound and error over the root mean square of f_i − f_k
    **dict.fromkeys(("crossed", "crossed_most", "input_norm", "gradient_jump"), _LAYER),
    **dict.fromkeys(("lemma4_held", "lemma4_share", "lemma4_most"), _LAYER),
    **dict.fromkeys(("lemma4_bound", "lemma4_error"), _LAYER),
    # Theorem 4
    "ansatz_cosine": _LAYER,  # of WᵀW and AGOP, all MLPs; one at the last layer by construction
    "ansatz_ratio": _LAYER,  # C_l ‖y‖⁴ / S, homogeneous networks: one where its premises hold
    "response_norm2": _LAYER,  # ‖HWᵀ‖², of which C₀ is the least
    "surrogate_floor": _LAYER,  # its lower bound of S, homogeneous networks
    "surrogate_floor_sharper": _LAYER,  # ours, relu
    # Proposition 2, what the last layer of the networks with classes reads
    **dict.fromkeys(("nc1", "nc2_norm", "nc2_angle"), _EPOCH),
    # the same on features that have collapsed by hand: linear CKA, and ‖G_id − YYᵀ‖ over ‖YYᵀ‖
    **dict.fromkeys(("hand_cka", "hand_gram_error"), ("seed", "case")),
    # whitening, all networks: Procrustes and tangent form of a step of gradient descent at rate γ
    "whitening_cosine": _RATE,
    "whitening_ratio": _RATE,  # length by Procrustes over length in tangent form
    # share of a step's squared length that whitening discards, of the gradient and of momentum's
    **dict.fromkeys(("discarded_gradient", "discarded_momentum"), _LAYER),
    **{name: (name,) for name in ("seed", "epoch", "rate", "ridge", "layer", "hidden_layer")},
    **{name: (name,) for name in ("optimizer", "step", "case")},
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
    steps = [
        config.momentum * buffers.get(weight, 0) + weight.grad + network.decay * weight.detach()
        for weight in weights
    ]
    model.zero_grad()
    values = {"loss": now.losses, "accuracy": task.accuracy(now.outputs.detach())}
    values |= measures.theorem1(now, config.rates)
    values |= measures.whitening(now, [step.flatten(2) for step in steps], config.rates)
    if network.lipschitz:
        values |= measures.proposition1(now, network.activation, network.lipschitz, config.rates)
    if isinstance(model, CNN):
        return values
    if network.binary:
        return values | homogeneous.signs(now, task.targets[:, 0])
    moments = [FeatureMoments().update(h, task.targets) for h in now.features]
    values |= measures.linearity(moments, now.weights, config.ridges) | measures.ansatz(now)
    if network.activation in EXPANDED:
        values |= homogeneous.proposition4(model, now)
    if network.degree:
        return values | homogeneous_measures(config, task, now, moments)
    return values | measures.proposition2(FeatureMoments().update(now.features[-1], task.labels))


def homogeneous_measures(
    config: Config, task: Task, now: Snapshot, moments: list[FeatureMoments]
) -> dict[str, Tensor]:
    """Theorems 3 and 4, Lemmas 3 and 4, and the signs, of a network that is homogeneous."""
    y, degree = task.targets[:, 0], task.network.degree
    degrees = [degree**left for left in reversed(range(len(now.weights)))]
    values = homogeneous.theorem3(now, y, min(config.rates)) | homogeneous.lemma3(now, y, degrees)
    values |= homogeneous.signs(now, y) | homogeneous.theorem4(now, y)
    lemma = {}
    if task.network is NETWORKS["relu"]:
        drawn = torch.randint(len(y), (2, config.pairs), generator=generator(0, "measurement"))
        lemma = homogeneous.lemma4(now, drawn.to(y.device))
    if task.network is not NETWORKS["linear"]:
        values |= homogeneous.theorem4_floor(now, y, moments, degree, lemma)
    return values | lemma


def train(config: Config, name: str, task: Task, replicas: Sequence[Replica]) -> Arrays:
    """Train by gradient descent with momentum, and measure; name -> (R, measured epochs, …)."""
    model = build(config, task, replicas)
    options = {"lr": config.rate(name), "momentum": config.momentum}
    options["weight_decay"] = task.network.decay
    optimizer = make_optimizer(torch.optim.SGD, model, replicas, fused=True, **options)
    x, at = task.x.expand(len(replicas), *task.x.shape), measured(config.epochs)
    description, unchecked = f"{name} seed {replicas[0].seed}", ("activation_share", "lemma4_share")
    with training.Epochs(config.epochs, model, description, unchecked) as epochs:
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
    arrays = train(config, name, task, replicas) | accumulate(config, name, task, replicas)
    if task.network.degree or name == "cnn":
        return arrays
    draws = generators(replicas, "measurement")
    by_hand = measures.collapsed_by_hand(task.labels, config.width, draws)
    return arrays | {key: values.cpu().numpy() for key, values in by_hand.items()}


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
            points |= {"seed": config.seeds, "optimizer": OPTIMIZERS, "case": measures.CASES}
            result.save(arrays | points | {"rate": config.rates, "ridge": config.ridges})


if __name__ == "__main__":
    cli.run(main)
