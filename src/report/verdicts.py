"""How verdicts are reached: intervals over seeds, findings, claims.

A number over seeds has the 95 % interval of Student's t, of paired differences where two runs share
their seeds: seeds are taken as independent draws of a normal quantity, and three of them make the
interval 2.2 times as wide as a known spread would. A finding asks for a number on one side of a
threshold, or between two. It is met where the whole interval lies there, not met where none of it
does, and else not decided.

That two methods match is asked by two one-sided tests at 5 %, which is to ask that the 90 %
interval of their difference lies within a margin (Schuirmann, J. Pharmacokinet. Biopharm. 1987).

Every claim has two verdicts. The paper's is on its own sentence, data and rows, in the mildest
reading that can still fail. Ours is on everything else: other data, held-out rows, other
optimizers. A control is of ours: an explanation that is shut out or is not; it decides neither
verdict. Of a theorem, lemma or proposition the paper's verdict has three words: whether it is true
(the inequality or identity as stated), tight (by how much it is missed) and useful (whether it says
anything at real values).

A claim holds where all its findings are met: each test errs in 5 % of cases or fewer, and so does
the rule that wants all of them (an intersection–union test), so nothing is corrected for their
number. A single finding that is not met, among many, may be chance.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import stats

from lab.results import Result

Outcome = Literal["met", "not met", "not decided", "not applicable", "not measured"]
# whose verdict a finding is part of
Part = Literal["paper", "true", "tight", "useful", "ours", "control"]
ASPECTS: tuple[Part, ...] = ("true", "tight", "useful")  # of a theorem, lemma or proposition
Verdict = Literal[
    "holds",
    "holds in part",
    "does not hold",
    "not decided by this data",
    "not applicable",  # a premise fails everywhere
    "not measured",
]
NONE = "—"  # where there is nothing to judge
LEVEL = 0.95  # of an interval
EQUIVALENCE_LEVEL = 0.90  # of the interval that two one-sided tests at 5 % amount to


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and the ends of its interval, nan where there is one seed."""

    mean: float
    low: float
    high: float
    seeds: int

    def text(self, digits: int = 2) -> str:
        if self.seeds < 2:
            return f"{self.mean:.{digits}f} (one seed)"
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    """Student's t interval of the mean of values (seed,)."""
    values, n = np.asarray(values, dtype=float), len(values)
    half = stats.t.ppf((1 + level) / 2, n - 1) * stats.sem(values) if n > 1 else np.nan
    mean = values.mean()
    return Interval(float(mean), float(mean - half), float(mean + half), n)


