"""How a program ends: by any signal, at any moment, with one line and no process left behind."""

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lab import cli, program
from lab.errors import ConfigError, DataError, Diverged, ResultError, UserError

SOURCE = Path(program.__file__).parents[1]


def status_of(main) -> int:
    with pytest.raises(SystemExit) as stop:
        program.run(main)
    return stop.value.code


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


class TestRun:
    def test_is_what_scripts_call(self):
        assert cli.run is program.run

    @pytest.mark.parametrize("kind", [UserError, ConfigError, DataError, ResultError, Diverged])
    def test_an_error_of_the_users_is_one_line_and_status_2(self, kind, capsys):
        assert status_of(raising(kind("données: ask for something else"))) == 2
        assert capsys.readouterr() == ("", "error: données: ask for something else\n")

    def test_a_name_with_a_line_break_is_one_line_too(self, capsys):
        assert status_of(raising(DataError("no file a\nb: give another"))) == 2
        assert capsys.readouterr().err == "error: no file a b: give another\n"

    def test_an_interruption_is_one_line_that_says_how_to_go_on(self, capsys):
        assert status_of(raising(KeyboardInterrupt())) == 130
        assert re.fullmatch(r"stopped; the same command goes on .+\n", capsys.readouterr().err)

    @pytest.mark.parametrize(
        ("error", "line"),
        [
            (
                OSError(errno.ENOSPC, "No space left on device", "a/b"),
                "a/b: No space left on device",
            ),
            (OSError(errno.EDQUOT, "Disk quota exceeded"), "[Errno 122] Disk quota exceeded"),
            (MemoryError(), "not enough memory (MemoryError): lower --jobs, or what the run is"),
            (
                RuntimeError(
                    "[enforce fail] DefaultCPUAllocator: can't allocate memory: 4 bytes\n"
                ),
                "not enough memory ([enforce fail] DefaultCPUAllocator: can't allocate memory: 4",
            ),
        ],
        ids=str,
    )
    def test_what_the_machine_refuses_is_one_line(self, error, line, capsys):
        assert status_of(raising(error)) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: {line}")
        assert err.count("\n") == 1

    @pytest.mark.parametrize("error", [ValueError("a defect"), RuntimeError("a defect")], ids=repr)
    def test_an_error_of_the_program_keeps_its_traceback(self, error):
        with pytest.raises(type(error), match="a defect"):
            program.run(raising(error))

    def test_an_error_that_can_wait_ends_the_program_when_all_is_done(self, capsys):
        done = []

        def main() -> None:
            program.defer(UserError("the first"))
            program.defer(UserError("the second"))
            done.append(True)

        assert status_of(main) == 2
        assert done
        assert capsys.readouterr().err == "error: the first (and 1 more)\n"
        program.run(lambda: None)  # it is over

    def test_errors_of_a_program_within_another_are_its_own(self, capsys):
        def main() -> None:
            program.defer(UserError("the outer"))
            assert status_of(lambda: program.defer(UserError("the inner"))) == 2

        assert status_of(main) == 2
        assert capsys.readouterr().err == "error: the inner\nerror: the outer\n"


OTHERS = tuple(number for number in program.SIGNALS if number != signal.SIGINT)
PROGRAM = """
import sys

sys.path.insert(0, {source!r})
from lab import program

program.begin(__name__)

import time
from pathlib import Path


{body}


if __name__ == "__main__":
    program.run(main)
"""
PATIENCE = 600  # seconds; less than what a program does that does not end
BODIES = {
    "while it imports": "Path('ready').touch(); time.sleep(10**6)",
    "while it works": "def main():\n    Path('ready').touch()\n    time.sleep(10**6)",
    # half an hour in one call of a library, which no bytecode interrupts
    "inside a library": (
        "import hashlib\ndef main():\n    Path('ready').touch()\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)"
    ),
    "while it writes": (
        "from lab import files\n"
        "def write(file):\n    file.write(b'half')\n    Path('ready').touch()\n"
        "    time.sleep(10**6)\n"
        "def main():\n    files.write_whole(Path('result'), write)"
    ),
    "with a child and its child": (
        "import subprocess\ndef main():\n"
        "    subprocess.run(['sh', '-c', 'sleep 1000000 & touch ready; wait'])"
    ),
    "while it catches everything": (
        "def main():\n    Path('ready').touch()\n    while True:\n"
        "        try:\n            time.sleep(10**6)\n"
        "        except BaseException:\n            pass"
    ),
}


@contextlib.contextmanager
def started(folder: Path, body: str, **options):
    (folder / "program.py").write_text(PROGRAM.format(source=str(SOURCE), body=body))

    def reset() -> None:  # as a shell starts it
        for number in program.SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    with subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=folder,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=reset,
        **options,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("body", "number"),
    [*((body, signal.SIGINT) for body in BODIES), *(("while it works", n) for n in OTHERS)],
)
def test_a_signal_ends_it_at_once_with_one_line_and_no_child(body, number, tmp_path):
    with started(tmp_path, BODIES[body]) as process:
        wait_for(tmp_path / "ready", process)
        children = psutil.Process(process.pid).children(recursive=True)
        assert bool(children) == ("child" in body)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (128 + number, "")
    assert err == f"{program.RESUMES}\n"
    assert not [child for child in children if is_alive(child)]
    assert {path.name for path in tmp_path.iterdir()} == {"program.py", "ready"}


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (
            "ImportError('libtorch.so: failed to map segment from shared object')",
            "libtorch.so: fail",
        ),
        ("MemoryError", "MemoryError"),
        ("RuntimeError('can\\'t start new thread')", "can't start new thread"),
    ],
)
def test_memory_that_does_not_take_what_is_imported_is_one_line(raised, line, tmp_path):
    with started(tmp_path, f"raise {raised}") as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: not enough memory ({line}")


def test_a_defect_while_it_imports_is_a_traceback(tmp_path):
    with started(tmp_path, "raise ImportError('no such name')") as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert err.startswith("Traceback")


def test_a_signal_that_was_ignored_stays_ignored(tmp_path):
    body = "def main():\n    Path('ready').touch()\n    time.sleep(0.5)\n    print('done')"
    with started(tmp_path, "import signal\n" + body) as process:
        pass  # the next one is started by nohup
    (tmp_path / "ready").unlink(missing_ok=True)
    words = ["nohup", sys.executable, "program.py"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        wait_for(tmp_path / "ready", process)
        process.send_signal(signal.SIGHUP)
        assert process.communicate(timeout=PATIENCE)[0] == "done\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
def test_text_without_a_code_degrades(environment, tmp_path):
    body = "from lab.errors import UserError\ndef main():\n    print('β 1')\n"
    body += "    raise UserError('β 2')"
    with started(tmp_path, body, env=os.environ | environment) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert (out, err) == ("? 1\n", "error: \\u03b2 2\n")


def test_windows_is_told_what_runs_there():
    code = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); sys.platform = 'win32'; import lab"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "on Windows take WSL" in done.stderr
