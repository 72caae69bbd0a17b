"""Figure 12: Target Linearity of a network that is trained on labels of which some are random."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.results import Result
from report import plot
from report.quoted import RANDOM_LABELS, quoted_value

ACCURACIES = {"train": "0.25", "test": "C0"}


def by_data(runs: Sequence[Result]) -> Mapping[str, list[Result]]:
    """Data set -> its results, by the share p of random labels."""
    ordered = sorted(runs, key=lambda run: (run.label, run.config["probability"]))
    return {run.label: [r for r in ordered if r.label == run.label] for run in ordered}


def training(runs: Sequence[Result], scale: str, title: str, labelling: str = "") -> Figure:
    """Target Linearity and accuracies by epoch of one data set, a panel a p, in two rows.

    labelling: empty, against the labels trained on; "_true", against the true ones.
    """
    figure, axes = plot.grid(2, -(-len(runs) // 2), width=3.1, height=2.5)
    for ax in axes.flat[len(runs) :]:
        ax.set_axis_off()
    # the paper's axis ends at 0.5
    top = max(0.5, *(1.05 * run[f"train_tl{labelling}"].mean(0).max() for run in runs))
    used = axes.flat[: len(runs)]
    quoted = labelling == "" and scale == "paper"
    right = [by_epoch(ax, r, top, labelling, quoted) for ax, r in zip(used, runs, strict=True)]
    plot.shared_legend(figure, np.array([*used, *right]), "outside right center")
    return plot.finish(figure, title, plot.notes(runs, scale, probability="probabilities"))


def by_epoch(ax: Axes, run: Result, top: float, labelling: str, quoted: bool) -> Axes:
    """Target Linearity of every layer by epoch, accuracies on a second axis."""
    p = run.config["probability"]
    tl = run[f"train_tl{labelling}"]
    plot.layer_curves(ax, run, tl, "Target Linearity", limits=plot.UNIT)
    ax.set(title=f"{run.label}, p = {p:g}", ylim=(0, top))
    curves = {f"{s}_accuracy{labelling}": (f"{s} accuracy", c) for s, c in ACCURACIES.items()}
    right = plot.accuracy_axis(ax, run, curves)
    if quoted and plot.stand_in(run.label) == "cifar10":
        for name, number in RANDOM_LABELS.get(p, {}).items():
            target, unit, color = right, 100, ACCURACIES.get(name.removesuffix("_accuracy"))
            if name == "train_tl":
                target, unit, color = ax, 1, plot.layer_colors(len(run["layer"]))[-1]
            value, label = unit * quoted_value(number), "the text's end values"
            plot.end_mark(target, run["epoch"][-1], value, color, label)
    return right


def summary(runs: Sequence[Result], scale: str) -> Figure:
    """After the last epoch, by p, a row a data set."""
    groups = by_data(runs)
    figure, axes = plot.grid(len(groups), 3, height=3.2)
    for row, found in zip(axes, groups.values(), strict=True):
        at_end(row, found)
    for ax in (axes[0, 0], axes[0, 2]):
        ax.legend(fontsize=7)
    return plot.finish(
        figure,
        "Figure 12, summary: Target Linearity after the last epoch",
        "p: the share of labels that are redrawn. Training set; means over seeds, bars ± 2 "
        "standard deviations. On the right (ours), in black against the labels trained on, in red "
        "against the true ones.",
    )


def at_end(axes: Sequence[Axes], found: Sequence[Result]) -> None:
    """Final TL by p: of each layer against both kinds of labels, and last minus first layer."""
    p, layers = [run.config["probability"] for run in found], found[0]["layer"]
    kinds = {"": ("labels trained on", "0.2"), "_true": ("true labels", "C3")}
    for ax, (kind, (title, color)) in zip(axes, kinds.items(), strict=False):
        final = np.stack([run[f"train_tl{kind}"][:, -1] for run in found])  # (p, seed, layer)
        for i, shade in enumerate(plot.layer_colors(len(layers))):
            bars(ax, p, final[..., i], f"layer {layers[i]}", shade)
        ax.set(title=f"{found[0].label}, {title}", ylabel="Target Linearity at the end")
        ax.set(xlabel="p", ylim=(0, None))
        bars(axes[2], p, final[..., -1] - final[..., 0], title, color)
    axes[2].axhline(0, color="0.5", linewidth=0.8)
    axes[2].set(title=f"{found[0].label}, by depth", xlabel="p", ylabel="TL of last layer − first")


def bars(ax: Axes, p: Sequence[float], values: np.ndarray, label: str, color: object) -> None:
    """Means of values (p, seed) with two standard deviations over seeds."""
    spread = 2 * values.std(1, ddof=1) if values.shape[1] > 1 else None
    ax.errorbar(p, values.mean(1), spread, marker="o", color=color, label=label)
