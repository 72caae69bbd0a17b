"""The interface of networks: every architecture, modules of one's own, and what is refused.

`test_is_a_network_as_the_interface_has_it` is the interface in full: what it says where it fails is
what a network lacks.
"""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

import oracles
from lab import architectures, hidden, training
from lab.data import Images
from lab.errors import ConfigError
from lab.models import MLP
from lab.networks import Stacked
from lab.replicas import Replica, generators, make_optimizer

SHAPE, CLASSES, SAMPLES = (2, 12, 8), 3, 7
REPLICAS = (Replica(0, {"lr": 0.1}), Replica(5, {"lr": 0.05}), Replica(1, {"lr": 0.1}))


class Normed(nn.Module):
    """A module of one's own: running means, and a layer that is read by two."""

    hidden = ("join", "readout")

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.join, self.readout = nn.Identity(), nn.Linear(4, CLASSES)

    def forward(self, x):
        h = self.join(self.norm(self.convolution(x))).relu_()  # in place
        return self.readout((h + h.tanh()).mean((2, 3)))


BUILDS = {
    name: functools.partial(builder, SHAPE, CLASSES, 8, 2)
    for name, builder in architectures.BUILDERS.items()
} | {"my own": Normed}


def build(name, replicas=REPLICAS):
    draws = generators(replicas, "weights")
    if name == "mlp":
        return MLP((192, 6, 5, CLASSES), draws)
    return Stacked(BUILDS[name], draws, SHAPE, CLASSES, name)


def alone(name, replica):
    """The module of one replica in plain torch."""
    torch.manual_seed(generators([replica], "weights")[0].initial_seed())
    return BUILDS[name]()


