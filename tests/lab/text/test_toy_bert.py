"""The toy BERT: what names its folder, and pre-training to the same bits."""

import dataclasses
import shutil
import threading
from pathlib import Path

import pytest
import torch

from lab import files, provenance
from lab.errors import ConfigError
from lab.text import encoders, marked, toy_bert
from lab.text.toy_bert import ToyBert

TINY = ToyBert(width=16, depth=1, corpus=64, epochs=1)
OPTIONS = {"warmup_steps": 0.1, "weight_decay": 0.01, "max_grad_norm": 1.0}


def test_what_shapes_the_model_names_its_folder():
    folder = TINY.folder(Path("results"), OPTIONS)
    folders = {folder, TINY.folder(Path("results"), OPTIONS | {"weight_decay": 0.0})}
    fields = [field.name for field in dataclasses.fields(ToyBert)]
    for name in fields:
        folders.add(dataclasses.replace(TINY, **{name: 32}).folder(Path("results"), OPTIONS))
    assert len(folders) == 1 + len(fields)  # with the options, without the number of examples
    assert dataclasses.replace(TINY, examples=7).folder(Path("results"), OPTIONS) == folder
    assert (folder.parent, folder.name[:9]) == (Path("results"), "toy_bert-")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ToyBert)])
def test_a_size_that_cannot_be_is_one_line(field):
    with pytest.raises(ConfigError, match=f"{field} must be above zero, not 0"):
        ToyBert(**{field: 0})


def test_a_width_of_unequal_heads_is_one_line():
    with pytest.raises(ConfigError, match="width of toy_bert must be a multiple of 16, not 20"):
        ToyBert(width=20)


def test_pre_training_gives_the_same_bits_again_and_leaves_nothing_else(tmp_path):
    encoders.quiet()
    weights = []
    for seed in (0, 9):
        torch.manual_seed(seed)  # the random numbers of others change nothing
        toy_bert.pretrain(TINY, tmp_path / "models" / "toy", "cpu", OPTIONS)
        weights.append((tmp_path / "models" / "toy" / "model.safetensors").read_bytes())
        assert [path.name for path in (tmp_path / "models").iterdir()] == ["toy"]
    assert weights[0] == weights[1]
    model = encoders.build(str(tmp_path / "models" / "toy"), ("x", "y"), False, 0)
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (16, 1)


class TestEnsure:
    @pytest.fixture
    def trained(self, monkeypatch):
        """Stands in for pre-training: counts it."""
        calls = []

        def pretrain(toy, folder, device, options):
            calls.append(folder)
            with files.folder_whole(folder) as temporary:
                (temporary / "model.safetensors").write_bytes(b"weights")
                marked.mark(temporary, {"sources": provenance.sources()})

        monkeypatch.setattr(toy_bert, "pretrain", pretrain)
        return calls

    def ensure(self, folder, **options):
        toy_bert.ensure(TINY, folder, "cpu", OPTIONS, **options)

    def test_pre_trains_once(self, trained, tmp_path):
        for _ in range(2):
            self.ensure(tmp_path / "toy")
        assert trained == [tmp_path / "toy"]
        self.ensure(tmp_path / "toy", again=True)
        assert len(trained) == 2
        assert [path.name for path in tmp_path.iterdir()] == ["toy"]

    def test_pre_trains_again_where_it_is_damaged_or_of_other_code(
        self, trained, tmp_path, monkeypatch
    ):
        self.ensure(tmp_path / "toy")
        (tmp_path / "toy" / "model.safetensors").write_bytes(b"Weights")
        self.ensure(tmp_path / "toy")
        monkeypatch.setattr(provenance, "sources", lambda: "edited")
        self.ensure(tmp_path / "toy")
        assert len(trained) == 3

    def test_removes_what_a_process_left_that_was_killed_and_nothing_of_others(
        self, trained, tmp_path
    ):
        with files.folder_whole(tmp_path / "toy") as mine:
            (mine / "half").touch()
            shutil.copytree(mine, kept := mine.with_name(mine.name.replace("-", "-0", 1)))
        with files.folder_whole(tmp_path / "other") as theirs:
            (theirs / "half").touch()
            shutil.rmtree(tmp_path / "toy")
            self.ensure(tmp_path / "toy")
            assert theirs.is_dir()
        assert not kept.exists()

    def test_waits_for_a_process_that_is_at_it(self, trained, tmp_path):
        with files.locked(tmp_path / "toy.lock", "it"):
            waiting = threading.Thread(target=self.ensure, args=(tmp_path / "toy",))
            waiting.start()
            waiting.join(0.2)
            toy_bert.pretrain(TINY, tmp_path / "toy", "cpu", OPTIONS)
        waiting.join()
        assert len(trained) == 1
