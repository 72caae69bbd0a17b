"""From text to a model of transformers: tokens, batches, encoders with a head.

tokenizer = load_tokenizer("bert-base-uncased")
rows = encode(texts.task, texts.train, tokenizer, max_length=128)
batch = collator(texts.task, tokenizer)([rows[i] for i in range(32)])
model = build("bert-base-uncased", texts.labels, texts.task.tagged, seed=0)
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from tokenizers import normalizers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging
from transformers.utils.hub import is_offline_mode

from lab import data
from lab.errors import ConfigError, DataError, first_line
from lab.replicas import generator
from lab.text.tasks import Task

IGNORED = -100  # label of a token that has none, as in torch's cross-entropy
PROBE = [[2, 3, 4], [2, 3, 2]]  # rows of tokens that differ in the last
MOST_TRIED = 4096  # tokens of the row that an encoder is tried with


def quiet() -> None:
    """Silence the libraries: what they warn of is checked here, and scripts show their progress."""
    import huggingface_hub.utils.logging as hub_logging

    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    datasets.disable_progress_bars()


def unavailable(model: str, error: Exception) -> DataError:
    """The error of a model that cannot be loaded, in one line."""
    remedy = "give a folder with config.json, weights and tokenizer.json"
    if not Path(model).is_dir():
        offline = " (HF_HUB_OFFLINE is set)" if is_offline_mode() else ""
        remedy = f"a network is needed once{offline} and a name that the hub knows, or {remedy}"
    return DataError(f"model {model} cannot be loaded ({first_line(error)}): {remedy}")


def load_tokenizer(
    model: str, revision: str = "main", max_length: int = 0
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model on the hub or in a folder.

    Raises:
        DataError: there is none.
        ConfigError: max_length is more than the model takes.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model, revision=revision, add_prefix_space=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises nearly anything on a foreign folder
        raise unavailable(model, error) from error
    # of a folder without its files transformers makes a tokenizer without words
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise unavailable(model, FileNotFoundError("no tokenizer.json"))
    if tokenizer.pad_token is None:
        problem = f"the tokenizer of {model} has no padding token"
        raise DataError(f"{problem}: take an encoder, such as BERT")
    check_length(max_length, tokenizer.model_max_length)
    if tokenizer.is_fast:
        _see_where_words_begin(model, tokenizer)
    return tokenizer


def check_length(max_length: int, most: int) -> None:
    """Raise ConfigError where a model does not take so many tokens."""
    if max_length > most:
        raise ConfigError(f"max_length must be at most {most}, not {max_length}")


def _see_where_words_begin(model: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let single words become the tokens that they are in a text, where a space is part of them.

    Tokenizers have many ways to mark a space, and each word of a list is normalised alone: so each
    begins with a space, and so does a text. Raises DataError where words still lose their marks.
    """
    backend = tokenizer.backend_tokenizer
    if not _words_are_those_of_a_text(tokenizer):
        before = [backend.normalizer] if backend.normalizer else []
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(" "), *before])
        if not _words_are_those_of_a_text(tokenizer):
            problem = f"the tokenizer of {model} makes other tokens of words than of their text"
            raise DataError(f"{problem}: take another model")


