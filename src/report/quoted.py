"""The numbers that the paper's text quotes, beside ours.

A quoted number stands for all that round to it: ours is the same where it lies within half a unit
of the quoted number's last digit, plus two standard deviations over seeds. Where a claim's rule
asks the same, as whether whitening matches plain training, its outcome is the answer here too.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiment import (
    random_label,
    staircase,
    target_linearity,
    vae_target_linearity,
    virtual_covariance,
    whiten,
    whiten_cnn,
)
from lab.results import Result
from report.figures.whitening import reaches_best
from report.lookup import lookup, mean_spread
from report.plot import stand_in
from report.recipes import ANY_ENCODER
from report.rules.grokking import grokking_rise
from report.rules.whitening import RATE, arms, match


@dataclass(frozen=True)
class Row:
    """One quoted number, or sentence with a number, and ours."""

    figure: str
    what: str  # "subject: number"; those of one subject stand in one line of the table
    quoted: str
    ours: str  # with two standard deviations over seeds
    setting: str  # what differs from the paper's
    same: bool

    @property
    def subject(self) -> tuple[str, ...]:
        """Of one line: its figure and setting, and the subject, or the whole of `what`."""
        subject, colon, _ = self.what.rpartition(": ")
        return self.figure, self.setting, subject if colon else self.what


Source = Callable[[Path, str], Iterator[Row]]
SOURCES: list[Source] = []


def source(function: Source) -> Source:
    """Registers a function that yields rows."""
    SOURCES.append(function)
    return function


def quoted_rows(root: Path, scale: str) -> list[Row]:
    """All that is quoted, figure by figure."""
    rows = [row for function in SOURCES for row in function(root, scale)]
    return sorted(rows, key=lambda row: int(row.figure))


def numbers_table(rows: Sequence[Row]) -> str:
    """Markdown: a row for the quoted numbers of one subject."""
    lines = ["| figure | what | the text | ours | setting | same |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for (figure, setting, subject), group in itertools.groupby(rows, lambda row: row.subject):
        members = list(group)
        names = [row.what.removeprefix(subject).removeprefix(": ") for row in members]
        what = ": ".join(filter(None, (subject, " / ".join(names))))
        quoted, ours = (
            " / ".join(getattr(row, key) for row in members) for key in ("quoted", "ours")
        )
        same = ["yes" if row.same else "no" for row in members]
        same = same[:1] if len(set(same)) == 1 else same
        cells = (figure, what, quoted, ours, setting, " / ".join(same))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def number(
    figure: str,
    what: str,
    quoted: str,
    values: np.ndarray,
    setting: str = "",
    digits: int | None = None,
) -> Row:
    """A row of a quoted number ("0.45") or bound ("above 0.5"), from our values over seeds."""
    value, is_bound = quoted_value(quoted), quoted.startswith("above ")
    decimals = len(quoted.partition(".")[2])
    digits = decimals + 1 if digits is None else digits
    spread = 2 * values.std(ddof=1) if len(values) > 1 else 0.0
    if is_bound:
        same = values.mean() > value
    else:
        same = abs(values.mean() - value) <= 0.5 * 10.0**-decimals + spread
    return Row(figure, what, quoted, mean_spread(values, digits), setting, bool(same))


def quoted_value(quoted: str) -> float:
    """The number in "0.45" or "above 0.5"."""
    return float(quoted.removeprefix("above "))


def data(run: Result) -> str:
    """The data set, where it is not the paper's own."""
    return "cifar10_jpeg" if run.label == "cifar10_jpeg" else ""


@source
def whitening(root: Path, scale: str) -> Iterator[Row]:
    for figure, script in (("2", whiten), ("6", whiten_cnn)):
        for label, methods in arms(script, root, scale).items():
            plain, published = (methods.get(m, {}).get(RATE) for m in ("plain", "newton_schulz"))
            if plain is None or published is None:
                continue
            finding = match(figure, "", published, plain)
            claim = "whitened matches or exceeds plain" if figure == "2" else "negligible"
            what = f"{label}: accuracy, whitened − plain (points)"
            ours = finding.number.partition(", to be")[0]
            yield Row(figure, what, claim, ours, data(published), finding.outcome == "met")
            if figure == "2" and label != "mnist":
                epoch = reaches_best(published, plain)
                what = f"{label}: epoch at which whitened reaches plain's best"
                ours = f"{epoch}" if epoch is not None else f"never in {published['epoch'][-1]}"
                yield Row("2", what, "4–5", ours, data(published), epoch in (4, 5))


# Figure 4: data set -> array -> what the text says of its end
LINEARITY = {
    "cifar10": {"train_accuracy": "above 0.9", "test_accuracy": "0.5", "train_tl": "above 0.5"},
    "cifar100": {"train_accuracy": "above 0.9", "test_accuracy": "0.2", "train_tl": "above 0.15"},
}
NAMES = {
    "train_accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
    "train_tl": "TL of the last layer",
}


def ends(run: Result, figure: str, quotes: Mapping[str, str], prefix: str = "") -> Iterator[Row]:
    """Rows of a network's accuracies and the Target Linearity of its last layer, at the end."""
    for name, quote in quotes.items():
        values = run[name][:, -1] if name != "train_tl" else run[name][:, -1, -1]
        yield number(figure, f"{prefix}{NAMES[name]}", quote, values, data(run))


