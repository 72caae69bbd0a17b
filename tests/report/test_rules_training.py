"""Planted results: claims about features during training."""

import numpy as np
import pytest

from experiment import neural_collapse, staircase, target_linearity
from planted_results import DATA, around, judge, outcomes, plant, verdict
from report.rules import training

DEFAULT = {"train": [0.3, 0.4, 0.5], "test": [0.3, 0.4, 0.5]}


def plant_layers(root, last, surrogate=(2.0, 3.0, 4.0), half=None):
    """TL and surrogate before training, at half of it, and at its end, by layer."""
    arrays = {"epoch": np.arange(3)}
    for split in ("train", "test"):
        end = np.array(last.get(split, DEFAULT[split]))
        middle = end - 0.05 if half is None else np.array(half)
        rows = np.stack([np.full(3, 0.2), middle, end])
        arrays[f"{split}_tl"] = np.stack([rows - 1e-4 * seed for seed in range(3)])
        arrays[f"{split}_chance"] = np.full((3, 3, 3), 0.05)
        levels = np.stack([np.ones(3), np.ones(3), np.array(surrogate)])
        arrays[f"{split}_surrogate"] = np.stack([levels * (1 + 1e-4 * s) for s in range(3)])
    plant(root, target_linearity, "planted-sgd", arrays, dataset=DATA.name)


@pytest.mark.parametrize(
    ("last", "surrogate", "half", "unmet"),
    [
        ({}, (2.0, 3.0, 4.0), None, set()),
        ({"train": [0.3, 0.5, 0.4]}, (2.0, 3.0, 4.0), None, {"TL rises by layer"}),
        ({"train": [0.1, 0.4, 0.5]}, (2.0, 3.0, 4.0), None, {"TL rises in every layer"}),
        ({}, (2.0, 4.0, 3.0), None, {"log₁₀ of the surrogate rises by layer"}),
        ({}, (0.5, 3.0, 4.0), None, {"log₁₀ of the surrogate rises in every layer"}),
        ({"test": [0.3, 0.5, 0.4]}, (2.0, 3.0, 4.0), None, {"TL rises by layer"}),
        ({}, (2.0, 3.0, 4.0), [0.3, 0.4, 0.6], {"TL of the last layer rises in the second half"}),
    ],
)
def test_linearity_must_rise_with_training_and_depth(tmp_path, last, surrogate, half, unmet):
    plant_layers(tmp_path, last, surrogate, half)
    found = judge(tmp_path, training.linearity, "4")
    assert {finding.asked for finding in found if finding.outcome != "met"} == unmet
    expected = "holds in part" if unmet else "holds"
    assert verdict(tmp_path, training.linearity, "4") == expected
    assert verdict(tmp_path, training.linearity, "9") == "not measured"


def test_linearity_counts_above_chance(tmp_path):
    tl = np.stack([np.full((3, 3), 0.2), np.full((3, 3), 0.3), np.full((3, 3), 0.3)], axis=1)
    chance = tl + 0.1 * np.arange(3)[:, None] * [-1]  # rises more than TL falls by epoch
    arrays = {"epoch": np.arange(3)}
    for split in ("train", "test"):
        arrays |= {f"{split}_tl": tl, f"{split}_chance": chance}
        arrays[f"{split}_surrogate"] = np.ones((3, 3, 3))
    plant(tmp_path, target_linearity, "planted-sgd", arrays, dataset=DATA.name)
    (row, *_) = judge(tmp_path, training.linearity, "4")
    assert "last layer 0.000 → 0.200" in row.number  # TL 0.2 and 0.3, chance 0.2 and 0.1


@pytest.mark.parametrize(
    ("surrogate", "tl", "expected"),
    [
        ("exponential", "logarithm", "holds"),
        ("power", "logarithm", "holds in part"),
        ("power", "line", "does not hold"),
    ],
)
def test_growth_is_held_against_the_other_way_to_grow(tmp_path, surrogate, tl, expected):
    epoch = np.arange(21)
    later = np.maximum(epoch, 1)
    curves = {
        "exponential": np.exp(epoch),
        "power": later**3.0,
        "logarithm": np.log(later),
        "line": 1.0 * epoch,
    }
    noise = 1 + 1e-6 * np.random.default_rng(0).normal(size=(3, 21, 2))
    arrays = {"train_surrogate": curves[surrogate][:, None] * noise}
    arrays |= {"train_tl": curves[tl][:, None] * noise, "epoch": epoch}
    plant(tmp_path, target_linearity, "planted-sgd", arrays, dataset=DATA.name)
    assert verdict(tmp_path, training.growth, "4") == expected


def test_straightness_is_the_squared_correlation():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=9), rng.normal(size=(2, 9, 3))
    truth = [[np.corrcoef(x, y[s, :, k])[0, 1] ** 2 for k in range(3)] for s in range(2)]
    np.testing.assert_allclose(training.straightness(x, y), truth)


def plant_width(root, width, share, error, end, held_out=0.01):
    """A network whose loss falls from 4, `share` of it by ‖ŷ − y_OLS‖², from `error` to `end`."""
    fall = around(2.0, seeds=5)
    columns = {
        "loss": [np.full(5, 4.0), 4 - fall],
        "ols_distance": [np.full(5, 3.0), 3 - share * fall],
        "ols_error": [np.full(5, error), np.full(5, end)],
        "ols_movement": [np.zeros(5), np.full(5, abs(error - end))],
        "held_out_loss": [np.full(5, 5.0), np.full(5, 3.0)],
        "held_out_ols_error": [np.full(5, 5 * held_out)] * 2,
    }
    arrays = {name: np.stack(values, axis=1) for name, values in columns.items()}
    plant(root, staircase, f"width{width}", arrays, width=width)


