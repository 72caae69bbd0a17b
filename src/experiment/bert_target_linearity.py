"""Figure 11, second part: Target Linearity through BERT.

Claim: fine-tuning makes Target Linearity rise with depth. Every layer is measured when initialised
at random, when pre-trained, and after each epoch of fine-tuning. This script reads the checkpoints
that bert_train.py leaves, and how they were trained in its results. What pre-training does needs
none of them: with --no-fine-tuned the first two stages are measured alone, as a result of its own.

    python src/experiment/bert_target_linearity.py
    python src/experiment/bert_target_linearity.py --model roberta-base --tasks ner
    python src/experiment/bert_target_linearity.py --no-fine-tuned --seeds 0 1 2 3 4
    python src/experiment/bert_target_linearity.py --scale quick

Results: results/SCALE/bert_target_linearity/MODEL-DATA-DIGEST.npz, one a task, arrays as in AXES.
Features H are the state of a sentence's or pair's first token, one row an example; of tagged words,
the state of each word's first sub-token, one row a word. Targets Y are the classes. All dimensions
are kept; with few rows the chance level, about rank / n, is far from zero. Tagged words have a
second one, of labels permuted between word types, since a word's label mostly follows the word.
Features are computed in float64: before training a first token hardly varies between sentences, and
the outputs of a normalisation sum to zero, so that float32 would leave least squares a direction of
pure rounding.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import program

program.begin(__name__)

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from core.linearity import held_out_linearity, report
from core.moments import FeatureMoments
from experiment import bert_train
from experiment.bert_train import plan
from lab import checkpoints, cli, runs
from lab.errors import DataError, Diverged, ResultError
from lab.replicas import Replica, generator, progress_bar
from lab.results import Arrays
from lab.text import encoders, marked, resuming, tasks, toy_bert, word_types
from lab.text.fine_tuning import SPLITS
from lab.text.tasks import Texts

# options of bert_train.py that say nothing of the stages before it
FINE_TUNING = {"learning_rate", "warmup", "weight_decay", "clip", "epochs", "batch_size"}


@dataclass(frozen=True, kw_only=True)
class Config(bert_train.EncoderConfig):
    """What is measured."""

    fine_tuned: bool = True  # measure every epoch's checkpoint as well

    def hyperparameters(self) -> dict[str, Any]:
        """With those of bert_train.py's default, in whose place a result has its training's."""
        settings = {**self.default_training.hyperparameters(), **super().hyperparameters()}
        del settings["fine_tuned"]
        return settings if self.fine_tuned else before_tuning(settings)

    @property
    def default_training(self) -> bert_train.Config:
        """As bert_train.py trains by default what is measured."""
        names = (field.name for field in dataclasses.fields(bert_train.EncoderConfig))
        return cli.preset(bert_train, **{name: getattr(self, name) for name in names})

    def training(self, task: str) -> bert_train.Config:
        """How a task was trained; its own alone, for each may have been trained otherwise."""
        folder = self.task_data[self.tasks.index(task)] if self.task_data else None
        own = {"model": self.model, "tasks": (task,), "task_data": (folder,) if folder else ()}
        if not self.fine_tuned:
            return dataclasses.replace(self.default_training, **own)
        model = Path(self.model).name
        wanted = {"model": model, "model_revision": self.model_revision, "task": task}
        wanted |= {"seeds": self.seeds, "epochs": self.epochs}
        name = f"{model}-{tasks.data_name(task, folder)}"
        return checkpoints.training(bert_train, self, name, wanted, **own)


def before_tuning(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those that count without fine-tuning; the toy BERT is pre-trained with some of the others."""
    unused = FINE_TUNING if settings["model"] != toy_bert.NAME else set()
    return {k: v for k, v in settings.items() if k not in unused} | {"fine_tuned": False}


QUICK = {name: bert_train.QUICK[name] for name in ("model", "tasks", "seeds")}

