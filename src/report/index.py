"""The page that shows all figures and claims of a folder of results: results/SCALE/index.html.

A static file, made by index.html.j2, that reads no other but the figures beside it. The same
results give the same page.
"""

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lab import cli, files
from report.captions import caption, shows, title
from report.front import sentences, tally
from report.lookup import divergences, flags
from report.recipes import RECIPES, took
from report.rules import number
from report.verdicts import ASPECTS, Claim, Finding, Judged, counts, decided_by, flat

CLAIMS_PAGE = "results/CLAIMS.md"
# of a line of its table of claims: number and the paper's verdict
COMMITTED = re.compile(r"^\| (\d+): [^|]* \| ([^|]*) \|", re.MULTILINE)


def write(root: Path, scale: str, judged: Judged) -> Path:
    """Write the page, whole or not at all; returns its path."""
    path, text = root / scale / "index.html", page(root, scale, judged)
    files.write_whole(path, lambda file: file.write(text.encode()))
    return path


def page(root: Path, scale: str, judged: Judged) -> str:
    """The page's text.

    Args:
        root: folder of the results.
        scale: "paper" or "quick".
        judged: every claim's findings.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = root / scale
    every = [p for p in folder.glob("figures/*") if p.suffix in (".png", ".gif")]
    every.sort(key=lambda path: (path.stem, path.suffix == ".gif"))
    pictures = {figure: [p for p in every if shows(p, figure)] for figure in RECIPES}
    shown = [path for paths in pictures.values() for path in paths]
    committed = {} if scale == "paper" else committed_verdicts()
    return environment.get_template("index.html.j2").render(
        scale=scale,
        option="" if scale == "paper" else " --scale quick",
        tally=tally,
        sentences=sentences,
        recipes=RECIPES,
        judged=judged,
        pictures=pictures,
        further=[path for path in every if path not in shown],
        title=title,
        caption=caption,
        flags=flags,
        there=lambda file: (folder / file).exists(),
        made=lambda script: [path.name for path in sorted(folder.glob(f"{script}/*.npz"))],
        took=functools.partial(took, root, scale),
        divergences=functools.partial(divergences, root, scale),
        verdicts=lambda claim, findings: verdicts(claim, findings, committed),
        number=number,
        counts=counts,
        decided_by=decided_by,
        flat=flat,
        claims_page=CLAIMS_PAGE,
        to=functools.partial(link, folder),
    )


def committed_verdicts() -> dict[int, str]:
    """Number of a claim -> the paper's verdict at paper scale, as CLAIMS.md has it."""
    path = cli.ROOT / CLAIMS_PAGE
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return {int(digits): said for digits, said in COMMITTED.findall(text)}


def verdicts(
    claim: Claim, findings: Sequence[Finding], committed: dict[int, str]
) -> dict[str, str]:
    """Whose -> verdict; beside those of another scale the committed ones, where there are any."""
    papers, ours = claim.verdicts(findings)
    if not committed:
        return {"the paper's": papers, "ours": ours}
    # at quick scale no sentence is judged as the paper's, but a theorem is
    is_theorem = not {finding.part for finding in findings}.isdisjoint(ASPECTS)
    said = (papers if is_theorem else ours) if findings else "not run"
    return {"quick scale": said, "paper scale": committed[number(claim)]}


def link(folder: Path, file: str) -> str:
    """From the page to a file of the repository; empty where the results lie elsewhere."""
    if not folder.resolve().is_relative_to(cli.ROOT) or not (cli.ROOT / file).exists():
        return ""
    return Path(os.path.relpath(cli.ROOT / file, folder.resolve())).as_posix()
