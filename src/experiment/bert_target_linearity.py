"""Figure 11, second part: Target Linearity through BERT.

Claim: fine-tuning makes Target Linearity rise with depth. It reads the checkpoints that bert_train.py leaves, and takes
the same options. Every layer is measured in one forward pass a stage: of a random initialisation, of the pre-trained
model, and after each epoch of fine-tuning.

    python src/experiment/bert_target_linearity.py
    python src/experiment/bert_target_linearity.py --model roberta-base --task ner --task-data data/text/wnut17
    python src/experiment/bert_target_linearity.py --scale quick

Results: results/SCALE/bert_target_linearity/MODEL-DATA-DIGEST.npz, one a task, arrays as in AXES. Features H are a
sentence's or pair's first token, one row an example; of tagged words, each word's first sub-token, one row a word.
Targets Y are the classes. All dimensions are kept; with few rows the chance level, about rank / n, is far from zero.
Features are made in float64: a normalisation's outputs sum to zero until it has learned, and where they hardly vary,
as a first token's before training, float32 would leave a direction of pure rounding for least squares to follow.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli
import cpu
import results
import text
import training
from core.linearity import read_out, report
from core.moments import FeatureMoments
from data import DataError
from experiment import bert_train
from results import Arrays, Partial, ResultError
from tasks import Texts
from training import Replica


@dataclass(frozen=True, kw_only=True)
class Config(bert_train.Config):
    """Those of bert_train.py, whose checkpoints are measured."""

    measure_batch: int = 64
    """examples a forward pass; changes no number but by rounding"""

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, positive=("measure_batch",), empty=("task_data",))


QUICK: dict[str, Any] = bert_train.QUICK
SPLITS = ("train", "validation")
REMEDY = "run src/experiment/bert_train.py with the same options, and --overwrite where its result is there"

_BY_LAYER = ("seed", "stage", "layer")
AXES = {
    **{f"{split}_{name}": _BY_LAYER for split in SPLITS for name in ("tl", "rank", "chance")},
    "held_out_tl": _BY_LAYER,  # on validation rows, of the least-squares map fitted on training rows
    "train_n": (),  # rows: examples, or tagged words
    "validation_n": (),
    "d": (),  # features
    "seed": ("seed",),
    "stage": ("stage",),  # initialised, pre-trained, epoch 1, …
    "layer": ("layer",),  # -1: the embeddings; from 0 on, the output of that layer
}


def restore(config: Config, texts: Texts, seed: int, epoch: int) -> PreTrainedModel:
    """The model after an epoch; raises ResultError where its checkpoint is missing or was made otherwise."""
    path = bert_train.checkpoint(config, texts, seed, epoch)
    if not (path / text.MADE).is_file():
        raise ResultError(f"no checkpoint {path}: {REMEDY}")
    try:
        found = json.loads((path / text.MADE).read_text(encoding="utf-8"))
        unlike = [key for key, value in bert_train.made(config, texts, seed).items() if found.get(key) != value]
        if not unlike:
            return text.build(str(path), texts.labels, texts.task.tagged, seed)
    except (ValueError, AttributeError, DataError) as error:
        raise ResultError(f"{path} is not a checkpoint of this project: {REMEDY}") from error
    raise ResultError(f"{path} was made with another {' and '.join(unlike)}: {REMEDY}")


def models(config: Config, texts: Texts, seed: int) -> Iterator[tuple[str, PreTrainedModel]]:
    """Name and model of every stage."""
    of = (bert_train.source(config), texts.labels, texts.task.tagged, seed, config.model_revision)
    yield "initialised", text.build(*of, trained=False)
    yield "pre-trained", text.build(*of)
    for epoch in range(1, config.epochs + 1):
        yield f"epoch {epoch}", restore(config, texts, seed, epoch)


def batches(config: Config, texts: Texts, split: str) -> DataLoader:
    """Batches of a split's sampled examples, as `longest_first` makes them."""
    rows = bert_train.chosen(texts.train, config.train_examples) if split == "train" else texts.validation
    coded = bert_train.encode(config, texts, bert_train.chosen(rows, config.samples))
    return longest_first(coded, config.measure_batch, text.collator(texts.task, bert_train.load_tokenizer(config)))


def longest_first(coded: Dataset, batch_size: int, collate: Callable) -> DataLoader:
    """Batches of rows of `text.encode`, longest first: a batch's rows are of like lengths."""
    lengths = list(coded["length"])
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    return DataLoader(coded.remove_columns("length"), batch_size, sampler=order, collate_fn=collate)