def paired(
    first: Result, second: Result, value: Callable[[Result], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """A value (seed, …) of both results, for the seeds that both have, in one order."""
    _, i, j = np.intersect1d(first["seed"], second["seed"], return_indices=True)
    return value(first)[i], value(second)[j]


def paired_difference(
    first: Result, second: Result, value: Callable[[Result], np.ndarray]
) -> np.ndarray:
    """A value of the first result minus that of the second, paired by seed, (seed, …)."""
    return np.subtract(*paired(first, second, value))


def above(number: Interval, threshold: float) -> Outcome:
    """Whether the number is greater than a threshold."""
    if number.low > threshold:
        return "met"
    return "not met" if number.high <= threshold else "not decided"


def below(number: Interval, threshold: float) -> Outcome:
    """Whether the number is less than a threshold."""
    if number.high < threshold:
        return "met"
    return "not met" if number.low >= threshold else "not decided"


def within(number: Interval, low: float, high: float) -> Outcome:
    """Whether the number is between two thresholds; of a 90 % interval: two one-sided tests."""
    return every([above(number, low), below(number, high)])


def every(outcomes: Sequence[Outcome]) -> Outcome:
    """Of one finding that asks for several things at once."""
    for outcome in ("not met", "not measured", "not decided"):
        if outcome in outcomes:
            return outcome
    return "met"


def all_above(values: np.ndarray, threshold: float = 0.0) -> tuple[Outcome, Interval]:
    """Whether each of several numbers over seeds (seed, k) is above a threshold.

    Returns:
        the outcome, and the interval of the number that decides it, the least of several.
    """
    numbers = [interval(column) for column in np.asarray(values).T]
    outcome = every([above(number, threshold) for number in numbers])
    deciding = [number for number in numbers if above(number, threshold) == outcome]
    return outcome, min(deciding, key=lambda number: number.mean)


def all_below(values: np.ndarray, threshold: float = 0.0) -> tuple[Outcome, Interval]:
    """Whether each of several numbers over seeds (seed, k) is below a threshold: `all_above`."""
    outcome, number = all_above(-np.asarray(values), -threshold)
    return outcome, Interval(-number.mean, -number.high, -number.low, number.seeds)


@dataclass(frozen=True)
class Finding:
    """One thing that a claim's rule asks, and what was measured."""

    where: str  # the data or setting
    asked: str
    number: str = ""  # with its interval
    outcome: Outcome = "not measured"
    seeds: int | None = None  # None: not a number over seeds, but every measurement counts
    part: Part = "paper"

    @property
    def short(self) -> str:
        """Without what stands beside the number."""
        return f"{self.where}: {self.asked}: {self.number.partition(';')[0] or self.outcome}"


def holds_everywhere(
    where: str, asked: str, held: np.ndarray, beside: str = "", part: Part = "paper"
) -> Finding:
    """Of a statement that has no exceptions; held: of every measurement."""
    number = f"in {held.sum()} of {held.size} measurements{beside}"
    return Finding(where, asked, number, "met" if held.all() else "not met", part=part)


def premise(where: str, asked: str, number: str, held: bool, seeds: int) -> Finding:
    """What a claim takes for granted; where it is not so, its findings are `not_applicable`."""
    return Finding(where, asked, number, "met" if held else "not met", seeds, "control")


def not_applicable(finding: Finding, reason: str) -> Finding:
    """The same number where a premise of the claim is not met."""
    return _without_outcome(finding, reason, "not applicable")


def undecided(finding: Finding, reason: str) -> Finding:
    """The same number where it is too early, or too little, to decide anything."""
    return _without_outcome(finding, reason, "not decided")


def _without_outcome(finding: Finding, reason: str, outcome: Outcome) -> Finding:
    number = f"{finding.number}; {reason}"
    return dataclasses.replace(finding, number=number, outcome=outcome)


def means(values: np.ndarray, form: str = ".2f") -> str:
    """Means over seeds (seed, k) in words."""
    return ", ".join(f"{value:{form}}" for value in values.mean(0))


def verdict(findings: Sequence[Finding]) -> Verdict:
    """What findings amount to.

    holds: all that apply are met. holds in part: some are met, some are not. does not hold: some
    are not met, none is. not decided by this data: none is not met, but some are not decided or
    not measured.
    """
    outcomes = {finding.outcome for finding in findings} or {"not measured"}
    if outcomes == {"not applicable"}:
        return "not applicable"
    outcomes -= {"not applicable"}
    if outcomes == {"not measured"}:
        return "not measured"
    if "not met" in outcomes:
        return "holds in part" if "met" in outcomes else "does not hold"
    return "holds" if outcomes == {"met"} else "not decided by this data"


def where_measured(findings: Sequence[Finding]) -> str:
    """A verdict on what was measured, which says so where not all was; empty where nothing was."""
    measured = [f for f in findings if f.outcome != "not measured"]
    said = verdict(measured) if measured else ""
    is_part = said == "holds" and len(measured) < len(findings)
    return f"{said} where measured" if is_part else said


def papers_verdict(findings: Sequence[Finding]) -> str:
    """On the paper's own sentence or statement."""
    aspects = {f.part for f in findings} & set(ASPECTS)
    if aspects:
        words = (_aspect(part, findings) for part in ASPECTS if part in aspects)
        return ", ".join(words)
    if own := where_measured([f for f in findings if f.part == "paper"]):
        return own
    is_measured = any(f.outcome != "not measured" for f in findings)
    return "not comparable" if is_measured else "not run"


def _aspect(part: Part, findings: Sequence[Finding]) -> str:
    """One word of a theorem: "true", "not tight", "useful in part", …"""
    said = verdict([f for f in findings if f.part == part])
    words = {"holds": part, "holds in part": f"{part} in part", "does not hold": f"not {part}"}
    return words.get(said, f"{part}: {said}")


def our_verdict(findings: Sequence[Finding]) -> str:
    """On all that the paper does not say, and whether controls shut other explanations out."""
    words = []
    if own := [f for f in findings if f.part == "ours"]:
        words.append(where_measured(own) or "not measured")
    if controls := [f for f in findings if f.part == "control"]:
        said = where_measured(controls) or "not measured"
        shut = {"holds": "met", "holds in part": "met in part", "does not hold": "not met"}
        shut["holds where measured"] = "met where measured"
        words.append(f"control {shut.get(said, said)}")
    return "; ".join(words) or NONE


def decided_by(findings: Sequence[Finding]) -> str:
    """The finding that keeps a claim from holding, or else the first, in short.

    Of what was measured one of the paper's, where there is any, else of ours, else a control.
    """
    measured = [f for f in findings if f.outcome != "not measured"] or findings
    own = [f for f in measured if f.part not in ("ours", "control")]
    chosen = own or [f for f in measured if f.part == "ours"] or measured
    order = ("not met", "not decided", "met", "not applicable", "not measured")
    ranked = sorted(chosen, key=lambda finding: order.index(finding.outcome))
    return ranked[0].short if ranked else ""


def counts(findings: Sequence[Finding]) -> str:
    """How many findings were met, and how many not: "9 met, 2 not decided"."""
    numbers = Counter(finding.outcome for finding in findings)
    return ", ".join(f"{numbers[outcome]} {outcome}" for outcome in sorted(numbers)) or "no result"


Judge = Callable[[Path, str, str], Iterator[Finding]]  # from results' root, scale and figure


@dataclass(frozen=True)
class Claim:
    """A sentence or theorem that the paper states, or a finding of ours, and how it is judged."""

    title: str  # for tables that have no room for the text
    text: str
    source: str  # where the paper states it; begins with "ours" where it does not
    figures: tuple[str, ...]  # keys of report.recipes.RECIPES whose results it is judged by
    rule: str  # of the paper's verdict
    ours: str  # what else is asked, on which data, and what controls are for
    judge: Judge

    def findings(
        self, root: Path, scale: str, figures: Sequence[str] | None = None
    ) -> dict[str, list[Finding]]:
        """Figure -> findings, of all its figures or those named.

        At another scale than the paper's none of a sentence's findings is the paper's.
        """
        chosen = [f for f in self.figures if figures is None or f in figures]
        rows = {figure: list(self.judge(root, scale, figure)) for figure in chosen}
        if scale == "paper":
            return rows
        return {figure: [_as_ours(f) for f in found] for figure, found in rows.items()}

    def verdicts(self, findings: Sequence[Finding]) -> tuple[str, str]:
        """The paper's and ours; the paper has none on what it does not state."""
        is_ours = self.source.startswith("ours")
        return NONE if is_ours else papers_verdict(findings), our_verdict(findings)


def _as_ours(finding: Finding) -> Finding:
    is_papers = finding.part == "paper"
    return dataclasses.replace(finding, part="ours") if is_papers else finding


def claim(
    title: str, text: str, *, source: str, figures: tuple[str, ...], rule: str, ours: str
) -> Callable[[Judge], Claim]:
    """Makes a claim of the function that judges it."""
    return lambda judge: Claim(title, text, source, figures, rule, ours, judge)


Judged = Mapping[Claim, Mapping[str, Sequence[Finding]]]  # claim -> figure -> findings


def flat(by_figure: Mapping[str, Sequence[Finding]]) -> list[Finding]:
    """A claim's findings, of all its figures."""
    return [finding for rows in by_figure.values() for finding in rows]
