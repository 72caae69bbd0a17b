"""Claims about encoders of text, before and after fine-tuning.

The paper's are of BERT-base on SST-2, MNLI and CoNLL-2003. What is measured of another encoder, or
on data that stand for the paper's, cannot be compared with them and is ours; so are held-out rows:
validation rows, predicted by the map that was fitted on training rows.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from scipy.stats import spearmanr

from lab import results
from lab.results import Result
from report.lookup import experiment, lookup
from report.recipes import ANY_ENCODER
from report.verdicts import (
    Finding,
    Part,
    above,
    all_above,
    below,
    claim,
    interval,
    means,
    paired,
    premise,
    undecided,
)

PAPERS = ("bert-base-uncased", ("sst2", "mnli", "pos", "ner"))  # model and tasks
# the paper's kinds of task -> its data, and data that stand for them
KINDS = {
    "sentiment": ("sst2",),
    "NLI": ("mnli", "sick_nli"),
    "POS": ("pos", "ud_ewt_pos"),
    "NER": ("ner", "wnut17"),
}
# encoders whose training held labels of a kind of task
SEEN = {"all-MiniLM-L6-v2": {"NLI": "the encoder was trained on SNLI and MultiNLI"}}
ROWS = {"train_tl": "training rows", "held_out_tl": "held-out rows"}
STILL = 0.01  # rise of the validation score in the last epoch, above which training is not over
RISES_WITH_DEPTH = 0.8  # rank correlation of layer and TL
SAME = 0.005  # of TL, that count as no difference


def kind(run: Result) -> str:
    """The paper's kind of task that a result's task is of."""
    task = run.config["task"].removeprefix("toy_")
    return next((name for name, tasks in KINDS.items() if task in tasks), task)


def seen(run: Result) -> str:
    """What the encoder has seen of a task before, in words; empty where nothing is known."""
    return SEEN.get(run.config["model"], {}).get(kind(run), "")


def part_of(runs: Sequence[Result], rows: str = "train_tl") -> Part:
    """Whose verdict numbers on some rows of results are part of."""
    model, tasks = PAPERS
    papers = all(r.config["model"] == model and r.config["task"] in tasks for r in runs)
    return "paper" if papers and rows == "train_tl" else "ours"


def named(run: Result, rows: str = "") -> str:
    return ", ".join(filter(None, (run.config["model"], run.label, rows)))


def longest(script: ModuleType, root: Path, scale: str) -> list[Result]:
    """Results of Figure 11, each task's with the most epochs, whatever encoder they are of."""
    folder = root / scale / script.__name__.rpartition(".")[2]
    configs = (results.read(path).config for path in folder.glob("*.npz"))
    epochs = sorted({config["epochs"] for config in configs if "epochs" in config})
    chosen: dict[str, Result] = {}
    for number in epochs:
        chosen |= {r.name: r for r in lookup(script, root, scale, ANY_ENCODER, epochs=number)}
    return [chosen[name] for name in sorted(chosen)]


def before_tuning(script: ModuleType, root: Path, scale: str) -> list[Result]:
    """Results that hold the stages before fine-tuning, each task's with the most seeds."""
    found = [*longest(script, root, scale)]
    found += lookup(script, root, scale, ANY_ENCODER, fine_tuned=False)
    chosen: dict[str, Result] = {}
    for run in sorted(found, key=lambda run: len(run["seed"])):
        chosen[run.name] = run
    return [chosen[name] for name in sorted(chosen)]


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


