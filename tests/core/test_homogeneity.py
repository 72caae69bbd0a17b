"""Lemmas and theorems on homogeneous networks against loops over pairs, exact sums and grids."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from cases import draw
from core.agop import average_gradient_outer_product
from core.homogeneity import (
    ansatz_scale,
    ansatz_surrogate_ratio,
    crossed_regions,
    predicted_surrogate_change,
    surrogate_change,
    surrogate_floor_homogeneous,
    surrogate_floor_piecewise,
    taylor_error,
    taylor_error_sum,
)
from oracles import difference

N, D = 12, 5


def network(*widths, seed=0, biases=False):
    """(weight, bias or None) of every layer."""
    return [
        (draw(m, d, seed=seed + i) / math.sqrt(d), draw(m, seed=seed + 50 + i) if biases else None)
        for i, (d, m) in enumerate(pairwise(widths))
    ]


def outputs(layers, h, activation=torch.relu):
    """f (…) of inputs h (…, d), for one output."""
    for i, (weight, bias) in enumerate(layers):
        h = (activation(h) if i else h) @ weight.mT
        h = h if bias is None else h + bias
    return h[..., 0]


def gradients(function, h):
    h = h.detach().requires_grad_()
    return torch.autograd.grad(function(h).sum(), h)[0]


def squared_relu(z):
    return torch.relu(z) ** 2


def identity(z):
    return z


# activation, its degree
HOMOGENEOUS = {"linear": (identity, 1), "relu": (torch.relu, 1), "squared": (squared_relu, 2)}


def sample(kind, seed=0, h=None):
    """H, J, f and the degree of a network of two hidden layers."""
    activation, degree = HOMOGENEOUS[kind]
    layers, h = network(D, 8, 8, 1, seed=seed), draw(N, D, seed=9) if h is None else h
    function = lambda x: outputs(layers, x, activation)  # noqa: E731
    return h, gradients(function, h), function(h), degree**2


def looped_errors(h, j, f, m):
    """Error of every pair (i, k) and the right-hand side, one after the other."""
    errors, right = np.zeros((len(h), len(h))), np.zeros((len(h), len(h)))
    for i in range(len(h)):
        for k in range(len(h)):
            right[i, k] = f[i] + (m - 1) * f[k]
            errors[i, k] = sum(float(a * b) for a, b in zip(h[i], j[k], strict=True)) - right[i, k]
    return errors, right


@pytest.mark.parametrize("kind", ["relu", "squared"])
def test_the_error_is_that_of_a_loop_over_pairs(kind):
    arguments = sample(kind)
    errors, right = looped_errors(*arguments)
    expected = np.linalg.norm(errors) / np.linalg.norm(right)
    assert expected > 0.1
    assert taylor_error(*arguments) == pytest.approx(expected, rel=1e-12)
    expected = errors.sum() / np.abs(errors).sum()
    assert taylor_error_sum(*arguments) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["relu", "squared"])
def test_it_is_the_error_of_the_first_order_expansion(kind):
    h, j, f, m = sample(kind)
    errors, _ = looped_errors(h, j, f, m)
    for i in range(N):
        for k in range(N):
            expansion = f[k] + j[k] @ (h[i] - h[k])
            assert float(expansion - f[i]) == pytest.approx(errors[i, k], abs=1e-12)


def test_a_linear_function_has_no_error():
    h, j, f, _ = sample("linear")
    assert taylor_error(h, j, f, 1) < 1e-14
    assert taylor_error_sum(h, j, f, 1) == 0  # and not one rounding over another
    assert taylor_error(h, j, f, 2) > 0.1


def test_an_error_far_below_the_outputs_is_still_an_error():
    h, slope, kink = draw(N, D), draw(D, seed=1), draw(D, seed=2)
    nearly = lambda x: x @ slope + 1e-9 * torch.relu(x @ kink)  # noqa: E731
    kinked = lambda x: torch.relu(x @ kink)  # noqa: E731
    sums = [taylor_error_sum(h, gradients(f, h), f(h), 1) for f in (nearly, kinked)]
    assert abs(sums[1]) > 0.01
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)


def test_rounding_in_a_deep_and_wide_linear_network_is_no_error():
    layers = network(64, *[128] * 6, 1)
    h = draw(200, 64) * 10
    f = outputs(layers, h, identity)
    j = gradients(lambda x: outputs(layers, x, identity), h)
    assert taylor_error_sum(h, j, f, 1) == 0


@pytest.mark.parametrize("kind", HOMOGENEOUS)
def test_one_sample_obeys_eulers_identity_at_the_right_degree_alone(kind):
    _, _, _, degree = arguments = sample(kind, h=draw(1, D, seed=3))
    assert abs(arguments[2].item()) > 1e-3
    assert taylor_error(*arguments) < 1e-13
    assert taylor_error(*arguments[:3], degree + 1) > 0.1


def test_samples_on_one_ray_have_no_error_under_relu():
    ray = draw(1, D, seed=3) * torch.tensor([[0.1], [1.0], [7.0]]).double()
    assert taylor_error(*sample("relu", h=ray)) < 1e-13
    assert taylor_error(*sample("squared", h=ray)) > 0.1  # Jᵀh grows with the gradient's place


@pytest.mark.parametrize("kind", ["relu", "squared"])
def test_errors_add_up_to_zero_for_centred_features_and_outputs(kind):
    h = draw(N, D)
    h, j, f, m = sample(kind, h=h - h.mean(0))
    assert abs(taylor_error_sum(h, j, f, m)) > 1e-3
    assert abs(taylor_error_sum(h, j, f - f.mean(), m)) < 1e-14
    assert abs(taylor_error_sum(h + 1, j, f - f.mean(), m)) > 1e-3


def test_errors_of_an_odd_homogeneous_network_add_up_to_zero():
    """At inputs ±x both premises hold without any centring."""
    half, layers = draw(N, D), network(D, 8, 8, 1)
    odd = lambda x: outputs(layers, x) - outputs(layers, -x)  # noqa: E731
    h = torch.cat([half, -half])
    assert taylor_error(h, gradients(odd, h), odd(h), 1) > 0.1
    assert abs(taylor_error_sum(h, gradients(odd, h), odd(h), 1)) < 1e-14


def layer_problem(activation, seed=0):
    """A layer W between features and the rest of a network: H, y, W, f and J of its inputs."""
    layers = network(D, 6, 8, 1, seed=seed)
    h, y = draw(N, D, seed=seed + 7), draw(N, seed=seed + 8).sign()
    function = lambda x: outputs(layers, x, activation)  # noqa: E731
    return h, y, layers, function(h), gradients(function, h)


def weight_gradient(layers, h, y, activation):
    """∂L/∂W of the first layer for L = Σ (f − y)² / 2."""
    weight = layers[0][0].clone().requires_grad_()
    loss = (outputs([(weight, None), *layers[1:]], h, activation) - y).square().sum() / 2
    return torch.autograd.grad(loss, weight)[0]


def slope_of_surrogate(h, y, weight, step, rate=1e-3):
    """dS/dγ at 0 for W − γ·step; S is quadratic in γ, so a central difference is exact."""
    ahead, back = (surrogate_change(h, y, weight, weight - r * step) for r in (rate, -rate))
    return (ahead - back) / (2 * rate)


@pytest.mark.parametrize("activation", [identity, torch.relu, squared_relu])
def test_the_change_of_the_surrogate_is_the_double_sum_over_samples(activation):
    h, y, layers, f, j = layer_problem(activation)
    weight, step = layers[0][0], weight_gradient(layers, h, y, activation)
    derivative = sum(
        2 * (y[k] - f[k]) * y[i] * (h[i] @ j[k]) * y[n] * (h[n] @ h[k])
        for i in range(N)
        for k in range(N)
        for n in range(N)
    )
    assert slope_of_surrogate(h, y, weight, step) == pytest.approx(derivative.item(), rel=1e-10)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_theorem_3_is_exact_in_a_deep_linear_network(depth):
    layers = network(D, *[7] * depth, 1)
    h, y = draw(N, D, seed=7) + 1, draw(N, seed=8)
    f = outputs(layers, h, identity)
    slope = slope_of_surrogate(h, y, layers[0][0], weight_gradient(layers, h, y, identity))
    assert predicted_surrogate_change(h, y, f, y - f, 0.1) == pytest.approx(0.1 * slope, rel=1e-10)


def test_theorem_3_is_not_exact_in_a_relu_network():
    h, y, layers, f, _ = layer_problem(torch.relu)
    slope = slope_of_surrogate(h, y, layers[0][0], weight_gradient(layers, h, y, torch.relu))
    assert abs(predicted_surrogate_change(h, y, f, y - f, 1.0) / slope - 1) > 0.1


def test_theorem_3_is_exact_at_any_degree_where_lemma_3_holds_and_targets_are_centred():
    """The products h_iᵀJ_k are planted as the lemma says."""
    h, y, g = draw(N, D), draw(N, seed=1), draw(N, seed=2)
    y = y - y.mean()
    m, f = 3, h @ draw(D, seed=3)
    products = f[:, None] + (m - 1) * f  # h_iᵀJ_k
    expected = 2 * 0.1 * (g * (y @ products) * (h @ (h.mT @ y))).sum()
    assert predicted_surrogate_change(h, y, f, g, 0.1) == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("size", [1.0, 2.0**-45])
def test_the_change_is_exact_however_small_the_step(size):
    generator = torch.Generator().manual_seed(0)
    h, y, before, step = (
        torch.randint(-9, 10, shape, generator=generator).double()
        for shape in [(N, D), (N,), (3, D), (3, D)]
    )
    after = before + size * step  # without rounding

    def surrogate(weight):
        w, u = weight.tolist(), (h.mT @ y).tolist()
        rows = [sum(Fraction(a) * Fraction(b) for a, b in zip(row, u, strict=True)) for row in w]
        return sum(r * r for r in rows)

    expected = float(surrogate(after) - surrogate(before))
    assert surrogate_change(h, y, before, after) == pytest.approx(expected, rel=1e-14)
    assert surrogate_change(h, y, before, before) == 0


def test_the_ansatz_scale_is_least_squares():
    gram, agop = (x @ x.mT for x in (draw(D, D), draw(D, D, seed=1)))
    expected = np.linalg.lstsq(agop.reshape(-1, 1).numpy(), gram.flatten().numpy(), rcond=None)[0]
    assert ansatz_scale(gram, agop) == pytest.approx(expected[0], rel=1e-12)
    assert ansatz_scale(3 * agop, agop) == pytest.approx(3, rel=1e-14)
    assert math.isnan(ansatz_scale(gram, torch.zeros(D, D)))


def test_the_ratio_is_1_where_ansatz_interpolation_and_lemma_3_hold():
    """f linear and interpolating, W along its gradient: any scale of W and of the targets."""
    slope, h = draw(D, seed=1), draw(N, D)
    x = h.requires_grad_()
    f = x @ slope
    agop = average_gradient_outer_product(f[:, None], [x])[0]
    weight = 5 * draw(3, 1, seed=2) * slope
    assert ansatz_surrogate_ratio(h, f, weight, agop) == pytest.approx(1, rel=1e-12)
    assert ansatz_surrogate_ratio(h, 2 * f, weight, agop) == pytest.approx(4, rel=1e-12)


def test_the_ratio_of_any_network_is_that_of_the_dense_matrices():
    h, y, layers, _, j = layer_problem(torch.relu)
    weight, agop = layers[0][0], j.mT @ j / N
    gram = weight.mT @ weight
    expected = ansatz_scale(gram, agop) * y.square().sum() ** 2 / (y @ h @ gram @ h.mT @ y)
    assert ansatz_surrogate_ratio(h, y, weight, agop) == pytest.approx(expected.item(), rel=1e-12)
    assert math.isnan(ansatz_surrogate_ratio(h, y, torch.zeros(3, D), agop))


def planted_lemma_3(m):
    """W, H, y, C with h_iᵀJ_k = y_i + (m − 1) y_k exactly and WᵀW = C N⁻¹ JᵀJ."""
    y = draw(N)
    y = y - y.mean()
    h = torch.stack([y, torch.ones(N)], dim=1)
    j = torch.stack([torch.ones(N), (m - 1) * y], dim=1)
    agop, scale = (j.mT @ j / N), 1.7
    return torch.linalg.cholesky(scale * agop).mT, h, y, agop


@pytest.mark.parametrize(("degree", "layers_left"), [(2, 1), (2, 3), (3, 2)])
def test_the_homogeneous_floor_is_attained_where_all_premises_hold(degree, layers_left):
    weight, h, y, agop = planted_lemma_3(degree**layers_left)
    assert ansatz_surrogate_ratio(h, y, weight, agop) == pytest.approx(1, rel=1e-12)
    value = (weight @ (h.mT @ y)).square().sum().item()  # S
    constant = (h @ weight.mT).square().sum().item()  # C₀
    floor = surrogate_floor_homogeneous(constant, y, degree, layers_left)
    assert floor == pytest.approx(value, rel=1e-12)


def test_the_piecewise_floor_as_printed():
    y = torch.tensor([1.0, -3.0])
    expected = 7 * 10.0**2 / (2 * (4 + 2 * 2 * 3 * 0.5 * 0.1) ** 2)
    assert surrogate_floor_piecewise(7, y, 3, 0.5, 0.1) == pytest.approx(expected, rel=1e-14)
    crossed = torch.tensor([0.0, 3.0])
    floors = surrogate_floor_piecewise(torch.tensor([7.0, 7.0]), y, crossed, 0.5, 0.1)
    assert difference(floors, torch.tensor([7 * 100 / 32, expected])) < 1e-7


def patterns(layers, h, relu_first):
    """Signs of every unit that passes a ReLU; (…, units)."""
    signs = [h > 0] if relu_first else []
    for i, (weight, bias) in enumerate(layers[:-1]):
        h = (torch.relu(h) if i or relu_first else h) @ weight.mT
        h = h if bias is None else h + bias
        signs.append(h > 0)
    return torch.cat(signs, -1)


def grid_count(layers, first, second, relu_first=False, points=100_001):
    """Changes of pattern along a dense grid, pair by pair."""
    share = torch.linspace(0, 1, points, dtype=torch.float64)[:, None]
    return torch.tensor(
        [
            patterns(layers, a.lerp(b, share), relu_first).diff(dim=0).any(-1).sum().item()
            for a, b in zip(first, second, strict=True)
        ]
    )


@pytest.mark.parametrize("relu_first", [False, True])
@pytest.mark.parametrize("biases", [False, True])
def test_crossings_are_those_of_a_dense_grid(biases, relu_first):
    layers = network(D, 9, 7, 6, 1, biases=biases)
    first, second = 2 * draw(8, D, seed=5), 2 * draw(8, D, seed=6)
    expected = grid_count(layers, first, second, relu_first)
    assert expected.float().mean() > 5
    assert torch.equal(crossed_regions(layers, first, second, relu_first), expected)


def test_layers_that_die_on_the_way_are_counted_right():
    """Narrow layers without biases are zero on whole pieces, in one network of four at least."""
    first, second = draw(30, 2, seed=5), draw(30, 2, seed=6)
    share = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None, None]
    dead = 0
    for seed in range(10):
        layers = network(2, 2, 2, 2, 1, seed=100 * seed)
        dead += bool((outputs(layers, first.lerp(second, share)) == 0).any())
        expected = grid_count(layers, first, second, points=20_001)
        assert torch.equal(crossed_regions(layers, first, second), expected)
    assert dead > 2


@pytest.mark.parametrize("depth", [1, 4, 10])
def test_a_composed_tent_map_has_all_its_boundaries(depth):
    """x ↦ 2 min(x, 1 − x), k times over: x_k meets ½ at the odd multiples of 2^−(k+1).

    Its units ReLU(x_k) touch zero and turn back, at points that are other units' boundaries.
    """
    enter = (torch.ones(2, 1), torch.tensor([0.0, -0.5]))
    again = (torch.tensor([[2.0, -4.0], [2.0, -4.0]]), torch.tensor([0.0, -0.5]))
    layers = [enter, *[again] * (depth - 1), (torch.tensor([[2.0, -4.0]]), None)]
    crossed = crossed_regions(layers, torch.zeros(1, 1), torch.ones(1, 1))
    assert crossed.dtype == torch.int64
    assert crossed.tolist() == [2**depth - 1]


@pytest.mark.parametrize(("dip", "crossed"), [(-1e-9, 1), (1e-9, 3)])
@pytest.mark.parametrize("kink", [1 / 3, 0.1, 0.7])
def test_a_unit_that_nearly_touches_zero_is_told_from_one_that_dips_below(kink, dip, crossed):
    """x + 2|x − c| − c − dip at x in (0, 1), from units ±(x − c) and x + 1."""
    entry = (
        torch.tensor([[1], [-1], [1]], dtype=torch.float64),
        torch.tensor([-kink, kink, 1], dtype=torch.float64),
    )
    unit = (
        torch.tensor([[2, 2, 1]], dtype=torch.float64),
        torch.tensor([-1 - kink - dip], dtype=torch.float64),
    )
    layers = [entry, unit, (torch.ones(1, 1), None)]
    assert crossed_regions(layers, torch.zeros(1, 1), torch.ones(1, 1)).tolist() == [crossed]


def test_through_the_origin_all_boundaries_are_one():
    layers, first = network(D, 9, 7, 6, 1), draw(20, D)
    for factor in (1.0, 0.37, 9.1):
        assert crossed_regions(layers, first, -factor * first).tolist() == [1] * 20
        assert crossed_regions(layers, first, factor * first).tolist() == [0] * 20


def test_a_linear_network_and_a_network_of_one_layer_have_no_boundary():
    first, second = draw(4, D), draw(4, D, seed=1)
    assert crossed_regions(network(D, 1), first, second).tolist() == [0] * 4
    expected = (first.sign() != second.sign()).sum(1)
    assert torch.equal(crossed_regions(network(D, 1), first, second, relu_first=True), expected)


def test_crossings_do_not_depend_on_direction_division_or_how_the_input_enters():
    layers = network(D, 40, 30, 20, 1, biases=True)
    first, second = draw(50, D, seed=5), draw(50, D, seed=6)
    whole = crossed_regions(layers, first, second)
    assert whole.float().mean() > 20
    assert torch.equal(whole, crossed_regions(layers, second, first))
    middle = first.lerp(second, 0.3)
    parts = crossed_regions(layers, first, middle) + crossed_regions(layers, middle, second)
    assert torch.equal(whole, parts)
    through = [(torch.eye(D, dtype=first.dtype), None), *layers]
    expected = crossed_regions(through, first, second)
    assert torch.equal(crossed_regions(layers, first, second, relu_first=True), expected)


def test_lemma_4_bounds_the_error_by_the_boundaries_crossed():
    layers = network(D, 9, 7, 1)
    function = lambda x: outputs(layers, x)  # noqa: E731
    a = draw(300, D)
    b = a + draw(300, D, seed=1) * torch.logspace(-2, 0, 300, dtype=a.dtype)[:, None]
    error = ((b * gradients(function, a)).sum(-1) - function(b)).abs()
    crossed = crossed_regions(layers, a, b)
    share = torch.linspace(0, 1, 501, dtype=a.dtype)[:, None, None]
    slope = gradients(function, a.lerp(b, share)).norm(dim=-1).amax(0)
    still = crossed == 0
    assert 20 < still.sum() < 280
    assert error[still].max() < 1e-14
    assert bool((error <= 2 * crossed * slope * (a - b).norm(dim=-1) + 1e-14).all())
    assert error[~still].max() > 0.1


def test_a_batch_of_networks_is_each_alone():
    networks = [network(D, 6, 4, 1, seed=10 * r, biases=True) for r in range(3)]
    stacked = [
        tuple(torch.stack(parts) for parts in zip(*layers, strict=True))
        for layers in zip(*networks, strict=True)
    ]
    h, other, j = draw(3, N, D), draw(3, N, D, seed=1), draw(3, N, D, seed=2)
    f, y = draw(3, N, seed=3), draw(N, seed=4)
    w, w_next = stacked[0][0], stacked[0][0] + 0.1
    calls = [
        (taylor_error, (h, j, f), (2,)),
        (taylor_error_sum, (h, j, f), (2,)),
        (surrogate_change, (h, y.expand(3, N), w, w_next), ()),
        (predicted_surrogate_change, (h, y.expand(3, N), f, f), (0.1,)),
        (ansatz_scale, (w.mT @ w, j.mT @ j), ()),
        (ansatz_surrogate_ratio, (h, y.expand(3, N), w, j.mT @ j), ()),
        (surrogate_floor_homogeneous, (torch.ones(3), f), (2, 2)),
    ]
    for function, batch, rest in calls:
        alone = [function(*(x[r] for x in batch), *rest) for r in range(3)]
        assert all(isinstance(value, float) for value in alone)
        assert difference(function(*batch, *rest), torch.tensor(alone, dtype=h.dtype)) < 1e-13
    alone = [crossed_regions(networks[r], h[r], other[r]) for r in range(3)]
    assert torch.equal(crossed_regions(stacked, h, other), torch.stack(alone))
    assert difference(surrogate_change(h, y, w, w_next), surrogate_change(*calls[2][1])) < 1e-15


def test_values_that_are_not_one_a_sample_are_an_error():
    h, y = torch.ones(4, 3), torch.ones(4)
    for wrong in (torch.ones(4, 1), torch.ones(5), torch.ones(()), torch.ones(2, 4)):
        with pytest.raises(ValueError, match="of a sample"):
            taylor_error(h, h, wrong, 1)
        with pytest.raises(ValueError, match="of a sample"):
            surrogate_change(h, wrong, h, h)
        with pytest.raises(ValueError, match="of a sample"):
            predicted_surrogate_change(h, y, y, wrong, 0.1)
    with pytest.raises(ValueError, match="one shape"):
        taylor_error(h, torch.ones(4, 2), y, 1)
