"""Claims about variational autoencoders and encoders of text."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
from scipy.stats import spearmanr

from experiment import vae_target_linearity
from lab import results
from lab.results import Result
from report.lookup import experiment, lookup
from report.recipes import ANY_ENCODER
from report.verdicts import (
    Finding,
    above,
    all_above,
    below,
    claim,
    holds_everywhere,
    interval,
    means,
    premise,
    undecided,
)

FALLS_WITH = -0.8  # rank correlation that counts as "the lower, the higher"


@claim(
    "VAEs: the lower β, the higher Target Linearity, and the closer to linear the interpolation",
    source="section 5, Figures 5 and 10",
    figures=("5", "10"),
    rule=f"at the best epochs, the rank correlation over β is below {FALLS_WITH}: of β and TL "
    "(Figure 10), and of TL and the interpolation's error (Figure 5)",
    ours="a large β blurs every decoded image, and blur alone is an error against the images' "
    "own mixture: the same correlation of TL with the error against the mixture of the two decoded "
    "ends, which no blur enters. 32 latents leave TL of 10,000 images next to no chance level",
)
def autoencoders(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in lookup(vae_target_linearity, root, scale):
        best = run["best_epoch"][..., None]
        names = ("tl", "interpolation_error", "decoder_nonlinearity")
        values = {n: np.take_along_axis(run[n], best, 2)[..., 0].T for n in names}  # (seed, beta)
        ends = {n: " → ".join(f"{v.mean(0)[i]:.4f}" for i in (0, -1)) for n, v in values.items()}
        betas = np.broadcast_to(run["beta"], values["tl"].shape)
        pairs = [("β and TL", betas, "tl", "paper")]
        if figure == "5":
            pairs = [
                ("TL and interpolation error", values["tl"], "interpolation_error", "paper"),
                ("TL and the error without blur", values["tl"], "decoder_nonlinearity", "control"),
            ]
        for what, first, name, part in pairs:
            rows = zip(first, values[name], strict=True)
            r = interval(np.array([spearmanr(*row).statistic for row in rows]))
            number = f"{r.text()}; {ends[name]} from β = {run['beta'][0]:g} to {run['beta'][-1]:g}"
            asked = f"{what}: rank correlation below {FALLS_WITH}"
            yield Finding(run.label, asked, number, below(r, FALLS_WITH), r.seeds, part)


def longest(script: ModuleType, root: Path, scale: str) -> list[Result]:
    """Results of Figure 11, each task's with the most epochs, whatever encoder they are of."""
    folder = root / scale / script.__name__.rpartition(".")[2]
    epochs = sorted({results.read(path).config["epochs"] for path in folder.glob("*.npz")})
    chosen: dict[str, Result] = {}
    for number in epochs:
        chosen |= {r.name: r for r in lookup(script, root, scale, ANY_ENCODER, epochs=number)}
    return [chosen[name] for name in sorted(chosen)]


STILL = 0.01  # rise of the validation score in the last epoch, above which training is not over


def validation(run: Result, root: Path, scale: str) -> np.ndarray | None:
    """Score by epoch (seed, epoch) of the training that a result measures; F1 where there is one.

    Of bert_train.py; None where that result is missing.
    """
    options = {name: run.config[name] for name in ("epochs", "task")}
    for trained in lookup(experiment("bert_train"), root, scale, ANY_ENCODER, **options):
        if trained.name == run.name:
            names = ("validation_f1", "validation_accuracy")
            return next(trained[name] for name in names if name in trained.arrays)
    return None


def training_finding(score: np.ndarray, where: str) -> Finding:
    """Whether training is over: the validation score's mean over seeds no longer rises."""
    rise = (score[:, -1] - score[:, -2]).mean()
    epochs = means(score[:, 1:], ".3f")
    seeds = ", ".join(f"{value:.2f}" for value in score[:, -1])
    number = f"{rise:.3f}; by epoch {epochs}; at the end, by seed, {seeds}"
    asked = f"the validation score rises by less than {STILL} in the last epoch"
    return premise(where, asked, number, bool(rise < STILL), len(score))


RISES_WITH_DEPTH = 0.8  # rank correlation of layer and TL
ROWS = {"train_tl": "training rows", "held_out_tl": "held-out rows"}


