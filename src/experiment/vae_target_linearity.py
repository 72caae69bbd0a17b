"""Figures 5 and 10, second part: Target Linearity and interpolation of variational autoencoders.

Claim: the lower β, the higher Target Linearity, and the closer to linear the interpolation.

    python src/experiment/vae_target_linearity.py --datasets mnist
    python src/experiment/vae_target_linearity.py --scale quick

It reads the checkpoints that vae_train.py leaves, and how they were trained in its results.
Features H are the means μ of training images, targets Y their pixels. Interpolation decodes
α μ₁ + (1 − α) μ₂ and compares it with α x₁ + (1 − α) x₂. Both sides of Proposition 3 are measured
at the best epochs; what of it needs no autoencoder is in vae_ceiling.py.

Results: results/SCALE/vae_target_linearity/DATASET-DIGEST.npz, arrays as in AXES. Images are
uint8, 255 for a pixel of one.
"""

import functools
import itertools
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

from core.bounds import interpolation_bound
from core.linearity import moments_surrogate, report
from core.moments import FeatureMoments
from experiment import vae_train
from experiment.vae_train import ENDS
from lab import checkpoints, cli, files, memory, results, runs
from lab.data import Images
from lab.errors import ConfigError, ResultError
from lab.models import VAE
from lab.replicas import Replica, generator, progress_bar
from lab.results import Arrays
from lab.runs import Run

PAIRS_AT_ONCE = 100  # that are interpolated, for their memory
SHOWN_EPOCHS = 6  # whose interpolations are shown, from before training to the last
SHARES = (0.1, 0.25, 0.5)  # α of Proposition 3, the last of them ½


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """What is measured of the autoencoders, and the paper's settings of the figures."""

    # mnist, svhn, cifar10, cifar100, digits, or paths of .npz files
    datasets: tuple[str, ...] = cli.each(vae_train.Config.datasets)
    # weights of the Kullback–Leibler divergence; one result holds all of them
    betas: tuple[float, ...] = vae_train.Config.betas
    seeds: tuple[int, ...] = vae_train.Config.seeds  # of the training
    steps: int = 10  # points α of an interpolation, from 0 to 1
    # pairs of test images, drawn at random, over which interpolation errors are means
    pairs: int = 1000
    # training images, the first of those measured, of which every pair is mixed for Proposition 3
    mixed: int = cli.added(1000, earlier=1000)
    shown_beta: float = 1.0  # the β whose interpolation is shown by epoch

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, zero=("seeds",))
        cli.check_datasets(self.datasets)
        if self.steps < 2:
            raise ConfigError(f"steps must be 2 or more, not {self.steps}")
        if self.shown_beta not in self.betas:
            raise ConfigError(f"shown_beta must be one of betas, not {self.shown_beta}")

    def hyperparameters(self) -> dict[str, Any]:
        """With those of vae_train.py's default, in whose place a result has its training's."""
        trained = cli.preset(vae_train, self.scale).hyperparameters()
        return {**trained, **super().hyperparameters(), "shown_epochs": SHOWN_EPOCHS}


QUICK: dict[str, Any] = {
    "datasets": vae_train.QUICK["datasets"],
    "betas": vae_train.QUICK["betas"],
    "pairs": 200,
}

