"""The memory of processes, watched from outside."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from lab import cli, cpu, program
from lab.errors import UserError
from report.lookup import experiment
from report.recipes import RECIPES
from report.speed import memory

MB = 2**20


def holding(megabytes: int, ready: Path) -> str:
    """Holds so much from when `ready` is there, for good."""
    code = f"x = bytearray(b'1') * {megabytes * MB}; import time, pathlib; "
    return f"{code}pathlib.Path({str(ready)!r}).touch(); time.sleep(10**6)"


@pytest.fixture
def looks(monkeypatch, tmp_path) -> Path:
    """A file after which `watch` looks three times more, whatever the machine's clock says."""
    ready, left = tmp_path / "ready", iter(range(3))

    def perf_counter() -> float:
        return float("inf") if ready.exists() and next(left, None) is None else 0.0

    clock = SimpleNamespace(sleep=time.sleep, perf_counter=perf_counter)
    monkeypatch.setattr(memory, "time", clock)
    return ready


def start(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code])


def test_what_a_process_and_its_child_hold_is_added_up(looks):
    outer = f"import subprocess, sys; x = bytearray(b'1') * {100 * MB}; "
    outer += f"subprocess.run([sys.executable, '-c', {holding(200, looks)!r}])"
    process = start(outer)
    most = memory.watch(process, 1.0) / MB
    memory.end(process)
    assert 300 < most < 360


def test_a_run_is_cut_off_with_all_below_it(looks):
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {holding(1, looks)!r}])"
    process = start(code)
    memory.watch(process, 1.0)
    below = psutil.Process(process.pid).children(recursive=True)
    memory.end(process)
    assert below
    assert not psutil.wait_procs(below, timeout=600)[1]
    assert process.returncode is not None


def test_every_script_is_run_after_those_whose_checkpoints_it_reads():
    names = memory.scripts()
    assert set(names) == {name for recipe in RECIPES.values() for name in recipe.scripts}
    assert set(memory.SHORT) <= set(names)
    assert names.index("vae_train") < names.index("vae_target_linearity")
    assert names.index("bert_train") < names.index("bert_target_linearity")


def test_what_a_script_is_told_is_a_configuration_of_it(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(memory, "run", lambda *arguments: told.append(arguments[:3]))
    monkeypatch.setattr(memory, "write_text", lambda _: ("--model", "m", "--tasks", "sst2"))
    list(memory.script_peaks(memory.scripts(), ("mnist", "digits"), tmp_path, 1.0))
    assert {name for name, *_ in told} == set(memory.scripts())
    for name, label, words in told:
        script = experiment(name)
        config = cli.parse(script.Config, script.QUICK, argv=list(words))
        paper, fields = cli.preset(script), script.Config.__dataclass_fields__
        sizes = {"width", "depth", "batch_size", "samples", "hidden", "latent", "max_length"}
        for field in sizes & fields.keys():
            assert getattr(config, field) == getattr(paper, field)
        if "datasets" in fields:
            assert config.datasets == (label,)
        if "seeds" in fields:
            assert config.seeds == tuple(range(cpu.available_cores()))


def test_a_script_that_fails_stops_no_other(monkeypatch, tmp_path):
    def run(name, *_):
        if name == "whiten":
            raise UserError("whiten failed")
        return name

    deferred = []
    monkeypatch.setattr(memory, "run", run)
    monkeypatch.setattr(program, "defer", deferred.append)
    peaks = list(memory.script_peaks(("whiten", "staircase"), ("digits",), tmp_path, 1.0))
    assert peaks == ["staircase"]
    assert [str(error) for error in deferred] == ["whiten failed"]


@pytest.mark.slow
def test_a_run_that_fails_says_why():
    with pytest.raises(UserError, match="staircase on its own failed: error: epochs must be"):
        memory.run("staircase", "its own", ["--epochs", "0"], 6000.0)
