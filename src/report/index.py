"""The page that shows all figures and claims of a folder of results: results/SCALE/index.html.

A static file that reads no other but the figures beside it. The same results give the same page.
"""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from lab import cli, files
from report.lookup import divergences
from report.recipes import RECIPES, Recipe, flags, picture, took
from report.rules import number
from report.verdicts import Claim, Finding, Judged, counts, decided_by, flat

NOTEBOOKS = cli.ROOT / "notebook"
STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto }
body { padding: 0 1rem 4rem }
h1 { line-height: 1.2; font-size: 1.6rem } h2 { margin-top: 3rem; font-size: 1.2rem }
table { border-collapse: collapse; width: 100% } caption { text-align: left; padding: .5rem 0 }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0 }
tr { border-bottom: 1px solid var(--line) } code { overflow-wrap: anywhere; font-size: .85em }
figure { margin: 1rem 0 } figcaption { font-size: .85rem }
img { max-width: 100%; height: auto; background: #fff }
.verdict { border-left: .3rem solid #888; padding-left: .4rem; white-space: nowrap }
.holds { border-color: #2a2 } .part { border-color: #d90 } .fails { border-color: #c33 }
@media (max-width: 45rem) {
  thead { display: none } tr, td, tbody { display: block }
  tr { padding: .6rem 0 } td { padding: .1rem 0; overflow-wrap: anywhere }
  td[data-name]::before { content: attr(data-name) ": "; opacity: .7 }
}
"""
KINDS = {"holds": "holds", "holds in part": "part", "does not hold": "fails"}  # of a verdict's mark


def write(root: Path, scale: str, judged: Judged) -> Path:
    """Write the page, whole or not at all; returns its path."""
    path = root / scale / "index.html"
    files.write_whole(path, lambda file: file.write(page(root, scale, judged).encode()))
    return path


def page(root: Path, scale: str, judged: Judged) -> str:
    """The page's text.

    Args:
        root: folder of the results.
        scale: "paper" or "quick".
        judged: every claim's findings.
    """
    title = f"The weight Gram matrix: every figure and claim at {scale} scale"
    lines = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>",
        '<p>A reproduction of <a href="https://arxiv.org/abs/2605.06258">arXiv 2605.06258</a>, '
        "written by <code>src/reproduce.py</code> from the results of this folder. "
        '<a href="#claims">The claims</a> stand below the figures.</p>',
        *_figures_table(root, scale, judged),
    ]
    for figure, recipe in RECIPES.items():
        lines += _section(root, scale, figure, recipe, judged)
    shown = {path for figure in RECIPES for path in _pictures(root, scale, figure)}
    further = [path for path in _all_pictures(root, scale) if path not in shown]
    if further:
        lines += ["<h2>Further pictures</h2>", *(_picture(path, path.stem) for path in further)]
    lines += [*_claims_table(judged), "</body>\n</html>\n"]
    return "\n".join(lines)


def _figures_table(root: Path, scale: str, judged: Judged) -> Iterator[str]:
    rows = []
    for figure, recipe in RECIPES.items():
        pictures = [path for path in _pictures(root, scale, figure) if path.suffix == ".png"]
        links = [f'<a href="{_link(p)}">{escape(p.name)}</a>' for p in pictures[:1]]
        verdicts = [
            _mark(claim.verdicts(findings)[0], f"{number(claim)}: ")
            for claim, findings in _claims(judged, figure)
        ]
        name = f'<a href="#figure-{figure}">{escape(_title(figure, recipe))}</a>'
        notebook = _notebook(root, recipe)
        cells = (notebook, name, *(links or ["not made yet"]), took(root, scale, recipe))
        rows.append((*cells, "".join(verdicts) or "no claim"))
    caption = "Which notebook draws what, and what claims say of it by its own results alone"
    yield from _table(caption, ("notebook", "figure", "picture", "took", "claims"), rows)


def _claims_table(judged: Judged) -> Iterator[str]:
    rows = []
    for claim, by_figure in judged.items():
        findings = flat(by_figure)
        links = (f'<a href="#figure-{figure}">{figure}</a>' for figure in claim.figures)
        text = f"{number(claim)}: {escape(claim.text)}"
        verdicts = map(_mark, claim.verdicts(findings))
        rows.append((text, *verdicts, escape(decided_by(findings)), ", ".join(links)))
    yield '<h2 id="claims">The claims</h2>'
    caption = (
        "The paper's: on its own sentence, data and rows; ours: on everything else. Decided by: a "
        "finding that is not met, or not decided, where there is one"
    )
    names = ("claim", "the paper's", "ours", "decided by", "figures")
    yield from _table(caption, names, rows)


def _table(caption: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table of cells that are HTML."""
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    yield f"<table>\n<caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>"
    for row in rows:
        pairs = zip(names, row, strict=True)
        cells = (f'<td data-name="{name}">{cell}</td>' for name, cell in pairs)
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody>\n</table>"


def _section(root: Path, scale: str, figure: str, recipe: Recipe, judged: Judged) -> Iterator[str]:
    """A figure: what it should show, its commands, its pictures, and what claims say of it."""
    title = _title(figure, recipe)
    yield f'<h2 id="figure-{figure}">{escape(title)}</h2>'
    yield f"<p>What you should see: {escape(recipe.see)}.</p>"
    words = " ".join(["", *flags(recipe.options), *(["--scale quick"] * (scale == "quick"))])
    for script in recipe.scripts:
        yield f"<p><code>python src/experiment/{script}.py{escape(words)}</code></p>"
    pictures = _pictures(root, scale, figure)
    for i, path in enumerate(pictures):
        yield _picture(path, f"{title}: {recipe.see}" if i == 0 else f"{title}: {path.stem}")
    if not pictures:
        yield "<p>Not made yet.</p>"
    for claim, findings in _claims(judged, figure):
        yield f"<p>Claim {number(claim)}: {escape(claim.text)}.</p>"
        papers, ours = claim.verdicts(findings)
        yield _mark(papers, "the paper's: ") + _mark(ours, "ours: ")
        yield f"<p>{escape(counts(findings))}. {escape(decided_by(findings))}</p>"
    for line in divergences(root, scale, recipe.scripts):
        yield f"<p>{escape(line)}</p>"


def _claims(judged: Judged, figure: str) -> list[tuple[Claim, Sequence[Finding]]]:
    return [(claim, rows[figure]) for claim, rows in judged.items() if figure in rows]


def _mark(said: str, before: str = "") -> str:
    """A verdict with a coloured edge."""
    return f'<div class="verdict {KINDS.get(said, "")}">{before}{said}</div>'


def _title(figure: str, recipe: Recipe) -> str:
    return f"Figure {figure}: {recipe.title}" if figure.isdecimal() else recipe.title


def _notebook(root: Path, recipe: Recipe) -> str:
    """A notebook's name, a link where the results lie in the repository."""
    name = f"{recipe.notebook}.ipynb"
    if root.resolve() != (cli.ROOT / "results").resolve():
        return name
    return f'<a href="../../{NOTEBOOKS.name}/{name}">{name}</a>'


def _all_pictures(root: Path, scale: str) -> list[Path]:
    folder = root / scale / "figures"
    return sorted(path for path in folder.glob("*") if path.suffix in (".png", ".gif"))


def _pictures(root: Path, scale: str, figure: str) -> list[Path]:
    """A figure's pictures, its own first, then its supplements."""
    name = picture(figure)
    every = _all_pictures(root, scale)
    own = [p for p in every if p.stem == name or p.stem.startswith(f"{name}_")]
    return sorted(own, key=lambda path: (path.stem != name, path.suffix != ".png", path.stem))


def _picture(path: Path, alt: str) -> str:
    image = f'<img src="{_link(path)}" alt="{escape(alt)}" loading="lazy">'
    return f"<figure>\n{image}\n<figcaption>{escape(path.name)}</figcaption>\n</figure>"


def _link(path: Path) -> str:
    return f"figures/{escape(path.name)}"
