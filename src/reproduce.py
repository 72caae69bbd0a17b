"""Every figure from one command: runs the scripts, executes the notebooks, prints claim and verdict.

    python src/reproduce.py --scale quick
    python src/reproduce.py --figures 2 6

Results that are already there are not made again. Figures are written to results/SCALE/figures as PNG and PDF.
"""

import functools
import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import claims
import cli
import cpu
import results
from figures import RECIPES, Recipe

NOTEBOOKS = cli.ROOT / "notebook"


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Which figures to make, and where."""

    figures: tuple[str, ...] = tuple(RECIPES)
    """numbers of the paper's figures"""
    datasets: tuple[str, ...] = ()
    """data sets instead of each script's own"""

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, choices={"figures": tuple(RECIPES)}, empty=("datasets",))


def flags(config: Config, recipe: Recipe) -> list[str]:
    """The shared flags, as they are handed on to a figure's scripts."""
    given = ["--scale", config.scale, "--data", str(config.data), "--results", str(config.results)]
    given += ["--device", config.device, "--jobs", str(config.jobs)]
    given += ["--overwrite"] if config.overwrite else []
    given += recipe.quick if config.scale == "quick" else ()
    return given + (["--datasets", *config.datasets] if config.datasets and recipe.datasets else [])


def execute_notebook(name: str, config: Config) -> bool:
    """Execute a notebook on the results; at paper scale on the repository's results it is saved executed."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "SCALE": config.scale, "RESULTS": str(config.results.absolute())}
    client = NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(NOTEBOOKS)}})
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        print(f"error: {path.name}: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        return False
    if config.scale == "paper" and config.results.resolve() == (cli.ROOT / "results").resolve():
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of day: the same results give the same file
        nbformat.write(notebook, path)
    return True


def rows(config: Config, seconds: dict[str, float], failed: set[str]) -> list[tuple[str, str, str, str, str]]:
    """The table: figure, claim, measured, verdict, seconds."""
    table = []
    for figure in config.figures:
        for claim in claims.CLAIMS:
            if figure in claim.figures:
                findings = claims.measured(claim, config.results, config.scale, (figure,))[figure]
                judged = "failed" if figure in failed else claims.verdict(findings)
                numbers = "; ".join(f"{f.where}: {f.number}" for f in findings)
                table.append((figure, claim.text, numbers, judged, f"{seconds[figure]:.0f}"))
    return table


def print_table(table: list[tuple[str, ...]]) -> None:
    """Columns of fixed width, their text wrapped."""
    widths = (8, 30, 60, 13, 7)
    for row in [("figure", "claim", "measured", "verdict", "seconds"), *table]:
        cells = [textwrap.wrap(text, width) or [""] for text, width in zip(row, widths, strict=True)]
        for i in range(max(map(len, cells))):
            line = "  ".join((cell[i] if i < len(cell) else "").ljust(w) for cell, w in zip(cells, widths, strict=True))
            print(line.rstrip())
        print("-" * (sum(widths) + 8))


def main() -> None:
    config = cli.parse(Config, {}, description=__doc__)
    results.check_writable(config.results)
    seconds: dict[str, float] = {}
    failed: set[str] = set()
    ended: dict[tuple[str, ...], bool] = {}  # whether a command ended well; two figures may share one
    for figure in config.figures:
        start = time.perf_counter()
        recipe = RECIPES[figure]
        for script, *options in recipe.scripts:
            path = str(cli.ROOT / "src" / "experiment" / f"{script}.py")
            command = (sys.executable, path, *options, *flags(config, recipe))
            if command not in ended:
                print(f"figure {figure}: {script}.py {' '.join(options)}".rstrip(), flush=True)
                ended[command] = subprocess.run(command).returncode == 0
            if not ended[command]:
                failed.add(figure)
        seconds[figure] = time.perf_counter() - start
    names = list(dict.fromkeys(RECIPES[figure].notebook for figure in config.figures))
    print(f"notebooks: {', '.join(names)}", flush=True)
    with ThreadPoolExecutor(config.jobs or cpu.available_cores()) as pool:
        executed = dict(zip(names, pool.map(functools.partial(execute_notebook, config=config), names), strict=True))
    failed.update(figure for figure in config.figures if not executed[RECIPES[figure].notebook])
    print_table(rows(config, seconds, failed))
    print(f"figures: {config.results / config.scale / 'figures'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    cli.run(main)
