"""Lemmas and theorems on homogeneous networks against loops over pairs and exact sums."""

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
    expansion_sum,
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
    """Error of every pair (i, k) and f_i − f_k, one after the other."""
    errors, differences = np.zeros((len(h), len(h))), np.zeros((len(h), len(h)))
    for i in range(len(h)):
        for k in range(len(h)):
            differences[i, k] = f[i] - f[k]
            right = f[i] + (m - 1) * f[k]
            errors[i, k] = sum(float(a * b) for a, b in zip(h[i], j[k], strict=True)) - right
    return errors, differences


@pytest.mark.parametrize("kind", ["relu", "squared"])
def test_the_error_is_that_of_a_loop_over_pairs(kind):
    h, j, f, m = sample(kind)
    errors, differences = looped_errors(h, j, f, m)
    expected = np.linalg.norm(errors) / np.linalg.norm(differences)
    assert expected > 0.1
    assert taylor_error(h, j, f, m) == pytest.approx(expected, rel=1e-12)
    own = np.linalg.norm([[f[i] + (m - 1) * f[k] for k in range(N)] for i in range(N)])
    expected = np.linalg.norm(errors) / own
    assert taylor_error(h, j, f, m, own_size=True) == pytest.approx(expected, rel=1e-12)


def test_the_error_is_relative_to_differences_and_not_to_what_f_has_in_common():
    """x + offset along a direction that is constant: ReLU of 1 adds to f, and to no difference."""
    h, j, f, m = sample("relu")
    ones = torch.ones(N, 1).double()
    offset = 100.0  # f(h, 1) + 100 · 1 is as homogeneous
    shifted = torch.cat([h, ones], 1), torch.cat([j, offset * ones], 1), f + offset, m
    assert taylor_error(*shifted) == pytest.approx(taylor_error(h, j, f, m), rel=1e-9)


@pytest.mark.parametrize("kind", ["relu", "squared"])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_the_summed_error_is_that_of_a_loop_over_samples(kind, shift):
    h, j, f, m = sample(kind)
    y = draw(N, seed=4) + shift
    actual, expected = [], []
    for k in range(N):
        actual.append(sum(y[i] * (h[i] @ j[k]) for i in range(N)).item())
        expected.append((sum(f * y) + (m - 1) * f[k] * sum(y)).item())
    error = np.linalg.norm(np.subtract(actual, expected)) / np.linalg.norm(expected)
    assert error > 0.05
    assert taylor_error_sum(h, y, j, f, m) == pytest.approx(error, rel=1e-10)


def test_a_linear_function_has_no_error():
    h, j, f, _ = sample("linear")
    assert taylor_error(h, j, f, 1) < 1e-14
    assert taylor_error_sum(h, f, j, f, 1) < 1e-14
    assert math.isnan(expansion_sum(h, j, f))  # and not one rounding over another
    assert taylor_error(h, j, f, 2) > 0.1
    assert taylor_error_sum(h, f + 1, j, f, 2) > 0.1


def test_equal_outputs_have_no_relative_error():
    h, j, f, _ = sample("relu")
    assert math.isnan(taylor_error(h, j, torch.ones_like(f), 1))
    assert math.isnan(taylor_error_sum(h, torch.zeros(N), j, f, 1))


def test_rounding_in_a_deep_and_wide_linear_network_is_no_error():
    layers = network(64, *[128] * 6, 1)
    h = draw(200, 64) * 10
    f = outputs(layers, h, identity)
    j = gradients(lambda x: outputs(layers, x, identity), h)
    assert math.isnan(expansion_sum(h, j, f))
    assert taylor_error(h, j, f, 1) < 1e-12


def expansion_loop(h, j, f):
    """Σ e_ij over Σ |e_ij|, as printed."""
    errors = [
        (f[i] - f[k] - (h[i] - h[k]) @ j[k]).item() for i in range(len(h)) for k in range(len(h))
    ]
    return sum(errors) / sum(map(abs, errors))


