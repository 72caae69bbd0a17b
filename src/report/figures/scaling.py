"""The step that gives the Gram matrix the shift itself; lazy or rich training by width."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from lab.results import Result
from report import plot
from report.rules.scaling import by_setting

METHODS = {"plain": ("SGD", "0.3"), "covariance": ("covariance step", "C0")}
KINDS = {"standard": ("standard", "0.3"), "ntk": ("NTK", "C0"), "mup": ("μP", "C3")}


def covariance_learning(runs: Sequence[Result], scale: str) -> Figure:
    """Test accuracy by rate, after each epoch."""
    labels = by_setting(runs, "method", "learning_rate")
    figure, axes = plot.grid(1, len(labels), width=4, height=3)
    for ax, (label, methods) in zip(axes.flat, labels.items(), strict=True):
        for method, (name, color) in METHODS.items():
            if method not in methods:
                continue
            rates = methods[method]
            order = sorted(rates)
            last = rates[order[0]]["epoch"][-1]
            for epoch, style in zip((1, last), ("--", "-"), strict=True):
                values = np.stack([100 * rates[r]["test_accuracy"][:, epoch] for r in order], 1)
                words = f"{name}, after {epoch} epoch{'s' * int(epoch > 1)}"
                options = {"linestyle": style, "limits": plot.PERCENT}
                plot.band(ax, np.array(order), values, words, color, **options)
        ax.set(title=label, xlabel="rate", ylabel="test accuracy (%)", xscale="log")
        ax.set_xticks(order, [f"{rate:g}" for rate in order])
        ax.minorticks_off()
    plot.shared_legend(figure, axes, "outside right center")
    return plot.finish(
        figure,
        "A step that gives WᵀW the Virtual Covariance Shift itself (ours)",
        "Means over seeds that did not diverge, bands ± 2 standard deviations.",
        plot.notes(runs, scale),
    )


def parametrisations(runs: Sequence[Result], scale: str) -> Figure:
    """By width, of the last hidden layer at the end: movement, TL, test accuracy; a row a set."""
    labels = by_setting(runs, "parametrisation", "width")
    panels = {
        "feature_change": ("features' movement", None),
        "kernel_change": ("kernel's movement", None),
        "tl": ("Target Linearity", plot.UNIT),
        "test_accuracy": ("test accuracy (%)", plot.PERCENT),
    }
    figure, axes = plot.grid(len(labels), len(panels), width=2.7)
    for row, (label, kinds) in zip(axes, labels.items(), strict=True):
        for ax, (name, (ylabel, limits)) in zip(row, panels.items(), strict=True):
            log = limits is None
            for kind, widths in kinds.items():
                words, color = KINDS[kind]
                order = sorted(widths)
                last = [widths[w][name][:, -1] for w in order]
                values = np.stack([v[:, -1] if v.ndim > 1 else 100 * v for v in last], 1)
                plot.band(ax, np.array(order), values, words, color, log=log, limits=limits)
                if name == "tl":
                    start = np.stack([widths[w]["tl"][:, 0, -1] for w in order], 1)
                    ax.plot(order, start.mean(0), ":", color=color)
            ax.set(title=label, xlabel="width", ylabel=ylabel, xscale="log")
            ax.set_xticks(order, order)
            if log:
                ax.set_yscale("log")
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                ax.yaxis.set_major_formatter("{x:g}")
            ax.minorticks_off()
    plot.shared_legend(figure, axes, "outside right center")
    samples, rate = (runs[0].config[key] for key in ("samples", "learning_rate"))
    return plot.finish(
        figure,
        "Lazy or rich, with more samples than units (ours)",
        f"{samples:,} samples at most, SGD, rate {rate:g} at the base width, where all three "
        "agree. Last hidden layer, training samples; movement is relative to the start, "
        "‖H − H₀‖ / ‖H₀‖ and of HHᵀ. Dotted: before training. " + plot.means(runs),
        plot.notes(runs, scale),
    )
