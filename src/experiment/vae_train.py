"""Figures 5 and 10, first part: training variational autoencoders under several β.

Loss: summed binary cross-entropy per image + β KL. Every epoch and the best one by test loss are kept as checkpoints,
which vae_target_linearity.py measures.

    python src/experiment/vae_train.py --datasets mnist
    python src/experiment/vae_train.py --scale quick

Results: results/SCALE/vae_train/DATASET-betaB-DIGEST.npz, one a β, arrays as in AXES; checkpoints beside them, in a
folder of the same name: seedS-epochE.pt and seedS-best.pt.
"""

import functools
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

import checkpoints
import cli
import data
import results
import training
from models import VAE
from results import Arrays, Partial
from training import Replica


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figures 5 and 10, the paper's; it had one seed."""

    datasets: tuple[str, ...] = ("mnist", "cifar10")
    """mnist, svhn, cifar10, cifar100, digits, or paths of .npz files"""
    betas: tuple[float, ...] = (0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
    """weights of the Kullback–Leibler divergence"""
    learning_rate: float = 0.0001
    """rate of Adam"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """a seed draws initial weights, batch orders and the noise of the latents"""
    epochs: int = 0
    """passes over the training set; 0: the paper's, 10 for MNIST and 30 for the others"""
    batch_size: int = 128
    """samples a step"""
    hidden: int = 512
    """units of a hidden layer, of which encoder and decoder have two each"""
    latent: int = 32
    """dimensions of the latent space"""
    samples: int = 10_000
    """training images, drawn at random, on which training errors and Target Linearity are measured"""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("betas", "learning_rate", "batch_size", "hidden", "latent", "samples")
        cli.check(self, positive=positive, natural=("seeds", "epochs"))
        cli.check_datasets(self.datasets)


QUICK: dict[str, Any] = {
    "datasets": ("digits",),
    "betas": (0.05, 0.1, 1.0, 10.0),
    "learning_rate": 0.003,
    "epochs": 20,
    "batch_size": 32,
    "hidden": 64,
    "latent": 8,
}

_BY_EPOCH = ("beta", "seed", "epoch")
MEASURES = ("bce", "kl", "loss", "mse")
AXES = {
    # means over images: binary cross-entropy and divergence in nats, their weighted sum, squared error a pixel
    **{f"{split}_{name}": _BY_EPOCH for split in ("train", "test") for name in MEASURES},
    "best_epoch": ("beta", "seed"),  # the one of the lowest test loss
    **{name: (name,) for name in ("beta", "seed", "epoch")},
}


def load(config: Config, dataset: str) -> data.Images:
    """A data set with pixels in [0, 1], which is what a binary cross-entropy compares."""
    images = replace(data.load(dataset, config.data, config.resolved_device), mean=0.0, std=1.0)
    for x in (images.x_train, images.x_test):
        if len(images.shape) != 3 or x.min() < 0 or x.max() > images.unit:
            raise cli.ConfigError(f"{images.name}: the VAE needs images with pixels in [0, 1] or of uint8")
    return images


def settings(config: Config, images: data.Images, beta: float) -> dict[str, Any]:
    """The configuration of one result and its checkpoints."""
    fixed = config.hyperparameters("datasets", "betas", of=Config)
    return {"dataset": images.name, "beta": beta, **fixed, "epochs": epochs(config, images.name)}


def epochs(config: Config, label: str) -> int:
    """Epochs on a data set of this name."""
    return config.epochs or (10 if label == "mnist" else 30)


def of_data_set(config: Config, label: str) -> Config:
    """The same configuration with the epochs that it means on a data set of this name."""
    return replace(config, epochs=epochs(config, label))


def checkpoint(config: Config, images: data.Images, beta: float, seed: int, epoch: int | str) -> Path:
    """Path of the checkpoint of an epoch, or of the "best" one."""
    name = f"{images.name}-beta{beta!r}"
    folder = results.path_for(config.results, config.scale, "vae_train", name, settings(config, images, beta))
    return folder.with_suffix("") / (
        f"seed{seed}-" + (epoch if isinstance(epoch, str) else f"epoch{epoch:03d}") + ".pt"
    )


def made(config: Config, images: data.Images, beta: float, seed: int) -> dict[str, Any]:
    """What a checkpoint must say made it."""
    return {"settings": settings(config, images, beta), "seed": seed, "data": images.fingerprint}


def build(config: Config, images: data.Images, generators: Sequence[torch.Generator]) -> VAE:
    """VAE d–512×2–(32, 32), 32–512×2–d, one replica a generator."""
    return VAE(images.x_train[0].numel(), config.hidden, config.latent, generators)


def terms(model: VAE, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Binary cross-entropy, divergence and squared error a pixel of each image, (R, B) each.

    x: (R, B, …). noise: (R, B, latent), standard normal.
    """
    pixels = x.flatten(2)
    mean, log_variance = model.encode(x)
    logits = model.decode(mean + noise * (log_variance / 2).exp())
    bce = functional.binary_cross_entropy_with_logits(logits, pixels, reduction="none").sum(-1)
    kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1) / 2
    return bce, kl, (logits.sigmoid() - pixels).square().mean(-1)


def measured_images(config: Config, images: data.Images) -> Tensor:
    """The training images on which errors and Target Linearity are measured, the same for every run: (N, C, H, W)."""
    order = torch.randperm(len(images.x_train), generator=training.generator(0, "measurement"))
    return images.x_train[order[: config.samples].to(images.x_train.device)]


def noise(generators: Sequence[torch.Generator], samples: int, latent: int, like: Tensor) -> Tensor:
    """Standard normal (R, samples, latent), replica r drawn by generator r, on the device of `like`."""
    return torch.stack([torch.randn(samples, latent, generator=g) for g in generators]).to(like)


def objective(replicas: Sequence[Replica], latent: int) -> Callable[[VAE, Tensor, Tensor], Tensor]:
    """The loss of a batch for `training.train`: mean over images of BCE + β KL, summed over replicas."""
    generators = [training.generator(replica.seed, "noise") for replica in replicas]
    betas = torch.tensor([[replica.settings["beta"]] for replica in replicas])  # (R, 1)

    def loss(model: VAE, x: Tensor, _: Tensor) -> Tensor:
        bce, kl, _ = terms(model, x, noise(generators, x.shape[1], latent, x))
        return (bce + betas.to(kl) * kl).mean(1).sum()

    return loss


def evaluate(config: Config, model: VAE, images: data.Images, betas: Tensor) -> dict[str, Tensor]:
    """Means of the loss' terms over both splits, (R,) float64, with the same noise for every model."""
    values = {}
    for split, x in (("train", measured_images(config, images)), ("test", images.x_test)):
        g = training.generator(0, "measurement")
        total = torch.zeros(3, len(betas), dtype=torch.float64, device=betas.device)
        for part in x.split(training.EVALUATION_BATCH):
            batch = images.scale(part)[None].expand(len(betas), *part.shape)
            e = noise([g], len(part), config.latent, batch).expand(len(betas), -1, -1)
            total += torch.stack([term.double().sum(-1) for term in terms(model, batch, e)])
        bce, kl, mse = total / len(x)
        of_split = {"bce": bce, "kl": kl, "loss": bce + betas * kl, "mse": mse}
        values |= {f"{split}_{name}": value for name, value in of_split.items()}
    return values


class Keeper:
    """Measures at every epoch and keeps the checkpoints: of the epoch, and of the best one so far by test loss."""

    def __init__(self, config: Config, images: data.Images, replicas: Sequence[Replica]) -> None:
        self.config, self.images, self.replicas = config, images, replicas
        self.betas = torch.tensor([r.settings["beta"] for r in replicas], dtype=torch.float64).to(images.x_train.device)
        self.best = [float("inf")] * len(replicas)
        self.epoch = 0

    def __call__(self, model: VAE) -> dict[str, Tensor]:
        values = evaluate(self.config, model, self.images, self.betas)
        for r, replica in enumerate(self.replicas):
            beta, seed = replica.settings["beta"], replica.seed
            state = {name: parameter[r : r + 1].clone() for name, parameter in model.state_dict().items()}
            names: list[int | str] = [self.epoch]
            if float(values["test_loss"][r]) < self.best[r]:
                self.best[r] = float(values["test_loss"][r])
                names.append("best")
            for name in names:
                path = checkpoint(self.config, self.images, beta, seed, name)
                by = made(self.config, self.images, beta, seed) | {"epoch": self.epoch}
                checkpoints.save(path, state, by)
        self.epoch += 1
        return values


def train_group(config: Config, dataset: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch, β a vector; name -> (R, epochs + 1)."""
    images = load(config, dataset)
    model = build(config, images, [training.generator(r.seed, "weights") for r in replicas]).to(config.resolved_device)
    keeper = Keeper(config, images, replicas)
    return training.train(
        model,
        images,
        replicas,
        functools.partial(torch.optim.Adam, fused=True),
        keeper,
        epochs=epochs(config, images.name),
        batch_size=config.batch_size,
        loss=objective(replicas, config.latent),
        description=f"{images.name} β {replicas[0].settings['beta']} seed {replicas[0].seed}",
    )


def run(config: Config, dataset: str, partial: Partial | None = None) -> Arrays:
    """Train a data set under every β with every seed, and keep the checkpoints; arrays as in AXES."""
    runs = training.train_all(
        functools.partial(train_group, config, dataset),
        [Replica(seed, {"lr": config.learning_rate}, {"beta": beta}) for beta in config.betas for seed in config.seeds],
        device=config.resolved_device,
        jobs=config.jobs,
        partial=partial,
    )
    arrays = training.grid({"beta": config.betas, "seed": config.seeds}, runs)
    arrays["best_epoch"] = arrays["test_loss"].argmin(-1)
    named = {"beta": config.betas, "seed": config.seeds, "epoch": range(arrays["test_loss"].shape[-1])}
    return arrays | {name: np.array(values) for name, values in named.items()}


def main() -> None:
    config = cli.parse(Config, QUICK, description=__doc__)
    cli.prepare(config)
    for dataset in config.datasets:  # that all are images, before any work
        load(config, dataset)
    for dataset in config.datasets:
        images = load(config, dataset)
        outputs = [cli.Output(f"{images.name}-beta{beta!r}", settings(config, images, beta)) for beta in config.betas]

        def compute(betas: tuple[float, ...], partial: Partial, dataset: str = dataset) -> Arrays:
            return run(replace(config, betas=betas), dataset, partial)

        cli.produce_each(config, "vae_train", images, AXES, "beta", outputs, compute)


if __name__ == "__main__":
    cli.run(main)
