"""Nothing that is read runs code or reaches outside its folder: a planted file for each reader."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

import tiny
from lab import checkpoints, data, program, results
from lab.errors import DataError, ResultError
from lab.partial import Partial
from lab.replicas import Replica
from lab.text import encoders, tasks, toy_language

SOURCE = tiny.SOURCE


class Code:
    """Unpickling it makes a file."""

    def __init__(self, folder: Path) -> None:
        self.touched = folder / "touched"

    def __reduce__(self) -> tuple:
        return Path.touch, (self.touched,)


@pytest.fixture(autouse=True)
def nothing_has_run(tmp_path):
    yield
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("key", ["x_train", "y_test"])
def test_data(key, tmp_path):
    path = tiny.write_data(tmp_path / "data.npz")
    with np.load(path) as file:
        content = dict(file)
    content[key] = np.array([Code(tmp_path)] * len(content[key]), dtype=object)
    np.savez(path, **content)
    with pytest.raises(DataError, match="cannot be read as an"):
        data.load_images(str(path))


@pytest.mark.parametrize("name", ["meta", "a"])
def test_results_and_partial_results(name, tmp_path):
    path = tmp_path / "result.npz"
    content = {"a": np.zeros(1), "meta": np.array("{}")}
    np.savez(path, **content | {name: np.array([Code(tmp_path)], dtype=object)})
    with pytest.raises(ResultError):
        results.read(path)
    partial = Partial(path, "key")
    partial.put(Replica(0), {"a": np.zeros(1)})
    (kept,) = partial.folder.iterdir()
    path.rename(kept)
    assert partial.get(Replica(0)) is None


def test_checkpoints(tmp_path):
    path = tmp_path / "checkpoint-1.pt"
    for save in (torch.save, lambda content, file: file.write_bytes(pickle.dumps(content))):
        save({"state": {}, "origin": {}, "digest": "", "more": Code(tmp_path)}, path)
        with pytest.raises(ResultError, match="is not a checkpoint of this project"):
            checkpoints.restore(torch.nn.Linear(1, 1), path, {}, "vae_train")


@pytest.fixture
def model(tmp_path) -> Path:
    """A folder with a small BERT and its tokenizer."""
    folder = tmp_path / "model"
    tokenizer = toy_language.tokenizer()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"intermediate_size": 16, "vocab_size": len(tokenizer)}
    BertModel(BertConfig(**sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plant_code(model: Path) -> None:
    """Name classes of a module of the folder in everything that may name one."""
    code = f"from pathlib import Path\nPath({str(model.parent / 'touched')!r}).touch()\n"
    code += (
        "from transformers import *\nclass Mine(BertModel): pass\nclass Shape(BertConfig): pass\n"
    )
    (model / "mine.py").write_text(code)
    classes = ("AutoConfig", "AutoModel", "AutoModelForTokenClassification", "AutoTokenizer")
    classes += ("AutoModelForSequenceClassification",)
    for file in ("config.json", "tokenizer_config.json"):
        content = json.loads((model / file).read_text())
        content["auto_map"] = dict.fromkeys(classes, "mine.Mine")
        content["auto_map"] |= {"AutoConfig": "mine.Shape", "AutoTokenizer": ["mine.Mine", None]}
        content["model_type"] = "bert"
        (model / file).write_text(json.dumps(content))


@pytest.mark.slow
def test_models_with_code_of_their_own(model, tmp_path):
    """Even where somebody answers yes to a question; only one of a known kind can be loaded."""
    plant_code(model)
    unknown = shutil.copytree(model, tmp_path / "unknown")
    content = json.loads((unknown / "config.json").read_text()) | {"model_type": "mine"}
    (unknown / "config.json").write_text(json.dumps(content))
    code = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
        "from lab.text import encoders\n"
        "from lab.errors import DataError\n"
        "for model in sys.argv[1:]:\n"
        "    for load in (encoders.load_tokenizer, encoders.fingerprint):\n"
        "        try:\n            load(model)\n"
        "        except DataError:\n            print(model)\n"
    )
    words = [sys.executable, "-c", code, str(model), str(unknown)]
    done = subprocess.run(words, input="y\n" * 9, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {str(unknown)}


def test_a_pickle_beside_or_instead_of_safetensors(model, tmp_path):
    state = {"embeddings.word_embeddings.weight": Code(tmp_path)}
    torch.save(state, model / "pytorch_model.bin")
    expected = encoders.fingerprint(str(model))
    (model / "model.safetensors").unlink()
    encoders.fingerprint.cache_clear()
    with pytest.raises(DataError, match="cannot be loaded"):
        encoders.fingerprint(str(model))
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(state))
    with pytest.raises(DataError, match="cannot be loaded"):
        encoders.fingerprint(str(model))
    assert len(expected) == 16


@pytest.mark.parametrize("name", ["data.py", "reviews.py"])
def test_a_task_with_a_script_of_its_own(name, tmp_path):
    folder = tmp_path / "reviews"
    folder.mkdir()
    (folder / name).write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'touched')!r}).touch()"
    )
    with pytest.raises(DataError):
        tasks.load("sst2", folder)


def test_names_of_models_and_tasks_never_lead_out_of_the_results(model, tmp_path, monkeypatch):
    script = next(script for script in tiny.SCRIPTS if tiny.name(script) == "bert_train")
    (tmp_path / "deep" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep")
    for task in ("../../toy_sst2", "..", "/etc/passwd"):
        words = ["--scale", "quick", "--tasks", task, "--results", "results", "--model", str(model)]
        monkeypatch.setattr(sys, "argv", [script.__file__, *words])
        with pytest.raises(SystemExit) as stop:
            program.run(script.main)
        assert stop.value.code == 2
    config = tiny.tiny(script, model=f"{model}/../model/.", results=tmp_path / "deep" / "results")
    path = script.plan(config, tasks.load("toy_sst2", examples=40)).path
    assert path.parent == tmp_path / "deep" / "results" / "quick" / "bert_train"
    assert path.name.startswith("model-toy_sst2-")
    assert not list((tmp_path / "deep" / "results").iterdir())
    assert os.listdir(tmp_path / "deep") == ["results"]
