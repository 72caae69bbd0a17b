"""Planted results: the claims about what other theories expect."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import spearmanr

from experiment import theories
from lab import results
from planted_results import around, judge, our_verdict, plant
from report.figures.theories import matrix
from report.lookup import lookup
from report.rules import theories as rules

SEEDS, MARKS, LAYERS = 3, 3, 5


def flat(value, layers=LAYERS):
    """(seed, epoch, layer) of one mean."""
    return around(value)[:, None, None] + np.zeros((SEEDS, MARKS, layers))


def planted(root, network="sgd", kind="mlp", random=0.0, layers=LAYERS, **arrays):
    names = [str(i) for i in range(layers)]
    epochs = {"epoch": np.arange(MARKS), "name": names}
    settings = {"network": network, "kind": kind, "random_share": random}
    plant(root, theories, f"planted-{network}", epochs | arrays, **settings)


def near(**cosines):
    good = {"summed_shift": 0.9, "agop": 0.7, "fact": 0.5, "rwa_in": 0.3, "change_shift": 0.95}
    return {name: flat(value) for name, value in (good | cosines).items()}


def found(root, claim):
    return {finding.asked: finding.outcome for finding in judge(root, claim, "theories")}


class TestNearest:
    def test_where_the_sum_is_above_all_others(self, tmp_path):
        planted(tmp_path, **near())
        assert our_verdict(tmp_path, rules.nearest, "theories") == "holds; control met"

    @pytest.mark.parametrize("name", ["agop", "fact", "rwa_in"])
    def test_each_of_the_three_decides(self, tmp_path, name):
        planted(tmp_path, **near(**{name: 0.95}))
        outcomes = found(tmp_path, rules.nearest)
        failed = {asked for asked, outcome in outcomes.items() if outcome == "not met"}
        assert len(failed) == 2
        assert all(rules.RELATIONS[name] in asked for asked in failed)

    def test_one_layer_decides_but_not_the_last(self, tmp_path):
        for layer, expected in ((1, "holds in part"), (LAYERS - 1, "holds")):
            arrays = near()
            arrays["agop"][:, -1, layer] += 0.25
            root = tmp_path / str(layer)
            planted(root, **arrays)
            assert our_verdict(root, rules.nearest, "theories") == f"{expected}; control met"

    def test_the_start_of_training_does_not(self, tmp_path):
        arrays = near()
        arrays["summed_shift"][:, 0] = np.nan  # nothing has been summed
        planted(tmp_path, **arrays)
        assert our_verdict(tmp_path, rules.nearest, "theories") == "holds; control met"

    def test_an_epoch_in_between_does(self, tmp_path):
        arrays = near()
        arrays["fact"][:, 1] = 1.0
        planted(tmp_path, **arrays)
        outcomes = found(tmp_path, rules.nearest)
        assert outcomes["mean cosine with ΣVCS above that with FACT at every epoch"] == "not met"
        assert outcomes["cosine with ΣVCS above that with FACT in every layer"] == "met"

    def test_a_change_that_the_sum_does_not_follow_is_seen(self, tmp_path):
        planted(tmp_path, **near(change_shift=0.5))
        assert our_verdict(tmp_path, rules.nearest, "theories") == "holds; control not met"


def deep(index, layers=LAYERS, factor=0.3):
    """The arrays of the laws of depth, of one factor a layer and one term."""
    falls = factor ** index[None, None] * np.exp(flat(0, len(index)))
    return {
        "tl": 1 - 0.9 * falls,
        "separation": 20 * falls,
        "compression": 5 * falls,
        "discrimination": 0.1 * index + flat(0.1, len(index)),
        "train_accuracy": np.full((SEEDS, MARKS), 0.7),
    }


class TestLaws:
    def test_one_factor_a_layer(self, tmp_path):
        planted(tmp_path, **deep(np.arange(LAYERS)))
        flat_labels = deep(np.arange(LAYERS))
        flat_labels["separation"] = flat(50) + np.array([0, 9, 2, 8, 1])
        planted(tmp_path, "random_labels", random=1.0, **flat_labels)
        assert our_verdict(tmp_path, rules.laws, "theories") == "holds; control met"
        findings = judge(tmp_path, rules.laws, "theories")
        assert sum("0.70 of them are fitted" in f.number for f in findings) == 1

    def test_one_term_a_layer_is_another_law(self, tmp_path):
        arrays = deep(np.arange(LAYERS))
        arrays["separation"] = flat(20) - 4.5 * np.arange(LAYERS)
        planted(tmp_path, **arrays)
        outcomes = found(tmp_path, rules.laws)
        assert outcomes["log tr(Σ_W Σ_B⁺) is nearer to a line than tr(Σ_W Σ_B⁺)"] == "not met"
        assert outcomes["log 1 − TL is nearer to a line than 1 − TL"] == "met"

    def test_what_rises_fails(self, tmp_path):
        planted(tmp_path, **deep(np.arange(LAYERS)[::-1]))
        outcomes = found(tmp_path, rules.laws)
        falling = [asked for asked in outcomes if asked.startswith("correlation")]
        assert {outcomes[asked] for asked in falling} == {"not met"}

    def test_random_labels_that_are_separated_alike_are_no_control(self, tmp_path):
        planted(tmp_path, **deep(np.arange(LAYERS)))
        planted(tmp_path, "random_labels", random=1.0, **deep(np.arange(LAYERS)))
        assert our_verdict(tmp_path, rules.laws, "theories") == "holds; control not met"

    def test_points_are_pixels_of_an_mlp_and_the_residual_stream_of_a_resnet(self, tmp_path):
        index = np.array([7, 0, 9, 1, 9, 2])  # what is no point does not decide
        names = ["stem.0", "blocks.0.convolutions.0", "blocks.0.convolutions.1"]
        names += ["blocks.1.convolutions.0", "blocks.1.convolutions.1", "readout"]
        arrays = deep(index) | {"name": names}
        planted(tmp_path, "resnet", "resnet", layers=len(index), **arrays)
        assert our_verdict(tmp_path, rules.laws, "theories") == "holds"

    def test_addition_is_left_out(self, tmp_path):
        planted(tmp_path, "grokking", "addition_mlp", **deep(np.arange(LAYERS)))
        assert our_verdict(tmp_path, rules.laws, "theories") == "not measured"


class TestBeyondProbe:
    @staticmethod
    def planted(root, helps):
        """Networks whose test accuracy is the probe's, and where it helps TL's beside it."""
        rng = np.random.default_rng(0)
        for i in range(4):
            probe, tl = rng.uniform(size=(2, SEEDS, 40))
            test = probe + (tl if helps else 0) + 0.01 * rng.normal(size=tl.shape)
            arrays = {"test_accuracy": test, "probe_accuracy": probe, "epoch": np.arange(40)}
            arrays |= {name: np.stack([0 * tl, tl], -1) for name in ("tl", "tl_held_out")}
            planted(root, f"n{i}", random=float(i == 3), layers=2, **arrays)

    def test_where_linearity_helps(self, tmp_path):
        self.planted(tmp_path, helps=True)
        assert our_verdict(tmp_path, rules.beyond_probe, "theories") == "holds"
        places = {f.where for f in judge(tmp_path, rules.beyond_probe, "theories")}
        assert places == {
            "planted, 4 networks, with random labels",
            "planted, 3 networks, true labels alone",
        }

    def test_where_the_probe_says_all(self, tmp_path):
        self.planted(tmp_path, helps=False)
        assert our_verdict(tmp_path, rules.beyond_probe, "theories") != "holds"

    def test_partial_correlation_is_that_of_residuals_of_ranks(self):
        rng = np.random.default_rng(1)
        given = rng.normal(size=50)
        x, y = given + rng.normal(size=(2, 50))
        ranks = [np.argsort(np.argsort(v)).astype(float) for v in (x, y, given)]
        fitted = [np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
        residuals = [r - f for r, f in zip(ranks[:2], fitted, strict=True)]
        expected = np.corrcoef(*residuals)[0, 1]
        assert rules.partial_rank_correlation(x, y, given) == pytest.approx(expected)
        assert expected < spearmanr(x, y).statistic


CHANGED = {"sgd": {"epochs": 20}, "adam": {"epochs": 20}, "cnn": {}, "resnet": {"width": 8}}


def test_the_picture_names_changed_settings_and_replicas_that_diverged(tmp_path):
    arrays = near(gwa_in=0.2, shift=0.1) | {"epoch": np.arange(MARKS), "layer": np.arange(LAYERS)}
    for network, changed in CHANGED.items():
        settings = dataclasses.asdict(theories.NETWORKS[network]) | changed
        plant(tmp_path, theories, f"planted-{network}", arrays, network=network, **settings)
    (path,) = tmp_path.rglob("planted-cnn*.npz")
    result = results.read(path)
    result.meta["diverged"] = [{"seed": 1, "epoch": 4}]
    results.write(path, result)
    figure = matrix(lookup(theories, tmp_path, "paper"), "paper")
    said = figure.get_supxlabel().replace("\n", " ")
    assert "sgd, adam: epochs 20 (100); cnn: epochs 12; resnet: epochs 12, width 8 (32);" in said
    assert "planted-cnn; seed 1 diverged in epoch 4" in said
    plt.close(figure)


def test_without_results_nothing_is_measured(tmp_path):
    for claim in (rules.nearest, rules.laws, rules.beyond_probe):
        assert our_verdict(tmp_path, claim, "theories") == "not measured"
