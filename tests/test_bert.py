"""Fine-tuning BERT and its Target Linearity, on tiny models: naive recomputation, resuming, one line for bad input."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

import cli
import results
import tasks
import text
import training
from experiment import bert_target_linearity, bert_train
from experiment.bert_target_linearity import Config
from oracles import chance, least_squares, least_squares_map, rank

SCRIPTS = [bert_train, bert_target_linearity]
TASKS = ("toy_sst2", "toy_ner")
SEEDS, EPOCHS = (0, 3), 2
TINY = {
    "scale": "quick",
    "device": "cpu",
    "jobs": 1,
    "model": bert_train.TOY,
    "tasks": TASKS,
    "max_length": 40,
    "seeds": SEEDS,
    "epochs": EPOCHS,
    "batch_size": 8,
    "learning_rate": 0.01,
    "samples": 50,
    "toy_examples": 60,
    "toy_width": 16,
    "toy_depth": 2,
    "toy_corpus": 64,
    "toy_epochs": 1,
}
WORDS = [
    word
    for name, value in TINY.items()
    for word in (f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,)))
]


def in_process(monkeypatch: pytest.MonkeyPatch, script: ModuleType, *words: object) -> int:
    """Run a script's main in this process; returns the exit status."""
    monkeypatch.setattr(sys, "argv", [script.__file__, *WORDS, *map(str, words)])
    try:
        cli.run(script.main)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    text.quiet()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Both scripts' results of both tasks, and the configuration that made them."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for script in SCRIPTS:
            assert in_process(monkeypatch, script, "--results", root) == 0
    return Config(**TINY, results=root)


def result(config: Config, script: ModuleType, index: int) -> results.Result:
    of = bert_train.output(config, bert_train.load(config, index))
    name = script.__name__.rpartition(".")[2]
    return results.load(results.path_for(config.results, config.scale, name, of.name, of.settings))


def model_of(config: Config, index: int, seed: int, stage: int) -> torch.nn.Module:
    """The model of a stage, loaded by transformers alone but for what no file holds: 0 is the initialised one."""
    texts = bert_train.load(config, index)
    if stage < 2:
        source = bert_train.source(config)
        return text.build(source, texts.labels, texts.task.tagged, seed, trained=stage > 0).eval()
    kind = AutoModelForTokenClassification if texts.task.tagged else AutoModelForSequenceClassification
    return kind.from_pretrained(bert_train.checkpoint(config, texts, seed, stage - 1)).eval()


@torch.no_grad()
def one_by_one(config: Config, index: int, split: str, model: torch.nn.Module) -> dict[str, list[torch.Tensor]]:
    """Features of each layer, logits and classes of every labelled row, sentence by sentence without padding."""
    texts = bert_train.load(config, index)
    tokenizer = AutoTokenizer.from_pretrained(bert_train.source(config))
    rows = bert_train.chosen(getattr(texts, split), config.samples)
    features, logits, labels, sizes = [], [], [], []
    for row in rows:
        if texts.task.tagged:
            coded = tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt")
            where = [coded.word_to_tokens(i).start for i in range(len(row["tokens"]))]
            labels += row["ner_tags"]
        else:
            coded, where = tokenizer(row["sentence"], return_tensors="pt"), [0]
            labels.append(row["label"])
        found = model(**coded, output_hidden_states=True)
        features.append(torch.stack([h[0, where] for h in found.hidden_states]))  # (layer, rows, d)
        logits.append(found.logits[0, where] if texts.task.tagged else found.logits)
        sizes.append(len(where))
    whole = {"features": list(torch.cat(features, 1)), "logits": torch.cat(logits), "labels": torch.tensor(labels)}
    return whole | {"sizes": sizes}


CELLS = [(index, seed, stage) for index in (0, 1) for seed, stage in ((0, 0), (3, 1), (0, 2), (3, 3))]