@claim(
    "fine-tuned BERT: TL rises with depth",
    "fine-tuning BERT makes Target Linearity rise nearly monotonically with depth, in one epoch",
    source="section 6 and Appendix B.7, Figure 11",
    figures=("11",),
    rule="BERT-base on the paper's four tasks, training rows. After the last epoch the rank "
    f"correlation of layer and TL is above {RISES_WITH_DEPTH}, and TL rises from the first layer "
    "to the last, by more than in the pre-trained model; of POS the last layer's is the highest; "
    f"the pre-trained curve is the lower envelope, at no layer and epoch more than {SAME} above a "
    f"fine-tuned one. After one epoch the rank correlation is above {RISES_WITH_DEPTH} already, "
    "and until the third TL of the last layer changes by less than in the first",
    ours="another encoder, other data, and held-out rows: the same. Of a task's results the one "
    "with most epochs is judged, and nothing is decided while its validation score (F1 of "
    f"entities, else accuracy) rises by {STILL} or more in the last epoch; what is asked of one "
    "epoch is judged of the paper's three. Control: the last layer's TL is above its chance level, "
    "for tagged words that of labels permuted between word types; held-out rows need none",
)
def fine_tuning(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    # takes four seconds to import, and other claims do without
    script = experiment("bert_target_linearity")
    for run in longest(script, root, scale):
        score = validation(run, root, scale)
        trained = None if score is None else training_finding(score, named(run))
        if trained:
            yield trained
        for rows in ROWS:
            for finding in depth_findings(run, rows):
                is_over = trained is None or trained.outcome == "met"
                yield finding if is_over else undecided(finding, "training is not over")
        yield chance_finding(run, named(run))
    for run in lookup(script, root, scale, ANY_ENCODER):
        for rows in ROWS:
            yield from first_epoch_findings(run, rows)


def rises_with_depth(tl: np.ndarray) -> np.ndarray:
    """Rank correlation of layer and TL (seed, layer), a value each seed."""
    layer = np.arange(tl.shape[-1])
    return np.array([spearmanr(layer, row).statistic for row in tl])


def depth_findings(run: Result, rows: str) -> Iterator[Finding]:
    """Of TL by layer after the last epoch, beside the pre-trained model's."""
    tl = run[rows][..., 1:]  # (seed, stage, layer), from layer 0 on: without the embeddings
    where, part, stages = named(run, ROWS[rows]), part_of([run], rows), list(run["stage"])
    r = interval(rises_with_depth(tl[:, -1]))
    number = f"{r.text()}; {means(tl[:, -1])} by layer after {stages[-1]}"
    asked = f"rank correlation of layer and TL above {RISES_WITH_DEPTH}"
    yield Finding(where, asked, number, above(r, RISES_WITH_DEPTH), r.seeds, part)
    rise, trained = tl[..., -1] - tl[..., 0], stages.index("pre-trained")  # (seed, stage)
    before = rise[:, trained]
    outcome, deciding = all_above(np.stack([rise[:, -1], rise[:, -1] - before], axis=1))
    number = f"{deciding.text(3)}; pre-trained {before.mean():.3f}, "
    number += f"{stages[-1]} {rise[:, -1].mean():.3f}"
    asked = "TL rises from the first layer to the last, more than when pre-trained"
    yield Finding(where, asked, number, outcome, deciding.seeds, part)
    above_it = tl[:, trained + 1 :] - tl[:, trained, None]  # (seed, epoch, layer)
    outcome, deciding = all_above(above_it.reshape(len(tl), -1), -SAME)
    asked = f"the pre-trained curve is the lower envelope, to {SAME}"
    yield Finding(where, asked, f"least {deciding.text(3)}", outcome, deciding.seeds, part)
    if kind(run) == "POS":
        lead = interval(tl[:, -1, -1] - tl[:, -1, :-1].max(-1))
        asked = "the last layer's TL is the highest"
        yield Finding(where, asked, f"by {lead.text(3)}", above(lead, 0), lead.seeds, part)


def first_epoch_findings(run: Result, rows: str) -> Iterator[Finding]:
    """Of TL by layer after the first epoch of the figure's training, and of what comes after."""
    tl = run[rows][..., 1:]
    where, part, stages = named(run, ROWS[rows]), part_of([run], rows), list(run["stage"])
    if "epoch 1" not in stages or stages[-1] == "epoch 1":
        return
    first, before = (tl[:, stages.index(name)] for name in ("epoch 1", "pre-trained"))
    r = interval(rises_with_depth(first))
    asked = f"after one epoch, rank correlation of layer and TL above {RISES_WITH_DEPTH}"
    number = f"{r.text()}; {means(first)} by layer"
    yield Finding(where, asked, number, above(r, RISES_WITH_DEPTH), r.seeds, part)
    early, late = np.abs(first - before)[:, -1], np.abs(tl[:, -1] - first)[:, -1]
    less = interval(late - early)
    asked = "TL of the last layer changes by less after the first epoch than in it"
    number = f"{less.text(3)}; {early.mean():.3f}, then {late.mean():.3f} to {stages[-1]}"
    yield Finding(where, asked, number, below(less, 0), less.seeds, part)


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
    "pre-trained BERT: higher TL everywhere",
    "pre-training BERT raises Target Linearity at every layer of every task, though it never saw "
    "these labels, most for POS and NER, less for sentiment, least for NLI",
    source="section 6 and Appendix B.7, Figure 11",
    figures=("11",),
    rule="BERT-base on the paper's four tasks, training rows: TL of the pre-trained model is above "
    "that of the initialised one in every layer; its gain, a mean over layers, is larger for POS "
    "and for NER than for sentiment, and for sentiment than for NLI; pre-trained TL of sentiment "
    f"rises with depth (rank correlation above {RISES_WITH_DEPTH}), of POS and NER it is higher in "
    "an earlier layer than in the last",
    ours="another encoder, other data, and held-out rows: the same. all-MiniLM-L6-v2 was trained "
    "on SNLI and MultiNLI, so on NLI it is no example of labels never seen. Both models have the "
    "same rows, features and ranks, so chance is the same for both; seeds differ by the "
    "initialised model alone",
)
def pre_training(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    every = before_tuning(experiment("bert_target_linearity"), root, scale)
    for rows in ROWS:
        for run in every:
            yield from gain_findings(run, rows)
    models = {run.config["model"] for run in every}
    for model in sorted(models):
        own = {kind(run): run for run in every if run.config["model"] == model}
        for rows in ROWS:
            yield from order_findings(model, own, rows)


def gains(run: Result, rows: str) -> np.ndarray:
    """TL of the pre-trained model − of the initialised one, (seed, layer)."""
    tl, stages = run[rows][..., 1:], list(run["stage"])
    pair = (tl[:, stages.index(stage)] for stage in ("pre-trained", "initialised"))
    return np.subtract(*pair)


def gain_findings(run: Result, rows: str) -> Iterator[Finding]:
    """Of one task: the gain of every layer, and how the pre-trained model's TL goes with depth."""
    where, part = named(run, ROWS[rows]), part_of([run], rows)
    outcome, deciding = all_above(gains(run, rows))
    number = f"least gain {deciding.text(3)}; {means(gains(run, rows))} by layer"
    number += f"; {seen(run)}" if seen(run) else ""
    yield Finding(where, "TL rises at every layer", number, outcome, deciding.seeds, part)
    # one model, whatever the seed: its numbers have no spread
    tl = run[rows][0, list(run["stage"]).index("pre-trained"), 1:]
    number = f"{means(tl[None])} by layer"
    if kind(run) == "sentiment":
        r = float(rises_with_depth(tl[None])[0])
        outcome = "met" if r > RISES_WITH_DEPTH else "not met"
        asked = f"pre-trained, rank correlation of layer and TL above {RISES_WITH_DEPTH}"
        yield Finding(where, asked, f"{r:.2f}; {number}", outcome, part=part)
    elif kind(run) in ("POS", "NER"):
        outcome = "met" if tl[:-1].max() > tl[-1] else "not met"
        asked = "pre-trained, TL is higher in an earlier layer than in the last"
        number = f"highest in layer {tl.argmax()} of 0 to {len(tl) - 1}; {number}"
        yield Finding(where, asked, number, outcome, part=part)


def order_findings(model: str, runs: dict[str, Result], rows: str) -> Iterator[Finding]:
    """Of the gains of two kinds of task, where one is to be larger."""
    for more, less in (("POS", "sentiment"), ("NER", "sentiment"), ("sentiment", "NLI")):
        if not {more, less} <= runs.keys():
            continue
        pair = [runs[more], runs[less]]
        first, second = paired(*pair, lambda run: gains(run, rows).mean(-1))
        difference = interval(first - second)
        note = f" ({seen(runs[less])})" if seen(runs[less]) else ""
        number = f"{difference.text(3)}; {first.mean():.3f} and {second.mean():.3f}"
        asked = f"the gain is larger for {more} than for {less}{note}"
        where, part = f"{model}, {ROWS[rows]}", part_of(pair, rows)
        yield Finding(where, asked, number, above(difference, 0), difference.seeds, part)
