"""Figure 13: Target Linearity while a network groks modular addition.

Claim: the gap of Target Linearity between the last two hidden layers moves with the generalisation gap. An MLP learns
x + y mod 61 from 70 % of all pairs, in float64, under several weight decays. Beside Target Linearity: how well the
least-squares map fitted on a layer's training features does on the test features.

    python src/experiment/grokking.py
    python src/experiment/grokking.py --scale quick

Results: results/SCALE/grokking/addition_mod_61-wdDECAY-DIGEST.npz, one a weight decay, arrays as in AXES. All curves
share one epoch axis: 0 is before training, and everything at an epoch is measured at the same moment.
"""

import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli
import layers
import results
import training
from core.linearity import read_out
from data import Images
from models import MLP
from results import Arrays, Partial
from training import Replica


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figure 13, the paper's; it had one seed."""

    weight_decays: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """weight decays of AdamW"""
    learning_rate: float = 0.001
    """rate of AdamW"""
    beta1: float = 0.9
    """decay rate of AdamW's mean of gradients"""
    beta2: float = 0.98
    """decay rate of AdamW's mean of squared gradients"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """a seed draws initial weights and batch orders; the split is always the paper's"""
    epochs: int = 500
    """passes over the training set"""
    batch_size: int = 32
    """samples a step"""
    modulus: int = 61
    """numbers that are added"""
    test_share: float = 0.3
    """share of the pairs that is held out, by scikit-learn's train_test_split with random_state 0"""
    width: int = 256
    """units of a hidden layer"""
    depth: int = 3
    """hidden layers"""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("learning_rate", "epochs", "batch_size", "width", "depth", "test_share")
        cli.check(
            self, positive=positive, natural=("weight_decays", "seeds"), fractions=("test_share", "beta1", "beta2")
        )
        if self.modulus < 3:
            raise cli.ConfigError(f"modulus must be 3 or more, not {self.modulus}")
        held_out = math.ceil(self.test_share * self.modulus**2)
        if held_out < 2 or self.modulus**2 - held_out < 2:
            raise cli.ConfigError(f"test_share {self.test_share} leaves fewer than two pairs on one side")


QUICK: dict[str, Any] = {
    "weight_decays": (0.0, 1.0),
    "learning_rate": 0.003,
    "seeds": (0, 1),
    "epochs": 150,
    "modulus": 37,
    "width": 128,
}

_BY_EPOCH = ("weight_decay", "seed", "epoch")
_BY_LAYER = (*_BY_EPOCH, "layer")
MEASURES = {"accuracy": _BY_EPOCH, "loss": _BY_EPOCH, "tl": _BY_LAYER, "rank": _BY_LAYER, "chance": _BY_LAYER}
AXES = {
    **{f"{split}_{name}": axes for split in ("train", "test") for name, axes in MEASURES.items()},
    "read_out_accuracy": _BY_LAYER,  # on test features, of the least-squares map fitted on training features
    "read_out_error": _BY_LAYER,  # its ‖Y − Ŷ‖² over that of the training targets' mean
    **{name: (name,) for name in ("weight_decay", "seed", "epoch", "layer")},
}


def addition(modulus: int, test_share: float, device: str = "cpu") -> Images:
    """All pairs (x, y) as two one-hot vectors side by side, labelled x + y mod `modulus`."""
    from sklearn.model_selection import train_test_split

    pairs = torch.cartesian_prod(torch.arange(modulus), torch.arange(modulus))  # (modulus², 2)
    inputs = functional.one_hot(pairs, modulus).flatten(1).float()  # (modulus², 2·modulus)
    parts = train_test_split(inputs.numpy(), (pairs.sum(1) % modulus).numpy(), test_size=test_share, random_state=0)
    x_train, x_test, y_train, y_test = (torch.from_numpy(part).to(device) for part in parts)
    return Images(f"addition_mod_{modulus}", x_train, y_train, x_test, y_test, unit=1.0)


