"""Speed, as ratios measured in one run: medians of several repeats, printed as a table.

    python src/benchmark.py

On a machine that does nothing else. Rows: exact Gram whitening against ten Newton–Schulz steps; all
measures of four hidden layers against the forward pass that makes the features; training of MLP and
VAE against the machine's matrix-product rate; grokking against the straightforward loop; BERT
against every sentence padded to 128 tokens.
"""

from lab import program

program.begin(__name__, "stopped")

import copy
import functools
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification

from core.gram import gram_preserving_update, newton_schulz, polar_factor
from core.linearity import moments_surrogate, report, response_norm
from core.moments import FeatureMoments
from experiment import bert_target_linearity, grokking, vae_train
from lab import cli, cpu, memory, training
from lab.data import Images
from lab.errors import ConfigError, UserError
from lab.models import MLP
from lab.replicas import Replica, deal, generator, generators, make_optimizer
from lab.results import Arrays
from lab.text import encoders, fine_tuning, tasks, toy_bert, toy_language

MLP_WIDTHS = (3072, 256, 256, 10)
MLP_BATCH = 64


@dataclass(frozen=True)
class Config:
    """How long to measure."""

    repeats: int = 7  # medians are over this many
    train_samples: int = 16_000  # samples of the epoch that is timed
    measure_samples: int = 50_000  # samples whose features are measured
    grokking_epochs: int = 2  # epochs of grokking that are timed
    bert_examples: int = 128  # sentences that BERT is fine-tuned on and measured on

    def __post_init__(self) -> None:
        cli.check(self)
        if self.bert_examples > toy_bert.MOST_TEXTS:
            raise ConfigError(f"bert_examples must be at most {toy_bert.MOST_TEXTS:,}")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str  # what is compared
    ours: str
    against: str
    ratio: float
    aim: str  # of the ratio


def in_turn(repeats: int, *computations: Callable[[], object]) -> list[float]:
    """Median seconds of computations run in turn, so that a slow moment hits all of them."""
    rounds = []
    for _ in range(repeats + 1):
        seconds = []
        for compute in computations:
            start = time.perf_counter()
            compute()
            seconds.append(time.perf_counter() - start)
        rounds.append(seconds)
    return np.median(rounds[1:], axis=0).tolist()  # the first round warms up


def synthetic(samples: int, shape: tuple[int, ...] = (3, 32, 32)) -> Images:
    """Random images, by default of CIFAR-10's size."""
    memory.check(f"{samples:,} random images", samples * math.prod(shape), 1)
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (samples, *shape), dtype=torch.uint8, generator=g)
    y = torch.randint(0, 10, (samples,), generator=g)
    return Images("synthetic", x, y, x[:64], y[:64])


def train_mlp(images: Images, replicas: Sequence[Replica]) -> Arrays:
    """One epoch of the network of Figure 2; the seconds that it took, (R,)."""
    model = MLP(MLP_WIDTHS, generators(replicas, "weights"))
    optimizer = make_optimizer(torch.optim.SGD, model, replicas, momentum=0.85, fused=True)

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return training.cross_entropy(model(x), y)

    return _timed_epochs(model, optimizer, images, MLP_BATCH, replicas, step)


