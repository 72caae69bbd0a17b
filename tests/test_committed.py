"""Committed pictures and notebooks are what the code draws from the committed results."""

import base64
import io
import shutil

import nbformat
import numpy as np
import pytest
from matplotlib import image

import reproduce
from report.recipes import RECIPES, took
from reproduction import ROOT

RESULTS = ROOT / "results"
NOTEBOOKS = sorted({recipe.notebook for recipe in RECIPES.values()})
# other versions of the libraries set a letter a little differently; other colours, or another
# number, change more
PIXELS = 0.01  # share that may differ
LEVEL = 0.1  # of one, by which a channel differs where it does


def differing(first, second):
    """Share of pixels in which two PNG files differ; 1 where their sizes do."""
    a, b = (image.imread(file, format="png")[..., :3] for file in (first, second))
    return float((abs(a - b).max(-1) > LEVEL).mean()) if a.shape == b.shape else 1.0


def drawn(notebook):
    """The pictures that a notebook holds, in order."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    pictures = (output.get("data", {}).get("image/png") for output in outputs)
    return [io.BytesIO(base64.b64decode(picture)) for picture in pictures if picture]


def test_a_picture_in_other_colours_is_another(tmp_path):
    curve = np.ones((100, 100, 3))
    curve[50, :] = (0, 0, 1)
    image.imsave(tmp_path / "a.png", curve)
    shade = np.clip(curve + 0.05, 0, 1)
    image.imsave(tmp_path / "b.png", shade)
    curve[40:50, 40:60] = (1, 0, 0)
    image.imsave(tmp_path / "c.png", curve)
    names = [str(tmp_path / f"{name}.png") for name in "abc"]
    assert differing(names[0], names[1]) <= PIXELS < differing(names[0], names[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_pictures_and_notebook_are_up_to_date(name, tmp_path):
    shutil.copytree(RESULTS / "paper", tmp_path / "paper", ignore=shutil.ignore_patterns("figures"))
    committed = nbformat.read(ROOT / "notebook" / f"{name}.ipynb", as_version=4)
    now = reproduce.executed(name, reproduce.Config(results=tmp_path))
    recipes = [recipe for recipe in RECIPES.values() if recipe.notebook == name]
    is_made = any(took(RESULTS, "paper", recipe) != "not run here" for recipe in recipes)
    assert len(drawn(committed)) == len(drawn(now))
    assert bool(drawn(now)) == is_made
    pairs = zip(drawn(committed), drawn(now), strict=True)
    shares = {f"picture {i} of {name}.ipynb": differing(*pair) for i, pair in enumerate(pairs)}
    for path in sorted((tmp_path / "paper" / "figures").glob("*.png")):
        shares[path.name] = differing(RESULTS / "paper" / "figures" / path.name, path)
    stale = {where: share for where, share in shares.items() if share > PIXELS}
    assert not stale, f"run python src/reproduce.py: {stale}"


def test_every_committed_picture_is_drawn_by_a_notebook():
    names = {path.stem for path in (RESULTS / "paper" / "figures").glob("*.png")}
    pictures = tuple(RECIPES[figure].picture or f"figure{figure}" for figure in RECIPES)
    assert [name for name in sorted(names) if not name.startswith((*pictures, "whitening"))] == []
