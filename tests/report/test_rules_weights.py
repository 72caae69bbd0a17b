"""Planted results: claims about the virtual update and the Virtual Covariance."""

import numpy as np
import pytest

from experiment import gram_virtual_covariance, statements, swissroll
from planted_results import DATA, around, judge, our_verdict, plant, verdict
from report.rules import weights

SEEDS = 5


@pytest.mark.parametrize(
    ("trained", "frozen", "expected", "control"),
    [
        (0.95, 0.5, "holds", "control met"),
        (0.95, 0.95, "holds", "control not decided by this data"),  # no better than never trained
        (0.95, 0.99, "holds", "control not met"),
        (0.5, 0.2, "holds in part", "control met"),  # rises, but is not straight
        (0.1, 0.05, "does not hold", "control met"),
    ],
)
def test_the_swiss_roll_must_be_straight(tmp_path, trained, frozen, expected, control):
    r2, never = np.full((2, SEEDS, 101), 0.2)
    r2[:, 50], never[:, 50] = around(trained, seeds=SEEDS), around(frozen, -1e-3, SEEDS)
    r2[:, 51:] = 1.0  # decides nothing
    plant(tmp_path, swissroll, "swissroll", {"r2": r2, "r2_frozen": never})
    assert verdict(tmp_path, weights.swiss_roll, "1") == expected
    assert our_verdict(tmp_path, weights.swiss_roll, "1") == control


@pytest.mark.parametrize(
    ("at_50", "at_100", "expected", "ours"),
    [
        (0.06, 0.06, "holds", "holds"),
        (0.04, 0.06, "does not hold", "holds"),
        (0.01, 0.01, "does not hold", "does not hold"),
    ],
)
def test_contours_must_move_to_be_seen_to_adapt(tmp_path, at_50, at_100, expected, ours):
    gram = np.broadcast_to(np.diag([3.0, 4.0]), (SEEDS, 101, 2, 2)).copy()  # of norm 5
    for epochs, share in ((slice(1, 51), at_50), (slice(51, None), at_100)):
        gram[:, epochs, 0, 1] = 5 * around(share, seeds=SEEDS)[:, None]
    plant(tmp_path, swissroll, "swissroll", {"gram": gram})
    assert verdict(tmp_path, weights.contours, "1") == expected
    assert our_verdict(tmp_path, weights.contours, "1") == ours


@pytest.mark.parametrize(
    ("power", "residual", "cosine", "largest", "expected"),
    [
        (1.0, 1e-15, 1.0, 0.1, "true, tight, useful"),
        (2.0, 1e-15, 1.0, 0.1, "true, tight, useful"),  # faster than the theorem asks
        (0.5, 1e-15, 1.0, 0.1, "true in part, tight, useful"),
        (1.0, 1e-5, 1.0, 0.1, "true in part, tight, useful"),
        (1.0, 1e-15, 0.9, 0.1, "true, not tight, useful"),
        (1.0, 1e-15, 1.0, 0.7, "true, tight, not useful"),
        (0.5, 1e-5, 0.9, 0.7, "not true, not tight, not useful"),
    ],
)
def test_the_gram_must_follow_to_first_order(tmp_path, power, residual, cosine, largest, expected):
    rates = np.array([0.025, 0.1, 0.05])
    shape = (3, 2, 4, 3)  # rate, seed, point, layer
    error = np.broadcast_to(rates[:, None, None, None] ** power, shape).copy()
    error[1] = largest  # at the largest rate
    arrays = {"rate": rates, "relative_error": error}
    arrays |= {"cosine_vc": np.full(shape, 0.5), "residual": np.full(shape, residual)}
    arrays["cosine_vc"][0] = cosine  # at the smallest
    settings = {"batch_size": None, "dataset": DATA.name}
    plant(tmp_path, gram_virtual_covariance, "planted-full", arrays, **settings)
    assert verdict(tmp_path, weights.gram_movement, "gram") == expected


def test_one_layer_whose_error_does_not_fall_is_found(tmp_path):
    rates = np.array([0.1, 0.05])
    error = np.broadcast_to(rates[:, None, None, None], (2, 3, 1, 3)).copy()
    error[..., 1] = 0.1
    arrays = {"rate": rates, "relative_error": error}
    arrays |= {"cosine_vc": np.ones(error.shape), "residual": np.zeros(error.shape)}
    settings = {"batch_size": 64, "dataset": DATA.name}
    plant(tmp_path, gram_virtual_covariance, "planted-64", arrays, **settings)
    (slope,) = [f for f in judge(tmp_path, weights.gram_movement, "gram") if "slope" in f.asked]
    assert (slope.outcome, slope.where) == ("not met", "planted, batches of 64")
    assert slope.number.startswith("0.00")


@pytest.mark.parametrize(("power", "expected"), [(1.0, "true"), (0.5, "not true")])
def test_single_steps_must_follow_in_every_layer_at_every_moment(tmp_path, power, expected):
    rates = np.array([0.1, 0.001, 0.00001])
    error = np.broadcast_to(rates[:, None], (3, 2, 3, 2)).copy()  # seed, epoch, rate, layer
    error[:, 1, :, 1] = rates**power
    arrays = {"rate": rates, "one_step_error": error}
    settings = {"network": "relu", "dataset": DATA.name}
    plant(tmp_path, statements, "planted-relu", arrays, **settings)
    assert verdict(tmp_path, weights.gram_movement, "statements") == expected
