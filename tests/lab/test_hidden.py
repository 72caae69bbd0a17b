"""Measures of hidden layers in one pass, against plain torch networks and NumPy's least squares."""

import numpy as np
import pytest
import torch

import oracles
from lab import hidden, training
from lab.data import Images
from lab.models import MLP
from lab.replicas import Replica, generators

TRAIN, TEST, CLASSES, REPLICAS, WIDTHS = 90, 70, 4, 3, (9, 7, 9, 5)
SPLITS = ("train", "test")


def random_images(seed=0):
    g = torch.Generator().manual_seed(seed)
    x = [torch.randint(256, (n, 1, 4, 3), dtype=torch.uint8, generator=g) for n in (TRAIN, TEST)]
    y = [torch.randint(CLASSES, (n,), generator=g) for n in (TRAIN, TEST)]
    return Images("random", x[0], y[0], x[1], y[1], mean=0.5, std=0.5)


IMAGES = random_images()


SEEDS = range(REPLICAS)


def build(seeds=SEEDS):
    """Networks in float64 with hidden layers of several widths; one unit is always 0, one 0.1."""
    draws = generators([Replica(seed) for seed in seeds], "weights")
    model = MLP((12, *WIDTHS, CLASSES), draws).double()
    with torch.no_grad():
        for unit, bias in ((0, 0.0), (1, 0.1)):
            model.layers[1].weight[:, unit] = 0
            model.layers[1].bias[:, unit] = bias
    return model


def draw_labels(split, kinds=2, seed=1):
    """(K, R, N) labels, other ones in each labelling and replica; the last class is rare."""
    shape = (kinds, REPLICAS, len(IMAGES.split(split)[1]))
    labels = torch.randint(CLASSES - 1, shape, generator=torch.Generator().manual_seed(seed))
    labels[..., -1] = CLASSES - 1
    return labels


def expected_measures(model, split, labels):
    """What every measure should be at labels (R, N): name -> (R, …)."""
    x, _ = IMAGES.split(split)
    x = (x.double() / 255 - 0.5) / 0.5
    rows = []
    for r in range(len(labels)):
        network, y = oracles.torch_layers(model, r), labels[r]
        accuracy, loss = oracles.score(network, x, y)
        row = {"accuracy": accuracy, "loss": loss, "tl": [], "rank": [], "chance": []}
        row |= {"surrogate": [], "response_norm": [], "surrogate_share": [], "response_cka": []}
        targets = oracles.centred(y)
        for layer, h in zip(model.layers[1:], oracles.hidden(network, x), strict=True):
            row["tl"].append(oracles.least_squares(h, y))
            row["rank"].append(oracles.rank(h))
            row["chance"].append(oracles.chance(h))
            z = h.numpy() @ layer.weight[r].detach().numpy().T  # without the bias
            row["surrogate"].append(np.trace(targets.T @ z @ z.T @ targets) / CLASSES)
            row["response_norm"].append((z**2).sum())
            z -= z.mean(0)
            gram, norm = z @ z.T, np.linalg.norm
            aligned = np.trace(targets.T @ gram @ targets)
            row["surrogate_share"].append(aligned / (norm(gram, 2) * (targets**2).sum()))
            row["response_cka"].append(aligned / (norm(gram) * norm(targets @ targets.T)))
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@torch.no_grad()
def measured(model, split, labels=None):
    """One dict of all measures for each labelling."""
    weights = [layer.weight for layer in model.layers[1:]]
    found = hidden.one_pass(model, IMAGES, split, labels)
    return [
        scores | hidden.linearity(moments) | hidden.responses(moments, weights)
        for moments, scores in found
    ]


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == torch.float64, name
        assert value.shape == expected[name].shape, name
        np.testing.assert_allclose(value, expected[name], rtol=1e-9, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("batch", [7, 2000])
@pytest.mark.parametrize("split", SPLITS)
def test_one_pass_equals_plain_networks_and_least_squares(split, batch, monkeypatch):
    monkeypatch.setattr(training, "EVALUATION_BATCH", batch)
    model = build()
    (found,) = measured(model, split)
    labels = IMAGES.split(split)[1].expand(REPLICAS, -1)
    expected = expected_measures(model, split, labels)
    assert_close(found, expected)
    assert (expected["rank"][:, :2] == [WIDTHS[0], WIDTHS[1] - 2]).all()  # two units never vary
    assert (np.diff(expected["tl"], axis=1) != 0).all()


@pytest.mark.parametrize("batch", [7, 2000])
@pytest.mark.parametrize("split", SPLITS)
def test_each_labelling_of_each_replica_is_measured_against_its_own(split, batch, monkeypatch):
    monkeypatch.setattr(training, "EVALUATION_BATCH", batch)
    model, labels = build(), draw_labels(split, kinds=3)
    found = measured(model, split, labels)
    for values, labelling in zip(found, labels, strict=True):
        assert_close(values, expected_measures(model, split, labelling))
    assert len({float(values["tl"][0, 0]) for values in found}) == 3


def test_layers_of_one_width_are_one_batch_of_eigendecompositions(monkeypatch):
    shapes, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: shapes.append(a.shape) or eigh(a))
    measured(build(), "train")
    layers = {width: WIDTHS.count(width) for width in WIDTHS}
    assert shapes == [(REPLICAS, n, width, width) for width, n in layers.items()]


def test_measuring_leaves_no_gradient_and_draws_nothing_random():
    model, before = build(), torch.get_rng_state()
    ((moments, _),) = hidden.one_pass(model, IMAGES, "train")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())
    assert not any(sums.scatter.requires_grad for sums in moments)
