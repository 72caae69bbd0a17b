"""`measure` sees a layer by the weight that its inputs meet, and by this layer's calls alone."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.ao.nn import qat
from torch.ao.quantization import get_default_qat_qconfig
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

from cases import draw
from core.gram import cosine, effective_rank, weight_gram
from core.layer_table import LayerRow
from core.measure import measure

N, CLASSES = 60, 4
X, Y = draw(N, 6), torch.arange(N) % CLASSES


def shift_cosine(weight: Tensor, h: Tensor, dz: Tensor) -> float:
    """Of G and −(AᵀH + HᵀA), A = dZ W."""
    a = dz @ weight
    return cosine(weight_gram(weight), -(a.mT @ h + h.mT @ a))


def measured(model: nn.Module, name: str, x: Tensor = X) -> LayerRow:
    table = measure(model, [(x[:25], Y[:25]), (x[25:], Y[25:])])
    (row,) = [row for row in table if row.name == name]
    return row


class Tied(nn.Module):
    """Words are embedded, mixed, and read out by the embedding's own weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix = nn.Embedding(CLASSES, 5), nn.Linear(5, 5)
        self.head = nn.Linear(5, CLASSES, bias=False)
        self.head.weight = self.embed.weight
        self.double()

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(words).mean(1)).tanh())


@pytest.mark.filterwarnings("ignore:NC1 so near to zero")  # a class is one sequence of words
def test_an_output_tied_to_the_embedding_has_the_gradient_of_the_output() -> None:
    model, words = Tied(), torch.stack([Y, Y.roll(1), Y.roll(7)], 1)
    row = measured(model, "head", words)
    h = model.mix(model.embed(words).mean(1)).tanh().detach()
    weight = model.head.weight.detach()
    dz = functional.one_hot(Y, CLASSES).double()
    dz = (h @ weight.mT).softmax(1) - dz
    assert 0 < row.residual < 1e-12
    assert row.cosine_vc == pytest.approx(shift_cosine(weight, h, dz), rel=1e-9)
    total = torch.autograd.grad(
        functional.cross_entropy(model(words), Y, reduction="sum"), model.head.weight
    )[0]
    assert abs(weight.mT @ total - weight.mT @ dz.mT @ h).max() > 1  # what autograd has for it


def test_a_weight_that_is_used_twice_in_one_layer_counts_both_calls() -> None:
    class Functional(nn.Module):
        """Once by the layer, once past it."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.head = nn.Linear(6, 6).double(), nn.Linear(6, CLASSES).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(functional.linear(self.layer(x).tanh(), self.layer.weight))

    model = Functional()
    row = measured(model, "layer")
    z = model.layer(X).detach().requires_grad_()
    outputs = model.head(functional.linear(z.tanh(), model.layer.weight))
    (dz,) = torch.autograd.grad(functional.cross_entropy(outputs, Y, reduction="sum"), z)
    assert row.n == N
    assert row.residual < 1e-12
    expected = shift_cosine(model.layer.weight.detach(), X, dz)
    assert row.cosine_vc == pytest.approx(expected, rel=1e-9)


class Standardised(nn.Conv2d):
    """Weight standardisation (Qiao et al., 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return functional.conv2d(x, w, self.bias, self.stride, self.padding)


class CosineHead(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        unit = functional.normalize(self.weight)
        return 7 * functional.linear(functional.normalize(input), unit)


class Doubled(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w + w.roll(1, 0)


def used_by(layer: nn.Module) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The weight that the layer's inputs meet, as rows, and what else is done to H."""
    if isinstance(layer, CosineHead):
        return functional.normalize(layer.weight), functional.normalize
    return layer.weight, lambda h: h


LINEAR: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "plain": lambda layer: layer,
    "frozen": lambda layer: layer.requires_grad_(False),
    "weight_norm by hooks": weight_norm,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "parametrised": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
    "pruned": lambda layer: prune.random_unstructured(layer, "weight", 0.4),
    "cosine head": lambda layer: CosineHead(6, 6, bias=False),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("change", LINEAR.values(), ids=LINEAR)
def test_a_linear_layer_is_measured_by_the_weight_that_is_used(change) -> None:
    torch.manual_seed(0)
    layer = change(nn.Linear(6, 6)).double()
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(6, CLASSES).double())
    model.eval()(X)  # hooks make the weight; spectral_norm moves its vectors in training mode
    weight, before = used_by(layer)
    weight, h = weight.detach().clone(), before(X)
    factor = 7 if isinstance(layer, CosineHead) else 1
    z = layer(X).detach().requires_grad_()
    loss = functional.cross_entropy(model[1:](z), Y, reduction="sum")
    dz = torch.autograd.grad(loss, z)[0] * factor
    row = measured(model, "0")
    assert 0 < row.residual < 1e-12
    assert row.cosine_vc == pytest.approx(shift_cosine(weight, h, dz), rel=1e-8)
    assert row.effective_rank == pytest.approx(effective_rank(weight), rel=1e-9)


def test_standardised_kernels_are_those_that_are_measured() -> None:
    torch.manual_seed(0)
    layer = Standardised(2, 3, 2).double()
    model = nn.Sequential(layer, nn.GELU(), nn.Flatten(), nn.Linear(12, CLASSES).double())
    row = measured(model, "0", draw(N, 2, 3, 3))
    w = layer.weight.detach().flatten(1)
    w = (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True)
    assert row.effective_rank == pytest.approx(effective_rank(w))
    assert row.effective_rank != pytest.approx(effective_rank(layer.weight.detach().flatten(1)))
    assert 0 < row.residual < 1e-12


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.filterwarnings("ignore:.*reduce_range")
def test_the_observers_of_quantisation_aware_training_stay_as_they_were() -> None:
    torch.manual_seed(0)
    layer = qat.Linear(6, 6, qconfig=get_default_qat_qconfig())
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(6, CLASSES))
    model(X.float())
    before = copy.deepcopy(model.state_dict())
    layer.weight.data.mul_(2)  # the observer has not seen these yet
    before["0.weight"].mul_(2)
    row = measured(model, "0", X.float() * 3)
    assert 0 < row.residual < 1e-5
    after = model.state_dict()
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]), key


