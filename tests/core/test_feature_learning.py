"""The Feature Learning Equation in every layer of real networks, its gradients by autograd."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from core.calls import recorded
from core.virtual import feature_learning_residual
from recording import Kept


class Autoencoder(nn.Module):
    """A variational autoencoder that returns logits, mean and log-variance."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, -1)
        g = torch.Generator().manual_seed(1)
        noise = torch.randn(mean.shape, generator=g, dtype=mean.dtype)
        return self.decoder(mean + noise * (log_variance / 2).exp()), mean, log_variance


def elbo(output: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    logits, mean, log_variance = output
    pixels = x.flatten(1).sigmoid()
    bce = functional.binary_cross_entropy_with_logits(logits, pixels, reduction="sum")
    return (bce + (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2) / len(x)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 16), nn.GELU(), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 5)
    )


def cnn() -> nn.Module:
    first = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")
    second = nn.Conv2d(8, 6, 3, stride=2, groups=2)
    last = nn.Linear(6 * 7 * 7, 5)
    return nn.Sequential(first, nn.ReLU(), second, nn.GELU(), nn.Flatten(), last)


def cross_entropy(output: Tensor, x: Tensor) -> Tensor:
    return functional.cross_entropy(output, torch.arange(len(output)) % output.shape[1])


def squares(output: Tensor, x: Tensor) -> Tensor:
    targets = torch.arange(output.numel()).view_as(output) / output.numel()
    return (output - targets).square().mean()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable, tuple[int, ...]]] = {
    "MLP, cross-entropy": (mlp, cross_entropy, (40, 20)),
    "MLP, squares": (mlp, squares, (40, 20)),
    "CNN": (cnn, cross_entropy, (16, 3, 16, 16)),
    "VAE": (Autoencoder, elbo, (30, 1, 8, 8)),
}


def residuals(model: nn.Module, loss: Callable, x: Tensor) -> Iterator[tuple[str, float]]:
    """Name and residual of every Linear and Conv2d that is called, its gradients by autograd."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    kept = {layer: Kept() for layer in layers.values()}
    with recorded(kept):
        value = loss(model(x), x)
    for name, layer in layers.items():
        for call in kept[layer].calls:
            product, weight = call.product, call.product.weight(call.weight.detach())
            dz, dw = torch.autograd.grad(value, [call.outputs, call.weight], retain_graph=True)
            features = product.inputs(call.inputs)  # H (g, N, d)
            gradient = product.outputs(dz) @ weight  # A (g, N, d)
            sides = features, weight, gradient, product.weight(dw)
            yield name, feature_learning_residual(*sides, blocks=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_feature_learning_equation_holds_in_every_layer(name):
    build, loss, shape = NETWORKS[name]
    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        torch.manual_seed(0)
        model = build().to(dtype)
        results = dict(residuals(model, loss, torch.randn(shape, dtype=dtype)))
        assert len(results) >= 3
        assert {layer: r for layer, r in results.items() if not r < bound} == {}
