"""Fine-tuning BERT and its Target Linearity, against one sentence at a time; resuming; errors."""

import dataclasses
import json
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.distributed.run import main as torchrun
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from experiment import bert_target_linearity, bert_train
from experiment.bert_train import Config
from lab import checkpoints, cli, cpu, results
from lab.replicas import generator
from lab.results import Arrays, Result
from lab.text import encoders, fine_tuning, marked, resuming, tasks, word_types
from lab.text.tasks import Texts
from lab.text.toy_bert import ToyBert
from oracles import chance, least_squares, least_squares_map, one_hot, rank

SCRIPTS = [bert_train, bert_target_linearity]
SENTENCE, WORD = "toy_sst2", "toy_ner"  # a task of sentences, and one of words
SEEDS, EPOCHS = (0, 3), 2
TOY = ToyBert(examples=60, width=16, depth=2, corpus=64, epochs=1)
TINY: dict[str, Any] = {
    "device": "cpu",
    "jobs": 1,
    "tasks": (SENTENCE, WORD),
    "max_length": 40,
    "seeds": SEEDS,
    "epochs": EPOCHS,
    "batch_size": 8,
    "learning_rate": 0.01,
    "samples": 50,
    "toy": TOY,
}


def words(fields: dict[str, Any], prefix: str = "--") -> Iterator[str]:
    """The command line that sets fields of a configuration."""
    for name, value in fields.items():
        flag = f"{prefix}{name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            yield from words(dataclasses.asdict(value), f"{flag}.")
        else:
            yield from (flag, *map(str, value if isinstance(value, tuple) else (value,)))


def command(script: ModuleType) -> list[str]:
    """The command line of a tiny run of a script."""
    own = {k: v for k, v in TINY.items() if k in script.Config.__dataclass_fields__}
    return ["--scale", "quick", *words(own)]


def call(script: ModuleType, *more: object) -> int:
    """Run a script's main in this process; returns the exit status."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sys, "argv", [script.__file__, *command(script), *map(str, more)])
        try:
            cli.run(script.main)
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Both scripts' results of both tasks exist; the configuration that was trained with."""
    root = tmp_path_factory.mktemp("finished")
    for script in SCRIPTS:
        assert call(script, "--results", root) == 0
    return cli.preset(bert_train, "quick", **TINY, results=root)


@pytest.fixture
def alone(finished: Config, tmp_path: Path) -> Config:
    """The configuration of one seed in a folder that holds the pre-trained model alone."""
    config = dataclasses.replace(finished, results=tmp_path, seeds=(0,))
    shutil.copytree(finished.encoder, config.encoder)
    return config


def result(config: Config, script: ModuleType, task: str) -> Result:
    experiment = script.__name__.rpartition(".")[2]
    planned = bert_train.plan(config, config.load_texts(task), experiment, script.AXES)
    return results.read(planned.path)


def folder(config: Config, texts: Texts, seed: int = 0) -> Path:
    return checkpoints.seed_folder(bert_train.plan(config, texts), seed)


def model_at(config: Config, texts: Texts, seed: int, stage: int) -> torch.nn.Module:
    """The model of a stage: 0 is initialised, 1 pre-trained, 2 the first epoch's checkpoint."""
    tagged = texts.task.tagged
    if stage < 2:
        model = encoders.build(config.encoder, texts.labels, tagged, seed, trained=stage > 0)
        return model.eval()
    kind = AutoModelForTokenClassification if tagged else AutoModelForSequenceClassification
    return kind.from_pretrained(bert_train.checkpoint(config, texts, seed, stage - 1)).eval()


@dataclasses.dataclass
class OneByOne:
    """What a model makes of labelled rows: sentences, or words."""

    features: list[torch.Tensor]  # of each layer (rows, d)
    logits: torch.Tensor  # (rows, c)
    labels: torch.Tensor  # (rows,)
    tokens: torch.Tensor  # (rows,) the token whose state is the feature
    sizes: list[int]  # rows of each example


