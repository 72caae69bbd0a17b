"""Figure 13 against scikit-learn's split, a plain float64 training loop and NumPy's least squares."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split
from torch.nn import functional

import cli
import oracles
import training
from core.linearity import target_linearity
from core.moments import FeatureMoments
from experiment import grokking
from experiment.grokking import AXES, Config, addition
from models import MLP
from training import Replica

SMALL = Config(
    weight_decays=(0.0, 2.0), seeds=(0, 4), epochs=3, modulus=11, batch_size=8, width=12, device="cpu", jobs=1
)
SIZES = {"weight_decay": 2, "seed": 2, "epoch": 4, "layer": 3}


@pytest.fixture(scope="module")
def found():
    return grokking.run(SMALL)


def naive_addition(modulus, test_share):
    """Split -> inputs and labels of each pair, one at a time, as scikit-learn splits the list of all pairs."""
    pairs = [(x, y) for x in range(modulus) for y in range(modulus)]
    parts = dict(zip(("train", "test"), train_test_split(pairs, test_size=test_share, random_state=0), strict=True))
    split = {}
    for name, part in parts.items():
        inputs = np.zeros((len(part), 2 * modulus))
        for row, (x, y) in zip(inputs, part, strict=True):
            row[x] = 1
            row[modulus + y] = 1
        split[name] = inputs, [(x + y) % modulus for x, y in part]
    return split


@pytest.mark.parametrize(("modulus", "test_share"), [(61, 0.3), (7, 0.5), (3, 0.4)])
def test_addition_is_all_pairs_split_as_scikit_learn_splits_their_list(modulus, test_share):
    images = addition(modulus, test_share)
    for name, (inputs, labels) in naive_addition(modulus, test_share).items():
        x, y = images.split(name)
        np.testing.assert_array_equal(images.scale(x, torch.float64), inputs)
        assert y.tolist() == labels
        assert y.dtype == torch.int64
    assert images.classes == modulus
    rows = torch.cat([images.x_train, images.x_test])
    assert len({tuple(row.nonzero().flatten().tolist()) for row in rows}) == len(rows) == modulus**2
    assert images.name == f"addition_mod_{modulus}"


def test_no_linear_function_of_the_inputs_knows_anything_of_the_sum():
    images = addition(11, 0.3)
    inputs, labels = torch.cat([images.x_train, images.x_test]), torch.cat([images.y_train, images.y_test])
    assert target_linearity(inputs, labels) == pytest.approx(0, abs=1e-14)


def test_arrays_have_the_axes_they_are_documented_with(found):
    assert found.keys() == AXES.keys()
    for name, axes in AXES.items():
        assert found[name].shape == tuple(SIZES[axis] for axis in axes), name
        assert np.isfinite(found[name]).all(), name
    assert found["weight_decay"].tolist() == [0.0, 2.0]
    assert found["epoch"].tolist() == [0, 1, 2, 3]
    assert found["layer"].tolist() == [1, 2, 3]


def least_squares_on_test_features(h_train, y_train, h_test, y_test):
    """Accuracy and relative error of the map that numpy's least squares fits to the training features."""
    targets, classes = oracles.one_hot(y_train), SMALL.modulus
    assert targets.shape[1] == classes
    predicted = h_test.numpy() @ oracles.least_squares_map(h_train, y_train) + targets.mean(0)
    rows = oracles.one_hot(y_test, classes)
    error = ((rows - predicted) ** 2).sum() / ((rows - targets.mean(0)) ** 2).sum()
    return float(np.mean(predicted.argmax(1) == y_test.numpy())), error


def plainly(network, images):
    """Every array of one replica at one moment."""
    values, hidden = {"read_out_accuracy": [], "read_out_error": []}, {}
    for split in ("train", "test"):
        x, y = images.split(split)
        hidden[split] = oracles.hidden(network, x.double())
        values[f"{split}_accuracy"], values[f"{split}_loss"] = oracles.score(network, x.double(), y)
        values[f"{split}_tl"] = [oracles.least_squares(h, y) for h in hidden[split]]
        values[f"{split}_rank"] = [oracles.rank(h) for h in hidden[split]]
        values[f"{split}_chance"] = [oracles.chance(h) for h in hidden[split]]
    for h_train, h_test in zip(hidden["train"], hidden["test"], strict=True):
        accuracy, error = least_squares_on_test_features(h_train, images.y_train, h_test, images.y_test)
        values["read_out_accuracy"].append(accuracy)
        values["read_out_error"].append(error)
    return values


@pytest.mark.parametrize("r", range(2))
@pytest.mark.parametrize("i", range(2))
def test_a_replica_equals_a_plain_loop_in_float64(found, i, r):
    images = addition(SMALL.modulus, SMALL.test_share)
    initial = MLP((22, 12, 12, 12, 11), [training.generator(SMALL.seeds[r], "weights")], functional.relu).double()
    network = oracles.torch_layers(initial, 0)
    decay = SMALL.weight_decays[i]
    stepper = torch.optim.AdamW(network.parameters(), lr=0.001, betas=(0.9, 0.98), weight_decay=decay)
    order = training.generator(SMALL.seeds[r], "order")
    for epoch in range(4):
        for name, value in plainly(network, images).items():
            np.testing.assert_allclose(found[name][i, r, epoch], value, rtol=0, atol=1e-8, err_msg=name)
        for index in torch.randperm(len(images.x_train), generator=order).split(8):
            stepper.zero_grad()
            functional.cross_entropy(network(images.x_train[index].double()), images.y_train[index]).backward()
            stepper.step()


