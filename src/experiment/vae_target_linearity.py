"""Figures 5 and 10, second part: Target Linearity and interpolation of the variational autoencoders.

Claim: the lower β, the higher Target Linearity, and the closer to linear the interpolation. It reads the checkpoints
that vae_train.py leaves, and takes the same options.

    python src/experiment/vae_target_linearity.py --datasets mnist
    python src/experiment/vae_target_linearity.py --scale quick

Results: results/SCALE/vae_target_linearity/DATASET-DIGEST.npz, arrays as in AXES. Features H are the means μ of
training images, targets Y their pixels; interpolation decodes λ μ₁ + (1 − λ) μ₂ and compares with λ x₁ + (1 − λ) x₂.
Images are uint8, 255 for a pixel of one.
"""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import checkpoints
import cli
import data
import training
from core.linearity import moments_surrogate, report
from core.moments import FeatureMoments
from experiment import vae_train
from models import VAE
from results import Arrays, Partial
from training import Replica


@dataclass(frozen=True, kw_only=True)
class Config(vae_train.Config):
    """Those of vae_train.py, whose checkpoints are measured, and the paper's of the figures."""

    steps: int = 10
    """points λ of an interpolation, from 0 to 1"""
    pairs: int = 1000
    """pairs of test images, drawn at random, over which interpolation errors are means"""
    shown_beta: float = 1.0
    """the β whose interpolation is shown by epoch"""
    shown_epochs: int = 6
    """epochs of it that are shown, from before training to the last"""

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, positive=("pairs",))
        if min(self.steps, self.shown_epochs) < 2:
            raise cli.ConfigError("steps and shown_epochs must be 2 or more")
        if self.shown_beta not in self.betas:
            raise cli.ConfigError(f"shown_beta must be one of betas, not {self.shown_beta}")


QUICK: dict[str, Any] = {**vae_train.QUICK, "pairs": 200}
ENDS = {"by_epoch": (1, 8), "by_beta": (8, 2)}  # classes between which the figures interpolate, the paper's digits

_BY_EPOCH = ("beta", "seed", "epoch")
_IMAGE = ("channel", "row", "column")
AXES = {
    **dict.fromkeys(("tl", "rank", "chance", "surrogate"), _BY_EPOCH),  # with the decoder's first weight
    "interpolation_error": _BY_EPOCH,  # mean squared difference a pixel from the images' own interpolation
    "decoder_nonlinearity": _BY_EPOCH,  # the same from the interpolation of the two decoded images
    "variance_around_own_mean": (),  # of the centred targets, over their variance: the published TL divides by it
    "best_epoch": ("beta", "seed"),
    "by_epoch": ("shown_epoch", "lambda", *_IMAGE),  # the first seed's
    "by_epoch_mse": ("shown_epoch",),
    "by_epoch_pixels": ("lambda", *_IMAGE),
    "by_beta": ("beta", "lambda", *_IMAGE),  # the first seed's, at its best epoch
    "by_beta_mse": ("beta",),
    "by_beta_pixels": ("lambda", *_IMAGE),
    "originals": ("image", *_IMAGE),  # one test image a class
    "reconstructions": ("beta", "image", *_IMAGE),  # the first seed's, at its best epoch
    **{name: (name,) for name in ("beta", "seed", "epoch", "shown_epoch", "lambda")},
}


def mix(first: Tensor, second: Tensor, steps: int) -> Tensor:
    """λ first + (1 − λ) second for λ evenly from 0 to 1; (N, …) -> (N, steps, …)."""
    shares = torch.linspace(0, 1, steps, dtype=first.dtype, device=first.device).view(-1, *[1] * (first.ndim - 1))
    return shares * first[:, None] + (1 - shares) * second[:, None]


def decode(model: VAE, z: Tensor) -> Tensor:
    """Pixels in [0, 1] of latents (…, latent)."""
    return model.decode(z.flatten(0, -2)[None])[0].sigmoid().unflatten(0, z.shape[:-1])


