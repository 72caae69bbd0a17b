"""Target Linearity equals least squares in float64, and its rank, chance level and surrogate are what they claim."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from core.linearity import moments_surrogate, read_out, report, response_norm, surrogate, target_linearity
from core.moments import FeatureMoments
from oracles import centred, chance, least_squares, least_squares_map

EPS = 2.0**-52
FEW_SAMPLES = pytest.mark.filterwarnings("ignore:.* samples of .* features:RuntimeWarning")


def low_rank(rng, n, d, rank, offset=0.0):
    return (rng.normal(size=(n, rank)) + offset) @ rng.normal(size=(rank, d))


def with_columns(h, **columns):
    """`h` with some of its columns replaced: c2=… is column 2."""
    for name, column in columns.items():
        h[:, int(name[1:])] = column
    return h


def beside(column, h):
    return np.column_stack([column, h])


FEATURES = {
    "full rank": lambda r: r.normal(size=(120, 9)),
    "one column": lambda r: r.normal(size=(120, 1)),
    "mean not zero": lambda r: r.normal(size=(120, 9)) + r.normal(size=9),
    **{f"rank {k}": (lambda r, k=k: low_rank(r, 120, 9, k)) for k in range(1, 10)},
    "mean inside a range of rank 3": lambda r: low_rank(r, 120, 9, 3, offset=2),
    "mean outside a range of rank 3": lambda r: low_rank(r, 120, 9, 3) + r.normal(size=9),
    "duplicated columns": lambda r: np.repeat(r.normal(size=(120, 3)) + 1, 3, axis=1),
    "zero column": lambda r: with_columns(r.normal(size=(120, 9)) + 1, c4=0),
    "nothing but zeros": lambda r: np.zeros((120, 9)),
    "constant column": lambda r: with_columns(r.normal(size=(120, 9)) + 1, c4=0.1),
    "nothing but a constant": lambda r: np.full((120, 9), 0.3),
    "constant, zero and duplicated columns": lambda r: with_columns(low_rank(r, 120, 9, 4, 1), c0=0, c1=-3, c2=7),
    "columns scaled 1e-4 to 1e4": lambda r: (r.normal(size=(120, 9)) + 1) * np.logspace(-4, 4, 9),
    "rank 3 scaled 1e-4 to 1e4": lambda r: low_rank(r, 120, 9, 3) * np.logspace(-4, 4, 9),
    "offset of one column": lambda r: r.normal(size=(120, 9)) + 1e5 * np.eye(9)[2],
    "offset of all columns": lambda r: r.normal(size=(120, 9)) + 1e5,
    "offset and rank 3": lambda r: low_rank(r, 120, 9, 3) + 1e5,
    "offset inside a range of rank 3": lambda r: low_rank(r, 120, 9, 3, offset=1e5),
    "offset and duplicated columns": lambda r: np.repeat(r.normal(size=(120, 3)) + 1e5, 3, axis=1),
    "offset beside rank 3": lambda r: beside(r.normal(size=120) + 1e5, low_rank(r, 120, 8, 3) + r.normal(size=8)),
    "offset beside rank 3, many samples": lambda r: beside(
        r.normal(size=20000) + 1e5, low_rank(r, 20000, 4, 2) + np.array([0.1, 0.2, -0.1, 0.3])
    ),
    "offset beside a constant": lambda r: with_columns(r.normal(size=(120, 9)) + 1e5, c4=1e-3),
    "N < d": lambda r: r.normal(size=(30, 50)),
    "N < d, rank 5": lambda r: low_rank(r, 30, 50, 5),
    "N < d with an offset": lambda r: r.normal(size=(30, 50)) + 1e5,
    "N = d": lambda r: r.normal(size=(30, 30)),
    "N = d + 1": lambda r: r.normal(size=(31, 30)) + 0.5,
    "N = d + 1 with a constant": lambda r: with_columns(r.normal(size=(31, 30)), c4=2),
}


def latent(h, c, rng):
    """Targets (N, c) that are partly linear in the standardised features."""
    z = (h - h.mean(0)) / np.where(h.std(0) > 1e-9 * np.abs(h).max(), h.std(0), np.inf)
    return z @ rng.normal(size=(h.shape[1], c)) / math.sqrt(h.shape[1]) + rng.normal(size=(len(h), c))


def classes(h, c, rng):
    return np.argmax(latent(h, c, rng) + rng.normal(size=c), axis=1)


TARGETS = {
    "one target": lambda h, r: latent(h, 1, r) + 3,
    "matrix": lambda h, r: latent(h, 4, r) * [1, 10, 0.1, 1] + [0, 100, -1, 5],
    "3 classes": lambda h, r: classes(h, 3, r),
    "100 classes": lambda h, r: np.where(np.arange(len(h)) == 0, 99, classes(h, 100, r)),
}


def make(features, targets, seed=0):
    rng = np.random.default_rng(seed)
    h = FEATURES[features](rng)
    return torch.from_numpy(h), torch.from_numpy(np.asarray(TARGETS[targets](h, rng)))


def moments(features, targets, size=None):
    found = FeatureMoments()
    for h, y in zip(features.split(size or len(features)), targets.split(size or len(features)), strict=True):
        found.update(h, y)
    return found


@FEW_SAMPLES
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("features", FEATURES)
def test_equals_least_squares(features, targets):
    h, y = make(features, targets)
    found = target_linearity(h, y)
    assert found == pytest.approx(least_squares(h, y), abs=1e-9)
    assert 0 <= found <= 1


ROUNDED = {
    **{name: FEATURES[name] for name in ("full rank", "mean not zero", "duplicated columns", "N < d", "N = d + 1")},
    **{name: FEATURES[name] for name in ("zero column", "constant column", "one column")},
    "columns scaled 1e-2 to 1e2": lambda r: (r.normal(size=(120, 9)) + 1) * np.logspace(-2, 2, 9),
    "offset of 100": lambda r: r.normal(size=(120, 9)) + 100,
}


@FEW_SAMPLES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("features", ROUNDED)
def test_equals_least_squares_on_the_same_rounded_values(features, dtype):
    rng = np.random.default_rng(0)
    h = ROUNDED[features](rng)
    y = torch.from_numpy(latent(h, 4, rng) + 5)
    h = torch.from_numpy(h).to(dtype)
    assert target_linearity(h, y.float()) == pytest.approx(least_squares(h, y.float()), abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_is_between_0_and_1_for_targets_that_are_hardly_or_wholly_linear(seed):
    rng = np.random.default_rng(seed)
    h = low_rank(rng, 40, 12, 1 + seed % 12) * np.logspace(-6, 6, 12) + 10.0 ** rng.integers(-3, 6, size=12)
    residual = rng.normal(size=(40, 2))
    residual -= residual.mean(0)
    residual -= h @ np.linalg.lstsq(h, residual, rcond=None)[0]
    for y in (residual, h[:, :2], h @ rng.normal(size=(12, 3))):
        assert 0 <= target_linearity(torch.from_numpy(h), torch.from_numpy(y)) <= 1


def test_is_0_for_features_orthogonal_to_the_targets():
    index = torch.arange(64)
    signs = torch.stack([1 - 2 * (index >> bit & 1) for bit in range(6)], dim=1).double()
    assert target_linearity(signs[:, :4], signs[:, 4:]) == pytest.approx(0, abs=1e-15)


def test_is_1_for_features_that_contain_the_targets():
    h, y = make("mean not zero", "matrix")
    one_hot = torch.nn.functional.one_hot(torch.arange(120) % 4).double()
    assert target_linearity(torch.cat([h, y - y.mean(0)], 1), y) == pytest.approx(1, abs=1e-12)
    assert target_linearity(torch.cat([h, y, torch.ones(120, 1)], 1), y) == pytest.approx(1, abs=1e-12)
    assert target_linearity(torch.cat([one_hot, h], 1), torch.arange(120) % 4) == pytest.approx(1, abs=1e-12)
    assert target_linearity(torch.cat([h, y], 1), y) < 1 - 1e-4  # the mean of the targets is not among them


@pytest.mark.parametrize("targets", ["matrix", "3 classes"])
@pytest.mark.parametrize("features", ["full rank", "mean not zero", "mean outside a range of rank 3", "rank 3"])
def test_is_unchanged_by_invertible_maps_of_the_features(features, targets):
    h, y = make(features, targets)
    g = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(9, 9, generator=g, dtype=torch.float64)).Q for _ in range(2))
    mapped = h @ (left * torch.logspace(-1, 1, 9, dtype=torch.float64)) @ right
    assert target_linearity(mapped, y) == pytest.approx(target_linearity(h, y), abs=1e-11)


@pytest.mark.parametrize("targets", ["matrix", "3 classes"])
@pytest.mark.parametrize("features", ["full rank", "offset and rank 3", "constant column"])
def test_is_unchanged_by_the_order_of_the_rows(features, targets):
    h, y = make(features, targets)
    order = torch.randperm(len(h), generator=torch.Generator().manual_seed(0))
    assert target_linearity(h[order], y[order]) == pytest.approx(target_linearity(h, y), abs=1e-11)


@pytest.mark.parametrize("size", [1, 7, 120])
@pytest.mark.parametrize("features", ["full rank", "offset and rank 3", "constant column", "offset of all columns"])
def test_is_unchanged_by_batching_and_by_the_order_of_merging(features, size):
    h, y = make(features, "3 classes")
    expected = target_linearity(h, y)
    assert report(moments(h, y, size)).value == pytest.approx(expected, abs=1e-11)
    for order in itertools.permutations(zip(h.split(45), y.split(45), strict=True)):
        found = FeatureMoments()
        for part in order:
            found.merge(moments(*part, size))
        assert report(found).value == pytest.approx(expected, abs=1e-11)


def test_classes_may_be_indices_or_one_hot():
    h, y = make("mean not zero", "3 classes")
    assert target_linearity(h, y) == target_linearity(h, torch.nn.functional.one_hot(y))
    # a class that never occurs is a column of zeros
    assert target_linearity(h, y + 2) == pytest.approx(target_linearity(h, y), abs=1e-14)


@pytest.mark.parametrize("features", ["full rank", "mean not zero", "rank 3", "offset of all columns", "zero column"])
def test_constant_column_adds_an_intercept(features):
    h, y = make(features, "matrix")
    fitted = LinearRegression().fit(h.numpy(), y.numpy()).predict(h.numpy())
    expected = r2_score(y.numpy(), fitted, multioutput="variance_weighted")
    for constant in (1.0, -1e-3, 1e4):
        extended = torch.cat([h, torch.full((120, 1), constant)], dim=1)
        assert target_linearity(extended, y) == pytest.approx(expected, abs=1e-9)


@FEW_SAMPLES
@pytest.mark.parametrize("features", FEATURES)
def test_with_an_intercept_equals_least_squares_beside_a_constant(features):
    h, y = make(features, "matrix")
    found = report(moments(h, y), intercept=True)
    beside_one = torch.cat([h, torch.ones(len(h), 1)], dim=1)
    assert found.value == pytest.approx(least_squares(beside_one, y), abs=1e-9)
    assert found.chance == pytest.approx(chance(beside_one), abs=1e-9)


@pytest.mark.parametrize("offset", [-1.0, 1e3, 1e5, 1e7])
def test_offset_does_not_matter_beside_an_intercept(offset):
    h, y = make("mean not zero", "3 classes")
    one = torch.ones(120, 1)
    found = target_linearity(torch.cat([h + offset, one], 1), y)
    assert found == pytest.approx(target_linearity(torch.cat([h, one], 1), y), abs=1e-8)


def test_rank_and_condition_are_those_of_centred_columns_of_unit_length():
    for name in ("full rank", "mean not zero", "columns scaled 1e-4 to 1e4", "offset of one column"):
        h, y = make(name, "matrix")
        columns = (h - h.mean(0)).numpy()
        found = report(moments(h, y))
        assert (found.n, found.d, found.rank) == (120, 9, 9)
        assert found.condition == pytest.approx(np.linalg.cond(columns / np.linalg.norm(columns, axis=0)), rel=1e-6)


@FEW_SAMPLES
@pytest.mark.parametrize(
    ("features", "rank"),
    [(f"rank {k}", k) for k in range(1, 10)]
    + [("duplicated columns", 3), ("zero column", 8), ("constant column", 8), ("nothing but a constant", 0)]
    + [("nothing but zeros", 0), ("rank 3 scaled 1e-4 to 1e4", 3), ("offset and rank 3", 3), ("N < d", 29)]
    + [("offset inside a range of rank 3", 3), ("N < d with an offset", 29), ("N < d, rank 5", 5), ("N = d", 29)],
)
def test_rank_is_the_planted_one(features, rank):
    found = report(moments(*make(features, "matrix")))
    assert found.rank == rank
    assert rank > 0 or found.condition == 1


@pytest.mark.parametrize(("factor", "rank"), [(100, 2), (0.01, 1)])
def test_eigenvalues_are_cut_at_the_cutoff(factor, rank):
    index = torch.arange(64)
    signs = torch.stack([1 - 2 * (index >> bit & 1) for bit in range(3)], dim=1).double()
    cutoff = 64 * EPS
    # two columns of correlation 1 − δ²/2 + …: eigenvalues 2 and δ²/2
    delta = 2 * math.sqrt(factor * cutoff)
    h = torch.stack([signs[:, 0], math.cos(delta) * signs[:, 0] + math.sin(delta) * signs[:, 1]], dim=1)
    found = report(moments(h, signs[:, 1:]))
    assert found.cutoff == cutoff
    assert found.rank == rank
    assert found.value == pytest.approx(0.5 if rank == 2 else 0, abs=1e-3)


def test_cutoff_grows_with_the_larger_of_samples_and_features():
    assert report(moments(*make("full rank", "matrix"))).cutoff == 120 * EPS
    with pytest.warns(RuntimeWarning):
        assert report(moments(*make("N < d", "matrix"))).cutoff == 50 * EPS


@pytest.mark.parametrize(
    ("dtype", "rank"), [(torch.float64, 10), (torch.float32, 10), (torch.bfloat16, 30), (torch.float16, 30)]
)
def test_rounding_in_float32_is_cut_and_in_half_precision_counts_as_features(dtype, rank):
    rng = np.random.default_rng(0)
    h = torch.from_numpy(low_rank(rng, 500, 30, 10))
    y = torch.from_numpy(latent(h.numpy(), 3, rng))
    found = report(moments(h.to(dtype), y))
    assert found.rank == rank
    # with the rounding cut, that is what the product has before it is rounded
    expected, tolerance = (least_squares(h, y), 1e-6) if rank == 10 else (least_squares(h.to(dtype), y), 1e-9)
    assert found.value == pytest.approx(expected, abs=tolerance)


def chance_features(features, n=120):
    h, _ = make("full rank" if features == "mean zero" else features, "matrix")
    return h[:n] - h[:n].mean(0) if features == "mean zero" else h[:n]


@pytest.mark.parametrize("features", [name for name in FEATURES if "N " not in name] + ["mean zero"])
def test_chance_is_the_share_of_centred_directions_that_the_features_span(features):
    h = chance_features(features)
    found = report(moments(h, torch.arange(len(h)) % 3))
    assert found.chance == pytest.approx(chance(h), abs=1e-9)


@pytest.mark.parametrize("draw", ["permuted", "gaussian"])
@pytest.mark.parametrize("features", ["mean zero", "mean not zero", "offset of all columns", "constant column"])
def test_chance_is_the_mean_over_unrelated_targets(features, draw):
    h = chance_features(features, n=40)
    rng = np.random.default_rng(1)
    y = rng.exponential(size=(40, 1))
    reports = [
        report(moments(h, torch.from_numpy(rng.permutation(y) if draw == "permuted" else rng.normal(size=(40, 1)))))
        for _ in range(600)
    ]
    level = reports[0].chance
    assert level > 0.2
    for values, expected in (([r.value for r in reports], level), ([r.adjusted for r in reports], 0)):
        assert np.mean(values) == pytest.approx(expected, abs=4 * np.std(values) / math.sqrt(600))


def test_adjusted_is_near_0_for_unrelated_targets_and_1_for_linear_ones():
    g = torch.Generator().manual_seed(0)
    h, y = torch.randn(4000, 400, generator=g), torch.randn(4000, 50, generator=g)
    found = report(moments(h, y))
    assert found.value == pytest.approx(0.1, abs=0.01)
    assert found.adjusted == pytest.approx(0, abs=0.005)
    h = h.double() - h.double().mean(0)
    assert report(moments(h, h[:, :5])).adjusted == pytest.approx(1, abs=1e-9)


def test_adjusted_rescales_value_from_chance_to_1():
    found = report(moments(*make("mean not zero", "3 classes")))
    assert found.adjusted == pytest.approx((found.value - found.chance) / (1 - found.chance), abs=1e-15)


def test_adjusted_means_nothing_where_any_target_is_linear():
    with pytest.warns(RuntimeWarning):
        found = report(moments(*make("N < d", "matrix")))
    assert (found.value, found.chance) == (pytest.approx(1, abs=1e-12), 1)
    assert math.isnan(found.adjusted)


@pytest.mark.parametrize(("n", "warned"), [(29, True), (30, True), (31, False)])
def test_as_few_samples_as_features_warn(n, warned):
    rng = np.random.default_rng(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        target_linearity(torch.from_numpy(rng.normal(size=(n, 30))), torch.from_numpy(rng.normal(size=(n, 1))))
    assert [w.category for w in caught] == [RuntimeWarning] * warned
    assert all(str(n) in str(w.message) and "30" in str(w.message) for w in caught)


def spoiled(value):
    h = torch.ones(40, 5) * torch.arange(40)[:, None]
    h[17, 2] = value
    return h


RANDOM = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
THIRDS = torch.arange(40) % 3
ERRORS = {
    "no samples": (RANDOM[:0], THIRDS[:0], "no samples"),
    "constant target": (RANDOM, torch.full((40, 1), 0.1), "constant"),
    "constant targets far from zero": (RANDOM, torch.full((40, 3), 1e8 / 3), "constant"),
    "one class": (RANDOM, torch.zeros(40, dtype=torch.long), "constant"),
    "one sample": (RANDOM[:1], THIRDS[:1], "constant"),
    "NaN in the features": (spoiled(math.nan), THIRDS, "finite"),
    "infinity in the features": (spoiled(math.inf), THIRDS, "finite"),
    "NaN in the targets": (RANDOM, spoiled(math.nan), "finite"),
    "infinity in the targets": (RANDOM, spoiled(-math.inf), "finite"),
    "features (N,)": (RANDOM[:, 0], THIRDS, r"\(N, d\)"),
    "features (N, T, d)": (RANDOM[:, None], THIRDS, r"\(N, d\)"),
    "integer features": (RANDOM.long(), THIRDS, r"\(N, d\)"),
    "targets (N, c, 1)": (RANDOM, RANDOM[:, :, None], r"\(N, c\)"),
    "fewer targets": (RANDOM, THIRDS[:39], "39"),
    "negative class": (RANDOM, THIRDS - 1, "-1"),
    "float (N,) targets": (RANDOM, RANDOM[:, 0], "integer"),
}


@pytest.mark.parametrize(("features", "targets", "message"), list(ERRORS.values()), ids=ERRORS)
def test_input_without_an_answer_is_an_error_of_one_clear_line(features, targets, message):
    with pytest.raises(ValueError, match=message) as error:
        target_linearity(features, targets)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_targets_that_vary_by_little_are_not_constant(scale):
    h, y = make("mean not zero", "matrix")
    assert target_linearity(h, y * scale) == pytest.approx(least_squares(h, y), abs=1e-9)
    assert target_linearity(h, y * 1e-3 + 1e3) == pytest.approx(least_squares(h, y), abs=1e-9)


def surrogate_case(targets, kernels=False, offset=0.0):
    h, y = make("mean not zero", targets)
    h = h + offset
    shape = (6, 1, 3, 3) if kernels else (6, 9)
    return h, y, torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kernels", [False, True], ids=["matrix", "kernels"])
@pytest.mark.parametrize("targets", TARGETS)
def test_surrogate_equals_the_n_by_n_formula(targets, kernels):
    h, y, weight = surrogate_case(targets, kernels, offset=10)
    z = h.numpy() @ weight.numpy().reshape(6, 9).T
    targets = centred(y)
    expected = np.trace(targets.T @ (z @ z.T) @ targets) / targets.shape[1]
    assert surrogate(h, weight, y) == pytest.approx(expected, rel=1e-10)
    assert moments_surrogate(moments(h, y, 7), weight.float()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kernels", [False, True], ids=["matrix", "kernels"])
@pytest.mark.parametrize("offset", [0, 1e5])
def test_response_norm_equals_the_sum_over_all_responses(offset, kernels):
    h, y, weight = surrogate_case("matrix", kernels, offset)
    expected = sum(float(row @ kernel.flatten()) ** 2 for row in h for kernel in weight)
    assert response_norm(moments(h, y, 7), weight) == pytest.approx(expected, rel=1e-10)


def test_weight_that_does_not_fit_the_features_is_an_error():
    h, y, weight = surrogate_case("matrix")
    for function in (moments_surrogate, response_norm):
        with pytest.raises(ValueError, match="9 columns, not 8"):
            function(moments(h, y), weight[:, :8])


FULL_COLUMN_RANK = ["full rank", "one column", "mean not zero", "rank 9", "columns scaled 1e-4 to 1e4", "N = d"]
FULL_COLUMN_RANK += ["constant column", "offset of one column", "offset of all columns", "N = d + 1"]


@FEW_SAMPLES
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("features", FEATURES)
def test_read_out_gives_the_fitted_values_of_least_squares_and_its_share_is_tl(features, targets):
    h, y = make(features, targets)
    found, expected, rows = read_out(moments(h, y, 13)).numpy(), least_squares_map(h, y), centred(y)
    assert found.shape == expected.shape
    fitted, tolerance = h.numpy() @ found, 1e-8 * np.linalg.norm(rows, axis=0).max()
    np.testing.assert_allclose(fitted, h.numpy() @ expected, rtol=0, atol=tolerance)
    value = report(moments(h, y)).value
    assert 1 - ((rows - fitted) ** 2).sum() / (rows**2).sum() == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("features", FULL_COLUMN_RANK)
def test_read_out_is_the_map_of_least_squares_where_only_one_fits(features, targets):
    h, y = make(features, targets)
    b = least_squares_map(h, y)
    scale = np.abs(b).max(1, keepdims=True)
    np.testing.assert_allclose(read_out(moments(h, y)).numpy() / scale, b / scale, rtol=0, atol=1e-7)


@pytest.mark.parametrize("targets", TARGETS)
def test_read_out_plus_the_mean_predicts_new_samples_as_scikit_learn_does_on_a_constant_column(targets):
    h, y = make("mean not zero", targets)
    h = torch.cat([h, torch.full((120, 1), -0.5, dtype=torch.float64)], 1)
    found = moments(h[:80], y[:80])
    rows = np.eye(100)[y] if y.ndim == 1 else y.numpy()
    expected = LinearRegression().fit(h[:80, :9].numpy(), rows[:80, : found.c]).predict(h[80:, :9].numpy())
    np.testing.assert_allclose(h[80:] @ read_out(found) + found.target_mean, expected, rtol=1e-9, atol=1e-9)


def test_read_out_of_features_that_say_nothing_is_0():
    h, y = make("nothing but zeros", "matrix")
    assert not read_out(moments(h, y)).any()
    h, _ = make("nothing but a constant", "matrix")
    assert read_out(moments(h, y)).abs().max() < 1e-12
    assert not read_out(moments(RANDOM.double(), torch.ones(40, 2))).any()  # targets that are their mean


def test_read_out_follows_no_direction_that_is_only_rounding():
    rng = np.random.default_rng(0)
    h = low_rank(rng, 500, 30, 10)
    y = torch.from_numpy(latent(h, 3, rng))
    b = np.linalg.pinv(h, rcond=1e-9) @ centred(y)
    found = read_out(moments(torch.from_numpy(h).float(), y)).numpy()
    assert np.linalg.norm(found) < 2 * np.linalg.norm(b)
    np.testing.assert_allclose(h @ found, h @ b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["no samples", "NaN in the features", "infinity in the features"])
def test_read_out_of_features_without_an_answer_is_an_error_of_one_clear_line(name):
    features, targets, message = ERRORS[name]
    with pytest.raises(ValueError, match=message) as error:
        read_out(FeatureMoments().update(features, targets))
    assert "\n" not in str(error.value)
