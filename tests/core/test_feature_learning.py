"""The Feature Learning Equation in every layer of real networks, its gradients by autograd."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from core.calls import recorded
from core.virtual import feature_learning_residual
from recording import Kept


def small_bert() -> nn.Module:
    """A transformer encoder with tokens, attention and a head on the first token."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(30, 16)
            layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, "gelu", batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(16, 5)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.encoder(self.embed(tokens))[:, 0])

    return Encoder()


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


def residual_network() -> nn.Module:
    """Batch normalisation in training mode, a depthwise convolution and a skip connection."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
            self.pointwise = nn.Conv2d(8, 8, 1, bias=False)
            self.first, self.second = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

        def forward(self, h: Tensor) -> Tensor:
            z = self.second(self.pointwise(self.first(self.depthwise(h)).relu_()))
            return (h + z).relu_()

    stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(stem, nn.BatchNorm2d(8), nn.ReLU(), Block(), *pooled, nn.Linear(8, 5))


def cross_entropy(output: Tensor, x: Tensor) -> Tensor:
    return functional.cross_entropy(output, torch.arange(len(output)) % output.shape[1])


def squares(output: Tensor, x: Tensor) -> Tensor:
    targets = torch.arange(output.numel()).view_as(output) / output.numel()
    return (output - targets).square().mean()


IMAGES = (16, 3, 16, 16)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable, tuple[int, ...] | None]] = {
    "MLP, cross-entropy": (mlp, cross_entropy, (40, 20)),
    "MLP, squares": (mlp, squares, (40, 20)),
    "CNN": (cnn, cross_entropy, IMAGES),
    "residual network": (residual_network, cross_entropy, IMAGES),
    "transformer": (small_bert, cross_entropy, None),
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
        x = torch.randint(30, (12, 9)) if shape is None else torch.randn(shape, dtype=dtype)
        results = dict(residuals(model, loss, x))
        assert len(results) >= 3
        assert {layer: r for layer, r in results.items() if not r < bound} == {}


@pytest.mark.slow
def test_the_feature_learning_equation_holds_in_every_layer_of_a_shufflenet():
    from torchvision.models import shufflenet_v2_x0_5  # takes a second

    torch.manual_seed(0)
    model = shufflenet_v2_x0_5(num_classes=5).double()
    results = dict(residuals(model, cross_entropy, torch.randn(4, 3, 32, 32).double()))
    assert len(results) == 57
    assert max(results.values()) < 1e-10
