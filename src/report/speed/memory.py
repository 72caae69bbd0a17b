"""The largest memory of every script, with the paper's sizes, in the shortest run that reaches it.

One epoch, as many seeds as there are cores, so that every core trains; a script's phases are all
gone through, but for those of a run that is cut off. What all processes of a script hold is added
up; on Linux what they share, as libraries, is counted once, so nothing else may use them meanwhile.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from datasets import Dataset

from lab import cli, cpu, data, files, program
from lab.errors import UserError
from lab.text import encoders, toy_language
from report.lookup import experiment
from report.recipes import RECIPES, flags
from report.speed.entries import Peak
from report.speed.text import bert

EVERY = 0.05  # seconds from one look at the memory to the next
TEXT = ("bert_train", "bert_target_linearity")
# what shortens a run, beyond one epoch; the heaviest choice where a script has several
SHORT: dict[str, Mapping[str, str]] = {
    "target_linearity": {"optimizer": "adam"},
    "whiten": {"methods": "exact", "learning_rates": "0.01"},
    "whiten_cnn": {"methods": "exact", "learning_rates": "0.01"},
    "virtual_covariance": {"optimizers": "adam"},
    "random_label": {"probabilities": "0.5", "every": "1"},
    "vae_train": {"betas": "1"},
    "vae_target_linearity": {"betas": "1"},
    "grokking": {"weight_decays": "0"},
    "staircase": {"widths": "1024", "epochs": "20"},
    "swissroll": {},
    "gram_virtual_covariance": {"time": "0.4", "points": "2"},
    "statements": {"epochs": "1", "steps": "2"},
}


def scripts() -> list[str]:
    """Of all figures; those that read another's checkpoints come after it."""
    return list(dict.fromkeys(name for recipe in RECIPES.values() for name in recipe.scripts))


def script_peaks(
    names: Sequence[str], datasets: Sequence[str], root: Path, seconds: float
) -> Iterator[Peak]:
    """Run every script on every data set that it takes; one that fails stops no other.

    Args:
        names: of scripts; those that read another's checkpoints after it.
        datasets: names, or paths of .npz files.
        root: folder of torchvision's data sets.
        seconds: after which a run is cut off.
    """
    with tempfile.TemporaryDirectory() as folder:
        text = write_text(Path(folder, "text")) if set(names) & set(TEXT) else ()
        for name in names:
            fields = experiment(name).Config.__dataclass_fields__
            words = ["--data", str(root.absolute()), "--results", folder, "--device", "cpu"]
            words += flags(SHORT.get(name, {}))
            if "epochs" in fields and "epochs" not in SHORT.get(name, {}):
                words += ["--epochs", "1"]
            if "seeds" in fields:
                words += ["--seeds", *map(str, range(cpu.available_cores()))]
            if name in TEXT:
                # the checkpoints of a training that was cut off cannot be measured
                more = ("--no-fine-tuned",) if name == "bert_target_linearity" else ()
                runs = {"sentences of 128 tokens": (*text, *more)}
            elif "datasets" in fields:
                runs = {data.label(dataset): ("--datasets", dataset) for dataset in datasets}
            else:
                runs = {"its own": ()}
            for label, own in runs.items():
                try:
                    yield run(name, label, [*words, *own], seconds)
                except UserError as error:
                    program.defer(error)


def run(name: str, label: str, words: Sequence[str], seconds: float) -> Peak:
    """Run one script and watch it; UserError where it fails."""
    path = cli.ROOT / "src" / "experiment" / f"{name}.py"
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said, program.signals_blocked():
        process = subprocess.Popen(
            [sys.executable, str(path), *words], stdout=subprocess.DEVNULL, stderr=said
        )
        try:
            most = watch(process, start + seconds)
            ended = process.poll() is not None
        finally:
            end(process)
        if ended and process.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise UserError(f"{name} on {label} failed: {lines[-1]}")
    took = time.perf_counter() - start
    print(f"{name}, {label}: {most / 2**20:,.0f} MB, {took:.0f} s", flush=True)
    return Peak(name, label, most / 2**20, took, ended)


def watch(process: subprocess.Popen, until: float) -> int:
    """Most bytes that a process and all below it hold together, until it ends or it is time."""
    most, tree = 0, psutil.Process(process.pid)
    while process.poll() is None and time.perf_counter() < until:
        held = 0
        with suppress(psutil.NoSuchProcess):
            for member in (tree, *tree.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    memory = member.memory_full_info()
                    held += getattr(memory, "pss", memory.rss)
        most = max(most, held)
        time.sleep(EVERY)
    return most


def end(process: subprocess.Popen) -> None:
    """End a process and all below it, if they have not ended."""
    with suppress(psutil.NoSuchProcess):
        program.kill_children(process.pid)
    process.kill()
    process.wait()


def write_text(folder: Path, examples: int = 32) -> tuple[str, ...]:
    """An encoder of BERT-base's size before training, and sentences as long as the paper's longest.

    Returns:
        what the scripts of text are told about both.
    """
    encoders.quiet()
    tokenizer = toy_language.tokenizer()
    tokenizer.model_max_length = 512  # BERT-base's
    model, sentences = folder / "bert", folder / "sst2"
    base = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
    bert(**base).save_pretrained(model)
    tokenizer.save_pretrained(model)
    words = [word for word in tokenizer.get_vocab() if word.isalpha()]
    rng = np.random.default_rng(0)
    sentences.mkdir()
    for split in ("train", "validation"):
        texts = [" ".join(rng.choice(words, 128)) for _ in range(examples)]
        labels = [i % 2 for i in range(examples)]
        rows = Dataset.from_dict({"sentence": texts, "label": labels})
        files.write_whole(sentences / f"{split}.parquet", rows.to_parquet)
    task = ["--tasks", "sst2", "--task-data", str(sentences)]
    return ("--model", str(model), *task)
