"""Executed notebooks as pages: pictures by reference, links that lead somewhere, nothing lost."""

import re

import nbformat
import pytest
from nbformat import v4

from lab import cli
from report import rendered
from report.captions import caption
from report.recipes import RECIPES

DOT = "iVBORw0KGgo="  # of a PNG, its first bytes
RESULTS = cli.ROOT / "results" / "paper"
NOTEBOOKS = sorted({recipe.notebook for recipe in RECIPES.values()})


def notebook(*names):
    """Of one cell that shows a picture of each name."""
    outputs = [
        v4.new_output(
            "display_data", {"image/png": DOT}, metadata={"picture": name} if name else {}
        )
        for name in names
    ]
    text = v4.new_markdown_cell("# A < B\n\n[one](../results/CLAIMS.md#claim-1), $a_1 * b_1$")
    return v4.new_notebook(cells=[text, v4.new_code_cell("draw()", outputs=outputs)])


def test_pictures_that_lie_in_the_folder_are_shown_from_there_and_others_are_kept(tmp_path):
    folder = tmp_path / "paper"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "figure4.png").touch()
    given = notebook("figure4", "figure5", None)
    before = nbformat.writes(given)
    rendered.write(folder, "some", given)
    text = (folder / "notebook" / "some.html").read_text("utf-8")
    assert nbformat.writes(given) == before
    images = re.findall(r"<img [^>]*>", text)
    assert len(images) == 3
    assert 'src="../figures/figure4.png"' in images[0]
    alt = caption(folder / "figures" / "figure4.png")
    assert f'alt="{alt}"' in images[0]
    assert all(DOT in image for image in images[1:])
    assert "<title>A &lt; B</title>" in text
    assert "$a_1 * b_1$" in text  # an equation, and not Markdown's emphasis


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_committed_page_is_of_the_committed_notebook(name):
    folder = RESULTS / "notebook"
    text = (folder / f"{name}.html").read_text("utf-8")
    committed = nbformat.read(cli.ROOT / "notebook" / f"{name}.ipynb", as_version=4)
    now = rendered.page(RESULTS, committed)
    words = [re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page)) for page in (text, now)]
    assert words[0] == words[1], f"run python src/reproduce.py, which executes {name}.ipynb"
    files = re.findall(r'(?:href|src)="(\.\.[^"#]*)', text)
    assert [file for file in files if not (folder / file).exists()] == []
    outputs = [output for cell in committed.cells for output in cell.get("outputs", ())]
    named = [out for out in outputs if "picture" in out.get("metadata", {})]
    assert text.count('src="../figures/') == len(named)
