"""Claims about grokking: Target Linearity by layer, and its gap between the last two layers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lab.results import Result
from report import grokking
from report.grokking import (
    GROKKED,
    MEMORISED,
    MOVES_WITH,
    WINDOW,
    change,
    correlation_after_onset,
    decay,
    grokking_runs,
)
from report.verdicts import (
    Finding,
    Interval,
    Part,
    above,
    below,
    claim,
    interval,
    paired_difference,
    undecided,
)

MEDIANS = f"all are medians over {WINDOW} epochs"
NO_SEED = Interval(np.nan, np.nan, np.nan, 0)


def known(values: np.ndarray) -> Interval:
    """Over the seeds that have a value."""
    values = values[np.isfinite(values)]
    return interval(values) if len(values) else NO_SEED


def seeds_finding(
    run: Result, asked: str, values: np.ndarray, part: Part = "paper", beside: str = ""
) -> Finding:
    """Whether a number over the seeds that have one, (seed,), is above zero."""
    number = known(values)
    text = f"{number.seeds} of {len(values)} seeds{beside}"
    text = f"{number.text(3)}; {text}" if number.seeds else text
    finding = Finding(decay(run), asked, text, above(number, 0), number.seeds, part)
    return undecided(finding, "too few seeds grok") if number.seeds < 2 else finding


@claim(
    "grokking: the gap of TL falls, then widens",
    "grokking: the gap of Target Linearity between the last two layers falls at the onset of "
    "grokking and widens again afterwards, a potential measure of generalisation",
    source="Appendix B.8, Figure 14",
    figures=("14",),
    rule=f"{MEDIANS}, at each of the paper's weight decays, between 0 and 1: TL(layer 3) − "
    "TL(layer 2) falls from the epoch of the largest generalisation gap to that of grokking (test "
    f"accuracy at {GROKKED} of its largest); in the second half of training it widens, at 0.75 by "
    "more than at each other decay; from the largest generalisation gap on, its correlation over "
    f"epochs with training − test accuracy is above {MOVES_WITH}",
    ours=f"where the network does not grok (no weight decay), the correlation is below "
    f"{MOVES_WITH}: two curves that both fall would correlate there too",
)
def grokking_gaps(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    paper, without = grokking_runs(root, scale)
    for run in paper:
        gap, start, end = grokking.linearity_gap(run), grokking.onset(run), grokking.grokked(run)
        fall = -change(gap, start, end)
        yield seeds_finding(run, "the gap falls at the onset of grokking", fall)
        yield seeds_finding(run, "the gap widens again in the second half", widening(run))
        r = correlation_after_onset(run, gap, grokking.generalisation_gap(run))
        number = interval(r)
        text = f"{number.text()}; by seed {', '.join(f'{value:.2f}' for value in r)}"
        outcome = above(number, MOVES_WITH)
        yield Finding(decay(run), f"correlation above {MOVES_WITH}", text, outcome, number.seeds)
    for other in paper[:-1]:
        more = paired_difference(paper[-1], other, widening)
        yield seeds_finding(paper[-1], f"the gap widens more than at {decay(other)}", more)
    for run in without:
        gaps = grokking.linearity_gap(run), grokking.generalisation_gap(run)
        number = interval(correlation_after_onset(run, *gaps))
        outcome, asked = below(number, MOVES_WITH), f"correlation below {MOVES_WITH}"
        yield Finding(decay(run), asked, number.text(), outcome, number.seeds, part="control")


def widening(run: Result) -> np.ndarray:
    """Of the gap of TL in the second half of training, by when networks have grokked: (seed,)."""
    gap = grokking.linearity_gap(run)
    return gap[:, -1] - gap[:, gap.shape[1] // 2]


@claim(
    "grokking: TL rises until the network groks",
    "grokking: from weight decay 0.25 on, Target Linearity keeps rising after memorisation until "
    "the network groks, then saturates, and that of layer 2 rises sharply",
    source="Appendix B.8, Figure 13",
    figures=("13",),
    rule=f"{MEDIANS}, at each of the paper's weight decays, between 0 and 1: TL of the last layer "
    f"is higher at grokking (test accuracy at {GROKKED} of its largest) than when training "
    f"accuracy first passes {MEMORISED}; from there to the end it changes by less an epoch; from "
    "the largest generalisation gap to grokking TL of layer 2 rises by more an epoch than in all "
    "other epochs",
    ours="without weight decay, where nothing groks, TL does not rise from memorisation to the "
    "last epoch",
)
def grokking_rise(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    paper, without = grokking_runs(root, scale)
    for run in paper:
        tl, start, end = grokking.linearity(run), grokking.memorised(run), grokking.grokked(run)
        rise, last = change(tl[..., -1], start, end), grokking.last(run)
        yield seeds_finding(run, "TL rises from memorisation to grokking", rise)
        before = 1e4 * rise / (end - start)
        after = 1e4 * change(tl[..., -1], end, last) / (last - end)
        rates = f"; {known(before).mean:.1f}, then {known(after).mean:.1f}"
        asked = "TL saturates: it changes by less an epoch after grokking than before, in 10⁻⁴"
        yield seeds_finding(run, asked, before - np.abs(after), beside=rates)
        onset, second = grokking.onset(run), tl[..., -2]
        sudden, whole = change(second, onset, end), second[:, -1] - second[:, 0]
        inside = 1e4 * sudden / (end - onset)
        outside = 1e4 * (whole - sudden) / (last - (end - onset))
        rates = f"; {known(inside).mean:.1f} and {known(outside).mean:.1f}"
        asked = "layer 2 rises sharply: by more an epoch as it groks than in all others, in 10⁻⁴"
        yield seeds_finding(run, asked, inside - outside, beside=rates)
    for run in without:
        tl = grokking.linearity(run)[..., -1]
        number = known(change(tl, grokking.memorised(run), grokking.last(run)))
        end = 100 * run["test_accuracy"][:, -1].mean()
        text = f"{number.text(3)}; test accuracy at the end {end:.1f} %"
        outcome, asked = below(number, 0), "TL does not rise"
        yield Finding(decay(run), asked, text, outcome, number.seeds, part="control")
