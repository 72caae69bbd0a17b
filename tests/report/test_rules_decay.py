"""Planted results: the claim about weight decay."""

import numpy as np
import pytest

from experiment import weight_decay
from planted_results import DATA, around, judge, our_verdict, plant, verdict
from report.rules import decay

REST = "‖∂L/∂W + λW‖ / ‖λW‖ below 0.1 in every layer"
ERROR = "relative error of FACT below 0.1 in every layer"
HIGHER = "cosine of WᵀW with FACT above that with AGOP in every layer but the last"
APART = "relative error of FACT at the best λ above 0.1 in every layer"


def planted(root, **ends):
    """Two layers and two epochs under three optimizers; what is given is (optimizer,) at the end.

    A value may be a pair, of the two layers.
    """
    optimizers = ["sgd", "adam", "adamw"]
    good = {
        "stationarity": [0.02, 0.02, 1.0],
        "fact_error": [0.03, 0.03, 0.9],
        "cosine_fact": [0.999, 0.999, 0.7],
        "cosine_agop": [(0.9, 1.0)] * 3,  # one in the last layer, by construction
    }
    arrays = {}
    for name, values in (good | ends).items():
        array = np.full((3, 3, 2, 2), 0.4)  # (arm, seed, epoch, layer): the start decides nothing
        for i, value in enumerate(values):
            pair = value if isinstance(value, tuple) else (value, value)
            for layer, number in enumerate(pair):
                array[i, :, -1, layer] = around(number, 1e-4)
        arrays[name] = array
    arrays |= {"optimizer": optimizers, "decay": [0.01, 0.01, 1.0], "arm": range(3)}
    plant(root, weight_decay, "planted-squared", arrays, dataset=DATA.name, loss="squared")


def outcomes(root):
    """Optimizer and what is asked -> outcome."""
    findings = judge(root, decay.fact, "decay")
    return {(f.where.split(", ")[2], f.asked): f.outcome for f in findings}


def test_at_rest_under_either_optimizer_and_not_under_adamw(tmp_path):
    planted(tmp_path)
    assert outcomes(tmp_path) == {
        ("gradient descent", REST): "met",
        ("gradient descent", ERROR): "met",
        ("gradient descent", HIGHER): "met",
        ("Adam", REST): "met",
        ("Adam", ERROR): "met",
        ("AdamW", APART): "met",
    }
    assert our_verdict(tmp_path, decay.fact, "decay") == "holds; control met"
    assert verdict(tmp_path, decay.fact, "decay") == "not comparable"  # the paper says none of it
    (first, *_) = judge(tmp_path, decay.fact, "decay")
    assert first.where == "planted, squared, gradient descent, λ = 0.01"


@pytest.mark.parametrize("layers", [(0.3, 0.03), (0.03, 0.3)])
def test_the_error_of_one_layer_decides(tmp_path, layers):
    planted(tmp_path, fact_error=[layers, 0.03, 0.9])
    assert outcomes(tmp_path)["gradient descent", ERROR] == "not met"
    assert our_verdict(tmp_path, decay.fact, "decay") == "holds in part; control met"


@pytest.mark.parametrize("layers", [(0.3, 0.02), (0.02, 0.3)])
def test_away_from_rest_nothing_is_asked(tmp_path, layers):
    planted(tmp_path, stationarity=[layers, 0.02, 1.0], fact_error=[0.3, 0.03, 0.9])
    found = outcomes(tmp_path)
    assert found["gradient descent", REST] == "not met"
    assert found["gradient descent", ERROR] == "not applicable"
    assert found["gradient descent", HIGHER] == "not applicable"
    assert our_verdict(tmp_path, decay.fact, "decay").startswith("not applicable")


@pytest.mark.parametrize(("fact", "expected"), [(0.949, "not met"), (0.999, "met")])
def test_the_ansatz_is_compared_in_every_layer_but_the_last(tmp_path, fact, expected):
    agop = (0.95, 1.0)  # above the other in the last layer
    planted(tmp_path, cosine_fact=[(fact, 0.9), 0.999, 0.7], cosine_agop=[agop] * 3)
    assert outcomes(tmp_path)["gradient descent", HIGHER] == expected


def test_a_control_that_fails_is_seen(tmp_path):
    planted(tmp_path, fact_error=[0.03, 0.4, 0.9], cosine_fact=[0.999, 0.999, (0.7, 0.998)])
    found = outcomes(tmp_path)
    assert found["Adam", ERROR] == "not met"
    assert found["AdamW", APART] == "not met"  # by one layer, though its own error is 0.9
    assert our_verdict(tmp_path, decay.fact, "decay") == "holds; control met in part"


def test_adamw_of_the_other_sign_is_as_far_as_nothing(tmp_path):
    planted(tmp_path, cosine_fact=[0.999, 0.999, -0.999])
    assert outcomes(tmp_path)["AdamW", APART] == "met"


def test_without_results_nothing_is_measured(tmp_path):
    assert our_verdict(tmp_path, decay.fact, "decay") == "—"
