"""What the claims are judged by: each result as a number with its spread, and whether it meets its claim's rule.

The rules, in words, stand in claims.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

import results
from experiment import (
    gram_virtual_covariance,
    grokking,
    neural_collapse,
    random_label,
    staircase,
    swissroll,
    target_linearity,
    vae_target_linearity,
    whiten,
    whiten_cnn,
)
from results import Result
from tables import mean_spread

TOLERANCE = 0.5  # percentage points of accuracy within which two methods match
RANK_CORRELATION = 0.8  # that counts as "the lower, the higher"
CORRELATION = 0.5  # that counts as moving together
ROUNDING = 1e-9  # by which an inequality between measurements in float64 may fail


@dataclass(frozen=True)
class Finding:
    """One measurement of a claim: where, the number with its spread, and whether the rule is met."""

    where: str
    number: str
    met: bool


def whitening(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    """Claim 2: final test accuracy of exact whitening minus plain training, paired by seed."""
    experiment, config = {"2": ("whiten", whiten.Config()), "6": ("whiten_cnn", whiten_cnn.Config())}[figure]
    runs = results.find(root, scale, experiment, config.hyperparameters(), learning_rate=0.01)
    by_method = {(r.label, r.config["method"]): r for r in runs}
    for label in sorted({r.label for r in runs}):
        plain = by_method.get((label, "plain"))
        for method, name in (("exact", "exact"), ("newton_schulz", "as published")):
            run = by_method.get((label, method))
            if plain is not None and run is not None and run.config["seeds"] == plain.config["seeds"]:
                gain = 100 * (run["test_accuracy"] - plain["test_accuracy"])[0, :, -1]
                base = mean_spread(100 * plain["test_accuracy"][0, :, -1])
                number = f"whitened ({name}) − plain {mean_spread(gain)} points of test accuracy (plain {base} %)"
                yield Finding(label, number, bool(gain.mean() >= -TOLERANCE))


def linearity(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    """Claim 3: TL and surrogate at the end against the start, and the order of the layers at the end."""
    optimizer = {"4": "sgd", "9": "adam"}[figure]
    config = target_linearity.Config(optimizer=optimizer)
    for run in results.find(root, scale, "target_linearity", config.hyperparameters(), optimizer=optimizer):
        yield _linearity(run)


def _linearity(run: Result) -> Finding:
    tl, surrogate = run["train_tl"], run["train_surrogate"]  # (seed, epoch, layer)
    rises = (tl[:, -1] > tl[:, 0]).all() and (surrogate[:, -1] > surrogate[:, 0]).all()
    ordered = np.diff(tl[:, -1], axis=-1) > 0  # (seed, layer - 1)
    number = (
        f"TL of the last layer {mean_spread(tl[:, 0, -1], 3)} → {mean_spread(tl[:, -1, -1], 3)}, of the first "
        f"{mean_spread(tl[:, 0, 0], 3)} → {mean_spread(tl[:, -1, 0], 3)}; TL and surrogate "
        f"{'rise' if rises else 'do not rise'} in every layer and seed; {ordered.sum()} of {ordered.size} "
        "neighbouring layers in order"
    )
    return Finding(run.label, number, bool(rises and ordered.all()))


def swiss_roll(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    """Claim 1: linear R² of the virtual points at epoch 50, and that of a network that is never trained."""
    for run in results.find(root, scale, "swissroll", swissroll.Config().hyperparameters()):
        r2, frozen = run["r2"], run["r2_frozen"]  # (seed, epoch)
        epoch = min(50, r2.shape[1] - 1)
        met = (r2[:, epoch] >= 0.9) & (r2[:, epoch] > r2[:, 0])
        number = (
            f"R² {r2[0, 0]:.3f} → {mean_spread(r2[:, epoch], 3)} at epoch {epoch}, {met.sum()} of {met.size} seeds; "
            f"with the gradients of a network that is never trained {mean_spread(frozen[:, epoch], 3)}"
        )
        yield Finding(run.label, number, bool(met.mean() > 0.5))


def autoencoders(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    """Claim 4: rank correlations over β, at the best epochs."""
    for run in results.find(root, scale, "vae_target_linearity", vae_target_linearity.Config().hyperparameters()):
        best = run["best_epoch"][..., None]
        tl, error, nonlinearity = (
            np.take_along_axis(run[name], best, 2)[..., 0]
            for name in ("tl", "interpolation_error", "decoder_nonlinearity")
        )  # (beta, seed)
        beta = run["beta"]
        if figure == "10":
            r = spearmanr(beta, tl.mean(1)).statistic
            number = f"rank correlation of β and TL {r:.2f}; TL {mean_spread(tl[0], 3)} at β = {beta[0]:g}, "
            number += f"{mean_spread(tl[-1], 3)} at β = {beta[-1]:g}"
        else:
            r = spearmanr(tl.mean(1), error.mean(1)).statistic
            number = f"rank correlation of TL and interpolation error {r:.2f}; error {mean_spread(error[0], 4)} at "
            number += f"β = {beta[0]:g}, {mean_spread(error[-1], 4)} at β = {beta[-1]:g}"
            own = spearmanr(tl.mean(1), nonlinearity.mean(1)).statistic
            number += (
                f"; beside it, of TL and the error from the mixture of the decoded ends, which no blur enters {own:.2f}"
            )
        yield Finding(run.label, number, bool(r <= -RANK_CORRELATION))


def lazy_and_rich(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    """Claim 5: what the widest network does to y_ols, and the narrowest."""
    runs = results.find(root, scale, "staircase", staircase.Config().hyperparameters())
    runs.sort(key=lambda run: run.config["width"])
    if len(runs) > 1:
        narrow, wide = runs[0], runs[-1]
        fit = wide["ols_distance"][:, -1] / wide["ols_distance"][:, 0]
        yield Finding(
            f"width {wide.config['width']}",
            f"‖ŷ − y_ols‖² ends at {mean_spread(fit)} of its start",
            bool(fit.mean() < 0.1),
        )
        moved = wide["ols_movement"][:, -1] / wide["loss"][:, 0]
        held = wide["ols_error"][:, 0] / wide["loss"][:, 0]
        yield Finding(
            f"width {wide.config['width']}",
            f"y_ols moves by {mean_spread(moved, 3)} of the first loss; before training y_ols is already within "
            f"{mean_spread(held, 3)} of it from y ({wide.config['samples']} samples)",
            bool(moved.mean() < 0.1),
        )
        improved = narrow["ols_error"][:, -1] / narrow["ols_error"][:, 0]
        yield Finding(
            f"width {narrow.config['width']}",
            f"‖y − y_ols‖² ends at {mean_spread(improved)} of its start",
            bool(improved.mean() <= 0.8),
        )


def fine_tuning(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    """Claim 6: Target Linearity against depth after fine-tuning, and how the other stages' changes with it."""
    from experiment import bert_target_linearity  # not above: it takes four seconds, and other claims do without

    for run in results.find(root, scale, "bert_target_linearity", bert_target_linearity.Config().hyperparameters()):
        tl = run["train_tl"][..., 1:]  # (seed, stage, layer), from layer 0 on: without the embeddings
        r = spearmanr(np.arange(tl.shape[-1]), tl[:, -1].mean(0)).statistic
        rise = tl[..., -1] - tl[..., 0]  # (seed, stage)
        stages = zip(run["stage"], tl.swapaxes(0, 1), rise.T, strict=True)
        number = f"rank correlation of layer and TL {r:.2f} after {run['stage'][-1]}; TL of the last layer (its rise "
        number += "from the first) " + ", ".join(
            f"{stage} {mean_spread(of_stage[:, -1], 3)} ({mean_spread(of_rise, 3)})"
            for stage, of_stage, of_rise in stages
        )
        number += f"; chance {run['train_chance'][..., -1].mean():.2f}"
        met = r >= RANK_CORRELATION and rise[:, -1].mean() > max(0.0, rise[:, 1].mean())
        yield Finding(f"{run.config['model']}, {run.label}", number, bool(met))


