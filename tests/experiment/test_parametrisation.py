"""Three parametrisations: scales and rates, and movement against dense kernels."""

import numpy as np
import pytest
import torch

from cases import draw
from experiment import parametrisation
from lab.data import Images
from lab.replicas import Replica
from tiny import tiny

IMAGES = Images(
    "tiny", draw(40, 12).float(), torch.arange(40) % 3, draw(9, 12).float(), torch.arange(9) % 3
)


def built(kind, width):
    config = tiny(parametrisation, base_width=8, learning_rate=0.1)
    return parametrisation.build(config, IMAGES, kind, width, [Replica(0), Replica(3)])


def test_all_agree_at_the_base_width():
    weights, rates = [], []
    for kind in parametrisation.PARAMETRISATIONS:
        model, optimizer = built(kind, 8)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert rates[0] == rates[1] == rates[2] == [0.1] * 6


@pytest.mark.parametrize(
    ("kind", "of_weights", "of_biases", "output"),
    [
        ("standard", [1, 1, 1], [1, 1, 1], 1),
        ("ntk", [1, 1 / 4, 1 / 4], [1, 1, 1], 1),
        ("mup", [4, 1, 1 / 4], [4, 4, 1], 1 / 2),
    ],
)
def test_at_four_times_the_base_width(kind, of_weights, of_biases, output):
    """Factors of the rates of each layer, and of the output's initial weight."""
    model, optimizer = built(kind, 32)
    rates = np.array([group["lr"] for group in optimizer.param_groups]).reshape(-1, 2).T
    assert rates == pytest.approx(0.1 * np.array([of_weights, of_biases]))
    plain, _ = built("standard", 32)
    for i, (layer, other) in enumerate(zip(model.layers, plain.layers, strict=True)):
        factor = output if i == 2 else 1
        torch.testing.assert_close(layer.weight, factor * other.weight)


def test_movement_is_that_of_features_and_of_whole_kernels():
    start, now = draw(2, 30, 7, seed=1), draw(2, 30, 7, seed=2)
    of_features, of_kernels = parametrisation.changes(start, now)
    for r in range(2):
        kernels = [h[r] @ h[r].mT for h in (now, start)]
        assert of_kernels[r] == pytest.approx(
            ((kernels[0] - kernels[1]).norm() / kernels[1].norm()).item()
        )
        change = (now[r] - start[r]).norm() / start[r].norm()
        assert of_features[r] == pytest.approx(change.item())
    assert torch.equal(parametrisation.changes(start, start)[0], torch.zeros(2).double())


def test_features_are_of_all_training_samples_in_their_order():
    model, _ = built("standard", 8)
    expected = model.hidden(IMAGES.scale(IMAGES.x_train)[None].expand(2, -1, -1))
    for found, h in zip(parametrisation.features(model, IMAGES), expected, strict=True):
        torch.testing.assert_close(found, h)


def test_samples_are_of_every_class_where_data_are_sorted_by_class(monkeypatch):
    y = torch.arange(4).repeat_interleave(100)
    images = Images("sorted", y[:, None].float(), y, y[:, None].float(), y)
    monkeypatch.setattr(parametrisation.cli, "load_images", lambda *_: images)
    some = parametrisation.load(tiny(parametrisation, samples=100), "sorted")
    assert len(some.y_train) == 100
    assert some.y_train.bincount(minlength=4).min() > 10
    assert torch.equal(some.x_train[:, 0].long(), some.y_train)  # still each with its own
    assert torch.equal(some.x_test[:, 0].long(), some.y_test)
    again = parametrisation.load(tiny(parametrisation, samples=100), "sorted")
    assert torch.equal(some.y_train, again.y_train)
