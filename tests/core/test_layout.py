"""Layouts of weights against the layers' own linear maps, read off their outputs."""

import copy

import pytest
import scipy.linalg
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from cases import draw
from core.gram import GramWhitening
from core.layout import Layout, model_layouts
from oracles import difference

# a layer, and the shape of one sample: a convolution's is one patch, a transposed one's one pixel
LAYERS = {
    "Linear": (lambda: nn.Linear(7, 4), (7,)),
    "convolution": (lambda: nn.Conv2d(3, 5, (2, 3)), (3, 2, 3)),
    "two groups": (lambda: nn.Conv2d(6, 8, 2, groups=2), (6, 2, 2)),
    "two groups, tall": (lambda: nn.Conv1d(4, 10, 1, groups=2), (4, 1)),
    "depthwise": (lambda: nn.Conv1d(3, 6, 3, groups=3), (3, 3)),
    "transposed convolution": (lambda: nn.ConvTranspose2d(5, 3, 2), (5, 1, 1)),
    "transposed, two groups": (lambda: nn.ConvTranspose1d(8, 4, 3, groups=2), (8, 1)),
    "transformers' Conv1D": (lambda: Conv1D(4, 7), (7,)),
}


def linear_map(layer, shape):
    """The matrix (outputs, inputs) of a layer without its bias, from unit inputs."""
    size = torch.Size(shape).numel()
    units = torch.eye(size, dtype=torch.float64).view(size, *shape)
    with torch.no_grad():
        return (layer(units) - layer(0 * units)).flatten(1).T.numpy()


def nearest(before, after):
    """The matrix with the Gram of `after` that is nearest to `before`, by SciPy in float64."""
    return scipy.linalg.orthogonal_procrustes(after.T, before.T)[0].T @ after


def after_a_step(model, whiten=True, layouts=model_layouts):
    """A copy of a model after a step on noise; `layouts`: model -> those of its parameters."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if whiten:
        GramWhitening(optimizer, layouts=layouts(model))
    for seed, p in enumerate(model.parameters()):
        p.grad = draw(*p.shape, seed=seed)
    optimizer.step()
    return model


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layers_map_becomes_the_nearest_with_the_gram_of_the_plain_step(kind):
    make, shape = LAYERS[kind]
    layer = make().double()
    models = (layer, after_a_step(layer, whiten=False), after_a_step(layer))
    before, plain, whitened = (linear_map(model, shape) for model in models)
    assert difference(whitened.T @ whitened, plain.T @ plain) < 1e-12
    assert difference(whitened, nearest(before, plain)) < 1e-9
    if kind != "depthwise":  # of one row all but the length is kept
        assert difference(whitened, plain) > 1e-3


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_replicas_and_memory_formats_of_groups_are_whitened_alike(format):
    layers = [nn.Conv2d(6, 8, 3, groups=2).double() for _ in range(3)]
    stacked = nn.Module()
    stacked.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
    expected = [after_a_step(layer.to(memory_format=format)) for layer in layers]
    optimizer = torch.optim.SGD(stacked.parameters(), lr=0.1)
    GramWhitening(optimizer, batch_dims=1, layouts={stacked.weight: Layout(groups=2)})
    stacked.weight.grad = draw(*layers[0].weight.shape).repeat(3, 1, 1, 1, 1)
    optimizer.step()
    for weight, layer in zip(stacked.weight, expected, strict=True):
        assert difference(weight, layer.weight) < 1e-10


def test_rows_may_be_several_axes_in_any_order_and_are_written_where_they_were_read():
    parameter = draw(2, 6, 3, 5)  # two replicas of three groups
    layout = Layout(rows=(2, 0), groups=3)
    matrices = layout.read(parameter, batch_dims=1)
    assert matrices.shape == (2, 3, 10, 3)
    for r, group, i, j, k in torch.cartesian_prod(*map(torch.arange, (2, 3, 5, 2, 3))).tolist():
        assert matrices[r, group, 2 * i + j, k] == parameter[r, 2 * group + j, k, i]
    written = torch.zeros_like(parameter)
    layout.write(written, matrices, batch_dims=1)
    assert torch.equal(written, parameter)


class Text(nn.Module):
    """An embedding, its weight tied to the read-out, positions and normalised maps."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 4)
        self.bags = nn.EmbeddingBag(9, 4)
        self.norm = nn.LayerNorm((3, 4))
        self.hidden = nn.Linear(4, 4)
        self.readout = nn.Linear(4, 9, bias=False)
        self.readout.weight = self.words.weight


def test_embeddings_and_normalisations_take_plain_steps():
    model = Text().double()
    plain, whitened = after_a_step(model, whiten=False), after_a_step(model)
    expected = dict(plain.named_parameters())
    for name, p in whitened.named_parameters():
        assert torch.equal(p, expected[name]) == (name != "hidden.weight"), name


def test_an_embedding_that_is_asked_for_is_a_layer_of_one_hot_words():
    def with_words(model):
        return model_layouts(model) | {model.words.weight: Layout(rows=(1,))}

    model = Text().double()
    models = (model, after_a_step(model, whiten=False), after_a_step(model, layouts=with_words))
    before, plain, whitened = (m.words(torch.arange(9)).detach().T.numpy() for m in models)
    assert difference(whitened, nearest(before, plain)) < 1e-9
    assert difference(whitened, plain) > 1e-3


def test_parameters_without_a_layout_take_plain_steps():
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double()
    plain = after_a_step(model, whiten=False)
    whitened = after_a_step(model, layouts=lambda model: {model[1].weight: Layout()})
    assert torch.equal(whitened[0].weight, plain[0].weight)
    assert not torch.equal(whitened[1].weight, plain[1].weight)


def test_layouts_of_a_plain_network_are_what_is_assumed_without_any():
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Linear(5, 4), nn.MultiheadAttention(4, 2))
    matrices = {p for p in model.parameters() if p.ndim > 1}
    assert model_layouts(model) == dict.fromkeys(matrices, Layout())


def only_biases():
    return [nn.Linear(3, 2).bias]


@pytest.mark.parametrize(
    ("parameters", "options", "message"),
    [
        (only_biases, {}, "has 2 or more axes$"),
        (nn.Linear(3, 2).parameters, {"batch_dims": 1}, "has 3 or more axes$"),
        (nn.Linear(3, 2).parameters, {"layouts": {}}, "has 2 or more axes and a layout$"),
        # such as of a copy of the model
        (nn.Linear(3, 2).parameters, {"layouts": model_layouts(nn.Linear(3, 2))}, "and a layout$"),
    ],
)
def test_no_weight_to_whiten_is_an_error_and_attaches_nothing(parameters, options, message):
    optimizer = torch.optim.SGD(parameters())
    with pytest.raises(ValueError, match=f"^no weight to whiten: none .* {message}"):
        GramWhitening(optimizer, **options)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
