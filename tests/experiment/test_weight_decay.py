"""Training under weight decay: a plain loop with the penalty in its loss; what theory predicts."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import oracles
from core.linearity import target_linearity
from experiment import weight_decay
from experiment.weight_decay import Config
from lab import cli
from lab.errors import ConfigError
from lab.models import MLP
from lab.replicas import Replica, generator

SMALL = {"datasets": ("digits",), "samples": 60, "width": 8, "seeds": (0, 1), "device": "cpu"}


def run(config, loss, arms=None):
    """name -> (arm, seed, …)."""
    arms = range(len(config.arms)) if arms is None else arms
    replicas = [Replica(s, settings={"arm": arm}) for arm in arms for s in config.seeds]
    arrays = weight_decay.run(config, "digits", loss, replicas)
    grid = len(arms), len(config.seeds)
    return {name: values.reshape(*grid, *values.shape[1:]) for name, values in arrays.items()}


def cosine(a, b):
    return (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)


def by_hand(config, loss_name, name, decay, seed):
    """Measures by layer after training with the penalty in the loss, AdamW's apart from it."""
    images = cli.load_images(config, "digits")
    order = torch.randperm(len(images.x_train), generator=generator(0, "measurement"))
    chosen = order[: config.samples]
    x = images.scale(images.x_train[chosen], torch.float64).flatten(1)
    y = images.y_train[chosen]
    target = functional.one_hot(y, 10).double()
    target -= target.mean(0)

    def loss(outputs):
        if loss_name == "cross_entropy":
            return functional.cross_entropy(outputs, y)
        return (outputs - target).square().sum() / len(x) / 2

    widths = (64, *[config.width] * config.depth, 10)
    model = MLP(widths, [generator(seed, "weights")])
    network = oracles.torch_layers(model, 0)[1:].double()  # without nn.Flatten
    parameters = list(network.parameters())
    if name == "sgd":
        steps = torch.optim.SGD(parameters, config.learning_rate, config.momentum)
    else:
        steps = torch.optim.Adam(parameters, config.adam_rate)
    for _ in range(config.epochs):
        steps.zero_grad()
        coupled = 0 if name == "adamw" else decay
        penalty = sum(p.square().sum() for p in parameters)
        (loss(network(x)) + coupled / 2 * penalty).backward()
        if name == "adamw":
            with torch.no_grad():
                for p in parameters:
                    p *= 1 - config.adam_rate * decay
        steps.step()
    features, h = [], x.clone().requires_grad_()
    for part in network:
        if isinstance(part, nn.Linear):
            features.append(h)
        h = part(h)
    value = loss(h)
    slopes = [torch.autograd.grad(h[:, k].sum(), features, retain_graph=True) for k in range(10)]
    layers = [part for part in network if isinstance(part, nn.Linear)]
    tensors = [*features, *(layer.weight for layer in layers)]
    gradients = [gradient.numpy() for gradient in torch.autograd.grad(value, tensors)]
    rows = []
    for i, layer in enumerate(layers):
        w, a, g = layer.weight.detach().numpy(), gradients[i], gradients[len(layers) + i]
        gram, learnt = w.T @ w, -a.T @ features[i].detach().numpy()
        agop = sum(slope[i].T @ slope[i] for slope in slopes).numpy()
        row = {
            "stationarity": np.linalg.norm(g + decay * w) / np.linalg.norm(decay * w),
            "fact_error": np.linalg.norm(gram - learnt / decay) / np.linalg.norm(gram),
            "cosine_fact": cosine(gram, learnt),
            "cosine_shift": cosine(gram, learnt + learnt.T),
            "cosine_agop": cosine(gram, agop),
            "tl": target_linearity(features[i].detach(), y),
            "weight_norm": np.linalg.norm(w),
        }
        rows.append(row)
    accuracy = (h.argmax(1) == y).double().mean().item()
    return rows, value.item(), accuracy


