"""Polar factors and Gram whitening against SciPy in float64 and against plain optimizer steps."""

import copy
import io
from functools import partial

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from core.gram import GramWhitening, gram_preserving_update, newton_schulz, polar_factor, weight_gram

SHAPES = [(8, 5), (5, 8), (6, 6), (1, 7), (7, 1), (1, 1)]
PRECISION = {torch.float32: 1e-5, torch.float64: 1e-12}


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def low_rank(m, n, rank):
    return draw(m, rank) @ draw(rank, n, seed=1)


def spectrum(values, m, n):
    """A matrix with these singular values."""
    left, _ = torch.linalg.qr(draw(m, len(values)))
    right, _ = torch.linalg.qr(draw(n, len(values), seed=1))
    return left * torch.tensor(values, dtype=torch.float64) @ right.mT


def difference(found, expected):
    """Largest difference relative to the norm of `expected`."""
    found, expected = (np.asarray(a.detach().double() if torch.is_tensor(a) else a) for a in (found, expected))
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-300)


def nearest(before, after):
    """The matrix with the Gram of `after` that is nearest to `before`, by SciPy in float64."""
    before, after = (w.detach().double().flatten(1).numpy() for w in (before, after))
    return scipy.linalg.orthogonal_procrustes(after.T, before.T)[0].T @ after


def gram(weight):
    rows = weight.detach().double().flatten(1).numpy()
    return rows.T @ rows


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (4, 3, 2, 2), (5, 2, 3)])
def test_weight_gram_sums_outer_products_of_rows(shape):
    weight = draw(*shape)
    assert difference(weight_gram(weight), sum(np.outer(row, row) for row in weight.flatten(1).numpy())) < 1e-14


def test_weight_gram_of_a_vector_is_an_error():
    with pytest.raises(ValueError, match=r"\(3,\)"):
        weight_gram(torch.ones(3))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)],
)
def test_polar_factor_equals_scipy(shape, dtype, tolerance):
    matrix = spectrum(np.linspace(1, 3, min(shape)), *shape).to(dtype)
    found = polar_factor(matrix)
    assert found.dtype == dtype
    side = "right" if shape[0] >= shape[1] else "left"
    expected, _ = scipy.linalg.polar(matrix.double().numpy(), side=side)
    assert difference(found, expected) < tolerance


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_polar_factor_of_any_rank_is_orthonormal_and_attains_the_nuclear_norm(shape, rank):
    matrix = low_rank(*shape, rank) if rank else torch.zeros(*shape, dtype=torch.float64)
    found = polar_factor(matrix).numpy()
    product = found.T @ found if shape[0] >= shape[1] else found @ found.T
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=1e-13)
    nuclear = np.linalg.svd(matrix.numpy(), compute_uv=False).sum()
    assert np.trace(found.T @ matrix.numpy()) == pytest.approx(nuclear, rel=1e-13, abs=1e-13)


@pytest.mark.parametrize("function", [polar_factor, newton_schulz])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_leading_axes_are_a_batch(function, shape):
    matrices = draw(2, 3, *shape) * torch.logspace(-3, 3, 6, dtype=torch.float64).view(2, 3, 1, 1)
    found = function(matrices)
    for i in np.ndindex(2, 3):
        assert difference(found[i], function(matrices[i])) < 1e-12


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6)])
def test_newton_schulz_step_is_the_published_polynomial(shape):
    matrix = draw(*shape)
    x = matrix.numpy() / np.sqrt((matrix.numpy() ** 2).sum())
    expected = (15 * x - 10 * x @ x.T @ x + 3 * x @ x.T @ x @ x.T @ x) / 8
    assert difference(newton_schulz(matrix, steps=1), expected) < 1e-14
    assert difference(newton_schulz(matrix, steps=0), x) < 1e-14


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6)])
@pytest.mark.parametrize("dtype", PRECISION)
def test_newton_schulz_converges_on_a_well_conditioned_matrix(shape, dtype):
    matrix = spectrum(np.linspace(1, 3, min(shape)), *shape).to(dtype)
    assert difference(newton_schulz(matrix), polar_factor(matrix)) < PRECISION[dtype]


@pytest.mark.parametrize(("small", "converged"), [(1e-2, True), (1e-3, False), (1e-5, False)])
def test_newton_schulz_leaves_small_singular_values_short_of_one(small, converged):
    values = np.linalg.svd(newton_schulz(spectrum([1.0, 0.9, small], 6, 6)).numpy(), compute_uv=False)
    np.testing.assert_allclose(values[:2], 1, atol=1e-6)
    assert (abs(values[2] - 1) < 1e-2) == converged
    assert values[2] <= small * (15 / 8) ** 10
    assert polar_factor(spectrum([1.0, 0.9, small], 6, 3)).square().sum() == pytest.approx(3)


