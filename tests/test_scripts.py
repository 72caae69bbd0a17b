"""Every experiment script from start to end at tiny size, as a user runs it: in its own process, from any folder."""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import cli
import data
import results
import whitening
from experiment import (
    grokking,
    random_label,
    staircase,
    target_linearity,
    vae_target_linearity,
    vae_train,
    whiten,
    whiten_cnn,
)
from results import Result

EPOCHS, SEEDS, TRAIN, TEST, CLASSES = 2, (0, 3), 60, 40, 10
IMAGE = {"channel": 1, "row": 8, "column": 8}


@dataclass(frozen=True)
class Case:
    """A script, flags that make it small, and what it should then make."""

    script: ModuleType
    flags: tuple[object, ...]
    names: tuple[str, ...]  # of the results
    sizes: dict[str, int]  # of the axes that all of them have
    one: tuple[object, ...] = ()  # flags with which it makes one result
    axis: str = ""  # along which each result has one value, which it is named after
    loss: tuple[str, float] | None = None  # array that training lowers, and its value while nothing is known, or nan
    data: bool = True  # whether it takes --datasets
    after: str = ""  # the case that must have run before
    trains: tuple[ModuleType, str] | None = None  # function that is given replicas; train_group of the script
    other: tuple[object, ...] = ("--batch-size", 20)  # another hyperparameter
    jobs: int = 1  # of the run in a process of its own; one in this process then has two

    @property
    def home(self) -> tuple[ModuleType, str]:
        return self.trains or (self.script, "train_group")

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        return getattr(self.script, "AXES", whitening.AXES)


RATES = ("--learning-rates", 0.1, 0.01, "--newton-schulz-rates", 0.01)
RUNS = ("plain-lr0.1", "plain-lr0.01", "exact-lr0.1", "exact-lr0.01", "newton_schulz-lr0.01")
CLASSIFIER = ("test_loss", np.log(CLASSES))
WHITEN = {
    "names": tuple(f"tiny-{name}" for name in RUNS),
    "one": ("--methods", "plain", "--learning-rates", 0.1),
    "axis": "learning_rate",
    "loss": CLASSIFIER,
    "trains": (whitening, "train_group"),
}
NARROW = ("--width", 8)
LINEARITY = {"sizes": {"layer": 4}, "one": NARROW, "loss": CLASSIFIER}
AUTOENCODER = ("--hidden", 8, "--latent", 3)
ADDITION = (*NARROW, "--modulus", 7)
POINTS = ("--samples", 30, "--every", 1)
CASES = {
    "whiten": Case(whiten, (*RATES, *NARROW), sizes={"singular_value": 8}, jobs=2, **WHITEN),
    "whiten_cnn": Case(whiten_cnn, (*RATES, "--channels", 4), sizes={"singular_value": 4}, **WHITEN),
    "sgd": Case(target_linearity, NARROW, ("tiny-sgd",), **LINEARITY),
    "adam": Case(target_linearity, (*NARROW, "--optimizer", "adam"), ("tiny-adam",), **LINEARITY),
    "random_label": Case(
        random_label,
        (*NARROW, "--every", 1, "--probabilities", 0.0, 0.5),
        ("tiny-p0.0", "tiny-p0.5"),
        {"layer": 3, "train_sample": TRAIN, "test_sample": TEST},
        one=(*NARROW, "--every", 1, "--probabilities", 0.5),
        axis="probability",
        loss=CLASSIFIER,
    ),
    "grokking": Case(
        grokking,
        (*ADDITION, "--weight-decays", 0.0, 1.0),
        ("addition_mod_7-wd0.0", "addition_mod_7-wd1.0"),
        {"layer": 3},
        one=(*ADDITION, "--weight-decays", 1.0),
        axis="weight_decay",
        loss=("test_loss", np.log(7)),
        data=False,
    ),
    "staircase": Case(
        staircase,
        (*POINTS, "--widths", 8, 6),
        ("width8", "width6"),
        {},
        one=(*POINTS, "--widths", 8),
        loss=("loss", np.nan),
        data=False,
        other=("--samples", 20),
    ),
    "vae_train": Case(
        vae_train,
        (*AUTOENCODER, "--betas", 0.1, 1.0),
        ("tiny-beta0.1", "tiny-beta1.0"),
        {},
        one=(*AUTOENCODER, "--betas", 1.0),
        axis="beta",
        loss=("test_bce", 64 * np.log(2)),
    ),
    "vae_target_linearity": Case(
        vae_target_linearity,
        (*AUTOENCODER, "--betas", 0.1, 1.0, "--pairs", 5, "--steps", 4, "--shown-epochs", 2),
        ("tiny",),
        {"beta": 2, "shown_epoch": 2, "lambda": 4, "image": CLASSES, **IMAGE},
        one=(*AUTOENCODER, "--betas", 1.0, "--pairs", 5),
        after="vae_train",
        trains=(vae_target_linearity, "measure"),
        other=("--pairs", 6),
    ),
}


