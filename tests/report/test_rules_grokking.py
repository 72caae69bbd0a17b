"""Planted results: landmarks of grokking, and the claims about it."""

import numpy as np
import pytest

from lab.results import Result
from planted_grokking import EPOCHS, GROKKED, MEMORISED, plant_grokking
from planted_results import judge, our_verdict, outcomes, verdict
from report import grokking
from report.rules import grokking as rules

FALLS, WIDENS = "the gap falls at the onset of grokking", "the gap widens again in the second half"
MOVES = f"correlation above {grokking.MOVES_WITH}"
RISES = "TL rises from memorisation to grokking"
SATURATES = "TL saturates: it changes by less an epoch after grokking than before, in 10⁻⁴"
SHARP = "layer 2 rises sharply: by more an epoch as it groks than in all others, in 10⁻⁴"


def run_of(root):
    (run,), _ = grokking.grokking_runs(root, "paper")
    return run


def test_a_running_median_is_that_of_its_window():
    values = np.random.default_rng(0).normal(size=(2, 50, 3))
    medians = grokking.running_median(values)
    for t in (0, 5, 25, 49):
        window = values[:, max(0, t - 10) : min(50, t + 11)]
        np.testing.assert_array_equal(medians[:, t], np.median(window, axis=1))
    assert medians.shape == values.shape


def test_landmarks_are_where_they_were_planted(tmp_path):
    plant_grokking(tmp_path, 0.5)
    run = run_of(tmp_path)
    assert np.abs(grokking.memorised(run) - MEMORISED).max() <= 1
    assert np.abs(grokking.onset(run) - MEMORISED).max() <= grokking.WINDOW // 2
    # at 0.9 of the test accuracy of the end
    expected = MEMORISED + 0.9 * (GROKKED - MEMORISED)
    assert np.abs(grokking.grokked(run) - expected).max() <= 1
    assert (grokking.last(run) == EPOCHS).all()


def test_a_network_that_never_memorises_nor_groks_has_no_landmark():
    few = np.full((2, 30), 0.4)
    arrays = {"train_accuracy": few, "test_accuracy": few / 2, "seed": np.arange(2)}
    run = Result(arrays, {})
    assert np.isnan(grokking.memorised(run)).all()
    assert np.isnan(grokking.grokked(run)).all()


def test_a_change_needs_two_landmarks_in_order():
    values = np.arange(12.0).reshape(3, 4)
    start, end = np.array([1.0, np.nan, 3.0]), np.array([3.0, 2.0, 1.0])
    assert grokking.change(values, start, end).tolist()[0] == 2
    assert np.isnan(grokking.change(values, start, end)[1:]).all()


def test_the_correlation_is_that_from_the_onset_on(tmp_path):
    plant_grokking(tmp_path, 0.25, second=0.35)
    run = run_of(tmp_path)
    gap, other = grokking.linearity_gap(run), grokking.generalisation_gap(run)
    start = int(grokking.onset(run)[1])
    a, b = gap[1, start:], other[1, start:]
    truth = np.cov(a, b)[0, 1] / np.sqrt(a.var(ddof=1) * b.var(ddof=1))
    assert grokking.correlation_after_onset(run, gap, other)[1] == pytest.approx(truth)


FITS = {"last": 0.5, "second": 0.4}  # layer 2 gains more than layer 3
WIDER = {**FITS, "widens": 0.05}


@pytest.mark.parametrize("flicker", [0.0, 0.5])
def test_the_gap_must_fall_and_widen_and_move_with_the_generalisation_gap(tmp_path, flicker):
    for decay in (0.25, 0.5):
        plant_grokking(tmp_path, decay, **WIDER, flicker=flicker)
    plant_grokking(tmp_path, 0.75, **FITS, widens=0.1, flicker=flicker)
    plant_grokking(tmp_path, 0.0, groks=False, second=0.1)
    assert verdict(tmp_path, rules.grokking_gaps, "14") == "holds"
    assert our_verdict(tmp_path, rules.grokking_gaps, "14") == "control met"


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        (FALLS, {"last": 0.6, "second": 0.2}),  # layer 3 gains more
        (WIDENS, {**FITS, "widens": -0.05}),
        (MOVES, {"last": 0.7, "second": 0.2}),
    ],
)
def test_a_gap_that_does_not_is_found(tmp_path, asked, made):
    plant_grokking(tmp_path, 0.5, **made)
    assert outcomes(tmp_path, rules.grokking_gaps, "14")[asked] == "not met"


