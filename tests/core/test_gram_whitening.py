"""Gram whitening of optimizers against plain steps and SciPy's Procrustes in float64."""

import copy

import pytest
import scipy.linalg
import torch
from torch import nn

from cases import draw
from core.gram import GramWhitening, gram_preserving_update, newton_schulz
from matrices import PRECISION
from oracles import difference


def rows(weight):
    """Kernels as rows, in float64."""
    return weight.detach().double().flatten(1).numpy()


def gram(weight):
    return rows(weight).T @ rows(weight)


def nearest(before, after):
    """The matrix with the Gram of `after` that is nearest to `before`, by SciPy in float64."""
    before, after = rows(before), rows(after)
    return scipy.linalg.orthogonal_procrustes(after.T, before.T)[0].T @ after


class Steps:
    """A model with a convolution and wide, square and tall weights, trained on noise."""

    def __init__(self, make, whiten=True, dtype=torch.float64, seed=0):
        g = torch.Generator().manual_seed(seed)
        layers = [
            nn.Conv2d(2, 5, 3),
            nn.Flatten(),
            nn.Linear(20, 20),
            nn.Linear(20, 30),
            nn.Tanh(),
            nn.Linear(30, 4),
        ]
        self.model = nn.Sequential(*layers).to(dtype)
        with torch.no_grad():
            for p in self.model.parameters():
                p.copy_(torch.randn(p.shape, generator=g) / p[0].numel() ** 0.5)
        self.make, self.optimizer = make, make(self.model)
        self.whitening = GramWhitening(self.optimizer) if whiten else None

    def plain_copy(self):
        """The same state without whitening."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        other.optimizer = self.make(other.model)
        other.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        return other

    def loss(self, batch):
        p = next(self.model.parameters())
        x = draw(6, 2, 4, 4, seed=batch, dtype=p.dtype)
        y = draw(6, 4, seed=batch + 100, dtype=p.dtype)
        return (self.model(x) - y).square().mean()

    def step(self, batch):
        self.optimizer.zero_grad()
        self.loss(batch).backward()
        self.optimizer.step()

    def closure_step(self, batch):
        def closure():
            self.optimizer.zero_grad()
            loss = self.loss(batch)
            loss.backward()
            return loss

        return self.optimizer.step(closure)

    def state(self):
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return copy.deepcopy(state)

    def weights(self):
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}


def two_groups(model):
    """The first layers slow, the others fast."""
    parameters = list(model.parameters())
    groups = [{"params": parameters[:4], "lr": 0.01}, {"params": parameters[4:]}]
    return torch.optim.SGD(groups, lr=0.3, momentum=0.9)


def optimizer(name, **options):
    return lambda model: getattr(torch.optim, name)(model.parameters(), **options)


OPTIMIZERS = {
    "SGD": optimizer("SGD", lr=0.1),
    "SGD with momentum": optimizer("SGD", lr=0.1, momentum=0.9),
    "SGD with Nesterov momentum and decay": optimizer(
        "SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01
    ),
    "Adam": optimizer("Adam", lr=0.01),
    "AdamW": optimizer("AdamW", lr=0.01, weight_decay=0.1),
    "RMSprop": optimizer("RMSprop", lr=0.003, momentum=0.5),
    "groups with rates of their own": two_groups,
}


def assert_whitened(before, plain, actual):
    """`actual` is what whitening makes of the step from `before` to `plain`."""
    for name, weight in actual.items():
        if weight.ndim == 1:
            assert torch.equal(weight, plain[name]), name
        else:
            precision = PRECISION[weight.dtype]
            assert difference(gram(weight), gram(plain[name])) < precision, name
            expected = nearest(before[name], plain[name])
            if weight.dtype == torch.float64:
                assert difference(weight.flatten(1), expected) < 1e-9, name
            assert difference(weight, plain[name]) > precision, name  # the projection did something


def assert_step_is_whitened(run, batch, step=Steps.step):
    before, plain = run.weights(), run.plain_copy()
    step(plain, batch)
    step(run, batch)
    assert_whitened(before, plain.weights(), run.weights())


def assert_equal_states(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        if isinstance(value, dict):
            assert_equal_states(value, expected[name])
        elif torch.is_tensor(value):
            assert torch.equal(value, expected[name]), name
        else:
            assert value == expected[name], name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_step_has_the_gram_of_the_plain_step_and_is_the_nearest(name):
    for dtype in PRECISION if name == "Adam" else [torch.float64]:
        run = Steps(OPTIMIZERS[name], dtype=dtype)
        for batch in range(3):
            assert_step_is_whitened(run, batch)


def test_newton_schulz_projects_by_the_published_approximation():
    run = Steps(OPTIMIZERS["SGD with momentum"], whiten=False)
    GramWhitening(run.optimizer, method="newton_schulz")
    for batch in range(3):
        before, plain = run.weights(), run.plain_copy()
        plain.step(batch)
        run.step(batch)
        for name, weight in run.weights().items():
            after = plain.weights()[name]
            if weight.ndim > 1:
                step = (w.flatten(1)[None] for w in (before[name], after))  # a batch, as there
                after = gram_preserving_update(*step, newton_schulz).view_as(after)
            assert torch.equal(weight, after)


def test_unknown_method_is_an_error_and_attaches_nothing():
    run = Steps(OPTIMIZERS["SGD"], whiten=False)
    expected = run.plain_copy()
    with pytest.raises(ValueError, match="unknown method 'svd': one of exact, newton_schulz"):
        GramWhitening(run.optimizer, method="svd")
    run.step(0)
    expected.step(0)
    assert_equal_states(run.state(), expected.state())


def test_optimizer_that_calls_its_closure_many_times_is_whitened_once():
    run = Steps(optimizer("LBFGS", max_iter=4))
    for batch in range(2):
        assert_step_is_whitened(run, batch, Steps.closure_step)


def test_group_added_after_attaching_is_whitened():
    def without_last(model):
        parameters = [p for name, p in model.named_parameters() if name[0] != "5"]
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    def with_last(model):
        sgd = without_last(model)
        sgd.add_param_group({"params": model[5].parameters(), "lr": 0.03})
        return sgd

    run = Steps(without_last)
    run.optimizer.add_param_group({"params": run.model[5].parameters(), "lr": 0.03})
    run.make = with_last
    for batch in range(3):
        assert_step_is_whitened(run, batch)


def test_weights_without_a_gradient_stay_as_they_are():
    run = Steps(OPTIMIZERS["SGD with momentum"])
    run.model[2].weight.requires_grad_(False)
    unused = nn.Parameter(draw(3, 3))
    run.optimizer.add_param_group({"params": [unused]})
    before = run.weights()
    run.step(0)
    assert torch.equal(run.weights()["2.weight"], before["2.weight"])
    assert torch.equal(unused, draw(3, 3))
    assert not torch.equal(run.weights()["3.weight"], before["3.weight"])


def test_removed_whitening_leaves_plain_steps():
    run = Steps(OPTIMIZERS["Adam"])
    for batch in range(3):
        run.step(batch)
    expected = run.plain_copy()
    run.whitening.remove()
    for batch in range(3, 6):
        run.step(batch)
        expected.step(batch)
    assert_equal_states(run.state(), expected.state())


@pytest.mark.parametrize("name", ["SGD with momentum", "Adam"])
def test_batch_dims_whiten_each_replica_as_if_it_were_alone(name):
    replicas = 3
    alone = [Steps(OPTIMIZERS[name], seed=seed) for seed in range(replicas)]
    names = list(alone[0].weights())
    stacked = nn.ParameterList(torch.stack([run.weights()[n] for run in alone]) for n in names)
    together = OPTIMIZERS[name](stacked)
    GramWhitening(together, batch_dims=1)
    for batch in range(4):
        for run in alone:
            run.step(batch)
        for n, p in zip(names, stacked, strict=True):
            p.grad = torch.stack([run.model.get_parameter(n).grad for run in alone])
        together.step()
        for n, p in zip(names, stacked, strict=True):
            for r, run in enumerate(alone):
                assert difference(p[r], run.weights()[n]) < 1e-10, n
