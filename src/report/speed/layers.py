"""What is computed of a layer: whitening and measures, beside other ways to them, and by size."""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from core.gram import gram_preserving_update
from core.linearity import moments_surrogate, report, response_norm
from core.moments import FeatureMoments
from core.polar import newton_schulz
from experiment.published_formulas import (
    hidden_features,
    one_hot,
    published_linearity,
    published_surrogate,
)
from lab.models import MLP
from lab.replicas import generator
from report.speed.entries import Entry, Point, Row
from report.speed.timing import in_turn, peak, synthetic

NETWORK = (3072, 256, 256, 256, 256, 10)  # Figure 4 on CIFAR-10
SAMPLES = 50_000  # whose features are measured
PUBLISHED_SAMPLES = 10_000  # of the published way's N × N matrix
SPARE = 200.0  # MB that measuring may take beyond the data
WIDTH, WIDTHS = 256, (64, 128, 256, 512, 1024)  # of layers that are whitened
BATCH = 1000  # rows of features that arrive at a time
NUMBERS, DIM = (1000, 10_000, 100_000, 1_000_000), 256  # N at d features
DIMS, NUMBER = (64, 128, 256, 512, 1024, 2048, 4096), 10_000  # d at N samples


def layer_step(width: int, device: str) -> tuple[Tensor, Tensor]:
    """Weights (B, width, width) before and after a step; B = 20 on a GPU, one on a CPU core."""
    g = torch.Generator().manual_seed(0)
    shape = (20 if device == "cuda" else 1, width, width)
    before = (torch.rand(shape, generator=g) * 2 - 1) / width**0.5
    after = before + 1e-3 * torch.randn(shape, generator=g) / width**0.5
    return before.to(device), after.to(device)


def whitening(device: str) -> Iterator[Entry]:
    """Exact whitening of a square layer, with one thread, as in training; its law is the SVD's."""
    step = layer_step(WIDTH, device)
    exact = functools.partial(gram_preserving_update, *step)
    ours, theirs = in_turn(exact, lambda: exact(newton_schulz), threads=1)
    what = f"exact whitening, {len(step[0])} × {WIDTH} × {WIDTH}"
    yield Row(what, 1e3 * ours, "ten Newton–Schulz steps", 1e3 * theirs, "ms", 1)
    for n in WIDTHS:
        update = functools.partial(gram_preserving_update, *layer_step(n, device))
        (seconds,) = in_turn(update, threads=1)
        yield Point("exact whitening", "width", n, n**3, seconds)


@torch.no_grad()
def measures(device: str) -> Iterator[Row]:
    """All measures beside the forward pass, and those of Figure 4 beside the published formulas."""
    model = MLP(NETWORK, [generator(0, "weights")]).to(device)
    weights = [layer.weight[0] for layer in model.layers[1:]]
    images = synthetic(SAMPLES, device=device)
    hidden, y = hidden_features(model, images), images.y_train  # (N, width) of each layer
    targets = one_hot(images)[:PUBLISHED_SAMPLES]
    targets = targets - targets.mean(0)

    def exact(samples: int) -> None:
        for h, weight in zip(hidden, weights, strict=True):
            moments = FeatureMoments().update(h[:samples], y[:samples])
            report(moments)
            moments_surrogate(moments, weight)
            response_norm(moments, weight)

    def published() -> None:
        for h, weight in zip(hidden, weights, strict=True):
            published_linearity(h[:PUBLISHED_SAMPLES], targets)
            published_surrogate(h[:PUBLISHED_SAMPLES], weight, targets)

    every = functools.partial(exact, SAMPLES)
    extra = peak(every)
    what = f"all measures of {len(hidden)} hidden layers of width {NETWORK[1]}"
    ours, theirs = in_turn(every, lambda: hidden_features(model, images))
    yield Row(f"{what}, {SAMPLES:,} samples", ours, "the forward pass", theirs, "s", 1)
    yield Row("memory of the same, beyond the data", extra, "what it may take", SPARE, "MB", 1)
    ours, theirs = in_turn(functools.partial(exact, PUBLISHED_SAMPLES), published)
    what = f"{what}, {PUBLISHED_SAMPLES:,} samples"
    yield Row(what, ours, "Figure 4's with an N × N matrix a layer", theirs, "s", 100)


def sums(device: str) -> Iterator[Point]:
    """Running sums by samples N and by features d, N d²; and Target Linearity from these, d³."""
    for n in NUMBERS:
        adding, _, most = stream(n, DIM, device)
        yield Point(f"running sums, d = {DIM}", "N", n, n, adding, most)
    for d in DIMS:
        adding, linearity, most = stream(NUMBER, d, device)
        yield Point(f"running sums, N = {NUMBER:,}", "d", d, d**2, adding, most)
        yield Point("Target Linearity from the sums", "d", d, d**3, linearity)


def stream(n: int, d: int, device: str) -> tuple[float, float, float]:
    """Seconds of the sums of features (n, d) in batches, of Target Linearity from these; MB."""
    h = torch.randn(min(n, BATCH), d, generator=torch.Generator().manual_seed(0)).to(device)
    y = (torch.arange(len(h)) % 10).to(device)

    def add_all() -> FeatureMoments:
        moments = FeatureMoments()
        for _ in range(n // len(h)):  # all of them the same batch
            moments.update(h, y)
        return moments

    most = peak(lambda: report(add_all()))
    moments = add_all()
    return *in_turn(add_all, lambda: report(moments)), most