@source
def linearity(root: Path, scale: str) -> Iterator[Row]:
    for run in lookup(target_linearity, root, scale, optimizer="sgd"):
        yield from ends(run, "4", LINEARITY.get(stand_in(run.label), {}), f"{run.label}: ")


@source
def correlations(root: Path, scale: str) -> Iterator[Row]:
    for run in lookup(virtual_covariance, root, scale, optimizer="sgd"):
        setting = ", ".join(filter(None, (data(run), "the input layer, after 10 epochs")))
        names = {"0.98": ("Σ VCS", "gram_vcs_diagonal"), "0.71": ("AGOP", "gram_agop_diagonal")}
        for quote, (against, name) in names.items():
            what = f"ρ of the diagonals of WᵀW with: {against}"
            yield number("7", what, quote, run[name][:, -1, 0], setting)
        accuracy = 100 * run["test_accuracy"][:, -1]
        yield number("7", "test accuracy (%)", "46", accuracy, setting)


@source
def distances(root: Path, scale: str) -> Iterator[Row]:
    published = {32: ("38.8", "15.2", "41.5"), 1024: ("4.2", "44", "44")}
    names = {"ols_error": "‖y − y_OLS‖", "ols_distance": "‖ŷ − y_OLS‖", "loss": "‖y − ŷ‖"}
    for run in lookup(staircase, root, scale):
        width = run.config["width"]
        for quote, (name, what) in zip(published.get(width, ()), names.items(), strict=False):
            norms = np.sqrt(run.config["samples"] * run[name][:, -1])
            label = f"width {width}, end: {what}"
            yield number("8", label, quote, norms, "other draws; the notebook's values", 1)


@source
def autoencoders(root: Path, scale: str) -> Iterator[Row]:
    for run in lookup(vae_target_linearity, root, scale):
        tl, beta = run["tl"], run["beta"]  # (beta, seed, epoch)
        for low, text in ((True, "rises steadily"), (False, "stable or slightly rising")):
            chosen = beta <= 0.1 if low else beta >= 1
            gain = (tl[chosen, :, -1] - tl[chosen, :, 1]).mean(0)  # from the first epoch
            steps = np.diff(tl[chosen].mean(1)[:, 1:], axis=1)
            what = f"{run.label}, TL from epoch 1 to the last: β {'≤ 0.1' if low else '≥ 1'}"
            ours = f"{mean_spread(gain, 3)}, rises in {(steps > 0).sum()} of {steps.size} epochs"
            same = (steps > 0).mean() > 0.9 if low else gain.mean() > -0.02
            yield Row("10", what, text, ours, data(run), bool(same))


ENCODERS = {  # Figure 11: task -> stage -> TL of the last layer, read off the paper's figure
    "sentiment": {"initialised": 0.23, "pre-trained": 0.58, "epoch 3": 0.97},
    "NLI": {"initialised": 0.16, "pre-trained": 0.27, "epoch 3": 0.88},
    "POS": {"initialised": 0.41, "pre-trained": 0.59, "epoch 3": 0.91},
    "NER": {"initialised": 0.13, "pre-trained": 0.58, "epoch 3": 0.92},
}


@source
def encoders(root: Path, scale: str) -> Iterator[Row]:
    from experiment import bert_target_linearity

    tasks = {"sst2": "sentiment", "sick_nli": "NLI", "ud_ewt_pos": "POS", "wnut17": "NER"}
    for run in lookup(bert_target_linearity, root, scale, ANY_ENCODER):
        stages = list(run["stage"])
        setting = f"{run.config['model']}, {run.label}"
        for stage, quote in ENCODERS.get(tasks.get(run.label, ""), {}).items():
            if stage in stages:
                what = f"{tasks[run.label]}, TL of the last layer: {stage}"
                values = run["train_tl"][:, stages.index(stage), -1]
                yield number("11", what, f"{quote:.2f}", values, setting)


_MOSTLY_RANDOM = {"train_accuracy": "0.7", "test_accuracy": "0.1", "train_tl": "0.25"}
RANDOM_LABELS: dict[float, dict[str, str]] = {  # Figure 12: p -> array -> what the text says
    0: {"train_accuracy": "0.85", "test_accuracy": "0.5", "train_tl": "0.45"},
    0.25: {"test_accuracy": "0.3"},
    0.5: {"train_accuracy": "0.75", "test_accuracy": "0.2", "train_tl": "0.3"},
    **dict.fromkeys((0.75, 0.9, 1), _MOSTLY_RANDOM),
}


@source
def random_labels(root: Path, scale: str) -> Iterator[Row]:
    runs = lookup(random_label, root, scale)
    for run in sorted(runs, key=lambda run: run.config["probability"]):
        p = run.config["probability"]
        yield from ends(run, "12", RANDOM_LABELS.get(p, {}), f"p = {p:g}: ")


@source
def grokking_rises(root: Path, scale: str) -> Iterator[Row]:
    for finding in grokking_rise.judge(root, scale, "13"):
        if finding.part == "paper" and finding.asked.startswith("TL rises"):
            what = f"{finding.where}: TL of the last layer, from memorisation to grokking"
            ours = finding.number.partition(";")[0]
            yield Row("13", what, "keeps rising", ours, "", finding.outcome == "met")
