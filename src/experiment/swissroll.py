"""Figure 1: a Swiss roll unrolls under the virtual update, along the target that an MLP is trained on.

Claim: the virtual update straightens the roll along the target: the linear R² of the virtual points grows. The
figure's points at epoch t are X − γ Σ_{s<t} ∂L/∂X(s), the sum of the gradients before each step so far. Beside it, a
control: the same with the gradients of a network that is never trained.

    python src/experiment/swissroll.py
    python src/experiment/swissroll.py --seeds 0 1 2 --epochs 50

Results: results/SCALE/swissroll/swissroll-DIGEST.npz, arrays as in AXES. Epoch 0 is before training; everything at
an epoch is measured at the same moment. Seconds; notebook/swissroll.ipynb runs it where its result is not there yet.
"""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli
import data
import results
import training
from core.gram import weight_gram
from core.linearity import target_linearity
from core.virtual import virtual_covariance_change, virtual_update
from models import MLP
from results import Arrays, Partial
from training import Replica


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figure 1, the paper's; it had one seed, unknown."""

    samples: int = 1000
    """points of the Swiss roll, all of them in every step"""
    data_seed: int = 0
    """random_state of scikit-learn's make_swiss_roll"""
    width: int = 32
    """units of a hidden layer"""
    depth: int = 2
    """hidden layers; the first has no bias"""
    learning_rate: float = 0.05
    """rate of SGD"""
    epochs: int = 100
    """steps of full-batch SGD"""
    virtual_rate: float = 700.0
    """γ, the rate of the virtual update"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """a seed draws initial weights"""
    last_frame: int = 50
    """last epoch whose virtual points are kept"""
    every: int = 2
    """epochs from one kept frame to the next"""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("samples", "width", "depth", "learning_rate", "epochs", "virtual_rate", "every")
        cli.check(self, positive=positive, natural=("data_seed", "seeds", "last_frame"))
        if self.samples < 3:
            raise cli.ConfigError(f"samples must be 3 or more for a linear fit to two coordinates, not {self.samples}")

    @property
    def frames(self) -> range:
        """Epochs whose virtual points are kept."""
        return range(0, min(self.last_frame, self.epochs) + 1, self.every)


QUICK: dict[str, Any] = {}  # the paper's settings take seconds

_BY_EPOCH = ("seed", "epoch")
AXES = {
    "r2": _BY_EPOCH,  # of the least-squares fit of the target, with intercept, to the virtual points
    "r2_frozen": _BY_EPOCH,  # the same where the network is never trained: X − γ t ∂L/∂X(0)
    "loss": _BY_EPOCH,  # mean squared error
    "alignment": _BY_EPOCH,  # cosine between the changes of W₁ᵀW₁ and of the Virtual Covariance; nan at epoch 0
    "first_order_alignment": _BY_EPOCH,  # the same with the change's part linear in γ
    "gram": ("seed", "epoch", "row", "column"),  # W₁ᵀW₁
    "points": ("seed", "frame", "sample", "coordinate"),  # virtual points, each coordinate scaled to [0, 1]
    "target": ("sample",),
    "seed": ("seed",),
    "epoch": ("epoch",),
    "frame": ("frame",),  # epochs of `points`
}


@dataclass(frozen=True)
class SwissRoll:
    """Points (N, 2) and target (N,), each column in [0, 1], float32; as results.Source."""

    points: np.ndarray
    target: np.ndarray
    name = "swissroll"

    @functools.cached_property
    def fingerprint(self) -> str:
        return data.fingerprint(*map(torch.from_numpy, (self.points, self.target)))


def min_max(values: np.ndarray) -> np.ndarray:
    """Each column scaled to [0, 1]: (N, …) -> (N, …)."""
    low, high = values.min(0), values.max(0)
    return (values - low) / (high - low)


def swiss_roll(samples: int, seed: int) -> SwissRoll:
    """Coordinates 0 and 2 of scikit-learn's Swiss roll, its spiral, and the position along it as the target."""
    from sklearn.datasets import make_swiss_roll

    roll, position = make_swiss_roll(samples, random_state=seed)
    return SwissRoll(min_max(roll[:, [0, 2]]).astype(np.float32), min_max(position).astype(np.float32))


def cosine(a: Tensor, b: Tensor) -> float:
    """Frobenius cosine tr(AᵀB) / ‖A‖ ‖B‖ of two matrices; nan where one is zero."""
    return float((a * b).sum() / (a.norm() * b.norm()))


def linear_r2(points: Tensor, target: Tensor) -> float:
    """R² of the least-squares fit, with intercept, of the target (N, 1) to points (N, 2)."""
    return target_linearity(points - points.mean(0), target)  # TL of centred points


