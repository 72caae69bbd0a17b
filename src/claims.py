"""The paper's claims against the committed results: the rule, the number, the verdict.

    python src/claims.py            # write results/CLAIMS.md and the tables of README.md
    python src/claims.py --check    # fail where they differ from the results

The rules stand in report/rules.py.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from report.differences import differences_table
from report.quoted import numbers_table
from report.recipes import figures_table
from report.rules import CLAIMS, Finding, verdict

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Config:
    check: bool = False  # change nothing; fail where a document is out of date


def claims_table(root: Path, scale: str) -> str:
    """Markdown: claim, verdict, and a line for each measurement."""
    lines = []
    for claim in CLAIMS:
        findings = claim.findings(root, scale)
        judged = verdict([finding for rows in findings.values() for finding in rows])
        is_paper = claim.figures[0].isdigit()
        kind = "experiment" if not is_paper else "figures" if len(claim.figures) > 1 else "figure"
        where = f"{kind} {', '.join(claim.figures)}"
        lines += [f"**Claim {claim.number}** ({where}): {claim.text}.", ""]
        lines += [f"Rule: {claim.rule}. Verdict: **{judged}**.", ""]
        rows = [
            f"| {figure} | {f.where} | {f.number} | {'yes' if f.met else 'no'} |"
            for figure, found in findings.items()
            for f in found
        ]
        if rows:
            header = ["| figure | data | measured | rule met |", "| --- | --- | --- | --- |"]
            lines += [*header, *rows, ""]
    return "\n".join(lines).strip() + "\n"


def claims_summary(root: Path, scale: str) -> str:
    """Markdown: a line a claim, with its verdict and the finding that decides it."""
    lines = ["| claim | verdict | decided by | figure |", "| --- | --- | --- | --- |"]
    for claim in CLAIMS:
        every = [f for rows in claim.findings(root, scale).values() for f in rows]
        # where the rule is not met everywhere, a place where it is not
        deciding = min(every, key=lambda finding: finding.met, default=None)
        number = _in_short(deciding) if deciding else ""
        cells = (f"{claim.number}: {claim.text}", verdict(every), number, ", ".join(claim.figures))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _in_short(finding: Finding) -> str:
    """A finding without what stands beside its number."""
    return f"{finding.where}: {finding.short or finding.number.partition(';')[0]}"


def replace_between(text: str, marker: str, content: str) -> str:
    """`text` with what stands between <!-- marker --> and <!-- /marker --> replaced."""
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no <!-- {marker} --> … <!-- /{marker} --> in the text")
    return pattern.sub(lambda match: match[1] + content + match[2], text)


def documents(root: Path) -> dict[Path, str]:
    """Path -> content of every document that is made from the results."""
    table = claims_table(root, "paper")
    heading = (
        "# The paper's claims, measured\n\nWritten by src/claims.py from the results of this "
        "folder.\n\n"
    )
    tables = {
        "claims": claims_summary(root, "paper"),
        "numbers": numbers_table(root, "paper"),
        "figures": figures_table(root, "paper"),
        "differences": differences_table(root, "paper"),
    }
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for marker, content in tables.items():
        readme = replace_between(readme, marker, content)
    return {root / "CLAIMS.md": heading + table, ROOT / "README.md": readme}


def main() -> None:
    check = tyro.cli(Config, description=__doc__).check
    stale = False
    for path, text in documents(ROOT / "results").items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale = True
            print(f"{'out of date' if check else 'wrote'}: {path.relative_to(ROOT)}")
            if not check:
                path.write_text(text, encoding="utf-8")
    sys.exit(stale and check)


if __name__ == "__main__":
    main()
