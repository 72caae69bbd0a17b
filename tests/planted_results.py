"""Results of planted numbers, written as the scripts write theirs, for the rules to judge."""

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from lab import results
from report import verdicts
from report.verdicts import Claim, Finding

DATA = SimpleNamespace(name="planted", fingerprint="0" * 16)


def plant(
    root: Path,
    script: ModuleType,
    name: str,
    arrays: dict[str, Any],
    data: str = DATA.name,
    **settings: Any,
) -> None:
    """A result of a script's default configuration with some settings of its own.

    Seeds are numbered from 0 where the arrays do not say otherwise.
    """
    experiment = script.__name__.rpartition(".")[2]
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    axes = {key: script.AXES[key] for key in arrays}
    places = [(a.index("seed"), key) for key, a in axes.items() if "seed" in a]
    if places and "seed" not in arrays:
        axis, key = places[0]
        arrays["seed"], axes["seed"] = np.arange(arrays[key].shape[axis]), ("seed",)
    config = {**script.Config().hyperparameters(), **settings}
    source = SimpleNamespace(name=data, fingerprint=DATA.fingerprint)
    meta = results.make_meta(experiment, name, config, axes, source, "cpu", 60.0)
    path = root / "paper" / experiment / f"{name}-{results.digest(config)}.npz"
    results.write(path, results.Result(arrays, meta))


def judge(root: Path, claim: Claim, figure: str) -> list[Finding]:
    return claim.findings(root, "paper", (figure,))[figure]


def verdict(root: Path, claim: Claim, figure: str) -> str:
    """The paper's."""
    return verdicts.papers_verdict(judge(root, claim, figure))


def our_verdict(root: Path, claim: Claim, figure: str) -> str:
    return verdicts.our_verdict(judge(root, claim, figure))


def outcomes(root: Path, claim: Claim, figure: str) -> dict[str, str]:
    """What a finding asks -> its outcome."""
    return {finding.asked: finding.outcome for finding in judge(root, claim, figure)}


def around(mean: float, spread: float = 1e-3, seeds: int = 3) -> np.ndarray:
    """A value for each seed, of this mean."""
    return mean + spread * np.linspace(-1, 1, seeds)
