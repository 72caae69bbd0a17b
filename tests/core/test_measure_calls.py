"""`measure` with batches, outputs and calls of every form, and layers called at several sizes."""

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BatchEncoding
from transformers.modeling_outputs import SequenceClassifierOutput

from cases import draw
from core.gram import cosine
from core.layer_table import LayerTable
from core.linearity import target_linearity
from core.measure import measure

N, CLASSES = 60, 4
X, Y = draw(N, 6), torch.arange(N) % CLASSES


class Net(nn.Module):
    """Two layers; what it returns is told."""

    def __init__(self, returns: Callable[[Tensor, Tensor], Any] = lambda z, h: z) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(6, 8).double(), nn.Linear(8, CLASSES).double()
        self.returns = returns

    def forward(self, x: Tensor, scale: Tensor | float = 1.0) -> Any:
        h = self.body(input=x * scale).tanh()
        return self.returns(self.head(h), h)


def parts(x: Tensor = X) -> list[tuple[Tensor, Tensor]]:
    return [(x[:25], Y[:25]), (x[25:], Y[25:])]


EXPECTED = str(measure(Net(), parts()))
Pair = namedtuple("Pair", "image label")
ONE = torch.ones(1)
BATCHES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a list": lambda x, y: [x, y],
    "a named tuple": Pair,
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "labels": lambda x, y: {"x": x, "labels": y},
    "label": lambda x, y: {"x": x, "label": y},
    "label_ids": lambda x, y: {"x": x, "label_ids": y.tolist()},
    "an encoding": lambda x, y: BatchEncoding({"x": x, "labels": y}),
    "keywords": lambda x, y: ({"x": x, "scale": 1.0}, y),
    "several inputs": lambda x, y: ((x, ONE), y),
    "a list of inputs": lambda x, y: ([x, ONE], y),
}


@pytest.mark.parametrize("form", BATCHES.values(), ids=BATCHES)
def test_batches_of_any_form_are_measured_alike(form: Callable[[Tensor, Tensor], Any]) -> None:
    assert str(measure(Net(), [form(*part) for part in parts()])) == EXPECTED


OUTPUTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "logits": lambda z, h: {"logits": z, "hidden": h},
    "attribute": lambda z, h: SequenceClassifierOutput(logits=z),
    "first of three": lambda z, h: (z, h, None),
    "a list": lambda z, h: [z],
}


@pytest.mark.parametrize("returns", OUTPUTS.values(), ids=OUTPUTS)
def test_outputs_of_any_form_are_measured_alike(returns: Callable) -> None:
    assert str(measure(Net(returns), parts())) == EXPECTED


def test_where_the_prediction_is_can_be_said() -> None:
    model = Net(lambda z, h: {"scores": z, "hidden": h})
    assert str(measure(model, parts(), output=lambda out: out["scores"])) == EXPECTED


REFUSED: dict[str, tuple[nn.Module, list, str]] = {
    "outputs without logits": (
        Net(lambda z, h: {"scores": z, "hidden": h}),
        parts(),
        r"outputs scores, hidden: .* output=lambda o: o\['…'\]",
    ),
    "no tensor": (Net(lambda z, h: None), parts(), "the prediction is a NoneType: .* output="),
    "classes for a prediction": (Net(lambda z, h: z.argmax(1)), parts(), "int64 tensor"),
    "three parts": (Net(), [(X, X, Y)], r"not 3 parts: several inputs are \(\(x1, x2\), y\)"),
    "no labels": (Net(), [{"x": X, "targets": Y}], "keys x, targets needs one of .*labels"),
    "a tensor": (Net(), [X], "not Tensor"),
}


