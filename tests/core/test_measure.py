"""`measure` against naive loops over samples and outputs; it leaves the model as it was."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cases import draw
from core.collapse import class_means, collapse, nearest_mean_disagreement
from core.gram import cosine, weight_gram
from core.layer_table import LayerRow
from core.linearity import surrogate, target_linearity
from core.measure import measure
from core.moments import FeatureMoments

F64 = torch.float64
CLASSES = 4


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.GELU(), nn.Dropout(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, CLASSES)
    ).to(F64)


def cnn() -> nn.Module:
    """With batch normalisation, and an activation that works in place."""
    torch.manual_seed(0)
    first = [nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.ReLU(inplace=True)]
    second = [nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Conv2d(4, 3, 2), nn.GELU()]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(12, CLASSES)).to(F64)


def data(*shape: int, n: int = 160) -> tuple[Tensor, Tensor]:
    return draw(n, *shape, seed=1), torch.arange(n) % CLASSES


def batched(x: Tensor, y: Tensor, size: int = 17) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), y.split(size), strict=True))


MODELS = {"mlp": (mlp, (6,)), "cnn": (cnn, (2, 6, 6))}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Tensor]:
    build, shape = MODELS[request.param]
    return build(), *data(*shape)


def rows_of(table: list[LayerRow]) -> dict[str, LayerRow]:
    return {row.name: row for row in table}


def features_of(model: nn.Module, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer name -> inputs and outputs of all samples: a Sequential's modules one by one."""
    features, h = {}, x
    with torch.no_grad():
        for name, module in copy.deepcopy(model).eval().named_children():
            z = module(h.clone())
            if isinstance(module, nn.Linear | nn.Conv2d):
                features[name] = h.flatten(1), z.flatten(1)
            h = z
    return features


def test_the_sums_are_those_of_all_inputs_and_outputs_of_each_layer(case):
    model, x, y = case
    rows, last = rows_of(measure(model, batched(x, y))), str(len(model) - 1)
    features = features_of(model, x)
    assert list(rows) == list(features)
    for name, (inputs, outputs) in features.items():
        row = rows[name]
        assert (row.n, row.kind) == (len(x), type(model[int(name)]).__name__)
        assert row.tl_in == pytest.approx(target_linearity(inputs, y), abs=1e-10)
        assert row.tl_out == pytest.approx(target_linearity(outputs, y), abs=1e-10)
        weight = model[-1].weight if name == last else None
        expected = collapse(FeatureMoments().update(inputs, y), weight)
        for key in ("nc1", "nc2_norm", "nc2_angle") + ("nc3",) * (name == last):
            assert getattr(row, key) == pytest.approx(getattr(expected, key), rel=1e-8)
    assert math.isnan(rows["0"].nc3)
    inputs = features[last][0]
    expected = surrogate(inputs, model[-1].weight, y)
    assert rows[last].surrogate == pytest.approx(expected, rel=1e-10)
    means = class_means(FeatureMoments().update(inputs, y))
    disagreement = nearest_mean_disagreement(inputs, model.eval()(x).argmax(1), means)
    assert rows[last].nc4 == pytest.approx(disagreement)


def naive_cosines(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, tuple[float, float]]:
    """Of every Linear: G with −(AᵀH + HᵀA) and with the AGOP, sample by sample."""
    cosines = {}
    model = copy.deepcopy(model).eval()
    for i, layer in enumerate(model):
        if not isinstance(layer, nn.Linear):
            continue
        shift, agop = torch.zeros(2, layer.in_features, layer.in_features, dtype=F64)
        for sample, label in zip(x, y, strict=True):
            h = model[:i](sample[None]).detach().requires_grad_()  # H (1, d)
            output = model[i:](h)
            loss = functional.cross_entropy(output, label[None])
            (a,) = torch.autograd.grad(loss, h, retain_graph=True)
            shift -= a.mT @ h.detach() + h.detach().mT @ a
            for value in output[0]:
                (gradient,) = torch.autograd.grad(value, h, retain_graph=True)
                agop += gradient.mT @ gradient
        gram = weight_gram(layer.weight.detach())
        cosines[str(i)] = cosine(gram, shift), cosine(gram, agop)
    return cosines


