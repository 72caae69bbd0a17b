"""What every notebook has: its settings, an equation, what was found, and little code."""

import re
import shutil
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pytest
from matplotlib.figure import Figure

from experiment import published_formulas
from lab import cli
from lab.errors import ConfigError
from planted_results import plant
from report import notebook
from report.notebook import Notebook, findings
from report.recipes import RECIPES
from report.rules import CLAIMS

mpl.use("agg")

FOLDER = cli.ROOT / "notebook"
OWN = "your_model"  # a notebook that draws no figure of the paper
DRAWING = sorted({recipe.notebook for recipe in RECIPES.values()})
MOST = 60  # lines of code
LINK = re.compile(r"\.\./results/CLAIMS\.md#claim-(\d+)")


def read(name, folder=FOLDER):
    return nbformat.read(folder / f"{name}.ipynb", as_version=4).cells


def code_lines(cells):
    """Lines that hold something."""
    code = (cell.source for cell in cells if cell.cell_type == "code")
    return [line for source in code for line in source.splitlines() if line.strip()]


def markdown(cells):
    """What its cells say, and what its code shows as text."""
    shown = (output for cell in cells for output in cell.get("outputs", ()))
    said = [cell.source for cell in cells if cell.cell_type == "markdown"]
    return said + [o.data["text/markdown"] for o in shown if "text/markdown" in o.get("data", {})]


def lacking(cells):
    """What a notebook must have and this one has not."""
    kinds, text = [cell.cell_type for cell in cells[:3]], "\n".join(markdown(cells))
    settings = cells[1].source if len(cells) > 1 else ""
    has = {
        "title": cells[0].source.startswith("# "),
        "settings": kinds == ["markdown", "code", "markdown"]
        and ("Notebook(scale=" in settings or "REPOSITORY = " in settings),
        "equation": "$$" in cells[2].source,
        "what to see": "**What to see.**" in cells[2].source,
        "link to a claim": LINK.search(text),
        "few lines of code": len(code_lines(cells)) <= MOST,
    }
    return [name for name, is_there in has.items() if not is_there]


@pytest.mark.parametrize("name", [*DRAWING, OWN])
def test_a_notebook_begins_with_settings_and_explains_itself(name):
    assert lacking(read(name)) == []


def test_what_is_lacking_is_named():
    cells = read("gram")
    assert lacking([cells[0], *cells[2:]]) == ["settings", "equation", "what to see"]
    cells[2].source = cells[2].source.replace("$$", "$")
    assert lacking(cells) == ["equation"]
    cells[3].source += "\nvalue = 1" * (MOST + 1)
    assert lacking(cells) == ["equation", "few lines of code"]
    cells[3].outputs = []
    assert lacking(cells) == ["equation", "link to a claim", "few lines of code"]


def test_notebooks_are_those_of_the_figures_and_named_by_them():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted([*DRAWING, OWN])
    for name in DRAWING:
        figures = [figure for figure, recipe in RECIPES.items() if recipe.notebook == name]
        if figures[0].isdecimal():
            numbers = "_".join(f"{int(figure):02}" for figure in figures)
            assert name.startswith(f"figure{numbers}_")
        else:
            assert [name] == figures


@pytest.mark.slow
def test_what_was_found_is_what_the_results_say_and_every_claim_is_told():
    told = set()
    for name in DRAWING:
        for text in markdown(read(name)):
            if numbers := [int(number) for number in LINK.findall(text)]:
                assert text == findings(cli.ROOT / "results", "paper", numbers), name
                told |= set(numbers)
    assert told == set(range(1, len(CLAIMS) + 1))


def test_links_to_claims_lead_to_them():
    page = (cli.ROOT / "results" / "CLAIMS.md").read_text("utf-8")
    for i, claim in enumerate(CLAIMS, 1):
        assert f'<a id="claim-{i}"></a>\n\n## Claim {i}: {claim.text}\n' in page


