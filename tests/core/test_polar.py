"""Polar factors against SciPy in float64, by singular values and by matrix products."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cases import draw
from core.polar import (
    CUSHION,
    full_precision,
    is_nan,
    newton_schulz,
    polar_by_products,
    polar_factor,
    products,
    scales,
)
from matrices import PRECISION, SHAPES, low_rank, spectrum
from oracles import difference
from simulated_gpu import SimulatedGPU


def falling(condition, size):
    return torch.logspace(0, -np.log10(condition), size, dtype=torch.float64)


def one_small(condition, size):
    return torch.tensor([1.0] * (size - 1) + [1 / condition], dtype=torch.float64)


def product(factor):
    """XᵀX or XXᵀ, the smaller."""
    return factor.mT @ factor if factor.shape[-2] >= factor.shape[-1] else factor @ factor.mT


@pytest.mark.parametrize("polar", [polar_factor, polar_by_products])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_equals_scipy_in_every_precision(shape, polar):
    side = "right" if shape[0] >= shape[1] else "left"
    tolerances = {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 2e-3}
    for dtype, tolerance in (tolerances | {torch.bfloat16: 2e-2}).items():
        matrix = spectrum(np.linspace(1, 3, min(shape)), *shape)[0].to(dtype)
        result = polar(matrix)
        assert result.dtype == dtype
        expected, _ = scipy.linalg.polar(matrix.double().numpy(), side=side)
        assert difference(result, expected) < tolerance


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_of_any_rank_it_is_orthonormal_and_attains_the_nuclear_norm(shape, rank):
    matrix = low_rank(*shape, rank) if rank else torch.zeros(*shape, dtype=torch.float64)
    with SimulatedGPU():  # what the products do not settle, too
        there = polar_factor(matrix.to("cuda")).cpu()
    for result in (polar_factor(matrix), there):
        np.testing.assert_allclose(product(result), np.eye(min(shape)), atol=1e-13)
        nuclear = np.linalg.svd(matrix.numpy(), compute_uv=False).sum()
        trace = np.trace(result.numpy().T @ matrix.numpy())
        assert trace == pytest.approx(nuclear, rel=1e-13, abs=1e-13)


@pytest.mark.parametrize("values", [falling, one_small])
@pytest.mark.parametrize("shape", [(48, 48), (64, 40), (40, 64)])
@pytest.mark.parametrize("condition", [1, 1e2, 1e5, 1e7])
def test_products_lose_no_more_than_singular_values_do(condition, shape, values):
    exact, expected = spectrum(values(condition, min(shape)), *shape)
    for dtype in (torch.float32, torch.float64):
        matrix, eps = exact.to(dtype), torch.finfo(dtype).eps
        result = polar_by_products(matrix)
        off = product(result) - torch.eye(min(shape), dtype=dtype)
        assert off.norm() < 4 * eps * min(shape) ** 0.5
        lost = difference(polar_factor(matrix), expected)
        assert difference(result, expected) < 2 * lost + 20 * eps


def test_products_settle_float64_up_to_a_condition_number_of_1e15():
    matrix, _ = spectrum(falling(1e15, 24), 24, 24)
    assert difference(product(polar_by_products(matrix)), np.eye(24)) < 1e-15 * 24


def test_products_do_not_depend_on_scale_and_turn_with_the_matrix():
    matrix, turn = draw(2, 9, 6), torch.linalg.qr(draw(9, 9, seed=1)).Q
    factor = polar_by_products(matrix)
    for scale in (-1e-30, 1e30):
        assert difference(polar_by_products(scale * matrix), np.sign(scale) * factor) < 1e-13
    assert difference(polar_by_products(turn @ matrix), turn @ factor) < 1e-13
    assert difference(polar_by_products(matrix.mT), factor.mT) < 1e-13


ONE = draw(8, 6, dtype=torch.float32)
UNSETTLED = {
    "zero": torch.zeros(8, 6),
    "a column of zeros": ONE * torch.tensor([1.0, 1, 1, 1, 0, 1]),
    "condition number 1e9": torch.eye(8, 6) * falling(1e9, 6).float(),
    "large": 1e30 * ONE,
    "small": 1e-30 * ONE,
    "nan": ONE.clone().index_put_((torch.tensor(2), torch.tensor(3)), torch.tensor(torch.nan)),
    "infinite": ONE.clone().index_put_((torch.tensor(2), torch.tensor(3)), torch.tensor(torch.inf)),
}


@pytest.mark.parametrize("name", UNSETTLED)
def test_what_products_do_not_settle_is_nan_and_no_other_matrix_is(name):
    others = draw(2, 8, 6, seed=1, dtype=torch.float32)
    result = polar_by_products(torch.stack([others[0], UNSETTLED[name], others[1]])[:, None])
    assert result[1].isnan().all()
    assert is_nan(result).tolist() == [[False], [True], [False]]
    for i, other in zip((0, 2), others, strict=True):
        assert difference(result[i, 0], polar_by_products(other)) < 1e-6


@pytest.mark.parametrize("name", UNSETTLED)
def test_a_gpu_takes_singular_values_of_those_alone(name):
    batch = torch.stack([ONE, UNSETTLED[name]])
    with SimulatedGPU() as gpu:
        there = batch.to("cuda")
        if name == "nan":
            with pytest.raises(torch.linalg.LinAlgError):
                polar_factor(there)
            return
        result = polar_factor(there)
        assert gpu.waits == ["__bool__"]
        result = result.cpu()
    assert torch.equal(result[0], polar_by_products(batch)[0])
    np.testing.assert_array_equal(result[1], polar_factor(batch)[1])


@pytest.mark.parametrize("shape", [(6, 6), (2, 3, 5, 8), (0, 4, 4)])
def test_a_gpu_takes_products_and_waits_once(shape):
    matrix = draw(*shape)
    with SimulatedGPU() as gpu:
        result = polar_factor(matrix.to("cuda"))
        assert gpu.waits == ["__bool__"]
        result = result.cpu()
    assert torch.equal(result, polar_by_products(matrix))
    assert difference(result, polar_factor(matrix)) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scales_bring_every_singular_value_to_one_and_none_above(dtype):
    eps = torch.finfo(dtype).eps
    x = torch.cat([falling(16 / eps, 10_000), torch.linspace(CUSHION, 1, 10_000).double()])
    for scale in scales(dtype):
        was_large = x >= CUSHION
        x = scale * x * (3 - (scale * x) ** 2) / 2
        assert x.max() <= 1 + 1e-15
        assert x[was_large].min() > 0.24
    assert x.min() > 1 - max(eps / 100, 1e-15)


class Products(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count, self.precisions = 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default):
            self.count += 1
            self.precisions.add(torch.backends.cuda.matmul.fp32_precision)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_counted(dtype):
    with Products() as taken:
        polar_by_products(draw(2, 5, 8, dtype=dtype))
    assert taken.count == products(dtype)


def test_products_are_not_in_tf32_nor_autocast():
    matrix, matmul = draw(5, 8, dtype=torch.float32), torch.backends.cuda.matmul
    before, expected = matmul.fp32_precision, polar_by_products(matrix)
    matmul.fp32_precision = "tf32"
    try:
        with Products() as taken, torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(polar_by_products(matrix), expected)
        assert taken.precisions == {"ieee"}
        with pytest.raises(KeyError), full_precision("cpu"):
            raise KeyError
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_newton_schulz_step_is_the_published_polynomial(shape):
    matrix = draw(*shape)
    x = matrix.numpy() / np.sqrt((matrix.numpy() ** 2).sum())
    expected = (15 * x - 10 * x @ x.T @ x + 3 * x @ x.T @ x @ x.T @ x) / 8
    assert difference(newton_schulz(matrix, steps=1), expected) < 1e-14
    assert difference(newton_schulz(matrix, steps=0), x) < 1e-14


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_newton_schulz_converges_on_a_well_conditioned_matrix(shape):
    for dtype, precision in PRECISION.items():
        matrix = spectrum(np.linspace(1, 3, min(shape)), *shape)[0].to(dtype)
        assert difference(newton_schulz(matrix), polar_factor(matrix)) < precision


@pytest.mark.parametrize(("small", "converged"), [(1e-2, True), (1e-3, False), (1e-5, False)])
def test_newton_schulz_leaves_small_singular_values_short_of_one(small, converged):
    matrix, _ = spectrum([1.0, 0.9, small], 6, 6)
    values = np.linalg.svd(newton_schulz(matrix).numpy(), compute_uv=False)
    np.testing.assert_allclose(values[:2], 1, atol=1e-6)
    assert (abs(values[2] - 1) < 1e-2) == converged
    assert values[2] <= small * (15 / 8) ** 10
    # which the exact factor does not
    assert polar_factor(spectrum([1.0, 0.9, small], 6, 3)[0]).square().sum() == pytest.approx(3)


def test_newton_schulz_of_zero_is_zero():
    assert not newton_schulz(torch.zeros(2, 4, 3)).any()