_EPOCH = ("beta", "seed", "epoch")
_IMAGE = ("channel", "row", "column")
AXES = {
    # Target Linearity, and the surrogate with the decoder's first weight
    **dict.fromkeys(("tl", "rank", "chance", "surrogate"), _EPOCH),
    # mean squared difference a pixel from the images' own interpolation
    "interpolation_error": _EPOCH,
    "decoder_nonlinearity": _EPOCH,  # the same from the interpolation of the two decoded images
    # of the centred targets, over their variance: the published TL divides by it
    "variance_around_own_mean": (),
    "best_epoch": ("beta", "seed"),
    # Proposition 3 at the best epoch, half of one image and half of another: the mean distance from
    # the mixture of images, by the least-squares map from μ to pixels and by the trained decoder,
    # and the map's mean error, which bounds the first; the first at every α of SHARES
    **dict.fromkeys(("mixture_left", "mixture_decoder", "mixture_right"), ("beta", "seed")),
    "share_left": ("beta", "seed", "share"),
    "by_epoch": ("shown_epoch", "lambda", *_IMAGE),  # the first seed's
    "by_epoch_mse": ("shown_epoch",),
    "by_epoch_pixels": ("lambda", *_IMAGE),
    "by_beta": ("beta", "lambda", *_IMAGE),  # the first seed's, at its best epoch
    "by_beta_mse": ("beta",),
    "by_beta_pixels": ("lambda", *_IMAGE),
    "originals": ("image", *_IMAGE),  # one test image a class
    "reconstructions": ("beta", "image", *_IMAGE),  # the first seed's, at its best epoch
    **{name: (name,) for name in ("beta", "seed", "epoch", "shown_epoch", "lambda", "share")},
}


def find_training(config: Config, images: Images) -> vae_train.Config:
    """How the autoencoders of these images were trained, all of them alike."""
    own = {"datasets": config.datasets, "betas": config.betas}
    every = []
    for beta in config.betas:
        name, wanted = vae_train.result_name(images, beta), {"beta": beta, "seeds": config.seeds}
        every.append(checkpoints.training(vae_train, config, name, wanted, **own))
    if any(training != every[0] for training in every):
        raise ResultError(f"{images.name}: some β were trained otherwise: measure them apart")
    return every[0]


def plan(config: Config, training: vae_train.Config, images: Images) -> Run:
    """The result of one data set."""
    grid = itertools.product(config.betas, config.seeds)
    replicas = tuple(Replica(seed, settings={"beta": beta}) for beta, seed in grid)
    settings = {**config.hyperparameters(), **training.hyperparameters(), "dataset": images.name}
    return Run(config, "vae_target_linearity", images.name, settings, images, AXES, replicas)


def mix(first: Tensor, second: Tensor, steps: int) -> Tensor:
    """α first + (1 − α) second for α evenly from 0 to 1; (N, …) -> (N, steps, …)."""
    shares = torch.linspace(0, 1, steps, dtype=first.dtype, device=first.device)
    shares = shares.view(-1, *[1] * (first.ndim - 1))
    return shares * first[:, None] + (1 - shares) * second[:, None]


def decode(model: VAE, z: Tensor) -> Tensor:
    """Pixels in [0, 1] of latents: (…, latent) -> (…, d)."""
    return model.decode(z.flatten(0, -2)[None])[0].sigmoid().unflatten(0, z.shape[:-1])


