"""The paper's claims against the committed results: the rule, the number, the verdict.

    python src/claims.py            # write results/CLAIMS.md, the page, and tables of other pages
    python src/claims.py --check    # fail where they differ from the results

The rules stand in report/rules, how verdicts are reached in report/verdicts.py.
"""

from lab import files, program

program.begin(__name__, "stopped")

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import cli
from report import front, index
from report.differences import differences_table
from report.front import front_page
from report.lookup import divergences
from report.quoted import numbers_table, quoted_rows
from report.recipes import RECIPES, figures_table
from report.rules import CLAIMS, number
from report.rules.changed import changes_table
from report.sentences import sentences_table
from report.speed.tables import speed_section
from report.verdicts import Claim, Finding, flat

ROOT = Path(__file__).resolve().parents[1]
HEADING = """\
# The paper's claims, measured

Written by src/claims.py from the results of this folder.

"""
SENTENCES = """\

## Where each statement and sentence of the paper is judged

"""
NUMBERS = """\
## The paper's numbers beside ours

A quoted number stands for all that round to it: ours is the same where it lies within half a unit
of its last digit, plus the spread. Spreads are ± 2 standard deviations over seeds, and no test;
brackets are the interval by which the claim's rule decides.

"""
METHOD = """\

## How verdicts are reached

A claim is a sentence that the paper states, in other words, a theorem of its, or a finding of ours.
It has two verdicts. *The paper's* is on its own sentence, its data and rows, in the mildest reading
that can still fail. *Ours* is on everything else: other data, held-out rows, other optimizers. A
*control* is an explanation that is shut out or is not; it decides neither. Of a theorem, lemma or
proposition the paper's verdict has three words: *true* (the inequality or identity, as stated),
*tight* (by how much it is missed), *useful* (whether it says anything at real values); where a
premise fails it is *not applicable*. CIFAR-10 is a JPEG copy of the paper's, which counts as it.
Results of another model or other data are *not comparable*.

A rule asks for findings, each a number on one side of a threshold. A number over seeds has the 95 %
interval of Student's t, of paired differences where two runs share their seeds. A finding is *met*
where the whole interval is on the right side, *not met* where all of it is on the wrong one, else
*not decided*; one seed decides nothing. Seeds are few: with three, an interval is 2.2 times as wide
as if the spread were known; it may pass the end of a bounded scale, and three equal values give one
without length. That two methods match is asked by one-sided tests at 5 % (the 90 % interval, marked
so). Numbers without seeds are counts, or extremes of every measurement. Of several numbers, as of
every layer, the one that decides stands first.

Findings together *hold* where every one is met, *in part* where some are met and some are not, and
*do not hold* where some are not met and none is; *not decided by this data* where none is not met
but some are not decided or not measured. All must be met, so nothing is corrected for their number;
a single finding that is not met, among many, may be chance.

"""
CHANGED = """\
## Rules changed after a result was seen

Rules of claims 12 to 16 were written with their results at hand, and describe them as much as they
test. Before those of claims 11 and 17 to 26 were written, trials on digits and on two epochs of
MNIST had been seen. Those of claims 1 to 10 were written first. Then every rule was held against
the paper's own sentence, and verdicts were split in two, with the results of earlier rules at hand:

"""
DIVERGED = """\
## Replicas that diverged

They are nan from the epoch on, and so is every number over seeds that counts them. Claims of the
figure "statements" are about networks that are there, and leave them out: this was changed when
seed 28 of squared ReLU on MNIST had diverged, and nan counted as a violation in ten claims.
"""
Findings = dict[str, list[Finding]]  # of a claim, by figure


@dataclass(frozen=True)
class Config:
    check: bool = False  # change nothing; fail where a document is out of date


def judge(root: Path, scale: str) -> dict[Claim, Findings]:
    """Every claim's findings."""
    return {claim: claim.findings(root, scale) for claim in CLAIMS}


def claims_table(judged: Mapping[Claim, Findings]) -> str:
    """Markdown: each claim with its rule, verdict and control, and a line a finding."""
    lines = []
    for claim, findings in judged.items():
        lines += [f'<a id="claim-{number(claim)}"></a>', ""]  # notebooks link to it
        lines += [f"## Claim {number(claim)}: {claim.text}", "", f"Paper: {claim.source}.", ""]
        lines += [f"Rule: {claim.rule}.", "", f"Ours: {claim.ours}.", ""]
        verdicts = claim.verdicts(flat(findings))
        lines += ["Verdicts: the paper's **{}**; ours **{}**.".format(*verdicts), ""]
        rows = [
            f"| {figure} | {f.part} | {f.where} | {f.asked} | {f.number} | {f.seeds or ''} | "
            f"{f.outcome} |"
            for figure, rows in findings.items()
            for f in rows
        ]
        if rows:
            header = "| figure | whose | data | asked | measured | seeds | |"
            lines += [header, "| --- | --- | --- | --- | --- | --- | --- |", *rows, ""]
    return "\n".join(lines).strip() + "\n"


def replace_between(text: str, marker: str, content: str) -> str:
    """`text` with what stands between <!-- marker --> and <!-- /marker --> replaced."""
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no <!-- {marker} --> … <!-- /{marker} --> in the text")
    return pattern.sub(lambda match: match[1] + content + match[2], text)


def documents(root: Path) -> dict[Path, str]:
    """Path -> content of every document that is made from the results."""
    judged, rows = judge(root, "paper"), quoted_rows(root, "paper")
    papers = {claim: claim.verdicts(flat(by_figure))[0] for claim, by_figure in judged.items()}
    claims = HEADING + front_page(rows, judged) + NUMBERS + numbers_table(rows)
    claims += SENTENCES + sentences_table(papers) + METHOD + claims_table(judged)
    claims += "\n" + CHANGED + changes_table(papers)
    scripts = dict.fromkeys(script for recipe in RECIPES.values() for script in recipe.scripts)
    if diverged := divergences(root, "paper", scripts):
        claims += "\n".join(["", DIVERGED, *(f"- {line}" for line in diverged), ""])
    parts = {
        ROOT / "README.md": {
            "holds": front.summary(judged),
            "figures": figures_table(root, "paper"),
            "claims": front.titles_table(judged),
        },
        ROOT / "docs" / "differences.md": {"differences": differences_table(root, "paper")},
        root / "benchmark" / "README.md": {"speed": speed_section(root)},
    }
    made = {root / "CLAIMS.md": claims}
    made[root / "paper" / "index.html"] = index.page(root, "paper", judged)
    for path, tables in parts.items():
        made[path] = path.read_text(encoding="utf-8")
        for marker, content in tables.items():
            made[path] = replace_between(made[path], marker, content)
    return made


def main() -> None:
    check = cli.parse(Config, {}, __doc__).check
    stale = False
    for path, text in documents(ROOT / "results").items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale = True
            state = "out of date, run python src/claims.py" if check else "wrote"
            print(f"{state}: {path.relative_to(ROOT)}")
            if not check:
                files.write_whole(path, lambda file, text=text: file.write(text.encode()))
    sys.exit(stale and check)


if __name__ == "__main__":
    program.run(main)
