"""Neural Collapse against NumPy's definitions, and what its theory predicts of the numbers."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import oracles
from core.linearity import target_linearity
from experiment import neural_collapse
from experiment.neural_collapse import Config
from lab import cli
from lab.errors import DataError
from lab.models import MLP
from lab.replicas import Replica, generator

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def images():
    return cli.load_images(Config(device="cpu"), "digits")


def replicas(config):
    return [Replica(seed, {"lr": config.learning_rate}) for seed in config.seeds]


@torch.no_grad()
def test_measures_are_those_of_each_layers_features(images):
    model = MLP((64, 12, 12, 10), [generator(seed, "weights") for seed in SEEDS])
    measures = neural_collapse.layer_measures(model, images)
    x, y = images.scale(images.x_train), images.y_train.numpy()
    for r in range(len(SEEDS)):
        network = oracles.torch_layers(model, r)
        predicted = network(x).argmax(1).numpy()
        assert measures["train_accuracy"][r] == pytest.approx((predicted == y).mean(), abs=1e-3)
        for layer, h in enumerate(oracles.hidden(network, x)):
            features = h.double().numpy()
            means = np.array([features[y == k].mean(0) for k in range(10)])
            within = np.cov((features - means[y]).T, bias=True)
            between = np.cov(means[y].T, bias=True)
            nc1 = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 10
            nearest = ((features[:, None] - means) ** 2).sum(-1).argmin(1)
            tl = target_linearity(h, images.y_train)
            assert measures["nc1"][r, layer] == pytest.approx(nc1, rel=1e-3)
            assert measures["tl"][r, layer] == pytest.approx(tl, abs=1e-5)
            assert measures["nc4"][r, layer] == pytest.approx(
                (nearest != predicted).mean(), abs=2e-3
            )
        classifier = model.layers[-1].weight[r].double().numpy()
        centred = (means - means.mean(0)) / np.linalg.norm(means - means.mean(0))
        nc3 = ((classifier / np.linalg.norm(classifier) - centred) ** 2).sum()  # of the last layer
        assert measures["nc3"][r] == pytest.approx(nc3, rel=1e-3)


def test_the_rate_falls_by_ten_after_each_third():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    neural_collapse.anneal(optimizer, 9)
    rates = []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    assert rates == pytest.approx([1] * 3 + [0.1] * 3 + [0.01] * 3)


def test_a_replica_equals_a_plain_loop(images):
    sizes = {"epochs": 3, "every": 2, "width": 12, "depth": 2}
    config = Config(seeds=SEEDS, device="cpu", weight_decay=0.01, **sizes)
    arrays = neural_collapse.run(config, "digits", replicas(config))
    x = images.scale(images.x_train)
    for r, seed in enumerate(SEEDS):
        network = oracles.torch_layers(MLP((64, 12, 12, 10), [generator(seed, "weights")]), 0)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
        order = generator(seed, "order")
        losses = [oracles.score(network, x, images.y_train)[1]]
        for rate in (0.05, 0.005, 0.0005):
            optimizer.param_groups[0]["lr"] = rate
            for index in torch.randperm(len(x), generator=order).split(64):
                optimizer.zero_grad()
                functional.cross_entropy(network(x[index]), images.y_train[index]).backward()
                optimizer.step()
            losses.append(oracles.score(network, x, images.y_train)[1])
        np.testing.assert_allclose(
            arrays["train_loss"][r], [losses[i] for i in (0, 2, 3)], rtol=1e-4
        )


def test_collapse_comes_with_linearity():
    sizes = {"epochs": 16, "every": 4, "width": 32, "depth": 2, "batch_size": 16}
    config = Config(seeds=(0,), device="cpu", **sizes)
    arrays = neural_collapse.run(config, "digits", replicas(config))
    assert (arrays["tl_intercept"] >= arrays["tl_bound"] - 1e-9).all()
    assert (arrays["tl_intercept"] >= arrays["tl"] - 1e-9).all()
    assert arrays["train_accuracy"][0, -1] > 0.95
    first, last = arrays["nc1"][0, [0, -1], -1]
    assert last < first / 3
    assert arrays["tl"][0, -1, -1] > arrays["tl"][0, 0, -1] + 0.2
    assert arrays["nc4"][0, -1, -1] < 0.1 < 0.8 < arrays["nc4"][0, 0, -1]


def test_a_class_without_training_images_is_refused_before_any_work(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    splits = ("train", "test")
    x = {f"x_{split}": rng.integers(0, 256, (9, 4, 4), dtype=np.uint8) for split in splits}
    np.savez(tmp_path / "gap.npz", **x, y_train=np.arange(9) % 2 * 2, y_test=np.arange(9) % 3)
    words = ["--datasets", "digits", str(tmp_path / "gap.npz")]
    words += ["--results", str(tmp_path / "results")]
    monkeypatch.setattr("sys.argv", ["neural_collapse.py", *words])
    with pytest.raises(DataError, match="gap: a class has no training images"):
        neural_collapse.main()
    assert not (tmp_path / "results").exists()
