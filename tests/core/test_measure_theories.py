"""`measure`'s columns of other theories, and of held-out samples, against plain hooks."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cases import draw, gather
from core.callback import MeasureEvery
from core.layer_table import LayerTable
from core.linearity import held_out_linearity
from core.measure import measure
from core.theories import THEORIES, class_separation, regression_collapse

CLASSES, N = 4, 160
X, Y = draw(N, 2, 6, 6, seed=1), torch.arange(N) % CLASSES
OTHER, OTHER_Y = draw(60, 2, 6, 6, seed=2), torch.arange(60) % CLASSES
COLUMNS = {
    "crh": ("rwa", "gwa", "rga"),
    "separation": ("separation",),
    "compression": ("compression", "discrimination"),
    "regression": ("nrc",),
    "linearity": ("linearity",),
    "fact": ("fact",),
}


def model() -> nn.Sequential:
    torch.manual_seed(0)
    maps = [nn.Conv2d(2, 3, 2, stride=2), nn.ReLU(inplace=True), nn.Flatten()]
    return nn.Sequential(*maps, nn.Linear(27, 8), nn.GELU(), nn.Linear(8, CLASSES)).double()


def batched(x: Tensor, y: Tensor, size: int = 17) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), y.split(size), strict=True))


def inputs_of(network: nn.Sequential, x: Tensor) -> list[Tensor]:
    """Of every layer, a row a sample."""
    layers = [i for i, m in enumerate(network) if isinstance(m, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        return [network[:i](x.clone()).flatten(1) for i in layers]


@pytest.fixture(scope="module")
def table() -> LayerTable:
    return measure(model(), batched(X, Y), batched(OTHER, OTHER_Y, 13), theories=THEORIES)


def test_classes_are_separated_as_those_of_inputs_and_outputs(table: LayerTable) -> None:
    network = model()
    for row, h in zip(table, inputs_of(network, X), strict=True):
        outputs = network[int(row.name)](h.view(-1, 2, 6, 6) if row.name == "0" else h)
        for side, features in {"in": h, "out": outputs.detach().flatten(1)}.items():
            for name, value in vars(class_separation(gather(features, Y))).items():
                assert getattr(row, f"{name}_{side}") == pytest.approx(value, rel=1e-9)


def test_regression_collapse_is_of_the_inputs_and_the_layers_weight(table: LayerTable) -> None:
    network = model()
    for row, h in zip(table, inputs_of(network, X), strict=True):
        weight = network[int(row.name)].weight.detach()
        expected = regression_collapse(gather(h, Y), weight if weight.ndim == 2 else None)
        found = (row.nrc1, row.nrc3)
        assert found == pytest.approx(tuple(vars(expected).values()), rel=1e-9, nan_ok=True)


def test_linearity_is_least_squares_from_a_layers_inputs_to_the_nexts(table: LayerTable) -> None:
    for row, (h, following) in zip(table, pairwise(inputs_of(model(), X)), strict=False):
        ones = np.column_stack([h, np.ones(N)])
        fit = np.linalg.lstsq(ones, following.numpy(), rcond=None)[0]
        left = following.numpy() - ones @ fit
        r2 = 1 - (left**2).sum() / ((following - following.mean(0)) ** 2).sum().item()
        assert row.linearity == pytest.approx(r2, rel=1e-9)
    assert math.isnan(table[-1].linearity)


def test_layers_one_after_another_that_read_the_same_are_linear() -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(72, 3), nn.Linear(72, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(x.flatten(1)) + self.one(x.flatten(1)).sum(1, keepdim=True)

    one, _ = measure(Parallel().double(), [(X, Y)], theories=["linearity"])
    assert one.linearity == pytest.approx(1)


def test_held_out_linearity_is_of_read_outs_fitted_on_the_batches(table: LayerTable) -> None:
    pairs = zip(inputs_of(model(), X), inputs_of(model(), OTHER), strict=True)
    for row, (h, other) in zip(table, pairs, strict=True):
        expected = held_out_linearity(gather(h, Y), gather(other, OTHER_Y))
        assert row.tl_held_out_in == pytest.approx(expected, rel=1e-9)
        assert row.tl_held_out_in < row.tl_in
        assert math.isfinite(row.tl_held_out_out)
    plain = measure(model(), batched(X, Y))
    assert [row.tl_in for row in plain] == [row.tl_in for row in table]


def test_held_out_samples_of_some_classes_in_another_order() -> None:
    """Columns are of classes, in whatever order they occur, and one may be absent."""
    order = (OTHER_Y > 0).nonzero().squeeze(1).flip(0)
    last = measure(model(), batched(X, Y), [(OTHER[order], OTHER_Y[order])])[-1]
    other = gather(inputs_of(model(), OTHER[order])[-1], OTHER_Y[order])
    expected = held_out_linearity(gather(inputs_of(model(), X)[-1], Y), other)
    assert last.tl_held_out_in == pytest.approx(expected, rel=1e-9)


def test_a_class_that_held_out_samples_alone_have_is_named() -> None:
    table = measure(model(), batched(X[Y < 3], Y[Y < 3]), [(OTHER, OTHER_Y)])
    reason = "no held-out Target Linearity, class 3 is not among the batches'"
    assert table.notes == {reason: ["0", "3", "5"]}
    assert all(math.isnan(row.tl_held_out_in) and 0 < row.tl_in <= 1 for row in table)


def test_a_side_without_rows_leaves_the_other_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES)).double()
    (whole,) = measure(network, [(X, Y)], [(OTHER, OTHER_Y)])
    monkeypatch.setattr("core.reduction.LARGEST", 50)  # inputs are wider
    (row,) = measure(network, [(X, Y)], [(OTHER, OTHER_Y)])
    assert math.isnan(row.tl_held_out_in)
    assert row.tl_held_out_out == whole.tl_held_out_out
    assert math.isfinite(row.tl_held_out_out)


def test_held_out_samples_of_real_targets() -> None:
    targets, others = (x.flatten(1)[:, :CLASSES].sin() for x in (X, OTHER))
    last = measure(model(), [(X, targets)], [(OTHER, others)])[-1]
    fitted = gather(inputs_of(model(), X)[-1], targets)
    expected = held_out_linearity(fitted, gather(inputs_of(model(), OTHER)[-1], others))
    assert last.tl_held_out_in == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("theory", THEORIES)
def test_a_theory_has_its_columns_alone(theory: str) -> None:
    every = {c for columns in COLUMNS.values() for c in columns}
    rows = measure(model(), batched(X, Y), theories=(theory,))
    filled = {
        name
        for row in rows
        for name, value in vars(row).items()
        if any(name.startswith(c) for c in every) and not math.isnan(value)
    }
    assert filled
    assert all(name.startswith(COLUMNS[theory]) for name in filled)


def test_sizes_of_gradients_and_features_do_not_matter() -> None:
    """Squares of either would leave float32."""
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(72, CLASSES)), X.flatten(1).float()

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return 1e-25 * functional.cross_entropy(outputs, y, reduction="sum")

    plain, small = (
        measure(network, batched(x, Y), theories=["crh"], loss=f)[0] for f in (None, loss)
    )
    names = [f"{name}_{side}" for name in COLUMNS["crh"] for side in ("in", "out")]
    expected = {name: getattr(plain, name) for name in names}
    assert {name: getattr(small, name) for name in names} == pytest.approx(expected, rel=1e-5)
    assert not any(map(math.isnan, expected.values()))


def test_padding_is_not_among_the_rows() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            h = self.mix(self.embed(input_ids)) * attention_mask[..., None]
            return self.head(h.sum(1).tanh())

    torch.manual_seed(0)
    network, ids = Pooled().double(), torch.randint(9, (12, 7))
    mask = (torch.arange(7) < 1 + torch.arange(12)[:, None] % 7).long()
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(12) % 3}
    options = {"names": "mix", "theories": ["crh"], "reduction": "pool"}
    (row,) = measure(network, [batch], **options)
    (other,) = measure(network, [batch | {"input_ids": ids * mask}], **options)
    h, w = network.embed(ids[mask > 0]).detach(), network.mix.weight.detach()
    second, gram = h.mT @ h, w.mT @ w
    assert row.rwa_in == pytest.approx(float((second * gram).sum() / second.norm() / gram.norm()))
    assert other.rwa_in == row.rwa_in


def test_more_than_8192_dimensions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.collector.LARGEST", 10)
    table = measure(model(), batched(X, Y), names="3|5", theories=["crh"])
    assert math.isnan(table[0].rwa_in)
    assert not math.isnan(table[1].rwa_in)
    assert table.notes == {"no alignments, more than 8,192 dimensions": ["3"]}


def test_while_training() -> None:
    watch = MeasureEvery(1, model(), [(X, Y)], [(OTHER, OTHER_Y)], theories=["separation"])
    watch(0)
    row = watch.tables[0][-1]
    assert math.isfinite(row.tl_held_out_in)
    assert math.isfinite(row.separation_in)
    with pytest.raises(ValueError, match="only once"):
        MeasureEvery(1, model(), [(X, Y)], iter([(OTHER, OTHER_Y)]))
