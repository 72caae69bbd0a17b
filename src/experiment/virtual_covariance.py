"""Figure 7: the weight Gram matrix beside the accumulated Virtual Covariance Shift and the AGOP.

Claim: the diagonals of WᵀW and of Σ_t VCS are alike, as images too (Pearson's ρ about 0.98); those
of WᵀW and of the average gradient outer product (AGOP) less so (about 0.71).

    python src/experiment/virtual_covariance.py --datasets cifar10
    python src/experiment/virtual_covariance.py --optimizers sgd --epochs 6
    python src/experiment/virtual_covariance.py --scale quick

Theorem 1 is about the change of the Gram, the figure about the Gram itself. Both are measured, by
their diagonals and whole matrices, in every layer. The paper trains by plain SGD; with momentum and
under Adam the theorem need not hold.

Results: results/SCALE/virtual_covariance/DATASET-OPTIMIZER[-ARCHITECTURE]-DIGEST.npz, arrays as in
AXES. Epoch 0 is before training. A step's VCS is that of its mini-batch, with A = ∂L/∂H of the
batch's mean loss and the optimizer's rate as γ. The AGOP is over the whole training set. Layer 1 is
the images, and layer n + 1 hidden layer n; a convolution's features are patches.
"""

import functools
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import program

program.begin(__name__)

import torch
from torch import Tensor
from torch.nn import functional

from core.agop import output_gradients
from core.gram import cosine, weight_gram
from lab import architectures, cli, runs, training
from lab.data import Images
from lab.models import MLP
from lab.networks import Reading, Stacked, evaluating
from lab.replicas import Replica, generators, make_optimizer
from lab.results import Arrays
from lab.runs import Run

OPTIMIZERS = {"sgd": torch.optim.SGD, "momentum": torch.optim.SGD, "adam": torch.optim.Adam}


@dataclass(frozen=True, kw_only=True)
class Config(architectures.Chosen):
    """Hyperparameters of Figure 7, the paper's; it states neither batch size nor epochs."""

    # mnist, svhn, cifar10, cifar100, digits, or your own: see docs/data.md
    datasets: tuple[str, ...] = cli.each(("cifar10",))
    optimizers: tuple[str, ...] = cli.each(tuple(OPTIMIZERS))  # the paper's is sgd
    learning_rate: float = 0.05  # rate of plain SGD
    momentum_rate: float = 0.005  # rate of SGD with momentum, 0.05 · (1 − 0.9)
    momentum: float = 0.9  # momentum of SGD, where it has one
    adam_rate: float = 0.001  # rate of Adam
    seeds: tuple[int, ...] = (0, 1, 2)  # a seed draws initial weights and batch orders
    epochs: int = 10  # passes over the training set; the paper trains to 46 % test accuracy
    batch_size: int = 64  # samples a step
    depth: int = cli.added(1, 1)  # hidden layers, or blocks

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {"optimizers": tuple(OPTIMIZERS)}
        cli.check(self, zero=("seeds",), fractions=("momentum",), choices=choices)
        cli.check_datasets(self.datasets)

    def options(self, optimizer: str) -> dict[str, float]:
        """What torch's optimizer is given."""
        if optimizer == "momentum":
            return {"lr": self.momentum_rate, "momentum": self.momentum}
        return {"lr": self.learning_rate if optimizer == "sgd" else self.adam_rate}


QUICK: dict[str, Any] = {"datasets": ("digits",), "batch_size": 16, "width": 64}

GRAMS = ("gram", "change")  # G = WᵀW, and ΔG since the start
AGOPS = ("agop", "agop_loss")  # of the logits, and of each sample's loss
COMPARED = ("vcs", "vcs_first_order", *AGOPS)  # Σ VCS, with and without its term in γ²
PARTS = {"diagonal": lambda m: m.diagonal(dim1=-2, dim2=-1)[..., None], "matrix": lambda m: m}
DRAWN = (*GRAMS, "vcs", *AGOPS)  # whose diagonals are kept as images
_EPOCH, _LAYER = ("seed", "epoch"), ("seed", "epoch", "layer")
AXES = {
    # Pearson's ρ of the entries of two matrices; nan where one is zero, as changes are at the start
    **{"_".join(names): _LAYER for names in itertools.product(GRAMS, COMPARED, PARTS)},
    "relative_error": _LAYER,  # ‖ΔG − Σ VCS‖ / ‖Σ VCS‖
    **{f"diagonal_{name}": ("seed", "input") for name in DRAWN},  # layer 1, last epoch
    "image_shape": ("image_axis",),  # channels, height, width; of a convolution its patch
    "test_accuracy": _EPOCH,
    "test_loss": _EPOCH,  # mean cross-entropy in nats
    **{name: (name,) for name in ("seed", "epoch", "layer")},
}