def train_vae(images: Images, replicas: Sequence[Replica]) -> Arrays:
    """One epoch of the VAE of Figures 5 and 10; the seconds that it took, (R,)."""
    config = vae_train.Config(device="cpu")
    model = vae_train.build(config, images, replicas)
    optimizer = make_optimizer(torch.optim.Adam, model, replicas, fused=True)
    betas = torch.tensor([replica.settings["beta"] for replica in replicas])
    sources = generators(replicas, "noise")

    def step(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        noise = vae_train.draw_noise(sources, x, config.latent)
        return vae_train.objective(model, x, noise, betas)

    return _timed_epochs(model, optimizer, images, config.batch_size, replicas, step)


def _timed_epochs(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Images,
    batch_size: int,
    replicas: Sequence[Replica],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    epochs: int = 1,
) -> Arrays:
    """Seconds of training, for each of the replicas of a batch: (R,)."""
    orders = generators(replicas, "order")
    dtype = next(model.parameters()).dtype
    start = time.perf_counter()
    with training.Epochs(epochs, model, "") as loop:
        for _ in range(epochs):
            for x, y in training.shuffled_batches(images, batch_size, orders, dtype):
                loss(x, y).backward()
                optimizer.step()
                optimizer.zero_grad()
        loop.record({})
    return {"seconds": np.full(len(replicas), time.perf_counter() - start)}


def seconds_of(group: Callable[[Sequence[Replica]], Arrays], replicas: Sequence[Replica]) -> float:
    """Seconds of all replicas, dealt to processes as the experiments deal them, added up."""
    return sum(float(arrays["seconds"]) for _, arrays in deal(group, replicas, device="cpu"))


def training_row(
    config: Config,
    what: str,
    group: Callable[[Images, Sequence[Replica]], Arrays],
    images: Images,
    replicas: Sequence[Replica],
    mlps: Sequence[Sequence[int]],
) -> Row:
    """Replicas dealt to processes, against the machine's matrix-product rate.

    mlps: the widths of the network's MLPs, the first one reading the images.
    """
    cores = cpu.available_cores()
    # forward, backward to the weights, and backward to the inputs of all layers but the first
    sizes = [d * m for widths in mlps for d, m in pairwise(widths)]
    operations = 2 * len(images.x_train) * (3 * sum(sizes) - sizes[0]) * len(replicas)
    a = torch.randn(2048, 2048)
    in_processes = []

    def train() -> None:
        in_processes.append(seconds_of(functools.partial(group, images), replicas) / cores)

    wall, product = in_turn(config.repeats, train, lambda: a @ a)
    rate, peak = operations / np.median(in_processes[1:]) / 1e9, 2 * 2048**3 / product / 1e9
    return Row(
        f"training {len(replicas)} replicas of the {what}",
        f"{rate:.0f} GFLOP/s while all {cores} cores train ({operations / wall / 1e9:.0f} start to "
        "end)",
        f"matrix product {peak:.0f} GFLOP/s",
        rate / peak,
        "≥ 0.6",
    )


def training_rows(config: Config) -> list[Row]:
    """The MLP of Figure 2, and the VAE on images of MNIST's size."""
    seeds = [Replica(seed, {"lr": 0.01}) for seed in range(5)]
    images = synthetic(config.train_samples)
    what = f"MLP {'–'.join(map(str, MLP_WIDTHS))}, batch {MLP_BATCH}"
    mlp = training_row(config, what, train_mlp, images, seeds, [MLP_WIDTHS])
    vae = vae_train.Config()
    images = synthetic(config.train_samples, (1, 28, 28))
    betas = [Replica(0, {"lr": vae.learning_rate}, {"beta": beta}) for beta in vae.betas[:4]]
    encoder = (784, vae.hidden, vae.hidden, 2 * vae.latent)
    decoder = (vae.latent, vae.hidden, vae.hidden, 784)
    widths = "–".join(map(str, (*encoder[:-1], vae.latent, *decoder[1:])))
    what = f"VAE {widths}, batch {vae.batch_size}"
    return [mlp, training_row(config, what, train_vae, images, betas, [encoder, decoder])]


def train_grokking(epochs: int, replicas: Sequence[Replica]) -> Arrays:
    """The network of Figure 13 without its measures; the seconds that it took, (R,)."""
    config = grokking.Config(device="cpu")
    images = grokking.addition(config.modulus, config.test_share)
    model, optimizer = grokking.build(config, images, replicas)

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return training.cross_entropy(model(x), y)

    size = config.batch_size
    return _timed_epochs(model, optimizer, images, size, replicas, step, epochs)


def naive_grokking(images: Images, epochs: int, weight_decay: float) -> None:
    """The same the straightforward way: one network, samples collated one by one."""
    config = grokking.Config()
    widths = (images.x_train.shape[1], *[config.width] * config.depth, images.classes)
    parts = [part for d, m in pairwise(widths) for part in (nn.Linear(d, m), nn.ReLU())]
    model = nn.Sequential(*parts[:-1]).double()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        config.learning_rate,
        (config.beta1, config.beta2),
        weight_decay=weight_decay,
    )
    samples = TensorDataset(images.x_train.double(), images.y_train)
    for _ in range(epochs):
        for x, y in DataLoader(samples, config.batch_size, shuffle=True):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def grokking_row(config: Config) -> Row:
    """All replicas of Figure 13, against one network at a time."""
    preset, epochs = grokking.Config(), config.grokking_epochs
    images = grokking.addition(preset.modulus, preset.test_share)
    replicas = [
        Replica(seed, {"lr": preset.learning_rate, "weight_decay": decay})
        for decay in preset.weight_decays
        for seed in preset.seeds
    ]
    ours, naive = in_turn(
        config.repeats,
        lambda: seconds_of(functools.partial(train_grokking, epochs), replicas),
        lambda: [naive_grokking(images, epochs, r.options["weight_decay"]) for r in replicas],
    )
    return Row(
        f"grokking, {len(replicas)} replicas, {epochs} epochs in float64",
        f"{ours:.2f} s",
        f"one at a time, indexed by sample {naive:.2f} s",
        ours / naive,
        "≤ 0.1",
    )


