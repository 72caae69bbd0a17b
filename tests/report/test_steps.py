"""The plan of a reproduction: what comes before what, what comes first, and the time left."""

import re

import pytest

from lab import cli
from report import steps
from report.recipes import RECIPES
from report.steps import COSTS, expected, in_words, plan, time_left


def command_line(recipe, script):
    return (script, *map(str, recipe.options.values()))


def make(figures=tuple(RECIPES), scale="quick", processes=2):
    return plan(figures, command_line, scale, processes)


@pytest.mark.parametrize("processes", [1, 2, 64])
@pytest.mark.parametrize("scale", ["quick", "paper"])
def test_all_that_the_figures_need_is_done_once(scale, processes):
    planned = make(scale=scale, processes=processes)
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
    assert ("bert_plot.ipynb", "bert_target_linearity.py") in before
    assert ("whitening_plot.ipynb", "whiten.py") in before
    assert ("whitening_plot.ipynb", "whiten_cnn.py") in before
    assert ("statements.ipynb", "vae_target_linearity.py") in before
    waiting = {first for first, _ in before if first.endswith(".py")}
    assert waiting == {"vae_target_linearity.py", "vae_ceiling.py", "bert_target_linearity.py"}


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


def finish(planned, processes, scale="quick"):
    """When each step ends, with so many processes, each taking the first that can be begun."""
    now, busy, ends = 0.0, {}, {}
    while len(ends) < len(planned):
        for i, step in enumerate(planned):
            if len(busy) < processes and i not in busy.keys() | ends and step.after <= ends.keys():
                busy[i] = now + expected(step.file, scale)
        i = min(busy, key=busy.get)
        now = ends[i] = busy.pop(i)
    return ends


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_figure_that_takes_least_is_drawn_first(processes):
    planned = make(processes=processes)
    ends = finish(planned, processes)
    first = min((i for i, step in enumerate(planned) if not step.words), key=ends.get)
    alone = {figure: max(finish(make((figure,)), 1).values()) for figure in RECIPES}
    assert min(alone, key=alone.get) in planned[first].figures
    assert ends[first] <= 30


def test_two_processes_end_together():
    planned = make()
    work = sum(expected(step.file, "quick") for step in planned)
    assert max(finish(planned, 2).values()) < 1.1 * work / 2


def test_one_process_begins_with_what_takes_least():
    planned = make(scale="paper", processes=1)
    scripts = [step for step in planned if step.words]
    assert scripts[-1].file == "whiten.py"
    assert "1" in scripts[0].figures


def test_costs_are_of_files_that_are_there():
    folders = {"py": cli.ROOT / "src" / "experiment", "ipynb": cli.ROOT / "notebook"}
    assert all((folders[name.rpartition(".")[2]] / name).is_file() for name in COSTS)
    scripts = {f"{name}.py" for recipe in RECIPES.values() for name in recipe.scripts}
    assert scripts <= COSTS.keys()


class TestTimeLeft:
    def test_before_anything_is_done_it_is_what_is_expected(self):
        planned = make()
        work = sum(expected(step.file, "quick") for step in planned)
        assert time_left(planned, {}, "quick", 2) == pytest.approx(work / 2)
        assert time_left(planned, {}, "quick", 1) == pytest.approx(work)

    @pytest.mark.parametrize("slow", [0.1, 1, 10])
    def test_a_machine_that_is_slower_needs_longer(self, slow):
        planned = make()
        costs = [expected(step.file, "quick") for step in planned]
        took = {i: slow * cost for i, cost in enumerate(costs[:-2])}
        ratio = time_left(planned, took, "quick", 1) / sum(costs[-2:])
        known = sum(costs[:-2]) / (steps.GUESS + sum(costs[:-2]))
        assert ratio == pytest.approx(known * slow + 1 - known)

    def test_the_last_step_is_not_shared(self):
        planned = make()
        took = dict.fromkeys(range(len(planned) - 1), 0.0)
        alone = time_left(planned, took, "quick", 1)
        assert alone == time_left(planned, took, "quick", 8) > 0

    def test_at_the_end_there_is_none(self):
        planned = make(("1",))
        assert time_left(planned, dict.fromkeys(range(len(planned)), 1.0), "quick", 2) == 0


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
