"""Every experiment script from start to end at tiny size, as a user runs it: in its own process, from any folder."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import cli
import data
import results
import whitening
from experiment import target_linearity, whiten, whiten_cnn
from results import Result

EPOCHS, SEEDS, TRAIN, TEST, CLASSES = 2, (0, 3), 60, 40, 3
TINY = [
    "--scale",
    "quick",
    "--epochs",
    str(EPOCHS),
    "--seeds",
    *map(str, SEEDS),
    "--batch-size",
    "16",
    "--device",
    "cpu",
]


@dataclass(frozen=True)
class Case:
    """A script, flags that make it small, and what it should then make."""

    script: ModuleType
    flags: tuple[str, ...]
    names: tuple[str, ...]  # of the results
    sizes: dict[str, int]  # of the axes that all of them have


RATES = ("--learning-rates", "0.1", "0.01", "--newton-schulz-rates", "0.01")
RUNS = ("plain-lr0.1", "plain-lr0.01", "exact-lr0.1", "exact-lr0.01", "newton_schulz-lr0.01")
CASES = {
    "whiten": Case(whiten, (*RATES, "--width", "8"), RUNS, {"learning_rate": 1, "singular_value": 8}),
    "whiten_cnn": Case(whiten_cnn, (*RATES, "--channels", "4"), RUNS, {"learning_rate": 1, "singular_value": 4}),
    "sgd": Case(target_linearity, ("--width", "8"), ("sgd",), {"layer": 4}),
    "adam": Case(target_linearity, ("--width", "8", "--optimizer", "adam"), ("adam",), {"layer": 4}),
}


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


def command(script: ModuleType, *words: object) -> list[str]:
    return [sys.executable, script.__file__, *TINY, *map(str, words)]


def in_process(monkeypatch: pytest.MonkeyPatch, script: ModuleType, *words: object) -> int:
    """Run a script's main in this process, on one job; returns the exit status."""
    monkeypatch.setattr(sys, "argv", [script.__file__, *TINY, "--jobs", "1", *map(str, words)])
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


def bits(array: np.ndarray) -> tuple:
    return array.dtype, array.shape, array.tobytes()


def assert_same_bits(some: dict[str, Result], others: dict[str, Result]) -> None:
    assert some.keys() == others.keys()
    for name in some:
        a, b = some[name].arrays, others[name].arrays
        assert a.keys() == b.keys()
        different = [
            k for k in a if (a[k].dtype, a[k].shape, a[k].tobytes()) != (b[k].dtype, b[k].shape, b[k].tobytes())
        ]
        assert different == [], name


@dataclass(frozen=True)
class Finished:
    case: Case
    process: subprocess.CompletedProcess
    results: Path
    data: Path

    @property
    def words(self) -> tuple[object, ...]:
        return (*self.case.flags, "--datasets", self.data, "--results", self.results)

    def copy(self, to: Path) -> "Finished":
        """The same with a folder of results of its own."""
        shutil.copytree(self.results, to)
        return Finished(self.case, self.process, to, self.data)


