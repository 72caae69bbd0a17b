"""The figures' shared style and helpers, for the modules of report/figures."""

import functools
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from core.pictures import use_style as use_style
from lab import files
from lab.results import Result, plain
from report.lookup import command, experiment

UNIT, PERCENT = (0.0, 1.0), (0.0, 100.0)  # what a share can be


def band(
    ax: Axes,
    x: np.ndarray,
    values: np.ndarray,
    label: str | None,
    color: Any,
    *,
    log: bool = False,
    limits: tuple[float, float] | None = None,
    deviations: float = 2,
    linestyle: str = "-",
) -> None:
    """Mean over seeds with a shaded band of standard deviations; values (seed, x).

    Args:
        log: mean and spread are of the logarithms.
        limits: what the values can be; the band does not leave them.
        deviations: half the width of the band.
    """
    values = np.log10(values) if log else values
    mean, deviation = over_seeds(values)
    spread = deviations * deviation
    curves = [10.0**curve if log else curve for curve in (mean, mean - spread, mean + spread)]
    if limits is not None:
        curves = [np.clip(curve, *limits) for curve in curves]
    ax.plot(x, curves[0], label=label, color=color, linestyle=linestyle)
    ax.fill_between(x, *curves[1:], color=color, alpha=0.2, linewidth=0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def over_seeds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | int]:
    """Mean and standard deviation of values (seed, x), without replicas that have diverged by x."""
    if not np.isnan(values).any():
        return values.mean(0), values.std(0, ddof=1) if len(values) > 1 else 0
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # where none is left
        return np.nanmean(values, 0), np.nan_to_num(np.nanstd(values, 0, ddof=1))


def seeds(runs: Sequence[Result]) -> str:
    """How many seeds runs have: "3 or 10 seeds"."""
    numbers = sorted({len(run["seed"]) for run in runs})
    return f"{' or '.join(map(str, numbers))} seed{'s' * (numbers != [1])}"


def means(runs: Sequence[Result]) -> str:
    """What the curves of `band` are, for the note below them."""
    return f"Means over {seeds(runs)}, bands ± 2 standard deviations."


def seed_curves(
    ax: Axes,
    x: np.ndarray,
    values: np.ndarray,
    label: str | None,
    color: Any,
    *,
    linestyle: str = "-",
) -> None:
    """Mean over seeds, and each seed as a thin line; values (seed, x)."""
    ax.plot(x, over_seeds(values)[0], label=label, color=color, linestyle=linestyle)
    ax.plot(x, values.T, color=color, linestyle=linestyle, linewidth=0.5, alpha=0.6)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def quoted(ax: Axes, value: float, label: str) -> None:
    """A value that the paper's text quotes, as a line across."""
    ax.axhline(value, color="C3", linestyle=(0, (1, 3)), linewidth=1.2, label=label)


def layer_colors(layers: int) -> np.ndarray:
    """Yellow to dark purple from the first layer to the last, as the paper draws them."""
    return plt.get_cmap("viridis_r")(np.linspace(0.05, 1, layers))


def grid(
    rows: int, columns: int, width: float = 3.3, height: float = 2.6, **keywords: Any
) -> tuple[Figure, np.ndarray]:
    """Figure and (rows, columns) axes; at least 5 inches wide, for the note below it."""
    width = max(width, 5 / columns)
    return plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, **keywords
    )


def rows(
    runs: Sequence[Result], columns: int, panels: Callable[[np.ndarray, Result], Any], **size: float
) -> tuple[Figure, np.ndarray]:
    """Figure and axes of a row a result, each drawn by `panels`."""
    figure, axes = grid(len(runs), columns, **size)
    for row, run in zip(axes, runs, strict=True):
        panels(row, run)
    return figure, axes


