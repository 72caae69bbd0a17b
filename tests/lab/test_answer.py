"""Help and wrong command lines: answered without a slow package, in the words of the slow way."""

import io
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from lab import answer, cli, program

PROGRAMS = [path.stem for path in sorted(answer.SOURCE.glob("*.py"))]
SCRIPTS = [path.stem for path in sorted((answer.SOURCE / "experiment").glob("[!_]*.py"))]
MODULES = [*PROGRAMS, *(f"experiment.{name}" for name in SCRIPTS)]
WRONG = pytest.param("--no-such-flag", marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose packages have the names of the slow ones, and end whatever imports them."""
    folder = tmp_path_factory.mktemp("poisoned")
    for name in answer.SLOW:
        (folder / f"{name}.py").write_text("raise SystemExit(f'{__name__} was imported')")
    return folder


def path(module: str) -> str:
    return str(answer.SOURCE / f"{module.replace('.', '/')}.py")


def ask(module: str, words: list[str], poisoned: Path, **options) -> subprocess.CompletedProcess:
    """What a program answers where no slow package can be imported."""
    environment = os.environ | {"PYTHONPATH": str(poisoned), "COLUMNS": "100"}
    command = [sys.executable, path(module), *words]
    options = {"capture_output": True, "text": True} | options
    return subprocess.run(command, env=environment, check=False, **options)


def slow_way(module: str, words: list[str], monkeypatch) -> tuple[int, str, str]:
    """Status and streams of the same command line, with all packages there."""
    script = import_module(module)
    monkeypatch.setattr(sys, "argv", [path(module), *words])
    monkeypatch.setenv("COLUMNS", "100")
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    quick = getattr(script, "QUICK", {})
    with pytest.raises(SystemExit) as stop:
        program.run(lambda: cli.parse(script.Config, quick, script.__doc__))
    monkeypatch.undo()
    out, err = (stream.buffer.getvalue().decode() for stream in streams)
    return stop.value.code, out, err


@pytest.mark.parametrize("flag", ["--help", WRONG])
@pytest.mark.parametrize("module", MODULES)
def test_every_program_answers_as_the_slow_way_does(module, flag, poisoned, monkeypatch):
    done = ask(module, [flag], poisoned)
    status = 0 if flag == "--help" else 2
    expected = slow_way(module, [flag], monkeypatch)
    assert (done.returncode, done.stdout, done.stderr) == expected
    assert done.returncode == status
    assert len(done.stdout + done.stderr) > 100


@pytest.mark.parametrize(
    "words",
    ["--no-such-flag", "--epochs x", "--epochs 0", "--datasets imagenet", "--scale quick -h"],
)
def test_what_is_wrong_is_told_as_the_slow_way_does(words, poisoned, monkeypatch):
    module = "experiment.target_linearity"
    done = ask(module, words.split(), poisoned)
    expected = slow_way(module, words.split(), monkeypatch)
    assert (done.returncode, done.stdout, done.stderr) == expected


@pytest.mark.parametrize("words", [["--scale", "quick"], ["--device", "cuda"]], ids=str)
def test_what_stand_ins_cannot_answer_is_left_to_the_slow_way(words, poisoned):
    done = ask("experiment.target_linearity", words, poisoned)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(" was imported\n")


def test_help_that_nobody_reads_on_is_no_error(poisoned):
    read, write = os.pipe()
    os.close(read)
    done = ask(
        "reproduce",
        ["--help"],
        poisoned,
        capture_output=False,
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


class TestStandIns:
    def test_nothing_of_them_is_left(self, tmp_path):
        code = (
            "import sys; from pathlib import Path; from lab import answer, program\n"
            "sys.argv[1:] = ['--scale', 'quick']\n"
            "answer.answer(answer.SOURCE / 'experiment' / 'statements.py')\n"
            "left = [n for n in sys.modules if n.partition('.')[0] in answer.SLOW]\n"
            "assert not left and 'lab.cli' not in sys.modules, left\n"
            "from lab import cli, data; import torch; import experiment.statements as script\n"
            "assert cli.torch is data.torch is script.torch is torch\n"
            "assert torch.zeros(2).sum().item() == 0\n"
        )
        environment = os.environ | {"PYTHONPATH": str(answer.SOURCE)}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=tmp_path)

    def test_they_can_be_named_called_and_subclassed_and_have_no_value(self):
        package = answer._Package("slow")

        @package.no_grad()
        class Model(package.nn.Module): ...

        assert Model is not None
        assert package.Tensor | None
        assert package.dtype[int] is not None
        for ask_for in (bool, str, repr, int, float, len, iter, "{}".format, [0].__getitem__):
            with pytest.raises(TypeError):
                ask_for(package.pi)
        with pytest.raises(TypeError):
            package.pi + 1

    def test_a_program_elsewhere_is_left_alone(self, tmp_path):
        answer.answer(tmp_path / "program.py")
