"""Figure 11, first part: fine-tuning BERT on text tasks.

Every epoch is kept as a checkpoint, which bert_target_linearity.py measures. Tasks: sentences,
sentence pairs, parts of speech, named entities.

    python src/experiment/bert_train.py
    python src/experiment/bert_train.py --tasks sst2 --task-data data/text/sst2
    python src/experiment/bert_train.py --model distilbert-base-uncased
    python src/experiment/bert_train.py --scale quick
    torchrun --nproc-per-node 8 src/experiment/bert_train.py

Results: results/SCALE/bert_train/MODEL-DATA-DIGEST.npz, one a task, arrays as in AXES; checkpoints
beside them, in a folder of the same name: seedS/checkpoint-STEP, as transformers' Trainer writes
them. A run that was cut off goes on from its last epoch, and a result that is there without its
checkpoints gets the missing ones. Quick scale needs no network: it pre-trains a toy BERT on a toy
language and fine-tunes it on tasks in that language.
"""

import functools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import program

program.begin(__name__)

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from lab import checkpoints, cli, files, provenance, runs
from lab.errors import ConfigError, Diverged
from lab.replicas import Replica, deal
from lab.results import Arrays
from lab.runs import Run
from lab.text import encoders, fine_tuning, marked, resuming, tasks, toy_bert, toy_language
from lab.text.fine_tuning import SCORES, SPLITS, StepProgress, is_distributed, is_first_process
from lab.text.tasks import Texts
from lab.text.toy_bert import ToyBert


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(cli.Common):
    """What is trained, and then measured."""

    # an encoder's name on the Hugging Face hub, its folder, or toy_bert, which is pre-trained here
    model: str = "bert-base-uncased"
    model_revision: str = "main"  # revision of the model on the hub
    # sst2, mnli, pos, ner; the same in the toy language, with toy_ in front; or any name with data
    tasks: tuple[str, ...] = cli.each(("sst2", "mnli", "pos", "ner"))
    # folders of the tasks' data in their order, for datasets.load_dataset; none: the hub's data
    task_data: tuple[Path, ...] = cli.each(())
    # a seed draws the head, batch orders, dropout, and the random initialisation that is measured
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 3  # passes over the training set

    def __post_init__(self) -> None:
        super().__post_init__()
        zero = ("seeds", "weight_decay")
        cli.check(self, zero=zero, fractions=("warmup",), empty=("task_data",))
        tasks.check_names(self.tasks, self.task_data)


@dataclass(frozen=True, kw_only=True)
class Config(EncoderConfig):
    """Hyperparameters of Figure 11, the paper's; it had one seed."""

    learning_rate: float = 2e-5  # rate of AdamW after the warm-up; it then falls linearly to zero
    warmup: float = 0.1  # share of the steps in which the rate rises
    weight_decay: float = 0.01  # weight decay of AdamW, except of biases and normalisations
    clip: float = 1.0  # norm that gradients are clipped to
    batch_size: int = 32  # examples a step, of all devices together
    max_length: int = 128  # tokens that an example is cut to
    train_examples: int | None = None  # training examples, drawn at random; None: all
    # examples of either split for Target Linearity and for training errors; None: all
    samples: int | None = 2000
    toy: ToyBert = field(default_factory=ToyBert)  # the toy BERT, and the size of the toy tasks

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length < 8:
            raise ConfigError(f"max_length must be 8 or more, not {self.max_length}")

    def hyperparameters(self) -> dict[str, Any]:
        """Options of the toy BERT shape no other model."""
        unused = set() if self.model == toy_bert.NAME else {"toy"}
        return {k: v for k, v in super().hyperparameters().items() if k not in unused}

    @property
    def optimization(self) -> dict[str, float]:
        """Arguments of transformers' Trainer, in pre-training and fine-tuning."""
        decay, clip = self.weight_decay, self.clip
        return {"warmup_steps": self.warmup, "weight_decay": decay, "max_grad_norm": clip}

    @property
    def encoder(self) -> str:
        """What transformers loads the pre-trained encoder from: a name on the hub, or a folder."""
        if self.model != toy_bert.NAME:
            return self.model
        return str(self.toy.folder(self.results / self.scale / "bert_train", self.optimization))

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        return encoders.load_tokenizer(self.encoder, self.model_revision, self.max_length)

    def load_texts(self, task: str) -> Texts:
        folder = self.task_data[self.tasks.index(task)] if self.task_data else None
        return tasks.load(task, folder, self.toy.examples)


