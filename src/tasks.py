"""Text tasks as data: sentences, pairs of sentences and tagged words, from the Hugging Face hub or a local folder.

    texts = load("sst2")  # downloaded on first use, then read from the hub's cache
    texts = load("mnli", Path("data/text/sick_nli"))  # a folder that datasets.load_dataset reads

To add a task, add it to TASKS; or give any other name with a folder, whose columns then say what the task is.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

import language
from data import DataError


@dataclass(frozen=True)
class Task:
    """Where a task's data are and what their columns mean.

    name: what the command line calls it. columns: of a sentence, of two sentences, or of the words of a tagged one.
    label: column of the class, or of each word's. tagged: whether it is each word's. hub, subset, revision: its name
    on the hub; without one, language.py makes the task that it stands in for. validation: name of that split.
    """

    name: str
    columns: tuple[str, ...]
    label: str
    tagged: bool = False
    hub: str = ""
    subset: str | None = None
    revision: str = "main"
    validation: str = "validation"


_GLUE = "nyu-mll/glue"
_CONLL = {"tagged": True, "hub": "eriktks/conll2003", "revision": "convert/parquet"}
TASKS = {
    task.name: task
    for task in (
        Task("sst2", ("sentence",), "label", hub=_GLUE, subset="sst2"),
        Task("mnli", ("premise", "hypothesis"), "label", hub=_GLUE, subset="mnli", validation="validation_matched"),
        Task("pos", ("tokens",), "pos_tags", **_CONLL),
        Task("ner", ("tokens",), "ner_tags", **_CONLL),
        Task("toy_sst2", ("sentence",), "label"),
        Task("toy_mnli", ("premise", "hypothesis"), "label"),
        Task("toy_pos", ("tokens",), "pos_tags", tagged=True),
        Task("toy_ner", ("tokens",), "ner_tags", tagged=True),
    )
}


@dataclass(frozen=True)
class Texts:
    """The data of a task.

    name: that results carry: the task's, or the folder's. train, validation: rows with the task's columns, labels as
    integers. labels: names of the classes.
    """

    name: str
    task: Task
    train: Dataset
    validation: Dataset
    labels: tuple[str, ...]

    @functools.cached_property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of texts, labels and their names."""
        digest = hashlib.sha256(json.dumps(self.labels).encode())
        for rows in (self.train, self.validation):
            for column in (*self.task.columns, self.task.label):
                digest.update(json.dumps([column, *rows[column]]).encode())
        return digest.hexdigest()[:16]

    @property
    def entities(self) -> bool:
        """Whether the labels are parts of entities: B-KIND begins one, I-KIND continues it, O is outside."""
        parts = {name.partition("-")[0] for name in self.labels}
        return self.task.tagged and parts <= {"B", "I", "O"} and parts != {"O"}


def check_names(tasks: Sequence[str], folders: Sequence[Path]) -> None:
    """Raise DataError unless every task is known or has a folder, which exists."""
    if folders and len(folders) != len(tasks):
        raise DataError(f"{len(folders)} folders for {len(tasks)} tasks: give one a task, in their order")
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"no folder {folder}: give one with a training and a validation file (parquet, csv, json)")
    for task in tasks:
        if task not in TASKS and not folders:
            raise DataError(f"unknown task {task!r}: one of {', '.join(TASKS)}, or any name with its data's folder")


def load(name: str, folder: Path | None = None, examples: tuple[int, int] = (2000, 1000)) -> Texts:
    """Load the data of a task.

    Args:
        name: of one of TASKS, or any other with a folder.
        folder: its data, where they are not the hub's.
        examples: training and validation examples of a task that language.py makes.

    Raises:
        DataError: unknown task, data that cannot be had, or that are not what the task needs.
    """
    check_names([name], [] if folder is None else [folder])
    label = name if folder is None else folder.resolve().name
    if folder is None and not TASKS[name].hub:
        kind = name.removeprefix("toy_")
        train, validation = (Dataset.from_list(rows) for rows in language.examples(kind, *examples))
        return Texts(label, TASKS[name], train, validation, language.LABELS[kind])
    try:
        if folder is None:
            task = TASKS[name]
            parts = datasets.load_dataset(task.hub, task.subset, revision=task.revision)
        else:
            parts = datasets.load_dataset(str(folder))
    except Exception as error:  # datasets and pyarrow raise nearly anything on a damaged or absent file
        where = "the hub" if folder is None else str(folder)
        remedy = "a network is needed once, or --task-data FOLDER" if folder is None else "give parquet, csv or json"
        raise DataError(f"{name}: data cannot be read from {where} ({first_line(error)}): {remedy}") from error
    task = TASKS.get(name) or _infer(name, label, parts)
    validation = task.validation if task.validation in parts else "validation"
    for split in ("train", validation):
        if split not in parts:
            raise DataError(f"{label} has no split {split}, only {', '.join(parts)}: name its files after the splits")
    train, held_out = parts["train"], parts[validation]
    for rows in (train, held_out):
        _check_columns(label, task, rows)
    names = _label_names(task, train, held_out)
    for split, rows in (("train", train), (validation, held_out)):
        _check_rows(f"{label}, {split}", task, rows, len(names))
    keep = [*task.columns, task.label]
    return Texts(label, task, train.select_columns(keep), held_out.select_columns(keep), names)