def _words_are_those_of_a_text(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether words of the vocabulary, as a list and as a text, are the same tokens."""
    pieces = tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys()
    words = {re.sub("^(##|▁|Ġ)|</w>$", "", piece) for piece in pieces}
    words = sorted(word for word in words if word.isascii() and word.isalpha())
    words = words[:: 1 + len(words) // 100]  # a hundred are enough
    alone, joined = (
        tokenizer(text, is_split_into_words=split, add_special_tokens=False)["input_ids"]
        for text, split in ((words, True), (" ".join(words), False))
    )
    return alone == joined


def check_takes(
    model: str, revision: str, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> None:
    """Find out whether an encoder takes every token of its tokenizer, and rows of max_length.

    Raises:
        DataError: its vocabulary is smaller than the tokenizer's.
        ConfigError: it has fewer positions.
    """
    encoder = build(model, ("0", "1"), True, 0, revision).base_model.eval()
    known, needed = _vocabulary(encoder), 1 + max(tokenizer.get_vocab().values())
    if known < needed:
        problem = f"model {model} has a vocabulary of {known} tokens, its tokenizer {needed}"
        raise DataError(f"{problem}: give a model with its own tokenizer")
    check_length(max_length, getattr(encoder.config, "max_position_embeddings", max_length))
    token = next(i for i in range(known) if i != tokenizer.pad_token_id)
    row = torch.full((1, min(max_length, MOST_TRIED)), token)
    try:
        with torch.no_grad():
            encoder(input_ids=row)
    except (IndexError, RuntimeError) as error:  # RoBERTa has two fewer than it says
        raise ConfigError(
            f"max_length must be below {max_length}: {model} has no positions for so many tokens"
        ) from error


def _vocabulary(encoder: PreTrainedModel) -> int:
    return len(encoder.get_input_embeddings().weight)


def encode(
    task: Task, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Dataset:
    """Rows as a model takes them, in order, without padding.

    Columns: the tokenizer's inputs; labels, one class, or for tagged words a label for each token,
    see `first_sub_tokens`; length, in tokens. Words beyond max_length, and words that the tokenizer
    drops, have no token.

    Raises:
        DataError: tagged words, and a tokenizer that cannot map tokens back to words.
    """
    if task.tagged and not tokenizer.is_fast:
        problem = "the model's tokenizer is not a fast one, which maps tokens to words"
        raise DataError(f"{task.name}: {problem}: take another")
    columns = [list(rows[column]) for column in task.columns]
    coded = tokenizer(
        *columns, truncation=True, max_length=max_length, is_split_into_words=task.tagged
    )
    labels = list(rows[task.label])
    if task.tagged:
        labels = [first_sub_tokens(coded.word_ids(i), tags) for i, tags in enumerate(labels)]
    inputs = {name: coded[name] for name in tokenizer.model_input_names if name in coded}
    lengths = [len(ids) for ids in coded["input_ids"]]
    return Dataset.from_dict({**inputs, "labels": labels, "length": lengths})


def first_sub_tokens(word_ids: Sequence[int | None], labels: Sequence[int]) -> list[int]:
    """A label for each token: its word's on the word's first sub-token, IGNORED elsewhere."""
    before = [None, *word_ids[:-1]]
    return [
        IGNORED if word is None or word == last else labels[word]
        for word, last in zip(word_ids, before, strict=True)
    ]


def collator(task: Task, tokenizer: PreTrainedTokenizerBase, multiple: int | None = None) -> Any:
    """Joins rows of `encode` to a batch, padded to its longest row or to the next multiple."""
    kind = DataCollatorForTokenClassification if task.tagged else DataCollatorWithPadding
    return kind(tokenizer, pad_to_multiple_of=multiple)


def labelled_tokens(labels: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of a batch whose features are measured, and their classes.

    Args:
        labels: (B,) of sentences, or (B, T) of tokens.
        attention_mask: (B, T), from the tokenizer.

    Returns:
        mask (B, T): a sentence's first token that is not padding, or the first sub-token of each
        tagged word; classes (N,) of the N tokens in the mask, row by row.
    """
    if labels.ndim == 2:
        return labels != IGNORED, labels[labels != IGNORED]
    return (attention_mask.cumsum(1) == 1) & (attention_mask == 1), labels


def build(
    model: str,
    labels: Sequence[str],
    tagged: bool,
    seed: int,
    revision: str = "main",
    trained: bool = True,
) -> PreTrainedModel:
    """An encoder with a head that classifies sentences or tokens; float32, on the CPU.

    Args:
        model: a name on the hub, or a folder.
        labels: names of the classes.
        tagged: classify each token.
        seed: draws what is not loaded: the head, or all weights where `trained` is false.
        revision: of the model on the hub.
        trained: load the pre-trained weights.

    Raises:
        DataError: the model cannot be had, or is no encoder.
    """
    kind = AutoModelForTokenClassification if tagged else AutoModelForSequenceClassification
    names = dict(enumerate(labels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        try:
            shape = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
            shape.id2label, shape.label2id = names, {name: i for i, name in names.items()}
            if not trained:
                return kind.from_config(shape, dtype=torch.float32, trust_remote_code=False)
            loaded, info = kind.from_pretrained(
                model,
                config=shape,
                revision=revision,
                dtype=torch.float32,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # a head for other classes is drawn anew
                output_loading_info=True,
            )
        except Exception as error:  # transformers raises nearly anything on a foreign folder
            raise unavailable(model, error) from error
    drawn = _not_from_the_file(loaded, info)
    reason = f"lacks {drawn}" if drawn else ""
    if not reason and shape.is_encoder_decoder:
        reason = "has a decoder"
    if not reason and _vocabulary(loaded) <= max(map(max, PROBE)):
        reason = f"has a vocabulary of {_vocabulary(loaded)} tokens"
    if not reason and reads_backwards_only(loaded):
        reason = "is causal, its first token sees no other"
    if reason:
        problem = f"model {model} is no pre-trained encoder, it {reason}"
        raise DataError(f"{problem}: take one such as BERT")
    return loaded


def _not_from_the_file(loaded: PreTrainedModel, info: Mapping[str, Any]) -> str | None:
    """The first tensor of a model's encoder that was drawn at random, and why, if there is one.

    A pooler that is missing belongs to the head.
    """
    drawn = {key: key for key in info["missing_keys"] if "pooler" not in key}
    drawn |= {
        key: f"{key} of shape {tuple(own)}, the file has {tuple(stored)}"
        for key, stored, own in info["mismatched_keys"]
    }
    encoder = next(name for name, part in loaded.named_modules() if part is loaded.base_model)
    keys = (f"{encoder}.{key}".lstrip(".") for key in loaded.base_model.state_dict())
    return next((drawn[key] for key in keys if key in drawn), None)


@torch.no_grad()
def reads_backwards_only(model: PreTrainedModel) -> bool:
    """Whether the first token's features stay when a later token changes, as in causal models."""
    mode = model.training
    ids = torch.tensor(PROBE)
    first = model.eval().base_model(input_ids=ids).last_hidden_state[:, 0]
    model.train(mode)
    return torch.allclose(*first, rtol=1e-5, atol=1e-6)


@functools.lru_cache(maxsize=2)
def fingerprint(model: str, revision: str = "main") -> str:
    """First 16 hexadecimal digits of the SHA-256 of a pre-trained encoder's weights.

    Raises:
        DataError: see `build`; or a weight is not finite.
    """
    weights = build(model, ("0", "1"), True, 0, revision).base_model.state_dict()
    for name, values in weights.items():
        if not values.isfinite().all():
            raise DataError(f"model {model} has weights that are not finite, {name}: take another")
    return data.fingerprint(*weights.values())
