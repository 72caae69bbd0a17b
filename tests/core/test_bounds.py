"""The paper's bounds against NumPy, loops over samples and pairs, and layers really updated."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn.linear_model import LinearRegression
from torch.nn import functional

from cases import draw, gather
from core.bounds import (
    GELU_LIPSCHITZ,
    activation_bound,
    interpolation_bound,
    kantorovich,
    layer_surrogate_ratio,
    linearity_bounds,
    theorem2_bound,
)
from core.linearity import (
    report,
    response_cka,
    ridge_linearity,
    surrogate_share,
)

CLASSES = torch.arange(40) % 3


def theorem2(h, w, y, ridge, least=None):
    """The bound and T_λ as printed: nothing is centred but the denominator.

    least: what stands in place of the λ of C's denominator.
    """
    c0, c1 = np.linalg.norm(w, 2), np.linalg.norm(h)
    about_mean = np.linalg.norm(y - y.mean(0)) ** 2
    least = ridge if least is None else least
    c = np.linalg.norm(y) ** 4 * c0**2 * (2 * ridge + c1**2) ** 2 / (4 * least * about_mean)
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


def norm2(matrices):
    return matrices.square().sum((-2, -1))


SHAPES = [(12, 5, 2, 1), (20, 4, 6, 3), (9, 6, 3, 2), (30, 10, 5, 1)]  # n, d, m, c


def hard_cases(shape, cases=500):
    """H, W and centred Y (cases, …): at random, nearly of one direction, or hardly read by W."""
    (n, d, m, c), rng = shape, np.random.default_rng(sum(shape))
    h = rng.normal(size=(cases, n, d)) * 10 ** rng.uniform(-1, 1, (cases, 1, d))
    h += rng.choice([0, 3], (cases, 1, 1))
    y, w = rng.normal(size=(cases, n, c)), rng.normal(size=(cases, m, d))
    one, unread = np.arange(cases) % 3 == 1, np.arange(cases) % 3 == 2
    u, v = rng.normal(size=(cases, n, 1)), rng.normal(size=(cases, 1, d))
    u -= u.mean(1, keepdims=True)
    rest = 10 ** rng.uniform(-4, 0, (3, cases, 1, 1))
    h[one] = (u @ v + rest[0] * h)[one]
    y[one] = (u @ rng.normal(size=(cases, 1, c)) + rest[1] * y)[one]
    w[one] = (rng.normal(size=(cases, m, 1)) @ v + rest[2] * w)[one]
    y -= y.mean(1, keepdims=True)
    along = h.swapaxes(1, 2) @ y
    w[unread] = (w - (1 - rest[0]) * w @ along @ np.linalg.pinv(along))[unread]
    return tuple(torch.from_numpy(x) for x in (h, w, y))


def test_theorem2_without_its_wasted_step_is_a_bound_and_says_something():
    largest, tightest = -np.inf, np.inf
    for shape in SHAPES:
        h, w, y = hard_cases(shape)
        moments = gather(h, y)
        for ridge in (1e-3, 0.1, 10.0, 1e3):
            refined = theorem2_bound(moments, w, ridge, as_printed=False)
            for r in range(0, 500, 25):
                least = ridge + h[r].square().sum().item()
                parts = (x[r].numpy() for x in (h, w, y))
                assert refined[r] == pytest.approx(theorem2(*parts, ridge, least)[0], rel=1e-7)
            value = ridge_linearity(moments, ridge)
            assert (theorem2_bound(moments, w, ridge) <= refined).all()
            assert (refined <= value + 1e-9).all()
            largest = max(largest, refined.max().item())
            tightest = min(tightest, (value - refined).min().item())
    assert 0.7 < largest <= 0.75
    assert tightest < 0.3


def test_theorem2s_refined_bound_at_its_best_is_three_quarters_as_the_ridge_vanishes():
    u = draw(12, 1) - draw(12, 1).mean()
    w = draw(4, 5, seed=2)
    moments = gather(u * torch.linalg.svd(w).Vh[:1], u)
    size = float(u.square().sum())
    refined = [theorem2_bound(moments, w, r * size, as_printed=False) for r in (1e-9, 1e-3, 1, 9)]
    assert refined[0] == pytest.approx(0.75, abs=1e-6)
    assert refined == sorted(refined, reverse=True)


@pytest.mark.filterwarnings("ignore::core.linearity.LostDigits")  # some cases are nearly collinear
@pytest.mark.parametrize("shape", SHAPES)
def test_bounds_of_linearity_are_projections_onto_gy_and_its_columns(shape):
    h, w, y = hard_cases(shape)
    moments = gather(h, y)
    line, columns = linearity_bounds(moments, w)
    share, value = surrogate_share(moments, w), report(moments, intercept=True).value
    assert (share <= line * (1 + 1e-9)).all()
    assert (line <= columns * (1 + 1e-6)).all()
    assert (columns <= value + 1e-6).all()
    z = (h - h.mean(1, keepdim=True)) @ w.mT
    gy = z @ z.mT @ y
    expected = (y * gy).sum((1, 2)) ** 2 / norm2(y) / norm2(gy)
    torch.testing.assert_close(line, expected, rtol=1e-6, atol=1e-12)
    # each is really the sharper one; of one target GY is one column
    assert (line - share).mean() > 0.002
    assert (columns - line).mean() > 0.02 or shape[-1] == 1
    assert (value - columns).mean() > 0.02


def test_projection_onto_columns_is_that_of_dense_matrices_and_one_where_y_is_in_an_eigenspace():
    h, w = draw(40, 6), draw(5, 6, seed=1)
    y = draw(40, 3, seed=2)
    y = y - y.mean(0)
    z = (h - h.mean(0)) @ w.mT
    basis = torch.linalg.qr(z @ z.mT @ y).Q
    expected = (basis.mT @ y).square().sum() / y.square().sum()
    columns = linearity_bounds(gather(h, y), w)[1]
    assert columns == pytest.approx(expected.item(), rel=1e-10)
    assert columns < 0.9
    left = torch.linalg.svd(z, full_matrices=False).U
    for part, equal in ((left[:, 1:2], True), (left[:, :2], False)):
        line, columns = linearity_bounds(gather(h, part), w)
        assert columns == pytest.approx(1, abs=1e-12)
        assert (line > 1 - 1e-12) == equal  # an eigenspace of one value, or of two


def test_bounds_of_linearity_are_nan_where_the_surrogate_is_zero():
    h = torch.cat([draw(20, 2), torch.zeros(20, 2)])
    y = torch.cat([torch.zeros(20, 1), draw(20, 1, seed=1)])
    y = y - y.mean()
    h[:20] -= h[:20].mean(0)
    assert all(math.isnan(bound) for bound in linearity_bounds(gather(h, y), torch.zeros(3, 2)))


@pytest.mark.parametrize("shape", SHAPES)
def test_lemma_1_is_at_most_one(shape):
    h, w, y = hard_cases(shape)
    ratio, chance = layer_surrogate_ratio(gather(h, y), w)
    operator2 = torch.linalg.matrix_norm(w, 2).square()
    expected = norm2((h @ w.mT).mT @ y) / norm2(h.mT @ y) / operator2
    torch.testing.assert_close(ratio, expected, rtol=1e-6, atol=1e-10)
    assert (ratio <= 1 + 1e-12).all()
    torch.testing.assert_close(chance, norm2(w) / operator2 / shape[1])
    assert ratio.min() < 0.01
    assert ratio.max() > 0.99


def test_lemma_1_is_one_where_w_reads_the_direction_of_the_targets_alone():
    h, y = draw(30, 4), draw(30, 1, seed=1)
    y = y - y.mean()
    along = (h.mT @ y).mT
    best, _ = layer_surrogate_ratio(gather(h, y), draw(3, 1, seed=2) @ along)
    worst, _ = layer_surrogate_ratio(gather(h, y), torch.linalg.svd(along).Vh[1:])
    assert (best, worst) == pytest.approx((1, 0), abs=1e-12)


def test_lemma_2_is_true_says_nothing_as_printed_and_something_without_its_wasted_step():
    ridges, least = (1e-2, 1.0, 1e3), np.inf
    for shape in SHAPES:
        h, _, y = hard_cases(shape)
        left, printed, ours = kantorovich(gather(h, y), ridges)  # (case, ridge)
        assert (left <= ours * (1 + 1e-9) + 1e-7).all()
        assert (ours <= printed * (1 + 1e-12)).all()
        assert (printed >= 1 - 1e-12).all()
        least = min(least, ours.min().item())
        for i, ridge in enumerate(ridges):
            a = ridge * torch.eye(shape[0]).double() + h @ h.mT
            b = ridge + torch.linalg.matrix_norm(h, 2).square()
            kappa, unit = (ridge + b) ** 2 / 4 / ridge**3, ridge**2 / norm2(y)
            bound = kappa * norm2(y) ** 2 / (y * (a @ y)).sum((1, 2))
            torch.testing.assert_close(printed[:, i], bound * unit, rtol=1e-7, atol=0)
            expected = norm2(torch.linalg.solve(a, y)) * unit
            torch.testing.assert_close(left[:, i], expected, rtol=1e-4, atol=1e-6)
    assert least < 0.3


def test_lemma_2_where_there_are_no_more_samples_than_features():
    h, y = draw(4, 6), draw(4, 1, seed=1)
    y = y - y.mean()
    left, printed, ours = (side.item() for side in kantorovich(gather(h, y), (0.5,)))
    a = 0.5 * torch.eye(4).double() + h @ h.mT
    low, high = torch.linalg.eigvalsh(a)[[0, -1]]
    unit = low**2 / y.square().sum()
    assert left == pytest.approx((torch.linalg.solve(a, y).square().sum() * unit).item())
    expected = (low + high) ** 2 / 4 / low**3 * y.square().sum() ** 2 / (y.mT @ a @ y) * unit
    assert printed == pytest.approx(expected.item())
    assert ours == pytest.approx((expected * low / high).item())


def test_lemma_5_the_surrogate_at_a_given_norm_is_largest_at_the_targets_own_gram():
    y = draw(30, 3)
    y = y - y.mean(0)
    largest = torch.linalg.matrix_norm(y @ y.mT)
    for seed in range(100):
        root = draw(30, 5, seed=seed) + (seed % 3) * 5 * (y @ draw(3, 5, seed=seed + 1))
        gram = root @ root.mT
        value = (y.mT @ gram @ y).trace() / torch.linalg.matrix_norm(gram)
        assert value < largest
        moments = gather(root - root.mean(0), y)
        assert response_cka(moments, torch.eye(5)) <= 1 + 1e-12
    assert ((y.mT @ y @ y.mT @ y).trace() / largest) == pytest.approx(largest.item())
    assert response_cka(gather(y, y), torch.eye(3)) == pytest.approx(1, abs=1e-12)


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
    bound, signs, share = activation_bound(
        h @ w.mT, gradients, h.square().sum(-1), rate, activation, lipschitz
    )
    limit = lipschitz**2 * rate * gradients.abs()
    assert bound.equal(changes.abs() <= limit * (1 + 1e-8) + 1e-14)
    known = share.isfinite()
    assert known.double().mean() > 0.9
    torch.testing.assert_close(share[known], (changes.abs() / limit)[known], rtol=2e-3, atol=1e-9)
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
    bound, signs, share = activation_bound(z, a, torch.ones(1), 0.1, torch.relu, 1.0)
    assert share[0, :2].tolist() == pytest.approx([0, 1])  # off, and attained
    assert share[0, 2].isnan()  # no gradient, no bound
    assert bound.all()
    assert signs.all()
    # a decreasing activation of slope −1 moves as an increasing one does; |z| can be stepped over
    _, signs, _ = activation_bound(z, a, torch.ones(1), 0.1, torch.neg, 1.0)
    assert signs.all()
    _, signs, _ = activation_bound(z, a, torch.ones(1), 1.0, torch.abs, 1.0)
    assert signs.tolist() == [[False, False, True]]


def test_proposition1_forgives_rounding_alone():
    h, w, readout = layer(1.0)
    z, a, norm2 = 1e3 * (h @ w.mT), readout, torch.ones(30)
    for excess, holds in ((1e-12, True), (1e-6, False)):
        bound, signs, _ = activation_bound(z, a, norm2 * (1 + excess), 1e-3, torch.relu, 1.0)
        assert bool(bound.all()) == holds
        assert signs.all()


def test_proposition1_of_a_batch_is_that_of_each_entry_whether_or_not_gradients_are_on():
    z, a, norm2 = draw(2, 30, 8), draw(2, 30, 8, seed=1), draw(2, 30, seed=2).square()
    with torch.no_grad():
        together = activation_bound(z, a, norm2, 1.0, functional.gelu, GELU_LIPSCHITZ)
    for r in range(2):
        alone = activation_bound(z[r], a[r], norm2[r], 1.0, functional.gelu, GELU_LIPSCHITZ)
        for whole, part in zip(together[:2], alone[:2], strict=True):
            assert whole.dtype == torch.bool
            assert whole[r].equal(part)
            assert not part.all()
        torch.testing.assert_close(together[2][r], alone[2], equal_nan=True)


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


def test_proposition3_of_latents_that_say_nothing_leaves_what_opposite_residuals_cancel():
    # at α = 1/2 a pair of both has no error, a pair of one with itself its own
    x = torch.tensor([[3.0, 4.0], [-3.0, -4.0]]).double()
    assert interpolation_bound(torch.ones(2, 1), x, 0.5) == pytest.approx((2.5, 5), abs=1e-7)


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
