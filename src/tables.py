"""What the README says of the results beside the claims: what was run, and what differs from the published code."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np

import results
from figures import RECIPES


def mean_spread(values: np.ndarray, digits: int = 2) -> str:
    """ "mean ± 2 standard deviations" over seeds."""
    spread = f" ± {2 * values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def figures_table(root: Path, scale: str) -> str:
    """Markdown: figure, command, notebook, what its committed results took, and what you should see."""
    lines = ["| figure | command | notebook | took | what you should see |", "| --- | --- | --- | --- | --- |"]
    for figure, recipe in RECIPES.items():
        commands = [
            f"`python src/experiment/{script}.py{''.join(f' {o}' for o in options)}`"
            for script, *options in recipe.scripts
        ]
        minutes: dict[str, float] = {}
        for script, *options in recipe.scripts:
            wanted = {flag.removeprefix("--"): value for flag, value in zip(options[::2], options[1::2], strict=True)}
            preset = import_module(f"experiment.{script}").Config().hyperparameters()
            for run in results.find(root, scale, script, preset, **wanted):
                minutes[run.label] = minutes.get(run.label, 0) + run.meta["seconds"] / 60
        took = ", ".join(f"{label} {total:.0f} min" for label, total in minutes.items()) or "not run here"
        notebook = f"{recipe.notebook}.ipynb"
        lines.append(f"| {figure}: {recipe.title} | {', '.join(commands)} | {notebook} | {took} | {recipe.see} |")
    return "\n".join(lines) + "\n"


def differences_table(root: Path, scale: str) -> str:
    """Markdown: what the published code does, what this one does, and what that changes, measured."""
    rows = [
        row
        for measure in (_published_linearity, _published_whitening, _published_variance, _published_seed)
        for row in measure(root, scale)
    ]
    lines = ["| the published code | here | measured effect |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _published_linearity(root: Path, scale: str) -> Iterator[tuple[str, str, str]]:
    for run in results.find(root, scale, "published_formulas", {}):
        exact, published = run["tl"], run["tl_published"]  # (epoch, layer)
        worst = np.unravel_index(np.abs(published - exact).argmax(), exact.shape)
        yield (
            "TL by a float32 inverse of HᵀH",
            "centred float64 sums, scaled columns, a rank with a stated cut-off",
            f"{run.label}, last layer before training: {published[0, -1]:.3f} where the truth is {exact[0, -1]:.3f} "
            f"(condition number {run['condition'][0, -1]:.0f}); at worst, epoch {worst[0]} layer {worst[1] + 1}: "
            f"{published[worst]:.3g} where it is {exact[worst]:.3f}",
        )
        error = np.abs(run["surrogate_published"] / run["surrogate"] - 1).max()
        seconds = run["surrogate_seconds"]
        yield (
            "surrogate through the N × N matrix ZZᵀ",
            "the identity tr(YᵀZZᵀY) = ‖ZᵀY‖²",
            f"{run.label}, {run.config['surrogate_samples']} samples: the same to {error:.0e}, in {seconds[0]:.3f} s "
            f"instead of {seconds[1]:.2f} s a layer, and without a matrix that grows as N²",
        )


def _published_whitening(root: Path, scale: str) -> Iterator[tuple[str, str, str]]:
    for run in results.find(root, scale, "whiten", {}, method="newton_schulz", learning_rate=0.01):
        exact = results.find(root, scale, "whiten", run.config, method="exact", learning_rate=0.01)
        exact = [e for e in exact if e.label == run.label]
        lost = (run["singular_values"][0, :, -1] < 1e-4).sum(-1)  # (seed,)
        text = (
            f"{run.label}: at the end {mean_spread(lost, 0)} of {run['singular_values'].shape[-1]} singular values of "
            f"layer 2 are below 10⁻⁴; the epochs' last steps change its Gram by up to {run['gram_error'][0].max():.0e}"
        )
        if exact:
            kept = (exact[0]["singular_values"][0, :, -1] < 1e-4).sum(-1)
            text += f" (exact: {mean_spread(kept, 0)} values, up to {exact[0]['gram_error'][0].max():.0e})"
        yield ("ten Newton–Schulz steps for the polar factor", "exact; the published way is an option", text)


def _published_variance(root: Path, scale: str) -> Iterator[tuple[str, str, str]]:
    for run in results.find(root, scale, "vae_target_linearity", {}):
        tl = np.take_along_axis(run["tl"], run["best_epoch"][..., None], 2)
        lower = (1 - tl) * (1 / run["variance_around_own_mean"] - 1)
        yield (
            "variance of a VAE's targets around each image's own mean",
            "around the column means",
            f"{run.label}: TL at the best epochs lower by {lower.min():.3f} to {lower.max():.3f}",
        )


def _published_seed(root: Path, scale: str) -> Iterator[tuple[str, str, str]]:
    for run in results.find(root, scale, "swissroll", {}):
        epoch = min(50, len(run["epoch"]) - 1)
        by_seed = ", ".join(f"{r2:.2f}" for r2 in run["r2"][:, epoch])
        yield (
            "Swiss roll without a seed, one gradient too many in the sum",
            "several seeds, gradients before the epoch's step",
            f"R² at epoch {epoch} for seeds {', '.join(map(str, run['seed']))}: {by_seed}",
        )
