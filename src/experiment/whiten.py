"""Figure 2: training an MLP with only the part of each update that changes the weight Gram matrix.

Claim: Gram whitening matches or beats plain training. Each data set is trained plainly, with the exact
projection, and with the published approximation (ten Newton–Schulz steps, what the paper's figure shows).

    python src/experiment/whiten.py --datasets mnist
    python src/experiment/whiten.py --scale quick

Results: results/SCALE/whiten/DATASET-METHOD-DIGEST.npz, one a learning rate, arrays as in whitening.AXES.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli
import whitening
from data import Images
from models import MLP


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figure 2, the paper's."""

    datasets: tuple[str, ...] = ("mnist", "svhn", "cifar10", "cifar100")
    """mnist, svhn, cifar10, cifar100, digits, or paths of .npz files"""
    methods: tuple[str, ...] = whitening.METHODS
    """plain, exact, newton_schulz (the published approximation)"""
    learning_rates: tuple[float, ...] = (0.1, 0.05, 0.01, 0.005)
    """rates of SGD; 0.01 is plotted"""
    newton_schulz_rates: tuple[float, ...] = (0.01,)
    """rates for newton_schulz, the slowest method"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """a seed draws initial weights and batch orders, the same for every method and rate"""
    epochs: int = 20
    """passes over the training set"""
    batch_size: int = 64
    """samples a step"""
    momentum: float = 0.85
    """a comment in the published script says 0.8 for CIFAR-100 and 0.95 for the others; its code has 0.85"""
    width: int = 256
    """units of a hidden layer"""
    depth: int = 2
    """hidden layers"""

    def __post_init__(self) -> None:
        super().__post_init__()
        whitening.check(self)
        cli.check(self, positive=("width", "depth"))


QUICK: dict[str, Any] = {"datasets": ("digits",), "learning_rates": (0.1, 0.01), "seeds": (0, 1, 2), "width": 64}


def build(config: Config, images: Images, generators: Sequence[torch.Generator]) -> nn.Module:
    """MLP d–256×2–c, one replica a generator."""
    inputs = images.x_train[0].numel()
    return MLP((inputs, *[config.width] * config.depth, images.classes), generators)


def main() -> None:
    whitening.execute(build, cli.parse(Config, QUICK, description=__doc__), "whiten")


if __name__ == "__main__":
    cli.run(main)
