"""Figure 8: how far the last hidden features of narrow and wide networks fit a staircase function.

Claim: wide (lazy) networks fit y_ols, the ridge fit of the target on their last hidden features,
and leave it where it was; narrow (rich) ones improve it.

    python src/experiment/staircase.py
    python src/experiment/staircase.py --scale quick

The target is heavy-tailed and the paper's draw is unknown, so several draws are trained, each with
data and initial weights of its own.

Results: results/SCALE/staircase/widthWIDTH-DIGEST.npz, arrays as in AXES. Epoch 0 is before
training.
"""

import functools
import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab import cli, data, results, runs, training
from lab.errors import ConfigError
from lab.replicas import Replica, generators, make_optimizer
from lab.results import Arrays
from lab.runs import Run

TERMS = 4  # of the target


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figure 8, the paper's; it had one draw, of seed 42."""

    widths: tuple[int, ...] = cli.each((32, 128, 512, 1024))  # units of a hidden layer
    depth: int = 3  # weight matrices, one more than hidden layers
    # a seed draws data, the same for every width, and initial weights
    seeds: tuple[int, ...] = (42, 43, 44, 45, 46)
    samples: int = 1000  # training set, all of it in every step
    inputs: int = 10  # inputs of a sample; the target depends on the first four
    epochs: int = 2000  # steps of full-batch SGD
    # epochs from one measurement to the next; the last epoch is measured too
    every: int = 20
    learning_rate: float = 0.01  # rate of SGD
    # added to the diagonal of HᵀH in the fit on the last hidden features H
    ridge: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check(self, zero=("seeds",))
        if self.depth < 2:
            raise ConfigError(f"depth must be 2 or more for a hidden layer, not {self.depth}")
        if self.inputs < TERMS:
            raise ConfigError(f"inputs must be {TERMS} or more for the target, not {self.inputs}")

    @property
    def measured(self) -> list[int]:
        """Epochs at which the network is measured."""
        return training.measured_epochs(self.epochs, self.every)


QUICK: dict[str, Any] = {
    "widths": (32, 128, 256),
    "seeds": (42, 43, 44),
    "samples": 500,
    "epochs": 1000,
}

_EPOCH = ("seed", "epoch")
AXES = {
    "ols_error": _EPOCH,  # (1/N) ‖y − y_ols‖²
    "ols_distance": _EPOCH,  # (1/N) ‖ŷ − y_ols‖²
    "loss": _EPOCH,  # (1/N) ‖y − ŷ‖²
    "ols_movement": _EPOCH,  # (1/N) ‖y_ols − y_ols before training‖²
    # ‖H − H before training‖ / ‖H before training‖, Frobenius norms
    "feature_movement": _EPOCH,
    "seed": ("seed",),
    "epoch": ("epoch",),
}


def staircase(x: Tensor) -> Tensor:
    """x₁ + x₁x₂ + x₁x₂x₃ + x₁x₂x₃x₄ of each sample: (…, inputs) -> (…)."""
    return x[..., :TERMS].cumprod(-1).sum(-1)


def draw(config: Config, seed: int) -> tuple[Tensor, Tensor]:
    """Standard normal x (N, inputs) and its target y (N,), both float32.

    Drawn in float64, for torch's float32 normals differ between processors in their last bits.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (config.samples, config.inputs)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    return x.float(), staircase(x).float()


@dataclass(frozen=True)
class Source:
    """The data of all draws, as results.Source."""

    config: Config
    name = "staircase"

    @functools.cached_property
    def fingerprint(self) -> str:
        draws = (draw(self.config, seed) for seed in self.config.seeds)
        return data.fingerprint(*itertools.chain(*draws))


class Network(nn.Module):
    """R ReLU MLPs widths[0]–…–1 without biases, output divided by √width; samples are columns."""

    def __init__(self, widths: Sequence[int], generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        # each (R, m, d), entries N(0, 1/d)
        self.weights = nn.ParameterList(
            torch.stack([torch.randn(m, d, generator=g) for g in generators]) / math.sqrt(d)
            for d, m in itertools.pairwise((*widths, 1))
        )

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
    """y − y_ols with y_ols = H (HᵀH + λI)⁻¹ Hᵀ y, in float64.

    Factorises the smaller of w × w and N × N: y − y_ols = λ (HHᵀ + λI)⁻¹ y is the same vector.

    Args:
        h: H (…, N, w).
        y: (…, N).
        ridge: λ.

    Returns:
        (…, N).
    """
    h, y = h.double(), y.double()[..., None]
    dual = h.shape[-1] > h.shape[-2]
    gram = h @ h.mT if dual else h.mT @ h
    gram.diagonal(dim1=-2, dim2=-1).add_(ridge)
    factor = torch.linalg.cholesky(gram)
    if dual:
        return ridge * torch.cholesky_solve(y, factor).squeeze(-1)
    return (y - h @ torch.cholesky_solve(h.mT @ y, factor)).squeeze(-1)


def run(config: Config, width: int, replicas: Sequence[Replica]) -> Arrays:
    """Train the networks of one width as one batch; name -> (R, measured epochs)."""
    device = config.resolved_device
    draws = [draw(config, replica.seed) for replica in replicas]
    x, y = (torch.stack(parts).to(device) for parts in zip(*draws, strict=True))
    x = x.mT.contiguous()  # (R, inputs, N); y is (R, N)
    widths = (config.inputs, *[width] * (config.depth - 1))
    model = Network(widths, generators(replicas, "weights")).to(device)
    optimizer = make_optimizer(torch.optim.SGD, model, replicas, fused=True)
    measured = set(config.measured)
    description = f"width {width} seed {replicas[0].seed}"
    with training.Epochs(config.epochs, model, description) as epochs:
        for epoch in epochs:  # 0: before training
            h = model.features(x)
            output = model.readout(h)
            if epoch in measured:
                epochs.check([output])
                features, error = h.detach(), y.double() - output.detach()  # y − ŷ
                residual = ridge_residual(features.mT, y, config.ridge)  # y − y_ols
                if epoch == 0:
                    features_before, residual_before = features, residual
                moved = torch.linalg.matrix_norm(features - features_before)
                measures = {
                    "ols_error": residual.square().mean(1),
                    "ols_distance": (residual - error).square().mean(1),
                    "loss": error.square().mean(1),
                    "ols_movement": (residual - residual_before).square().mean(1),
                    "feature_movement": moved / torch.linalg.matrix_norm(features_before),
                }
                epochs.record({name: value.double() for name, value in measures.items()})
            if epoch < config.epochs:
                # the sum over replicas, so that their gradients do not mix
                (output - y).square().mean(1).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
    return epochs.arrays


def main() -> None:
    config = cli.parse(Config, QUICK, __doc__)
    results.check_writable(config.results)
    source = Source(config)
    replicas = tuple(Replica(seed, {"lr": config.learning_rate}) for seed in config.seeds)
    for width in config.widths:
        settings = {"width": width, **config.hyperparameters()}
        result = Run(config, "staircase", f"width{width}", settings, source, AXES, replicas)
        for _, arrays in runs.train(functools.partial(run, config, width), [result]):
            result.save(arrays | {"seed": config.seeds, "epoch": config.measured})


if __name__ == "__main__":
    cli.run(main)
