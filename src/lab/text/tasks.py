"""Text tasks as data: sentences, sentence pairs and tagged words, from the hub or a local folder.

    texts = load("sst2")  # downloaded on first use, then read from the hub's cache
    texts = load("mnli", Path("data/text/sick_nli"))  # a folder that datasets.load_dataset reads

To add a task, add it to TASKS; or give any other name with a folder, whose columns then tell what
the task is.
"""

import functools
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset, DatasetDict, Features
from datasets.exceptions import DatasetGenerationError
from pyarrow.parquet import read_schema

from lab import provenance
from lab.errors import ConfigError, DataError, first_line
from lab.replicas import generator
from lab.text import toy_language


@dataclass(frozen=True)
class Task:
    """Where the data of a task are, and what their columns mean."""

    name: str  # on the command line
    columns: tuple[str, ...]  # of a sentence, of two sentences, or of the words of a tagged one
    label: str  # column of the class, or of a class for each word
    tagged: bool = False  # whether each word has a class
    hub: str | None = None  # name on the hub; None: toy_language makes the data
    subset: str | None = None  # of the data on the hub
    revision: str = "main"  # of the data on the hub
    validation: str = "validation"  # name of that split


_GLUE: dict[str, Any] = {"hub": "nyu-mll/glue"}
_CONLL: dict[str, Any] = {
    "tagged": True,
    "hub": "eriktks/conll2003",
    "revision": "convert/parquet",
}
_PAIR = ("premise", "hypothesis")
TASKS = {
    task.name: task
    for task in (
        Task("sst2", ("sentence",), "label", subset="sst2", **_GLUE),
        Task("mnli", _PAIR, "label", subset="mnli", validation="validation_matched", **_GLUE),
        Task("pos", ("tokens",), "pos_tags", **_CONLL),
        Task("ner", ("tokens",), "ner_tags", **_CONLL),
        Task("toy_sst2", ("sentence",), "label"),
        Task("toy_mnli", _PAIR, "label"),
        Task("toy_pos", ("tokens",), "pos_tags", tagged=True),
        Task("toy_ner", ("tokens",), "ner_tags", tagged=True),
    )
}


@dataclass(frozen=True)
class Texts:
    """The data of a task."""

    name: str  # in results: the task's, or the folder's
    task: Task
    train: Dataset  # rows with the task's columns, labels as integers
    validation: Dataset
    labels: tuple[str, ...]  # names of the classes

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
        """Whether words are tagged with entities: B-KIND begins one, I-KIND goes on, O is none."""
        parts = {name.partition("-")[0] for name in self.labels}
        return self.task.tagged and parts <= {"B", "I", "O"} and parts != {"O"}


def check_names(names: Sequence[str], folders: Sequence[Path]) -> None:
    """Raise DataError unless every task is known or has a folder, which exists."""
    if folders and len(folders) != len(names):
        counts = f"{len(folders)} folders for {len(names)} tasks"
        raise DataError(f"{counts}: give one a task, in their order")
    for folder in folders:
        if not folder.is_dir():
            remedy = "give one with a training and a validation file (parquet, csv, json)"
            raise DataError(f"no folder {folder}: {remedy}")
    for name in names:
        if name not in TASKS and not folders:
            known = ", ".join(TASKS)
            raise DataError(f"unknown task {name!r}: one of {known}, or any name with a folder")


def data_name(name: str, folder: Path | None) -> str:
    """The name of a task's data, in results."""
    return name if folder is None else folder.resolve().name


def check_distinct(every: Sequence[Texts]) -> None:
    """Raise ConfigError where two results would share a name."""
    names = [texts.name for texts in every]
    for name in names:
        if names.count(name) > 1:
            clash = f"two are named {name}, and so would their results be"
            raise ConfigError(f"task_data: {clash}: rename one folder")


def load(name: str, folder: Path | None = None, examples: int = 2000) -> Texts:
    """Load the data of a task.

    Args:
        name: one of TASKS, or any other with a folder.
        folder: of the data; None: the hub's, or those of the toy language.
        examples: training examples of a task in the toy language; half as many for validation.

    Raises:
        DataError: an unknown task; data that cannot be had or are not what the task needs; in a
            worker, data that are not those that the program began with.
    """
    texts = _load(name, folder, examples)
    provenance.check_fingerprint(texts.name, texts.fingerprint)
    return texts