def shared_legend(figure: Figure, axes: np.ndarray, loc: str) -> None:
    """One legend for all of `axes`, outside of them, with every label once."""
    pairs = [pair for ax in axes.flat for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    named = {label: handle for handle, label in pairs}
    figure.legend(named.values(), named.keys(), loc=loc, fontsize=7)


def differences(runs: Sequence[Result], preset: Any, ignore: Sequence[str] = ()) -> list[str]:
    """A line for each set of settings that are not a configuration's, as "epochs 5 (20)".

    And one for each result of which a replica diverged.
    """
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
    return [*(f"{start}: {line}" for line in sorted(sets - {""})), *diverged(runs)]


def diverged(runs: Sequence[Result]) -> list[str]:
    """A line for each result of which a replica diverged."""
    return [f"{run.name}{run.warning}" for run in runs if run.warning]


def stand_in(label: str) -> str:
    """The data set of the paper that a result's data stand for: cifar10 for cifar10_jpeg."""
    return label.removesuffix("_jpeg")


def missing(
    runs: Sequence[Result], scale: str, settings: Mapping[str, Any] | None = None, after: str = ""
) -> str:
    """What the figure lacks of the paper's data sets, and the command that adds it: `notes`."""
    name, shown = runs[0].meta["experiment"], list(dict.fromkeys(run.label for run in runs))
    have, lines = {stand_in(label) for label in shown}, []
    absent = [entry for entry in experiment(name).Config().datasets if entry not in have]
    if absent:
        remedy = f"{command(name, scale, settings, after)} --datasets {' '.join(absent)}"
        lines.append(f"Not run here: {', '.join(absent)}. To add: {remedy}")
    if any(label.endswith("_jpeg") for label in shown):
        copy = "every CIFAR-10 image, decoded from a JPEG copy; its pixels differ slightly."
        lines.append(f"cifar10_jpeg: {copy}")
    return "\n".join(lines)


def notes(
    runs: Sequence[Result],
    scale: str,
    settings: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    after: str = "",
    **axes: str,
) -> str:
    """What stands below a figure: how it differs from the paper, and what it lacks.

    Args:
        runs: the results shown, of one script.
        scale: of the results.
        settings: of the paper's configuration that are not the script's default.
        ignore: settings whose difference is no difference.
        after: a script that has to be run before the one that adds what is lacking.
        axes: name of a result's setting -> field of the configuration that lists its values; one
            result a value.
    """
    name = runs[0].meta["experiment"]
    preset = experiment(name).Config(**settings or {})
    lines = differences(runs, preset, ignore)
    for setting, field in axes.items():
        present = {run.config[setting] for run in runs}
        absent = [str(value) for value in getattr(preset, field) if value not in present]
        if absent:
            words = f"--{field.replace('_', '-')} {' '.join(absent)}"
            remedy = f"{command(name, scale, after=after)} {words}"
            lines.append(f"Not run here: {setting} {', '.join(absent)}. To add: {remedy}")
    if hasattr(preset, "datasets"):
        lines.append(missing(runs, scale, settings, after))
    return "\n".join(filter(None, lines))


def finish(figure: Figure, title: str, *notes: str) -> Figure:
    """Write a title above the figure and notes below it, wrapped, each of their lines once."""
    if title:
        figure.suptitle(title, wrap=True)
    if lines := dict.fromkeys(line for note in notes for line in note.splitlines() if line):
        characters = int(17 * figure.get_figwidth())
        note = "\n".join(textwrap.fill(line, characters) for line in lines)
        figure.supxlabel(note, fontsize=7, color="0.3", ha="left", x=0.01)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Save as PATH.png and PATH.pdf."""
    for kind in ("png", "pdf"):
        # fixed metadata: the same results give the same files
        metadata = {"CreationDate": None} if kind == "pdf" else None
        save = functools.partial(figure.savefig, format=kind, metadata=metadata)
        files.write_whole(path.with_suffix(f".{kind}"), save)


def save_animation(animation: FuncAnimation, path: Path, frames_per_second: int, dpi: int) -> None:
    """Save as a GIF, whole or not at all."""
    with tempfile.TemporaryDirectory() as folder:  # matplotlib writes in place, to a path alone
        made = Path(folder) / path.name
        animation.save(made, PillowWriter(fps=frames_per_second), dpi=dpi)
        files.write_whole(path, lambda file: file.write(made.read_bytes()))


def layer_curves(
    ax: Axes,
    run: Result,
    values: np.ndarray,
    ylabel: str,
    log: bool = False,
    limits: tuple[float, float] | None = None,
) -> None:
    """One curve a hidden layer of a run's (seed, epoch, layer) array, against the epoch."""
    layers = run["layer"]
    for i, (layer, color) in enumerate(zip(layers, layer_colors(len(layers)), strict=True)):
        band(ax, run["epoch"], values[..., i], f"layer {layer}", color, log=log, limits=limits)
    ax.set(xlabel="epoch", ylabel=ylabel, yscale="log" if log else "linear")


def diagonal(run: Result, name: str) -> np.ndarray:
    """A diagonal of the input layer as an image (C, H, W), the first seed's."""
    return run[f"diagonal_{name}"][0].reshape((1, 1, *run["image_shape"])[-3:])


def pixels(ax: Axes, image: np.ndarray, low: float, high: float) -> None:
    """An image (C, H, W), black at one value and white at another; in grey where C is not 3."""
    values = image if len(image) == 3 else image.mean(0, keepdims=True)
    values = np.clip((values - low) / (high - low), 0, 1).transpose(1, 2, 0)
    ax.imshow(np.broadcast_to(values, (*values.shape[:2], 3)), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)


def strip(ax: Axes, images: np.ndarray, label: str) -> None:
    """Images (N, C, H, W), uint8, side by side, with a label on the left."""
    row = np.concatenate(
        list(np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=255)), axis=2
    )
    colors = np.broadcast_to(row, (3, *row.shape[1:])) if len(row) == 1 else row  # grey as colour
    ax.imshow(colors.transpose(1, 2, 0), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)


