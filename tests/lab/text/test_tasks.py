"""Text tasks: data of every kind, entities, and one line for data that do not fit."""

import gc
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from lab.errors import DataError
from lab.text import encoders, tasks, toy_language
from lab.text.tasks import TASKS, Task, Texts

REAL = Path(__file__).resolve().parents[3] / "data" / "text"
SENTENCES = {"sentence": ["good", "bad", "so so", "fine"], "label": [1, 0, 0, 1]}
PAIRS = {"premise": ["a", "b", "c"], "hypothesis": ["d", "e", "f"], "label": [2, 0, 1]}
TAGGED = {
    "tokens": [["arden", "met", "anna"], ["so"], ["hugo", "left"]],
    "ner_tags": [[1, 0, 2], [0], [1, 0]],
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's cache in a folder of the tests', and no talk."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    encoders.quiet()


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of data: training and validation columns, as parquet or JSON lines."""

    def write(
        train: dict[str, Any],
        validation: dict[str, Any] | None = None,
        kind: str = "parquet",
        name: str = "mine",
        **features: Any,
    ) -> Path:
        root = tmp_path / name
        root.mkdir()
        for split, columns in (("train", train), ("validation", validation or train)):
            rows = Dataset.from_dict(columns, features=Features(features) if features else None)
            if kind == "json":
                rows.to_json(root / f"{split}.json")
            elif features:
                rows.to_parquet(root / f"{split}.parquet")
            else:  # without the library's own notes on the columns
                pq.write_table(pa.table(columns), root / f"{split}.parquet")
        return root

    return write


class TestKnownTasks:
    def test_the_papers_are_asked_of_the_hub_by_name_and_revision(self, monkeypatch):
        columns = {name: ["a", "b"] for name in ("sentence", "premise", "hypothesis")}
        columns |= {"label": [0, 1], "idx": [0, 1], "tokens": [["a"], ["b"]]}
        columns |= {"pos_tags": [[0], [1]], "ner_tags": [[0], [1]]}
        asked = {}

        def load_dataset(hub: str, subset: str | None, revision: str) -> DatasetDict:
            asked[name] = (hub, subset, revision)
            part = Dataset.from_dict(columns)
            return DatasetDict(train=part, validation=part, validation_matched=part, test=part)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        for name in ("sst2", "mnli", "pos", "ner"):
            expected = [*TASKS[name].columns, TASKS[name].label]
            assert tasks.load(name).train.column_names == expected
        assert asked == {
            "sst2": ("nyu-mll/glue", "sst2", "main"),
            "mnli": ("nyu-mll/glue", "mnli", "main"),
            "pos": ("eriktks/conll2003", None, "convert/parquet"),
            "ner": ("eriktks/conll2003", None, "convert/parquet"),
        }

    @pytest.mark.parametrize("name", ["toy_sst2", "toy_mnli", "toy_pos", "toy_ner"])
    def test_toy_tasks_hold_what_the_language_makes(self, name):
        texts, kind = tasks.load(name, examples=31), name.removeprefix("toy_")
        rows = toy_language.examples(kind, 31, 16)
        assert (texts.train.to_list(), texts.validation.to_list()) == rows
        assert (texts.name, texts.labels) == (name, toy_language.LABELS[kind])

    def test_a_users_own_is_a_line_in_the_table(self, folder, monkeypatch):
        monkeypatch.setitem(TASKS, "irony", Task("irony", ("words",), "ironic"))
        path = folder({"words": ["a", "b"], "ironic": [0, 1], "other": [5, 6]})
        rows = [{"words": "a", "ironic": 0}, {"words": "b", "ironic": 1}]
        assert tasks.load("irony", path).train.to_list() == rows


class TestFolders:
    @pytest.mark.parametrize("kind", ["parquet", "json"])
    @pytest.mark.parametrize(
        ("name", "columns", "classes"),
        [("sst2", SENTENCES, 2), ("mnli", PAIRS, 3), ("ner", TAGGED, 3)],
    )
    def test_plain_integers_count_as_classes_up_to_the_largest(
        self, name, columns, classes, kind, folder
    ):
        texts = tasks.load(name, folder(columns, kind=kind))
        assert texts.train.to_dict() == texts.validation.to_dict() == columns
        assert texts.labels == tuple(map(str, range(classes)))
        assert texts.name == "mine"

    def test_a_class_of_the_validation_split_alone_counts(self, folder):
        path = folder(SENTENCES, SENTENCES | {"label": [1, 0, 0, 2]})
        assert tasks.load("sst2", path).labels == ("0", "1", "2")

    @pytest.mark.parametrize("stray", [3, 10**6, 10**9, 2**62])
    def test_a_stray_label_makes_no_classes(self, stray, folder):
        columns = {"sentence": ["a", "b", "c"], "label": [0, 1, stray]}
        culprit = f"label {stray} is not in 0 to 2: leave those rows out, or"
        assert culprit in refusal("sst2", folder(SENTENCES, columns))

    def test_classes_from_one_up_are_refused(self, folder):
        path = folder(SENTENCES | {"label": [1, 2, 3, 1]})
        assert "label 3 is not in 0 to 2" in refusal("sst2", path)

    def test_names_of_classes_are_kept(self, folder):
        label = ClassLabel(names=["no", "yes", "never"])
        path = folder(SENTENCES, name="sentences", sentence=Value("string"), label=label)
        assert tasks.load("sst2", path).labels == ("no", "yes", "never")
        tag = ClassLabel(names=["O", "B-PER", "B-creative-work"])
        path = folder(TAGGED, tokens=List(Value("string")), ner_tags=List(tag))
        assert tasks.load("ner", path).labels == ("O", "B-PER", "B-creative-work")

    @pytest.mark.parametrize(
        ("columns", "task"),
        [
            ({"comment": ["a", "b"], "verdict": [0, 1]}, Task("own", ("comment",), "verdict")),
            (
                {"q": ["a", "b"], "a": ["c", "d"], "label": [0, 1], "idx": [7, 8]},
                Task("own", ("q", "a"), "label"),
            ),
            (
                {"words": [["a"], ["b"]], "tags": [[0], [1]], "id": ["0", "1"]},
                Task("own", ("words",), "tags", tagged=True),
            ),
        ],
        ids=["sentence", "pair", "tagged"],
    )
    def test_columns_tell_what_a_task_of_any_other_name_is(self, columns, task, folder):
        texts = tasks.load("own", folder(columns))
        assert texts.task == task
        assert texts.train.column_names == [*task.columns, task.label]

    def test_the_fingerprint_tells_text_labels_and_class_names_apart(self, folder):
        def names(*labels: str) -> dict[str, Any]:
            return {"sentence": Value("string"), "label": ClassLabel(names=list(labels))}

        relabelled = SENTENCES | {"label": [1, 0, 1, 1]}
        paths = [
            folder(SENTENCES, name="a"),
            folder(SENTENCES, name="b", **names("0", "1")),
            folder(SENTENCES, name="c", **names("n", "p")),
            folder(relabelled, name="d"),
            folder(SENTENCES | {"sentence": ["good", "bad", "so", "so fine"]}, name="e"),
            folder(SENTENCES | {"sentence": ["bad", "good", "so so", "fine"]}, name="f"),
            folder(SENTENCES, relabelled, name="g"),
        ]
        first, same, *others = [tasks.load("sst2", path).fingerprint for path in paths]
        assert first == same
        assert len({first, *others}) == 1 + len(others)

    @pytest.mark.slow
    @pytest.mark.skipif(not REAL.is_dir(), reason="real data are not in data/text")
    def test_real_data_are_read_with_their_names(self):
        folders = {"mnli": ("sick_nli", 3), "pos": ("ud_ewt_pos", 17), "ner": ("wnut17", 13)}
        for name, (place, classes) in folders.items():
            texts = tasks.load(name, REAL / place)
            assert len(texts.labels) == classes
            assert not any(label.isdigit() for label in texts.labels)
            assert texts.entities == (name == "ner")


def test_rows_are_drawn_the_same_in_every_run_and_kept_in_order():
    rows = Dataset.from_dict({"n": list(range(100))})
    drawn = tasks.draw(rows, 10)["n"][:]
    assert drawn == sorted(set(drawn)) == tasks.draw(rows, 10)["n"][:]
    assert (len(drawn), drawn != list(range(10))) == (10, True)
    for everything in (None, 100, 1000):
        assert tasks.draw(rows, everything)["n"][:] == list(range(100))


BAD = {  # what is wrong -> task, columns, what the line must name
    "no label column": (
        "sst2",
        {"sentence": ["a", "b"]},
        "mine has no column label, which sst2 needs: sentence",
    ),
    "no text column": (
        "mnli",
        {"premise": ["a", "b"], "label": [0, 1]},
        "no column hypothesis",
    ),
    "words for a sentence": (
        "sst2",
        {"sentence": [["a"], ["b"]], "label": [0, 1]},
        "sentence must hold strings",
    ),
    "a sentence for words": (
        "pos",
        {"tokens": ["a", "b"], "pos_tags": [[0], [1]]},
        "tokens must hold lists of strings",
    ),
    "labels of floats": (
        "sst2",
        {"sentence": ["a", "b"], "label": [0.5, 1.0]},
        "label must hold integers",
    ),
    "one label for words": (
        "ner",
        {"tokens": [["a"], ["b"]], "ner_tags": [0, 1]},
        "ner_tags must hold lists of integers",
    ),
    "a label below zero": (
        "sst2",
        {"sentence": ["a", "b", "c"], "label": [1, 0, -1]},
        "mine, train: label -1 is not in 0 to 1: leave those rows out",
    ),
    "no label": (
        "sst2",
        {"sentence": ["a", "b", "c"], "label": [0, 1, None]},
        "label None is not in 0 to 1",
    ),
    "no text": (
        "sst2",
        {"sentence": ["a", None], "label": [0, 1]},
        "sentence has empty entries",
    ),
    "a missing word": (
        "ner",
        {"tokens": [["a", None]], "ner_tags": [[0, 1]]},
        "tokens has empty entries",
    ),
    "too few tags": (
        "ner",
        {"tokens": [["a", "b"]], "ner_tags": [[0]]},
        "tokens and ner_tags differ in length",
    ),
    "one class": (
        "sst2",
        {"sentence": ["a", "b"], "label": [1, 1]},
        "one class only",
    ),
    "open columns": (
        "own",
        {"a": ["x", "y"], "b": ["x", "y"], "c": ["x", "y"], "d": [0, 1]},
        "columns a, b, c, d leave open",
    ),
    "no column of classes": (
        "own",
        {"a": ["x", "y"], "b": [0.5, 1.5]},
        "add a task to TASKS",
    ),
}


def refusal(name: str, path: Path | None = None) -> str:
    """The one line that loading a task ends with."""
    with pytest.raises(DataError) as caught:
        tasks.load(name, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# datasets before 5.2 leaves a file that it could not read open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestBadData:
    @pytest.fixture(autouse=True)
    def close(self):
        yield
        gc.collect()

    @pytest.mark.parametrize("wrong", BAD)
    def test_one_line_names_what_is_wrong(self, wrong, folder):
        name, columns, culprit = BAD[wrong]
        assert culprit in refusal(name, folder(columns))

    def test_a_label_beyond_the_names_is_refused(self, folder):
        path = folder(SENTENCES)
        features = {"sentence": {"dtype": "string", "_type": "Value"}}
        features["label"] = {"names": ["no"], "_type": "ClassLabel"}
        notes = {"huggingface": json.dumps({"info": {"features": features}})}
        for split in ("train", "validation"):
            table = pa.table(SENTENCES).replace_schema_metadata(notes)
            pq.write_table(table, path / f"{split}.parquet")
        assert "label 1 is not in 0 to 0: leave those rows out" in refusal("sst2", path)

    def test_files_that_cannot_be_read_and_splits_that_are_missing_are_refused(
        self, folder, tmp_path
    ):
        (tmp_path / "empty").mkdir()
        assert "data cannot be read from" in refusal("sst2", tmp_path / "empty")
        assert "no folder " in refusal("sst2", tmp_path / "absent")
        path = folder(SENTENCES)
        for content in (b"", b"not parquet"):
            (path / "train.parquet").write_bytes(content)
            assert refusal("sst2", path).endswith("give parquet, csv or json")
        path = folder(SENTENCES, name="half")
        (path / "validation.parquet").unlink()
        assert "half has no split validation, only train" in refusal("sst2", path)

    @pytest.mark.parametrize(
        ("content", "cause"),
        [
            (b"sentence,label\nna\xefve,1\nx,0\n", "'utf-8' codec can't decode byte 0xef"),
            (b"sentence,label\na,1\nx,0,3,4\n", "Expected 2 fields in line 3, saw 4"),
        ],
    )
    def test_what_is_wrong_with_a_file_is_said_and_nothing_else(
        self, content, cause, tmp_path, capfd
    ):
        for split in ("train", "validation"):
            (tmp_path / f"{split}.csv").write_bytes(content)
        line = refusal("sst2", tmp_path)
        assert cause in line
        assert "generating" not in line
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize(
        "elsewhere", ["../other/train.csv", "{absolute}/other/train.csv", "../*/train.csv"]
    )
    def test_files_that_are_not_in_the_folder_are_not_read(self, elsewhere, tmp_path):
        for name in ("mine", "other"):
            (tmp_path / name).mkdir()
            for split in ("train", "validation"):
                (tmp_path / name / f"{split}.csv").write_text("sentence,label\na,0\nb,1\n")
        (tmp_path / "link").symlink_to(tmp_path / "mine")
        for path in (tmp_path / "mine", tmp_path / "link", tmp_path / "other" / ".." / "mine"):
            assert len(tasks.load("sst2", path).train) == 2
        (tmp_path / "mine" / "README.md").write_text(
            "---\nconfigs:\n- config_name: default\n  data_files:\n"
            f"  - split: train\n    path: {elsewhere.format(absolute=tmp_path)!r}\n"
            "  - split: validation\n    path: validation.csv\n---\n"
        )
        for name in ("mine", "link"):
            line = refusal("sst2", tmp_path / name)
            assert f"README.md names {tmp_path / 'other' / 'train.csv'}, which is not" in line

    @pytest.mark.parametrize("of_words", [False, True])
    def test_parquet_files_that_number_classes_differently_are_refused(self, of_words, tmp_path):
        def write(split: str, names: list[str]) -> None:
            label, texts = ClassLabel(names=names), Value("string")
            features = {"text": List(texts), "label": List(label)} if of_words else None
            features = Features(features or {"text": texts, "label": label})
            rows = {"text": [["a"], ["b"]], "label": [[0], [1]]}
            if not of_words:
                rows = {name: [value for (value,) in values] for name, values in rows.items()}
            path = tmp_path / f"{split}.parquet"
            Dataset.from_dict(rows, features=features).to_parquet(path)

        write("train", ["no", "yes"])
        write("validation", ["yes", "no"])
        line = refusal("mine", tmp_path)
        assert "train.parquet" in line
        assert "number the classes of label differently" in line
        write("validation", ["no", "yes"])
        assert tasks.load("mine", tmp_path).labels == ("no", "yes")

    def test_an_unknown_task_is_told_the_known_ones(self, tmp_path):
        expected = "unknown task 'cola': one of sst2, mnli, pos, ner, "
        assert refusal("cola").startswith(expected)
        assert refusal("cola").endswith("or any name with a folder")
        with pytest.raises(DataError, match="1 folders for 2 tasks"):
            tasks.check_names(["sst2", "mnli"], [tmp_path])

    def test_without_a_network_one_line_says_what_to_do(self, monkeypatch):
        def load_dataset(*_: object, **__: object) -> None:
            raise ConnectionError("Couldn't reach the Hub\nand more")

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        reason = "sst2: data cannot be read from the hub (Couldn't reach the Hub)"
        remedy = "a network is needed once, or --task-data FOLDER"
        assert refusal("sst2") == f"{reason}: {remedy}"


class TestEntities:
    def test_are_found_as_a_naive_scan_finds_them_in_every_short_sentence(self):
        for tags in itertools.product(("O", "B-A", "I-A", "B-c-d", "I-c-d"), repeat=5):
            expected = set()
            for start, end in itertools.combinations(range(6), 2):
                inside = tags[start:end]
                kind = inside[0][2:]
                starts = inside[0][0] == "B" or start == 0 or tags[start - 1][2:] != kind
                ends = end == 5 or tags[end] != f"I-{kind}"
                if kind and starts and ends and all(tag == f"I-{kind}" for tag in inside[1:]):
                    expected.add((kind, start, end))
            assert tasks.entities(tags) == expected

    @pytest.mark.parametrize(
        ("predicted", "true", "f1"),
        [
            (["B-PER I-PER O"], ["B-PER I-PER O"], 1.0),
            (["O O"], ["B-PER I-PER"], 0.0),
            (["O"], ["O"], 0.0),
            (["B-PER O"], ["B-PER I-PER"], 0.0),  # half an entity is none
            (["B-LOC I-LOC"], ["B-PER I-PER"], 0.0),
            (["B-PER B-LOC", "O O"], ["B-PER B-LOC", "B-ORG O"], 0.8),  # 2 of 2 right, of 3 found
            (["B-PER O B-LOC"], ["B-PER O O"], 2 / 3),
            (["B-PER", "B-PER"], ["B-PER", "O"], 2 / 3),  # the same place in another sentence
        ],
    )
    def test_f1_is_counted_by_hand(self, predicted, true, f1):
        sides = ([tags.split() for tags in side] for side in (predicted, true))
        assert tasks.entity_f1(*sides) == pytest.approx(f1)

    @pytest.mark.parametrize(
        ("labels", "expected"),
        [
            ("O B-PER I-PER", True),
            ("B-PER I-PER", True),
            ("O", False),
            ("NOUN VERB", False),
            ("O S-PER B-PER", False),
        ],
    )
    def test_are_looked_for_where_words_have_such_labels(self, labels, expected):
        rows, names = Dataset.from_dict(TAGGED), tuple(labels.split())
        assert Texts("mine", TASKS["ner"], rows, rows, names).entities is expected
        assert not Texts("mine", TASKS["sst2"], rows, rows, names).entities
