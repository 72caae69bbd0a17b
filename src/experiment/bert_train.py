"""Figure 11, first part: fine-tuning BERT on text tasks.

Sentences, sentence pairs, parts of speech and named entities. Every epoch is kept as a checkpoint, which
bert_target_linearity.py measures.

    python src/experiment/bert_train.py
    python src/experiment/bert_train.py --model distilbert-base-uncased --task sst2 --task-data data/text/sst2
    python src/experiment/bert_train.py --scale quick
    torchrun --nproc-per-node 8 src/experiment/bert_train.py

Results: results/SCALE/bert_train/MODEL-DATA-DIGEST.npz, one a task, arrays as in AXES; checkpoints beside them, in a
folder of the same name: seedS/checkpoint-STEP, as transformers' Trainer writes them. A run that was cut off goes on
from its last epoch. Quick scale needs no network: it pre-trains a small BERT, toy_bert, on the language of language.py
and fine-tunes it on that language's tasks.
"""

import functools
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from transformers import EvalPrediction, PreTrainedTokenizerBase, TrainerState, TrainingArguments

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli
import cpu
import language
import results
import tasks
import text
import training
from results import Arrays, Partial
from tasks import Texts
from training import Replica

TOY = "toy_bert"
STATE = "trainer_state.json"  # of a checkpoint: the history of all its epochs


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figure 11, the paper's; it had one seed."""

    model: str = "bert-base-uncased"
    """an encoder's name on the Hugging Face hub, its folder, or toy_bert, a small one that is pre-trained here"""
    model_revision: str = "main"
    """revision of the model on the hub"""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--task",))] = ("sst2", "mnli", "pos", "ner")
    """sst2, mnli, pos, ner, the same with toy_ in front for those of language.py, or any name with its data"""
    task_data: tuple[Path, ...] = ()
    """folders of the tasks' data in their order, as datasets.load_dataset reads them; none: from the hub"""
    learning_rate: float = 2e-5
    """rate of AdamW after the warm-up; it then falls linearly to zero"""
    warmup: float = 0.1
    """share of the steps in which the rate rises"""
    weight_decay: float = 0.01
    """weight decay of AdamW, except of biases and normalisations"""
    clip: float = 1.0
    """norm that gradients are clipped to"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """a seed draws the head's weights, batch orders, dropout, and the random initialisation that is measured"""
    epochs: int = 3
    """passes over the training set"""
    batch_size: int = 32
    """examples a step, of all devices together"""
    max_length: int = 128
    """tokens that an example is cut to"""
    train_examples: int = 0
    """training examples, drawn at random; 0: all"""
    samples: int = 2000
    """examples of either split, drawn at random, for Target Linearity, and for training errors; 0: all"""
    toy_examples: int = 2000
    """training examples of each toy task; half as many for validation"""
    toy_width: int = 64
    """units of toy_bert, 16 a head"""
    toy_depth: int = 3
    """layers of toy_bert"""
    toy_corpus: int = 6000
    """texts that toy_bert is pre-trained on"""
    toy_epochs: int = 8
    """passes over them"""
    toy_batch: int = 64
    """texts a step"""
    toy_rate: float = 0.002
    """rate of AdamW in pre-training"""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ["learning_rate", "clip", "epochs", "batch_size", "toy_examples", "toy_width", "toy_depth"]
        positive += ["toy_corpus", "toy_epochs", "toy_batch", "toy_rate"]
        natural = ("seeds", "weight_decay", "train_examples", "samples")
        cli.check(self, positive=positive, natural=natural, fractions=("warmup",), empty=("task_data",))
        if self.max_length < 8 or self.toy_width % 16:
            raise cli.ConfigError("max_length must be 8 or more, and toy_width a multiple of 16")
        tasks.check_names(self.tasks, self.task_data)


