"""What the README says is true: its commands run, its code runs, its numbers are those of the results."""

import atexit
import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import claims
import cpu
import figures
import reproduce

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = sorted(
    {part.strip() for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() for part in line.split("&&")}
    | set(re.findall(r"`(python src/[^`]*)`", README))
)
OWN = "your_model"  # a notebook that draws no figure of the paper
TINY = {  # what makes a command of the README small; flags given later win
    "whiten.py": "--scale quick --epochs 1 --seeds 0",
    "whiten_cnn.py": "--scale quick --epochs 1 --seeds 0",
    "target_linearity.py": "--scale quick --epochs 1 --seeds 0",
    "swissroll.py": "--epochs 2 --seeds 0",
    "staircase.py": "--scale quick --epochs 2 --seeds 42 --widths 8 16",
    "vae_train.py": "--scale quick --epochs 1 --seeds 0",
    "vae_target_linearity.py": "--scale quick",
    "bert_train.py": "--scale quick --epochs 1 --seeds 0 --task toy_sst2 --toy-examples 100 --toy-corpus 100",
    "bert_target_linearity.py": "--scale quick",
    "random_label.py": "--scale quick --epochs 1 --seeds 0",
    "grokking.py": "--scale quick --epochs 1 --seeds 0",
    "gram_virtual_covariance.py": "--scale quick --time 4 --seeds 0",
    "neural_collapse.py": "--scale quick --epochs 1 --seeds 0",
    "reproduce.py": "--scale quick --figures 2",  # all are made by the fixture
    "benchmark.py": "--repeats 1 --train-samples 256 --measure-samples 1000 --grokking-epochs 1 --bert-examples 32",
    "claims.py": "--check",
}


def run(command: list[str], cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@functools.cache
def reproduction() -> tuple[Path, subprocess.Popen]:
    """The README's first command, started, and the folder of its results and of what it prints."""
    (command,) = [c for c in COMMANDS if c.startswith("python src/reproduce.py --scale quick")]
    folder = Path(tempfile.mkdtemp())
    _, script, *flags = shlex.split(command)
    words = [sys.executable, str(ROOT / script), *flags, "--results", str(folder)]
    with (folder / "printed").open("w") as printed:
        process = subprocess.Popen(words, cwd=folder, stdout=printed, stderr=printed, start_new_session=True)
    atexit.register(end, folder, process)
    return folder, process


def end(folder: Path, process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def reproduced() -> tuple[Path, str]:
    """Results of the README's first command, and what it printed; conftest.py has started it."""
    folder, process = reproduction()
    printed = folder / "printed"
    assert process.wait() == 0, printed.read_text()
    return folder, printed.read_text()


def test_the_quick_command_makes_every_figure_and_a_verdict_for_each(reproduced: tuple[Path, str]) -> None:
    folder, printed = reproduced
    made = {path.name for path in (folder / "quick" / "figures").iterdir()}
    for figure, recipe in figures.RECIPES.items():
        picture = recipe.picture or f"figure{figure}"
        assert {f"{picture}.png", f"{picture}.pdf"} <= made
    judged = re.findall(r"^(\w+) .*(holds in part|holds|does not hold)", printed, re.MULTILINE)
    assert [figure for figure, _ in judged] == list(figures.RECIPES)
    (executed,) = re.findall(r"^notebooks: (.*)", printed, re.MULTILINE)
    assert {*executed.split(", "), OWN} == {path.stem for path in (ROOT / "notebook").glob("*.ipynb")}


def test_every_python_command_of_the_readme_runs(reproduced: tuple[Path, str], tmp_path: Path) -> None:
    def one(command: str) -> None:
        _, script, *flags = shlex.split(command)
        name = Path(script).name
        reads = name in ("reproduce.py", "vae_target_linearity.py", "bert_target_linearity.py")  # what others left
        folder = reproduced[0] if reads else tempfile.mkdtemp(dir=tmp_path)
        shared = [] if name in ("benchmark.py", "claims.py") else ["--jobs", "1", "--results", str(folder)]
        run([sys.executable, str(ROOT / script), *flags, *shlex.split(TINY[name]), *shared], tmp_path)

    with ThreadPoolExecutor(cpu.available_cores()) as pool:  # starting Python takes most of the time
        list(pool.map(one, [c for c in COMMANDS if c.startswith("python ")]))


def test_the_other_commands_of_the_readme_are_the_two_that_run_this() -> None:
    assert {c for c in COMMANDS if not c.startswith("python ")} == {"pip install -r requirements.txt", "pytest tests"}


def test_the_notebook_that_needs_no_results_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as torch in the tests: the reproduction runs beside it
    assert reproduce.execute_notebook(OWN, reproduce.Config(scale="quick"))


def test_the_code_of_the_readme_runs() -> None:
    (code,) = [block for kind, block in BLOCKS if kind == "python"]
    assert len(code.strip().splitlines()) <= 20
    run([sys.executable, "-W", "error", "-c", code], ROOT)


def test_pictures_and_files_that_the_readme_names_exist() -> None:
    names = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    names += [f"notebook/{name}" for name in re.findall(r"\b\w+\.ipynb", README)]
    assert names
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing


def test_tables_of_the_readme_are_those_of_the_results() -> None:
    stale = [path.name for path, text in claims.documents(ROOT / "results").items() if path.read_text() != text]
    assert not stale, "run python src/claims.py"


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_code_is_clean(command: list[str]) -> None:
    run(
        [sys.executable, "-m", "ruff", *command, "--config", ".ci/ruff.toml", "--no-cache", "src", "tests", "notebook"],
        ROOT,
    )


def test_a_figure_can_be_made_alone(reproduced: tuple[Path, str], tmp_path: Path) -> None:
    made = reproduced[0] / "quick" / "target_linearity"
    (alone,) = made.glob("digits-sgd-*.npz")
    (tmp_path / "quick" / "target_linearity").mkdir(parents=True)
    (tmp_path / "quick" / "target_linearity" / alone.name).write_bytes(alone.read_bytes())
    command = [sys.executable, str(ROOT / "src" / "reproduce.py"), "--scale", "quick", "--figures", "4"]
    assert "already there" in run([*command, "--results", str(tmp_path)], tmp_path)
    assert {path.name for path in (tmp_path / "quick" / "figures").iterdir()} == {"figure4.png", "figure4.pdf"}
