"""Figures 4 and 9: Target Linearity and the surrogate of an MLP's layers during training."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.results import Result
from report import plot
from report.quoted import LINEARITY, quoted_value

ACCURACIES = {
    "train_accuracy": ("train accuracy", "0.25"),
    "test_accuracy": ("test accuracy", "C0"),
}


def training(runs: Sequence[Result], scale: str, title: str, quoted: bool = False) -> Figure:
    """Surrogate and Target Linearity by epoch, a row a data set.

    quoted: with the text's numbers, where it has some of the data set.
    """
    figure, axes = plot.grid(len(runs), 2, width=3.6, height=2.6)
    every: list[Axes] = []
    for row, run in zip(axes, runs, strict=True):
        values = LINEARITY.get(plot.stand_in(run.label), {}) if quoted else {}
        every += [*row, panels(row, run, values)]
    plot.shared_legend(figure, np.array(every), "outside right center")
    return plot.finish(figure, title, notes(runs, scale))


def panels(axes: Sequence[Axes], run: Result, quoted: dict[str, str]) -> Axes:
    """The surrogate and Target Linearity of every layer, with the accuracies on a second axis."""
    plot.layer_curves(axes[0], run, run["train_surrogate"], "surrogate", log=True)
    plot.layer_curves(axes[1], run, run["train_tl"], "Target Linearity", limits=plot.UNIT)
    if "train_tl" in quoted:
        value = quoted_value(quoted["train_tl"])
        plot.quoted(axes[1], value, "the text: TL of the\nlast layer ends above")
    axes[1].set_ylim(bottom=0)
    for ax in axes:
        ax.set_title(run.label)
        right = plot.accuracy_axis(ax, run, ACCURACIES)
    for name, (_, color) in ACCURACIES.items():
        if name in quoted:
            value = 100 * quoted_value(quoted[name])
            plot.end_mark(right, run["epoch"][-1], value, color, "the text's end values")
    return right


def supplement(runs: Sequence[Result], scale: str, title: str) -> Figure:
    """The test set, normalised surrogates, ‖Z‖² and losses, a row a data set."""
    figure, _ = plot.rows(runs, 5, supplement_panels, width=2.8, height=2.6)
    return plot.finish(figure, title, *map(turning_point, runs), notes(runs, scale))


def supplement_panels(axes: Sequence[Axes], run: Result) -> None:
    for ax in axes:
        ax.set_title(run.label)
    plot.layer_curves(axes[0], run, run["test_tl"], "TL, test set", limits=plot.UNIT)
    chance = run["test_chance"].mean()
    line = axes[0].axhline(chance, color="0.5", linestyle=":", label=f"chance {chance:.3f}")
    axes[0].set_ylim(bottom=0)
    names = {
        "surrogate_share": "$S / (\\|Z_c\\|_{op}^2 \\|Y\\|^2)$",
        "response_cka": "linear CKA of Z and Y",
    }
    for ax, (name, label) in zip(axes[1:3], names.items(), strict=True):
        if f"train_{name}" in run.arrays:
            plot.layer_curves(ax, run, run[f"train_{name}"], label, limits=plot.UNIT)
        else:
            plot.not_measured(ax)
            ax.set_title(f"{run.label}\n{label}")
    plot.layer_curves(axes[3], run, run["train_response_norm"], "$\\|Z\\|_F^2$", log=True)
    for split, color in (("train", "0.25"), ("test", "C0")):
        plot.band(axes[4], run["epoch"], run[f"{split}_loss"], split, color)
    axes[4].set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None))
    axes[0].legend(handles=[line], fontsize=6, loc="lower right", bbox_to_anchor=(1, 0.07))
    axes[3].legend(fontsize=6, loc="lower right")
    axes[4].legend(fontsize=7)


def turning_point(run: Result) -> str:
    """Where the last layer's TL on the test set peaks, mean over seeds."""
    train, test = (run[f"{split}_tl"][..., -1].mean(0) for split in ("train", "test"))
    peak = test.argmax()
    return (
        f"{run.label}: TL of the last layer on the test set peaks at {test[peak]:.3f} in epoch "
        f"{run['epoch'][peak]} and ends at {test[-1]:.3f}; on the training set it goes from "
        f"{train[peak]:.3f} to {train[-1]:.3f} meanwhile."
    )


def notes(runs: Sequence[Result], scale: str) -> str:
    """Seeds and bands, what differs from the paper, what is missing, and how to add it."""
    spread = f"Means over {plot.seeds(runs)}, bands ± 2 standard deviations over them."
    return f"{spread}\n{plot.notes(runs, scale, {'optimizer': runs[0].config['optimizer']})}"
