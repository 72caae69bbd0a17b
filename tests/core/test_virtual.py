"""Virtual Covariance against loops over samples, autograd and the movement of the weight Gram."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from cases import draw
from core.gram import cosine, weight_gram
from core.virtual import (
    feature_learning_residual,
    gram_change_diagonals,
    gram_shift_cosine,
    virtual_covariance,
    virtual_covariance_shift,
    virtual_update,
)
from oracles import difference

FUNCTIONS = [virtual_update, virtual_covariance, virtual_covariance_shift]
COVARIANCES = FUNCTIONS[1:]


def pair(n, d, dtype=torch.float64):
    """Features and the gradient of a loss, both noise."""
    return draw(n, d, dtype=dtype), draw(n, d, seed=1, dtype=dtype)


def looped(features, gradient, rate):
    """Σ h⁺ h⁺ᵀ and Σ h hᵀ, sample by sample in float64."""
    d = features.shape[1]
    moved, still = np.zeros((d, d)), np.zeros((d, d))
    for h, a in zip(features.double().numpy(), gradient.double().numpy(), strict=True):
        moved += np.outer(h - rate * a, h - rate * a)
        still += np.outer(h, h)
    return moved, still


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(20, 3), (3, 20), (1, 4), (0, 3)])
def test_covariance_and_its_shift_equal_a_loop_over_samples(shape, dtype):
    features, gradient = pair(*shape, dtype=dtype)
    for rate in (0.0, 0.3, 700.0, -2.0):
        moved, still = looped(features, gradient, rate)
        for function, expected in zip(COVARIANCES, (moved, moved - still), strict=True):
            actual = function(features, gradient, rate)
            assert actual.dtype == torch.float64
            assert difference(actual, expected) < 1e-13


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_update_is_gradient_descent_on_the_features(dtype):
    features, gradient = pair(6, 3, dtype=dtype)
    parameter = nn.Parameter(features.clone())
    parameter.grad = gradient
    torch.optim.SGD([parameter], lr=0.25).step()
    actual = virtual_update(features, gradient, 0.25)
    assert actual.dtype == dtype
    assert torch.equal(actual, parameter.detach())


def test_update_has_the_wider_dtype():
    features, gradient = pair(4, 2)
    assert virtual_update(features.float(), gradient, 0.1).dtype == torch.float64
    assert virtual_update(features, gradient.float(), 0.1).dtype == torch.float64


@pytest.mark.parametrize("function", FUNCTIONS)
def test_arguments_are_left_as_they_are(function):
    features, gradient = pair(6, 3)
    before = features.clone(), gradient.clone()
    function(features, gradient, 0.5)
    assert torch.equal(features, before[0])
    assert torch.equal(gradient, before[1])


@pytest.mark.parametrize("rate", [1e-9, 1e-20])
def test_shift_keeps_its_digits_where_the_rate_is_tiny(rate):
    features, gradient = pair(40, 3)
    cross = gradient.mT @ features
    expected = -rate * (cross + cross.mT)
    shift = virtual_covariance_shift(features, gradient, rate)
    assert difference(shift, expected) < 10 * rate + 1e-14
    subtracted = virtual_covariance(features, gradient, rate) - features.mT @ features
    assert difference(subtracted, expected) > 1e-8  # what subtracting would lose


@pytest.mark.parametrize("rate", [1e155, 1e300])
def test_a_rate_whose_square_overflows_gives_what_is_not_finite_and_no_error(rate):
    features, gradient = pair(40, 3)
    for function in COVARIANCES:
        assert not function(features, gradient, rate).isfinite().any()


@pytest.mark.parametrize("rate", [1e155, 1e300])
def test_the_shift_is_right_at_a_rate_whose_square_overflows_where_the_gradient_is_small(rate):
    features, gradient = pair(40, 3)
    expected = virtual_covariance_shift(features, gradient, 0.1)
    shift = virtual_covariance_shift(features, 0.1 / rate * gradient, rate)
    assert difference(shift, expected) < 1e-13


SHAPES = [((4, 3), (3, 4)), ((4, 3), (4,)), ((4,), (4,)), ((2, 4, 3), (4, 3)), ((), ())]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_anything_but_two_matrices_of_one_shape_is_an_error(function):
    for shapes in SHAPES:
        with pytest.raises(ValueError, match="one shape"):
            function(*(torch.ones(shape) for shape in shapes), 0.1)


def test_the_parts_of_a_change_of_gram_are_planted():
    """W = (3, 4), h = (1, 2), ∂L/∂z = 1: at rate ½ the weight becomes (2.5, 3)."""
    h, w = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    parts = gram_change_diagonals(h, w, h, 0.5)
    assert [part.tolist() for part in parts] == [[-3, -8], [9 / 4, 4], [1 / 4, 1]]
    assert (parts[0] + parts[2]).tolist() == [2.5**2 - 3**2, 3**2 - 4**2]


def test_the_parts_of_a_change_of_gram_equal_diagonals_of_whole_matrices():
    shapes = (2, 20, 4), (2, 20, 4), (2, 3, 4)
    h, a, gradient = (draw(*shape, seed=i) for i, shape in enumerate(shapes))
    first_order, outer, second_order = gram_change_diagonals(h, a, gradient, 0.3)
    for r in range(2):
        shift = virtual_covariance_shift(h[r], a[r], 0.3)
        assert difference((first_order + outer)[r], shift.diagonal()) < 1e-13
        assert difference(outer[r], (0.09 * a[r].T @ a[r]).diagonal()) < 1e-13
        moment = 0.09 * gradient[r].T @ gradient[r]
        assert difference(second_order[r], moment.diagonal()) < 1e-13
    with pytest.raises(ValueError, match="one shape"):
        gram_change_diagonals(h, a[0], gradient, 0.3)


class Layer:
    """A linear layer inside a network on noise, its gradients by autograd."""

    def __init__(self, bias, n=30, d=4, m=6):
        self.features = draw(n, d).requires_grad_()
        layer = nn.Linear(d, m, bias=bias).double()
        tail = nn.Sequential(layer, nn.GELU(), nn.Linear(m, 1).double())
        with torch.no_grad():
            for i, p in enumerate(tail.parameters()):
                p.copy_(draw(*p.shape, seed=i + 2))
        (tail(self.features) - draw(n, 1, seed=9)).square().mean().backward()
        self.gradient, self.features = self.features.grad, self.features.detach()
        self.weight, self.weight_gradient = layer.weight.detach(), layer.weight.grad

    def gram_shift(self, rate):
        """Movement of the weight Gram by one step of gradient descent."""
        moved = self.weight - rate * self.weight_gradient
        return weight_gram(moved) - weight_gram(self.weight)


@pytest.fixture(params=[False, True], ids=["no bias", "bias"])
def layer(request):
    return Layer(request.param)


def test_a_step_on_the_weights_moves_the_gram_by_the_terms_of_theorem_1(layer):
    rate = 0.3
    cross = layer.gradient.mT @ layer.features
    expected = -rate * (cross + cross.mT) + rate**2 * weight_gram(layer.weight_gradient)
    assert difference(layer.gram_shift(rate), expected) < 1e-13


def test_the_shift_cosine_is_that_of_the_dense_matrices(layer):
    cross = layer.gradient.mT @ layer.features
    expected = cosine(weight_gram(layer.weight), -(cross + cross.mT))
    assert gram_shift_cosine(layer.weight, layer.weight_gradient) == pytest.approx(expected)
    shift = virtual_covariance_shift(layer.features, layer.gradient, 1e-10)
    limit = cosine(weight_gram(layer.weight), shift)
    assert gram_shift_cosine(layer.weight, 7 * layer.weight_gradient) == pytest.approx(limit)


def test_the_shift_cosine_where_one_of_the_two_is_zero_is_nan_and_never_infinite():
    weight = draw(6, 4)
    assert math.isnan(gram_shift_cosine(0 * weight, weight))
    assert math.isnan(gram_shift_cosine(weight, 0 * weight))
    for seed in range(10):  # the step only rotates: the shift is rounding
        weight, turn = torch.linalg.qr(draw(5, 5, seed=seed)).Q, draw(5, 5, seed=seed + 100)
        assert not math.isinf(gram_shift_cosine(weight, weight @ (turn - turn.mT)))


def test_the_shift_cosine_keeps_its_digits_in_float32_where_gradients_are_small():
    weight, gradient = draw(6, 4), draw(6, 4, seed=1)
    expected = gram_shift_cosine(weight, gradient)
    actual = gram_shift_cosine(weight.float() * 1e-4, gradient.float() * 1e-12)
    assert actual == pytest.approx(expected, rel=1e-4)


def test_the_residual_is_the_relative_distance_of_the_two_sides(layer):
    arguments = (layer.features, layer.weight, layer.gradient)
    assert feature_learning_residual(*arguments, layer.weight_gradient) < 1e-13
    other = draw(6, 4, seed=3)
    right = layer.gradient.mT @ layer.features
    expected = difference(layer.weight.mT @ other, right)
    assert expected > 0.1
    assert feature_learning_residual(*arguments, other) == pytest.approx(expected, rel=1e-12)


def test_the_residual_where_nothing_is_learnt_is_zero():
    zeros, ones = torch.zeros(5, 3), torch.ones(5, 3)
    assert feature_learning_residual(ones, torch.ones(2, 3), zeros, torch.zeros(2, 3)) == 0


def test_the_residual_of_what_is_no_number_is_none(layer):
    arguments = [layer.features, layer.weight, layer.gradient, layer.weight_gradient]
    arguments[1] = torch.full_like(layer.weight, math.nan)
    assert math.isnan(feature_learning_residual(*arguments))


def test_the_residual_of_replicas_is_one_number_each():
    features, gradient, weight = draw(3, 5, 4), draw(3, 5, 4, seed=1), draw(3, 6, 4)
    gradient[1] = 0  # nothing is learnt: zero there, and the others as they are
    weight_gradient = torch.linalg.pinv(weight.mT) @ gradient.mT @ features
    weight_gradient[2] *= 2
    residual = feature_learning_residual(features, weight, gradient, weight_gradient)
    np.testing.assert_allclose(residual, [0, 0, 1], atol=1e-12)
