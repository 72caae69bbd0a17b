"""Whitened steps of any length and dtype against the same projection in float64."""

import copy

import pytest
import torch
from torch import nn

from cases import draw
from core.gram import SHORT, UPDATES, GramWhitening, resolved_update
from core.layout import Layout
from oracles import difference
from simulated_gpu import SimulatedGPU

SHAPES = {"wide": (24, 40), "square": (32, 32), "tall": (40, 24)}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def weights(dtype):
    """Parameters of all shapes, with gradients."""
    parameters = [nn.Parameter(draw(*shape, dtype=dtype)) for shape in SHAPES.values()]
    for p in parameters:
        p.grad = draw(*p.shape, seed=1, dtype=dtype)
    return parameters


@pytest.mark.parametrize("method", UPDATES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_that_change_nothing_leave_weights_bit_for_bit(dtype, method):
    for kind, options in ((torch.optim.SGD, {"momentum": 0.9}), (torch.optim.Adam, {"eps": 1e-3})):
        parameters = weights(dtype)
        before = copy.deepcopy(parameters)
        optimizer = kind(parameters, lr=0.0, **options)
        GramWhitening(optimizer, method)
        for _ in range(3):
            optimizer.step()
        assert all(map(torch.equal, parameters, before))


@pytest.mark.parametrize("method", UPDATES)
def test_a_replica_or_a_group_that_stays_does_so_bit_for_bit_while_others_move(method):
    parameter = nn.Parameter(draw(3, 20, 12, dtype=torch.float32))
    before = parameter.detach().clone()
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    GramWhitening(optimizer, method, batch_dims=1, layouts={parameter: Layout(groups=2)})
    gradient = draw(3, 20, 12, seed=1, dtype=torch.float32)
    gradient[1] = gradient[2, 10:] = 0
    parameter.grad = gradient
    optimizer.step()
    for r, rows in ((1, slice(None)), (2, slice(10, None))):
        assert torch.equal(parameter[r, rows], before[r, rows])
    for r, rows in ((0, slice(10)), (0, slice(10, None)), (2, slice(10))):
        alone = resolved_update(
            UPDATES[method], before[r, rows], (before - 0.1 * gradient)[r, rows]
        )
        assert difference(parameter[r, rows], alone) < 1e-6
        assert not torch.equal(parameter[r, rows], before[r, rows])


def short_step(before, length):
    """W₂, a step of a length relative to ‖W₁‖ away."""
    step = draw(*before.shape, seed=1, dtype=before.dtype)
    return before + length * before.norm() / step.norm() * step


@pytest.mark.parametrize("method", UPDATES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rounding_moves_a_short_step_no_further_than_storing_it_does(shape, method):
    before = draw(*SHAPES[shape], dtype=torch.float32)
    after = short_step(before, 1e-6)
    exact = UPDATES[method](before.double(), after.double())
    result = resolved_update(UPDATES[method], before, after)
    assert result.dtype == torch.float32
    assert torch.equal(result, exact.float())
    step = (after - before).norm()
    assert (result - exact).norm() < 0.05 * step
    assert (UPDATES[method](before, after) - exact).norm() > 0.1 * step  # what float32 loses


def test_the_precision_is_chosen_matrix_by_matrix():
    update = UPDATES["exact"]
    before = draw(4, 24, 40, dtype=torch.float32)
    lengths = (1e-6, 1e-3, 0, 1e-6)
    after = torch.stack([short_step(w, length) for w, length in zip(before, lengths, strict=True)])
    result = resolved_update(update, before, after)
    expected = update(before.double(), after.double()).float()
    expected[1] = update(before[1:2], after[1:2])[0]
    expected[2] = before[2]
    assert torch.equal(result, expected)


@pytest.mark.parametrize("method", UPDATES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gpu_waits_once_and_longer_for_short_steps_and_dead_units_alone(shape, method):
    before = draw(4, *SHAPES[shape], dtype=torch.float32)
    before[3, 5:9] = 0  # units: the product of two such weights has not full rank
    lengths = (0.1, 1e-6, 0, 0.1)
    after = torch.stack([short_step(w, length) for w, length in zip(before, lengths, strict=True)])
    after[3, 5:9] = 0
    with SimulatedGPU() as gpu:
        there = before.to("cuda"), after.to("cuda")
        alone = resolved_update(UPDATES[method], *(w[0] for w in there))
        assert gpu.waits == ["__bool__"]
        dead = resolved_update(UPDATES[method], *(w[3] for w in there))
        together = resolved_update(UPDATES[method], *there).cpu()
        alone, dead = alone.cpu(), dead.cpu()
    assert difference(alone, together[0]) < 1e-6
    assert difference(dead, together[3]) < 1e-6
    assert torch.equal(together[2], before[2])
    expected = UPDATES[method](before.double(), after.double())
    for i in (0, 1, 3):
        step = (expected[i] - before[i]).norm()
        assert (together[i] - expected[i]).norm() < min(1e-5 * before[i].norm(), 0.1 * step)


@pytest.mark.parametrize("method", UPDATES)
def test_longer_steps_stay_in_their_dtype(method):
    for dtype in (torch.float32, torch.float64):
        before = draw(2, 24, 40, dtype=dtype)
        after = short_step(before, 1.1 * SHORT * torch.finfo(dtype).eps)
        expected = UPDATES[method](before, after)
        assert torch.equal(resolved_update(UPDATES[method], before, after), expected)


def test_a_weight_too_large_for_the_square_of_its_norm_is_projected():
    before = 1e25 * draw(6, 9, dtype=torch.float32)
    after = 1e25 * draw(6, 9, seed=1, dtype=torch.float32)
    expected = UPDATES["exact"](before.double(), after.double())
    assert difference(resolved_update(UPDATES["exact"], before, after), expected) < 1e-6


@pytest.mark.parametrize("method", UPDATES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_autocast_changes_no_bit(dtype, method):
    whole, cast = weights(dtype), weights(dtype)
    for parameters, enabled in ((whole, False), (cast, True)):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        GramWhitening(optimizer, method)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            optimizer.step()
    assert all(map(torch.equal, whole, cast))