def _load(name: str, folder: Path | None, examples: int) -> Texts:
    check_names([name], [] if folder is None else [folder])
    if folder is None and TASKS[name].hub is None:
        kind = name.removeprefix("toy_")
        rows = toy_language.examples(kind, examples, math.ceil(examples / 2))
        splits = (Dataset.from_list(split) for split in rows)
        return Texts(name, TASKS[name], *splits, toy_language.LABELS[kind])
    label = data_name(name, folder)
    parts = _read(name, folder)
    task = TASKS.get(name) or _infer_task(name, label, parts)
    validation = task.validation if task.validation in parts else "validation"
    for split in ("train", validation):
        if split not in parts:
            known = ", ".join(parts)
            remedy = "name its files after the splits"
            raise DataError(f"{label} has no split {split}, only {known}: {remedy}")
    for split in ("train", validation):
        _check_columns(label, task, parts[split])
    names = _label_names(task, parts["train"], parts[validation])
    for split in ("train", validation):
        _check_rows(f"{label}, {split}", task, parts[split], len(names))
    columns = [*task.columns, task.label]
    splits = (parts[split].select_columns(columns) for split in ("train", validation))
    return Texts(label, task, *splits, names)


def _read(name: str, folder: Path | None) -> DatasetDict:
    try:
        if folder is not None:
            _check_files(folder)
            return datasets.load_dataset(str(folder))
        task = TASKS[name]
        return datasets.load_dataset(task.hub, task.subset, revision=task.revision)
    except DataError:
        raise
    except Exception as error:  # datasets and pyarrow raise nearly anything on damaged files
        where = folder or "the hub"
        remedy = "give parquet, csv or json"
        if folder is None:
            remedy = "a network is needed once, or --task-data FOLDER"
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) else None
        reason = f"{name}: data cannot be read from {where} ({first_line(cause or error)})"
        raise DataError(f"{reason}: {remedy}") from error


def _check_files(folder: Path) -> None:
    """Raise DataError where a README.md in the folder names files that are not in it, or where
    parquet files number a column's classes otherwise than each other: datasets takes one for all.
    """
    inside = folder.resolve(), Path(os.path.normpath(folder.absolute()))
    classes: dict[str, tuple[list[str], str]] = {}  # column -> names of its classes, and a file
    for paths in datasets.load_dataset_builder(str(folder)).config.data_files.values():
        for path in map(os.path.normpath, paths):
            if not any(Path(path).is_relative_to(place) for place in inside):
                raise DataError(f"{folder}: its README.md names {path}, which is not in the folder")
            if not path.endswith(".parquet"):
                continue
            for column, feature in Features.from_arrow_schema(read_schema(path)).items():
                names = getattr(getattr(feature, "feature", feature), "names", None)
                first, where = classes.setdefault(column, (names, path))
                if names != first:
                    differ = f"{folder}: {Path(path).name} and {Path(where).name}"
                    raise DataError(f"{differ} name or number the classes of {column} differently")


_NEEDED = {  # kind of column -> what it holds
    "text": "strings",
    "words": "lists of strings",
    "class": "integers",
    "classes": "lists of integers",
}


def _column_kind(feature: Any) -> str | None:
    """The kind of a column, a key of _NEEDED; None for any other."""
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return {"text": "words", "class": "classes"}.get(_column_kind(inner) or "")
    dtype = str(getattr(feature, "dtype", ""))
    if "string" in dtype:
        return "text"
    return "class" if dtype.lstrip("u").startswith("int") else None


