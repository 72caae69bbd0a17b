"""Measures of the statements against plain torch, loops, and what the statements predict."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

import oracles
from cases import draw
from core.bounds import GELU_LIPSCHITZ
from core.moments import FeatureMoments
from core.virtual import virtual_covariance_shift
from lab import snapshot
from lab import statement_measures as measures
from lab.replicas import Replica
from lab.statement_networks import NETWORKS, Task, build_cnn, build_mlp

REPLICAS = (Replica(0), Replica(1))
SAMPLES, PIXELS = 40, 6
RATES = (0.01, 0.001, 0.0001)


def make_task(name, shape=(PIXELS,)):
    """Random samples of three classes."""
    x = draw(SAMPLES, *shape)
    labels = torch.arange(SAMPLES) % 3
    kind = NETWORKS[name]
    one_hot = functional.one_hot(labels).double()
    targets = one_hot[:, :1] if kind.degree else one_hot
    return Task(kind, x, labels, targets - targets.mean(0))


def look(name):
    """A network before training, its task and a snapshot of it."""
    task = make_task(name, (2, 5, 4) if name == "cnn" else (PIXELS,))
    model = build_cnn(task, 3, REPLICAS) if name == "cnn" else build_mlp(task, 8, 3, REPLICAS)
    return model, task, snapshot.look(model, task.x.expand(2, *task.x.shape), task.loss)


def norm2(matrices):
    return matrices.detach().square().sum((-2, -1))


def degrees(now, degree):
    return [degree**left for left in reversed(range(len(now.weights)))]


@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_squared_loss", "cnn"])
def test_a_snapshot_holds_what_plain_torch_computes(name):
    model, task, now = look(name)
    for r in range(len(REPLICAS)):
        network = oracles.torch_layers(model, r).double()
        outputs = network(task.x)
        if name == "gelu" or name == "cnn":
            loss = functional.cross_entropy(outputs, task.labels)
        else:
            loss = ((outputs - task.targets) ** 2).sum() / 2 / SAMPLES
        loss.backward()
        assert now.losses[r].item() == pytest.approx(loss.item())
        torch.testing.assert_close(now.outputs[r], outputs)
        layers = [layer for layer in network if hasattr(layer, "weight")]
        for i, layer in enumerate(layers):
            weight, gradient = layer.weight.detach().flatten(1), layer.weight.grad.flatten(1)
            torch.testing.assert_close(now.weights[i][r], weight)
            torch.testing.assert_close(now.weight_gradients[i][r], gradient)
            h, b = now.features[i][r], now.response_gradients[i][r]
            torch.testing.assert_close(b.mT @ h, gradient)  # rows of H and B belong together
            z = now.responses[i][r].detach()
            rows = z if z.ndim == 2 else z.movedim(1, -1).flatten(0, 2)
            torch.testing.assert_close(h @ weight.mT + layer.bias, rows)


@pytest.mark.parametrize(("name", "degree"), [("relu", 1), ("linear", 1), ("squared_relu", 2)])
def test_homogeneous_networks_obey_eulers_identity_at_every_layer(name, degree):
    _, _, now = look(name)
    for h, j, total in zip(now.features, now.slopes, degrees(now, degree), strict=True):
        torch.testing.assert_close((h * j).sum(-1), total * now.outputs[..., 0].detach())


def test_squared_relu_starts_with_responses_of_unit_size():
    _, _, now = look("squared_relu")
    for z in now.responses:
        torch.testing.assert_close(z.square().mean((1, 2)), torch.ones(2).double())


@pytest.mark.parametrize("samples", [50, 3])
def test_fewer_rows_give_the_same_shift(samples):
    h, b, weight = draw(2, samples, 7), draw(2, samples, 5, seed=1), draw(2, 5, 7, seed=2)
    b[..., 2] = 0  # a unit that is off
    expected = virtual_covariance_shift(h, b @ weight, 0.3)
    assert oracles.difference(measures.layer_shift(h, b, weight, 0.3), expected) < 1e-13


def test_a_small_change_of_the_gram_keeps_its_digits():
    weight, step = draw(4, 6), draw(4, 6, seed=1)
    first_order = weight.mT @ step + step.mT @ weight
    assert (
        oracles.difference(measures.gram_change(weight, 1e-12 * step), 1e-12 * first_order) < 1e-9
    )
    exact = (weight + step).mT @ (weight + step) - weight.mT @ weight
    assert oracles.difference(measures.gram_change(weight, step), exact) < 1e-13


@pytest.mark.parametrize("name", ["relu", "gelu", "cnn"])
def test_theorem_1_the_error_falls_in_proportion_to_the_rate(name):
    model, _, now = look(name)
    error = measures.theorem1(now, RATES)["one_step_error"]
    slopes = error.log10().diff(dim=1) / np.log10(0.1)
    torch.testing.assert_close(slopes, torch.ones_like(slopes), atol=0.05, rtol=0)
    layer = snapshot.linear_layers(model)[1]
    for r in range(len(REPLICAS)):  # the second layer, by hand
        h, b = now.features[1][r].numpy(), now.response_gradients[1][r].numpy()
        before = layer.weight[r].detach().flatten(1).numpy()
        after = before - RATES[0] * layer.weight.grad[r].flatten(1).numpy()
        moved = h - RATES[0] * b @ before
        shift = moved.T @ moved - h.T @ h
        expected = np.linalg.norm(after.T @ after - before.T @ before - shift)
        assert error[r, 0, 1].item() == pytest.approx(expected / np.linalg.norm(shift), rel=1e-5)


def test_accumulated_shifts_of_one_step_are_those_of_the_step_and_later_ones_add_up():
    model, task, now = look("gelu")
    x, rate = task.x.expand(2, *task.x.shape), 0.1
    sums, error = measures.ShiftSums(model, rate), measures.theorem1(now, [rate])
    initial = [weight.clone() for weight in now.weights]
    total = torch.zeros(2, PIXELS, PIXELS, dtype=torch.float64)
    for step in range(3):
        model.zero_grad()
        now = snapshot.look(model, x, task.loss)
        sums.add(now)
        a = now.response_gradients[0] @ now.weights[0]
        total += virtual_covariance_shift(now.features[0], a, rate)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= rate * parameter.grad
        if step == 0:
            torch.testing.assert_close(
                sums.compare()["accumulated_error"], error["one_step_error"][:, 0]
            )
    weight = model.layers[0].weight.detach()
    change = weight.mT @ weight - initial[0].mT @ initial[0]
    compared = sums.compare()
    for r in range(2):
        moved, shift = change[r].numpy(), total[r].numpy()
        norms = np.linalg.norm(moved) * np.linalg.norm(shift)
        error = np.linalg.norm(moved - shift) / np.linalg.norm(shift)
        assert compared["accumulated_error"][r, 0].item() == pytest.approx(error, rel=1e-6)
        assert compared["accumulated_cosine"][r, 0].item() == pytest.approx(
            (moved * shift).sum() / norms
        )


@pytest.mark.parametrize(
    ("name", "lipschitz"), [("relu", 1.0), ("tanh", 1.0), ("gelu", GELU_LIPSCHITZ)]
)
def test_proposition_1_equals_steps_of_each_sample_alone(name, lipschitz):
    model, task, now = look(name)
    rate = 0.5
    shares = measures.proposition1(now, task.network.activation, lipschitz, [rate, 0.1])
    assert (shares["activation_bound_unit"] == 1).all()  # as the proposition says
    if name != "gelu":
        assert (shares["activation_signs_unit"] == 1).all()
    network = oracles.torch_layers(model, 0).double()
    layer = network[3]  # the second Linear, after Flatten, Linear, activation
    held = []
    for i in range(SAMPLES):
        h = network[:3](task.x[i : i + 1]).detach()
        before = network[4](layer(h)).detach().requires_grad_()
        outputs = network[5:](before)
        if name == "relu":
            loss = ((outputs - task.targets[i]) ** 2).sum() / 2
        else:
            loss = functional.cross_entropy(outputs, task.labels[i : i + 1])
        (a,) = torch.autograd.grad(loss, before)
        weight = layer.weight.detach().clone()
        (gradient,) = torch.autograd.grad((network[4](layer(h)) * a).sum(), layer.weight)
        with torch.no_grad():
            after = network[4](functional.linear(h, weight - rate * gradient, layer.bias))
            bound = (after - before).abs() <= lipschitz**2 * rate * a.abs() * (1 + 1e-9) + 1e-14
            held.append(bound.double().mean().item())
    assert shares["activation_bound_own"][0, 0, 1].item() == pytest.approx(np.mean(held), abs=1e-3)
    assert 0 < np.mean(held) < 1


def test_theorem_3_is_exact_to_first_order_for_a_linear_network_and_at_the_last_layer():
    for name in ("linear", "relu"):
        _, task, now = look(name)
        values = measures.theorem3(now, task.targets[:, 0], 1e-6)
        ratio = values["predicted_change"] / values["surrogate_change"]
        exact = ratio if name == "linear" else ratio[:, -1:]
        torch.testing.assert_close(exact, torch.ones_like(exact), atol=1e-4, rtol=0)
    assert ((ratio[:, 0] - 1).abs() > 0.01).all()  # of ReLU, far from the output


def test_what_a_step_changes_of_the_surrogate_is_a_difference_of_double_sums():
    _, task, now = look("relu")
    y, rate = task.targets[:, 0], 0.1
    values = measures.theorem3(now, y, rate)
    for layer, (weight, h) in enumerate(zip(now.weights, now.features, strict=True)):
        after = weight - rate * now.weight_gradients[layer]
        sizes = [(y @ (h @ w.mT)).square().sum(-1) for w in (weight, after)]
        torch.testing.assert_close(values["surrogate_change"][:, layer], sizes[1] - sizes[0])


def test_lemma_3_and_proposition_4():
    for name in ("linear", "relu", "squared_relu"):
        model, task, now = look(name)
        total = degrees(now, task.network.degree)
        error = measures.lemma3(now, total)["taylor_error"]
        assert (error[:, -1] < 1e-13).all()  # the read-out is linear
        assert ((error < 1e-13) if name == "linear" else (error[:, :-1] > 0.05)).all()
        if name != "linear":
            uncentred = measures.lemma3(now, total)["taylor_error_sum_uncentred"]
            assert (uncentred[:, :-1].abs() > 1e-3).all()
        assert (measures.proposition4(model, now, total)["taylor_error_sum"].abs() < 1e-12).all()


def test_lemma_4_one_layer_of_units_bends_where_they_change_sign():
    task = make_task("relu")
    model = build_mlp(task, 8, 1, REPLICAS)
    now = snapshot.look(model, task.x.expand(2, *task.x.shape), task.loss)
    pairs = torch.stack([torch.arange(0, 20), torch.arange(20, 40)])
    values = measures.lemma4(now, pairs)
    first, second = (now.responses[0].detach()[:, part] > 0 for part in pairs)
    changes = (first != second).sum(-1)  # (R, P)
    torch.testing.assert_close(values["crossed"][:, 0], changes.double().mean(-1))
    torch.testing.assert_close(values["crossed_most"][:, 0], changes.amax(-1).double())
    assert (values["crossed"][:, 1] == 0).all()


def test_theorem_4_at_a_linear_read_out_that_interpolates():
    """Its premises hold: f = y, the Ansatz by construction, a linear rest."""
    x = draw(SAMPLES, PIXELS)
    y = x @ draw(PIXELS, 1, seed=1)
    y, x = y - y.mean(), x - x.mean(0)
    task = Task(NETWORKS["linear"], x, torch.zeros(SAMPLES), y)
    model = build_mlp(task, 5, 1, REPLICAS[:1])
    with torch.no_grad():
        first, second = (layer.weight for layer in model.layers)
        first.copy_(draw(1, 5, PIXELS, seed=2))
        first[0, 0] = draw(PIXELS, 1, seed=1)[:, 0]
        second.copy_(torch.eye(5)[None, :1])  # the read-out takes the unit that is y
    now = snapshot.look(model, x[None], task.loss)
    torch.testing.assert_close(now.outputs[0].detach(), y)
    last = measures.theorem4(now, y[:, 0])["ansatz_ratio"][0, 1].item()
    assert last == pytest.approx(1)
    assert measures.ansatz(now)["ansatz_cosine"][0, 1].item() == pytest.approx(1)


def test_theorem_4s_floor_grows_as_the_layers_left():
    _, task, now = look("squared_relu")
    y = task.targets[:, 0]
    moments = [FeatureMoments().update(h, task.targets) for h in now.features]
    floor = measures.theorem4_floor(now, y, moments, 2, torch.zeros(2, 4))["surrogate_floor"]
    phi = torch.tensor([(2.0**left - 1) ** 2 + 1 for left in (3, 2, 1, 0)]).double()
    constant = torch.stack([norm2(z) for z in now.responses]).amin(0)
    torch.testing.assert_close(floor, constant[:, None] * y.square().sum() / phi)


def test_the_floor_of_a_piecewise_linear_network_is_below_its_surrogate_without_regions():
    _, task, now = look("relu")
    y = task.targets[:, 0]
    moments = [FeatureMoments().update(h, task.targets) for h in now.features]
    none, some = (
        measures.theorem4_floor(now, y, moments, 1, torch.full((2, 4), float(number)))
        for number in (0, 3)
    )
    constant = torch.stack([norm2(z) for z in now.responses])
    expected = constant.amin(0) * y.square().sum() ** 2 / (SAMPLES * y.abs().sum() ** 2)
    torch.testing.assert_close(none["surrogate_floor"], expected[:, None].expand(2, 4))
    assert (some["surrogate_floor"] < none["surrogate_floor"]).all()


def test_proposition_2_at_neural_collapse():
    labels = torch.arange(30) % 3
    vertices = torch.eye(3, 5).double() - torch.eye(3, 5).double().mean(0)
    weight = vertices[None]  # aligned with the class means
    values = measures.proposition2(FeatureMoments().update(vertices[labels][None], labels), weight)
    assert values["cka"].item() == pytest.approx(1)
    for name in ("nc1", "nc2_norm", "nc2_angle"):
        assert values[name].item() == pytest.approx(0, abs=1e-12)


def test_theorem_2s_bound_never_bites_and_ours_is_a_bound():
    for name in ("relu", "gelu"):
        _, task, now = look(name)
        targets = task.targets if task.network.degree else task.labels
        moments = [FeatureMoments().update(h, targets) for h in now.features]
        values = measures.linearity(moments, now.weights, (0.1, 10.0, 1000.0))
        assert values["theorem2_bound"].shape == (2, 3, 4)
        assert (values["theorem2_bound"] <= -1).all()
        assert (values["ridge_tl"] >= 0).all()
        assert (values["tl_bound"] <= values["tl_intercept"] + 1e-12).all()


def test_the_two_forms_of_whitening_agree_to_first_order():
    _, _, now = look("gelu")
    values = measures.whitening(now, now.weight_gradients, RATES)
    apart = 1 - values["whitening_cosine"]
    assert (apart[:, 0] > apart[:, 1]).all()
    slopes = apart[:, :2].log10().diff(dim=1) / math.log10(0.1)
    torch.testing.assert_close(slopes, torch.full_like(slopes, 2), atol=0.2, rtol=0)
    assert ((values["whitening_ratio"][:, -1] - 1).abs() < 1e-3).all()
    torch.testing.assert_close(values["discarded_gradient"], values["discarded_momentum"])


def test_whitening_discards_what_turns_the_weight():
    _, _, now = look("gelu")
    turns = []
    for i, weight in enumerate(now.weights):
        square = draw(2, weight.shape[1], weight.shape[1], seed=i)
        turns.append((square - square.mT) @ weight)
    discarded = measures.whitening(now, turns, RATES[:1])["discarded_momentum"]
    torch.testing.assert_close(discarded, torch.ones_like(discarded))
    grows = measures.whitening(now, now.weights, RATES[:1])["discarded_momentum"]
    assert (grows < 1e-20).all()