@pytest.mark.filterwarnings("ignore:.*samples of .* features")
@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_equals_a_plain_loop_with_the_penalty_in_its_loss(loss):
    config = Config(**SMALL, decays=(0.03,), epochs=20, every=7)
    arrays = run(config, loss)
    assert config.arms == [("sgd", 0.03), ("adam", 0.003), ("adamw", 2.0)]
    for i, (name, decay) in enumerate(config.arms):
        rows, value, accuracy = by_hand(config, loss, name, decay, 1)
        for layer, row in enumerate(rows):
            for key, expected in row.items():
                actual = arrays[key][i, 1, -1, layer]
                assert actual == pytest.approx(expected, rel=1e-7, abs=1e-9), (name, key, layer)
        assert arrays["loss"][i, 1, -1] == pytest.approx(value, rel=1e-9)
        assert arrays["accuracy"][i, 1, -1] == accuracy


@pytest.fixture(scope="module")
def rested():
    """Trained until gradient descent has come to rest."""
    sizes = {"samples": 100, "width": 16, "seeds": (0,), "epochs": 400, "every": 100}
    return run(Config(**SMALL | sizes, decays=(0.02,)), "cross_entropy", (0, 2))


def test_at_rest_the_gram_is_facts_and_not_before_nor_under_adamw(rested):
    error, rest = rested["fact_error"][:, 0], rested["stationarity"][:, 0]  # (arm, epoch, layer)
    assert (rest[0, -1] < 0.05).all()
    assert (error[0, -1] < 0.05).all()
    assert (error[0, 0] > 0.5).all()
    assert (rested["cosine_fact"][0, 0, -1] > 0.999).all()
    assert (error[1, -1] > 0.5).all()


def test_the_error_is_no_more_than_the_distance_from_rest_allows(rested):
    # ‖Wᵀ(W + G/λ)‖ ≤ ‖W‖_op ‖W + G/λ‖ and ‖WᵀW‖ ≥ ‖W‖² / √m
    widths = np.array([16, 16, 10])
    bound = np.sqrt(widths) * rested["stationarity"]
    assert (rested["fact_error"] <= bound * (1 + 1e-9)).all()


def test_the_last_layers_agop_is_its_gram(rested):
    np.testing.assert_allclose(rested["cosine_agop"][..., -1], 1, rtol=1e-9)
    assert (rested["cosine_agop"][..., :-1] < 0.999).all()


def test_a_replica_beside_others_equals_the_same_run_alone():
    config = Config(**SMALL, decays=(0.03, 0.01), epochs=10, every=5)
    together = run(config, "cross_entropy")
    alone = run(
        Config(**SMALL | {"seeds": (1,)}, decays=(0.01,), epochs=10, every=5), "cross_entropy"
    )
    for name, values in alone.items():
        for arm, other in ((0, 1), (1, 2), (2, 3)):
            expected = together[name][other, 1]
            np.testing.assert_allclose(values[arm, 0], expected, 1e-9, err_msg=name)


def test_a_network_that_decays_to_zero_has_no_error_and_does_not_count_as_diverged():
    sizes = {"decays": (4.0,), "momentum": 0.0, "seeds": (0,), "epochs": 100, "every": 50}
    arrays = run(Config(**SMALL | sizes), "squared", (0,))
    assert arrays["weight_norm"][0, 0, -1].max() < 1e-60
    assert abs(arrays["cosine_agop"][0, 0, -1, 0]) <= 1
    assert np.isfinite(arrays["loss"]).all()


@pytest.mark.parametrize(
    "field", [{"decays": (0.0,)}, {"adam_decay": 0.0}, {"adamw_decay": -1.0}, {"decays": ()}]
)
def test_a_decay_of_zero_is_refused(field):
    with pytest.raises(ConfigError, match="decay"):
        Config(**field)


def test_an_unknown_loss_is_refused():
    with pytest.raises(ConfigError, match="hinge"):
        Config(losses=("hinge",))
