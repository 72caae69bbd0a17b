"""Features, outputs and weights of a layer as matrices: patches cut by hand, and autograd."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cases import draw
from core.layers import layer_features, layer_rows, layer_weight
from core.virtual import feature_learning_residual
from oracles import difference

PADDING = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def patches_by_hand(layer: nn.Conv2d, images: np.ndarray) -> np.ndarray:
    """(groups, N·positions, c/groups·k·k) of a convolution, pixel by pixel."""
    if layer.padding == "same":
        total = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        sides = [(t // 2, t - t // 2) for t in total]
    else:
        padding = (0, 0) if layer.padding == "valid" else layer.padding
        sides = [(p, p) for p in padding]
    padded = np.pad(images, ((0, 0), (0, 0), *sides), mode=PADDING[layer.padding_mode])
    spans = [d * (k - 1) + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    starts = [
        range(0, n - span + 1, s)
        for n, span, s in zip(padded.shape[2:], spans, layer.stride, strict=True)
    ]
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
    return nn.Conv2d(4, 8, **CONVOLUTIONS[request.param]).double(), draw(3, 4, 7, 6)


def test_patches_are_those_cut_by_hand(convolution):
    layer, images = convolution
    expected = patches_by_hand(layer, images.numpy())
    np.testing.assert_array_equal(layer_features(layer, images).numpy(), expected)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_a_convolution_is_a_linear_layer_on_patches_forwards_and_backwards(convolution):
    layer, images = convolution
    outputs = layer(images)
    features = layer_features(layer, images).requires_grad_()
    z = features @ layer_weight(layer, layer.weight).mT  # (g, N·positions, m)
    if layer.bias is not None:
        z = z + layer.bias.unflatten(0, (layer.groups, 1, -1))
    assert difference(layer_rows(layer, outputs), z) < 1e-12

    dz, dw = torch.autograd.grad(outputs.sin().sum(), [outputs, layer.weight])
    (expected,) = torch.autograd.grad(z.sin().sum(), features)
    weight = layer_weight(layer, layer.weight.detach())
    gradient = layer_rows(layer, dz) @ weight
    assert difference(gradient, expected) < 1e-12
    dw = layer_weight(layer, dw)
    assert feature_learning_residual(features.detach(), weight, gradient, dw, blocks=True) < 1e-12


@pytest.mark.parametrize("shape", [(7, 4), (2, 3, 5, 4)])
def test_rows_of_a_linear_layer_are_all_its_leading_axes(shape):
    layer, inputs = nn.Linear(4, 6).double(), draw(*shape)
    rows = inputs.reshape(1, -1, 4)
    assert torch.equal(layer_features(layer, inputs), rows)
    assert torch.equal(layer_weight(layer, layer.weight), layer.weight[None])
    expected = rows @ layer.weight.mT + layer.bias
    assert difference(layer_rows(layer, layer(inputs)), expected) < 1e-14


@pytest.mark.parametrize(
    "layer", [nn.Conv1d(2, 3, 1), nn.ConvTranspose2d(2, 3, 1), nn.Embedding(3, 2)]
)
def test_other_kinds_of_layers_are_refused(layer):
    for function in (layer_features, layer_rows, layer_weight):
        with pytest.raises(TypeError, match=f"not {type(layer).__name__}"):
            function(layer, torch.zeros(1, 2, 3, 3))
