"""Figure 11: Target Linearity through the layers of a BERT-like encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment import bert_target_linearity
from lab.results import Result
from report import plot
from report.quoted import ENCODERS
from report.rules.encoders import KINDS, kind, seen

BANDS = "Curves by layer: means over seeds, bands ± 2 standard deviations."


def in_order(runs: Sequence[Result]) -> list[Result]:
    """The paper's order of panels; other data of the same kind stand for the paper's."""
    place = {name: i for i, name in enumerate(KINDS)}
    return sorted(runs, key=lambda run: (place.get(kind(run), len(place)), run.name))


def trained_longer(longest: Sequence[Result], runs: Sequence[Result]) -> list[Result]:
    """Of tasks whose validation score was still rising: more epochs than the figure's."""
    shown = {run.name: run.config["epochs"] for run in runs}
    ordered = in_order(longest)
    return [run for run in ordered if run.config["epochs"] > shown.get(run.name, np.inf)]


def figure11(runs: Sequence[Result], scale: str) -> Figure:
    """TL of training rows by layer, a column a task."""
    figure, axes = plot.grid(1, len(runs), width=3, height=3.6)
    for ax, run in zip(axes[0], runs, strict=True):
        by_layer(ax, run, "train_tl", "Target Linearity")
        chance(ax, run, "train")
        published(ax, run)
    plot.shared_legend(figure, axes, "outside right center")
    return plot.finish(
        figure,
        title("Figure 11", runs),
        BANDS,
        plot.notes(runs, scale, None, ("model", "seeds"), "bert_train", task="tasks"),
        *(f"{kind(run)}: {seen(run)}." for run in runs if seen(run)),
        "The published code kept 256 random dimensions and drew no chance level; here all d are "
        "kept.",
    )


def validation(runs: Sequence[Result], scale: str, trained: Sequence[Result]) -> Figure:
    """Validation rows by layer, and how fine-tuning went (results of bert_train.py)."""
    figure, axes = plot.grid(3, len(runs), width=3, height=2.7)
    for (other, own, training), run in zip(axes.T, runs, strict=True):
        held_out(other, run, first=0)
        other.set_title(f"{kind(run)}: {run.label}", fontsize=8)
        by_layer(own, run, "validation_tl", "TL, validation rows", first=0)
        chance(own, run, "validation", first=0)
        by_epoch(training, run, trained)
    plot.shared_legend(figure, axes, "outside right center")
    return plot.finish(
        figure,
        title("Figure 11, validation rows", runs),
        "Above, with the least-squares map of the training rows; in the middle, with a map of "
        "their own; below, how fine-tuning went, thin lines each seed. emb: the embeddings; a "
        "first token's is the same in every sentence, so TL is zero there.",
        BANDS,
    )


def longer(
    runs: Sequence[Result], scale: str, shown: Sequence[Result], trained: Sequence[Result]
) -> Figure:
    """A row a task that was trained for longer than it is shown in Figure 11."""
    figure, axes = plot.grid(len(runs), 3, width=3.2, height=3)
    for (own, other, training), run in zip(axes, runs, strict=True):
        by_layer(own, run, "train_tl", "Target Linearity")
        chance(own, run, "train")
        held_out(other, run)
        by_epoch(training, run, trained)
    plot.shared_legend(figure, axes, "outside right center")
    return plot.finish(
        figure,
        title("Figure 11, trained for longer", shown),
        "After the figure's epochs the validation score of these tasks was still rising.",
        BANDS,
    )


def title(text: str, runs: Sequence[Result]) -> str:
    encoders = ", ".join(dict.fromkeys(run.config["model"] for run in runs))
    papers = bert_target_linearity.Config().model
    own = "" if encoders == papers else f" (the paper: {papers})"
    return f"{text}: Target Linearity through {encoders}{own}"


def looks(run: Result) -> Mapping[str, dict[str, Any]]:
    """How the curve of each stage looks, as in the paper: grey dashed, blue, orange to red."""
    epochs = plt.get_cmap("YlOrRd")(np.linspace(0.45, 0.9, len(run["stage"]) - 2))
    looks = [{"color": "0.6", "linestyle": "--"}, {"color": "C0"}, *({"color": c} for c in epochs)]
    return dict(zip(run["stage"], looks, strict=True))


def by_layer(
    ax: Axes,
    run: Result,
    name: str,
    ylabel: str,
    *,
    first: int = 1,
    limits: tuple[float, float] = plot.UNIT,
) -> None:
    """One curve a stage of an array (seed, stage, layer); first 0 is the embeddings."""
    layers = run["layer"][first:]
    for i, (stage, look) in enumerate(looks(run).items()):
        plot.band(ax, layers, run[name][:, i, first:], stage, limits=limits, **look)
    shown = layers[layers >= 0][:: max(1, len(layers) // 6)]
    embeddings = [] if first else [-1]
    ax.set_xticks([*embeddings, *shown], [*["emb"] * len(embeddings), *shown])
    ax.set(xlabel="layer", ylabel=ylabel)


def chance(ax: Axes, run: Result, split: str, *, first: int = 1) -> None:
    """The chance levels of each layer, means over seeds; N, d and seeds in the title."""
    layers, level = run["layer"][first:], run[f"{split}_chance"].mean((0, 1))[first:]
    ax.plot(layers, level, color="0.2", linestyle=":", linewidth=1, label="chance")
    if f"{split}_type_chance" in run.arrays:  # of the first stage and of the last
        values, stages = run[f"{split}_type_chance"].mean(0), list(looks(run).items())
        for i, (stage, look) in ((0, stages[0]), (-1, stages[-1])):
            label = f"labels permuted\nbetween words, {stage}"
            style = {"linestyle": "-.", "linewidth": 1, "color": look["color"]}
            ax.plot(layers, values[i, first:], label=label, **style)
    ax.set(ylim=(-0.02, 1.02))
    size = f"N = {run[f'{split}_n']}, d = {run['d']}"
    more = f"chance {level.max():.2f}, seeds: {len(run['seed'])}"
    ax.set_title(f"{kind(run)}: {run.label}\n{size}\n{more}", fontsize=8)


def published(ax: Axes, run: Result) -> None:
    """The paper's values at the last layer."""
    values = {} if run.config["task"].startswith("toy_") else ENCODERS.get(kind(run), {})
    for stage, look in looks(run).items():
        if stage in values:
            x, value = run["layer"][-1], values[stage]
            plot.end_mark(ax, x, value, look["color"], "published,\nbert-base-uncased")


def held_out(ax: Axes, run: Result, *, first: int = 1) -> None:
    """TL of validation rows, by the map of the training rows, which may be below zero."""
    by_layer(ax, run, "held_out_tl", "held-out TL", first=first, limits=(-np.inf, 1))
    ax.axhline(0, color="0.2", linestyle=":", linewidth=1)
    ax.set_ylim(max(-0.5, min(-0.02, 1.05 * run["held_out_tl"].min())), 1.02)


def by_epoch(ax: Axes, run: Result, trained: Sequence[Result]) -> None:
    """Accuracies, and F1 of entities, by epoch of the training that a result measures."""
    names = {
        "train_accuracy": ("accuracy, train", "0.2"),
        "validation_accuracy": ("accuracy, validation", "C2"),
        "validation_f1": ("F1 of entities, validation", "C4"),
    }
    for training in trained:
        is_it = training.config == run.config and training.label == run.label
        for name, look in names.items():
            if is_it and name in training.arrays:
                plot.seed_curves(ax, training["epoch"], 100 * training[name], *look)
    ax.set(xlabel="epoch", ylabel="accuracy, F1 (%)", ylim=(-2, 102))
