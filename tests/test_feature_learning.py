"""The Feature Learning Equation in every layer of real networks, its gradients by autograd, and patches by hand."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18
from torchvision.ops import MLP as TorchvisionMLP

from core.virtual import feature_learning_residual, layer_features, layer_rows, layer_weight


def patches_by_hand(layer: nn.Conv2d, images: np.ndarray) -> np.ndarray:
    """(groups, N·positions, c/groups·k·k) of a convolution, pixel by pixel."""
    if layer.padding == "same":
        total = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        sides = [(t // 2, t - t // 2) for t in total]
    else:
        padding = (0, 0) if layer.padding == "valid" else layer.padding
        sides = [(p, p) for p in padding]
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[layer.padding_mode]
    padded = np.pad(images, ((0, 0), (0, 0), *sides), mode=mode)
    spans = [d * (k - 1) + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    starts = [range(0, n - span + 1, s) for n, span, s in zip(padded.shape[2:], spans, layer.stride, strict=True)]
    each = layer.in_channels // layer.groups
    rows = []
    for group in range(layer.groups):
        for image, i, j in itertools.product(padded, *starts):
            pixels = [
                image[channel, i + a * layer.dilation[0], j + b * layer.dilation[1]]
                for channel in range(group * each, (group + 1) * each)
                for a in range(layer.kernel_size[0])
                for b in range(layer.kernel_size[1])
            ]
            rows.append(pixels)
    return np.array(rows).reshape(layer.groups, -1, len(rows[0]))


CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "padded": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "oblong": {"kernel_size": (2, 3), "padding": (1, 0), "stride": (1, 2), "dilation": (2, 1)},
    "same": {"kernel_size": (4, 3), "padding": "same"},
    "valid": {"kernel_size": 2, "padding": "valid"},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 4},
    "one by one": {"kernel_size": 1, "stride": 2, "bias": False},
    **{
        mode: {"kernel_size": 3, "padding": (2, 1), "padding_mode": mode}
        for mode in ("reflect", "replicate", "circular")
    },
    "same reflected": {"kernel_size": (2, 3), "padding": "same", "padding_mode": "reflect"},
}


@pytest.fixture(params=CONVOLUTIONS)
def convolution(request: pytest.FixtureRequest) -> tuple[nn.Conv2d, Tensor]:
    torch.manual_seed(0)
    return nn.Conv2d(4, 8, **CONVOLUTIONS[request.param]).double(), torch.randn(3, 4, 7, 6, dtype=torch.float64)


def test_patches_are_those_cut_by_hand(convolution):
    layer, images = convolution
    np.testing.assert_array_equal(layer_features(layer, images).numpy(), patches_by_hand(layer, images.numpy()))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_rows_times_kernels_are_the_layers_output(convolution):
    layer, images = convolution
    z = layer_rows(layer, layer(images))  # (g, N·positions, m)
    expected = layer_features(layer, images) @ layer_weight(layer, layer.weight).mT
    if layer.bias is not None:
        expected = expected + layer.bias.unflatten(0, (layer.groups, 1, -1))
    torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-12)


def small_bert() -> nn.Module:
    """A transformer encoder with tokens, attention and a head on the first token."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(30, 16)
            layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, activation="gelu", batch_first=True)
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
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1), dtype=mean.dtype)
        return self.decoder(mean + noise * (log_variance / 2).exp()), mean, log_variance


