"""Training: against the machine's matrix-product rate, and grokking against the plain loop."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from core.gram import GramWhitening
from experiment import grokking, vae_train, whiten
from lab import cpu
from lab.data import Images
from lab.models import MLP
from lab.replicas import Replica, generators, make_optimizer
from lab.results import Arrays
from report.speed.entries import Row
from report.speed.timing import dealt_seconds, in_turn, synthetic, timed_epochs

PRODUCT = 2048  # rows and columns of the matrices whose product is the machine's rate


def mlp_widths(images: Images) -> tuple[int, ...]:
    """Of the network of Figure 2."""
    config = whiten.Config()
    return (images.x_train[0].numel(), *[config.width] * config.depth, images.classes)


def sequential(widths: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """One network of linear layers, as it is written where replicas are no concern."""
    parts = [part for d, m in pairwise(widths) for part in (nn.Linear(d, m), activation())]
    return nn.Sequential(*parts[:-1])


def train_mlp(images: Images, replicas: Sequence[Replica], method: str = "plain") -> Arrays:
    """One epoch of the network of Figure 2; the seconds that it took, (R,)."""
    config = whiten.Config()
    model = MLP(mlp_widths(images), generators(replicas, "weights")).to(images.x_train.device)
    optimizer = make_optimizer(
        torch.optim.SGD, model, replicas, momentum=config.momentum, fused=True
    )
    if method != "plain":
        GramWhitening(optimizer, method, batch_dims=1)
    return timed_epochs(model, optimizer, images, config.batch_size, replicas)


def train_vae(images: Images, replicas: Sequence[Replica]) -> Arrays:
    """One epoch of the VAE of Figures 5 and 10; the seconds that it took, (R,)."""
    device = images.x_train.device
    config = vae_train.Config(device=device.type)
    model = vae_train.build(config, images, replicas)
    optimizer = make_optimizer(torch.optim.Adam, model, replicas, fused=True)
    betas = torch.tensor([replica.settings["beta"] for replica in replicas], device=device)
    sources = generators(replicas, "noise")

    def loss(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        noise = vae_train.draw_noise(sources, x, config.latent)
        return vae_train.objective(model, x, noise, betas)

    return timed_epochs(model, optimizer, images, config.batch_size, replicas, loss)


def rate_row(
    repeats: int,
    device: str,
    what: str,
    group: Callable[[Images, Sequence[Replica]], Arrays],
    images: Images,
    replicas: Sequence[Replica],
    mlps: Sequence[Sequence[int]],
) -> Row:
    """All replicas, while every core or GPU trains, against the machine's matrix-product rate.

    mlps: the widths of the network's MLPs, the first one reading the images.
    """
    # forward, backward to the weights, and backward to the inputs of all layers but the first
    sizes = [d * m for widths in mlps for d, m in pairwise(widths)]
    operations = 2 * len(images.x_train) * (3 * sum(sizes) - sizes[0]) * len(replicas)
    a = torch.randn(PRODUCT, PRODUCT, device=device)
    side_by_side = cpu.available_cores() if device == "cpu" else torch.cuda.device_count() or 1
    seconds = []

    def train() -> None:
        seconds.append(dealt_seconds(group, images, replicas, device) / side_by_side)

    _, product = in_turn(repeats, train, lambda: a @ a)
    rate, most = operations / np.median(seconds[1:]), 2 * PRODUCT**3 / product
    what = f"training {len(replicas)} replicas of the {what}"
    return Row(what, rate / 1e9, "the matrix product", most / 1e9, "GFLOP/s", 0.6)


def rate_rows(samples: int, repeats: int, device: str) -> list[Row]:
    """The MLP of Figure 2, and the VAE on images of MNIST's size."""
    seeds = [Replica(seed, {"lr": 0.01}) for seed in range(5)]
    images = synthetic(samples, device=device)
    mlp = mlp_widths(images)
    what = f"MLP {'–'.join(map(str, mlp))}, batch {whiten.Config().batch_size}"
    mlp_row = rate_row(repeats, device, what, train_mlp, images, seeds, [mlp])
    vae = vae_train.Config()
    images = synthetic(samples, (1, 28, 28), device)
    betas = [Replica(0, {"lr": vae.learning_rate}, {"beta": beta}) for beta in vae.betas[:4]]
    encoder = (784, vae.hidden, vae.hidden, 2 * vae.latent)
    decoder = (vae.latent, vae.hidden, vae.hidden, 784)
    widths = "–".join(map(str, (*encoder[:-1], vae.latent, *decoder[1:])))
    what = f"VAE {widths}, batch {vae.batch_size}"
    return [mlp_row, rate_row(repeats, device, what, train_vae, images, betas, [encoder, decoder])]


def train_grokking(images: Images, replicas: Sequence[Replica]) -> Arrays:
    """An epoch of the network of Figure 13 without its measures; seconds that it took, (R,)."""
    config = grokking.Config(device=images.x_train.device.type)
    model, optimizer = grokking.build(config, images, replicas)
    return timed_epochs(model, optimizer, images, config.batch_size, replicas)


def naive_grokking(images: Images, weight_decay: float) -> None:
    """The same the straightforward way: one network, samples collated one by one."""
    config = grokking.Config()
    widths = (images.x_train.shape[1], *[config.width] * config.depth, images.classes)
    model = sequential(widths, nn.ReLU).to(images.x_train.device, torch.float64)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        config.learning_rate,
        (config.beta1, config.beta2),
        weight_decay=weight_decay,
    )
    samples = TensorDataset(images.x_train.double(), images.y_train)
    for x, y in DataLoader(samples, config.batch_size, shuffle=True):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def grokking_row(replicas: int, repeats: int, device: str) -> Row:
    """An epoch of Figure 13's replicas, against one network at a time."""
    preset = grokking.Config()
    images = grokking.addition(preset.modulus, preset.test_share, device)
    every = [
        Replica(seed, {"lr": preset.learning_rate, "weight_decay": decay})
        for decay in preset.weight_decays
        for seed in preset.seeds
    ][:replicas]
    ours, naive = in_turn(
        repeats,
        lambda: dealt_seconds(train_grokking, images, every, device),
        lambda: [naive_grokking(images, replica.options["weight_decay"]) for replica in every],
    )
    what = f"grokking, an epoch of {len(every)} replicas in float64"
    return Row(what, ours, "one at a time, sample by sample", naive, "s", 10)
