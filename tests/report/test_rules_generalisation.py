"""Planted results: claims about random labels and generalisation."""

import numpy as np
import pytest

from experiment import random_label, target_linearity
from planted_grokking import plant_grokking
from planted_results import DATA, around, judge, our_verdict, outcomes, plant, verdict
from report.rules import generalisation

PS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
EPOCHS = np.arange(0, 201, 5)
# at each p: TL of the three layers at the end, the epoch at which half of the rise is over, and the
# generalisation gap in mid-training
LAST = (0.46, 0.39, 0.32, 0.28, 0.29, 0.27)
OTHERS = (0.30, 0.20, 0.10, 0.12, 0.15, 0.16)
MIDDLE_OF_RISE = (10, 20, 40, 55, 65, 70)
GAP = (0.38, 0.40, 0.42, 0.50, 0.50, 0.50)


def rise(middle, width=5.0):
    """From 0 to 1 along EPOCHS, half of it over at an epoch."""
    curve = 1 / (1 + np.exp(-(EPOCHS - middle) / width))
    return (curve - curve[0]) / (curve[-1] - curve[0])


def plant_labels(root, p, last, others=0.1, middle=50, gap=0.3, width=5.0, **more):
    """TL and accuracies by epoch at one p, of three seeds."""
    chance, data = more.get("chance", 0.0), more.get("data", DATA.name)
    wiggle = around(1.0)[:, None, None]
    ends = np.array([others, others, last]) - chance
    tl = (ends * rise(middle, width)[:, None] + chance) * wiggle  # (seed, epoch, layer)
    train = more.get("train", 0.8) * rise(middle, width) * wiggle[..., 0]
    test = train - gap
    if "test" in more:
        test[:, -1] = around(more["test"], 1e-4)
    arrays = {"train_tl": tl, "train_tl_true": tl, "train_chance": np.full_like(tl, chance)}
    arrays |= {"train_accuracy": train, "test_accuracy": test, "epoch": EPOCHS}
    settings = {"probability": p, "dataset": data}
    plant(root, random_label, f"planted-p{p}", arrays, data=data, **settings)


def plant_all(root, last=LAST, others=OTHERS, middle=MIDDLE_OF_RISE, gap=GAP, **more):
    for p, *values in zip(PS, last, others, middle, gap, strict=True):
        plant_labels(root, p, *values, **more)


def found(root):
    return outcomes(root, generalisation.random_labels, "12")


def test_random_labels_hold_where_every_sentence_does(tmp_path):
    plant_all(tmp_path)
    rows = judge(tmp_path, generalisation.random_labels, "12")
    missed = {(f.where, f.asked) for f in rows if f.part == "paper" and f.outcome != "met"}
    # the text counts 0.75 among the early and among the slow ones
    assert missed == {("planted, p = 0.75", EARLY)}
    assert our_verdict(tmp_path, generalisation.random_labels, "12") == "does not hold"


STAYS = "TL of the last layer changes by less than 0.05 from p = 0.75 on"
SLOW = "{} is slow at first from p = 0.75 on"
SLOWER = "the start of {} is slower for each higher p"
ACCURACY, LINEARITY = "training accuracy", "TL of the last layer"


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ("TL of the last layer falls with p", {"last": (0.46, 0.39, 0.41, *LAST[3:])}),
        ("TL of every other layer falls with p", {"others": (0.2, 0.2, 0.1, *OTHERS[3:])}),
        (STAYS, {"last": (*LAST[:4], 0.29, 0.2)}),
        (SLOW.format(ACCURACY), {"middle": (10, 20, 40, 35, 65, 70)}),
        (SLOW.format(LINEARITY), {"middle": (10, 20, 40, 35, 65, 70)}),
        (SLOWER.format(ACCURACY), {"middle": (20, 10, 40, 55, 65, 70)}),
        (SLOWER.format(LINEARITY), {"middle": (10, 20, 40, 55, 70, 65)}),
    ],
)
def test_one_sentence_that_is_not_so_is_found(tmp_path, asked, made):
    plant_all(tmp_path, **made)
    assert found(tmp_path)[asked] == "not met"


EARLY = "more than half of TL's rise in the first quarter"
LARGER = "the generalisation gap in mid-training is larger than with true labels"
SUDDEN = "the middle layers' TL rises suddenly, after a slow start"