class TestTargetLinearity:
    @pytest.mark.parametrize(("index", "seed", "stage"), CELLS)
    def test_is_that_of_least_squares_on_features_of_one_sentence_at_a_time(self, index, seed, stage, made):
        found, at = result(made, bert_target_linearity, index), (SEEDS.index(seed), stage)
        texts, model = bert_train.load(made, index), model_of(made, index, seed, stage).double()
        sides = {split: one_by_one(made, index, split, model) for split in ("train", "validation")}
        for split, side in sides.items():
            assert int(found[f"{split}_n"]) == len(side["labels"])
            for layer, h in enumerate(side["features"]):
                if layer == 0 and index == 0:  # the first token's embedding is that of every sentence
                    assert found[f"{split}_tl"][at][layer] == pytest.approx(0, abs=1e-12)
                    assert found[f"{split}_rank"][at][layer] == 0
                    continue
                assert found[f"{split}_tl"][at][layer] == pytest.approx(least_squares(h, side["labels"]), abs=1e-8)
                assert found[f"{split}_chance"][at][layer] == pytest.approx(chance(h), abs=1e-8)
                assert found[f"{split}_rank"][at][layer] == rank(h) <= int(found["d"])
        fitted, other = sides["train"], sides["validation"]
        y, y_other = (np.eye(len(texts.labels))[side["labels"].numpy()] for side in (fitted, other))
        for layer, h in enumerate(fitted["features"]):
            if layer or index:
                predicted = other["features"][layer].numpy() @ least_squares_map(h, y)
                rest = ((y_other - y.mean(0) - predicted) ** 2).sum()
                expected = 1 - rest / ((y_other - y.mean(0)) ** 2).sum()
                assert found["held_out_tl"][at][layer] == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("batch", [1, 7, 100])
    def test_does_not_depend_on_how_sentences_are_batched(self, batch, made):
        texts = bert_train.load(made, 1)
        model = model_of(made, 1, 0, 2)
        values = []
        for config in (made, dataclasses.replace(made, measure_batch=batch)):
            loaders = {s: bert_target_linearity.batches(config, texts, s) for s in ("train", "validation")}
            of = {s: bert_target_linearity.one_pass(model, loader, 7) for s, loader in loaders.items()}
            values.append(bert_target_linearity.measure(of))
        assert values[0].keys() == values[1].keys()
        for name in values[0]:
            np.testing.assert_allclose(values[1][name], values[0][name], atol=2e-5)

    def test_batches_are_of_like_lengths_and_hold_every_example_once(self, made):
        texts = bert_train.load(made, 1)
        config = dataclasses.replace(made, measure_batch=7, samples=0)
        loader = bert_target_linearity.batches(config, texts, "train")
        lengths = [batch["attention_mask"].sum(1).tolist() for batch in loader]
        whole = [length for batch in lengths for length in batch]
        assert whole == sorted((len(tokens) + 2 for tokens in texts.train["tokens"]), reverse=True)
        assert all(batch["input_ids"].shape[1] == batch["attention_mask"].sum(1).max() for batch in loader)

    def test_stages_and_layers_are_named(self, made):
        for index in (0, 1):
            found = result(made, bert_target_linearity, index)
            assert found["stage"].tolist() == ["initialised", "pre-trained", "epoch 1", "epoch 2"]
            assert found["layer"].tolist() == [-1, 0, 1]
            assert found["seed"].tolist() == list(SEEDS)

    def test_of_the_pre_trained_model_is_that_of_every_seed_and_no_other_stage_is(self, made):
        tl = result(made, bert_target_linearity, 1)["train_tl"]  # (seed, stage, layer)
        assert (tl[0, 1] == tl[1, 1]).all()
        assert (tl[0, [0, 2, 3]] != tl[1, [0, 2, 3]]).all()

    def test_held_out_is_target_linearity_on_the_rows_fitted(self, made):
        texts = bert_train.load(made, 1)
        loader = bert_target_linearity.batches(made, texts, "train")
        of = bert_target_linearity.one_pass(model_of(made, 1, 0, 1), loader, 7)
        both = bert_target_linearity.measure({"train": of, "validation": of})
        np.testing.assert_allclose(both["held_out_tl"], both["train_tl"], atol=1e-9)

    def test_on_the_whole_of_both_splits_is_one_flag_away(self, made):
        config = dataclasses.replace(made, samples=0)
        loaders = [bert_target_linearity.batches(config, bert_train.load(made, 0), s) for s in ("train", "validation")]
        assert [len(loader.dataset) for loader in loaders] == [60, 30]