class ShiftSum:
    """Σ_t VCS of a layer's features over steps of training, VCS = −γ (AᵀH + HᵀA) + γ² AᵀA.

    Products of d × d entries take nearly all of the time, so there are two a step, added in place.
    From one call of `terms` to the next they are summed in the dtype of training, then in float64.
    """

    def __init__(self, weight: Tensor, rate: float) -> None:
        self.rate = rate
        gram = weight_gram(weight)
        self.cross, self.outer = (torch.zeros_like(gram) for _ in range(2))  # Σ AᵀH, Σ AᵀA
        total = functools.partial(torch.zeros_like, gram, dtype=torch.float64)
        self.first_order, self.second_order = total(), total()

    def add(self, features: Tensor, gradient: Tensor) -> None:
        """One step: H and A = ∂L/∂H, (R, B, d)."""
        self.cross.baddbmm_(gradient.mT, features)
        self.outer.baddbmm_(gradient.mT, gradient)

    def terms(self) -> tuple[Tensor, Tensor]:
        """The terms of first and of second order in γ, (R, d, d) float64; they add up to Σ VCS."""
        cross = self.cross.double()
        self.first_order -= self.rate * (cross + cross.mT)
        self.second_order += self.rate**2 * self.outer.double()
        self.cross.zero_()
        self.outer.zero_()
        return self.first_order, self.second_order


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's ρ of the entries of matrices (R, m, n); (R,)."""
    return cosine(*(x - x.mean((-2, -1), keepdim=True) for x in (a, b)))


def response_agops(outputs: Tensor, readings: Sequence[Reading]) -> list[Tensor]:
    """AGOP of each weight's responses z, (R, m, m), whose rows are summed over positions."""
    sums: list[Tensor | float] = [0.0] * len(readings)
    every = [z for reading in readings for z in reading.outputs]
    for gradients in output_gradients(outputs, every):
        in_order = iter(gradients)
        for i, reading in enumerate(readings):
            rows = reading.rows([next(in_order) for _ in reading.outputs])
            sums[i] = sums[i] + rows.mT @ rows
    return [total / outputs.shape[-2] for total in sums]


def layer_agops(model: MLP | Stacked, images: Images) -> dict[str, list[Tensor]]:
    """AGOP of the inputs of each weight over the training set, (R, d, d) float64.

    For the inputs of z = Wh + b it is WᵀKW, where K is the AGOP of z: no d × d matrix a batch.
    """
    weights = [w.detach().double() for w in model.readers if w is not None]
    sums = {name: [w.new_zeros(*w.shape[:2], w.shape[1]) for w in weights] for name in AGOPS}
    replicas, samples = len(weights[0]), len(images.x_train)
    dtype = next(model.parameters()).dtype
    for x, y in training.whole_batches(images, "train", replicas, dtype):
        with evaluating(model):
            readings, logits = model.products(x)  # (R, B, c)
        labels = y.repeat(replicas)
        losses = functional.cross_entropy(logits.flatten(0, 1), labels, reduction="none")
        for name, outputs in zip(AGOPS, (logits, losses.view(replicas, -1, 1)), strict=True):
            for total, part in zip(sums[name], response_agops(outputs, readings), strict=True):
                total += part * (len(y) / samples)
    return {
        name: [w.mT @ k @ w for w, k in zip(weights, totals, strict=True)]
        for name, totals in sums.items()
    }


