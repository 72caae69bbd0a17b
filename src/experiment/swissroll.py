"""Figure 1: a Swiss roll unrolls under the virtual update.

Claim: the virtual update straightens the roll along the target that an MLP is trained on: the
linear R² of the virtual points grows.

    python src/experiment/swissroll.py
    python src/experiment/swissroll.py --seeds 0 1 2 --epochs 50
    python src/experiment/swissroll.py --scale quick

The virtual points at epoch t are X − γ Σ_{s<t} ∂L/∂X(s), the sum of the gradients before each step
so far. A control takes the gradients of a network that is never trained. At the last frame the R²
of both is also measured for other rates γ. R² differs much between seeds, and more so without
training: five seeds do not tell the two apart, so there are forty.

Results: results/SCALE/swissroll/swissroll-DIGEST.npz, arrays as in AXES. Epoch 0 is before
training, and everything at an epoch is measured at the same moment. It takes seconds;
notebook/figure01_swiss_roll.ipynb runs it where its result is missing.
"""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import program

program.begin(__name__)

import numpy as np
import torch
from torch import Tensor

from core.gram import cosine, weight_gram
from core.linearity import target_linearity
from core.virtual import virtual_covariance, virtual_covariance_shift, virtual_update
from lab import cli, data, runs, training
from lab.errors import ConfigError, Diverged
from lab.models import MLP
from lab.replicas import Replica, generators, make_optimizer
from lab.results import Arrays
from lab.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figure 1, the paper's; it had one seed, unknown."""

    samples: int = 1000  # points of the Swiss roll, all of them in every step
    data_seed: int = 0  # random_state of scikit-learn's make_swiss_roll
    width: int = 32  # units of a hidden layer
    depth: int = 2  # hidden layers; the first has no bias
    learning_rate: float = 0.05  # rate of SGD
    epochs: int = 100  # steps of full-batch SGD
    virtual_rate: float = 700.0  # γ, the rate of the virtual update
    seeds: tuple[int, ...] = tuple(range(40))  # a seed draws initial weights
    last_frame: int = 50  # last epoch whose virtual points are kept
    every: int = 2  # epochs from one kept frame to the next
    # rates γ for which R² is measured at the last frame
    virtual_rates: tuple[float, ...] = cli.added(
        tuple(digit * 10.0**power for power in range(6) for digit in (1, 2, 5)), earlier=()
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, zero=("data_seed", "seeds", "last_frame"))
        if self.data_seed >= 2**32:
            raise ConfigError(f"data_seed must be below 2^32, not {self.data_seed}")
        if self.samples < 3:
            reason = "a linear fit to two coordinates"
            raise ConfigError(f"samples must be 3 or more for {reason}, not {self.samples}")

    @property
    def frames(self) -> range:
        """Epochs whose virtual points are kept."""
        return range(0, min(self.last_frame, self.epochs) + 1, self.every)


QUICK: dict[str, Any] = {"seeds": (0, 1, 2, 3, 4)}  # the paper's settings take a second a seed

_EPOCH = ("seed", "epoch")
AXES = {
    "r2": _EPOCH,  # of the least-squares fit of the target, with intercept, to the virtual points
    "r2_frozen": _EPOCH,  # the same where the network is never trained: X − γ t ∂L/∂X(0)
    "loss": _EPOCH,  # mean squared error
    # cosine between the changes of W₁ᵀW₁ and of the Virtual Covariance; nan at epoch 0
    "alignment": _EPOCH,
    "first_order_alignment": _EPOCH,  # the same with the part of that change that is linear in γ
    # R² at the last frame under other rates γ, trained and never trained
    "r2_by_rate": ("seed", "virtual_rate"),
    "r2_frozen_by_rate": ("seed", "virtual_rate"),
    "gram": ("seed", "epoch", "row", "column"),  # W₁ᵀW₁
    # virtual points, each coordinate scaled to [0, 1]; float16, for they are only drawn
    "points": ("seed", "frame", "sample", "coordinate"),
    "points_frozen": ("seed", "sample", "coordinate"),  # at the last frame, never trained
    "target": ("sample",),
    "seed": ("seed",),
    "epoch": ("epoch",),
    "frame": ("frame",),  # epochs of `points`
    "virtual_rate": ("virtual_rate",),
}


@dataclass(frozen=True)
class SwissRoll:
    """A spiral in the plane and the position along it, scaled to [0, 1]; as results.Source."""

    points: Tensor  # (N, 2) float32
    target: Tensor  # (N,) float32
    name = "swissroll"

    @functools.cached_property
    def fingerprint(self) -> str:
        return data.fingerprint(self.points, self.target)


def swiss_roll(config: Config) -> SwissRoll:
    """Coordinates 0 and 2 of scikit-learn's Swiss roll, and the position along it."""
    from sklearn.datasets import make_swiss_roll

    roll, position = make_swiss_roll(config.samples, random_state=config.data_seed)
    columns = np.column_stack([roll[:, [0, 2]], position])
    columns = min_max(torch.from_numpy(columns)).float()
    return SwissRoll(columns[:, :2].contiguous(), columns[:, 2].contiguous())


def min_max(points: Tensor) -> Tensor:
    """Each coordinate of points (…, N, k) scaled to [0, 1]."""
    low, high = points.amin(-2, keepdim=True), points.amax(-2, keepdim=True)
    return (points - low) / (high - low)