QUICK: dict[str, Any] = {
    "model": toy_bert.NAME,
    "tasks": ("toy_sst2", "toy_mnli", "toy_pos", "toy_ner"),
    "learning_rate": 0.001,
    "seeds": (0, 1),
    "max_length": 64,
    "samples": 500,
    "toy": ToyBert(examples=1000, epochs=4),
}

_EPOCH = ("seed", "epoch")
AXES = {
    # mean cross-entropy in nats, accuracy of sentences or words, F1 of whole entities where words
    # are tagged with them; training scores are of the examples that are measured
    **{f"{split}_{name}": _EPOCH for split in SPLITS for name in SCORES},
    **{name: (name,) for name in _EPOCH},
}


def prepare(config: Config) -> list[Texts]:
    """Read every task's data, and find out before any work whether model and data fit."""
    cli.prepare(config)
    every = [config.load_texts(task) for task in config.tasks]
    tasks.check_distinct(every)
    if config.model == toy_bert.NAME:
        encoders.check_length(config.max_length, toy_language.MAX_LENGTH)
    else:
        encoders.fingerprint(config.model, config.model_revision)
        tokenizer = config.load_tokenizer()
        encoders.check_takes(config.model, config.model_revision, tokenizer, config.max_length)
        for texts in every:
            encoders.encode(texts.task, texts.train.select([0]), tokenizer, config.max_length)
    return every


def plan(
    config: Config, texts: Texts, experiment: str = "bert_train", axes: Mapping[str, Any] = AXES
) -> Run:
    """The result of one task; its name is the name of the folder of checkpoints."""
    model, weights = Path(config.model).name, ""
    if config.model != toy_bert.NAME:
        weights = encoders.fingerprint(config.model, config.model_revision)
        provenance.check_fingerprint(model, weights)
    settings = {**config.hyperparameters(), "model": model, "weights": weights}
    settings["task"] = texts.task.name
    replicas = tuple(Replica(seed) for seed in config.seeds)
    kept = functools.partial(has_checkpoints, config, texts)
    return Run(
        config,
        experiment,
        f"{model}-{texts.name}",
        settings,
        texts,
        axes,
        replicas,
        further={model: weights},
        has_checkpoints=kept if experiment == "bert_train" else lambda *_: True,
    )


def checkpoint(config: Config, texts: Texts, seed: int, epoch: int) -> Path:
    """The folder of the checkpoint after an epoch."""
    examples = len(tasks.draw(texts.train, config.train_examples))
    steps = math.ceil(examples / config.batch_size)
    return checkpoints.checkpoint(plan(config, texts), seed, epoch * steps)


def every_checkpoint(config: Config, texts: Texts, seed: int) -> list[Path]:
    """The folders of the checkpoints after each epoch."""
    return [checkpoint(config, texts, seed, epoch) for epoch in range(1, config.epochs + 1)]


def has_checkpoints(config: Config, texts: Texts, _: Run, replica: Replica) -> bool:
    """Whether a seed has the checkpoint of every epoch."""
    every = every_checkpoint(config, texts, replica.seed)
    return all((path / marked.MARK).is_file() for path in every)


def identity(config: Config, texts: Texts, seed: int) -> dict[str, Any]:
    """What a checkpoint must say it was made from, the toy BERT by its weights."""
    toy = toy_bert.read_mark(Path(config.encoder)) if config.model == toy_bert.NAME else {}
    weights = toy.get("files", {}).get("model.safetensors")
    return checkpoints.identity(plan(config, texts), seed) | {"toy": weights}


