"""On a GPU without float64, as Apple's are, sums are taken on the CPU: the same numbers."""

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cases import draw
from core import batch, calls, moments, reading
from core.collapse import class_means, nearest_mean_disagreement
from core.gram import GramWhitening, cosine, effective_rank
from core.linearity import target_linearity
from core.measure import measure
from core.theories import THEORIES
from core.virtual import feature_learning_residual, gram_shift_cosine, virtual_covariance_shift
from simulated_gpu import Resident, SimulatedGPU, move


class WithoutFloat64(SimulatedGPU):
    """A simulated GPU that refuses numbers of float64."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = super().__torch_function__(function, types, args, kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Resident) and leaf.dtype == torch.float64:
                raise TypeError(f"{function}: no float64 on this GPU")
        return result


@pytest.fixture(autouse=True)
def without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (batch, reading):
        monkeypatch.setattr(module, "WITHOUT_FLOAT64", ("cuda",))


X, Y = draw(60, 6, dtype=torch.float32), torch.arange(60) % 4


def test_the_simulated_gpu_has_none() -> None:
    with WithoutFloat64(), pytest.raises(TypeError, match="no float64"):
        X.to("cuda").to(torch.float64)


FUNCTIONS = {
    "target linearity": lambda at: target_linearity(at(X), at(Y)),
    "of real targets": lambda at: target_linearity(at(X), at(X[:, :2].sin())),
    "cosine": lambda at: cosine(at(X), at(X.roll(1, 0))),
    "effective rank": lambda at: effective_rank(at(X)),
    "shift": lambda at: gram_shift_cosine(at(X), at(X.roll(1, 0))),
    "residual": lambda at: feature_learning_residual(
        at(X), at(X[:5]), at(X.roll(1, 0)), at(X[5:10])
    ),
    "covariance": lambda at: virtual_covariance_shift(at(X), at(X.roll(1, 0)), 0.1).norm().item(),
    "nc4": lambda at: nearest_mean_disagreement(
        at(X), at(Y), class_means(moments.FeatureMoments().update(at(X), at(Y)))
    ),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_give_the_cpus_numbers(function: Callable) -> None:
    expected = function(lambda tensor: tensor)
    with WithoutFloat64():
        assert function(lambda tensor: tensor.to("cuda")) == pytest.approx(expected, rel=1e-6)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4))


@pytest.mark.parametrize(
    "targets", [Y, Y.tolist(), X[:, :4].tolist()], ids=["classes", "list", "reals"]
)
def test_every_measure_of_a_model(targets: object, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(targets, Tensor) and isinstance(targets[0], list):
        cpu = torch.tensor(targets)
    else:
        cpu = targets
    here = measure(network(), [(X, cpu)], [(X.flip(0), cpu)], theories=THEORIES)
    monkeypatch.setattr(calls, "Tensor", Resident)  # what a layer's weight is there
    monkeypatch.setattr(torch.random, "fork_rng", lambda _: nullcontext())  # of no real GPU
    with WithoutFloat64():
        batches, others = [(X.to("cuda"), targets)], [(X.flip(0).to("cuda"), targets)]
        there = measure(move(network(), "cuda"), batches, others, theories=THEORIES)
    for row, other in zip(here, there, strict=True):
        for name, value in dataclasses.asdict(row).items():
            if isinstance(value, float) and name != "residual":
                assert getattr(other, name) == pytest.approx(value, rel=1e-5, nan_ok=True), name


def test_whitened_steps() -> None:
    models = [network(), network()]
    for model, on_gpu in zip(models, (False, True), strict=True):
        with WithoutFloat64():
            at = "cuda" if on_gpu else "cpu"
            move(model, at)
            optimizer = torch.optim.SGD(model.parameters(), 1e-6, foreach=False)  # short steps
            GramWhitening(optimizer)
            loss = nn.functional.cross_entropy(model(X.to(at)), Y.to(at))
            loss.backward()
            optimizer.step()
    here, there = (torch.cat([p.detach().cpu().flatten() for p in m.parameters()]) for m in models)
    torch.testing.assert_close(here, there.as_subclass(Tensor), rtol=1e-6, atol=1e-7)