class TestFineTuning:
    @pytest.mark.parametrize(("index", "seed", "epoch"), [(0, 3, 1), (1, 0, 2)])
    def test_curves_are_those_of_the_checkpoints_read_one_by_one(self, index, seed, epoch, made):
        found, texts = result(made, bert_train, index), bert_train.load(made, index)
        config = dataclasses.replace(made, samples=0)
        for split in ("train", "validation"):
            of = made if split == "train" else config  # validation errors are of the whole split
            side = one_by_one(of, index, split, model_of(made, index, seed, epoch + 1))
            at = (SEEDS.index(seed), epoch)
            nll = functional.cross_entropy(side["logits"].double(), side["labels"])
            assert found[f"{split}_loss"][at] == pytest.approx(float(nll), abs=1e-5)
            right = side["logits"].argmax(1) == side["labels"]
            assert found[f"{split}_accuracy"][at] == pytest.approx(float(right.double().mean()), abs=1e-9)
            if index == 1:
                names = [
                    [[texts.labels[i] for i in row] for row in tags.split(side["sizes"])]
                    for tags in (side["logits"].argmax(1), side["labels"])
                ]
                assert found[f"{split}_f1"][at] == pytest.approx(tasks.entity_f1(*names), abs=1e-9)
        assert ("train_f1" in found.arrays) == (index == 1)

    def test_starts_from_the_pre_trained_model_with_the_seeds_head(self, made):
        side = one_by_one(dataclasses.replace(made, samples=0), 0, "validation", model_of(made, 0, 3, 1))
        nll = functional.cross_entropy(side["logits"].double(), side["labels"])
        assert result(made, bert_train, 0)["validation_loss"][1, 0] == pytest.approx(float(nll), abs=1e-5)

    def test_learns(self, made):
        loss = result(made, bert_train, 1)["train_loss"]
        assert (loss[:, -1] < 0.7 * loss[:, 0]).all()

    def test_arrays_have_the_axes_of_the_configuration(self, made):
        for script, sizes in ((bert_train, {"epoch": EPOCHS + 1}), (bert_target_linearity, {"stage": 4, "layer": 3})):
            for index in (0, 1):
                found = result(made, script, index)
                of = {"seed": len(SEEDS)} | sizes
                left_out = set() if index else {"train_f1", "validation_f1"}
                assert {name: array.shape for name, array in found.arrays.items()} == {
                    name: tuple(of[axis] for axis in axes) for name, axes in script.AXES.items() if name not in left_out
                }
                assert found.meta["data"]["name"] == TASKS[index]
                assert {"task": TASKS[index], "model": "toy_bert", "epochs": EPOCHS}.items() <= found.config.items()
                assert all(np.isfinite(array).all() for array in found.arrays.values() if array.dtype.kind == "f")

    def test_leaves_the_weights_of_every_epoch_and_nothing_that_serves_to_resume(self, made):
        for index in (0, 1):
            texts = bert_train.load(made, index)
            for seed in SEEDS:
                root = bert_train.folder(made, texts, seed)
                kept = [bert_train.checkpoint(made, texts, seed, epoch) for epoch in (1, 2)]
                assert sorted(root.iterdir()) == sorted(kept)
                for path in kept:
                    names = {file.name for file in path.iterdir()}
                    assert {"model.safetensors", "config.json", "tokenizer.json", text.MADE} <= names
                    assert not {"optimizer.pt", "scheduler.pt", "rng_state.pth"} & names

    def test_a_second_run_touches_nothing(self, made, monkeypatch, capsys):
        before = {path: path.stat().st_mtime_ns for path in made.results.rglob("*")}
        for script in SCRIPTS:
            assert in_process(monkeypatch, script, "--results", made.results) == 0
        assert capsys.readouterr().out.count("already there: ") == 4
        assert {path: path.stat().st_mtime_ns for path in made.results.rglob("*")} == before

    def test_the_optimizer_is_the_papers(self, tmp_path):
        arguments = bert_train.arguments(bert_train.Config(device="cpu"), tmp_path, 0, 32)
        assert arguments.optim.startswith("adamw_torch")
        assert (arguments.weight_decay, arguments.max_grad_norm, arguments.lr_scheduler_type) == (0.01, 1.0, "linear")
        assert (arguments.get_warmup_steps(100), arguments.train_batch_size) == (10, 32)
        assert (arguments.bf16, arguments.fp16, arguments.report_to) == (False, False, [])
        config = bert_train.Config()
        assert (config.learning_rate, config.epochs, config.max_length, config.samples) == (2e-5, 3, 128, 2000)


def tuned(config: Config, seed: int = 0) -> results.Arrays:
    return bert_train.fine_tune(config, bert_train.load(config, 0), seed)