@pytest.mark.parametrize(("model", "batches", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_with_the_remedy(model, batches, message) -> None:
    with pytest.raises(ValueError, match=message) as error:
        measure(model, batches)
    assert "\n" not in str(error.value)


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of \('exact', 'pool', 'project'\), not 'mean'"):
        measure(Net(), parts(), reduction="mean")


@pytest.mark.parametrize("loss", [lambda z, y: (z - 1).square(), lambda z, y: 3.0])
def test_a_loss_that_is_not_one_number_in_the_graph_is_refused(loss: Callable) -> None:
    with pytest.raises(ValueError, match="the loss is to be one number"):
        measure(Net(), parts(), loss=loss)


def test_a_loss_of_ones_own_is_given_the_prediction_and_the_targets_of_the_batch() -> None:
    seen = []

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        seen.append((outputs.shape, y.shape))
        return functional.cross_entropy(outputs, y[:, 0], reduction="sum")

    batches = [(x, y[:, None]) for x, y in parts()]
    assert str(measure(Net(), batches, loss=loss)) == EXPECTED
    assert seen == [((25, CLASSES), (25, 1)), ((35, CLASSES), (35, 1))]


class Pyramid(nn.Module):
    """One convolution on maps of two sizes, as detection heads have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(3, CLASSES)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.conv(x), self.conv(functional.max_pool2d(x, 2))]
        return self.head(sum(part.relu().mean((2, 3)) for part in maps))


def row(table: LayerTable, name: str):
    return next(row for row in table if row.name == name)


def test_both_calls_of_a_convolution_on_maps_of_two_sizes_count() -> None:
    model, x = Pyramid(), draw(N, 2, 6, 6)
    conv = row(measure(model, parts(x), reduction="pool"), "conv")
    small = functional.max_pool2d(x, 2)
    pooled = torch.cat([x.mean((2, 3)), small.mean((2, 3))])
    assert conv.n == 2 * N
    assert conv.tl_in == pytest.approx(target_linearity(pooled, Y.repeat(2)), rel=1e-9)
    assert conv.residual < 1e-12
    loss = functional.cross_entropy(model(x), Y, reduction="sum")
    (dw,) = torch.autograd.grad(loss, model.conv.weight)  # of both calls
    w, dw = model.conv.weight.detach().flatten(1), dw.flatten(1)
    a = w.mT @ dw
    assert conv.cosine_vc == pytest.approx(cosine(w.mT @ w, -(a + a.mT)), rel=1e-9)


def test_maps_of_two_sizes_side_by_side_are_refused_by_name() -> None:
    message = "conv: maps of 72 and of 18 dimensions; take reduction 'pool'"
    with pytest.raises(ValueError, match=message):
        measure(Pyramid(), parts(draw(N, 2, 6, 6)))


def test_batches_of_images_of_two_sizes_are_pooled() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=1)
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES))
    model.double()
    batches = [(draw(40, 2, 6, 6), Y[:40]), (draw(20, 2, 4, 5, seed=1), Y[40:])]
    first, _ = measure(model, batches, reduction="pool")
    pooled = torch.cat([x.mean((2, 3)) for x, _ in batches])
    assert first.tl_in == pytest.approx(target_linearity(pooled, Y), rel=1e-9)
    assert 0 < first.residual < 1e-12
    with pytest.raises(ValueError, match="0: maps of 72 and of 40 dimensions"):
        measure(model, batches)


class Kinds(nn.Module):
    """Every kind of convolution, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.up = nn.Conv1d(2, 4, 3, padding=1), nn.ConvTranspose1d(4, 2, 2, stride=2)
        self.three = nn.Conv3d(1, 2, 2, padding_mode="circular", padding=1)
        self.head = nn.Linear(2, CLASSES)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(self.one(x).tanh())  # (N, 2, 8)
        maps = self.three(h.view(-1, 1, 2, 2, 4))
        return self.head(maps.tanh().mean((2, 3, 4)))


def test_convolutions_of_any_number_of_axes_and_transposed_ones_are_measured() -> None:
    model, x = Kinds(), draw(N, 2, 4)
    table = measure(model, parts(x))
    assert [row.kind for row in table] == ["Conv1d", "ConvTranspose1d", "Conv3d", "Linear"]
    assert [(row.d, row.m) for row in table] == [(6, 4), (4, 4), (8, 2), (2, 4)]
    assert all(0 < row.residual < 1e-12 for row in table)
    assert table.notes == {}
    h = model.up(model.one(x).tanh()).detach()
    assert table[1].tl_out == pytest.approx(target_linearity(h.flatten(1), Y), rel=1e-9)
    maps = h.view(-1, 1, 2, 2, 4)  # as they are given, without what the layer pads
    assert table[2].tl_in == pytest.approx(target_linearity(maps.flatten(1), Y), rel=1e-9)


def test_time_first_is_not_taken_for_samples() -> None:
    """(T, N, d): five steps of 60 samples."""

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body, self.head = nn.Linear(2, 8).double(), nn.Linear(8, CLASSES).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x.transpose(0, 1)).tanh().mean(0))

    table = measure(Steps(), [(draw(N, 5, 2), Y)])
    body, head = table
    assert (body.n, head.n) == (0, N)
    assert body.tl_in != body.tl_in  # nan
    assert 0 < body.residual < 1e-12
    assert any(
        note.startswith("no Target Linearity of inputs, features (5, 60)") for note in table.notes
    )


