"""How far other instructions, or a GPU, move the numbers of the quick reproduction.

    python tests/instruction_sets.py
    python tests/instruction_sets.py --against cuda

Every figure is made twice: with all of the processor's vector instructions, and with SSE alone or
on the GPU. The largest differences of accuracies and of Target Linearity, over all replicas and
epochs of an experiment, are saved in RESULTS/benchmark/instructions.npz or instructions-cuda.npz.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]

import numpy as np
import tyro

import tiny
from lab import cli, results
from lab.results import Result
from report.recipes import RECIPES
from report.speed import entries

FILE = "instructions.npz"
# what torch, MKL and oneDNN read
SSE = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
SSE |= {"ONEDNN_MAX_CPU_ISA": "SSE41"}
AGAINST = {"sse": ("cpu", SSE), "cuda": ("cuda", {})}  # device, and what is set beside
MEASURES = {"accuracy": "accuracy", "tl": "tl"}  # measure -> how the names of its arrays end


@dataclass(frozen=True)
class Config:
    """What to make twice, and where."""

    against: Literal["sse", "cuda"] = "sse"
    figures: tuple[str, ...] = tuple(RECIPES)
    results: Path = cli.ROOT / "results"


def make(config: Config, folder: Path, device: str, instructions: dict[str, str]) -> None:
    """Run the quick reproduction."""
    words = [sys.executable, str(tiny.SOURCE / "reproduce.py"), "--scale", "quick"]
    words += ["--device", device, "--results", str(folder), "--figures", *config.figures]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=os.environ | instructions)


def largest(some: Path, others: Path) -> dict[str, float]:
    """Measure -> its largest difference between the results of two folders; nan without any."""
    found = {measure: float("nan") for measure in MEASURES}
    twins = tiny.read(others)
    for file, result in tiny.read(some).items():
        for measure, end in MEASURES.items():
            for name, values in result.arrays.items():
                if name.endswith(end):
                    shift = np.nanmax(np.abs(values - twins[file][name]))
                    found[measure] = float(np.fmax(found[measure], shift))
    return found


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    device, instructions = AGAINST[config.against]
    with tempfile.TemporaryDirectory() as root:
        one, other = Path(root, "one"), Path(root, "other")
        make(config, one, "cpu", {})
        make(config, other, device, instructions)
        names = sorted({path.parent.name for path in one.glob("quick/*/*.npz")})
        shifts = [largest(one / "quick" / name, other / "quick" / name) for name in names]
    arrays = {measure: np.array([shift[measure] for shift in shifts]) for measure in MEASURES}
    arrays["experiment"] = np.array(names)
    source = SimpleNamespace(name="instructions", fingerprint="none")
    axes = dict.fromkeys(arrays, ("experiment",))
    meta = results.make_meta("benchmark", "instructions", instructions, axes, source, device, 0.0)
    path = entries.path(config.results, FILE, device)
    results.write(path, Result(arrays, meta))
    for name, shift in zip(names, shifts, strict=True):
        print(f"{name:24}" + "".join(f"{m} {shift[m]:8.2g}   " for m in MEASURES))
    print(f"saved {path}")


if __name__ == "__main__":
    main()
