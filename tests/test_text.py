"""Text tasks and their way into a model: data of every kind, tokens, batches, encoders, and one line for bad input."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForSequenceClassification,
)

import language
import tasks
import text
from data import DataError
from tasks import TASKS, Task

SOURCE = str(Path(tasks.__file__).parent)
REAL = Path(__file__).resolve().parents[1] / "data" / "text"
SENTENCES = {"sentence": ["good", "bad", "so so", "fine"], "label": [1, 0, 0, 1]}
PAIRS = {"premise": ["a", "b", "c"], "hypothesis": ["d", "e", "f"], "label": [2, 0, 1]}
TAGGED = {"tokens": [["arden", "met", "anna"], ["so"], ["hugo", "left"]], "ner_tags": [[1, 0, 2], [0], [1, 0]]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's cache in a folder of the tests', and no talk."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    text.quiet()


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of data: training and validation columns, as parquet or JSON lines."""

    def write(
        train: dict, validation: dict | None = None, kind: str = "parquet", name: str = "mine", **features: object
    ) -> Path:
        root = tmp_path / name
        root.mkdir()
        for split, columns in (("train", train), ("validation", train if validation is None else validation)):
            rows = Dataset.from_dict(columns, features=Features(features) if features else None)
            if kind == "json":
                rows.to_json(root / f"{split}.json")
            elif features:
                rows.to_parquet(root / f"{split}.parquet")
            else:  # without the library's own notes on the columns
                pq.write_table(pa.table(columns), root / f"{split}.parquet")
        return root

    return write


class TestTasks:
    def test_the_papers_are_those_of_the_hub(self):
        where = {name: (TASKS[name].hub, TASKS[name].subset, TASKS[name].revision) for name in list(TASKS)[:4]}
        assert where == {
            "sst2": ("nyu-mll/glue", "sst2", "main"),
            "mnli": ("nyu-mll/glue", "mnli", "main"),
            "pos": ("eriktks/conll2003", None, "convert/parquet"),
            "ner": ("eriktks/conll2003", None, "convert/parquet"),
        }

    @pytest.mark.parametrize("name", ["sst2", "mnli", "pos", "ner"])
    def test_of_the_hub_are_asked_for_by_name_and_revision(self, name, monkeypatch):
        rows = {
            "label": [0, 1],
            "pos_tags": [[0], [1]],
            "ner_tags": [[0], [1]],
            "tokens": [["a"], ["b"]],
            "idx": [0, 1],
        }
        rows |= {column: ["a", "b"] for column in ("sentence", "premise", "hypothesis")}
        asked = []

        def load_dataset(*arguments: object, **keywords: object) -> datasets.DatasetDict:
            asked.append((*arguments, keywords["revision"]))
            part = Dataset.from_dict(rows)
            return datasets.DatasetDict(train=part, validation=part, validation_matched=part, test=part)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        task = TASKS[name]
        assert tasks.load(name).train.column_names == [*task.columns, task.label]
        assert asked == [(task.hub, task.subset, task.revision)]

    @pytest.mark.parametrize("name", ["toy_sst2", "toy_mnli", "toy_pos", "toy_ner"])
    def test_toy_ones_hold_what_the_language_makes(self, name):
        texts = tasks.load(name, examples=(30, 20))
        made = language.examples(name.removeprefix("toy_"), 30, 20)
        assert [texts.train.to_list(), texts.validation.to_list()] == list(made)
        assert texts.labels == language.LABELS[name.removeprefix("toy_")]
        assert texts.name == name

    def test_a_users_own_is_a_line_in_the_table(self, folder, monkeypatch):
        monkeypatch.setitem(tasks.TASKS, "irony", Task("irony", ("words",), "ironic"))
        path = folder({"words": ["a", "b"], "ironic": [0, 1], "other": [5, 6]})
        assert tasks.load("irony", path).train.to_list() == [{"words": "a", "ironic": 0}, {"words": "b", "ironic": 1}]


