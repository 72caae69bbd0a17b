"""What theories of feature learning expect of one network, side by side. Ours: no figure has it.

Relations that the weight Gram matrix G = WᵀW of a layer is expected to be near to, by their
cosines: the Neural Feature Ansatz (the AGOP), FACT (−AᵀH), this paper (the Virtual Covariance
Shift, summed over training), the Canonical Representation Hypothesis (HᵀH). Laws of depth that are
expected of its inputs: 1 − Target Linearity and separation by one factor a layer, discrimination by
one term. And what predicts generalisation: Target Linearity, or a linear probe on held-out samples.
Formulas and sources are in core/theories.py, all columns are `core.measure`'s.

    python src/experiment/theories.py --datasets cifar10 --networks sgd random_labels
    python src/experiment/theories.py --scale quick

Results: results/SCALE/theories/DATASET-NETWORK-DIGEST.npz, arrays as in AXES; layer l reads its
inputs through W_l, in the order of the first call.
"""

import dataclasses
import functools
import itertools
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import program

program.begin(__name__)

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from core.fact import fact_cosine
from core.gram import cosine
from core.linearity import read_out
from core.measure import measure
from core.moments import FeatureMoments
from experiment._theory_networks import (
    NETWORKS,
    Network,
    build,
    gram_layers,
    make_optimizer,
)
from experiment.grokking import addition
from experiment.random_label import draw_labels, labellings
from lab import cli, runs, training
from lab.data import Images
from lab.errors import ConfigError
from lab.replicas import Replica, generator
from lab.results import Arrays
from lab.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters beside those of NETWORKS."""

    # mnist, svhn, cifar10, cifar100, digits, or your own, of images: see docs/data.md
    datasets: tuple[str, ...] = cli.each(("cifar10",))
    networks: tuple[str, ...] = cli.each(tuple(NETWORKS))
    seeds: tuple[int, ...] = (0, 1, 2)  # a seed draws initial weights, batch orders and labels
    epochs: int | None = None  # passes over the training set; None: the network's own
    width: int | None = None  # None: the network's own
    modulus: int = 61  # numbers that are added, from 70 % of the pairs
    measured: int | None = None  # training samples; None: the network's own

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, zero=("seeds",), choices={"networks": tuple(NETWORKS)})
        cli.check_datasets(self.datasets)
        if self.modulus < 3:
            raise ConfigError(f"modulus must be 3 or more, not {self.modulus}")

    def hyperparameters(self) -> dict[str, Any]:
        """Without those that are each network's own."""
        return {k: v for k, v in super().hyperparameters().items() if v is not None}

    def network(self, name: str) -> Network:
        """As this configuration trains it."""
        own = {key: getattr(self, key) for key in ("epochs", "width", "measured")}
        changed = {key: value for key, value in own.items() if value is not None}
        return dataclasses.replace(NETWORKS[name], **changed)


QUICK: dict[str, Any] = {
    "datasets": ("digits",),
    "networks": ("adam", "true_labels", "random_labels"),
    "seeds": (0, 1),
    "epochs": 20,
    "width": 32,
    "modulus": 17,
    "measured": 500,
}

MARKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of all epochs, beside the start and the first
THEORIES = ("crh", "separation", "compression", "linearity")
_EPOCH, _LAYER = ("seed", "epoch"), ("seed", "epoch", "layer")
COLUMNS = {  # of a layer's row in `measure`'s table -> array
    "cosine_agop": "agop",  # G and the AGOP: the Ansatz; one at the last layer by construction
    "cosine_vc": "shift",  # G and −(AᵀH + HᵀA) at this moment
    "rwa_in": "rwa_in",  # G and HᵀH, and the other five of the Canonical Representation Hypothesis
    **{name: name for name in ("gwa_in", "rga_in", "rwa_out", "gwa_out", "rga_out")},
    "tl_in": "tl",
    "chance_in": "chance",
    "tl_held_out_in": "tl_held_out",  # of read-outs fitted on training samples
    "separation_in": "separation",  # tr(Σ_W Σ_B⁺)
    "compression_in": "compression",  # tr Σ_W / tr Σ_B
    "discrimination_in": "discrimination",  # 1 − the largest cosine of two class means
}
AXES = {
    **dict.fromkeys(COLUMNS.values(), _LAYER),
    # R² of the linear map from a layer's inputs to the next one's
    "linearity": ("seed", "epoch", "pair"),
    "fact": _LAYER,  # cosine of G and −AᵀH, of the loss on the whole training set
    "summed_shift": _LAYER,  # cosine of G and the first-order shifts, summed over training
    "change_shift": _LAYER,  # cosine of G − G₀ and the same sum
    **{f"{split}_{name}": _EPOCH for split in ("train", "test") for name in ("accuracy", "loss")},
    "probe_accuracy": _EPOCH,  # of the last layer's least-squares read-out, on held-out samples
    "name": ("layer",),  # of the module
    **{name: (name,) for name in ("seed", "epoch", "layer")},
}


