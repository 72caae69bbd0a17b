"""Planted results: claims about random labels, grokking and generalisation."""

import numpy as np
import pytest

from experiment import grokking, random_label, target_linearity
from planted_results import DATA, around, judge, outcomes, plant, verdict
from report.rules import generalisation


def plant_labels(root, p, first, last, train=0.8, test=0.5, chance=0.0):
    """TL of the first and last layer, and accuracies, at the end of training."""
    tl = np.zeros((3, 2, 3))  # (seed, epoch, layer)
    tl[:, -1] = np.stack([around(first), around(0.1), around(last)], axis=1)
    accuracies = {
        f"{split}_accuracy": np.stack([np.zeros(3), around(value, 1e-4)], axis=1)
        for split, value in (("train", train), ("test", test))
    }
    arrays = {"train_tl": tl, "train_tl_true": tl, "train_chance": np.full_like(tl, chance)}
    settings = {"probability": p, "dataset": DATA.name}
    plant(root, random_label, f"planted-p{p}", arrays | accuracies, **settings)


@pytest.mark.parametrize(
    ("last", "first", "level", "order"),
    [
        ([0.9, 0.6, 0.3], [0.5, 0.4, 0.2], "met", "met"),
        ([0.9, 0.6, 0.7], [0.5, 0.4, 0.6], "not met", "met"),
        ([0.9, 0.6, 0.5], [0.5, 0.5, 0.45], "met", "met"),
        ([0.9, 0.7, 0.5], [0.5, 0.2, 0.0], "met", "not met"),
    ],
)
def test_random_labels_must_lower_level_and_order(tmp_path, last, first, level, order):
    for p, *layers in zip((0.75, 0.0, 0.5), np.roll(first, 1), np.roll(last, 1), strict=True):
        plant_labels(tmp_path, p, *layers)
    plant_labels(tmp_path, 0.9, 0.0, 1.0)  # between the values of the text, decides nothing
    found = outcomes(tmp_path, generalisation.random_labels, "12")
    assert found["TL of the last layer falls with p"] == level
    assert found["last − first layer falls with p"] == order


def test_random_labels_are_judged_above_chance(tmp_path):
    for p, last, chance in ((0, 0.9, 0.6), (0.5, 0.8, 0.4), (0.75, 0.7, 0.2)):
        plant_labels(tmp_path, p, 0.0, last, chance=chance)
    found = outcomes(tmp_path, generalisation.random_labels, "12")
    assert found["TL of the last layer falls with p"] == "not met"


def plant_grokking(root, decay, sign=1.0, rise=0.2, groks=True):
    """A generalisation gap that peaks and falls, and a gap of TL that moves with it by `sign`."""
    gap = np.array([0.0, 0.4, 0.9, 0.5, 0.0])
    if not groks:
        gap[3:] = 0.9
    train = np.array([0.1, 0.9, 1.0, 1.0, 1.0])
    third = np.array([0.1, 0.3, 0.4, 0.45, 0.4 + rise])
    second = third - 0.1 - sign * np.array([0.3, -0.3, 0.09, 0.05, 0.0])  # early: against it
    wiggle = 1 + 1e-3 * np.arange(3)[:, None]
    arrays = {
        "train_tl": np.stack([np.zeros(5), second, third], axis=-1) * wiggle[..., None],
        "test_tl": np.zeros((3, 5, 3)),
        "train_accuracy": np.broadcast_to(train, (3, 5)),
        "test_accuracy": np.broadcast_to(train - gap, (3, 5)),
    }
    plant(root, grokking, f"planted-wd{decay}", arrays, weight_decay=decay)


@pytest.mark.parametrize(("sign", "expected"), [(1.0, "holds"), (-1.0, "does not hold")])
def test_the_gaps_must_move_together_after_the_peak_at_the_papers_decays(tmp_path, sign, expected):
    plant_grokking(tmp_path, 0.5, sign)
    plant_grokking(tmp_path, 1.0, -sign)  # not the paper's
    assert verdict(tmp_path, generalisation.grokking_gaps, "14") == expected


