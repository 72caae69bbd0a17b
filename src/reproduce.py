"""Every figure from one command: runs scripts, executes notebooks, prints claims and verdicts.

    python src/reproduce.py --scale quick
    python src/reproduce.py --figures 2 6

Results that are already there are not made again. Figures are written to results/SCALE/figures, as
PNG and PDF.
"""

from lab import program

program.begin(__name__)

import contextlib
import dataclasses
import functools
import io
import json
import os
import sys
import textwrap
import time
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import torch

from lab import cli, context, cpu, files, workers
from lab.errors import ConfigError
from report import index, rendered
from report.lookup import divergences, experiment, flags
from report.recipes import RECIPES, Recipe, picture
from report.rules import CLAIMS
from report.steps import Step, expected, in_words, plan
from report.verdicts import counts, decided_by

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
        if self.cluster == "print":
            raise ConfigError("cluster print is for the scripts of src/experiment, one by one")

    @property
    def processes(self) -> int:
        """That do scripts and notebooks side by side, each with one core.

        One where a script had better take all that there is: at paper scale, on a GPU, and where
        there are more cores than figures. Scripts that wait for a cluster's jobs wait together.
        """
        if self.cluster != "none":
            return cpu.available_cores()
        cores = self.jobs or cpu.available_cores()
        on_cpu = self.resolved_device == "cpu"
        return cores if self.scale == "quick" and on_cpu and cores <= len(self.figures) else 1


def command_line(config: Config, recipe: Recipe, script: str) -> tuple[str, ...]:
    """The words that a figure's script is called with."""
    words = ["--scale", config.scale, "--data", str(config.data), "--results", str(config.results)]
    words += ["--device", config.device, *flags(recipe.settings(config.scale))]
    jobs = config.jobs if config.processes == 1 or config.cluster != "none" else 1
    words += ["--jobs", str(jobs)] if jobs else []
    words += ["--overwrite"] if config.overwrite else []
    words += ["--cluster", config.cluster] if config.cluster != "none" else []
    words += ["--cluster-options", *config.cluster_options] if config.cluster_options else []
    words += ["--mixed-processors"] if config.mixed_processors else []
    fields = {field.name for field in dataclasses.fields(experiment(script).Config)}
    if config.datasets and "datasets" in fields:
        words += ["--datasets", *config.datasets]
    return (str(cli.ROOT / "src" / "experiment" / f"{script}.py"), *words)


def run_script(name: str, words: tuple[str, ...]) -> bool:
    """Call a script's main here; whether it ended well."""
    before, sys.argv = sys.argv, list(words)
    torch.set_flush_denormal(False)  # as where it is called by itself
    try:
        # committed results have no checkpoints, and those who measured them are there too
        with context.within(repairs=False):
            cli.run(experiment(name).main)
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


def environment(config: Config) -> dict[str, str]:
    """What a notebook is told: where the results are, and that its pictures are to be saved."""
    return {"SCALE": config.scale, "RESULTS": str(config.results.absolute()), "SAVE": "1"}


