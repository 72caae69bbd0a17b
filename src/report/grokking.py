"""What Figures 13 and 14 and their claims share: results, landmarks of grokking, medians.

Under weight decay Target Linearity and accuracies flicker from epoch to epoch, by standard
deviations of 0.02 to 0.09, so single epochs decide nothing: every number here is of medians over
WINDOW epochs. A landmark is the position of an epoch for each seed, nan where there is none.
"""

from pathlib import Path

import numpy as np

from experiment import grokking
from lab.results import Result
from report.lookup import lookup

WINDOW = 21  # epochs
MEMORISED = 0.99  # training accuracy
GROKS = 0.5  # test accuracy that is passed by a network that groks at all
GROKKED = 0.9  # share of its largest test accuracy at which a network has grokked
MOVES_WITH = 0.5  # correlation that counts as moving together


def grokking_runs(root: Path, scale: str) -> tuple[list[Result], list[Result]]:
    """Results at the paper's weight decays, 0 < decay < 1, in order, and that without one."""
    runs = sorted(lookup(grokking, root, scale), key=lambda run: run.config["weight_decay"])
    paper = [run for run in runs if 0 < run.config["weight_decay"] < 1]
    return paper, [run for run in runs if run.config["weight_decay"] == 0]


def decay(run: Result) -> str:
    return f"weight decay {run.config['weight_decay']:g}"


def running_median(values: np.ndarray) -> np.ndarray:
    """Along axis 1 of values (seed, epoch, …), in a centred window, cut off at both ends."""
    half = WINDOW // 2
    windows = [values[:, max(0, t - half) : t + half + 1] for t in range(values.shape[1])]
    return np.stack([np.median(window, axis=1) for window in windows], axis=1)


def linearity(run: Result, split: str = "train") -> np.ndarray:
    """Median TL (seed, epoch, layer)."""
    return running_median(run[f"{split}_tl"])


def linearity_gap(run: Result, split: str = "train") -> np.ndarray:
    """Median TL(last layer) − TL(last but one), (seed, epoch)."""
    return running_median(run[f"{split}_tl"][..., -1] - run[f"{split}_tl"][..., -2])


def generalisation_gap(run: Result) -> np.ndarray:
    """Median training − test accuracy (seed, epoch)."""
    return running_median(run["train_accuracy"] - run["test_accuracy"])


def memorised(run: Result) -> np.ndarray:
    """Where training accuracy first passes MEMORISED: (seed,)."""
    return _first(running_median(run["train_accuracy"]) > MEMORISED)


def onset(run: Result) -> np.ndarray:
    """Where the generalisation gap is largest, from which on test accuracy catches up: (seed,)."""
    return generalisation_gap(run).argmax(1).astype(float)


def grokked(run: Result) -> np.ndarray:
    """Where test accuracy first passes GROKKED of its largest, if that is above GROKS: (seed,)."""
    test = running_median(run["test_accuracy"])
    largest = test.max(1, keepdims=True)
    return _first((test > GROKKED * largest) & (largest > GROKS))


def last(run: Result) -> np.ndarray:
    """The last epoch (seed,)."""
    return np.full(len(run["seed"]), len(run["epoch"]) - 1.0)


def _first(reached: np.ndarray) -> np.ndarray:
    return np.where(reached.any(1), reached.argmax(1), np.nan)


def change(values: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Of values (seed, epoch, …) from one landmark to a later one.

    Returns:
        (seed, …), nan where a landmark is missing or the second is not the later one.
    """
    rows = np.full((len(values), *values.shape[2:]), np.nan)
    for i in np.flatnonzero(end > start):  # False for nan
        rows[i] = values[i, int(end[i])] - values[i, int(start[i])]
    return rows


def correlation_after_onset(run: Result, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of two arrays (seed, epoch), over the epochs from the onset of grokking on: (seed,)."""
    pairs = zip(first, second, onset(run).astype(int), strict=True)
    return np.array([np.corrcoef(a[start:], b[start:])[0, 1] for a, b, start in pairs])