QUICK: dict[str, Any] = {
    "model": TOY,
    "tasks": ("toy_sst2", "toy_mnli", "toy_pos", "toy_ner"),
    "learning_rate": 0.001,
    "seeds": (0, 1),
    "max_length": 64,
    "samples": 500,
    "toy_examples": 1000,
    "toy_epochs": 4,
}

_BY_EPOCH = ("seed", "epoch")
# mean cross-entropy in nats, accuracy of sentences or words, F1 of whole entities -> name in the Trainer's history
MEASURES = {"loss": "nll", "accuracy": "accuracy", "f1": "f1"}
AXES = {
    **{f"{split}_{name}": _BY_EPOCH for split in ("train", "validation") for name in MEASURES},
    **{name: (name,) for name in _BY_EPOCH},
}


def load(config: Config, index: int) -> Texts:
    """The data of one of the configuration's tasks."""
    folder = config.task_data[index] if config.task_data else None
    return tasks.load(config.tasks[index], folder, (config.toy_examples, math.ceil(config.toy_examples / 2)))


def load_all(config: Config) -> list[Texts]:
    """The data of every task, before any work; raises DataError or ConfigError where something is wrong."""
    every = [load(config, index) for index in range(len(config.tasks))]
    names = [texts.name for texts in every]
    for twice in {name for name in names if names.count(name) > 1}:
        raise cli.ConfigError(f"task_data: two are named {twice}, and so would their results be: rename one folder")
    if config.model != TOY:
        text.fingerprint(config.model, config.model_revision)
        for texts in every:
            encode(config, texts, texts.train.select(range(1)))
    return every


def toy_settings(config: Config) -> dict[str, Any]:
    """What shapes toy_bert."""
    own = ("width", "depth", "corpus", "epochs", "batch", "rate")
    return {name: getattr(config, name) for name in (*(f"toy_{n}" for n in own), "warmup", "weight_decay", "clip")}


def settings(config: Config, texts: Texts) -> dict[str, Any]:
    """The configuration of one result and its checkpoints."""
    chosen = config.hyperparameters("tasks", "task_data", of=Config)
    if config.model != TOY:
        chosen = {name: value for name, value in chosen.items() if not name.startswith("toy_")}
    weights = "" if config.model == TOY else text.fingerprint(config.model, config.model_revision)
    return {**chosen, "model": Path(config.model).name, "weights": weights, "task": texts.task.name}


def output(config: Config, texts: Texts) -> cli.Output:
    """The result of one task."""
    return cli.Output(f"{Path(config.model).name}-{texts.name}", settings(config, texts))


def folder(config: Config, texts: Texts, seed: int) -> Path:
    """Where a seed's checkpoints are."""
    of = output(config, texts)
    path = results.path_for(config.results, config.scale, "bert_train", of.name, of.settings)
    return path.with_suffix("") / f"seed{seed}"


def checkpoint(config: Config, texts: Texts, seed: int, epoch: int) -> Path:
    """The checkpoint after an epoch."""
    examples = len(chosen(texts.train, config.train_examples))
    return folder(config, texts, seed) / f"checkpoint-{epoch * math.ceil(examples / config.batch_size)}"


def made(config: Config, texts: Texts, seed: int) -> dict[str, Any]:
    """What a checkpoint must say made it."""
    return results.plain({"settings": settings(config, texts), "seed": seed, "data": texts.fingerprint})


def source(config: Config) -> str:
    """What transformers loads the pre-trained model from: a name of the hub, or a folder."""
    if config.model != TOY:
        return config.model
    named = results.digest(toy_settings(config) | {"grammar": language.GRAMMAR, "lexicon": language.LEXICON})
    return str(config.results / config.scale / "bert_train" / f"{TOY}-{named}")


def load_tokenizer(config: Config) -> PreTrainedTokenizerBase:
    """The model's tokenizer; raises ConfigError where max_length is more than the model takes."""
    tokenizer = text.load_tokenizer(source(config), config.model_revision)
    if config.max_length > tokenizer.model_max_length:
        raise cli.ConfigError(f"max_length must be at most {tokenizer.model_max_length}, not {config.max_length}")
    return tokenizer


