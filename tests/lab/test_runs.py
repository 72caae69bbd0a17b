"""Runs: what is missing is trained together, and a run that was cut off goes on where it was."""

from dataclasses import asdict
from importlib import import_module
from itertools import count

import numpy as np
import pytest

from lab import cli, provenance, results, runs
from lab.cli import Common
from lab.errors import ConfigError, ResultError
from lab.runs import Run
from stand_ins import (
    ALL,
    AXES,
    DATA,
    MADE,
    OTHER_DATA,
    RATES,
    SEEDS,
    Config,
    Trainer,
    assert_whole,
    files,
    interrupt,
    plan,
    train,
)


class TestTrain:
    def test_trains_every_replica_and_saves_each_result(self, tmp_path, capsys):
        planned = plan(tmp_path)
        assert train(planned) == ALL
        assert_whole(planned)
        lines = capsys.readouterr().out.splitlines()
        assert lines == [f"saved {run.path} (0 s)" for run in planned]
        result = results.read(planned[1].path)
        assert result.arrays.keys() == AXES.keys()
        assert (result.name, result.label) == ("mine-lr0.2", "mine")
        assert result.config == {"learning_rate": 0.2, "epochs": 3}
        assert result.meta["axes"] == results.plain(AXES)

    def test_trains_only_what_is_missing_and_touches_nothing_else(self, tmp_path, capsys):
        (there,) = plan(tmp_path, rates=(0.2,))
        train([there])
        before = there.path.stat().st_mtime_ns
        capsys.readouterr()
        assert train(plan(tmp_path)) == ALL[:2]
        assert capsys.readouterr().out.startswith(f"already there: {there.path}\n")
        assert there.path.stat().st_mtime_ns == before
        assert train(plan(tmp_path)) == []

    def test_yields_a_run_as_soon_as_it_is_whole(self, tmp_path):
        trainer = Trainer()
        run, _ = next(runs.train(trainer, plan(tmp_path)))
        assert (run.name, trainer.trained) == ("mine-lr0.1", ALL[:2])

    def test_a_gpu_trains_what_is_missing_of_all_runs_as_one_batch(self, tmp_path, monkeypatch):
        monkeypatch.setattr(provenance, "device_name", lambda device: "a processor")
        monkeypatch.setattr(Common, "resolved_device", "cuda")  # deal hands out a single batch
        first = plan(tmp_path)[0]
        row = {"weight": 0.1 * np.arange(3) + 0.5, **MADE, runs.DEVICE: np.array("a processor")}
        first.partial.put(first.replicas[0], row)
        trainer, planned = Trainer(), plan(tmp_path)
        found = [arrays["weight"] for _, arrays in runs.train(trainer, planned)]
        assert trainer.trained == [[(0.1, 5), (0.2, 0), (0.2, 5)]]
        expected = np.array(RATES)[:, None, None] * np.arange(3) + np.array(SEEDS)[:, None] + 0.5
        np.testing.assert_array_equal(found, expected)

    def test_overwrite_trains_everything_again(self, tmp_path):
        train(plan(tmp_path))
        before = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
        assert train(plan(tmp_path, overwrite=True)) == ALL
        assert files(tmp_path) == before.keys()
        assert all(path.stat().st_mtime_ns > then for path, then in before.items())

    def test_the_number_of_jobs_is_the_configurations_unless_given(self, tmp_path, monkeypatch):
        asked = []

        def deal(*_, jobs, **__):
            asked.append(jobs)
            return iter(())

        monkeypatch.setattr(runs, "deal", deal)
        for jobs in (None, 3):
            assert list(runs.train(Trainer(), plan(tmp_path, jobs=7), jobs)) == []
        assert asked == [7, 3]


