"""Figure 7: the weight Gram matrix beside the accumulated Virtual Covariance Shift and the AGOP.

Claim: the diagonals of WᵀW and of Σ_t VCS are alike, as images too (Pearson's ρ about 0.98); those
of WᵀW and of the average gradient outer product (AGOP) less so (about 0.71).

    python src/experiment/virtual_covariance.py --datasets cifar10
    python src/experiment/virtual_covariance.py --optimizers sgd --epochs 6
    python src/experiment/virtual_covariance.py --scale quick

Theorem 1 is about the change of the Gram, the figure about the Gram itself. Both are measured, by
their diagonals and whole matrices, in both layers. The paper trains by plain SGD; with momentum and
under Adam the theorem need not hold.

Results: results/SCALE/virtual_covariance/DATASET-OPTIMIZER-DIGEST.npz, arrays as in AXES. Epoch 0
is before training. A step's VCS is that of its mini-batch, with A = ∂L/∂H of the batch's mean loss
and the optimizer's rate as γ. The AGOP is over the whole training set.
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

from core.agop import average_gradient_outer_product
from core.gram import cosine, weight_gram
from lab import cli, runs, training
from lab.data import Images
from lab.models import MLP
from lab.replicas import Replica, generators, make_optimizer
from lab.results import Arrays
from lab.runs import Run

OPTIMIZERS = {"sgd": torch.optim.SGD, "momentum": torch.optim.SGD, "adam": torch.optim.Adam}


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figure 7, the paper's; it states neither batch size nor epochs."""

    # mnist, svhn, cifar10, cifar100, digits, or paths of .npz files
    datasets: tuple[str, ...] = cli.each(("cifar10",))
    optimizers: tuple[str, ...] = cli.each(tuple(OPTIMIZERS))  # the paper's is sgd
    learning_rate: float = 0.05  # rate of plain SGD
    momentum_rate: float = 0.005  # rate of SGD with momentum, 0.05 · (1 − 0.9)
    momentum: float = 0.9  # momentum of SGD, where it has one
    adam_rate: float = 0.001  # rate of Adam
    seeds: tuple[int, ...] = (0, 1, 2)  # a seed draws initial weights and batch orders
    epochs: int = 10  # passes over the training set; the paper trains to 46 % test accuracy
    batch_size: int = 64  # samples a step
    width: int = 256  # units of the hidden layer

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
    "image_shape": ("image_axis",),  # channels, height, width
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


def layer_agops(model: MLP, images: Images) -> dict[str, list[Tensor]]:
    """AGOP of both layers' inputs over the training set, (R, d, d) float64.

    For the inputs of z = Wh + b it is WᵀKW, where K is the AGOP of z: no d × d matrix a batch.
    """
    weights = [layer.weight.detach().double() for layer in model.layers]
    sums = {name: [w.new_zeros(*w.shape[:2], w.shape[1]) for w in weights] for name in AGOPS}
    replicas, samples = len(weights[0]), len(images.x_train)
    dtype = next(model.parameters()).dtype
    for x, y in training.whole_batches(images, "train", replicas, dtype):
        z = model.layers[0](x.flatten(2))
        logits = model.layers[1](model.activation(z))  # (R, B, c)
        labels = y.repeat(replicas)
        losses = functional.cross_entropy(logits.flatten(0, 1), labels, reduction="none")
        for name, outputs in zip(AGOPS, (logits, losses.view(replicas, -1, 1)), strict=True):
            parts = average_gradient_outer_product(outputs, [z, logits])
            for total, part in zip(sums[name], parts, strict=True):
                total += part * (len(y) / samples)
    return {
        name: [w.mT @ k @ w for w, k in zip(weights, totals, strict=True)]
        for name, totals in sums.items()
    }