def random_labels(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    """Claim 7: Target Linearity after the last epoch, and its order by depth, from each p to the next."""
    found = results.find(root, scale, "random_label", random_label.Config().hyperparameters())
    for label in sorted({run.label for run in found}):
        runs = sorted((r for r in found if r.label == label), key=lambda run: run.config["probability"])
        final = [run["train_tl"][0, :, -1] for run in runs]  # each (seed, layer)
        gap = [tl[:, -1] - tl[:, 0] for tl in final]
        falls = {
            "TL of the last layer": np.diff([tl[:, -1].mean() for tl in final]) < 0,
            "last − first layer": np.diff([values.mean() for values in gap]) < 0,
        }
        if len(runs) > 1:
            p = [f"{run.config['probability']:g}" for run in (runs[0], runs[-1])]
            true = [run["train_tl_true"][0, :, -1, -1] for run in (runs[0], runs[-1])]
            number = (
                f"p = {p[0]} → {p[1]}: TL of the last layer {mean_spread(final[0][:, -1], 3)} → "
                f"{mean_spread(final[-1][:, -1], 3)}, last − first layer {mean_spread(gap[0], 3)} → "
                f"{mean_spread(gap[-1], 3)}; "
                + ", ".join(f"{name} falls in {steps.sum()} of {steps.size} steps" for name, steps in falls.items())
                + f"; against the true labels {mean_spread(true[0], 3)} → {mean_spread(true[1], 3)}"
            )
            yield Finding(label, number, all(steps.all() for steps in falls.values()))


def grokking_gaps(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    """Claim 8: correlation over epochs of the gap of Target Linearity with the generalisation gap."""
    preset = grokking.Config(**(grokking.QUICK if scale == "quick" else {}))
    for run in results.find(root, scale, "grokking", preset.hyperparameters(), epochs=preset.epochs):
        tl = run["train_tl"][0]  # (seed, epoch, layer)
        test = run["test_accuracy"][0]
        generalisation = run["train_accuracy"][0] - test  # (seed, epoch)
        pairs = zip(tl[..., -1] - tl[..., -2], generalisation, strict=True)
        r = np.array([np.corrcoef(a, b)[0, 1] for a, b in pairs])
        number = f"correlation {mean_spread(r)}; test accuracy at the end {mean_spread(100 * test[:, -1], 1)} %"
        yield Finding(f"weight decay {run.config['weight_decay']:g}", number, bool(r.mean() >= CORRELATION))


def gram_movement(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    """Claim 9: the equation's residual, and the slope of the relative error against the rate."""
    for run in results.find(root, scale, "gram_virtual_covariance", gram_virtual_covariance.Config().hyperparameters()):
        error = run["relative_error"][:, :, -1]  # (rate, seed, layer)
        slopes = np.polyfit(np.log(run["rate"]), np.log(error.mean(1)), 1)[0]  # (layer,)
        cosine = run["cosine_vc"][run["rate"].argmin(), :, -1].min()
        residual = run["residual"].max()
        size = run.config["batch_size"]
        number = (
            f"{f'batches of {size}' if size else 'full batch'}: residual {residual:.0e} at most; slope of the relative "
            f"error {', '.join(f'{slope:.2f}' for slope in slopes)} by layer; cosine of the changes {cosine:.4f} or "
            f"more at rate {run['rate'].min():g}"
        )
        met = residual < 1e-10 and bool((np.abs(slopes - 1) <= 0.2).all()) and cosine >= 0.99
        yield Finding(run.label, number, met)


def neural_collapse_subsumed(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    """Claim 10: Target Linearity against the least that NC1 allows, and against NC1 over epochs."""
    for run in results.find(root, scale, "neural_collapse", neural_collapse.Config().hyperparameters()):
        margin = run["tl_intercept"] - run["tl_bound"]  # (seed, epoch, layer)
        tl, nc1 = run["tl"][..., -1], run["nc1"][..., -1]  # (seed, epoch), of the last layer
        r = np.array([spearmanr(a, b).statistic for a, b in zip(tl, nc1, strict=True)])
        ends = ", ".join(
            f"{name} {mean_spread(values[:, 0], 3)} → {mean_spread(values[:, -1], 3)}"
            for name, values in (
                ("TL", tl),
                ("the least that NC1 implies", run["tl_bound"][..., -1]),
                ("NC1", nc1),
                ("NC2 lengths", run["nc2_norm"][..., -1]),
                ("NC2 angles", run["nc2_angle"][..., -1]),
                ("NC3", run["nc3"]),
                ("NC4", run["nc4"][..., -1]),
            )
        )
        number = (
            f"training accuracy at the end {mean_spread(100 * run['train_accuracy'][:, -1])} %; TL with an intercept "
            f"at least what NC1 implies in {(margin >= -ROUNDING).sum()} of {margin.size} measurements; rank "
            f"correlation of TL and NC1 {mean_spread(r)}; last layer, before training → at the end: {ends}"
        )
        yield Finding(run.label, number, bool((margin >= -ROUNDING).all() and r.mean() <= -RANK_CORRELATION))