def first_line(error: Exception) -> str:
    """Of a library's message, or the kind of the error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _kind(feature: Any) -> str:
    """text, words, class or classes (a class a word), or other."""
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return {"text": "words", "class": "classes"}.get(_kind(inner), "other")
    dtype = str(getattr(feature, "dtype", ""))
    return "text" if "string" in dtype else "class" if dtype.lstrip("u").startswith("int") else "other"


def _infer(name: str, label: str, parts: Any) -> Task:
    """The task that columns suggest: of texts, or one of words, and one of classes, or that named label."""
    kinds = {column: _kind(feature) for column, feature in next(iter(parts.values())).features.items()}
    for text, of_label, tagged in (("words", "classes", True), ("text", "class", False)):
        columns = tuple(column for column, kind in kinds.items() if kind == text)
        classes = [column for column, kind in kinds.items() if kind == of_label]
        classes = [column for column in classes if column in ("label", "labels")] or classes
        if len(classes) == 1 and 1 <= len(columns) <= (1 if tagged else 2):
            return Task(name, columns, classes[0], tagged)
    raise DataError(f"{label}: columns {', '.join(kinds)} leave open what is text and what label: add a task to TASKS")


def _check_columns(label: str, task: Task, rows: Dataset) -> None:
    expected = dict.fromkeys(task.columns, "words" if task.tagged else "text")
    expected[task.label] = "classes" if task.tagged else "class"
    what = {"text": "strings", "words": "lists of strings", "class": "integers", "classes": "lists of integers"}
    for column, kind in expected.items():
        if column not in rows.column_names:
            raise DataError(f"{label} has no column {column}, which {task.name} needs: {', '.join(rows.column_names)}")
        if _kind(rows.features[column]) != kind:
            raise DataError(f"{label}: column {column} must hold {what[kind]}, which {task.name} needs")


def _label_names(task: Task, train: Dataset, validation: Dataset) -> tuple[str, ...]:
    """Names of the classes: the data's own, or the integers up to the largest."""
    feature = train.features[task.label]
    names = getattr(getattr(feature, "feature", feature), "names", None)
    if names:
        return tuple(names)
    labels = {label for rows in (train, validation) for label in _flat(task, rows)} - {None}
    return tuple(map(str, range(max(labels, default=0) + 1)))


def _flat(task: Task, rows: Dataset) -> list[int | None]:
    labels = list(rows[task.label])
    return [label for of_words in labels for label in of_words or ()] if task.tagged else labels


def _check_rows(where: str, task: Task, rows: Dataset, classes: int) -> None:
    if not len(rows):
        raise DataError(f"{where} has no rows")
    for column in task.columns:
        if any(value is None or (task.tagged and None in value) for value in rows[column]):
            raise DataError(f"{where}: column {column} has empty entries: leave those rows out")
    if task.tagged:
        lengths = zip(rows[task.columns[0]], rows[task.label], strict=True)
        if any(tags is None or len(words) != len(tags) for words, tags in lengths):
            raise DataError(f"{where}: {task.columns[0]} and {task.label} differ in length: one label a word is needed")
    labels = _flat(task, rows)
    outside = [label for label in labels if label is None or not 0 <= label < classes]
    if outside:
        raise DataError(f"{where}: label {outside[0]} is not in 0 to {classes - 1}: leave those rows out")
    if len(set(labels)) < 2:
        raise DataError(f"{where}: {task.label} has one class only, there is nothing to tell apart")


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(kind, start, end) of the entities of a sentence; one begins at B-, or at I- after another kind or outside."""
    found, kind, start = set(), "", 0
    for i, tag in enumerate([*tags, "O"]):
        part, _, this = tag.partition("-")
        if part != "I" or this != kind:
            if kind:
                found.add((kind, start, i))
            kind, start = this, i
    return found


def entity_f1(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> float:
    """Harmonic mean of precision and recall of whole entities, over all sentences; 0 where there are none."""
    pairs = [(entities(p), entities(t)) for p, t in zip(predicted, true, strict=True)]
    right = sum(len(p & t) for p, t in pairs)
    total = sum(len(p) + len(t) for p, t in pairs)
    return 2 * right / total if total else 0.0