@pytest.fixture
def alone(made: Config, tmp_path: Path) -> Config:
    """A configuration of one seed whose results folder holds the pre-trained model and nothing else."""
    config = dataclasses.replace(made, results=tmp_path, seeds=(0,))
    shutil.copytree(bert_train.source(made), bert_train.source(config))
    return config


def same_bits(one: results.Arrays, other: results.Arrays) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


class TestResuming:
    @pytest.mark.parametrize("saved", [1, 2])
    def test_a_killed_run_goes_on_to_the_bits_of_one_that_was_not(self, saved, alone, made, monkeypatch):
        on_save, saves = text.Keeper.on_save, []

        def killed(*arguments: object, **keywords: object) -> None:
            saves.append(1)
            if len(saves) == saved + 1:
                raise KeyboardInterrupt  # while the checkpoint after this one is written
            on_save(*arguments, **keywords)

        config = dataclasses.replace(alone, epochs=3)
        monkeypatch.setattr(text.Keeper, "on_save", killed)
        with pytest.raises(KeyboardInterrupt):
            tuned(config)
        monkeypatch.setattr(text.Keeper, "on_save", on_save)
        texts = bert_train.load(config, 0)
        last = bert_train.checkpoint(config, texts, 0, saved)
        by = bert_train.made(config, texts, 0)
        assert text.latest(last.parent, by) == last
        resumed = tuned(config)
        shutil.rmtree(last.parent)
        assert same_bits(resumed, tuned(config))

    def test_goes_on_from_the_last_whole_epoch(self, alone, monkeypatch):
        seen = []
        train = text.FineTuner.train
        monkeypatch.setattr(text.FineTuner, "train", lambda self, **k: (seen.append(k), train(self, **k))[1])
        first = tuned(alone)
        texts = bert_train.load(alone, 0)
        assert same_bits(tuned(alone), first)
        assert seen == [{"resume_from_checkpoint": None}]  # what is finished is not trained again
        (bert_train.checkpoint(alone, texts, 0, 2) / text.MADE).unlink()
        shutil.rmtree(bert_train.checkpoint(alone, texts, 0, 1))
        assert same_bits(tuned(alone), first)  # nothing whole is left: from the start
        assert seen[1:] == [{"resume_from_checkpoint": None}]

    def test_overwrite_trains_again(self, alone):
        first = tuned(alone)
        texts = bert_train.load(alone, 0)
        path = bert_train.checkpoint(alone, texts, 0, 2) / "model.safetensors"
        before = path.stat().st_mtime_ns
        assert same_bits(tuned(dataclasses.replace(alone, overwrite=True)), first)
        assert path.stat().st_mtime_ns > before

    def test_a_checkpoint_of_other_data_is_not_gone_on_from(self, alone):
        texts = bert_train.load(alone, 0)
        tuned(alone)
        other = bert_train.load(dataclasses.replace(alone, toy_examples=61), 0)
        by = bert_train.made(alone, texts, 0)
        root = bert_train.folder(alone, texts, 0)
        assert text.latest(root, by) is not None
        assert text.latest(root, by | {"data": other.fingerprint}) is None
        assert text.latest(root, by | {"seed": 1}) is None


class TestSeeds:
    def test_one_seed_is_one_run_whatever_else_is_measured(self, alone):
        first = tuned(alone)
        texts = bert_train.load(alone, 0)
        torch.manual_seed(5)  # what came before changes nothing
        other = dataclasses.replace(alone, samples=20)
        again = tuned(other)
        assert again["validation_loss"].tobytes() == first["validation_loss"].tobytes()
        assert again["train_loss"].tobytes() != first["train_loss"].tobytes()
        assert bert_train.folder(other, texts, 0) != bert_train.folder(alone, texts, 0)

    def test_a_seed_shuffles(self, made):
        loss = result(made, bert_train, 0)["train_loss"]
        assert (loss[0] != loss[1]).all()

    def test_batches_follow_the_seed_and_the_epoch_and_are_of_like_lengths(self):
        g = torch.Generator().manual_seed(0)
        lengths = torch.randint(5, 60, (1000,), generator=g).tolist()
        rows = {"length": lengths}
        orders = {}
        for seed, epoch in ((0, 0), (0, 1), (1, 0)):
            for _ in range(2):
                torch.manual_seed(len(orders))  # others' random numbers change nothing
                sampler = text.InOrder(rows, 8, seed)
                sampler.set_epoch(epoch)
                order = list(sampler)
                assert sorted(order) == list(range(1000))
                assert orders.setdefault((seed, epoch), order) == order
        assert len({tuple(order) for order in orders.values()}) == 3
        batches = np.array(lengths)[orders[0, 1]].reshape(-1, 8)
        padded = (batches.max(1) * 8).sum() / batches.sum()
        assert padded < 1.1 < 8 * np.array(lengths).reshape(-1, 8).max(1).sum() / sum(lengths)


