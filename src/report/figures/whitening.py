"""Figures 2 and 6: plain training beside Gram whitening."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lab.results import Result
from report import plot, verdicts

METHODS: dict[str, dict[str, Any]] = {  # method -> how its curves look
    "plain": {"label": "plain", "color": "0.35", "linestyle": "--"},
    "exact": {"label": "Gram-whitened, exact", "color": "C0", "linestyle": "-"},
    "newton_schulz": {"label": "Gram-whitened, as published", "color": "C3", "linestyle": "-"},
}
CONTROLS: dict[str, dict[str, Any]] = {
    "step_matched": {"label": "plain, step-matched", "color": "C1", "linestyle": "--"},
    "complement": {"label": "complement", "color": "C4", "linestyle": "-."},
    "biases": {"label": "biases alone", "color": "C6", "linestyle": ":"},
}
LOOKS = METHODS | CONTROLS
# control -> how the difference of exact whitening from it looks: in colours of its own
DIFFERENCES: dict[str, dict[str, Any]] = {
    "plain": {"label": "whitened − plain", "color": "C2", "linestyle": "-"},
    "step_matched": {"label": "whitened − step-matched", "color": "C5", "linestyle": "-"},
}
NETWORKS = {"whiten": "MLP", "whiten_cnn": "CNN"}
# the epochs in which the text has whitened training of an MLP reach plain's best
QUOTED = {"svhn": (4, 5), "cifar10": (4, 5)}


def by_data(runs: Sequence[Result], methods: Sequence[str]) -> dict[str, list[Result]]:
    """Data set -> its results by these methods."""
    chosen = [run for run in runs if run.config["method"] in methods]
    return {run.label: [r for r in chosen if r.label == run.label] for run in chosen}


def seeds_of(groups: Mapping[str, Sequence[Result]]) -> str:
    """How many seeds the results of each data set have: "mnist 5 to 15, cifar10_jpeg 5"."""
    numbers = {name: sorted({len(run["seed"]) for run in runs}) for name, runs in groups.items()}
    ends = {name: sorted({few[0], few[-1]}) for name, few in numbers.items()}
    return ", ".join(f"{name} {' to '.join(map(str, few))}" for name, few in ends.items())


def training(
    runs: Sequence[Result],
    scale: str,
    title: str,
    quoted: Mapping[str, tuple[int, int]] | None = None,
) -> Figure:
    """Accuracy, and below it the paired difference from plain, a column a data set."""
    groups = by_data(runs, list(METHODS))
    figure, axes = plot.grid(2, len(groups), width=3.6)
    lines = []
    for (above, below), own in zip(axes.T, groups.values(), strict=True):
        accuracy(above, own)
        lines.append(best_of_plain(above, own))
        difference(below, own)
        if epochs := (quoted or {}).get(plot.stand_in(own[0].label)):
            label = "quoted: whitened at plain's best"
            above.axvspan(*epochs, color="C3", alpha=0.12, linewidth=0, label=label)
    axes[0, -1].legend(fontsize=7)
    return plot.finish(
        figure,
        f"{title}, learning rate 0.01",
        f"Seeds: {seeds_of(groups)}.",
        "Above, bands of one standard deviation; below, a 95 % interval.",
        *lines,
        plot.notes([run for own in groups.values() for run in own], scale, ignore=("seeds",)),
    )


def by_rate(runs: Sequence[Result], scale: str, title: str, methods: Sequence[str]) -> Figure:
    """Final accuracy by rate, a column a network and data set.

    With controls, in a second row paired differences.
    """
    networks = {
        name: by_data(own, methods)
        for name in NETWORKS
        if (own := [run for run in runs if run.meta["experiment"] == name])
    }
    panels = [(name, own) for name, groups in networks.items() for own in groups.values()]
    rows = 2 if CONTROLS.keys() & set(methods) else 1
    figure, axes = plot.grid(rows, len(panels), height=3.2, sharex=True)
    lines = [f"Bars{', above' * (rows > 1)}: one standard deviation over seeds."]
    lines += ["Bars, below: 95 % intervals of differences paired by seed."] * (rows > 1)
    for column, (name, own) in zip(axes.T, panels, strict=True):
        accuracy_by_rate(column[0], own)
        for ax in column[1:]:
            difference_by_rate(ax, own)
        column[0].set_title(f"{NETWORKS[name]}, {own[0].label}")
    for name, groups in networks.items():
        lines.append(f"Seeds, {NETWORKS[name]}: {seeds_of(groups)}.")
        every = [run for own in groups.values() for run in own]
        lines.append(plot.notes(every, scale, ignore=("seeds",), learning_rate="learning_rates"))
    plot.shared_legend(figure, axes, "outside right center")
    return plot.finish(figure, title, *lines)


def projection(runs: Sequence[Result], scale: str) -> Figure:
    """What the projection does to the layer that it acts on, a row a data set."""
    groups = by_data(runs, list(METHODS))
    figure, axes = plot.grid(len(groups), 3, width=4, height=3)
    for row, own in zip(axes, groups.values(), strict=True):
        methods(row, own)
    return plot.finish(
        figure,
        "What the projection does: Figure 2's networks, learning rate 0.01",
        f"Means over seeds ({seeds_of(groups)}); bands of the accuracy: one standard deviation.",
        plot.missing(runs, scale),
    )


def in_order(runs: Sequence[Result]) -> list[Result]:
    """Plain first, then the projections, then the controls."""
    return sorted(runs, key=lambda run: list(LOOKS).index(run.config["method"]))


def accuracy(ax: Axes, runs: Sequence[Result]) -> None:
    """Test accuracy by epoch, from the first on, of each method; bands of one deviation."""
    for run in in_order(runs):
        percent, look = 100 * run["test_accuracy"][:, 1:], LOOKS[run.config["method"]]
        plot.band(ax, run["epoch"][1:], percent, limits=plot.PERCENT, deviations=1, **look)
    ax.set(title=runs[0].label, xlabel="epoch", ylabel="test accuracy (%)")


def paired_difference(whitened: Result, plain: Result) -> tuple[np.ndarray, np.ndarray]:
    """Difference of two methods' test accuracy, whitened − plain, in points, paired by seed.

    Returns:
        the mean at each epoch (epoch,), and its 95 % interval of a paired t test (2, epoch), nan
        where there is one seed.
    """
    points = verdicts.paired_difference(whitened, plain, lambda run: 100 * run["test_accuracy"])
    numbers = [verdicts.interval(column) for column in points.T]
    ends = np.array([[number.low, number.high] for number in numbers]).T
    return np.array([number.mean for number in numbers]), ends


def difference(ax: Axes, runs: Sequence[Result]) -> None:
    """Whitened − plain accuracy by epoch of each projection, with its 95 % interval."""
    ax.axhline(0, **METHODS["plain"])
    by_method = {run.config["method"]: run for run in in_order(runs)}
    plain = by_method.pop("plain", None)
    for method, run in by_method.items() if plain else ():
        mean, interval = paired_difference(run, plain)
        epochs, look = run["epoch"][1:], METHODS[method]
        ax.plot(epochs, mean[1:], **look)
        ax.fill_between(epochs, *interval[:, 1:], color=look["color"], alpha=0.2, linewidth=0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.set(xlabel="epoch", ylabel="whitened − plain (points)")


def reaches_best(whitened: Result, plain: Result) -> int | None:
    """The first epoch at which whitened training's mean accuracy is plain's best; None: never."""
    reached = whitened["test_accuracy"].mean(0) >= plain["test_accuracy"].mean(0).max()
    return int(whitened["epoch"][reached.argmax()]) if reached.any() else None


def best_of_plain(ax: Axes, runs: Sequence[Result]) -> str:
    """Mark the best mean accuracy of plain training; say when each projection reaches it."""
    by_method = {run.config["method"]: run for run in in_order(runs)}
    plain = by_method.pop("plain", None)
    if plain is None:
        return ""
    best = 100 * plain["test_accuracy"].mean(0).max()
    ax.axhline(best, color="0.35", linestyle=":", linewidth=1, label="plain's best")
    epochs = []
    for method, run in by_method.items():
        epoch, name = reaches_best(run, plain), LOOKS[method]["label"].rpartition(", ")[2]
        epochs.append(f"{name} {'none' if epoch is None else epoch}")
    return f"{plain.label}: mean reaches plain's best in epoch: {', '.join(epochs)}."


def accuracy_by_rate(ax: Axes, runs: Sequence[Result]) -> None:
    """Final test accuracy of each method by learning rate; bars of one deviation."""
    for method, look in LOOKS.items():
        points = sorted(
            (run.config["learning_rate"], 100 * run["test_accuracy"][:, -1])
            for run in runs
            if run.config["method"] == method
        )
        if points:
            mean = np.array([final.mean() for _, final in points])
            spread = [final.std(ddof=1) if len(final) > 1 else 0 for _, final in points]
            ends = np.clip([mean - spread, mean + spread], *plot.PERCENT)
            bars, rates = np.abs(ends - mean), [rate for rate, _ in points]
            ax.errorbar(rates, mean, bars, marker="o", capsize=3, **look)
    ax.set(title=runs[0].label, xlabel="learning rate", ylabel="final test accuracy (%)")
    ax.set_xscale("log")


def difference_by_rate(ax: Axes, runs: Sequence[Result]) -> None:
    """Final accuracy of exact whitening minus that of plain and of step-matched training, by rate.

    Paired by seed, with 95 % intervals.
    """
    by_arm = {(run.config["method"], run.config["learning_rate"]): run for run in runs}
    ax.axhline(0, color="0.5", linewidth=1)
    for method, look in DIFFERENCES.items():
        rates = sorted(rate for arm, rate in by_arm if arm == method and ("exact", rate) in by_arm)
        pairs = [paired_difference(by_arm["exact", r], by_arm[method, r]) for r in rates]
        if pairs:
            mean = np.array([values[-1] for values, _ in pairs])
            ends = np.array([interval[:, -1] for _, interval in pairs]).T
            ax.errorbar(rates, mean, np.abs(ends - mean), marker="o", capsize=3, **look)
    ax.set(xlabel="learning rate", ylabel="difference (points)", xscale="log")


def methods(axes: Sequence[Axes], runs: Sequence[Result]) -> None:
    """Spectrum of the second layer, Gram error of the projection, and accuracy by method."""
    spectrum, error, last = axes
    name, start = runs[0].label, runs[0]["singular_values"][:, 0].mean(0)
    index = np.arange(1, len(start) + 1)
    spectrum.plot(index, start, color="0.7", linestyle=":", label="before training")
    for run in in_order(runs):
        look, epochs = METHODS[run.config["method"]], run["epoch"][1:]
        spectrum.plot(index, run["singular_values"][:, -1].mean(0), **look)
        step = {"label": "the optimizer's own step"} if run is runs[-1] else {}
        error.plot(epochs, run["gram_change"].mean(0)[1:], color="0.5", linestyle=":", **step)
        if run.config["method"] != "plain":
            label = f"projection, {look['label']}"
            error.plot(epochs, run["gram_error"].mean(0)[1:], **{**look, "label": label})
    spectrum.set(
        title=f"{name}: layer 2 after training",
        xlabel="index, largest first",
        ylabel="singular value",
    )
    error.set(
        title=f"{name}: change of layer 2's Gram",
        xlabel="epoch (its last step)",
        ylabel="relative change",
    )
    accuracy(last, runs)
    error.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    for ax in axes[:2]:
        ax.set_yscale("log")
    error.set_ylim(top=30 * error.get_ylim()[1])  # room for the legend
    for ax in axes:
        ax.legend(fontsize=7)
