"""The picture of growth: seconds and memory by size, on logarithmic axes, with the laws' slopes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from report import plot
from report.speed.entries import Point
from report.speed.tables import by_series, slope


def draw_growth(points: Sequence[Point], path: Path, note: str) -> None:
    """A panel for each quantity that grows.

    Args:
        points: of all series.
        path: of the files, PATH.png and PATH.pdf.
        note: below the panels.
    """
    plot.use_style()
    axes = list(dict.fromkeys(point.axis for point in points))
    columns = min(3, len(axes))
    figure, panels = plot.grid(-(-len(axes) // columns), columns, height=2.8)
    for panel in panels.flat[len(axes) :]:
        panel.set_axis_off()
    for axis, panel in zip(axes, panels.flat, strict=False):
        draw_axis(panel, [point for point in points if point.axis == axis])
    plot.finish(figure, path, note)


def draw_axis(panel: Axes, points: Sequence[Point]) -> None:
    """The series of one axis; dashed through the last size what their laws ask for."""
    for i, (series, _, members) in enumerate(by_series(points)):
        sizes, costs, seconds, megabytes = np.array(
            [(p.size, p.cost, p.seconds, p.megabytes) for p in members]
        ).T
        label = f"{series}: {slope(sizes, seconds):z.2f} ({slope(sizes, costs):z.2f})"
        panel.plot(sizes, seconds, "o-", color=f"C{i}", markersize=4, label=label)
        panel.plot(sizes, costs * seconds[-1] / costs[-1], "--", color=f"C{i}", linewidth=0.8)
        if np.isfinite(megabytes).all():
            panel.plot([], [], "s:", color="0.5", label=f"MB: {slope(sizes, megabytes):z.2f}")
            right = panel.twinx()
            right.plot(sizes, megabytes, "s:", color="0.5", markersize=3)
            right.set(ylabel="MB", yscale="log", ylim=(1, 10 * max(100, megabytes.max())))
            right.grid(False)
    ticks = sorted({point.size for point in points})
    panel.set(xlabel=points[0].axis, ylabel="seconds", xscale="log", yscale="log")
    panel.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], fontsize=6)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.margins(x=0.08)
    panel.legend(
        fontsize=6,
        title="slope (its law's)",
        title_fontsize=6,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )
