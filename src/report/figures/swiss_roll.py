"""Figure 1: a Swiss roll under the virtual update."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from scipy.stats import rankdata

from lab.results import Result
from report import plot
from report.rules.weights import STRAIGHT, gram_change
from report.verdicts import interval

LEVELS = (0.05, 0.1, 0.15, 0.2)  # standard deviations of the Gaussian; one may leave the frame
CONTROL = "C4"  # colour of the network that is never trained


def shown(run: Result) -> list[int]:
    """The epochs that Figure 1 draws."""
    return [epoch for epoch in range(0, 51, 10) if epoch in run["frame"]]


def at_end(run: Result) -> dict[str, np.ndarray]:
    """R² with and without training at the last frame, (seed,)."""
    return {name: run[name][:, run["frame"][-1]] for name in ("r2", "r2_frozen")}


def typical(run: Result) -> int:
    """Index of the seed of middle rank, by R² with and without training together."""
    values = at_end(run).values()
    ranks = sum(np.abs(rankdata(r2) - (len(r2) + 1) / 2) for r2 in values)
    return int(np.argmin(ranks))


def points_over(
    ax: Axes, run: Result, seed: int, points: np.ndarray, gram: np.ndarray
) -> PathCollection:
    """Virtual points of a seed, by its index, over X in grey; the Gaussian in X's coordinates."""
    ax.scatter(*run["points"][seed, 0].T, color="0.85", s=5, linewidths=0, rasterized=True)
    dots = ax.scatter(*points.T, c=run["target"], s=5, linewidths=0, rasterized=True)
    x, y = np.meshgrid(*[np.linspace(-0.04, 1.04, 150)] * 2)
    offset = np.stack([x, y], -1) - run["points"][seed, 0].mean(0)  # epoch 0: X itself
    covariance = gram + 1e-3 * np.eye(2)
    distance = np.sqrt(np.einsum("...i,ij,...j", offset, np.linalg.inv(covariance), offset))
    ax.contour(x, y, distance, LEVELS, colors="0.25", linestyles="dashed", linewidths=0.7)
    ax.set(aspect="equal", xticks=(0, 1), yticks=(0, 1))
    ax.grid(False)
    return dots


def frame(ax: Axes, run: Result, seed: int, epoch: int) -> PathCollection:
    """The virtual points of an epoch."""
    points = run["points"][seed, list(run["frame"]).index(epoch)]
    dots = points_over(ax, run, seed, points, run["gram"][seed, epoch])
    ax.set_title(f"epoch {epoch}")
    ax.set_xlabel(f"virtual $x_1$\n$R^2$ = {run['r2'][seed, epoch]:.3f}")
    return dots


def frames(axes: Sequence[Axes], run: Result, seed: int) -> PathCollection:
    """The shown epochs of one seed, and last the control; returns the control's points."""
    for ax, epoch in zip(axes, shown(run), strict=False):
        frame(ax, run, seed, epoch)
    axes[0].set_ylabel(f"seed {run['seed'][seed]}\nvirtual $x_2$")
    dots = points_over(axes[-1], run, seed, run["points_frozen"][seed], run["gram"][seed, 0])
    axes[-1].set_title("never trained", color=CONTROL)
    r2 = run["r2_frozen"][seed, run["frame"][-1]]
    axes[-1].set_xlabel(f"virtual $x_1$\n$R^2$ = {r2:.3f}")
    axes[-1].spines[:].set(visible=True, color=CONTROL)
    return dots


def compare(ax: Axes, run: Result, x: np.ndarray, suffix: str = "") -> None:
    """R² of the trained network and of the one that is never trained, every seed."""
    plot.seed_curves(ax, x, run[f"r2{suffix}"], "trained", "C0")
    control = run[f"r2_frozen{suffix}"]
    plot.seed_curves(ax, x, control, "never trained", CONTROL, linestyle="--")
    ax.axhline(run["r2"][0, 0], color="0.5", linestyle=":", label="the points themselves")
    ax.set(ylabel="$R^2$", ylim=(-0.02, 1.02))


def figure1(runs: Sequence[Result], scale: str) -> Figure:
    """The frames of one seed, and below them what R² does."""
    (run,) = runs
    names = [[[[*map(str, shown(run)), "control"]]], [[["r2", "seeds", "rate", "loss"]]]]
    figure, axes = plt.subplot_mosaic(names, figsize=(13, 5.6), height_ratios=(1, 1.15))
    figure.get_layout_engine().set(h_pad=0.08)
    row = [axes[name] for name in (*map(str, shown(run)), "control")]
    dots = frames(row, run, typical(run))
    figure.colorbar(dots, ax=row, label="target", pad=0.01, aspect=14)
    compare(axes["r2"], run, run["epoch"])
    axes["r2"].set(title=f"linear fit, γ = {run.config['virtual_rate']:g}", xlabel="epoch")
    axes["r2"].legend(fontsize=7, loc="lower right", frameon=True, framealpha=0.9)
    every_seed(axes["seeds"], run)
    compare(axes["rate"], run, run["virtual_rate"], "_by_rate")
    axes["rate"].axvline(run.config["virtual_rate"], color="0.5", linewidth=0.8)
    axes["rate"].set(title=f"linear fit at epoch {run['frame'][-1]}", xscale="log")
    axes["rate"].set_xlabel("γ (line: the paper's)")
    plot.seed_curves(axes["loss"], run["epoch"], run["loss"], "trained", "C0")
    label = "variance of the target"
    axes["loss"].axhline(run["target"].var(), color="0.5", linestyle=":", label=label)
    axes["loss"].set(title="training loss", xlabel="epoch", ylim=(0, None))
    axes["loss"].set_ylabel("mean squared error")
    axes["loss"].legend(fontsize=7)
    title = "Figure 1: Swiss roll under the virtual update"
    return plot.finish(figure, title, *describe(run), plot.notes(runs, scale))


