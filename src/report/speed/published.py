"""The published code's way, written from its formulas, beside this one.

One network at a time, whose samples a DataLoader reads one by one as torchvision's data sets do;
ten Newton–Schulz steps for the polar factor; the surrogate through an N × N matrix; the staircase's
fit by an inverse, as its formula is printed.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image, to_tensor

from core.linearity import moments_surrogate, report
from core.moments import FeatureMoments
from core.polar import newton_schulz
from experiment import staircase, whiten
from experiment.published_formulas import one_hot, published_linearity, published_surrogate
from lab import memory
from lab.data import Images
from lab.replicas import Replica
from report.speed.entries import Row
from report.speed.measuring import hidden_layers, network
from report.speed.timing import dealt_seconds, in_turn, synthetic
from report.speed.training import mlp_widths, sequential, train_mlp

MNIST = (1, 28, 28)  # shape of an image
MNIST_SAMPLES = 60_000
RATE = 0.01


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
    network = nn.Sequential(nn.Flatten(), *sequential(mlp_widths(images), nn.GELU))
    return network.to(images.x_train.device)


def published_epoch(images: Images, model: nn.Sequential, whitened: bool) -> None:
    """Train it for one epoch."""
    config, device = whiten.Config(), images.x_train.device
    weights = [p for p in model.parameters() if p.ndim == 2]
    optimizer = torch.optim.SGD(model.parameters(), RATE, config.momentum)
    for x, y in DataLoader(OneByOne(images), config.batch_size, shuffle=True):
        optimizer.zero_grad()
        functional.cross_entropy(model(x.to(device)), y.to(device)).backward()
        before = [weight.detach().clone() for weight in weights]
        optimizer.step()
        if whitened:
            with torch.no_grad():
                for weight, first in zip(weights, before, strict=True):
                    weight.copy_(newton_schulz(first @ weight.mT) @ weight)


def epoch_rows(samples: int, repeats: int, device: str, seeds: int = 5) -> list[Row]:
    """Figure 2 on images of MNIST's size: a whole epoch, from one of fewer samples, a seed."""
    images = synthetic(samples, MNIST, device)
    replicas = [Replica(seed, {"lr": RATE}) for seed in range(seeds)]
    whole = MNIST_SAMPLES / samples
    rows = []
    for what, method, against, aim in (
        ("plain", "plain", "one seed at a time, sample by sample", 5),
        ("whitened", "exact", "the same, ten Newton–Schulz steps", 1),
    ):
        train = functools.partial(train_mlp, method=method)
        ours, theirs = in_turn(
            repeats,
            functools.partial(dealt_seconds, train, images, replicas, device),
            lambda whitened=method != "plain": published_epoch(
                images, published_network(images), whitened
            ),
        )
        what = f"Figure 2, an epoch on 60,000 images of MNIST's size, {what}, a seed of {seeds}"
        rows.append(Row(what, whole * ours / seeds, against, whole * theirs, "s", aim))
    return rows


def measures_row(samples: int, repeats: int, device: str) -> Row:
    """Figure 4's measures of four hidden layers: Target Linearity and the surrogate."""
    memory.check("an N × N matrix", samples**2)
    model, images = network(device), synthetic(samples, device=device)
    targets = one_hot(images)
    targets = targets - targets.mean(0)
    weights = [layer.weight[0].detach() for layer in model.layers[1:]]
    layers = list(zip(hidden_layers(model, images), weights, strict=True))

    def exact() -> None:
        for h, weight in layers:
            moments = FeatureMoments().update(h, images.y_train)
            report(moments)
            moments_surrogate(moments, weight)

    def published() -> None:
        for h, weight in layers:
            published_linearity(h, targets)
            published_surrogate(h, weight, targets)

    ours, theirs = in_turn(repeats, exact, published)
    what = f"Figure 4's measures of 4 hidden layers, {samples:,} samples"
    return Row(what, ours, "an N × N matrix a layer", theirs, "s", 100)


def printed_fit(h: Tensor, y: Tensor, ridge: float) -> Tensor:
    """H (HᵀH + λI)⁻¹ Hᵀ y from left to right, in float64; H (N, w), y (N,) -> (N,)."""
    h, y = h.double(), y.double()
    identity = torch.eye(h.shape[1], dtype=h.dtype, device=h.device)
    return h @ torch.linalg.inv(h.mT @ h + ridge * identity) @ h.mT @ y


def solve_row(widths: Sequence[int], repeats: int, device: str) -> Row:
    """The staircase's y_OLS of Figure 8, once at each width."""
    config = staircase.Config(device=device)
    g = torch.Generator().manual_seed(0)
    y = torch.randn(config.samples, generator=g).to(device)
    features = [torch.randn(config.samples, w, generator=g).relu().to(device) for w in widths]

    def solve(fit: Callable[..., object]) -> None:
        for h in features:
            fit(h, y, config.ridge)

    ways = (functools.partial(solve, fit) for fit in (staircase.ridge_fit, printed_fit))
    ours, theirs = in_turn(repeats, *ways)
    what = f"Figure 8's ridge fit, {config.samples:,} samples, widths {', '.join(map(str, widths))}"
    return Row(what, ours, "H (HᵀH + λI)⁻¹ Hᵀ y as printed", theirs, "s", 10)


def published_rows(
    epoch_samples: int, measure_samples: int, widths: Sequence[int], repeats: int, device: str
) -> list[Row]:
    """All of them."""
    return [
        *epoch_rows(epoch_samples, repeats, device),
        measures_row(measure_samples, repeats, device),
        solve_row(widths, repeats, device),
    ]
