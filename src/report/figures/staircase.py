"""Figures 3 and 8: the staircase function, lazy and rich training."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment import staircase
from lab.results import Result
from report import plot
from report.lookup import command

CURVES = {  # array -> (name, colour, line)
    "ols_error": (r"$\|y - y_{OLS}\|$", "C0", "-"),
    "ols_distance": (r"$\|\hat y - y_{OLS}\|$", "C1", "-"),
    "loss": (r"$\|y - \hat y\|$", "0.3", "--"),
}
HELD_OUT = {"held_out_ols_error": CURVES["ols_error"], "held_out_loss": CURVES["loss"]}
PATHS = {"ols_coordinates": ("$f_{OLS,t}$", "C0"), "output_coordinates": ("$f_t$", "C1")}
# width -> end values of CURVES in the published notebook
PUBLISHED = {32: (38.8, 15.2, 41.5), 1024: (4.2, 44, 44)}


def by_width(runs: Sequence[Result]) -> list[Result]:
    return sorted(runs, key=lambda run: run.config["width"])


def figure8(runs: Sequence[Result], scale: str) -> Figure:
    """Distances by epoch, a column a width; below, of held-out samples."""
    measured = any("held_out_loss" in run.arrays for run in runs)
    published = PUBLISHED if scale == "paper" else {}
    height = 2.7 if measured else 3.4
    figure, axes = plot.grid(1 + measured, len(runs), width=2.6, height=height, sharey="row")
    for column, run in zip(axes.T, runs, strict=True):
        width, (output, ols) = run.config["width"], shares(run)
        norms(column[0], run, CURVES)
        by_share = rf"$\hat y \to y_{{OLS}}$ {output:.3f}, $y_{{OLS}} \to y$ {ols:.3f}"
        column[0].set_title(f"width {width}\n{by_share}", fontsize=9)
        for value, (_, color, _) in zip(published.get(width, ()), CURVES.values(), strict=False):
            plot.end_mark(column[0], run["epoch"][-1], value, color, "published notebook, end")
        if "held_out_loss" in run.arrays:
            norms(column[1], run, HELD_OUT)
        elif measured:
            plot.not_measured(column[1])
    axes[0, 0].set(ylabel="norm, training samples", ylim=(0, None))
    if measured:
        axes[1, 0].set(ylabel="norm, held-out samples", ylim=(0, None))
    plot.shared_legend(figure, axes, "outside right center")
    return plot.finish(
        figure,
        "Figure 8: staircase function",
        "Below each width: the shares of the fall of ‖y − ŷ‖², from the first to the last epoch, "
        "by which ŷ comes nearer to y_OLS, and y_OLS to y (means over draws; the ridge keeps their "
        "sum from being exactly one).",
        f"Thin: {len(runs[0]['seed'])} draws of data and weights; thick: their mean. Not the "
        "text's: the output is divided by √width, as in the published code (the text calls the "
        "parametrisation standard).",
        "Published notebook: one draw, of a generator whose state is unknown." * bool(published),
        "Not in the paper: the shares, the held-out samples, and width 960 (just under N, where "
        "y_OLS nearly interpolates the training samples).",
        lacking(runs, scale, "held_out_loss", "held-out samples"),
        notes(runs, scale),
    )


def norms(ax: Axes, run: Result, curves: Mapping[str, tuple[str, str, str]]) -> None:
    """Norms of differences by epoch; the results hold mean squares over the samples."""
    for name, (label, color, linestyle) in curves.items():
        values = np.sqrt(run.config["samples"] * run[name])
        plot.seed_curves(ax, run["epoch"], values, label, color, linestyle=linestyle)
    ax.locator_params(axis="x", nbins=5, steps=[1, 2, 5, 10])
    ax.set_xlabel("epoch")


def shares(run: Result) -> tuple[float, float]:
    """How much of the fall of ‖y − ŷ‖² is ŷ → y_OLS, and how much y_OLS → y; means over draws."""
    falls = {name: (run[name][:, 0] - run[name][:, -1]).mean() for name in CURVES}
    return falls["ols_distance"] / falls["loss"], falls["ols_error"] / falls["loss"]


def lacking(runs: Sequence[Result], scale: str, name: str, what: str) -> str:
    """A line that names the widths whose results were made before an array was added."""
    widths = [str(run.config["width"]) for run in runs if name not in run.arrays]
    remedy = f"{command('staircase', scale)} --overwrite --widths {' '.join(widths)}"
    return f"Without {what}: width {', '.join(widths)}. To add: {remedy}" if widths else ""


def notes(runs: Sequence[Result], scale: str) -> str:
    """The widths that were not run, and what differs from the paper."""
    config, lines = staircase.Config(), []
    absent = [str(w) for w in config.widths if w not in {run.config["width"] for run in runs}]
    if absent and scale == "paper":
        remedy = f"{command('staircase', scale)} --widths {' '.join(absent)}"
        lines = [f"Not run here: width {', '.join(absent)}. To add: {remedy}"]
    return "\n".join([*lines, *plot.differences(runs, config)])


def figure3(runs: Sequence[Result], scale: str) -> Figure | None:
    """The paths of the widest network (lazy) and of the narrowest (rich)."""
    with_paths = [run for run in runs if "output_coordinates" in run.arrays]
    if not with_paths:
        print(lacking(runs, scale, "output_coordinates", "paths"))
        return None
    narrow, wide = with_paths[0], with_paths[-1]
    figure, axes = plot.grid(1, 3, width=3.3, height=3.9)
    axes[0, 1].sharex(axes[0, 0])  # before anything is drawn: the limits are of both
    axes[0, 1].sharey(axes[0, 0])
    for ax, run, linestyle in zip(axes[0], (wide, narrow), ("--", "-"), strict=False):
        paths(ax, run)
        out_of_plane(axes[0, 2], run, linestyle)
    axes[0, 0].set_ylabel("along $y - f_{OLS,0}$")
    axes[0, 0].legend(loc="lower left")
    axes[0, 2].set(title="distance from the plane", xlabel="epoch", ylabel="norm", ylim=(0, None))
    axes[0, 2].legend()
    return plot.finish(
        figure,
        "Figure 3: lazy (left) and rich (right) training, drawn from Figure 8's runs",
        "Circles: before training (hollow) and after the last epoch (full). Thick: the first draw, "
        f"seed {narrow['seed'][0]}. The plane of a draw goes through y, f_0 and f_OLS,0; what "
        f"leaves it is on the right, mean over {len(narrow['seed'])} draws, colours as on the "
        "left. The paper's figure is a scheme.",
        lacking(runs, scale, "output_coordinates", "paths"),
        notes(runs, scale),
    )


def paths(ax: Axes, run: Result) -> None:
    """Paths of f_t and f_OLS,t around y in the plane through y, f_0 and f_OLS,0 of each draw."""
    for name, (label, color) in PATHS.items():
        for draw, points in enumerate(run[name][..., :2]):  # (epoch, 2)
            first = draw == 0
            ax.plot(*points.T, color=color, linewidth=2 if first else 0.5, label=label * first)
            ax.plot(*points[0], "o", color=color, ms=5 if first else 2, mfc="white")
            ax.plot(*points[-1], "o", color=color, ms=5 if first else 2)
    ax.plot(0, 0, "*", color="k", ms=11, label="$y$", linestyle="none")
    ax.set(title=f"width {run.config['width']}", xlabel="along $f_{OLS,0} - f_0$", aspect="equal")


def out_of_plane(ax: Axes, run: Result, linestyle: str) -> None:
    """How far f_t and f_OLS,t are from the plane; mean over draws."""
    for name, (_, color) in PATHS.items():
        distance = run[name][..., 2].mean(0)
        label = f"width {run.config['width']}" if color == "C1" else None
        ax.plot(run["epoch"], distance, color=color, linestyle=linestyle, label=label)


def movement(runs: Sequence[Result], scale: str) -> Figure:
    """A curve a width: squares relative to each draw's first loss, and the movement of H."""
    figure, ((*axes, moved, kernel),) = plot.grid(1, 5, width=2.7, height=3)
    panels = {
        "ols_error": r"$\|y - y_{OLS}\|^2$",
        "ols_distance": r"$\|\hat y - y_{OLS}\|^2$",
        "ols_movement": r"$\|y_{OLS,t} - y_{OLS,0}\|^2$",
    }
    above_zero = {"limits": (0, np.inf)}
    for run, color in zip(runs, plot.layer_colors(len(runs)), strict=True):
        label = f"width {run.config['width']}"
        for ax, name in zip(axes, panels, strict=True):
            share = run[name] / run["loss"][:, :1]
            plot.band(ax, run["epoch"], share, label, color, **above_zero)
        plot.band(moved, run["epoch"], run["feature_movement"], label, color, **above_zero)
        if "kernel_distance" in run.arrays:
            share = np.sqrt(run["kernel_distance"] / run["kernel_target"])
            plot.band(kernel, run["epoch"], share, label, color, **above_zero)
    for ax, title in zip(axes, panels.values(), strict=True):
        ax.set(title=title, xlabel="epoch", ylim=(0, 1.05))
    axes[0].set_ylabel("relative to the loss at epoch 0")
    moved.set(title="movement of $H$", xlabel="epoch", ylim=(0, None))
    moved.set_ylabel(r"$\|H_t - H_0\| / \|H_0\|$")
    kernel.set(title="$K$-norm", xlabel="epoch", ylim=(0, 1.05))
    kernel.set_ylabel(r"$\|\hat y - y_{OLS}\|_K / \|y\|_K$")
    axes[2].legend(fontsize=7, loc="upper left")
    return plot.finish(
        figure,
        "Figure 8, supplement: movement of the ridge fit and of the features",
        f"{plot.means(runs)} H: the last hidden features; ‖v‖_K² = vᵀKv with K = HHᵀ of the "
        "epoch (section 4.2).",
        lacking(runs, scale, "kernel_distance", "the K-norm"),
        notes(runs, scale),
    )
