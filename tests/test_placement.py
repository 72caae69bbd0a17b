"""Every experiment on a simulated GPU: one device throughout, the CPU's numbers, no waiting."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from core import gram
from experiment import (
    gram_parts,
    gram_virtual_covariance,
    grokking,
    neural_collapse,
    published_formulas,
    random_label,
    staircase,
    swissroll,
    target_linearity,
    vae_ceiling,
    vae_train,
    virtual_covariance,
    weight_decay,
    whiten,
    whiten_cnn,
)
from lab import cli, data
from lab.replicas import Replica
from simulated_gpu import SimulatedGPU, move

DIGITS = {"datasets": ("digits",), "epochs": 1, "batch_size": 500}
SIZES = {**DIGITS, "width": 8}
MLP = {**SIZES, "depth": 2}
RATES = tuple(Replica(seed, {"lr": 0.05}) for seed in (0, 1))
OWN_RATES = (Replica(0, {"lr": 0.05}), Replica(1, {"lr": 0.01}))
EXPERIMENTS = {  # name -> script, fields, what stands between the configuration and the replicas
    "virtual_covariance": (virtual_covariance, SIZES, ("digits", "sgd"), RATES),
    "target_linearity": (target_linearity, MLP, ("digits",), RATES),
    **{
        f"{script.__name__}-{architecture}": (
            script,
            {**SIZES, "depth": 1, "architecture": architecture},
            ("digits", *arguments),
            RATES,
        )
        for script, arguments in ((target_linearity, ()), (virtual_covariance, ("sgd",)))
        for architecture in ("resnet", "transformer")
    },
    "random_label": (
        random_label,
        MLP,
        ("digits",),
        tuple(Replica(s, {"lr": 0.05}, {"probability": 0.5}) for s in (0, 1)),
    ),
    "grokking": (
        grokking,
        {"modulus": 11, "width": 8, "depth": 2, "epochs": 1, "batch_size": 500},
        (),
        tuple(Replica(s, {"weight_decay": 0.5}) for s in (0, 1)),
    ),
    "neural_collapse": (neural_collapse, MLP, ("digits",), RATES),
    "published_formulas": (published_formulas, MLP, ("digits",), RATES[:1]),
    "vae_train": (
        vae_train,
        {**DIGITS, "hidden": 8, "latent": 2, "betas": (1.0,)},
        ("digits",),
        tuple(Replica(s, {"lr": 0.01}, {"beta": 1.0}) for s in (0, 1)),
    ),
    **{
        f"whiten-{method}": (whiten, MLP, ("digits", method), OWN_RATES)
        for method in whiten.METHODS
    },
    "whiten_cnn": (
        whiten_cnn,
        {**DIGITS, "channels": 2},
        ("digits", "exact"),
        RATES,
    ),
}
FULL_BATCH = {
    "gram_parts": (
        gram_parts,
        {"datasets": ("digits",), "epochs": 2, "measurements": 1, "width": 8},
        ("digits", "shuffled", 1437),
        RATES,
    ),
    "gram_virtual_covariance": (
        gram_virtual_covariance,
        {"datasets": ("digits",), "width": 8, "samples": 50, "time": 1.0, "points": 2},
        ("digits", None),
        tuple(Replica(s, settings={"rate": 0.1}) for s in (0, 1)),
    ),
    "staircase": (
        staircase,
        {"samples": 50, "epochs": 4, "every": 2},
        (8,),
        tuple(Replica(s, {"lr": 0.01}) for s in (0, 1)),
    ),
    "weight_decay": (
        weight_decay,
        {"datasets": ("digits",), "width": 8, "samples": 50, "epochs": 4, "every": 2},
        ("digits", "cross_entropy"),
        tuple(Replica(s, settings={"arm": 0}) for s in (0, 1)),
    ),
    "swissroll": (swissroll, {"samples": 50, "epochs": 4}, (), RATES),
    "vae_ceiling": (
        vae_ceiling,
        {"datasets": ("digits",), "components": 4},
        ("digits",),
        RATES[:1],
    ),
}
STEPS = 15  # in the one epoch of 1,437 digits, by batches of 100
EXTRA_STEPS = STEPS - 3  # beyond those by batches of 500
SHAPES = 3  # of weights, of the MLP as of the CNN; those of one shape are one batch


@pytest.fixture
def gpu_in_reach(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(nn.Module, "to", move)
    # asks the driver
    monkeypatch.setattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", Mock())
    yield
    data.load_images.cache_clear()  # what is cached was resident


def on_gpu(name, results, **changes):
    """An experiment's arrays, and the waits while it ran."""
    script, fields, arguments, replicas = (EXPERIMENTS | FULL_BATCH)[name]
    config = script.Config(device="cuda", results=results, **{**fields, **changes})
    with SimulatedGPU() as gpu:
        for dataset in fields.get("datasets", ()):  # once, and its fingerprint with it
            cli.load_images(config, dataset)
        gpu.waits.clear()
        arrays = script.run(config, *arguments, replicas)
    return arrays, gpu.waits


