"""Claims about random labels, and Target Linearity as a measure of generalisation."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from experiment import random_label, target_linearity
from lab.results import Result
from report import grokking
from report.grokking import MOVES_WITH, WINDOW, correlation_after_onset, decay, grokking_runs
from report.lookup import lookup
from report.recipes import RECIPES
from report.verdicts import (
    EQUIVALENCE_LEVEL,
    Finding,
    Part,
    above,
    all_above,
    all_below,
    below,
    claim,
    every,
    interval,
    means,
    paired_difference,
    within,
)

MANY, MOST = 0.5, 0.75  # p up to which the text has TL fall, and from which it has TL stay
STAYS = 0.05  # of TL, that count as no change: it falls by three times as much up to MANY
EARLY, HALF = 1 / 8, 1 / 2  # shares of training


def random_label_runs(root: Path, scale: str) -> dict[str, list[Result]]:
    """Data set -> results, the smallest p first."""
    table: dict[str, list[Result]] = {}
    for run in sorted(lookup(random_label, root, scale), key=lambda r: r.config["probability"]):
        table.setdefault(run.label, []).append(run)
    return table


def over_p(runs: Sequence[Result], value: Callable[[Result], np.ndarray]) -> np.ndarray:
    """A value (seed, …) of each result, of the seeds that all have: (seed, p, …)."""
    seeds = functools.reduce(np.intersect1d, [run["seed"] for run in runs])
    return np.stack([value(run)[np.isin(run["seed"], seeds)] for run in runs], axis=1)


def level(run: Result) -> np.ndarray:
    """TL of every layer above its chance level, after the last epoch: (seed, layer)."""
    return run["train_tl"][:, -1] - run["train_chance"][:, -1]


def part_of_rise(run: Result, values: np.ndarray, start: float, end: float) -> np.ndarray:
    """What share of the rise of values (seed, epoch, …) falls between two shares of training."""
    i, j = (np.searchsorted(run["epoch"], share * run["epoch"][-1]) for share in (start, end))
    return (values[:, j] - values[:, i]) / (values[:, -1] - values[:, 0])


@claim(
    "random labels lower TL",
    "random labels: Target Linearity falls as more labels are random, up to half of them; with "
    "more, training is slow at first, and Target Linearity of the middle layers then rises "
    "suddenly",
    source="Appendix B.8, Figure 12",
    figures=("12",),
    rule="against the labels trained on, above its chance level, after the last epoch: TL of the "
    f"last layer and of every other falls from each p to the next up to {MANY}; that of the last "
    f"layer changes by less than {STAYS} from p = {MOST} on. Training accuracy and TL of the last "
    f"layer: the share of their rise that is over at {EARLY:g} of training is less at every p from "
    f"{MOST} on than at every p up to {MANY}, and falls from each p to the next. The mean "
    f"generalisation gap in the middle third of training is, at each p from {MOST} on, larger than "
    f"with true labels. From p = {MOST} on more than half of the middle layers' rise falls between "
    f"{EARLY:g} and {HALF:g} of training. TL rises early up to p = {MOST}: more than half of its "
    "rise is over at a quarter of training",
    ours="how much higher TL of the last layer is than the first's falls with p; training accuracy "
    "and TL against the true labels stand beside it",
)
def random_labels(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for label, runs in random_label_runs(root, scale).items():
        few = [run for run in runs if run.config["probability"] <= MANY]
        most = [run for run in runs if run.config["probability"] >= MOST]
        if len(few) > 1:
            yield from falls_with_p(label, few)
        if len(most) > 1:
            yield stays(label, most)
        if few and most:
            yield from slow_start(label, few, most)
        for run in runs:
            yield from course(f"{label}, p = {run.config['probability']:g}", run, few)


def falls_with_p(label: str, runs: Sequence[Result]) -> Iterator[Finding]:
    tl = over_p(runs, level)  # (seed, p, layer)
    values = ", ".join(f"{run.config['probability']:g}" for run in runs)
    accuracy = means(over_p(runs, lambda run: run["train_accuracy"][:, -1]))
    true = means(over_p(runs, lambda run: run["train_tl_true"][:, -1, -1]))
    beside = f"; training accuracy {accuracy}; against true labels {true}"
    number = [f"{means(tl[..., i], '.3f')} at p = {values}" for i in range(tl.shape[-1])]
    asked: list[tuple[str, np.ndarray, str, Part]] = [
        ("TL of the last layer falls with p", tl[..., -1:], f"{number[-1]}{beside}", "paper"),
        ("TL of every other layer falls with p", tl[..., :-1], "; ".join(number[:-1]), "paper"),
    ]
    order = tl[..., -1:] - tl[..., :1]
    text = f"{means(order[..., 0], '.3f')} at p = {values}"
    asked.append(("last − first layer falls with p", order, text, "ours"))
    for what, measured, text, part in asked:
        falls = -np.diff(measured, axis=1).reshape(len(tl), -1)
        outcome, deciding = all_above(falls)
        number = f"fall {deciding.text(3)}; {text}"
        yield Finding(label, what, number, outcome, deciding.seeds, part)


def stays(label: str, runs: Sequence[Result]) -> Finding:
    tl = over_p(runs, level)[..., -1]  # (seed, p)
    changes = [interval(tl[:, i] - tl[:, 0], EQUIVALENCE_LEVEL) for i in range(1, tl.shape[1])]
    outcome = every([within(number, -STAYS, STAYS) for number in changes])
    largest = max(changes, key=lambda number: abs(number.mean))
    asked = f"TL of the last layer changes by less than {STAYS} from p = {MOST} on"
    number = f"{largest.text(3)} (90 %); {means(tl, '.3f')}"
    return Finding(label, asked, number, outcome, largest.seeds)


def slow_start(label: str, few: Sequence[Result], most: Sequence[Result]) -> Iterator[Finding]:
    for what, name in (("training accuracy", "train_accuracy"), ("TL of the last layer", "tl")):

        def start(run: Result, name: str = name) -> np.ndarray:
            values = run["train_tl"][..., -1] if name == "tl" else run[name]
            return part_of_rise(run, values, 0, EARLY)

        shares = over_p([*few, *most], start)  # (seed, p)
        difference = interval(shares[:, len(few) :].max(1) - shares[:, : len(few)].min(1))
        asked = f"{what} is slow at first from p = {MOST} on"
        text = f"by p {means(shares)} of the rise"
        number = f"difference {difference.text()}; {text}"
        yield Finding(label, asked, number, below(difference, 0), difference.seeds)
        outcome, deciding = all_below(np.diff(shares, axis=1))
        asked = f"the start of {what} is slower for each higher p"
        yield Finding(label, asked, f"step {deciding.text()}; {text}", outcome, deciding.seeds)


def course(where: str, run: Result, few: Sequence[Result]) -> Iterator[Finding]:
    """What the text says of training at one p."""
    p, tl = run.config["probability"], run["train_tl"]
    if p <= MOST:
        number = interval(part_of_rise(run, tl[..., -1], 0, 1 / 4))
        asked = "more than half of TL's rise in the first quarter"
        outcome, text = above(number, 1 / 2), number.text()
        text += "; the text has this p among the slow as well" * bool(p == MOST)
        yield Finding(where, asked, text, outcome, number.seeds)
    if p < MOST:
        return
    if few and few[0].config["probability"] == 0:
        gaps = over_p([few[0], run], mid_gap)
        number = interval(gaps[:, 1] - gaps[:, 0])
        asked = "the generalisation gap in mid-training is larger than with true labels"
        text = f"difference {number.text(3)}; {means(gaps, '.3f')}"
        yield Finding(where, asked, text, above(number, 0), number.seeds)
    late = part_of_rise(run, tl[..., 1:-1], EARLY, HALF)  # (seed, middle layer)
    outcome, deciding = all_above(late, 1 / 2)
    asked = "the middle layers' TL rises suddenly, after a slow start"
    yield Finding(where, asked, f"{deciding.text()} of the rise", outcome, deciding.seeds)


def mid_gap(run: Result) -> np.ndarray:
    """Mean training − test accuracy in the middle third of training: (seed,)."""
    third = run["epoch"][-1] / 3
    middle = (run["epoch"] >= third) & (run["epoch"] <= 2 * third)
    return (run["train_accuracy"] - run["test_accuracy"])[:, middle].mean(1)


ORDERS = 0.8  # rank correlation of a measure of generalisation with test accuracy


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of the rows of two arrays (seed, k), a value each seed."""
    return np.array([spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)])


