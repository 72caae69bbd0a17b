"""The average gradient outer product against a double loop over samples and outputs."""

import math

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from cases import draw
from core.agop import average_gradient_outer_product, gram_agop_cosine, output_gradients
from core.gram import cosine, weight_gram
from oracles import difference

N, D, M, C = 7, 4, 6, 3
WEIGHT, READOUT = draw(2, M, D, seed=1), draw(2, C, M, seed=2)  # of two networks


def upper(z, r):
    """Outputs of network r from its layer's outputs z."""
    return z.tanh() @ READOUT[r].mT


def looped(function, rows):
    """1/N Σ over samples and outputs of ∂f/∂h ∂f/∂hᵀ."""
    outer = torch.zeros(rows.shape[1], rows.shape[1], dtype=rows.dtype)
    for row in rows:
        for gradient in jacobian(function, row):
            outer += torch.outer(gradient, gradient)
    return outer / len(rows)


def network(h):
    """Inputs h (2, N, D), outputs of the layer and of the two networks, in one graph."""
    h = h.requires_grad_()
    z = h @ WEIGHT.mT
    return h, z, z.tanh() @ READOUT.mT


def test_equals_a_double_loop_in_every_layer_of_every_network():
    h, z, outputs = network(draw(2, N, D))
    of_inputs, of_outputs = average_gradient_outer_product(outputs, [h, z])
    for r in range(2):
        rows = h[r].detach(), z[r].detach()
        expected = looped(lambda row, r=r: upper(row @ WEIGHT[r].mT, r), rows[0])
        assert difference(of_inputs[r], expected) < 1e-13
        assert difference(of_outputs[r], looped(lambda row, r=r: upper(row, r), rows[1])) < 1e-13


def test_features_that_the_outputs_do_not_depend_on_have_none():
    h, _, outputs = network(draw(2, N, D))
    aside = h * 2
    assert not average_gradient_outer_product(outputs, [aside])[0].any()
    assert [gradients[1] for gradients in output_gradients(outputs, [h, aside])] == [None] * C


def test_gradients_of_outputs_are_those_of_each_sample():
    model, x = nn.Sequential(nn.Linear(D, M), nn.GELU(), nn.Linear(M, C)).double(), draw(N, D)
    x.requires_grad_()
    gradients = torch.stack([g for (g,) in output_gradients(model(x), [x])], 1)  # (N, C, D)
    expected = torch.stack([jacobian(model, row) for row in x.detach()])
    assert difference(gradients, expected) < 1e-13


def test_the_cosine_is_that_of_the_dense_matrices():
    h, z, outputs = network(draw(2, N, D))
    of_inputs, of_outputs = average_gradient_outer_product(outputs, [h, z])
    for r in range(2):
        expected = cosine(weight_gram(WEIGHT[r]), of_inputs[r])
        assert gram_agop_cosine(WEIGHT[r], 5 * of_outputs[r]) == pytest.approx(expected, rel=1e-12)


def test_the_cosine_where_one_of_the_two_is_zero_is_nan_and_never_infinite():
    assert math.isnan(gram_agop_cosine(torch.zeros(M, D), torch.eye(M)))
    assert math.isnan(gram_agop_cosine(torch.ones(M, D), torch.zeros(M, M)))
    for seed in range(10):  # WᵀKW is rounding
        basis = torch.linalg.qr(draw(M, M, seed=seed)).Q
        weight, unseen = basis[:, :D] @ draw(D, D), basis[:, D:] @ basis[:, D:].mT
        assert not math.isinf(gram_agop_cosine(weight, unseen))
