"""Definition 2 with a ridge, and the surrogate normalised: scikit-learn, N × N matrices."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from cases import draw, gather
from core.linearity import (
    report,
    response_cka,
    ridge_linearity,
    surrogate_share,
    target_linearity,
)
from oracles import centred, one_hot

H = draw(90, 7) + draw(7, seed=1)
CLASSES = torch.arange(90) % 4
REAL = draw(90, 3, seed=2) + H[:, :3]
W = draw(5, 7, seed=3)


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("targets", [CLASSES, REAL], ids=["classes", "real"])
def test_with_a_ridge_it_is_what_scikit_learns_ridge_explains(targets, ridge):
    y = centred(targets)
    fit = Ridge(ridge, fit_intercept=False, solver="svd").fit(H.numpy(), y)
    expected = 1 - ((y - fit.predict(H.numpy())) ** 2).sum() / (y**2).sum()
    assert target_linearity(H, targets, ridge) == pytest.approx(expected, abs=1e-13)


def test_a_ridge_goes_to_least_squares_and_to_nothing():
    assert target_linearity(H, CLASSES, 1e-9) == pytest.approx(
        target_linearity(H, CLASSES), abs=1e-9
    )
    assert target_linearity(H, CLASSES, 1e12) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("ridge", [-1.0, 0.0, float("nan")])
def test_a_ridge_that_is_not_above_zero_is_refused(ridge):
    with pytest.raises(ValueError, match="ridge must be above zero"):
        ridge_linearity(gather(H, CLASSES), ridge)


def normalised(h, w, y):
    """Both normalisations through the N × N matrix of centred responses."""
    z = (h - h.mean(0)).numpy() @ w.T.numpy()
    gram = z @ z.T
    aligned = np.trace(y.T @ gram @ y)
    norm = np.linalg.norm
    return aligned / (norm(gram, 2) * (y**2).sum()), aligned / (norm(gram) * norm(y @ y.T))


@pytest.mark.parametrize("targets", [CLASSES, REAL], ids=["classes", "real"])
def test_normalised_surrogates_are_those_of_the_whole_gram_matrix(targets):
    share, cka = normalised(H, W, centred(targets))
    moments = gather(H, targets, size=17)
    assert surrogate_share(moments, W) == pytest.approx(share, rel=1e-12)
    assert response_cka(moments, W) == pytest.approx(cka, rel=1e-12)


def test_of_a_batch_they_are_those_of_each_entry():
    h, w = draw(3, 60, 7), draw(3, 5, 7, seed=1)
    moments = gather(h, CLASSES[:60])
    for measure in (surrogate_share, response_cka, lambda m, _: ridge_linearity(m, 0.5)):
        found = measure(moments, w)
        expected = [measure(moments[r], w[r]) for r in range(3)]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_the_share_is_a_lower_bound_of_linearity_with_an_intercept():
    for seed in range(200):
        h, w = draw(40, 6, seed=seed), draw(1 + seed % 6, 6, seed=seed + 1000)
        moments = gather(h, CLASSES[:40])
        assert surrogate_share(moments, w) <= report(moments, intercept=True).value + 1e-12


def test_both_are_one_at_neural_collapse():
    classes = CLASSES[:88]  # of equal size
    means = torch.from_numpy(one_hot(classes)) - 0.25  # a simplex, one point a class
    w = torch.linalg.qr(draw(4, 4)).Q
    moments = gather(means + 3.0, classes)
    assert surrogate_share(moments, w) == pytest.approx(1, abs=1e-12)
    assert response_cka(moments, w) == pytest.approx(1, abs=1e-12)


def test_cka_without_the_targets_scatter_is_refused():
    with pytest.raises(ValueError, match="whole scatter of the targets"):
        response_cka(gather(H, REAL, diagonal_targets=True), W)