class TestFolders:
    @pytest.mark.parametrize("kind", ["parquet", "json"])
    @pytest.mark.parametrize(
        ("name", "columns", "classes"), [("sst2", SENTENCES, 2), ("mnli", PAIRS, 3), ("ner", TAGGED, 3)]
    )
    def test_with_plain_integers_have_as_many_classes_as_the_largest_says(self, name, columns, classes, kind, folder):
        texts = tasks.load(name, folder(columns, kind=kind))
        assert texts.train.to_dict() == texts.validation.to_dict() == columns
        assert texts.labels == tuple(map(str, range(classes)))
        assert texts.name == "mine"

    def test_a_class_of_the_validation_split_alone_counts(self, folder):
        assert len(tasks.load("sst2", folder(SENTENCES, SENTENCES | {"label": [1, 0, 0, 4]})).labels) == 5

    def test_with_names_of_classes_keep_them(self, folder):
        path = folder(SENTENCES, sentence=Value("string"), label=ClassLabel(names=["no", "yes", "never"]))
        assert tasks.load("sst2", path).labels == ("no", "yes", "never")

    def test_with_names_of_word_classes_keep_them(self, folder):
        tag = ClassLabel(names=["O", "B-PER", "B-creative-work"])
        texts = tasks.load("ner", folder(TAGGED, tokens=List(Value("string")), ner_tags=List(tag)))
        assert texts.labels == ("O", "B-PER", "B-creative-work")
        assert texts.entities

    @pytest.mark.parametrize(
        ("columns", "task"),
        [
            ({"comment": ["a", "b"], "verdict": [0, 1]}, Task("own", ("comment",), "verdict")),
            ({"q": ["a", "b"], "a": ["c", "d"], "label": [0, 1], "idx": [7, 8]}, Task("own", ("q", "a"), "label")),
            ({"words": [["a"], ["b"]], "tags": [[0], [1]], "id": ["0", "1"]}, Task("own", ("words",), "tags", True)),
        ],
        ids=["sentence", "pair", "tagged"],
    )
    def test_of_a_task_of_any_other_name_say_by_their_columns_what_it_is(self, columns, task, folder):
        texts = tasks.load("own", folder(columns))
        assert texts.task == task
        assert texts.train.column_names == [*task.columns, task.label]

    def test_are_told_apart_by_text_label_and_class_names(self, folder):
        names = {"sentence": Value("string"), "label": ClassLabel(names=["0", "1"])}
        others = [
            SENTENCES | {"label": [1, 0, 1, 1]},
            SENTENCES | {"sentence": ["good", "bad", "so", "so fine"]},
            SENTENCES | {"sentence": ["bad", "good", "so so", "fine"]},
        ]
        paths = [folder(SENTENCES, name="a"), folder(SENTENCES, name="b", **names)]
        paths += [folder(columns, name=f"c{i}") for i, columns in enumerate(others)]
        paths.append(folder(SENTENCES, others[0], name="d"))
        paths.append(folder(SENTENCES, name="e", sentence=Value("string"), label=ClassLabel(names=["n", "p"])))
        found = [tasks.load("sst2", path).fingerprint for path in paths]
        assert found[0] == found[1]
        assert len(set(found)) == len(found) - 1
        assert all(len(f) == 16 for f in found)


BAD = {  # what is wrong -> task, columns, what the line must name
    "no label column": ("sst2", {"sentence": ["a", "b"]}, "mine has no column label, which sst2 needs: sentence"),
    "no text column": ("mnli", {"premise": ["a", "b"], "label": [0, 1]}, "no column hypothesis"),
    "no words": ("ner", SENTENCES, "no column tokens"),
    "words for a sentence": ("sst2", {"sentence": [["a"], ["b"]], "label": [0, 1]}, "sentence must hold strings"),
    "a sentence for words": (
        "pos",
        {"tokens": ["a", "b"], "pos_tags": [[0], [1]]},
        "tokens must hold lists of strings",
    ),
    "labels of floats": ("sst2", {"sentence": ["a", "b"], "label": [0.5, 1.0]}, "label must hold integers"),
    "labels of text": ("sst2", {"sentence": ["a", "b"], "label": ["good", "bad"]}, "label must hold integers"),
    "one label for words": ("ner", {"tokens": [["a"], ["b"]], "ner_tags": [0, 1]}, "ner_tags must hold lists of int"),
    "a label below zero": (
        "sst2",
        {"sentence": ["a", "b"], "label": [1, -1]},
        "mine, train: label -1 is not in 0 to 1",
    ),
    "no label": ("sst2", {"sentence": ["a", "b", "c"], "label": [0, 1, None]}, "label None is not in 0 to 1"),
    "no text": ("sst2", {"sentence": ["a", None], "label": [0, 1]}, "sentence has empty entries"),
    "a missing word": ("ner", {"tokens": [["a", None]], "ner_tags": [[0, 1]]}, "tokens has empty entries"),
    "too few tags": ("ner", {"tokens": [["a", "b"]], "ner_tags": [[0]]}, "differ in length"),
    "one class": ("sst2", {"sentence": ["a", "b"], "label": [1, 1]}, "one class only"),
    "open columns": ("own", {"a": ["x", "y"], "b": ["x", "y"], "c": ["x", "y"], "d": [0, 1]}, "columns a, b, c, d"),
    "no column of classes": ("own", {"a": ["x", "y"], "b": [0.5, 1.5]}, "add a task to TASKS"),
}