def value_colors(values: Sequence[float]) -> dict[float, Any]:
    """A colour for each value of an axis, in order."""
    return dict(
        zip(sorted(values), plt.get_cmap("plasma")(np.linspace(0, 0.85, len(values))), strict=True)
    )


def end_mark(ax: Axes, x: float, value: float, color: Any, label: str | None) -> None:
    """A published end value, hollow beside the end of its curve; in the legend in grey."""
    ax.plot(x, value, ">", color=color, markersize=6, markerfacecolor="none", clip_on=False)
    ax.plot([], [], ">", color="0.4", markersize=6, markerfacecolor="none", label=label)


def not_measured(ax: Axes) -> None:
    """What stands in a panel whose array an older result lacks."""
    ax.text(0.5, 0.5, "not in this result", ha="center", color="0.5", transform=ax.transAxes)
    ax.set_axis_off()


def accuracy_axis(ax: Axes, run: Result, curves: Mapping[str, tuple[str, Any]]) -> Axes:
    """Accuracies by epoch, dashed, on a second axis on the right; array -> (label, colour)."""
    right = ax.twinx()
    for name, (label, color) in curves.items():
        options = {"limits": PERCENT, "linestyle": "--"}
        band(right, run["epoch"], 100 * run[name], label, color, **options)
    right.set(ylabel="accuracy (%)", ylim=(0, 102))
    right.grid(False)
    right.spines["right"].set_visible(True)
    return right


def in_order(runs: Sequence[Result]) -> list[Result]:
    """Results in the paper's order of data sets, those of other data last."""
    wanted = [getattr(experiment(run.meta["experiment"]).Config(), "datasets", ()) for run in runs]
    place = {name: i for names in wanted for i, name in enumerate(names)}
    return sorted(runs, key=lambda run: place.get(stand_in(run.label), len(place)))