@torch.no_grad()
def one_by_one(
    config: Config, texts: Texts, split: str, model: torch.nn.Module, number: int | None
) -> OneByOne:
    """Take drawn examples one at a time, without padding, through transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(config.encoder)
    features, logits, labels, tokens, sizes = [], [], [], [], []
    for row in tasks.draw(getattr(texts, split), number):
        if texts.task.tagged:
            coded = tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt")
            where = [coded.word_to_tokens(i).start for i in range(len(row["tokens"]))]
            labels += row["ner_tags"]
        else:
            coded, where = tokenizer(row["sentence"], return_tensors="pt"), [0]
            labels.append(row["label"])
        outputs = model(**coded, output_hidden_states=True)
        features.append(torch.stack([h[0, where] for h in outputs.hidden_states]))
        logits.append(outputs.logits[0, where] if texts.task.tagged else outputs.logits)
        tokens.append(coded["input_ids"][0, where])
        sizes.append(len(where))
    layers = list(torch.cat(features, 1))
    return OneByOne(layers, torch.cat(logits), torch.tensor(labels), torch.cat(tokens), sizes)


def measure(config: Config, texts: Texts, model: torch.nn.Module) -> Arrays:
    classes, script = len(texts.labels), bert_target_linearity
    parts = {split: script.batches(config, texts, split) for split in ("train", "validation")}
    moments = {split: script.one_pass(model, *part, classes) for split, part in parts.items()}
    return script.layer_measures(moments, classes)


class TestTargetLinearity:
    @pytest.mark.parametrize(
        ("task", "seed", "stage"),
        [(SENTENCE, 3, 1), (SENTENCE, 0, 2), (WORD, 0, 0), (WORD, 3, 3)],
    )
    def test_is_least_squares_on_features_of_one_sentence_at_a_time(
        self, task, seed, stage, finished
    ):
        measured, texts = result(finished, bert_target_linearity, task), finished.load_texts(task)
        at, model = (SEEDS.index(seed), stage), model_at(finished, texts, seed, stage).double()
        train, validation = (
            one_by_one(finished, texts, split, model, finished.samples)
            for split in ("train", "validation")
        )
        for split, rows in (("train", train), ("validation", validation)):
            tl, ranks, chances = (measured[f"{split}_{n}"][at] for n in ("tl", "rank", "chance"))
            assert int(measured[f"{split}_n"]) == len(rows.labels)
            for layer, h in enumerate(rows.features):
                if layer == 0 and task == SENTENCE:  # the first token is the same in all
                    assert (tl[layer], ranks[layer]) == (pytest.approx(0, abs=1e-12), 0)
                    continue
                assert tl[layer] == pytest.approx(least_squares(h, rows.labels), abs=1e-8)
                assert chances[layer] == pytest.approx(chance(h), abs=1e-8)
                assert ranks[layer] == rank(h) <= int(measured["d"])
        y, y_new = (one_hot(rows.labels, len(texts.labels)) for rows in (train, validation))
        y, y_new = y - y.mean(0), y_new - y.mean(0)
        for layer in range(task == SENTENCE, len(train.features)):
            b = least_squares_map(train.features[layer], y)
            rest = y_new - validation.features[layer].numpy() @ b
            expected = 1 - (rest**2).sum() / (y_new**2).sum()
            assert measured["held_out_tl"][at][layer] == pytest.approx(expected, abs=1e-6)

    def test_of_tagged_words_has_a_chance_level_of_labels_permuted_between_word_types(
        self, finished
    ):
        measured, texts = result(finished, bert_target_linearity, WORD), finished.load_texts(WORD)
        model, classes = model_at(finished, texts, 3, 2).double(), len(texts.labels)
        for split in ("train", "validation"):
            rows = one_by_one(finished, texts, split, model, finished.samples)
            source = generator(0, "measurement")
            permuted = [
                one_hot(word_types.permute_labels(rows.labels, rows.tokens, source), classes)
                for _ in range(bert_target_linearity.PERMUTATIONS)
            ]
            for layer, h in enumerate(rows.features):
                chance_level = measured[f"{split}_type_chance"][1, 2, layer]
                expected = least_squares(h, np.concatenate(permuted, 1))
                assert chance_level == pytest.approx(expected, abs=1e-8)
        sentences = result(finished, bert_target_linearity, SENTENCE)
        assert "train_type_chance" not in sentences.arrays

    def test_does_not_depend_on_how_sentences_are_batched(self, finished, monkeypatch):
        texts = finished.load_texts(WORD)
        model = model_at(finished, texts, 0, 2)
        expected = measure(finished, texts, model)
        for size in (1, 7):
            monkeypatch.setattr(bert_target_linearity, "MEASURED_AT_ONCE", size)
            arrays = measure(finished, texts, model)
            assert arrays.keys() == expected.keys()
            for name, values in arrays.items():
                np.testing.assert_allclose(values, expected[name], atol=2e-5)

    def test_batches_hold_every_example_once_the_longest_first(self, finished, monkeypatch):
        texts = finished.load_texts(WORD)
        monkeypatch.setattr(bert_target_linearity, "MEASURED_AT_ONCE", 7)
        config = dataclasses.replace(finished, samples=None)
        masks = [
            batch["attention_mask"]
            for batch in bert_target_linearity.batches(config, texts, "train")[0]
        ]
        lengths = [length for mask in masks for length in mask.sum(1).tolist()]
        expected = sorted((len(tokens) + 2 for tokens in texts.train["tokens"]), reverse=True)
        assert lengths == expected
        assert all(mask.shape[1] == mask.sum(1).max() for mask in masks)

    def test_has_a_stage_for_every_epoch_and_one_pre_trained_model_for_all_seeds(self, finished):
        measured = result(finished, bert_target_linearity, WORD)
        stages = ["initialised", "pre-trained", "epoch 1", "epoch 2"]
        assert measured["stage"].tolist() == stages
        assert measured["layer"].tolist() == [-1, 0, 1]
        tl = measured["train_tl"]  # (seed, stage, layer)
        assert (tl[0, 1] == tl[1, 1]).all()
        assert (tl[0, [0, 2, 3]] != tl[1, [0, 2, 3]]).all()

    def test_without_fine_tuning_needs_no_checkpoint_and_is_a_result_of_its_own(
        self, finished, alone, monkeypatch
    ):
        for name in ("max_length", "samples", "toy"):
            monkeypatch.setitem(bert_train.QUICK, name, TINY[name])
        more = ("--tasks", SENTENCE, "--seeds", 0, "--results", alone.results)
        assert call(bert_target_linearity, "--no-fine-tuned", *more) == 0
        (path,) = (alone.results / "quick" / "bert_target_linearity").glob("*.npz")
        few, every = results.read(path), result(finished, bert_target_linearity, SENTENCE)
        assert few.config["fine_tuned"] is False
        assert few["stage"].tolist() == ["initialised", "pre-trained"]
        for name in ("train_tl", "held_out_tl", "train_chance"):
            np.testing.assert_array_equal(few[name][0], every[name][0, :2])
        assert few.config["fine_tuned"] is False
        assert "fine_tuned" not in every.config

    def test_without_fine_tuning_does_not_depend_on_its_options(self, own):
        settings = []
        for rate in ("0.1", "0.2"):
            argv = [*command(bert_train), *own, "--learning-rate", rate]
            config = cli.parse(Config, bert_train.QUICK, argv=argv)
            trained = bert_train.plan(config, config.load_texts("mood")).settings
            settings.append(bert_target_linearity.before_tuning(trained))
        assert settings[0] == settings[1]
        assert not bert_target_linearity.FINE_TUNING & settings[0].keys()


class TestFineTuning:
    @pytest.mark.parametrize(
        ("task", "seed", "epoch"), [(SENTENCE, 3, 0), (SENTENCE, 3, 1), (WORD, 0, 2)]
    )
    def test_curves_are_those_of_the_models_on_one_sentence_at_a_time(
        self, task, seed, epoch, finished
    ):
        curves, texts = result(finished, bert_train, task), finished.load_texts(task)
        model, at = model_at(finished, texts, seed, epoch + 1), (SEEDS.index(seed), epoch)
        for split, number in (("train", finished.samples), ("validation", None)):
            rows = one_by_one(finished, texts, split, model, number)
            nll = float(functional.cross_entropy(rows.logits.double(), rows.labels))
            assert curves[f"{split}_loss"][at] == pytest.approx(nll, abs=1e-5)
            right = float((rows.logits.argmax(1) == rows.labels).double().mean())
            assert curves[f"{split}_accuracy"][at] == pytest.approx(right, abs=1e-9)
            if task == WORD:
                sides = [
                    [[texts.labels[i] for i in row] for row in tags.split(rows.sizes)]
                    for tags in (rows.logits.argmax(1), rows.labels)
                ]
                f1 = tasks.entity_f1(*sides)
                assert curves[f"{split}_f1"][at] == pytest.approx(f1, abs=1e-9)
        assert ("train_f1" in curves.arrays) == (task == WORD)

    def test_learns_and_shuffles_by_the_seed(self, finished):
        loss = result(finished, bert_train, WORD)["train_loss"]
        assert (loss[:, -1] < 0.7 * loss[:, 0]).all()
        assert (loss[0] != loss[1]).all()

    def test_leaves_the_weights_of_every_epoch_and_nothing_that_serves_to_resume(self, finished):
        texts = finished.load_texts(SENTENCE)
        for seed in SEEDS:
            kept = [bert_train.checkpoint(finished, texts, seed, epoch) for epoch in (1, 2)]
            assert sorted(folder(finished, texts, seed).iterdir()) == sorted(kept)
            for path in kept:
                names = {file.name for file in path.iterdir()}
                assert {"model.safetensors", "tokenizer.json", marked.MARK} <= names
                assert not {"optimizer.pt", "scheduler.pt", "rng_state.pth"} & names

    def test_the_curves_of_a_seed_do_not_depend_on_what_is_measured(self, alone, finished):
        torch.manual_seed(5)  # the random numbers of others change nothing
        arrays = tune(dataclasses.replace(alone, samples=20))
        curves = result(finished, bert_train, SENTENCE)
        assert arrays["validation_loss"].tobytes() == curves["validation_loss"][0].tobytes()
        assert arrays["train_loss"].tobytes() != curves["train_loss"][0].tobytes()

    def test_trains_on_as_many_examples_as_asked(self, alone):
        config = dataclasses.replace(alone, train_examples=17, epochs=1)
        tune(config)
        (path,) = folder(config, config.load_texts(SENTENCE)).iterdir()
        assert path.name == "checkpoint-3"  # steps of eight


def tune(config: Config) -> Arrays:
    return bert_train.fine_tune(config, config.load_texts(SENTENCE), seed=0)


def assert_first_seed(arrays: Arrays, expected: Result) -> None:
    """Arrays of one seed are, bit for bit, the first seed's of a result."""
    assert {*arrays, "seed", "epoch"} == set(expected.arrays)
    for name, values in arrays.items():
        assert values.tobytes() == expected[name][0].tobytes()


