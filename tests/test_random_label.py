"""Figure 12: labels are redrawn as they should be, trained on as they are saved, and measured by least squares."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

import cli
import data
import layers
import oracles
import training
from experiment import random_label
from experiment.random_label import AXES, Config
from models import MLP
from training import Replica

PROBABILITIES, SEEDS, CLASSES, EPOCHS = (0.0, 0.5, 1.0), (0, 3), 4, 2
SIZES = {"probability": 3, "seed": 2, "epoch": EPOCHS + 1, "layer": 2, "train_sample": 80, "test_sample": 60}


def blank(train=20_000, test=10_000, classes=5):
    """Images of one black pixel, for drawing labels."""
    x = [torch.zeros(n, 1, 1, 1, dtype=torch.uint8) for n in (train, test)]
    return data.Images("blank", x[0], torch.arange(train) % classes, x[1], torch.arange(test) % classes)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Three probabilities of a small set of planted classes."""
    rng, parts = np.random.default_rng(0), {}
    pattern = rng.integers(0, 200, (CLASSES, 3, 4))
    for part in ("train", "test"):
        y = rng.integers(0, CLASSES, SIZES[f"{part}_sample"])
        noise = rng.integers(0, 55, (len(y), 3, 4))
        parts |= {f"x_{part}": (pattern[y] + noise).astype(np.uint8), f"y_{part}": y}
    path = tmp_path_factory.mktemp("random_label") / "planted.npz"
    np.savez(path, **parts)
    sizes = {"epochs": EPOCHS, "every": 1, "batch_size": 16, "width": 8, "depth": 2, "learning_rate": 0.02}
    return Config(datasets=(str(path),), probabilities=PROBABILITIES, seeds=SEEDS, device="cpu", jobs=1, **sizes)


@pytest.fixture(scope="module")
def images(config):
    return data.load(config.datasets[0])


@pytest.fixture(scope="module")
def found(config):
    return random_label.run(config, config.datasets[0])


def replicas(config, probabilities=PROBABILITIES, seeds=SEEDS):
    return [Replica(s, {"lr": config.learning_rate}, {"probability": p}) for p in probabilities for s in seeds]


def test_measured_less_often_is_the_same_training(config, found):
    rarely = random_label.run(replace(config, every=2), config.datasets[0])
    kept = sorted({*range(0, EPOCHS, 2), EPOCHS})
    assert rarely["epoch"].tolist() == kept
    for name, array in found.items():
        at = AXES[name].index("epoch") if "epoch" in AXES[name] else None
        np.testing.assert_array_equal(rarely[name], array if at is None else array.take(kept, at))


def test_arrays_have_the_axes_they_are_documented_with(found):
    assert found.keys() == AXES.keys()
    for name, axes in AXES.items():
        assert found[name].shape == tuple(SIZES[axis] for axis in axes), name
    assert found["probability"].tolist() == list(PROBABILITIES)
    assert found["layer"].tolist() == [1, 2]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_each_label_is_redrawn_with_probability_p(p, split):
    images = blank()
    level, _ = random_label.draw(images, seed=3)[split]
    n = len(images.split(split)[1])
    assert level.shape == (n,)
    share = (level < p).double().mean().item()
    assert share == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_redrawn_label_is_uniform_over_all_classes_whatever_it_was_and_whenever_it_is_redrawn(split):
    images = blank()
    true = images.split(split)[1]
    level, new = random_label.draw(images, seed=3)[split]
    groups = [*(new[true == label] for label in range(5)), *(new[level < p] for p in (0.25, 1.0)), new[level >= 0.9]]
    for group in groups:
        counts = torch.bincount(group, minlength=5)
        assert len(counts) == 5
        chi_squared = ((counts - len(group) / 5) ** 2 / (len(group) / 5)).sum()
        assert chi_squared < 20  # of 4 degrees of freedom: one in 2,000


def test_labels_of_a_smaller_probability_are_kept_at_a_larger_one():
    images = blank(train=500, test=300)
    for split in ("train", "test"):
        true = images.split(split)[1]
        level, new = random_label.draw(images, seed=1)[split]
        before = torch.zeros_like(true, dtype=torch.bool)
        for p in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0):
            (labels,), (same,) = random_label.labels(images, split, [Replica(1, settings={"probability": p})])
            assert torch.equal(same, true)
            redrawn = level < p
            assert torch.equal(labels, torch.where(redrawn, new, true))
            assert (before <= redrawn).all()
            before = redrawn
        assert before.all()


def test_draws_repeat_for_a_seed_and_differ_between_seeds_and_splits():
    images = blank(train=2000, test=2000)
    torch.manual_seed(0)
    first = random_label.draw(images, seed=0)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    again, other = random_label.draw(images, seed=0), random_label.draw(images, seed=1)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
    for split in ("train", "test"):
        for a, b, c in zip(first[split], again[split], other[split], strict=True):
            assert torch.equal(a, b)
            assert (a != c).double().mean() > 0.7
    for a, b in zip(first["train"], first["test"], strict=True):
        assert (a != b).double().mean() > 0.7


def test_saved_arrays_give_the_labels_trained_on_and_measured_against(config, images, found, monkeypatch):
    trained = []

    def train(*arguments, labels, **options):
        trained.append(labels)
        return {"x": np.zeros((len(labels), 1))}

    monkeypatch.setattr(training, "train", train)
    random_label.train_group(config, config.datasets[0], replicas(config))
    (labels,) = trained
    pairs = [pair for of_p in found["train_redrawn"] for pair in zip(of_p, found["train_new_label"], strict=True)]
    rows = [np.where(redrawn, new, images.y_train) for redrawn, new in pairs]
    np.testing.assert_array_equal(labels, rows)
    assert (rows[0] == images.y_train.numpy()).all()
    assert len({row.tobytes() for row in rows}) == 5  # of six: at p = 0 both seeds have the true ones


