"""Choosing a network by name or by a file of one's own: what results say of it, what is refused."""

import dataclasses

import pytest
import torch

import tiny
from experiment import random_label, target_linearity, virtual_covariance
from lab import architectures, cli, data, memory, results
from lab.errors import ConfigError, DataError
from lab.provenance import Faithful
from lab.replicas import Replica

SCRIPTS = (target_linearity, random_label, virtual_covariance)
OWN = """
from dataclasses import dataclass
from torch import nn

@dataclass(frozen=True)
class Sizes:
    width: int = 5

def build(shape, classes):
    network = nn.Sequential(
        nn.Conv2d(shape[0], Sizes().width, 3), nn.ReLU(), nn.Flatten(1), nn.Linear(5 * 36, classes)
    )
    network.hidden = ("3",)
    return network
"""


@pytest.fixture(autouse=True)
def _each_test_reads_its_own_files():
    forget()


def forget():
    architectures._read.cache_clear()
    architectures._run.cache_clear()


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return f"{path}:build"


def config(script, tmp_path, **changes):
    places = {"datasets": (str(tmp_path / "tiny.npz"),), "results": tmp_path / "results", "jobs": 1}
    tiny.write_data(tmp_path / "tiny.npz")
    return tiny.tiny(script, **places, **{"learning_rate": 0.01, **changes})


def run(script, settings, monkeypatch):
    monkeypatch.setattr("sys.argv", [script.__file__, *tiny.command(settings)])
    script.main()
    folder = settings.results / "quick" / tiny.name(script)
    return {path.name: results.read(path) for path in folder.glob("*.npz")}


@pytest.mark.filterwarnings("ignore:.* any target may be linear in them", "ignore:.* hardly vary")
@pytest.mark.parametrize("script", SCRIPTS, ids=tiny.name)
@pytest.mark.parametrize("architecture", [*architectures.BUILDERS, "mine.py:build"])
def test_a_script_trains_and_measures_each_architecture(
    script, architecture, own, tmp_path, monkeypatch
):
    chosen = own if ":" in architecture else architecture
    settings = config(script, tmp_path, architecture=chosen)
    for name, result in run(script, settings, monkeypatch).items():
        ending = architecture.replace(".py:", "-")
        assert f"-{ending}-" in name
        assert result.config["architecture"].split()[0] == architecture
        # a transformer's and a ResNet's stem or embedding is a hidden layer of its own
        layers = {"cnn": 2, "mine.py:build": 1}.get(architecture, 3)
        layers += script is virtual_covariance  # and the images
        assert result["layer"].tolist() == list(range(1, layers + 1))
        for array in ("train_surrogate", "gram_vcs_matrix"):
            if array in result.arrays:
                undefined = torch.from_numpy(result[array])[:, 1:].isnan().any(0).any(0)
                lone = {layers - 1, *({0} if script is virtual_covariance else ())}
                expected = [
                    architecture in ("resnet", "transformer") and i not in lone
                    for i in range(layers)
                ]
                assert undefined.tolist() == expected


def test_each_architecture_is_another_configuration_and_the_mlps_names_are_as_they_were(own):
    seen = set()
    for architecture in (*architectures.WIDTHS, own):
        chosen = target_linearity.Config(architecture=architecture)
        seen.add(results.digest(chosen.hyperparameters(), chosen.earlier))
    assert len(seen) == 5
    before = target_linearity.Config().hyperparameters()
    assert before.pop("architecture") == "mlp"
    assert results.digest(before) in seen  # as before there was the field


def test_two_files_of_one_name_never_share_a_result_and_one_that_moves_keeps_its_own(tmp_path):
    found = []
    for folder, text in (("a", OWN), ("b", OWN), ("c", OWN + "\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(text)
        chosen = target_linearity.Config(architecture=f"{tmp_path / folder / 'mine.py'}:build")
        found.append(chosen.hyperparameters())
    assert found[0] == found[1]
    assert found[0]["architecture"] != found[2]["architecture"]
    assert not {"width", "depth"} & found[0].keys()  # which it does not have


def test_a_file_is_run_once_and_from_the_bytes_that_are_named(own, tmp_path):
    path = tmp_path / "mine.py"
    runs = tmp_path / "runs"
    runs.mkdir()
    path.write_text(f"import tempfile\ntempfile.mkstemp(dir={str(runs)!r})\n{OWN}")
    chosen = config(target_linearity, tmp_path, architecture=own)
    before = chosen.hyperparameters()
    path.write_text("changed")
    images = cli.load_images(chosen, chosen.datasets[0])
    architectures.make(chosen, images, [Replica(0), Replica(1)])
    assert (
        dataclasses.replace(chosen, epochs=3).hyperparameters()["architecture"]
        == (before["architecture"])
    )
    assert len(list(runs.iterdir())) == 1


def test_a_worker_refuses_a_file_that_has_changed_since(own, tmp_path):
    chosen = config(target_linearity, tmp_path, architecture=own)
    images = cli.load_images(chosen, chosen.datasets[0])
    inputs = architectures.inputs(chosen)
    make = Faithful(lambda _: architectures.make(chosen, images, [Replica(0)]), inputs)
    make(None)
    (tmp_path / "mine.py").write_text(OWN + "\n")
    forget()  # as a worker that starts knows nothing
    with pytest.raises(DataError, match="has changed since the program was started"):
        make(None)


WRONG = {  # what is said -> the file
    "cannot be run: SyntaxError": "def build(:",
    "cannot be run: ModuleNotFoundError": "import no_such_package_here",
    "has no function 'build'": "def other(): ...",
    "TypeError": "def build(): ...",
    "ValueError: two lines": "def build(shape, classes): raise ValueError('two\\nlines')",
    "it makes a NoneType": "def build(shape, classes): ...",
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_wrong_with_a_file_is_one_line_before_any_work(said, own, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(WRONG[said])
    words = ["--datasets", str(tiny.write_data(tmp_path / "tiny.npz")), "--architecture", own]
    monkeypatch.setattr("sys.argv", ["", "--scale", "quick", *words, "--results", str(tmp_path)])
    with pytest.raises(ConfigError) as caught:
        target_linearity.main()
    assert said in str(caught.value)
    assert "mine.py" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vgg", "absent.py:build", "mine.py", "folder.py:build", ":", ""])
def test_no_such_architecture_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(ConfigError) as caught:
        target_linearity.Config(architecture=name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("architecture", architectures.BUILDERS)
def test_what_cannot_be_is_refused_before_any_work(architecture, tmp_path, monkeypatch):
    flat = str(tiny.write_data(tmp_path / "flat.npz", shape=(6,)))
    chosen = config(target_linearity, tmp_path, architecture=architecture, width=8)
    with pytest.raises(ConfigError, match=r"flat: .* needs images"):
        architectures.check(chosen, data.load_images(flat))
    monkeypatch.setattr(memory, "limit", lambda: 2**30)
    huge = dataclasses.replace(chosen, width=10_000_000)
    with pytest.raises(ConfigError, match=r"^memory: "):
        architectures.check(huge, cli.load_images(huge, huge.datasets[0]))


def test_a_transformers_width_is_one_of_its_heads():
    with pytest.raises(ConfigError, match="multiple of 4"):
        target_linearity.Config(architecture="transformer", width=6)
