"""Figures 5 and 10: interpolation and Target Linearity in the latent space of a VAE."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment import vae_target_linearity, vae_train
from lab.results import Result
from report import plot
from report.rules.models import at_best, rank_correlation, relative_nonlinearity
from report.verdicts import interval

Strip = tuple[np.ndarray, str]  # images and their label
SHOWN = (0.05, 0.1, 1.0, 10.0)  # β of the reconstructions


def notes(runs: Sequence[Result], scale: str) -> Iterator[str]:
    """What differs from the paper in training and in measuring, and what is missing."""
    for run in runs:
        yield from plot.differences([run], vae_train.Config().with_epochs(run.label))
    trained = list(vae_train.Config().hyperparameters())
    yield plot.notes(runs, scale, ignore=trained, after="vae_train")


def figure5(runs: Sequence[Result], scale: str) -> Figure:
    """Decoded interpolations, a block a data set: on the left by β, on the right by epoch."""
    columns = [strips(run) for run in runs]
    longest = max(len(rows) for pair in columns for rows in pair)
    size = (10.5, 0.49 * longest * len(runs) + 1)
    figure, axes = plt.subplots(longest * len(runs), 2, figsize=size)
    # α = 0 is the second class
    ends = {key: f"{b} to {a}" for key, (a, b) in vae_target_linearity.ENDS.items()}
    for block, run, pair in zip(np.split(axes, len(runs)), runs, columns, strict=True):
        for column, rows in zip(block.T, pair, strict=True):
            for ax, row in zip(column, rows, strict=False):
                plot.strip(ax, *row)
            label_columns(column[len(rows) - 1], run, makes_room=len(rows) == longest)
            for ax in column[len(rows) :]:
                ax.set_axis_off()
        by_epoch = f"β = {run.config['shown_beta']:g}, by epoch"
        block[0, 0].set_title(f"{run.label}, class {ends['by_beta']}, by β")
        block[0, 1].set_title(f"{run.label}, class {ends['by_epoch']}, {by_epoch}")
    return plot.finish(
        figure,
        "Figure 5: interpolation in the latent space of a VAE",
        "Decoded α μ₁ + (1 − α) μ₂, below the same mixture of the two test images' pixels. MSE: "
        "mean squared difference a pixel between the two; TL: Target Linearity at the best epoch. "
        "One seed.",
        *notes(runs, scale),
    )


def strips(run: Result) -> tuple[list[Strip], list[Strip]]:
    """Rows of the left column, by β, and of the right one, by epoch."""
    tl = run["tl"][:, 0][np.arange(len(run["beta"])), run["best_epoch"][:, 0]]
    heads = [f"β = {beta:g}, TL {value:.3f}" for beta, value in zip(run["beta"], tl, strict=True)]
    epochs = [f"epoch {epoch}" for epoch in run["shown_epoch"]]
    left, right = (
        [(run[f"{name}_pixels"], "pixels")]
        + [
            (images, f"{label}\nMSE {mse:.4f}")
            for images, label, mse in zip(run[name], labels, run[f"{name}_mse"], strict=True)
        ]
        for name, labels in (("by_beta", heads), ("by_epoch", epochs))
    )
    return left, right


def label_columns(ax: Axes, run: Result, makes_room: bool) -> None:
    """α below the images of a strip, of which each has a border of one pixel."""
    width = run["originals"].shape[-1] + 2
    labels = ["α", *(f"{value:.2g}" for value in run["lambda"])]
    below = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "top", "fontsize": 7}
    for i, label in enumerate(labels):
        text = ax.text(width * (i - 0.5) - 0.5, -0.06, label, **below)
        text.set_in_layout(makes_room)


def by_epoch(
    ax: Axes, run: Result, curves: Mapping[float, np.ndarray], ylabel: str, **options: Any
) -> None:
    """A curve a β from epoch 1 on; curves: β -> (seed, epoch)."""
    for beta, color in plot.value_colors(run["beta"]).items():
        if beta in curves:
            values = curves[beta][:, 1:]
            plot.band(ax, run["epoch"][1:], values, f"β = {beta:g}", color, **options)
    ax.set(title=run.label, xlabel="epoch", ylabel=ylabel)


def of_training(trained: Sequence[Result], run: Result, name: str) -> dict[float, np.ndarray]:
    """β -> an array of its training (seed, epoch)."""
    return {r.config["beta"]: r[name] for r in trained if r.label == run.label}


def figure10(
    runs: Sequence[Result], scale: str, trained: Sequence[Result], ceilings: Sequence[Result]
) -> Figure:
    """Test error and Target Linearity by epoch; with results of vae_train.py and vae_ceiling.py."""
    most = {run.label: run["ceiling_tl"][-1] for run in ceilings}
    figure, axes = plot.grid(len(runs), 2, width=4, height=2.8)
    for (error, tl), run in zip(axes, runs, strict=True):
        curves = of_training(trained, run, "test_bce")
        by_epoch(error, run, curves, "test error (nats an image)")
        linearity(tl, run, most.get(run.label))
    plot.shared_legend(figure, axes, "outside right center")
    title = "Figure 10: reconstruction error (binary cross-entropy) and Target Linearity"
    lines = (describe(run, most.get(run.label)) for run in runs)
    return plot.finish(figure, title, *lines, *notes(runs, scale))


def linearity(ax: Axes, run: Result, ceiling: float | None) -> None:
    """TL by epoch, beside what there is before training and the ceiling."""
    curves = dict(zip(run["beta"], run["tl"], strict=True))
    by_epoch(ax, run, curves, "Target Linearity", limits=plot.UNIT)
    before = run["tl"][..., 0].mean()
    ax.axhline(before, color="0.5", linestyle="--", linewidth=1, label="before training")
    if ceiling is not None:
        label = "principal components,\nas many as latents"
        ax.axhline(ceiling, color="0.2", linestyle=":", label=label)


def published(run: Result) -> np.ndarray:
    """TL at the best epochs, the targets' variance taken around each image's own mean."""
    return 1 - (1 - at_best(run, "tl")) / run["variance_around_own_mean"]


def describe(run: Result, ceiling: float | None) -> str:
    """What the curves are to be judged by, in a line."""
    latent, rank, chance = run.config["latent"], run["rank"], run["chance"].mean()
    ranks = " to ".join(f"{value:.0f}" for value in np.unique([rank.min(), rank.max()]))
    parts = [f"{run.label}: rank {ranks} of {latent}", f"TL at chance {chance:.3f}"]
    if ceiling is not None:
        parts.append(f"of {latent} principal components {ceiling:.3f}")
    lower = (at_best(run, "tl") - published(run)).mean()
    parts.append(f"lower by {lower:.3f} with the variance taken as published")
    return ", ".join(parts) + "."


def training(runs: Sequence[Result], scale: str, trained: Sequence[Result]) -> Figure:
    """Training error and surrogate by epoch."""
    figure, axes = plot.grid(len(runs), 2, width=4, height=2.8)
    for (error, surrogate), run in zip(axes, runs, strict=True):
        curves = of_training(trained, run, "train_bce")
        by_epoch(error, run, curves, "training error (nats an image)")
        values = dict(zip(run["beta"], run["surrogate"], strict=True))
        by_epoch(surrogate, run, values, "surrogate", log=True)
        surrogate.set_yscale("log")
    plot.shared_legend(figure, axes, "outside right center")
    return plot.finish(
        figure,
        "Figure 10: training error, and the surrogate with the decoder's first weight",
        "Ours. Means over seeds, bands ± 2 standard deviations, from the first epoch on.",
    )


def reconstructions(runs: Sequence[Result], scale: str) -> Figure:
    """Test images, and below them those of each shown β."""
    rows: list[Strip] = []
    for run in runs:
        rows.append((run["originals"], f"{run.label}\noriginals"))
        pairs = zip(run["reconstructions"], run["beta"], strict=True)
        rows += [(images, f"β = {beta:g}") for images, beta in pairs if beta in SHOWN]
    figure, axes = plt.subplots(len(rows), 1, figsize=(6, 0.6 * len(rows) + 0.6))
    for ax, row in zip(axes, rows, strict=True):
        plot.strip(ax, *row)
    return plot.finish(
        figure,
        "Figure 10: test images and their reconstructions at the best epoch",
        "The first test image of each class, decoded from its mean μ; one seed.",
    )


def interpolation(runs: Sequence[Result], scale: str) -> Figure:
    """Two errors of interpolation against TL; a point a seed. ρ as in CLAIMS."""
    figure, axes = plot.rows(runs, 2, against_linearity, width=3.6, height=2.9)
    plot.shared_legend(figure, axes, "outside right center")
    return plot.finish(
        figure,
        "Figures 5 and 10: interpolation against Target Linearity, at the best epoch",
        "Left, mean squared difference a pixel of decoded mixtures of latents from the mixture "
        "of the two images. Right (ours), from that of the two decoded images, over twice the "
        "variance of decoded images: blur alone does not change it. A point a seed; ρ: rank "
        "correlation over β, mean over seeds with its 95 % interval.",
    )


def against_linearity(axes: Sequence[Axes], run: Result) -> None:
    tl, colors = at_best(run, "tl"), plot.value_colors(run["beta"])  # (seed, beta)
    panels = {
        "error from the images' mixture": at_best(run, "interpolation_error"),
        "relative nonlinearity": relative_nonlinearity(run),
    }
    for ax, (label, values) in zip(axes, panels.items(), strict=True):
        for i, (beta, color) in enumerate(colors.items()):
            ax.scatter(tl[:, i], values[:, i], color=color, label=f"β = {beta:g}", s=16)
        r = interval(rank_correlation(tl, values)).text()
        ax.set(title=f"{run.label}: ρ = {r}", xlabel="Target Linearity", ylabel=label)
        ax.set_ylim(0, None)