def test_the_gap_must_widen_most_at_the_largest_decay(tmp_path):
    plant_grokking(tmp_path, 0.25, **FITS, widens=0.1)
    plant_grokking(tmp_path, 0.75, **WIDER)
    found = outcomes(tmp_path, rules.grokking_gaps, "14")
    assert found["the gap widens more than at weight decay 0.25"] == "not met"


def test_gaps_that_move_together_without_grokking_show_nothing(tmp_path):
    plant_grokking(tmp_path, 0.5, **WIDER)
    plant_grokking(tmp_path, 0.0, **FITS, groks=False)
    rows = judge(tmp_path, rules.grokking_gaps, "14")
    assert [(f.part, f.outcome) for f in rows if f.where == "weight decay 0"] == [
        ("control", "not met")
    ]


def test_other_decays_than_the_papers_are_not_judged(tmp_path):
    plant_grokking(tmp_path, 1.0)
    assert judge(tmp_path, rules.grokking_gaps, "14") == []


@pytest.mark.parametrize("flicker", [0.0, 0.5])
def test_linearity_must_rise_until_grokking_and_then_saturate(tmp_path, flicker):
    plant_grokking(tmp_path, 0.5, **FITS, flicker=flicker)
    plant_grokking(tmp_path, 0.0, last=0.2, groks=False)
    assert verdict(tmp_path, rules.grokking_rise, "13") == "holds"
    assert our_verdict(tmp_path, rules.grokking_rise, "13") == "control met"


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        (RISES, {"last": 0.2, "second": 0.0}),
        (SATURATES, {**FITS, "after": 0.9}),  # goes on as steeply
        (SATURATES, {**FITS, "after": -0.9}),  # and does not stay by falling
        (SHARP, {**FITS, "second": 0.05, "after": 0.4}),  # most of the rise comes later
        (SHARP, {**FITS, "second": 0.0}),  # or came before
    ],
)
def test_linearity_that_does_not_is_found(tmp_path, asked, made):
    plant_grokking(tmp_path, 0.5, **made)
    assert outcomes(tmp_path, rules.grokking_rise, "13")[asked] == "not met"


def test_a_rise_an_epoch_is_that_of_its_epochs(tmp_path):
    plant_grokking(tmp_path, 0.5, **FITS)
    run = run_of(tmp_path)
    start, end = int(grokking.onset(run)[0]), int(grokking.grokked(run)[0])
    steps = np.diff(np.median(run["train_tl"], axis=0)[:, 1])  # of seed 1, without flicker
    meanwhile = steps[start:end]
    truth = 1e4 * (meanwhile.mean() - np.concatenate([steps[:start], steps[end:]]).mean())
    (found,) = [f for f in judge(tmp_path, rules.grokking_rise, "13") if f.asked == SHARP]
    assert float(found.number.split()[0]) == pytest.approx(truth, rel=0.02)


def test_a_rise_without_grokking_is_no_sign_of_it(tmp_path):
    plant_grokking(tmp_path, 0.5, **FITS)
    plant_grokking(tmp_path, 0.0, last=0.6, groks=False)
    assert our_verdict(tmp_path, rules.grokking_rise, "13") == "control not met"


def test_networks_that_never_grok_decide_nothing(tmp_path):
    plant_grokking(tmp_path, 0.25, groks=False)
    rows = judge(tmp_path, rules.grokking_rise, "13")
    assert {f.outcome for f in rows} == {"not decided"}
    assert all("too few seeds grok" in f.number for f in rows)