def with_random_labels(images: Images, share: float, seed: int) -> Images:
    """Each label redrawn with this probability, in training and test set: Figure 12's of a seed."""
    if not share:
        return images
    drawn = draw_labels(images, [Replica(seed, settings={"probability": share})])
    labels = {f"y_{split}": labellings(images, split, drawn)[0, 0] for split in ("train", "test")}
    return dataclasses.replace(images, **labels)


def batches(
    model: nn.Module, images: Images, split: str, rows: slice = slice(None)
) -> Iterator[tuple[Tensor, Tensor]]:
    """Samples of a split in the model's dtype, and their labels."""
    dtype = next(model.parameters()).dtype
    is_convolutional = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    size = 200 if is_convolutional else 2000  # samples at once, of which caches hold the features
    x, y = (part[rows] for part in images.split(split))
    for part, labels in zip(x.split(size), y.split(size), strict=True):
        yield images.scale(part, dtype), labels


def rows_of(weight: Tensor) -> Tensor:
    """A weight as a matrix (m, d), kernels as rows."""
    return weight.detach().flatten(1).double()


class SummedShift:
    """The sum over steps of −γ(AᵀH + HᵀA) = −γ(Wᵀ ∂L/∂W + its transpose), of each layer.

    Over every step: a sum over some of them is mostly the noise of their batches.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = gram_layers(model)
        self.start = {name: self.gram(name) for name in self.layers}
        self.halves = {  # the sum of −γWᵀ ∂L/∂W, in the weight's dtype: it is added to in place
            name: torch.zeros_like(gram, dtype=self.layers[name].weight.dtype)
            for name, gram in self.start.items()
        }

    def gram(self, name: str) -> Tensor:
        rows = rows_of(self.layers[name].weight)
        return rows.mT @ rows

    @torch.no_grad()
    def add(self, rate: float) -> None:
        """Of the gradients that the weights have."""
        for name, layer in self.layers.items():
            weight, gradient = (rows.flatten(1) for rows in (layer.weight, layer.weight.grad))
            self.halves[name].addmm_(weight.mT, gradient, alpha=-rate)

    def total(self, name: str) -> Tensor:
        """(d, d), float64."""
        half = self.halves[name].double()
        return half + half.mT

    def cosines(self, name: str) -> dict[str, float]:
        gram, total = self.gram(name), self.total(name)
        return {
            "summed_shift": cosine(gram, total),
            "change_shift": cosine(gram - self.start[name], total),
        }


def whole_gradient(model: nn.Module, images: Images) -> dict[str, float]:
    """Leaves the gradient of the mean loss on the training set; train_accuracy and train_loss."""
    model.zero_grad()
    n, right, loss = len(images.x_train), 0, 0.0
    for x, y in batches(model, images, "train"):
        logits = model(x)
        part = functional.cross_entropy(logits, y, reduction="sum") / n
        part.backward()
        loss += part.item()
        right += int((logits.argmax(-1) == y).sum())
    return {"train_accuracy": right / n, "train_loss": loss}


@torch.no_grad()
def last_layer(
    model: nn.Module, images: Images, split: str, rows: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of the last layer (N, d), logits (N, c), both float64, and labels (N,)."""
    *_, last = gram_layers(model).values()
    inputs: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    pairs = [(model(x), y) for x, y in batches(model, images, split, rows)]
    hook.remove()
    logits, labels = (torch.cat(values) for values in zip(*pairs, strict=True))
    return torch.cat(inputs).double(), logits.double(), labels


def predictions(
    model: nn.Module, images: Images, samples: int, held_out: slice, test: slice
) -> dict[str, float]:
    """probe_accuracy on held-out samples; test_accuracy and test_loss on others."""
    h, _, y = last_layer(model, images, "train", slice(samples))
    moments = FeatureMoments().update(h, y)
    probe = read_out(moments, intercept=True)
    h, _, y = last_layer(model, images, "test", held_out)
    probed = (h - moments.feature_mean) @ probe + moments.target_mean
    _, logits, labels = last_layer(model, images, "test", test)
    return {
        "probe_accuracy": accuracy(probed, y),
        "test_accuracy": accuracy(logits, labels),
        "test_loss": functional.cross_entropy(logits, labels).item(),
    }