def interpolate(model: VAE, pairs: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """From the second image of each pair to the first, three ways.

    Args:
        model: one replica.
        pairs: first and second images (2, N, C, H, W).
        steps: points α.

    Returns:
        (N, steps, d) each: mixed latents, decoded; mixed pixels; mixed reconstructions.
    """
    means, _ = model.encode(pairs.flatten(0, 1)[None])
    first, second = means[0].chunk(2)  # (N, latent)
    decoded = decode(model, mix(first, second, steps))
    return decoded, mix(*pairs.flatten(2), steps), mix(decoded[:, -1], decoded[:, 0], steps)


def to_bytes(pixels: Tensor, shape: Sequence[int]) -> np.ndarray:
    """Pixels (…, d) in [0, 1] as uint8 images (…, *shape)."""
    return (255 * pixels).round().to(torch.uint8).unflatten(-1, tuple(shape)).cpu().numpy()


def first_image(images: Images, label: int) -> Tensor:
    """The first test image of a class, scaled: (C, H, W)."""
    return images.scale(images.x_test[int((images.y_test == label).nonzero()[0])])


def restore(model: VAE, trained: Run, seed: int, epoch: int | str) -> int:
    """Load the checkpoint of an epoch, or the "best" one; returns its epoch."""
    path = vae_train.checkpoint_path(trained, seed, epoch)
    wanted = checkpoints.identity(trained, seed) | {"checkpoint": epoch}
    if epoch == "best" and files.exists(trained.path):
        result = results.read(trained.path)
        wanted["epoch"] = int(result["best_epoch"][result["seed"].tolist().index(seed)])
    return checkpoints.restore(model, path, wanted, "vae_train")["epoch"]


@torch.no_grad()
def model_measures(model: VAE, x: Tensor, pairs: Tensor, steps: int) -> dict[str, float]:
    """Target Linearity of x (N, C, H, W), and interpolation errors of pairs (2, P, C, H, W)."""
    means, _ = model.encode(x[None])
    moments = FeatureMoments(diagonal_targets=True).update(means[0], x.flatten(1))
    linearity = report(moments)
    pixel_errors, end_errors = [], []
    for some in pairs.split(PAIRS_AT_ONCE, dim=1):
        decoded, mixed_pixels, mixed_ends = interpolate(model, some, steps)
        pixel_errors.append((decoded - mixed_pixels).square().mean((1, 2), dtype=torch.float64))
        end_errors.append((decoded - mixed_ends).square().mean((1, 2), dtype=torch.float64))
    return {
        "tl": linearity.value,
        "rank": linearity.rank,
        "chance": linearity.chance,
        "surrogate": moments_surrogate(moments, model.decoder.layers[0].weight[0]),
        "interpolation_error": float(torch.cat(pixel_errors).mean()),
        "decoder_nonlinearity": float(torch.cat(end_errors).mean()),
    }


def mixture_sides(z: Tensor, x: Tensor) -> tuple[np.ndarray, float]:
    """Left side of Proposition 3 at every α of SHARES, and the right one; z (N, k), x (N, d)."""
    sides = [interpolation_bound(z, x, share) for share in SHARES]
    return np.array([left for left, _ in sides]), float(sides[0][1])


@torch.no_grad()
def mixture_measures(model: VAE, x: Tensor) -> dict[str, float | np.ndarray]:
    """Proposition 3 over all pairs of images x (N, C, H, W), see AXES; the decoder's at α = ½."""
    means, _ = model.encode(x[None])
    z, pixels = means[0], x.flatten(1)
    lefts, right = mixture_sides(z, pixels)
    total = 0.0
    for i in range(len(z)):  # pairs (i, j) with j ≥ i; (j, i) has the same mixture
        decoded = decode(model, (z[i] + z[i:]) / 2)
        distances = (decoded - (pixels[i] + pixels[i:]) / 2).norm(dim=-1).double()
        total += float(2 * distances.sum() - distances[0])
    return {
        "mixture_left": lefts[-1],
        "mixture_decoder": total / len(z) ** 2,
        "mixture_right": right,
        "share_left": lefts,
    }


def run(
    config: Config, training: vae_train.Config, dataset: str, replicas: Sequence[Replica]
) -> Arrays:
    """Measure every checkpoint of the replicas; name -> (R, epoch), of the best epoch (R, …)."""
    images = vae_train.load_images(config, dataset)
    trained = vae_train.plan(training, images)
    model = vae_train.build(training, images, replicas[:1])
    x = images.scale(vae_train.measured_images(training, images))
    pixels = images.x_train[0].numel()
    memory.check("the pairs' images", 2 * config.pairs * pixels)
    at_once = min(config.pairs, PAIRS_AT_ONCE)
    memory.check("interpolating pairs", 5 * at_once * config.steps * pixels)
    source = generator(0, "measurement")
    drawn = torch.randint(len(images.x_test), (2 * config.pairs,), generator=source)
    pairs = images.scale(images.x_test[drawn]).unflatten(0, (2, -1))  # (2, pairs, C, H, W)
    rows, best = [], []
    for replica in replicas:
        beta, seed = replica.settings["beta"], replica.seed
        diverged = checkpoints.divergence(trained[beta], seed)
        with progress_bar(training.epochs + 1, f"{images.name} β {beta} seed {seed}") as bar:
            for epoch in range(training.epochs + 1):
                if diverged is not None and epoch == diverged.epoch:
                    diverged.arrays = runs.stack(rows) if rows else {}
                    raise diverged
                restore(model, trained[beta], seed, epoch)
                rows.append(model_measures(model, x, pairs, config.steps))
                bar.update()
        epoch = restore(model, trained[beta], seed, "best")
        best.append({"best_epoch": epoch} | mixture_measures(model, x[: config.mixed]))
    measures = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    measures = runs.unflatten(measures, len(replicas), training.epochs + 1)
    return measures | {name: np.array([row[name] for row in best]) for name in best[0]}


@torch.no_grad()
def show(config: Config, training: vae_train.Config, images: Images) -> Arrays:
    """What the figures show of the first seed, of those that did not diverge.

    Interpolations, originals and reconstructions.
    """
    trained = vae_train.plan(training, images)
    whole = (
        seed
        for seed in config.seeds
        if not any(checkpoints.divergence(run, seed) for run in trained.values())
    )
    seed = next(whole, config.seeds[0])
    model = vae_train.build(training, images, [Replica(seed)])
    shown = np.linspace(0, training.epochs, min(SHOWN_EPOCHS, training.epochs + 1))
    shown = shown.round().astype(int)
    models = {
        "by_epoch": [(config.shown_beta, int(epoch)) for epoch in shown],
        "by_beta": [(beta, "best") for beta in config.betas],
    }
    arrays: Arrays = {"shown_epoch": shown}
    for name, labels in ENDS.items():
        pair = torch.stack([first_image(images, label) for label in labels])[:, None]
        decodings, errors = [], []
        for beta, epoch in models[name]:
            restore(model, trained[beta], seed, epoch)
            decoded, mixed_pixels, _ = interpolate(model, pair, config.steps)  # (1, steps, d)
            decodings.append(decoded[0])
            errors.append(float((decoded - mixed_pixels).square().mean()))
        arrays[name] = to_bytes(torch.stack(decodings), images.shape)
        arrays[f"{name}_mse"] = np.array(errors)
        arrays[f"{name}_pixels"] = to_bytes(mixed_pixels[0], images.shape)
    originals = torch.stack([first_image(images, k) for k in images.y_test.unique().tolist()])
    reconstructions = []
    for beta in config.betas:
        restore(model, trained[beta], seed, "best")
        means, _ = model.encode(originals[None])
        reconstructions.append(decode(model, means[0]))
    arrays["originals"] = to_bytes(originals.flatten(1), images.shape)
    arrays["reconstructions"] = to_bytes(torch.stack(reconstructions), images.shape)
    return arrays


def variance_around_own_mean(training: vae_train.Config, images: Images) -> float:
    """Of the pixels, see AXES."""
    pixels = images.scale(vae_train.measured_images(training, images)).flatten(1).double()
    pixels -= pixels.mean(0)
    own = pixels - pixels.mean(1, keepdim=True)
    return float(own.square().sum() / pixels.square().sum())


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    every = {dataset: vae_train.load_images(config, dataset) for dataset in config.datasets}
    for images in every.values():  # whether the figures can be drawn of it, before any work
        vae_train.check_classes(images)
    trainings = {dataset: find_training(config, images) for dataset, images in every.items()}
    for dataset, images in every.items():
        training = trainings[dataset]
        result = plan(config, training, images)
        with checkpoints.reading(vae_train.plan(training, images).values()):
            function = functools.partial(run, config, training, dataset)
            for _, arrays in runs.train(function, [result]):
                arrays = runs.unflatten(arrays, len(config.betas), len(config.seeds))
                arrays["variance_around_own_mean"] = variance_around_own_mean(training, images)
                points = {"epoch": range(training.epochs + 1)}
                points |= {"lambda": np.linspace(0, 1, config.steps), "share": SHARES}
                replica_points = {"beta": config.betas, "seed": config.seeds}
                shown = show(config, training, images)
                result.save(arrays | shown | replica_points | points)


if __name__ == "__main__":
    cli.run(main)
