"""Figure 10's ceiling: the Target Linearity that principal components of the pixels reach.

The targets of a VAE's Target Linearity are pixels, and no k features explain more of their variance
than the first k principal components do. It is measured on the training images that
vae_target_linearity.py measures. As principal components are latents too, and the images' own,
Proposition 3 is measured of them, beside what it must beat to say anything: a decoder that gives
the mean image whatever the latents are.

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

import numpy as np
import torch
from torch import Tensor

from core.linearity import report
from core.moments import FeatureMoments
from experiment import vae_train
from experiment.vae_target_linearity import SHARES, mixture_sides
from lab import cli, runs
from lab.replicas import Replica
from lab.results import Arrays
from lab.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """The data of Figure 10."""

    # mnist, svhn, cifar10, cifar100, digits, or your own: see docs/data.md
    datasets: tuple[str, ...] = cli.each(vae_train.Config.datasets)
    components: int = vae_train.Config.latent  # of the pixels, as many as the VAE has latents
    samples: int = vae_train.Config.samples  # training images, those that the VAE is measured on
    # the first of them, of which every pair is mixed for Proposition 3
    mixed: int = cli.added(1000, earlier=1000)

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self)
        cli.check_datasets(self.datasets)


QUICK: dict[str, Any] = {"datasets": ("digits",), "components": vae_train.QUICK["latent"]}

AXES = {
    "ceiling_tl": ("component",),  # the share of the pixels' variance in the first k components
    "component": ("component",),  # k, from 1
    # Proposition 3 with all components as latents: its left side at each α, the mean distance of
    # mixtures of images from their least-squares map, and of the mean image; the right side, the
    # map's mean error, and the map's root mean square error, √(1 − T₀) times the images' spread
    **dict.fromkeys(("mixture_left", "mixture_constant"), ("share",)),
    **dict.fromkeys(("mixture_right", "mixture_rms"), ()),
    "share": ("share",),  # α
}


def run(config: Config, dataset: str, replicas: Sequence[Replica]) -> Arrays:
    """Measure the pixels; the one replica draws nothing; name -> (1, component)."""
    images = vae_train.load_images(config, dataset)
    pixels = images.scale(vae_train.measured_images(config, images)).flatten(1).double()
    pixels -= pixels.mean(0)
    variances, directions = torch.linalg.eigh(pixels.mT @ pixels)
    variances, directions = variances.flip(0), directions.flip(1)[:, : config.components]
    share = variances.cumsum(0) / variances.sum()
    measures = mixture_measures(pixels[: config.mixed] @ directions, pixels[: config.mixed])
    measures["ceiling_tl"] = share[: config.components].cpu().numpy()
    return {name: np.asarray(values)[None] for name, values in measures.items()}


def mixture_measures(z: Tensor, x: Tensor) -> dict[str, np.ndarray | float]:
    """Proposition 3 of latents z (N, k) of images x (N, d), see AXES."""
    lefts, right = mixture_sides(z, x)
    constants, _ = mixture_sides(torch.zeros_like(z), x)
    unexplained = 1 - report(FeatureMoments(diagonal_targets=True).update(z, x)).value
    spread = (x - x.mean(0)).square().sum() / len(x)
    return {
        "mixture_left": lefts,
        "mixture_constant": constants,
        "mixture_right": right,
        "mixture_rms": float((unexplained * spread).sqrt()),
    }


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
            arrays |= {name: arrays[name][0] for name in AXES.keys() & arrays.keys()}
            points = {"component": range(1, len(arrays["ceiling_tl"]) + 1), "share": SHARES}
            result.save(arrays | points)


if __name__ == "__main__":
    cli.run(main)
