"""What Figures 2 and 6 share: training by three methods, and saving one result a rate.

"plain" takes the optimizer's steps as they are; "exact" projects each with `GramWhitening`; "newton_schulz"
projects by the published approximation.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import cli
import data
import training
from core.gram import GramWhitening
from results import Arrays, Partial
from training import Replica

METHODS = ("plain", "exact", "newton_schulz")
Build = Callable[[Any, data.Images, Sequence[torch.Generator]], nn.Module]

_BY_EPOCH = ("learning_rate", "seed", "epoch")
AXES = {
    "test_accuracy": _BY_EPOCH,
    "test_loss": _BY_EPOCH,  # mean cross-entropy in nats
    "singular_values": (*_BY_EPOCH, "singular_value"),  # of the second layer's weight
    "gram_change": _BY_EPOCH,  # see GramProbe
    "gram_error": _BY_EPOCH,
    "learning_rate": ("learning_rate",),
    "seed": ("seed",),
    "epoch": ("epoch",),
}


def check(config: Any) -> None:
    """Raise ConfigError where a hyperparameter that both figures have cannot be."""
    positive = ("learning_rates", "newton_schulz_rates", "epochs", "batch_size")
    cli.check(config, positive=positive, natural=("seeds",), fractions=("momentum",), choices={"methods": METHODS})
    cli.check_datasets(config.datasets)


class GramProbe:
    """Records what the last step of each epoch does to the Gram matrix of the second layer.

    gram_change: ‖W₂ᵀW₂ − W₁ᵀW₁‖ / ‖W₁ᵀW₁‖, by the optimizer's own step W₁ → W₂.
    gram_error: ‖W₂'ᵀW₂' − W₂ᵀW₂‖ / ‖W₂ᵀW₂‖, by the projection W₂ → W₂' that should leave it alone.
    Both (R,), Frobenius norms in float64; zero before training.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, method: str, steps_per_epoch: int) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.step = 0
        self.grams: list[Tensor] = []  # before the step, after it, after the projection: (R, d, d)
        self.values = {name: torch.zeros(len(self._weight(optimizer))) for name in ("gram_change", "gram_error")}
        optimizer.register_step_pre_hook(self._record)
        optimizer.register_step_post_hook(self._record)
        if method != "plain":
            GramWhitening(optimizer, method, batch_dims=1)
        optimizer.register_step_post_hook(self._finish)

    @staticmethod
    def _weight(optimizer: torch.optim.Optimizer) -> Tensor:
        """The second layer's weight, kernels as rows, of all replicas: (R, m, d)."""
        return torch.cat([group["params"][2].detach().flatten(2) for group in optimizer.param_groups])

    def _record(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if (self.step + 1) % self.steps_per_epoch == 0:
            weight = self._weight(optimizer).double()
            self.grams.append(weight.mT @ weight)

    def _finish(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._record(optimizer)
        if self.grams:
            before, after, projected = self.grams
            norm = torch.linalg.matrix_norm
            self.values["gram_change"] = norm(after - before) / norm(before)
            self.values["gram_error"] = norm(projected - after) / norm(after)
        self.grams = []
        self.step += 1


def train_group(build: Build, config: Any, dataset: str, method: str, replicas: Sequence[Replica]) -> Arrays:
    """Train replicas as one batch by one method; name -> (R, epochs + 1, …)."""
    images = data.load(dataset, config.data, config.resolved_device)
    model = build(config, images, [training.generator(r.seed, "weights") for r in replicas])
    model.to(config.resolved_device)
    probes = []

    def attach(optimizer: torch.optim.Optimizer) -> None:
        probes.append(GramProbe(optimizer, method, -(-len(images.x_train) // config.batch_size)))

    def measure(model: nn.Module) -> dict[str, Tensor]:
        weight = list(model.parameters())[2].flatten(2)  # (R, m, d)
        spectrum = {"singular_values": torch.linalg.svdvals(weight)}
        return training.evaluate(model, images, "test") | spectrum | probes[0].values

    return training.train(
        model,
        images,
        replicas,
        functools.partial(torch.optim.SGD, momentum=config.momentum, fused=True),
        measure,
        epochs=config.epochs,
        batch_size=config.batch_size,
        attach=attach,
        description=f"{images.name} {method} {dict(replicas[0].options)} seed {replicas[0].seed}",
    )


def run(build: Build, config: Any, dataset: str, method: str, partial: Partial | None = None) -> Arrays:
    """Train a data set by one method at every rate and seed of the configuration; arrays as in AXES."""
    rates = config.learning_rates
    runs = training.train_all(
        functools.partial(train_group, build, config, dataset, method),
        [Replica(seed, {"lr": rate}) for rate in rates for seed in config.seeds],
        device=config.resolved_device,
        jobs=config.jobs,
        partial=partial,
    )
    arrays = training.grid({"learning_rate": rates, "seed": config.seeds}, runs)
    named = {"learning_rate": rates, "seed": config.seeds, "epoch": range(config.epochs + 1)}
    return arrays | {name: np.array(values) for name, values in named.items()}


def execute(build: Build, config: Any, experiment: str) -> None:
    """Train what is not yet there and save one result for each data set, method and rate."""
    cli.prepare(config)
    for dataset in config.datasets:  # that the network takes these images, before any work
        build(config, data.load(dataset, config.data, config.resolved_device), [training.generator(0, "weights")])
    fixed = config.hyperparameters("datasets", "methods", "learning_rates", "newton_schulz_rates")
    for dataset in config.datasets:
        images = data.load(dataset, config.data, config.resolved_device)
        for method in config.methods:
            rates = config.newton_schulz_rates if method == "newton_schulz" else config.learning_rates
            outputs = [
                cli.Output(
                    f"{images.name}-{method}-lr{rate!r}",
                    {"dataset": images.name, "method": method, "learning_rate": rate, **fixed},
                )
                for rate in rates
            ]

            def compute(
                rates: tuple[float, ...], partial: Partial, dataset: str = dataset, method: str = method
            ) -> Arrays:
                return run(build, replace(config, learning_rates=rates), dataset, method, partial)

            cli.produce_each(config, experiment, images, AXES, "learning_rate", outputs, compute)