def bert_rows(config: Config) -> list[Row]:
    """Fine-tuning and measuring a six-layer BERT of width 384, as here and all padded to 128."""
    encoders.quiet()
    tokenizer, task = toy_language.tokenizer(), tasks.TASKS["toy_sst2"]
    preset = bert_target_linearity.Config(device="cpu")
    sentences = tasks.load(task.name, examples=config.bert_examples).train
    rows = encoders.encode(task, sentences, tokenizer, preset.max_length)
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=preset.max_length,
    )
    model = BertForSequenceClassification(shape)
    measured = copy.deepcopy(model).double().eval()

    def fine_tune(multiple: int | None) -> None:
        with tempfile.TemporaryDirectory() as folder:
            arguments = fine_tuning.training_arguments(
                Path(folder),
                "cpu",
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
        loader = bert_target_linearity.longest_first(rows, preset.measure_batch, collate)
        classes = torch.arange(2)[:, None]  # labels of rows are classes, not numbers of rows
        bert_target_linearity.one_pass(measured, loader, classes, 2)

    table = []
    length = preset.max_length
    parts = (("fine-tuning", fine_tune), ("Target Linearity of every layer", measure))
    for what, compute in parts:
        ours, padded = in_turn(
            config.repeats, functools.partial(compute, None), functools.partial(compute, length)
        )
        rates = [f"{len(rows) / seconds:.0f} examples/s" for seconds in (ours, padded)]
        what = f"BERT 6 × 384, {what}, {np.mean(rows['length']):.0f} tokens a sentence"
        against = f"all padded to {length} {rates[1]}"
        table.append(Row(what, rates[0], against, ours / padded, "≤ 0.25"))
    return table


def whitening_row(config: Config) -> Row:
    """Exact whitening of a 256 × 256 layer against ten Newton–Schulz steps on the same matrix."""
    g = torch.Generator().manual_seed(0)
    before = (torch.rand(256, 256, generator=g) * 2 - 1) / 16
    after = before + 1e-3 * torch.randn(256, 256, generator=g) / 16
    with cpu.threads(1):  # as in training
        exact, published = in_turn(
            3 * config.repeats,
            lambda: gram_preserving_update(before, after, polar_factor),
            lambda: gram_preserving_update(before, after, newton_schulz),
        )
    return Row(
        "exact whitening of a 256 × 256 layer, one core",
        f"{exact * 1e3:.1f} ms",
        f"ten Newton–Schulz steps {published * 1e3:.1f} ms",
        exact / published,
        "≤ 1",
    )


def measuring(samples: int, repeats: int) -> tuple[float, float, float]:
    """Seconds of the forward pass and of all measures of its features, and MB beyond the data."""
    images = synthetic(samples)
    model = MLP((3072, 256, 256, 256, 256, 10), [generator(0, "weights")])

    def forward() -> list[torch.Tensor]:
        with torch.no_grad():
            chunks = [
                model.hidden(x)
                for x, _ in training.whole_batches(images, "train", 1, torch.float32)
            ]
            return [torch.cat([chunk[layer][0] for chunk in chunks]) for layer in range(4)]

    hidden = forward()

    def measure() -> None:
        for h, layer in zip(hidden, model.layers[1:], strict=True):
            moments = FeatureMoments().update(h, images.y_train)
            report(moments)
            moments_surrogate(moments, layer.weight[0])
            response_norm(moments, layer.weight[0])

    Path("/proc/self/clear_refs").write_text("5")  # the largest memory counts from here
    before = _largest_memory()
    measure()
    extra = _largest_memory() - before
    forward_seconds, measure_seconds = in_turn(repeats, forward, measure)
    return forward_seconds, measure_seconds, extra


def _largest_memory() -> float:
    """MB that this process has held at most (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measuring_rows(config: Config) -> list[Row]:
    """In a process of its own, whose largest memory is then that of measuring."""
    call = (
        f"import benchmark; print(*benchmark.measuring({config.measure_samples}, {config.repeats}))"
    )
    command = [sys.executable, "-c", call]
    memory.check("measuring", config.measure_samples * 3 * 32 * 32, 9)  # bytes, and as floats
    with program.signals_blocked():
        done = subprocess.run(
            command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, check=False
        )
    if done.returncode != 0:
        raise UserError(f"the process that measures ended with status {done.returncode}")
    forward, measure, extra = map(float, done.stdout.split())
    what = f"all measures of 4 hidden layers of width 256, {config.measure_samples} samples"
    return [
        Row(
            what, f"{measure:.2f} s", f"the forward pass {forward:.2f} s", measure / forward, "≤ 1"
        ),
        Row("memory of the same", f"{extra:.0f} MB", "200 MB beyond the data", extra / 200, "≤ 1"),
    ]


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    rows = [
        whitening_row(config),
        *measuring_rows(config),
        *training_rows(config),
        grokking_row(config),
        *bert_rows(config),
    ]
    table = [("what", "ours", "against", "ratio", "aim")]
    table += [(row.what, row.ours, row.against, f"{row.ratio:.2f}", row.aim) for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(5)]
    for line in table:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


if __name__ == "__main__":
    program.run(main)
