"""`measure` against naive loops over samples and outputs, and that it leaves the model as it was."""

import copy
import itertools
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional

from core.collapse import collapse
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
    """With batch normalisation, and an activation that changes the convolution's output in place."""
    torch.manual_seed(0)
    first = [nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.ReLU(inplace=True), nn.BatchNorm2d(4), nn.MaxPool2d(2)]
    return nn.Sequential(*first, nn.Conv2d(4, 3, 2), nn.GELU(), nn.Flatten(), nn.Linear(12, CLASSES)).to(F64)


def data(*shape: int, n: int = 160) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, *shape, generator=g, dtype=F64), torch.arange(n) % CLASSES


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
    """Layer name -> inputs and outputs of the whole set, by running the modules of a Sequential one by one."""
    found, h = {}, x
    with torch.no_grad():
        for name, module in copy.deepcopy(model).eval().named_children():
            z = module(h.clone())
            if isinstance(module, nn.Linear | nn.Conv2d):
                found[name] = h.flatten(1), z.flatten(1)
            h = z
    return found


def test_target_linearity_surrogate_and_collapse_are_those_of_the_features(case):
    model, x, y = case
    rows, last = rows_of(measure(model, batched(x, y))), str(len(model) - 1)
    features = features_of(model, x)
    assert rows.keys() == features.keys()
    for name, (inputs, outputs) in features.items():
        assert rows[name].tl_in == pytest.approx(target_linearity(inputs, y), abs=1e-10)
        assert rows[name].tl_out == pytest.approx(target_linearity(outputs, y), abs=1e-10)
        found = collapse(FeatureMoments().update(inputs, y), model[-1].weight if name == last else None)
        assert (rows[name].nc1, rows[name].nc2_norm) == pytest.approx((found.nc1, found.nc2_norm), rel=1e-8)
        assert rows[name].n == len(x)
    assert rows[last].nc3 == pytest.approx(found.nc3)
    assert rows[last].surrogate == pytest.approx(surrogate(features[last][0], model[-1].weight, y), rel=1e-10)
    assert math.isnan(rows["0"].nc3)


def test_cka_equals_the_double_loop_over_pairs_of_samples(case):
    model, x, y = case
    rows, targets = rows_of(measure(model, batched(x, y))), functional.one_hot(y).to(F64).numpy()
    for name, sides in features_of(model, x).items():
        for value, h in zip((rows[name].cka_in, rows[name].cka_out), sides, strict=True):
            n = len(h)
            k, l = h.numpy() @ h.numpy().T, targets @ targets.T  # noqa: E741
            centre = np.eye(n) - 1 / n
            hsic = {"kl": 0.0, "kk": 0.0, "ll": 0.0}
            k, l = centre @ k @ centre, centre @ l @ centre  # noqa: E741
            for i, j in itertools.product(range(n), range(n)):
                hsic["kl"] += k[i, j] * l[i, j]
                hsic["kk"] += k[i, j] ** 2
                hsic["ll"] += l[i, j] ** 2
            assert value == pytest.approx(hsic["kl"] / np.sqrt(hsic["kk"] * hsic["ll"]), rel=1e-9)


def naive_cosines(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, tuple[float, float]]:
    """Of every Linear: G with −(AᵀH + HᵀA) and with the average gradient outer product, sample by sample."""
    found = {}
    model = copy.deepcopy(model).eval()
    for i, layer in enumerate(model):
        if isinstance(layer, nn.Linear):
            change, agop = torch.zeros(layer.in_features, layer.in_features, dtype=F64), 0
            for sample, label in zip(x, y, strict=True):
                h = model[:i](sample[None]).detach().requires_grad_()  # H (1, d)
                output = model[i:](h)
                (a,) = torch.autograd.grad(functional.cross_entropy(output, label[None]), h, retain_graph=True)
                change -= a.mT @ h.detach() + h.detach().mT @ a
                for value in output[0]:
                    (of_one,) = torch.autograd.grad(value, h, retain_graph=True)
                    agop = agop + of_one.mT @ of_one
            gram = layer.weight.detach().mT @ layer.weight.detach()
            found[str(i)] = tuple(float((gram * m).sum() / gram.norm() / m.norm()) for m in (change, agop))
    return found