LAZY = {"share": 0.99, "error": 0.01, "end": 0.005}
RICH = {"share": 0.4, "error": 3.0, "end": 1.0}


def test_lazy_and_rich_hold(tmp_path):
    plant_width(tmp_path, 1024, **LAZY)
    plant_width(tmp_path, 960, **LAZY)
    plant_width(tmp_path, 512, 0.5, 3.0, 2.9)  # decides nothing
    plant_width(tmp_path, 32, **RICH)
    found = outcomes(tmp_path, training.lazy_and_rich, "8")
    assert found.pop("loss at the end below width 1024's") == "not met"  # they end alike
    assert set(found.values()) == {"met"}


@pytest.mark.parametrize(
    ("wide", "narrow", "unmet"),
    [
        ({"share": 0.5}, {}, "share of the loss's fall that is ŷ → y_OLS above 0.9"),
        ({"error": 2.0, "end": 1.95}, {}, "largest ‖y − y_OLS‖² below 0.1"),
        ({"error": 0.6, "end": 0.1}, {}, "largest ‖y − y_OLS‖² below 0.1"),  # not at the start
        ({"error": 0.3, "end": 0.9}, {}, "y_OLS moves by less than 0.1"),
        ({"held_out": 0.5}, {}, "largest ‖y − y_OLS‖² below 0.1, on held-out samples"),
        ({}, {"share": 0.95}, "share of the loss's fall that is ŷ → y_OLS below 0.9"),
        ({}, {"end": 2.7}, "‖y − y_OLS‖² ends below 0.8 of its start"),
    ],
)
def test_each_part_of_lazy_and_rich_is_asked_for(tmp_path, wide, narrow, unmet):
    plant_width(tmp_path, 1024, **{**LAZY, **wide})
    plant_width(tmp_path, 32, **{**RICH, **narrow})
    found = outcomes(tmp_path, training.lazy_and_rich, "8")
    assert found[unmet] == "not met"
    assert verdict(tmp_path, training.lazy_and_rich, "8") == "holds in part"


def test_a_width_below_the_number_of_samples_is_the_control_of_one_above(tmp_path):
    plant_width(tmp_path, 1024, **LAZY)
    plant_width(tmp_path, 960, 0.5, 3.0, 1.0)
    plant_width(tmp_path, 32, **RICH)
    rows = [f for f in judge(tmp_path, training.lazy_and_rich, "8") if f.where == "width 960"]
    assert [(f.outcome, f.control) for f in rows] == [("not met", True)] * 2


def test_one_width_is_not_measured(tmp_path):
    plant_width(tmp_path, 32, **RICH)
    assert verdict(tmp_path, training.lazy_and_rich, "8") == "not measured"


def plant_collapse(root, nc1, tl, bound=0.3, decay=5e-5, accuracy=None):
    """Two layers; by measurement NC1 and TL of the last one, the first a tenth behind."""
    points = len(nc1)
    scale = 1 + 1e-3 * np.arange(3)[:, None, None]

    def layers(values):
        return np.stack([np.array(values) - 0.1, np.array(values)], axis=-1) * scale

    fitted = np.arange(points) >= points // 2 if accuracy is None else np.array(accuracy) >= 1
    arrays = {"tl": layers(tl), "tl_intercept": layers(tl), "nc1": 0.2 + layers(nc1)}
    arrays["tl_bound"] = np.full((3, points, 2), bound)
    arrays["train_accuracy"] = np.broadcast_to(np.where(fitted, 1.0, 0.9), (3, points))
    settings = {"dataset": DATA.name, "weight_decay": decay}
    plant(root, neural_collapse, "planted", arrays, **settings)


FALLING, RISING = [3.0, 2.0, 1.0, 0.5, 0.5, 0.5], [0.5, 0.6, 0.7, 0.8, 0.8, 0.8]


@pytest.mark.parametrize(
    ("nc1", "tl", "bound", "expected"),
    [
        (FALLING, RISING, 0.3, "holds"),
        (FALLING, RISING, 0.75, "holds in part"),  # below what NC1 implies
        (FALLING[::-1], RISING, 0.3, "holds in part"),  # NC1 rises
        (FALLING[::-1], RISING, 0.75, "does not hold"),
        # only the plateau is out of order, and does not count
        ([3.0, 2.0, 1.0, 0.5, 0.4, 0.45], [0.5, 0.6, 0.7, 0.8, 0.7, 0.75], 0.3, "holds"),
    ],
)
def test_collapse_must_bound_linearity_and_come_with_it(tmp_path, nc1, tl, bound, expected):
    plant_collapse(tmp_path, nc1, tl, bound)
    assert verdict(tmp_path, training.collapse_subsumed, "collapse") == expected


def test_both_weight_decays_are_judged(tmp_path):
    plant_collapse(tmp_path, FALLING, RISING)
    plant_collapse(tmp_path, FALLING[::-1], RISING, decay=5e-4)
    found = judge(tmp_path, training.collapse_subsumed, "collapse")
    assert {f.where for f in found if f.outcome != "met"} == {"planted, weight decay 0.0005"}


def test_a_fall_of_nc1_within_the_plateaus_noise_is_none(tmp_path):
    noisy = [1.0, 0.99, 0.98, 0.97, 1.2, 0.8, 1.2, 0.8]
    accuracy = [0, 0, 0, 1, 1, 1, 1, 1]
    plant_collapse(tmp_path, noisy, [0.5, 0.6, 0.7, 0.8] + [0.8] * 4, accuracy=accuracy)
    found = outcomes(tmp_path, training.collapse_subsumed, "collapse")
    assert found["NC1 of the last layer falls by more than noise"] == "not met"
