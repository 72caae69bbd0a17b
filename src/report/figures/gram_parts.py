"""What the Gram's change is made of: the Virtual Covariance Shift and a part of second order."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from lab.results import Result
from report import plot
from report.lookup import mean_spread
from report.rules import figure7
from report.verdicts import interval

Setting = tuple[float, int]  # rate and batch size
Cells = Mapping[Setting, Result]
AT_PAPER = {"rate": figure7.RATE, "batch_size": figure7.BATCH, "labels": "true"}
LONGER = {"epochs": figure7.LONGER, **AT_PAPER}  # Figure 7's own setting, for longer
COLUMNS = {"change": "ΔWᵀW", "vcs": "Σ VCS", "second_order": "second order"}
COLORS = {"change": "k", "vcs": "C0", "second_order": "C1"}


def setting(run: Result) -> Setting:
    return run.config["rate"], run.config["batch_size"]


def cells_of(runs: Sequence[Result], label: str, labels: str = "true") -> Cells:
    """The results of a data set with one kind of labels, by their setting."""
    own = (r for r in runs if (r.label, r.config["labels"]) == (label, labels))
    return {setting(run): run for run in sorted(own, key=setting)}


def end(run: Result, name: str) -> np.ndarray:
    """Of the input layer at the last point, (seed,)."""
    return run[name][:, -1, 0]


def parts(runs: Sequence[Result], scale: str, longer: Sequence[Result]) -> Figure:
    """Shares, traces and controls, two rows a data set; longer: LONGER's, where there are any."""
    labels = sorted({run.label for run in runs})
    figure, axes = plot.grid(2 * len(labels), 3, width=3.3, height=2.7)
    for i, label in enumerate(labels):
        cells = cells_of(runs, label)
        panels = axes[2 * i : 2 * i + 2].flat
        colors = plot.value_colors(sorted({rate for rate, _ in cells}))
        by_batch(panels[0], cells, colors, 0)
        by_noise_scale(panels[1], cells, colors)
        along(panels[2], cells)
        long = [run for run in longer if run.label == label]
        long += [r for key, r in cells.items() if key == (figure7.RATE, figure7.BATCH)]
        for run in long[:1]:
            traces(panels[3], run)
        controls(panels[4], cells, cells_of(runs, label, "shuffled"))
        by_batch(panels[5], cells, colors, 1)
    return plot.finish(
        figure,
        f"What the Gram's change is made of: {', '.join(labels)}",
        "ΔWᵀW since the start = Σ VCS + second order, Σ γ² (GᵀG − AᵀA), exactly; shares are of tr "
        f"ΔWᵀW. Means over {plot.seeds(runs)}, and each seed thin or as a point. A share "
        "above one: the shift's own trace is negative; such a setting is in no fit. Slope 2: noise "
        "of batches at a given number of epochs. Controls: Σ "
        "γ²‖G‖² of labels permuted once, which leave nothing to learn but single samples, over "
        "that of true ones; and Σ γ² ⟨G_t, G_t+1⟩ over Σ γ²‖G‖²: below zero, successive steps undo "
        "one another.",
        plot.notes(runs, scale),
    )


def by_batch(ax: Axes, cells: Cells, colors: Mapping[float, Any], layer: int) -> None:
    """The second-order share of the trace against the batch size, a curve a rate."""
    for rate, color in colors.items():
        sizes = [size for other, size in cells if other == rate]
        shares = [figure7.share(cells[rate, size])[:, -1, layer] for size in sizes]
        plot.seed_curves(ax, np.array(sizes), np.array(shares).T, f"γ = {rate:g}", color)
    ax.set(xlabel="batch size B", ylabel="second-order share", xscale="log", ylim=(0, None))
    sizes = sorted({size for _, size in cells})
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
    ax.axhline(figure7.SMALL, color="0.5", linestyle=":", label=f"{figure7.SMALL}: small")
    ax.axhline(1, color="0.5", linewidth=0.8)
    epochs = next(iter(cells.values()))["point"][-1]
    ax.set_title(f"{('input layer', 'read-out')[layer]}, {epochs:g} epochs")
    ax.legend(fontsize=7)


def by_noise_scale(ax: Axes, cells: Cells, colors: Mapping[float, Any]) -> None:
    """Traces of both parts against γ/B, a point a setting and seed."""
    for rate, color in colors.items():
        own = {size: run for (other, size), run in cells.items() if other == rate}
        for name, fill in {"second_order": color, "vcs": "none"}.items():
            points = [
                (rate / size, y) for size, run in own.items() for y in end(run, f"trace_{name}")
            ]
            style = {"color": color, "markersize": 4, "markerfacecolor": fill}
            label = f"γ = {rate:g}" if name == "second_order" else None
            ax.plot(*zip(*points, strict=True), "o", **style, label=label)
    ax.plot([], [], "o", color="0.4", markersize=4, markerfacecolor="none", label="hollow: Σ VCS")
    x = np.array(sorted(rate / size for rate, size in cells))
    middle = np.exp(np.mean([np.log(end(run, "trace_second_order")) for run in cells.values()]))
    ax.plot(x, middle * (x / np.exp(np.log(x).mean())) ** 2, ":", color="0.5", label="slope 2")
    ax.set(xlabel="γ / B", ylabel="trace of second order, Σ VCS", xscale="log", yscale="log")
    a, b = (interval(values).mean for values in figure7.law(list(cells.values())))
    fit = f", ratio ∝ $γ^{{{a:.2f}}} B^{{{-b:.2f}}}$" if np.isfinite(a) else ""
    ax.set_title(f"input layer{fit}")
    plain_decades(ax)
    ax.legend(fontsize=7)


