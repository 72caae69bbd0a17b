"""Figure 7's matrices: a loop over samples in float64, Theorem 1, and training left as it is."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

import oracles
from experiment import virtual_covariance
from experiment.virtual_covariance import OPTIMIZERS, Config
from lab import cli, training
from lab.models import MLP
from lab.replicas import Replica, generator, generators, make_optimizer

SEEDS = (0, 3)
RATES = {"learning_rate": 0.5, "momentum_rate": 0.1, "adam_rate": 0.02}  # at which γ² counts
OPTIONS = {"sgd": {"lr": 0.5}, "momentum": {"lr": 0.1, "momentum": 0.9}, "adam": {"lr": 0.02}}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Images of 2 × 3 pixels in three classes; an epoch is two batches of 8 and one of 5."""
    monkeypatch.setattr(training, "EVALUATION_BATCH", 8)
    rng, parts = np.random.default_rng(0), {}
    for part in ("train", "test"):
        parts[f"x_{part}"] = rng.integers(0, 256, (21, 2, 3)).astype(np.uint8)
        parts[f"y_{part}"] = np.arange(21) % 3
    np.savez(tmp_path / "tiny.npz", **parts)
    datasets = (str(tmp_path / "tiny.npz"),)
    small = {"epochs": 3, "batch_size": 8, "width": 5, "device": "cpu"}
    return Config(datasets=datasets, seeds=SEEDS, **small, **RATES)


def run(config, optimizer):
    replicas = [Replica(seed, config.options(optimizer)) for seed in config.seeds]
    return virtual_covariance.run(config, config.datasets[0], optimizer, replicas)


def forward(network, sample):
    """Inputs of both linear layers for one sample, with gradients, and the logits."""
    x = sample.clone().requires_grad_()
    hidden = network[:2](x)
    hidden.retain_grad()
    return (x, hidden), network[2](hidden)


def outer_products(outputs, features, totals):
    """Add ∂f/∂h ∂f/∂hᵀ of each output to the sum of each layer."""
    for output in outputs:
        gradients = torch.autograd.grad(output, features, retain_graph=True)
        for total, g in zip(totals, gradients, strict=True):
            total += np.outer(g, g)


def by_hand(config, optimizer_name, seed):
    """After training, sample by sample: name -> matrix, of both layers."""
    images = cli.load_images(config, config.datasets[0])
    x, y = images.scale(images.x_train, torch.float64).flatten(1), images.y_train
    model = MLP((6, config.width, 3), [generator(seed, "weights")])
    network = oracles.torch_layers(model, 0)[1:].double()  # without nn.Flatten
    linears = (network[0], network[2])
    optimizer = OPTIMIZERS[optimizer_name](network.parameters(), **OPTIONS[optimizer_name])
    order, rate = generator(seed, "order"), OPTIONS[optimizer_name]["lr"]

    def grams():
        return [(layer.weight.T @ layer.weight).detach().numpy() for layer in linears]

    def zeros():
        return [np.zeros((layer.in_features,) * 2) for layer in linears]

    initial, vcs, first_order = grams(), zeros(), zeros()
    for _ in range(config.epochs):
        for batch in torch.randperm(len(x), generator=order).split(config.batch_size):
            optimizer.zero_grad()
            for i in batch:
                features, logits = forward(network, x[i])
                (functional.cross_entropy(logits, y[i]) / len(batch)).backward()
                for layer, feature in enumerate(features):
                    h, a = feature.detach().numpy(), feature.grad.numpy()
                    vcs[layer] += np.outer(h - rate * a, h - rate * a) - np.outer(h, h)
                    first_order[layer] -= rate * (np.outer(a, h) + np.outer(h, a))
            optimizer.step()
    agop, agop_loss = zeros(), zeros()
    for sample, label in zip(x, y, strict=True):
        features, logits = forward(network, sample)
        outer_products(logits, features, agop)
        outer_products([functional.cross_entropy(logits, label)], features, agop_loss)
    change = [now - before for now, before in zip(grams(), initial, strict=True)]
    matrices = {"gram": grams(), "change": change, "vcs": vcs, "vcs_first_order": first_order}
    matrices["agop"] = [total / len(x) for total in agop]
    return matrices | {"agop_loss": [total / len(x) for total in agop_loss]}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_equals_a_loop_over_samples_in_plain_torch(config, optimizer):
    arrays = run(config, optimizer)
    for r, seed in enumerate(SEEDS):
        matrices = by_hand(config, optimizer, seed)
        for name in ("gram", "change", "vcs", "agop", "agop_loss"):
            diagonal = np.diag(matrices[name][0])
            assert oracles.difference(arrays[f"diagonal_{name}"][r], diagonal) < 1e-4, name
        for layer in range(2):
            for a, b in itertools.product(("gram", "change"), list(matrices)[2:]):
                pair = matrices[a][layer], matrices[b][layer]
                expected = {
                    "diagonal": np.corrcoef(*map(np.diag, pair))[0, 1],
                    "matrix": np.corrcoef(*map(np.ravel, pair))[0, 1],
                }
                for part, value in expected.items():
                    name = f"{a}_{b}_{part}"
                    assert arrays[name][r, -1, layer] == pytest.approx(value, abs=1e-4), name
            change, vcs = (matrices[name][layer] for name in ("change", "vcs"))
            error = np.linalg.norm(change - vcs) / np.linalg.norm(vcs)
            assert arrays["relative_error"][r, -1, layer] == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_measuring_changes_no_bit_of_training(config, optimizer):
    arrays = run(config, optimizer)
    images = cli.load_images(config, config.datasets[0])
    replicas = [Replica(seed, OPTIONS[optimizer]) for seed in SEEDS]
    model = MLP((6, config.width, 3), generators(replicas, "weights"))
    updates = make_optimizer(OPTIMIZERS[optimizer], model, replicas, fused=True)
    orders = generators(replicas, "order")
    losses = []
    with training.Epochs(config.epochs, model, "unmeasured") as epochs:
        for epoch in epochs:
            if epoch > 0:
                for x, y in training.shuffled_batches(images, config.batch_size, orders):
                    training.cross_entropy(model(x), y).backward()
                    updates.step()
                    updates.zero_grad()
            losses.append(training.evaluate(model, images, "test")["test_loss"].numpy())
    assert arrays["test_loss"].tobytes() == np.stack(losses, 1).tobytes()
    weight = model.layers[0].weight.detach().double()
    diagonal = (weight.mT @ weight).diagonal(dim1=-2, dim2=-1).float().numpy()
    assert arrays["diagonal_gram"].tobytes() == diagonal.tobytes()
