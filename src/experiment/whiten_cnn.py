"""Figure 6: training a CNN with only the part of each update that changes the weight Gram matrix.

Claim: Gram whitening matches or beats plain training. Kernels count as rows of the weight.

    python src/experiment/whiten_cnn.py --datasets cifar10
    python src/experiment/whiten_cnn.py --scale quick

Results: results/SCALE/whiten_cnn/DATASET-METHOD-lrRATE-DIGEST.npz, arrays as in whiten.AXES.
"""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import program

program.begin(__name__)

from experiment import whiten
from lab import cli, runs
from lab.data import Images
from lab.errors import DataError
from lab.models import CNN
from lab.replicas import Replica, generators
from lab.results import Arrays


@dataclass(frozen=True, kw_only=True)
class Config(whiten.WhiteningConfig):
    """Hyperparameters of Figure 6, the paper's."""

    # mnist, svhn, cifar10, cifar100, digits, or your own: see docs/data.md
    datasets: tuple[str, ...] = cli.each(("svhn", "cifar10", "cifar100"))
    momentum: float = 0.95  # momentum of SGD
    channels: int = 16  # channels of a convolution
    # twice those of Figure 2: its differences are smaller than their spread
    seeds: tuple[int, ...] = tuple(range(10))


QUICK: dict[str, Any] = {
    "datasets": ("digits",),
    "learning_rates": (0.01,),
    "complement_rates": (0.01,),
    "seeds": (0, 1, 2),
}

AXES = whiten.AXES  # the same arrays


def check_shape(images: Images) -> None:
    """Raise DataError unless the samples are images that can be pooled twice."""
    if len(images.shape) != 3 or min(images.shape[1:]) < 4:
        needed = "a CNN needs images of 4×4 pixels or more"
        raise DataError(f"{images.name}: {needed}, not samples of {images.shape}")


def run(config: Config, dataset: str, method: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas of the CNN as one batch by one method; name -> (R, epoch, …)."""
    images = cli.load_images(config, dataset)
    weights = generators(replicas, "weights")
    model = CNN(images.shape, config.channels, images.classes, weights)
    return whiten.train(config, images, method, model.to(config.resolved_device), replicas)


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    for dataset in config.datasets:  # before any work
        check_shape(cli.load_images(config, dataset))
    for dataset in config.datasets:
        images = cli.load_images(config, dataset)
        for method in config.methods:
            planned = whiten.plan(config, "whiten_cnn", images, method)
            compute = functools.partial(run, config, dataset, method)
            for result, arrays in runs.train(compute, planned):
                points = {"seed": config.seeds, "epoch": range(config.epochs + 1)}
                result.save(arrays | points)


if __name__ == "__main__":
    cli.run(main)