def layer_matrices(
    model: MLP, images: Images, initial: Sequence[Tensor], shifts: Sequence[ShiftSum]
) -> list[dict[str, Tensor]]:
    """GRAMS and COMPARED of each layer, name -> (R, d, d) float64; initial: G at the start."""
    agops = layer_agops(model, images)
    layers = []
    for i, (layer, start, shift) in enumerate(zip(model.layers, initial, shifts, strict=True)):
        gram = weight_gram(layer.weight.detach().double())
        first_order, second_order = shift.terms()
        vcs = {"vcs": first_order + second_order, "vcs_first_order": first_order}
        grams = {"gram": gram, "change": gram - start}
        layers.append(grams | vcs | {name: agop[i] for name, agop in agops.items()})
    return layers


def layer_measures(layers: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Correlations and relative errors (R, layer); layers: from `layer_matrices`."""
    norm, rows = torch.linalg.matrix_norm, []
    for matrices in layers:
        row = {}
        for gram, other, part in itertools.product(GRAMS, COMPARED, PARTS):
            pair = (PARTS[part](matrices[name]) for name in (gram, other))
            row[f"{gram}_{other}_{part}"] = correlation(*pair)
        vcs = matrices["vcs"]
        row["relative_error"] = norm(matrices["change"] - vcs) / norm(vcs)
        rows.append(row)
    return {name: torch.stack([row[name] for row in rows], -1) for name in rows[0]}


def run(config: Config, dataset: str, optimizer_name: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch and measure them at every epoch; name -> (R, …)."""
    images = cli.load_images(config, dataset)
    widths = (images.x_train[0].numel(), config.width, images.classes)
    model = MLP(widths, generators(replicas, "weights")).to(config.resolved_device)
    optimizer = make_optimizer(OPTIMIZERS[optimizer_name], model, replicas, fused=True)
    orders = generators(replicas, "order")
    weights = [layer.weight.detach() for layer in model.layers]
    initial = [weight_gram(weight.double()) for weight in weights]
    shifts = [ShiftSum(weight, replicas[0].options["lr"]) for weight in weights]
    description = f"{images.name} {optimizer_name} seed {replicas[0].seed}"
    with training.Epochs(config.epochs, model, description) as epochs:
        for epoch in epochs:  # 0: before training
            if epoch > 0:
                for x, y in training.shuffled_batches(images, config.batch_size, orders):
                    x = x.flatten(2).requires_grad_()  # inputs of the first layer
                    (hidden,) = model.hidden(x)  # and of the second
                    hidden.retain_grad()
                    training.cross_entropy(model.layers[1](hidden), y).backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    for shift, h in zip(shifts, (x, hidden), strict=True):
                        shift.add(h.detach(), h.grad)
            layers = layer_matrices(model, images, initial, shifts)
            epochs.record(training.evaluate(model, images, "test") | layer_measures(layers))
            diagonals = {name: layers[0][name].diagonal(dim1=-2, dim2=-1).float() for name in DRAWN}
            del layers  # before the next ones are made: each has d² entries
    last = {f"diagonal_{name}": values.cpu().numpy() for name, values in diagonals.items()}
    return epochs.arrays | last


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    cli.prepare(config)
    for dataset, optimizer in itertools.product(config.datasets, config.optimizers):
        images = cli.load_images(config, dataset)
        options = config.options(optimizer)
        varied = {"dataset": images.name, "optimizer": optimizer, "rate": options["lr"]}
        settings = varied | config.hyperparameters()
        replicas = tuple(Replica(seed, options) for seed in config.seeds)
        name = f"{images.name}-{optimizer}"
        result = Run(config, "virtual_covariance", name, settings, images, AXES, replicas)
        train_replicas = functools.partial(run, config, dataset, optimizer)
        for _, arrays in runs.train(train_replicas, [result]):
            points = {"epoch": range(config.epochs + 1), "layer": (1, 2)}
            own = {"seed": config.seeds, "image_shape": images.shape}
            result.save(arrays | own | points)


if __name__ == "__main__":
    cli.run(main)
