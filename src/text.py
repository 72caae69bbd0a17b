"""From text to a model of transformers and its Trainer: tokens, batches, encoders with a head, checkpoints.

tokenizer = load_tokenizer("bert-base-uncased")
rows = encode(texts.task, texts.train, tokenizer, max_length=128)
batch = collator(texts.task, tokenizer)([rows[i] for i in range(32)])
model = build("bert-base-uncased", texts.labels, texts.task.tagged, seed=0)
"""

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.utils import logging
from transformers.utils.hub import is_offline_mode

import data
import training
from data import DataError
from tasks import Task, first_line

IGNORED = -100  # label of a token that has none, as in torch's cross-entropy
MADE = "made.json"  # of a checkpoint: what made it; written last, so it marks a whole one
FOR_RESUMING = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")


def quiet() -> None:
    """Keep the libraries from talking: what they warn of is checked here, and progress is the scripts' own."""
    import huggingface_hub.utils.logging as hub_logging

    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()


def unavailable(model: str, error: Exception) -> DataError:
    """The line for a model that cannot be loaded."""
    remedy = "give a folder with config.json, weights and tokenizer.json"
    if not Path(model).is_dir():
        offline = " (HF_HUB_OFFLINE is set)" if is_offline_mode() else ""
        remedy = f"a network is needed once{offline} and a name that the hub knows, or {remedy}"
    return DataError(f"model {model} cannot be loaded ({first_line(error)}): {remedy}")


def load_tokenizer(model: str, revision: str = "main") -> PreTrainedTokenizerBase:
    """The tokenizer of a model of the hub or of a folder; raises DataError where there is none."""
    try:
        # the space before a word tells a byte-level tokenizer that it begins one; others ignore it
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, add_prefix_space=True)
    except Exception as error:  # transformers raises nearly anything on a foreign folder
        raise unavailable(model, error) from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # as transformers makes one for a folder without its files
        raise unavailable(model, FileNotFoundError("no tokenizer.json"))
    if tokenizer.pad_token is None:
        raise DataError(f"the tokenizer of {model} has no padding token: take an encoder, such as BERT")
    return tokenizer


