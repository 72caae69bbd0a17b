"""Figures 13 and 14: Target Linearity while a network groks modular addition.

Claim: the gap of Target Linearity between the last two hidden layers moves with the generalisation
gap. An MLP learns x + y mod 61 from 70 % of all pairs, in float64, under several weight decays.
Beside Target Linearity: how well the least-squares map fitted on a layer's training features does
on the test features.

    python src/experiment/grokking.py
    python src/experiment/grokking.py --scale quick

Results: results/SCALE/grokking/addition_mod_61-wdDECAY-DIGEST.npz, one a weight decay, arrays as in
AXES. All curves share one epoch axis: 0 is before training, and everything at an epoch is measured
at the same moment.
"""

import functools
import math
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
from torch.nn import functional

from core.linearity import read_out
from core.moments import FeatureMoments
from lab import cli, hidden, memory, runs, training
from lab.data import Images
from lab.errors import ConfigError
from lab.models import MLP
from lab.replicas import Replica, generators, make_optimizer
from lab.results import Arrays
from lab.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figures 13 and 14, the paper's; it had one seed."""

    # weight decays of AdamW; 1 is not the paper's
    weight_decays: tuple[float, ...] = cli.each((0.0, 0.25, 0.5, 0.75, 1.0))
    learning_rate: float = 0.001  # rate of AdamW
    beta1: float = 0.9  # decay rate of AdamW's mean of gradients
    beta2: float = 0.98  # decay rate of AdamW's mean of squared gradients
    # a seed draws initial weights and batch orders; the split is always the paper's
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 500  # passes over the training set
    batch_size: int = 32  # samples a step
    modulus: int = 61  # numbers that are added
    # share of the pairs that is held out, by scikit-learn's train_test_split with random_state 0
    test_share: float = 0.3
    width: int = 256  # units of a hidden layer
    depth: int = 3  # hidden layers

    def __post_init__(self) -> None:
        super().__post_init__()
        fractions = ("test_share", "beta1", "beta2")
        cli.check(self, zero=("weight_decays", "seeds"), fractions=fractions)
        if self.modulus < 3:
            raise ConfigError(f"modulus must be 3 or more, not {self.modulus}")
        held_out = math.ceil(self.test_share * self.modulus**2)
        if held_out < 2 or self.modulus**2 - held_out < 2:
            reason = "leaves fewer than two pairs on one side"
            raise ConfigError(f"test_share {self.test_share} {reason}")


QUICK: dict[str, Any] = {
    "weight_decays": (0.0, 1.0),
    "learning_rate": 0.003,
    "seeds": (0, 1),
    "epochs": 150,
    "modulus": 37,
    "width": 128,
}

_EPOCH, _LAYER = ("seed", "epoch"), ("seed", "epoch", "layer")
SPLITS = ("train", "test")
MEASURES = {"accuracy": _EPOCH, "loss": _EPOCH, "tl": _LAYER, "rank": _LAYER, "chance": _LAYER}
AXES = {
    **{f"{split}_{name}": axes for split in SPLITS for name, axes in MEASURES.items()},
    "read_out_accuracy": _LAYER,  # on test features, of the least-squares map fitted on training
    "read_out_error": _LAYER,  # its ‖Y − Ŷ‖² over that of the training targets' mean
    **{name: (name,) for name in ("seed", "epoch", "layer")},
}


def addition(modulus: int, test_share: float, device: str = "cpu") -> Images:
    """All pairs (x, y) as two one-hot vectors side by side, labelled x + y mod `modulus`."""
    from sklearn.model_selection import train_test_split

    memory.check("every pair as one-hot vectors", 2 * modulus**3)
    pairs = torch.cartesian_prod(torch.arange(modulus), torch.arange(modulus))  # (modulus², 2)
    inputs = functional.one_hot(pairs, modulus).flatten(1).float()  # (modulus², 2·modulus)
    labels = pairs.sum(1) % modulus
    parts = train_test_split(inputs.numpy(), labels.numpy(), test_size=test_share, random_state=0)
    x_train, x_test, y_train, y_test = (torch.from_numpy(part).to(device) for part in parts)
    return Images(f"addition_mod_{modulus}", x_train, y_train, x_test, y_test, unit=1.0)


