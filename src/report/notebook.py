"""What a notebook of this repository begins with: where results are, and what is done with them."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure

from lab.errors import ConfigError
from lab.results import Result
from report import plot
from report.lookup import explain_missing, lookup
from report.rules import CLAIMS
from report.verdicts import decided_by, flat

PAGE = "../results/CLAIMS.md"


class Notebook:
    """A notebook's settings; src/reproduce.py says its own by the environment, which counts first.

    Attributes:
        scale: "paper" or "quick".
        results: folder of the results.
        datasets: names of those that are drawn; none: all that there are results of.
        save: whether pictures are written into results/SCALE/figures, and not only shown.
    """

    def __init__(
        self, *, scale: str, results: str | Path, datasets: Sequence[str], save: bool
    ) -> None:
        self.scale = os.environ.get("SCALE", scale)
        self.results = Path(os.environ.get("RESULTS", results))
        self.datasets, self.save = datasets, save or "SAVE" in os.environ
        if self.scale not in ("paper", "quick"):
            raise ConfigError(f"scale must be paper or quick, not {self.scale!r}")
        plot.use_style()

    def find(self, script: ModuleType, without: Sequence[str] = (), **changes: Any) -> list[Result]:
        """Results of a script of src/experiment, as `report.lookup.lookup` finds them."""
        runs = lookup(script, self.results, self.scale, without, **changes)
        shown = [run for run in runs if not self.datasets or run.label in self.datasets]
        return plot.in_order(shown)

    def runs(self, script: ModuleType, without: Sequence[str] = (), **changes: Any) -> list[Result]:
        """The same; where there are none it is said how to make them."""
        runs = self.find(script, without, **changes)
        if not runs:
            print(explain_missing(script, self.results, self.scale, **changes))
        return runs

    def found(self, *numbers: int) -> None:
        """Show what claims amount to, each with the finding that decides it: CLAIMS.md in short."""
        display(Markdown(findings(self.results, self.scale, numbers)))

    def draw(
        self,
        name: str,
        function: Callable[..., Figure | None],
        runs: Sequence[Result],
        /,
        **options: Any,
    ) -> None:
        """Show a figure of results, if there are any; asked to save, write and show NAME.png."""
        figure = function(runs, self.scale, **options) if runs else None
        if figure is None:
            return
        shown: Any = figure
        if self.save:
            plot.save(figure, self.path(name))
            width = round(100 * figure.get_figwidth())  # of pixels, as on other screens
            shown = Image(filename=self.path(name).with_suffix(".png"), width=width)
        display(shown, metadata={"picture": name})
        plt.close(figure)

    def path(self, name: str) -> Path:
        """Of a picture, without its suffix."""
        return self.results / self.scale / "figures" / name

    def slider(
        self, function: Callable[[Any], Figure | None], values: Iterable[Any], shown: Iterable[Any]
    ) -> None:
        """A picture that a slider changes; without a kernel, and where pictures are saved, some.

        Args:
            function: draws one.
            values: that the slider takes.
            shown: those that are drawn without one; the slider begins with the first.
        """

        def closed(value: Any) -> Any:  # and so not shown again at the end of the cell
            figure = function(value)
            plt.close(figure)
            return figure

        first, *others = shown
        handle = display(closed(first), display_id=True)
        if handle is None or self.save:
            display(*map(closed, others))
            return
        from ipywidgets import SelectionSlider

        slider = SelectionSlider(options=list(values), value=first, continuous_update=False)
        slider.observe(lambda change: handle.update(closed(change["new"])), "value")
        display(slider)


def findings(root: Path, scale: str, numbers: Sequence[int]) -> str:
    """Markdown: a line a claim, with its number, verdicts and the finding that decides it."""
    lines = [
        f"**What was found** at {scale} scale:",
        "",
    ]
    for number in numbers:
        claim = CLAIMS[number - 1]
        found = flat(claim.findings(root, scale))
        papers, ours = claim.verdicts(found)
        lines.append(
            f"- [Claim {number}]({PAGE}#claim-{number}), {claim.source}: {claim.title}. "
            f"The paper's: **{papers}**; ours: **{ours}**."
            + (f" Decided by: {decided_by(found)}." if found else "")
        )
    return "\n".join(lines)
