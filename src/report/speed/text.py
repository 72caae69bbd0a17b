"""BERT: fine-tuning and measuring, against every sentence padded to the same length."""

import copy
import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from experiment import bert_target_linearity, bert_train
from lab.text import encoders, fine_tuning, tasks, toy_language
from report.speed.entries import Row
from report.speed.timing import in_turn

SIZES = {  # of all-MiniLM-L6-v2, the encoder of the committed results
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}


def bert(**sizes: int) -> BertForSequenceClassification:
    """An encoder before training, with a head for two classes."""
    return BertForSequenceClassification(BertConfig(**(SIZES | sizes)))


def text_rows(examples: int, repeats: int, device: str) -> list[Row]:
    """Sentences of a toy language as here, and all padded to the paper's 128 tokens."""
    encoders.quiet()
    tokenizer, task = toy_language.tokenizer(), tasks.TASKS["toy_sst2"]
    preset = bert_train.Config(device=device)
    sentences = tasks.load(task.name, examples=examples).train
    rows = encoders.encode(task, sentences, tokenizer, preset.max_length)
    model = bert(vocab_size=len(tokenizer), max_position_embeddings=preset.max_length).to(device)
    measured = copy.deepcopy(model).double().eval()

    def fine_tune(multiple: int | None) -> None:
        with tempfile.TemporaryDirectory() as folder:
            arguments = fine_tuning.training_arguments(
                Path(folder),
                device,
                0,
                preset.batch_size,
                num_train_epochs=1,
                save_strategy="no",
                train_sampling_strategy="group_by_length",
                **preset.optimization,
            )
            collate = encoders.collator(task, tokenizer, multiple)
            fine_tuning.FineTuner(
                0, [], model=model, args=arguments, data_collator=collate, train_dataset=rows
            ).train()

    def measure(multiple: int | None) -> None:
        collate = encoders.collator(task, tokenizer, multiple)
        at_once = bert_target_linearity.MEASURED_AT_ONCE
        loader = bert_target_linearity.longest_first(rows, at_once, collate)
        classes = torch.arange(2)[:, None]  # labels of rows are classes, not numbers of rows
        bert_target_linearity.one_pass(measured, loader, classes, 2)

    table, length = [], preset.max_length
    for what, compute in (("fine-tuning", fine_tune), ("Target Linearity of all layers", measure)):
        ways = (functools.partial(compute, multiple) for multiple in (None, length))
        ours, padded = (len(rows) / seconds for seconds in in_turn(repeats, *ways))
        what = f"BERT 6 × 384, {what}, {np.mean(rows['length']):.0f} tokens a sentence"
        table.append(Row(what, ours, f"all padded to {length}", padded, "examples/s", 4))
    return table
