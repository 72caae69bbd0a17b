"""A replica that diverges, or lacks its checkpoints, among others."""

from dataclasses import replace

import numpy as np
import pytest

from lab import program, provenance, results, runs
from lab.cli import Common
from lab.errors import Diverged
from stand_ins import ALL, SEEDS, Trainer, files, interrupt, plan, train


class Diverging(Trainer):
    """One rate diverges in an epoch."""

    def __init__(self, seeds, epoch):
        super().__init__()
        self.seeds, self.epoch = seeds, epoch

    def __call__(self, replicas):
        arrays = super().__call__(replicas)
        if not self.seeds.isdisjoint(replica.seed for replica in replicas):
            alone = {name: values[0][: self.epoch] for name, values in arrays.items()}
            message = f"training diverged in epoch {self.epoch}; lower the learning rate"
            raise Diverged(message, self.epoch, alone if len(replicas) == 1 else {})
        return arrays


class TestDivergence:
    def run(self, planned, trainer):
        def main():
            for run, arrays in runs.train(trainer, planned):
                run.save(arrays | {"seed": SEEDS})

        with pytest.raises(SystemExit) as stop:
            program.run(main)
        return stop.value.code

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_of_one_replica_leaves_the_others_as_they_are(
        self, device, tmp_path, capsys, monkeypatch
    ):
        monkeypatch.setattr(provenance, "device_name", lambda device: device)
        monkeypatch.setattr(Common, "resolved_device", device)
        (run,) = plan(tmp_path, rates=(0.1,))
        assert self.run([run], Diverging({5}, 2)) == 2
        assert capsys.readouterr().err == (
            "error: training diverged in epoch 2; lower the learning rate\n"
        )
        result = results.read(run.path)
        whole = 0.1 * np.arange(3) + 0.5
        np.testing.assert_array_equal(result["weight"], [whole, [*whole[:2] + 5, np.nan]])
        assert [(entry["seed"], entry["epoch"]) for entry in result.diverged] == [(5, 2)]
        assert (result.divergence(5), result.divergence(0)) == (2, None)
        assert train([run]) == []
        assert "seed 5 diverged in epoch 2" in capsys.readouterr().out

    def test_of_a_whole_run_saves_nothing_of_it_and_all_of_the_others(self, tmp_path, capsys):
        planned = plan(tmp_path)

        class OneRate(Diverging):
            def __call__(self, replicas):
                self.seeds = set(SEEDS) if replicas[0].options["lr"] == 0.1 else set()
                return super().__call__(replicas)

        assert self.run(planned, OneRate(set(), 1)) == 2
        assert files(tmp_path) == {planned[1].path}
        assert capsys.readouterr().err.endswith(" (and 1 more)\n")

    def test_is_kept_when_the_run_is_interrupted(self, tmp_path):
        (run,) = plan(tmp_path, rates=(0.1,))
        trainer = Diverging({0}, 1)
        trainer.stop_after = 1
        with pytest.raises(KeyboardInterrupt):
            list(runs.train(trainer, [run]))
        ((_, arrays),) = runs.train(again := Trainer(), plan(tmp_path, rates=(0.1,)))
        assert again.trained == [[(0.1, 5)]]
        assert arrays[runs.DIVERGED].tolist() == [1, -1]


class TestCheckpoints:
    def test_of_a_result_that_is_there_the_missing_are_made_and_only_they(self, tmp_path, capsys):
        there = {0, 5}
        (run,) = plan(tmp_path, rates=(0.1,))
        run = replace(run, has_checkpoints=lambda _, replica: replica.seed in there)
        train([run])
        before = run.path.read_bytes()
        there.remove(5)
        capsys.readouterr()
        assert train([run]) == [[(0.1, 5)]]
        line = capsys.readouterr().out.splitlines()[-1]
        assert line == f"made the checkpoints of seed 5, lr 0.1, noise 0.5 again: {run.path}"
        assert run.path.read_bytes() == before
        changed = replace(
            run, replicas=tuple(replace(r, settings={"noise": 1.5}) for r in run.replicas)
        )
        train([changed])
        assert "with other numbers than the result: --overwrite" in capsys.readouterr().out

    def test_a_replica_that_is_kept_without_its_checkpoints_is_trained_again(self, tmp_path):
        interrupt(plan(tmp_path), after=1)
        lacking = [replace(run, has_checkpoints=lambda *_: False) for run in plan(tmp_path)]
        assert train(lacking) == ALL