def elbo(output: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    logits, mean, log_variance = output
    bce = functional.binary_cross_entropy_with_logits(logits, x.flatten(1).sigmoid(), reduction="sum")
    return (bce + (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2) / len(x)


def cnn() -> nn.Module:
    first = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")
    second = nn.Conv2d(8, 6, 3, stride=2, groups=2)
    return nn.Sequential(first, nn.ReLU(), second, nn.GELU(), nn.Flatten(), nn.Linear(6 * 7 * 7, 5))


def cross_entropy(output: Tensor, x: Tensor) -> Tensor:
    return functional.cross_entropy(output, torch.arange(len(output)) % output.shape[1])


def squares(output: Tensor, x: Tensor) -> Tensor:
    return (output - torch.arange(output.numel()).view_as(output) / output.numel()).square().mean()


IMAGES = (16, 3, 16, 16)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable, tuple[int, ...] | None]] = {
    "MLP, cross-entropy": (lambda: TorchvisionMLP(20, [16, 12, 5], activation_layer=nn.GELU), cross_entropy, (40, 20)),
    "MLP, squares": (lambda: TorchvisionMLP(20, [16, 12, 5], activation_layer=nn.GELU), squares, (40, 20)),
    "CNN, cross-entropy": (cnn, cross_entropy, IMAGES),
    "CNN, squares": (cnn, squares, IMAGES),
    "ResNet-18": (lambda: resnet18(num_classes=7), cross_entropy, (4, 3, 32, 32)),
    "transformer": (small_bert, cross_entropy, None),
    "VAE": (Autoencoder, elbo, (30, 1, 8, 8)),
}


def residuals(model: nn.Module, loss: Callable, x: Tensor) -> Iterator[tuple[str, float]]:
    """Name and residual of every Linear and Conv2d that is called, its gradients by autograd."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Callable:
        return lambda _, inputs, output: seen.update({name: (inputs[0].detach(), output)})

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    value = loss(model(x), x)
    for handle in handles:
        handle.remove()
    called = list(seen)
    of_outputs = torch.autograd.grad(value, [seen[name][1] for name in called], retain_graph=True)
    of_weights = torch.autograd.grad(value, [layers[name].weight for name in called])
    for name, of_output, of_weight in zip(called, of_outputs, of_weights, strict=True):
        layer, weight = layers[name], layer_weight(layers[name], layers[name].weight.detach())
        gradient = layer_rows(layer, of_output) @ weight  # A (g, N, d)
        features = layer_features(layer, seen[name][0])
        yield name, feature_learning_residual(features, weight, gradient, layer_weight(layer, of_weight))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_feature_learning_equation_holds_in_every_layer(name, dtype, bound):
    torch.manual_seed(0)
    build, loss, shape = NETWORKS[name]
    model = build().to(dtype)
    x = torch.randint(30, (12, 9)) if shape is None else torch.randn(shape, dtype=dtype)
    found = dict(residuals(model, loss, x))
    assert len(found) >= 3
    assert {layer: r for layer, r in found.items() if not r < bound} == {}


def test_the_residual_of_other_weights_gradients_is_not_small():
    torch.manual_seed(0)
    features, weight, gradient = torch.randn(1, 30, 4), torch.randn(1, 6, 4), torch.randn(1, 30, 4)
    assert feature_learning_residual(features, weight, gradient, torch.randn(1, 6, 4)) > 0.1


def test_the_residual_where_nothing_is_learnt_is_zero():
    zeros = torch.zeros(1, 5, 3)
    assert feature_learning_residual(torch.ones(1, 5, 3), torch.ones(1, 2, 3), zeros, torch.zeros(1, 2, 3)) == 0


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_gradients_by_rows_are_those_by_autograd_of_the_patches(convolution):
    layer, images = convolution
    features = layer_features(layer, images).requires_grad_()
    weight = layer_weight(layer, layer.weight.detach())
    (features @ weight.mT).square().sum().backward()  # the layer as a product of matrices
    z = layer(images) - (0 if layer.bias is None else layer.bias.view(-1, 1, 1))
    torch.testing.assert_close(layer_rows(layer, 2 * z) @ weight, features.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layer", [nn.Conv1d(2, 3, 1), nn.ConvTranspose2d(2, 3, 1), nn.Embedding(3, 2)])
def test_other_kinds_of_layers_are_refused(layer):
    for function in (layer_features, layer_rows, layer_weight):
        with pytest.raises(TypeError, match=f"not {type(layer).__name__}"):
            function(layer, torch.zeros(1, 2, 3, 3))
