"""Figure 6: training a CNN with only the part of each update that changes the weight Gram matrix.

Claim: Gram whitening matches or beats plain training. Kernels count as rows of the weight.

    python src/experiment/whiten_cnn.py --datasets cifar10
    python src/experiment/whiten_cnn.py --scale quick

Results: results/SCALE/whiten_cnn/DATASET-METHOD-DIGEST.npz, one a learning rate, arrays as in whitening.AXES.
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
from models import CNN


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figure 6, the paper's."""

    datasets: tuple[str, ...] = ("svhn", "cifar10", "cifar100")
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
    momentum: float = 0.95
    """momentum of SGD"""
    channels: int = 16
    """channels of a convolution"""

    def __post_init__(self) -> None:
        super().__post_init__()
        whitening.check(self)
        cli.check(self, positive=("channels",))


QUICK: dict[str, Any] = {"datasets": ("digits",), "learning_rates": (0.01,), "seeds": (0, 1, 2)}


def build(config: Config, images: Images, generators: Sequence[torch.Generator]) -> nn.Module:
    """Three convolutions and a linear layer, one replica a generator."""
    if len(images.shape) != 3 or min(images.shape[1:]) < 4:
        raise cli.ConfigError(f"{images.name}: a CNN needs images of 4×4 pixels or more, not samples of {images.shape}")
    return CNN(images.shape, config.channels, images.classes, generators)


def main() -> None:
    whitening.execute(build, cli.parse(Config, QUICK, description=__doc__), "whiten_cnn")


if __name__ == "__main__":
    cli.run(main)
