"""Planted results: the theorems, on the networks that meet their assumptions."""

import numpy as np
import pytest

from experiment import statements, vae_target_linearity
from planted_results import DATA, outcomes, plant, verdict
from report.rules import models, weights
from report.rules import statements as rules

RATES = np.array([1.0, 0.01, 0.1])
SHAPE = (3, 2, 3)  # seed, epoch, layer
WIGGLE = 1 + 1e-3 * np.arange(3)[:, None, None]


def plant_network(root, network, **arrays):
    """A network's result, with these arrays."""
    settings = {"network": network, "dataset": DATA.name}
    plant(root, statements, f"planted-{network}", arrays, **settings)


def layers(last, first=None):
    """A value by layer before training and at the end."""
    rows = [last if first is None else first, last]
    return np.array(rows, dtype=float) * WIGGLE


def by_rate(values):
    """A value by rate, the same at every epoch and layer."""
    return np.broadcast_to(np.array(values)[:, None], (3, 2, 3, 3)) * WIGGLE[..., None]


@pytest.mark.parametrize(
    ("power", "expected"), [(1.0, "holds"), (2.0, "holds"), (0.5, "does not hold")]
)
def test_one_step_must_follow_to_first_order(tmp_path, power, expected):
    error = RATES**power
    error[0] = 9.0  # the largest rate decides nothing
    plant_network(tmp_path, "cnn", rate=RATES, one_step_error=by_rate(error))
    assert verdict(tmp_path, weights.gram_movement, "statements") == expected


def test_one_step_is_judged_in_every_layer_and_epoch(tmp_path):
    error = by_rate(RATES)
    error[:, 1, :, 2] = 0.1
    plant_network(tmp_path, "cnn", rate=RATES, one_step_error=error)
    assert verdict(tmp_path, weights.gram_movement, "statements") == "does not hold"


@pytest.mark.parametrize(
    ("network", "bound", "signs", "own", "expected"),
    [
        ("relu", 1.0, 1.0, 1.0, "holds"),
        ("relu", 1.0, 0.99, 1.0, "holds in part"),
        ("gelu", 1.0, 0.99, 1.0, "holds"),  # not monotone
        ("tanh", 0.999, 1.0, 1.0, "holds in part"),
        ("tanh", 1.0, 1.0, 0.3, "holds in part"),  # where the assumption is not true
        ("tanh", 0.999, 0.99, 0.3, "does not hold"),
        ("linear", 0.5, 0.5, 0.5, "not measured"),
    ],
)
def test_proposition_1_has_no_exceptions(tmp_path, network, bound, signs, own, expected):
    arrays = {}
    for name, share in (("bound_unit", bound), ("signs_unit", signs), ("bound_own", own)):
        arrays[f"activation_{name}"] = np.ones((3, 2, 3, 2))
        arrays[f"activation_{name}"][1, 0, 2, 1] = share
    plant_network(tmp_path, network, **arrays)
    assert verdict(tmp_path, rules.proposition_1, "statements") == expected


@pytest.mark.parametrize(
    ("bound", "expected"), [(0.3, "holds"), (-1.5, "holds in part"), (0.7, "does not hold")]
)
def test_theorem_2_must_hold_and_say_something(tmp_path, bound, expected):
    bounds = np.full((3, 2, 4, 3), -9.0)
    bounds[2, 1, 1, 1] = bound  # T_λ is 0.5
    arrays = {"theorem2_bound": bounds, "ridge_tl": np.full(bounds.shape, 0.5)}
    arrays |= {"tl_intercept": layers([0.6] * 3), "tl_bound": layers([0.4] * 3)}
    plant_network(tmp_path, "gelu", **arrays)
    plant_network(tmp_path, "cnn", loss=np.ones((3, 2)))  # has no such arrays
    assert verdict(tmp_path, rules.theorem_2, "statements") == expected


@pytest.mark.parametrize(
    ("ratio", "sign", "size"),
    [
        ([1.1, 0.9, 9.0], "met", "met"),  # the last layer decides nothing
        ([1.1, 3.0, 1.0], "met", "not met"),
        ([-1.1, 0.9, 1.0], "not met", "not met"),
    ],
)
def test_theorem_3_is_judged_before_the_last_layer(tmp_path, ratio, sign, size):
    actual = layers([2.0, -3.0, 1.0])
    arrays = {"surrogate_change": actual, "predicted_change": actual * np.array(ratio)}
    plant_network(tmp_path, "relu", **arrays)
    plant_network(tmp_path, "squared_relu", **arrays | {"predicted_change": -actual})  # m = 2
    found = outcomes(tmp_path, rules.theorem_3, "statements")
    assert (found["share of right signs"], found["share within a factor of 2"]) == (sign, size)


@pytest.mark.parametrize(
    ("after", "before", "lemma", "sequence"),
    [
        ([0.4, 0.3, 0.0], [0.6, 0.5, 0.0], "holds", "holds"),
        ([0.4, 0.3, 0.0], [0.2, 0.1, 0.0], "holds", "holds in part"),  # training raises it
        ([0.3, 0.4, 0.0], [0.6, 0.5, 0.0], "holds", "does not hold"),  # not by layer
        ([0.9, 0.8, 0.0], [0.95, 0.9, 0.0], "does not hold", "holds"),
    ],
)
def test_lemma_3_and_its_fall_with_depth(tmp_path, after, before, lemma, sequence):
    plant_network(tmp_path, "relu", taylor_error=layers(after, before))
    plant_network(tmp_path, "linear", taylor_error=layers([0.9, 0.9, 0.9]))  # not asked
    assert verdict(tmp_path, rules.lemma_3, "statements") == lemma
    assert verdict(tmp_path, rules.sequential_linearisation, "statements") == sequence