def draw(*leading, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return torch.randn(*leading, *SHAPE, generator=g, dtype=dtype)


def random_images():
    g = torch.Generator().manual_seed(1)
    x = [torch.randint(256, (n, *SHAPE), dtype=torch.uint8, generator=g) for n in (40, 30)]
    y = [torch.randint(CLASSES, (len(part),), generator=g) for part in x]
    return Images("random", x[0], y[0], x[1], y[1])


each = pytest.mark.parametrize("name", [*BUILDS, "mlp"])
each_module = pytest.mark.parametrize("name", BUILDS)


@each
def test_is_a_network_as_the_interface_has_it(name):
    network, replicas, x = build(name).eval(), len(REPLICAS), draw(len(REPLICAS), SAMPLES)
    for key, values in network.named_parameters():
        assert len(values) == replicas, f"{key} needs a leading replica axis"
    logits = network(x)
    assert logits.shape == (replicas, SAMPLES, CLASSES), "logits must be (R, N, classes)"
    features, same = network.with_hidden(x)
    assert torch.equal(same, logits), "with_hidden must give the logits of forward"
    assert len(network.readers) == len(features) + 1, "readers: of the images and each hidden layer"
    assert network.readers[0] is not None, "a weight must read the images"
    readings, same = network.products(x)
    torch.testing.assert_close(same, logits, msg="products must give the logits of forward")
    readable = [weight for weight in network.readers if weight is not None]
    assert len(readable) == len(readings) > 1, "products: one for each reader that is not None"
    for h in features:
        assert h.shape[:2] == (replicas, SAMPLES), "features must be (R, N, d)"
        assert h.ndim == 3, "features must be (R, N, d): average over positions"
    for weight, reading in zip(readable, readings, strict=True):
        assert torch.equal(weight, reading.weight)
        assert reading.features.shape[-1] == weight.shape[-1], "a reader must be W (R, m, d)"
    for weight, h in zip(network.readers[1:], features, strict=True):
        assert weight is None or weight.shape[-1] == h.shape[-1], "a reader must be W (R, m, d)"
    for r in range(replicas):
        gradients = torch.autograd.grad(
            network(x)[r].sum(), list(network.parameters()), allow_unused=True
        )
        for (key, _), gradient in zip(network.named_parameters(), gradients, strict=True):
            others = [row for i, row in enumerate(gradient) if i != r]
            assert not torch.stack(others).any(), f"replica {r} uses another's row of {key}"


@each
def test_what_a_weight_makes_of_its_inputs_is_what_it_makes_of_the_hidden_features(name):
    """Z = HWᵀ + b, averaged over positions, which is linear, so its order does not matter."""
    network, x = build(name).double().eval(), draw(len(REPLICAS), SAMPLES, dtype=torch.float64)
    features, _ = network.with_hidden(x)
    readings = iter(network.products(x)[0][1:])
    for weight, h in zip(network.readers[1:], features, strict=True):
        if weight is None:
            continue
        reading = next(readings)
        rows = reading.rows(reading.outputs).unflatten(1, (SAMPLES, -1)).mean(2)
        z = h @ weight.mT
        # what is left is the bias, the same for every sample
        assert (rows - z).std(1).max() < 1e-12
        inputs = reading.features.unflatten(1, (SAMPLES, -1)).mean(2)
        torch.testing.assert_close(inputs, h, rtol=0, atol=1e-12)


@each
def test_gradients_of_inputs_fulfil_the_feature_learning_equation(name):
    """Wᵀ ∂L/∂W = AᵀH, with torch's own gradient of the weight."""
    network, x = build(name).double(), draw(len(REPLICAS), SAMPLES, dtype=torch.float64)
    y = torch.arange(SAMPLES).expand(len(REPLICAS), -1) % CLASSES
    readings, logits = network.products(x)
    for reading in readings:
        reading.keep_gradients()
    training.cross_entropy(logits, y).backward()
    gradients = {p.data_ptr(): p.grad.flatten(2) for p in network.parameters() if p.ndim > 2}
    for reading in readings:
        left = reading.weight.mT @ gradients[reading.weight.data_ptr()]
        right = reading.gradient().mT @ reading.features
        assert left.norm() > 0
        assert oracles.difference(left, right) < 1e-12


@each_module
def test_a_replica_is_trained_as_its_module_alone_in_plain_torch(name):
    network, images = build(name), random_images()
    optimizer = make_optimizer(torch.optim.SGD, network, REPLICAS, momentum=0.9)
    for x, y in training.shuffled_batches(images, 16, generators(REPLICAS, "order")):
        training.cross_entropy(network(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    scores = training.evaluate(network, images, "test")
    ((moments, _),) = hidden.one_pass(network, images, "test")
    for r, replica in enumerate(REPLICAS):
        module = alone(name, replica)
        plain = torch.optim.SGD(module.parameters(), momentum=0.9, **replica.options)
        for index in torch.randperm(40, generator=generators([replica], "order")[0]).split(16):
            plain.zero_grad()
            x, y = images.scale(images.x_train[index]), images.y_train[index]
            functional.cross_entropy(module(x), y).backward()
            plain.step()
        for key, values in zip(network.names, network.values, strict=True):
            torch.testing.assert_close(values[r], module.get_parameter(key), rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            logits = module.eval()(images.scale(images.x_test))
        loss = functional.cross_entropy(logits, images.y_test)
        assert scores["test_loss"][r] == pytest.approx(float(loss), rel=1e-4)
    assert all(sums.batch_shape == (len(REPLICAS),) for sums in moments)


def test_running_means_are_those_of_training_and_measuring_leaves_them():
    network, images = build("my own"), random_images()
    network(draw(len(REPLICAS), SAMPLES))
    trained = [values.clone() for values in network.buffers()]
    for r, replica in enumerate(REPLICAS):
        module = alone("my own", replica)
        module(draw(len(REPLICAS), SAMPLES)[r])
        for values, expected in zip(trained, module.buffers(), strict=True):
            torch.testing.assert_close(values[r], expected)
    training.evaluate(network, images, "test")
    hidden.one_pass(network, images, "train")
    assert all(torch.equal(a, b) for a, b in zip(trained, network.buffers(), strict=True))
    assert network.module.training


def test_measures_of_responses_are_nan_where_no_weight_alone_reads():
    network = build("resnet")
    ((moments, _),) = hidden.one_pass(network, random_images(), "train")
    for values in hidden.responses(moments, network.readers[1:]).values():
        assert values.isnan().tolist() == [[True, True, False]] * len(REPLICAS)
    assert hidden.linearity(moments)["tl"].isfinite().all()


def test_features_are_those_before_what_follows_changes_them_in_place():
    network, x = build("my own").eval(), draw(len(REPLICAS), SAMPLES)
    (h, _), _ = network.with_hidden(x)
    for r, replica in enumerate(REPLICAS):
        module = alone("my own", replica).eval()
        expected = module.norm(module.convolution(x[r])).mean((2, 3))
        torch.testing.assert_close(h[r], expected)


def test_what_is_read_of_a_convolution_are_its_patches():
    network = build("cnn")
    assert network.row == (2, 3, 3)
    x = draw(len(REPLICAS), SAMPLES)
    for r in range(len(REPLICAS)):
        patches = functional.unfold(x[r], 3, padding=1)  # (N, d, positions)
        first = network.products(x)[0][0]
        assert torch.equal(first.features[r], patches.mT.flatten(0, 1))


class Bad(nn.Module):
    """A network that would do, changed by what the tests plant."""

    def __init__(self, hidden=("0", "1"), parts=(), call=lambda layers, x: layers(x)) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Linear(4, CLASSES), *parts)
        self.hidden, self.call = hidden, call

    def forward(self, x):
        return self.call(self.layers, x)


def twice(layers, x):
    layers[2](layers[:2](x))
    return layers(x)


def sideways(layers, x):
    """The last part is given features before samples."""
    return layers[2](layers[3](layers[:2](x).T).T)


def shared() -> nn.Module:
    module = Bad(("layers.2",))
    module.layers[2] = nn.utils.parametrizations.weight_norm(module.layers[2])
    return module


REFUSED = {
    "a tuple `hidden`": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)),
    "each once": lambda: Bad(("layers.2", "layers.2")),
    "'conv1', which is no part": lambda: Bad(("conv1",)),
    "must name a Linear or Conv2d": lambda: Bad(("layers.0",)),
    "does not take images (3, 2, 12, 8)": lambda: Bad(("layers.2",), (nn.Linear(9, 3),)),
    "outputs must be (3, 3), samples by classes, not (3, 4)": lambda: Bad(
        ("layers.2",), (nn.Linear(3, 4),)
    ),
    "not (3, 12, 2)": lambda: Bad(("layers.2",), call=lambda _, x: x.flatten(2).mT[:, :12]),
    "draws random numbers": lambda: Bad(("layers.2",), (nn.Dropout(0.5),)),
    "layers.2 must be called once for a batch, not 2 times": lambda: Bad(("layers.2",), call=twice),
    "in the order of the call: layers.1, layers.2": lambda: Bad(("layers.2", "layers.1")),
    "layers.3 must have features with the samples first": lambda: Bad(
        ("layers.3", "layers.2"), (nn.Identity(),), call=sideways
    ),
    "neither shared nor parametrised": shared,
    "it makes a int": lambda: 3,
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_module_that_is_not_as_the_interface_has_it_is_one_line(reason):
    with pytest.raises(ConfigError) as caught:
        Stacked(REFUSED[reason], generators(REPLICAS, "weights"), SHAPE, CLASSES, "mine")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("architecture mine: ")


def test_a_module_that_would_do_is_taken():
    Stacked(lambda: Bad(("layers.1", "layers.2")), generators(REPLICAS, "weights"), SHAPE, 3, "")
