"""Every figure from one command: runs scripts, executes notebooks, prints claims and verdicts.

    python src/reproduce.py --scale quick
    python src/reproduce.py --figures 2 6

Results that are already there are not made again. Figures are written to results/SCALE/figures, as
PNG and PDF.
"""

from lab import program

program.begin(__name__)

import dataclasses
import functools
import os
import sys
import textwrap
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lab import cli, cpu, files, runs
from report.lookup import divergences, experiment
from report.recipes import RECIPES, Recipe, flags
from report.rules import CLAIMS
from report.verdicts import counts, decided_by, verdict

NOTEBOOKS = cli.ROOT / "notebook"
INTERRUPTED = 130  # exit status


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Which figures to make, and where."""

    figures: tuple[str, ...] = tuple(RECIPES)  # numbers of the paper's figures, and names of ours
    datasets: tuple[str, ...] = ()  # data sets instead of each script's own

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, choices={"figures": tuple(RECIPES)}, empty=("datasets",))
        cli.check_datasets(self.datasets)


def command_line(config: Config, recipe: Recipe, script: str) -> tuple[str, ...]:
    """The words that a figure's script is called with."""
    words = ["--scale", config.scale, "--data", str(config.data), "--results", str(config.results)]
    words += ["--device", config.device, *flags(recipe.settings(config.scale))]
    words += ["--jobs", str(config.jobs)] if config.jobs else []
    words += ["--overwrite"] if config.overwrite else []
    fields = {field.name for field in dataclasses.fields(experiment(script).Config)}
    if config.datasets and "datasets" in fields:
        words += ["--datasets", *config.datasets]
    return (str(cli.ROOT / "src" / "experiment" / f"{script}.py"), *words)


def run_script(script: str, words: tuple[str, ...]) -> bool:
    """Call a script's main here, for its workers to serve the next; whether it ended well."""
    before, sys.argv = sys.argv, list(words)
    try:
        # committed results have no checkpoints, and those who measured them are there too
        with runs.without_repairs():
            cli.run(experiment(script).main)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            raise
        return not stop.code
    except Exception:
        traceback.print_exc()
        return False
    finally:
        sys.argv = before
    return True


def execute_notebook(name: str, config: Config) -> bool:
    """Execute a notebook; at paper scale, on the repository's results, it is saved executed."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    folder = str(config.results.absolute())
    environment = {**os.environ, "SCALE": config.scale, "RESULTS": folder}
    resources = {"metadata": {"path": str(NOTEBOOKS)}}
    client = NotebookClient(notebook, timeout=3600, resources=resources)
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        print(f"error: {path.name}: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        return False
    if config.scale == "paper" and config.results.resolve() == (cli.ROOT / "results").resolve():
        for cell in notebook.cells:
            # times of day: the same results give the same file
            cell.metadata.pop("execution", None)
        text = nbformat.writes(notebook) + "\n"
        files.write_whole(path, lambda file: file.write(text.encode()))
    return True


def table_rows(
    config: Config, seconds: dict[str, float], failed: set[str]
) -> list[tuple[str, str, str, str, str]]:
    """Figure, claim, findings in short, verdict, seconds of each claim."""
    rows = []
    for figure in config.figures:
        diverged = divergences(config.results, config.scale, RECIPES[figure].scripts)
        claims = [claim for claim in CLAIMS if figure in claim.figures]
        for claim in claims:
            findings = claim.findings(config.results, config.scale, (figure,))[figure]
            judged = "failed" if figure in failed else verdict(findings)
            measured = f"{counts(findings)}. {decided_by(findings)}"
            measured = ". ".join([measured, *diverged])
            rows.append((figure, claim.text, measured, judged, f"{seconds[figure]:.0f}"))
        if not claims:
            state = "failed" if figure in failed else "no claim"
            rows.append((figure, RECIPES[figure].title, "", state, f"{seconds[figure]:.0f}"))
    return rows


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Columns of fixed width, their text wrapped."""
    widths = (10, 30, 60, 13, 7)
    for row in [("figure", "claim", "measured", "verdict", "seconds"), *rows]:
        cells = [
            textwrap.wrap(text, width) or [""] for text, width in zip(row, widths, strict=True)
        ]
        for i in range(max(map(len, cells))):
            parts = (cell[i] if i < len(cell) else "" for cell in cells)
            print("  ".join(map(str.ljust, parts, widths)).rstrip())
        print("-" * (sum(widths) + 8))


def main() -> None:
    config = cli.parse(Config, {}, __doc__)
    files.check_writable(config.results / config.scale / "figures")
    seconds: dict[str, float] = {}
    failed: set[str] = set()
    ended: dict[
        tuple[str, ...], bool
    ] = {}  # whether a script ended well; two figures may share one
    for figure in config.figures:
        start = time.perf_counter()
        recipe = RECIPES[figure]
        for script in recipe.scripts:
            words = command_line(config, recipe, script)
            if words not in ended:
                shown = " ".join((f"{script}.py", *flags(recipe.options)))
                print(f"figure {figure}: {shown}", flush=True)
                ended[words] = run_script(script, words)
            if not ended[words]:
                failed.add(figure)
        seconds[figure] = time.perf_counter() - start
    names = list(dict.fromkeys(RECIPES[figure].notebook for figure in config.figures))
    print(f"notebooks: {', '.join(names)}", flush=True)
    execute = functools.partial(execute_notebook, config=config)
    with ThreadPoolExecutor(config.jobs or cpu.available_cores()) as pool:
        executed = dict(zip(names, pool.map(execute, names), strict=True))
    failed.update(f for f in config.figures if not executed[RECIPES[f].notebook])
    print_table(table_rows(config, seconds, failed))
    print(f"figures: {config.results / config.scale / 'figures'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    cli.run(main)