def test_cosines_equal_a_loop_over_samples_and_outputs(case):
    model, x, y = case
    rows = rows_of(measure(model, batched(x, y)))
    naive = naive_cosines(model, x, y)
    assert naive
    for name, expected in naive.items():
        assert (rows[name].cosine_vc, rows[name].cosine_agop) == pytest.approx(expected, abs=1e-10)


def test_the_spectrum_is_that_of_the_gram_matrix(case):
    model, x, y = case
    for name, row in rows_of(measure(model, batched(x, y))).items():
        layer = model[int(name)]
        groups = getattr(layer, "groups", 1)
        blocks = layer.weight.detach().flatten(1).numpy().reshape(groups, row.m, row.d)
        gram = np.concatenate([np.sort(np.linalg.eigvalsh(w.T @ w))[-min(w.shape) :] for w in blocks])
        share = gram / gram.sum()
        assert row.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-8)
        assert row.condition == pytest.approx(np.sqrt(gram.max() / gram.min()), rel=1e-6)


def test_the_feature_learning_equation_holds_in_every_layer(case):
    model, x, y = case
    assert all(row.residual < 1e-10 for row in measure(model, batched(x, y)))
    single = measure(model.float(), batched(x.float(), y))
    assert all(0 < row.residual < 1e-4 for row in single)


def test_batches_do_not_matter(case):
    model, x, y = case
    for one, other in zip(measure(model, batched(x, y, 160)), measure(model, batched(x, y, 7)), strict=True):
        assert one.name == other.name
        for key in ("tl_in", "tl_out", "surrogate", "cosine_vc", "cosine_agop", "cka_out", "nc1", "nc4"):
            assert getattr(one, key) == pytest.approx(getattr(other, key), rel=1e-9, nan_ok=True), key


def test_nc4_counts_where_the_nearest_class_mean_disagrees_with_the_network():
    model, (x, y) = mlp(), data(6)
    features = features_of(model, x)["5"][0].numpy()
    means = np.array([features[y.numpy() == k].mean(0) for k in range(CLASSES)])
    nearest = [np.argmin(((h - means) ** 2).sum(1)) for h in features]
    expected = np.mean(nearest != model.eval()(x).argmax(1).numpy())
    assert rows_of(measure(model, batched(x, y)))["5"].nc4 == pytest.approx(expected)


def state_of(model: nn.Module) -> list:
    tensors = [t.clone() for t in model.state_dict().values()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    flags = [(m.training, len(m._forward_hooks)) for m in model.modules()]
    return [tensors, grads, flags, [p.requires_grad for p in model.parameters()], torch.get_rng_state()]


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


def test_measuring_leaves_training_bit_identical():
    def train(measuring: bool) -> list[Tensor]:
        model, (x, y) = cnn(), data(2, 6, 6)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for step in range(6):
            optimizer.zero_grad()
            functional.cross_entropy(functional.dropout(model(x), 0.1), y).backward()
            if measuring and step % 2 == 0:
                measure(model, batched(x, y))
            optimizer.step()
        return list(model.state_dict().values())

    assert same(train(True), train(False))


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
    batches = [{"tokens": t, "labels": labels} for t, labels in zip(tokens.split(5), y.split(5), strict=True)]
    rows = rows_of(measure(model, batches))
    inputs = model.embed(tokens).detach()[:, :5].flatten(0, 1)
    assert rows["mixed"].n == 60
    assert rows["mixed"].tl_in == pytest.approx(target_linearity(inputs, y[:, :5].flatten()), abs=1e-12)
    assert rows["mixed"].residual < 1e-10
    assert "labels" in batches[0]
    changed = [{"tokens": b["tokens"], "labels": b["labels"]} for b in batches]
    tokens[:, 6] = 0  # only after what is counted
    assert rows_of(measure(model, changed))["head"].tl_in == pytest.approx(rows["head"].tl_in)


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 40, 3, padding=1)
        self.head = nn.Linear(40, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)))


