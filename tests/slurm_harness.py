"""Kills programs and tasks on a real Slurm cluster, and compares what they make with one machine's.

    python tests/slurm_harness.py --times 5

It needs submitit, a cluster that answers `sinfo`, with two nodes, a partition low and a partition
high whose jobs go before (PreemptMode=REQUEUE), and a folder that all nodes see. A program with
--cluster slurm is killed; a task is killed; tasks are preempted by a job in partition high, which
keeps their node, so that they go on on the other; tasks are cut off by their time limit. Each
happens so often. Tasks that are preempted or cut off fine-tune a toy BERT, and go on from its last
epoch. The last line counts what happened, and of that: results that were not made in the end
(lost), replicas and epochs that were made twice, results and checkpoints with other bits than those
of the program without a cluster, and runs that left a file or a process behind.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]

import psutil
import tyro

import tiny
from kill_harness import command, start

EXPERIMENT = HERE.parent / "src" / "experiment"
FLAGS = {
    "swissroll": "--seeds 0 1 2 3 --epochs 200",
    "bert_train": "--tasks toy_sst2 --seeds 0 1 2 3 4 --epochs 60 --samples 100 --toy.width 16 "
    "--toy.depth 1 --toy.corpus 40 --toy.epochs 1 --toy.examples 2000",
}
# runs in every process: notes which files are made, and which tasks Slurm has started again
NOTE = """
import os, sys
def note(line):
    handle = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, f"{line}\\n".encode())
    os.close(handle)
def replace(source, target, *, _call=os.replace):
    _call(source, target)
    note(f"made {target}")
os.replace = replace
if "submitit.core._submit" in sys.orig_argv and os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
    note("restarted")
"""


@dataclass(frozen=True)
class Config:
    """How often each thing happens, and where."""

    times: int = 5
    seed: int = 0  # draws moments
    folder: Path | None = None  # that all nodes see, for what is made; none: a temporary one
    ways: tuple[str, ...] = ("program", "task", "preempted", "limit")


class Subject:
    """An experiment, its whole run without a cluster, and the folder of one run with."""

    def __init__(self, name: str, root: Path, tell: Callable[[str], object]) -> None:
        self.name, self.root, self.tell = name, root, tell
        self.counts: Counter[str] = Counter()
        self.whole, self.folder, self.notes = root / "whole", root / "run", root / "notes"
        (root / "sitecustomize.py").write_text(NOTE)
        path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
        self.environment = os.environ | {"PYTHONPATH": path, "NOTES": str(self.notes)}
        subprocess.run(self.words(self.whole), cwd=root, env=self.environment, check=True)

    def words(self, results: Path) -> list[str]:
        words = [sys.executable, str(EXPERIMENT / f"{self.name}.py"), "--scale", "quick"]
        return [*words, *FLAGS[self.name].split(), "--results", str(results), "--device", "cpu"]

    @contextmanager
    def program(self, *options: str) -> Iterator[subprocess.Popen]:
        """One with --cluster slurm, in a folder that is kept from one to the next."""
        flags = ["--cluster", "slurm", "--cluster-options", "partition=low", *options]
        words = [*self.words(self.folder), *flags]
        with start(words, self.root, env=self.environment) as process:
            yield process

    def begin(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.notes.write_text("")

    def finish(self, process: subprocess.Popen, way: str) -> None:
        """Wait for a program that nothing befalls any more, compare, and count."""
        out, err = process.communicate()
        below = Path("quick") / self.name
        found, expected = (tiny.read(root / below) for root in (self.folder, self.whole))
        if process.returncode != 0 or found.keys() != expected.keys():
            self.count("lost", f"{way}: {out} {err}")
            return
        try:
            tiny.assert_same_bits(found, expected)
            tiny.assert_same_models(self.folder / below, self.whole / below)
        except AssertionError as error:
            self.count("other bits", f"{way}: {error}")
        made = Counter(line for line in self.noted() if line.startswith("made "))
        for line, number in made.items():
            if number > 1 and (".partial/" in line or line.endswith("/origin.json")):
                self.count("made twice", f"{way}: {line} {number} times")
        left = [path for path in self.folder.rglob(".partial/**/*") if path.is_file()]
        if left or tasks(self.folder):
            self.count("left behind", f"{way}: {left}")

    def count(self, what: str, line: str = "", number: int = 1) -> None:
        self.counts[what] += number
        if line:
            self.tell(f"{what}: {line}")

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines()


def tasks(folder: Path) -> list[psutil.Process]:
    """Processes of tasks whose logs are below a folder."""
    words = {process: command(process) for process in psutil.process_iter()}
    return [p for p, c in words.items() if "submitit.core._submit" in c and str(folder) in c]


def wait_for(what: Callable[[], object], process: subprocess.Popen) -> bool:
    """Whether it came before the program's end."""
    while not what():
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    return True


