"""Speed, growth and memory on this machine: tables, a picture, and the file that holds them.

    python src/benchmark.py
    python src/benchmark.py --parts published growth
    python src/benchmark.py --device cuda

On a machine that does nothing else: the two numbers of a row are measured in turn, and growth has
the medians of several repeats. Parts that are measured again replace their own entries of
RESULTS/benchmark/benchmark.npz (benchmark-cuda.npz); growth.png stands beside it, and claims.py
writes results/benchmark/README.md from it.
"""

from lab import program

program.begin(__name__, "stopped; the parts that are done are kept")

import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from lab import cli, files
from lab.errors import ConfigError
from lab.text import toy_bert
from report.speed import (
    entries,
    growth,
    measuring,
    memory,
    picture,
    published,
    tables,
    text,
    training,
    whitening,
)

# numbers of rows of which Target Linearity is measured
MEASURED = "measure_samples", "bert_examples", "published_measured", "growth_samples", "growth_rows"


@dataclass(frozen=True)
class Config:
    """What to measure, and how long."""

    # whitening, measuring, training, text, published, growth, memory; the last on the CPU alone
    parts: tuple[str, ...] = field(default_factory=lambda: tuple(PARTS))
    results: Path = cli.ROOT / "results"  # folder of the results
    data: Path = cli.ROOT / "data"  # folder of torchvision's data sets, for memory
    device: Literal["cpu", "cuda"] = "cpu"
    repeats: int = 5  # medians are over this many
    train_samples: int = 16_000  # samples of the epoch that is timed
    measure_samples: int = 50_000  # samples whose features are measured
    grokking_replicas: int = 15  # of Figure 13 that are timed
    bert_examples: int = 128  # sentences that BERT is fine-tuned on and measured on
    published_samples: int = 3200  # samples of Figure 2's epoch beside the published way
    published_measured: int = 10_000  # samples of the published way's N × N matrix
    staircase_widths: tuple[int, ...] = (32, 128, 512, 960, 1024)  # of the ridge fits
    growth_samples: tuple[int, ...] = (1000, 10_000, 100_000, 1_000_000)  # N, at growth_dim
    growth_dim: int = 256
    growth_dims: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)  # d, at growth_rows
    growth_rows: int = 10_000
    growth_replicas: tuple[int, ...] = (1, 2, 5, 20)  # networks that are trained
    growth_jobs: tuple[int, ...] = (1, 2)  # processes that train them
    growth_epoch: int = 6400  # samples of their epoch
    growth_widths: tuple[int, ...] = (64, 128, 256, 512, 1024)  # of layers that are whitened
    growth_tokens: tuple[int, ...] = (8, 16, 32, 64, 128)  # of a sentence that BERT measures
    memory_scripts: tuple[str, ...] = tuple(memory.scripts())
    # data sets of those scripts: names, or paths of .npz files
    memory_datasets: tuple[str, ...] = ("mnist", "cifar10")
    memory_seconds: int = 30  # after which a script is cut off

    def __post_init__(self) -> None:
        choices = {"parts": tuple(PARTS), "memory_scripts": tuple(memory.scripts())}
        cli.check(self, choices=choices)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device cuda: PyTorch finds no GPU here; take --device cpu")
        for name in MEASURED:
            rows = getattr(self, name)
            if min(rows if isinstance(rows, tuple) else (rows,)) < 2:
                raise ConfigError(f"{name} must be 2 or more: one row has no variance to explain")
        if self.bert_examples > toy_bert.MOST_TEXTS:
            raise ConfigError(f"bert_examples must be at most {toy_bert.MOST_TEXTS:,}")
        if not self.chosen:
            raise ConfigError("memory is that of the scripts on the CPU; take --device cpu")
        cli.check_datasets(self.memory_datasets)

    @property
    def chosen(self) -> list[str]:
        """The parts that the device has."""
        return [part for part in self.parts if part != "memory" or self.device == "cpu"]


def measure_rates(config: Config) -> list[entries.Row]:
    sizes = config.repeats, config.device
    grokking = training.grokking_row(config.grokking_replicas, *sizes)
    return [*training.rate_rows(config.train_samples, *sizes), grokking]


def measure_published(config: Config) -> list[entries.Row]:
    samples = config.published_samples, config.published_measured
    return published.published_rows(
        *samples, config.staircase_widths, config.repeats, config.device
    )


def measure_growth(config: Config) -> list[entries.Point]:
    repeats, device = config.repeats, config.device
    by_dims = config.growth_dims, config.growth_rows
    return [
        *growth.measuring_growth(config.growth_samples, config.growth_dim, *by_dims, device),
        *growth.training_growth(
            config.growth_replicas,
            config.growth_jobs,
            config.growth_epoch,
            repeats // 2 or 1,
            device,
        ),
        *growth.whitening_growth(config.growth_widths, repeats, device),
        *growth.text_growth(config.growth_tokens, repeats, device),
    ]


def measure_peaks(config: Config) -> Iterable[entries.Peak]:
    runs = config.memory_scripts, config.memory_datasets, config.data, config.memory_seconds
    return memory.script_peaks(*runs)


PARTS: dict[str, Callable[[Config], Iterable[entries.Entry]]] = {
    "whitening": lambda c: whitening.whitening_rows(3 * c.repeats, c.device),
    "measuring": lambda c: measuring.measuring_rows(c.measure_samples, c.repeats, c.device),
    "training": measure_rates,
    "text": lambda c: text.text_rows(c.bert_examples, c.repeats // 2 or 1, c.device),
    "published": measure_published,
    "growth": measure_growth,
    "memory": measure_peaks,
}


def main() -> None:
    config = cli.parse(Config, {}, __doc__)
    path = entries.path(config.results, device=config.device)
    files.check_writable(path.parent)
    places = ("parts", "results", "data", "device", "memory_datasets")
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in places}
    parts = entries.kept(config.results, config.chosen, config.device)
    for name in config.chosen:
        start = time.perf_counter()
        found = list(PARTS[name](config))
        seconds = time.perf_counter() - start
        parts[name] = entries.Part(found, round(seconds, 1), settings)
        in_order = {part: parts[part] for part in PARTS if part in parts}
        result = entries.write(config.results, in_order, config.device)
        print(f"{name}: {seconds:.0f} s", flush=True)
    if points := entries.entries(result, entries.Point):
        note = tables.provenance_line(result)
        name = entries.path(config.results, "growth.png", config.device)
        picture.draw_growth(points, name.with_suffix(""), note)
    for table in tables.tables(result):
        print(f"\n{tables.plain(table)}", end="")
    print(f"\nsaved {path}")


if __name__ == "__main__":
    program.run(main)