class TestPretraining:
    def test_is_done_once_and_gives_the_same_bits_again(self, alone, made):
        path = Path(bert_train.source(alone)) / "model.safetensors"
        before = path.stat().st_mtime_ns, path.read_bytes()
        bert_train.pretrain(alone)
        assert path.stat().st_mtime_ns == before[0]
        torch.manual_seed(9)
        bert_train.pretrain(dataclasses.replace(alone, overwrite=True))
        assert path.stat().st_mtime_ns > before[0]
        assert path.read_bytes() == before[1]
        assert [p.name for p in path.parent.parent.iterdir()] == [path.parent.name]

    @pytest.mark.parametrize("field", ["toy_width", "toy_depth", "toy_corpus", "toy_epochs", "toy_batch", "toy_rate"])
    def test_what_shapes_the_model_names_its_folder(self, field, alone):
        assert bert_train.source(dataclasses.replace(alone, **{field: 32})) != bert_train.source(alone)
        assert bert_train.source(dataclasses.replace(alone, toy_examples=7)) == bert_train.source(alone)


FOLDER_TASK = {"sentence": ["good film", "bad film", "a good day", "a bad day"] * 5, "label": [1, 0, 1, 0] * 5}


@pytest.fixture
def own(tmp_path: Path, made: Config) -> tuple[str, ...]:
    """The words that name a model and data of the user's, both folders."""
    shutil.copytree(bert_train.source(made), tmp_path / "my_bert")
    (tmp_path / "reviews").mkdir()
    for split in ("train", "validation"):
        tasks.Dataset.from_dict(FOLDER_TASK).to_parquet(tmp_path / "reviews" / f"{split}.parquet")
    return ("--model", str(tmp_path / "my_bert"), "--task-data", str(tmp_path / "reviews"), "--seeds", "0")


class TestOwnModelAndData:
    @pytest.mark.parametrize("task", ["sst2", "mood"])
    def test_are_named_on_the_command_line(self, task, own, monkeypatch, capsys, tmp_path):
        words = (*own, "--task", task, "--results", tmp_path / "results")
        for script in SCRIPTS:
            assert in_process(monkeypatch, script, *words) == 0
            (line,) = capsys.readouterr().out.splitlines()
            (path,) = (tmp_path / "results" / "quick" / script.__name__.rpartition(".")[2]).glob("*.npz")
            assert line.startswith(f"saved {path}")
            assert path.name.startswith("my_bert-reviews-")
            config = results.load(path).config
            assert (config["model"], config["task"]) == ("my_bert", task)
            assert len(config["weights"]) == 16
            assert not [name for name in config if name.startswith("toy_")]

    def test_other_weights_under_the_same_name_are_another_result(self, own, tmp_path):
        config = bert_train.Config(**TINY | {"model": own[1], "tasks": ("sst2",), "task_data": (Path(own[3]),)})
        texts = bert_train.load(config, 0)
        before = bert_train.folder(config, texts, 0)
        model = AutoModelForSequenceClassification.from_pretrained(own[1])
        with torch.no_grad():
            model.bert.embeddings.word_embeddings.weight[7] += 0.1
        model.save_pretrained(own[1])
        text.fingerprint.cache_clear()
        assert bert_train.folder(config, texts, 0) != before


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> Callable[..., str]:
    """Runs a script that must stop with one line on stderr, status 2 and nothing written; returns the line."""

    def call(script: ModuleType, *words: object) -> str:
        monkeypatch.setattr(text.FineTuner, "train", lambda *_, **__: pytest.fail("training has begun"))
        before = sorted(tmp_path.rglob("*"))
        assert in_process(monkeypatch, script, "--results", tmp_path / "none", *words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"error: .+\n", err), err
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return call


