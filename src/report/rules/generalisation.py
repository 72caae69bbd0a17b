"""Claims about random labels, grokking, and Target Linearity as a measure of generalisation."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from experiment import grokking, random_label, target_linearity
from lab.results import Result
from report.lookup import lookup
from report.recipes import RECIPES
from report.verdicts import Finding, above, all_above, below, claim, interval, paired

QUOTED = (0, 0.5, 0.75)  # p at which the text has TL of the last layer


def random_label_runs(root: Path, scale: str) -> dict[str, list[Result]]:
    """Data set -> results, the smallest p first."""
    table: dict[str, list[Result]] = {}
    for run in sorted(lookup(random_label, root, scale), key=lambda r: r.config["probability"]):
        table.setdefault(run.label, []).append(run)
    return table


@claim(
    "random labels: Target Linearity of the last layer, and its order by depth, fall as more "
    "labels are random",
    source="section 5, Figure 12",
    figures=("12",),
    rule="against the labels trained on, above its chance level, after the last epoch, TL of the "
    "last layer (level), and how much higher it is than the first layer's (order), fall from p = "
    "0 to 0.5 and from 0.5 to 0.75, where the text has numbers (beyond, it says, TL stays)",
    ours="TL's chance level is subtracted; fewer labels are learned as more are random, and "
    "training accuracy stands beside TL",
)
def random_labels(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for label, runs in random_label_runs(root, scale).items():
        chosen = [run for run in runs if run.config["probability"] in QUOTED]
        if len(chosen) < 2:
            continue
        tl = [
            run["train_tl"][:, -1] - run["train_chance"][:, -1] for run in chosen
        ]  # (seed, layer)
        p = ", ".join(f"{run.config['probability']:g}" for run in chosen)
        accuracy = ", ".join(f"{run['train_accuracy'][:, -1].mean():.2f}" for run in chosen)
        true = ", ".join(f"{run['train_tl_true'][:, -1, -1].mean():.2f}" for run in chosen)
        beside = {
            "TL of the last layer": f"; training accuracy {accuracy}; against true labels {true}",
            "last − first layer": "",
        }
        measures = ([t[:, -1] for t in tl], [t[:, -1] - t[:, 0] for t in tl])
        for (what, more), values in zip(beside.items(), measures, strict=True):
            outcome, deciding = all_above(-np.diff(values, axis=0).T)
            means = ", ".join(f"{value.mean():.3f}" for value in values)
            number = f"fall {deciding.text(3)}; {means} at p = {p}{more}"
            yield Finding(label, f"{what} falls with p", number, outcome, deciding.seeds)


MEMORISED, GROKKED = 0.99, 0.9  # training and test accuracy
MOVES_WITH = 0.5  # correlation that counts as moving together


def grokking_runs(root: Path, scale: str) -> tuple[list[Result], list[Result]]:
    """Results at the paper's weight decays, 0 < decay < 1, in order, and that without one."""
    runs = sorted(lookup(grokking, root, scale), key=lambda run: run.config["weight_decay"])
    paper = [run for run in runs if 0 < run.config["weight_decay"] < 1]
    return paper, [run for run in runs if run.config["weight_decay"] == 0]


def decay(run: Result) -> str:
    return f"weight decay {run.config['weight_decay']:g}"


def correlation_after_peak(run: Result) -> np.ndarray:
    """Of TL(last layer) − TL(last but one) with training − test accuracy, over the epochs from the
    largest generalisation gap on: (seed,)."""
    tl = run["train_tl"]  # (seed, epoch, layer)
    gaps = run["train_accuracy"] - run["test_accuracy"]
    pairs = zip(tl[..., -1] - tl[..., -2], gaps, gaps.argmax(1), strict=True)
    return np.array([np.corrcoef(a[peak:], b[peak:])[0, 1] for a, b, peak in pairs])