def encode(config: Config, texts: Texts, rows: Dataset) -> Dataset:
    """Rows of a task as the model takes them."""
    return text.encode(texts.task, rows, load_tokenizer(config), config.max_length)


def chosen(rows: Dataset, number: int) -> Dataset:
    """That many rows, drawn at random but the same in every run, in their order; all for 0."""
    if not 0 < number < len(rows):
        return rows
    order = torch.randperm(len(rows), generator=training.generator(0, "measurement"))
    return rows.select(order[:number].sort().values.tolist())


def arguments(config: Config, directory: Path, seed: int, batch_size: int, **keywords: Any) -> TrainingArguments:
    """Arguments of a Trainer on the configuration's device, its batch shared among all devices.

    Raises:
        ConfigError: the batch cannot be shared evenly.
    """
    cuda = config.resolved_device == "cuda"
    half = cuda and torch.cuda.is_bf16_supported()
    common = TrainingArguments(
        str(directory),
        seed=training.generator(seed, "noise").initial_seed() % 2**32,  # of dropout
        bf16=half,
        fp16=cuda and not half,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=config.clip,
        train_sampling_strategy="group_by_length",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        **keywords,
    )
    devices = common.world_size * max(1, common.n_gpu)
    if batch_size % devices:
        raise cli.ConfigError(f"batch sizes must be multiples of the {devices} devices, not {batch_size}")
    common.per_device_train_batch_size = batch_size // devices
    common.per_device_eval_batch_size = 4 * common.per_device_train_batch_size
    return common


def pretrain(config: Config) -> None:
    """Make toy_bert where it is not there."""
    path = Path(source(config))
    if config.overwrite or not path.is_dir():
        options = {"num_train_epochs": config.toy_epochs, "learning_rate": config.toy_rate, "save_strategy": "no"}
        bar = text.Progress(f"{TOY}, pre-training")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{TOY}-") as temporary:
            by = arguments(config, Path(temporary) / "model", 0, config.toy_batch, **options)
            with cpu.threads(1), cpu.denormals_flushed():  # too small for more
                language.pretrain(path, config.toy_width, config.toy_depth, config.toy_corpus, by, [bar])


def scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted class and cross-entropy in nats of each row or token, both in the shape of labels."""
    loss = functional.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), reduction="none")
    return logits.argmax(-1), loss.view(labels.shape)


def summarise(texts: Texts, evaluated: EvalPrediction) -> dict[str, float]:
    """nll (mean cross-entropy) and accuracy of rows or labelled tokens; f1 where labels are parts of entities."""
    (predicted, loss), labels = evaluated.predictions, evaluated.label_ids
    counted = labels != text.IGNORED
    nll = float(loss[counted].mean(dtype=np.float64))
    if not np.isfinite(nll):
        raise training.Diverged(f"{texts.name}: training diverged; lower the learning rate")
    values = {"nll": nll, "accuracy": float((predicted == labels)[counted].mean())}
    if texts.entities:
        tags = [
            [[texts.labels[i] for i in row[of_row]] for row, of_row in zip(side, counted, strict=True)]
            for side in (predicted, labels)
        ]
        values["f1"] = tasks.entity_f1(*tags)
    return values


def curves(history: Sequence[dict[str, Any]], epochs: int) -> Arrays:
    """Arrays (epochs + 1,) of what a Trainer's history says of every evaluation."""
    arrays = {}
    for split in ("train", "validation"):
        for name, of_history in MEASURES.items():
            key = f"eval_{split}_{of_history}"
            found = {round(entry["epoch"]): entry[key] for entry in history if key in entry}
            if found:
                arrays[f"{split}_{name}"] = np.array([found[epoch] for epoch in range(epochs + 1)])
    return arrays


