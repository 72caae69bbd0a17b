"""Replicated networks against torch's own layers, and how their weights are drawn."""

import pytest
import torch

from lab.models import CNN, MLP, VAE
from lab.replicas import Replica, generators
from oracles import torch_layers

SHAPE, CLASSES, REPLICAS = (2, 9, 8), 4, 3
KINDS = ("MLP", "CNN")


SEEDS = range(REPLICAS)


def build(kind, seeds=SEEDS):
    draws = generators([Replica(seed) for seed in seeds], "weights")
    if kind == "MLP":
        return MLP((144, 12, 10, CLASSES), draws)
    return CNN(SHAPE, 6, CLASSES, draws)


def images(n=7):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(REPLICAS, n, *SHAPE, generator=draw, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_each_replica_computes_what_torch_layers_of_its_weights_compute(kind):
    model, x = build(kind).double(), images()
    logits = model(x)
    assert logits.shape == (REPLICAS, 7, CLASSES)
    for r in range(REPLICAS):
        torch.testing.assert_close(logits[r], torch_layers(model, r)(x[r]), rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_vae_is_two_mlps():
    model, x = (
        VAE(144, 12, 3, generators([Replica(0), Replica(1)], "weights")).double(),
        images()[:2],
    )
    mean, log_variance = model.encode(x)
    pixels = model.decode(mean)
    for r in range(2):
        encoded = torch_layers(model.encoder, r)(x[r])
        torch.testing.assert_close(mean[r], encoded[:, :3], rtol=0, atol=1e-12)
        torch.testing.assert_close(log_variance[r], encoded[:, 3:], rtol=0, atol=1e-12)
        decoded = torch_layers(model.decoder, r)(mean[r])
        torch.testing.assert_close(pixels[r], decoded, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_initial_weights_are_drawn_as_torch_draws_them(kind):
    model = build(kind, range(20))
    layers = model.layers if kind == "MLP" else [*model.convolutions, model.readout]
    references = [layer for layer in torch_layers(model, 0) if hasattr(layer, "weight")]
    for layer, reference in zip(layers, references, strict=True):
        reference.reset_parameters()
        for p, q in ((layer.weight, reference.weight), (layer.bias, reference.bias)):
            bound = 1 / layer.weight[0, 0].numel() ** 0.5
            assert p.shape[1:] == q.shape
            assert 0.9 * bound < p.abs().max() <= bound
            assert q.abs().max() <= bound
            assert p.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)
