"""Figures 2 and 6 against plain loops that project weights by SciPy's Procrustes solution."""

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from torch.nn import functional

import oracles
from core.gram import gram_preserving_update, newton_schulz
from experiment import whiten, whiten_cnn
from lab import cli
from lab.data import Images
from lab.errors import DataError
from lab.models import CNN, MLP
from lab.replicas import Replica, generator

RATES, SEED, EPOCHS = (0.5, 0.1), 3, 2
SIZES = {"datasets": ("digits",), "batch_size": 200, "epochs": EPOCHS, "device": "cpu"}
CONFIGS = {
    "MLP": whiten.Config(learning_rates=RATES, width=12, **SIZES),
    "CNN": whiten_cnn.Config(learning_rates=RATES, channels=4, **SIZES),
}
SCRIPTS = {"MLP": whiten, "CNN": whiten_cnn}


def project(before, after, method):
    """W₂' (m, d) of a step W₁ → W₂ by a method."""
    if method == "plain":
        return after
    if method == "biases":
        return before
    if method == "newton_schulz":
        return gram_preserving_update(before, after, newton_schulz)
    a, b = before.double().numpy(), after.double().numpy()
    rotation, _ = orthogonal_procrustes(b.T, a.T)  # the orthogonal Q with bᵀQ nearest to aᵀ
    update = rotation.T @ b
    if method == "step_matched":
        update = a + (b - a) * np.linalg.norm(update - a) / np.linalg.norm(b - a)
    if method == "complement":
        update = rotation @ a
    return torch.from_numpy(update).to(after)


def initial(kind):
    weights = [generator(SEED, "weights")]
    if kind == "MLP":
        return MLP((64, 12, 12, 10), weights)
    return CNN((1, 8, 8), 4, 10, weights)


def plainly(kind, method, rate):
    """The arrays of one replica, (epoch, …)."""
    images = cli.load_images(CONFIGS[kind], "digits")
    network = oracles.torch_layers(initial(kind), 0)
    weights = [p for p in network.parameters() if p.ndim > 1]
    momentum = CONFIGS[kind].momentum
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=momentum)
    order = generator(SEED, "order")
    x_train, x_test = images.scale(images.x_train), images.scale(images.x_test)
    rows = []
    for epoch in range(EPOCHS + 1):
        row = dict.fromkeys(("gram_change", "gram_error", "gram_kept", "step_length"), 0.0)
        if epoch > 0:
            for index in torch.randperm(len(x_train), generator=order).split(200):
                optimizer.zero_grad()
                functional.cross_entropy(network(x_train[index]), images.y_train[index]).backward()
                before = [w.detach().flatten(1).clone() for w in weights]
                optimizer.step()
                after = [w.detach().flatten(1).clone() for w in weights]
                for weight, *step in zip(weights, before, after, strict=True):
                    with torch.no_grad():
                        weight.copy_(project(*step, method).view_as(weight))
                steps = [w[1].detach().flatten(1).double() for w in (before, after, weights)]
                first, second, last = (w.mT @ w for w in steps)
                row = {
                    "gram_change": float((second - first).norm() / first.norm()),
                    "gram_error": float((last - second).norm() / second.norm()),
                    "gram_kept": float((last - first).norm() / first.norm()),
                    "step_length": float(
                        (steps[2] - steps[0]).norm() / (steps[1] - steps[0]).norm()
                    ),
                }
        row["test_accuracy"], row["test_loss"] = oracles.score(network, x_test, images.y_test)
        row["singular_values"] = np.linalg.svd(weights[1].detach().flatten(1).numpy())[1]
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize(
    ("kind", "method"),
    [*(("MLP", method) for method in whiten.METHODS), ("CNN", "exact"), ("CNN", "complement")],
)
def test_replicas_of_two_rates_equal_plain_loops(kind, method):
    replicas = [Replica(SEED, {"lr": rate}) for rate in RATES]
    arrays = SCRIPTS[kind].run(CONFIGS[kind], "digits", method, replicas)
    rounding = {
        "plain": ("gram_error",),
        "exact": ("gram_error",),
        "complement": ("gram_kept",),
        "biases": ("gram_change", "gram_error", "gram_kept", "step_length"),
    }.get(method, ())
    for r, rate in enumerate(RATES):
        expected = plainly(kind, method, rate)
        assert expected.keys() == arrays.keys()
        for name in expected.keys() - rounding:
            np.testing.assert_allclose(
                arrays[name][r], expected[name], rtol=2e-3, atol=1e-5, err_msg=name
            )
        assert (expected["gram_change"][1:] > 1e-3).all()
        for name in rounding:  # what the method leaves as it is
            assert arrays[name][r].max() <= (1e-5 if method in ("exact", "complement") else 0)
        if method == "step_matched":
            assert (arrays["step_length"][r][1:] < 0.999).all()


def test_some_methods_have_rates_of_their_own():
    own = {"newton_schulz": (0.01,), "complement": (0.4, 0.5), "biases": (0.4, 0.5)}
    config = whiten.Config(
        learning_rates=(0.1, 0.2), complement_rates=own["complement"], seeds=(0, 5)
    )
    images = cli.load_images(config, "digits")
    for method in whiten.METHODS:
        rates = own.get(method, (0.1, 0.2))
        planned = whiten.plan(config, "whiten", images, method)
        names = [f"digits-{method}-lr{rate}" for rate in rates]
        assert [result.name for result in planned] == names
        for result, rate in zip(planned, rates, strict=True):
            assert result.settings["method"] == method
            assert result.settings["learning_rate"] == rate
            assert result.replicas == (Replica(0, {"lr": rate}), Replica(5, {"lr": rate}))


@pytest.mark.parametrize("shape", [(6,), (1, 3, 8)], ids=["rows of features", "3 pixels high"])
def test_the_cnn_takes_only_images_that_it_can_pool_twice(shape):
    x, y = torch.zeros(4, *shape, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    with pytest.raises(DataError, match="tiny: a CNN needs images"):
        whiten_cnn.check_shape(Images("tiny", x, y, x, y))