def measure(x: Tensor, y: Tensor, gradient: Tensor, rate: float, gram_change: Tensor) -> dict[str, float]:
    """R² of one replica's virtual points, and how its Gram's change aligns with the Virtual Covariance's.

    Args:
        x: X (N, 2), float64 as all of them.
        y: target (N, 1).
        gradient: A = Σ_{s<t} ∂L/∂X(s) (N, 2).
        rate: γ.
        gram_change: W₁ᵀW₁ at epoch t minus that at epoch 0 (2, 2).
    """
    virtual = virtual_update(x, gradient, rate)
    cross = gradient.mT @ x
    return {
        "r2": linear_r2(virtual, y),
        "alignment": cosine(gram_change, virtual_covariance_change(x, gradient, rate)),
        "first_order_alignment": cosine(gram_change, -rate * (cross + cross.mT)),
    }


def train_group(config: Config, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch; name -> (R, epochs + 1, …), points (R, frame, N, 2)."""
    device, rate = config.resolved_device, config.virtual_rate
    roll = swiss_roll(config.samples, config.data_seed)
    x, y = torch.from_numpy(roll.points).to(device), torch.from_numpy(roll.target).to(device)[:, None]
    inputs = x.repeat(len(replicas), 1, 1).requires_grad_()  # (R, N, 2)
    widths = (2, *[config.width] * config.depth, 1)
    model = MLP(widths, [training.generator(r.seed, "weights") for r in replicas]).to(device)
    first = model.layers[0]
    first.bias.requires_grad_(False).zero_()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=config.learning_rate)
    exact_x, exact_y = x.double(), y.double()
    gradient = torch.zeros_like(inputs, dtype=torch.float64)  # Σ_{s<t} ∂L/∂X(s) (R, N, 2)
    grams: list[Tensor] = []
    record: list[list[dict[str, float]]] = []  # [epoch][replica]
    frames = []
    for epoch in range(config.epochs + 1):
        loss = (model(inputs) - y).square().mean((1, 2))  # (R,)
        if not bool(loss.isfinite().all() and (rate * gradient).isfinite().all()):
            raise training.Diverged(f"swissroll: training diverged in epoch {epoch}; lower the learning rate")
        grams.append(torch.stack([weight_gram(weight) for weight in first.weight.detach().double()]))
        changes = grams[-1] - grams[0]
        measured = [measure(exact_x, exact_y, a, rate, moved) for a, moved in zip(gradient, changes, strict=True)]
        record.append([{**row, "loss": float(of)} for row, of in zip(measured, loss.detach(), strict=True)])
        if epoch in config.frames:
            virtual = (virtual_update(exact_x, a, rate) for a in gradient)
            frames.append(np.stack([min_max(points.cpu().numpy()).astype(np.float32) for points in virtual]))
        if epoch < config.epochs:
            loss.sum().backward()  # over replicas, whose gradients do not mix
            gradient += inputs.grad
            if epoch == 0:
                never_trained = inputs.grad.double()
            optimizer.step()
            optimizer.zero_grad()
            inputs.grad = None
    frozen = [
        [linear_r2(virtual_update(exact_x, a, rate * t), exact_y) for t in range(config.epochs + 1)]
        for a in never_trained
    ]
    curves = {name: np.array([[row[name] for row in rows] for rows in record]).T for name in record[0][0]}
    curves["r2_frozen"] = np.array(frozen)
    return {**curves, "gram": torch.stack(grams, 1).cpu().numpy(), "points": np.stack(frames, 1)}


def run(config: Config, partial: Partial | None = None) -> Arrays:
    """Train every seed; arrays as in AXES."""
    runs = training.train_all(
        functools.partial(train_group, config),
        [Replica(seed) for seed in config.seeds],
        device=config.resolved_device,
        jobs=config.jobs or 1,  # starting processes would take longer than the work
        partial=partial,
    )
    named = {"seed": config.seeds, "epoch": range(config.epochs + 1), "frame": config.frames}
    target = swiss_roll(config.samples, config.data_seed).target
    return training.grid({"seed": config.seeds}, runs) | {
        "target": target,
        **{name: np.array(values) for name, values in named.items()},
    }


def execute(config: Config) -> None:
    """Run and save, unless the result is already there."""
    results.check_writable(config.results)
    source = swiss_roll(config.samples, config.data_seed)
    output = cli.Output("swissroll", config.hyperparameters())
    cli.produce(config, "swissroll", source, AXES, [output], lambda _, partial: [run(config, partial)])


def main() -> None:
    execute(cli.parse(Config, QUICK, description=__doc__))


if __name__ == "__main__":
    cli.run(main)