def without_sum(kind, h, biases=False, seed=0):
    """f from h with a read-out orthogonal to the mean of what it reads: Σf = 0; (J, f)."""
    activation = torch.tanh if kind == "tanh" else HOMOGENEOUS[kind][0]
    *hidden, (read_out, _) = network(D, 8, 8, 1, seed=seed, biases=biases)
    last = lambda x: activation(hidden_response(hidden, x, activation))  # noqa: E731
    mean = last(h).mean(0)
    w = read_out[0] - (read_out[0] @ mean) / (mean @ mean) * mean
    f = lambda x: last(x) @ w  # noqa: E731
    assert abs(f(h).sum()) < 1e-13
    return gradients(f, h), f(h)


def hidden_response(layers, h, activation):
    for i, (weight, bias) in enumerate(layers):
        h = (activation(h) if i else h) @ weight.mT
        h = h if bias is None else h + bias
    return h


@pytest.mark.parametrize("kind", ["relu", "squared"])
def test_taylor_errors_add_up_to_zero_where_samples_and_outputs_have_no_sum(kind):
    h = draw(N, D) + 1
    h = h - h.mean(0)
    j, f = without_sum(kind, h)
    assert abs(expansion_sum(h, j, f)) < 1e-13
    _, j_all, f_all, _ = sample(kind, h=h)  # Σf is not zero
    assert abs(expansion_sum(h, j_all, f_all)) > 1e-2
    assert abs(expansion_sum(h + 1, *without_sum(kind, h + 1))) > 1e-2  # Σh is not zero
    # in the paper's form f's mean cannot just be subtracted: f − f̄ is not homogeneous
    assert abs(expansion_sum(h, j_all, f_all - f_all.mean())) > 1e-2
    for values in ((j, f), (j_all, f_all)):
        expected = expansion_loop(h, *values)
        assert expansion_sum(h, *values) == pytest.approx(expected, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_taylor_errors_of_what_is_not_homogeneous_do_not_add_up_to_zero(seed):
    h = draw(N, D)
    h = h - h.mean(0)
    assert abs(expansion_sum(h, *without_sum("tanh", h, biases=True, seed=seed))) > 1e-2
    assert abs(expansion_sum(h, *without_sum("relu", h, biases=True, seed=seed))) > 1e-3


def test_errors_far_below_the_outputs_are_still_errors():
    h, slope, kink = draw(N, D), draw(D, seed=1), draw(D, seed=2)
    nearly = lambda x: x @ slope + 1e-9 * torch.relu(x @ kink)  # noqa: E731
    kinked = lambda x: torch.relu(x @ kink)  # noqa: E731
    sums = [expansion_sum(h, gradients(f, h), f(h)) for f in (nearly, kinked)]
    assert abs(sums[1]) > 0.01
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)


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


def test_classes_that_are_nearer_to_themselves_do_not_make_y_k_g_positive():
    """10 against 90 samples, products 2 within a class and 1 across, outputs of 1/2 (ours)."""
    y = torch.cat([torch.ones(10), torch.zeros(90)]).double()
    kernel = 1 + (y[:, None] == y).double()
    h = torch.linalg.cholesky(kernel + 1e-12 * torch.eye(100))  # K = HHᵀ
    g = y - 0.5  # −∂L/∂f of binary cross-entropy at ŷ = 1/2
    assert (y @ kernel @ g).item() == pytest.approx(-350)
    change = predicted_surrogate_change(h, y, y, g, 1.0)  # f = y: fᵀy = 10
    assert change == pytest.approx(2 * 10 * -350, rel=1e-9)
    balanced = torch.cat([torch.ones(50), torch.zeros(50)]).double()
    kernel = 1 + (balanced[:, None] == balanced).double()
    assert (balanced @ kernel @ (balanced - 0.5)).item() > 0


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


