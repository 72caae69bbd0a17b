"""The first page of claims: what each verdict and each quoted number amounts to."""

import re

import pytest

from report import front
from report.quoted import Row
from report.rules import CLAIMS, number
from report.verdicts import Finding, claim


@pytest.mark.parametrize(
    ("said", "group"),
    [
        ("holds", "stands"),
        ("holds where measured", "stands"),
        ("true, tight, useful", "stands"),
        ("true", "stands"),
        ("true, not tight, useful", "little"),
        ("true, tight, useful in part", "little"),
        ("true, tight: not decided by this data", "little"),
        ("not true, tight", "fails"),
        ("true in part, tight, useful", "fails"),
        ("true: not applicable", "open"),
        ("does not hold", "fails"),
        ("holds in part", "fails"),
        ("not comparable", "open"),
        ("not run", "open"),
        ("not decided by this data", "open"),
        ("—", "ours"),
    ],
)
def test_what_a_verdict_amounts_to(said, group):
    assert front.group(said) == group


def judged(figure, *findings):
    one = claim("title", "text", source="s", figures=(figure,), rule="r", ours="o")(
        lambda *_: iter(())
    )
    return {one: {figure: list(findings)}}


def row(figure, same):
    return Row(figure, "what", "1", "1.1", "", same)


@pytest.mark.parametrize(
    ("same", "result"),
    [
        ((True, True), "reproduced"),
        ((False,), "differs"),
        ((True, False, True), "2 of 3 numbers reproduced"),
    ],
)
def test_a_figure_is_judged_by_what_is_quoted_of_it(same, result):
    page = {r[0]: r for r in front.figure_rows([row("4", each) for each in same], {})}
    assert list(page) == [str(i) for i in range(1, 15)]
    assert page["4"][2:] == ("what: 1", "1.1", result)
    assert page["1"][2:] == ("no number", "", "not run")


@pytest.mark.parametrize(
    ("outcome", "result"),
    [("met", "reproduced"), ("not met", "differs"), ("not decided", "not decided by this data")],
)
def test_without_a_number_the_papers_own_findings_decide(outcome, result):
    own, other = (
        Finding("data", "asked", "1", o, 3, p)
        for o, p in ((outcome, "paper"), ("not met", "control"))
    )
    page = {r[0]: r for r in front.figure_rows([], judged("1", own, other))}
    assert page["1"][2:] == ("no number", "data: asked: 1", result)


def test_another_model_is_not_comparable_whatever_its_numbers_are():
    page = {r[0]: r for r in front.figure_rows([row("11", True)], {})}
    assert page["11"][-1] == "not comparable"


def test_every_claim_is_in_one_of_the_sentences():
    without_results = {each: {figure: [] for figure in each.figures} for each in CLAIMS}
    text = "".join(front.sentences(without_results))
    lists = re.findall(r"\(claims? ([\d, ]+)\)", text)
    named = [int(digits) for digits in re.findall(r"\d+", " ".join(lists))]
    assert sorted(named) == [number(each) for each in CLAIMS]