def accuracy(scores: Tensor, labels: Tensor) -> float:
    return (scores.argmax(-1) == labels).double().mean().item()


def measures(
    model: nn.Module, images: Images, measured: int, summed: SummedShift
) -> dict[str, Tensor]:
    """All arrays at one epoch, of one replica: (1,) or (1, layer); measured: training samples."""
    half = len(images.x_test) // 2
    held_out, test = slice(half), slice(half, None)
    model.eval()
    scores = predictions(model, images, measured, held_out, test)
    scores |= whole_gradient(model, images)
    # some measures of untrained features have few digits
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        table = measure(
            model,
            batches(model, images, "train", slice(measured)),
            batches(model, images, "test", held_out),
            theories=THEORIES,
            reduction="pool",
        )
    by_name = {row.name: row for row in table}
    rows = []
    for name, layer in summed.layers.items():
        pair = rows_of(layer.weight), rows_of(layer.weight.grad)
        row = {array: getattr(by_name[name], column) for column, array in COLUMNS.items()}
        row |= {"fact": fact_cosine(*pair), **summed.cosines(name)}
        rows.append(row)
    model.zero_grad()
    model.train()
    arrays = {name: torch.tensor([[row[name] for row in rows]]).double() for name in rows[0]}
    pairs = [by_name[name].linearity for name in summed.layers][:-1]
    arrays["linearity"] = torch.tensor([pairs]).double()
    return arrays | {name: torch.tensor([value]).double() for name, value in scores.items()}


def train(config: Config, name: str, images: Images, replica: Replica) -> Arrays:
    """Train the network of one seed; name -> (1, measured epochs, …)."""
    network = config.network(name)
    images = with_random_labels(images, network.random_share, replica.seed)
    images = images.shuffled(generator(0, "measurement"))  # the first of them are measured
    model = build(network, images, replica.seed).to(config.resolved_device)
    optimizer, summed = make_optimizer(network, model), SummedShift(model)
    orders, dtype = [generator(replica.seed, "order")], next(model.parameters()).dtype
    description = f"{images.name} {name} seed {replica.seed}"
    with training.Epochs(network.epochs, model, description, tuple(AXES)) as epochs:
        for epoch in epochs:  # 0: before training
            if epoch > 0:
                for (x,), (y,) in training.shuffled_batches(
                    images, network.batch_size, orders, dtype
                ):
                    functional.cross_entropy(model(x), y).backward()
                    summed.add(network.learning_rate)
                    optimizer.step()
                    optimizer.zero_grad()
            if epoch in measured_epochs(network):
                epochs.record(measures(model, images, network.measured, summed))
    return epochs.arrays


def measured_epochs(network: Network) -> list[int]:
    return sorted({0, 1, *(max(1, round(mark * network.epochs)) for mark in MARKS)})


def load(config: Config, name: str, dataset: str) -> Images:
    """The samples that a network is trained on."""
    if NETWORKS[name].is_addition:
        return addition(config.modulus, 0.3, config.resolved_device)
    return cli.load_images(config, dataset)


def run(config: Config, name: str, dataset: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas, one after another; name -> (R, measured epochs, …)."""
    images = load(config, name, dataset)
    parts = [train(config, name, images, replica) for replica in replicas]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def check_images(config: Config) -> None:
    """Raise ConfigError where a convolutional network is asked for rows of features."""
    for name, dataset in itertools.product(config.networks, config.datasets):
        images = load(config, name, dataset)
        if NETWORKS[name].is_convolutional and len(images.shape) != 3:
            raise ConfigError(f"{images.name}: {name} needs images (C, H, W), not {images.shape}")


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    check_images(config)
    replicas = tuple(Replica(seed) for seed in config.seeds)
    for name in config.networks:
        network = config.network(name)
        for dataset in config.datasets[: 1 if network.is_addition else None]:
            images = load(config, name, dataset)
            settings = {"dataset": images.name, "network": name, **vars(network)}
            settings = config.hyperparameters() | settings
            label = f"{images.name}-{name}"
            result = Run(config, "theories", label, settings, images, AXES, replicas)
            layers = list(gram_layers(build(network, images, 0)))
            points = {"seed": config.seeds, "epoch": measured_epochs(network), "name": layers}
            points["layer"] = range(1, len(layers) + 1)
            for _, arrays in runs.train(functools.partial(run, config, name, dataset), [result]):
                result.save(arrays | points)


if __name__ == "__main__":
    cli.run(main)
