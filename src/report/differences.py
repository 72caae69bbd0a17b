"""What the published code does, what this one does, and what that changes, measured."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiment import published_formulas, swissroll, vae_target_linearity, whiten
from report.lookup import lookup, mean_spread

Row = tuple[str, str, str]  # the published code, here, measured effect


def differences_table(root: Path, scale: str) -> str:
    """Markdown: a row a difference."""
    kinds = (_formulas, _whitening, _variance, _seed)
    rows = [row for kind in kinds for row in kind(root, scale)]
    lines = ["| the published code | here | measured effect |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _formulas(root: Path, scale: str) -> Iterator[Row]:
    for run in lookup(published_formulas, root, scale):
        exact, published = run["tl"], run["tl_published"]  # (epoch, layer)
        worst = np.unravel_index(np.abs(published - exact).argmax(), exact.shape)
        yield (
            "TL by a float32 inverse of HᵀH",
            "centred float64 sums, scaled columns, a rank with a stated cut-off",
            f"{run.label}, last layer before training: {published[0, -1]:.3f} where the truth is "
            f"{exact[0, -1]:.3f} (condition number {run['condition'][0, -1]:.0f}); at worst, epoch "
            f"{worst[0]} layer {worst[1] + 1}: {published[worst]:.3g} where it is "
            f"{exact[worst]:.3f}",
        )
        error = np.abs(run["surrogate_published"] / run["surrogate"] - 1).max()
        seconds = run["surrogate_seconds"]
        samples = run.config["surrogate_samples"]
        yield (
            "surrogate through the N × N matrix ZZᵀ",
            "the identity tr(YᵀZZᵀY) = ‖ZᵀY‖²",
            f"{run.label}, {samples} samples: the same to {error:.0e}, in {seconds[0]:.3f} s "
            f"instead of {seconds[1]:.2f} s a layer, and without a matrix that grows as N²",
        )


def _whitening(root: Path, scale: str) -> Iterator[Row]:
    rate = {"learning_rate": 0.01}  # the one that both are run at
    exact = {run.label: run for run in lookup(whiten, root, scale, method="exact", **rate)}
    for run in lookup(whiten, root, scale, method="newton_schulz", **rate):
        number = run["singular_values"].shape[-1]
        lost = (run["singular_values"][:, -1] < 1e-4).sum(-1)  # (seed,)
        text = (
            f"{run.label}: at the end {mean_spread(lost, 0)} of {number} singular values of layer "
            "2 are below 10⁻⁴; the epochs' last steps change its Gram by up to "
            f"{run['gram_error'].max():.0e}"
        )
        if run.label in exact:
            kept = (exact[run.label]["singular_values"][:, -1] < 1e-4).sum(-1)
            error = exact[run.label]["gram_error"].max()
            text += f" (exact: {mean_spread(kept, 0)} values, up to {error:.0e})"
        here = "exact; the published way is an option"
        yield ("ten Newton–Schulz steps for the polar factor", here, text)


def _variance(root: Path, scale: str) -> Iterator[Row]:
    for run in lookup(vae_target_linearity, root, scale):
        tl = np.take_along_axis(run["tl"], run["best_epoch"][..., None], 2)
        lower = (1 - tl) * (1 / run["variance_around_own_mean"] - 1)
        yield (
            "variance of a VAE's targets around each image's own mean",
            "around the column means",
            f"{run.label}: TL at the best epochs lower by {lower.min():.3f} to {lower.max():.3f}",
        )


def _seed(root: Path, scale: str) -> Iterator[Row]:
    for run in lookup(swissroll, root, scale):
        epoch = min(50, len(run["epoch"]) - 1)
        r2 = run["r2"][:, epoch]
        yield (
            "Swiss roll without a seed, one gradient too many in the sum",
            f"{len(r2)} seeds, gradients before the epoch's step",
            f"R² at epoch {epoch}: {r2.min():.2f} to {r2.max():.2f}, mean {r2.mean():.2f}",
        )