MEASURED_AT_ONCE = 64  # examples; changes no number but by rounding
PERMUTATIONS = 10  # of the labels of tagged words, together in `type_chance`
_LAYER = ("seed", "stage", "layer")
AXES = {
    **{f"{split}_{name}": _LAYER for split in SPLITS for name in ("tl", "rank", "chance")},
    # of tagged words: TL of labels that are permuted between word types
    **{f"{split}_type_chance": _LAYER for split in SPLITS},
    "held_out_tl": _LAYER,  # on validation rows, of the least-squares map fitted on training rows
    "train_n": (),  # rows: examples, or tagged words
    "validation_n": (),
    "d": (),  # features
    "seed": ("seed",),
    "stage": ("stage",),  # initialised, pre-trained, epoch 1, …
    "layer": ("layer",),  # -1: the embeddings; n: the output of layer n, from 0 on
}


def restore(config: bert_train.Config, texts: Texts, seed: int, epoch: int) -> PreTrainedModel:
    """The model after an epoch.

    Raises:
        ResultError: this configuration left no checkpoint, or not a whole one.
        Diverged: training had, and left none.
    """
    path = bert_train.checkpoint(config, texts, seed, epoch)
    diverged = checkpoints.divergence(plan(config, texts), seed)
    if diverged is not None and epoch >= diverged.epoch:
        raise diverged
    remedy = checkpoints.remedy("bert_train")
    if not (path / marked.MARK).is_file():
        raise ResultError(f"no checkpoint {path}: {remedy}")
    wanted = bert_train.identity(config, texts, seed) | {"epoch": epoch}
    if wrong := resuming.problem(path, wanted):
        raise ResultError(f"{path} {wrong}: remove it, then {remedy}")
    try:
        model = encoders.build(str(path), texts.labels, texts.task.tagged, seed)
    except (ValueError, AttributeError, DataError) as error:
        raise ResultError(f"{path} is not a checkpoint of this project: {remedy}") from error
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise ResultError(f"{path} has weights that are not finite: {remedy}")
    return model


def stage_names(epochs: int) -> tuple[str, ...]:
    return ("initialised", "pre-trained", *(f"epoch {e}" for e in range(1, epochs + 1)))


def models(
    config: bert_train.Config, texts: Texts, seed: int, epochs: int
) -> Iterator[PreTrainedModel]:
    """The model at every stage, one after the other; epochs: how many of fine-tuning."""
    encoder = (config.encoder, texts.labels, texts.task.tagged, seed, config.model_revision)
    yield encoders.build(*encoder, trained=False)
    yield encoders.build(*encoder)
    for epoch in range(1, epochs + 1):
        yield restore(config, texts, seed, epoch)


def batches(config: bert_train.Config, texts: Texts, split: str) -> tuple[DataLoader, Tensor]:
    """The examples that are sampled of a split, and the classes of its measured rows.

    Returns:
        batches, see `longest_first`, whose labels are numbers of rows; for each row its class and,
        of a tagged word, those of PERMUTATIONS between word types: (N, 1) or (N, 1 + PERMUTATIONS).
    """
    rows = texts.validation
    if split == "train":
        rows = tasks.draw(texts.train, config.train_examples)
    tokenizer = config.load_tokenizer()
    sampled = tasks.draw(rows, config.samples)
    coded = encoders.encode(texts.task, sampled, tokenizer, config.max_length)
    if texts.task.tagged:
        coded, labels, types = word_types.number_words(coded)
        source = generator(0, "measurement")
        permuted = [word_types.permute_labels(labels, types, source) for _ in range(PERMUTATIONS)]
        classes = torch.stack([labels, *permuted], 1)
    else:
        classes = torch.tensor(coded["labels"])[:, None]
        coded = coded.remove_columns("labels").add_column("labels", range(len(coded)))
    collate = encoders.collator(texts.task, tokenizer)
    return longest_first(coded, MEASURED_AT_ONCE, collate), classes


def longest_first(coded: Dataset, batch_size: int, collate: Callable) -> DataLoader:
    """Batches of rows of `encoders.encode`, the longest first, so that little is padding."""
    lengths = list(coded["length"])
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    return DataLoader(coded.remove_columns("length"), batch_size, sampler=order, collate_fn=collate)


