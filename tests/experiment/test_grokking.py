"""Figure 13 against scikit-learn's split, a plain loop in float64 and NumPy's least squares."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split
from torch.nn import functional

import oracles
from core.linearity import target_linearity
from experiment import grokking
from experiment.grokking import Config, addition
from lab import runs, training
from lab.errors import ConfigError
from lab.models import MLP
from lab.replicas import Replica, generator

DECAYS, SEEDS, EPOCHS = (0.0, 2.0), (0, 4), 3
CONFIG = Config(
    weight_decays=DECAYS,
    seeds=SEEDS,
    epochs=EPOCHS,
    modulus=11,
    batch_size=8,
    width=12,
    device="cpu",
)


@pytest.fixture(scope="module")
def arrays():
    """name -> (weight decay, seed, epoch, …), measured in several batches."""
    rate = CONFIG.learning_rate
    replicas = [Replica(s, {"lr": rate, "weight_decay": decay}) for decay in DECAYS for s in SEEDS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "EVALUATION_BATCH", 30)
        return runs.unflatten(grokking.run(CONFIG, replicas), len(DECAYS), len(SEEDS))


@pytest.mark.parametrize(("modulus", "test_share"), [(61, 0.3), (3, 0.4)])
def test_addition_is_all_pairs_split_as_scikit_learn_splits_their_list(modulus, test_share):
    images = addition(modulus, test_share)
    pairs = [(x, y) for x in range(modulus) for y in range(modulus)]
    parts = train_test_split(pairs, test_size=test_share, random_state=0)
    for split, part in zip(("train", "test"), parts, strict=True):
        inputs = np.zeros((len(part), 2 * modulus))
        for row, (x, y) in zip(inputs, part, strict=True):
            row[[x, modulus + y]] = 1
        x, labels = images.split(split)
        np.testing.assert_array_equal(images.scale(x, torch.float64), inputs)
        assert labels.tolist() == [(x + y) % modulus for x, y in part]
    assert images.classes == modulus
    assert images.name == f"addition_mod_{modulus}"


def test_no_linear_function_of_the_inputs_knows_anything_of_the_sum():
    images = addition(11, 0.3)
    inputs = torch.cat([images.x_train, images.x_test])
    labels = torch.cat([images.y_train, images.y_test])
    assert target_linearity(inputs, labels) == pytest.approx(0, abs=1e-14)


def read_out(h_train, y_train, h_test, y_test):
    """Accuracy and error on test features of the map that NumPy fits to the training features."""
    mean = oracles.one_hot(y_train).mean(0)
    predicted = h_test.numpy() @ oracles.least_squares_map(h_train, y_train) + mean
    rows = oracles.one_hot(y_test, CONFIG.modulus)
    error = ((rows - predicted) ** 2).sum() / ((rows - mean) ** 2).sum()
    return float(np.mean(predicted.argmax(1) == y_test.numpy())), error


def plainly(network, images):
    """Every array of one network at one moment."""
    values, features = {}, {}
    for split in ("train", "test"):
        x, y = images.split(split)
        features[split] = oracles.hidden(network, x.double())
        accuracy, loss = oracles.score(network, x.double(), y)
        values |= {f"{split}_accuracy": accuracy, f"{split}_loss": loss}
        values[f"{split}_tl"] = [oracles.least_squares(h, y) for h in features[split]]
        values[f"{split}_rank"] = [oracles.rank(h) for h in features[split]]
        values[f"{split}_chance"] = [oracles.chance(h) for h in features[split]]
    layers = zip(features["train"], features["test"], strict=True)
    pairs = [read_out(train, images.y_train, test, images.y_test) for train, test in layers]
    values["read_out_accuracy"], values["read_out_error"] = zip(*pairs, strict=True)
    return values


@pytest.mark.parametrize("r", range(len(SEEDS)))
@pytest.mark.parametrize("i", range(len(DECAYS)))
def test_a_replica_equals_a_plain_loop_in_float64(arrays, i, r):
    images = addition(CONFIG.modulus, CONFIG.test_share)
    weights = [generator(SEEDS[r], "weights")]
    initial = MLP((22, 12, 12, 12, 11), weights, functional.relu).double()
    network = oracles.torch_layers(initial, 0)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=0.001, betas=(0.9, 0.98), weight_decay=DECAYS[i]
    )
    order = generator(SEEDS[r], "order")
    for epoch in range(EPOCHS + 1):
        expected = plainly(network, images)
        assert expected.keys() == arrays.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(arrays[name][i, r, epoch], value, atol=1e-8, err_msg=name)
        for index in torch.randperm(len(images.x_train), generator=order).split(8):
            optimizer.zero_grad()
            logits = network(images.x_train[index].double())
            functional.cross_entropy(logits, images.y_train[index]).backward()
            optimizer.step()


@pytest.mark.parametrize(
    "wrong",
    [
        {"modulus": 2},
        {"test_share": 0.0},
        {"test_share": 1.0},
        {"test_share": 0.05, "modulus": 3},  # one test pair
        {"test_share": 0.99, "modulus": 5},  # no training pair
    ],
    ids=str,
)
def test_a_split_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Config(**wrong)
