"""Claims about features during training: Figures 4, 8 and 9, Neural Collapse."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from experiment import neural_collapse, staircase, target_linearity
from lab.results import Result
from report.lookup import lookup
from report.recipes import RECIPES
from report.verdicts import (
    Finding,
    Interval,
    Outcome,
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


@claim(
    "Target Linearity and the surrogate rise during training, and both rise with a layer's index",
    source="section 5, Figures 4 and 9",
    figures=("4", "9"),
    rule="TL above its chance level, and the logarithm of the surrogate, are higher in every "
    "hidden layer after the last epoch than before training, and then rise from each layer to the "
    "next, on the training set and (TL) on the test set; the last layer's TL goes on rising in "
    "the second half of training",
    ours="the chance level of TL, about rank / N, is subtracted; the test set, whose TL no "
    "layer was fitted to",
)
def linearity(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in lookup(target_linearity, root, scale, **RECIPES[figure].settings(scale)):
        for split, name in SPLITS.items():
            tl = run[f"{split}_tl"] - run[f"{split}_chance"]  # (seed, epoch, layer)
            surrogate = np.log10(run[f"{split}_surrogate"])
            measures = {"TL": tl, "log₁₀ of the surrogate": surrogate}
            for what, values in measures.items() if split == "train" else [("TL", tl)]:
                where, ends = f"{run.label}, {name}", values[:, [0, -1], -1].mean(0)
                outcome, deciding = all_above(values[:, -1] - values[:, 0])
                number = f"rise {deciding.text(3)}; last layer {ends[0]:.3f} → {ends[1]:.3f}"
                yield Finding(
                    where, f"{what} rises in every layer", number, outcome, deciding.seeds
                )
                outcome, deciding = all_above(np.diff(values[:, -1], axis=-1))
                number = f"step {deciding.text(3)}; by layer {means(values[:, -1], '.3f')}"
                yield Finding(where, f"{what} rises by layer", number, outcome, deciding.seeds)
            last = tl[..., -1]
            late = interval(last[:, -1] - last[:, last.shape[1] // 2])
            peak, top = run["epoch"][last.mean(0).argmax()], last.mean(0).max()
            asked = "TL of the last layer rises in the second half"
            number = f"{late.text(3)}; highest {top:.3f} after epoch {peak}"
            yield Finding(where, asked, number, above(late, 0), late.seeds)


def straightness(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """R² of the line through points (x, y) for each seed and layer: y (seed, epoch, layer)."""
    x = (x - x.mean())[:, None]
    y = y - y.mean(1, keepdims=True)
    return (x * y).sum(1) ** 2 / ((x**2).sum() * (y**2).sum(1))


@claim(
    "the surrogate grows about exponentially, Target Linearity about logarithmically",
    source="section 5, Figure 4",
    figures=("4",),
    rule="from epoch 1 on, on the training set, in every hidden layer: the logarithm of the "
    "surrogate is nearer to a line in the epoch than to one in its logarithm (a power), and TL "
    "nearer to a line in the logarithm of the epoch than to one in the epoch, by R²",
    ours="each is held against the other way to grow; a straight line fits most rising curves",
)
def growth(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in lookup(target_linearity, root, scale, **RECIPES[figure].settings(scale)):
        epoch = run["epoch"][1:].astype(float)
        log_surrogate, tl = np.log(run["train_surrogate"][:, 1:]), run["train_tl"][:, 1:]
        for asked, values, axes in (
            ("surrogate exponential", log_surrogate, (epoch, np.log(epoch))),
            ("TL logarithmic", tl, (np.log(epoch), epoch)),
        ):
            claimed, other = (straightness(axis, values) for axis in axes)  # (seed, layer)
            outcome, deciding = all_above(claimed - other)
            number = f"gain in R² {deciding.text()}; last layer "
            number += f"{claimed[:, -1].mean():.2f} against {other[:, -1].mean():.2f}"
            yield Finding(run.label, asked, number, outcome, deciding.seeds)


SHARE = 0.9  # of the loss's fall, above which it is the output that moves to y_OLS
HELD = 0.1  # share of the first loss within which y_OLS stays, or lies near y
IMPROVED = 0.8  # share of its start to which a narrow network's y_OLS must come nearer to y


@claim(
    "in a wide (lazy) network y_OLS, the fit of the target on the last hidden features, is near "
    "the target and stays there while the output moves to it; in a narrow (rich) one both move, "
    "and the loss ends lower",
    source="section 4.2, Figure 8",
    figures=("8",),
    rule="over draws, from the first epoch to the last. The widest network: the fall of "
    f"‖ŷ − y_OLS‖² is more than {SHARE} of the loss's, ‖y − y_OLS‖² is at most {HELD} of the "
    f"first loss throughout, and y_OLS moves by less than {HELD} of it. The narrowest: that share "
    f"is less than {SHARE}, ‖y − y_OLS‖² falls to less than {IMPROVED} of its start, and the loss "
    "ends below the widest's",
    ours="with as many features as samples y_OLS is y for any features: the same of the widest "
    "network with fewer features than samples, and ‖y − y_OLS‖² of the widest on held-out samples "
    "(a few more samples than features leave little room as well)",
)
def lazy_and_rich(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    runs = sorted(lookup(staircase, root, scale), key=lambda run: run.config["width"])
    if len(runs) < 2:
        return
    narrow, wide = runs[0], runs[-1]

    def finding(
        run: Result,
        asked: str,
        values: np.ndarray,
        outcome: Callable[[Interval], Outcome],
        beside: str = "",
        part: Part = "paper",
    ) -> Finding:
        number, where = interval(values), f"width {run.config['width']}"
        text = number.text(3) + beside
        return Finding(where, asked, text, outcome(number), number.seeds, part)

    def fall(run: Result, name: str) -> np.ndarray:
        return run[name][:, 0] - run[name][:, -1]

    def share(run: Result) -> np.ndarray:
        return fall(run, "ols_distance") / fall(run, "loss")

    def near(run: Result, name: str) -> np.ndarray:
        """The largest ‖y − y_OLS‖² of all epochs, over the first loss on the same samples."""
        return run[f"{name}ols_error"].max(1) / run[f"{name}loss"][:, 0]

    asked = "share of the loss's fall that is ŷ → y_OLS"
    yield finding(wide, f"{asked} above {SHARE}", share(wide), lambda n: above(n, SHARE))
    moved = wide["ols_movement"][:, -1] / wide["loss"][:, 0]
    yield finding(wide, f"y_OLS moves by less than {HELD}", moved, lambda n: below(n, HELD))
    asked_near = f"largest ‖y − y_OLS‖² below {HELD}"
    samples = f"; {wide.config['samples']} samples"
    yield finding(wide, asked_near, near(wide, ""), lambda n: below(n, HELD), samples)
    asked_held, held_out = f"{asked_near}, on held-out samples", near(wide, "held_out_")
    yield finding(wide, asked_held, held_out, lambda n: below(n, HELD), part="control")
    if wide.config["width"] >= wide.config["samples"]:
        fewer = [run for run in runs[1:] if run.config["width"] < run.config["samples"]]
        for run in fewer[-1:]:
            text = f"{asked} above {SHARE}"
            yield finding(run, text, share(run), lambda n: above(n, SHARE), samples, "control")
            yield finding(
                run, asked_near, near(run, ""), lambda n: below(n, HELD), samples, "control"
            )
    yield finding(narrow, f"{asked} below {SHARE}", share(narrow), lambda n: below(n, SHARE))
    improved = narrow["ols_error"][:, -1] / narrow["ols_error"][:, 0]
    text = f"‖y − y_OLS‖² ends below {IMPROVED} of its start"
    yield finding(narrow, text, improved, lambda n: below(n, IMPROVED))
    lower = narrow["loss"][:, -1] - wide["loss"][:, -1]
    text = f"loss at the end below width {wide.config['width']}'s"
    beside = f"; {narrow['loss'][:, -1].mean():.3f} and {wide['loss'][:, -1].mean():.3f}"
    yield finding(narrow, text, lower, lambda n: below(n, 0), beside)


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
    "target linearity subsumes Neural Collapse",
    source="abstract, Proposition 2",
    figures=("collapse",),
    rule="on the training set, in every measurement, TL, with an intercept and as the paper has "
    "it, is at least what NC1 implies, 1 / (1 + κ K NC1); up to the first measurement of the "
    f"terminal phase (training accuracy {FITTED}) the rank correlation over epochs of TL and NC1 "
    f"is below {RISES_AS_NC1_FALLS}, in the last layer and pooled over layers; at both weight "
    "decays",
    ours="over a plateau a rank correlation is one of noise: it is judged up to the terminal "
    "phase, and the last layer's NC1 must fall until then by more than twice the standard "
    "deviation of its steps after",
)
def collapse_subsumed(root: Path, scale: str, figure: str) -> Iterator[Finding]:
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
        yield holds_everywhere(where, asked, margin >= -ROUNDING, beside)
    for layers, text in ((slice(-1, None), "last layer"), (slice(None), "all layers pooled")):
        r = [
            spearmanr(tl[i, phase, layers].ravel(), nc1[i, phase, layers].ravel()).statistic
            for i, phase in enumerate(phases)
        ]
        number, points = interval(np.array(r)), ", ".join(str(phase.stop) for phase in phases)
        asked = f"rank correlation of TL and NC1, {text}, below {RISES_AS_NC1_FALLS}"
        outcome = below(number, RISES_AS_NC1_FALLS)
        beside = f"; {points} measurements a layer"
        yield Finding(where, asked, number.text() + beside, outcome, number.seeds)
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
