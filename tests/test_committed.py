"""Committed pictures and notebooks are what the code draws from the committed results."""

import base64
import io

import nbformat
import numpy as np
import pytest
from IPython.core.pylabtools import print_figure
from matplotlib import image
from matplotlib.figure import Figure

import reproduce
from report import notebook, plot
from report.recipes import RECIPES
from reproduction import ROOT

FIGURES = ROOT / "results" / "paper" / "figures"
NOTEBOOKS = sorted({recipe.notebook for recipe in RECIPES.values()})
# other versions of the libraries set a letter a little differently; other colours, or another
# number, change more
PIXELS = 0.01  # share that may differ
LEVEL = 0.1  # of one, by which a channel differs where it does


def differing(first, second):
    """Share of pixels in which two PNG files differ; 1 where their sizes do."""
    a, b = (image.imread(file, format="png")[..., :3] for file in (first, second))
    return float((abs(a - b).max(-1) > LEVEL).mean()) if a.shape == b.shape else 1.0


def committed(name):
    return nbformat.read(ROOT / "notebook" / f"{name}.ipynb", as_version=4)


def held(notebook):
    """The pictures that a notebook holds, in order: name, or None, and bytes."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    contents = (base64.b64decode(picture["data"]["image/png"]) for picture in pictures)
    return list(zip((p["metadata"].get("picture") for p in pictures), contents, strict=True))


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


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_holds_the_pictures_as_they_were_written(name):
    for picture, content in held(committed(name)):
        if picture is not None:
            assert (FIGURES / f"{picture}.png").read_bytes() == content, picture


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_pictures_are_what_the_code_draws_now(name, tmp_path, monkeypatch):
    config, sliders = reproduce.Config(), []

    def save(figure, path):
        figure.savefig(tmp_path / f"{path.name}.png")

    def display(*objects, **_):
        for figure in objects:
            if isinstance(figure, Figure):
                sliders.append(print_figure(figure))

    def save_animation(animation, *_, **__):
        animation._draw_was_started = True  # else its end warns

    monkeypatch.setattr(plot, "save", save)
    monkeypatch.setattr(plot, "save_animation", save_animation)
    monkeypatch.setattr(notebook, "display", display)
    for variable in reproduce.environment(config):
        monkeypatch.setenv(variable, "")
    assert reproduce.run_notebook(name, config)
    pictures = held(committed(name))
    names = sorted(path.stem for path in tmp_path.iterdir())
    assert names == sorted(picture for picture, _ in pictures if picture)
    shares = {n: differing(FIGURES / f"{n}.png", tmp_path / f"{n}.png") for n in names}
    moved = [content for picture, content in pictures if not picture]
    for i, pair in enumerate(zip(moved, sliders, strict=True)):
        shares[f"slider {i}"] = differing(*map(io.BytesIO, pair))
    stale = {where: share for where, share in shares.items() if share > PIXELS}
    assert not stale, f"run python src/reproduce.py: {stale}"


def test_every_committed_picture_is_drawn_by_a_notebook():
    names = {path.stem for path in FIGURES.glob("*.png")}
    pictures = tuple(RECIPES[figure].picture or f"figure{figure}" for figure in RECIPES)
    assert [name for name in sorted(names) if not name.startswith((*pictures, "whitening"))] == []