@pytest.mark.parametrize("r", range(2))
@pytest.mark.parametrize("i", range(3))
def test_a_replica_equals_a_plain_loop_on_the_saved_labels(config, images, found, i, r):
    labels = {
        split: torch.where(
            torch.from_numpy(found[f"{split}_redrawn"][i, r]),
            torch.from_numpy(found[f"{split}_new_label"][r].astype(np.int64)),
            images.split(split)[1],
        )
        for split in ("train", "test")
    }
    initial = MLP((12, 8, 8, CLASSES), [training.generator(SEEDS[r], "weights")])
    network = oracles.torch_layers(initial, 0)
    stepper = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.95)
    order = training.generator(SEEDS[r], "order")
    for epoch in range(EPOCHS + 1):
        for split in ("train", "test"):
            x, true = images.split(split)
            hidden = [h.double() for h in oracles.hidden(network, x / 255)]
            for kind, y in (("", labels[split]), ("_true", true)):
                accuracy, loss = oracles.score(network, x / 255, y)
                expected = {"accuracy": accuracy, "loss": loss}
                expected |= {"tl": [oracles.least_squares(h, y) for h in hidden]}
                expected |= {"rank": [8, 8], "chance": [oracles.chance(h) for h in hidden]}
                for name, value in expected.items():
                    measured = found[f"{split}_{name}{kind}"][i, r, epoch]
                    np.testing.assert_allclose(measured, value, rtol=0, atol=2e-4, err_msg=f"{split}_{name}{kind}")
        for index in torch.randperm(80, generator=order).split(16):
            stepper.zero_grad()
            functional.cross_entropy(network(images.x_train[index] / 255), labels["train"][index]).backward()
            stepper.step()


def test_without_random_labels_it_is_ordinary_training(config, images, found):
    model = MLP((12, 8, 8, CLASSES), [training.generator(SEEDS[1], "weights")])

    def measure(model):
        values = {}
        for split in ("train", "test"):
            (moments,), (score,) = layers.one_pass(model, images, split)
            values |= {f"{split}_{name}": v for name, v in (score | layers.linearity(moments)).items()}
        return values

    one, sgd = [Replica(SEEDS[1], {"lr": 0.02})], lambda groups: torch.optim.SGD(groups, momentum=0.95, fused=True)
    ordinary = training.train(model, images, one, sgd, measure, epochs=EPOCHS, batch_size=16)
    for name, (values,) in ordinary.items():
        np.testing.assert_array_equal(found[name][0, 1], found[f"{name}_true"][0, 1], err_msg=name)
        np.testing.assert_allclose(found[name][0, 1], values, rtol=0, atol=1e-5, err_msg=name)
    assert (found["train_tl"][1:] != found["train_tl_true"][1:]).all()
    assert not found["train_redrawn"][0].any()
    assert found["test_redrawn"][-1].all()


def test_a_replica_of_a_batch_equals_the_same_run_alone(config, found):
    together = random_label.train_group(config, config.datasets[0], replicas(config))
    for name, values in together.items():
        expected = found[name].reshape(6, *found[name].shape[2:])  # each was trained alone, on a CPU
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4, err_msg=name)


def test_a_probability_gives_the_same_bits_whatever_the_others_are(config, found):
    alone = random_label.run(replace(config, probabilities=(0.5,), seeds=(3,)), config.datasets[0])
    for name, axes in AXES.items():
        if axes[:2] == ("probability", "seed"):
            assert alone[name].tobytes() == found[name][1:2, 1:2].tobytes(), name


def test_adjusted_for_chance_tl_of_features_that_know_no_labels_falls_as_the_square_of_the_share_kept():
    images = data.load("digits")
    probabilities = (0.0, 0.25, 0.5, 0.75, 1.0)
    noisy = [Replica(seed, settings={"probability": p}) for p in probabilities for seed in range(4)]
    model = MLP((64, 16, 16, 10), [training.generator(7, "weights")])
    labels = random_label.labels(images, "train", noisy)[:1]  # (1, R, N)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.expand(len(noisy), *parameter.shape[1:])
        (moments,), _ = layers.one_pass(model, images, "train", labels)
    measured = layers.linearity(moments)
    adjusted = (measured["tl"] - measured["chance"]) / (1 - measured["chance"])
    adjusted = adjusted.view(len(probabilities), 4, 2).mean(1)  # (p, layer)
    kept = torch.tensor([1 - p for p in probabilities], dtype=torch.float64)[:, None]
    np.testing.assert_allclose(adjusted, kept**2 * adjusted[0], rtol=0, atol=0.015)
    assert (adjusted[0] > 0.3).all()


@pytest.mark.parametrize("wrong", [(1.1,), (-0.1,), (), (0.5, 0.5), (float("nan"),)], ids=str)
def test_a_probability_that_cannot_be_is_one_line(wrong):
    with pytest.raises(cli.ConfigError, match="probabilities") as error:
        Config(probabilities=wrong)
    assert "\n" not in str(error.value)


def test_the_paper_settings():
    config = Config()
    assert config.probabilities == (0, 0.25, 0.5, 0.75, 0.9, 1)
    settings = (config.learning_rate, config.momentum, config.epochs, config.batch_size, config.width, config.depth)
    assert settings == (0.005, 0.95, 200, 64, 256, 3)
    assert config.datasets == ("cifar10",)