WRONG = [  # command line -> what the message must name
    ("--task cola", "unknown task 'cola': one of sst2, mnli, pos, ner"),
    ("--tasks", "tasks"),
    ("--tasks toy_ner toy_ner", "tasks"),
    ("--task-data absent", "1 folders for 2 tasks"),
    ("--task toy_ner --task-data absent", "no folder absent"),
    ("--batch-size 0", "batch_size must be above zero, not 0"),
    ("--epochs 0", "epochs must be above zero, not 0"),
    ("--learning-rate 0", "learning_rate must be above zero"),
    ("--clip 0", "clip must be above zero"),
    ("--warmup 1", "warmup must be in [0, 1), not 1.0"),
    ("--weight-decay -1", "weight_decay must be zero or above"),
    ("--samples -1", "samples must be zero or above"),
    ("--max-length 4", "max_length must be 8 or more"),
    ("--toy-width 20", "toy_width a multiple of 16"),
    ("--seeds 0 0", "seeds"),
    ("--device cuda", "device cuda: "),
    ("--model no/such-model", "model no/such-model cannot be loaded ("),
]


class TestWrongCommands:
    @pytest.mark.parametrize("script", SCRIPTS, ids=["bert_train", "bert_target_linearity"])
    @pytest.mark.parametrize(("words", "culprit"), WRONG, ids=[words for words, _ in WRONG])
    def test_are_one_line_that_names_the_culprit(self, script, words, culprit, refusal, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        if "no/such" in words:  # as without a network, but at once
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert culprit in refusal(script, *words.split())

    def test_two_folders_of_one_name_are_refused(self, refusal, own, tmp_path):
        shutil.copytree(own[3], tmp_path / "b" / "reviews")
        err = refusal(bert_train, "--tasks", "sst2", "mood", "--task-data", own[3], tmp_path / "b" / "reviews")
        assert "two are named reviews" in err

    def test_a_length_beyond_the_models_is_refused(self, refusal, own):
        err = refusal(bert_train, *own, "--task", "sst2", "--max-length", 65)
        assert "max_length must be at most 64, not 65" in err

    def test_a_slow_tokenizer_is_refused_for_words(self, refusal, own, monkeypatch, tmp_path):
        tokenizer = type(AutoTokenizer.from_pretrained(own[1]))
        monkeypatch.setattr(tokenizer, "is_fast", False)
        assert "not a fast one" in refusal(bert_train, "--model", own[1], "--task", "toy_ner")

    def test_a_batch_that_devices_cannot_share_is_refused(self, monkeypatch, tmp_path):
        monkeypatch.setattr(bert_train.TrainingArguments, "world_size", 3)
        with pytest.raises(cli.ConfigError, match="must be multiples of the 3 devices, not 32"):
            bert_train.arguments(bert_train.Config(device="cpu"), tmp_path, 0, 32)

    def test_a_rate_at_which_training_diverges_is_one_line(self, alone):
        with pytest.raises(training.Diverged, match="toy_sst2: training diverged; lower the learning rate"):
            tuned(dataclasses.replace(alone, learning_rate=1e30))


class TestCheckpoints:
    """What bert_target_linearity.py says of checkpoints that it cannot use."""

    @pytest.fixture
    def broken(self, made, tmp_path, monkeypatch, capsys) -> Callable[[Callable[[Path], object]], str]:
        """Runs the script on a copy of the results in which something is broken; returns its line."""

        def call(damage: Callable[[Path], object]) -> str:
            shutil.copytree(made.results, tmp_path / "copy")
            shutil.rmtree(tmp_path / "copy" / "quick" / "bert_target_linearity")
            config = dataclasses.replace(made, results=tmp_path / "copy")
            damage(bert_train.checkpoint(config, bert_train.load(config, 0), 3, 2))
            assert in_process(monkeypatch, bert_target_linearity, "--results", config.results) == 2
            out, err = capsys.readouterr()
            assert out == ""
            assert err.startswith("error: ")
            assert err.count("\n") == 1
            assert "run src/experiment/bert_train.py" in err
            return err

        return call

    def test_missing(self, broken):
        assert re.search(r"no checkpoint \S+seed3/checkpoint-16:", broken(shutil.rmtree))

    def test_cut_off(self, broken):
        assert "no checkpoint" in broken(lambda path: (path / text.MADE).unlink())

    def test_made_otherwise(self, broken):
        def damage(path: Path) -> None:
            made = json.loads((path / text.MADE).read_text())
            (path / text.MADE).write_text(json.dumps(made | {"seed": 0, "data": "0" * 16}))

        assert "was made with another seed and data" in broken(damage)

    def test_foreign(self, broken):
        assert "is not a checkpoint of this project" in broken(lambda path: (path / text.MADE).write_text("{"))

    def test_damaged(self, broken):
        assert "is not a checkpoint" in broken(lambda path: (path / "model.safetensors").write_bytes(b"no weights"))

    def test_without_the_pre_trained_model(self, made, refusal):
        assert "no pre-trained toy_bert in " in refusal(bert_target_linearity)


VALUES = {  # another value for every field that both scripts have
    "model": "elsewhere",
    "model_revision": "v2",
    "tasks": ("toy_mnli",),
    "learning_rate": 0.5,
    "warmup": 0.5,
    "weight_decay": 0.5,
    "clip": 0.5,
    "seeds": (7,),
    "epochs": 9,
    "batch_size": 9,
    "max_length": 33,
    "train_examples": 9,
    "samples": 9,
    "toy_examples": 9,
    "toy_width": 32,
    "toy_depth": 9,
    "toy_corpus": 9,
    "toy_epochs": 9,
    "toy_batch": 9,
    "toy_rate": 0.5,
    "measure_batch": 9,
}


class TestFields:
    @pytest.mark.parametrize("script", SCRIPTS, ids=["bert_train", "bert_target_linearity"])
    def test_can_be_set_and_are_in_the_help(self, script, capsys):
        own = {f.name for f in dataclasses.fields(script.Config)} - {f.name for f in dataclasses.fields(cli.Common)}
        assert own - {"task_data"} <= set(VALUES)
        for name in own - {"task_data"}:
            value = VALUES[name] if isinstance(VALUES[name], tuple) else (VALUES[name],)
            words = (f"--{name.replace('_', '-')}", *map(str, value))
            assert getattr(cli.parse(script.Config, script.QUICK, words), name) == VALUES[name]
        with pytest.raises(SystemExit):
            cli.parse(script.Config, script.QUICK, ["--help"], script.__doc__)
        help_ = capsys.readouterr().out
        assert all(f"--{name.replace('_', '-')}" in help_ for name in own)

    @pytest.mark.parametrize("name", sorted(set(VALUES) - {"model", "tasks", "measure_batch"}))
    def test_name_another_file_where_they_shape_the_numbers(self, name):
        config = bert_train.Config(**TINY)
        texts = bert_train.load(config, 0)
        changed = dataclasses.replace(config, **{name: VALUES[name]})
        assert bert_train.folder(changed, texts, 0).parent != bert_train.folder(config, texts, 0).parent

    @pytest.mark.parametrize("script", SCRIPTS, ids=["bert_train", "bert_target_linearity"])
    def test_quick_needs_no_network(self, script):
        config = cli.parse(script.Config, script.QUICK, ["--scale", "quick"])
        assert config.model == bert_train.TOY
        assert all(not tasks.TASKS[task].hub for task in config.tasks)

    @pytest.mark.parametrize("script", SCRIPTS, ids=["bert_train", "bert_target_linearity"])
    def test_commands_in_the_docstring_can_be_given(self, script, monkeypatch):
        monkeypatch.setattr(tasks, "check_names", lambda *_: None)  # their folders are the user's
        commands = re.findall(
            r"^    (?:python|torchrun .*) src/experiment/(\w+)\.py(.*)$", script.__doc__, re.MULTILINE
        )
        assert len(commands) >= 3
        for called, words in commands:
            assert called == script.__name__.rpartition(".")[2]
            cli.parse(script.Config, script.QUICK, words.split())


def test_two_processes_of_torchrun_make_what_one_makes(made, tmp_path):
    """The same batches, shared by two: the same numbers but for rounding; one of them writes."""
    shutil.copytree(bert_train.source(made), bert_train.source(dataclasses.replace(made, results=tmp_path)))
    words = [*WORDS, "--results", str(tmp_path), "--toy-examples", "64", "--seeds", "3"]
    config = dataclasses.replace(made, results=tmp_path, toy_examples=64, seeds=(3,))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.run(
        [*command, bert_train.__file__, *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("saved ") == len(process.stdout.splitlines()) == len(TASKS)
    for index in (0, 1):
        found = result(config, bert_train, index)
        shutil.rmtree(bert_train.folder(config, bert_train.load(config, index), 3))
        expected = bert_train.fine_tune(config, bert_train.load(config, index), 3)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name][0], array, atol=2e-3)
