"""What is kept of a result that is not yet whole; who makes it; what is in the way."""

import json
import os
from dataclasses import asdict, replace
from typing import ClassVar

import numpy as np
import pytest

from lab import results, runs
from lab.errors import Diverged, ResultError
from lab.partial import Partial
from lab.replicas import Replica
from stand_ins import ALL, MADE, RATES, SEEDS, Trainer, files, interrupt, plan, train


class TestPartial:
    REPLICA = Replica(0, {"lr": 0.1})
    ARRAYS: ClassVar = {"a": np.random.default_rng(0).random(3), "b": np.array(2)}

    def partial(self, folder, key="key"):
        return Partial(folder / "result.npz", key)

    def path(self, folder):
        (path,) = (folder / ".partial" / "result" / "key").iterdir()
        return path

    def test_gives_back_what_was_put_of_each_replica(self, tmp_path):
        self.partial(tmp_path).put(self.REPLICA, self.ARRAYS)
        found = self.partial(tmp_path).get(self.REPLICA)
        assert found.keys() == self.ARRAYS.keys()
        assert all(np.array_equal(found[name], self.ARRAYS[name]) for name in found)
        others = [Replica(1, {"lr": 0.1}), Replica(0, {"lr": 0.2}), Replica(0, {}, {"lr": 0.1})]
        assert all(self.partial(tmp_path).get(other) is None for other in others)
        assert self.partial(tmp_path, "other").get(self.REPLICA) is None

    def test_gives_back_what_another_processor_made_where_that_is_wanted(self, tmp_path):
        self.partial(tmp_path, "key-H200").put(self.REPLICA, self.ARRAYS)
        here = self.partial(tmp_path, "key-cpu")
        assert here.get(self.REPLICA) is None
        assert here.get(self.REPLICA, any_processor=True).keys() == self.ARRAYS.keys()
        assert self.partial(tmp_path, "other-cpu").get(self.REPLICA, any_processor=True) is None
        folder = self.partial(tmp_path, "key-H200").folder
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        assert here.get(self.REPLICA, any_processor=True) is None

    def test_gives_back_how_a_replica_diverged(self, tmp_path):
        error = Diverged("it diverged", 3, self.ARRAYS)
        self.partial(tmp_path).put(self.REPLICA, error)
        found = self.partial(tmp_path).get(self.REPLICA)
        assert (str(found), found.epoch) == ("it diverged", 3)
        assert np.array_equal(found.arrays["a"], self.ARRAYS["a"])

    def test_a_file_without_a_digest_of_another_replica_or_behind_a_link_is_not_taken(
        self, tmp_path
    ):
        partial = self.partial(tmp_path)
        partial.put(self.REPLICA, self.ARRAYS)
        path = self.path(tmp_path)
        moved = path.rename(tmp_path / "moved.npz")
        path.symlink_to(moved)
        assert partial.get(self.REPLICA) is None
        path.unlink()
        os.mkfifo(path)  # would be waited for
        assert partial.get(self.REPLICA) is None
        path.unlink()
        meta = json.dumps({"replica": results.plain(asdict(self.REPLICA))})
        np.savez(path, **self.ARRAYS, meta=np.array(meta))
        assert partial.get(self.REPLICA) is None
        partial.put(Replica(1), self.ARRAYS)
        other = next(file for file in path.parent.iterdir() if file != path)
        other.rename(path)
        assert partial.get(self.REPLICA) is None

    def test_a_replica_with_arrays_of_other_shapes_is_computed_again(self, tmp_path):
        interrupt(plan(tmp_path), after=2)
        (run,) = plan(tmp_path, rates=RATES[1:])
        row = {"weight": np.zeros(3), **MADE}
        run.partial.put(run.replicas[0], row)
        run.partial.put(run.replicas[1], {**row, "weight": np.zeros(4)})
        assert train([run]) == [[(RATES[1], SEEDS[1])]]

    def test_something_is_begun_once(self, tmp_path):
        assert self.partial(tmp_path).begin("seed0")
        assert not self.partial(tmp_path).begin("seed0")
        assert self.partial(tmp_path).begin("seed1")


class TestLock:
    def test_two_never_make_one_result_at_once(self, tmp_path):
        (run,) = plan(tmp_path, rates=(0.1,))
        first = runs.train(Trainer(), [run])
        next(first)
        line = rf"{run.path} is in use by another process, {os.getpid()}: wait"
        with pytest.raises(ResultError, match=line):
            next(runs.train(Trainer(), plan(tmp_path, rates=(0.1,))))
        first.close()
        assert train(plan(tmp_path, rates=(0.1,))) == []  # all replicas are kept
        assert files(tmp_path) == {run.path}

    def test_the_lock_of_a_process_that_was_killed_after_all_else_is_removed(self, tmp_path):
        (run,) = plan(tmp_path, rates=(0.1,))
        train([run])
        run.partial.lock.touch()
        assert train([run]) == []
        assert files(tmp_path) == {run.path}

    def test_another_result_is_made_meanwhile(self, tmp_path):
        first, second = plan(tmp_path)
        making = runs.train(Trainer(), [first])
        next(making)
        assert train([second]) == ALL[2:]

    def test_a_result_made_while_the_lock_was_waited_for_is_not_made_again(
        self, tmp_path, monkeypatch
    ):
        (run,) = plan(tmp_path, rates=(0.1,))
        in_use = Partial.in_use

        def late(self, shared=False):
            monkeypatch.setattr(Partial, "in_use", in_use)
            train(plan(tmp_path, rates=(0.1,)))  # by another process
            return in_use(self, shared)

        monkeypatch.setattr(Partial, "in_use", late)
        assert train([run]) == []


@pytest.mark.parametrize("what", ["file", "link", "loop", "long", "folder", "link below"])
def test_what_cannot_be_written_is_one_line_before_any_work(what, tmp_path):
    (run,) = plan(tmp_path, rates=(0.1,))
    folder = run.path.parent
    folder.mkdir(parents=True)
    if what == "long":
        run = replace(run, name="a" * 250)
    elif what == "file":
        (folder / ".partial").write_text("in the way")
    elif what == "link":
        (folder / ".partial").symlink_to(folder / "nowhere")
    elif what == "loop":
        (folder / ".partial").symlink_to(folder / ".partial")
    elif what == "folder":
        run.path.mkdir()
    else:
        (tmp_path / "elsewhere").mkdir()
        (folder / ".partial").mkdir()
        (folder / ".partial" / run.path.stem).symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    trainer = Trainer()
    with pytest.raises(ResultError) as caught:
        next(runs.train(trainer, [run]))
    assert trainer.trained == []
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
