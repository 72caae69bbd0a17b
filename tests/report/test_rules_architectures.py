"""Planted results: claims about other networks than the paper's, and how they are drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiment import target_linearity
from planted_results import our_verdict, outcomes, plant, verdict
from report.figures import architectures as drawing
from report.lookup import lookup
from report.rules import architectures

CIFAR, START, END = "cifar10_jpeg", [0.10, 0.11, 0.12], [0.2, 0.3, 0.4]


def plant_network(root, architecture, start=START, end=END, chance=0.05, **changes):
    """TL by layer before training, and from the first epoch on."""
    settings = target_linearity.Config(
        architecture=architecture, **(architectures.SETTINGS | changes)
    ).hyperparameters()
    tl = np.array([start, *[end] * 12])  # (epoch, layer)
    tl = np.stack([tl * (1 + 1e-4 * seed) for seed in range(3)])
    arrays = {"epoch": np.arange(13), "layer": np.arange(1, 4), "train_tl": tl, "test_tl": tl}
    arrays["test_chance"] = np.broadcast_to([chance, 0.0, 0.0], tl.shape)
    arrays |= {f"{split}_accuracy": tl[..., 0] for split in ("train", "test")}
    name = f"{CIFAR}-adam-{architecture}"
    plant(root, target_linearity, name, arrays, CIFAR, dataset=CIFAR, **settings)


@pytest.mark.parametrize(
    ("changes", "unmet"),
    [
        ({}, set()),
        ({"end": [0.2, 0.4, 0.3]}, {"TL rises by layer", "TL above chance rises by layer"}),
        (
            {"end": [0.08, 0.3, 0.4]},
            {"TL rises in every layer", "TL above chance rises in every layer"},
        ),
        (
            {"start": [0.15, 0.2, 0.38]},
            {f"{what} rises more" for what in ("TL", "TL above chance")},
        ),
        ({"chance": -0.2}, {"TL above chance rises by layer"}),
    ],
)
def test_linearity_must_rise_with_training_and_depth_and_more_than_by_depth_alone(
    tmp_path, changes, unmet
):
    plant_network(tmp_path, "resnet", **changes)
    found = outcomes(tmp_path, architectures.depth, "4")
    assert found.pop("TL rises with training and depth") == "not measured"  # the transformer
    asked = {a.partition(" from the first")[0] for a, outcome in found.items() if outcome != "met"}
    assert len(found) == 6
    assert asked == unmet
    assert verdict(tmp_path, architectures.depth, "4") == "not comparable"  # with the paper


def test_the_transformers_embedding_need_not_rise_with_training_but_other_layers(tmp_path):
    """It is linear in the pixels: what they say of the targets, it says."""
    plant_network(tmp_path / "a", "transformer", end=[START[0], 0.3, 0.4])
    found = outcomes(tmp_path / "a", architectures.depth, "4")
    assert found["TL rises in every layer"] == "met"
    plant_network(tmp_path / "b", "transformer", end=[0.2, START[1], 0.4])
    found = outcomes(tmp_path / "b", architectures.depth, "4")
    assert found["TL rises in every layer"] != "met"
    plant_network(tmp_path / "c", "resnet", end=[START[0], 0.3, 0.4])
    found = outcomes(tmp_path / "c", architectures.depth, "4")
    assert found["TL rises in every layer"] != "met"


def test_both_networks_count_and_neither_the_mlp_nor_other_settings(tmp_path):
    assert our_verdict(tmp_path, architectures.depth, "4") == "not measured"
    plant_network(tmp_path, "resnet")
    plant_network(tmp_path, "mlp", end=[0.4, 0.3, 0.2])
    plant_network(tmp_path, "transformer", end=[0.4, 0.3, 0.2], epochs=99)
    assert our_verdict(tmp_path, architectures.depth, "4") == "holds where measured; control met"
    plant_network(tmp_path, "transformer", end=[0.4, 0.3, 0.2])
    assert our_verdict(tmp_path, architectures.depth, "4") == ("holds in part; control met in part")


def test_a_row_a_network_with_a_curve_a_layer(tmp_path):
    for name in architectures.ARCHITECTURES:
        plant_network(tmp_path, name)
    runs = [
        run
        for name in architectures.ARCHITECTURES
        for run in lookup(
            target_linearity, tmp_path, "paper", **architectures.SETTINGS, architecture=name
        )
    ]
    figure = drawing.by_depth(runs, "paper")
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    names = architectures.ARCHITECTURES
    assert titles == [f"{name}, {CIFAR}, Adam" for name in names for _ in "ab"]
    assert figure.get_supxlabel().endswith(": epochs 12 (100)")
    by_layer = figure.axes[1]
    np.testing.assert_allclose(by_layer.lines[-2].get_ydata(), np.array(END) * (1 + 1e-4))
    plt.close(figure)
