"""The published formula of Target Linearity beside the exact one."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.results import Result
from report import plot


def formulas(runs: Sequence[Result], scale: str) -> Figure:
    """A row a data set."""
    figure, _ = plot.rows(runs, 2, panels, width=4)
    outside = np.mean([((r["tl_published"] < 0) | (r["tl_published"] > 1)).mean() for r in runs])
    lowest = min(r["tl_published"].min() for r in runs)
    return plot.finish(
        figure,
        "Target Linearity: exact (solid) and by the published formula (dashed)",
        "A curve a layer, one seed; what is far below zero is off the axis. Published values "
        f"outside of [0, 1]: {100 * outside:.0f} %; the lowest is {lowest:.3g}.",
        plot.notes(runs, scale),
    )


def panels(axes: Sequence[Axes], run: Result) -> None:
    """Target Linearity by both formulas, and the condition number, a curve a layer."""
    plot.layer_curves(axes[0], run, run["tl"][None], "Target Linearity")
    plot.layer_curves(axes[1], run, run["condition"][None], "condition number", log=True)
    colors = plot.layer_colors(len(run["layer"]))
    for curve, color in zip(run["tl_published"].T, colors, strict=True):
        axes[0].plot(run["epoch"], curve, color=color, linestyle="--")
    axes[0].axhline(0, color="0.5", linewidth=0.8)
    axes[0].set(title=run.label, ylim=(-run["tl"].max(), 1.5 * run["tl"].max()))
    axes[1].set(title=run.label)
    axes[0].legend(fontsize=7)
