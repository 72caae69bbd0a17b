"""The product of a layer as matrices: patches cut by hand, autograd, and nested loops."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from cases import draw
from core.virtual import feature_learning_residual
from oracles import difference
from recording import calls_of

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

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
    (call,) = calls_of(layer, images)
    expected = patches_by_hand(layer, images.numpy())
    np.testing.assert_array_equal(call.product.inputs(call.inputs).numpy(), expected)


OTHERS = {
    "Conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (3, 4, 9)),
    "Conv1d, circular": (nn.Conv1d(4, 6, 3, padding=2, padding_mode="circular"), (3, 4, 9)),
    "Conv3d": (nn.Conv3d(2, 3, (2, 3, 1), stride=(1, 2, 1), padding=(0, 1, 2)), (2, 2, 4, 5, 3)),
    "ConvTranspose1d": (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, groups=2), (3, 4, 5)),
    "ConvTranspose2d": (nn.ConvTranspose2d(4, 6, 2, stride=2), (3, 4, 3, 2)),
    "ConvTranspose2d, more": (
        nn.ConvTranspose2d(4, 6, (3, 2), 3, (1, 0), (2, 1), groups=2, dilation=(1, 2)),
        (3, 4, 3, 2),
    ),
    "ConvTranspose3d": (nn.ConvTranspose3d(2, 3, 2, stride=(1, 2, 2)), (2, 2, 2, 3, 2)),
    "Conv1D": (Conv1D(5, 4), (3, 6, 4)),
    "Linear": (nn.Linear(4, 5, bias=False), (2, 3, 5, 4)),
    "Linear of rows": (nn.Linear(4, 5), (7, 4)),
}
LAYERS = {
    **{name: (nn.Conv2d(4, 8, **options), (3, 4, 7, 6)) for name, options in CONVOLUTIONS.items()},
    **OTHERS,
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_equation_holds_and_the_gram_matrix_is_that_of_the_map(name):
    """f = Σ over entries of sin z: H, W and Z belong together, forwards and backwards."""
    layer, shape = LAYERS[name]
    inputs = draw(*shape)
    (call,) = calls_of(layer.double(), inputs)
    product, weight = call.product, call.product.weight(call.weight.detach())
    dz, dw = torch.autograd.grad(call.outputs.sin().sum(), [call.outputs, call.weight])
    h, a = product.inputs(call.inputs), product.outputs(dz) @ weight
    dw = product.weight(dw)
    assert h.shape == a.shape
    assert feature_learning_residual(h, weight, a, dw, blocks=True) < 1e-12
    assert difference(product.outputs(dz).mT @ h, dw) < 1e-12


@pytest.mark.parametrize("name", LAYERS)
def test_moved_features_move_the_outputs_as_the_weight_says(name):
    """Rows of H and of Z belong together: ⟨dZ, W h⟩ = ⟨the layer's transpose of dZ, h⟩."""
    layer, shape = LAYERS[name]
    layer.double()
    inputs = draw(*shape)
    outputs = layer(inputs.requires_grad_())
    dz = draw(*outputs.shape, seed=1)
    (gradient,) = torch.autograd.grad(outputs, inputs, dz)
    (call,) = calls_of(layer, inputs.detach_())
    product, weight = call.product, call.product.weight(call.weight.detach())
    h = product.inputs(call.inputs)
    rows = product.outputs(dz.reshape(call.outputs.shape))
    actual = (rows * (h @ weight.mT)).sum()
    assert float(actual) == pytest.approx(float((gradient * inputs).sum()), rel=1e-10)


def test_a_pixel_of_a_transposed_convolution_adds_a_patch():
    layer = nn.ConvTranspose2d(3, 2, 2, stride=2, bias=False).double()
    pixels = draw(4, 3, 5, 5)
    (call,) = calls_of(layer, pixels)
    (weight,) = call.product.weight(call.weight.detach())
    assert weight.shape == (2 * 2 * 2, 3)
    expected = layer(pixels)[1, :, 4:6, 2:4].detach()  # patches do not overlap
    assert difference((weight @ pixels[1, :, 2, 1]).view(2, 2, 2), expected) < 1e-14


@pytest.mark.parametrize("shape", [(7, 4), (2, 3, 5, 4)])
def test_rows_of_a_linear_layer_are_all_its_leading_axes(shape):
    layer, inputs = nn.Linear(4, 6).double(), draw(*shape)
    (call,) = calls_of(layer, inputs)
    rows = inputs.reshape(1, -1, 4)
    assert torch.equal(call.product.inputs(inputs), rows)
    assert torch.equal(call.product.weight(layer.weight), layer.weight[None])
    expected = rows @ layer.weight.mT + layer.bias
    assert difference(call.product.outputs(layer(inputs)), expected) < 1e-14
