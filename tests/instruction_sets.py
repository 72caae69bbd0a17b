"""How far other instructions of the processor move the numbers of the quick reproduction.

    python tests/instruction_sets.py

Every figure is made twice, with all of the processor's vector instructions and with SSE alone. The
largest differences of accuracies and of Target Linearity, over all replicas and epochs of an
experiment, are saved in RESULTS/benchmark/instructions.npz.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]

import numpy as np
import tyro

import tiny
from lab import cli, results
from lab.results import Result
from report.recipes import RECIPES

# what torch, MKL and oneDNN read
SSE = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
SSE |= {"ONEDNN_MAX_CPU_ISA": "SSE41"}
MEASURES = {"accuracy": "accuracy", "tl": "tl"}  # measure -> how the names of its arrays end


@dataclass(frozen=True)
class Config:
    """What to make twice, and where."""

    figures: tuple[str, ...] = tuple(RECIPES)
    results: Path = cli.ROOT / "results"


def make(figures: tuple[str, ...], folder: Path, instructions: dict[str, str]) -> None:
    """Run the quick reproduction."""
    words = [sys.executable, str(tiny.SOURCE / "reproduce.py"), "--scale", "quick"]
    words += ["--results", str(folder), "--figures", *figures]
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
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root, "all"), Path(root, "sse")]
        for folder, instructions in zip(folders, ({}, SSE), strict=True):
            make(config.figures, folder, instructions)
        all_of_them, sse = (folder / "quick" for folder in folders)
        names = sorted({path.parent.name for path in all_of_them.glob("*/*.npz")})
        shifts = [largest(all_of_them / name, sse / name) for name in names]
    arrays = {measure: np.array([shift[measure] for shift in shifts]) for measure in MEASURES}
    arrays["experiment"] = np.array(names)
    source = SimpleNamespace(name="instructions", fingerprint="none")
    axes = dict.fromkeys(arrays, ("experiment",))
    meta = results.make_meta("benchmark", "instructions", SSE, axes, source, "cpu", 0.0)
    path = config.results / "benchmark" / "instructions.npz"
    results.write(path, Result(arrays, meta))
    for name, shift in zip(names, shifts, strict=True):
        print(f"{name:24}" + "".join(f"{m} {shift[m]:8.2g}   " for m in MEASURES))
    print(f"saved {path}")


if __name__ == "__main__":
    main()