def every_seed(ax: Axes, run: Result) -> None:
    """R² with training against R² without."""
    trained, frozen = at_end(run).values()
    ax.plot(frozen, trained, ".", color="C0", label="a seed")
    middle = frozen[typical(run)], trained[typical(run)]
    ax.plot(*middle, "o", color="C3", mfc="none", label="the frames' seed")
    ax.plot([0, 1], [0, 1], color="0.5", linestyle=":", label="training changes nothing")
    ax.set(title=f"linear fit at epoch {run['frame'][-1]}, every seed")
    ax.set(xlabel="$R^2$, never trained", ylabel="$R^2$, trained")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.legend(fontsize=7, loc="lower right")


def describe(run: Result) -> list[str]:
    """What Figure 1 shows, with R² over seeds."""
    last, ends, seeds = run["frame"][-1], at_end(run), len(run["seed"])
    percent = 100 * gram_change(run, last)
    straight, control = ((values > STRAIGHT).sum() for values in ends.values())
    trained, never = (interval(values) for values in ends.values())
    more = interval(ends["r2"] - ends["r2_frozen"])
    explained = 1 - run["loss"][:, last].mean() / run["target"].var()
    return [
        "Grey: the points themselves. Frames: one seed, typical of both (middle ranks), in the "
        f"last one at epoch {last} without training; others in figure1_seeds. Dashed: the Gaussian "
        "at the mean of X with covariance W₁ᵀW₁ + 0.001 I, in X's coordinates, at "
        f"{', '.join(map(str, LEVELS))} standard deviations. It stands still: W₁ᵀW₁ moves by "
        f"{percent.min():.1f} to {percent.max():.1f} % until epoch {last}. Curves: mean over "
        f"{seeds} seeds, thin lines each seed.",
        f"At epoch {last} the mean $R^2$ is {trained.text(3)} (95 %), above {STRAIGHT} for "
        f"{straight} of {seeds} seeds; never trained {never.text(3)}, above {STRAIGHT} for "
        f"{control}; the difference is {more.text(3)}. The trained network explains "
        f"{100 * explained:.0f} % of the target's variance: a gradient holds its point's own "
        "target, so virtual points that are straight are no evidence that the weights have learned "
        "it.",
    ]


def seeds(runs: Sequence[Result], scale: str) -> Figure:
    """The frames of five seeds, from the lowest R² to the highest."""
    (run,) = runs
    order = np.argsort(at_end(run)["r2"], kind="stable")  # of the seeds
    places = np.linspace(0, len(order) - 1, min(5, len(order))).round().astype(int)
    figure, axes = plot.grid(len(places), len(shown(run)) + 1, width=1.75, height=1.95)
    for seed, row in zip(order[places], axes, strict=True):
        dots = frames(row, run, seed)
    figure.colorbar(dots, ax=axes, label="target", pad=0.01, aspect=40)
    last = run["frame"][-1]
    return plot.finish(
        figure,
        "Figure 1, seeds from the lowest $R^2$ to the highest",
        f"Rows: of {len(order)} seeds those whose $R^2$ at epoch {last}, trained, is the lowest, "
        "the quartiles and the highest; on the right the same seed's points at epoch "
        f"{last} without training. Colours, grey and dashed lines as in Figure 1.",
        plot.notes(runs, scale),
    )


def alignment(runs: Sequence[Result], scale: str) -> Figure:
    """Cosine of the Gram's change with the Virtual Covariance Shift, by epoch."""
    (run,) = runs
    figure, ((ax,),) = plot.grid(1, 1)
    names = {"first_order_alignment": "to first order in γ", "alignment": "whole"}
    for color, (name, label) in zip(("C2", "C3"), names.items(), strict=True):
        plot.seed_curves(ax, run["epoch"][1:], run[name][:, 1:], label, color)
    ax.set(xlabel="epoch", ylabel="cosine", ylim=(None, 1.02))
    ax.legend(title="shift of the Virtual Covariance", fontsize=7, title_fontsize=7)
    return plot.finish(
        figure,
        "Figure 1: change of W₁ᵀW₁ and Virtual Covariance Shift",
        "Cosine of the change of W₁ᵀW₁ since the start with the Virtual Covariance Shift at γ = "
        f"{run.config['virtual_rate']:g}, and with its part linear in γ, which Theorem 1 equates "
        f"with it. Mean over {len(run['seed'])} seeds, thin lines each seed.",
        plot.notes(runs, scale),
    )


def one_frame(run: Result, epoch: int) -> Figure:
    """The typical seed's virtual points at an epoch."""
    figure, ax = plt.subplots(figsize=(3.6, 3.4))
    figure.colorbar(frame(ax, run, typical(run), epoch), label="target")
    ax.set_ylabel("virtual $x_2$")
    return figure


def save_animation(run: Result, path: Path) -> None:
    """The typical seed's virtual points, epoch by epoch, as PATH.gif; it rests on the last."""
    figure = one_frame(run, 0)
    ax, seed = figure.axes[0], typical(run)

    def show(epoch: int) -> None:
        ax.clear()
        frame(ax, run, seed, epoch)
        ax.set_ylabel("virtual $x_2$")

    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # frames keep the first one's layout, which is slow to find
    epochs = [*run["frame"], *[run["frame"][-1]] * 8]
    plot.save_animation(FuncAnimation(figure, show, epochs), path.with_suffix(".gif"), 6, dpi=90)
    plt.close(figure)