def test_a_layer_whose_forward_multiplies_otherwise_is_named() -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return torch.einsum("nd,md->nm", input, self.weight)

    model = nn.Sequential(Own(6, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double()
    table = measure(model, [(X, Y)])
    assert [row.name for row in table] == ["2"]
    assert table.notes == {"left out, its forward calls none of torch's linear functions": ["0"]}
    with pytest.raises(ValueError, match=r"nothing was measured: left out, its forward .*: 0"):
        measure(model, [(X, Y)], names="0")


def test_a_weight_that_differs_between_calls_is_named() -> None:
    class Varying(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return functional.linear(input, self.weight * input.mean())

    model = nn.Sequential(Varying(6, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double()
    table = measure(model, [(X[:30], Y[:30]), (X[30:], Y[30:])])
    assert [row.name for row in table] == ["2"]
    assert table.notes == {"left out, the weight is another in another call": ["0"]}


def test_a_weight_of_integers_is_named() -> None:
    class Quantised(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 6)
            self.weight = nn.Parameter(torch.ones(6, 6, dtype=torch.int8), requires_grad=False)

        def forward(self, input: Tensor) -> Tensor:
            return functional.linear(input.to(torch.int8), self.weight).double()

    model = nn.Sequential(Quantised(), nn.Linear(6, CLASSES).double())
    model[0].bias = None
    table = measure(model, [(X, Y)])
    assert [row.name for row in table] == ["1"]
    assert table.notes == {"left out, its weight is a Parameter of torch.int8": ["0"]}


def test_a_layer_inside_a_layer_counts_for_itself_alone() -> None:
    class Adapted(nn.Linear):
        """As adapters are written: a linear layer with further ones inside."""

        def __init__(self) -> None:
            super().__init__(6, 6)
            self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False)

        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + self.up(self.down(input))

    torch.manual_seed(0)
    model = nn.Sequential(Adapted(), nn.Tanh(), nn.Linear(6, CLASSES)).double()
    model[0].weight.requires_grad_(False)
    table = measure(model, [(X, Y)])
    assert [(row.name, row.n, row.d, row.m) for row in table] == [
        ("0", N, 6, 6),
        ("0.down", N, 6, 2),
        ("0.up", N, 2, 6),
        ("2", N, 6, CLASSES),
    ]
    assert all(row.residual < 1e-12 for row in table)
    assert not any(math.isnan(row.cosine_vc) for row in table)
