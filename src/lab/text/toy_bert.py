"""A toy BERT, pre-trained in seconds on the toy language, for runs without a network."""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Mapping
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

from lab import cli, cpu, results
from lab.errors import ConfigError
from lab.text import toy_language
from lab.text.fine_tuning import StepProgress, training_arguments

NAME = "toy_bert"  # on the command line and in results
HEAD = 16  # units of an attention head


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


def pretrain(toy: ToyBert, folder: Path, device: str, options: Mapping[str, Any]) -> None:
    """Pre-train by masked-language modelling; it is written whole or not at all.

    Args:
        toy: its shape and its training.
        folder: for the model and its tokenizer.
        device: "cpu" or "cuda".
        options: further arguments of transformers' TrainingArguments.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{NAME}-") as temporary,
        cpu.threads(1),  # it is too small for more
        cpu.flush_denormals(),
    ):
        unfinished = Path(temporary) / "model"
        arguments = training_arguments(
            unfinished,
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
        trainer.save_model()  # in the first process
        if trainer.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(unfinished, folder)
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
