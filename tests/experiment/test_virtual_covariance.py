"""Figure 7's matrices: a loop over samples in float64, Theorem 1, and training left as it is."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

import oracles
from experiment import virtual_covariance
from experiment.virtual_covariance import OPTIMIZERS, Config, ShiftSum
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


def test_under_plain_sgd_the_gram_changes_by_the_vcs_but_for_terms_in_the_squared_rate():
    """Theorem 1 with its remainder: ΔG = −γ (X + Xᵀ) + γ² dWᵀdW with X = AᵀH, summed over steps."""
    rate, model = 0.3, MLP((6, 5, 3), [generator(0, "weights")]).double()
    weights = [layer.weight for layer in model.layers]
    initial = [(w.mT @ w).detach() for w in weights]
    shifts = [ShiftSum(w.detach(), rate) for w in weights]
    remainders, virtual = ([torch.zeros_like(gram) for gram in initial] for _ in range(2))
    draw = generator(0, "noise")
    for step in range(7):
        x = torch.randn(1, 8, 6, generator=draw, dtype=torch.float64, requires_grad=True)
        y = torch.randint(3, (1, 8), generator=draw)
        (hidden,) = model.hidden(x)
        features, parameters = [x, hidden], list(model.parameters())
        loss = training.cross_entropy(model.layers[1](hidden), y)
        gradients = torch.autograd.grad(loss, [*features, *parameters])
        for i, (shift, h, a) in enumerate(zip(shifts, features, gradients, strict=False)):
            shift.add(h.detach(), a)
            remainders[i] += rate**2 * gradients[2 + 2 * i].mT @ gradients[2 + 2 * i]
            virtual[i] += rate**2 * a.mT @ a
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients[2:], strict=True):
                parameter -= rate * gradient
        if step == 3:
            [shift.terms() for shift in shifts]  # reading the sums leaves them as they are
    for i, shift in enumerate(shifts):
        first_order, second_order = shift.terms()
        change = (weights[i].mT @ weights[i]).detach() - initial[i]
        assert oracles.difference(change, first_order + remainders[i]) < 1e-13
        assert oracles.difference(second_order, virtual[i]) < 1e-13
        assert oracles.difference(change, first_order) > 0.01  # what is left out is not nothing


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
