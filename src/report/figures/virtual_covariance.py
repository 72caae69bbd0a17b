"""Figure 7: the Gram matrix, the Virtual Covariance Shift and the AGOP."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.results import Result
from report import plot
from report.lookup import mean_spread

OPTIMIZERS = {"sgd": "SGD", "momentum": "SGD with momentum", "adam": "Adam"}
QUOTED = {"agop": 0.71, "vcs": 0.98, "test_accuracy": 46}  # in the paper's text, on CIFAR-10
CURVES = {
    "vcs": ("Σ VCS", "C0", "-"),
    "vcs_first_order": ("Σ VCS without its term in γ²", "k", ":"),
    "agop": ("AGOP of the logits", "C1", "-"),
    "agop_loss": ("AGOP of the loss", "C2", "-"),
}
GRAMS = {"gram": "$W^\\top W$", "change": "change of $W^\\top W$"}
LAYERS = {1: "input layer", 2: "read-out"}
TITLES = [f"{gram},\n{part}" for gram in GRAMS.values() for part in ("diagonal", "whole matrix")]
TITLES.append("Theorem 1's error,\n" + r"$\|\Delta G - \Sigma VCS\| / \|\Sigma VCS\|$")


def in_order(runs: Sequence[Result]) -> list[Result]:
    """By data set, then optimizer."""
    place = list(OPTIMIZERS).index
    return sorted(runs, key=lambda run: (run.label, place(run.config["optimizer"])))


def is_papers(run: Result) -> bool:
    return plot.stand_in(run.label) == "cifar10" and run.config["optimizer"] == "sgd"


def row_label(run: Result) -> str:
    return f"{run.label}\n{OPTIMIZERS[run.config['optimizer']]}, γ = {run.config['rate']:g}"


def final(run: Result, gram: str, other: str) -> str:
    """ρ of the first layer's diagonals after the last epoch, over seeds."""
    return mean_spread(run[f"{gram}_{other}_diagonal"][:, -1, 0], 3)


def diagonals(runs: Sequence[Result], scale: str, title: str) -> Figure:
    """Diagonals as images, a row a result."""
    figure, _ = plot.rows(runs, 4, pictures, width=2.5, height=3.1)
    return plot.finish(
        figure,
        title,
        "ρ: Pearson's correlation with the diagonal of WᵀW (on the right: with its change) after "
        "the last epoch, mean ± 2 standard deviations over seeds; it sees neither scale nor "
        "offset: the picture gram_parts shows how much of the change is not the shift's. Images: "
        "the first seed, from the 1st percentile (black) to the 99th, written below, colour "
        "channels scaled together. AGOP: of the logits, over the training set.",
        f"The paper states neither batch size nor epochs: here {runs[0].config['batch_size']} and "
        f"{runs[0].config['epochs']}.",
        plot.notes(runs, scale),
    )


def pictures(axes: Sequence[Axes], run: Result) -> None:
    """WᵀW, AGOP, Σ VCS and the change of WᵀW, the first seed's, with ρ above each."""
    quotes = QUOTED if is_papers(run) else {}
    names = {"agop": "AGOP", "vcs": r"$\Sigma_t\,VCS_t$"}
    titles = {"gram": "$W^\\top W$\n\n"}
    for other, title in names.items():
        quote = f"(paper: {quotes[other]})" if quotes else ""
        titles[other] = f"{title}\nρ = {final(run, 'gram', other)}\n{quote}"
    agop, vcs = (final(run, "change", other) for other in names)
    change = f"ρ with AGOP: {agop}\nρ with Σ VCS: {vcs}"
    titles["change"] = f"change of $W^\\top W$\n{change}"
    for ax, (name, title) in zip(axes, titles.items(), strict=True):
        image = plot.diagonal(run, name)
        if len(image) != 3:
            image = image.mean(0, keepdims=True)
        low, high = np.percentile(image, (1, 99))
        plot.pixels(ax, image, low, high)
        ax.set_xlabel(f"{low:.2g} to {high:.2g}")
        ax.set_title(title, fontsize=9)
    accuracy = mean_spread(100 * run["test_accuracy"][:, -1], 1)
    quote = f"\n(paper: {quotes['test_accuracy']} %)" if quotes else ""
    axes[0].set_ylabel(f"{row_label(run)}\ntest accuracy {accuracy} %{quote}")


def correlations(runs: Sequence[Result], scale: str, layer: int) -> Figure:
    """ρ by epoch in a layer, from 1, and Theorem 1's error, a row a result."""
    figure, axes = plot.grid(len(runs), 5, width=2.6, height=2.3)
    for row, run in zip(axes, runs, strict=True):
        row[4].sharey(axes[0, 4])
        by_epoch(row, run, layer - 1)
    for column, title in zip(axes.T, TITLES, strict=True):
        column[0].set_title(title)
        for ax in column:
            ax.set_xlabel("epoch")
    plot.shared_legend(figure, axes, "outside right upper")
    return plot.finish(
        figure,
        f"Figure 7, supplement: correlations by epoch, {LAYERS[layer]} (layer {layer})",
        "Means over seeds, bands ± 2 standard deviations. Changes are since epoch 0, before "
        "training. γ of a VCS is the optimizer's rate, whatever the length of its steps. ρ "
        "sees neither scale nor offset; the error on the right, on a log axis, does.",
        "The AGOP of the logits is WᵀW itself in the read-out." * (layer == 2),
        plot.notes(runs, scale, optimizer="optimizers"),
    )


def by_epoch(axes: Sequence[Axes], run: Result, layer: int) -> None:
    """ρ by epoch of WᵀW and of its change, of diagonals and whole matrices; Theorem 1's error."""
    panels = [(gram, part) for gram in GRAMS for part in ("diagonal", "matrix")]
    for ax, (gram, part) in zip(axes, panels, strict=False):
        ax.sharey(axes[0])
        for other, (label, color, linestyle) in CURVES.items():
            values = run[f"{gram}_{other}_{part}"][..., layer]
            style = {"linestyle": linestyle, "limits": (-1, 1)}
            plot.band(ax, run["epoch"], values, label, color, **style)
    axes[0].set(ylim=(min(0, axes[0].get_ylim()[0]), 1.03))
    axes[0].set_ylabel(f"{row_label(run)}\nPearson's ρ")
    error = run["relative_error"][:, 1:, layer]
    plot.band(axes[4], run["epoch"][1:], error, None, "0.2", log=True)
    axes[4].set(ylabel="relative error", yscale="log")
    axes[4].axhline(1, color="0.5", linestyle=":", label="error as large as Σ VCS itself")
    if is_papers(run) and layer == 0:
        vcs, agop = QUOTED["vcs"], QUOTED["agop"]
        plot.quoted(axes[0], vcs, f"the paper's {vcs} (Σ VCS), {agop} (AGOP)")
        plot.quoted(axes[0], agop, "")
