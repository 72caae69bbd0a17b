"""Kills every experiment again and again, and compares what is left with a run that was not killed.

    python tests/kill_harness.py --kills 100 --seed 0
    python tests/kill_harness.py --kills 20 --experiments bert_train vae_train

A program is killed at a random moment (SIGKILL), told to end (SIGINT, SIGTERM, SIGHUP), loses a
worker, dies at a random write to the disk, or finds the disk full; then the same command goes on in
the same folder. The last line says how many were killed while they ran, and of those: results that
were saved and are gone, results or checkpoints with other bits than those of a run that was not
killed, programs that did not end within LIMIT seconds (or, where the machine is busy, a fifth of
what the whole run took), those that left a process behind, and those
that showed a traceback or more than one line.
"""

import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]

import psutil
import tyro

import tiny
from lab.errors import ResultError

COUNTED = ("kills", "lost", "different", "hung", "orphaned", "tracebacks")
LIMIT = 2.0  # seconds in which a program that is told to end has ended, with all its processes
ENDS = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM, "hang up": signal.SIGHUP}
WAYS = ("kill", *ENDS, "kill a worker", "kill at a write", "full disk")
# runs in every process of the program, before anything else
AT_A_WRITE = """
import os, signal
left = [int(os.environ["KILL_AT"])]
for name in ("replace", "unlink", "rmdir"):
    def count(*arguments, _call=getattr(os, name), **keywords):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return _call(*arguments, **keywords)
    setattr(os, name, count)
"""
AGAIN = "it is tried once more"  # ends the line of a worker that died
JOBLIB = ("joblib will operate in serial mode", 'joblib will operate in serial mode" % (e,))')


@dataclass(frozen=True)
class Config:
    """What to kill, and how often."""

    kills: int = 12  # while a program runs
    seed: int = 0  # draws moments and ways
    experiments: tuple[str, ...] = ()  # none: all
    ways: tuple[str, ...] = WAYS
    jobs: int = 2  # processes of each program


@dataclass
class Tally:
    """What has been counted so far; a line is told for each thing that goes wrong."""

    tell: Callable[[str], object] = print
    counts: Counter[str] = field(default_factory=Counter)

    def note(self, kind: str, line: str) -> None:
        self.counts[kind] += 1
        self.tell(f"{kind}: {line}")

    def __str__(self) -> str:
        return " / ".join(f"{kind} {self.counts[kind]}" for kind in COUNTED)


class Subject:
    """One experiment: its command, and the folder of a run that was not killed."""

    def __init__(self, script: ModuleType, root: Path, jobs: int) -> None:
        self.script, self.root, self.jobs = script, root, jobs
        self.name = tiny.name(script)
        self.whole = root / "whole"
        self.seconds = 0.0  # that the whole run takes

    def words(self, results: Path) -> list[str]:
        changes = {"datasets": (str(self.root / "tiny.npz"),), "jobs": self.jobs}
        config = tiny.tiny(self.script, **changes, results=results)
        return [sys.executable, self.script.__file__, *tiny.command(config)]

    def finish(self) -> None:
        """The run that is not killed; those whose checkpoints it reads come first."""
        start = time.monotonic()
        subprocess.run(self.words(self.whole), cwd=self.root, check=True, capture_output=True)
        self.seconds = time.monotonic() - start

    def prepare(self, folder: Path) -> None:
        """A folder with the checkpoints that the experiment reads, and nothing else."""
        shutil.rmtree(folder, ignore_errors=True)
        for source in tiny.sources(self.script):
            below = Path("quick") / tiny.name(source)
            shutil.copytree(self.whole / below, folder / below)

    def saved(self, folder: Path) -> set[str]:
        return {path.name for path in (folder / "quick" / self.name).glob("*.npz")}

    def differs(self, folder: Path) -> str | None:
        """How what is in a folder differs from the whole run's, in as far as it is there."""
        mine, others = (root / "quick" / self.name for root in (folder, self.whole))
        try:
            found = tiny.read(mine)
            expected = {file: result for file, result in tiny.read(others).items() if file in found}
            tiny.assert_same_bits(found, expected)
        except (AssertionError, ResultError) as error:
            return str(error).splitlines()[0] if str(error) else "other arrays"
        if len(found) == len(self.saved(self.whole)):
            try:
                tiny.assert_same_models(mine, others)
            except AssertionError:
                return "other checkpoints"
        return None

    def left(self, folder: Path) -> Path | None:
        """What should be gone when all is done."""
        mine = folder / "quick" / self.name
        partial = (path for path in mine.glob(".partial/**/*") if path.is_file())
        return next(itertools.chain(partial, mine.glob("**/*.tmp")), None)


def hear_signals() -> None:
    """Undo what a shell or nohup does to a program in the background."""
    for number in ENDS.values():
        signal.signal(number, signal.SIG_DFL)


