"""The program that makes every figure: what it says as it goes, and how notebooks are run."""

import re
import shutil
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest

import reproduce
from lab import cli, program, results
from report.recipes import RECIPES
from report.rules import CLAIMS
from report.verdicts import Finding
from reproduce import Config


@pytest.mark.parametrize(
    ("words", "processes"),
    [
        ({"scale": "quick", "jobs": 2}, 2),
        ({"scale": "quick", "jobs": 1}, 1),
        ({"scale": "paper", "jobs": 2}, 1),
        ({"scale": "quick", "jobs": 2, "figures": ("4",)}, 1),  # its script takes both cores
        ({"scale": "quick", "jobs": 64}, 1),
    ],
    ids=str,
)
def test_figures_are_made_side_by_side_where_every_core_has_one(words, processes):
    config = Config(device="cpu", **words)
    assert config.processes == processes
    line = reproduce.command_line(config, RECIPES["1"], "swissroll")
    jobs = 1 if processes > 1 else words["jobs"]
    assert f"--jobs {jobs} " in " ".join(line) + " "


def call(monkeypatch, folder: Path, does_well, *words: str) -> int:
    """The status of a quick reproduction whose steps are stood in for."""
    monkeypatch.setattr(reproduce, "do", lambda config, threads, step: (does_well(step), 1.0))
    words = ("--scale", "quick", "--jobs", "1", "--results", str(folder), *words)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    with pytest.raises(SystemExit) as stop:
        program.run(reproduce.main)
    return int(stop.value.code)


def test_it_says_where_it_is_and_where_the_pictures_are(monkeypatch, tmp_path, capsys):
    order, folder = [], tmp_path / "quick" / "figures"
    names = {f: RECIPES[f].picture or f"figure{f}" for f in RECIPES}

    def do(step):
        order.append(step)
        for figure in () if step.words else step.figures:
            if figure != "4":  # whose notebook draws nothing
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{names[figure]}.png").touch()
        return True

    assert call(monkeypatch, tmp_path, do) == 0
    for i, step in enumerate(order):
        if not step.words:
            needed = {name for f in step.figures for name in RECIPES[f].scripts}
            assert {f"{name}.py" for name in needed} <= {before.file for before in order[:i]}
    printed = capsys.readouterr().out
    states = [int(n) for n in re.findall(rf"; (\d+) of {len(RECIPES)} figures", printed)]
    assert states == sorted(states)
    assert states[-1] == len(RECIPES)
    drawn = re.findall(r"^figure (\w+): (.*)\.png$", printed, re.MULTILINE)
    assert dict(drawn) == {f: str(folder / name) for f, name in names.items() if f != "4"}
    assert "figure 4: its notebook has not drawn it\n" in printed
    assert printed.endswith(f"all figures: {tmp_path / 'quick' / 'index.html'}\n")
    assert (tmp_path / "quick" / "index.html").is_file()


def test_how_long_it_will_take_is_what_the_committed_results_took(tmp_path):
    steps = reproduce.plan(("1", "4"), lambda *_: ("some", "words"))
    seconds = reproduce.work(Config(results=tmp_path), steps)
    by_file = {step.file: each for step, each in zip(steps, seconds, strict=True)}
    every = (cli.ROOT / "results" / "paper" / "target_linearity").glob("*.npz")
    wanted = {"optimizer": "sgd", "learning_rate": 0.005}
    sgd = [r for r in map(results.read, every) if wanted.items() <= r.config.items()]
    assert by_file.pop("target_linearity.py") == sum(r.meta["seconds"] for r in sgd) > 0
    assert by_file.pop("swissroll.py") > 0
    assert not any(by_file.values())  # of notebooks nothing is known
    assert reproduce.about(seconds).startswith(", about ")
    assert not any(reproduce.work(Config(), steps))  # all are there
    assert sum(reproduce.work(Config(overwrite=True), steps)) == sum(seconds)
    assert reproduce.about([0.0, 0.0]) == ""


