"""Figure 12: how labels are redrawn, and training on them against a plain loop and NumPy."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import oracles
from experiment import random_label
from experiment.random_label import SPLITS, Config
from lab import cli, runs
from lab.data import Images, load_images
from lab.errors import ConfigError
from lab.models import MLP
from lab.replicas import Replica, generator

PROBABILITIES, SEEDS, EPOCHS = (0.0, 0.5, 1.0), (0, 3), 2
CONFIG = Config(
    probabilities=PROBABILITIES,
    seeds=SEEDS,
    epochs=EPOCHS,
    every=1,
    batch_size=16,
    width=8,
    depth=2,
    learning_rate=0.02,
    device="cpu",
)
REPLICAS = [
    Replica(seed, {"lr": CONFIG.learning_rate}, {"probability": p})
    for p in PROBABILITIES
    for seed in SEEDS
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A few of the digits, as a file."""
    digits, arrays = load_images("digits"), {}
    for split, n in (("train", 110), ("test", 60)):
        x, y = digits.split(split)
        arrays |= {f"x_{split}": 15 * x[:n, 0].numpy(), f"y_{split}": y[:n].numpy()}
    path = tmp_path_factory.mktemp("random_label") / "digits110.npz"
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture(scope="module")
def images(dataset):
    return cli.load_images(CONFIG, dataset)


@pytest.fixture(scope="module")
def arrays(dataset):
    """name -> (probability, seed, …)."""
    together = random_label.run(CONFIG, dataset, REPLICAS)
    return runs.unflatten(together, len(PROBABILITIES), len(SEEDS))


def blank(train=20_000, test=10_000, classes=5):
    """Images of one black pixel, for drawing labels."""
    x = [torch.zeros(n, 1, 1, 1, dtype=torch.uint8) for n in (train, test)]
    y = [torch.arange(n) % classes for n in (train, test)]
    return Images("blank", x[0], y[0], x[1], y[1])


def draw(images, seed, p):
    """SPLIT_redrawn and SPLIT_new_label of one replica, (N,) each."""
    drawn = random_label.draw_labels(images, [Replica(seed, settings={"probability": p})])
    return {name: values[0] for name, values in drawn.items()}


@pytest.mark.parametrize("p", [0.0, 0.25, 0.9, 1.0])
def test_each_label_is_redrawn_with_probability_p(p):
    drawn = draw(blank(), 3, p)
    for split in SPLITS:
        redrawn = drawn[f"{split}_redrawn"].double()
        bound = 4 * (p * (1 - p) / len(redrawn)) ** 0.5
        assert redrawn.mean().item() == pytest.approx(p, abs=bound)


@pytest.mark.parametrize("split", SPLITS)
def test_new_labels_are_uniform_whatever_the_true_label_and_whether_redrawn(split):
    images = blank()
    drawn = draw(images, 3, 0.25)
    new, redrawn, true = (
        drawn[f"{split}_new_label"],
        drawn[f"{split}_redrawn"],
        images.split(split)[1],
    )
    for group in [*(new[true == label] for label in range(5)), new[redrawn], new[~redrawn]]:
        counts = torch.bincount(group, minlength=5)
        assert len(counts) == 5
        chi_squared = ((counts - len(group) / 5) ** 2 / (len(group) / 5)).sum()
        assert chi_squared < 20  # of 4 degrees of freedom: one in 2,000


def test_a_label_redrawn_at_one_probability_is_redrawn_alike_at_every_larger_one():
    images = blank(train=500, test=300)
    for split in SPLITS:
        true = images.split(split)[1]
        before = torch.zeros_like(true, dtype=torch.bool)
        for p in (0.0, 0.1, 0.5, 1.0):
            replica = [Replica(1, settings={"probability": p})]
            drawn = random_label.draw_labels(images, replica)
            redrawn, new = drawn[f"{split}_redrawn"][0], drawn[f"{split}_new_label"][0]
            assert torch.equal(new, draw(images, 1, 0.0)[f"{split}_new_label"])
            assert (before <= redrawn).all()
            (labels,), (unchanged,) = random_label.labellings(images, split, drawn)
            assert torch.equal(labels[redrawn], new[redrawn])
            assert torch.equal(labels[~redrawn], true[~redrawn])
            assert torch.equal(unchanged, true)
            before = redrawn
        assert before.all()


def test_seeds_and_splits_are_drawn_independently():
    images = blank(train=2000, test=2000)
    first, other = draw(images, 0, 0.5), draw(images, 1, 0.5)
    pairs = [(first[name], other[name]) for name in first]
    pairs += [(first[f"train_{name}"], first[f"test_{name}"]) for name in ("redrawn", "new_label")]
    for a, b in pairs:
        chance = 0.5 if a.dtype == torch.bool else 0.8
        assert (a != b).double().mean().item() == pytest.approx(chance, abs=0.05)


@pytest.mark.parametrize(("i", "r"), [(0, 1), (1, 0), (2, 1)])
def test_a_replica_equals_a_plain_loop_on_the_saved_labels(images, arrays, i, r):
    labels = {}
    for split in SPLITS:
        redrawn = torch.from_numpy(arrays[f"{split}_redrawn"][i, r])
        new = torch.from_numpy(arrays[f"{split}_new_label"][i, r].astype(np.int64))
        labels[split] = torch.where(redrawn, new, images.split(split)[1])
    initial = MLP((64, 8, 8, 10), [generator(SEEDS[r], "weights")])
    network = oracles.torch_layers(initial, 0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.95)
    order = generator(SEEDS[r], "order")
    for epoch in range(EPOCHS + 1):
        for split in SPLITS:
            x, true = images.split(split)
            features = [h.double() for h in oracles.hidden(network, x / 255)]
            for labelling, y in (("", labels[split]), ("_true", true)):
                accuracy, loss = oracles.score(network, x / 255, y)
                expected = {"accuracy": accuracy, "loss": loss}
                expected["tl"] = [oracles.least_squares(h, y) for h in features]
                expected["rank"] = [8, 8]
                expected["chance"] = [oracles.chance(h) for h in features]
                for name, value in expected.items():
                    measured = arrays[f"{split}_{name}{labelling}"][i, r, epoch]
                    np.testing.assert_allclose(measured, value, atol=2e-4, err_msg=name)
        for index in torch.randperm(len(images.x_train), generator=order).split(16):
            optimizer.zero_grad()
            logits = network(images.x_train[index] / 255)
            functional.cross_entropy(logits, labels["train"][index]).backward()
            optimizer.step()


@pytest.mark.parametrize("wrong", [1.1, -0.1, float("nan")])
def test_a_probability_outside_0_to_1_is_refused(wrong):
    with pytest.raises(ConfigError, match="probabilities"):
        Config(probabilities=(wrong,))
