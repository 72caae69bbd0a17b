"""The paper's claims, one block each: text, rule, thresholds, and the code that judges.

Each rule was written down before its measurement was made; none is tuned to a result.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.stats import spearmanr

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
from report.lookup import lookup, mean_spread
from report.recipes import ANY_ENCODER, RECIPES

Verdict = Literal["holds", "holds in part", "does not hold", "not measured"]


@dataclass(frozen=True)
class Finding:
    """One measurement of a claim."""

    where: str  # the data or setting
    number: str  # with its spread
    met: bool  # whether the rule is met
    short: str = ""  # the part of the number that decides, where that is not its beginning


Judge = Callable[[Path, str, str], Iterator[Finding]]  # from results' root, scale and figure


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and how it is judged."""

    number: int
    figures: tuple[str, ...]
    text: str
    rule: str
    judge: Judge

    def findings(
        self, root: Path, scale: str, figures: Sequence[str] | None = None
    ) -> dict[str, list[Finding]]:
        """Figure -> findings, of all its figures or those named."""
        chosen = [f for f in self.figures if figures is None or f in figures]
        return {figure: list(self.judge(root, scale, figure)) for figure in chosen}


def verdict(findings: Sequence[Finding]) -> Verdict:
    """holds where every finding meets the rule, in part where some do."""
    met = [finding.met for finding in findings]
    if not met:
        return "not measured"
    return "holds" if all(met) else "holds in part" if any(met) else "does not hold"


CLAIMS: list[Claim] = []


def claim(text: str, figures: tuple[str, ...], rule: str) -> Callable[[Judge], Judge]:
    """Makes the next claim of a function that judges it."""

    def register(judge: Judge) -> Judge:
        CLAIMS.append(Claim(len(CLAIMS) + 1, figures, text, rule, judge))
        return judge

    return register


STRAIGHT = 0.9  # R² of a straightened roll


