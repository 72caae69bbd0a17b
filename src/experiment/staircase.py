"""Figure 8: how far the last hidden features of narrow and wide networks come to fit a staircase function.

Claim: wide (lazy) networks fit y_ols, the ridge fit of the target on their last hidden features, and leave it where
it was; narrow (rich) ones improve it. The target is heavy-tailed and the paper's draw is unknown, so several draws
are trained, each of data and initial weights of its own.

    python src/experiment/staircase.py
    python src/experiment/staircase.py --scale quick

Results: results/SCALE/staircase/widthWIDTH-DIGEST.npz, arrays as in AXES. Epoch 0 is before training.
"""

import functools
import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli
import data
import results
import training
from results import Arrays, Partial
from training import Replica

TERMS = 4  # of the target


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figure 8, the paper's; it had one draw, of seed 42."""

    widths: tuple[int, ...] = (32, 128, 512, 1024)
    """units of a hidden layer, one network each"""
    depth: int = 3
    """weight matrices, one more than hidden layers"""
    seeds: tuple[int, ...] = (42, 43, 44, 45, 46)
    """a seed draws data, the same for every width, and initial weights"""
    samples: int = 1000
    """training set, all of it in every step"""
    inputs: int = 10
    """inputs of a sample; the target depends on the first four"""
    epochs: int = 2000
    """steps of full-batch SGD"""
    every: int = 20
    """epochs from one measurement to the next; the last epoch is measured too"""
    learning_rate: float = 0.01
    """rate of SGD"""
    ridge: float = 0.01
    """added to the diagonal of HᵀH in the fit on the last hidden features H"""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("widths", "depth", "samples", "inputs", "epochs", "every", "learning_rate", "ridge")
        cli.check(self, positive=positive, natural=("seeds",))
        if self.depth < 2:
            raise cli.ConfigError(f"depth must be 2 or more for a hidden layer, not {self.depth}")
        if self.inputs < TERMS:
            raise cli.ConfigError(f"inputs must be {TERMS} or more for the target, not {self.inputs}")

    @property
    def measured(self) -> list[int]:
        """Epochs at which the network is measured."""
        return training.measured_epochs(self.epochs, self.every)


QUICK: dict[str, Any] = {"widths": (32, 128, 256), "seeds": (42, 43, 44), "samples": 500, "epochs": 1000}

_BY_EPOCH = ("seed", "epoch")
AXES = {
    "ols_error": _BY_EPOCH,  # (1/N) ‖y − y_ols‖²
    "ols_distance": _BY_EPOCH,  # (1/N) ‖ŷ − y_ols‖²
    "loss": _BY_EPOCH,  # (1/N) ‖y − ŷ‖²
    "ols_movement": _BY_EPOCH,  # (1/N) ‖y_ols − y_ols before training‖²
    "feature_movement": _BY_EPOCH,  # ‖H − H before training‖ / ‖H before training‖, Frobenius norms
    "seed": ("seed",),
    "epoch": ("epoch",),
}


def target(x: Tensor) -> Tensor:
    """x₁ + x₁x₂ + x₁x₂x₃ + x₁x₂x₃x₄ of each sample: (…, inputs) -> (…)."""
    return x[..., :TERMS].cumprod(-1).sum(-1)


