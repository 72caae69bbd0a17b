"""How the work grows: seconds and memory by size, and their slopes on logarithmic axes.

Each series has a law, what its operations are proportional to; a slope beside the law's own says
whether the time follows. Overheads that do not grow make small sizes dear and slopes flat.
"""

import functools
from collections.abc import Sequence

import torch

from core.gram import gram_preserving_update
from core.linearity import report
from core.moments import FeatureMoments
from experiment.bert_target_linearity import one_pass
from lab import cpu, memory
from lab.replicas import Replica
from report.speed.entries import Point
from report.speed.text import SIZES, bert
from report.speed.timing import (
    alone,
    dealt_seconds,
    in_turn,
    once,
    peak,
    restart_peak,
    synthetic,
)
from report.speed.training import train_mlp
from report.speed.whitening import layer_step

BATCH = 1000  # rows of features that arrive at a time
TEXTS = 32  # sentences that BERT measures


@torch.no_grad()
def measure_stream(
    samples: int, d: int, device: str, before: float = 0.0
) -> tuple[float, float, float]:
    """Measure features (samples, d) that arrive in batches, all of them the same batch.

    Returns:
        seconds of the running sums, seconds of Target Linearity from these, and the largest MB
        meanwhile beyond those before.
    """
    restart_peak()
    g = torch.Generator().manual_seed(0)
    h = torch.randn(min(samples, BATCH), d, generator=g).to(device)
    y = (torch.arange(len(h)) % 10).to(device)
    moments = FeatureMoments()

    def add_all() -> None:
        for _ in range(samples // len(h)):
            moments.update(h, y)

    sums, linearity = once(add_all), once(lambda: report(moments))
    return sums, linearity, peak(before)


def measure_streams(
    sizes: Sequence[tuple[int, int]], device: str
) -> list[tuple[float, float, float]]:
    """`measure_stream` of (samples, d), one after the other; MB beyond those before the first.

    They include what the libraries set up when they are first used.
    """
    torch.zeros(1, device=device)  # takes the GPU into use
    before = restart_peak()
    measure_stream(BATCH, 64, device)  # warms up
    return [measure_stream(*size, device, before) for size in sizes]


def measuring_growth(
    samples: Sequence[int], d: int, dims: Sequence[int], n: int, device: str
) -> list[Point]:
    """Running sums by samples N at d features, and by d at n samples: N d²; then their spectra."""
    memory.check(f"the sums of {max(dims):,} features", 3 * max(dims) ** 2, 8)
    by_samples = alone(measure_streams, [(size, d) for size in samples], device)
    by_dims = alone(measure_streams, [(n, size) for size in dims], device)
    points = []
    for size, (sums, _, megabytes) in zip(samples, by_samples, strict=True):
        points.append(Point(f"running sums, d = {d}", "N", size, size, sums, megabytes))
    for size, (sums, _, megabytes) in zip(dims, by_dims, strict=True):
        points.append(Point(f"running sums, N = {n:,}", "d", size, size**2, sums, megabytes))
    for size, (_, linearity, _) in zip(dims, by_dims, strict=True):
        points.append(Point("Target Linearity from the sums", "d", size, size**3, linearity))
    return points


def training_growth(
    counts: Sequence[int], jobs: Sequence[int], samples: int, repeats: int, device: str
) -> list[Point]:
    """An epoch of Figure 2's network on images of MNIST's size, by replicas.

    The law is that of rounds of `jobs` replicas; on a GPU, where all are one batch, of replicas.
    """
    images = synthetic(samples, (1, 28, 28), device)
    points = []
    for number in jobs if device == "cpu" else (1,):
        series = f"training, {number} job{'s' * (number > 1)}" if device == "cpu" else "training"
        for count in counts:
            replicas = [Replica(seed, {"lr": 0.01}) for seed in range(count)]
            train = functools.partial(dealt_seconds, train_mlp, images, replicas, device, number)
            (seconds,) = in_turn(repeats, train)
            points.append(Point(series, "replicas", count, -(-count // number), seconds))
    return points


def whitening_growth(widths: Sequence[int], repeats: int, device: str) -> list[Point]:
    """Exact whitening of a layer by width, with one thread; the law is the SVD's, width³."""
    points = []
    for width in widths:
        update = functools.partial(gram_preserving_update, *layer_step(width, device))
        with cpu.threads(1):
            (seconds,) = in_turn(repeats, update)
        points.append(Point("exact whitening", "width", width, width**3, seconds))
    return points


def text_growth(lengths: Sequence[int], repeats: int, device: str) -> list[Point]:
    """Measuring all layers of BERT 6 × 384 by tokens T a sentence.

    A layer of width d multiplies 12 d² numbers a token, and 2 T d more in its attention.
    """
    d = SIZES["hidden_size"]
    model = bert(vocab_size=1000, max_position_embeddings=max(lengths))
    model = model.to(device, torch.float64).eval()
    labels, points = torch.arange(TEXTS)[:, None] % 2, []
    for length in lengths:
        ids = torch.randint(0, 1000, (TEXTS, length))
        rows = torch.arange(TEXTS)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": rows}
        (seconds,) = in_turn(repeats, functools.partial(one_pass, model, [batch], labels, 2))
        cost = length * (6 * d + length)
        points.append(Point("measuring BERT 6 × 384", "tokens", length, cost, seconds))
    return points
