"""Virtual update and Virtual Covariance against loops over samples, autograd and the movement of the weight Gram."""

import numpy as np
import pytest
import torch
from torch import nn

from core.gram import weight_gram
from core.virtual import virtual_covariance, virtual_covariance_change, virtual_update

FUNCTIONS = [virtual_update, virtual_covariance, virtual_covariance_change]
SHAPES = [(20, 3), (3, 20), (1, 4), (5, 1), (0, 3)]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pair(n, d, dtype=torch.float64):
    return draw(n, d, dtype=dtype), draw(n, d, seed=1, dtype=dtype)


def looped(features, gradient, rate):
    """Σ h̃ h̃ᵀ and Σ h hᵀ, sample by sample in float64."""
    d = features.shape[1]
    moved, still = np.zeros((d, d)), np.zeros((d, d))
    for h, a in zip(features.double().numpy(), gradient.double().numpy(), strict=True):
        moved += np.outer(h - rate * a, h - rate * a)
        still += np.outer(h, h)
    return moved, still


def difference(found, expected):
    """Largest difference relative to the norm of `expected`."""
    found, expected = (np.asarray(a.detach() if torch.is_tensor(a) else a, dtype=np.float64) for a in (found, expected))
    assert found.shape == expected.shape
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-300)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rate", [0.0, 0.3, 700.0, -2.0])
def test_covariance_and_its_change_equal_a_loop_over_samples(shape, rate, dtype):
    features, gradient = pair(*shape, dtype=dtype)
    moved, still = looped(features, gradient, rate)
    for found, expected in (
        (virtual_covariance(features, gradient, rate), moved),
        (virtual_covariance_change(features, gradient, rate), moved - still),
    ):
        assert found.dtype == torch.float64
        assert difference(found, expected) < 1e-13


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_update_is_gradient_descent_on_the_features(dtype):
    features, gradient = pair(6, 3, dtype=dtype)
    parameter = nn.Parameter(features.clone())
    parameter.grad = gradient
    torch.optim.SGD([parameter], lr=0.25).step()
    found = virtual_update(features, gradient, 0.25)
    assert found.dtype == dtype
    assert torch.equal(found, parameter.detach())


def test_update_has_the_wider_dtype():
    features, gradient = pair(4, 2)
    assert virtual_update(features.float(), gradient, 0.1).dtype == torch.float64
    assert virtual_update(features, gradient.float(), 0.1).dtype == torch.float64


def test_arguments_are_left_as_they_are():
    features, gradient = pair(6, 3)
    before = features.clone(), gradient.clone()
    for function in FUNCTIONS:
        function(features, gradient, 0.5)
    assert torch.equal(features, before[0])
    assert torch.equal(gradient, before[1])


def test_batches_of_any_size_add_up():
    features, gradient = pair(30, 4)
    for function in (virtual_covariance, virtual_covariance_change):
        whole = function(features, gradient, 3.0)
        for size in (1, 7, 30):
            batches = zip(features.split(size), gradient.split(size), strict=True)
            assert difference(sum(function(h, a, 3.0) for h, a in batches), whole) < 1e-14


def test_rotated_features_rotate_the_covariance():
    (features, gradient), rotation = pair(20, 4), torch.linalg.qr(draw(4, 4, seed=2)).Q
    for function in (virtual_covariance, virtual_covariance_change):
        expected = rotation.mT @ function(features, gradient, 3.0) @ rotation
        assert difference(function(features @ rotation, gradient @ rotation, 3.0), expected) < 1e-13


@pytest.mark.parametrize("rate", [1e-9, 1e-14, 1e-20])
def test_change_keeps_its_digits_where_the_rate_is_tiny(rate):
    features, gradient = pair(40, 3)
    cross = gradient.mT @ features
    expected = -rate * (cross + cross.mT)
    assert difference(virtual_covariance_change(features, gradient, rate), expected) < 10 * rate + 1e-14
    subtracted = virtual_covariance(features, gradient, rate) - features.mT @ features
    assert difference(subtracted, expected) > 1e-8  # what subtracting would lose


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shapes", [((4, 3), (3, 4)), ((4, 3), (4,)), ((4,), (4,)), ((2, 4, 3), (4, 3)), ((), ())])
def test_anything_but_two_matrices_of_one_shape_is_an_error(function, shapes):
    with pytest.raises(ValueError, match="one shape"):
        function(*(torch.ones(shape) for shape in shapes), 0.1)


class Layer:
    """A linear layer, with or without bias, inside a network on noise, its gradients by autograd."""

    def __init__(self, bias, n=30, d=4, m=6):
        self.features = draw(n, d).requires_grad_()
        layer = nn.Linear(d, m, bias=bias).double()
        tail = nn.Sequential(layer, nn.GELU(), nn.Linear(m, 1).double())
        with torch.no_grad():
            for i, p in enumerate(tail.parameters()):
                p.copy_(draw(*p.shape, seed=i + 2))
        self.weight = layer.weight
        (tail(self.features) - draw(n, 1, seed=9)).square().mean().backward()
        self.gradient = self.features.grad

    def gram_change(self, rate):
        """Movement of the weight Gram by one step of gradient descent."""
        with torch.no_grad():
            return weight_gram(self.weight - rate * self.weight.grad) - weight_gram(self.weight)


@pytest.mark.parametrize("bias", [False, True])
def test_a_step_on_the_weights_moves_the_gram_by_the_terms_of_the_bridge(bias):
    layer, rate = Layer(bias), 0.3
    cross = layer.gradient.mT @ layer.features
    expected = -rate * (cross + cross.mT) + rate**2 * weight_gram(layer.weight.grad)
    assert difference(layer.gram_change(rate), expected) < 1e-13


@pytest.mark.parametrize("bias", [False, True])
def test_gram_and_virtual_covariance_move_alike_in_the_limit_of_small_rates(bias):
    layer = Layer(bias)

    def apart(rate, virtual_rate):
        expected = virtual_covariance_change(layer.features, layer.gradient, virtual_rate) / virtual_rate
        return difference(layer.gram_change(rate) / rate, expected)

    assert apart(1e-6, 1e-9) < 1e-4
    assert apart(1e-4, 1e-9) / apart(1e-3, 1e-9) == pytest.approx(0.1, rel=0.02)  # of first order in the step's rate
    assert apart(1e-7, 1e-4) / apart(1e-7, 1e-3) == pytest.approx(0.1, rel=0.02)  # and in the virtual one
