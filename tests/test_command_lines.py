"""Hostile command lines: each is refused with one line, or accepted; none shows a traceback."""

import contextlib
import dataclasses
import io
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import benchmark
import claims
import reproduce
import tiny
from lab import cli, memory, program, training
from lab.text import fine_tuning, toy_bert

COMMON = cli.Common.__dataclass_fields__
WHOLE = ("-1", "0", "10000001", str(10**10), str(10**23), str(2**63), str(-(2**70)), "1.5", "x", "")
REAL = ("-1", "0", "nan", "inf", "-inf", "1e400", "1e-400", "1e308", "0x10", "x", "")
WORDS = (
    "",
    "..",
    "../..",
    "a/b",
    "no such",
    "x" * 5000,
    "\N{GREEK SMALL LETTER BETA}\x7f",
    "-",
    "None",
)
PLACES = (
    "/proc/x",
    "/dev/null",
    "/dev/null/x",
    "y" * 300,
    "loop",
    "dangling",
    "file",
    "file/x",
    "",
)
PER_SCRIPT = 12  # of its commands, drawn
SIZES = ("width", "widths", "hidden", "latent", "channels", "modulus", "depth", "pairs")


class Accepted(Exception):
    """A command got as far as training."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything that can be in the way is."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "file").write_text("in the way")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "dangling").symlink_to(folder / "nowhere")
    tiny.write_data(folder / "tiny.npz")
    return folder


@pytest.fixture(autouse=True)
def _nothing_is_trained(monkeypatch: pytest.MonkeyPatch, places: Path) -> None:
    def accept(*_: Any, **__: Any) -> None:
        raise Accepted

    monkeypatch.setattr(training.Epochs, "__enter__", accept)
    monkeypatch.setattr(fine_tuning.FineTuner, "__init__", accept)
    monkeypatch.setattr(toy_bert, "pretrain", accept)
    monkeypatch.setattr(memory, "limit", lambda: 2**30)  # on every machine
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no network, at once
    monkeypatch.chdir(places)


def refusal(module: ModuleType, words: list[str]) -> str | None:
    """What a command says; None where it is accepted."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", [module.__file__, *words])
        try:
            program.run(module.main)
        except Accepted:
            return None
        except SystemExit as stop:
            status = stop.code
        else:
            return None
    assert status == 2, (words, out.getvalue(), err.getvalue())
    return err.getvalue() or out.getvalue()


def values(field: dataclasses.Field) -> tuple[str, ...]:
    """Hostile values of a field."""
    kind = str(field.type)
    if "Path" in kind:
        return PLACES
    if field.name == "datasets" or "str" in kind:
        return (*WORDS, *(("tiny.npz tiny.npz", "file", "absent.npz") * (field.name == "datasets")))
    return REAL if "float" in kind else WHOLE


def commands(module: ModuleType) -> Iterator[list[str]]:
    """Every field of a script with every hostile value."""
    for field in dataclasses.fields(module.Config):
        flag = f"--{field.name.replace('_', '-')}"
        if field.name in ("overwrite", "toy", "scale"):
            continue
        hostile = values(field) + ("10000000",) * (field.name in SIZES)
        for value in hostile:
            yield [f"{flag}={value}"] if value.startswith("-") else [flag, *(value.split(" "))]
        yield [flag]


def base(module: ModuleType, words: list[str]) -> list[str]:
    """The rest of a command: tiny data and a folder, unless the words say otherwise."""
    fields, given = module.Config.__dataclass_fields__, {word.partition("=")[0] for word in words}
    rest = ["--scale", "quick"]
    for flag, value in (("datasets", "tiny.npz"), ("results", "results"), ("jobs", "1")):
        if flag in fields and f"--{flag}" not in given:
            rest += [f"--{flag}", value]
    return [*rest, *words]


def cases() -> Iterator[Any]:
    """Some of a script's commands, and what only a script's own checks refuse: sizes and seeds."""
    for script in tiny.SCRIPTS:
        fields = script.Config.__dataclass_fields__
        some = random.Random(tiny.name(script)).sample(list(commands(script)), PER_SCRIPT)
        some += [[f"--{field}", "10000000"] for field in SIZES if field in fields]
        seeds = [field.replace("_", "-") for field in fields if "seed" in field]
        some += [[f"--{field}", str(seed)] for field in seeds for seed in (2**63 - 1, 2**63)]
        for words in some:
            yield pytest.param(script, words, id=f"{tiny.name(script)} {' '.join(words)[:40]}")


@pytest.mark.slow
@pytest.mark.parametrize(("script", "words"), cases())
def test_a_hostile_command_is_one_line_or_accepted(script, words):
    said = refusal(script, base(script, words))
    if said is not None and said.startswith("error: "):
        assert re.fullmatch(r"error: [^\n]+\n", said), said
    else:  # tyro says in a box what it cannot read
        assert said is None or "Traceback" not in said


@pytest.mark.parametrize("value", ["10000000", str(10**10)])
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(toy_bert.ToyBert)])
def test_a_toy_bert_is_never_too_large(field, value):
    if field == "learning_rate":
        return
    script = next(script for script in tiny.SCRIPTS if tiny.name(script) == "bert_train")
    said = refusal(script, base(script, [f"--toy.{field.replace('_', '-')}", value]))
    allowed = value == "10000000" and field in ("epochs", "batch_size")
    assert (said is None) == allowed, said


@pytest.mark.parametrize(
    "words",
    [
        "--datasets imagenet",
        "--datasets absent.npz",
        "--figures 99",
        "--figures",
        "--figures 4 4",
        "--jobs 0",
        f"--jobs {10**23}",
        "--results file",
        "--results loop",
        "--results /proc/x",
        "--device tpu",
    ],
)
def test_reproduce_refuses_before_any_work(words):
    said = refusal(reproduce, ["--scale", "quick", *words.split()])
    assert said is not None
    assert "Traceback" not in said


@pytest.mark.parametrize("module", [benchmark, claims, reproduce])
def test_a_program_refuses_a_flag_that_it_does_not_have(module):
    assert "--no-such-flag" in refusal(module, ["--no-such-flag"])


@pytest.mark.parametrize("value", ["-1", "0", "10000001", str(10**23), "x"])
@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(benchmark.Config) if f.type is not Path]
)
def test_the_benchmark_refuses_sizes_as_the_scripts_do(field, value):
    assert refusal(benchmark, [f"--{field.replace('_', '-')}={value}"]) is not None