def _infer_task(name: str, label: str, parts: DatasetDict) -> Task:
    """The task that the columns suggest.

    One column of words and one of their classes, or one or two of text and one of classes; of
    several columns of classes, the one named label.
    """
    features = next(iter(parts.values())).features
    kinds = {column: _column_kind(feature) for column, feature in features.items()}
    for text_kind, label_kind, most in (("words", "classes", 1), ("text", "class", 2)):
        columns = tuple(column for column, kind in kinds.items() if kind == text_kind)
        labels = [column for column, kind in kinds.items() if kind == label_kind]
        labels = [column for column in labels if column in ("label", "labels")] or labels
        if len(labels) == 1 and 1 <= len(columns) <= most:
            return Task(name, columns, labels[0], tagged=text_kind == "words")
    problem = f"{label}: columns {', '.join(kinds)} leave open what is text and what label"
    raise DataError(f"{problem}: add a task to TASKS")


def _check_columns(label: str, task: Task, rows: Dataset) -> None:
    expected = dict.fromkeys(task.columns, "words" if task.tagged else "text")
    expected[task.label] = "classes" if task.tagged else "class"
    for column, kind in expected.items():
        if column not in rows.column_names:
            known = ", ".join(rows.column_names)
            raise DataError(f"{label} has no column {column}, which {task.name} needs: {known}")
        if _column_kind(rows.features[column]) != kind:
            needed = f"must hold {_NEEDED[kind]}, which {task.name} needs"
            raise DataError(f"{label}: column {column} {needed}")


def _label_names(task: Task, train: Dataset, validation: Dataset) -> tuple[str, ...]:
    """Names of the classes: the data's own, or 0 to K − 1 where there are K different labels."""
    feature = train.features[task.label]
    names = getattr(getattr(feature, "feature", feature), "names", None)
    if names:
        return tuple(names)
    labels = {label for rows in (train, validation) for label in _flat_labels(task, rows)}
    return tuple(map(str, range(sum(label is not None and label >= 0 for label in labels))))


def _flat_labels(task: Task, rows: Dataset) -> list[int | None]:
    """The label of every row, or of every word of every row."""
    labels = list(rows[task.label])
    return [label for tags in labels for label in tags or ()] if task.tagged else labels


def _check_rows(where: str, task: Task, rows: Dataset, classes: int) -> None:
    if not len(rows):
        raise DataError(f"{where} has no rows")
    for column in task.columns:
        if any(value is None or (task.tagged and None in value) for value in rows[column]):
            raise DataError(f"{where}: column {column} has empty entries: leave those rows out")
    if task.tagged:
        words = task.columns[0]
        pairs = zip(rows[words], rows[task.label], strict=True)
        if any(tags is None or len(tokens) != len(tags) for tokens, tags in pairs):
            differ = f"{words} and {task.label} differ in length"
            raise DataError(f"{where}: {differ}: one label a word is needed")
    labels = _flat_labels(task, rows)
    if len(set(labels)) < 2:
        raise DataError(f"{where}: {task.label} has one class only, there is nothing to tell apart")
    for label in labels:
        if label is None or not 0 <= label < classes:
            remedy = "leave those rows out, or number the classes from 0 without a gap"
            raise DataError(f"{where}: label {label} is not in 0 to {classes - 1}: {remedy}")


def draw(rows: Dataset, number: int | None) -> Dataset:
    """So many rows, drawn at random but the same in every run, in their order; None: all."""
    if number is None or number >= len(rows):
        return rows
    order = torch.randperm(len(rows), generator=generator(0, "measurement"))
    return rows.select(order[:number].sort().values.tolist())


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(kind, start, end) of every entity of a sentence.

    An entity begins at B-KIND, or at I-KIND after another kind or outside of any.
    """
    spans: set[tuple[str, int, int]] = set()
    kind, start = "", 0
    for i, tag in enumerate([*tags, "O"]):
        part, _, next_kind = tag.partition("-")
        if part != "I" or next_kind != kind:
            if kind:
                spans.add((kind, start, i))
            kind, start = next_kind, i
    return spans


def entity_f1(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> float:
    """Harmonic mean of precision and recall of whole entities over all sentences; 0 without any."""
    pairs = [(entities(p), entities(t)) for p, t in zip(predicted, true, strict=True)]
    right = sum(len(p & t) for p, t in pairs)
    total = sum(len(p) + len(t) for p, t in pairs)
    return 2 * right / total if total else 0.0