@torch.no_grad()
def one_pass(model: PreTrainedModel, loader: Iterable[Mapping[str, Tensor]], classes: int) -> list[FeatureMoments]:
    """Moments of the embeddings' and every layer's features with the one-hot classes."""
    moments: list[FeatureMoments] = []
    for batch in loader:
        inputs = {name: values.to(model.device) for name, values in batch.items()}
        mask, labels = text.measured(inputs.pop("labels"), inputs["attention_mask"])
        targets = functional.one_hot(labels, classes)  # (N, c)
        hidden = model.base_model(**inputs, output_hidden_states=True).hidden_states  # each (B, T, d)
        moments = moments or [FeatureMoments() for _ in hidden]
        for sums, h in zip(moments, hidden, strict=True):
            sums.update(h[mask], targets)
    return moments


def held_out(fitted: FeatureMoments, other: FeatureMoments) -> float:
    """1 − ‖Y − ȳ − H B‖² / ‖Y − ȳ‖² of other samples, with B and ȳ of those fitted; 1 at best, without a lower bound.

    From the sums of both alone: Σ (y − ȳ − Bᵀh)² is its part about the means of the others, and n times that of the
    means.
    """
    b = read_out(fitted)  # (d, c)
    shift = other.target_mean - fitted.target_mean
    variance = other.target_variance.sum()
    scatter = variance - 2 * (b * other.cross).sum() + (b * (other.scatter @ b)).sum()
    error = scatter + other.n * (shift - other.feature_mean @ b).square().sum()
    return float(1 - error / (variance + other.n * shift.square().sum()))


def measure(moments: Mapping[str, list[FeatureMoments]]) -> Arrays:
    """Of the moments of each split, every array of a stage: name -> (layer,), and the numbers of rows and features."""
    arrays = {}
    for split in SPLITS:
        found = [report(sums) for sums in moments[split]]
        names = {"tl": "value", "rank": "rank", "chance": "chance"}
        arrays |= {f"{split}_{name}": np.array([getattr(r, key) for r in found]) for name, key in names.items()}
        arrays |= {f"{split}_n": np.array(found[0].n), "d": np.array(found[0].d)}
    pairs = zip(moments["train"], moments["validation"], strict=True)
    return arrays | {"held_out_tl": np.array([held_out(*pair) for pair in pairs])}


def measure_group(config: Config, index: int, replicas: Sequence[Replica]) -> Arrays:
    """Every stage of each replica's seed; name -> (R, stage, layer)."""
    text.quiet()
    texts = bert_train.load(config, index)
    loaders = {split: batches(config, texts, split) for split in SPLITS}
    runs = []
    with cpu.threads(bert_train.share(config)[1]):
        for replica in replicas:
            stages = []
            name = bert_train.output(config, texts).name
            with training.progress(config.epochs + 2, f"{name} seed {replica.seed}") as bar:
                for _, model in models(config, texts, replica.seed):
                    model.eval().to(config.resolved_device, torch.float64)
                    moments = {split: one_pass(model, loaders[split], len(texts.labels)) for split in SPLITS}
                    stages.append(measure(moments))
                    bar.update()
            runs.append({name: np.stack([stage[name] for stage in stages]) for name in stages[0]})
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def run(config: Config, index: int, partial: Partial | None = None) -> Arrays:
    """Measure a task with every seed; arrays as in AXES."""
    runs = training.train_all(
        functools.partial(measure_group, config, index),
        [Replica(seed) for seed in config.seeds],
        device=config.resolved_device,
        jobs=bert_train.share(config)[0],
        partial=partial,
    )
    arrays = training.grid({"seed": config.seeds}, runs)
    arrays |= {name: arrays[name][0, 0] for name, axes in AXES.items() if not axes}
    stages = ["initialised", "pre-trained", *(f"epoch {epoch}" for epoch in range(1, config.epochs + 1))]
    layers = np.arange(-1, arrays["held_out_tl"].shape[-1] - 1)
    return arrays | {"seed": np.array(config.seeds), "stage": np.array(stages), "layer": layers}


def main() -> None:
    config = cli.parse(Config, QUICK, description=__doc__)
    text.quiet()
    results.check_writable(config.results)
    every = bert_train.load_all(config)
    if config.model == bert_train.TOY and not Path(bert_train.source(config)).is_dir():
        raise ResultError(f"no pre-trained {bert_train.TOY} in {bert_train.source(config)}: {REMEDY}")
    for index, texts in enumerate(every):

        def compute(_: Sequence[cli.Output], partial: Partial, index: int = index) -> list[Arrays]:
            return [run(config, index, partial)]

        cli.produce(config, "bert_target_linearity", texts, AXES, [bert_train.output(config, texts)], compute)


if __name__ == "__main__":
    cli.run(main)
