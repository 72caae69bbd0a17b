"""Panels of Figures 2 and 6: intervals by hand, and what is drawn of them."""

import matplotlib as mpl
import numpy as np
import pytest
from scipy.stats import t

from lab.results import Result
from report import plot
from report.figures import whitening

mpl.use("agg")
T_95 = t.ppf(0.975, df=2)  # three seeds


@pytest.fixture
def ax():
    figure, ax = plot.plt.subplots()
    yield ax
    plot.plt.close(figure)


def run(method, accuracy, seeds=(0, 1, 2), rate=0.01):
    """A result of one data set, its accuracies (seed, epoch) from epoch 0 on."""
    accuracy = np.array(accuracy)
    arrays = {"test_accuracy": accuracy, "seed": np.array(seeds)}
    arrays["epoch"] = np.arange(accuracy.shape[1])
    meta = {"config": {"method": method, "learning_rate": rate}, "data": {"name": "mnist"}}
    return Result(arrays, meta)


PLAIN = run("plain", [[0.1, 0.50, 0.98], [0.1, 0.60, 0.99], [0.1, 0.70, 1.00]])
EXACT = run("exact", [[0.1, 0.71, 0.96], [0.1, 0.51, 0.98], [0.1, 0.63, 0.99]], (2, 0, 1))


def test_differences_are_paired_by_seed_with_a_t_interval():
    mean, interval = whitening.paired_difference(EXACT, PLAIN)
    points = np.array([[0.0, 1, 0], [0, 3, 0], [0, 1, -4]])  # (seed, epoch)
    np.testing.assert_allclose(mean, points.mean(0), atol=1e-12)
    half = T_95 * points.std(0, ddof=1) / 3**0.5
    np.testing.assert_allclose(interval, [mean - half, mean + half], atol=1e-12)


def test_one_seed_has_a_difference_and_no_interval(ax):
    pair = [run("exact", [[0.1, 0.5]], (0,)), run("plain", [[0.1, 0.4]], (0,))]
    mean, interval = whitening.paired_difference(*pair)
    np.testing.assert_allclose(mean, [0, 10])
    assert np.isnan(interval).all()
    whitening.difference(ax, pair)
    assert ax.lines[1].get_ydata() == pytest.approx([10])


def test_bands_are_one_deviation_and_stay_below_100_percent(ax):
    whitening.accuracy(ax, [EXACT, PLAIN])
    plain, exact = ax.lines
    assert (plain.get_linestyle(), exact.get_linestyle()) == ("--", "-")
    np.testing.assert_allclose(plain.get_ydata(), [60, 99])
    edge = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (edge.min(), edge.max()) == (pytest.approx(50), pytest.approx(100))


def test_the_epoch_at_which_plains_best_is_reached_is_the_first_one(ax):
    better = run("newton_schulz", [[0.1, 0.99, 0.995]], (0,))
    said = whitening.best_of_plain(ax, [PLAIN, EXACT, better])
    assert said.endswith("exact none, as published 1.")
    assert ax.lines[0].get_ydata() == pytest.approx([99, 99])


def test_rates_are_in_order_whatever_the_order_of_the_results(ax):
    runs = [run("plain", [[0, a], [0, a]], (0, 1), r) for a, r in ((0.3, 0.1), (0.2, 0.01))]
    whitening.accuracy_by_rate(ax, runs)
    assert ax.lines[0].get_xdata().tolist() == [0.01, 0.1]
    assert ax.lines[0].get_ydata() == pytest.approx([20, 30])


def test_final_differences_by_rate_are_paired_with_whichever_plain_arm_is_there(ax):
    runs = [
        run(method, [[0, a - shift], [0, a]], (0, 1), rate)
        for method, shift, start in (("exact", 0.1, 0.5), ("step_matched", 0, 0.4))
        for a, rate in ((start, 0.1), (start - 0.2, 0.01))
    ]
    whitening.difference_by_rate(ax, [*runs, run("plain", [[0, 1], [0, 1]], (0, 1), 0.05)])
    (bars,) = ax.containers
    assert bars.get_label() == "whitened − step-matched"
    assert bars.lines[0].get_xdata().tolist() == [0.01, 0.1]
    assert bars.lines[0].get_ydata() == pytest.approx([5, 5])


def test_every_curve_of_the_controls_has_a_colour_of_its_own():
    looks = [*whitening.LOOKS.values(), *whitening.DIFFERENCES.values()]
    assert len({look["color"] for look in looks}) == len(looks)
