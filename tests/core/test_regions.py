"""Linear regions between inputs against dense grids, and Lemma 4 that is made of them."""

import math
from itertools import pairwise

import pytest
import torch

from cases import draw
from core.regions import crossed_regions, gradient_jumps
from oracles import difference

D = 5


def network(*widths, seed=0, biases=False):
    """(weight, bias or None) of every layer."""
    return [
        (draw(m, d, seed=seed + i) / math.sqrt(d), draw(m, seed=seed + 50 + i) if biases else None)
        for i, (d, m) in enumerate(pairwise(widths))
    ]


def outputs(layers, h):
    """f (…) of inputs h (…, d), for one output."""
    for i, (weight, bias) in enumerate(layers):
        h = (torch.relu(h) if i else h) @ weight.mT
        h = h if bias is None else h + bias
    return h[..., 0]


def gradients(function, h):
    h = h.detach().requires_grad_()
    return torch.autograd.grad(function(h).sum(), h)[0]


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


@pytest.mark.parametrize("biases", [False, True])
def test_jumps_of_the_gradient_are_those_along_a_dense_grid(biases):
    layers = network(D, 9, 7, 6, 1, biases=biases)
    first, second = 2 * draw(8, D, seed=5), 2 * draw(8, D, seed=6)
    share = torch.linspace(0, 1, 100_001, dtype=torch.float64)[:, None]
    function = lambda x: outputs(layers, x)  # noqa: E731
    expected = torch.stack(
        [
            gradients(function, a.lerp(b, share)).diff(dim=0).norm(dim=-1).max()
            for a, b in zip(first, second, strict=True)
        ]
    )
    assert expected.min() > 0.1
    assert difference(gradient_jumps(layers, first, second), expected) < 1e-12


def test_a_gradient_that_crosses_no_boundary_does_not_jump():
    layers, first = network(D, 9, 7, 1), draw(20, D)
    assert gradient_jumps(layers, first, 3 * first).tolist() == [0] * 20
    assert gradient_jumps(network(D, 1), first, -first).tolist() == [0] * 20


def lemma_4(layers, a, b):
    """abs(ε), 2MBδ of every pair, and M."""
    function = lambda x: outputs(layers, x)  # noqa: E731
    error = ((b * gradients(function, a)).sum(-1) - function(b)).abs()
    crossed, jump = crossed_regions(layers, a, b), gradient_jumps(layers, a, b)
    size = torch.maximum(a.norm(dim=-1), b.norm(dim=-1))
    return error, 2 * crossed * size * jump, crossed


def test_lemma_4_bounds_the_error_by_the_boundaries_crossed():
    a = draw(2000, D)
    reach = torch.logspace(-2, 1, 2000, dtype=a.dtype)[:, None]
    most = 0.0
    for seed in range(5):
        layers = network(D, 9, 7, 1, seed=10 * seed)
        error, bound, crossed = lemma_4(layers, a, a + reach * draw(2000, D, seed=1))
        still = crossed == 0
        assert 20 < still.sum() < 1500
        assert error[still].max() < 1e-13
        assert (error <= bound + 1e-13).all()
        most = max(most, (error / bound)[~still].max().item())
    assert 0.3 < most <= 0.5  # the factor of two is not needed


def test_lemma_4_without_its_factor_of_two_is_attained():
    """One unit ReLU(x) between −B and B: the gradient jumps once, by 1, and ε is MBδ."""
    layers = [(torch.ones(1, 1).double(), None), (torch.ones(1, 1).double(), None)]
    for a in (-3.0, 3.0):
        ends = torch.tensor([[a]]).double(), torch.tensor([[-a]]).double()
        error, bound, crossed = lemma_4(layers, *ends)
        assert (error.item(), bound.item(), crossed.item()) == (3, 6, 1)


def test_lemma_4_fails_with_biases():
    layers = network(D, 9, 7, 1, biases=True)
    error, bound, _ = lemma_4(layers, draw(300, D), draw(300, D, seed=1) * 1e-3)
    assert (error > bound + 1e-6).any()


def test_a_batch_of_networks_is_each_alone():
    networks = [network(D, 6, 4, 1, seed=10 * r, biases=True) for r in range(3)]
    stacked = [
        tuple(torch.stack(parts) for parts in zip(*layers, strict=True))
        for layers in zip(*networks, strict=True)
    ]
    h, other = draw(3, 12, D), draw(3, 12, D, seed=1)
    for function in (crossed_regions, gradient_jumps):
        alone = [function(networks[r], h[r], other[r]) for r in range(3)]
        assert torch.equal(function(stacked, h, other), torch.stack(alone))
