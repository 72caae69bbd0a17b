"""What the weight Gram matrix learns, beside the Virtual Covariance and the AGOP."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lab.results import Result
from report import plot


def gram(runs: Sequence[Result], scale: str) -> Figure:
    """A row a result."""
    figure, axes = plot.rows(runs, 5, panels, width=2.9, height=2.5)
    for ax in (*axes[:, 0], axes[0, 1], axes[0, 4]):
        ax.legend(fontsize=6)
    largest = max(run["residual"].max() for run in runs)
    return plot.finish(
        figure,
        "The Gram's change against the Virtual Covariance's, and the average gradient outer "
        "product (AGOP)",
        "ΔG: change of WᵀW since the start; ΔVC: of the Virtual Covariance, accumulated. Layer 1 "
        "reads the pixels, layer 3 is the read-out, whose AGOP is WᵀW itself. "
        f"{plot.means(runs)} Residual of the Feature Learning Equation in float64: {largest:.0e} "
        "at most.",
        plot.notes(runs, scale),
    )


def panels(axes: Sequence[Axes], run: Result) -> None:
    """Relative error against the rate, cosines by time at the smallest rate, and accuracy."""
    rates, smallest = run["rate"], run["rate"].argmin()
    cosines = ("cosine_vc", "cosine_agop_change", "cosine_agop")
    colors = plot.layer_colors(len(run["layer"]))
    for i, (layer, color) in enumerate(zip(run["layer"], colors, strict=True)):
        error = run["relative_error"][:, :, -1, i]  # (rate, seed)
        slope = np.polyfit(np.log(rates), np.log(error.mean(1)), 1)[0]
        plot.band(axes[0], rates, error.T, f"layer {layer}, slope {slope:.2f}", color, log=True)
        for ax, name in zip(axes[1:4], cosines, strict=True):
            plot.band(ax, run["point"], run[name][smallest][..., i], f"layer {layer}", color)
    middle = np.exp(np.log(run["relative_error"][:, :, -1]).mean())
    line = middle * rates / np.exp(np.log(rates).mean())
    axes[0].plot(rates, line, color="0.5", linestyle=":", label="slope 1")
    size = run.config["batch_size"]
    axes[0].set_title(f"{run.label}, {'full batch' if size is None else f'batches of {size}'}")
    axes[0].set(xlabel="rate η", ylabel="‖ΔG − ΔVC‖ / ‖ΔVC‖", xscale="log", yscale="log")
    axes[0].set_xticks(rates, [f"{rate:g}" for rate in rates], minor=False)
    axes[0].xaxis.set_minor_locator(NullLocator())
    for rate, color in plot.value_colors(rates).items():
        accuracy = 100 * run["accuracy"][list(rates).index(rate)]
        plot.band(axes[4], run["point"], accuracy, f"η = {rate:g}", color)
    axes[1].set(title=f"η = {rates[smallest]:g}", ylabel="cosine of ΔG and ΔVC", ylim=(0, 1.05))
    axes[2].set(ylabel="cosine of ΔG and AGOP", ylim=(-0.05, 1.05))
    axes[3].set(ylabel="cosine of G and AGOP", ylim=(-0.05, 1.05))
    axes[4].set(ylabel="training accuracy (%)", ylim=(0, 102))
    for ax in axes[1:]:
        ax.set_xlabel("time, steps × η")
