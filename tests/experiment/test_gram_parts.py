"""The parts of the Gram's change: a loop with d × d matrices in float64, and sums however made."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import oracles
from experiment import gram_parts
from experiment.gram_parts import DRAWN, PARTS, ChangeParts, Config
from lab import cli, training
from lab.models import MLP
from lab.replicas import Replica, generator, generators, make_optimizer

SEEDS, RATE, BATCH, N = (0, 3), 0.5, 8, 21  # a rate at which γ² counts


@pytest.fixture
def config(tmp_path):
    """Images of 2 × 3 pixels in three classes; an epoch is two batches of 8 and one of 5."""
    rng, parts = np.random.default_rng(0), {}
    for part in ("train", "test"):
        parts[f"x_{part}"] = rng.integers(0, 256, (N, 2, 3)).astype(np.uint8)
        parts[f"y_{part}"] = np.arange(N) % 3
    np.savez(tmp_path / "tiny.npz", **parts)
    datasets = (str(tmp_path / "tiny.npz"),)
    small = {"epochs": 2, "measurements": 1, "width": 5, "depth": 2, "device": "cpu"}
    return Config(datasets=datasets, seeds=SEEDS, **small)


def run(config, labels="true", batch_size=BATCH, **changes):
    config = Config(**{**vars(config), **changes})
    replicas = [Replica(seed, {"lr": RATE}) for seed in config.seeds]
    return gram_parts.run(config, config.datasets[0], labels, batch_size, replicas)


def by_hand(config, seed, labels):
    """d × d matrices of every layer after training, sample by sample: name -> matrices."""
    images = cli.load_images(config, config.datasets[0])
    x, y = images.scale(images.x_train, torch.float64).flatten(1), images.y_train
    if labels == "shuffled":
        y = y[torch.randperm(N, generator=generator(seed, "labels"))]
    model = MLP((6, 5, 5, 3), [generator(seed, "weights")])
    network = oracles.torch_layers(model, 0)[1:].double()  # without nn.Flatten
    linears = (network[0], network[2], network[4])

    def grams():
        return [(layer.weight.T @ layer.weight).detach().numpy() for layer in linears]

    start = grams()
    vcs, first_order, moment = ([np.zeros_like(gram) for gram in start] for _ in range(3))
    order, successive, before = generator(seed, "order"), np.zeros(3), None
    for _ in range(config.epochs):
        for batch in torch.randperm(N, generator=order).split(BATCH):
            for i in batch:
                h0 = x[i].clone().requires_grad_()
                h1 = network[:2](h0)
                h2 = network[2:4](h1)
                h1.retain_grad()
                h2.retain_grad()
                (functional.cross_entropy(network[4](h2), y[i]) / len(batch)).backward()
                for layer, feature in enumerate((h0, h1, h2)):
                    h, a = feature.detach().numpy(), feature.grad.numpy()
                    vcs[layer] += np.outer(h - RATE * a, h - RATE * a) - np.outer(h, h)
                    first_order[layer] -= RATE * (np.outer(a, h) + np.outer(h, a))
            gradients = [layer.weight.grad.numpy().copy() for layer in linears]
            for layer, gradient in enumerate(gradients):
                moment[layer] += RATE**2 * gradient.T @ gradient
                if before:
                    successive[layer] += RATE**2 * np.vdot(before[layer], gradient)
            before = gradients
            for parameter in network.parameters():
                parameter.data -= RATE * parameter.grad
                parameter.grad = None
    change = [now - then for now, then in zip(grams(), start, strict=True)]
    second_order = [c - v for c, v in zip(change, vcs, strict=True)]  # what Theorem 1 leaves out
    matrices = dict(zip(PARTS, (change, vcs, first_order, second_order), strict=True))
    return matrices | {"moment": moment}, successive


@pytest.mark.parametrize("labels", ["true", "shuffled"])
def test_equals_a_loop_over_samples_with_whole_matrices(config, labels):
    arrays = run(config, labels)
    for r, seed in enumerate(SEEDS):
        matrices, successive = by_hand(config, seed, labels)
        for name in DRAWN:
            diagonal = np.diag(matrices[name][0])
            assert oracles.difference(arrays[f"diagonal_{name}"][r], diagonal) < 1e-4, name
        for layer in range(3):
            own = {name: values[layer] for name, values in matrices.items()}
            for name, matrix in own.items():
                trace = pytest.approx(np.trace(matrix), rel=1e-3, abs=1e-5)
                assert arrays[f"trace_{name}"][r, -1, layer] == trace, name
            for name in PARTS[1:]:
                rho = np.corrcoef(np.diag(own["change"]), np.diag(own[name]))[0, 1]
                assert arrays[f"rho_{name}"][r, -1, layer] == pytest.approx(rho, abs=1e-3), name
        assert arrays["trace_successive"][r, -1] == pytest.approx(successive, rel=1e-3, abs=1e-5)
        assert (arrays["identity_error"][r, 1:] < 1e-5).all()


def descend(model, layers, x, y, rate=RATE):
    """A step of gradient descent, as `run` makes it."""
    x = x.requires_grad_()
    hidden = model.hidden(x)
    parameters = list(model.parameters())
    loss = training.cross_entropy(model.layers[-1](hidden[-1]), y)
    gradients = torch.autograd.grad(loss, [x, *hidden, *parameters])
    features = [x, *hidden]
    for i, (layer, h) in enumerate(zip(layers, features, strict=True)):
        layer.add(h.detach(), gradients[i], gradients[len(features) + 2 * i])
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients[len(features) :], strict=True):
            parameter -= rate * gradient


def test_the_parts_add_up_to_rounding_and_fail_to_at_another_rate():
    draw = generator(0, "noise")
    for true_rate, largest in ((RATE, 1e-14), (RATE / 2, np.inf)):
        model = MLP((6, 5, 5, 3), [generator(0, "weights")]).double()
        layers = [ChangeParts(layer.weight.detach(), RATE) for layer in model.layers]
        for _ in range(9):
            x = torch.randn(1, 8, 6, generator=draw, dtype=torch.float64)
            descend(model, layers, x, torch.randint(3, (1, 8), generator=draw), true_rate)
        errors = [layer.measures()["identity_error"].item() for layer in layers]
        assert all(error < largest for error in errors)
        assert largest < 1 or min(errors) > 0.1


def test_a_step_that_the_shift_does_not_see_is_all_of_second_order():
    """∂L/∂W orthogonal to W: the planted gradient turns no column and lengthens each."""
    weight = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]], dtype=torch.float64)
    layer = ChangeParts(weight, 0.5)
    # ∂L/∂Z = (0, 1): A = ∂L/∂Z W = 0, ∂L/∂W = ∂L/∂Zᵀ h
    h = torch.tensor([[[2.0, 6.0]]], dtype=torch.float64)
    gradient = torch.tensor([[[0.0, 0.0], [2.0, 6.0]]], dtype=torch.float64)
    layer.add(h, torch.zeros_like(h), gradient)
    weight -= 0.5 * gradient
    found = {name: values[0].tolist() for name, values in layer.diagonals().items()}
    assert found == {"change": [1, 9], "vcs": [0, 0], "first_order": [0, 0], "second_order": [1, 9]}
    measures = layer.measures()
    assert measures["rho_second_order"].item() == pytest.approx(1)
    assert measures["rho_vcs"].isnan().all()
    assert measures["trace_successive"].item() == 0
    layer.add(h, torch.zeros_like(h), 2 * gradient)
    assert layer.measures()["trace_successive"].item() == 0.25 * 2 * 40


def test_how_often_it_is_measured_changes_no_bit(config):
    often, seldom = run(config, measurements=3), run(config)
    for name in seldom:
        if name.startswith(("trace", "rho", "identity", "test")):
            assert often[name][:, ::3].tobytes() == seldom[name].tobytes(), name


def test_a_replica_has_the_sums_that_it_has_alone(config):
    together, alone = run(config), run(config, seeds=SEEDS[1:])
    for name in together.keys() - {"identity_error"}:  # which is rounding
        np.testing.assert_allclose(alone[name][0], together[name][1], rtol=1e-3, atol=1e-5)


def test_measuring_changes_no_bit_of_training(config):
    images = cli.load_images(config, config.datasets[0])
    replicas = [Replica(seed, {"lr": RATE}) for seed in SEEDS]
    model = MLP((6, 5, 5, 3), generators(replicas, "weights"))
    optimizer = make_optimizer(torch.optim.SGD, model, replicas, fused=True)
    orders = generators(replicas, "order")
    with training.Epochs(config.epochs, model, "unmeasured") as epochs:
        for epoch in epochs:
            for x, y in training.shuffled_batches(images, BATCH, orders) if epoch else ():
                training.cross_entropy(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
            epochs.record(training.evaluate(model, images, "test"))
    assert run(config)["test_loss"].tobytes() == epochs.arrays["test_loss"].tobytes()
