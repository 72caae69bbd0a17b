"""The figures' shared style and helpers: notebooks read results and call these."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from core.layer_table import LayerTable
from lab.results import Result, plain

METHODS = {  # method -> (name in legends, colour)
    "plain": ("plain", "0.35"),
    "exact": ("Gram-whitened, exact", "C0"),
    "newton_schulz": ("Gram-whitened, as published", "C3"),
}
STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 9,
    "axes.titlesize": 10,
}


def use_style() -> None:
    plt.rcParams.update(STYLE)


def band(
    ax: Axes, x: np.ndarray, values: np.ndarray, label: str, color: Any, log: bool = False
) -> None:
    """Mean over seeds, ± 2 standard deviations shaded, of logarithms if `log`; values (seed, x)."""
    values = np.log10(values) if log else values
    mean, spread = values.mean(0), 2 * values.std(0, ddof=1) if len(values) > 1 else 0
    curves = [10.0**curve if log else curve for curve in (mean, mean - spread, mean + spread)]
    ax.plot(x, curves[0], label=label, color=color)
    ax.fill_between(x, *curves[1:], color=color, alpha=0.2, linewidth=0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def layer_colors(layers: int) -> np.ndarray:
    """Dark to light from the first layer to the last."""
    return plt.get_cmap("viridis")(np.linspace(0, 0.85, layers))


def grid(
    rows: int, columns: int, width: float = 3.3, height: float = 2.6, **keywords: Any
) -> tuple[Figure, np.ndarray]:
    """Figure and (rows, columns) axes; at least 5 inches wide, for the note below it."""
    width = max(width, 5 / columns)
    return plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, **keywords
    )


def shared_legend(figure: Figure, axes: np.ndarray, loc: str) -> None:
    """One legend for all of `axes`, outside of them, with every label once."""
    pairs = [pair for ax in axes.flat for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    named = {label: handle for handle, label in pairs}
    figure.legend(named.values(), named.keys(), loc=loc, fontsize=7)


def differences(runs: Sequence[Result], preset: Any, ignore: Sequence[str] = ()) -> list[str]:
    """A line for each set of settings that are not a configuration's, as "epochs 5 (20)"."""
    expected = plain(preset.hyperparameters())
    sets = set()
    for run in runs:
        unlike = [
            k
            for k in run.config
            if k in expected and k not in ignore and run.config[k] != expected[k]
        ]
        sets.add(", ".join(f"{k} {run.config[k]} ({expected[k]})" for k in unlike))
    start = "Changed from the defaults (the paper's, where it has them)"
    return [f"{start}: {line}" for line in sorted(sets - {""})]


def stand_in(label: str) -> str:
    """The data set of the paper that a result's data stand for: cifar10 for cifar10_jpeg."""
    return label.removesuffix("_jpeg")


def missing_note(shown: Sequence[str], wanted: Sequence[str], command: str) -> str:
    """What the figure lacks of the paper's data sets, and the command that adds it."""
    absent = [name for name in wanted if name not in {stand_in(label) for label in shown}]
    lines = []
    if absent:
        remedy = f"{command} --datasets {' '.join(absent)}"
        lines.append(f"Not run here: {', '.join(absent)}. To add: {remedy}")
    if any(label.endswith("_jpeg") for label in shown):
        copy = "every CIFAR-10 image, decoded from a JPEG copy; its pixels differ slightly."
        lines.append(f"cifar10_jpeg: {copy}")
    return "\n".join(lines)


def notes(
    runs: Sequence[Result], preset: Any, command: str, ignore: Sequence[str] = (), **axes: str
) -> str:
    """What stands below a figure: how it differs from the paper, and what it lacks.

    Args:
        runs: the results shown.
        preset: the paper's configuration.
        command: that makes the results.
        ignore: settings whose difference is no difference.
        axes: name of a result's setting -> field of the configuration that lists its values; one
            result a value.
    """
    lines = differences(runs, preset, ignore)
    for setting, field in axes.items():
        present = {run.config[setting] for run in runs}
        absent = [str(value) for value in getattr(preset, field) if value not in present]
        if absent:
            remedy = f"{command} --{field.replace('_', '-')} {' '.join(absent)}"
            lines.append(f"Not run here: {setting} {', '.join(absent)}. To add: {remedy}")
    if hasattr(preset, "datasets"):
        lines.append(missing_note([r.label for r in runs], preset.datasets, command))
    return "\n".join(filter(None, lines))


def finish(figure: Figure, path: Path, note: str = "") -> None:
    """Write the note below the figure and save it as PATH.png and PATH.pdf."""
    if note:
        characters = int(17 * figure.get_figwidth())
        lines = [textwrap.fill(line, characters) for line in note.splitlines()]
        figure.supxlabel("\n".join(lines), fontsize=7, color="0.3", ha="left", x=0.01)
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".pdf"):
        # fixed metadata: the same results give the same files
        figure.savefig(
            path.with_suffix(suffix), metadata={"CreationDate": None} if suffix == ".pdf" else None
        )


def accuracy(ax: Axes, runs: Sequence[Result]) -> None:
    """Test accuracy by epoch, from the first on, of each method on one data set."""
    for run in sorted(runs, key=lambda r: list(METHODS).index(r.config["method"])):
        label, color = METHODS[run.config["method"]]
        band(ax, run["epoch"][1:], 100 * run["test_accuracy"][:, 1:], label, color)
    ax.set(title=runs[0].label, xlabel="epoch", ylabel="test accuracy (%)")


