"""The two methods' steps, against torch's SGD and against each layer by itself."""

import copy

import pytest
import torch
from torch.nn import functional

from cases import draw
from core.virtual import virtual_covariance_shift
from experiment import covariance_learning
from lab.models import MLP
from lab.replicas import generator

X, Y = draw(2, 6, 9, seed=1), torch.arange(6).expand(2, 6) % 3


def network():
    return MLP((9, 4, 3), [generator(seed, "weights") for seed in (0, 1)]).double()


def test_a_plain_step_is_sgds():
    model, other = network(), network()
    covariance_learning.step(model, X, Y, "plain", 0.3)
    optimizer = torch.optim.SGD(other.parameters(), 0.3)
    sum(functional.cross_entropy(z, y) for z, y in zip(other(X), Y, strict=True)).backward()
    optimizer.step()
    for found, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("rate", [0.01, 5.0])
def test_a_covariance_step_gives_every_layer_the_shift_at_its_weights_of_before(rate):
    model = network()
    before = copy.deepcopy(model)
    covariance_learning.step(model, X, Y, "covariance", rate)
    plain = copy.deepcopy(before)
    covariance_learning.step(plain, X, Y, "plain", rate)
    h = X.clone()
    features = []
    for layer in before.layers:
        h.requires_grad_() if h.is_leaf else h.retain_grad()
        features.append(h)
        z = layer(h)
        h = before.activation(z)
    sum(functional.cross_entropy(logits, y) for logits, y in zip(z, Y, strict=True)).backward()
    for i, (layer, h) in enumerate(zip(before.layers, features, strict=True)):
        weight, after = layer.weight.detach(), model.layers[i].weight
        shift = virtual_covariance_shift(h.detach(), h.grad, rate)
        values, vectors = torch.linalg.eigh(weight.mT @ weight + shift)
        values[:, : -weight.shape[1]] = 0
        nearest = vectors @ torch.diag_embed(values.clamp_min(0)) @ vectors.mT
        torch.testing.assert_close(after.mT @ after, nearest, rtol=1e-8, atol=1e-8)
        assert torch.equal(model.layers[i].bias, plain.layers[i].bias)
