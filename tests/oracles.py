"""Truth computed another way, shared by the tests: plain torch networks, NumPy in float64."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lab.models import CNN


def one_hot(targets, classes=0):
    """Targets (N, c) of class indices (N,) or of a matrix, which is taken as it is; float64."""
    y = np.asarray(targets)
    return np.eye(max(y.max() + 1, classes))[y] if y.ndim == 1 else y.astype(np.float64)


def centred(targets):
    y = one_hot(targets)
    return y - y.mean(0)


def unit_columns(h):
    """Features with columns of unit length, and what they were divided by."""
    norms = np.linalg.norm(h, axis=0)
    norms = np.where(norms > 0, norms, 1)
    return h / norms, norms


def difference(actual, expected):
    """‖actual − expected‖ / ‖expected‖ over all entries, in float64."""
    actual, expected = (
        np.asarray(a.detach().double() if torch.is_tensor(a) else a) for a in (actual, expected)
    )
    assert actual.shape == expected.shape
    return np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-300)


def least_squares_map(features, targets):
    """B of min ‖Y − Ȳ − H B‖ by numpy's least squares; (d, c)."""
    h, norms = unit_columns(features.double().numpy())
    return np.linalg.lstsq(h, centred(targets), rcond=None)[0] / norms[:, None]


def least_squares(features, targets):
    """TL by numpy's least squares."""
    y, b = centred(targets), least_squares_map(features, targets)
    return 1 - ((y - features.double().numpy() @ b) ** 2).sum() / (y**2).sum()


def rank(features):
    """Rank of the centred features, by singular values."""
    h = features.double().numpy()
    varies = h.std(0) > 1e-12 * np.abs(h).max(0)
    return np.linalg.matrix_rank(unit_columns((h - h.mean(0))[:, varies])[0], tol=1e-7)


def chance(features):
    """Mean TL over permutations of targets: of yᵀ P y / yᵀ y, P the projection on the features."""
    h = features.double().numpy()
    left, values, _ = np.linalg.svd(unit_columns(h)[0], full_matrices=False)
    left = left[:, values > 1e-12 * values[0]]
    return ((left**2).sum() - (left.sum(0) ** 2).sum() / len(h)) / (len(h) - 1)


def torch_layers(model, r):
    """Replica r of an MLP or a CNN, composed of torch.nn's own layers; shares no memory with it."""

    def fill(layer, source):
        with torch.no_grad():
            layer.to(source.weight.dtype).weight.copy_(source.weight[r])
            layer.bias.copy_(source.bias[r])
        return layer

    def linear(source):
        return fill(nn.Linear(source.weight.shape[2], source.weight.shape[1]), source)

    if isinstance(model, CNN):
        first, second, third = (
            fill(nn.Conv2d(c.weight.shape[2], c.weight.shape[1], 3, padding=1), c)
            for c in model.convolutions
        )
        layers = [first, nn.MaxPool2d(2), nn.ReLU(), second, nn.ReLU()]
        layers += [third, nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), linear(model.readout)]
        return nn.Sequential(*layers)
    kinds = {functional.gelu: nn.GELU, functional.relu: nn.ReLU, torch.tanh: nn.Tanh}
    activation = kinds[model.activation]
    first, *rest = model.layers
    layers = [nn.Flatten(), linear(first)]
    for layer in rest:
        layers += [activation(), linear(layer)]
    return nn.Sequential(*layers)


@torch.no_grad()
def hidden(network, x):
    """Outputs of every hidden layer of `torch_layers` of an MLP, after its activation."""
    return [network[:stop](x) for stop in range(3, len(network), 2)]


@torch.no_grad()
def score(network, x, y):
    """Accuracy and mean cross-entropy, sample by sample."""
    right, loss = 0, 0.0
    for logits, label in zip(network(x).double().numpy(), y.tolist(), strict=True):
        right += int(logits.argmax()) == label
        loss += np.log(np.exp(logits - logits[label]).sum())
    return right / len(y), loss / len(y)


def extended_linearity(h, y, ridge=0.0):
    """Target Linearity by Gram–Schmidt on [H; √λ I] in extended precision, Y centred."""
    kind = np.longdouble
    columns, y = h.numpy().astype(kind), y.numpy().astype(kind)
    y = y - y.mean(0)
    columns = columns / (np.abs(columns).max(0) if not ridge else kind(1))
    if ridge:
        columns = np.vstack([columns, np.sqrt(kind(ridge)) * np.eye(h.shape[1], dtype=kind)])
        y = np.vstack([y, np.zeros((h.shape[1], y.shape[1]), kind)])
    basis = []
    for column in columns.T:
        for _ in range(3):
            for q in basis:
                column = column - q * (q @ column)
        basis.append(column / np.sqrt(column @ column))
    rest = (y - np.stack(basis, 1) @ (np.stack(basis) @ y))[: len(h)]
    return float(1 - (rest**2).sum() / (y**2).sum())