def accuracy_by_rate(ax: Axes, runs: Sequence[Result]) -> None:
    """Final test accuracy of each method by learning rate on one data set; bars are ± 2 std."""
    for method, (label, color) in METHODS.items():
        points = sorted(
            (run.config["learning_rate"], 100 * run["test_accuracy"][:, -1])
            for run in runs
            if run.config["method"] == method
        )
        if points:
            rates, finals = zip(*points, strict=True)
            spread = [2 * f.std(ddof=1) if len(f) > 1 else 0 for f in finals]
            ax.errorbar(
                rates,
                [f.mean() for f in finals],
                spread,
                label=label,
                color=color,
                marker="o",
                capsize=3,
            )
    ax.set(
        title=runs[0].label, xlabel="learning rate", ylabel="final test accuracy (%)", xscale="log"
    )


def whitening_methods(axes: Sequence[Axes], runs: Sequence[Result]) -> None:
    """Spectrum of the second layer, Gram error of the projection, and accuracy by method."""
    spectrum, error, last = axes
    name, start = runs[0].label, runs[0]["singular_values"][:, 0].mean(0)
    spectrum.plot(
        np.arange(1, len(start) + 1), start, color="0.7", linestyle="--", label="before training"
    )
    for run in sorted(runs, key=lambda r: list(METHODS).index(r.config["method"])):
        label, color = METHODS[run.config["method"]]
        values = run["singular_values"][:, -1].mean(0)
        spectrum.plot(np.arange(1, len(values) + 1), values, color=color, label=label)
        step_label = {"label": "the optimizer's own step"} if run is runs[-1] else {}
        error.plot(
            run["epoch"][1:],
            run["gram_change"].mean(0)[1:],
            color="0.5",
            linestyle=":",
            **step_label,
        )
        if run.config["method"] != "plain":
            error.plot(
                run["epoch"][1:],
                run["gram_error"].mean(0)[1:],
                color=color,
                label=f"projection, {label}",
            )
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


def layer_curves(ax: Axes, run: Result, values: np.ndarray, ylabel: str, log: bool = False) -> None:
    """One curve a hidden layer of a run's (seed, epoch, layer) array, against the epoch."""
    layers = run["layer"]
    for i, (layer, color) in enumerate(zip(layers, layer_colors(len(layers)), strict=True)):
        band(ax, run["epoch"], values[..., i], f"layer {layer}", color, log)
    ax.set(xlabel="epoch", ylabel=ylabel, yscale="log" if log else "linear")


def linearity(axes: np.ndarray, run: Result) -> None:
    """Rows train and test; columns TL, surrogate, ‖Z‖², accuracy, loss. axes (2, 5)."""
    for row, split in zip(axes, ("train", "test"), strict=True):
        layer_curves(row[0], run, run[f"{split}_tl"], "Target Linearity")
        chance = run[f"{split}_chance"].mean()
        row[0].axhline(chance, color="0.5", linestyle=":", label=f"chance {chance:.3f}")
        layer_curves(row[1], run, run[f"{split}_surrogate"], "surrogate", log=True)
        layer_curves(row[2], run, run[f"{split}_response_norm"], "$\\|Z\\|_F^2$", log=True)
        band(row[3], run["epoch"], 100 * run[f"{split}_accuracy"], split, "0.2")
        band(row[4], run["epoch"], run[f"{split}_loss"], split, "0.2")
        row[3].set(xlabel="epoch", ylabel="accuracy (%)")
        row[4].set(xlabel="epoch", ylabel="cross-entropy (nats)")
        for ax in row:
            ax.set_title(f"{run.label}, {split}")
        row[0].legend(fontsize=7)


def strip(ax: Axes, images: np.ndarray, label: str) -> None:
    """Images (N, C, H, W), uint8, side by side, with a label on the left."""
    row = np.concatenate(
        list(np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=255)), axis=2
    )
    pixels = np.broadcast_to(row, (3, *row.shape[1:])) if len(row) == 1 else row  # grey as colour
    ax.imshow(pixels.transpose(1, 2, 0), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)


def value_colors(values: Sequence[float]) -> dict[float, Any]:
    """A colour for each value of an axis, in order."""
    return dict(
        zip(sorted(values), plt.get_cmap("plasma")(np.linspace(0, 0.85, len(values))), strict=True)
    )


def layer_measures(
    table: LayerTable,
    names: Sequence[str] = ("tl_in", "tl_out", "cosine_vc", "cosine_agop", "cka_out"),
) -> Figure:
    """Measures of `core.measure` by layer."""
    upright = len(table) > 6  # layer names, which then need room
    height = 3.5 + (0.07 * max(len(row.name) for row in table) if upright else 0)
    width = max(4.0, 0.5 * len(table) + 2)
    figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
    for name in names:
        values = [getattr(row, name) for row in table]
        ax.plot([row.name for row in table], values, marker="o", label=name)
    ax.set(xlabel="layer", ylabel="value", ylim=(None, 1.05))
    ax.tick_params(axis="x", rotation=90 if upright else 0)
    ax.legend()
    return figure


def measure_by_epoch(tables: Mapping[int, LayerTable], name: str = "tl_in") -> Figure:
    """One measure of `core.callback.MeasureEvery` by epoch, a curve a layer."""
    figure, ax = plt.subplots(figsize=(6.5, 3.5), layout="constrained")
    for rows in zip(*tables.values(), strict=True):
        values = [getattr(row, name) for row in rows]
        ax.plot(list(tables), values, marker="o", label=rows[0].name)
    ax.set(xlabel="epoch", ylabel=name)
    ax.legend(title="layer", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