@claim(
    "the virtual update straightens the Swiss roll along the target",
    ("1",),
    f"linear R² of the virtual points against the target is at least {STRAIGHT} at epoch 50 and "
    "above that of the points themselves, for most seeds",
)
def swiss_roll(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in lookup(swissroll, root, scale):
        r2, frozen = run["r2"], run["r2_frozen"]  # (seed, epoch)
        epoch = min(50, r2.shape[1] - 1)
        met = (r2[:, epoch] >= STRAIGHT) & (r2[:, epoch] > r2[:, 0])
        number = (
            f"R² {r2[0, 0]:.3f} → {mean_spread(r2[:, epoch], 3)} at epoch {epoch}, {met.sum()} of "
            f"{met.size} seeds; with the gradients of a network that is never trained "
            f"{mean_spread(frozen[:, epoch], 3)}"
        )
        yield Finding(run.label, number, bool(met.mean() > 0.5))


TOLERANCE = 0.5  # percentage points of accuracy within which two methods match


@claim(
    "training with only the Gram-changing part of each update matches or beats plain training",
    ("2", "6"),
    "at rate 0.01 the mean paired difference of final test accuracy, whitened − plain, is above "
    f"−{TOLERANCE} percentage points, on every data set and for either projection",
)
def whitening(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    script = {"2": whiten, "6": whiten_cnn}[figure]
    runs = lookup(script, root, scale, learning_rate=0.01)
    by_method = {(run.label, run.config["method"]): run for run in runs}
    for label in sorted({run.label for run in runs}):
        plain = by_method.get((label, "plain"))
        for method, name in (("exact", "exact"), ("newton_schulz", "as published")):
            run = by_method.get((label, method))
            if plain is not None and run is not None:
                gain = 100 * (run["test_accuracy"] - plain["test_accuracy"])[:, -1]
                base = mean_spread(100 * plain["test_accuracy"][:, -1])
                number = (
                    f"whitened ({name}) − plain {mean_spread(gain)} points of test accuracy "
                    f"(plain {base} %)"
                )
                yield Finding(label, number, bool(gain.mean() >= -TOLERANCE))


@claim(
    "Target Linearity and the surrogate rise during training, and deeper layers are more "
    "target-linear",
    ("4", "9"),
    "on the training set, for every seed: TL and surrogate of every hidden layer are higher after "
    "the last epoch than before training, and then TL rises from each layer to the next",
)
def linearity(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in lookup(target_linearity, root, scale, **RECIPES[figure].settings(scale)):
        tl, surrogate = run["train_tl"], run["train_surrogate"]  # (seed, epoch, layer)
        rises = (tl[:, -1] > tl[:, 0]).all() and (surrogate[:, -1] > surrogate[:, 0]).all()
        ordered = np.diff(tl[:, -1], axis=-1) > 0  # (seed, layer - 1)
        last, first = (
            f"{mean_spread(tl[:, 0, layer], 3)} → {mean_spread(tl[:, -1, layer], 3)}"
            for layer in (-1, 0)
        )
        number = (
            f"TL of the last layer {last}, of the first {first}; TL and surrogate "
            f"{'rise' if rises else 'do not rise'} in every layer and seed; {ordered.sum()} of "
            f"{ordered.size} neighbouring layers in order"
        )
        yield Finding(run.label, number, bool(rises and ordered.all()))


FALLS_WITH = -0.8  # rank correlation that counts as "the lower, the higher"


@claim(
    "VAEs: the lower β, the higher Target Linearity, and the closer to linear the interpolation",
    ("5", "10"),
    "at the best epochs, means over seeds, the rank correlation over β is at most "
    f"−{-FALLS_WITH}: of β and TL (Figure 10), and of TL and the interpolation's error (Figure 5)",
)
def autoencoders(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in lookup(vae_target_linearity, root, scale):
        names = ("tl", "interpolation_error", "decoder_nonlinearity")
        best = run["best_epoch"][..., None]
        # (beta, seed)
        tl, error, nonlinearity = (np.take_along_axis(run[name], best, 2)[..., 0] for name in names)
        beta = run["beta"]
        if figure == "10":
            r = spearmanr(beta, tl.mean(1)).statistic
            number = (
                f"rank correlation of β and TL {r:.2f}; TL {mean_spread(tl[0], 3)} at β = "
                f"{beta[0]:g}, {mean_spread(tl[-1], 3)} at β = {beta[-1]:g}"
            )
        else:
            r = spearmanr(tl.mean(1), error.mean(1)).statistic
            own = spearmanr(tl.mean(1), nonlinearity.mean(1)).statistic
            number = (
                f"rank correlation of TL and interpolation error {r:.2f}; error "
                f"{mean_spread(error[0], 4)} at β = {beta[0]:g}, {mean_spread(error[-1], 4)} at "
                f"β = {beta[-1]:g}; beside it, of TL and the error from the mixture of the decoded "
                f"ends, which no blur enters {own:.2f}"
            )
        yield Finding(run.label, number, bool(r <= FALLS_WITH))


FITTED = 0.1  # share of its start to which a wide network's distance from y_ols must fall
HELD = 0.1  # share of the first loss by which y_ols may move
IMPROVED = 0.8  # share of its start to which a narrow network's y_ols must come nearer to y


@claim(
    "wide (lazy) networks fit y_ols and leave it where it was; narrow (rich) ones improve it",
    ("8",),
    "means over draws, last epoch against the first: for the widest network ‖ŷ − y_ols‖² falls "
    f"below {FITTED} of its start, and y_ols moves by less than {HELD} of the first loss; for the "
    f"narrowest ‖y − y_ols‖² falls to {IMPROVED} of its start or less",
)
def lazy_and_rich(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    runs = sorted(lookup(staircase, root, scale), key=lambda run: run.config["width"])
    if len(runs) < 2:
        return
    narrow, wide = runs[0], runs[-1]
    where = f"width {wide.config['width']}"
    fit = wide["ols_distance"][:, -1] / wide["ols_distance"][:, 0]
    number = f"‖ŷ − y_ols‖² ends at {mean_spread(fit)} of its start"
    yield Finding(where, number, bool(fit.mean() < FITTED))
    moved = wide["ols_movement"][:, -1] / wide["loss"][:, 0]
    start = wide["ols_error"][:, 0] / wide["loss"][:, 0]
    number = (
        f"y_ols moves by {mean_spread(moved, 3)} of the first loss; before training y_ols is "
        f"already within {mean_spread(start, 3)} of it from y ({wide.config['samples']} samples)"
    )
    yield Finding(where, number, bool(moved.mean() < HELD))
    improved = narrow["ols_error"][:, -1] / narrow["ols_error"][:, 0]
    number = f"‖y − y_ols‖² ends at {mean_spread(improved)} of its start"
    yield Finding(f"width {narrow.config['width']}", number, bool(improved.mean() <= IMPROVED))


RISES_WITH_DEPTH = 0.8  # rank correlation of layer and TL


@claim(
    "fine-tuning BERT makes Target Linearity rise with depth",
    ("11",),
    "on training rows, means over seeds, on every task: after the last epoch the rank correlation "
    f"of layer and TL is at least {RISES_WITH_DEPTH}, and TL rises from the first layer to the "
    "last, by more than in the pre-trained model",
)
def fine_tuning(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    from experiment import bert_target_linearity  # takes four seconds, and other claims do without

    for run in lookup(bert_target_linearity, root, scale, ANY_ENCODER):
        # (seed, stage, layer), from layer 0 on: without the embeddings
        tl = run["train_tl"][..., 1:]
        r = spearmanr(np.arange(tl.shape[-1]), tl[:, -1].mean(0)).statistic
        rise = tl[..., -1] - tl[..., 0]  # (seed, stage)
        stages = ", ".join(
            f"{stage} {mean_spread(tl[:, i, -1], 3)} ({mean_spread(rise[:, i], 3)})"
            for i, stage in enumerate(run["stage"])
        )
        number = (
            f"rank correlation of layer and TL {r:.2f} after {run['stage'][-1]}; TL of the last "
            f"layer (its rise from the first) {stages}; chance "
            f"{run['train_chance'][..., -1].mean():.2f}"
        )
        met = r >= RISES_WITH_DEPTH and rise[:, -1].mean() > max(0.0, rise[:, 1].mean())
        yield Finding(f"{run.config['model']}, {run.label}", number, bool(met))


@claim(
    "random labels: Target Linearity and its order by depth fall as more labels are random",
    ("12",),
    "against the labels trained on, after the last epoch, means over seeds: TL of the last layer, "
    "and how much higher it is than the first layer's, both fall from each p to the next",
)
def random_labels(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    every = lookup(random_label, root, scale)
    for label in sorted({run.label for run in every}):
        runs = [run for run in every if run.label == label]
        runs.sort(key=lambda run: run.config["probability"])
        if len(runs) < 2:
            continue
        last = [run["train_tl"][:, -1, -1] for run in runs]  # each (seed,)
        gap = [run["train_tl"][:, -1, -1] - run["train_tl"][:, -1, 0] for run in runs]
        true = [run["train_tl_true"][:, -1, -1] for run in runs]
        falls = {
            "TL of the last layer": np.diff([tl.mean() for tl in last]) < 0,
            "last − first layer": np.diff([values.mean() for values in gap]) < 0,
        }
        p, tl, difference, tl_true = (
            " → ".join((ends[0], ends[-1]))
            for ends in (
                [f"{run.config['probability']:g}" for run in runs],
                [mean_spread(values, 3) for values in last],
                [mean_spread(values, 3) for values in gap],
                [mean_spread(values, 3) for values in true],
            )
        )
        steps = ", ".join(
            f"{name} falls in {s.sum()} of {s.size} steps" for name, s in falls.items()
        )
        number = (
            f"p = {p}: TL of the last layer {tl}, last − first layer {difference}; {steps}; "
            f"against the true labels {tl_true}"
        )
        yield Finding(label, number, all(s.all() for s in falls.values()))


MOVES_WITH = 0.5  # correlation that counts as moving together


@claim(
    "grokking: the gap of Target Linearity between the last two layers moves with the "
    "generalisation gap",
    ("14",),
    "for every weight decay, the correlation over epochs of TL(last layer) − TL(last but one) on "
    f"the training set with training − test accuracy, mean over seeds, is at least {MOVES_WITH}",
)
def grokking_gaps(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in lookup(grokking, root, scale):
        tl, test = run["train_tl"], run["test_accuracy"]  # (seed, epoch, layer), (seed, epoch)
        pairs = zip(tl[..., -1] - tl[..., -2], run["train_accuracy"] - test, strict=True)
        r = np.array([np.corrcoef(a, b)[0, 1] for a, b in pairs])
        end = mean_spread(100 * test[:, -1], 1)
        number = f"correlation {mean_spread(r)}; test accuracy at the end {end} %"
        where = f"weight decay {run.config['weight_decay']:g}"
        yield Finding(where, number, bool(r.mean() >= MOVES_WITH))


IDENTITY = 1e-10  # residual of an identity in float64
SLOPE = 0.2  # by which the slope may differ from one
ALIGNED = 0.99  # cosine of the two changes at the smallest rate


@claim(
    "the Feature Learning Equation is exact; the Gram's movement follows the Virtual Covariance's",
    ("gram",),
    f"in float64 the equation's residual is below {IDENTITY:.0e}; at the end of training of one "
    "length the relative difference of the two changes falls with the rate, with slope "
    f"1 ± {SLOPE} in every layer; their cosine at the smallest rate is {ALIGNED} or more",
)
def gram_movement(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in lookup(gram_virtual_covariance, root, scale):
        error = run["relative_error"][:, :, -1]  # (rate, seed, layer)
        slopes = np.polyfit(np.log(run["rate"]), np.log(error.mean(1)), 1)[0]  # (layer,)
        cosine = run["cosine_vc"][run["rate"].argmin(), :, -1].min()
        residual, size = run["residual"].max(), run.config["batch_size"]
        number = (
            f"{'full batch' if size is None else f'batches of {size}'}: residual {residual:.0e} at "
            f"most; slope of the relative error {', '.join(f'{slope:.2f}' for slope in slopes)} by "
            f"layer; cosine of the changes {cosine:.4f} or more at rate {run['rate'].min():g}"
        )
        slopes_met = bool((np.abs(slopes - 1) <= SLOPE).all())
        met = residual < IDENTITY and slopes_met and cosine >= ALIGNED
        short = f"slopes {', '.join(f'{slope:.2f}' for slope in slopes)}"
        yield Finding(
            run.label, number, met, short if size is None else f"{short}, batches of {size}"
        )


ROUNDING = 1e-9  # by which an inequality between measurements in float64 may fail
RISES_AS_NC1_FALLS = -0.8  # rank correlation of TL and NC1


@claim(
    "target linearity subsumes Neural Collapse",
    ("collapse",),
    "on the training set, for every seed, epoch and layer, TL with an intercept is at least what "
    "NC1 implies, 1 / (1 + κ K NC1); and in the last layer, mean over seeds, the rank correlation "
    f"over epochs of TL and NC1 is at most −{-RISES_AS_NC1_FALLS}",
)
def collapse_subsumed(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in lookup(neural_collapse, root, scale):
        margin = run["tl_intercept"] - run["tl_bound"]  # (seed, epoch, layer)
        last = {
            name: run[name][..., -1]
            for name in ("tl", "tl_bound", "nc1", "nc2_norm", "nc2_angle", "nc4")
        }
        r = np.array(
            [spearmanr(*pair).statistic for pair in zip(last["tl"], last["nc1"], strict=True)]
        )
        curves = {
            "TL": last["tl"],
            "the least that NC1 implies": last["tl_bound"],
            "NC1": last["nc1"],
            "NC2 lengths": last["nc2_norm"],
            "NC2 angles": last["nc2_angle"],
            "NC3": run["nc3"],
            "NC4": last["nc4"],
        }
        ends = ", ".join(
            f"{name} {mean_spread(values[:, 0], 3)} → {mean_spread(values[:, -1], 3)}"
            for name, values in curves.items()
        )
        accuracy = mean_spread(100 * run["train_accuracy"][:, -1])
        above = (margin >= -ROUNDING).sum()
        number = (
            f"training accuracy at the end {accuracy} %; TL with an intercept at least what NC1 "
            f"implies in {above} of {margin.size} measurements; rank correlation of TL and NC1 "
            f"{mean_spread(r)}; last layer, before training → at the end: {ends}"
        )
        met = above == margin.size and r.mean() <= RISES_AS_NC1_FALLS
        short = f"rank correlation of TL and NC1 {mean_spread(r)}"
        yield Finding(run.label, number, bool(met), short)
