"""Numbers far from one: right to 10⁻⁶ of what extended precision gives, or a warning says so."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from cases import draw, gather
from core.agop import gram_agop_cosine
from core.collapse import collapse
from core.gram import cosine, effective_rank, weight_gram
from core.layer_sums import step_cosine
from core.linearity import (
    LostDigits,
    NotFiniteError,
    held_out_linearity,
    linear_cka,
    report,
    response_cka,
    surrogate_share,
    target_linearity,
)
from core.moments import FeatureMoments
from core.virtual import feature_learning_residual, gram_shift_cosine
from oracles import extended_linearity

H = draw(200, 4)
Y = H @ draw(4, 2, seed=1) + 0.5 * draw(200, 2, seed=2)


def with_warning(function, *arguments):
    """What a function returns, and whether it warned of lost digits."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = function(*arguments)
    return value, any(issubclass(warning.category, LostDigits) for warning in caught)


@pytest.mark.parametrize("ridge", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("offset", [0, 1e3, 1e6, -1e8, 1e11, (1e8, 0.0, -1e5, 3.0)])
def test_ridge_far_from_zero(offset: object, ridge: float) -> None:
    far = H + torch.tensor(offset, dtype=torch.float64)
    expected = extended_linearity(far, Y, ridge)
    assert target_linearity(far, Y, ridge) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("size", [200, 37, 1])
@pytest.mark.parametrize("offset", [1e8, 1e12, 1e13, -3e13])
def test_means_far_from_zero_of_features_and_targets(offset: float, size: int) -> None:
    for h, y in ((H + offset, Y), (H, Y + offset), (H + offset, Y - offset)):
        expected = extended_linearity(h, y)
        parts = [gather(*part, size) for part in zip(h.split(90), y.split(90), strict=True)]
        merged = FeatureMoments()
        for part in reversed(parts):
            merged.merge(part)
        for moments in (gather(h, y, size), merged):
            value, warned = with_warning(report, moments)
            # extended precision has its own rounding, 10⁻¹⁹ of the offset
            assert value.value == pytest.approx(expected, abs=1e-7)
            assert not warned


@pytest.mark.parametrize("offset", [1e14, 3e14, 2e15])
def test_a_spread_of_a_few_roundings_is_dropped_with_a_warning(offset: float) -> None:
    value, warned = with_warning(target_linearity, H + offset, Y)
    assert warned
    assert value == 0


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e10 / 3, -1e-7, 1e300 / 3e200, 0.0])
@pytest.mark.parametrize("size", [200, 7])
def test_a_constant_column_has_no_spread_and_no_warning(value: float, size: int) -> None:
    h = torch.cat([H, torch.full((200, 1), value, dtype=H.dtype)], 1)
    moments = gather(h, Y, size)
    assert not moments.scatter[-1].any()
    assert not with_warning(report, moments)[1]


SCALES = [
    (1, 1e-165, 1, 1),
    (1e145, 1e-20, 1e145, 1e145),
    (1e-300, 1e300, 1, 1e-141),
    (1e-140, 1e140, 1e-139, 1e141),
    (3e-308, 1e-308, 1e308, 1e-200),
    (1e-320, 1e-320, 1e-320, 1e-320),  # of 12 bits each
]


@pytest.mark.parametrize("scales", SCALES)
def test_every_column_has_a_scale_of_its_own(scales: tuple[float, ...]) -> None:
    scaled = H / 8 * torch.tensor(scales, dtype=torch.float64)
    expected = extended_linearity(scaled, Y)
    for factor in (1, 1e-200, 1e200):
        assert target_linearity(scaled, factor * Y) == pytest.approx(expected, abs=1e-9)
    batch = target_linearity(torch.stack([H, scaled]), torch.stack([Y, 1e-200 * Y]))
    assert batch.tolist() == pytest.approx([extended_linearity(H, Y), expected], abs=1e-9)


@pytest.mark.parametrize("mean", [0, 1e-160, 1e-130])
def test_a_spread_whose_square_float64_does_not_hold_is_refused(mean: float) -> None:
    small = H * 1e-144 if mean == 1e-130 else H * 1e-165
    for batch in (torch.stack([H, small + mean]), torch.cat([H, small[:, :1] + mean], 1)):
        for measure in (report, lambda m: held_out_linearity(m, m)):
            with pytest.raises(NotFiniteError, match="vary by less"):
                measure(gather(batch, Y, 50))