def start(words: Sequence[str], cwd: Path, **options: Any) -> subprocess.Popen:
    """A program as a shell starts it, in a group of processes of its own."""
    before = options.pop("before", lambda: None)

    def prepare() -> None:
        hear_signals()
        before()

    return subprocess.Popen(
        words,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=prepare,
        **options,
    )


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command(process: psutil.Process) -> str:
    """The command of a process; nothing where it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def group(process: subprocess.Popen) -> list[psutil.Process]:
    """All that a program has started and that is still there."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def strike(subject: Subject, folder: Path, way: str, rng: random.Random, tally: Tally) -> None:
    """Start a program, stop it one way, and see how it ends."""
    options: dict[str, Any] = {}
    if way == "kill at a write":
        hook = subject.root / "hook"
        hook.mkdir(exist_ok=True)
        (hook / "sitecustomize.py").write_text(AT_A_WRITE)
        places = {"PYTHONPATH": str(hook), "KILL_AT": str(rng.randint(1, 12))}
        options["env"] = os.environ | places
    if way == "full disk":
        limit = int(10 ** rng.uniform(1, 5))
        options["before"] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    saved = subject.saved(folder)
    moment = rng.uniform(0.02, 1.0) * subject.seconds
    in_time = max(LIMIT, subject.seconds / 5) if LIMIT else 0.0
    with start(subject.words(folder), subject.root, **options) as process:
        patience = 20 * subject.seconds + 60
        if way in ("kill", *ENDS, "kill a worker"):
            deadline = time.monotonic() + moment
            while time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.01)
            running = process.poll() is None
            children = group(process)
            if way == "kill a worker":
                workers = [child for child in children if "spawn_main" in command(child)]
                running = running and bool(workers)
                for child in rng.sample(workers, min(1, len(workers))):
                    child.kill()
            elif running:
                # a terminal tells every process of the group
                number = ENDS.get(way, signal.SIGKILL)
                tell: Callable = os.killpg if rng.random() < 0.5 and way in ENDS else os.kill
                tell(process.pid, number)
                patience = in_time
        else:
            running, children = True, []
        started = time.monotonic()
        try:
            _, err = process.communicate(timeout=patience + 30)
        except subprocess.TimeoutExpired:
            tally.note("hung", f"{subject.name}, {way}")
            os.killpg(process.pid, signal.SIGKILL)
            _, err = process.communicate()
        took = time.monotonic() - started
    where = f"{subject.name}, {way} after {moment:.1f} s, status {process.returncode}"
    if way == "kill at a write":
        running = process.returncode == -signal.SIGKILL or AGAIN in err
    if way == "full disk":
        running = "File too large" in err
    if not running:
        return
    tally.counts["kills"] += 1
    if way in ENDS:
        if process.returncode not in (128 + ENDS[way], -ENDS[way], 0):
            tally.note("tracebacks", f"{where}: {err.strip()}")
        if took > in_time + 1:
            tally.note("hung", f"{where}: ended after {took:.1f} s")
    if way in ("kill a worker",) and process.returncode != 0:
        tally.note("lost", f"{where}: {err.strip()}")
    # a line each; joblib warns, in two, where it is imported while nothing can be written
    own = [line for line in err.splitlines() if not line.endswith((AGAIN, *JOBLIB))]
    if "Traceback" in err or len(own) > 1:
        tally.note("tracebacks", f"{where}: {err.strip()}")
    _, alive = psutil.wait_procs(children, timeout=in_time)
    if orphans := [child for child in alive if is_alive(child)]:
        tally.note("orphaned", f"{where}: {len(orphans)}")
        for child in orphans:
            child.kill()
    if gone := saved - subject.saved(folder):
        tally.note("lost", f"{where}: {', '.join(gone)}")
    if how := subject.differs(folder):
        tally.note("different", f"{where}: {how}")


def finish(subject: Subject, folder: Path, tally: Tally) -> None:
    """Run to the end what was killed, and compare."""
    done = subprocess.run(subject.words(folder), cwd=subject.root, capture_output=True, text=True)
    if done.returncode != 0 or done.stderr:
        tally.note("tracebacks", f"{subject.name}, to the end: {done.stderr.strip()}")
    if lacking := subject.saved(subject.whole) - subject.saved(folder):
        tally.note("lost", f"{subject.name}, to the end: {', '.join(lacking)}")
    if how := subject.differs(folder):
        tally.note("different", f"{subject.name}, to the end: {how}")
    if path := subject.left(folder):
        tally.note("different", f"{subject.name}, to the end: {path} is left behind")


def harass(config: Config, root: Path, tell: Callable[[str], object] = print) -> Tally:
    """Kill as often as asked, each experiment in turn."""
    rng, tally, ways = random.Random(config.seed), Tally(tell), list[str]()
    tiny.write_data(root / "tiny.npz")
    wanted = config.experiments or tuple(tiny.NAMES)
    subjects = {
        tiny.name(script): Subject(script, root, config.jobs)
        for script in tiny.SCRIPTS
        if tiny.name(script) in wanted
        or any(tiny.name(s) in wanted and script in tiny.sources(s) for s in tiny.SCRIPTS)
    }
    for subject in sorted(subjects.values(), key=lambda s: len(tiny.sources(s.script))):
        subject.finish()
        tell(f"{subject.name}: {subject.seconds:.0f} s")
    while tally.counts["kills"] < config.kills:
        for name in wanted:
            subject, folder = subjects[name], root / "killed"
            subject.prepare(folder)
            for _ in range(3):
                if tally.counts["kills"] < config.kills:
                    ways = ways or rng.sample(config.ways, len(config.ways))  # each comes in turn
                    strike(subject, folder, ways.pop(), rng, tally)
            finish(subject, folder, tally)
            tell(f"{tally} ({name})")
            if tally.counts["kills"] >= config.kills:
                break
    return tally


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        tally = harass(config, Path(folder), lambda line: print(line, flush=True))
    print(tally)
    sys.exit(any(tally.counts[kind] for kind in COUNTED[1:]))


if __name__ == "__main__":
    main()
