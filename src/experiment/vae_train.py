"""Figures 5 and 10, first part: variational autoencoders are trained under several β.

Claim: see vae_target_linearity.py, which measures the checkpoints that are kept here: one an epoch,
and the best by test loss.

    python src/experiment/vae_train.py --datasets mnist
    python src/experiment/vae_train.py --scale quick

The loss of an image is its binary cross-entropy, summed over pixels, plus β times the
Kullback–Leibler divergence.

Results: results/SCALE/vae_train/DATASET-betaB-DIGEST.npz, one for each β, arrays as in AXES;
checkpoints beside each, in a folder of the same name: seedS/checkpoint-EPOCH.pt and
seedS/checkpoint-best.pt. A result that is there without its checkpoints gets the missing ones.
"""

import functools
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import program

program.begin(__name__)

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lab import checkpoints, cli, files, runs, training
from lab.data import Images
from lab.errors import DataError
from lab.models import VAE
from lab.replicas import Replica, generator, generators, make_optimizer
from lab.results import Arrays
from lab.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figures 5 and 10, the paper's; it had one seed."""

    # mnist, svhn, cifar10, cifar100, digits, or your own: see docs/data.md
    datasets: tuple[str, ...] = cli.each(("mnist", "cifar10"))
    # weights of the Kullback–Leibler divergence
    betas: tuple[float, ...] = cli.each((0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0))
    learning_rate: float = 0.0001  # rate of Adam
    # a seed draws initial weights, batch orders and the noise of the latents
    seeds: tuple[int, ...] = (0, 1, 2)
    # passes over the training set; None: the paper's, 10 for MNIST and 30 for the others
    epochs: int | None = None
    batch_size: int = 128  # samples a step
    hidden: int = 512  # units of a hidden layer; encoder and decoder have two each
    latent: int = 32  # dimensions of the latent space
    # training images, drawn at random, on which training errors and Target Linearity are measured
    samples: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, zero=("seeds",))
        cli.check_datasets(self.datasets)

    def hyperparameters(self) -> dict[str, Any]:
        """Epochs only where they do not depend on the data set."""
        unknown = {"epochs"} if self.epochs is None else set()
        return {k: v for k, v in super().hyperparameters().items() if k not in unknown}

    def with_epochs(self, name: str) -> "Config":
        """The same configuration with the number of epochs on a data set of this name."""
        paper = 10 if name == "mnist" else 30
        return replace(self, epochs=paper if self.epochs is None else self.epochs)


QUICK: dict[str, Any] = {
    "datasets": ("digits",),
    "betas": (0.05, 0.1, 1.0, 10.0),
    "learning_rate": 0.003,
    "epochs": 20,
    "batch_size": 32,
    "hidden": 64,
    "latent": 8,
}

_EPOCH = ("seed", "epoch")
SPLITS = ("train", "test")
# classes between which the figures interpolate, the paper's digits
ENDS = {"by_epoch": (1, 8), "by_beta": (8, 2)}
# means over images: binary cross-entropy and divergence in nats, bce + β kl, squared error a pixel
MEASURES = ("bce", "kl", "loss", "mse")
AXES = {
    **{f"{split}_{name}": _EPOCH for split in SPLITS for name in MEASURES},
    "best_epoch": ("seed",),  # the one of the lowest test loss
    "seed": ("seed",),
    "epoch": ("epoch",),
}


def load_images(config: Config, dataset: str) -> Images:
    """A data set with pixels in [0, 1], which is what a binary cross-entropy compares."""
    images = replace(cli.load_images(config, dataset), mean=0.0, std=1.0)
    for x in (images.x_train, images.x_test):
        if len(images.shape) != 3 or x.min() < 0 or x.max() > images.unit:
            reason = "the VAE needs images of uint8, or with pixels in [0, 1]"
            raise DataError(f"{images.name}: {reason}")
    return images


def check_classes(images: Images) -> None:
    """Raise DataError where the figures cannot be drawn of the data."""
    for label in sorted(set(itertools.chain(*ENDS.values()))):
        if not (images.y_test == label).any():
            reason = f"no test image of class {label}, which the figures show"
            raise DataError(f"{images.name}: {reason}")


def result_name(images: Images, beta: float) -> str:
    return f"{images.name}-beta{beta!r}"


def plan(config: Config, images: Images) -> dict[float, Run]:
    """β -> its run, whose checkpoints vae_target_linearity.py reads."""
    config = config.with_epochs(images.name)
    fixed, kept = config.hyperparameters(), functools.partial(has_checkpoints, config.epochs)
    options = {"lr": config.learning_rate}
    planned = {}
    for beta in config.betas:
        name = result_name(images, beta)
        settings = {"dataset": images.name, "beta": beta, **fixed}
        replicas = tuple(Replica(seed, options, {"beta": beta}) for seed in config.seeds)
        planned[beta] = Run(
            config, "vae_train", name, settings, images, AXES, replicas, has_checkpoints=kept
        )
    return planned


def checkpoint_path(result: Run, seed: int, epoch: int | str) -> Path:
    """The file of the checkpoint of an epoch, or of the "best" one."""
    return checkpoints.checkpoint(result, seed, epoch, ".pt")


def has_checkpoints(epochs: int, result: Run, replica: Replica) -> bool:
    """Whether a replica has that of every epoch, and the best one."""
    names = (*range(epochs + 1), "best")
    return all(checkpoint_path(result, replica.seed, name).is_file() for name in names)


