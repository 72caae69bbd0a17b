"""A toy BERT, pre-trained in seconds on the toy language, for runs without a network."""

import dataclasses
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PrinterCallback,
    Trainer,
    set_seed,
)

from lab import cli, cpu, files, memory, provenance, results
from lab.errors import ConfigError
from lab.text import marked, toy_language
from lab.text.fine_tuning import (
    StepProgress,
    is_distributed,
    is_first_process,
    training_arguments,
)
from lab.text.resuming import saving

NAME = "toy_bert"  # on the command line and in results
HEAD = 16  # units of an attention head
MOST_TEXTS = 200_000  # that the toy language is asked for


@dataclass(frozen=True)
class ToyBert:
    """The toy BERT, and the size of the toy tasks."""

    examples: int = 2000  # training examples of each toy task; half as many for validation
    width: int = 64  # units of a layer, a multiple of 16
    depth: int = 3  # layers
    corpus: int = 6000  # texts that it is pre-trained on
    epochs: int = 8  # passes over them
    batch_size: int = 64  # texts a step
    learning_rate: float = 0.002  # rate of AdamW in pre-training

    def __post_init__(self) -> None:
        cli.check(self)
        if self.width % HEAD:
            raise ConfigError(f"width of {NAME} must be a multiple of {HEAD}, not {self.width}")
        memory.check_training(12 * self.depth * self.width**2)
        for name in ("examples", "corpus"):
            if getattr(self, name) > MOST_TEXTS:
                raise ConfigError(f"{name} of {NAME} must be at most {MOST_TEXTS:,}")

    def folder(self, root: Path, options: Mapping[str, Any]) -> Path:
        """Where it lies once it is pre-trained.

        Args:
            root: a folder for all of them.
            options: of `pretrain`.
        """
        shape = dataclasses.asdict(self)
        del shape["examples"]
        language = {"grammar": toy_language.GRAMMAR, "lexicon": toy_language.LEXICON}
        return root / f"{NAME}-{results.digest({**shape, **options, **language})}"


def ensure(
    toy: ToyBert, folder: Path, device: str, options: Mapping[str, Any], again: bool = False
) -> None:
    """Pre-train unless the folder has what this code makes.

    Args:
        toy: its shape and its training.
        folder: for the model and its tokenizer.
        device: "cpu" or "cuda".
        options: further arguments of transformers' TrainingArguments.
        again: whatever is there.
    """
    # processes of torchrun train together, and none can wait
    lock = folder.with_name(f"{folder.name}.lock")
    alone = files.locked(lock, str(folder), wait=True)
    with nullcontext() if is_distributed() else alone:
        if again or read_mark(folder).get("sources") != provenance.sources():
            files.remove_left(folder)
            pretrain(toy, folder, device, options)


def read_mark(folder: Path) -> dict[str, Any]:
    """What it was made from, and digests of its files; empty where it is missing or damaged."""
    try:
        return marked.read(folder)
    except marked.Unusable:
        return {}


def pretrain(toy: ToyBert, folder: Path, device: str, options: Mapping[str, Any]) -> None:
    """Pre-train by masked-language modelling; it is written whole or not at all; see `ensure`."""
    place = files.folder_whole(folder) if is_first_process() else tempfile.TemporaryDirectory()
    with place as temporary, cpu.threads(1), cpu.flush_denormals():  # too small for more threads
        arguments = training_arguments(
            Path(temporary),
            device,
            seed=0,
            batch_size=toy.batch_size,
            num_train_epochs=toy.epochs,
            learning_rate=toy.learning_rate,
            save_strategy="no",
            **options,
        )
        set_seed(arguments.seed)
        tokenizer = toy_language.tokenizer()
        texts = [dict(tokenizer(*text)) for text in toy_language.corpus(toy.corpus)]
        trainer = Trainer(
            BertForMaskedLM(_bert_config(toy, len(tokenizer))),
            arguments,
            DataCollatorForLanguageModeling(tokenizer),
            Dataset.from_list(texts),
            processing_class=tokenizer,
            callbacks=[StepProgress(f"{NAME}, pre-training")],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        with saving(Path(temporary)):
            trainer.save_model()  # in the first process
        if is_first_process():
            marked.mark(Path(temporary), {"sources": provenance.sources()})
    trainer.accelerator.wait_for_everyone()


def _bert_config(toy: ToyBert, words: int) -> BertConfig:
    return BertConfig(
        vocab_size=words,
        hidden_size=toy.width,
        num_hidden_layers=toy.depth,
        num_attention_heads=toy.width // HEAD,
        intermediate_size=4 * toy.width,
        max_position_embeddings=toy_language.MAX_LENGTH,
        initializer_range=0.02 * (768 / toy.width) ** 0.5,  # as wide as 0.02 is for BERT's 768
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