@claim(
    "TL measures generalisation",
    "Target Linearity may serve as a measure of generalisation",
    source="section 6 and Appendix B.8; no theory is offered",
    figures=("4", "9", "12", "13"),
    rule="TL of the last layer on the training set, which needs no test data. Random labels: its "
    f"rank correlation over p with test accuracy is above {ORDERS}. Grokking, medians over "
    f"{WINDOW} epochs: at each of the paper's weight decays its correlation over epochs with test "
    f"accuracy, from the largest generalisation gap on, is above {MOVES_WITH}",
    ours="within training on true labels, in its second half, the rank correlation over epochs "
    "with test accuracy is above 0; TL at the end is higher at each decay that groks than without "
    "decay, which does not. Controls: training accuracy needs no test data either, and with random "
    "labels TL's rank correlation is higher; without decay, where nothing groks, the correlation "
    f"over epochs is below {MOVES_WITH}",
)
def generalisation(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    if figure == "12":
        for label, runs in random_label_runs(root, scale).items():
            if len(runs) > 2:
                yield from over_random_labels(label, runs)
    elif figure == "13":
        paper, without = grokking_runs(root, scale)
        for run in paper:
            yield from with_test_accuracy(run, without)
        for run in without:
            number = interval(moves_with_test(run))
            outcome, asked = below(number, MOVES_WITH), f"correlation below {MOVES_WITH}"
            yield Finding(decay(run), asked, number.text(), outcome, number.seeds, "control")
    else:
        for run in lookup(target_linearity, root, scale, **RECIPES[figure].settings(scale)):
            half = run["train_tl"].shape[1] // 2
            tl, test = run["train_tl"][:, half:, -1], run["test_accuracy"][:, half:]
            r = interval(rank_correlation(tl, test))
            ends = [f"{values.mean(0)[i]:.3f}" for values in (tl, test) for i in (0, -1)]
            number = f"{r.text()}; TL {ends[0]} → {ends[1]}, test accuracy {ends[2]} → {ends[3]}"
            asked = "rank correlation over the second half's epochs above 0"
            yield Finding(run.label, asked, number, above(r, 0), r.seeds, part="ours")


def over_random_labels(label: str, runs: list[Result]) -> Iterator[Finding]:
    """Between the networks of one data set, trained on labels redrawn with several p."""
    tl = over_p(runs, lambda run: run["train_tl"][:, -1, -1])  # (seed, p)
    test, train = (
        over_p(runs, lambda run, name=name: run[name][:, -1])
        for name in ("test_accuracy", "train_accuracy")
    )
    r, r_train = rank_correlation(tl, test), rank_correlation(train, test)
    number = interval(r)
    asked = f"rank correlation over p above {ORDERS}"
    yield Finding(label, asked, number.text(), above(number, ORDERS), number.seeds)
    gain = interval(r - r_train)
    asked = "rank correlation over p above that of training accuracy"
    text = f"{gain.text()}; training accuracy's {r_train.mean():.2f}"
    yield Finding(label, asked, text, above(gain, 0), gain.seeds, part="control")


def moves_with_test(run: Result) -> np.ndarray:
    """Correlation of TL with test accuracy from the onset of grokking on: (seed,)."""
    test = grokking.running_median(run["test_accuracy"])
    return correlation_after_onset(run, grokking.linearity(run)[..., -1], test)


def with_test_accuracy(run: Result, without: Sequence[Result]) -> Iterator[Finding]:
    """Within a network that groks, and between it and one that does not."""
    number = interval(moves_with_test(run))
    asked = f"correlation with test accuracy above {MOVES_WITH}"
    yield Finding(decay(run), asked, number.text(), above(number, MOVES_WITH), number.seeds)
    for other in without:
        gain, on_test = (
            interval(paired_difference(run, other, ended))
            for ended in (
                lambda r, split=split: grokking.linearity(r, split)[:, -1, -1]
                for split in ("train", "test")
            )
        )
        ends = (f"{100 * r['test_accuracy'][:, -1].mean():.0f}" for r in (run, other))
        text = f"{gain.text(3)}; on test rows {on_test.mean:.3f}; test accuracy "
        text += f"{' and '.join(ends)} %"
        asked = "TL at the end above that without decay"
        yield Finding(decay(run), asked, text, above(gain, 0), gain.seeds, part="ours")