def test_the_piecewise_floor_as_printed_and_the_sharper_one():
    y = torch.tensor([1.0, -3.0])
    expected = 7 * 10.0**2 / (2 * (4 + 2 * 2 * 3 * 0.5 * 0.1) ** 2)
    assert surrogate_floor_piecewise(7, y, 3, 0.5, 0.1) == pytest.approx(expected, rel=1e-14)
    sharper = 7 * 10.0**2 / (10**0.5 + 2 * 2**0.5 * 3 * 0.5 * 0.1) ** 2
    value = surrogate_floor_piecewise(7, y, 3, 0.5, 0.1, as_printed=False)
    assert value == pytest.approx(sharper, rel=1e-14)
    crossed = torch.tensor([0.0, 3.0])
    floors = surrogate_floor_piecewise(torch.tensor([7.0, 7.0]), y, crossed, 0.5, 0.1)
    assert difference(floors, torch.tensor([7 * 100 / 32, expected])) < 1e-7


def test_the_piecewise_floors_are_below_the_surrogate_where_every_premise_holds():
    """h_iᵀJ_k = y_i + ε_ik with |ε| ≤ E planted, and WᵀW = C N⁻¹ JᵀJ; Σ_k ε_ik y_i = 0, so that
    S = C‖y‖⁴. C₀ is ‖HWᵀ‖² itself, the most that is allowed."""
    for seed in range(50):
        y = draw(N, seed=seed)
        e = torch.rand(N, N, generator=torch.Generator().manual_seed(seed)).double() - 0.5
        e = e - torch.outer(y, y @ e) / (y @ y)  # yᵀε = 0 for every k
        products = y[:, None] + e  # h_iᵀJ_k
        h, j = products, torch.eye(N).double()
        weight = (1.7 / N) ** 0.5 * j
        value = (weight @ (h.mT @ y)).square().sum().item()
        assert value == pytest.approx(1.7 * y.square().sum().item() ** 2, rel=1e-9)
        constant = (h @ weight.mT).square().sum().item()
        largest = e.abs().max().item() / 2  # MBδ
        floors = [surrogate_floor_piecewise(constant, y, 1, largest, 1.0, p) for p in (True, False)]
        assert floors[0] < floors[1] <= value * (1 + 1e-12)
    exact = surrogate_floor_piecewise(1.7 * (y @ y), y, 0, 1.0, 1.0, as_printed=False)
    assert exact == pytest.approx((1.7 * (y @ y) * (y @ y)).item(), rel=1e-12)  # attained


def test_a_batch_of_networks_is_each_alone():
    networks = [network(D, 6, 4, 1, seed=10 * r, biases=True) for r in range(3)]
    stacked = [
        tuple(torch.stack(parts) for parts in zip(*layers, strict=True))
        for layers in zip(*networks, strict=True)
    ]
    h, j = draw(3, N, D), draw(3, N, D, seed=2)
    f, y = draw(3, N, seed=3), draw(N, seed=4)
    w, w_next = stacked[0][0], stacked[0][0] + 0.1
    calls = [
        (taylor_error, (h, j, f), (2,)),
        (taylor_error_sum, (h, y.expand(3, N), j, f), (2,)),
        (expansion_sum, (h, j, f), ()),
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
    assert difference(surrogate_change(h, y, w, w_next), surrogate_change(*calls[3][1])) < 1e-15


def test_values_that_are_not_one_a_sample_are_an_error():
    h, y = torch.ones(4, 3), torch.ones(4)
    for wrong in (torch.ones(4, 1), torch.ones(5), torch.ones(()), torch.ones(2, 4)):
        with pytest.raises(ValueError, match="of a sample"):
            taylor_error(h, h, wrong, 1)
        with pytest.raises(ValueError, match="of a sample"):
            taylor_error_sum(h, wrong, h, y, 1)
        with pytest.raises(ValueError, match="of a sample"):
            expansion_sum(h, h, wrong)
        with pytest.raises(ValueError, match="of a sample"):
            surrogate_change(h, wrong, h, h)
        with pytest.raises(ValueError, match="of a sample"):
            predicted_surrogate_change(h, y, y, wrong, 0.1)
    with pytest.raises(ValueError, match="one shape"):
        taylor_error(h, torch.ones(4, 2), y, 1)