def test_weight_decay_of_each_replica_of_a_batch_is_its_own(found):
    options = [{"lr": 0.001, "weight_decay": decay} for decay in SMALL.weight_decays]
    together = grokking.train_group(SMALL, [Replica(seed, each) for each in options for seed in SMALL.seeds])
    for name, values in together.items():
        alone = found[name].reshape(4, *found[name].shape[2:])
        np.testing.assert_allclose(values, alone, rtol=0, atol=1e-9, err_msg=name)
    assert (np.abs(found["train_loss"][0] - found["train_loss"][1])[:, 1:] > 1e-4).all()
    np.testing.assert_array_equal(found["train_loss"][0, :, 0], found["train_loss"][1, :, 0])


def test_a_weight_decay_gives_the_same_bits_whatever_the_others_are(found):
    alone = grokking.run(replace(SMALL, weight_decays=(2.0,), seeds=(4,)))
    for name, axes in AXES.items():
        if axes[:2] == ("weight_decay", "seed"):
            assert alone[name].tobytes() == found[name][1:, 1:].tobytes(), name


@pytest.mark.parametrize("batch", [5, 2000])
def test_read_outs_equal_least_squares_for_replicas_whose_features_differ(batch, monkeypatch):
    monkeypatch.setattr(training, "EVALUATION_BATCH", batch)
    images = addition(11, 0.3)
    model = MLP((22, 14, 9, 11), [training.generator(seed, "weights") for seed in (1, 2, 3)], functional.relu).double()
    networks = [oracles.torch_layers(model, r) for r in range(3)]
    of_train = [oracles.hidden(network, images.x_train.double()) for network in networks]
    of_test = [oracles.hidden(network, images.x_test.double()) for network in networks]
    moments = [[FeatureMoments().update(h, images.y_train) for h in row] for row in of_train]
    with torch.no_grad():
        measured = grokking.read_outs(model, images, moments)
    names = ("read_out_accuracy", "read_out_error")
    assert {name: tuple(value.shape) for name, value in measured.items()} == dict.fromkeys(names, (3, 2))
    for r in range(3):
        for i in range(2):
            accuracy, error = least_squares_on_test_features(
                of_train[r][i], images.y_train, of_test[r][i], images.y_test
            )
            assert measured["read_out_accuracy"][r, i].item() == pytest.approx(accuracy, abs=1e-15)
            assert measured["read_out_error"][r, i].item() == pytest.approx(error, rel=1e-9)


def test_read_outs_of_features_that_hold_the_answer_are_right():
    class Answers:
        """A network whose one hidden layer is 3 · one-hot of the label, beside the inputs."""

        def hidden(self, x):
            pairs = x[0].nonzero()[:, 1].view(-1, 2)
            answer = functional.one_hot((pairs[:, 0] + pairs[:, 1] - 11) % 11, 11)
            return [torch.cat([3 * answer.double(), x[0]], 1)[None]]

    images = addition(11, 0.3)
    moments = FeatureMoments().update(Answers().hidden(images.x_train.double()[None])[0][0], images.y_train)
    measured = grokking.read_outs(Answers(), images, [[moments]])
    assert measured["read_out_accuracy"].tolist() == [[1.0]]
    assert measured["read_out_error"].item() < 1e-20


WRONG = [{"modulus": 2}, {"weight_decays": (-0.1,)}, {"weight_decays": ()}, {"test_share": 0.0}, {"test_share": 1.0}]
WRONG += [{"beta1": 1.0}, {"beta2": -0.1}, {"epochs": 0}, {"seeds": (1, 1)}]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_cannot_be_is_one_line(wrong):
    with pytest.raises(cli.ConfigError, match=next(iter(wrong))) as error:
        Config(**wrong)
    assert "\n" not in str(error.value)


def test_the_paper_settings():
    config = Config()
    assert (config.modulus, config.test_share, config.weight_decays) == (61, 0.3, (0, 0.25, 0.5, 0.75, 1))
    assert (config.learning_rate, config.beta1, config.beta2) == (0.001, 0.9, 0.98)
    assert (config.epochs, config.batch_size, config.width, config.depth) == (500, 32, 256, 3)


@pytest.mark.parametrize(("modulus", "test_share"), [(3, 0.05), (5, 0.99)], ids=["one test pair", "no training pair"])
def test_a_split_with_too_little_on_one_side_is_one_line(modulus, test_share, monkeypatch, capsys, tmp_path):
    words = ["--modulus", modulus, "--test-share", test_share, "--epochs", 1, "--seeds", 0, "--width", 4]
    words += ["--weight-decays", 0, "--device", "cpu", "--jobs", 1, "--results", tmp_path / "results"]
    monkeypatch.setattr(sys, "argv", [grokking.__file__, *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.run(grokking.main)
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