class TestResuming:
    @pytest.mark.slow
    def test_a_killed_run_goes_on_to_the_bits_of_one_that_was_not(
        self, alone, finished, monkeypatch
    ):
        on_save, saves = resuming.MarkWhole.on_save, []

        def killed(*arguments: Any, **keywords: Any) -> None:
            saves.append(1)
            if len(saves) == 2:
                raise KeyboardInterrupt  # before the second checkpoint is whole
            on_save(*arguments, **keywords)

        monkeypatch.setattr(resuming.MarkWhole, "on_save", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(alone)
        resumed = []
        train = fine_tuning.FineTuner.train
        monkeypatch.setattr(
            fine_tuning.FineTuner,
            "train",
            lambda self, resume_from_checkpoint: (
                resumed.append(resume_from_checkpoint),
                train(self, resume_from_checkpoint=resume_from_checkpoint),
            ),
        )
        texts, expected = alone.load_texts(SENTENCE), result(finished, bert_train, SENTENCE)
        assert_first_seed(tune(alone), expected)
        left = bert_train.checkpoint(alone, texts, 0, 2) / "optimizer.pt"
        left.write_bytes(b"by a run that was ended before it could remove it")
        assert_first_seed(tune(alone), expected)  # is finished: not trained again
        assert not left.exists()
        assert resumed == [str(bert_train.checkpoint(alone, texts, 0, 1))]
        shutil.rmtree(bert_train.checkpoint(alone, texts, 0, 1))
        (bert_train.checkpoint(alone, texts, 0, 2) / marked.MARK).unlink()
        assert_first_seed(tune(alone), expected)  # nothing whole is left: from the start
        assert resumed[1:] == [None]


@pytest.fixture
def own(tmp_path: Path, finished: Config) -> tuple[str, ...]:
    """The words that name a model and data of the user's, both folders."""
    shutil.copytree(finished.encoder, tmp_path / "my_bert")
    rows = {"sentence": ["good film", "bad film", "a good day", "a bad day"] * 5}
    rows["label"] = [1, 0, 1, 0] * 5
    (tmp_path / "reviews").mkdir()
    for split in ("train", "validation"):
        Dataset.from_dict(rows).to_parquet(tmp_path / "reviews" / f"{split}.parquet")
    places = ("--model", str(tmp_path / "my_bert"), "--task-data", str(tmp_path / "reviews"))
    return (*places, "--tasks", "mood")


class TestOwnModelAndData:
    def test_name_the_result_whose_settings_leave_the_toy_bert_out(self, own, tmp_path):
        root = tmp_path / "results"
        for script in SCRIPTS:
            assert call(script, *own, "--seeds", 0, "--epochs", 1, "--results", root) == 0
            name = script.__name__.rpartition(".")[2]
            (path,) = (root / "quick" / name).glob("*.npz")
            assert re.fullmatch(r"my_bert-reviews-[0-9a-f]{16}\.npz", path.name)
            settings = results.read(path).config
            assert (settings["model"], settings["task"]) == ("my_bert", "mood")
            assert len(settings["weights"]) == 16
            assert not {"toy", "tasks", "task_data"} & set(settings)

    def test_are_trained_and_measured_in_one_thread_whatever_there_is(
        self, own, tmp_path, monkeypatch
    ):
        """As every worker has one: the number of threads shapes bits, that of jobs must not."""
        threads = []
        for place, name in ((fine_tuning.FineTuner, "train"), (bert_target_linearity, "one_pass")):
            call_it = getattr(place, name)

            def noted(*arguments, _call_it=call_it, **keywords):
                threads.append(torch.get_num_threads())
                return _call_it(*arguments, **keywords)

            monkeypatch.setattr(place, name, noted)
        monkeypatch.setattr(cpu, "available_cores", lambda: 8)
        with cpu.threads(2):
            for script in SCRIPTS:
                words = ("--seeds", 0, "--epochs", 1, "--results", tmp_path / "results")
                assert call(script, *own, *words) == 0
        assert set(threads) == {1}
        assert len(threads) == 1 + 2 * 3  # training; both splits at every stage

    def test_other_weights_under_the_same_name_are_another_result(self, own, tmp_path):
        config = cli.parse(Config, bert_train.QUICK, argv=[*command(bert_train), *own])
        texts = config.load_texts("mood")
        before = folder(config, texts)
        model = AutoModelForSequenceClassification.from_pretrained(config.model)
        with torch.no_grad():
            model.bert.embeddings.word_embeddings.weight[7] += 0.1
        model.save_pretrained(config.model)
        encoders.fingerprint.cache_clear()
        assert folder(config, texts) != before


@pytest.fixture
def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> Callable[..., str]:
    """Runs a script that must stop with one line and write nothing; returns the line."""

    def refuse(script: ModuleType, more: Sequence[str]) -> str:
        fail = pytest.fail
        monkeypatch.setattr(fine_tuning.FineTuner, "train", lambda *_, **__: fail("it trains"))
        before = sorted(tmp_path.rglob("*"))
        assert call(script, "--results", tmp_path / "none", *more) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"error: .+\n", err), err
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return refuse


