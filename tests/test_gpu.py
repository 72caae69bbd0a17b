"""On a GPU, where there is one: the CPU's numbers, by the mathematics and by whole experiments.

pytest tests/test_gpu.py
"""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from cases import draw
from core.gram import GramWhitening
from core.measure import measure
from core.polar import polar_by_products, polar_factor
from lab import data, gpus
from matrices import low_rank, spectrum
from oracles import difference
from test_placement import EXPERIMENTS, FULL_BATCH

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU, or not asked for by name"
)


@pytest.fixture(autouse=True)
def forget_data():
    data.load_images.cache_clear()
    yield
    data.load_images.cache_clear()  # what is cached is on the GPU


def network() -> nn.Module:
    torch.manual_seed(0)
    first = [nn.Conv2d(2, 4, 3, padding=1), nn.GELU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *first, nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 4)
    ).double()


def batches(device: str) -> list:
    x, y = draw(120, 2, 6, 6, seed=1).to(device), (torch.arange(120) % 4).to(device)
    return list(zip(x.split(25), y.split(25), strict=True))


def test_every_measure_of_a_model():
    model = network()
    here, there = measure(model, batches("cpu")), measure(model.cuda(), batches("cuda"))
    for row, other in zip(here, there, strict=True):
        for name, value in dataclasses.asdict(row).items():
            if isinstance(value, float):
                assert getattr(other, name) == pytest.approx(value, rel=1e-8, nan_ok=True), name


@pytest.mark.parametrize("method", ["exact", "step_matched", "complement", "newton_schulz"])
def test_whitened_steps(method):
    models = [network(), network().cuda()]
    for model, device in zip(models, ("cpu", "cuda"), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        GramWhitening(optimizer, method)
        for x, y in batches(device):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    here, there = ([p.detach().cpu() for p in model.parameters()] for model in models)
    torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "condition"), [(torch.float32, 1e7), (torch.float64, 1e15)])
def test_polar_factors_by_products(dtype, condition):
    values = np.geomspace(1, 1 / condition, 64)
    matrix, planted = spectrum(values, 64, 64)
    result = polar_by_products(matrix.to("cuda", dtype)).cpu().double()
    assert difference(result.T @ result, np.eye(64)) < 1e-5
    rounding = torch.finfo(dtype).eps * condition
    assert difference(result, planted) < 4 * rounding


@pytest.mark.parametrize("rank", [0, 3])
def test_polar_factors_that_are_not_settled(rank):
    matrix = torch.stack([low_rank(6, 6, 3) * (rank > 0), spectrum(np.ones(6), 6, 6)[0]])
    result = polar_factor(matrix.cuda())
    np.testing.assert_allclose((result.mT @ result).cpu(), np.stack([np.eye(6)] * 2), atol=1e-12)


@pytest.mark.parametrize("name", EXPERIMENTS | FULL_BATCH)
def test_an_experiment(name, tmp_path):
    script, fields, arguments, replicas = (EXPERIMENTS | FULL_BATCH)[name]
    found = {}
    for device in ("cpu", "cuda"):
        data.load_images.cache_clear()
        config = script.Config(device=device, results=tmp_path / device, **fields)
        found[device], _ = gpus.first_that_fit(
            lambda part, config=config: script.run(config, *arguments, part),
            gpus.Memory(),
            replicas,
        )
    for key, values in found["cpu"].items():
        if not key.endswith("seconds"):
            rtol = 2e-2 if key == "step_length" else 1e-3
            np.testing.assert_allclose(
                found["cuda"][key], values, rtol=rtol, atol=1e-5, err_msg=key
            )