@claim(
    "grokking: the gap of Target Linearity between the last two layers falls with the "
    "generalisation gap",
    source="section 5, Figure 14",
    figures=("14",),
    rule="at each of the paper's weight decays, between 0 and 1, from the epoch of the largest "
    "generalisation gap on, the correlation over epochs of TL(layer 3) − TL(layer 2) with "
    f"training − test accuracy is above {MOVES_WITH}",
    ours=f"where the network does not grok (no weight decay), the correlation is below "
    f"{MOVES_WITH}: two curves that both fall would correlate there too",
)
def grokking_gaps(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    paper, without = grokking_runs(root, scale)
    for run in paper:
        r = correlation_after_peak(run)
        number, end = interval(r), 100 * run["test_accuracy"][:, -1].mean()
        text = f"{number.text()}; by seed {', '.join(f'{value:.2f}' for value in r)}; test "
        text += f"accuracy at the end {end:.1f} %"
        asked = f"correlation above {MOVES_WITH}"
        yield Finding(decay(run), asked, text, above(number, MOVES_WITH), number.seeds)
    for run in without:
        number = interval(correlation_after_peak(run))
        outcome, asked = below(number, MOVES_WITH), f"correlation below {MOVES_WITH}"
        yield Finding(decay(run), asked, number.text(), outcome, number.seeds, part="control")


def rise_to_grokking(run: Result) -> np.ndarray:
    """TL of the last layer when test accuracy is first high, or at the end, − when memorised."""
    memorised = (run["train_accuracy"] > MEMORISED).argmax(1)
    grokked = run["test_accuracy"] > GROKKED
    late = np.where(grokked.any(1), grokked.argmax(1), grokked.shape[1] - 1)
    tl, seed = run["train_tl"][..., -1], np.arange(len(memorised))
    return tl[seed, late] - tl[seed, memorised]


@claim(
    "grokking: from weight decay 0.25 on, Target Linearity keeps rising after memorisation until "
    "the network groks",
    source="section 5, Figure 13",
    figures=("13",),
    rule="at each of the paper's weight decays, between 0 and 1, TL of the last layer is higher "
    f"when test accuracy first passes {GROKKED} (at the last epoch, where it never does) than "
    f"when training accuracy first passes {MEMORISED}",
    ours="without weight decay, where nothing groks, TL does not rise from memorisation to the "
    "last epoch",
)
def grokking_rise(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    paper, without = grokking_runs(root, scale)
    for run in paper:
        number = interval(rise_to_grokking(run))
        grokked = (run["test_accuracy"] > GROKKED).any(1)
        text = f"{number.text(3)}; {grokked.sum()} of {grokked.size} seeds grok"
        yield Finding(decay(run), "TL rises", text, above(number, 0), number.seeds)
    for run in without:
        number = interval(rise_to_grokking(run))
        end = 100 * run["test_accuracy"][:, -1].mean()
        text = f"{number.text(3)}; test accuracy at the end {end:.1f} %"
        outcome, asked = below(number, 0), "TL does not rise"
        yield Finding(decay(run), asked, text, outcome, number.seeds, part="control")


ORDERS = 0.8  # rank correlation of a measure of generalisation with test accuracy


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of the rows of two arrays (seed, k), a value each seed."""
    return np.array([spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)])


@claim(
    "Target Linearity may serve as a measure of generalisation",
    source="sections 5 and 6; no theory is offered",
    figures=("4", "9", "12", "13"),
    rule="TL of the last layer on the training set, which needs no test data. Between networks: "
    "its rank correlation over p with test accuracy is above "
    f"{ORDERS} (random labels); at the end of training it is higher at each of the paper's weight "
    "decays, which grok, than without decay, which does not. Within training: in its second half "
    "the rank correlation over epochs with test accuracy is above 0",
    ours="training accuracy needs no test data either: with random labels, TL's rank "
    "correlation is higher",
)
def generalisation(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    if figure == "12":
        for label, runs in random_label_runs(root, scale).items():
            if len(runs) > 2:
                yield from over_random_labels(label, runs)
    elif figure == "13":
        paper, without = grokking_runs(root, scale)
        for run in paper:
            for other in without:
                yield against_no_decay(run, other)
    else:
        for run in lookup(target_linearity, root, scale, **RECIPES[figure].settings(scale)):
            half = run["train_tl"].shape[1] // 2
            tl, test = run["train_tl"][:, half:, -1], run["test_accuracy"][:, half:]
            r = interval(rank_correlation(tl, test))
            ends = [f"{values.mean(0)[i]:.3f}" for values in (tl, test) for i in (0, -1)]
            number = f"{r.text()}; TL {ends[0]} → {ends[1]}, test accuracy {ends[2]} → {ends[3]}"
            asked = "rank correlation over the second half's epochs above 0"
            yield Finding(run.label, asked, number, above(r, 0), r.seeds)


def over_random_labels(label: str, runs: list[Result]) -> Iterator[Finding]:
    """Between the networks of one data set, trained on labels redrawn with several p."""
    tl = np.stack([run["train_tl"][:, -1, -1] for run in runs], axis=1)  # (seed, p)
    test, train = (
        np.stack([run[name][:, -1] for run in runs], axis=1)
        for name in ("test_accuracy", "train_accuracy")
    )
    r, r_train = rank_correlation(tl, test), rank_correlation(train, test)
    number = interval(r)
    asked = f"rank correlation over p above {ORDERS}"
    yield Finding(label, asked, number.text(), above(number, ORDERS), number.seeds)
    gain = interval(r - r_train)
    asked = "rank correlation over p above that of training accuracy"
    number = f"{gain.text()}; training accuracy's {r_train.mean():.2f}"
    yield Finding(label, asked, number, above(gain, 0), gain.seeds, part="control")


def against_no_decay(run: Result, other: Result) -> Finding:
    """Between a network that groks and one that does not."""
    gain, on_test = (
        interval(np.subtract(*paired(run, other, lambda r, name=name: r[name][:, -1, -1])))
        for name in ("train_tl", "test_tl")
    )
    accuracies = " and ".join(f"{100 * r['test_accuracy'][:, -1].mean():.0f}" for r in (run, other))
    number = f"{gain.text(3)}; on test rows {on_test.mean:.3f}; test accuracy {accuracies} %"
    asked = "TL at the end above that without decay"
    return Finding(decay(run), asked, number, above(gain, 0), gain.seeds)
