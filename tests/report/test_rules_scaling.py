"""Planted results: the covariance step, and lazy or rich by width."""

import numpy as np
import pytest

from experiment import covariance_learning, parametrisation
from planted_results import around, judge, our_verdict, plant
from report.rules import scaling


def accuracies(root, **rates):
    """Test accuracy after one epoch and after two, of a method and rate: plain_0_1=(.8, .9)."""
    for name, (first, second) in rates.items():
        method, _, rate = name.partition("_")
        rate = float(rate.replace("_", "."))
        values = np.stack([around(0.1), around(first), around(second)], 1)
        arrays = {"test_accuracy": values, "epoch": range(3)}
        settings = {"method": method, "learning_rate": rate}
        plant(root, covariance_learning, f"planted-{name}", arrays, **settings)


def outcomes(root, claim):
    return [finding.outcome for finding in judge(root, claim, "theories")]


@pytest.mark.parametrize(
    ("covariance", "expected"),
    [
        ((0.95, 0.97), ["met", "met"]),
        ((0.85, 0.97), ["not met", "met"]),
        ((0.85, 0.92), ["not met", "not met"]),
    ],
)
def test_each_method_is_taken_at_its_best_rate_of_the_epoch(tmp_path, covariance, expected):
    diverged = {"plain_0_05": (np.nan, np.nan)}  # the first that is found, best of none
    accuracies(tmp_path, **diverged, plain_0_1=(0.9, 0.91), plain_0_5=(0.5, 0.95))
    accuracies(tmp_path, covariance_0_1=covariance, covariance_1_0=(0.2, 0.2))
    assert outcomes(tmp_path, scaling.covariance_steps) == expected


def test_one_method_alone_decides_nothing(tmp_path):
    accuracies(tmp_path, plain_0_1=(0.9, 0.91))
    assert outcomes(tmp_path, scaling.covariance_steps) == []


def widths(root, kind, slope, tl=0.5, start=1.0):
    for width in (64, 256, 1024):
        size = around(start * (width / 64) ** slope, 1e-3)
        shape = np.ones((1, 2, 2))
        arrays = {"feature_change": size[:, None, None] * shape, "epoch": [0, 20], "layer": [1, 2]}
        arrays["tl"] = around(tl)[:, None, None] * shape
        settings = {"parametrisation": kind, "width": width}
        plant(root, parametrisation, f"planted-{kind}-{width}", arrays, **settings)


@pytest.mark.parametrize(
    ("ntk", "mup", "tl", "start", "expected"),
    [
        (-0.5, 0.0, 0.6, 1.0, ["met"] * 4),
        (-0.1, 0.0, 0.6, 1.0, ["not met", "met", "met", "met"]),
        (-0.5, 0.5, 0.6, 1.0, ["met", "not met", "met", "met"]),
        (-0.5, -0.5, 0.6, 1.0, ["met", "not met", "met", "met"]),
        (-0.5, 0.0, 0.4, 1.0, ["met", "met", "not met", "met"]),
        (-0.5, 0.0, 0.6, 0.05, ["met", "met", "met", "not met"]),
    ],
)
def test_each_question_of_width(tmp_path, ntk, mup, tl, start, expected):
    widths(tmp_path, "ntk", ntk, start=start)
    widths(tmp_path, "mup", mup, tl)
    assert outcomes(tmp_path, scaling.lazy_or_rich) == expected


def test_without_results_nothing_is_measured(tmp_path):
    for claim in (scaling.covariance_steps, scaling.lazy_or_rich):
        assert our_verdict(tmp_path, claim, "theories") == "not measured"
