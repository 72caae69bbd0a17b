"""Figure 10's ceiling: the Target Linearity that principal components of the pixels reach.

The targets of a VAE's Target Linearity are pixels, and no k features explain more of their variance
than the first k principal components do. It is measured on the training images that
vae_target_linearity.py measures.

    python src/experiment/vae_ceiling.py --datasets mnist
    python src/experiment/vae_ceiling.py --scale quick

Results: results/SCALE/vae_ceiling/DATASET-DIGEST.npz, arrays as in AXES.
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

import torch

from experiment import vae_train
from lab import cli, runs
from lab.replicas import Replica
from lab.results import Arrays
from lab.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """The data of Figure 10."""

    # mnist, svhn, cifar10, cifar100, digits, or paths of .npz files
    datasets: tuple[str, ...] = cli.each(vae_train.Config.datasets)
    components: int = vae_train.Config.latent  # of the pixels, as many as the VAE has latents
    samples: int = vae_train.Config.samples  # training images, those that the VAE is measured on

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self)
        cli.check_datasets(self.datasets)


QUICK: dict[str, Any] = {"datasets": ("digits",), "components": vae_train.QUICK["latent"]}

AXES = {
    "ceiling_tl": ("component",),  # the share of the pixels' variance in the first k components
    "component": ("component",),  # k, from 1
}


def run(config: Config, dataset: str, replicas: Sequence[Replica]) -> Arrays:
    """Measure the pixels; the one replica draws nothing; name -> (1, component)."""
    images = vae_train.load_images(config, dataset)
    pixels = images.scale(vae_train.measured_images(config, images)).flatten(1).double()
    pixels -= pixels.mean(0)
    variances = torch.linalg.eigvalsh(pixels.mT @ pixels).flip(0)  # of the components
    share = variances.cumsum(0) / variances.sum()
    return {"ceiling_tl": share[: config.components].cpu().numpy()[None]}


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    for dataset in config.datasets:  # whether all are images, before any work
        vae_train.load_images(config, dataset)
    for dataset in config.datasets:
        images = vae_train.load_images(config, dataset)
        settings = {"dataset": images.name, **config.hyperparameters()}
        result = Run(config, "vae_ceiling", images.name, settings, images, AXES, (Replica(0),))
        compute = functools.partial(run, config, dataset)
        for _, arrays in runs.train(compute, [result], jobs=1):
            ceiling = arrays["ceiling_tl"][0]
            points = {"component": range(1, len(ceiling) + 1)}
            result.save({**arrays, "ceiling_tl": ceiling, **points})


if __name__ == "__main__":
    cli.run(main)