WRONG = {  # command line -> what the message must name
    "--tasks cola": "unknown task 'cola': one of sst2, mnli, pos, ner",
    "--tasks toy_ner toy_ner": "tasks must name one or more different values",
    "--task-data absent": "1 folders for 2 tasks",
    "--samples 0": "samples must be above zero, not 0",
    "--train-examples 0": "train_examples must be above zero, not 0",
    "--warmup 1": "warmup must be in [0, 1), not 1.0",
    "--weight-decay -1": "weight_decay must be zero or above",
    "--max-length 4": "max_length must be 8 or more, not 4",
    "--toy.width 20": "width of toy_bert must be a multiple of 16, not 20",
    "--model no/such-model": "model no/such-model cannot be loaded (",
}


class TestWrongCommands:
    @pytest.mark.parametrize("more", WRONG)
    def test_are_one_line_that_names_the_culprit(self, more, refusal, monkeypatch):
        # as without a network, but at once
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert WRONG[more] in refusal(bert_train, more.split())

    def test_of_folders_and_models_that_do_not_fit(self, refusal, own, tmp_path, monkeypatch):
        shutil.copytree(tmp_path / "reviews", tmp_path / "b" / "reviews")
        folders = (str(tmp_path / "reviews"), str(tmp_path / "b" / "reviews"))
        two = ("--tasks", "sst2", "mood", "--task-data", *folders)
        assert "two are named reviews" in refusal(bert_train, two)
        too_long = (*own, "--max-length", "65")
        assert "max_length must be at most 64, not 65" in refusal(bert_train, too_long)
        tokenizer = type(AutoTokenizer.from_pretrained(own[1]))
        monkeypatch.setattr(tokenizer, "is_fast", False)
        slow = ("--model", own[1], "--tasks", WORD)
        assert "not a fast one" in refusal(bert_train, slow)

    @pytest.mark.parametrize(
        ("more", "lacking"), [((), "no result "), (("--no-fine-tuned",), "no pre-trained ")]
    )
    def test_of_a_measurement_before_training(self, more, lacking, refusal):
        line = refusal(bert_target_linearity, more)
        assert f"{lacking}toy_bert" in line
        assert "run src/experiment/bert_train.py" in line