def read_outs(model: MLP, images: Images, moments: layers.Moments) -> dict[str, Tensor]:
    """read_out_accuracy and read_out_error (R, layer) of the maps fitted on `moments`, the training features'."""
    replicas = len(moments)
    maps = [[read_out(sums) for sums in row] for row in moments]
    totals = torch.zeros(3, replicas, len(moments[0]), dtype=torch.float64, device=images.y_test.device)
    for x, y in training.batches(images, "test", replicas, torch.float64):
        targets = functional.one_hot(y, images.classes).double()  # (B, c)
        for i, h in enumerate(model.hidden(x)):
            for r in range(replicas):
                mean = moments[r][i].target_mean
                predicted = h[r] @ maps[r][i] + mean
                right = (predicted.argmax(-1) == y).sum()
                totals[:, r, i] += torch.stack(
                    [right, (targets - predicted).square().sum(), (targets - mean).square().sum()]
                )
    right, error, of_mean = totals
    return {"read_out_accuracy": right / len(images.y_test), "read_out_error": error / of_mean}


def measure(model: MLP, images: Images) -> dict[str, Tensor]:
    """Every array of AXES at one moment, without its leading axes but the replica's."""
    values = {}
    for split in ("train", "test"):
        (moments,), (score,) = layers.one_pass(model, images, split)
        values |= {f"{split}_{name}": value for name, value in (score | layers.linearity(moments)).items()}
        if split == "train":
            values |= read_outs(model, images, moments)
    return values


def train_group(
    config: Config, replicas: Sequence[Replica], measure: Callable[[MLP, Images], dict[str, Tensor]] = measure
) -> Arrays:
    """Train replicas as one batch; name -> (R, epochs + 1, …)."""
    images = addition(config.modulus, config.test_share, config.resolved_device)
    widths = (images.x_train.shape[1], *[config.width] * config.depth, images.classes)
    model = MLP(widths, [training.generator(r.seed, "weights") for r in replicas], functional.relu)
    return training.train(
        model.to(config.resolved_device, torch.float64),
        images,
        replicas,
        functools.partial(torch.optim.AdamW, betas=(config.beta1, config.beta2), fused=True),
        functools.partial(measure, images=images),
        epochs=config.epochs,
        batch_size=config.batch_size,
        description=f"{images.name} weight decay {replicas[0].options['weight_decay']} seed {replicas[0].seed}",
    )


def run(config: Config, partial: Partial | None = None) -> Arrays:
    """Train under every weight decay with every seed; arrays as in AXES."""
    options = [{"lr": config.learning_rate, "weight_decay": decay} for decay in config.weight_decays]
    runs = training.train_all(
        functools.partial(train_group, config),
        [Replica(seed, of_decay) for of_decay in options for seed in config.seeds],
        device=config.resolved_device,
        jobs=config.jobs,
        partial=partial,
    )
    arrays = training.grid({"weight_decay": config.weight_decays, "seed": config.seeds}, runs)
    named = {"weight_decay": config.weight_decays, "seed": config.seeds}
    named |= {"epoch": range(config.epochs + 1), "layer": range(1, config.depth + 1)}
    return arrays | {name: np.array(values) for name, values in named.items()}


def main() -> None:
    config = cli.parse(Config, QUICK, description=__doc__)
    results.check_writable(config.results)
    images = addition(config.modulus, config.test_share)
    fixed = config.hyperparameters("weight_decays")
    outputs = [
        cli.Output(f"{images.name}-wd{decay!r}", {"weight_decay": decay, **fixed}) for decay in config.weight_decays
    ]

    def compute(weight_decays: tuple[float, ...], partial: Partial) -> Arrays:
        return run(replace(config, weight_decays=weight_decays), partial)

    cli.produce_each(config, "grokking", images, AXES, "weight_decay", outputs, compute)


if __name__ == "__main__":
    cli.run(main)