def read_outs(model: MLP, images: Images, moments: Sequence[FeatureMoments]) -> dict[str, Tensor]:
    """read_out_accuracy and read_out_error (R, layer) of the maps fitted on training features.

    moments: of every hidden layer's training features, with leading axis R.
    """
    maps = [read_out(sums) for sums in moments]  # (R, d, c)
    means = [sums.target_mean[..., None, :] for sums in moments]  # (R, 1, c)
    total = torch.zeros(3, len(maps[0]), len(maps), dtype=torch.float64, device=maps[0].device)
    for x, y in training.whole_batches(images, "test", len(maps[0]), torch.float64):
        targets = functional.one_hot(y, images.classes).double()  # (B, c)
        for layer, h in enumerate(model.hidden(x)):
            predicted = h @ maps[layer] + means[layer]  # (R, B, c)
            right = (predicted.argmax(-1) == y).sum(-1)
            error = (targets - predicted).square().sum((-2, -1))
            baseline = (targets - means[layer]).square().sum((-2, -1))
            total[..., layer] += torch.stack([right, error, baseline])
    right, error, baseline = total
    return {"read_out_accuracy": right / len(images.y_test), "read_out_error": error / baseline}


@torch.no_grad()
def layer_measures(model: MLP, images: Images) -> dict[str, Tensor]:
    """Accuracies and losses (R,), and the measures of every hidden layer (R, layer)."""
    values = {}
    for split in SPLITS:
        ((moments, scores),) = hidden.one_pass(model, images, split)
        measures = scores | hidden.linearity(moments)
        values |= {f"{split}_{name}": value for name, value in measures.items()}
        if split == "train":
            values |= read_outs(model, images, moments)
    return values


def build(
    config: Config, images: Images, replicas: Sequence[Replica]
) -> tuple[MLP, torch.optim.Optimizer]:
    """The network in float64 and its optimizer, each replica with its own weight decay."""
    widths = (images.x_train.shape[1], *[config.width] * config.depth, images.classes)
    model = MLP(widths, generators(replicas, "weights"), functional.relu)
    model = model.to(config.resolved_device, torch.float64)
    betas = (config.beta1, config.beta2)
    return model, make_optimizer(torch.optim.AdamW, model, replicas, betas=betas, fused=True)


def run(config: Config, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch and measure them at every epoch; name -> (R, epoch, …)."""
    images = addition(config.modulus, config.test_share, config.resolved_device)
    model, optimizer = build(config, images, replicas)
    orders = generators(replicas, "order")
    first = replicas[0]
    description = f"{images.name} weight decay {first.options['weight_decay']} seed {first.seed}"
    with training.Epochs(config.epochs, model, description) as epochs:
        for epoch in epochs:  # 0: before training
            if epoch > 0:
                for x, y in training.shuffled_batches(
                    images, config.batch_size, orders, torch.float64
                ):
                    training.cross_entropy(model(x), y).backward()
                    optimizer.step()
                    optimizer.zero_grad()
            epochs.record(layer_measures(model, images))
    return epochs.arrays


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    images = addition(config.modulus, config.test_share)
    planned = []
    for decay in config.weight_decays:
        name = f"{images.name}-wd{decay!r}"
        settings = {"weight_decay": decay, **config.hyperparameters()}
        options = {"lr": config.learning_rate, "weight_decay": decay}
        replicas = tuple(Replica(seed, options) for seed in config.seeds)
        planned.append(Run(config, "grokking", name, settings, images, AXES, replicas))
    points = {
        "seed": config.seeds,
        "epoch": range(config.epochs + 1),
        "layer": range(1, config.depth + 1),
    }
    for result, arrays in runs.train(functools.partial(run, config), planned):
        result.save(arrays | points)


if __name__ == "__main__":
    cli.run(main)
