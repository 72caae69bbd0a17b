"""Every script of src/experiment from start to end at tiny size, through its command line.

What a script is asked for comes from the script itself: its Config, QUICK, AXES and main. A new
script, or a new hyperparameter, needs no change here.
"""

import contextlib
import dataclasses
import functools
import io
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from experiment import target_linearity
from lab import checkpoints, cli, data, provenance, results, runs
from lab.results import Result
from lab.runs import Run
from lab.text import encoders, toy_bert, toy_language
from tiny import (
    SCRIPTS,
    TINY,
    assert_same_bits,
    assert_same_models,
    command,
    name,
    read,
    sources,
    tiny,
    write_data,
)


def takes_data(script: ModuleType) -> bool:
    return "datasets" in script.Config.__dataclass_fields__


def is_slow(script: ModuleType) -> bool:
    """Whether it needs transformers, which takes seconds to train anything."""
    return "tasks" in script.Config.__dataclass_fields__


def each_script(
    scripts: list[ModuleType] = SCRIPTS, quick: tuple[ModuleType, ...] | None = None
) -> pytest.MarkDecorator:
    """Parametrize by script; all are slow but `quick`, by default those without transformers."""
    values = []
    for script in scripts:
        slow = is_slow(script) if quick is None else script not in quick
        marks = [pytest.mark.slow] if slow else []
        values.append(pytest.param(script, id=name(script), marks=marks))
    return pytest.mark.parametrize("script", values)


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


def call(script: ModuleType, *words: Any) -> Ended:
    """Run a script's main with words of a command line, in this process."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", [script.__file__, *map(str, words)])
        try:
            cli.run(script.main)
        except SystemExit as stop:
            status = int(stop.code or 0)
    return Ended(status, out.getvalue(), err.getvalue())


def start(config: Any) -> Ended:
    """Run the script of a configuration."""
    return call(sys.modules[type(config).__module__], *command(config))


def error_line(ended: Ended) -> str:
    """The one line of an error of the user's."""
    assert ended.status == 2
    assert re.fullmatch(r"error: [^\n]+\n", ended.err), ended.err
    return ended.err


def trained(script: ModuleType, config: Any, _: str, wanted: dict, **own: Any) -> Any:
    """As checkpoints.training, of a tiny training that has made no result."""
    common = cli.Common.__dataclass_fields__.keys() - {"scale"}
    return tiny(script, **{field: getattr(config, field) for field in common} | wanted | own)


def plan(config: Any) -> list[Run]:
    """The runs that a script would make; nothing is trained."""
    script, planned = sys.modules[type(config).__module__], []

    def train(_: Any, missing: list[Run], *__: Any, **___: Any) -> Iterator:
        planned.extend(missing)
        return iter(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "parse", lambda *_: config)
        patch.setattr(checkpoints, "training", trained)
        patch.setattr(runs, "train", train)
        # any encoder's name and length will do, without the hub; the toy one need not be there
        patch.setattr(encoders, "fingerprint", lambda model, _: f"weights of {model}")
        patch.setattr(encoders, "load_tokenizer", lambda *_: toy_language.tokenizer())
        mark = {"sources": provenance.sources()}
        patch.setattr(toy_bert, "read_mark", lambda _: mark)
        patch.setattr(encoders, "check_length", lambda *_: None)
        patch.setattr(encoders, "check_takes", lambda *_: None)
        script.main()
    return planned