def draw(seed: int, samples: int, inputs: int) -> tuple[Tensor, Tensor]:
    """Standard normal x (samples, inputs) and its target y (samples,), both float32.

    Drawn in float64, for torch's float32 normals differ between processors in their last bits.
    """
    x = torch.randn(samples, inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.float(), target(x).float()


@dataclass(frozen=True)
class Source:
    """The data of all draws, as results.Source."""

    config: Config
    name = "staircase"

    @functools.cached_property
    def fingerprint(self) -> str:
        draws = (draw(seed, self.config.samples, self.config.inputs) for seed in self.config.seeds)
        return data.fingerprint(*itertools.chain(*draws))


class Network(nn.Module):
    """R ReLU MLPs widths[0]–…–1 without biases, output divided by √width; samples are columns."""

    def __init__(self, widths: Sequence[int], generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            torch.stack([torch.randn(m, d, generator=g) for g in generators]) / math.sqrt(d)
            for d, m in itertools.pairwise((*widths, 1))
        )  # each (R, m, d), entries N(0, 1/d)

    def features(self, x: Tensor) -> Tensor:
        """Inputs (R, d, N) -> outputs of the last hidden layer (R, width, N)."""
        h = x
        for weight in self.weights[:-1]:
            h = torch.bmm(weight, h).relu_()
        return h

    def readout(self, h: Tensor) -> Tensor:
        """Features (R, width, N) -> outputs ŷ (R, N)."""
        return torch.bmm(self.weights[-1], h).squeeze(1) / math.sqrt(h.shape[1])


def ridge_residual(h: Tensor, y: Tensor, ridge: float) -> Tensor:
    """y − y_ols in float64, where y_ols = H (HᵀH + λI)⁻¹ Hᵀ y: features (…, N, w), targets (…, N) -> (…, N).

    Factorises the smaller of w × w and N × N: with w > N, y − y_ols = λ (HHᵀ + λI)⁻¹ y, the same vector.
    """
    h, y = h.double(), y.double()[..., None]
    dual = h.shape[-1] > h.shape[-2]
    gram = h @ h.mT if dual else h.mT @ h
    gram.diagonal(dim1=-2, dim2=-1).add_(ridge)
    factor = torch.linalg.cholesky(gram)
    if dual:
        return ridge * torch.cholesky_solve(y, factor).squeeze(-1)
    return (y - h @ torch.cholesky_solve(h.mT @ y, factor)).squeeze(-1)


def train_group(config: Config, width: int, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch; name -> (R, measurements)."""
    device = config.resolved_device
    draws = [draw(r.seed, config.samples, config.inputs) for r in replicas]
    x, y = (torch.stack(parts).to(device) for parts in zip(*draws, strict=True))  # (R, N, inputs), (R, N)
    x = x.mT.contiguous()
    widths = (config.inputs, *[width] * (config.depth - 1))
    model = Network(widths, [training.generator(r.seed, "weights") for r in replicas]).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate, fused=True)
    description = f"width {width} seed {replicas[0].seed}"
    start: list[Tensor] = []  # features and residual before training
    record: list[dict[str, Tensor]] = []

    def measure(h: Tensor, output: Tensor) -> dict[str, Tensor]:
        residual = ridge_residual(h.mT, y, config.ridge)  # y − y_ols
        error = y.double() - output  # y − ŷ
        if not start:
            start.extend((h, residual))
        return {
            "ols_error": residual.square().mean(1),
            "ols_distance": (residual - error).square().mean(1),
            "loss": error.square().mean(1),
            "ols_movement": (residual - start[1]).square().mean(1),
            "feature_movement": torch.linalg.matrix_norm(h - start[0]) / torch.linalg.matrix_norm(start[0]),
        }

    measured = set(config.measured)
    diverged = training.Diverged(f"{description}: training diverged; lower the learning rate")
    with training.progress(config.epochs, description) as bar:
        for epoch in range(config.epochs + 1):
            h = model.features(x)
            output = model.readout(h)
            if epoch in measured:
                if not bool(output.isfinite().all()):
                    raise diverged
                try:
                    record.append(measure(h.detach(), output.detach()))
                except torch.linalg.LinAlgError as error:  # features so large that rounding swallows the ridge
                    raise diverged from error
                bar.update(epoch - bar.n)
            if epoch < config.epochs:
                # the mean over each replica's samples, summed over replicas: their gradients do not mix
                (output - y).square().mean(1).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
    return {name: torch.stack([row[name] for row in record], 1).double().cpu().numpy() for name in record[0]}


def run(config: Config, width: int, partial: Partial | None = None) -> Arrays:
    """Train one width on every draw; arrays as in AXES."""
    runs = training.train_all(
        functools.partial(train_group, config, width),
        [Replica(seed) for seed in config.seeds],
        device=config.resolved_device,
        jobs=config.jobs,
        partial=partial,
    )
    named = {"seed": np.array(config.seeds), "epoch": np.array(config.measured)}
    return training.grid({"seed": config.seeds}, runs) | named


def main() -> None:
    config = cli.parse(Config, QUICK, description=__doc__)
    results.check_writable(config.results)
    for width in config.widths:
        output = cli.Output(f"width{width}", {"width": width, **config.hyperparameters("widths")})

        def compute(_: Sequence[cli.Output], partial: Partial, width: int = width) -> list[Arrays]:
            return [run(config, width, partial)]

        cli.produce(config, "staircase", Source(config), AXES, [output], compute)


if __name__ == "__main__":
    cli.run(main)