def interpolate(model: VAE, x: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Between x[0] and x[1], x (2, N, C, H, W): decoded, of pixels, and of the decoded ends; each (N, steps, d)."""
    means, _ = model.encode(x.flatten(0, 1)[None])
    first, second = means[0].chunk(2)  # (N, latent)
    decoded = decode(model, mix(first, second, steps))
    return decoded, mix(*x.flatten(2), steps), mix(decoded[:, -1], decoded[:, 0], steps)


def to_bytes(pixels: Tensor, shape: Sequence[int]) -> np.ndarray:
    """Pixels (…, d) in [0, 1] as uint8 images (…, *shape)."""
    return (255 * pixels).round().to(torch.uint8).unflatten(-1, tuple(shape)).cpu().numpy()


def first_of(images: data.Images, label: int) -> Tensor:
    """The first test image of a class, scaled: (C, H, W)."""
    return images.scale(images.x_test[int((images.y_test == label).nonzero()[0])])


class Reader:
    """Reads checkpoints of a data set into one model."""

    def __init__(self, config: Config, images: data.Images) -> None:
        self.config, self.images = config, images
        self.model = vae_train.build(config, images, [training.generator(0, "weights")])
        self.model.to(config.resolved_device).requires_grad_(False)

    def __call__(self, beta: float, seed: int, epoch: int | str) -> int:
        """Restore the model of an epoch or the "best" one; returns its epoch."""
        path = vae_train.checkpoint(self.config, self.images, beta, seed, epoch)
        made = vae_train.made(self.config, self.images, beta, seed)
        return checkpoints.restore(self.model, path, made, "vae_train")["epoch"]


def measure(config: Config, dataset: str, replicas: Sequence[Replica]) -> Arrays:
    """Every epoch of each replica; name -> (R, epochs + 1), and best_epoch (R,)."""
    images = vae_train.load(config, dataset)
    read = Reader(config, images)
    encode, weight = read.model.encode, read.model.decoder.layers[0].weight
    measured = images.scale(vae_train.measured_images(config, images))
    pixels = measured.flatten(1).double()
    g = training.generator(0, "measurement")
    ends = images.scale(images.x_test[torch.randint(len(images.x_test), (2 * config.pairs,), generator=g)])
    ends = ends.unflatten(0, (2, -1))  # (2, pairs, C, H, W)
    epochs = range(vae_train.epochs(config, images.name) + 1)

    def row(beta: float, seed: int, epoch: int) -> dict[str, float]:
        read(beta, seed, epoch)
        moments = FeatureMoments(diagonal_targets=True).update(encode(measured[None])[0][0], pixels)
        found = report(moments)
        decoded, of_pixels, of_ends = interpolate(read.model, ends, config.steps)
        return {
            "tl": found.value,
            "rank": found.rank,
            "chance": found.chance,
            "surrogate": moments_surrogate(moments, weight[0]),
            "interpolation_error": float((decoded - of_pixels).square().mean()),
            "decoder_nonlinearity": float((decoded - of_ends).square().mean()),
        }

    of_replicas = []
    for replica in replicas:
        beta, seed = replica.settings["beta"], replica.seed
        with training.progress(len(epochs), f"{images.name} β {beta} seed {seed}") as bar:
            rows = []
            for epoch in epochs:
                rows.append(row(beta, seed, epoch))
                bar.update()
        arrays = {name: np.array([values[name] for values in rows]) for name in rows[0]}
        of_replicas.append(arrays | {"best_epoch": np.array(read(beta, seed, "best"))})
    return {name: np.stack([arrays[name] for arrays in of_replicas]) for name in of_replicas[0]}


def show(config: Config, dataset: str) -> Arrays:
    """What the figures show of the first seed: interpolations, originals and reconstructions."""
    images = vae_train.load(config, dataset)
    read, seed, epochs = Reader(config, images), config.seeds[0], vae_train.epochs(config, images.name)
    shown = np.linspace(0, epochs, min(config.shown_epochs, epochs + 1)).round().astype(int)
    originals = torch.stack([first_of(images, label) for label in images.y_test.unique().tolist()])
    models: dict[str, list[tuple[float, int | str]]] = {
        "by_epoch": [(config.shown_beta, int(epoch)) for epoch in shown],
        "by_beta": [(beta, "best") for beta in config.betas],
    }
    arrays = {"shown_epoch": shown, "originals": to_bytes(originals.flatten(1), images.shape)}
    for name, classes in ENDS.items():
        ends = torch.stack([first_of(images, label) for label in classes])[:, None]  # (2, 1, C, H, W)
        rows, errors, decodings = [], [], []
        for beta, epoch in models[name]:
            read(beta, seed, epoch)
            decoded, of_pixels, _ = interpolate(read.model, ends, config.steps)
            rows.append(to_bytes(decoded[0], images.shape))
            errors.append(float((decoded - of_pixels).square().mean()))
            decodings.append(to_bytes(decode(read.model, read.model.encode(originals[None])[0][0]), images.shape))
        arrays |= {name: np.stack(rows), f"{name}_mse": np.array(errors)}
        arrays[f"{name}_pixels"] = to_bytes(of_pixels[0], images.shape)
    return arrays | {"reconstructions": np.stack(decodings)}


def run(config: Config, dataset: str, partial: Partial | None = None) -> Arrays:
    """Measure every checkpoint; arrays as in AXES."""
    images = vae_train.load(config, dataset)
    runs = training.train_all(
        functools.partial(measure, config, dataset),
        [Replica(seed, settings={"beta": beta}) for beta in config.betas for seed in config.seeds],
        device=config.resolved_device,
        jobs=config.jobs,
        partial=partial,
    )
    arrays = training.grid({"beta": config.betas, "seed": config.seeds}, runs) | show(config, dataset)
    pixels = images.scale(vae_train.measured_images(config, images)).flatten(1).double()
    pixels -= pixels.mean(0)
    own = pixels - pixels.mean(1, keepdim=True)
    arrays["variance_around_own_mean"] = np.array(float(own.square().sum() / pixels.square().sum()))
    named = {"beta": config.betas, "seed": config.seeds, "epoch": range(arrays["tl"].shape[-1])}
    named["lambda"] = np.linspace(0, 1, config.steps)
    return arrays | {name: np.array(values) for name, values in named.items()}


def main() -> None:
    config = cli.parse(Config, QUICK, description=__doc__)
    cli.prepare(config)
    for dataset in config.datasets:  # that the figures can be drawn of it, before any work
        images = vae_train.load(config, dataset)
        for label in sorted({label for classes in ENDS.values() for label in classes}):
            if not (images.y_test == label).any():
                raise cli.ConfigError(f"{images.name}: no test image of class {label}, which the figures show")
    for dataset in config.datasets:
        images = vae_train.load(config, dataset)
        fixed = config.hyperparameters("datasets")
        settings = {"dataset": images.name, **fixed, "epochs": vae_train.epochs(config, images.name)}

        def compute(_: Sequence[cli.Output], partial: Partial, dataset: str = dataset) -> list[Arrays]:
            return [run(config, dataset, partial)]

        output = cli.Output(images.name, settings)
        cli.produce(config, "vae_target_linearity", images, AXES, [output], compute)


if __name__ == "__main__":
    cli.run(main)
