"""Target Linearity and Neural Collapse, into the terminal phase of training."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from lab.results import Result
from report import plot
from report.rules.training import FITTED


def collapse(runs: Sequence[Result], scale: str) -> Figure:
    """Two rows a result."""
    figure, axes = plot.grid(2 * len(runs), 3)
    for group, run in zip(axes.reshape(-1, 6), runs, strict=True):
        panels(group, run)
    return plot.finish(
        figure,
        "Target Linearity and Neural Collapse by epoch and layer, into the terminal phase of "
        "training",
        "Training set, hidden layers from yellow (first) to dark (last); means over "
        f"{plot.seeds(runs)}, bands ± 2 standard deviations, points every seed and epoch. NC1: "
        "variation within classes over that between them; NC2: how far the class means are from a "
        "simplex, in lengths and angles; NC3: how far the classifier is from them; NC4: how often "
        "the nearest class mean decides otherwise than the network. Dashed: 1 / (1 + κ K NC1), "
        "worked out in src/core/collapse.py. Dotted: the terminal phase begins.",
        plot.notes(runs, scale, ignore=("weight_decay",)),
    )


def panels(axes: Sequence[Axes], run: Result) -> None:
    """Accuracy, TL, NC1 to NC4 by epoch, and TL against NC1 with the least that NC1 implies."""
    epochs, last = run["epoch"], run["layer"][-1]
    percent = {"limits": plot.PERCENT}
    plot.band(axes[0], epochs, 100 * run["train_accuracy"], "training", "0.2", **percent)
    plot.band(axes[0], epochs, 100 * run["test_accuracy"], "test", "C0", **percent)
    axes[0].set(ylabel="accuracy (%)", xlabel="epoch")
    plot.layer_curves(axes[1], run, run["tl"], "Target Linearity", limits=plot.UNIT)
    plot.layer_curves(axes[2], run, run["nc1"], "NC1", log=True)
    plot.band(axes[3], epochs, run["nc2_norm"][..., -1], "NC2, lengths", "C0", log=True)
    plot.band(axes[3], epochs, run["nc2_angle"][..., -1], "NC2, angles", "C1", log=True)
    plot.band(axes[3], epochs, run["nc3"], "NC3", "C2", log=True)
    axes[3].set(ylabel=f"NC2, NC3 of layer {last}", xlabel="epoch", yscale="log")
    plot.layer_curves(axes[4], run, 100 * run["nc4"], "NC4 (%)", **percent)
    for i, color in enumerate(plot.layer_colors(len(run["layer"]))):
        pair = [run[name][..., i].ravel() for name in ("nc1", "tl_intercept")]
        axes[5].plot(*pair, ".", color=color, ms=4)
    order = run["nc1"].ravel().argsort()
    bound = [run[name].ravel()[order] for name in ("nc1", "tl_bound")]
    label = "least TL that NC1 implies"
    axes[5].plot(*bound, color="0.2", linestyle="--", label=label)
    axes[5].set(xlabel="NC1", ylabel="TL with an intercept", xscale="log")
    fitted = (run["train_accuracy"] >= FITTED).all(0)
    for ax in axes[:5] if fitted.any() else []:
        label = f"training {100 * FITTED:g} %, every seed" if ax is axes[0] else None
        ax.axvline(epochs[fitted.argmax()], color="0.4", linestyle=":", label=label)
    for axis in (axes[2].yaxis, axes[3].yaxis, axes[5].xaxis):
        log_ticks(axis)
    for ax in axes:
        ax.set_title(f"{run.label}, weight decay {run.config['weight_decay']:g}")
    for i in (0, 1, 3, 5):
        axes[i].legend(fontsize=6)


def log_ticks(axis: Axis) -> None:
    """0.1, 0.3, 1, 3, … on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