@pytest.mark.parametrize(
    ("asked", "made", "where"),
    [
        (EARLY, {"middle": (10, 20, 60, 65, 70, 75)}, 0.5),
        (LARGER, {"gap": (0.38, 0.4, 0.4, 0.5, 0.3, 0.5)}, 0.9),
        (SUDDEN, {"width": 60.0}, 1),  # all along training
        (SUDDEN, {"middle": (10, 20, 30, 40, 50, 10)}, 1),  # at the start
    ],
)
def test_one_p_at_which_a_sentence_is_not_so_is_found(tmp_path, asked, made, where):
    plant_all(tmp_path, **made)
    rows = judge(tmp_path, generalisation.random_labels, "12")
    by_place = {(f.where, f.asked): f.outcome for f in rows}
    assert by_place[f"planted, p = {where:g}", asked] == "not met"


def test_random_labels_are_judged_above_chance(tmp_path):
    for p, last, chance in ((0, 0.9, 0.6), (0.25, 0.8, 0.4), (0.5, 0.7, 0.2)):
        plant_labels(tmp_path, p, last, chance=chance)
    assert found(tmp_path)["TL of the last layer falls with p"] == "not met"


@pytest.mark.parametrize(
    ("ends", "expected"), [((0.5, 0.4, 0.3), "met"), ((0.3, 0.4, 0.5), "not met")]
)
def test_order_by_depth_is_ours(tmp_path, ends, expected):
    for p, last in zip(PS, ends, strict=False):
        plant_labels(tmp_path, p, last)
    rows = judge(tmp_path, generalisation.random_labels, "12")
    (order,) = (f for f in rows if f.asked == "last − first layer falls with p")
    assert (order.part, order.outcome) == ("ours", expected)


@pytest.mark.parametrize(
    ("tl", "train", "papers", "ours"),
    [
        ([0.9, 0.6, 0.4, 0.1], [0.9, 0.8, 0.95, 0.99], "holds", "control met"),
        # as training accuracy does
        ([0.9, 0.6, 0.4, 0.1], [0.9, 0.8, 0.7, 0.6], "holds", "control not met"),
        ([0.1, 0.4, 0.6, 0.9], [0.9, 0.8, 0.95, 0.99], "does not hold", "control not met"),
    ],
)
def test_linearity_must_order_networks_better_than_training_accuracy(
    tmp_path, tl, train, papers, ours
):
    for p, value, accuracy, test in zip(
        (0, 0.25, 0.5, 1), tl, train, (0.9, 0.7, 0.5, 0.1), strict=True
    ):
        plant_labels(tmp_path, p, value, train=accuracy, test=test)
    assert verdict(tmp_path, generalisation.generalisation, "12") == papers
    assert our_verdict(tmp_path, generalisation.generalisation, "12") == ours


@pytest.mark.parametrize(("sign", "expected"), [(1, "holds"), (-1, "does not hold")])
def test_linearity_must_move_with_test_accuracy_while_a_network_groks(tmp_path, sign, expected):
    plant_grokking(tmp_path, 0.25, last=0.3 + 0.3 * sign)
    plant_grokking(tmp_path, 0.0, groks=False)
    assert verdict(tmp_path, generalisation.generalisation, "13") == expected


@pytest.mark.parametrize(("last", "expected"), [(0.7, "holds"), (0.4, "does not hold")])
def test_that_networks_that_grok_end_higher_is_ours(tmp_path, last, expected):
    plant_grokking(tmp_path, 0.25, last=last)
    plant_grokking(tmp_path, 0.75, last=last)
    plant_grokking(tmp_path, 0.0, last=0.5, groks=False)
    assert our_verdict(tmp_path, generalisation.generalisation, "13").startswith(expected)


@pytest.mark.parametrize(
    ("test", "expected"),
    [([0.5, 0.1, 0.2, 0.3, 0.4], "holds"), ([0.1, 0.5, 0.4, 0.3, 0.2], "does not hold")],
)
def test_linearity_must_go_with_test_accuracy_in_the_second_half(tmp_path, test, expected):
    tl = np.stack([np.linspace(0, 1, 5)] * 2, axis=-1)  # (epoch, layer)
    arrays = {"train_tl": np.stack([tl] * 3), "test_accuracy": np.stack([test] * 3)}
    plant(tmp_path, target_linearity, "planted-sgd", arrays, dataset=DATA.name)
    assert our_verdict(tmp_path, generalisation.generalisation, "4") == expected
    assert verdict(tmp_path, generalisation.generalisation, "4") == "not comparable"
