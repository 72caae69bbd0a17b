"""transformers' Trainer for these experiments: batches, losses, scores, checkpoints.

Batch orders and dropout are drawn from the seed alone, measuring leaves training as it is, and a
run that was cut off goes on to the same bits. Checkpoints are folders ROOT/checkpoint-STEP.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from transformers import (
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from lab.errors import ConfigError, Diverged
from lab.replicas import generator, progress_bar
from lab.results import Arrays
from lab.text.encoders import IGNORED
from lab.text.resuming import saving
from lab.text.tasks import Texts, entity_f1

# score -> its name in the Trainer's history, whose "loss" is another
SCORES = {"loss": "nll", "accuracy": "accuracy", "f1": "f1"}
SPLITS = ("train", "validation")


def is_first_process() -> bool:
    """Whether this process is the only one or torchrun's first, which writes the files."""
    return os.environ.get("RANK", "0") == "0"


def is_distributed() -> bool:
    """Whether this process is one of torchrun's."""
    return "WORLD_SIZE" in os.environ


def training_arguments(
    folder: Path, device: str, seed: int, batch_size: int, **options: Any
) -> TrainingArguments:
    """The arguments of a Trainer that says nothing and trains in half precision on a GPU.

    Args:
        folder: of the checkpoints.
        device: "cpu" or "cuda".
        seed: draws dropout.
        batch_size: examples a step, which all devices share.
        options: further arguments of TrainingArguments.

    Raises:
        ConfigError: the devices cannot share the batch evenly.
    """
    cuda = device == "cuda"
    bfloat16 = cuda and torch.cuda.is_bf16_supported()
    arguments = TrainingArguments(
        str(folder),
        seed=generator(seed, "noise").initial_seed() % 2**32,
        bf16=bfloat16,
        fp16=cuda and not bfloat16,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        lr_scheduler_type="linear",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        **options,
    )
    devices = arguments.world_size * max(1, arguments.n_gpu)
    if batch_size % devices:
        raise ConfigError(
            f"batch sizes must be multiples of the {devices} devices, not {batch_size}"
        )
    arguments.per_device_train_batch_size = batch_size // devices
    arguments.per_device_eval_batch_size = 4 * arguments.per_device_train_batch_size
    return arguments


class InOrder(LengthGroupedSampler):
    """Batches of like lengths in a random order, the same in every process.

    The seed and the epoch alone decide the order.
    """

    def __init__(self, rows: Dataset, batch_size: int, seed: int) -> None:
        super().__init__(batch_size, lengths=list(rows["length"]), generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of an epoch from its own seed; the Trainer calls it before each epoch."""
        seeds = torch.randint(2**62, (epoch + 1,), generator=generator(self.seed, "order"))
        self.generator.manual_seed(int(seeds[-1]))


def mean_loss(
    outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """Mean cross-entropy over the labelled rows or tokens of a batch, of all processes together.

    A model's own loss is a mean over the part of one process. The Trainer would take it for a mean
    over the whole batch and multiply it by the number of processes.
    """
    logits, labels = outputs["logits"].flatten(0, -2), labels.flatten()  # (N, c), (N,)
    total = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / ((labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)


def predict(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted class and cross-entropy in nats of each row or token, in the shape of the labels.

    Args:
        logits: (B, c) or (B, T, c).
        labels: (B,) or (B, T).
    """
    rows, flat = logits.float().flatten(0, -2), labels.flatten()
    loss = functional.cross_entropy(rows, flat, reduction="none")
    return logits.argmax(-1), loss.view(labels.shape)


def scores(texts: Texts, evaluated: EvalPrediction) -> dict[str, float]:
    """Mean cross-entropy and accuracy of rows or tagged words, and F1 of entities.

    Args:
        texts: the task.
        evaluated: what `predict` returned, and the labels.
    """
    (predicted, loss), labels = evaluated.predictions, evaluated.label_ids
    counted = labels != IGNORED
    nll = float(loss[counted].mean(dtype=np.float64))
    if not np.isfinite(nll):
        raise Diverged(f"{texts.name}: training diverged; lower the learning rate")
    values = {"nll": nll, "accuracy": float((predicted == labels)[counted].mean())}
    if texts.entities:
        tags = [
            [[texts.labels[i] for i in row[mask]] for row, mask in zip(side, counted, strict=True)]
            for side in (predicted, labels)
        ]
        values["f1"] = entity_f1(*tags)
    return values


def curves(history: Sequence[Mapping[str, Any]], epochs: int) -> Arrays:
    """SPLIT_SCORE (epochs + 1,) of every evaluation in a Trainer's history."""
    arrays = {}
    for split in SPLITS:
        for name, logged in SCORES.items():
            key = f"eval_{split}_{logged}"
            by_epoch = {round(entry["epoch"]): entry[key] for entry in history if key in entry}
            if by_epoch:
                values = [by_epoch[epoch] for epoch in range(epochs + 1)]
                arrays[f"{split}_{name}"] = np.array(values)
    return arrays


class FineTuner(Trainer):
    """A Trainer with a batch order of its own, whose measurements leave training as it is."""

    def __init__(self, seed: int, callbacks: list[TrainerCallback], **keywords: Any) -> None:
        super().__init__(callbacks=callbacks, compute_loss_func=mean_loss, **keywords)
        self.remove_callback(PrinterCallback)
        self.order_seed = seed

    def _get_train_sampler(self, train_dataset: Any = None) -> InOrder:
        batch_size = self.args.train_batch_size * self.args.world_size
        return InOrder(self.train_dataset, batch_size, self.order_seed)

    def _save_checkpoint(self, *arguments: Any, **keywords: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with saving(folder):
            super()._save_checkpoint(*arguments, **keywords)

    def evaluate(self, *arguments: Any, **keywords: Any) -> dict[str, float]:
        with torch.random.fork_rng(devices=[]):
            return super().evaluate(*arguments, **keywords)


class StepProgress(TrainerCallback):
    """A progress bar of steps, in the first process."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar = progress_bar(state.max_steps, self.description)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
