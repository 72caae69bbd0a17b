"""`measure` with targets of every form: the same as with those it was made for."""

import math
import resource

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM

from cases import draw
from core.agop import average_gradient_outer_product
from core.collapse import class_means, collapse, nearest_mean_disagreement
from core.gram import cosine, weight_gram
from core.layer_table import LayerTable
from core.linearity import report, target_linearity
from core.measure import measure
from core.moments import FeatureMoments

N, CLASSES = 90, 4
X, Y = draw(N, 6), torch.arange(N) % CLASSES


def mlp(outputs: int = CLASSES) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, outputs)).double()


def values(table: LayerTable) -> list[float]:
    numbers = [v for row in table for k, v in vars(row).items() if k not in ("name", "kind")]
    return [-7.0 if math.isnan(v) else v for v in numbers]


def batches(x: Tensor, y: object, size: int = 40) -> list:
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


FORMS = {
    "(N, 1)": Y[:, None],
    "int32": Y.int(),
    "int16": Y.short(),
    "uint8": Y.byte(),
    "numpy": Y.numpy(),
    "numpy int8": Y.numpy().astype(np.int8),
    "list": Y.tolist(),
}


@pytest.mark.parametrize("y", FORMS.values(), ids=FORMS)
def test_class_indices_of_any_form_are_measured_alike(y: object) -> None:
    expected = values(measure(mlp(), batches(X, Y)))
    assert values(measure(mlp(), batches(X, y))) == expected


def test_two_classes_as_truth_values() -> None:
    expected = values(measure(mlp(2), batches(X, Y % 2)))
    assert values(measure(mlp(2), batches(X, Y % 2 == 1))) == expected


def test_several_classes_at_once_are_measured_as_numbers() -> None:
    y = (draw(N, CLASSES, seed=1) > 0.5).long()
    expected = values(measure(mlp(), batches(X, y.double())))
    assert values(measure(mlp(), batches(X, y))) == expected


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)[:, 0]


@pytest.mark.parametrize("y", [(N,), (N, 1)], ids=["y (N,)", "y (N, 1)"])
@pytest.mark.parametrize("model", [Squeezed(), mlp(1)], ids=["f (N,)", "f (N, 1)"])
def test_one_number_a_sample_is_never_compared_with_all_others(model, y) -> None:
    target = (X[:, 0] * X[:, 1]).sin()
    row = measure(model, batches(X, target.view(y)))[0]
    layer = mlp(1)[0]
    h = X.clone()
    z = layer(h)
    loss = (mlp(1)[1:](z)[:, 0] - target).square().sum()
    (dz,) = torch.autograd.grad(loss, z)
    x = layer.weight.detach().mT @ dz.mT @ h
    assert row.cosine_vc == pytest.approx(cosine(weight_gram(layer.weight), -(x + x.mT)), rel=1e-9)
    assert row.tl_in == pytest.approx(target_linearity(X, target[:, None]), rel=1e-9)


