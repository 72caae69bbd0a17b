"""Training the network of Figure 2, beside the published way and by the number of replicas.

The published way: one network at a time, whose samples a DataLoader reads one by one as
torchvision's data sets do, and ten Newton–Schulz steps for the polar factor.
"""

import functools
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image, to_tensor

from core.gram import GramWhitening
from core.polar import newton_schulz
from experiment import whiten
from lab import cpu, training
from lab.data import Images
from lab.models import MLP
from lab.replicas import Replica, deal, generators, make_optimizer
from lab.results import Arrays
from report.speed.entries import Entry, Point, Row
from report.speed.timing import MNIST, in_turn, synthetic

CONFIG = whiten.Config()
RATE = 0.01
SEEDS = 5
PUBLISHED_SAMPLES, MNIST_SAMPLES = 3200, 60_000  # of the epoch beside the published way; of a whole
REPLICAS, JOBS, GROWTH_SAMPLES = (1, 2, 5, 20), (1, 2), 6400  # networks, processes, their epoch's


def widths(images: Images) -> tuple[int, ...]:
    return (images.x_train[0].numel(), *[CONFIG.width] * CONFIG.depth, images.classes)


def epoch(images: Images, method: str, replicas: Sequence[Replica]) -> Arrays:
    """Train R replicas for an epoch, and measure nothing."""
    model = MLP(widths(images), generators(replicas, "weights")).to(images.x_train.device)
    optimizer = make_optimizer(
        torch.optim.SGD, model, replicas, momentum=CONFIG.momentum, fused=True
    )
    if method != "plain":
        GramWhitening(optimizer, method, batch_dims=1)
    with cpu.kernels_for(list(model.parameters())):
        for x, y in training.shuffled_batches(
            images, CONFIG.batch_size, generators(replicas, "order")
        ):
            training.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    return {}


def dealt(images: Images, number: int, method: str = "plain", jobs: int | None = None) -> None:
    """Train so many replicas as the experiments deal them."""
    replicas = [Replica(seed, {"lr": RATE}) for seed in range(number)]
    train, device = functools.partial(epoch, images, method), images.x_train.device.type
    for _ in deal(train, replicas, device=device, jobs=jobs):
        pass


class OneByOne(Dataset):
    """Images as torchvision's data sets give them: one at a time, from a PIL image."""

    def __init__(self, images: Images) -> None:
        self.x, self.y = images.x_train.cpu(), images.y_train.cpu().tolist()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return to_tensor(to_pil_image(self.x[i])), self.y[i]


def published_network(images: Images) -> nn.Sequential:
    """One network of Figure 2, before training."""
    parts = [part for d, m in pairwise(widths(images)) for part in (nn.Linear(d, m), nn.GELU())]
    return nn.Sequential(nn.Flatten(), *parts[:-1]).to(images.x_train.device)


def published_epoch(images: Images, model: nn.Module, whitened: bool) -> None:
    device, optimizer = (
        images.x_train.device,
        torch.optim.SGD(model.parameters(), RATE, CONFIG.momentum),
    )
    weights = [p for p in model.parameters() if p.ndim == 2 and whitened]
    for x, y in DataLoader(OneByOne(images), CONFIG.batch_size, shuffle=True):
        optimizer.zero_grad()
        functional.cross_entropy(model(x.to(device)), y.to(device)).backward()
        before = [weight.detach().clone() for weight in weights]
        optimizer.step()
        with torch.no_grad():
            for weight, first in zip(weights, before, strict=True):
                weight.copy_(newton_schulz(first @ weight.mT) @ weight)


def published(device: str) -> Iterator[Row]:
    """A whole epoch on images of MNIST's size, from one of fewer samples, a seed."""
    images = synthetic(PUBLISHED_SAMPLES, MNIST, device)
    whole = MNIST_SAMPLES / PUBLISHED_SAMPLES
    for what, method, against, aim in (
        ("plain", "plain", "one seed at a time, sample by sample", 5),
        ("whitened", "exact", "the same, ten Newton–Schulz steps", 1),
    ):
        ours, theirs = in_turn(
            functools.partial(dealt, images, SEEDS, method),
            lambda w=what == "whitened": published_epoch(images, published_network(images), w),
        )
        what = f"Figure 2, an epoch on 60,000 images of MNIST's size, {what}, a seed of {SEEDS}"
        yield Row(what, whole * ours / SEEDS, against, whole * theirs, "s", aim)


def growth(device: str) -> Iterator[Entry]:
    """By replicas; the law is that of rounds of `jobs`, on a GPU, where all are a batch, of all."""
    images = synthetic(GROWTH_SAMPLES, MNIST, device)
    for jobs in JOBS if device == "cpu" else (1,):
        series = f"training, {jobs} job{'s' * (jobs > 1)}" if device == "cpu" else "training"
        for count in REPLICAS:
            (seconds,) = in_turn(functools.partial(dealt, images, count, jobs=jobs))
            yield Point(series, "replicas", count, -(-count // jobs), seconds)