@torch.no_grad()
def one_pass(
    model: PreTrainedModel, loader: Iterable[Mapping[str, Tensor]], labels: Tensor, classes: int
) -> list[FeatureMoments]:
    """Moments of the features of the embeddings and of every layer, with the one-hot labels.

    Args:
        model: measured.
        loader, labels: see `batches`; labels (N, k).
        classes: c.

    Returns:
        moments of each layer with k c targets.
    """
    labels, moments = labels.to(model.device), []
    for batch in loader:
        inputs = {name: values.to(model.device) for name, values in batch.items()}
        mask, rows = encoders.labelled_tokens(inputs.pop("labels"), inputs["attention_mask"])
        targets = functional.one_hot(labels[rows], classes).flatten(1)  # (n, k c)
        states = model.base_model(**inputs, output_hidden_states=True).hidden_states
        moments = moments or [FeatureMoments() for _ in states]
        for sums, state in zip(moments, states, strict=True):  # state (B, T, d)
            sums.update(state[mask], targets)
    return moments


def layer_measures(moments: Mapping[str, Sequence[FeatureMoments]], classes: int) -> Arrays:
    """Measures of every layer (layer,), and the numbers of rows and features, from each split."""
    arrays = {}
    true = {name: [sums.columns(slice(classes)) for sums in moments[name]] for name in SPLITS}
    for split in SPLITS:
        reports = [report(sums) for sums in true[split]]
        for name, key in (("tl", "value"), ("rank", "rank"), ("chance", "chance")):
            arrays[f"{split}_{name}"] = np.array([getattr(layer, key) for layer in reports])
        arrays |= {f"{split}_n": np.array(reports[0].n), "d": np.array(reports[0].d)}
        if moments[split][0].c > classes:
            permuted = [sums.columns(slice(classes, None)) for sums in moments[split]]
            values = [report(sums).value for sums in permuted]
            arrays[f"{split}_type_chance"] = np.array(values)
    pairs = zip(true["train"], true["validation"], strict=True)
    return arrays | {"held_out_tl": np.array([held_out_linearity(*pair) for pair in pairs])}


def run(config: bert_train.Config, epochs: int, task: str, replicas: Sequence[Replica]) -> Arrays:
    """Measure every stage with the seed of each replica; name -> (R, stage, …)."""
    encoders.quiet()
    texts = config.load_texts(task)
    parts = {split: batches(config, texts, split) for split in SPLITS}
    classes = len(texts.labels)
    seeds = []
    for replica in replicas:
        measures = []
        description = f"{plan(config, texts).name} seed {replica.seed}"
        bar = progress_bar(len(stage_names(epochs)), description)
        with bar:
            try:
                for model in models(config, texts, replica.seed, epochs):
                    model.eval().to(config.resolved_device, torch.float64)
                    moments = {split: one_pass(model, *parts[split], classes) for split in SPLITS}
                    measures.append(layer_measures(moments, classes))
                    bar.update()
            except Diverged as error:
                error.arrays = runs.stack(measures)
                raise
        seeds.append(runs.stack(measures))
    return runs.stack(seeds)


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    encoders.quiet()
    trainings = {task: config.training(task) for task in config.tasks}
    every = {task: bert_train.prepare(trained)[0] for task, trained in trainings.items()}
    tasks.check_distinct(list(every.values()))
    for trained in trainings.values():
        if trained.model == toy_bert.NAME and not toy_bert.read_mark(Path(trained.encoder)):
            remedy = checkpoints.remedy("bert_train")
            raise ResultError(f"no pre-trained {toy_bert.NAME} in {trained.encoder}: {remedy}")
    epochs = config.epochs if config.fine_tuned else 0
    for task, texts in every.items():
        trained = trainings[task]
        result = plan(trained, texts, "bert_target_linearity", AXES)
        if not config.fine_tuned:
            result = dataclasses.replace(result, settings=before_tuning(result.settings))
        with checkpoints.reading([plan(trained, texts)] if config.fine_tuned else []):
            function = functools.partial(run, trained, epochs, task)
            for _, arrays in runs.train(function, [result]):
                arrays |= {name: arrays[name][0, 0] for name, axes in AXES.items() if axes == ()}
                layers = range(-1, arrays["held_out_tl"].shape[-1] - 1)
                points = {"seed": config.seeds, "stage": stage_names(epochs), "layer": layers}
                result.save(arrays | points)


if __name__ == "__main__":
    cli.run(main)