def change(path: Path, **said: Any) -> None:
    origin = json.loads((path / marked.MARK).read_text())
    (path / marked.MARK).write_text(json.dumps(origin | said))


def not_a_number(path: Path) -> None:
    """Weights that are not finite, marked as if they had been saved so."""
    tensors = load_file(path / "model.safetensors")
    next(iter(tensors.values()))[0] = torch.nan
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    origin = json.loads((path / marked.MARK).read_text())
    marked.mark(path, {key: value for key, value in origin.items() if key != "files"})


def replace_by_the_first(path: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(path.with_name("checkpoint-8"), path)


DAMAGES = {  # what is wrong with a checkpoint -> how it comes about, what the message must say
    "missing": (shutil.rmtree, r"no checkpoint \S+seed3/checkpoint-16:"),
    "cut off": (lambda path: (path / marked.MARK).unlink(), "no checkpoint"),
    "foreign": (
        lambda path: (path / marked.MARK).write_text("{"),
        "is not a checkpoint of this project",
    ),
    "of another epoch": (replace_by_the_first, "was made with another epoch"),
    "not finite": (not_a_number, "has weights that are not finite"),
    "of another pre-trained model": (lambda path: change(path, toy={}), "another toy"),
}


@pytest.mark.parametrize("wrong", DAMAGES)
def test_a_checkpoint_that_cannot_be_measured_is_one_line(wrong, finished, tmp_path, capsys):
    damage, expected = DAMAGES[wrong]
    places = {"results": tmp_path / "copy", "overwrite": True, "tasks": (SENTENCE,)}
    shutil.copytree(finished.results, places["results"])
    config = dataclasses.replace(finished, **places)
    damage(bert_train.checkpoint(config, config.load_texts(SENTENCE), 3, 2))
    more = ("--tasks", SENTENCE, "--seeds", 0, 3, "--overwrite", "--results", config.results)
    assert call(bert_target_linearity, *more) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: .+run src/experiment/bert_train\.py .+\n", err), err
    assert re.search(expected, err)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_processes_of_torchrun_make_what_one_makes(alone, capfd):
    """The same batches, shared by two: the same numbers up to rounding; one of them writes."""
    toy = dataclasses.replace(TOY, examples=64)  # whole batches
    config = dataclasses.replace(alone, tasks=(SENTENCE,), toy=toy)
    more = ("--tasks", SENTENCE, "--seeds", "0", "--toy.examples", "64")
    # torchrun takes the signals, and does not give them back
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        places = ("--results", str(config.results))
        processes = ["--standalone", "--nproc-per-node", "2"]
        torchrun([*processes, bert_train.__file__, *command(bert_train), *more, *places])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith("saved ")
    shared = result(config, bert_train, SENTENCE)
    shutil.rmtree(folder(config, config.load_texts(SENTENCE)))
    for name, values in tune(config).items():
        np.testing.assert_allclose(shared[name][0], values, atol=2e-3)
