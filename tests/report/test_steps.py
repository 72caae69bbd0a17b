"""The plan of a reproduction: what comes before what, and what comes first."""

import re

import pytest

from lab import cli
from report.recipes import RECIPES
from report.steps import in_words, plan


def command_line(recipe, script):
    return (script, *map(str, recipe.options.values()))


def make(figures=tuple(RECIPES)):
    return plan(figures, command_line)


def test_all_that_the_figures_need_is_done_once():
    planned = make()
    for figure, recipe in RECIPES.items():
        files = [step.file for step in planned if figure in step.figures]
        assert sorted(files) == sorted(
            [*(f"{name}.py" for name in recipe.scripts), f"{recipe.notebook}.ipynb"]
        )
    assert len({(step.file, step.words) for step in planned}) == len(planned)
    assert sum(step.file == "target_linearity.py" for step in planned) == 2  # SGD and Adam


def test_a_step_comes_after_those_whose_results_it_reads():
    planned = make()
    before = {(step.file, planned[i].file) for step in planned for i in step.after}
    assert ("vae_target_linearity.py", "vae_train.py") in before
    assert ("figure11_bert.ipynb", "bert_target_linearity.py") in before
    assert ("figure02_06_whitening.ipynb", "whiten.py") in before
    assert ("figure02_06_whitening.ipynb", "whiten_cnn.py") in before
    assert ("statements.ipynb", "vae_target_linearity.py") in before
    waiting = {first for first, _ in before if first.endswith(".py")}
    chained = {"vae_target_linearity.py", "vae_ceiling.py", "bert_target_linearity.py"}
    assert waiting == chained | {"covariance_learning.py", "parametrisation.py"}


@pytest.mark.parametrize("figure", RECIPES)
def test_a_notebook_reads_no_results_but_those_it_waits_for(figure):
    recipe = RECIPES[figure]
    text = (cli.ROOT / "notebook" / f"{recipe.notebook}.ipynb").read_text("utf-8")
    imports = re.findall(r"from experiment import ([\w, ]+)", text)
    read = {name for line in imports for name in line.split(", ")}
    drawn = [other for other in RECIPES.values() if other.notebook == recipe.notebook]
    assert read
    assert read <= {name for other in drawn for name in (*other.scripts, *other.reads)}


@pytest.mark.parametrize("figures", [("4",), ("1",), ("2", "6"), ("10", "5")])
def test_it_is_as_long_as_the_figures_that_are_asked_for(figures):
    planned = make(figures)
    assert {figure for step in planned for figure in step.figures} == set(figures)


def test_notebooks_come_first_then_scripts_that_read_others():
    planned = make()
    kinds = ["ipynb" in step.file for step in planned]
    assert kinds == sorted(kinds, reverse=True)
    scripts = [step.file for step in planned if step.words]
    chained = {"vae_train.py", "vae_target_linearity.py", "vae_ceiling.py"}
    chained |= {"bert_train.py", "bert_target_linearity.py"}
    chained |= {"theories.py", "covariance_learning.py", "parametrisation.py"}
    assert set(scripts[:8]) == chained
    assert scripts.index("bert_train.py") < scripts.index("bert_target_linearity.py")


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (0, "10 s"),
        (34, "30 s"),
        (89, "90 s"),
        (150, "2 min"),
        (5000, "83 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_times_in_words(time, words):
    assert in_words(time) == words
