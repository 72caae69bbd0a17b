"""The README, its commands, and its first command as a process beside the tests."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
_LINES = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
COMMANDS = {part.strip() for line in _LINES for part in line.split("&&")}
COMMANDS |= set(re.findall(r"`(python src/[^`]*)`", README))
QUICK = "python src/reproduce.py --scale quick"


class Reproduction:
    """Every figure at quick scale, started at once, in a folder of its own."""

    def __init__(self) -> None:
        assert QUICK in COMMANDS
        self.folder = Path(tempfile.mkdtemp())
        self._log = self.folder / "printed"
        _, script, *flags = shlex.split(QUICK)
        words = [sys.executable, str(ROOT / script), *flags, "--results", str(self.folder)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                words, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        assert self._process.wait() == 0, self.printed

    @property
    def printed(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