def test_gaps_that_move_together_without_grokking_show_nothing(tmp_path):
    plant_grokking(tmp_path, 0.5)
    plant_grokking(tmp_path, 0.0)
    rows = judge(tmp_path, generalisation.grokking_gaps, "14")
    assert [(f.where, f.control, f.outcome) for f in rows] == [
        ("weight decay 0.5", False, "met"),
        ("weight decay 0", True, "not met"),
    ]


def test_the_correlation_is_that_from_the_peak_on(tmp_path):
    plant_grokking(tmp_path, 0.25)
    (run,), _ = generalisation.grokking_runs(tmp_path, "paper")
    gap = run["train_tl"][1, 2:, 2] - run["train_tl"][1, 2:, 1]
    other = (run["train_accuracy"] - run["test_accuracy"])[1, 2:]
    truth = np.cov(gap, other)[0, 1] / np.sqrt(gap.var(ddof=1) * other.var(ddof=1))
    assert generalisation.correlation_after_peak(run)[1] == pytest.approx(truth)


@pytest.mark.parametrize(
    ("rise", "without", "expected"),
    [
        (0.2, -0.2, "holds"),
        (0.2, 0.2, "holds in part"),  # rises without grokking too
        (-0.2, -0.2, "does not hold"),
    ],
)
def test_linearity_must_rise_from_memorisation_to_grokking(tmp_path, rise, without, expected):
    plant_grokking(tmp_path, 0.5, rise=rise)
    plant_grokking(tmp_path, 0.0, rise=without, groks=False)
    assert verdict(tmp_path, generalisation.grokking_rise, "13") == expected


def test_the_rise_is_from_the_epoch_of_memorisation_to_that_of_grokking(tmp_path):
    plant_grokking(tmp_path, 0.25, rise=0.3)
    plant_grokking(tmp_path, 0.5, rise=0.3, groks=False)
    for run in generalisation.grokking_runs(tmp_path, "paper")[0]:
        np.testing.assert_allclose(generalisation.rise_to_grokking(run), 0.3, atol=2e-3)


@pytest.mark.parametrize(
    ("tl", "train", "expected"),
    [
        ([0.9, 0.6, 0.4, 0.1], [0.9, 0.8, 0.95, 0.99], "holds"),
        ([0.9, 0.6, 0.4, 0.1], [0.9, 0.8, 0.7, 0.6], "holds in part"),  # as training accuracy does
        ([0.1, 0.4, 0.6, 0.9], [0.9, 0.8, 0.95, 0.99], "does not hold"),
    ],
)
def test_linearity_must_order_networks_better_than_training_accuracy(tmp_path, tl, train, expected):
    for p, *values in zip((0, 0.25, 0.5, 1), tl, train, (0.9, 0.7, 0.5, 0.1), strict=True):
        plant_labels(tmp_path, p, 0.0, *values)
    assert verdict(tmp_path, generalisation.generalisation, "12") == expected


@pytest.mark.parametrize(("rise", "expected"), [(0.3, "holds"), (0.0, "does not hold")])
def test_linearity_must_tell_networks_that_grok_from_one_that_does_not(tmp_path, rise, expected):
    plant_grokking(tmp_path, 0.25, rise=rise)
    plant_grokking(tmp_path, 0.75, rise=rise)
    plant_grokking(tmp_path, 0.0, rise=0.1, groks=False)
    assert verdict(tmp_path, generalisation.generalisation, "13") == expected


@pytest.mark.parametrize(
    ("test", "expected"),
    [([0.5, 0.1, 0.2, 0.3, 0.4], "holds"), ([0.1, 0.5, 0.4, 0.3, 0.2], "does not hold")],
)
def test_linearity_must_go_with_test_accuracy_in_the_second_half(tmp_path, test, expected):
    tl = np.stack([np.linspace(0, 1, 5)] * 2, axis=-1)  # (epoch, layer)
    arrays = {"train_tl": np.stack([tl] * 3), "test_accuracy": np.stack([test] * 3)}
    plant(tmp_path, target_linearity, "planted-sgd", arrays, dataset=DATA.name)
    assert verdict(tmp_path, generalisation.generalisation, "4") == expected