@pytest.fixture(scope="module", params=CASES)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A script's run by two jobs, started from a folder that has nothing to do with it."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    (folder / "elsewhere").mkdir()
    path = write_data(folder / "tiny.npz")
    words = command(case.script, *case.flags, "--datasets", "../tiny.npz", "--results", "../results", "--jobs", 2)
    process = subprocess.run(words, cwd=folder / "elsewhere", capture_output=True, text=True, timeout=300, check=False)
    return Finished(case, process, folder / "results", path)


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

    def test_leaves_the_results_and_nothing_else(self, finished):
        folder = finished.results / "quick" / finished.case.script.__name__.rpartition(".")[2]
        found = sorted(path.name.rpartition("-")[0] for path in folder.iterdir() if path.suffix == ".npz")
        assert found == sorted(f"tiny-{name}" for name in finished.case.names)
        assert set(files(finished.results.parent)) == {finished.data, *folder.glob("*.npz")}

    def test_gives_every_array_the_axes_and_sizes_of_the_configuration(self, finished):
        axes = whitening.AXES if finished.case.script is not target_linearity else target_linearity.AXES
        sizes = {"seed": len(SEEDS), "epoch": EPOCHS + 1, **finished.case.sizes}
        for result in read(finished.results).values():
            expected = {name: tuple(sizes[axis] for axis in axes[name]) for name in axes}
            assert {name: array.shape for name, array in result.arrays.items()} == expected
            assert result.meta["axes"] == {name: list(names) for name, names in axes.items()}

    def test_names_the_points_of_each_axis(self, finished):
        for result in read(finished.results).values():
            assert result["seed"].tolist() == list(SEEDS)
            assert result["epoch"].tolist() == [0, 1, 2]
            if "learning_rate" in result.arrays:
                assert result["learning_rate"].tolist() == [result.config["learning_rate"]]
                assert result.meta["name"].endswith(f"lr{result.config['learning_rate']:g}")
            else:
                assert result["layer"].tolist() == [1, 2, 3, 4]

    def test_records_the_configuration_and_the_data(self, finished):
        images = data.load(str(finished.data))
        for result in read(finished.results).values():
            expected = {"dataset": "tiny", "epochs": EPOCHS, "seeds": list(SEEDS), "batch_size": 16}
            assert expected.items() <= result.config.items()
            assert result.meta["data"] == {"name": "tiny", "fingerprint": images.fingerprint}

    def test_gives_finite_numbers_and_shares_between_0_and_1(self, finished):
        shares = ("accuracy", "_tl", "chance")
        for result in read(finished.results).values():
            for name, array in result.arrays.items():
                assert np.isfinite(array).all(), name
                assert (array >= 0).all(), name
                if name.endswith(shares):
                    assert (array <= 1).all(), name

    def test_trains(self, finished):
        for result in read(finished.results).values():
            loss = result["test_loss"]
            assert (loss[..., 1:] != loss[..., :-1]).all()
            assert loss[..., 0] == pytest.approx(np.log(CLASSES), rel=0.2)  # before training nothing is known