class TestBadData:
    @pytest.mark.parametrize("wrong", BAD)
    def test_is_one_line_that_names_the_culprit(self, wrong, folder):
        name, columns, culprit = BAD[wrong]
        with pytest.raises(DataError) as caught:
            tasks.load(name, folder(columns))
        assert culprit in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_label_beyond_the_names_is_refused(self, folder):
        path = folder(SENTENCES)
        names = {"info": {"features": {"sentence": {"dtype": "string", "_type": "Value"}}}}
        names["info"]["features"]["label"] = {"names": ["no"], "_type": "ClassLabel"}
        for split in ("train", "validation"):
            table = pa.table(SENTENCES).replace_schema_metadata({"huggingface": json.dumps(names)})
            pq.write_table(table, path / f"{split}.parquet")
        with pytest.raises(DataError, match="label 1 is not in 0 to 0: leave those rows out"):
            tasks.load("sst2", path)

    def test_no_validation_split_is_refused_with_those_there_are(self, folder):
        path = folder(SENTENCES)
        (path / "validation.parquet").unlink()
        with pytest.raises(DataError, match="mine has no split validation, only train"):
            tasks.load("sst2", path)

    @pytest.mark.parametrize("content", [b"", b"not parquet"], ids=["empty", "garbage"])
    def test_a_damaged_file_is_one_line(self, content, folder):
        path = folder(SENTENCES)
        (path / "train.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"data cannot be read from .*mine \(.+\): give parquet") as caught:
            tasks.load("sst2", path)
        assert "\n" not in str(caught.value)

    def test_an_empty_folder_is_one_line(self, tmp_path):
        with pytest.raises(DataError, match="data cannot be read from"):
            tasks.load("sst2", tmp_path)

    def test_no_folder_is_one_line(self, tmp_path):
        with pytest.raises(DataError, match=r"no folder .*absent"):
            tasks.load("sst2", tmp_path / "absent")

    def test_an_unknown_task_is_told_the_known_ones(self):
        with pytest.raises(DataError, match=r"unknown task 'cola': one of sst2, mnli, pos, ner, .*or any name with"):
            tasks.load("cola")

    def test_folders_must_be_one_a_task(self, tmp_path):
        with pytest.raises(DataError, match="1 folders for 2 tasks"):
            tasks.check_names(["sst2", "mnli"], [tmp_path])

    def test_without_a_network_says_what_to_do(self, monkeypatch):
        def load_dataset(*_: object, **__: object) -> None:
            raise ConnectionError("Couldn't reach the Hub\nand more")

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        with pytest.raises(DataError) as caught:
            tasks.load("sst2")
        expected = "sst2: data cannot be read from the hub (Couldn't reach the Hub): a network is needed once, or"
        assert str(caught.value).startswith(expected)


class TestEntities:
    @pytest.mark.parametrize(
        ("tags", "expected"),
        [
            ("", set()),
            ("O O", set()),
            ("B-PER", {("PER", 0, 1)}),
            ("O B-PER I-PER O", {("PER", 1, 3)}),
            ("B-PER I-PER I-PER", {("PER", 0, 3)}),
            ("B-PER B-PER", {("PER", 0, 1), ("PER", 1, 2)}),
            ("B-PER I-LOC", {("PER", 0, 1), ("LOC", 1, 2)}),
            ("I-PER I-PER O I-LOC", {("PER", 0, 2), ("LOC", 3, 4)}),
            ("B-LOC O I-LOC", {("LOC", 0, 1), ("LOC", 2, 3)}),
            ("B-creative-work I-creative-work", {("creative-work", 0, 2)}),
        ],
    )
    def test_are_those_of_the_hand(self, tags, expected):
        assert tasks.entities(tags.split()) == expected

    def test_are_those_of_a_naive_scan_for_every_short_sentence(self):
        for tags in itertools.product(("O", "B-A", "I-A", "B-C", "I-C"), repeat=5):
            found = set()
            for start, end in itertools.combinations(range(6), 2):
                inside = tags[start:end]
                kind = inside[0][2:]
                starts = inside[0][0] == "B" or (start == 0 or tags[start - 1][2:] != kind)
                ends = end == 5 or tags[end] != f"I-{kind}"
                if kind and starts and ends and all(tag == f"I-{kind}" for tag in inside[1:]):
                    found.add((kind, start, end))
            assert tasks.entities(tags) == found

    @pytest.mark.parametrize(
        ("predicted", "true", "f1"),
        [
            (["B-PER I-PER O"], ["B-PER I-PER O"], 1.0),
            (["O O"], ["B-PER I-PER"], 0.0),
            (["O"], ["O"], 0.0),
            (["B-PER O"], ["B-PER I-PER"], 0.0),  # half an entity is none
            (["B-LOC I-LOC"], ["B-PER I-PER"], 0.0),
            (["B-PER B-LOC", "O O"], ["B-PER B-LOC", "B-ORG O"], 0.8),  # 2 of 2 right, 2 of 3 found
            (["B-PER O B-LOC"], ["B-PER O O"], 2 / 3),
            (["B-PER", "B-PER"], ["B-PER", "O"], 2 / 3),  # the same place in another sentence is another
        ],
    )
    def test_f1_is_that_of_the_hand(self, predicted, true, f1):
        assert tasks.entity_f1([p.split() for p in predicted], [t.split() for t in true]) == pytest.approx(f1)

    @pytest.mark.parametrize(
        ("labels", "expected"),
        [
            (("O", "B-PER", "I-PER"), True),
            (("B-PER", "I-PER"), True),
            (("O",), False),
            (("NOUN", "VERB"), False),
            (("O", "S-PER", "B-PER"), False),
            (("0", "1"), False),
        ],
    )
    def test_are_looked_for_where_labels_are_their_parts(self, labels, expected):
        rows = Dataset.from_dict(TAGGED)
        assert tasks.Texts("mine", TASKS["ner"], rows, rows, labels).entities is expected
        assert not tasks.Texts("mine", TASKS["sst2"], rows, rows, labels).entities


def word_piece() -> PreTrainedTokenizerFast:
    """Splits nearly every word into letters, and leaves nothing of an invisible one."""
    letters = "abcdefghijklmnopqrstuvwxyz."
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ar", "##den", *letters, *(f"##{letter}" for letter in letters)]
    backend = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return fast(backend, "[PAD]", "[CLS]", "[SEP]", "[UNK]")


def byte_level() -> PreTrainedTokenizerFast:
    """Bytes, as RoBERTa's: the space before a word is part of it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "<pad>", "</s>", "<unk>", *letters, "Ġa", "re"]
    backend = Tokenizer(models.BPE({n: i for i, n in enumerate(names)}, [("Ġ", "a"), ("r", "e")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return fast(backend, "<pad>", "<s>", "</s>", "<unk>")


def fast(backend: Tokenizer, pad: str, cls: str, sep: str, unk: str) -> PreTrainedTokenizerFast:
    roles = {"pad_token": pad, "cls_token": cls, "sep_token": sep, "unk_token": unk}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=64, model_input_names=["input_ids", "attention_mask"], **roles
    )


class Letters(PreTrainedTokenizer):
    """A slow tokenizer, in Python: each letter is a token."""

    vocab_size = 256

    def get_vocab(self) -> dict[str, int]:
        return {chr(i): i for i in range(256)}

    def _tokenize(self, text: str, **_: object) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return ord(token) % 256

    def _convert_id_to_token(self, index: int) -> str:
        return chr(index)


AWKWARD = {"word pieces": word_piece, "bytes": byte_level, "whole words": language.tokenizer}
WORDS = [["arden", "met", "\u200b", "anna's", "e-mail", "naïve", "."], ["so"], ["…", "日本", "x" * 9], []]


@pytest.fixture(params=AWKWARD)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return AWKWARD[request.param]()


def tagged_rows() -> Dataset:
    labels = list(itertools.accumulate(len(words) for words in WORDS))
    return Dataset.from_dict(
        {"tokens": WORDS, "ner_tags": [list(range(n - len(w), n)) for n, w in zip(labels, WORDS, strict=True)]},
        features=Features(tokens=List(Value("string")), ner_tags=List(Value("int64"))),
    )


class TestEncode:
    @pytest.mark.parametrize("max_length", [64, 6])
    def test_a_words_label_is_on_its_first_sub_token(self, tokenizer, max_length):
        coded = text.encode(TASKS["ner"], tagged_rows(), tokenizer, max_length)
        for i, words in enumerate(WORDS):
            alone = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
            expected = [text.IGNORED] * len(alone["input_ids"])
            for j, label in enumerate(tagged_rows()[i]["ner_tags"]):
                if alone.word_to_tokens(j) is not None:
                    expected[alone.word_to_tokens(j).start] = label
            assert coded[i]["labels"] == expected
            assert coded[i]["input_ids"] == alone["input_ids"]
            assert coded[i]["length"] == len(alone["input_ids"]) <= max_length

    def test_a_word_that_vanishes_takes_no_other_words_label(self):
        (row, *_) = text.encode(TASKS["ner"], tagged_rows(), word_piece(), 64)
        assert [label for label in row["labels"] if label != text.IGNORED] == [0, 1, 3, 4, 5, 6]

    def test_every_example_keeps_its_own_length_and_label(self, tokenizer):
        coded = text.encode(TASKS["sst2"], Dataset.from_dict(SENTENCES), tokenizer, 64)
        assert list(coded["labels"]) == SENTENCES["label"]
        assert list(coded["input_ids"]) == [tokenizer(sentence)["input_ids"] for sentence in SENTENCES["sentence"]]
        assert set(coded.column_names) == {*tokenizer.model_input_names, "labels", "length"}

    def test_pairs_are_put_together_by_the_tokenizer(self):
        rows = Dataset.from_dict({"premise": ["the dog ."], "hypothesis": ["a cat ."], "label": [1]})
        (row,) = text.encode(TASKS["mnli"], rows, language.tokenizer(), 64)
        assert {name: row[name] for name in ("input_ids", "token_type_ids")} == {
            name: language.tokenizer()("the dog .", "a cat .")[name] for name in ("input_ids", "token_type_ids")
        }

    def test_a_slow_tokenizer_is_refused_for_words_and_taken_for_sentences(self):
        slow = Letters(pad_token="\0", model_max_length=64)
        with pytest.raises(DataError, match=r"ner: .* not a fast one.*take another"):
            text.encode(TASKS["ner"], tagged_rows(), slow, 64)
        coded = text.encode(TASKS["sst2"], Dataset.from_dict(SENTENCES), slow, 64)
        assert list(coded["length"]) == [len(sentence) for sentence in SENTENCES["sentence"]]


class TestBatches:
    def test_are_padded_to_their_longest_and_no_further(self, tokenizer):
        rows = text.encode(TASKS["ner"], tagged_rows(), tokenizer, 64).remove_columns("length")
        batch = text.collator(TASKS["ner"], tokenizer)([rows[1], rows[0]])
        longest, shortest = len(rows[0]["input_ids"]), len(rows[1]["input_ids"])
        assert batch["input_ids"].shape == batch["labels"].shape == (2, longest)
        assert batch["labels"][0].tolist() == rows[1]["labels"] + [text.IGNORED] * (longest - shortest)
        assert batch["attention_mask"].sum(1).tolist() == [shortest, longest]

    def test_of_sentences_hold_one_label_each(self):
        rows = text.encode(TASKS["sst2"], Dataset.from_dict(SENTENCES), word_piece(), 64).remove_columns("length")
        batch = text.collator(TASKS["sst2"], word_piece(), 8)(list(rows))
        assert batch["labels"].tolist() == SENTENCES["label"]
        assert batch["input_ids"].shape == (4, 8)

    @pytest.mark.parametrize("side", ["right", "left"])
    def test_features_are_where_a_loop_finds_them(self, side, tokenizer):
        tokenizer.padding_side = side
        for task, rows in ((TASKS["ner"], tagged_rows()), (TASKS["sst2"], Dataset.from_dict(SENTENCES))):
            coded = text.encode(task, rows, tokenizer, 64).remove_columns("length")
            batch = text.collator(task, tokenizer)(list(coded))
            mask, labels = text.measured(batch["labels"], batch["attention_mask"])
            expected, classes = torch.zeros_like(mask), []
            for i, row in enumerate(coded):
                start = 0 if side == "right" else mask.shape[1] - len(row["input_ids"])
                of_tokens = row["labels"] if task.tagged else [row["labels"]]
                for j, label in enumerate(of_tokens):
                    if label != text.IGNORED:
                        expected[i, start + j] = True
                        classes.append(label)
            assert torch.equal(mask, expected)
            assert labels.tolist() == classes


SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 140}
SIZE["max_position_embeddings"] = 40


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of tiny encoders of several kinds, with a tokenizer each."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    made = {
        "bert": BertForMaskedLM(BertConfig(**SIZE)),
        "roberta": RobertaModel(RobertaConfig(**SIZE, pad_token_id=0)),
        "distilbert": DistilBertModel(
            DistilBertConfig(vocab_size=140, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=40)
        ),
        "fine-tuned": BertForSequenceClassification(BertConfig(**SIZE, num_labels=5)),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
        language.tokenizer().save_pretrained(root / name)
    return root


KINDS = ["bert", "roberta", "distilbert", "fine-tuned"]


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


class TestBuild:
    @pytest.mark.parametrize("tagged", [False, True], ids=["sentence", "tagged"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_any_encoder_gets_a_head_for_the_labels_and_keeps_its_weights(self, kind, tagged, saved):
        model = text.build(str(saved / kind), ("x", "y", "z"), tagged, seed=0)
        inputs = language.tokenizer()(["the dog .", "a cat ."], return_tensors="pt", return_token_type_ids=False)
        outputs = model.eval()(**inputs, output_hidden_states=True)
        assert outputs.logits.shape == ((2, 5, 3) if tagged else (2, 3))
        assert len(outputs.hidden_states) == 3
        assert model.config.id2label == {0: "x", 1: "y", 2: "z"}
        stored = load_file(saved / kind / "model.safetensors")
        prefix = f"{model.base_model_prefix}."
        for name, value in model.base_model.state_dict().items():
            if "pooler" not in name:
                assert torch.equal(value, stored.get(prefix + name, stored.get(name)))

    def test_a_seed_draws_the_head_and_nothing_else(self, saved):
        path = str(saved / "bert")
        first, again, other = (weights(text.build(path, ("x", "y"), False, seed)) for seed in (0, 0, 1))
        assert all(torch.equal(first[name], again[name]) for name in first)
        differ = {name for name in first if not torch.equal(first[name], other[name])}
        assert {"classifier.weight"} <= differ <= {"classifier.weight", "bert.pooler.dense.weight"}

    def test_a_random_initialisation_is_drawn_by_the_seed(self, saved):
        path = str(saved / "bert")
        loaded = weights(text.build(path, ("x", "y"), True, 0))
        first, again, other = (weights(text.build(path, ("x", "y"), True, s, trained=False)) for s in (0, 0, 1))
        assert all(torch.equal(first[name], again[name]) for name in first)
        for name in ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.output.dense.weight"):
            assert not torch.equal(first[name], other[name])
            assert not torch.equal(first[name], loaded[name])
            assert first[name].std() == pytest.approx(0.02, rel=0.1)

    def test_the_random_numbers_of_others_stay_as_they_are(self, saved):
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        text.build(str(saved / "bert"), ("x", "y"), True, 0)
        assert torch.equal(torch.rand(1), expected)

    def test_the_fingerprint_is_of_the_encoders_weights(self, saved, tmp_path):
        found = [text.fingerprint(str(saved / kind)) for kind in KINDS]
        assert len(set(found)) == len(found)
        model = BertForMaskedLM.from_pretrained(saved / "bert")
        model.save_pretrained(tmp_path / "same")
        with torch.no_grad():
            model.bert.embeddings.word_embeddings.weight[3, 3] += 1e-3
        model.save_pretrained(tmp_path / "other")
        assert text.fingerprint(str(tmp_path / "same")) == found[0] != text.fingerprint(str(tmp_path / "other"))


class TestBadModels:
    @pytest.fixture
    def refusal(self) -> Callable[[Path | str], str]:
        """The one line that loading a model or its tokenizer gives."""

        def call(model: Path | str) -> str:
            with pytest.raises(DataError) as caught:
                text.build(str(model), ("x", "y"), True, 0)
            assert "\n" not in str(caught.value)
            return str(caught.value)

        return call

    def test_a_folder_without_weights(self, refusal, tmp_path):
        BertConfig(**SIZE).save_pretrained(tmp_path)
        assert "give a folder with config.json, weights and tokenizer.json" in refusal(tmp_path)

    def test_an_empty_folder(self, refusal, tmp_path):
        assert str(tmp_path) in refusal(tmp_path)

    def test_damaged_weights(self, refusal, saved, tmp_path):
        BertConfig(**SIZE).save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").write_bytes((saved / "bert" / "model.safetensors").read_bytes()[:1000])
        assert "cannot be loaded" in refusal(tmp_path)

    def test_weights_of_another_network(self, refusal, saved, tmp_path):
        BertConfig(**SIZE | {"num_hidden_layers": 3}).save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").write_bytes((saved / "bert" / "model.safetensors").read_bytes())
        assert "is no pre-trained encoder, it lacks bert.encoder.layer.2." in refusal(tmp_path)

    def test_a_model_with_a_decoder(self, refusal, tmp_path):
        shape = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
        T5ForSequenceClassification(shape).save_pretrained(tmp_path)
        assert "it has a decoder" in refusal(tmp_path)

    def test_a_tokenizer_without_padding(self, tmp_path, saved):
        tokenizer = language.tokenizer()
        tokenizer.pad_token = None
        tokenizer.save_pretrained(tmp_path)
        (tmp_path / "config.json").write_bytes((saved / "bert" / "config.json").read_bytes())
        with pytest.raises(DataError, match="no padding token: take an encoder"):
            text.load_tokenizer(str(tmp_path))

    def test_a_folder_without_a_tokenizer(self, tmp_path):
        BertConfig(**SIZE).save_pretrained(tmp_path)
        with pytest.raises(DataError, match=r"no tokenizer.json\): .*give a folder with config.json, weights"):
            text.load_tokenizer(str(tmp_path))


OFFLINE = f"""
import sys
sys.path.insert(0, {SOURCE!r})
import tasks, text
text.quiet()
model = text.build("someone/tiny", ("x", "y"), True, 0)
print(len(text.load_tokenizer("someone/tiny")("the dog .")["input_ids"]), model.config.num_hidden_layers)
for ask in (lambda: text.build("someone/else", ("x", "y"), True, 0), lambda: tasks.load("sst2")):
    try:
        ask()
    except tasks.DataError as error:
        print(error)
"""


def test_offline_the_hubs_cache_is_read_and_what_is_not_in_it_is_one_line(saved, tmp_path):
    root = tmp_path / "hub" / "models--someone--tiny"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    (root / "snapshots").mkdir()
    (root / "snapshots" / ("0" * 40)).symlink_to(saved / "bert")
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        [sys.executable, "-c", OFFLINE], capture_output=True, text=True, env=environment, timeout=300, check=True
    )
    assert process.stderr == ""
    found, model, data = process.stdout.splitlines()
    assert found == "5 2"
    assert model.startswith("model someone/else cannot be loaded (")
    assert "HF_HUB_OFFLINE is set" in model
    assert data.startswith("sst2: data cannot be read from the hub (")
    assert data.endswith("a network is needed once, or --task-data FOLDER")


@pytest.mark.skipif(not REAL.is_dir(), reason="real data are not in data/text")
@pytest.mark.parametrize(
    ("name", "folder", "classes"), [("mnli", "sick_nli", 3), ("pos", "ud_ewt_pos", 17), ("ner", "wnut17", 13)]
)
def test_real_data_are_read_with_their_names(name, folder, classes):
    texts = tasks.load(name, REAL / folder)
    assert len(texts.labels) == classes
    assert not any(label.isdigit() for label in texts.labels)
    assert texts.entities == (name == "ner")