@pytest.mark.usefixtures("gpu_in_reach")
@pytest.mark.parametrize("name", EXPERIMENTS | FULL_BATCH)
def test_an_experiment_gives_the_cpus_numbers_on_the_gpu_and_no_training_step_waits(name, tmp_path):
    script, fields, arguments, replicas = (EXPERIMENTS | FULL_BATCH)[name]
    config = script.Config(device="cpu", results=tmp_path, **fields)
    expected = script.run(config, *arguments, replicas)
    arrays, few = on_gpu(name, tmp_path)
    assert few  # at least to bring the results to the host
    for key, values in expected.items():
        if not key.endswith("seconds"):
            # the CPU's singular values round a step of 10⁻⁴ ‖W‖ by 10⁻³ of its length
            rtol = 2e-3 if key == "step_length" else 1e-4
            np.testing.assert_allclose(arrays[key], values, rtol=rtol, atol=1e-6, err_msg=key)
    if name in FULL_BATCH:
        return
    _, many = on_gpu(name, tmp_path, batch_size=100)
    if name.startswith("whiten") and name not in ("whiten-plain", "whiten-biases"):
        # once for the weights of a shape: whether its step is short or its polar factor not settled
        few += ["__bool__"] * SHAPES * EXTRA_STEPS
    assert sorted(few) == sorted(many)


@pytest.mark.usefixtures("gpu_in_reach")
@pytest.mark.parametrize("method", ["exact", "step_matched", "complement"])
def test_a_gpu_whitens_by_matrix_products_alone(method, tmp_path, monkeypatch):
    by_products = Mock(wraps=gram.polar_by_products)
    monkeypatch.setattr(gram, "polar_by_products", by_products)
    monkeypatch.setattr(torch.linalg, "svd", Mock(side_effect=AssertionError))
    on_gpu(f"whiten-{method}", tmp_path, batch_size=100)
    assert by_products.call_count == SHAPES * STEPS


@pytest.mark.parametrize("meet", [torch.add, torch.dot, lambda a, b: torch.stack([a, b])])
def test_two_devices_that_meet_are_an_error(meet):
    with SimulatedGPU():
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        assert [t.device.type for t in (there, 2 * there, here)] == ["cuda", "cuda", "cpu"]
        with pytest.raises(RuntimeError, match="on the CPU"):
            meet(there, here)
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(3, device="cuda", generator=torch.Generator())


def test_a_gpu_whitens_weights_of_one_shape_as_one_batch_unless_they_are_large(monkeypatch):
    sizes = []
    monkeypatch.setattr(gram, "resolved_update", lambda _, a, b: sizes.append(len(a)) or b)
    monkeypatch.setattr(gram, "ALONE", 6)
    for device, expected in (("cuda", [3, 1, 1]), ("cpu", [1] * 5)):
        with SimulatedGPU():
            shapes = [(2, 3), (3, 3), (2, 3), (3, 3), (2, 3)]
            weights = [nn.Parameter(torch.ones(shape).to(device)) for shape in shapes]
            for weight in weights:
                weight.grad = torch.ones(weight.shape).to(device)
            optimizer = torch.optim.SGD(weights, lr=0.1, foreach=False)
            gram.GramWhitening(optimizer)
            optimizer.step()
        assert sizes == expected
        sizes.clear()