class TestASecondRun:
    def test_says_already_there_and_touches_nothing(self, finished, monkeypatch, capsys):
        before = files(finished.results)
        assert in_process(monkeypatch, finished.case.script, *finished.words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert sorted(lines) == sorted(f"already there: {path}" for path in before)
        assert files(finished.results) == before

    def test_gives_the_same_bits_by_one_job_as_by_two(self, finished, monkeypatch, tmp_path):
        words = (*finished.words, "--results", tmp_path / "one")
        assert in_process(monkeypatch, finished.case.script, *words) == 0
        assert_same_bits(read(tmp_path / "one"), read(finished.results))

    def test_overwrites_where_told_to_with_the_same_bits(self, finished, monkeypatch, tmp_path):
        copy = finished.copy(tmp_path / "copy")
        before, arrays = files(copy.results), read(copy.results)
        assert in_process(monkeypatch, copy.case.script, *copy.words, "--overwrite") == 0
        after = files(copy.results)
        assert after.keys() == before.keys()
        assert all(after[path][0] > before[path][0] for path in before)
        assert_same_bits(read(copy.results), arrays)

    def test_with_another_hyperparameter_makes_other_files_beside_the_first(self, finished, monkeypatch, tmp_path):
        copy = finished.copy(tmp_path / "copy")
        before = files(copy.results)
        assert in_process(monkeypatch, copy.case.script, *copy.words, "--batch-size", 20) == 0
        after = files(copy.results)
        assert before.items() <= after.items()
        assert len(after) == 2 * len(before)

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

    def test_on_other_data_of_the_same_name_goes_with_the_remedy(self, finished, monkeypatch, tmp_path):
        copy = finished.copy(tmp_path / "copy")
        other = write_data(tmp_path / "tiny.npz", seed=1)
        assert in_process(monkeypatch, copy.case.script, *copy.words, "--datasets", other, "--overwrite") == 0
        fingerprints = {result.meta["data"]["fingerprint"] for result in read(copy.results).values()}
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
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
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
    script: ModuleType
    words: tuple[object, ...]
    trained: list[int]  # seeds whose training has begun since


@pytest.fixture(params=[whiten, whiten_cnn, target_linearity], ids=lambda m: m.__name__.rpartition(".")[2])
def interrupted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Interrupted:
    """A run of one result that was interrupted while its second replica was trained."""
    home = target_linearity if request.param is target_linearity else whitening
    train_group, trained, stops = home.train_group, [], iter([False, True])

    def train(*arguments):
        trained.extend(replica.seed for replica in arguments[-1])
        if next(stops, False):
            raise KeyboardInterrupt
        return train_group(*arguments)

    monkeypatch.setattr(home, "train_group", train)
    plain = ("--methods", "plain", "--learning-rates", 0.1)
    one = ("--width", 8) if request.param is target_linearity else plain
    words = (*one, "--datasets", write_data(tmp_path / "tiny.npz"), "--results", tmp_path / "results")
    assert in_process(monkeypatch, request.param, *words) == 130
    assert trained == list(SEEDS)
    assert read(tmp_path / "results") == {}
    trained.clear()
    return Interrupted(request.param, words, trained)


class TestInterrupted:
    def test_trains_only_the_replicas_that_are_missing(self, interrupted, monkeypatch):
        assert in_process(monkeypatch, interrupted.script, *interrupted.words) == 0
        assert interrupted.trained == [SEEDS[1]]

    def test_overwrite_trains_all_again(self, interrupted, monkeypatch):
        assert in_process(monkeypatch, interrupted.script, *interrupted.words, "--overwrite") == 0
        assert interrupted.trained == list(SEEDS)

    def test_does_not_mix_in_replicas_of_other_data_of_the_same_name(self, interrupted, monkeypatch, tmp_path):
        words = (*interrupted.words, "--datasets", write_data(tmp_path / "other" / "tiny.npz", seed=1))
        assert in_process(monkeypatch, interrupted.script, *words) == 0
        assert in_process(monkeypatch, interrupted.script, *words, "--results", tmp_path / "fresh") == 0
        assert_same_bits(read(tmp_path / "results"), read(tmp_path / "fresh"))


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

    @pytest.mark.parametrize("script", [whiten, target_linearity], ids=["whiten", "target_linearity"])
    def test_the_mlps_take_rows_of_features(self, script, monkeypatch, tmp_path):
        words = ("--datasets", write_data(tmp_path / "flat.npz", shape=(6,)), "--results", tmp_path / "results")
        assert in_process(monkeypatch, script, *words, "--width", 8) == 0
        assert read(tmp_path / "results")

    def test_targets_of_one_class_are_one_line(self, monkeypatch, capsys, tmp_path):
        path = write_data(tmp_path / "one.npz")
        with np.load(path) as file:
            parts = dict(file) | {"y_test": np.zeros(TEST, int)}
        np.savez(path, **parts)
        words = ("--datasets", path, "--results", tmp_path / "results", "--width", 8)
        assert in_process(monkeypatch, target_linearity, *words) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("script", [whiten, whiten_cnn, target_linearity], ids=lambda m: m.__name__.rpartition(".")[2])
def test_a_rate_at_which_training_diverges_is_no_traceback(script, monkeypatch, capsys, tmp_path):
    rate = "--learning-rate" if script is target_linearity else "--learning-rates"
    one = ("--width", 8) if script is target_linearity else ("--methods", "exact")
    words = (*one, rate, 1e9, "--epochs", 4, "--datasets", write_data(tmp_path / "tiny.npz"))
    status = in_process(monkeypatch, script, *words, "--results", tmp_path / "results")
    assert status in (0, 2)
    assert "Traceback" not in capsys.readouterr().err
