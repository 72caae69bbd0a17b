"""The read-out is the map of least squares; the surrogate and ‖HWᵀ‖² are sums over samples."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from cases import FEATURES, TARGETS, draw, gather, latent, low_rank, make
from core.linearity import moments_surrogate, read_out, report, response_norm, surrogate
from oracles import centred, least_squares_map, one_hot

FEW_SAMPLES = pytest.mark.filterwarnings("ignore:.* samples of .* features:RuntimeWarning")


@FEW_SAMPLES
@pytest.mark.parametrize("features", FEATURES)
def test_fits_as_least_squares_does_and_its_share_is_target_linearity(features):
    h, y = make(features, "matrix")
    moments, rows = gather(h, y, 13 if len(h) < 1000 else None), centred(y)
    fitted = h.numpy() @ read_out(moments).numpy()
    tolerance = 1e-8 * np.linalg.norm(rows, axis=0).max()
    expected = h.numpy() @ least_squares_map(h, y)
    np.testing.assert_allclose(fitted, expected, rtol=0, atol=tolerance)
    share = 1 - ((rows - fitted) ** 2).sum() / (rows**2).sum()
    assert share == pytest.approx(report(moments).value, abs=1e-9)


@pytest.mark.parametrize("targets", ["matrix", "3 classes"])
def test_plus_the_mean_predicts_new_samples_as_scikit_learn_does_on_a_constant_column(targets):
    h, y = make("mean not zero", targets)
    h = torch.cat([h, torch.full((120, 1), -0.5, dtype=torch.float64)], 1)
    moments = gather(h[:80], y[:80])
    model = LinearRegression().fit(h[:80, :9].numpy(), one_hot(y)[:80])
    predicted = h[80:] @ read_out(moments) + moments.target_mean
    np.testing.assert_allclose(predicted, model.predict(h[80:, :9].numpy()), rtol=1e-9, atol=1e-9)


def test_of_features_that_say_nothing_is_0():
    h, y = make("nothing but zeros", "matrix")
    assert not read_out(gather(h, y)).any()
    h, _ = make("nothing but a constant", "matrix")
    assert read_out(gather(h, y)).abs().max() < 1e-12
    assert not read_out(gather(draw(40, 5), torch.ones(40, 2))).any()  # targets that are their mean


def test_follows_no_direction_that_is_only_rounding():
    rng = np.random.default_rng(0)
    h = low_rank(rng, 500, 30, 10)
    y = torch.from_numpy(latent(h, 3, rng))
    b = np.linalg.pinv(h, rcond=1e-9) @ centred(y)
    result = read_out(gather(torch.from_numpy(h).float(), y)).numpy()
    assert np.linalg.norm(result) < 2 * np.linalg.norm(b)
    np.testing.assert_allclose(h @ result, h @ b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("targets", TARGETS)
def test_the_surrogate_equals_the_n_by_n_formula(targets):
    h, y = make("mean not zero", targets)
    h, weight = h + 10, draw(6, 9)
    z, rows = h.numpy() @ weight.numpy().T, centred(y)
    expected = np.trace(rows.T @ (z @ z.T) @ rows) / rows.shape[1]
    assert surrogate(h, weight, y) == pytest.approx(expected, rel=1e-10)
    assert moments_surrogate(gather(h, y, 7), weight.float()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("offset", [0, 1e5])
def test_the_response_norm_equals_the_sum_over_all_responses(offset):
    h, y = make("mean not zero", "matrix")
    h, weight = h + offset, draw(6, 9)
    expected = sum(float(row @ unit) ** 2 for row in h for unit in weight)
    assert response_norm(gather(h, y, 7), weight) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("function", [moments_surrogate, response_norm])
@pytest.mark.parametrize("shape", [(6, 8), (9,), (6, 1, 3, 3)])
def test_a_weight_that_does_not_fit_the_features_is_an_error(function, shape):
    with pytest.raises(ValueError, match=r"for 9 features is \(…, m, 9\), not "):
        function(gather(*make("mean not zero", "matrix")), draw(*shape))


def test_the_read_out_with_an_intercept_is_scikit_learns_and_explains_tl1():
    h, y = draw(40, 5) + 3, draw(40, 2, seed=1) + draw(40, 2)
    moments = gather(h, y)
    slopes = read_out(moments, intercept=True)
    np.testing.assert_allclose(slopes, LinearRegression().fit(h, y).coef_.T, rtol=1e-10)
    left = (y - y.mean(0) - (h - h.mean(0)) @ slopes).square().sum()
    share = 1 - left / (y - y.mean(0)).square().sum()
    assert float(share) == pytest.approx(report(moments, intercept=True).value, rel=1e-12)