def of_condition(condition: float, n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features of this condition number, and targets along all their directions."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(k, d)))[0] for k in (n, d))
    y = left @ rng.normal(size=(d, 2)) + 0.3 * rng.normal(size=(n, 2))
    h = (left * np.geomspace(1, 1 / condition, d)) @ right.T
    return torch.from_numpy(h), torch.from_numpy(y)


@pytest.mark.parametrize(("n", "d"), [(24, 4), (60, 9), (400, 40)])
def test_short_directions_are_right_or_warned_of(n: int, d: int) -> None:
    said = {}
    for condition in (1e1, 1e3, 1e4, 1e5, 3e5, 1e6, 3e6):
        for seed in range(3):
            h, y = of_condition(condition, n, d, seed)
            value, warned = with_warning(target_linearity, h, y)
            assert warned or value == pytest.approx(extended_linearity(h, y), abs=1e-6)
            said.setdefault(condition, []).append(warned)
    assert not any(said[1e1] + said[1e3] + said[1e4])  # where it would say nothing
    assert all(said[3e6])


def test_targets_that_lie_elsewhere_are_no_reason_for_a_warning() -> None:
    h, _ = of_condition(1e6, 400, 6, 0)
    vectors = np.linalg.eigh(h.numpy().T @ h.numpy())[1]
    along = torch.from_numpy(h.numpy() @ vectors[:, -2:])  # of the two longest directions
    value, warned = with_warning(target_linearity, h, along + along.mean(0))
    assert not warned
    assert value == pytest.approx(extended_linearity(h, along), abs=1e-6)


@pytest.mark.parametrize("offset", [0, 1e6, 1e10, -1e12])
def test_held_out_linearity_far_from_zero(offset: float) -> None:
    h = H + offset
    fitted, other = gather(h[:120], Y[:120], 50), gather(h[120:], Y[120:], 50)
    a, b = (h.numpy()[rows].astype(np.longdouble) for rows in (slice(120), slice(120, 200)))
    y = Y.numpy().astype(np.longdouble)
    y = y - y[:120].mean(0)
    # the plane of a's columns by its own mean and the rest, in extended precision
    mean = a.mean(0)
    scatter, cross = (a - mean).T @ (a - mean), (a - mean).T @ y[:120]
    solved = np.linalg.solve(
        scatter.astype(float), np.column_stack([cross, mean / np.abs(mean).max()]).astype(float)
    ).astype(np.longdouble)
    slopes, towards = solved[:, :2], solved[:, 2] * np.abs(mean).max()
    constant = 120 / (1 + 120 * mean @ towards)  # of S⁺μ
    at = mean @ slopes
    kept = 1 / (1 + 120 * mean @ towards)
    predicted = (b - mean) @ (slopes - np.outer(towards * constant, at)) + at * kept
    expected = 1 - ((y[120:] - predicted) ** 2).sum() / (y[120:] ** 2).sum()
    assert held_out_linearity(fitted, other) == pytest.approx(float(expected), abs=1e-7)


def extended_collapse(h: np.ndarray, labels: np.ndarray) -> float:
    """NC1 = tr(Σ_W Σ_B⁺) / K of two classes: Σ_W along μ₁ − μ₀ over Σ_B along it."""
    h = h.astype(np.longdouble)
    means = np.stack([h[labels == k].mean(0) for k in (0, 1)])
    along = means[1] - means[0]
    share = np.bincount(labels) / np.longdouble(len(labels))
    within = (((h - means[labels]) @ along) ** 2).mean()
    return float(within / (share.prod() * (along @ along) ** 2) / 2)


@pytest.mark.parametrize("noise", 10.0 ** -np.arange(9))
@pytest.mark.parametrize("offset", [0, 1e6])
def test_nc1_near_zero_is_right_or_warned_of(noise: float, offset: float) -> None:
    labels, far = np.arange(60) % 2, np.array([3.0, 0, 0, 0])
    h = offset + labels[:, None] * far + noise * draw(60, 4).numpy()
    moments = gather(torch.from_numpy(h), torch.from_numpy(labels), 25)
    result, warned = with_warning(collapse, moments)
    expected = extended_collapse(h, labels)
    assert warned or result.nc1 == pytest.approx(expected, rel=1e-6)
    assert warned == (expected < 1e-9)
    assert result.nc1 == pytest.approx(expected, rel=1e-6, abs=1e-14)


SIZES = [1e-200, 1e-100, 1e-25, 1e-15, 1e10, 1e60, 1e150]


@pytest.mark.parametrize("size", SIZES)
def test_measures_of_weights_and_gradients_do_not_depend_on_their_size(size: float) -> None:
    w, g, k = draw(5, 4), draw(5, 4, seed=1), weight_gram(draw(9, 5, seed=2))
    measures = {
        "cosine": lambda s, t: cosine(s * w, t * g),
        "effective rank": lambda s, _: effective_rank(s * w),
        "shift": lambda s, t: gram_shift_cosine(s * w, t * g),
        "agop": lambda s, t: gram_agop_cosine(s * w, t * k),
        "step": lambda s, t: step_cosine(
            (s * w)[None], (t * g)[None], (s * w + 0.01 * s * g)[None]
        ),
    }
    for name, measure in measures.items():
        for sizes in ((size, 1), (1, size), (size, size), (size, 1 / size)):
            assert measure(*sizes) == pytest.approx(measure(1, 1), rel=1e-9), name


@pytest.mark.parametrize("size", [1e-150, 1e-100, 1e-70, 1e70, 1e100, 1e130])
def test_alignments_do_not_depend_on_the_size_of_features_and_weights(size: float) -> None:
    w = draw(5, 4)

    def measures(s: float, t: float) -> list[float]:
        moments = gather(max(min(s, 1e130), 1e-130) * H, t * Y)
        cka = linear_cka(moments.scatter, moments.cross, moments.target_norm)
        return [cka, response_cka(moments, s * w), surrogate_share(moments, s * w)]

    for t in (1, 1e-120, 1e120):
        assert measures(size, t) == pytest.approx(measures(1, 1), rel=1e-9)


def test_halves_are_compared_in_more_than_half_precision() -> None:
    a = (draw(5, 4) * 1e-4).half()
    assert cosine(a, a) == pytest.approx(1, abs=1e-12)
    assert cosine(a, -a.bfloat16()) == pytest.approx(-1, abs=1e-3)
    assert effective_rank(a) == pytest.approx(effective_rank(a.double()), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", [0, -10, -40, -66, -83, -120, 20, 60, 110])
def test_the_residual_does_not_depend_on_the_size_of_gradients(dtype, exponent) -> None:
    h, w, a, g = (draw(*s, seed=i).to(dtype) for i, s in enumerate([(9, 4), (5, 4)] * 2))
    expected = feature_learning_residual(*(t.double() for t in (h, w, a, g)))
    size = torch.tensor(2.0, dtype=torch.float64).pow(exponent)
    small_a, small_g = ((size * t.double()).to(dtype) for t in (a, g))
    if torch.equal(small_a.double(), size * a.double()):  # the dtype holds them
        residual = feature_learning_residual(h, w, small_a, small_g)
        assert residual == pytest.approx(expected, rel=1e-3 if dtype != torch.float64 else 1e-12)
        moved = feature_learning_residual(small_a, w, h, small_g)
        assert math.isfinite(moved)


def test_the_residual_of_one_side_alone() -> None:
    h, w, a, g = (draw(*s, seed=i) for i, s in enumerate([(9, 4), (5, 4)] * 2))
    assert feature_learning_residual(h, w, a, 0 * g) == pytest.approx(1)
    for size in (1, 1e-200):
        assert not math.isfinite(feature_learning_residual(h, w, 0 * a, size * g))
        assert feature_learning_residual(h, w, 0 * a, 0 * g) == 0


def test_a_shift_of_rounding_alone_has_no_cosine() -> None:
    """W ∂L/∂W antisymmetric: the Gram matrix does not move."""
    for seed in range(10):
        turn = draw(5, 5, seed=seed + 100)
        w = draw(5, 5, seed=seed)
        tangent = torch.linalg.solve(w.mT, turn - turn.mT)
        assert math.isnan(gram_shift_cosine(w, tangent))
        for share in (1e-2, 1e-4):
            moved = tangent + share * w
            x = (w.mT @ moved).numpy().astype(np.longdouble)
            shift, gram = -(x + x.T), (w.mT @ w).numpy().astype(np.longdouble)
            expected = (gram * shift).sum() / np.sqrt((gram**2).sum() * (shift**2).sum())
            assert gram_shift_cosine(w, moved) == pytest.approx(float(expected), abs=1e-6)
