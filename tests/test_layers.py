"""Measures of every hidden layer in one pass, against plain torch networks and NumPy's least squares."""

import numpy as np
import pytest
import torch

import data
import layers
import oracles
import training
from models import MLP
from training import Replica

TRAIN, TEST, CLASSES, REPLICAS, WIDTHS = 90, 70, 4, 3, (9, 7, 5)
SPLITS = ("train", "test")


def random_images(seed=0):
    g = torch.Generator().manual_seed(seed)
    x = [torch.randint(256, (n, 1, 4, 3), dtype=torch.uint8, generator=g) for n in (TRAIN, TEST)]
    y = [torch.randint(CLASSES, (n,), generator=g) for n in (TRAIN, TEST)]
    return data.Images("random", x[0], y[0], x[1], y[1], mean=0.5, std=0.5)


IMAGES = random_images()


def build(seeds=range(REPLICAS)):
    """Networks in float64 whose hidden layers differ in width and have a unit that is always 0 and one that is 0.1."""
    model = MLP((12, *WIDTHS, CLASSES), [training.generator(seed, "weights") for seed in seeds]).double()
    with torch.no_grad():
        for unit, bias in ((0, 0.0), (1, 0.1)):
            model.layers[1].weight[:, unit] = 0
            model.layers[1].bias[:, unit] = bias
    return model


def labellings(split, kinds=2, seed=1):
    """(K, R, N) labels that differ between labellings and replicas, and of which the last class is rare."""
    n = len(IMAGES.split(split)[1])
    labels = torch.randint(CLASSES - 1, (kinds, REPLICAS, n), generator=torch.Generator().manual_seed(seed))
    labels[..., -1] = CLASSES - 1
    return labels


def plainly(model, split, labels):
    """What every measure should be of labels (R, N): arrays name -> (R, …)."""
    x, _ = IMAGES.split(split)
    x = (x.double() / 255 - 0.5) / 0.5
    rows = []
    for r in range(len(labels)):
        network, y = oracles.torch_layers(model, r), labels[r]
        accuracy, loss = oracles.score(network, x, y)
        row = {"accuracy": accuracy, "loss": loss, "tl": [], "rank": [], "chance": []}
        row |= {"surrogate": [], "response_norm": []}
        targets = oracles.centred(y)
        for layer, h in zip(model.layers[1:], oracles.hidden(network, x), strict=True):
            row["tl"].append(oracles.least_squares(h, y))
            row["rank"].append(oracles.rank(h))
            row["chance"].append(oracles.chance(h))
            z = h.numpy() @ layer.weight[r].detach().numpy().T  # without the bias
            row["surrogate"].append(np.trace(targets.T @ z @ z.T @ targets) / CLASSES)
            row["response_norm"].append((z**2).sum())
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@torch.no_grad()
def measured(model, split, labels=None):
    """One dict of all measures for each labelling."""
    weights = [layer.weight for layer in model.layers[1:]]
    found = zip(*layers.one_pass(model, IMAGES, split, labels), strict=True)
    return [score | layers.linearity(sums) | layers.responses(sums, weights) for sums, score in found]


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == torch.float64, name
        assert value.shape == expected[name].shape, name
        np.testing.assert_allclose(value, expected[name], rtol=1e-9, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("batch", [1, 7, 2000])
@pytest.mark.parametrize("split", SPLITS)
def test_one_pass_equals_plain_networks_and_least_squares(split, batch, monkeypatch):
    monkeypatch.setattr(training, "EVALUATION_BATCH", batch)
    model = build()
    (found,) = measured(model, split)
    expected = plainly(model, split, IMAGES.split(split)[1].expand(REPLICAS, -1))
    assert_close(found, expected)
    assert (expected["rank"] == [WIDTHS[0], WIDTHS[1] - 2, WIDTHS[2]]).all()
    assert (np.diff(expected["tl"], axis=1) != 0).all()


@pytest.mark.parametrize("batch", [7, 2000])
@pytest.mark.parametrize("split", SPLITS)
def test_labellings_that_differ_by_replica_are_each_measured_against_their_own(split, batch, monkeypatch):
    monkeypatch.setattr(training, "EVALUATION_BATCH", batch)
    model, labels = build(), labellings(split, kinds=3)
    found = measured(model, split, labels)
    assert len(found) == 3
    for values, of_kind in zip(found, labels, strict=True):
        assert_close(values, plainly(model, split, of_kind))
    assert len({float(values["tl"][0, 0]) for values in found}) == 3


def test_two_labellings_at_once_equal_each_alone():
    model, labels = build(), labellings("train")
    for values, of_kind in zip(measured(model, "train", labels), labels, strict=True):
        (alone,) = measured(model, "train", of_kind[None])
        assert_close(values, {name: value.numpy() for name, value in alone.items()})


def test_a_replica_of_a_batch_equals_the_same_one_alone():
    model, labels = build(), labellings("test")
    together = measured(model, "test", labels)
    for r in range(REPLICAS):
        alone = measured(build([r]), "test", labels[:, r : r + 1])
        for values, expected in zip(together, alone, strict=True):
            assert_close(
                {name: value[r : r + 1] for name, value in values.items()},
                {name: value.numpy() for name, value in expected.items()},
            )


def test_the_datas_labels_are_the_default():
    model, y = build(), IMAGES.y_test
    for name, value in measured(model, "test")[0].items():
        assert torch.equal(value, measured(model, "test", y.expand(1, REPLICAS, -1))[0][name])


def test_a_class_of_the_data_that_a_labelling_lacks_changes_nothing():
    model, labels = build(), labellings("train", kinds=1) % 2
    (found,) = measured(model, "train", labels)
    for r in range(REPLICAS):
        h = oracles.hidden(oracles.torch_layers(model, r), (IMAGES.x_train.double() / 255 - 0.5) / 0.5)[-1]
        assert found["tl"][r, -1].item() == pytest.approx(oracles.least_squares(h, labels[0, r]), abs=1e-10)


def test_measuring_leaves_no_gradient_and_draws_nothing_random():
    model = build()
    before = torch.get_rng_state()
    (sums,), _ = layers.one_pass(model, IMAGES, "train")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())
    assert not any(cell.scatter.requires_grad for row in sums for cell in row)


def test_features_in_float32_are_summed_in_float64():
    model = build().float()
    (found,) = measured(model, "train")
    for r, replica in enumerate(Replica(seed) for seed in range(REPLICAS)):
        x = IMAGES.scale(IMAGES.x_train)
        h = oracles.hidden(oracles.torch_layers(model, r), x)
        expected = [oracles.least_squares(features, IMAGES.y_train) for features in h]
        np.testing.assert_allclose(found["tl"][r], expected, atol=1e-5, err_msg=str(replica))