def plain_decades(ax: Axes) -> None:
    """Ticks at decades alone."""
    low, high = ax.get_xlim()
    ax.set_xlim(10.0 ** np.floor(np.log10(low)), 10.0 ** np.ceil(np.log10(high)))
    ax.xaxis.set_minor_formatter(NullFormatter())


def along(ax: Axes, cells: Cells) -> None:
    """The share by epoch at Figure 7's rate, a curve a batch size."""
    shown = {size: run for (rate, size), run in cells.items() if rate == figure7.RATE}
    for size, color in plot.value_colors(list(shown)).items():
        run = shown[size]
        plot.seed_curves(ax, run["point"][1:], figure7.share(run)[..., 0], f"B = {size}", color)
    ax.set(xlabel="epoch", ylabel="second-order share", ylim=(0, 1.35 * ax.get_ylim()[1]))
    ax.set_title(f"input layer, γ = {figure7.RATE:g}")
    ax.legend(fontsize=7, ncols=2, loc="upper right")


def traces(ax: Axes, run: Result) -> None:
    """The parts' traces by epoch."""
    for name, label in COLUMNS.items():
        values = run[f"trace_{name}"][..., 0]
        plot.seed_curves(ax, run["point"], values, label, COLORS[name])
    ax.set(xlabel="epoch", ylabel="trace")
    ax.set_title("input layer, γ = {:g}, B = {}".format(*setting(run)))
    ax.legend(fontsize=7)


def controls(ax: Axes, cells: Cells, shuffled: Cells) -> None:
    """Σγ²‖G‖² with permuted labels, and what successive steps share of it, against γ/B."""
    permuted: list[tuple[float, float]] = []
    common: list[tuple[float, float]] = []
    for (rate, size), run in cells.items():
        moment = end(run, "trace_moment")
        common += [(rate / size, y) for y in end(run, "trace_successive") / moment]
        if (rate, size) in shuffled:
            ratios = end(shuffled[rate, size], "trace_moment") / moment
            permuted += [(rate / size, y) for y in ratios]
    for label, points, marker, color in (
        ("permuted labels / true ones", permuted, "s", "C2"),
        ("shared by successive steps", common, "o", "C4"),
    ):
        if points:
            ax.plot(*zip(*points, strict=True), marker, color=color, markersize=4, label=label)
    ax.axhline(0, color="0.5", linewidth=0.8)
    ax.axhline(1, color="0.5", linewidth=0.8)
    ax.set(xlabel="γ / B", ylabel="share of $\\sum γ^2 \\|G\\|^2$", xscale="log")
    ax.set_title("input layer, controls")
    plain_decades(ax)
    ax.legend(fontsize=7)


def diagonals(
    runs: Sequence[Result], scale: str, longer: Sequence[Result], deep: Sequence[Result]
) -> Figure:
    """Diagonals as images, a row a setting; longer: LONGER's, deep: with two hidden layers."""
    shown = [*longer, *deep]
    for label in sorted({run.label for run in runs}):
        cells = cells_of(runs, label)
        shown += [cells[key] for key in ((0.05, 16), (0.05, 1024), (0.005, 64)) if key in cells]
    if not longer:
        shown += [run for run in runs if setting(run) == (figure7.RATE, figure7.BATCH)][:1]
    figure, _ = plot.rows(shown, 3, pictures, width=2.3, height=2.5)
    return plot.finish(
        figure,
        "Where the Gram grows, and by how much",
        "Diagonals of the input layer's matrices, the first seed, a row on one scale, colour "
        "channels together, and below each its mean ± standard deviation over pixels; the two on "
        "the right add up to the left. ρ: Pearson's correlation with the left, mean ± 2 standard "
        "deviations over seeds.",
        plot.notes(runs, scale),
    )


def pictures(axes: Sequence[Axes], run: Result) -> None:
    """Diagonals as images on one scale, the first seed's, with ρ over seeds."""
    images = {name: plot.diagonal(run, name) for name in COLUMNS}
    low = min(np.percentile(image, 1) for image in images.values())
    high = max(np.percentile(image, 99) for image in images.values())
    for ax, (name, image) in zip(axes, images.items(), strict=True):
        plot.pixels(ax, image, low, high)
        ax.set_xlabel(f"{image.mean():.2g} ± {image.std():.1g}")
        rho = "" if name == "change" else f"\nρ = {mean_spread(end(run, f'rho_{name}'), 3)}"
        ax.set_title(f"{COLUMNS[name]}{rho}", fontsize=9)
    rate, size = setting(run)
    hidden = "" if run.config["depth"] == 1 else "\n2 hidden layers"
    epochs = f"{run['point'][-1]:g} epochs"
    values = f"{low:.2g} to {high:.2g}"
    axes[0].set_ylabel(f"γ = {rate:g}, B = {size}{hidden}\n{epochs}\nblack to white:\n{values}")
