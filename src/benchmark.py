"""Speed, growth and memory on this machine: tables, and the file that holds them.

    python src/benchmark.py
    python src/benchmark.py --device cuda

Minutes on a machine that does nothing else. RESULTS/benchmark/benchmark.npz, or
benchmark-cuda.npz, is written anew; claims.py writes results/benchmark/README.md from it.
"""

from lab import program

program.begin(__name__, "stopped; nothing is kept")

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from lab import cli, files
from lab.errors import ConfigError
from report.speed import entries, layers, tables, training


@dataclass(frozen=True)
class Config:
    """Where to measure, and where to keep it."""

    device: Literal["cpu", "cuda"] = "cpu"
    results: Path = cli.ROOT / "results"  # folder of the results

    def __post_init__(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device cuda: PyTorch finds no GPU here; take --device cpu")


PARTS = (
    layers.measures,  # first: what its memory needs is not there yet
    layers.sums,
    layers.whitening,
    training.published,
    training.growth,
)


def main() -> None:
    config = cli.parse(Config, {}, __doc__)
    files.check_writable(entries.path(config.results).parent)
    start, found = time.perf_counter(), list[entries.Entry]()
    for measure in PARTS:
        found += measure(config.device)
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
    result = entries.write(config.results, found, config.device, time.perf_counter() - start)
    for table in tables.tables(result):
        print(f"\n{table}", end="")
    print(f"\nsaved {entries.path(config.results, device=config.device)}")


if __name__ == "__main__":
    program.run(main)