class Returning(nn.Linear):
    """A linear layer that makes something of its product."""

    def __init__(self, make) -> None:
        super().__init__(6, 4)
        self.make = make
        self.a, self.b = (nn.Parameter(draw(*shape)) for shape in ((6, 2), (2, 4)))

    def forward(self, x: Tensor) -> Tensor:
        return self.make(self, x, super().forward(x))


def in_inference_mode(layer: Returning, x: Tensor, z: Tensor) -> Tensor:
    with torch.inference_mode():
        z = functional.linear(x.clone(), layer.weight)
        z += 1
    return z


OTHERS = {
    "low rank beside it": lambda layer, x, z: z + x @ layer.a @ layer.b,
    "in place": lambda _, x, z: z.add_(1),
    "a view in place": lambda _, x, z: z[:, :2].mul_(2) is None or z,
    "scaled": lambda _, x, z: 2 * z,
    "an activation": lambda _, x, z: z.relu(),
    "another layer": lambda layer, x, z: functional.softmax(z, 1),
    "columns exchanged": lambda _, x, z: z.flip(1),
    "in inference mode": in_inference_mode,
}
THE_SAME = {
    "the product": lambda _, x, z: z,
    "a view": lambda _, x, z: z.view(-1, 2, 2).flatten(1),
    "a copy": lambda _, x, z: z.clone(),
    "times one": lambda _, x, z: 1.0 * z,
    "dropout of evaluation": lambda _, x, z: functional.dropout(z, 0.5, False),
}


@pytest.mark.parametrize("make", [*OTHERS.values(), *THE_SAME.values()], ids=[*OTHERS, *THE_SAME])
def test_a_layer_that_returns_more_than_its_product_is_noted(make) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), Returning(make), nn.Linear(4, CLASSES)).double()
    table = measure(model, [(X, Y)])
    notes = [names for note, names in table.notes.items() if "returns another" in note]
    assert notes == ([["1"]] if make in OTHERS.values() else [])


def test_a_layer_inside_of_another_is_compared_with_its_own_product() -> None:
    class Outer(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 4)
            self.inner = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.inner(x).tanh())

    class After(Outer):
        def forward(self, x: Tensor) -> Tensor:
            z = functional.linear(x, self.weight)
            return z + self.inner(x)[:, :4]

    for outer, noted in ((Outer(), []), (After(), ["0"])):
        model = nn.Sequential(outer, nn.Linear(4, CLASSES)).double()
        table = measure(model, [(X, Y)])
        names = [n for note, ns in table.notes.items() for n in ns if "returns another" in note]
        assert names == noted