def linear_r2(points: Tensor, target: Tensor) -> Tensor:
    """R² of the least-squares fit, with intercept, of the target (N, 1) to points (R, N, 2)."""
    return target_linearity(points - points.mean(-2, keepdim=True), target)


def virtual_points(x: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """X − γA (R, N, 2); Diverged where the norm of its Virtual Covariance is not finite."""
    norm = torch.linalg.matrix_norm(virtual_covariance(x, gradient, rate))
    if not norm.isfinite().all():
        raise Diverged(f"the virtual points at γ = {rate:g} are not finite; lower the virtual rate")
    return virtual_update(x, gradient, rate)


def r2_by_rate(x: Tensor, gradient: Tensor, target: Tensor, rates: Sequence[float]) -> Tensor:
    """`linear_r2` of the virtual points X − γ A for every rate γ: (R, rate)."""
    values = [linear_r2(virtual_points(x, gradient, rate), target) for rate in rates]
    return torch.stack(values, -1)


def alignments(x: Tensor, gradient: Tensor, rate: float, gram_change: Tensor) -> dict[str, Tensor]:
    """Cosines of the changes of the Gram matrix and of the Virtual Covariance, (R,) each.

    Args:
        x: X (R, N, 2).
        gradient: A = Σ_{s<t} ∂L/∂X(s) (R, N, 2).
        rate: γ.
        gram_change: W₁ᵀW₁ at epoch t minus W₁ᵀW₁ at epoch 0 (R, 2, 2).
    """
    cross = gradient.mT @ x
    return {
        "alignment": cosine(gram_change, virtual_covariance_shift(x, gradient, rate)),
        "first_order_alignment": cosine(gram_change, -rate * (cross + cross.mT)),
    }


def run(config: Config, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch; name -> (R, epoch, …), points (R, frame, N, 2)."""
    device, rate = config.resolved_device, config.virtual_rate
    roll = swiss_roll(config)
    y = roll.target.to(device)[:, None]  # (N, 1)
    inputs = roll.points.to(device).repeat(len(replicas), 1, 1).requires_grad_()  # (R, N, 2)
    widths = (2, *[config.width] * config.depth, 1)
    model = MLP(widths, generators(replicas, "weights")).to(device)
    first = model.layers[0]
    first.bias.requires_grad_(False).zero_()
    optimizer = make_optimizer(torch.optim.SGD, model, replicas)

    # what is measured is float64
    x, target = inputs.detach().double(), y.double()
    gradient = torch.zeros_like(x)  # Σ_{s<t} ∂L/∂X(s) (R, N, 2)
    initial_gradient = torch.zeros_like(x)  # ∂L/∂X(0)
    initial_gram = weight_gram(first.weight.detach().double())  # (R, 2, 2)
    frames, at_last_frame = [], {}
    with training.Epochs(config.epochs, model, f"swissroll seed {replicas[0].seed}") as epochs:
        for epoch in epochs:  # 0: before training
            loss = (model(inputs) - y).square().mean((1, 2))  # (R,)
            epochs.check([loss])
            virtual = virtual_points(x, gradient, rate)
            frozen = virtual_points(x, epoch * initial_gradient, rate)
            gram = weight_gram(first.weight.detach().double())
            measures = {
                "r2": linear_r2(virtual, target),
                "r2_frozen": linear_r2(frozen, target),
                "loss": loss.double(),
                "gram": gram,
            }
            epochs.record(measures | alignments(x, gradient, rate, gram - initial_gram))
            if epoch in config.frames:
                frames.append(min_max(virtual).half())
            if epoch == config.frames[-1]:
                sums = {"r2": gradient, "r2_frozen": epoch * initial_gradient}
                at_last_frame = {
                    f"{name}_by_rate": r2_by_rate(x, total, target, config.virtual_rates)
                    for name, total in sums.items()
                }
                at_last_frame["points_frozen"] = min_max(frozen).half()
            if epoch < config.epochs:
                loss.sum().backward()  # over replicas, whose gradients do not mix
                gradient += inputs.grad
                if epoch == 0:
                    initial_gradient.copy_(inputs.grad)
                optimizer.step()
                optimizer.zero_grad()
                inputs.grad = None
    kept = at_last_frame | {"points": torch.stack(frames, 1)}
    return epochs.arrays | {name: values.cpu().numpy() for name, values in kept.items()}


def execute(config: Config) -> None:
    """Train and save, unless the result is already there."""
    cli.prepare(config)
    roll, settings = swiss_roll(config), config.hyperparameters()
    replicas = tuple(Replica(seed, {"lr": config.learning_rate}) for seed in config.seeds)
    result = Run(config, "swissroll", "swissroll", settings, roll, AXES, replicas)
    # one process by default: starting more takes longer than the work
    for _, arrays in runs.train(functools.partial(run, config), [result], config.jobs or 1):
        points = {"epoch": range(config.epochs + 1), "frame": config.frames}
        points |= {"seed": config.seeds, "virtual_rate": config.virtual_rates}
        result.save(arrays | {"target": roll.target} | points)


def main() -> None:
    execute(cli.parse(Config, QUICK, __doc__))


if __name__ == "__main__":
    cli.run(main)