THEOREM_4 = {
    "ansatz_cosine": [0.95, 0.97, 1.0],
    "ansatz_ratio": [1.5, 0.8, 5.0],
    "surrogate": [10.0, 20.0, 30.0],
    "surrogate_floor": [1.0, 2.0, 3.0],
}


@pytest.mark.parametrize(
    ("changes", "unmet"),
    [
        ({}, set()),
        ({"ansatz_cosine": [0.5, 0.97, 1.0]}, {"cosine above 0.9"}),
        ({"ansatz_ratio": [0.3, 1.0, 1.0]}, {"C_l‖y‖⁴ / S within a factor of 2 of one"}),
        ({"surrogate_floor": [1.0, 25.0, 28.0]}, {"S at least the bound"}),
        ({"surrogate_floor": [2.0, 1.0, 3.0]}, {"the bound rises by layer"}),
        ({"surrogate": [10.0, 40.0, 30.0]}, {"S rises by layer"}),
    ],
)
def test_theorem_4_asks_for_premises_and_conclusions(tmp_path, changes, unmet):
    arrays = {name: layers(values) for name, values in (THEOREM_4 | changes).items()}
    loss = np.array([[1.0, 1e-4]] * 3)
    plant_network(tmp_path, "relu", loss=loss, **arrays)
    found = outcomes(tmp_path, rules.theorem_4, "statements")
    assert {asked for asked, outcome in found.items() if outcome != "met"} == unmet
    loss[1, -1] = 0.5  # one seed does not interpolate
    plant_network(tmp_path, "relu", loss=loss, **arrays)
    assert verdict(tmp_path, rules.theorem_4, "statements") == "not decided by this data"


@pytest.mark.parametrize(
    ("cka", "nc1", "expected"),
    [
        ([0.3, 0.9, 0.99], [2.0, 0.5, 0.05], "holds"),
        ([0.3, 0.5, 0.7], [2.0, 0.5, 0.05], "holds in part"),  # collapsed, and not aligned
        ([0.9, 0.5, 0.3], [2.0, 0.5, 0.05], "does not hold"),
        ([0.3, 0.5, 0.7], [2.0, 0.5, 0.40], "not decided by this data"),  # not collapsed
    ],
)
def test_proposition_2_is_about_networks_that_have_collapsed(tmp_path, cka, nc1, expected):
    curves = {"cka": cka, "nc1": nc1, "nc2_norm": [1, 0.5, 0.01], "nc2_angle": [1, 0.5, 0.02]}
    plant_network(tmp_path, "gelu", **{k: np.array(v) * WIGGLE[..., 0] for k, v in curves.items()})
    assert verdict(tmp_path, rules.proposition_2, "statements") == expected


@pytest.mark.parametrize(
    ("left", "decoder", "expected"),
    [
        (0.5, 0.6, "holds"),
        (0.5, 1.2, "holds in part"),  # says nothing of the decoder that was trained
        (1.1, 1.2, "does not hold"),
        (None, None, "not measured"),
    ],
)
def test_proposition_3_bounds_the_trained_decoder_or_not(tmp_path, left, decoder, expected):
    noise = 1 + 1e-3 * np.arange(3) * np.ones((2, 1))  # (beta, seed)
    arrays = {"best_epoch": np.zeros((2, 3), int)}
    if left is not None:
        values = {"left": left, "right": 1.0, "decoder": decoder}
        arrays |= {f"mixture_{name}": value * noise for name, value in values.items()}
    plant(tmp_path, vae_target_linearity, "planted", arrays, dataset=DATA.name)
    assert verdict(tmp_path, models.proposition_3, "10") == expected


@pytest.mark.parametrize(("total", "expected"), [(-1e-15, "holds"), (-1e-6, "does not hold")])
def test_proposition_4_is_exact(tmp_path, total, expected):
    sums = np.zeros(SHAPE)
    sums[1, 1, 0] = total
    plant_network(tmp_path, "relu", taylor_error_sum=sums, taylor_error_sum_uncentred=sums + 0.5)
    assert verdict(tmp_path, rules.proposition_4, "statements") == expected


@pytest.mark.parametrize(
    ("cosine", "ratio", "expected"),
    [(0.999, 1.001, "holds"), (0.9, 1.0, "does not hold"), (1.0, 0.9, "does not hold")],
)
def test_whitenings_forms_must_agree_at_the_smallest_rate(tmp_path, cosine, ratio, expected):
    arrays = {"whitening_cosine": [0.1, cosine, 0.2], "whitening_ratio": [9.0, ratio, 8.0]}
    arrays = {
        name: np.broadcast_to(np.array(v)[:, None], (3, 2, 3, 3)) for name, v in arrays.items()
    }
    arrays |= dict.fromkeys(("discarded_gradient", "discarded_momentum"), layers([0.2] * 3))
    plant_network(tmp_path, "cnn", rate=RATES, **arrays)
    assert verdict(tmp_path, rules.whitening_forms, "statements") == expected
