"""Intervals and outcomes against SciPy and by hand; what findings amount to."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lab.results import Result
from report import verdicts
from report.verdicts import Finding, Interval, above, below, within


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_an_interval_is_that_of_a_t_test(seeds, level):
    values = np.random.default_rng(seeds).normal(3, 2, seeds)
    number = verdicts.interval(values, level)
    truth = stats.ttest_1samp(values, 0).confidence_interval(level)
    np.testing.assert_allclose([number.low, number.high], truth)
    assert (number.mean, number.seeds) == (pytest.approx(values.mean()), seeds)


def test_three_seeds_by_hand():
    number = verdicts.interval(np.array([1.0, 2.0, 3.0]))
    half = 4.302652729696142 / math.sqrt(3)  # t of 97.5 % with two degrees of freedom, deviation 1
    np.testing.assert_allclose([number.low, number.high], [2 - half, 2 + half])
    assert number.text(2) == "2.00 [-0.48, 4.48]"


def test_one_seed_decides_nothing():
    number = verdicts.interval(np.array([5.0]))
    assert number.text() == "5.00 (one seed)"
    for outcome in (above(number, 0), below(number, 0), within(number, 0, 10)):
        assert outcome == "not decided"


def test_a_value_that_is_not_a_number_decides_nothing():
    number = verdicts.interval(np.array([5.0, np.nan, 5.0]))
    assert above(number, 0) == below(number, 0) == "not decided"


def test_equal_values_have_an_interval_without_length():
    assert above(verdicts.interval(np.full(3, 0.5)), 0.4) == "met"
    assert above(verdicts.interval(np.full(3, 0.5)), 0.5) == "not met"  # above is strict
    assert below(verdicts.interval(np.full(3, 0.5)), 0.5) == "not met"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.3, "met"), (-0.3, -0.1, "not met"), (-0.1, 0.3, "not decided")],
)
def test_a_threshold_is_passed_by_the_whole_interval_or_not_at_all(low, high, expected):
    number = Interval((low + high) / 2, low, high, 3)
    mirrored = Interval(-number.mean, -high, -low, 3)
    assert above(number, 0) == below(mirrored, 0) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.5, 0.5, "met"),
        (1.1, 1.5, "not met"),
        (-1.5, -1.1, "not met"),
        (0.5, 1.5, "not decided"),
        (-2, 2, "not decided"),
    ],
)
def test_between_two_thresholds(low, high, expected):
    assert within(Interval(0, low, high, 3), -1, 1) == expected


@pytest.mark.parametrize("seed", range(40))
def test_the_interval_of_90_percent_is_two_one_sided_tests_at_5_percent(seed):
    rng = np.random.default_rng(seed)
    values, margin = rng.normal(rng.uniform(-1, 1), 0.5, 5), 0.7
    number = verdicts.interval(values, verdicts.EQUIVALENCE_LEVEL)
    p = [
        stats.ttest_1samp(values, bound, alternative=side).pvalue
        for bound, side in ((-margin, "greater"), (margin, "less"))
    ]
    assert (within(number, -margin, margin) == "met") == (max(p) < 0.05)
    assert (above(number, -margin) == "met") == (p[0] < 0.05)


def test_the_least_of_several_numbers_decides():
    values = np.array([[1.0, 0.5, 3.0], [1.1, 0.6, 3.1], [0.9, 0.4, 2.9]])  # (seed, k)
    outcome, least = verdicts.all_above(values, 0.0)
    assert (outcome, least.mean) == ("met", pytest.approx(0.5))
    assert verdicts.all_above(values, 0.9)[0] == "not met"
    outcome, least = verdicts.all_above(values * [1, 1, -1], 0.0)
    assert (outcome, least.mean) == ("not met", pytest.approx(-3))


def test_below_is_above_seen_in_a_mirror():
    values = np.array([[1.0, 0.5], [1.1, 0.6], [0.9, 0.4]])
    outcome, most = verdicts.all_below(values, 2.0)
    assert (outcome, most) == ("met", verdicts.interval(values[:, 0]))
    assert verdicts.all_below(values, 0.7)[0] == "not met"


def test_the_number_that_is_not_met_is_shown_not_a_lower_one_that_is_not_decided():
    values = np.array([[-9.0, -1.0], [5.0, -1.1], [-5.0, -0.9]])  # means −3 and −1
    outcome, number = verdicts.all_above(values)
    assert (outcome, number.mean) == ("not met", pytest.approx(-1))


def test_values_are_paired_by_seed():
    def run(seeds, values):
        return Result({"seed": np.array(seeds), "x": np.array(values)}, {})

    first, second = run([2, 0, 1], [20.0, 0.0, 10.0]), run([0, 1, 2, 3], [1.0, 13.0, 25.0, 99.0])
    pair = verdicts.paired(first, second, lambda run: run["x"])
    np.testing.assert_array_equal(pair, [[0, 10, 20], [1, 13, 25]])


def findings(*outcomes, part="paper"):
    return [Finding("data", "asked", "1", outcome, 3, part) for outcome in outcomes]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((), "not measured"),
        (("not measured",) * 2, "not measured"),
        (("met", "met"), "holds"),
        (("met", "not met"), "holds in part"),
        (("met", "not met", "not decided"), "holds in part"),
        (("not met", "not met"), "does not hold"),
        (("not met", "not decided"), "does not hold"),
        (("met", "not decided"), "not decided by this data"),
        (("met", "not measured"), "not decided by this data"),
        (("not decided",), "not decided by this data"),
        (("not applicable",) * 2, "not applicable"),
        (("not applicable", "met"), "holds"),
        (("not applicable", "not met"), "does not hold"),
    ],
)
def test_what_findings_amount_to(outcomes, expected):
    for order in itertools.permutations(findings(*outcomes)):
        assert verdicts.verdict(order) == expected


@pytest.mark.parametrize(
    ("parts", "papers", "ours"),
    [
        ({}, "not run", "—"),
        ({"paper": ["met"]}, "holds", "—"),
        ({"paper": ["not measured"]}, "not run", "—"),
        ({"paper": ["met", "not measured"]}, "holds where measured", "—"),
        ({"paper": ["not met", "not measured"]}, "does not hold", "—"),
        ({"paper": ["met"], "control": ["not met"]}, "holds", "control not met"),
        ({"paper": ["not met"], "control": ["met"]}, "does not hold", "control met"),
        ({"paper": ["met"], "ours": ["not met", "met"]}, "holds", "holds in part"),
        (
            {"ours": ["met"], "control": ["met", "not met"]},
            "not comparable",
            "holds; control met in part",
        ),
        ({"ours": ["not measured"]}, "not run", "not measured"),
        (
            {"true": ["met"], "tight": ["not met"], "useful": ["met", "not met"]},
            "true, not tight, useful in part",
            "—",
        ),
        ({"true": ["not applicable"], "ours": ["met"]}, "true: not applicable", "holds"),
    ],
)
def test_neither_verdict_is_decided_by_what_is_not_its_own(parts, papers, ours):
    rows = [row for part, outcomes in parts.items() for row in findings(*outcomes, part=part)]
    for order in itertools.permutations(rows):
        assert (verdicts.papers_verdict(order), verdicts.our_verdict(order)) == (papers, ours)


def test_at_quick_scale_no_sentence_is_judged_as_the_papers():
    claim = verdicts.claim("title", "text", source="s", figures=("1",), rule="r", ours="o")(
        lambda *_: iter(findings("met") + findings("met", part="true"))
    )
    parts = {
        scale: [f.part for f in claim.findings(None, scale)["1"]] for scale in ("paper", "quick")
    }
    assert parts == {"paper": ["paper", "true"], "quick": ["ours", "true"]}


def test_a_claim_is_decided_by_what_keeps_it_from_holding():
    rows = [
        Finding("a", "x", "1 [0, 2]; beside", "met", 3),
        Finding("b", "y", "2 [1, 3]; beside", "not met", 3),
        Finding("c", "z", "3", "not met", 3, "control"),
        Finding("d", "w", part="ours"),
    ]
    assert verdicts.decided_by(rows) == "b: y: 2 [1, 3]"
    assert verdicts.decided_by([rows[0], *rows[2:]]) == "a: x: 1 [0, 2]"
    assert verdicts.decided_by(rows[2:]) == "c: z: 3"
    assert verdicts.decided_by([rows[2], Finding("d", "w", "4", "met", 3, "ours")]) == "d: w: 4"
    assert verdicts.decided_by([Finding("c", "z")]) == "c: z: not measured"
    assert verdicts.decided_by([]) == ""
    assert verdicts.counts(rows) == "1 met, 1 not measured, 2 not met"
    assert verdicts.counts([]) == "no result"