def run_notebook(name: str, config: Config) -> bool:
    """Run the code of a notebook here, without a kernel; whether it ended well."""
    matplotlib.use("agg")
    path = NOTEBOOKS / f"{name}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    os.environ |= environment(config)
    try:
        with contextlib.chdir(NOTEBOOKS), plt.rc_context(), redirect_stdout(io.StringIO()):
            exec(compile("\n".join(code), path.name, "exec"), {"__name__": "__main__"})
    except Exception as error:
        print(f"error: {path.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    finally:
        plt.close("all")
    return True


def executed(name: str, config: Config) -> Any:
    """A notebook as nbformat has it, executed in a kernel of its own.

    Raises:
        CellExecutionError: a cell raised.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOKS)}}
    client = NotebookClient(notebook, timeout=3600, resources=resources)
    client.execute(env=os.environ | environment(config))
    for cell in notebook.cells:
        # times of day: the same results give the same file
        cell.metadata.pop("execution", None)
    return notebook


def execute_notebook(name: str, config: Config) -> bool:
    """Execute a notebook; at paper scale, on the repository's results, it is saved executed."""
    import nbformat
    from nbclient.exceptions import CellExecutionError

    path = NOTEBOOKS / f"{name}.ipynb"
    try:
        notebook = executed(name, config)
    except CellExecutionError as error:
        print(f"error: {path.name}: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        return False
    if config.scale == "paper" and config.results.resolve() == (cli.ROOT / "results").resolve():
        text = nbformat.writes(notebook) + "\n"
        files.write_whole(path, lambda file: file.write(text.encode()))
        rendered.write(config.results / config.scale, name, notebook)
    return True


def table_rows(
    config: Config, judged: index.Judged, seconds: Mapping[str, float], failed: Collection[str]
) -> list[tuple[str, ...]]:
    """Figure, claim, findings in short, the paper's verdict and ours, seconds of each claim."""
    rows: list[tuple[str, ...]] = []
    for figure in config.figures:
        diverged = divergences(config.results, config.scale, RECIPES[figure].scripts)
        claims = [claim for claim in CLAIMS if figure in claim.figures]
        for claim in claims:
            findings = judged[claim][figure]
            verdicts = claim.verdicts(findings)
            measured = f"{counts(findings)}. {decided_by(findings)}"
            if figure in failed:  # what was there before is judged even so
                is_measured = any(f.outcome != "not measured" for f in findings)
                verdicts = verdicts if is_measured else ("failed", "failed")
                measured = f"failed, see above. {measured}"
            measured = ". ".join([measured, *diverged])
            rows.append((figure, claim.text, measured, *verdicts, f"{seconds[figure]:.0f}"))
        if not claims:
            states = ("failed" if figure in failed else "no claim", "")
            rows.append((figure, RECIPES[figure].title, "", *states, f"{seconds[figure]:.0f}"))
    return rows


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Columns of fixed width, their text wrapped."""
    widths = (10, 30, 50, 14, 14, 7)
    for row in [("figure", "claim", "measured", "the paper's", "ours", "seconds"), *rows]:
        cells = [
            textwrap.wrap(text, width) or [""] for text, width in zip(row, widths, strict=True)
        ]
        for i in range(max(map(len, cells))):
            parts = (cell[i] if i < len(cell) else "" for cell in cells)
            print("  ".join(map(str.ljust, parts, widths)).rstrip())
        print("-" * (sum(widths) + 2 * len(widths) - 2))


def shown(step: Step) -> str:
    """A step in words."""
    return " ".join((step.file, *flags(RECIPES[step.figures[0]].options if step.words else {})))


def do(config: Config, threads: int, step: Step) -> tuple[bool, float]:
    """Whether a step ended well, and its seconds.

    threads: of torch where a script leaves their number alone; it shapes a number's last digits.
    """
    start, name = time.perf_counter(), Path(step.file).stem
    if step.words:
        print(f"figure {', '.join(step.figures)}: {shown(step)}", flush=True)
        with cpu.threads(threads):
            well = run_script(name, step.words)
    elif config.scale == "paper":
        with ThreadPoolExecutor(1) as thread:  # in the main one asyncio takes signals for itself
            well = thread.submit(execute_notebook, name, config).result()
    else:
        well = run_notebook(name, config)
    sys.stdout.flush()
    return well, time.perf_counter() - start


def perform(config: Config, steps: Sequence[Step]) -> Iterator[tuple[int, tuple[bool, float]]]:
    """Do all steps, and yield what became of each, by its position, as soon as it is done."""
    perform_one = functools.partial(do, config, torch.get_num_threads())
    if config.processes > 1:
        names, after = [step.file for step in steps], [step.after for step in steps]
        yield from workers.work(perform_one, steps, config.processes, names, after)
        return
    done = set[int]()
    while len(done) < len(steps):
        i = next(i for i, step in enumerate(steps) if i not in done and step.after <= done)
        done.add(i)
        yield i, perform_one(steps[i])


def work(config: Config, steps: Sequence[Step]) -> list[float]:
    """Seconds that the repository's results of each step took, beyond those that are there."""
    committed = [expected(step, cli.ROOT / "results", config.scale) for step in steps]
    there = [0 if config.overwrite else expected(s, config.results, config.scale) for s in steps]
    return [max(0.0, c - t) for c, t in zip(committed, there, strict=True)]


def about(left: Sequence[float]) -> str:
    return f", about {in_words(sum(left))} to go" if any(left) else ""


def main() -> None:
    config = cli.parse(Config, {}, __doc__)
    folder = config.results / config.scale
    files.check_writable(folder / "figures")
    steps = plan(config.figures, functools.partial(command_line, config))
    left = work(config, steps)
    took: dict[int, float] = {}
    drawn: list[str] = []
    failed: set[str] = set()
    print(f"{len(config.figures)} figures{about(left)}", flush=True)
    for i, (well, took[i]) in perform(config, steps):
        step, left[i] = steps[i], 0.0
        failed.update(() if well else step.figures)
        drawn += () if step.words else step.figures
        state = f"{len(drawn)} of {len(config.figures)} figures{about(left)}"
        print(f"{shown(step)} took {took[i]:.0f} s; {state}", flush=True)
        for figure in () if step.words else step.figures:
            path = folder / "figures" / f"{picture(figure)}.png"
            shows = path if path.exists() else "its notebook has not drawn it"
            print(f"figure {figure}: {shows if well else 'failed'}", flush=True)
    seconds = {
        figure: sum(took[i] for i, step in enumerate(steps) if figure in step.figures)
        for figure in config.figures
    }
    chosen = {c: c.findings(config.results, config.scale, config.figures) for c in CLAIMS}
    print_table(table_rows(config, chosen, seconds, failed))
    print("each claim by its figures above alone; by all of them: results/CLAIMS.md")
    if config.scale == "quick":
        print("quick scale decides nothing about the paper: results/CLAIMS.md has what was found")
    sys.stdout.flush()  # whatever is wrong with the results of other figures
    judged = {claim: claim.findings(config.results, config.scale) for claim in CLAIMS}
    print(f"all figures: {index.write(config.results, config.scale, judged)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    cli.run(main)
