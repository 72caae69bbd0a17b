"""Target Linearity equals least squares in float64, its chance level the mean over targets."""

import math
import warnings

import numpy as np
import pytest
import torch

from cases import FEATURES, draw, gather, low_rank, make
from core.linearity import (
    NotFiniteError,
    held_out_linearity,
    read_out,
    report,
    target_linearity,
)
from core.moments import FeatureMoments
from oracles import chance, least_squares, least_squares_map, one_hot

FEW_SAMPLES = pytest.mark.filterwarnings("ignore:.* samples of .* features:RuntimeWarning")


@FEW_SAMPLES
@pytest.mark.parametrize("features", FEATURES)
def test_value_and_chance_equal_least_squares(features):
    h, y = make(features, "matrix")
    result = report(gather(h, y))
    assert result.value == pytest.approx(least_squares(h, y), abs=1e-9)
    assert 0 <= result.value <= 1
    assert result.chance == pytest.approx(chance(h), abs=1e-9)


@FEW_SAMPLES
@pytest.mark.parametrize("features", FEATURES)
def test_with_an_intercept_equals_least_squares_beside_a_constant(features):
    h, y = make(features, "matrix")
    result = report(gather(h, y), intercept=True)
    beside_one = torch.cat([h, torch.ones(len(h), 1)], dim=1)
    assert result.value == pytest.approx(least_squares(beside_one, y), abs=1e-9)
    assert result.chance == pytest.approx(chance(beside_one), abs=1e-9)