def test_newton_schulz_of_zero_is_zero():
    assert not newton_schulz(torch.zeros(2, 4, 3)).any()


UPDATES = {
    "small step": lambda m, d: (draw(m, d), draw(m, d) + 0.01 * draw(m, d, seed=1)),
    "unrelated": lambda m, d: (draw(m, d), draw(m, d, seed=1)),
    "rank lost": lambda m, d: (draw(m, d), low_rank(m, d, 2)),
    "from zero": lambda m, d: (torch.zeros(m, d, dtype=torch.float64), draw(m, d)),
}


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("update", UPDATES)
def test_update_has_the_gram_of_after_and_is_as_near_to_before_as_can_be(update, shape, dtype):
    before, after = (w.to(dtype) for w in UPDATES[update](*shape))
    found = gram_preserving_update(before, after)
    assert found.dtype == dtype
    assert difference(gram(found), gram(after)) < PRECISION[dtype]
    distance, least = (
        np.linalg.norm(w - before.double().numpy()) for w in (found.double().numpy(), nearest(before, after))
    )
    assert distance == pytest.approx(least, rel=10 * PRECISION[dtype], abs=PRECISION[dtype])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("update", ["small step", "unrelated"])
def test_update_equals_scipy_procrustes(update, shape):
    before, after = UPDATES[update](*shape)
    assert difference(gram_preserving_update(before, after), nearest(before, after)) < 1e-9


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_no_random_rotation_comes_nearer(shape):
    before, after = UPDATES["unrelated"](*shape)
    found = gram_preserving_update(before, after)
    for seed in range(100):
        rotation, _ = torch.linalg.qr(draw(shape[0], shape[0], seed=seed))
        nearby = torch.matrix_exp(0.01 * (rotation - rotation.mT))
        for other in (rotation @ after, nearby @ found):
            assert (found - before).norm() < (other - before).norm()


def test_update_that_only_rotates_is_dropped_and_no_update_stays_none():
    for shape in SHAPES[:3]:
        weight = draw(*shape)
        rotation, _ = torch.linalg.qr(draw(shape[0], shape[0], seed=1))
        assert difference(gram_preserving_update(weight, rotation @ weight), weight) < 1e-12
        assert difference(gram_preserving_update(weight, weight), weight) < 1e-12


def test_update_of_a_batch_equals_a_loop():
    for shape in SHAPES[:3]:
        before, after = draw(2, 3, *shape), draw(2, 3, *shape, seed=1)
        found = gram_preserving_update(before, after)
        for i in np.ndindex(2, 3):
            assert difference(found[i], gram_preserving_update(before[i], after[i])) < 1e-12


@pytest.mark.parametrize("shapes", [((3, 4), (4, 3)), ((3,), (3,)), ((2, 3, 4), (3, 4))])
def test_update_of_weights_that_are_not_matrices_of_one_shape_is_an_error(shapes):
    with pytest.raises(ValueError, match="one shape"):
        gram_preserving_update(*(torch.ones(shape) for shape in shapes))


class Steps:
    """A model with wide, square and tall weights and a convolution, trained on noise, batch by batch."""

    def __init__(self, make, whiten=True, dtype=torch.float64, seed=0):
        g = torch.Generator().manual_seed(seed)
        layers = [nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(20, 20), nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 4)]
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
        x, y = draw(6, 2, 4, 4, seed=batch, dtype=p.dtype), draw(6, 4, seed=batch + 100, dtype=p.dtype)
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
        return copy.deepcopy({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})

    def weights(self):
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}


def groups(model, **options):
    """Weights and biases of the first layers slow, those of the others fast."""
    parameters = list(model.parameters())
    return torch.optim.SGD([{"params": parameters[:4], "lr": 0.01}, {"params": parameters[4:]}], lr=0.3, **options)


def optimizer(name, **options):
    return lambda model: getattr(torch.optim, name)(model.parameters(), **options)