def encode(task: Task, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Rows as a model takes them, each of its own length, in order.

    Columns: the tokenizer's inputs; labels, a class, or for tagged words one a token: a word's on its first
    sub-token, IGNORED elsewhere; length, in tokens. Words beyond max_length, and those that the tokenizer makes
    nothing of, have no token.

    Raises:
        DataError: tagged words and a tokenizer that does not know which word a token is of.
    """
    if task.tagged and not tokenizer.is_fast:
        raise DataError(f"{task.name}: the model's tokenizer is not a fast one, which knows its words: take another")
    columns = [list(rows[column]) for column in task.columns]
    coded = tokenizer(*columns, truncation=True, max_length=max_length, is_split_into_words=task.tagged)
    labels = list(rows[task.label])
    if task.tagged:
        labels = [first_sub_tokens(coded.word_ids(i), of_words) for i, of_words in enumerate(labels)]
    inputs = {name: coded[name] for name in tokenizer.model_input_names if name in coded}
    lengths = [len(ids) for ids in coded["input_ids"]]
    return Dataset.from_dict({**inputs, "labels": labels, "length": lengths})


def first_sub_tokens(word_ids: Sequence[int | None], labels: Sequence[int]) -> list[int]:
    """A label a token: its word's on the first sub-token, IGNORED on the others and on special tokens."""
    before = [None, *word_ids[:-1]]
    return [
        IGNORED if word is None or word == last else labels[word] for word, last in zip(word_ids, before, strict=True)
    ]


def collator(task: Task, tokenizer: PreTrainedTokenizerBase, multiple: int | None = None) -> Any:
    """Makes a batch of rows of `encode`, padded to its longest, or to the next multiple."""
    kind = DataCollatorForTokenClassification if task.tagged else DataCollatorWithPadding
    return kind(tokenizer, pad_to_multiple_of=multiple)


def measured(labels: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where the features of a batch are, and their classes.

    Args:
        labels: (B,) of sentences, or (B, T) of tokens.
        attention_mask: (B, T), from the tokenizer.

    Returns:
        mask (B, T): of a sentence the first token that is no padding, of tagged words the first sub-tokens; classes
        (N,) of the tokens in the mask, row by row.
    """
    if labels.ndim == 2:
        return labels != IGNORED, labels[labels != IGNORED]
    return (attention_mask.cumsum(1) == 1) & (attention_mask == 1), labels


def build(
    model: str, labels: Sequence[str], tagged: bool, seed: int, revision: str = "main", trained: bool = True
) -> PreTrainedModel:
    """An encoder with a head for a class a sentence, or one a token; float32, on the CPU.

    Args:
        model: name on the hub, or a folder.
        labels: names of the classes.
        tagged: a class a token.
        seed: draws what is not loaded: the head, or all weights where `trained` is false.
        revision: of the model on the hub.

    Raises:
        DataError: the model cannot be had, or is no encoder.
    """
    kind = AutoModelForTokenClassification if tagged else AutoModelForSequenceClassification
    names = dict(enumerate(labels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.generator(seed, "weights").initial_seed())
        try:
            shape = AutoConfig.from_pretrained(model, revision=revision)
            shape.id2label, shape.label2id = names, {name: i for i, name in names.items()}
            if not trained:
                return kind.from_config(shape, dtype=torch.float32)
            loaded, info = kind.from_pretrained(
                model,
                config=shape,
                revision=revision,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # a head for other classes is drawn anew
                output_loading_info=True,
            )
        except Exception as error:  # transformers raises nearly anything on a foreign folder
            raise unavailable(model, error) from error
    prefix = f"{loaded.base_model_prefix}."
    missing = sorted(key for key in info["missing_keys"] if key.startswith(prefix) and "pooler" not in key)
    if missing or shape.is_encoder_decoder:
        what = f"lacks {missing[0]}" if missing else "has a decoder"
        raise DataError(f"model {model} is no pre-trained encoder, it {what}: take one such as BERT")
    return loaded


@functools.lru_cache(maxsize=2)
def fingerprint(model: str, revision: str = "main") -> str:
    """First 16 hexadecimal digits of the SHA-256 of a pre-trained encoder's weights."""
    weights = build(model, ("0", "1"), True, 0, revision).base_model.state_dict()
    return data.fingerprint(*weights.values())


class InOrder(LengthGroupedSampler):
    """Batches of like lengths in a random order, which the seed and the epoch alone decide, in every process."""

    def __init__(self, rows: Dataset, batch_size: int, seed: int) -> None:
        super().__init__(batch_size, lengths=list(rows["length"]), generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        of_epochs = torch.randint(2**62, (epoch + 1,), generator=training.generator(self.seed, "order"))
        self.generator.manual_seed(int(of_epochs[-1]))


def mean_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Mean cross-entropy over the labelled rows or tokens of a batch, of all processes together where it is shared.

    A model's own loss is the mean over one process' part, which the Trainer takes for this one and multiplies by the
    number of processes.
    """
    logits, labels = outputs["logits"].flatten(0, -2), labels.flatten()  # (N, c), (N,)
    total = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / ((labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)


class FineTuner(Trainer):
    """transformers' Trainer with a batch order of its own, and measurements that leave training as it is."""

    def __init__(self, seed: int, callbacks: list[TrainerCallback], **keywords: Any) -> None:
        super().__init__(callbacks=callbacks, compute_loss_func=mean_loss, **keywords)
        self.remove_callback(PrinterCallback)
        self.order_seed = seed

    def _get_train_sampler(self, train_dataset: Any = None) -> InOrder:
        return InOrder(self.train_dataset, self.args.train_batch_size * self.args.world_size, self.order_seed)

    def evaluate(self, *arguments: Any, **keywords: Any) -> dict[str, float]:
        with torch.random.fork_rng(devices=[]):
            return super().evaluate(*arguments, **keywords)


class Progress(TrainerCallback):
    """The scripts' own progress bar, of steps."""

    def __init__(self, description: str) -> None:
        self.description = description

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.bar = training.progress(state.max_steps, self.description) if state.is_world_process_zero else None

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class Keeper(TrainerCallback):
    """Says in each checkpoint what made it, and drops from earlier ones what only serves to resume."""

    def __init__(self, made: dict[str, Any]) -> None:
        self.made = made

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            root = Path(args.output_dir)
            newest = root / f"checkpoint-{state.global_step}"
            (newest / "made.tmp").write_text(json.dumps(self.made), encoding="utf-8")
            (newest / "made.tmp").replace(newest / MADE)
            drop_resuming(path for path in root.glob("checkpoint-*") if path != newest)


def drop_resuming(checkpoints: Iterable[Path]) -> None:
    """Remove what only serves to resume: more than half of a checkpoint."""
    for path in checkpoints:
        for name in FOR_RESUMING:
            for file in path.glob(name):
                file.unlink()


def latest(root: Path, made: dict[str, Any]) -> Path | None:
    """The last whole checkpoint below `root` that this made."""
    whole = [path.parent for path in root.glob(f"checkpoint-*/{MADE}") if json.loads(path.read_text()) == made]
    return max(whole, key=lambda path: int(path.name.partition("-")[2]), default=None)