def cases(**wanted: object) -> pytest.MarkDecorator:
    """Only those of CASES whose fields have these values."""
    names = [name for name, case in CASES.items() if all(getattr(case, key) == v for key, v in wanted.items())]
    return pytest.mark.parametrize("finished", names, indirect=True, scope="module")


def write_data(path: Path, seed: int = 0, shape: tuple[int, ...] = (8, 8)) -> Path:
    """A few dozen random images, or rows of floats where the shape has one axis."""
    rng = np.random.default_rng(seed)
    parts = {}
    for part, n in (("train", TRAIN), ("test", TEST)):
        x = rng.integers(0, 256, (n, *shape)).astype(np.uint8)
        parts |= {f"x_{part}": x if len(shape) > 1 else x / 255, f"y_{part}": np.arange(n) % CLASSES}
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **parts)
    return path


def arguments(script: ModuleType, *words: object) -> list[str]:
    """A command line without the interpreter."""
    tiny = ["--scale", "quick", "--epochs", EPOCHS, "--seeds", *SEEDS, "--device", "cpu"]
    tiny += ["--batch-size", 16] if hasattr(script.Config, "batch_size") else []
    return [script.__file__, *map(str, (*tiny, *words))]


def command(script: ModuleType, *words: object) -> list[str]:
    return [sys.executable, *arguments(script, *words)]


