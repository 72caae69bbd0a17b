"""Programs that are killed: nothing is lost, nothing is left, and each says one line."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import kill_harness
from lab import program
from tiny import SOURCE

pytestmark = pytest.mark.slow
PATIENCE = 600.0  # seconds in which what ends at once has ended, however busy the machine is


def test_four_kills_lose_and_change_nothing(tmp_path, monkeypatch):
    """One each way that leaves something half done; the harness has them all, by the dozen."""
    monkeypatch.setattr(kill_harness, "LIMIT", PATIENCE)  # however busy the machine is
    ways = ("kill", "interrupt", "kill a worker", "kill at a write")
    config = kill_harness.Config(kills=4, experiments=("vae_train",), ways=ways)
    told: list[str] = []
    tally = kill_harness.harass(config, tmp_path, told.append)
    assert str(tally).endswith("lost 0 / different 0 / hung 0 / orphaned 0 / tracebacks 0"), told
    assert tally.counts["kills"] >= 4


def test_what_goes_wrong_is_counted(tmp_path, monkeypatch):
    """A program that loses what it saved, leaves a process and shows a traceback."""
    subject = kill_harness.Subject(kill_harness.tiny.SCRIPTS[0], tmp_path, 1)
    code = "trap '' INT; sleep 60 >/dev/null 2>&1 & echo Traceback >&2; sleep 8"
    monkeypatch.setattr(subject, "words", lambda _: ["sh", "-c", code])
    monkeypatch.setattr(kill_harness, "LIMIT", 0.0)
    saved = iter([{"a.npz"}, set()])
    monkeypatch.setattr(subject, "saved", lambda _: next(saved))
    monkeypatch.setattr(subject, "differs", lambda _: "other arrays")
    subject.seconds, tally = 4.0, kill_harness.Tally(lambda _: None)
    rng = kill_harness.random.Random(0)
    kill_harness.strike(subject, tmp_path, "interrupt", rng, tally)
    assert all(tally.counts[kind] >= 1 for kind in kill_harness.COUNTED), str(tally)


def reproduce(folder: Path, scale: str, figures: list[str]) -> subprocess.Popen:
    words = [sys.executable, str(SOURCE / "reproduce.py"), "--scale", scale, "--jobs", "2"]
    return kill_harness.start([*words, "--figures", *figures, "--results", str(folder)], folder)


def wait_for_children(process: subprocess.Popen, name: str, least: int) -> list[psutil.Process]:
    """Wait until so many children have a name in their command; returns all children."""
    deadline = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        children = kill_harness.group(process)
        if sum(name in kill_harness.command(child) for child in children) >= least:
            return children
        time.sleep(0.05)


def assert_gone(children: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert not [child for child in alive if kill_harness.is_alive(child)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=str)
@pytest.mark.parametrize(
    ("scale", "figures", "name", "least"),
    [("quick", ["4", "9"], "spawn_main", 2), ("paper", ["1"], "ipykernel", 1)],
)
def test_reproduce_ends_at_once_with_all_that_it_started(
    scale, figures, name, least, number, tmp_path
):
    committed = SOURCE.parent / "results" / "paper" / "swissroll"
    shutil.copytree(committed, tmp_path / "paper" / "swissroll")
    with reproduce(tmp_path, scale, figures) as process:
        children = wait_for_children(process, name, least)
        process.send_signal(number)
        err = process.communicate(timeout=PATIENCE)[1]
        if number != signal.SIGKILL:
            assert (process.returncode, err) == (128 + number, f"{program.RESUMES}\n")
        assert_gone(children)


def in_terminal(words: list[str], folder: Path, until: Callable[[str], bool]) -> str:
    """What a program shows on a terminal whose user hits Ctrl-C once `until` is true."""
    main, other = pty.openpty()
    termios.tcsetwinsize(main, (24, 80))
    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), other)
    with subprocess.Popen(
        words,
        cwd=folder,
        start_new_session=True,
        preexec_fn=kill_harness.hear_signals,
        **streams,
    ) as process:
        os.close(other)
        shown, hit = "", False
        while True:
            try:
                shown += os.read(main, 1000).decode(errors="replace")
            except OSError:
                break
            if until(shown) and not hit:
                hit = True
                os.killpg(process.pid, signal.SIGINT)
        process.wait()
        os.close(main)
    assert process.returncode == 130, shown
    return shown


def test_a_terminal_shows_bars_and_then_one_line(tmp_path):
    script = str(SOURCE / "experiment" / "target_linearity.py")
    words = [sys.executable, script, "--scale", "quick", "--results", str(tmp_path), "--jobs", "2"]
    shown = in_terminal(words, tmp_path, lambda text: len(re.findall(r"digits sgd", text)) > 6)
    assert "Traceback" not in shown
    assert shown.count(program.RESUMES) == 1