class TestResume:
    @pytest.mark.parametrize("done", [1, 2, 3])
    def test_trains_only_the_replicas_that_are_not_done(self, tmp_path, done):
        interrupt(plan(tmp_path), after=done)
        assert len(list(tmp_path.glob("paper/experiment/*.npz"))) == done // 2
        assert train(plan(tmp_path)) == ALL[done:]
        assert_whole(plan(tmp_path))

    def test_a_damaged_replica_is_trained_again(self, tmp_path):
        interrupt(plan(tmp_path), after=1)
        (path,) = files(tmp_path)
        path.write_bytes(path.read_bytes()[:50])
        assert train(plan(tmp_path)) == ALL

    @pytest.mark.parametrize(
        "change",
        [
            {"arrays": {}},
            {"arrays": {"weight": np.zeros(3)}},
            {"arrays": {"weight": np.zeros(3), **MADE, runs.SECONDS: np.zeros(2)}},
            {"arrays": {"weight": np.zeros(3), **MADE, runs.DEVICE: np.array("\x1b[2J")}},
            {"diverged": "soon", "message": "x"},
            {"diverged": 1},
            {"diverged": 1, "message": "\x1b[2J"},
            {"diverged": True, "message": "x"},
        ],
        ids=str,
    )
    def test_a_forged_replica_is_trained_again(self, change, tmp_path):
        first = plan(tmp_path)[0]
        meta = {"replica": results.plain(asdict(first.replicas[0])), **change}
        arrays = meta.pop("arrays", MADE)
        results.write_npz(first.partial._path(first.replicas[0]), arrays, meta)
        assert train(plan(tmp_path)) == ALL
        assert_whole(plan(tmp_path))

    def test_a_forged_replica_of_other_shapes_is_one_line(self, tmp_path):
        first = plan(tmp_path)[0]
        first.partial.put(first.replicas[0], {"more": np.zeros(4), **MADE})
        with pytest.raises(ResultError, match=r"mine-lr0\.1 is of other shapes: remove its"):
            train(plan(tmp_path))

    def test_overwrite_sees_no_replica_of_before(self, tmp_path):
        interrupt(plan(tmp_path), after=3)
        assert train(plan(tmp_path, overwrite=True)) == ALL
        assert_whole(plan(tmp_path))

    def test_an_overwrite_that_was_interrupted_goes_on_once_and_the_next_begins_anew(
        self, tmp_path
    ):
        train(plan(tmp_path))
        interrupt(plan(tmp_path, overwrite=True), after=1)
        assert train(plan(tmp_path)) == []  # all is there, and what is kept stays
        assert train(plan(tmp_path, overwrite=True)) == ALL[1:]
        assert_whole(plan(tmp_path))
        assert train(plan(tmp_path, overwrite=True)) == ALL

    def test_what_a_kill_after_saving_left_is_cleaned_and_nothing_of_other_runs(self, tmp_path):
        first, second = plan(tmp_path)
        interrupt([second], after=1)
        others = files(tmp_path)
        interrupt([first], after=1)
        (kept,) = files(tmp_path) - others
        copy = kept.read_bytes()
        train([first])
        kept.parent.mkdir(parents=True)
        kept.write_bytes(copy)  # as if it had been killed before it was removed
        first.partial.lock.touch()
        assert train([first]) == []
        assert files(tmp_path) == others | {first.path}

    def test_replicas_of_other_settings_are_not_mixed_in(self, tmp_path):
        interrupt(plan(tmp_path), after=1)
        assert train(plan(tmp_path, epochs=4)) == ALL
        assert train(plan(tmp_path, noise=0.75)) == ALL  # the same run, of other replicas
        assert results.read(plan(tmp_path)[0].path)["weight"][0, 0] == 0.75

    def test_seconds_add_up_over_interruptions_and_runs(self, tmp_path, monkeypatch):
        ticks = count(step=10)
        monkeypatch.setattr(runs.time, "perf_counter", lambda: next(ticks))  # 10 s a replica
        interrupt(plan(tmp_path), after=1)
        train(plan(tmp_path))
        seconds = [results.read(run.path).meta["seconds"] for run in plan(tmp_path)]
        assert seconds == [20, 20]


class TestMissing:
    @pytest.fixture
    def there(self, tmp_path, monkeypatch):
        """A result of the commit 0123456789ab."""
        monkeypatch.setattr(provenance, "commit", lambda: "0123456789ab")
        (run,) = plan(tmp_path, rates=(0.1,))
        train([run])
        return run

    def test_says_where_a_result_is_there(self, there, capsys):
        capsys.readouterr()
        assert not there.missing()
        assert capsys.readouterr().out == f"already there: {there.path}\n"

    @pytest.mark.parametrize(
        ("commit", "words"),
        [
            ("ba9876543210", "commit ba9876543210"),
            ("0123456789ab-dirty", "commit 0123456789ab with uncommitted changes"),
            ("unknown", "an unknown commit"),
        ],
    )
    def test_says_where_the_program_has_changed_since(
        self, there, commit, words, monkeypatch, capsys
    ):
        monkeypatch.setattr(provenance, "commit", lambda: commit)
        capsys.readouterr()
        assert not there.missing()
        line = f"already there: {there.path} by commit 0123456789ab; this is {words}, "
        assert capsys.readouterr().out == f"{line}--overwrite makes it again\n"

    def test_refuses_a_result_of_other_data_with_the_remedy(self, there, tmp_path):
        (other,) = plan(tmp_path, rates=(0.1,), source=OTHER_DATA)
        with pytest.raises(ResultError, match=r"other data named mine: .*--overwrite") as caught:
            other.missing()
        assert str(there.path) in str(caught.value)
        assert "\n" not in str(caught.value)
        (again,) = plan(tmp_path, rates=(0.1,), source=OTHER_DATA, overwrite=True)
        assert again.missing()