@pytest.mark.filterwarnings("ignore:.*samples of .* features")
class TestReduction:
    def test_wide_maps_are_refused_by_name_and_never_reduced_silently(self):
        x, y = data(1, 16, 16)
        with pytest.raises(ValueError, match=r"conv: features of 10240 dimensions; take reduction 'pool' or 'project'"):
            measure(Wide().to(F64), batched(x, y))
        assert [row.name for row in measure(Wide().to(F64), batched(x, y), names="head")] == ["head"]

    def test_pooling_takes_the_mean_over_positions(self):
        model, (x, y) = Wide().to(F64), data(1, 16, 16)
        row = rows_of(measure(model, batched(x, y), reduction="pool"))["conv"]
        pooled = model.conv(x).detach().mean((2, 3))
        assert row.tl_out == pytest.approx(target_linearity(pooled, y), abs=1e-10)
        assert row.reduction_error == 0

    def test_a_projection_says_how_far_it_is_off(self):
        model, (x, y) = Wide().to(F64), data(1, 16, 16)
        rows = rows_of(measure(model, batched(x, y), reduction="project", projected=500))
        assert 0 < rows["conv"].reduction_error < 4 * math.sqrt(2 / 500)
        assert rows["head"].reduction_error == 0
        again = rows_of(measure(model, batched(x, y, 9), reduction="project", projected=500))
        assert again["conv"].tl_out == pytest.approx(rows["conv"].tl_out, rel=1e-9)


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


def test_targets_may_be_a_matrix_and_the_loss_ones_own():
    model, (x, _) = mlp(), data(6)
    y = x[:, :CLASSES].sin()
    rows = rows_of(measure(model, batched(x, y)))
    assert rows["0"].tl_in == pytest.approx(target_linearity(x, y), abs=1e-10)
    assert math.isnan(rows["5"].nc1)
    doubled = rows_of(measure(model, batched(x, y), loss=lambda out, t: 2 * (out - t).square().sum()))
    assert doubled["3"].cosine_vc == pytest.approx(rows["3"].cosine_vc)


def test_the_outer_product_of_gradients_can_be_left_out():
    x, y = data(6)
    assert all(math.isnan(row.cosine_agop) for row in measure(mlp(), batched(x, y), gradients_of_outputs=False))


def test_the_table_prints_and_converts():
    x, y = data(6)
    table = measure(mlp(), batched(x, y))
    lines = str(table).splitlines()
    assert len(lines) == 4
    assert lines[0].split()[:4] == ["layer", "kind", "d", "m"]
    assert table.to_dict()["3"]["tl_in"] == table[1].tl_in
    starts = [[match.start() for match in re.finditer(r"\S+", line)] for line in lines]
    assert starts[1:] == starts[:-1]  # columns are aligned


@pytest.mark.parametrize(
    ("batches", "names", "message"), [([], "", "nothing was measured"), ([], "absent", "no Linear or Conv2d")]
)
def test_nothing_to_measure_is_an_error_of_one_line(batches, names, message):
    with pytest.raises(ValueError, match=message):
        measure(mlp(), batches, names=names)


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    x, y = data(6)
    part = slice(13, None) if rank else slice(0, 13)
    table = measure(mlp(), batched(x[part], y[part]), all_reduce=True)
    torch.save([list(vars(row).values()) for row in table], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*os.fork")
def test_two_processes_give_the_table_of_one(tmp_path: Path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    alone = measure(mlp(), batched(*data(6)))
    for rank in range(2):
        for found, row in zip(torch.load(tmp_path / f"{rank}.pt", weights_only=True), alone, strict=True):
            for value, (key, expected) in zip(found, vars(row).items(), strict=True):
                if isinstance(expected, str):
                    assert value == expected
                elif key != "residual":  # rounding
                    assert value == pytest.approx(expected, rel=1e-10, abs=1e-12, nan_ok=True), key