def in_process(monkeypatch: pytest.MonkeyPatch, script: ModuleType, *words: object, jobs: int = 1) -> int:
    """Run a script's main in this process; returns the exit status."""
    monkeypatch.setattr(sys, "argv", arguments(script, "--jobs", jobs, *words))
    data.load.cache_clear()
    try:
        cli.run(script.main)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def files(root: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file below a folder, with its time of change and content."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}


def read(root: Path) -> dict[str, Result]:
    """All results below a folder by file name."""
    return {path.name: results.load(path) for path in root.rglob("*.npz") if ".partial" not in path.parts}


def assert_same_bits(some: dict[str, Result], others: dict[str, Result]) -> None:
    assert some.keys() == others.keys()
    for name in some:
        a, b = some[name].arrays, others[name].arrays
        assert a.keys() == b.keys()
        different = [
            k for k in a if (a[k].dtype, a[k].shape, a[k].tobytes()) != (b[k].dtype, b[k].shape, b[k].tobytes())
        ]
        assert different == [], name


def assert_same_checkpoints(some: Path, others: Path) -> None:
    """Those below two folders hold the same bits."""
    a, b = ({path.relative_to(root): torch.load(path) for path in root.rglob("*.pt")} for root in (some, others))
    assert a.keys() == b.keys()
    for name in a:
        assert a[name]["made"] == b[name]["made"], name
        for key, value in a[name]["state"].items():
            assert torch.equal(value, b[name]["state"][key]), (name, key)


@dataclass(frozen=True)
class Finished:
    case: Case
    process: subprocess.CompletedProcess
    results: Path
    data: Path
    before: frozenset[Path]  # files that were there before the run

    @property
    def folder(self) -> Path:
        return self.results / "quick" / self.case.script.__name__.rpartition(".")[2]

    @property
    def words(self) -> tuple[object, ...]:
        return (*self.case.flags, *(("--datasets", self.data) if self.case.data else ()), "--results", self.results)

    @property
    def made(self) -> dict[str, Result]:
        return read(self.folder)

    def copy(self, to: Path) -> "Finished":
        """The same with a folder of results of its own."""
        shutil.copytree(self.results, to)
        return replace(self, results=to)

    def not_yet_run(self, to: Path) -> "Finished":
        """The same with a folder that holds what was there before the run."""
        shutil.copytree(self.results, to, ignore=lambda _, names: {self.folder.name} & set(names))
        return replace(self, results=to)


@pytest.fixture(scope="module", params=CASES)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A script's run in a process of its own, started from a folder that has nothing to do with it."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    (folder / "elsewhere").mkdir()
    path = write_data(folder / "tiny.npz")
    where = ("--results", "../results", *(("--datasets", "../tiny.npz") if case.data else ()))
    if case.after:
        earlier = CASES[case.after]
        with pytest.MonkeyPatch.context() as patch:
            there = ("--results", folder / "results", "--datasets", path)
            assert in_process(patch, earlier.script, *earlier.flags, *there) == 0
    before = frozenset(files(folder))
    words = command(case.script, *case.flags, *where, "--jobs", case.jobs)
    process = subprocess.run(words, cwd=folder / "elsewhere", capture_output=True, text=True, timeout=300, check=False)
    return Finished(case, process, folder / "results", path, before)


class TestARun:
    def test_ends_well_and_says_what_it_saved(self, finished):
        assert finished.process.returncode == 0, finished.process.stderr
        lines = finished.process.stdout.splitlines()
        assert len(lines) == len(finished.case.names)
        assert all(line.startswith("saved ") for line in lines)

    def test_draws_no_progress_bar_where_there_is_no_terminal(self, finished):
        for stream in (finished.process.stdout, finished.process.stderr):
            assert "\r" not in stream
            assert "%|" not in stream

    def test_leaves_the_results_and_checkpoints_of_what_is_trained_and_nothing_else(self, finished):
        found = sorted(path.name.rpartition("-")[0] for path in finished.folder.glob("*.npz"))
        assert found == sorted(finished.case.names)
        checkpoints = set(finished.folder.glob("*/*.pt"))
        assert len(checkpoints) == (2 * len(SEEDS) * (EPOCHS + 2) if finished.case.script is vae_train else 0)
        assert set(files(finished.results.parent)) == {*finished.before, *finished.folder.glob("*.npz"), *checkpoints}

    def test_gives_every_array_the_axes_and_sizes_of_the_configuration(self, finished):
        axes = finished.case.axes
        sizes = {"seed": len(SEEDS), "epoch": EPOCHS + 1, finished.case.axis: 1, **finished.case.sizes}
        for result in finished.made.values():
            expected = {name: tuple(sizes[axis] for axis in axes[name]) for name in axes}
            assert {name: array.shape for name, array in result.arrays.items()} == expected
            assert result.meta["axes"] == {name: list(names) for name, names in axes.items()}

    def test_names_the_points_of_each_axis(self, finished):
        for result in finished.made.values():
            assert result["seed"].tolist() == list(SEEDS)
            assert result["epoch"].tolist() == [0, 1, 2]
            if "layer" in result.arrays:
                assert result["layer"].tolist() == list(range(1, finished.case.sizes["layer"] + 1))
            if axis := finished.case.axis:
                assert result[axis].tolist() == [result.config[axis]]
                assert float(re.search(r"[\d.]+$", result.meta["name"])[0]) == result.config[axis]

    def test_records_the_configuration_and_the_data(self, finished):
        expected = {"epochs": EPOCHS, "seeds": list(SEEDS)}
        expected |= {"batch_size": 16} if hasattr(finished.case.script.Config, "batch_size") else {}
        expected |= {"dataset": "tiny"} if finished.case.data else {}
        for result in finished.made.values():
            assert expected.items() <= result.config.items()
            if finished.case.data:
                fingerprint = data.load(str(finished.data)).fingerprint
                assert result.meta["data"] == {"name": "tiny", "fingerprint": fingerprint}
            else:
                assert re.fullmatch("[0-9a-f]{16}", result.meta["data"]["fingerprint"])

    def test_gives_finite_numbers_and_shares_between_0_and_1(self, finished):
        for result in finished.made.values():
            for name, array in result.arrays.items():
                assert np.isfinite(array).all(), name
                assert (array >= 0).all(), name
                if re.search(r"(^|_)(accuracy|tl|chance)(_true)?$", name):
                    assert (array <= 1).all(), name

    def test_trains(self, finished):
        if finished.case.loss is None:
            assert finished.case.after  # it measures what another script trains
            return
        name, untrained = finished.case.loss
        for result in finished.made.values():
            loss = result[name]
            assert (loss[..., 1:] != loss[..., :-1]).all()
            assert np.isnan(untrained) or loss[..., 0] == pytest.approx(untrained, rel=0.2)


class TestASecondRun:
    def test_says_already_there_and_touches_nothing(self, finished, monkeypatch, capsys):
        before = files(finished.results)
        assert in_process(monkeypatch, finished.case.script, *finished.words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert sorted(lines) == sorted(f"already there: {path}" for path in finished.folder.glob("*.npz"))
        assert files(finished.results) == before

    def test_gives_the_same_bits_by_one_job_as_by_two(self, finished, monkeypatch, tmp_path):
        again = finished.not_yet_run(tmp_path / "again")
        assert in_process(monkeypatch, again.case.script, *again.words, jobs=3 - again.case.jobs) == 0
        assert_same_bits(again.made, finished.made)
        assert_same_checkpoints(again.folder, finished.folder)

    def test_overwrites_where_told_to_with_the_same_bits(self, finished, monkeypatch, tmp_path):
        copy = finished.copy(tmp_path / "copy")
        before, arrays = files(copy.folder), copy.made
        assert in_process(monkeypatch, copy.case.script, *copy.words, "--overwrite") == 0
        after = files(copy.folder)
        assert after.keys() == before.keys()
        assert all(after[path][0] > before[path][0] for path in before)
        assert_same_bits(copy.made, arrays)
        assert_same_checkpoints(copy.folder, finished.folder)

    def test_with_another_hyperparameter_makes_other_files_beside_the_first(self, finished, monkeypatch, tmp_path):
        copy = finished.copy(tmp_path / "copy")
        before = files(copy.results)
        assert in_process(monkeypatch, copy.case.script, *copy.words, *copy.case.other) == 0
        assert before.items() <= files(copy.results).items()
        assert len(copy.made) == 2 * len(finished.made)

    @cases(data=True)
    def test_on_other_data_of_the_same_name_is_refused_with_the_remedy(self, finished, monkeypatch, capsys, tmp_path):
        before = files(finished.results)
        other = write_data(tmp_path / "tiny.npz", seed=1)
        assert in_process(monkeypatch, finished.case.script, *finished.words, "--datasets", other) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert "--overwrite" in err
        assert files(finished.results) == before

    @cases(data=True, after="")
    def test_on_other_data_of_the_same_name_goes_with_the_remedy(self, finished, monkeypatch, tmp_path):
        copy = finished.copy(tmp_path / "copy")
        other = write_data(tmp_path / "tiny.npz", seed=1)
        assert in_process(monkeypatch, copy.case.script, *copy.words, "--datasets", other, "--overwrite") == 0
        fingerprints = {result.meta["data"]["fingerprint"] for result in copy.made.values()}
        assert fingerprints == {data.load(str(other)).fingerprint}


LONG = ("--epochs", 60, "--batch-size", 2, "--width", 8)
RESUMED = {
    "whiten": (whiten, (*LONG, "--seeds", 0, 1, 2, "--methods", "exact", "--learning-rates", 0.01), 1),
    "target_linearity": (target_linearity, (*LONG, "--seeds", 0, 1, 2, 3, 4), 2),
}


@pytest.fixture(params=RESUMED)
def killed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ModuleType, tuple[object, ...]]:
    """A run that was killed after its first replicas, and the words that start it again."""
    script, words, jobs = RESUMED[request.param]
    words = (*words, "--datasets", write_data(tmp_path / "tiny.npz"), "--results", tmp_path / "killed")
    process = subprocess.Popen(
        command(script, *words, "--jobs", jobs), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("killed/quick/*/.partial/*/*/*.npz")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    output, _ = process.communicate(timeout=60)  # ends when its workers have ended too
    assert process.returncode == -signal.SIGKILL, output
    return script, words


def test_a_killed_run_goes_on_to_the_bits_of_one_that_was_not(killed, monkeypatch, tmp_path):
    script, words = killed
    assert read(tmp_path / "killed") == {}
    assert in_process(monkeypatch, script, *words) == 0
    assert in_process(monkeypatch, script, *words, "--results", tmp_path / "whole") == 0
    assert len(read(tmp_path / "whole")) == 1
    assert_same_bits(read(tmp_path / "killed"), read(tmp_path / "whole"))
    assert set(files(tmp_path / "killed")) == set(tmp_path.glob("killed/quick/*/*.npz"))  # no replica is left behind


ENDLESS = """
import sys, time
from pathlib import Path

sys.path.insert(0, {source!r})
import cli
from training import Replica, train_all


def train_group(replicas):
    Path(str(replicas[0].seed)).touch()
    if {broken} and replicas[0].seed == 0:
        raise cli.ConfigError("the first replica cannot be trained")
    time.sleep(600)


if __name__ == "__main__":
    cli.run(lambda: train_all(train_group, [Replica(seed) for seed in range(6)], device="cpu", jobs=2))
"""


@pytest.mark.parametrize(
    ("broken", "status", "line"),
    [(True, 2, "error: the first replica"), (False, 130, "stopped; ")],
    ids=["an error", "an interruption"],
)
def test_what_stops_one_of_two_jobs_stops_both_at_once_with_one_line(tmp_path, broken, status, line):
    (tmp_path / "endless.py").write_text(ENDLESS.format(source=str(Path(cli.__file__).parent), broken=broken))
    words = [sys.executable, "endless.py"]
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # where the tests run in the background
    with subprocess.Popen(
        words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heard
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while not broken and len(list(tmp_path.glob("[0-9]"))) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            if not broken:
                os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to every process of the run
            _, err = process.communicate(timeout=40)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == status
    assert err.startswith(line)
    assert err.count("\n") == 1


@dataclass(frozen=True)
class Interrupted:
    case: Case
    words: tuple[object, ...]
    results: Path
    trained: list[int]  # seeds whose training has begun since

    def again(self, monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
        return in_process(monkeypatch, self.case.script, *self.words, *words)


def interrupt(case: Case, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Interrupted:
    """A run of one result that is interrupted while its second replica is trained."""
    results, home = folder / "results", case.home
    train_group, trained, stops = getattr(*home), [], iter([False, True])

    def train(*arguments):
        trained.extend(replica.seed for replica in arguments[-1])
        if next(stops, False):
            raise KeyboardInterrupt
        return train_group(*arguments)

    given = ("--datasets", write_data(folder / "tiny.npz")) if case.data else ()
    words = (*given, "--results", results)
    if case.after:
        earlier = CASES[case.after]
        assert in_process(monkeypatch, earlier.script, *earlier.one, *words) == 0
    monkeypatch.setattr(*home, train)
    assert in_process(monkeypatch, case.script, *case.one, *words) == 130
    assert trained == list(SEEDS)
    trained.clear()
    return Interrupted(case, (*case.one, *words), results, trained)


@pytest.fixture(params=[name for name in CASES if name != "adam"])
def interrupted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Interrupted:
    return interrupt(CASES[request.param], monkeypatch, tmp_path)


class TestInterrupted:
    def test_trains_only_the_replicas_that_are_missing(self, interrupted, monkeypatch):
        assert interrupted.again(monkeypatch) == 0
        assert interrupted.trained == [SEEDS[1]]

    def test_overwrite_trains_all_again(self, interrupted, monkeypatch):
        assert interrupted.again(monkeypatch, "--overwrite") == 0
        assert interrupted.trained == list(SEEDS)

    @pytest.mark.parametrize("name", ["whiten", "whiten_cnn", "sgd", "random_label", "vae_train"])
    def test_does_not_mix_in_replicas_of_other_data_of_the_same_name(self, name, monkeypatch, tmp_path):
        interrupted = interrupt(CASES[name], monkeypatch, tmp_path)
        words = ("--datasets", write_data(tmp_path / "other" / "tiny.npz", seed=1))
        assert interrupted.again(monkeypatch, *words) == 0
        assert interrupted.again(monkeypatch, *words, "--results", tmp_path / "fresh") == 0
        assert_same_bits(read(interrupted.results), read(tmp_path / "fresh"))
        assert_same_checkpoints(interrupted.results, tmp_path / "fresh")


class TestUnfitData:
    def test_the_cnn_refuses_rows_of_features_in_one_line(self, tmp_path):
        flat = write_data(tmp_path / "flat.npz", shape=(6,))
        words = command(whiten_cnn, "--datasets", flat, "--results", tmp_path / "results", "--jobs", 2)
        process = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert process.returncode == 2
        assert process.stdout == ""
        assert process.stderr.startswith("error: flat: ")
        assert process.stderr.count("\n") == 1
        assert set(files(tmp_path)) == {flat}

    @pytest.mark.parametrize("shape", [(6,), (3, 8), (8, 3, 3)], ids=str)
    def test_the_cnn_refuses_them_before_it_trains_on_the_others(self, shape, monkeypatch, capsys, tmp_path):
        images, unfit = write_data(tmp_path / "images.npz"), write_data(tmp_path / "unfit.npz", shape=shape)
        words = ("--datasets", images, unfit, "--results", tmp_path / "results")
        assert in_process(monkeypatch, whiten_cnn, *words, "--methods", "plain") == 2
        err = capsys.readouterr().err
        assert err.startswith("error: unfit: ")
        assert err.count("\n") == 1
        assert set(files(tmp_path)) == {images, unfit}

    @pytest.mark.parametrize("name", ["whiten", "sgd", "random_label"])
    def test_the_mlps_take_rows_of_features(self, name, monkeypatch, tmp_path):
        words = ("--datasets", write_data(tmp_path / "flat.npz", shape=(6,)), "--results", tmp_path / "results")
        assert in_process(monkeypatch, CASES[name].script, *words, "--width", 8) == 0
        assert read(tmp_path / "results")

    def test_targets_of_one_class_are_one_line(self, monkeypatch, capsys, tmp_path):
        path = write_data(tmp_path / "one.npz")
        with np.load(path) as file:
            parts = dict(file) | {"y_test": np.zeros(TEST, int)}
        np.savez(path, **parts)
        words = ("--datasets", path, "--results", tmp_path / "results", "--width", 8)
        assert in_process(monkeypatch, target_linearity, *words) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["whiten", "whiten_cnn", "sgd", "random_label", "grokking", "staircase", "vae_train"])
def test_a_rate_at_which_training_diverges_is_no_traceback(name, monkeypatch, capsys, tmp_path):
    case = CASES[name]
    rate = ("--learning-rates" if case.script in (whiten, whiten_cnn) else "--learning-rate", 1e9)
    given = ("--datasets", write_data(tmp_path / "tiny.npz")) if case.data else ()
    words = (*case.one, *rate, "--epochs", 4, *given, "--results", tmp_path / "results")
    assert in_process(monkeypatch, case.script, *words) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err
