"""Figures 8 and 3: how well the last hidden features of a network fit a staircase function.

Claim: wide (lazy) networks fit y_ols, the ridge fit of the target on their last hidden features,
and leave it where it was; narrow (rich) ones improve it. Figure 8 shows the distances between the
target y, the output ŷ (f_t in section 4.2) and y_ols (f_OLS,t), Figure 3 the paths of the two.

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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import program

program.begin(__name__)

import torch
from torch import Tensor, nn
from torch.nn import functional

from lab import cli, data, memory, runs, training
from lab.errors import ConfigError
from lab.replicas import Replica, generator, generators, make_optimizer
from lab.results import Arrays
from lab.runs import Run

TERMS = 4  # of the target


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of Figure 8, the paper's; it had one draw, of seed 42."""

    # units of a hidden layer; 960, just under the number of samples, is not the paper's
    widths: tuple[int, ...] = cli.each((32, 128, 512, 960, 1024))
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

_EPOCH, _POINT = ("seed", "epoch"), ("seed", "epoch", "coordinate")
AXES = {
    "ols_error": _EPOCH,  # (1/N) ‖y − y_ols‖²
    "ols_distance": _EPOCH,  # (1/N) ‖ŷ − y_ols‖²
    "loss": _EPOCH,  # (1/N) ‖y − ŷ‖²
    # ‖ŷ − y_ols‖² and ‖y‖² in the norm of section 4.2, ‖v‖_K² = vᵀKv with K = HHᵀ of the epoch
    "kernel_distance": _EPOCH,
    "kernel_target": _EPOCH,
    "ols_movement": _EPOCH,  # (1/N) ‖y_ols − y_ols before training‖²
    # ‖H − H before training‖ / ‖H before training‖, Frobenius norms
    "feature_movement": _EPOCH,
    # ols_error and loss on N samples held out; y_ols is fitted on the training set
    "held_out_ols_error": _EPOCH,
    "held_out_loss": _EPOCH,
    # ŷ − y and y_ols − y: two coordinates in `initial_plane`, and the distance from it
    "output_coordinates": _POINT,
    "ols_coordinates": _POINT,
    "seed": ("seed",),
    "epoch": ("epoch",),
}


def staircase(x: Tensor) -> Tensor:
    """x₁ + x₁x₂ + x₁x₂x₃ + x₁x₂x₃x₄ of each sample: (…, inputs) -> (…)."""
    return x[..., :TERMS].cumprod(-1).sum(-1)


def draw(config: Config, seed: int, held_out: bool = False) -> tuple[Tensor, Tensor]:
    """Standard normal x (N, inputs) and its target y (N,), both float32.

    Drawn in float64, for torch's float32 normals differ between processors in their last bits.
    """
    memory.check("one draw of the data", config.samples * config.inputs, 12)
    g = generator(seed, "measurement") if held_out else torch.Generator().manual_seed(seed)
    x = torch.randn((config.samples, config.inputs), dtype=torch.float64, generator=g)
    return x.float(), staircase(x).float()


def stack_draws(
    config: Config, replicas: Sequence[Replica], held_out: bool = False
) -> tuple[Tensor, Tensor]:
    """x (R, inputs, N) and y (R, N) of all replicas, on the device."""
    draws = [draw(config, replica.seed, held_out) for replica in replicas]
    x, y = (torch.stack(parts).to(config.resolved_device) for parts in zip(*draws, strict=True))
    return x.mT.contiguous(), y


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
        sizes = [d * m for d, m in itertools.pairwise((*widths, 1))]
        memory.check_training(len(generators) * sum(sizes))
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