OPTIMIZERS = {
    "SGD": optimizer("SGD", lr=0.1),
    "SGD with momentum": optimizer("SGD", lr=0.1, momentum=0.9),
    "SGD with Nesterov momentum and decay": optimizer("SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": optimizer("Adam", lr=0.01),
    "AdamW": optimizer("AdamW", lr=0.01, weight_decay=0.1),
    "RMSprop": optimizer("RMSprop", lr=0.003, momentum=0.5),
    "groups of their own rates": partial(groups, momentum=0.9),
}


def assert_whitened(before, plain, found):
    """`found` is what whitening makes of the step from `before` to `plain`."""
    for name, weight in found.items():
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


def assert_equal_states(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        if isinstance(value, dict):
            assert_equal_states(value, expected[name])
        elif torch.is_tensor(value):
            assert torch.equal(value, expected[name]), name
        else:
            assert value == expected[name], name


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_step_has_the_gram_of_the_plain_step_and_is_the_nearest(name, dtype):
    run = Steps(OPTIMIZERS[name], dtype=dtype)
    for batch in range(6):
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
                after = gram_preserving_update(before[name].flatten(1), after.flatten(1), newton_schulz).view_as(after)
            assert torch.equal(weight, after)


def test_unknown_method_is_an_error_and_attaches_nothing():
    run = Steps(OPTIMIZERS["SGD"], whiten=False)
    expected = run.plain_copy()
    with pytest.raises(ValueError, match="unknown method 'svd': one of exact, newton_schulz"):
        GramWhitening(run.optimizer, method="svd")
    run.step(0)
    expected.step(0)
    assert_equal_states(run.state(), expected.state())


SCHEDULES = {
    "StepLR": lambda optimizer: StepLR(optimizer, step_size=2, gamma=0.3),
    "OneCycleLR": lambda optimizer: OneCycleLR(optimizer, max_lr=0.2, total_steps=6),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rate_schedules_reach_the_optimizer(name):
    run = Steps(OPTIMIZERS["SGD with momentum"])
    plain = Steps(OPTIMIZERS["SGD with momentum"], whiten=False)
    schedules = [SCHEDULES[name](r.optimizer) for r in (run, plain)]
    rates = []
    for batch in range(6):
        assert run.optimizer.param_groups[0]["lr"] == plain.optimizer.param_groups[0]["lr"]
        rates.append(run.optimizer.param_groups[0]["lr"])
        assert_step_is_whitened(run, batch)
        plain.step(batch)
        if batch < 5:
            for schedule in schedules:
                schedule.step()
    assert len(set(rates)) > 2


@pytest.mark.parametrize("name", ["SGD with momentum", "Adam"])
def test_training_resumes_bit_identically_from_a_saved_state(name):
    whole = Steps(OPTIMIZERS[name])
    for batch in range(3):
        whole.step(batch)
    file = io.BytesIO()
    torch.save(whole.state(), file)
    file.seek(0)
    resumed = Steps(OPTIMIZERS[name], seed=1)
    saved = torch.load(file, weights_only=True)
    resumed.model.load_state_dict(saved["model"])
    resumed.optimizer.load_state_dict(saved["optimizer"])
    for batch in range(3, 6):
        whole.step(batch)
        resumed.step(batch)
    assert_equal_states(resumed.state(), whole.state())


@pytest.mark.parametrize("name", ["SGD with momentum", "Adam"])
def test_closures_take_the_same_step(name):
    run, expected = Steps(OPTIMIZERS[name]), Steps(OPTIMIZERS[name])
    for batch in range(3):
        loss = run.loss(batch)
        assert torch.equal(run.closure_step(batch), loss)
        expected.step(batch)
    assert_equal_states(run.state(), expected.state())


def test_optimizer_that_calls_its_closure_many_times_is_whitened_once():
    run = Steps(optimizer("LBFGS", max_iter=4))
    for batch in range(2):
        assert_step_is_whitened(run, batch, Steps.closure_step)


def test_group_added_after_attaching_is_whitened():
    def without_last(model):
        return torch.optim.SGD([p for name, p in model.named_parameters() if name[0] != "5"], lr=0.1, momentum=0.9)

    def with_last(model):
        made = without_last(model)
        made.add_param_group({"params": model[5].parameters(), "lr": 0.03})
        return made

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


def test_layout_of_kernels_in_memory_does_not_matter():
    run, expected = Steps(OPTIMIZERS["SGD with momentum"]), Steps(OPTIMIZERS["SGD with momentum"])
    run.model.to(memory_format=torch.channels_last)
    assert not run.model[0].weight.is_contiguous()
    for batch in range(3):
        run.step(batch)
        expected.step(batch)
    for name, weight in run.weights().items():
        assert difference(weight, expected.weights()[name]) < 1e-10


@pytest.mark.parametrize("name", ["SGD with momentum", "Adam"])
def test_removed_whitening_leaves_plain_steps(name):
    run = Steps(OPTIMIZERS[name])
    for batch in range(3):
        run.step(batch)
    expected = run.plain_copy()
    run.whitening.remove()
    for batch in range(3, 6):
        run.step(batch)
        expected.step(batch)
    assert_equal_states(run.state(), expected.state())


@pytest.mark.parametrize("name", OPTIMIZERS)
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