def files(root: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file below a folder, with its time of change and content."""
    paths = (path for path in root.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


@dataclass(frozen=True)
class Finished:
    """A script's run that has ended."""

    config: Any
    ended: Ended
    new: set[Path]  # files that it made

    @property
    def folder(self) -> Path:
        return self.config.results / "quick" / name(sys.modules[type(self.config).__module__])

    @property
    def results(self) -> dict[str, Result]:
        return read(self.folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny data, for the results of all scripts."""
    folder = tmp_path_factory.mktemp("scripts")
    write_data(folder / "tiny.npz")
    return folder


@pytest.fixture(scope="module")
def finish(home: Path) -> Callable[[ModuleType], Finished]:
    """Runs a script once, after those whose checkpoints it reads."""

    @functools.cache
    def finish_once(script: ModuleType) -> Finished:
        for source in sources(script):
            finish_once(source)
        before = set(files(home))
        places = {"datasets": (str(home / "tiny.npz"),), "results": home / "results", "jobs": 1}
        config = tiny(script, **places)
        return Finished(config, start(config), set(files(home)) - before)

    return finish_once


@pytest.fixture
def finished(script: ModuleType, finish: Callable[[ModuleType], Finished]) -> Finished:
    return finish(script)


@each_script()
class TestARun:
    def test_saves_each_result_that_it_plans_says_so_and_leaves_nothing_else(
        self, script, finished
    ):
        assert (finished.ended.status, finished.ended.err) == (0, "")  # not even a progress bar
        planned = {run.path for run in plan(finished.config)}
        lines = finished.ended.out.splitlines()
        said = {Path(re.fullmatch(r"saved (.+) \(\d+ s\)", line)[1]) for line in lines}
        assert said == planned
        assert len(lines) == len(planned)
        assert {path for path in finished.new if path.parent == finished.folder} == planned
        assert not any(".partial" in path.parts for path in finished.new)
        if not any(script in sources(reader) for reader in SCRIPTS):
            assert finished.new == planned  # no checkpoints either

    def test_gives_every_array_that_it_declares_the_same_sizes_of_its_axes(self, script, finished):
        config, known, arrays = finished.config, {}, set()
        for plural in ("seeds", "betas", "rates"):
            if isinstance(values := getattr(config, plural, None), tuple):
                known[plural[:-1]] = len(values)
        if any("epoch" in axes for axes in script.AXES.values()):
            known["epoch"] = TINY["epochs"] + 1
        for result in finished.results.values():
            assert result.meta["axes"] == results.plain(script.AXES)
            sizes = dict(known)
            for array, values in result.arrays.items():
                assert values.ndim == len(script.AXES[array]), array
                for axis, size in zip(script.AXES[array], values.shape, strict=True):
                    assert sizes.setdefault(axis, size) == size, (array, axis)
            arrays |= result.arrays.keys()
        assert arrays == script.AXES.keys()

    def test_names_the_points_of_its_axes(self, script, finished):
        config = finished.config
        for result in finished.results.values():
            for axis in (axis for axis, axes in script.AXES.items() if axes == (axis,)):
                points, values = result[axis].tolist(), getattr(config, f"{axis}s", None)
                assert len(set(points)) == len(points), axis
                if axis == "epoch":
                    assert points == list(range(TINY["epochs"] + 1))
                elif isinstance(values, tuple):
                    assert points == list(values), axis

    def test_records_what_it_was_told_and_the_data(self, script, finished):
        config = finished.config
        names = config.hyperparameters().keys() & config.__dataclass_fields__.keys()
        told = results.plain({name: getattr(config, name) for name in names})
        for result in finished.results.values():
            assert told.items() <= result.config.items()
            if takes_data(script):
                images = data.load_images(*finished.config.datasets)
                assert result.config["dataset"] == "tiny"
                assert result.meta["data"] == {"name": "tiny", "fingerprint": images.fingerprint}
            assert re.fullmatch("[0-9a-f]{16}", result.meta["data"]["fingerprint"])

    def test_gives_finite_numbers_and_shares_between_0_and_1(self, script, finished):
        for result in finished.results.values():
            for array, values in result.arrays.items():
                if values.dtype.kind not in "fiu":
                    continue
                for axis in {"epoch", "point"}.intersection(script.AXES[array]):
                    # changes since the start are nan there
                    values = np.delete(values, 0, script.AXES[array].index(axis))
                if array == "lemma4_share":  # no boundary after the last activation
                    values = values[..., :-1]
                assert np.isfinite(values).all(), array
                if re.search(r"(^|_)(accuracy|(?<!held_out_)tl|chance)(_true)?$", array):
                    assert ((values >= 0) & (values <= 1)).all(), array

    def test_learns(self, script, finished):
        """Losses change from each epoch to the next, unless the script trains nothing."""
        losses = [array for array in script.AXES if re.search(r"(^|_)(loss|bce)$", array)]
        assert losses or sources(script) or name(script) in ("published_formulas", "vae_ceiling")
        for result in finished.results.values():
            for array in losses:
                assert (np.diff(result[array], axis=-1) != 0).all(), array

    def test_that_is_there_is_not_made_again(self, finished):
        before = files(finished.config.results)
        again = start(finished.config)
        assert (again.status, again.err) == (0, "")
        assert sorted(again.out.splitlines()) == sorted(
            f"already there: {path}" for path in finished.folder.glob("*.npz")
        )
        assert files(finished.config.results) == before


@each_script([script for script in SCRIPTS if takes_data(script)])
def test_other_data_of_the_same_name_are_refused(finished, tmp_path):
    before = files(finished.config.results)
    other = str(write_data(tmp_path / "tiny.npz", seed=1))
    ended = start(dataclasses.replace(finished.config, datasets=(other,)))
    assert "other data named tiny" in error_line(ended)
    assert ended.out == ""
    assert files(finished.config.results) == before


def elsewhere(script: ModuleType, finished: Finished, folder: Path) -> Any:
    """The configuration of a run in another folder, which has the checkpoints that it reads."""
    for source in sources(script):
        below = Path("quick") / name(source)
        shutil.copytree(finished.config.results / below, folder / below)
    return dataclasses.replace(finished.config, results=folder)


@each_script(quick=(target_linearity,))
def test_a_run_that_was_interrupted_goes_on_to_the_same_bits(script, finished, tmp_path):
    config, deal = elsewhere(script, finished, tmp_path), runs.deal

    def deal_one(*arguments: Any, **options: Any) -> Iterator:
        yield next(deal(*arguments, **options))
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "deal", deal_one)
        ended = start(config)
    assert ended.status == 130
    assert re.fullmatch("stopped; the same command goes on .+\n", ended.err)
    assert start(config).status == 0
    folder = tmp_path / "quick" / name(script)
    assert_same_bits(read(folder), finished.results)
    assert_same_models(folder, finished.folder)
    assert not any(path.is_file() for path in folder.glob(".partial/**/*"))


@each_script(quick=(target_linearity,))
def test_two_jobs_give_the_bits_of_one_and_overwrite_them(script, finished, tmp_path):
    shutil.copytree(finished.config.results, tmp_path, dirs_exist_ok=True)
    again = dataclasses.replace(finished.config, results=tmp_path, jobs=2, overwrite=True)
    folder = tmp_path / "quick" / name(script)
    before = files(folder)
    assert start(again).status == 0
    after = files(folder)
    assert after.keys() == before.keys()
    assert all(after[path][0] > before[path][0] for path in folder.glob("*.npz"))
    assert_same_bits(read(folder), finished.results)
    assert_same_models(folder, finished.folder)


@each_script([script for script in SCRIPTS if takes_data(script)], quick=(target_linearity,))
def test_rows_of_features_are_taken_or_refused_before_any_work(script, home, tmp_path):
    paths = (str(home / "tiny.npz"), str(write_data(tmp_path / "flat.npz", shape=(6,))))
    config = tiny(script, datasets=paths, results=tmp_path / "results", jobs=1)
    ended = start(config)
    if ended.status == 0:
        labels = [result.label for result in read(config.results / "quick" / name(script)).values()]
        assert set(labels) == {"tiny", "flat"}
    else:
        assert error_line(ended).startswith("error: flat: ")
        assert not config.results.exists()


def other(value: Any, kind: Any) -> Any:
    """Another value of a hyperparameter, in a valid range; None where it has no other."""
    kind = next((k for k in get_args(kind) if get_origin(k) is Literal), kind)  # Literal[…] | str
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != value)
    if isinstance(value, tuple) and len(value) != 1:
        return value[1:] or None
    if isinstance(value, tuple):
        return (other(value[0], None),)
    if isinstance(value, str):
        return f"{value}-other"
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2 * value or 1
    return 1 if value is None else value / 2


def variants(config: Any) -> Iterator[tuple[dataclasses.Field, Any]]:
    """Each hyperparameter of a configuration, and the configuration with another value of it."""
    kinds = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in cli.Common.__dataclass_fields__:
            continue
        if dataclasses.is_dataclass(value):
            for _, nested in variants(value):
                yield field, dataclasses.replace(config, **{field.name: nested})
        elif (another := other(value, kinds[field.name])) is not None:
            yield field, dataclasses.replace(config, **{field.name: another})


class TestPlan:
    @pytest.mark.parametrize("script", SCRIPTS, ids=name)
    def test_every_other_hyperparameter_names_other_files(
        self, script, home, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)  # where the folder of another encoder is made
        datasets = (str(home / "tiny.npz"), str(write_data(tmp_path / "more.npz")))
        config = tiny(script, datasets=datasets, results=tmp_path)
        default = {run.path for run in plan(config)}
        assert default
        changed = set()
        for field, variant in variants(config):
            paths = {run.path for run in plan(variant)}
            if field.metadata.get("each"):
                assert paths != default, field.name  # other results, or fewer
            else:
                assert not paths & default, field.name
            changed.add(field.name)
        common = {field.name for field in dataclasses.fields(cli.Common)}
        empty = {
            field for field in script.Config.__dataclass_fields__ if getattr(config, field) == ()
        }
        assert changed == script.Config.__dataclass_fields__.keys() - common - empty

    def test_momentum_names_no_other_file_for_adam_which_has_none(self, home, tmp_path):
        places = {"datasets": (str(home / "tiny.npz"),), "results": tmp_path}
        config = tiny(target_linearity, optimizer="adam", **places)
        (run,), (other_run,) = (plan(config), plan(dataclasses.replace(config, momentum=0.1)))
        assert run.path == other_run.path

    @pytest.mark.parametrize("script", SCRIPTS, ids=name)
    def test_quick_needs_no_network(self, script, tmp_path, monkeypatch):
        def refuse(*_: Any) -> None:
            raise AssertionError("asks the network")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        config = cli.preset(script, "quick", data=tmp_path / "data", results=tmp_path)
        assert plan(config)
        assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
class TestHelp:
    def test_says_what_the_script_is_for_and_shows_each_field_with_a_text_and_its_default(
        self, script
    ):
        ended = call(script, "--help")
        assert (ended.status, ended.err) == (0, "")
        text = re.sub("[│╭╮╰╯─]", " ", ended.out)
        assert script.__doc__.splitlines()[0] in " ".join(text.split())
        blocks = re.split(r"^ +(?=--?[a-z])", text, flags=re.MULTILINE)
        for field in script.Config.__dataclass_fields__:
            flag = f"--{field.replace('_', '-')}"
            found = [block for block in blocks if re.match(rf"(--.*, )?{flag}[\s,.]", block)]
            assert found, field
            for block in found:
                words = re.sub(
                    r"--[\w.-]+|\{.*?\}|\b[A-Z]+\b|\(default:.*", "", block, flags=re.DOTALL
                )
                assert re.search("[a-z]{3,}", words), field
                assert re.search(r"\(default:\s", block), field

    def test_commands_of_the_docstring_can_be_given(self, script, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        pattern = r"^    (?:python|torchrun [^/]*) src/experiment/(\w+)\.py(.*)$"
        commands = re.findall(pattern, script.__doc__, flags=re.MULTILINE)
        assert "--scale quick" in {words.strip() for _, words in commands} or not script.QUICK
        for called, words in commands:
            assert called == name(script)
            for word in words.split():
                if "/" in word:  # a folder of data
                    Path(word).mkdir(parents=True, exist_ok=True)
            cli.parse(script.Config, script.QUICK, argv=words.split())


RATES = ("learning_rate", "learning_rates", "rates")
TOO_HIGH = 1e30


def has_rate(script: ModuleType) -> bool:
    return not script.Config.__dataclass_fields__.keys().isdisjoint(RATES)


@each_script([script for script in SCRIPTS if not sources(script) and has_rate(script)])
@pytest.mark.filterwarnings("ignore::core.linearity.LostDigits")  # features that blow up
def test_a_rate_at_which_training_diverges_is_no_traceback(script, home, tmp_path):
    places = {"datasets": (str(home / "tiny.npz"),), "results": tmp_path, "jobs": 1}
    default = tiny(script, **places)
    rates = {
        field: (TOO_HIGH,) if isinstance(getattr(default, field), tuple) else TOO_HIGH
        for field in RATES
        if hasattr(default, field)
    }
    assert rates
    ended = start(tiny(script, **places, **rates, epochs=4, time=100 * TOO_HIGH))
    if ended.status != 0 or script is target_linearity:  # units that die leave finite numbers
        assert re.search("diverged.*lower the learning rate", error_line(ended))