class Segmenter(nn.Module):
    """As many classes as columns: K = W."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(2, 5, 3, padding=1)
        self.head = nn.Conv2d(5, classes, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).relu())


@pytest.mark.parametrize("with_channel", [False, True], ids=["(N, H, W)", "(N, 1, H, W)"])
def test_segmentation_is_measured_pixel_by_pixel(with_channel: bool) -> None:
    model, x = Segmenter(6), draw(8, 2, 5, 6)
    y = (x.sum(1) * 3).long().abs() % 6
    y[:, 0] = -100
    rows = {r.name: r for r in measure(model, batches(x, y[:, None] if with_channel else y, 3))}
    hidden = model.first(x).relu()
    loss = functional.cross_entropy(model.head(hidden), y, reduction="sum")
    (dw,) = torch.autograd.grad(loss, model.head.weight)
    pixels = hidden.detach().movedim(1, -1)[y != -100]
    assert rows["head"].n == 8 * 4 * 6
    assert rows["head"].tl_in == pytest.approx(target_linearity(pixels, y[y != -100]), rel=1e-9)
    w = model.head.weight.detach().flatten(1)
    x_ = w.mT @ dw.flatten(1)
    assert rows["head"].cosine_vc == pytest.approx(cosine(w.mT @ w, -(x_ + x_.mT)), rel=1e-9)
    assert all(row.residual < 1e-10 for row in rows.values())


@pytest.mark.parametrize("y", [Y.to(torch.complex64), X[:, :CLASSES].to_sparse()])
def test_targets_that_are_no_numbers_are_refused(y: Tensor) -> None:
    with pytest.raises(ValueError, match=r"complex|sparse") as error:
        measure(mlp(), [(X, y)])
    assert "\n" not in str(error.value)


def test_a_target_of_another_size_than_the_output_is_refused_before_the_loss() -> None:
    with pytest.raises(ValueError, match=r"\(90, 4\) and real targets \(90, 3\)"):
        measure(mlp(), [(X, X[:, :3])])


def test_rows_that_are_ignored_count_in_no_measure() -> None:
    """Every measure is that of the other rows alone, NC4 and the outer products too."""
    y = Y.clone()
    y[::2] = -100
    kept = y != -100
    model = mlp()
    assert values(measure(model, batches(X, y, 30))) == pytest.approx(
        values(measure(model, batches(X[kept], y[kept], 15))), rel=1e-9, abs=1e-12
    )


def test_nc4_and_the_outer_product_of_the_rows_that_count() -> None:
    y, model = torch.where(torch.arange(N) < N // 2, Y, -100), mlp()
    x, labels = X[: N // 2], Y[: N // 2]
    first, head = measure(model, [(X, y)])
    inputs = x.clone().requires_grad_()
    hidden = model[:2](inputs)
    outputs = model[2](hidden)
    hidden = hidden.detach()
    moments = FeatureMoments().update(hidden, labels)
    share = nearest_mean_disagreement(hidden, outputs.argmax(1), class_means(moments))
    assert head.nc4 == pytest.approx(share)
    assert head.nc1 == pytest.approx(collapse(moments).nc1)
    (outer,) = average_gradient_outer_product(outputs, [inputs])
    assert first.cosine_agop == pytest.approx(cosine(weight_gram(model[0].weight), outer))


def test_a_batch_of_ignored_rows_adds_nothing() -> None:
    ignored = torch.full((7,), -100)
    expected = values(measure(mlp(), batches(X, Y)))
    assert values(measure(mlp(), [*batches(X, Y), (X[:7], ignored)])) == expected


def test_classes_that_do_not_occur_take_no_room_and_change_nothing() -> None:
    """Of 1,000 outputs 3 are classes of the data."""
    y = torch.tensor([998, 5, 40])[Y % 3]
    row = measure(mlp(1000), [(X[:50], y[:50]), (X[50:], y[50:])], gradients_of_outputs=False)[0]
    expected = FeatureMoments().update(X, Y % 3)
    assert row.tl_in == pytest.approx(report(expected).value)
    assert row.nc1 == pytest.approx(collapse(expected).nc1)


def test_the_vocabulary_of_bert_is_measured_in_little_memory() -> None:
    """Of 30,522 classes YᵀY alone would take 7.45 GB, and a hidden layer's HᵀY 190 MB a layer."""
    torch.manual_seed(0)
    size = {"hidden_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForMaskedLM(BertConfig(**size, intermediate_size=192))
    tokens = torch.randint(30522, (8, 40))
    labels = tokens.masked_fill(torch.rand(8, 40) > 0.15, -100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    table = measure(model, [{"input_ids": tokens, "labels": labels}])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 1e6  # kB
    (head,) = [row for row in table if row.name == "cls.predictions.decoder"]
    assert (head.m, head.n) == (30522, int((labels != -100).sum()))
    assert 0 < head.residual < 1e-4
    assert math.isnan(head.tl_out)  # of 30,522 dimensions
    assert any("30,522 dimensions" in note for note in table.notes)
