"""The largest memory of every script with the paper's sizes: an epoch, at most 45 seconds.

As many seeds as there are cores, so that every core trains. What all processes of a script hold is
added up; on Linux what they share, as libraries, is counted once.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from lab import cli, cpu, data, program
from report.lookup import experiment
from report.recipes import RECIPES
from report.speed.entries import Peak

EVERY = 0.05  # seconds from one look at the memory to the next
SECONDS = 45  # after which a script is cut off
# of all figures, those that read another's checkpoints after it
SCRIPTS = tuple(dict.fromkeys(name for recipe in RECIPES.values() for name in recipe.scripts))


def script_peaks(datasets: Sequence[str], root: Path) -> Iterator[Peak]:
    """Run every script that needs no encoder on every data set that it takes.

    Args:
        datasets: names, or paths of .npz files.
        root: folder of torchvision's data sets.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in (name for name in SCRIPTS if not name.startswith("bert")):
            fields = experiment(name).Config.__dataclass_fields__
            words = ["--data", str(root.absolute()), "--results", folder, "--device", "cpu"]
            words += ["--epochs", "1"] if "epochs" in fields else []
            words += ["--seeds", *map(str, range(cpu.available_cores()))] * ("seeds" in fields)
            own = {data.label(dataset): ["--datasets", dataset] for dataset in datasets}
            for label, more in (own if "datasets" in fields else {"its own": []}).items():
                script = str(cli.ROOT / "src" / "experiment" / f"{name}.py")
                start = time.perf_counter()
                most, status = watch([sys.executable, script, *words, *more])
                if not status:  # one that fails says why, and is left out
                    took = time.perf_counter() - start
                    yield Peak(name, label, most, took, status is not None)


def watch(command: Sequence[str]) -> tuple[float, int | None]:
    """Most MB that a command and all below it hold together; its status, None where cut off."""
    most, until = 0, time.perf_counter() + SECONDS
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and time.perf_counter() < until:
            with suppress(psutil.NoSuchProcess):
                most = max(most, sum(map(held, (process, *process.children(recursive=True)))))
            time.sleep(EVERY)
        return most / 2**20, process.poll()
    finally:
        with suppress(psutil.NoSuchProcess):
            program.kill_children(process.pid)
            process.kill()
        process.wait()


def held(process: psutil.Process) -> int:
    """Bytes of a process; none where it has ended."""
    with suppress(psutil.NoSuchProcess):
        memory = process.memory_full_info()
        return getattr(memory, "pss", memory.rss)
    return 0