def kill_program(subject: Subject, rng: random.Random) -> None:
    with subject.program() as process:
        if wait_for(lambda: tasks(subject.folder), process):
            time.sleep(rng.uniform(0, 20))
            running = process.poll() is None
            process.kill()
            subject.count("program killed", number=running)
    with subject.program() as process:
        subject.finish(process, "program killed")


def kill_task(subject: Subject, rng: random.Random) -> None:
    with subject.program() as process:
        if wait_for(lambda: tasks(subject.folder), process):
            time.sleep(rng.uniform(0, 15))
            for task in rng.sample(running := tasks(subject.folder), min(1, len(running))):
                task.send_signal(signal.SIGKILL)
                subject.count("task killed")
        subject.finish(process, "task killed")


def preempt(subject: Subject, rng: random.Random) -> None:
    with subject.program() as process:
        if wait_for(lambda: any("/origin.json" in line for line in subject.noted()), process):
            time.sleep(rng.uniform(0, 5))
            nodes = slurm("squeue", "-h", "--states=RUNNING", "--partition=low", "--format=%N")
            words = ["--partition=high", "--exclusive", f"--nodelist={nodes.split()[0]}"]
            job = slurm("sbatch", "--parsable", *words, "--output=/dev/null", "--wrap=sleep 1000")
            wait_for(lambda: "restarted" in subject.noted(), process)
            time.sleep(30)
            slurm("scancel", job.strip())
        subject.finish(process, "preempted")
    subject.count("preempted", number=subject.noted().count("restarted"))


def cut_off(subject: Subject, _: random.Random) -> None:
    with subject.program("time=1", "signal_delay_s=1", "max_num_timeout=20") as process:
        subject.finish(process, "cut off")
    subject.count("cut off", number=subject.noted().count("restarted"))


def answers() -> bool:
    """Whether this machine is one of a Slurm cluster's."""
    there = shutil.which("sinfo") is not None
    return there and not subprocess.run(["sinfo"], capture_output=True).returncode


def slurm(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


WAYS = {
    "program": ("program killed", "swissroll", kill_program),
    "task": ("task killed", "swissroll", kill_task),
    "preempted": ("preempted", "bert_train", preempt),
    "limit": ("cut off", "bert_train", cut_off),
}


def harass(config: Config, root: Path, tell: Callable[[str], object] = print) -> Counter[str]:
    """Let everything happen as often as asked."""
    rng, total, subjects = random.Random(config.seed), Counter[str](), dict[str, Subject]()
    for what, name, happen in (WAYS[way] for way in config.ways):
        if name not in subjects:
            (root / name).mkdir()
            subjects[name] = Subject(name, root / name, tell)
        subject = subjects[name]
        while subject.counts[what] < config.times:
            subject.begin()
            happen(subject, rng)
            tell(f"{name}: {dict(subject.counts)}")
    for subject in subjects.values():
        total.update(subject.counts)
    return total


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    if not answers():
        sys.exit("skipped: sinfo does not answer here")
    with tempfile.TemporaryDirectory(dir=config.folder) as folder:
        total = harass(config, Path(folder), lambda line: print(line, flush=True))
    wrong = ("lost", "made twice", "other bits", "left behind")
    happened = [f"{WAYS[way][0]} {total[WAYS[way][0]]}" for way in config.ways]
    print(" / ".join([*happened, *(f"{what} {total[what]}" for what in wrong)]))
    sys.exit(any(total[what] for what in wrong))


if __name__ == "__main__":
    main()