def fine_tune(config: Config, texts: Texts, seed: int) -> Arrays:
    """Fine-tune with one seed, from the last whole checkpoint on; name -> (epochs + 1,)."""
    planned, every = plan(config, texts), every_checkpoint(config, texts, seed)
    folder, origin = checkpoints.seed_folder(planned, seed), identity(config, texts, seed)
    origin["key"] = planned.key  # no epoch of other code is gone on from
    # --overwrite begins anew once, and then goes on; processes of torchrun cannot tell which it is
    anew = config.overwrite and (is_distributed() or planned.partial.begin(f"seed{seed}"))
    by_epoch = [{**origin, "epoch": epoch} for epoch in range(1, config.epochs + 1)]
    if not anew and not any(map(resuming.problem, every, by_epoch)):
        if is_first_process():  # a run that was ended here has left them
            resuming.drop_resuming(every)
        state = TrainerState.load_from_json(str(every[-1] / TRAINER_STATE_NAME))
        return fine_tuning.curves(state.log_history, config.epochs)
    last = None if anew else resuming.resume_point(every, origin)
    if last is None and is_first_process():
        files.remove(folder)
    tokenizer, device = config.load_tokenizer(), config.resolved_device

    def encode(rows: Dataset) -> Dataset:
        return encoders.encode(texts.task, rows, tokenizer, config.max_length)

    train = tasks.draw(texts.train, config.train_examples)
    measured = {"train": tasks.draw(train, config.samples), "validation": texts.validation}
    trainer = fine_tuning.FineTuner(
        seed,
        [StepProgress(f"{planned.name} seed {seed}"), resuming.MarkWhole(origin)],
        model=encoders.build(
            config.encoder, texts.labels, texts.task.tagged, seed, config.model_revision
        ),
        args=fine_tuning.training_arguments(
            folder,
            device,
            seed,
            config.batch_size,
            num_train_epochs=config.epochs,
            learning_rate=config.learning_rate,
            train_sampling_strategy="group_by_length",
            eval_strategy="epoch",
            eval_on_start=last is None,
            save_strategy="epoch",
            **config.optimization,
        ),
        data_collator=encoders.collator(texts.task, tokenizer, 8 if device == "cuda" else None),
        train_dataset=encode(train),
        eval_dataset={split: encode(rows) for split, rows in measured.items()},
        processing_class=tokenizer,
        compute_metrics=functools.partial(fine_tuning.scores, texts),
        preprocess_logits_for_metrics=fine_tuning.predict,
    )
    try:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    except Diverged as error:
        epoch, history = round(trainer.state.epoch or 0), trainer.state.log_history
        before = fine_tuning.curves(history, epoch - 1) if epoch else {}
        raise Diverged.at(f"{planned.name} seed {seed}", epoch, before) from error
    if is_first_process():
        resuming.drop_resuming(every)
    return fine_tuning.curves(trainer.state.log_history, config.epochs)


def run(config: Config, task: str, replicas: Sequence[Replica]) -> Arrays:
    """Fine-tune with the seed of each replica, one after the other; name -> (R, epoch)."""
    encoders.quiet()
    texts = config.load_texts(task)
    return runs.stack([fine_tune(config, texts, replica.seed) for replica in replicas])


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    encoders.quiet()
    every = prepare(config)
    if config.model == toy_bert.NAME:
        folder, device = Path(config.encoder), config.resolved_device
        toy_bert.ensure(config.toy, folder, device, config.optimization, config.overwrite)
    jobs = 1 if is_distributed() else None  # torchrun's processes train the same seed
    for task, texts in zip(config.tasks, every, strict=True):
        function, result = functools.partial(run, config, task), plan(config, texts)
        if is_first_process():
            for _, arrays in runs.train(function, [result], jobs):
                points = {"seed": config.seeds, "epoch": range(config.epochs + 1)}
                result.save(arrays | points)
        elif not result.is_complete:  # train along, and write nothing
            list(deal(function, result.replicas, device=config.resolved_device, jobs=jobs))
    if torch.distributed.is_initialized():  # its threads abort a process that ends under them
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    cli.run(main)
