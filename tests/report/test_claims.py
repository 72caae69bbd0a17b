"""The page of claims and the README's table, from planted results."""

import dataclasses

import numpy as np
import pytest

import claims
from experiment import swissroll
from planted_results import plant
from report import front
from report.recipes import RECIPES
from report.rules import CLAIMS, changed, number, weights
from report.verdicts import Finding


@pytest.fixture
def judged(tmp_path):
    """One claim is measured."""
    r2 = np.linspace(0.1, 0.99, 101) * np.ones((3, 1))
    arrays = {"r2": r2, "r2_frozen": 0.1 * np.ones_like(r2)}
    arrays["gram"] = np.ones((3, 101, 2, 2))
    plant(tmp_path, swissroll, "swissroll", arrays)
    return claims.judge(tmp_path, "paper")


def test_claims_are_numbered_as_they_stand():
    assert [number(claim) for claim in CLAIMS] == list(range(1, len(CLAIMS) + 1))
    assert len({claim.text for claim in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS, ids=number)
def test_a_claim_says_all_that_a_reviewer_asks_for(claim):
    assert set(claim.figures) <= set(RECIPES)
    for field in dataclasses.fields(claim):
        value = getattr(claim, field.name)
        assert value, field.name
        if isinstance(value, str):
            assert not value.endswith("."), field.name  # the page adds it
            assert "|" not in value, field.name  # would break its tables


def test_the_page_has_every_claim_with_both_rules_and_verdicts(judged):
    page = claims.claims_table(judged)
    for claim in CLAIMS:
        for text in (f"## Claim {number(claim)}: {claim.text}", claim.rule, claim.ours):
            assert text in page
    empty = [claim for claim in CLAIMS if claim.verdicts([])[0] == "not run"]
    measured = {weights.swiss_roll, weights.contours}
    assert page.count("Verdicts: the paper's **not run**") == len(set(empty) - measured)
    assert page.count("| met |") == 2  # R² rises, and above the never-trained network's


def test_a_line_a_claim_names_the_finding_that_decides(judged):
    summary = front.claims_table(judged).splitlines()
    assert len(summary) == 2 + len(CLAIMS)
    assert summary[3].endswith("| not run | — |  | 2, 6 |")
    cells = summary[2].split(" | ")
    assert cells[1:3] == ["holds in part", "control met"]
    assert cells[3].startswith("planted: R² above 0.9: 0.545 [")


def test_a_rule_that_was_changed_stands_beside_the_one_it_became():
    verdicts = dict.fromkeys(CLAIMS, "holds") | {weights.swiss_roll: "at last"}
    table = changed.changes_table(verdicts)
    lines = table.splitlines()[2:]
    assert len(lines) == len(changed.CHANGES)
    for change in changed.CHANGES:
        words = (change.rule, change.verdict, change.reason, change.now)
        assert f"| {number(change.claim)} | {' | '.join(words)} |" in table
    own = [line for line in lines if line.startswith("| 1 |")]
    assert own[-1].endswith("| at last |")  # and those before end with the verdict that came next
    ends = [line.split(" | ")[-1].removesuffix(" |") for line in own[:-1]]
    assert ends == [change.verdict for change in changed.CHANGES if number(change.claim) == 1][1:]


def test_numbers_of_findings_fit_the_tables():
    finding = Finding("data", "asked", "1 [0, 2]; beside", "met", 3, "control")
    page = claims.claims_table({weights.swiss_roll: {"1": [finding]}})
    assert "| 1 | control | data | asked | 1 [0, 2]; beside | 3 | met |" in page


def test_a_document_without_its_marker_is_refused():
    text = "a\n<!-- t -->\nold\n<!-- /t -->\n"
    assert claims.replace_between(text, "t", "new\n") == "a\n<!-- t -->\nnew\n<!-- /t -->\n"
    with pytest.raises(ValueError, match="no <!-- claims -->"):
        claims.replace_between("no marker here", "claims", "")