SETTINGS = {"scale": "paper", "results": cli.ROOT / "results", "datasets": (), "save": False}


def again(folder):
    return Notebook(**SETTINGS | {"results": folder})


def an_empty_figure(runs, scale):
    return plt.figure(figsize=(1, 1))


class TestSettings:
    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch):
        for name in ("SCALE", "RESULTS", "SAVE"):
            monkeypatch.delenv(name, raising=False)
        yield
        plt.close("all")

    @pytest.fixture
    def here(self, tmp_path):
        for label in ("a", "cifar10_jpeg"):
            plant(tmp_path, published_formulas, label, {"epoch": [0]}, data=label)
        return Notebook(**SETTINGS | {"results": tmp_path})

    def test_a_picture_is_shown_and_not_written_unless_asked(self, here, tmp_path, monkeypatch):
        shown = []
        monkeypatch.setattr(notebook, "display", lambda *given, **said: shown.append((given, said)))
        here.draw("some", an_empty_figure, here.runs(published_formulas))
        (((figure,), said),) = shown
        assert isinstance(figure, Figure)
        assert said == {"metadata": {"picture": "some"}}
        assert plt.get_fignums() == []
        assert not here.path("some").parent.exists()
        monkeypatch.setenv("SAVE", "1")
        for asked in (Notebook(**SETTINGS | {"results": tmp_path, "save": True}), again(tmp_path)):
            asked.draw("some", an_empty_figure, [])
            assert not here.path("some").with_suffix(".png").exists()
            asked.draw("some", an_empty_figure, [1])
            names = sorted(path.name for path in here.path("some").parent.iterdir())
            assert names == ["some.pdf", "some.png"]
            (((picture,), said),) = shown[1:]
            assert picture.data == here.path("some").with_suffix(".png").read_bytes()
            assert said == {"metadata": {"picture": "some"}}
            del shown[1:]
            shutil.rmtree(here.path("some").parent)

    def test_results_are_in_the_papers_order_of_data_or_those_that_are_asked_for(self, here):
        assert [run.label for run in here.runs(published_formulas)] == ["cifar10_jpeg", "a"]
        here.datasets = ("a",)
        assert [run.label for run in here.runs(published_formulas)] == ["a"]

    def test_what_is_missing_is_said_with_a_command_at_the_same_scale(self, tmp_path, capsys):
        here = Notebook(**SETTINGS | {"results": tmp_path, "scale": "quick"})
        assert here.find(published_formulas) == here.runs(published_formulas) == []
        command = "python src/experiment/published_formulas.py --scale quick"
        assert capsys.readouterr().out == f"no results at quick scale: {command}\n"

    def test_the_environment_counts_first(self, monkeypatch, tmp_path):
        monkeypatch.setenv("SCALE", "quick")
        monkeypatch.setenv("RESULTS", str(tmp_path))
        here = Notebook(**SETTINGS)
        assert (here.scale, here.results, here.save) == ("quick", tmp_path, False)
        monkeypatch.setenv("SCALE", "slow")
        with pytest.raises(ConfigError, match="scale must be paper or quick, not 'slow'"):
            Notebook(**SETTINGS)

    @pytest.mark.parametrize("save", [False, True])
    def test_a_slider_has_pictures_for_those_without_a_kernel(self, save, monkeypatch):
        shown = []
        handle = SimpleNamespace(update=shown.append)

        def function(value):
            figure = plt.figure()
            figure.value = value
            return figure

        def display(*objects, display_id=False):
            shown.extend(objects)
            return handle if display_id else None

        monkeypatch.setattr(notebook, "display", display)
        Notebook(**SETTINGS | {"save": save}).slider(function, [1, 2, 3], shown=[2, 3])
        first, second = shown
        assert first.value == 2
        if save:
            assert second.value == 3
        else:
            second.value = 1  # moved
            assert shown[2].value == 1
        assert plt.get_fignums() == []
