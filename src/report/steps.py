"""What has to be done for some figures, in which order, and how long it will take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from report.recipes import RECIPES, Recipe

# file -> seconds of one core at quick scale, minutes of two cores at paper scale
COSTS = {
    "swissroll.py": (3, 1),
    "whiten.py": (26, 435),
    "staircase.py": (16, 28),
    "target_linearity.py": (3, 43),
    "vae_train.py": (15, 250),
    "vae_target_linearity.py": (5, 20),
    "vae_ceiling.py": (1, 2),
    "whiten_cnn.py": (29, 44),
    "virtual_covariance.py": (5, 42),
    "bert_train.py": (44, 150),
    "bert_target_linearity.py": (18, 40),
    "random_label.py": (16, 246),
    "grokking.py": (36, 71),
    "gram_parts.py": (8, 20),
    "gram_virtual_covariance.py": (21, 38),
    "neural_collapse.py": (7, 46),
    "statements.py": (10, 12),
    "weight_decay.py": (10, 5),
    "published_formulas.py": (1, 6),
    "swissroll.ipynb": (10, 0.5),
}
NOTEBOOK = (2, 0.3)  # of all other notebooks
Key = tuple[str, ...]  # of a step: its file and its words
GUESS = 30  # seconds of measured time that the costs above are worth


@dataclass(frozen=True)
class Step:
    """A script to run, or a notebook."""

    file: str
    words: tuple[str, ...]  # a script's command line; none: a notebook
    figures: tuple[str, ...]  # that need it
    after: frozenset[int]  # positions of the steps that must be done before


def plan(
    figures: Sequence[str],
    command_line: Callable[[Recipe, str], tuple[str, ...]],
    scale: str,
    processes: int,
) -> list[Step]:
    """Every script once, after those whose results it reads; every notebook after its scripts.

    In the order in which those that can be begun should be. The figure that takes least comes
    first, so that there is soon something to see. Then notebooks; then scripts, for one process
    those that take least, for several those with most to do after them, so that all end together.

    Args:
        figures: keys of RECIPES.
        command_line: of a recipe's script.
        scale: "paper" or "quick".
        processes: that do the steps.
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

    def path(key: Key) -> float:
        """Seconds of the longest way from a step to the end."""
        return expected(key[0], scale) + max(
            (path(k) for k in before if key in before[k]), default=0
        )

    def whole(key: Key) -> set[Key]:
        return {key}.union(*map(whole, before[key]))

    notebooks = [key for key in before if len(key) == 1]
    first = min(
        (whole(key) for key in notebooks), key=lambda keys: sum(expected(k[0], scale) for k in keys)
    )
    sign = 1 if processes == 1 else -1
    order = sorted(before, key=lambda k: (k not in first, len(k) > 1, sign * path(k)))
    return [
        Step(file, tuple(words), tuple(needed[key]), frozenset(map(order.index, before[key])))
        for key in order
        for file, *words in (key,)
    ]


def expected(file: str, scale: str) -> float:
    """Seconds that a script or a notebook takes."""
    quick, paper = COSTS.get(file, NOTEBOOK)
    return quick if scale == "quick" else 60 * paper


def time_left(
    steps: Sequence[Step], took: Mapping[int, float], scale: str, processes: int
) -> float:
    """Seconds until all is done, from how this machine compares so far with what is expected.

    Args:
        steps: all.
        took: position of each that is done -> its seconds.
        scale: "paper" or "quick".
        processes: that do the steps.
    """
    costs = [expected(step.file, scale) for step in steps]
    left = [cost for i, cost in enumerate(costs) if i not in took]
    ratio = (GUESS + sum(took.values())) / (GUESS + sum(costs[i] for i in took))
    return ratio * max(sum(left) / processes, max(left, default=0))


def in_words(time: float) -> str:
    """Seconds as "40 s", "3 min", "2 h 10 min"."""
    minutes = round(time / 60)
    if minutes < 2:
        return f"{max(10, 10 * round(time / 10))} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
