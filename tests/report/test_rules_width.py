"""Planted results: claims about wide and narrow networks."""

import numpy as np
import pytest

from experiment import staircase
from planted_results import around, judge, our_verdict, outcomes, plant, verdict
from report.rules import width

CLAIMS = (width.lazy_and_rich, width.frozen_features, width.held_back, width.moving_target)


def plant_width(
    root, units, share, error, end, held_out=0.01, moved=0.2, loss=2.0, kernel=0.1, stays=False
):
    """A network whose loss falls from 4 to `loss`, `share` of it by ‖ŷ − y_OLS‖² (from 3).

    ‖y − y_OLS‖² goes from `error` to `end`, the distance in the K-norm to `kernel` of its start.
    """
    fall = 4 - around(loss, seeds=5)
    columns = {
        "loss": [np.full(5, 4.0), 4 - fall],
        "ols_distance": [np.full(5, 3.0), 3 - share * fall * (not stays)],
        "ols_error": [np.full(5, error), np.full(5, end)],
        "ols_movement": [np.zeros(5), np.full(5, abs(error - end))],
        "feature_movement": [np.zeros(5), around(moved, seeds=5)],
        "kernel_distance": [np.full(5, 9.0), np.full(5, 9 * 4 * kernel**2)],
        "kernel_target": [np.full(5, 10.0), np.full(5, 40.0)],  # the kernel's scale grows
        "held_out_loss": [np.full(5, 5.0), np.full(5, 3.0)],
        "held_out_ols_error": [np.full(5, 5 * held_out)] * 2,
    }
    arrays = {name: np.stack(values, axis=1) for name, values in columns.items()}
    plant(root, staircase, f"width{units}", arrays, width=units)


LAZY = {"share": 0.99, "error": 0.01, "end": 0.005, "loss": 2.5}
RICH = {"share": 0.4, "error": 3.0, "end": 1.0, "moved": 0.9}


def test_lazy_and_rich_hold(tmp_path):
    plant_width(tmp_path, 1024, **LAZY)
    plant_width(tmp_path, 960, **LAZY)
    plant_width(tmp_path, 512, 0.5, 3.0, 2.9)  # decides nothing
    plant_width(tmp_path, 128, **RICH)
    plant_width(tmp_path, 32, **RICH)
    for claim in CLAIMS:
        expected = "does not hold" if claim is width.held_back else "holds"
        assert verdict(tmp_path, claim, "8") == expected
    assert our_verdict(tmp_path, width.lazy_and_rich, "8") == "control met"
    assert our_verdict(tmp_path, width.frozen_features, "8") == "holds"


SQUARES = (
    "‖ŷ − y_OLS‖² at the end, of its start, below 0.8",
    "‖y − y_OLS‖² at the end, of its start, below 0.8",
)


@pytest.mark.parametrize(
    ("wide", "narrow", "unmet"),
    [
        ({"share": 0.5}, {}, "share of the loss's fall that is ŷ → y_OLS above 0.9"),
        ({"error": 2.0, "end": 1.95}, {}, "largest ‖y − y_OLS‖² below 0.1"),
        ({"error": 0.6, "end": 0.3}, {}, "largest ‖y − y_OLS‖² below 0.1"),  # not at the start
        ({"error": 0.3, "end": 0.9}, {}, "movement of y_OLS below 0.1"),
        ({}, {"stays": True}, SQUARES[0]),
        ({}, {"end": 2.7}, SQUARES[1]),
        ({}, {"loss": 2.6}, "loss at the end less width 1024's below 0"),
    ],
)
def test_each_part_of_lazy_and_rich_is_asked_for(tmp_path, wide, narrow, unmet):
    plant_width(tmp_path, 1024, **{**LAZY, **wide})
    plant_width(tmp_path, 32, **{**RICH, **narrow})
    assert outcomes(tmp_path, width.lazy_and_rich, "8")[unmet] == "not met"
    assert verdict(tmp_path, width.lazy_and_rich, "8") == "holds in part"


def test_held_out_samples_and_a_width_below_the_number_of_samples_are_controls(tmp_path):
    plant_width(tmp_path, 1024, **LAZY, held_out=0.5)
    plant_width(tmp_path, 960, 0.5, 3.0, 1.0)
    plant_width(tmp_path, 32, **RICH)
    rows = judge(tmp_path, width.lazy_and_rich, "8")
    controls = [(f.where, f.outcome) for f in rows if f.part == "control"]
    assert controls == [("width 1024", "not met"), *[("width 960", "not met")] * 2]
    assert verdict(tmp_path, width.lazy_and_rich, "8") == "holds"


@pytest.mark.parametrize(
    ("wide", "narrow", "expected", "ours"),
    [
        (0.4, 0.9, "holds", "holds"),
        (0.6, 0.9, "does not hold", "holds"),
        (0.4, 0.3, "holds", "does not hold"),
    ],
)
def test_frozen_features_move_by_less_than_half_their_norm(tmp_path, wide, narrow, expected, ours):
    plant_width(tmp_path, 1024, **LAZY, moved=wide)
    plant_width(tmp_path, 32, **{**RICH, "moved": narrow})
    assert verdict(tmp_path, width.frozen_features, "8") == expected
    assert our_verdict(tmp_path, width.frozen_features, "8") == ours


def test_a_network_is_held_back_where_its_first_features_leave_most_of_its_last_loss(tmp_path):
    plant_width(tmp_path, 1024, **{**LAZY, "error": 1.5, "held_out": 0.2})  # of 2.5; 1 of 3
    plant_width(tmp_path, 960, **LAZY)
    plant_width(tmp_path, 32, **RICH)
    rows = judge(tmp_path, width.held_back, "8")
    assert [(f.part, f.outcome) for f in rows] == [
        ("paper", "met"),
        ("ours", "not met"),
        ("ours", "not met"),
    ]


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ({"kernel": 0.6}, {}, "holds in part"),
        ({}, {"kernel": 0.6}, "holds in part"),  # though the kernel of the end is larger
        ({}, {"end": 2.9}, "holds in part"),
        ({"kernel": 0.6}, {"kernel": 0.6, "end": 2.9}, "does not hold"),
    ],
)
def test_each_part_of_the_moving_target_is_asked_for(tmp_path, wide, narrow, expected):
    plant_width(tmp_path, 1024, **{**LAZY, **wide})
    plant_width(tmp_path, 32, **{**RICH, **narrow})
    assert verdict(tmp_path, width.moving_target, "8") == expected


def test_one_width_is_not_run(tmp_path):
    plant_width(tmp_path, 32, **RICH)
    for claim in CLAIMS:
        assert verdict(tmp_path, claim, "8") == "not run"
