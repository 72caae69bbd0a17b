"""Figure 4's measures of other networks than the paper's, beside what depth alone gives."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiment import target_linearity
from lab.results import Result
from report import plot
from report.figures.target_linearity import ACCURACIES

MARKS = (0, 1, -1)  # measurements whose TL is drawn by layer: the start, one epoch, the end


def by_depth(runs: Sequence[Result], _: str) -> Figure:
    """A row a result: TL of every hidden layer by epoch, with accuracies; and TL by layer."""
    figure, axes = plot.grid(len(runs), 2, width=3.8, height=2.7)
    every, changed = [], []
    for (left, right), run in zip(axes, runs, strict=True):
        own = {key: run.config[key] for key in ("architecture", "optimizer")}
        changed += plot.differences([run], target_linearity.Config(**own))
        title = f"{run.config['architecture']}, {run.label}, {run.config['optimizer'].title()}"
        plot.layer_curves(left, run, run["train_tl"], "Target Linearity", limits=plot.UNIT)
        left.set(title=title, ylim=(0, None))
        every += [left, right, plot.accuracy_axis(left, run, ACCURACIES)]
        colors = plot.layer_colors(len(MARKS))
        for mark, color in zip(MARKS, colors, strict=True):
            epoch = f"epoch {run['epoch'][mark]}"
            plot.band(right, run["layer"], run["train_tl"][:, mark], epoch, color)
            above_chance = (run["test_tl"] - run["test_chance"])[:, mark]
            plot.band(right, run["layer"], above_chance, None, color, linestyle="--")
        right.set(title=title, xlabel="hidden layer", ylabel="Target Linearity", ylim=(0, None))
    plot.shared_legend(figure, np.array(every), "outside right center")
    return plot.finish(
        figure,
        "Figure 4's measure in other networks (ours)",
        "On the right solid lines are the training set, dashed ones the test set, less chance.",
        f"{plot.means(runs)} cifar10_jpeg: CIFAR-10 from a JPEG copy.",
        *changed,
    )