def test_paths_differ_by_folder_scale_experiment_and_name(tmp_path):
    def path(config, experiment="experiment", name="mine"):
        return Run(config, experiment, name, {"epochs": 3}, DATA, {}, ()).path

    first = path(Config(results=tmp_path))
    assert first.parent == tmp_path / "paper" / "experiment"
    assert first.name == f"mine-{results.digest({'epochs': 3})}.npz"
    others = [path(Config()), path(Config(results=tmp_path, scale="quick"))]
    others += [path(Config(results=tmp_path), "other"), path(Config(results=tmp_path), name="b")]
    assert len({first, *others}) == 5


def test_unflatten_makes_the_replica_axis_a_grid_in_row_major_order():
    arrays = {"value": np.arange(12).reshape(6, 2), "seconds": np.arange(6)}
    found = runs.unflatten(arrays, 2, 3)
    assert found["seconds"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["value"].shape == (2, 3, 2)
    assert found["value"][1, 0].tolist() == arrays["value"][3].tolist()


class TestNames:
    """Rates .052417 and .091583 have the same first eight digits of a digest, found by search."""

    def run(self, folder, rate, **changes):
        config = Config(results=folder, **changes)
        settings = {"a": rate, **config.hyperparameters()}
        return Run(config, "experiment", "mine", settings, DATA, {}, ())

    def save(self, run, path):
        meta = results.make_meta("experiment", "mine", run.settings, {}, DATA, "cpu", 0)
        results.write(path, results.Result({}, meta))

    @pytest.fixture
    def short(self, monkeypatch):
        """Digests of which the first digits are all the same."""
        digest = results.digest

        def same(settings, earlier=None, digits=results.DIGITS):
            whole = digest(settings, earlier, digits)
            return "0" * 8 + whole[8:]

        monkeypatch.setattr(results, "digest", same)

    @pytest.mark.usefixtures("short")
    def test_a_result_of_before_keeps_its_name_and_another_takes_it_for_none_of_its(self, tmp_path):
        first, second = (self.run(tmp_path, rate) for rate in (0.1, 0.2))
        before = first.path.with_name("mine-00000000.npz")
        self.save(first, before)
        mine, other = self.run(tmp_path, 0.1), self.run(tmp_path, 0.2)
        assert (mine.path, mine.missing()) == (before, False)
        assert (other.path, other.missing()) == (second.path, True)
        assert self.run(tmp_path, 0.1, overwrite=True).path == before
        assert self.run(tmp_path, 0.2, overwrite=True).path == second.path

    @pytest.mark.usefixtures("short")
    def test_a_damaged_result_of_before_is_named_and_overwritten(self, tmp_path):
        before = self.run(tmp_path, 0.1).path.with_name("mine-00000000.npz")
        before.parent.mkdir(parents=True)
        before.write_bytes(b"damaged")
        with pytest.raises(ResultError, match=r"mine-00000000\.npz is not a result"):
            self.run(tmp_path, 0.1).missing()
        assert self.run(tmp_path, 0.1, overwrite=True).path == before

    @pytest.mark.parametrize("change", [{"a": 0.2}, {"a": "0.1"}, {"b": 1}])
    def test_a_result_of_another_configuration_is_refused(self, change, tmp_path):
        run = self.run(tmp_path, 0.1)
        other = Run(run.config, run.experiment, run.name, {**run.settings, **change}, DATA, {}, ())
        self.save(other, run.path)
        with pytest.raises(ResultError, match=f"was made with another {next(iter(change))}: move"):
            self.run(tmp_path, 0.1).missing()

    def test_every_committed_result_is_found_by_its_name(self):
        paths = [*(cli.ROOT / "results" / "paper").glob("*/*.npz")]
        for path in paths:
            found = results.read(path)
            name, _, digits = path.stem.rpartition("-")
            assert name == found.name
            if results.digest(found.config, digits=len(digits)) != digits:
                earlier = cli.preset(import_module(f"experiment.{path.parent.name}")).earlier
                assert results.digest(found.config, earlier, len(digits)) == digits
        assert paths


def test_a_replica_of_nothing_but_nan_is_an_error_and_nothing_is_saved(tmp_path):
    def measure(replicas):
        rows = np.array([[np.nan, r.seed or np.nan, np.nan] for r in replicas])
        return {"weight": rows}

    with pytest.raises(ResultError, match=r"mine-lr0.1, seed 0.*: weight is nan throughout, so"):
        list(runs.train(measure, plan(tmp_path)))
    assert files(tmp_path) == set()


@pytest.mark.parametrize("name", ["..", "a/b", "../a", "a\x1b[2J", "a\nb"])
def test_a_name_never_leaves_its_folder(name):
    with pytest.raises(ConfigError, match="cannot be the name of a file"):
        _ = Run(Config(), "experiment", name, {}, DATA, {}, ()).path
