"""Claims about features during training: Figures 4 and 9, Neural Collapse."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from experiment import neural_collapse, target_linearity
from lab.results import Result
from report.lookup import lookup
from report.plot import stand_in
from report.recipes import RECIPES
from report.verdicts import (
    Finding,
    Part,
    above,
    all_above,
    below,
    claim,
    holds_everywhere,
    interval,
    means,
)

SPLITS = {"train": "training set", "test": "test set"}
PAPERS = ("cifar10", "cifar100")  # data of Figures 4 and 9
WINDOW = 10  # epochs whose mean stands for the last of them, for single epochs flicker


@claim(
    "SGD: TL and surrogate rise, with training and depth",
    "under SGD, Target Linearity and the surrogate rise throughout training, and both rise with a "
    "layer's index",
    source="sections 4.3 and B.5, Figure 4",
    figures=("4",),
    rule="CIFAR, training set: TL, and the logarithm of the surrogate, end above their start in "
    "every hidden layer, go on rising in the second half of training in the last one, of which the "
    "text gives numbers, and end higher from each layer to the next (half time and end: means over "
    f"the {WINDOW} epochs up to them)",
    ours="every layer goes on rising in the second half; all of it on MNIST, and of TL on test "
    "sets, whose TL no layer was fitted to (less its chance level, about rank / N)",
)
def linearity(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    yield from rises(root, scale, figure)


@claim(
    "Adam: the same pattern as SGD",
    "under Adam, Target Linearity and the surrogate show the same pattern as under SGD",
    source="section B.5, Figure 9",
    figures=("9",),
    rule="what claim 3 asks of SGD",
    ours="as there: MNIST, and TL on test sets",
)
def linearity_adam(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    yield from rises(root, scale, figure)


def rises(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    """Of TL and the surrogate of every run of a figure: by epoch, and by layer at the end."""
    for run in lookup(target_linearity, root, scale, **RECIPES[figure].settings(scale)):
        test_tl = run["test_tl"] - run["test_chance"]
        for split, what, values in (
            ("train", "TL", run["train_tl"]),  # (seed, epoch, layer)
            ("train", "log₁₀ of the surrogate", np.log10(run["train_surrogate"])),
            ("test", "TL above chance", test_tl),
        ):
            where = f"{run.label}, {SPLITS[split]}"
            part: Part = "paper" if split == "train" and is_papers(run) else "ours"
            half = (values.shape[1] - 1) // 2
            start, middle, end = values[:, 0], smooth(values[:, : half + 1]), smooth(values)
            late, in_layers = end - middle, "in every layer"
            for asked, rise, whose in (
                (f"{what} rises {in_layers}", end - start, part),
                (f"{what} rises in the second half in the last", late[:, -1:], part),
                (f"{what} rises in the second half {in_layers}", late, "ours"),
            ):
                outcome, deciding = all_above(rise)
                number = f"{deciding.text(3)}; by layer {means(rise, '.3f')}"
                yield Finding(where, asked, number, outcome, deciding.seeds, whose)
            outcome, deciding = all_above(np.diff(end, axis=-1))
            last = values[..., -1].mean(0)
            peak = f"highest {last.max():.3f} after epoch {run['epoch'][last.argmax()]}"
            number = f"step {deciding.text(3)}; by layer {means(end, '.3f')}; last layer from "
            number += f"{last[0]:.3f}, {peak}"
            asked = f"{what} rises by layer"
            yield Finding(where, asked, number, outcome, deciding.seeds, part)


def is_papers(run: Result) -> bool:
    """Whether the data are those of the paper's figure."""
    return stand_in(run.label) in PAPERS


def smooth(values: np.ndarray) -> np.ndarray:
    """Mean of values (seed, epoch, layer) over their last ten epochs, without epoch 0."""
    return values[:, 1:][:, -WINDOW:].mean(1)


