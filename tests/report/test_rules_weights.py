"""Planted results: claims about the virtual update, whitening and the Virtual Covariance."""

import numpy as np
import pytest

from experiment import gram_virtual_covariance, swissroll, whiten, whiten_cnn
from planted_results import DATA, around, judge, outcomes, plant, verdict
from report.rules import weights

SEEDS = 5


@pytest.mark.parametrize(
    ("trained", "frozen", "expected"),
    [
        (0.95, 0.5, "holds"),
        (0.95, 0.95, "not decided by this data"),  # no better than a never-trained network
        (0.95, 0.99, "holds in part"),
        (0.5, 0.2, "holds in part"),  # rises, but is not straight
        (0.1, 0.05, "does not hold"),
    ],
)
def test_the_swiss_roll_must_be_straight_and_by_training(tmp_path, trained, frozen, expected):
    r2, control = np.full((2, SEEDS, 101), 0.2)
    r2[:, 50], control[:, 50] = around(trained, seeds=SEEDS), around(frozen, -1e-3, SEEDS)
    r2[:, 51:] = 1.0  # decides nothing
    plant(tmp_path, swissroll, "swissroll", {"r2": r2, "r2_frozen": control})
    assert verdict(tmp_path, weights.swiss_roll, "1") == expected


def plant_arm(root, method, final, rate=0.01, spread=1e-4, script=whiten, start=0.1):
    """A method's test accuracies: `start` before training, `final` after it."""
    final = around(final, spread, SEEDS)
    accuracy = np.stack([np.full(SEEDS, start), final], axis=1)  # (seed, epoch)
    settings = {"method": method, "learning_rate": rate, "dataset": DATA.name}
    name = f"planted-{method}-lr{rate}"
    plant(root, script, name, {"test_accuracy": accuracy}, **settings)


@pytest.mark.parametrize(
    ("whitened", "spread", "expected"),
    [
        (0.97, 0, "met"),
        (0.897, 0, "met"),  # 0.3 of ten points of errors
        (0.893, 0, "not met"),  # 0.7
        (0.90, 0.1, "not decided"),
        (0.97, 0.1, "not decided"),  # the mean does not decide alone
    ],
)
def test_whitening_may_lose_a_twentieth_of_the_errors(tmp_path, whitened, spread, expected):
    plant_arm(tmp_path, "plain", 0.9, spread=0)
    plant_arm(tmp_path, "exact", whitened, spread=spread)
    found = outcomes(tmp_path, weights.whitening, "2")
    assert found["whitened (exact) − plain at rate 0.01"] == expected


def test_the_margin_is_a_share_of_the_errors_and_not_of_points(tmp_path):
    plant_arm(tmp_path, "plain", 0.98)
    plant_arm(tmp_path, "exact", 0.977)  # 0.3 points of two
    found = outcomes(tmp_path, weights.whitening, "2")
    assert found["whitened (exact) − plain at rate 0.01"] == "not met"


def test_on_the_cnn_a_gain_is_a_difference_too(tmp_path):
    for script in (whiten, whiten_cnn):
        plant_arm(tmp_path, "plain", 0.9, script=script)
        plant_arm(tmp_path, "exact", 0.95, script=script)
    asked = "whitened (exact) − plain at rate 0.01"
    assert outcomes(tmp_path, weights.whitening, "2")[asked] == "met"
    assert outcomes(tmp_path, weights.whitening, "6")[asked] == "not met"


def test_whitening_is_judged_beside_its_control_at_equal_and_at_best_rates(tmp_path):
    for method, finals in {"plain": (0.9, 0.94), "exact": (0.9, 0.92)}.items():
        for rate, final in zip((0.01, 0.1), finals, strict=True):
            plant_arm(tmp_path, method, final, rate)
    equal, best = "at rate 0.01", "each at its best rate"
    plain, matched = "whitened (exact) − plain", "whitened (exact) − step-matched"
    found = outcomes(tmp_path, weights.whitening, "2")
    assert (found[f"{plain} {equal}"], found[f"{plain}, {best}"]) == ("met", "not met")
    assert {found[f"{matched} {equal}"], found[f"{matched}, {best}"]} == {"not measured"}
    assert verdict(tmp_path, weights.whitening, "2") == "holds in part"
    for rate, final in ((0.01, 0.95), (0.1, 0.91)):
        plant_arm(tmp_path, "step_matched", final, rate)
    found = outcomes(tmp_path, weights.whitening, "2")
    assert (found[f"{matched} {equal}"], found[f"{matched}, {best}"]) == ("not met", "not met")


def test_a_projection_that_fails_alone_is_a_verdict_in_part(tmp_path):
    for method, final in {"plain": 0.9, "exact": 0.9, "newton_schulz": 0.8}.items():
        plant_arm(tmp_path, method, final)
    assert verdict(tmp_path, weights.whitening, "2") == "holds in part"


def test_whitening_alone_is_not_measured(tmp_path):
    plant_arm(tmp_path, "exact", 0.9)
    assert verdict(tmp_path, weights.whitening, "2") == "not measured"
    assert verdict(tmp_path, weights.residual, "2") == "not measured"


@pytest.mark.parametrize(
    ("complement", "biases", "expected", "control"),
    [
        (0.14, 0.12, "holds", "met"),
        (0.3, 0.12, "does not hold", "not met"),
        (0.3, 0.28, "does not hold", "met"),  # by what the biases learn
        (0.9, None, "does not hold", "not measured"),
    ],
)
def test_what_is_dropped_must_gain_less_than_a_tenth(
    tmp_path, complement, biases, expected, control
):
    plant_arm(tmp_path, "plain", 0.9)  # gains 0.8
    plant_arm(tmp_path, "complement", complement)
    if biases:
        plant_arm(tmp_path, "biases", biases)
    assert verdict(tmp_path, weights.residual, "2") == expected
    asked = "beyond biases alone, the complement's share below 0.1 at rate 0.01"
    assert outcomes(tmp_path, weights.residual, "2")[asked] == control


def test_what_is_dropped_is_judged_at_plains_best_rate_too(tmp_path):
    plant_arm(tmp_path, "plain", 0.9)
    plant_arm(tmp_path, "plain", 0.95, rate=0.1)
    plant_arm(tmp_path, "complement", 0.12)
    assert verdict(tmp_path, weights.residual, "2") == "not decided by this data"
    plant_arm(tmp_path, "complement", 0.9, rate=0.1)
    assert verdict(tmp_path, weights.residual, "2") == "holds in part"


@pytest.mark.parametrize(
    ("power", "residual", "cosine", "expected"),
    [
        (1.0, 1e-15, 1.0, "holds"),
        (2.0, 1e-15, 1.0, "holds"),  # faster than the theorem asks
        (0.5, 1e-15, 1.0, "holds in part"),
        (1.0, 1e-5, 1.0, "holds in part"),
        (1.0, 1e-15, 0.9, "holds in part"),
        (0.5, 1e-5, 0.9, "does not hold"),
    ],
)
def test_the_gram_must_follow_to_first_order(tmp_path, power, residual, cosine, expected):
    rates = np.array([0.025, 0.1, 0.05])
    shape = (3, 2, 4, 3)  # rate, seed, point, layer
    error = np.broadcast_to(rates[:, None, None, None] ** power, shape).copy()
    error[1] = 7.0  # at the largest rate, which decides nothing
    arrays = {"rate": rates, "relative_error": error}
    arrays |= {"cosine_vc": np.full(shape, cosine), "residual": np.full(shape, residual)}
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
