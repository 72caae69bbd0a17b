"""Statements along training: against plain loops, and which network has which array."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import oracles
from experiment import statements
from experiment._statement_networks import NETWORKS, make_task
from experiment.statements import AXES, Config
from lab import cli
from lab.errors import DataError
from lab.replicas import Replica

SEEDS = (0, 1)
SMALL = {"samples": 60, "cnn_samples": 20, "width": 8, "depth": 2, "channels": 3, "pairs": 20}
SMALL |= {"epochs": 5, "steps": 4, "seeds": SEEDS, "device": "cpu"}
REPLICAS = [Replica(seed) for seed in SEEDS]
HOMOGENEOUS = {"relu", "squared_relu", "linear"}


@pytest.fixture(scope="module")
def arrays():
    """network -> name -> (R, …)."""
    config = Config(**SMALL)
    return {name: statements.run(config, "digits", name, REPLICAS) for name in NETWORKS}


def test_measured_at_powers_of_the_root_of_ten_and_the_last():
    assert statements.measured(2000) == [0, 1, 3, 10, 32, 100, 316, 1000, 2000]
    assert statements.measured(100) == [0, 1, 3, 10, 32, 100]
    assert statements.measured(2) == [0, 1, 2]
    assert statements.measured(1) == [0, 1]


@pytest.mark.parametrize(
    "name",
    ["relu", "relu_binary", "linear", "gelu", "gelu_squared_loss", "gelu_decay", "tanh", "cnn"],
)
def test_training_equals_a_plain_loop(arrays, name):
    config = Config(**SMALL)
    task = make_task(NETWORKS[name], cli.load_images(config, "digits"), config.number(name))
    for r, replica in enumerate(REPLICAS):
        model = statements.build(config, task, [replica])
        if name == "linear":
            model.activation = functional.gelu  # replaced below: the oracle has no identity
        network = oracles.torch_layers(model, 0).double()
        if name == "linear":
            network = torch.nn.Sequential(*(p for p in network if not isinstance(p, torch.nn.GELU)))
        trained = [
            p for n, p in network.named_parameters() if "weight" in n or not task.network.degree
        ]
        buffers = [torch.zeros_like(p) for p in trained]
        losses = []
        for _ in range(config.epochs + 1):
            outputs = network(task.x)
            if name in ("gelu", "tanh", "cnn"):
                loss = functional.cross_entropy(outputs, task.labels)
            elif name == "relu_binary":
                odd = (task.labels[:, None] % 2).double()
                loss = functional.binary_cross_entropy(outputs.sigmoid(), odd)
            else:
                loss = ((outputs - task.targets) ** 2).sum() / len(task.x) / 2
            losses.append(loss.item())
            for p, buffer, g in zip(
                trained, buffers, torch.autograd.grad(loss, trained), strict=True
            ):
                buffer.mul_(config.momentum).add_(g + task.network.decay * p.data)
                p.data -= config.rate(name) * buffer
        at = statements.measured(config.epochs)
        np.testing.assert_allclose(arrays[name]["loss"][r], [losses[i] for i in at], rtol=1e-9)


@pytest.mark.parametrize(("name", "degree"), [("relu", 1), ("squared_relu", 2), ("linear", 1)])
def test_a_homogeneous_network_is_one_and_its_targets_are_centred(name, degree):
    config = Config(**SMALL | {"depth": 3})
    task = make_task(NETWORKS[name], cli.load_images(config, "digits"), 50)
    model = statements.build(config, task, REPLICAS)
    x = task.x[None].expand(2, *task.x.shape)
    total = degree ** (len(model.layers) - 1)
    with torch.no_grad():
        torch.testing.assert_close(model(1.5 * x), 1.5**total * model(x))
    assert task.targets.mean().item() == pytest.approx(0, abs=1e-15)
    signs = torch.where(task.labels % 2 == 1, 1.0, -1.0)
    assert (task.targets[:, 0] * signs > 0).all()


def test_a_balanced_task_has_as_many_samples_of_each_class():
    images = cli.load_images(Config(**SMALL), "digits")
    labels = make_task(NETWORKS["gelu_decay"], images, 500).labels
    counts = labels.bincount()
    assert (counts == counts[0]).all()
    drawn = make_task(NETWORKS["gelu"], images, 500).labels.bincount()
    assert counts[0] == drawn.min() < drawn.max()


def test_each_network_has_the_arrays_of_the_statements_that_are_about_it(arrays):
    classes = {"gelu", "gelu_squared_loss", "gelu_decay", "tanh"}
    mlps = classes | HOMOGENEOUS
    networks = {  # beginning of an array's name -> the networks that have it
        "activation_": {"relu", "gelu", "tanh"},
        **{key: {"relu"} for key in ("crossed", "lemma4_", "input_norm", "gradient_jump")},
        **dict.fromkeys(("nc1", "nc2", "hand_"), classes),
        "expansion_": {"relu", "squared_relu", "tanh"},
        "surrogate_floor_sharper": {"relu"},
        **{key: {"relu", "squared_relu"} for key in ("surrogate_floor", "response_norm2")},
        **{key: {*HOMOGENEOUS, "relu_binary"} for key in ("output_", "descent_", "nearer")},
        **dict.fromkeys(
            ("taylor", "euler", "surrogate_", "predicted", "ansatz_ratio"), HOMOGENEOUS
        ),
        **dict.fromkeys(
            ("theorem2", "ridge_tl", "tl_", "surrogate", "ansatz_cosine", "cka", "lemma"), mlps
        ),
    }
    for array, axes in AXES.items():
        if axes != (array,):
            named = (value for start, value in networks.items() if array.startswith(start))
            expected = next(named, set(NETWORKS))
            assert {name for name in NETWORKS if array in arrays[name]} == expected, array


def test_what_the_statements_predict_holds_along_training(arrays):
    config = Config(**SMALL)
    for name in NETWORKS:
        values = arrays[name]
        errors = np.log10(values["one_step_error"][:, :, -2:])  # the two smallest rates
        slopes = np.diff(errors, axis=2) / np.diff(np.log10(config.rates[-2:]))
        np.testing.assert_allclose(slopes, 1, atol=0.01, err_msg=name)  # Theorem 1
        if name not in ("cnn", "relu_binary"):
            assert (values["theorem2_bound"] <= -1).all()
            assert (values["theorem2_refined"] <= values["ridge_tl"]).all()
            assert (values["tl_bound"] <= values["tl_intercept"] + 1e-9).all()
            assert (values["cka"] <= 1).all()  # Lemma 5
            assert (values["lemma1_ratio"] <= 1).all()
            np.testing.assert_allclose(values["ansatz_cosine"][..., -1], 1)
        if name in HOMOGENEOUS:
            last = values["predicted_change"][..., -1] / values["surrogate_change"][..., -1]
            np.testing.assert_allclose(last, 1, atol=1e-3)  # Theorem 3
            assert (values["euler_error"] < 1e-10).all()
    for name, is_zero in (("relu", True), ("squared_relu", True), ("tanh", False)):
        total = np.abs(arrays[name]["expansion_sum"])  # Proposition 4
        assert (total < 1e-10).all() == is_zero == (not (total > 1e-3).any())
    linear = arrays["linear"]
    exact = linear["predicted_change"] / linear["surrogate_change"]
    np.testing.assert_allclose(exact, 1, atol=1e-3)
    assert (linear["taylor_error"] < 1e-12).all()  # Lemma 3
    assert (linear["taylor_error_sum"] < 1e-10).all()
    assert (arrays["relu"]["lemma4_held"] == 1).all()
    for name in ("relu", "tanh"):
        assert (arrays[name]["activation_bound_unit"] == 1).all()  # Proposition 1
        assert (arrays[name]["activation_signs_unit"] == 1).all()


def test_the_optimizers_start_alike_but_for_adam(arrays):
    for name in NETWORKS:
        error = arrays[name]["accumulated_error"]  # (R, optimizer, step, layer)
        plain, momentum, adam = (error[:, i, 0] for i in range(3))
        np.testing.assert_array_equal(plain, momentum)
        assert (adam > 2 * plain).all()
        near = 0.99 if Config(**SMALL).rate(name) <= 0.1 else 0.8  # plain, to first order
        assert (arrays[name]["accumulated_cosine"][:, 0] > near).all()


def test_data_that_a_network_cannot_be_measured_on_are_refused(tmp_path):
    rng = np.random.default_rng(0)

    def images(file, shape, y):
        x = {f"x_{part}": rng.integers(0, 256, shape, dtype=np.uint8) for part in ("train", "test")}
        np.savez(tmp_path / file, **x, y_train=y, y_test=np.arange(len(y)) % 3)
        return cli.load_images(Config(device="cpu"), str(tmp_path / file))

    even, odd_and_even = np.arange(9) % 2 * 2, np.arange(9) % 3
    small, flat = images("even.npz", (9, 4, 4), even), images("flat.npz", (9, 5), odd_and_even)
    for data, network, message in (
        (small, "relu", "even: .* all of odd, or all of even classes; leave relu out"),
        (small, "gelu", "even: a class is not among the 1000 samples .*; leave gelu out"),
        (flat, "cnn", "flat: a CNN needs images of 4×4 pixels"),
    ):
        with pytest.raises(DataError, match=message):
            statements.check_images(Config(networks=(network,), device="cpu"), data)
    statements.check_images(Config(networks=("cnn",), device="cpu"), small)
    statements.check_images(Config(networks=("relu", "gelu"), device="cpu"), flat)