def straightness(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """R² of the line through points (x, y) for each seed and layer: y (seed, epoch, layer)."""
    x = (x - x.mean())[:, None]
    y = y - y.mean(1, keepdims=True)
    return (x * y).sum(1) ** 2 / ((x**2).sum() * (y**2).sum(1))


CODES_RATE = 0.0005  # of the published code's SGD; the text has 0.005


@claim(
    "surrogate exponential, TL logarithmic",
    "the surrogate grows about exponentially, Target Linearity about logarithmically",
    source="sections 4.3 and B.5, Figure 4",
    figures=("4",),
    rule="CIFAR, training set, SGD at the text's rate 0.005, from epoch 0 on, in every hidden "
    "layer: the logarithm of the surrogate is nearer to a line in the epoch t than to one in "
    "log(1 + t) (a power), and TL nearer to a line in log(1 + t) than to one in t, by R²; each is "
    "held against the other way to grow, for a straight line fits most rising curves",
    ours=f"the same on MNIST, and at the published code's rate, {CODES_RATE:g}",
)
def growth(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    settings = RECIPES[figure].settings(scale)
    for rate in (None, CODES_RATE):
        changes = settings if rate is None else settings | {"learning_rate": rate}
        for run in lookup(target_linearity, root, scale, **changes):
            epoch, where = run["epoch"].astype(float), run.label
            where += f", rate {rate:g}" if rate else ""
            part: Part = "paper" if is_papers(run) and rate is None else "ours"
            log_surrogate, tl = np.log(run["train_surrogate"]), run["train_tl"]
            later = np.log(1 + epoch)
            for asked, values, axes in (
                ("surrogate exponential", log_surrogate, (epoch, later)),
                ("TL logarithmic", tl, (later, epoch)),
            ):
                claimed, other = (straightness(axis, values) for axis in axes)  # (seed, layer)
                outcome, deciding = all_above(claimed - other)
                number = f"gain in R² {deciding.text()}; last layer "
                number += f"{claimed[:, -1].mean():.2f} against {other[:, -1].mean():.2f}"
                yield Finding(where, asked, number, outcome, deciding.seeds, part)


ROUNDING = 1e-9  # by which an inequality between measurements in float64 may fail
FITTED = 0.999  # training accuracy at which the terminal phase begins
RISES_AS_NC1_FALLS = -0.8  # rank correlation of TL and NC1
DECAYS = (5e-5, 5e-4)  # of the weights: the script's own, and Papyan, Han and Donoho's


def up_to_terminal(run: Result) -> list[slice]:
    """For each seed the measurements up to the first of the terminal phase, or all."""
    fitted = run["train_accuracy"] >= FITTED
    ends = np.where(fitted.any(1), fitted.argmax(1) + 1, fitted.shape[1])
    return [slice(end) for end in ends]


@claim(
    "TL rises as classes collapse",
    "as a network's classes collapse (NC1), its Target Linearity rises, and is never below what "
    "NC1 implies",
    source="ours, beside the abstract and Proposition 2 (claim 23)",
    figures=("collapse",),
    rule="the paper has no such sentence; that Neural Collapse is recovered as an extreme case is "
    "claim 23",
    ours="on the training set, in every measurement, TL, with an intercept and as the paper has "
    "it, is at least 1 / (1 + κ K NC1); up to the first measurement of the terminal phase "
    f"(training accuracy {100 * FITTED:g} %) the rank correlation over epochs of TL and NC1 is "
    f"below {RISES_AS_NC1_FALLS}, in the last layer and pooled over layers; at both weight decays. "
    "Control: over a plateau a rank correlation is one of noise, so the last layer's NC1 must fall "
    "until the terminal phase by more than twice the standard deviation of its steps after",
)
def collapse_and_linearity(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for decay in DECAYS:
        for run in lookup(neural_collapse, root, scale, weight_decay=decay):
            yield from collapse_findings(run)


def collapse_findings(run: Result) -> Iterator[Finding]:
    """The findings of one data set and weight decay."""
    where = f"{run.label}, weight decay {run.config['weight_decay']:g}"
    tl, nc1, phases = run["tl"], run["nc1"], up_to_terminal(run)  # (seed, epoch, layer)
    for name, text in (("tl_intercept", "TL with an intercept"), ("tl", "TL")):
        margin = run[name] - run["tl_bound"]
        asked, beside = f"{text} at least what NC1 implies", f"; least margin {margin.min():.3f}"
        yield holds_everywhere(where, asked, margin >= -ROUNDING, beside, "ours")
    for layers, text in ((slice(-1, None), "last layer"), (slice(None), "all layers pooled")):
        r = [
            spearmanr(tl[i, phase, layers].ravel(), nc1[i, phase, layers].ravel()).statistic
            for i, phase in enumerate(phases)
        ]
        number, points = interval(np.array(r)), ", ".join(str(phase.stop) for phase in phases)
        asked = f"rank correlation of TL and NC1, {text}, below {RISES_AS_NC1_FALLS}"
        outcome = below(number, RISES_AS_NC1_FALLS)
        beside = f"; {points} measurements a layer"
        yield Finding(where, asked, number.text() + beside, outcome, number.seeds, "ours")
    last, ends = nc1[..., -1], [phase.stop - 1 for phase in phases]
    start = np.array([row[end] for row, end in zip(last, ends, strict=True)])
    steps = [np.diff(row[end:]) for row, end in zip(last, ends, strict=True)]
    noise = np.array([2 * step.std() if step.size else 0.0 for step in steps])
    falls = interval(last[:, 0] - start - noise)
    number = f"{falls.text()}; NC1 {last[:, 0].mean():.2f} → {start.mean():.3f}, and then "
    late = last[:, -1].mean()
    number += f"{'up' if late > start.mean() else 'down'} to {late:.3f} at the end"
    asked = "NC1 of the last layer falls by more than noise"
    yield Finding(where, asked, number, above(falls, 0), falls.seeds, part="control")
