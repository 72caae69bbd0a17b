"""The published formulas against NumPy, and the exact ones beside them."""

import numpy as np
import pytest
import torch

import oracles
from core.linearity import surrogate, target_linearity
from experiment import published_formulas
from experiment.published_formulas import Config, published_linearity, published_surrogate
from lab import cli
from lab.models import MLP
from lab.replicas import Replica, generator

CONFIG = Config(epochs=1, learning_rate=0.1, width=16, surrogate_samples=100, device="cpu")


def features_and_targets(apart=1.0, n=200, d=8, classes=3):
    """Features (N, d) in float32 with a mean, the last `apart` from the first; classes (N,)."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(n, d)) + rng.normal(size=d)
    y = (h[:, :classes] + rng.normal(size=(n, classes))).argmax(1)
    h[:, -1] = h[:, 0] + apart * h[:, -1]
    return torch.from_numpy(h).float(), torch.from_numpy(y)


def centred(y):
    return torch.from_numpy(oracles.centred(y)).float()


def by_float32_inverse(h, targets):
    """TL by NumPy's inverse in float32."""
    h, targets = h.numpy(), targets.numpy()
    inverse = np.linalg.inv(h.T @ h)
    assert inverse.dtype == np.float32
    residual = targets - h @ (inverse @ (h.T @ targets))
    return 1 - (residual**2).sum() / (targets**2).sum()


def test_published_linearity_is_right_for_features_far_from_dependent():
    h, y = features_and_targets()
    published = published_linearity(h, centred(y))
    assert 0.1 < published < 0.9
    assert published == pytest.approx(by_float32_inverse(h, centred(y)), abs=1e-5)
    assert published == pytest.approx(oracles.least_squares(h, y), abs=1e-5)


def test_published_linearity_is_wrong_for_features_nearly_dependent_where_the_exact_one_is_right():
    h, y = features_and_targets(apart=5e-5)
    truth = oracles.least_squares(h, y)
    assert target_linearity(h, y) == pytest.approx(truth, abs=1e-7)
    for wrong in (published_linearity(h, centred(y)), by_float32_inverse(h, centred(y))):
        assert abs(wrong - truth) > 1e-4


def test_published_linearity_adds_a_ridge_where_there_is_no_inverse():
    h, y = features_and_targets()
    h[:, -1] = 0
    assert published_linearity(h, centred(y)) == pytest.approx(
        oracles.least_squares(h, y), abs=1e-4
    )


def test_published_surrogate_is_the_identity():
    h, y = features_and_targets()
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    published = published_surrogate(h, weight, centred(y))
    assert published == pytest.approx(surrogate(h, weight, y), rel=1e-5)


def test_a_run_measures_what_it_trains():
    arrays = published_formulas.run(CONFIG, "digits", [Replica(0, {"lr": 0.1})])
    assert {name: values.shape for name, values in arrays.items()} == {
        **dict.fromkeys(("tl", "tl_published", "condition"), (1, 2, 4)),
        **dict.fromkeys(("surrogate", "surrogate_published"), (1, 4)),
        "surrogate_seconds": (1, 2),
    }
    images = cli.load_images(CONFIG, "digits")
    network = oracles.torch_layers(MLP((64, 16, 16, 16, 16, 10), [generator(0, "weights")]), 0)
    features = oracles.hidden(network, images.scale(images.x_train))
    expected = [oracles.least_squares(h, images.y_train) for h in features]
    np.testing.assert_allclose(arrays["tl"][0, 0], expected, atol=1e-5)
    assert (arrays["tl"][0, 1] != arrays["tl"][0, 0]).all()
    np.testing.assert_allclose(arrays["surrogate_published"], arrays["surrogate"], rtol=1e-4)
    assert (arrays["surrogate_seconds"] > 0).all()