@claim(
    "fine-tuning BERT makes Target Linearity rise nearly monotonically with depth",
    source="section 5, Figure 11",
    figures=("11",),
    rule="after the last epoch, on every task, on training rows and on held-out ones (validation "
    "rows, by the map fitted on training rows), the rank correlation of layer and TL is above "
    f"{RISES_WITH_DEPTH}; TL rises from the first layer to the last, and by more than in the "
    "pre-trained model. Of a task's results the one with most epochs is judged, and nothing is "
    f"decided while its validation score (F1 of entities, else accuracy) rises by {STILL} or more "
    "in the last epoch",
    ours="with few rows TL is far above zero by chance, and words come again and again: the "
    "last layer's TL is above its chance level, for tagged words that of labels permuted between "
    "word types; held-out rows need no chance level",
)
def fine_tuning(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    # takes four seconds to import, and other claims do without
    for run in longest(experiment("bert_target_linearity"), root, scale):
        where, score = f"{run.config['model']}, {run.label}", validation(run, root, scale)
        trained = None if score is None else training_finding(score, where)
        if trained:
            yield trained
        for name, rows in ROWS.items():
            for finding in depth_findings(run, name, f"{where}, {rows}"):
                is_over = trained is None or trained.outcome == "met"
                yield finding if is_over else undecided(finding, "training is not over")
        yield chance_finding(run, where)


def depth_findings(run: Result, name: str, where: str) -> Iterator[Finding]:
    """Whether TL rises with depth after the last epoch, and by more than before fine-tuning."""
    tl = run[name][..., 1:]  # (seed, stage, layer), from layer 0 on: without the embeddings
    layer, stages = np.arange(tl.shape[-1]), list(run["stage"])
    r = interval(np.array([spearmanr(layer, row).statistic for row in tl[:, -1]]))
    number = f"{r.text()}; {means(tl[:, -1])} by layer after {stages[-1]}"
    asked = f"rank correlation of layer and TL above {RISES_WITH_DEPTH}"
    yield Finding(where, asked, number, above(r, RISES_WITH_DEPTH), r.seeds)
    rise = tl[..., -1] - tl[..., 0]  # (seed, stage)
    before = rise[:, stages.index("pre-trained")]
    outcome, deciding = all_above(np.stack([rise[:, -1], rise[:, -1] - before], axis=1))
    number = f"{deciding.text(3)}; pre-trained {before.mean():.3f}, "
    number += f"{stages[-1]} {rise[:, -1].mean():.3f}"
    asked = "TL rises from the first layer to the last, more than when pre-trained"
    yield Finding(where, asked, number, outcome, deciding.seeds)


def chance_finding(run: Result, where: str) -> Finding:
    """Whether the last layer's TL after the last epoch is above chance."""
    # rows of tagged tasks are words, of which there are more than examples
    is_tagged = run["train_n"] > (run.config["samples"] or np.inf)
    name = "train_type_chance" if is_tagged else "train_chance"
    asked = f"TL of the last layer above chance{' between word types' * bool(is_tagged)}"
    if name not in run.arrays:
        return Finding(where, asked, part="control")
    gain = interval((run["train_tl"] - run[name])[:, -1, -1])
    number = f"{gain.text(3)}; chance {run[name][:, -1, -1].mean():.3f}"
    return Finding(where, asked, number, above(gain, 0), gain.seeds, part="control")


@claim(
    "pre-training BERT raises Target Linearity at every layer of every task",
    source="section 5, Figure 11",
    figures=("11",),
    rule="TL of the pre-trained model is above that of the initialised one in every layer, on "
    "training rows and on held-out ones",
    ours="both models have the same rows, features and ranks, so chance is the same for both; "
    "seeds differ by the initialised model alone",
)
def pre_training(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in longest(experiment("bert_target_linearity"), root, scale):
        stages = list(run["stage"])
        for name, rows in ROWS.items():
            tl = run[name][..., 1:]
            pair = (tl[:, stages.index(stage)] for stage in ("pre-trained", "initialised"))
            outcome, deciding = all_above(np.subtract(*pair))
            where = f"{run.config['model']}, {run.label}, {rows}"
            number = f"gain {deciding.text(3)}"
            yield Finding(where, "TL rises at every layer", number, outcome, deciding.seeds)


@claim(
    "Proposition 3: a decoder's error on mixtures of latents is bounded by the least-squares map's "
    "mean error",
    source="Proposition 3",
    figures=("10",),
    rule="at the best epochs, for every β and seed, halves of all pairs of 1,000 training images: "
    "the least-squares map's error on mixtures is at most its mean error",
    ours="the proposition is about the best decoder, for which the least-squares map stands, by "
    "the triangle inequality alone: the trained decoder's error on mixtures must be below the "
    "bound too",
)
def proposition_3(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in lookup(vae_target_linearity, root, scale):
        asked, control = "left at most right", "the trained decoder's error below the bound"
        if "mixture_left" not in run.arrays:
            yield Finding(run.label, asked)
            yield Finding(run.label, control, part="control")
            continue
        left, right, decoder = (run[f"mixture_{n}"].T for n in ("left", "right", "decoder"))
        beside = f"; by β {means(left)} and {means(right)}"
        yield holds_everywhere(run.label, asked, left <= right, beside)
        outcome, deciding = all_above(right - decoder)
        number = f"margin {deciding.text(3)}; by β {means(decoder)}"
        yield Finding(run.label, control, number, outcome, deciding.seeds, part="control")
