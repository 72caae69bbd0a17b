"""What CONTRIBUTING.md and docs/data.md say is true: commands are taken, and code runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import pack
import tiny
from experiment import _example, target_linearity
from lab import architectures, cli, data
from lab.replicas import Replica
from planted_results import plant
from report.lookup import experiment
from reproduction import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ *(python src/.*)$", PAGE + DATA, re.MULTILINE)
DRAWING, NETWORK, READING = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_it_is_short_and_what_it_names_exists():
    assert len(PAGE.splitlines()) <= 130
    lines = Path(_example.__file__).read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 75  # "70 lines"
    names = re.findall(r"`((?:src|tests|docs|notebook)/[\w/.]+)`|\]\(([^)]+)\)", PAGE)
    paths = [a or b for a, b in names if "NAME" not in a]
    assert paths
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_its_script_takes(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_network.py").write_text(NETWORK)
    tiny.write_data(tmp_path / "cifar10_jpeg.npz")
    _, path, *words = shlex.split(command)
    if path == "src/pack.py":
        (tmp_path / "cifar10_jpeg.npz").unlink()
        monkeypatch.setattr("sys.argv", [path, *words])
        monkeypatch.setattr(pack, "load_images", lambda *_: data.load_images("digits"))
        with pytest.raises(pack.ConfigError, match="its scale"):
            pack.main()
    elif path != "src/claims.py":
        script = experiment(Path(path).stem)
        cli.parse(script.Config, script.QUICK, argv=words)


def test_the_cell_draws_the_result_of_the_command(tmp_path, monkeypatch):
    curves = np.ones((1, 3, 4)) * np.arange(1, 5)
    arrays = {"train_tl": curves / 5, "train_surrogate": curves, "epoch": range(3)}
    arrays["layer"] = range(1, 5)
    settings = {"dataset": "mnist", "width": 512, "seeds": (0,)}
    plant(tmp_path / "mine", target_linearity, "mnist-sgd", arrays, "mnist", **settings)
    plant(tmp_path / "mine", target_linearity, "mnist-sgd", arrays, "mnist", dataset="mnist")
    (tmp_path / "notebook").mkdir()
    monkeypatch.chdir(tmp_path / "notebook")
    monkeypatch.setattr(sys, "path", list(sys.path))
    with plt.rc_context():
        scope = {}
        exec(DRAWING, scope)
    assert scope["run"].config["width"] == 512
    assert [len(ax.lines) for ax in scope["axes"].flat] == [4, 4]
    plt.close(scope["figure"])


def test_the_network_is_one_that_a_script_takes(tmp_path):
    path = tmp_path / "my_network.py"
    path.write_text(NETWORK)
    config = target_linearity.Config(architecture=f"{path}:build", device="cpu")
    network = architectures.make(config, data.load_images("digits"), [Replica(0)])
    assert [weight is None for weight in network.readers] == [False, True, True, True, False]


@pytest.mark.slow
def test_the_lines_read_the_examples_result(tmp_path):
    script = Path(_example.__file__)
    words = [sys.executable, script, "--scale", "quick", "--results", "mine", "--jobs", "1"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    environment = {"PYTHONPATH": str(ROOT / "src")}
    words = [sys.executable, "-c", READING]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("digits relu [")
    assert "['seed', 'epoch', 'layer']" in done.stdout