def ridge_fit(h: Tensor, y: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Coefficients of y_ols = H (HᵀH + λI)⁻¹ Hᵀ y, and y − y_ols, in float64.

    Factorises the smaller of w × w and N × N: y − y_ols = λ (HHᵀ + λI)⁻¹ y is the same vector.

    Args:
        h: H (…, N, w).
        y: (…, N).
        ridge: λ.

    Returns:
        (…, w) and (…, N).
    """
    h, y = h.double(), y.double()[..., None]
    dual = h.shape[-1] > h.shape[-2]
    gram = h @ h.mT if dual else h.mT @ h
    gram.diagonal(dim1=-2, dim2=-1).add_(ridge)
    factor = torch.linalg.cholesky(gram)
    if dual:
        solution = torch.cholesky_solve(y, factor)
        coefficients, residual = h.mT @ solution, ridge * solution
    else:
        coefficients = torch.cholesky_solve(h.mT @ y, factor)
        residual = y - h @ coefficients
    return coefficients.squeeze(-1), residual.squeeze(-1)


def kernel_norm(h: Tensor, vectors: Tensor) -> Tensor:
    """‖v‖_K² = vᵀHHᵀv = ‖Hᵀv‖², in float64.

    Args:
        h: H (…, N, w).
        vectors: v (…, N).

    Returns:
        (…).
    """
    return torch.einsum("...nw,...n->...w", h.double(), vectors.double()).square().sum(-1)


def initial_plane(error: Tensor, residual: Tensor) -> Tensor:
    """Orthonormal axes (R, 2, N) of the plane through y, ŷ and y_ols before training.

    The first points from ŷ to y_ols, the second, at right angles to it, from y_ols towards y.

    Args:
        error: y − ŷ (R, N).
        residual: y − y_ols (R, N).
    """
    first = functional.normalize(error - residual, dim=-1)
    along = (residual * first).sum(-1, keepdim=True) * first
    return torch.stack([first, functional.normalize(residual - along, dim=-1)], -2)


def coordinates(vectors: Tensor, plane: Tensor) -> Tensor:
    """Along both axes of a plane (R, 2, N), and the distance from it: (R, N) -> (R, 3)."""
    inside = torch.einsum("rpn,rn->rp", plane, vectors)
    outside = vectors - torch.einsum("rpn,rp->rn", plane, inside)
    return torch.cat([inside, torch.linalg.vector_norm(outside, dim=-1, keepdim=True)], -1)


@torch.no_grad()
def held_out_errors(
    model: Network, coefficients: Tensor, x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """Mean squared errors (R,) of y_ols and ŷ on samples held out, x (R, inputs, N) and y (R, N).

    coefficients: of y_ols on the training set, (R, width).
    """
    h = model.features(x)
    y_ols = torch.einsum("rw,rwn->rn", coefficients, h.double())
    return {
        "held_out_ols_error": (y - y_ols).square().mean(1),
        "held_out_loss": (y.double() - model.readout(h)).square().mean(1),
    }


def run(config: Config, width: int, replicas: Sequence[Replica]) -> Arrays:
    """Train the networks of one width as one batch; name -> (R, measured epochs, …)."""
    x, y = stack_draws(config, replicas)
    x_held_out, y_held_out = stack_draws(config, replicas, held_out=True)
    widths = (config.inputs, *[width] * (config.depth - 1))
    model = Network(widths, generators(replicas, "weights")).to(config.resolved_device)
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
                coefficients, residual = ridge_fit(features.mT, y, config.ridge)  # y − y_ols
                if epoch == 0:
                    features_before, residual_before = features, residual
                    plane = initial_plane(error, residual)
                moved = torch.linalg.matrix_norm(features - features_before)
                measures = {
                    "ols_error": residual.square().mean(1),
                    "ols_distance": (residual - error).square().mean(1),
                    "loss": error.square().mean(1),
                    "kernel_distance": kernel_norm(features.mT, residual - error),
                    "kernel_target": kernel_norm(features.mT, y),
                    "ols_movement": (residual - residual_before).square().mean(1),
                    "feature_movement": moved / torch.linalg.matrix_norm(features_before),
                    **held_out_errors(model, coefficients, x_held_out, y_held_out),
                    "output_coordinates": coordinates(-error, plane),
                    "ols_coordinates": coordinates(-residual, plane),
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
    cli.prepare(config)
    source = Source(config)
    replicas = tuple(Replica(seed, {"lr": config.learning_rate}) for seed in config.seeds)
    for width in config.widths:
        settings = {"width": width, **config.hyperparameters()}
        result = Run(config, "staircase", f"width{width}", settings, source, AXES, replicas)
        for _, arrays in runs.train(functools.partial(run, config, width), [result]):
            result.save(arrays | {"seed": config.seeds, "epoch": config.measured})


if __name__ == "__main__":
    cli.run(main)
