"""FACT against dense matrices, networks at rest, and planted weights; its columns of `measure`."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from cases import draw
from core.callback import MeasureEvery
from core.fact import fact_cosine, fact_error
from core.gram import cosine
from core.measure import measure
from oracles import difference

SHAPES = [(6, 4), (4, 6), (5, 5), (1, 7), (7, 1)]  # (m, d)


def dense(weight, gradient, decay):
    """Cosine and relative error from WᵀW and −Wᵀ ∂L/∂W / λ."""
    gram, learnt = weight.mT @ weight, -weight.mT @ gradient / decay
    return cosine(gram, learnt), difference(learnt, gram)


@pytest.mark.parametrize("decay", [1e-4, 0.3, 20.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_they_are_those_of_the_dense_matrices(shape, decay):
    weight, gradient = draw(*shape), draw(*shape, seed=1)
    expected = dense(weight, gradient, decay)
    assert fact_cosine(weight, gradient) == pytest.approx(expected[0], rel=1e-11)
    assert fact_error(weight, gradient, decay) == pytest.approx(expected[1], rel=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
def test_at_a_stationary_point_they_are_1_and_0_and_at_no_other_decay(shape):
    weight = draw(*shape)
    assert fact_cosine(weight, -0.01 * weight) == pytest.approx(1, abs=1e-14)
    assert fact_error(weight, -0.01 * weight, 0.01) < 1e-15
    assert fact_error(weight, -0.01 * weight, 0.02) == pytest.approx(0.5)
    assert fact_error(weight, -0.01 * weight, 0.005) == pytest.approx(1)
    assert fact_cosine(weight, weight) == pytest.approx(-1, abs=1e-14)  # the other sign
    assert fact_error(weight, weight, 1.0) == pytest.approx(2)


def test_a_small_error_keeps_its_digits():
    weight, apart = draw(4, 9), draw(4, 9, seed=1)
    # W + ∂L/∂W / λ is orthogonal to the rows of W, but for 1e-12 of it: no squares are subtracted
    weight[2:] = 0
    apart[:2] *= 1e-12
    expected = dense(weight, apart - weight, 1.0)[1]
    assert expected < 1e-11
    assert fact_error(weight, apart - weight, 1.0) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1e-25, 1e25])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_no_scale_of_weights_or_gradients_matters(shape, scale, dtype):
    weight, gradient = (draw(*shape, seed=s).float().double() for s in (0, 1))
    angle, error = fact_cosine(weight, gradient), fact_error(weight, gradient, 0.1)
    large, steep = (scale * m.to(dtype) for m in (weight, gradient))
    rel = 1e-12 if dtype == torch.float64 else 1e-6
    for pair in ((large, gradient), (weight, steep), (large, steep)):
        assert fact_cosine(*pair) == pytest.approx(angle, abs=rel)
    assert fact_error(large, steep, 0.1) == pytest.approx(error, rel=rel)
    expected = scale * dense(weight, gradient, 0.1)[1]
    if scale > 1:
        assert fact_error(weight, steep, 0.1) == pytest.approx(expected, rel=1)
        assert fact_error(large, gradient, 0.1) == pytest.approx(1)


def test_values_whose_squares_overflow_in_float64_are_measured():
    weight, gradient = draw(4, 6), draw(4, 6, seed=1)
    angle, error = fact_cosine(weight, gradient), fact_error(weight, gradient, 0.1)
    for scale in (1e-250, 1e250):
        assert fact_cosine(scale * weight, scale * gradient) == pytest.approx(angle)
        assert fact_error(scale * weight, scale * gradient, 0.1) == pytest.approx(error)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_what_is_undefined_is_nan(shape):
    weight, zeros = draw(*shape), torch.zeros(*shape, dtype=torch.float64)
    assert math.isnan(fact_cosine(zeros, weight))
    assert math.isnan(fact_cosine(weight, zeros))
    assert math.isnan(fact_error(zeros, weight, 0.1))
    assert fact_error(weight, zeros, 0.1) == pytest.approx(1)  # nothing is learnt
    for value in (math.nan, math.inf):
        bad = weight.clone()
        bad[0, 0] = value
        for pair in ((bad, weight), (weight, bad)):
            assert math.isnan(fact_cosine(*pair))
            assert not math.isfinite(fact_error(*pair, 0.1))


def test_replicas_are_measured_one_by_one_and_blocks_as_one_matrix():
    weight, gradient = draw(3, 2, 4, 5), draw(3, 2, 4, 5, seed=1)
    weight[1, 0] *= 1e-20  # one block that is small beside the other
    weight[2] = 0
    angles, errors = fact_cosine(weight, gradient), fact_error(weight, gradient, 0.1)
    assert angles.shape == errors.shape == (3, 2)
    for r in range(2):
        for b in range(2):
            pair = weight[r, b], gradient[r, b]
            assert float(angles[r, b]) == pytest.approx(fact_cosine(*pair), rel=1e-12)
            assert float(errors[r, b]) == pytest.approx(fact_error(*pair, 0.1), rel=1e-12)
        pair = torch.block_diag(*weight[r]), torch.block_diag(*gradient[r])
        angle, error = dense(*pair, 0.1)
        assert float(fact_cosine(weight, gradient, True)[r]) == pytest.approx(angle, rel=1e-11)
        assert float(fact_error(weight, gradient, 0.1, True)[r]) == pytest.approx(error, rel=1e-11)
    assert fact_cosine(weight, gradient, True)[2].isnan()


@pytest.mark.parametrize("decay", [0.0, -1.0, math.nan, math.inf])
def test_a_decay_that_is_no_positive_number_is_refused(decay):
    with pytest.raises(ValueError, match="decay must be a positive number"):
        fact_error(draw(3, 2), draw(3, 2), decay)
    with pytest.raises(ValueError, match="decay must be a positive number"):
        measure(mlp(), BATCHES, decay=decay)


N, CLASSES = 40, 3
X, Y = draw(N, 6), torch.arange(N) % CLASSES
BATCHES = [(X[:15], Y[:15]), (X[15:], Y[15:])]


def build(*layers):
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.5 * draw(*p.shape, seed=i))
    return model


def mlp():
    return build(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, CLASSES))


def cnn():
    """With a convolution of two groups."""
    return build(
        nn.Unflatten(1, (2, 3)),
        nn.Conv1d(2, 4, 2, groups=2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


class Shared(nn.Module):
    """One layer that is passed twice."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = build(nn.Linear(6, 6), nn.Linear(6, CLASSES))

    def forward(self, x):
        return self.head(self.layer(self.layer(x).tanh()).tanh())