def test_cosines_equal_a_loop_over_samples_and_outputs(case):
    model, x, y = case
    rows = rows_of(measure(model, batched(x, y)))
    expected = naive_cosines(model, x, y)
    assert expected
    actual = {name: (rows[name].cosine_vc, rows[name].cosine_agop) for name in expected}
    for name, values in expected.items():
        assert actual[name] == pytest.approx(values, abs=1e-10)


@pytest.mark.filterwarnings("ignore:.*samples of .* features")
def test_the_feature_learning_equation_holds_in_every_layer_and_batch(case):
    model, x, y = case
    assert all(row.residual < 1e-10 for row in measure(model, batched(x, y)))
    batches = batched(x.float(), y)
    single = measure(model.float(), batches)
    assert all(0 < row.residual < 1e-4 for row in single)
    each = [measure(model, [batch], reduction="pool") for batch in batches]
    largest = [max(row.residual for row in rows) for rows in zip(*each, strict=True)]
    assert [row.residual for row in single] == largest


def test_batches_do_not_matter(case):
    model, x, y = case
    tables = [measure(model, batched(x, y, size)) for size in (160, 7)]
    for one, other in zip(*tables, strict=True):
        assert one.name == other.name
        numbers = {k: v for k, v in vars(one).items() if k not in ("name", "kind", "residual")}
        others = {key: getattr(other, key) for key in numbers}
        assert numbers == pytest.approx(others, rel=1e-9, nan_ok=True)


def state_of(model: nn.Module) -> list:
    tensors = [t.clone() for t in model.state_dict().values()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [(m.training, len(m._forward_hooks)) for m in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    return [tensors, grads, modes, wanted, torch.get_rng_state()]


def same(one: object, other: object) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_the_model_is_left_as_it_was(case):
    model, x, y = case
    model[0].eval()  # a mode of its own
    model[0].weight.requires_grad_(False)
    model[0].register_forward_hook(lambda *_: None)
    functional.cross_entropy(model(x), y).backward()
    before = state_of(model)
    measure(model, batched(x, y))
    assert same(before, state_of(model))


def test_the_model_is_left_as_it_was_where_its_forward_fails():
    class Fails(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            raise RuntimeError("no memory")

    model = nn.Sequential(nn.Linear(6, 6), Fails(6, 4)).to(F64)
    model.train()
    before = state_of(model)
    with pytest.raises(RuntimeError, match="no memory"):
        measure(model, [data(6)])
    assert same(before, state_of(model))
    assert not any("forward" in vars(module) for module in model.modules())


class Tagger(nn.Module):
    """Tokens to classes, as transformers' models: keywords in, an object with logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.mixed = nn.Linear(6, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        h = self.embed(tokens)
        return SimpleNamespace(logits=self.head((h + self.mixed(h).cumsum(1)).tanh()))


def test_tokens_are_rows_and_ignored_positions_count_for_nothing():
    torch.manual_seed(0)
    model = Tagger().to(F64)
    tokens, y = torch.randint(9, (12, 7)), torch.randint(CLASSES, (12, 7))
    y[:, 5:] = -100
    parts = zip(tokens.split(5), y.split(5), strict=True)
    batches = [{"tokens": t, "labels": labels} for t, labels in parts]
    rows = rows_of(measure(model, batches))
    inputs = model.embed(tokens).detach()[:, :5].flatten(0, 1)
    assert rows["mixed"].n == 60
    expected = target_linearity(inputs, y[:, :5].flatten())
    assert rows["mixed"].tl_in == pytest.approx(expected, abs=1e-12)
    assert rows["mixed"].residual < 1e-10
    assert "labels" in batches[0]
    changed = [{"tokens": b["tokens"], "labels": b["labels"]} for b in batches]
    tokens[:, 6] = 0  # only after what is counted
    assert rows_of(measure(model, changed))["head"].tl_in == pytest.approx(rows["head"].tl_in)


class Wide(nn.Module):
    """A convolution whose features are maps of 8 · 8 · 8 = 512 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)))