def layer_matrices(
    model: MLP | Stacked, images: Images, initial: Sequence[Tensor], shifts: Sequence[ShiftSum]
) -> list[dict[str, Tensor]]:
    """GRAMS and COMPARED of each weight, name -> (R, d, d) float64; initial: G at the start."""
    agops = layer_agops(model, images)
    weights = [w.detach() for w in model.readers if w is not None]
    layers = []
    for i, (weight, start, shift) in enumerate(zip(weights, initial, shifts, strict=True)):
        gram = weight_gram(weight.double())
        first_order, second_order = shift.terms()
        vcs = {"vcs": first_order + second_order, "vcs_first_order": first_order}
        grams = {"gram": gram, "change": gram - start}
        layers.append(grams | vcs | {name: agop[i] for name, agop in agops.items()})
    return layers


def layer_measures(
    layers: Sequence[dict[str, Tensor]], readers: Sequence[Tensor | None]
) -> dict[str, Tensor]:
    """Correlations and relative errors (R, layer), nan where no weight alone reads a layer.

    Args:
        layers: of each weight, from `layer_matrices`.
        readers: of each layer, as `networks` has them.
    """
    norm, rows = torch.linalg.matrix_norm, []
    for matrices in layers:
        row = {}
        for gram, other, part in itertools.product(GRAMS, COMPARED, PARTS):
            pair = (PARTS[part](matrices[name]) for name in (gram, other))
            row[f"{gram}_{other}_{part}"] = correlation(*pair)
        vcs = matrices["vcs"]
        row["relative_error"] = norm(matrices["change"] - vcs) / norm(vcs)
        rows.append(row)
    undefined = {name: torch.full_like(values, torch.nan) for name, values in rows[0].items()}
    known = iter(rows)
    rows = [undefined if weight is None else next(known) for weight in readers]
    return {name: torch.stack([row[name] for row in rows], -1) for name in rows[0]}


def run(config: Config, dataset: str, optimizer_name: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch and measure them at every epoch; name -> (R, …)."""
    images = cli.load_images(config, dataset)
    model = architectures.make(config, images, replicas)
    optimizer = make_optimizer(OPTIMIZERS[optimizer_name], model, replicas, fused=True)
    orders = generators(replicas, "order")
    weights = [weight.detach() for weight in model.readers if weight is not None]
    initial = [weight_gram(weight.double()) for weight in weights]
    shifts = [ShiftSum(weight, replicas[0].options["lr"]) for weight in weights]
    description = f"{images.name} {optimizer_name} seed {replicas[0].seed}"
    with training.Epochs(config.epochs, model, description) as epochs:
        for epoch in epochs:  # 0: before training
            if epoch > 0:
                for x, y in training.shuffled_batches(images, config.batch_size, orders):
                    readings, logits = model.products(x)
                    for reading in readings:
                        reading.keep_gradients()
                    training.cross_entropy(logits, y).backward()
                    for shift, reading in zip(shifts, readings, strict=True):
                        shift.add(reading.features, reading.gradient())
                    optimizer.step()
                    optimizer.zero_grad()
            layers = layer_matrices(model, images, initial, shifts)
            measures = layer_measures(layers, model.readers)
            epochs.record(training.evaluate(model, images, "test") | measures)
            diagonals = {name: layers[0][name].diagonal(dim1=-2, dim2=-1).float() for name in DRAWN}
            del layers  # before the next ones are made: each has d² entries
    last = {f"diagonal_{name}": values.cpu().numpy() for name, values in diagonals.items()}
    return epochs.arrays | last


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    for dataset, optimizer in itertools.product(config.datasets, config.optimizers):
        images = cli.load_images(config, dataset)
        shape, further = architectures.check(config, images), architectures.inputs(config)
        options = config.options(optimizer)
        varied = {"dataset": images.name, "optimizer": optimizer, "rate": options["lr"]}
        settings = varied | config.hyperparameters()
        replicas = tuple(Replica(seed, options) for seed in config.seeds)
        name = f"{images.name}-{optimizer}{architectures.suffix(config)}"
        result = Run(config, "virtual_covariance", name, settings, images, AXES, replicas, further)
        train_replicas = functools.partial(run, config, dataset, optimizer)
        for _, arrays in runs.train(train_replicas, [result]):
            layers = range(1, arrays["relative_error"].shape[-1] + 1)
            points = {"epoch": range(config.epochs + 1), "layer": layers}
            own = {"seed": config.seeds, "image_shape": shape}
            result.save(arrays | own | points)


if __name__ == "__main__":
    cli.run(main)