def fine_tune(config: Config, texts: Texts, seed: int) -> Arrays:
    """Fine-tune with one seed and keep every epoch; name -> (epochs + 1,). Goes on from the last whole checkpoint."""
    root, by = folder(config, texts, seed), made(config, texts, seed)
    last = None if config.overwrite else text.latest(root, by)
    if last == checkpoint(config, texts, seed, config.epochs):
        return curves(TrainerState.load_from_json(str(last / STATE)).log_history, config.epochs)
    if last is None and is_first():
        shutil.rmtree(root, ignore_errors=True)
    tokenizer = load_tokenizer(config)
    train = chosen(texts.train, config.train_examples)
    parts = {"train": chosen(train, config.samples), "validation": texts.validation}
    trainer = text.FineTuner(
        seed,
        [text.Progress(f"{output(config, texts).name} seed {seed}"), text.Keeper(by)],
        model=text.build(source(config), texts.labels, texts.task.tagged, seed, config.model_revision),
        args=arguments(
            config,
            root,
            seed,
            config.batch_size,
            num_train_epochs=config.epochs,
            learning_rate=config.learning_rate,
            eval_strategy="epoch",
            eval_on_start=last is None,
            save_strategy="epoch",
        ),
        data_collator=text.collator(texts.task, tokenizer, 8 if config.resolved_device == "cuda" else None),
        train_dataset=encode(config, texts, train),
        eval_dataset={name: encode(config, texts, rows) for name, rows in parts.items()},
        processing_class=tokenizer,
        compute_metrics=functools.partial(summarise, texts),
        preprocess_logits_for_metrics=scores,
    )
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    if is_first():
        text.drop_resuming(root.glob("checkpoint-*"))
    return curves(trainer.state.log_history, config.epochs)


def is_first() -> bool:
    """Whether this process is the only one or torchrun's first, which writes files."""
    return os.environ.get("RANK", "0") == "0"


def share(config: Config) -> tuple[int, int]:
    """Processes that train seeds at a time, and the threads of each; toy_bert is too small for more than one."""
    cores = cpu.available_cores()
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun: all processes train the same seed
        jobs, sharing = 1, int(os.environ["LOCAL_WORLD_SIZE"])
    else:
        jobs = sharing = min(config.jobs or cores, len(config.seeds))
    return jobs, 1 if config.model == TOY else max(1, cores // sharing)


def train_group(config: Config, index: int, replicas: Sequence[Replica]) -> Arrays:
    """Fine-tune on a task with each replica's seed; name -> (R, epochs + 1)."""
    text.quiet()
    texts = load(config, index)
    with cpu.threads(share(config)[1]):
        runs = [fine_tune(config, texts, replica.seed) for replica in replicas]
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def run(config: Config, index: int, partial: Partial | None = None) -> Arrays:
    """Fine-tune on a task with every seed, and keep the checkpoints; arrays as in AXES."""
    runs = training.train_all(
        functools.partial(train_group, config, index),
        [Replica(seed) for seed in config.seeds],
        device=config.resolved_device,
        jobs=share(config)[0],
        partial=partial,
    )
    named = {"seed": np.array(config.seeds), "epoch": np.arange(config.epochs + 1)}
    return training.grid({"seed": config.seeds}, runs) | named


def main() -> None:
    config = cli.parse(Config, QUICK, description=__doc__)
    text.quiet()
    results.check_writable(config.results)
    every = load_all(config)
    if config.model == TOY:
        pretrain(config)
    for index, texts in enumerate(every):
        of = output(config, texts)

        def compute(_: Sequence[cli.Output], partial: Partial | None, index: int = index) -> list[Arrays]:
            return [run(config, index, partial)]

        if is_first():
            cli.produce(config, "bert_train", texts, AXES, [of], compute)
        elif config.overwrite or not folder(config, texts, 0).parent.with_suffix(".npz").exists():
            compute([of], None)
    if torch.distributed.is_initialized():  # its threads abort a process that ends under them
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    cli.run(main)