@pytest.mark.filterwarnings("ignore:.*samples of .* features")
class TestReduction:
    @pytest.fixture
    def wide(self) -> tuple[nn.Module, Tensor, Tensor]:
        torch.manual_seed(0)
        return Wide().to(F64), *data(1, 8, 8)

    def test_wide_maps_are_refused_by_name_and_never_reduced_silently(self, wide, monkeypatch):
        model, x, y = wide
        measure(model, batched(x, y))
        monkeypatch.setattr("core.reduction.LARGEST", 511)
        message = "conv: features of 512 dimensions; take reduction 'pool' or 'project'"
        with pytest.raises(ValueError, match=message):
            measure(model, batched(x, y))
        assert [row.name for row in measure(model, batched(x, y), names="head")] == ["head"]

    def test_pooling_takes_the_mean_over_positions(self, wide):
        model, x, y = wide
        row = rows_of(measure(model, batched(x, y), reduction="pool"))["conv"]
        pooled = model.conv(x).detach().mean((2, 3))
        assert row.tl_out == pytest.approx(target_linearity(pooled, y), abs=1e-10)
        assert row.reduction_error == 0

    def test_a_projection_says_how_far_it_is_off(self, wide):
        model, x, y = wide
        rows = rows_of(measure(model, batched(x, y), reduction="project", projected=100))
        assert 0 < rows["conv"].reduction_error < 4 * math.sqrt(2 / 100)
        assert rows["head"].reduction_error == 0
        again = rows_of(measure(model, batched(x, y, 9), reduction="project", projected=100))
        assert again["conv"].tl_out == pytest.approx(rows["conv"].tl_out, rel=1e-9)
        whole = measure(model, batched(x, y), reduction="project", projected=512)
        assert rows_of(whole)["conv"].reduction_error == 0


def test_a_layer_called_twice_is_one_row_whose_equation_holds():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(self.layer(x).tanh()))

    torch.manual_seed(0)
    x, y = data(6)
    row = rows_of(measure(Twice().to(F64), batched(x, y)))["layer"]
    assert row.residual < 1e-10
    assert row.n == 2 * len(x)


def test_a_layer_that_the_outputs_do_not_depend_on_has_no_cosines():
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aside, self.head = nn.Linear(6, 5), nn.Linear(6, CLASSES)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.head(x), self.aside(x)

    torch.manual_seed(0)
    x, y = data(6)
    rows = rows_of(measure(Aside().to(F64), batched(x, y)))
    assert math.isnan(rows["aside"].cosine_vc)
    assert math.isnan(rows["aside"].cosine_agop)
    assert math.isnan(rows["aside"].residual)
    assert rows["aside"].tl_in == rows["head"].tl_in
    assert not math.isnan(rows["head"].cosine_vc)


def test_targets_may_be_a_matrix_and_the_loss_ones_own():
    model, (x, _) = mlp(), data(6)
    y = x[:, :CLASSES].sin()
    rows = rows_of(measure(model, batched(x, y)))
    assert rows["0"].tl_in == pytest.approx(target_linearity(x, y), abs=1e-10)
    assert math.isnan(rows["5"].nc1)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return 2 * (outputs - targets).square().sum()

    doubled = rows_of(measure(model, batched(x, y), loss=loss))
    assert doubled["3"].cosine_vc == pytest.approx(rows["3"].cosine_vc)


def test_the_outer_product_of_gradients_can_be_left_out():
    x, y = data(6)
    table = measure(mlp(), batched(x, y), gradients_of_outputs=False)
    assert all(math.isnan(row.cosine_agop) for row in table)


@pytest.mark.parametrize(
    ("names", "message"),
    [("", "nothing was measured"), ("absent", "no linear layer or convolution")],
)
def test_nothing_to_measure_is_an_error_of_one_line(names, message):
    with pytest.raises(ValueError, match=message) as error:
        measure(mlp(), [], names=names)
    assert "\n" not in str(error.value)
