"""The paper's claims against the committed results: the rule, the number, the verdict.

    python src/claims.py            # write results/CLAIMS.md and the tables of README.md
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
from report.differences import differences_table
from report.lookup import divergences
from report.quoted import numbers_table
from report.recipes import RECIPES, figures_table
from report.rules import CLAIMS, number
from report.rules.changed import changes_table
from report.speed.tables import speed_section
from report.verdicts import Claim, Finding, decided_by, our_verdict, papers_verdict

ROOT = Path(__file__).resolve().parents[1]
HEADING = """\
# The paper's claims, measured

Written by src/claims.py from the results of this folder.

A claim is a sentence that the paper states, in other words. Its rule asks for findings, each a
number on one side of a threshold. A number over seeds has the 95 % interval of Student's t, of
paired differences where two runs share their seeds. A finding is *met* where the whole interval is
on the right side, *not met* where all of it is on the wrong one, else *not decided*; one seed
decides nothing. Seeds are few: with three, an interval is 2.2 times as wide as if the spread were
known; it may pass the end of a bounded scale, and three equal values give one without length. That
two methods match is asked by one-sided tests at 5 % (the 90 % interval, marked so). Numbers without
seeds are counts, or extremes of every measurement. Of several numbers, as of every layer, the one
that decides stands first.

A claim *holds* where every finding is met, *holds in part* where some are met and some are not,
*does not hold* where some are not met and none is, and is *not decided by this data* where none is
not met but some are not decided or not measured. All findings of a claim must be met, so nothing is
corrected for their number; a single finding that is not met, among many, may be chance. A *control*
is there to shut another explanation out: not met, it keeps a claim from holding; met, it shows no
part of it.

"""
CHANGED = """\
## Rules changed after a result was seen

Rules of claims 12 to 16 were written with their results at hand, and describe them as much as they
test. Before those of claims 11 and 17 to 26 were written, trials on digits and on two epochs of
MNIST had been seen; that claims 22 and 23 ask first whether the network interpolates, or has
collapsed, was added after such trials. The rules of claims 1 to 10 were written first, applied, and
then changed:

"""
DIVERGED = """\
## Replicas that diverged

They are nan from the epoch on, and so is every number over seeds that counts them.
"""
Findings = dict[str, list[Finding]]  # of a claim, by figure


@dataclass(frozen=True)
class Config:
    check: bool = False  # change nothing; fail where a document is out of date


def judge(root: Path, scale: str) -> dict[Claim, Findings]:
    """Every claim's findings."""
    return {claim: claim.findings(root, scale) for claim in CLAIMS}


def flat(findings: Findings) -> list[Finding]:
    return [finding for rows in findings.values() for finding in rows]


def claims_table(judged: Mapping[Claim, Findings]) -> str:
    """Markdown: each claim with its rule, verdict and control, and a line a finding."""
    lines = []
    for claim, findings in judged.items():
        lines += [f"## Claim {number(claim)}: {claim.text}", "", f"Paper: {claim.source}.", ""]
        lines += [f"Rule: {claim.rule}.", "", f"Ours: {claim.ours}.", ""]
        verdicts = papers_verdict(flat(findings)), our_verdict(flat(findings))
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


def claims_summary(judged: Mapping[Claim, Findings]) -> str:
    """Markdown: a line a claim, with both verdicts and the finding that decides the paper's."""
    lines = ["| claim | the paper's | ours | decided by | figure |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for claim, findings in judged.items():
        cells = (
            f"{number(claim)}: {claim.text}",
            papers_verdict(flat(findings)),
            our_verdict(flat(findings)),
            decided_by(flat(findings)),
            ", ".join(claim.figures),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def replace_between(text: str, marker: str, content: str) -> str:
    """`text` with what stands between <!-- marker --> and <!-- /marker --> replaced."""
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no <!-- {marker} --> … <!-- /{marker} --> in the text")
    return pattern.sub(lambda match: match[1] + content + match[2], text)


def documents(root: Path) -> dict[Path, str]:
    """Path -> content of every document that is made from the results."""
    judged = judge(root, "paper")
    changes = changes_table({claim: papers_verdict(flat(rows)) for claim, rows in judged.items()})
    tables = {
        "claims": claims_summary(judged),
        "numbers": numbers_table(root, "paper"),
        "figures": figures_table(root, "paper"),
        "differences": differences_table(root, "paper"),
        "speed": speed_section(root),
    }
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for marker, content in tables.items():
        readme = replace_between(readme, marker, content)
    claims = HEADING + claims_table(judged) + "\n" + CHANGED + changes
    scripts = dict.fromkeys(script for recipe in RECIPES.values() for script in recipe.scripts)
    if diverged := divergences(root, "paper", scripts):
        claims += "\n".join(["", DIVERGED, *(f"- {line}" for line in diverged), ""])
    return {root / "CLAIMS.md": claims, ROOT / "README.md": readme}


def main() -> None:
    check = cli.parse(Config, {}, __doc__).check
    stale = False
    for path, text in documents(ROOT / "results").items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale = True
            print(f"{'out of date' if check else 'wrote'}: {path.relative_to(ROOT)}")
            if not check:
                files.write_whole(path, lambda file, text=text: file.write(text.encode()))
    sys.exit(stale and check)


if __name__ == "__main__":
    program.run(main)