@pytest.mark.parametrize("targets", ["one target", "3 classes", "100 classes"])
def test_equals_least_squares_for_targets_of_every_kind(targets):
    h, y = make("mean not zero", targets)
    assert target_linearity(h, y) == pytest.approx(least_squares(h, y), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_equals_least_squares_on_the_same_rounded_values(dtype):
    offset = draw(120, 9) + 100
    for h in (
        make("duplicated columns", "matrix")[0],
        make("constant column", "matrix")[0],
        offset,
    ):
        h, y = h.to(dtype), draw(120, 4, seed=1).float() + 5
        assert target_linearity(h, y) == pytest.approx(least_squares(h, y), abs=1e-9)


@pytest.mark.filterwarnings("ignore::core.linearity.LostDigits")
def test_is_between_0_and_1_for_targets_that_are_hardly_or_wholly_linear():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        h = low_rank(rng, 40, 12, 1 + seed % 12) * np.logspace(-6, 6, 12)
        h = h + 10.0 ** rng.integers(-3, 6, size=12)
        residual = rng.normal(size=(40, 2))
        residual -= residual.mean(0)
        residual -= h @ np.linalg.lstsq(h, residual, rcond=None)[0]
        for y in (residual, h[:, :2], h @ rng.normal(size=(12, 3))):
            assert 0 <= target_linearity(torch.from_numpy(h), torch.from_numpy(y)) <= 1


def test_classes_may_be_indices_or_one_hot():
    h, y = make("mean not zero", "3 classes")
    expected = target_linearity(h, torch.nn.functional.one_hot(y))
    assert target_linearity(h, y) == pytest.approx(expected, rel=1e-14)
    # a class that never occurs is a column of zeros
    assert target_linearity(h, y + 2) == pytest.approx(target_linearity(h, y), abs=1e-14)


@pytest.mark.parametrize("features", ["mean not zero", "constant column"])
def test_chance_is_the_mean_over_unrelated_targets(features):
    h = make(features, "matrix")[0][:40]
    rng = np.random.default_rng(1)
    y = rng.exponential(size=40)
    columns = np.stack([rng.permutation(y) for _ in range(300)] + list(rng.normal(size=(300, 40))))
    moments = gather(h, torch.from_numpy(columns.T))
    reports = [report(moments.columns(slice(i, i + 1))) for i in range(len(columns))]
    level = reports[0].chance
    assert level > 0.2
    for half in (reports[:300], reports[300:]):  # permuted, Gaussian
        for name, expected in (("value", level), ("adjusted", 0)):
            values = [getattr(result, name) for result in half]
            error = 4 * np.std(values) / math.sqrt(len(values))
            assert np.mean(values) == pytest.approx(expected, abs=error)


def test_adjusted_rescales_the_value_from_chance_to_1():
    result = report(gather(*make("mean not zero", "3 classes")))
    expected = (result.value - result.chance) / (1 - result.chance)
    assert result.adjusted == pytest.approx(expected, abs=1e-15)


@FEW_SAMPLES
def test_adjusted_means_nothing_where_any_target_is_linear():
    result = report(gather(*make("N < d", "matrix")))
    assert (result.value, result.chance) == (pytest.approx(1, abs=1e-12), 1)
    assert math.isnan(result.adjusted)


@pytest.mark.parametrize(("n", "warned"), [(29, True), (30, True), (31, False)])
def test_as_few_samples_as_features_warn(n, warned):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        target_linearity(draw(n, 30), draw(n, 1, seed=1))
    assert [w.category for w in caught] == [RuntimeWarning] * warned
    assert all(f"{n} samples of 30 features" in str(w.message) for w in caught)


def spoiled(value):
    h = torch.ones(40, 5) * torch.arange(40)[:, None]
    h[17, 2] = value
    return h


RANDOM = draw(40, 5)
THIRDS = torch.arange(40) % 3
ERRORS = {
    "no samples": (RANDOM[:0], THIRDS[:0], "no samples"),
    "constant target": (RANDOM, torch.full((40, 1), 0.1), "constant"),
    "constant targets far from zero": (RANDOM, torch.full((40, 3), 1e8 / 3), "constant"),
    "one class": (RANDOM, torch.zeros(40, dtype=torch.long), "constant"),
    "one sample": (RANDOM[:1], THIRDS[:1], "constant"),
    "NaN in the features": (spoiled(math.nan), THIRDS, "features are not finite"),
    "infinity in the features": (spoiled(math.inf), THIRDS, "features are not finite"),
    "NaN in the targets": (RANDOM, spoiled(math.nan), "targets are not finite"),
    "infinity in the targets": (RANDOM, spoiled(-math.inf), "targets are not finite"),
}


@pytest.mark.parametrize(("features", "targets", "message"), ERRORS.values(), ids=ERRORS)
def test_input_without_an_answer_is_an_error_of_one_clear_line(features, targets, message):
    with pytest.raises(ValueError, match=message) as error:
        target_linearity(features, targets)
    assert "\n" not in str(error.value)
    is_of_features = "features are not finite" in message
    assert isinstance(error.value, NotFiniteError) == is_of_features
    if message == "no samples" or is_of_features:
        with pytest.raises(ValueError, match=message):
            read_out(FeatureMoments().update(features, targets))


def test_one_entry_without_an_answer_is_an_error_of_the_whole_batch():
    with pytest.raises(NotFiniteError):
        target_linearity(torch.stack([RANDOM, spoiled(math.nan).double()]), THIRDS)
    with pytest.raises(ValueError, match="constant"):
        target_linearity(RANDOM.expand(2, 40, 5), torch.stack([THIRDS, THIRDS * 0]))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_targets_that_vary_by_little_are_not_constant(scale):
    h, y = make("mean not zero", "matrix")
    expected = pytest.approx(least_squares(h, y), abs=1e-9)
    assert target_linearity(h, y * scale) == expected
    assert target_linearity(h, y * 1e-3 + 1e3) == expected


@pytest.mark.parametrize("targets", ["matrix", "3 classes"])
def test_held_out_linearity_is_what_the_map_of_least_squares_explains_of_new_samples(targets):
    names = ("mean not zero", "rank 5", "constant column", "columns scaled 1e-4 to 1e4")
    cases, expected = [make(name, targets) for name in names], []
    for h, y in cases:
        rows = one_hot(y)
        rows = rows - rows[:80].mean(0)
        rest = rows[80:] - h[80:].numpy() @ least_squares_map(h[:80], rows[:80])
        expected.append(1 - (rest**2).sum() / (rows[80:] ** 2).sum())
    fitted = [gather(h[:80], y[:80], 13) for h, y in cases]
    others = [gather(h[80:], y[80:], 7) for h, y in cases]
    values = [held_out_linearity(*pair) for pair in zip(fitted, others, strict=True)]
    assert values == pytest.approx(expected, abs=1e-9)
    h, y = (torch.stack(parts) for parts in zip(*cases, strict=True))
    batch = gather(h[:, :80], y[:, :80]), gather(h[:, 80:], y[:, 80:])
    assert held_out_linearity(*batch).tolist() == pytest.approx(expected, abs=1e-9)
    on_fitted = [held_out_linearity(moments, moments) for moments in fitted]
    assert on_fitted == pytest.approx([report(moments).value for moments in fitted], abs=1e-9)