def build(config: Config, images: Images, replicas: Sequence[Replica]) -> VAE:
    """The model of the replicas, on the configuration's device."""
    pixels = images.x_train[0].numel()
    model = VAE(pixels, config.hidden, config.latent, generators(replicas, "weights"))
    return model.to(config.resolved_device)


def terms(model: VAE, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Binary cross-entropy, divergence and squared error a pixel of each image, (R, B) each.

    Args:
        model: R replicas.
        x: images (R, B, …).
        noise: of the latents, standard normal (R, B, latent).
    """
    pixels = x.flatten(2)
    mean, log_variance = model.encode(x)
    logits = model.decode(mean + noise * (log_variance / 2).exp())
    bce = functional.binary_cross_entropy_with_logits(logits, pixels, reduction="none").sum(-1)
    kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1) / 2
    return bce, kl, (logits.sigmoid() - pixels).square().mean(-1)


def objective(model: VAE, x: Tensor, noise: Tensor, betas: Tensor) -> Tensor:
    """Mean over each replica's images of bce + β kl, summed over replicas.

    Args:
        model, x, noise: as for `terms`.
        betas: (R,).
    """
    bce, kl, _ = terms(model, x, noise)
    return (bce + betas[:, None].to(kl) * kl).mean(1).sum()


def draw_noise(sources: Sequence[torch.Generator], x: Tensor, latent: int) -> Tensor:
    """Standard normal (R, B, latent) for images x (R, B, …), replica r's from source r."""
    return torch.stack([torch.randn(x.shape[1], latent, generator=g) for g in sources]).to(x)


def measured_images(config: Config, images: Images) -> Tensor:
    """The training images that are measured, the same for every run: (N, C, H, W)."""
    order = torch.randperm(len(images.x_train), generator=generator(0, "measurement"))
    return images.x_train[order[: config.samples].to(images.x_train.device)]


@torch.no_grad()
def mean_terms(config: Config, model: VAE, images: Images, betas: Tensor) -> dict[str, Tensor]:
    """MEASURES of both splits, (R,) float64, with the same noise for every model; betas (R,)."""
    measures = {}
    for split, x in (("train", measured_images(config, images)), ("test", images.x_test)):
        source = generator(0, "measurement")
        total = torch.zeros(3, len(betas), dtype=torch.float64, device=betas.device)
        for part in x.split(training.EVALUATION_BATCH):
            batch = images.scale(part)[None]  # (1, B, C, H, W)
            noise = draw_noise([source], batch, config.latent).expand(len(betas), -1, -1)
            batch = batch.expand(len(betas), *part.shape)
            total += torch.stack([t.double().sum(-1) for t in terms(model, batch, noise)])
        bce, kl, mse = total / len(x)
        values = {"bce": bce, "kl": kl, "loss": bce + betas * kl, "mse": mse}
        measures |= {f"{split}_{name}": value for name, value in values.items()}
    return measures


def run(config: Config, dataset: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch and keep their checkpoints; name -> (R, epoch)."""
    images = load_images(config, dataset)
    config = config.with_epochs(images.name)
    planned = plan(config, images)
    betas = [replica.settings["beta"] for replica in replicas]
    beta_values = torch.tensor(betas, dtype=torch.float64, device=images.x_train.device)
    model = build(config, images, replicas)
    optimizer = make_optimizer(torch.optim.Adam, model, replicas, fused=True)
    orders, sources = generators(replicas, "order"), generators(replicas, "noise")
    lowest = torch.full_like(beta_values, torch.inf)  # test losses so far
    description = f"{images.name} β {betas[0]} seed {replicas[0].seed}"
    for replica in replicas:  # no epoch of another training among those of this one
        result = planned[replica.settings["beta"]]
        files.remove(checkpoints.seed_folder(result, replica.seed))
    with training.Epochs(config.epochs, model, description) as epochs:
        for epoch in epochs:  # 0: before training
            if epoch > 0:
                for x, _ in training.shuffled_batches(images, config.batch_size, orders):
                    noise = draw_noise(sources, x, config.latent)
                    objective(model, x, noise, beta_values).backward()
                    optimizer.step()
                    optimizer.zero_grad()
            measures = mean_terms(config, model, images, beta_values)
            epochs.check(measures.values())
            epochs.record(measures)
            is_best = measures["test_loss"] < lowest
            lowest = torch.minimum(lowest, measures["test_loss"])
            for r, replica in enumerate(replicas):
                result, seed = planned[betas[r]], replica.seed
                state = {name: p[r : r + 1].clone() for name, p in model.state_dict().items()}
                origin = checkpoints.identity(result, seed) | {"epoch": epoch}
                for name in (epoch, "best") if is_best[r] else (epoch,):
                    path = checkpoint_path(result, seed, name)
                    checkpoints.write(path, state, origin | {"checkpoint": name})
    return epochs.arrays


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    for dataset in config.datasets:  # whether the figures can be drawn of it, before any work
        check_classes(load_images(config, dataset))
    for dataset in config.datasets:
        planned = plan(config, load_images(config, dataset))
        function = functools.partial(run, config, dataset)
        for result, arrays in runs.train(function, list(planned.values())):
            losses = arrays["test_loss"]  # (R, epoch)
            arrays["best_epoch"] = np.nan_to_num(losses, nan=np.inf).argmin(-1)
            result.save(arrays | {"seed": config.seeds, "epoch": range(losses.shape[-1])})


if __name__ == "__main__":
    cli.run(main)
