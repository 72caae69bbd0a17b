"""Measures of the statements against plain torch, loops, and what the statements predict."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional

import oracles
from cases import draw
from core.bounds import GELU_LIPSCHITZ
from core.moments import FeatureMoments
from core.virtual import virtual_covariance_shift
from experiment import _statement_homogeneous as homogeneous
from experiment import _statement_measures as measures
from experiment._statement_networks import NETWORKS, Task, build_cnn, build_mlp
from lab import snapshot
from lab.replicas import Replica, generators

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
    return Task(kind, x, labels, targets if kind.binary else targets - targets.mean(0))


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
    assert (shares["activation_share"] <= shares["activation_most"]).all()
    assert (shares["activation_most"] <= 1 + 1e-3).all()
    network = oracles.torch_layers(model, 0).double()
    layer = network[3]  # the second Linear, after Flatten, Linear, activation
    held, reached = [], []
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
            # of a step of length γ ‖h‖², as the bound is linear in it where nothing bends
            unit = functional.linear(h, weight - rate / h.square().sum() * gradient, layer.bias)
            limit = lipschitz**2 * rate * a.abs()
            reached.append(((network[4](unit) - before).abs() / limit).mean().item())
    assert shares["activation_share"][0, 0, 1].item() == pytest.approx(np.mean(reached), rel=1e-3)
    assert shares["activation_bound_own"][0, 0, 1].item() == pytest.approx(np.mean(held), abs=1e-3)
    assert 0 < np.mean(held) < 1


def test_theorem_3_is_exact_to_first_order_for_a_linear_network_and_at_the_last_layer():
    for name in ("linear", "relu"):
        _, task, now = look(name)
        values = homogeneous.theorem3(now, task.targets[:, 0], 1e-6)
        ratio = values["predicted_change"] / values["surrogate_change"]
        exact = ratio if name == "linear" else ratio[:, -1:]
        torch.testing.assert_close(exact, torch.ones_like(exact), atol=1e-4, rtol=0)
    assert ((ratio[:, 0] - 1).abs() > 0.01).all()  # of ReLU, far from the output


def test_what_a_step_changes_of_the_surrogate_is_a_difference_of_double_sums():
    _, task, now = look("relu")
    y, rate = task.targets[:, 0], 0.1
    values = homogeneous.theorem3(now, y, rate)
    for layer, (weight, h) in enumerate(zip(now.weights, now.features, strict=True)):
        after = weight - rate * now.weight_gradients[layer]
        sizes = [(y @ (h @ w.mT)).square().sum(-1) for w in (weight, after)]
        torch.testing.assert_close(values["surrogate_change"][:, layer], sizes[1] - sizes[0])


def test_lemma_3_by_pairs_and_summed():
    for name in ("linear", "relu", "squared_relu"):
        _, task, now = look(name)
        total = degrees(now, task.network.degree)
        values = homogeneous.lemma3(now, task.targets[:, 0], total)
        assert (values["euler_error"] < 1e-12).all()
        for error in (values[f"taylor_error{kind}"] for kind in ("", "_terms", "_sum")):
            assert (error[:, -1] < 1e-12).all()  # the read-out is linear
            assert ((error < 1e-12) if name == "linear" else (error[:, :-1] > 0.05)).all()
        wrong = homogeneous.lemma3(now, task.targets[:, 0], [m + 1 for m in total])
        assert (wrong["euler_error"] > 0.1).all()


def test_proposition_4_is_zero_for_homogeneous_networks_whose_outputs_have_no_sum_alone():
    for name in ("relu", "squared_relu", "tanh"):
        model, _, now = look(name)
        with torch.no_grad():
            for layer in model.layers:  # biases that move the units
                layer.bias += 0.5 * (name == "tanh")
        values = homogeneous.proposition4(model, now)
        assert values["expansion_sum"].shape == (2, 3)
        is_zero = values["expansion_sum"].abs() < 1e-12
        assert is_zero.all() if name != "tanh" else not is_zero.any(), name
        assert (values["expansion_sum_not_centred"].abs() > 1e-4).all()


def test_signs_are_those_of_the_plain_products():
    for name in ("relu", "relu_binary"):
        _, task, now = look(name)
        y = task.targets[:, 0]
        values = homogeneous.signs(now, y)
        for r in range(2):
            f = now.outputs[r, :, 0].detach()
            g = (y - f) if name == "relu" else (y - torch.sigmoid(f))  # of the sum, not the mean
            cosine = (f @ y) / f.norm() / y.norm()
            assert values["output_cosine"][r].item() == pytest.approx(cosine.item())
            assert values["output_product"][r].item() == pytest.approx((f @ y / (y @ y)).item())
            for layer, h in enumerate(now.features):
                kernel = h[r] @ h[r].mT
                size = (y @ kernel @ y).sqrt() * (g @ kernel @ g).sqrt()
                expected = (y @ kernel @ g / size).item()
                assert values["descent_cosine"][r, layer].item() == pytest.approx(expected)
                pairs = [(i, k) for i in range(SAMPLES) for k in range(SAMPLES) if i != k]
                within = [kernel[i, k].item() for i, k in pairs if y[i] == y[k]]
                across = [kernel[i, k].item() for i, k in pairs if y[i] != y[k]]
                nearer = (np.mean(within) - np.mean(across)) / kernel.diagonal().mean().item()
                assert values["nearer"][r, layer].item() == pytest.approx(nearer)


def test_lemma_4_one_layer_of_units_bends_where_they_change_sign():
    task = make_task("relu")
    model = build_mlp(task, 8, 1, REPLICAS)
    now = snapshot.look(model, task.x.expand(2, *task.x.shape), task.loss)
    pairs = torch.stack([torch.arange(0, 20), torch.arange(20, 40)])
    values = homogeneous.lemma4(now, pairs)
    first, second = (now.responses[0].detach()[:, part] > 0 for part in pairs)
    changes = (first != second).sum(-1)  # (R, P)
    torch.testing.assert_close(values["crossed"][:, 0], changes.double().mean(-1))
    torch.testing.assert_close(values["crossed_most"][:, 0], changes.amax(-1).double())
    size = task.x.norm(dim=-1).max().expand(2)
    torch.testing.assert_close(values["input_norm"][:, 0], size)
    # one unit flips at a time: δ is its read-out times its weight
    jumps = (now.weights[1][:, 0] * now.weights[0].norm(dim=-1)).abs()  # (R, 8)
    flipped = (first != second).any(1)
    expected = torch.where(flipped, jumps, 0.0).amax(-1)
    torch.testing.assert_close(values["gradient_jump"][:, 0], expected)
    f = now.outputs[..., 0].detach()
    slope = now.slopes[0][:, pairs[0]]
    error = ((task.x[pairs[1]] * slope).sum(-1) - f[:, pairs[1]]).abs()
    bound = 2 * changes * (size * expected)[:, None]
    share = (error / bound)[changes > 0]
    assert values["lemma4_most"][:, 0].max().item() == pytest.approx(share.max().item())
    assert (values["lemma4_held"] == 1).all()
    assert (values["lemma4_most"] <= 0.5).all()
    scale = (f[:, pairs[0]] - f[:, pairs[1]]).square().mean(-1).sqrt()
    middle = bound.sort(-1).values[:, 9] / scale
    torch.testing.assert_close(values["lemma4_bound"][:, 0], middle)
    assert (values["crossed"][:, 1] == 0).all()
    assert (values["lemma4_error"][:, 1] < 1e-12).all()


def test_lemma_4_is_not_held_by_a_network_with_biases():
    task = make_task("relu")
    model = build_mlp(task, 8, 2, REPLICAS)
    with torch.no_grad():
        for layer in model.layers:
            layer.bias += 100.0  # which moves every unit's boundary away: no jump, and an error
    now = snapshot.look(model, task.x.expand(2, *task.x.shape), task.loss)
    pairs = torch.stack([torch.arange(0, 20), torch.arange(20, 40)])
    assert (homogeneous.lemma4(now, pairs)["lemma4_held"][:, 0] == 0).all()


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
    last = homogeneous.theorem4(now, y[:, 0])["ansatz_ratio"][0, 1].item()
    assert last == pytest.approx(1)
    assert measures.ansatz(now)["ansatz_cosine"][0, 1].item() == pytest.approx(1)


def layer_moments(now, task):
    return [FeatureMoments().update(h, task.targets) for h in now.features]


def test_theorem_4s_floor_grows_as_the_layers_left():
    _, task, now = look("squared_relu")
    y = task.targets[:, 0]
    values = homogeneous.theorem4_floor(now, y, layer_moments(now, task), 2, {})
    phi = torch.tensor([(2.0**left - 1) ** 2 + 1 for left in (3, 2, 1, 0)]).double()
    norms = torch.stack([norm2(z) for z in now.responses], -1)
    torch.testing.assert_close(values["response_norm2"], norms)
    expected = norms.amin(-1)[:, None] * y.square().sum() / phi
    torch.testing.assert_close(values["surrogate_floor"], expected)


def test_the_floor_of_a_piecewise_linear_network_has_one_b_and_one_delta_for_all_layers():
    _, task, now = look("relu")
    y, moments = task.targets[:, 0], layer_moments(now, task)
    zeros = torch.zeros(2, 4, dtype=torch.float64)
    lemma = {"crossed_most": zeros, "input_norm": zeros + 1, "gradient_jump": zeros + 1}
    none = homogeneous.theorem4_floor(now, y, moments, 1, lemma)
    constant = torch.stack([norm2(z) for z in now.responses]).amin(0)[:, None].expand(2, 4)
    printed = constant * y.square().sum() ** 2 / (SAMPLES * y.abs().sum() ** 2)
    torch.testing.assert_close(none["surrogate_floor"], printed)
    torch.testing.assert_close(none["surrogate_floor_sharper"], constant * y.square().sum())
    lemma["crossed_most"] = torch.tensor([3.0, 2.0, 1.0, 0.0]).double().expand(2, 4)
    lemma["input_norm"] = torch.tensor([1.0, 5.0, 2.0, 3.0]).double().expand(2, 4)
    lemma["gradient_jump"] = torch.tensor([0.1, 0.2, 0.7, 0.0]).double().expand(2, 4)
    some = homogeneous.theorem4_floor(now, y, moments, 1, lemma)
    for layer, crossed in enumerate((3, 2, 1, 0)):
        psi = SAMPLES * (y.abs().sum() + 2 * SAMPLES * crossed * 5.0 * 0.7) ** 2
        expected = constant[:, layer] * y.square().sum() ** 2 / psi
        torch.testing.assert_close(some["surrogate_floor"][:, layer], expected)
    assert (some["surrogate_floor"].diff(dim=-1) > 0).all()
    assert (some["surrogate_floor"] < some["surrogate_floor_sharper"]).all()


def test_proposition_2_at_neural_collapse_and_before():
    labels = torch.arange(30) % 3
    vertices = torch.eye(3, 5).double() - torch.eye(3, 5).double().mean(0)
    for noise, collapsed in ((0.0, True), (1.0, False)):
        features = (vertices[labels] + noise * draw(30, 5))[None]
        values = measures.proposition2(FeatureMoments().update(features, labels))
        for name in ("nc1", "nc2_norm", "nc2_angle"):
            assert (values[name].abs().item() < 1e-12) == collapsed


def test_proposition_2_by_hand_is_exact_at_collapse_with_the_least_squares_weight_alone():
    labels = torch.arange(SAMPLES).clamp(max=30) % 3
    values = measures.collapsed_by_hand(labels, 8, generators(REPLICAS, "measurement"))
    cka, error = (values[name].double() for name in ("hand_cka", "hand_gram_error"))
    assert cka.shape == error.shape == (2, 4) == (2, len(measures.CASES))
    torch.testing.assert_close(cka[:, :2], torch.ones(2, 2).double())
    assert (error[:, :2] < 1e-12).all()
    assert (cka[:, 2:] < 0.95).all()  # another weight, or noise within classes
    assert (error[:, 2:] > 0.1).all()
    torch.testing.assert_close(error.square(), 2 - 2 * cka, atol=1e-12, rtol=1e-9)


def test_theorem_2_and_its_lemmas_by_layer():
    for name in ("relu", "gelu"):
        _, task, now = look(name)
        values = measures.linearity(layer_moments(now, task), now.weights, (0.1, 10.0, 1000.0))
        for array in ("theorem2_bound", "theorem2_refined", "ridge_tl", "lemma2_left"):
            assert values[array].shape == (2, 3, 4)
        assert (values["theorem2_bound"] <= -1).all()
        assert (values["theorem2_bound"] < values["theorem2_refined"]).all()
        assert (values["theorem2_refined"] <= values["ridge_tl"]).all()
        assert (values["ridge_tl"] >= 0).all()
        bounds = [values[f"tl_bound{kind}"] for kind in ("", "_line", "_columns")]
        bounds.append(values["tl_intercept"])
        for smaller, larger in pairwise(bounds):
            assert (smaller <= larger + 1e-9).all()
        torch.testing.assert_close(values["lemma2_left"], 1 - values["ridge_tl"])
        assert (values["lemma2_left"] <= values["lemma2_refined"] + 1e-9).all()
        y = task.targets
        for layer, (h, w) in enumerate(zip(now.features, now.weights, strict=True)):
            after, before = norm2((h @ w.mT).mT @ y), norm2(h.mT @ y)
            operator = torch.linalg.matrix_norm(w, 2).square()
            torch.testing.assert_close(values["lemma1_ratio"][:, layer], after / operator / before)
            z = h @ w.mT - (h @ w.mT).mean(1, keepdim=True)
            product = (z @ z.mT * (y @ y.mT)).sum((1, 2))
            size = torch.linalg.matrix_norm(z @ z.mT) * torch.linalg.matrix_norm(y @ y.mT)
            torch.testing.assert_close(values["cka"][:, layer], product / size)


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
