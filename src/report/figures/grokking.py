"""Figures 13 and 14: Target Linearity while a network groks, and its gap between two layers."""

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment import grokking
from lab.results import Result
from report import plot
from report.grokking import (
    WINDOW,
    correlation_after_onset,
    decay,
    generalisation_gap,
    linearity,
    linearity_gap,
    running_median,
)

Panel = Callable[[Axes, Result], Axes | None]  # returns its axis on the right, if it has one
OURS = (1.0,)  # weight decays that the paper does not draw
THIN = {"lines.linewidth": 1}  # the curves are restless
MEDIANS = (
    f"Running medians over {WINDOW} epochs, since single epochs flicker; thin lines each seed, "
    "thick the mean."
)
CORRELATION = (
    "r: correlation of the two curves of a seed over the epochs from the largest generalisation "
    "error on, mean over seeds."
)
READ_OUTS = (
    "Read-outs: least-squares maps fitted on a layer's training features, on the test features; "
    "not in the paper. An error is huge at single epochs, where the features are nearly of lower "
    "rank."
)


def split(runs: Sequence[Result], scale: str) -> tuple[list[Result], list[Result]]:
    """Results by weight decay: those that the paper draws, and ours."""
    kinds: tuple[list[Result], list[Result]] = ([], [])
    for run in sorted(runs, key=lambda run: run.config["weight_decay"]):
        kinds[scale == "paper" and run.config["weight_decay"] in OURS].append(run)
    return kinds


def by_decay(
    runs: Sequence[Result], scale: str, panels: Sequence[Panel], title: str, *lines: str
) -> Figure:
    """A row a panel, a column a weight decay; what differs from the paper is written below."""
    size = {"width": max(2.5, 9 / len(runs)), "height": 2.4 if len(panels) > 1 else 3.2}
    figure, axes = plot.grid(len(panels), len(runs), sharey="row", **size)
    for column, run in zip(axes.T, runs, strict=True):
        for ax, panel in zip(column, panels, strict=True):
            with plt.rc_context(THIN):
                right = panel(ax, run)
            if run is not runs[0]:
                ax.set_ylabel("")
            if right is not None and run is not runs[-1]:
                right.set(ylabel="", yticklabels=[])
        column[0].set_title("\n".join(filter(None, (decay(run), column[0].get_title()))))
    plot.shared_legend(figure, np.array(figure.axes), "outside right center")
    own = OURS if scale == "paper" else ()
    wanted = tuple(d for d in grokking.Config.weight_decays if d not in own)
    notes = plot.notes(
        runs, scale, {"weight_decays": wanted}, ("seeds",), weight_decay="weight_decays"
    )
    seeds = ", ".join(str(len(run["seed"])) for run in runs)
    return plot.finish(figure, title, *lines, f"Seeds, from left to right: {seeds}.", notes)


def figure13(runs: Sequence[Result], scale: str) -> Figure:
    title = "Figure 13: Target Linearity while the network groks"
    return by_decay(runs, scale, (target_linearity("train"), accuracies), title, MEDIANS)


def figure14(runs: Sequence[Result], scale: str) -> Figure:
    title = "Figure 14: the gap of Target Linearity beside the generalisation error"
    return by_decay(runs, scale, (gaps("train"),), title, f"{MEDIANS} {CORRELATION}")


def test_set(runs: Sequence[Result], scale: str) -> Figure:
    title = "Figures 13 and 14, supplement (ours): Target Linearity on the test set"
    panels = (target_linearity("test"), gaps("test"))
    return by_decay(runs, scale, panels, title, f"{MEDIANS} {CORRELATION}")


def read_outs(runs: Sequence[Result], scale: str) -> Figure:
    title = "Figure 13, supplement (ours): least-squares read-out of each layer"
    panels = (read_out_accuracy, read_out_error)
    return by_decay(runs, scale, panels, title, f"{MEDIANS} {READ_OUTS}")


def all_panels(runs: Sequence[Result], scale: str) -> Figure:
    """Of the one weight decay that the paper does not draw."""
    panels: tuple[Panel, ...] = (target_linearity("train"), accuracies, gaps("train"))
    panels += (target_linearity("test"), read_out_accuracy, read_out_error)
    figure, axes = plot.grid(2, 3, width=3, height=2.5)
    with plt.rc_context(THIN):
        for ax, panel in zip(axes.flat, panels, strict=True):
            panel(ax, runs[0])
    plot.shared_legend(figure, np.array(figure.axes), "outside right center")
    title = f"Figures 13 and 14 at {decay(runs[0])} (ours)"
    changed = plot.differences(runs, grokking.Config())
    return plot.finish(figure, title, f"{MEDIANS} {CORRELATION}", READ_OUTS, *changed)


def target_linearity(split: str) -> Panel:
    def panel(ax: Axes, run: Result) -> None:
        by_layer(ax, run, linearity(run, split), f"TL, {split}")
        chance = run[f"{split}_chance"][:, -1].mean()
        ax.axhline(chance, color="0.5", linestyle=":", label="chance, last layer")

    return panel


def accuracies(ax: Axes, run: Result) -> None:
    for split, color in (("train", "0.25"), ("test", "C0")):
        accuracy = 100 * running_median(run[f"{split}_accuracy"])
        plot.seed_curves(ax, run["epoch"], accuracy, f"{split} accuracy", color)
    by_epoch(ax, "accuracy (%)")
    ax.set_ylim(0, 102)


def gaps(split: str) -> Panel:
    def panel(ax: Axes, run: Result) -> Axes:
        """The gap of TL, the generalisation error on a second axis; r as in CLAIMS."""
        gap, error = linearity_gap(run, split), generalisation_gap(run)  # (seed, epoch)
        r = correlation_after_onset(run, gap, error).mean()
        *_, before, last = run["layer"]
        plot.seed_curves(ax, run["epoch"], gap, f"TL(layer {last}) − TL(layer {before})", "C3")
        by_epoch(ax, f"gap of TL, {split}")
        ax.set_title(f"r = {r:.2f}", fontsize=9)
        right = ax.twinx()
        label = "train − test accuracy"
        plot.seed_curves(right, run["epoch"], 100 * error, label, "0.25", linestyle="--")
        by_epoch(right, "generalisation error (%)")
        right.set_ylim(-2, 102)
        right.grid(False)
        right.spines["right"].set_visible(True)
        return right

    return panel


def read_out_accuracy(ax: Axes, run: Result) -> None:
    by_layer(ax, run, running_median(100 * run["read_out_accuracy"]), "read-out accuracy, test (%)")
    ax.set_ylim(0, 102)


def read_out_error(ax: Axes, run: Result) -> None:
    by_layer(ax, run, running_median(run["read_out_error"]), "read-out error, test")
    ax.axhline(1, color="0.5", linestyle="-.", label="the mean of the targets")


def by_layer(ax: Axes, run: Result, values: np.ndarray, ylabel: str) -> None:
    """A curve a layer; values (seed, epoch, layer)."""
    layers = run["layer"]
    for i, color in enumerate(plot.layer_colors(len(layers))):
        plot.seed_curves(ax, run["epoch"], values[..., i], f"layer {layers[i]}", color)
    by_epoch(ax, ylabel)


def by_epoch(ax: Axes, ylabel: str) -> None:
    ax.locator_params(axis="x", nbins=5, steps=[1, 2, 5, 10])
    ax.set(xlabel="epoch", ylabel=ylabel)
