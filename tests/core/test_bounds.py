"""The paper's bounds against NumPy, loops over samples and pairs, and layers really updated."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn.linear_model import LinearRegression
from torch.nn import functional

from cases import draw, gather
from core.bounds import GELU_LIPSCHITZ, activation_bound, interpolation_bound, theorem2_bound
from core.linearity import ridge_linearity

CLASSES = torch.arange(40) % 3


def theorem2(h, w, y, ridge):
    """The bound and T_λ as printed: nothing is centred but the denominator."""
    c0, c1 = np.linalg.norm(w, 2), np.linalg.norm(h)
    about_mean = np.linalg.norm(y - y.mean(0)) ** 2
    c = np.linalg.norm(y) ** 4 * c0**2 * (2 * ridge + c1**2) ** 2 / (4 * ridge * about_mean)
    z = h @ w.T
    surrogate = np.trace(y.T @ z @ z.T @ y)
    fitted = h @ np.linalg.solve(h.T @ h + ridge * np.eye(h.shape[1]), h.T @ y)
    return 1 - c / surrogate, 1 - np.linalg.norm(y - fitted) ** 2 / about_mean


@pytest.mark.parametrize("shape", [(6, 1, 1, 1), (12, 5, 2, 3), (20, 4, 6, 2), (9, 6, 3, 1)])
def test_theorem2_never_exceeds_minus_one_and_linearity_is_never_below_what_is_trivial(shape):
    (n, d, m, c), cases, rng = shape, 500, np.random.default_rng(sum(shape))
    shared = rng.normal(size=(cases, n, 1)) * rng.choice([0, 1, 10], (cases, 1, 1))
    h = rng.normal(size=(cases, n, d)) + shared * rng.normal(size=(cases, 1, d))
    y = rng.normal(size=(cases, n, c)) + shared * rng.normal(size=(cases, 1, c))
    h, y = (values + rng.choice([0, 3], (cases, 1, 1)) for values in (h, y))
    w, ridges = rng.normal(size=(cases, m, d)), 10 ** rng.uniform(-1, 4, cases)
    moments = gather(torch.from_numpy(h), torch.from_numpy(y))
    for r, ridge in enumerate(ridges):
        bound = theorem2_bound(moments[r], torch.from_numpy(w[r]), ridge)
        expected, printed = theorem2(h[r], w[r], y[r], ridge)
        trivial = 1 - (y[r] ** 2).sum() / ((y[r] - y[r].mean(0)) ** 2).sum()
        assert bound == pytest.approx(expected, rel=1e-9)
        assert bound <= -1 + 1e-9
        assert bound < trivial <= printed + 1e-9
        assert ridge_linearity(moments[r], ridge) >= 0  # Y centred in the numerator too


def test_theorem2_is_minus_one_at_its_best():
    u, p = draw(12, 1) - draw(12, 1).mean(), draw(1, 3, seed=1)
    w = draw(4, 5, seed=2)
    h = u * torch.linalg.svd(w).Vh[:1]
    moments = gather(h, u @ p)
    best = float(h.square().sum()) / 2
    assert theorem2_bound(moments, w, best) == pytest.approx(-1, abs=1e-12)
    assert theorem2_bound(moments, w, 2 * best) < -1.1
    assert theorem2_bound(moments, w, best / 2) < -1.1
    assert ridge_linearity(moments, best) > 0.5


def test_theorem2_of_a_batch_of_classes_is_that_of_each_entry():
    h, w = draw(3, 40, 5) + 1, draw(3, 4, 5, seed=1)
    bound = theorem2_bound(gather(h, CLASSES, size=13), w, 2.0)
    y = np.eye(3)[CLASSES]
    expected = [theorem2(h[r].numpy(), w[r].numpy(), y, 2.0)[0] for r in range(3)]
    np.testing.assert_allclose(bound, expected, rtol=1e-12)


def test_theorem2_without_a_surrogate_is_minus_infinity():
    moments = gather(torch.zeros(40, 5), CLASSES)
    assert theorem2_bound(moments, draw(2, 5), 1.0) == -math.inf


def test_theorem2_refuses_what_it_is_not_of():
    moments = gather(draw(40, 5), CLASSES)
    with pytest.raises(ValueError, match="ridge must be above zero"):
        theorem2_bound(moments, draw(4, 5), 0.0)
    with pytest.raises(ValueError, match="weight for 5 features"):
        theorem2_bound(moments, draw(4, 6), 1.0)


ACTIVATIONS = {
    "relu": (torch.relu, 1.0),
    "tanh": (torch.tanh, 1.0),
    "gelu": (functional.gelu, GELU_LIPSCHITZ),
}


def test_gelu_is_steepest_at_the_root_of_two():
    def slope(z):
        z = torch.tensor(z, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(functional.gelu(z), z)[0].item()

    steepest = scipy.optimize.minimize_scalar(lambda z: -slope(z), (0, 1, 3), tol=1e-10)
    assert steepest.x == pytest.approx(math.sqrt(2), abs=1e-4)
    assert slope(math.sqrt(2)) == pytest.approx(GELU_LIPSCHITZ, rel=1e-14)
    assert max(map(abs, map(slope, np.linspace(-10, 10, 2001)))) <= GELU_LIPSCHITZ


def layer(norm):
    """Inputs (N, d) of one norm, a weight (m, d), and the readout vectors (N, m) of the losses."""
    h = functional.normalize(draw(30, 6), dim=-1) * norm
    return h, draw(8, 6, seed=1) / norm, draw(30, 8, seed=2)


def losses(output, readout):
    return torch.logaddexp((output * readout).sum(-1), torch.zeros(()))  # softplus, (N,)


def really_updated(h, w, readout, rate, activation):
    """Changes of σ(Wh) by gradient descent on W, a sample at a time, and ∂L/∂σ; both (N, m)."""
    changes, gradients = [], []
    for x, v in zip(h, readout, strict=True):
        weight = w.clone().requires_grad_()
        output = activation(weight @ x)
        output.retain_grad()
        losses(output, v).backward()
        after = activation((weight - rate * weight.grad) @ x)
        changes.append((after - output).detach())
        gradients.append(output.grad)
    return torch.stack(changes), torch.stack(gradients)


@pytest.mark.parametrize("rate", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("norm", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_proposition1_is_what_layers_really_updated_do(name, norm, rate):
    activation, lipschitz = ACTIVATIONS[name]
    h, w, readout = layer(norm)
    changes, gradients = really_updated(h, w, readout, rate, activation)
    bound, signs = activation_bound(
        h @ w.mT, gradients, h.square().sum(-1), rate, activation, lipschitz
    )
    limit = lipschitz**2 * rate * gradients.abs()
    assert bound.equal(changes.abs() <= limit * (1 + 1e-8) + 1e-14)
    still = changes.abs() < 1e-14
    assert signs.equal((changes.sign() == -gradients.sign()) | still)
    assert not (name != "relu" and still.any())
    if norm <= 1:
        assert bound.all()
    elif name == "relu":
        assert not bound.all()
    if name != "gelu":
        assert signs.all()
    elif rate == 30:
        assert not signs.all()  # steps across the minimum


def test_proposition1_counts_a_unit_that_is_off_as_agreeing_and_one_that_is_on_by_its_sign():
    z, a = torch.tensor([[-1.0, 1.0, 1.0]]), torch.tensor([[5.0, 5.0, 0.0]])
    bound, signs = activation_bound(z, a, torch.ones(1), 0.1, torch.relu, 1.0)
    assert bound.all()
    assert signs.all()
    # a decreasing activation of slope −1 moves as an increasing one does; |z| can be stepped over
    _, signs = activation_bound(z, a, torch.ones(1), 0.1, torch.neg, 1.0)
    assert signs.all()
    _, signs = activation_bound(z, a, torch.ones(1), 1.0, torch.abs, 1.0)
    assert signs.tolist() == [[False, False, True]]


def test_proposition1_forgives_rounding_alone():
    h, w, readout = layer(1.0)
    z, a, norm2 = 1e3 * (h @ w.mT), readout, torch.ones(30)
    for excess, holds in ((1e-12, True), (1e-6, False)):
        bound, signs = activation_bound(z, a, norm2 * (1 + excess), 1e-3, torch.relu, 1.0)
        assert bool(bound.all()) == holds
        assert signs.all()


def test_proposition1_of_a_batch_is_that_of_each_entry_whether_or_not_gradients_are_on():
    z, a, norm2 = draw(2, 30, 8), draw(2, 30, 8, seed=1), draw(2, 30, seed=2).square()
    with torch.no_grad():
        together = activation_bound(z, a, norm2, 1.0, functional.gelu, GELU_LIPSCHITZ)
    for r in range(2):
        alone = activation_bound(z[r], a[r], norm2[r], 1.0, functional.gelu, GELU_LIPSCHITZ)
        for whole, part in zip(together, alone, strict=True):
            assert whole.dtype == torch.bool
            assert whole[r].equal(part)
            assert not part.all()


def pairwise(z, x, share):
    """Both sides by a loop over all pairs."""
    g, n = LinearRegression().fit(z, x), len(z)
    left = 0.0
    for i in range(n):
        for j in range(n):
            mixed = share * z[i] + (1 - share) * z[j]
            target = share * x[i] + (1 - share) * x[j]
            left += np.linalg.norm(g.predict(mixed[None])[0] - target) / n**2
    return left, np.linalg.norm(g.predict(z) - x, axis=1).mean()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_proposition3_equals_a_loop_over_pairs(share):
    z = draw(20, 3) + 5
    x = torch.tanh(z @ draw(3, 7, seed=1)) + 0.1 * draw(20, 7, seed=2)
    left, right = interpolation_bound(z, x, share)
    assert (left, right) == pytest.approx(pairwise(z.numpy(), x.numpy(), share), rel=1e-12)
    assert left <= right * (1 + 1e-12)
    if share in (0, 1):
        assert left == pytest.approx(right, rel=1e-12)
    else:
        assert left < 0.9 * right


def test_proposition3_of_inputs_that_are_affine_in_the_latents_is_zero():
    z = draw(20, 3)
    assert interpolation_bound(z, z @ draw(3, 7, seed=1) + 2, 0.5) == pytest.approx(
        (0, 0), abs=1e-12
    )


def test_proposition3_of_latents_that_say_nothing_leaves_what_opposite_residuals_cancel():
    # at α = 1/2 a pair of both has no error, a pair of one with itself its own
    x = torch.tensor([[3.0, 4.0], [-3.0, -4.0]]).double()
    assert interpolation_bound(torch.ones(2, 1), x, 0.5) == pytest.approx((2.5, 5), abs=1e-7)


def test_proposition3_of_latents_in_fewer_dimensions_is_that_of_these():
    z, x = draw(20, 2), draw(20, 5, seed=1)
    expected = interpolation_bound(z, x, 0.5)
    assert interpolation_bound(z @ draw(2, 4), x, 0.5) == pytest.approx(expected, rel=1e-10)


def test_proposition3_of_a_batch_is_that_of_each_entry():
    z, x = draw(2, 15, 3), draw(2, 15, 4, seed=1).float()
    left, right = interpolation_bound(z, x, 0.3)
    for r in range(2):
        expected = pairwise(z[r].numpy(), x[r].double().numpy(), 0.3)
        assert (left[r], right[r]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_proposition3_refuses_shares_that_are_none(share):
    with pytest.raises(ValueError, match="share must be in"):
        interpolation_bound(draw(5, 2), draw(5, 3), share)
