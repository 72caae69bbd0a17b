"""What has to be done for some figures, what comes before what, and how long it took before."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from lab.errors import UserError
from report.recipes import RECIPES, Recipe, seconds

Key = tuple[str, ...]  # of a step: its file and its words


@dataclass(frozen=True)
class Step:
    """A script to run, or a notebook."""

    file: str
    words: tuple[str, ...]  # a script's command line; none: a notebook
    figures: tuple[str, ...]  # that need it
    after: frozenset[int]  # positions of the steps that must be done before


def plan(
    figures: Sequence[str], command_line: Callable[[Recipe, str], tuple[str, ...]]
) -> list[Step]:
    """Every script once, after those whose results it reads; every notebook after its scripts.

    Of those that can be begun the first is to be: notebooks, so that there is soon something to
    see, then scripts that read other scripts' results or are read, which end last if begun late.

    Args:
        figures: keys of RECIPES.
        command_line: of a recipe's script.
    """
    before: dict[Key, set[Key]] = {}
    needed: dict[Key, list[str]] = {}
    for figure in figures:
        recipe, last = RECIPES[figure], set[Key]()
        scripts = [(f"{name}.py", *command_line(recipe, name)) for name in recipe.scripts]
        for key in (*scripts, (f"{recipe.notebook}.ipynb",)):
            before.setdefault(key, set()).update(last)
            needed.setdefault(key, []).append(figure)
            last = {key}
    for recipe in map(RECIPES.get, figures):
        others = {f"{name}.py" for name in recipe.reads}
        before[(f"{recipe.notebook}.ipynb",)] |= {key for key in before if key[0] in others}
    chains = set().union(*({key, *b} for key, b in before.items() if len(key) > 1 and b))
    order = list(TopologicalSorter(before).static_order())
    order.sort(key=lambda key: (len(key) > 1, key not in chains))
    return [
        Step(key[0], key[1:], tuple(needed[key]), frozenset(map(order.index, before[key])))
        for key in order
    ]


def expected(step: Step, root: Path, scale: str) -> float:
    """Seconds that a script's results in a folder took; zero where there are none."""
    with suppress(UserError):  # where one cannot be read
        recipe, name = RECIPES[step.figures[0]], Path(step.file).stem
        return sum(seconds(name, root, scale, recipe).values()) if step.words else 0.0
    return 0.0


def in_words(time: float) -> str:
    """Seconds as "40 s", "3 min", "2 h 10 min"."""
    minutes = round(time / 60)
    if minutes < 2:
        return f"{max(10, 10 * round(time / 10))} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