def test_a_figure_that_fails_is_told_and_the_others_are_made(monkeypatch, tmp_path, capsys):
    def does_well(step):
        return step.file not in ("swissroll.py", "figure04_09_target_linearity.ipynb")

    assert call(monkeypatch, tmp_path, does_well, "--figures", "1", "4", "8") == 1
    printed = capsys.readouterr().out
    verdicts = dict(re.findall(r"^(\d+) .*?(failed|not run)", printed, re.MULTILINE))
    assert verdicts == {"1": "failed", "4": "failed", "8": "not run"}
    assert "figure 4: failed" in printed


def test_what_was_there_before_a_failure_is_judged():
    claim = next(claim for claim in CLAIMS if claim.figures == ("8",))
    rows = [Finding("width 32", "falls", "1.0", "met")]
    judged = {c: {figure: rows if c is claim else [] for figure in c.figures} for c in CLAIMS}
    table = reproduce.table_rows(Config(figures=("8",)), judged, {"8": 1.0}, {"8"})
    said = {row[1]: row[2:5] for row in table}
    measured, *verdicts = said.pop(claim.text)
    assert measured.startswith("failed, see above. 1 met")
    assert verdicts == list(claim.verdicts(rows))
    assert all(row[1:] == ("failed", "failed") for row in said.values())


def test_a_damaged_result_of_another_figure_comes_after_the_table(monkeypatch, tmp_path, capsys):
    other = tmp_path / "quick" / "grokking" / "damaged.npz"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"damaged")
    assert call(monkeypatch, tmp_path, lambda _: True, "--figures", "1") == 2
    out, err = capsys.readouterr()
    assert re.search(r"^1 .*\n", out, re.MULTILINE), out
    assert re.fullmatch(rf"error: {re.escape(str(other))} is not a result .*\n", err)


class TestNotebooks:
    def write(self, folder, monkeypatch, *cells):
        monkeypatch.setattr(reproduce, "NOTEBOOKS", folder)
        notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)])
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# not code"))
        nbformat.write(notebook, folder / "own.ipynb")
        return reproduce.run_notebook("own", Config(scale="quick", results=Path("some")))

    def test_cells_share_their_names_and_leave_nothing(self, tmp_path, monkeypatch, capsys):
        here, width = Path.cwd(), plt.rcParams["lines.linewidth"]
        first = "import os\nimport matplotlib.pyplot as plt\nvalue = os.environ['RESULTS']\n"
        first += "def say():\n    return value + os.environ['SCALE']"
        second = "plt.rcParams['lines.linewidth'] = 77\nplt.figure()\nprint('shown in a notebook')"
        third = "from pathlib import Path\nPath('said').write_text(say())"
        assert self.write(tmp_path, monkeypatch, first, second, third)
        assert (tmp_path / "said").read_text() == f"{here / 'some'}quick"
        assert (Path.cwd(), plt.rcParams["lines.linewidth"]) == (here, width)
        assert plt.get_fignums() == []
        assert capsys.readouterr() == ("", "")

    def test_an_error_is_one_line(self, tmp_path, monkeypatch, capsys):
        assert not self.write(tmp_path, monkeypatch, "1 / 0", "open('said', 'x')")
        assert capsys.readouterr().err == "error: own.ipynb: ZeroDivisionError: division by zero\n"
        assert not (tmp_path / "said").exists()

    @pytest.mark.slow
    def test_without_a_kernel_they_draw_the_same_pictures(self, tmp_path, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the kernel
        pictures = []
        for run in (reproduce.run_notebook, reproduce.execute_notebook):
            folder = tmp_path / run.__name__
            name = Path("paper", "published_formulas")
            shutil.copytree(cli.ROOT / "results" / name, folder / name)
            assert run("formulas", Config(results=folder))
            drawn = sorted((folder / "paper" / "figures").iterdir())
            pictures.append({path.name: path.read_bytes() for path in drawn})
        assert pictures[0]
        assert pictures[0] == pictures[1]
