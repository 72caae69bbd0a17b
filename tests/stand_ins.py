"""Runs whose training is stood in for: what is trained, and when it stops."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from lab import results, runs
from lab.cli import Common
from lab.replicas import Replica
from lab.runs import Run

DATA = SimpleNamespace(name="mine", fingerprint="0" * 16)
OTHER_DATA = SimpleNamespace(name="mine", fingerprint="f" * 16)
AXES = {"weight": ("seed", "epoch"), "seed": ("seed",)}
RATES, SEEDS = (0.1, 0.2), (0, 5)
# beside the arrays of a finished replica
MADE = {runs.SECONDS: np.array(0.0), runs.DEVICE: np.array("cpu (2 cores)")}
ALL = [[(rate, seed)] for rate in RATES for seed in SEEDS]  # what is trained, one after the other


@dataclass(frozen=True, kw_only=True)
class Config(Common):
    """With one job: everything happens in this process."""

    jobs: int | None = 1
    epochs: int = 3


def plan(folder, rates=RATES, source=DATA, noise=0.5, **changes):
    """A run for each rate, with a replica for each seed."""
    config = Config(results=folder, **changes)
    planned = []
    for rate in rates:
        settings = {"learning_rate": rate, **config.hyperparameters()}
        replicas = tuple(Replica(seed, {"lr": rate}, {"noise": noise}) for seed in SEEDS)
        run = Run(config, "experiment", f"mine-lr{rate}", settings, source, AXES, replicas)
        planned.append(run)
    return planned


class Trainer:
    """Stands in for training: notes what it is given, and stops after so many calls."""

    def __init__(self, stop_after=None):
        self.trained, self.stop_after = [], stop_after

    def __call__(self, replicas):
        if len(self.trained) == self.stop_after:
            raise KeyboardInterrupt
        self.trained.append([(replica.options["lr"], replica.seed) for replica in replicas])
        rows = [r.options["lr"] * np.arange(3) + r.seed + r.settings["noise"] for r in replicas]
        return {"weight": np.array(rows)}


def train(planned):
    """Train and save runs; returns what was trained."""
    trainer = Trainer()
    for run, arrays in runs.train(trainer, planned):
        run.save(arrays | {"seed": SEEDS})
    return trainer.trained


def interrupt(planned, after):
    """Train runs until so many replicas are done, and save those that are whole."""
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        for run, arrays in runs.train(Trainer(after), planned):
            run.save(arrays | {"seed": SEEDS})


def files(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def assert_whole(planned, noise=0.5):
    """All results are there, hold what their replicas gave, and nothing else is left."""
    assert files(planned[0].config.results) == {run.path for run in planned}
    for run in planned:
        rate, seeds = run.settings["learning_rate"], np.array(SEEDS)[:, None]
        weight = results.read(run.path)["weight"]
        np.testing.assert_array_equal(weight, rate * np.arange(3) + seeds + noise)
