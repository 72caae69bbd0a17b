"""Replicas as jobs: none is made twice, none is lost, and who is in the way is told."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import slurm_harness
import tiny
from lab import cli, cluster, errors, files, holders, provenance, results, runs
from lab.errors import ConfigError, ResultError, UserError
from stand_ins import ALL, MADE, SEEDS, Trainer, assert_whole, plan

SWISSROLL = next(script for script in tiny.SCRIPTS if tiny.name(script) == "swissroll")


class Slurm:
    """Stands in for a cluster: what it is given runs when it is asked for, or at once."""

    def __init__(self, monkeypatch, at_once=True):
        self.at_once, self.waiting, self.given = at_once, {}, []
        monkeypatch.setattr(cluster, "_execute", self.execute)
        monkeypatch.setattr(cluster, "_queued", lambda names: set(self.waiting))
        monkeypatch.setattr(cluster.time, "sleep", lambda seconds: self.run(bool(seconds)))

    def execute(self, tasks, folder, python, options):
        self.given.append([(t.name, [r.seed for r in t.replicas]) for t in tasks])
        self.waiting |= {task.held: task for task in tasks}
        self.run(len(tasks) if self.at_once else 0)
        return []

    def run(self, number):
        for held in list(self.waiting)[:number]:
            try:
                self.waiting[held]()
            except Exception:
                pass
            finally:
                del self.waiting[held]


def train(planned, trainer=None):
    """Train and save as jobs; returns what was trained."""
    trainer = trainer or Trainer()
    for run, arrays in runs.train(trainer, planned):
        run.save(arrays | {"seed": SEEDS})
    return trainer.trained


def submit_only(planned):
    """Submit jobs, and be killed then."""

    def interrupt(seconds):
        if seconds:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(planned)


@pytest.fixture
def slurm(monkeypatch):
    return Slurm(monkeypatch)


@pytest.fixture
def late_slurm(monkeypatch):
    return Slurm(monkeypatch, at_once=False)


class TestJobs:
    def test_make_every_replica_once_and_leave_nothing(self, slurm, tmp_path):
        assert train(plan(tmp_path, cluster="slurm", jobs=None)) == ALL
        assert_whole(plan(tmp_path))
        assert slurm.given == [[(f"mine-lr{r}", [s]) for s in SEEDS] for r in (0.1, 0.2)]

    def test_each_take_several_replicas_where_fewer_are_asked_for(self, slurm, tmp_path):
        assert train(plan(tmp_path, cluster="slurm", jobs=1)) == ALL
        assert slurm.given == [[(f"mine-lr{rate}", list(SEEDS))] for rate in (0.1, 0.2)]

    def test_go_on_where_the_program_is_killed_and_are_waited_for(self, late_slurm, tmp_path):
        submit_only(plan(tmp_path, cluster="slurm"))
        assert len(late_slurm.waiting) == 2
        late_slurm.run(1)
        trainer = Trainer()
        assert train(plan(tmp_path, cluster="slurm"), trainer) == []  # the first program's did
        assert len(late_slurm.given) == 2
        assert_whole(plan(tmp_path))

    def test_that_are_gone_from_the_queue_are_submitted_again(self, late_slurm, tmp_path):
        submit_only(plan(tmp_path, cluster="slurm", jobs=None))
        late_slurm.run(1)
        late_slurm.waiting.clear()
        assert train(plan(tmp_path, cluster="slurm", jobs=None)) == ALL[1:]
        assert_whole(plan(tmp_path))

    def test_are_waited_for_while_slurm_does_not_answer(self, late_slurm, tmp_path, monkeypatch):
        submit_only(plan(tmp_path, cluster="slurm"))
        silent = iter([None] * 3)
        monkeypatch.setattr(cluster, "_queued", lambda _: next(silent, set(late_slurm.waiting)))
        assert train(plan(tmp_path, cluster="slurm")) == []
        assert len(late_slurm.given) == 2
        assert_whole(plan(tmp_path))

    def test_of_two_programs_that_share_no_lock_the_later_ones_make_a_replica(
        self, late_slurm, tmp_path
    ):
        submit_only(plan(tmp_path, cluster="slurm", jobs=None))
        early, late_slurm.waiting = late_slurm.waiting, {}  # not yet seen in the queue
        submit_only(plan(tmp_path, cluster="slurm", jobs=None))
        trained = [task.function.function.trained for task in early.values()]
        for task in early.values():
            task()
        assert not any(trained)
        assert train(plan(tmp_path, cluster="slurm", jobs=None)) == []
        assert_whole(plan(tmp_path))

    def test_leave_a_replica_alone_that_is_made(self, late_slurm, tmp_path):
        (run, *_) = planned = plan(tmp_path, cluster="slurm", jobs=None)
        submit_only(planned)
        task = next(iter(late_slurm.waiting.values()))
        task()
        task()  # as where Slurm starts it again
        assert task.function.function.trained == ALL[:1]
        assert runs.kept(run, 0) is not None

    def test_that_start_again_forget_what_they_ended_with(self, late_slurm, tmp_path):
        (run, *_) = planned = plan(tmp_path, cluster="slurm", jobs=None)
        submit_only(planned)
        task = next(iter(late_slurm.waiting.values()))
        said = cluster._error(run.partial, task.held)
        files.write_whole(said, lambda file: file.write(b"{}"))
        task()
        assert not said.exists()

    def test_take_what_was_made_without_a_cluster(self, slurm, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            train(plan(tmp_path), Trainer(1))
        assert train(plan(tmp_path, cluster="slurm", jobs=None)) == ALL[1:]

    def test_with_overwrite_make_all_again(self, slurm, tmp_path):
        train(plan(tmp_path, cluster="slurm"))
        assert train(plan(tmp_path, cluster="slurm", overwrite=True)) == ALL
        assert_whole(plan(tmp_path))

    def test_take_nothing_of_an_overwrite_that_was_killed_nor_it_of_them(
        self, late_slurm, tmp_path
    ):
        for first, second in ((True, False), (False, True)):
            folder = tmp_path / str(first)
            submit_only(plan(folder, cluster="slurm", overwrite=first))
            late_slurm.run(2)
            assert train(plan(folder, cluster="slurm", overwrite=second)) == ALL

    def with_checkpoints(self, folder, trainer):
        """A run whose replicas have their checkpoints when they have been trained."""
        run = plan(folder, cluster="slurm", jobs=None)[0]
        has = lambda _, replica: [(0.1, replica.seed)] in trainer.trained  # noqa: E731
        return replace(run, has_checkpoints=has)

    def test_make_a_replica_again_that_has_lost_its_checkpoints(self, slurm, tmp_path):
        run = self.with_checkpoints(tmp_path, trainer := Trainer())
        run.partial.put(run.replicas[1], {"weight": np.zeros(3), **MADE})
        assert train([run], trainer) == ALL[:2]
        assert_whole(plan(tmp_path)[:1])

    def test_make_missing_checkpoints_of_a_result_that_is_there(self, slurm, tmp_path, capsys):
        train(plan(tmp_path))
        trainer = Trainer()
        run = self.with_checkpoints(tmp_path, trainer)
        run.partial.put(run.replicas[0], dict(MADE))  # of a task that has left none
        assert train([run], trainer) == ALL[:2]
        assert "made the checkpoints of seed 0" in capsys.readouterr().out
        assert_whole(plan(tmp_path))

    def test_that_diverge_are_rows_of_nan(self, slurm, tmp_path):
        class Diverging(Trainer):
            def __call__(self, replicas):
                if replicas[0].seed == SEEDS[1]:
                    raise errors.Diverged.at("mine", 1)
                return super().__call__(replicas)

        train(plan(tmp_path, cluster="slurm", jobs=None), Diverging())
        result = results.read(plan(tmp_path)[0].path)
        assert np.isnan(result["weight"][1]).all()
        assert result.divergence(SEEDS[1]) == 1


class TestEnds:
    def test_a_task_that_leaves_nothing_is_submitted_once_more(
        self, slurm, tmp_path, capsys, monkeypatch
    ):
        submitted = []

        def execute(tasks, *rest):
            submitted.append(len(tasks))
            return slurm.execute(tasks, *rest) if len(submitted) > 1 else []

        monkeypatch.setattr(cluster, "_execute", execute)
        assert train(plan(tmp_path, cluster="slurm")[:1]) == ALL[:2]
        assert submitted == [1, 1]
        assert "ended and left nothing; it is submitted once more" in capsys.readouterr().err

    def test_one_that_leaves_nothing_twice_ends_the_program(self, tmp_path, monkeypatch, slurm):
        monkeypatch.setattr(cluster, "_execute", lambda *_: [])
        with pytest.raises(UserError, match=r"mine-lr0\.1, seed 0.* left nothing, 2 times: see "):
            train(plan(tmp_path, cluster="slurm"))

    @pytest.mark.parametrize("kind", [ResultError, OSError, MemoryError])
    def test_an_error_of_the_users_is_the_programs(self, kind, slurm, tmp_path):
        def fail(_):
            raise kind("what is wrong")

        for _ in range(2):  # the same command tries again
            with pytest.raises(UserError, match="what is wrong"):
                list(runs.train(fail, plan(tmp_path, cluster="slurm")))
        assert len(slurm.given) == 4

    def test_a_job_whose_time_was_up_too_often_says_so(self, slurm, tmp_path):
        utils = pytest.importorskip("submitit.core.utils")

        def fail(_):
            raise utils.UncompletedJobError("as submitit's handler of signals")

        with pytest.raises(UserError, match="time was up too often: give more hours or max_num"):
            list(runs.train(fail, plan(tmp_path, cluster="slurm")))

    def test_a_defect_shows_where_it_is(self, slurm, tmp_path):
        def fail(_):
            raise ZeroDivisionError("by nought")

        with pytest.raises(RuntimeError, match=r"mine-lr0\.1, seed 0.*failed") as raised:
            list(runs.train(fail, plan(tmp_path, cluster="slurm")))
        assert "in fail" in raised.value.__notes__[0]

    def test_a_job_without_the_processor_that_was_asked_for_says_so(self, slurm, tmp_path):
        planned = plan(tmp_path, cluster="slurm", device="cuda")
        assert planned[0].config.resolved_device == "cpu"  # of the program that submits
        with pytest.raises(UserError, match="device cuda: the job has no GPU"):
            train(planned)


class TestProcessors:
    def train(self, monkeypatch, slurm, folder, kinds=(), **changes):
        """Each task runs on a processor of the next kind."""
        names = iter(kinds)

        def execute(tasks, *rest):
            for task in tasks:
                name = next(names)
                with monkeypatch.context() as patch:
                    patch.setattr(provenance, "device_name", lambda _, name=name: name)
                    slurm.execute([task], *rest)
            return []

        monkeypatch.setattr(cluster, "_execute", execute)
        run = plan(folder, cluster="slurm", jobs=None, **changes)[0]
        train([run])
        return results.read(run.path).meta["device"]

    def test_of_one_kind_are_joined_and_listed(self, monkeypatch, slurm, tmp_path):
        kinds = ("cpu (2 cores)", "cpu (64 cores)")
        assert self.train(monkeypatch, slurm, tmp_path, kinds) == " and ".join(kinds)
        assert_whole(plan(tmp_path)[:1])

    def test_of_two_kinds_are_joined_where_that_is_asked_for(self, monkeypatch, slurm, tmp_path):
        kinds = ("cpu (2 cores)", "NVIDIA H200")
        for left in (kinds, ()):  # none is made again
            with pytest.raises(ResultError, match=r"cpu and 1 .* H200: give --mixed-processors"):
                self.train(monkeypatch, slurm, tmp_path, left)
        assert self.train(monkeypatch, slurm, tmp_path, mixed_processors=True) == " and ".join(
            kinds
        )
        assert_whole(plan(tmp_path)[:1])

    def test_of_the_kind_that_is_not_wanted_can_be_removed(self, monkeypatch, slurm, tmp_path):
        with pytest.raises(ResultError, match="remove a folder of") as raised:
            self.train(monkeypatch, slurm, tmp_path, ("cpu (2 cores)", "NVIDIA H200"))
        (folder,) = Path(str(raised.value).split(" folder of ")[1]).glob("*-NVIDIA-H200")
        files.remove(folder)
        kinds = ("cpu (4 cores)",)
        found = self.train(monkeypatch, slurm, tmp_path, kinds)
        assert found == "cpu (2 cores) and cpu (4 cores)"

    def test_of_another_kind_are_not_taken_without_a_cluster_unless_asked_for(
        self, monkeypatch, tmp_path
    ):
        for mixed, left in ((False, ALL), (True, ALL[1:])):
            folder = tmp_path / str(mixed)
            with monkeypatch.context() as patch:
                patch.setattr(provenance, "device_name", lambda _: "NVIDIA H200")
                with pytest.raises(KeyboardInterrupt):
                    train(plan(folder), Trainer(1))
            assert train(plan(folder, mixed_processors=mixed)) == left


class TestClaims:
    def test_one_of_two_programs_gets_it(self, tmp_path, monkeypatch):
        run = plan(tmp_path)[0]
        partial, replica = run.partial, run.replicas[0]
        assert holders.holder(partial, replica) is None
        assert holders.take(partial, replica, ("some-0123456789abcdef", 3))
        with monkeypatch.context() as patch:
            patch.setattr(holders, "_links", lambda *_: [])  # what a slower one has seen
            assert not holders.take(partial, replica, ("other-0123456789abcdef", 0))
        assert holders.holder(partial, replica) == ("some-0123456789abcdef", 3)
        for number in range(12):
            assert holders.take(partial, replica, ("other-0123456789abcdef", number))
        assert holders.holder(partial, replica) == ("other-0123456789abcdef", 11)
        assert holders.holder(partial, run.replicas[1]) is None

    @pytest.mark.parametrize("said", ["", "--help/0", "a,b/0", "a-0123456789abcdef/x", "/etc"])
    def test_one_that_says_something_else_is_nobodys(self, said, tmp_path):
        run = plan(tmp_path)[0]
        holders.take(run.partial, run.replicas[0], ("some-0123456789abcdef", 3))
        (path,) = run.partial.jobs.iterdir()
        path.with_suffix(".2").symlink_to(said or "x")
        assert holders.holder(run.partial, run.replicas[0]) is None

    def test_another_file_is_none(self, tmp_path):
        run = plan(tmp_path)[0]
        holders.take(run.partial, run.replicas[0], ("some-0123456789abcdef", 3))
        (path,) = run.partial.jobs.iterdir()
        for suffix in (".2", ".old", ""):
            path.with_suffix(suffix).touch()
        assert holders.holder(run.partial, run.replicas[0]) == ("some-0123456789abcdef", 3)

    def test_are_not_made_behind_a_link(self, slurm, tmp_path):
        run = plan(tmp_path, cluster="slurm")[0]
        run.partial.root.mkdir(parents=True)
        run.partial.jobs.symlink_to(tmp_path)
        with pytest.raises(ResultError, match="is a link, which is not followed"):
            train([run])

    def test_without_a_cluster_a_result_that_jobs_make_is_left_to_them(self, late_slurm, tmp_path):
        submit_only(plan(tmp_path, cluster="slurm"))
        name = next(iter(late_slurm.waiting))[0]
        with pytest.raises(ResultError, match=f"add --cluster again, or cancel {name}"):
            train(plan(tmp_path))
        late_slurm.waiting.clear()
        assert train(plan(tmp_path)) == ALL
        assert_whole(plan(tmp_path))


class TestQueue:
    NAMES = ("a-0123456789abcdef", "b-0123456789abcdef")

    def squeue(self, folder, monkeypatch, script):
        path = folder / "squeue"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def test_is_slurms(self, tmp_path, monkeypatch):
        self.squeue(
            tmp_path,
            monkeypatch,
            f'echo "$@" >{tmp_path}/asked\n'
            'echo "a-0123456789abcdef 0"; echo "a-0123456789abcdef 11"\n'
            'echo "b-0123456789abcdef N/A"',
        )
        a, b = self.NAMES
        assert cluster._queued(self.NAMES) == {(a, 0), (a, 11), (b, 0)}
        assert f"--name={a},{b}" in (tmp_path / "asked").read_text()

    def test_is_unknown_where_slurm_does_not_answer(self, tmp_path, monkeypatch):
        self.squeue(tmp_path, monkeypatch, "echo no controller >&2; exit 1")
        assert cluster._queued(self.NAMES) is None
        assert cluster._queued(()) == set()

    def test_is_empty_where_there_is_no_slurm(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert cluster._queued(self.NAMES) == set()

    def test_of_this_machine_is_its_processes(self, monkeypatch):
        name = "local_a-0123456789abcdef"
        code = "import time; print(flush=True); time.sleep(60)"
        words = [sys.executable, "-c", code, f"/somewhere/{name}/3"]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            assert cluster._queued([name]) == {(name, 3)}
            process.kill()
            process.wait()
        assert cluster._queued([name]) == set()


class TestFlags:
    def parse(self, *words):
        return cli.parse(SWISSROLL.Config, SWISSROLL.QUICK, argv=words)

    def test_options_are_submitits_and_two_more(self):
        words = (
            "partition=low",
            "gpus=1",
            "hours=1.5",
            "exclusive=True",
            "setup=['module load x']",
        )
        config = self.parse("--cluster", "print", "--cluster-options", *words)
        assert cluster._options(config) == {
            "partition": "low",
            "gpus_per_node": 1,
            "time": 90,
            "exclusive": True,
            "setup": ["module load x"],
        }

    @pytest.mark.parametrize("word", ["low", "partition=", "=low"])
    def test_an_option_is_a_key_and_a_value(self, word):
        with pytest.raises(ConfigError, match="key=value"):
            self.parse("--cluster", "print", "--cluster-options", word)

    def test_options_need_a_cluster(self):
        with pytest.raises(ConfigError, match="add --cluster slurm"):
            self.parse("--cluster-options", "hours=1")

    def test_without_submitit_a_line_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "submitit", None)
        monkeypatch.setattr(cli, "find_spec", lambda _: None)
        for kind in ("slurm", "local"):
            with pytest.raises(ConfigError, match=r"pip install -r requirements-cluster\.txt"):
                self.parse("--cluster", kind)
        assert self.parse("--cluster", "print").cluster == "print"

    def test_what_it_says_to_install_is_what_the_tests_take(self):
        cluster_only, everything = (
            (cli.ROOT / f"requirements{which}.txt").read_text() for which in ("-cluster", "")
        )
        assert cluster_only in everything

    def test_without_slurm_a_line_says_where_to_run_it(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(cli, "find_spec", lambda _: True)
        with pytest.raises(ConfigError, match="there is no sbatch here"):
            self.parse("--cluster", "slurm")

    def test_options_shape_no_number(self):
        config = self.parse(
            "--cluster", "print", "--cluster-options", "hours=1", "--mixed-processors"
        )
        assert config.hyperparameters() == self.parse().hyperparameters()


@pytest.mark.slow
class TestPrograms:
    """Swiss rolls in a program of their own."""

    def config(self, folder):
        return tiny.tiny(SWISSROLL, results=folder, seeds=(0, 3, 5), epochs=20, jobs=2)

    def words(self, folder, *flags):
        words = tiny.command(self.config(folder / "jobs"))
        return [sys.executable, SWISSROLL.__file__, *words, *flags]

    def run(self, folder, *flags):
        words = self.words(folder, *flags)
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    def assert_as_without(self, folder):
        SWISSROLL.execute(replace(self.config(folder / "whole"), jobs=1))
        jobs, whole = (tiny.read(folder / name / "quick/swissroll") for name in ("jobs", "whole"))
        assert jobs
        tiny.assert_same_bits(jobs, whole)
        assert not [path for path in folder.rglob(".partial/**/*") if path.is_file()]

    def test_that_are_killed_leave_their_jobs_to_the_next(self, tmp_path, monkeypatch):
        pytest.importorskip("submitit")
        (tmp_path / "sitecustomize.py").write_text(slurm_harness.NOTE)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
        monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
        with subprocess.Popen(self.words(tmp_path, "--cluster", "local")) as process:
            assert slurm_harness.wait_for(lambda: slurm_harness.tasks(tmp_path), process)
            process.kill()
        assert "submitted" not in self.run(tmp_path, "--cluster", "local")
        notes = (tmp_path / "notes").read_text().splitlines()
        made = [line for line in notes if line.endswith(".npz") and ".partial" in line]
        assert len(made) == len(set(made)) == 3
        self.assert_as_without(tmp_path)

    def test_print_lines_that_make_what_the_same_command_joins(self, tmp_path):
        flags = ("--cluster", "print", "--cluster-options", "partition=low", "hours=1")
        words = shlex.split(self.run(tmp_path, *flags))
        assert {"--partition=low", "--time=60", "--array=0-1", "--requeue"} < set(words)
        for index in ("0", "1"):
            environment = os.environ | {"SLURM_ARRAY_TASK_ID": index}
            subprocess.run(["sh", "-c", words[-1]], env=environment, check=True)
        out = self.run(tmp_path, *flags)
        assert "sbatch" not in out
        assert "saved" in out
        self.assert_as_without(tmp_path)

    @pytest.mark.skipif(not slurm_harness.answers(), reason="no Slurm: sinfo does not answer")
    def test_and_tasks_that_are_killed_on_slurm_lose_nothing(self, tmp_path):
        pytest.importorskip("submitit")
        told = []
        config = slurm_harness.Config(times=1, ways=("program", "task"))
        counts = slurm_harness.harass(config, tmp_path, told.append)
        assert counts == {"program killed": 1, "task killed": 1}, told