def matrix(tensor):
    """A weight as a matrix; that of the convolution of two groups with both as its blocks."""
    if tensor.ndim == 2:
        return tensor
    return torch.block_diag(*tensor.flatten(1).chunk(2))


@pytest.mark.parametrize("build_model", [mlp, cnn, Shared])
def test_measure_has_both_columns_where_a_decay_is_given_and_else_as_before(build_model):
    model, decay = build_model(), 0.7
    weights = {n.removesuffix(".weight"): p for n, p in model.named_parameters() if p.ndim > 1}
    loss = functional.cross_entropy(model(X), Y, reduction="sum")
    gradients = torch.autograd.grad(loss, list(weights.values()))
    table = measure(model, BATCHES, decay=decay)
    assert {row.name for row in table} == set(weights)
    rows = {row.name: row for row in table}
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        angle, error = dense(matrix(weight.detach()), matrix(gradient), decay)
        assert rows[name].fact == pytest.approx(angle, rel=1e-9)
        assert rows[name].fact_error == pytest.approx(error, rel=1e-9)
    assert {"fact", "fact_error"} <= set(str(table).split())
    without = measure(model, BATCHES)
    assert all(math.isnan(row.fact) and math.isnan(row.fact_error) for row in without)
    assert not {"fact", "fact_error"} & set(str(without).split())
    for row, bare in zip(table, without, strict=True):
        assert {k: v for k, v in vars(row).items() if "fact" not in k} == pytest.approx(
            {k: v for k, v in vars(bare).items() if "fact" not in k}, nan_ok=True
        )


def test_a_network_that_is_trained_to_rest_under_decay_has_error_0_and_one_by_another_decay_not():
    model, decay = mlp(), 0.02
    options = {"line_search_fn": "strong_wolfe", "max_iter": 200, "history_size": 50}
    optimizer = torch.optim.LBFGS(
        model.parameters(), tolerance_grad=1e-12, tolerance_change=0.0, **options
    )

    def closure():
        optimizer.zero_grad()
        penalty = sum(p.square().sum() for p in model.parameters())
        loss = functional.cross_entropy(model(X), Y) + decay / 2 * penalty
        loss.backward()
        return loss

    optimizer.step(closure)
    watch = MeasureEvery(1, model, BATCHES, decay=N * decay)  # losses of N samples are summed
    watch(0)
    for row in watch.tables[0]:
        assert row.fact == pytest.approx(1, abs=1e-5)
        assert row.fact_error < 0.005
    for row in measure(model, BATCHES, decay=2 * N * decay):
        assert row.fact_error == pytest.approx(0.5, abs=0.005)
