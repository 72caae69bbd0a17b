"""`measure` where gradients do not flow, layers are not called, or a run is wrapped or compiled."""

import copy
import math
import warnings

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from cases import draw
from core.callback import MeasureEvery
from core.layer_table import LayerRow, LayerTable
from core.linearity import target_linearity
from core.measure import measure

N, CLASSES = 60, 4
X, Y = draw(N, 6), torch.arange(N) % CLASSES
BATCHES = [(X[:25], Y[:25]), (X[25:], Y[25:])]


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    body = [nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU()]
    return nn.Sequential(*body, nn.Linear(8, CLASSES)).double()


def numbers(row: LayerRow) -> dict[str, float]:
    return {name: value for name, value in vars(row).items() if name not in ("name", "kind")}


def assert_alike(table: LayerTable, expected: LayerTable, rel: float = 1e-12) -> None:
    assert [row.name for row in table] == [row.name for row in expected]
    for row, other in zip(table, expected, strict=True):
        assert numbers(row) == pytest.approx(numbers(other), rel=rel, abs=1e-12, nan_ok=True)


class Backbone(nn.Module):
    """A frozen body below a head, frozen in one of three ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.model, self.how = mlp(), how

    def forward(self, x: Tensor) -> Tensor:
        body, head = self.model[:4], self.model[4]
        if self.how == "detach":
            return head(body(x).detach())
        with torch.no_grad() if self.how == "no_grad" else torch.inference_mode():
            h = body(x)
        return head(h)


@pytest.mark.parametrize("how", ["no_grad", "detach", "inference_mode"])
def test_features_of_a_frozen_body_are_measured_and_its_gradients_are_not(how: str) -> None:
    table, expected = measure(Backbone(how), BATCHES), measure(mlp(), BATCHES)
    for row, other in zip(table, expected, strict=True):
        assert (row.tl_in, row.nc1) == (other.tl_in, other.nc1)
    for row in table[:2]:
        assert all(map(math.isnan, (row.residual, row.cosine_vc, row.cosine_agop)))
    assert numbers(table[2]) == numbers(expected[2])
    assert table.notes["no gradients, the loss does not reach them"] == ["model.0", "model.2"]


def test_a_model_without_a_single_gradient_is_measured_by_its_features() -> None:
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = mlp()

        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

    for row, other in zip(measure(Silent(), BATCHES), measure(mlp(), BATCHES), strict=True):
        assert (row.tl_out, row.nc4) == pytest.approx((other.tl_out, other.nc4), nan_ok=True)
        assert all(map(math.isnan, (row.residual, row.cosine_vc, row.cosine_agop)))


def test_that_nothing_is_to_be_trained_does_not_matter() -> None:
    frozen = mlp().requires_grad_(False)
    assert_alike(measure(frozen, BATCHES), measure(mlp(), BATCHES))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_inside_no_grad_and_inference_mode_it_is_measured_alike() -> None:
    expected = measure(mlp(), BATCHES)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert_alike(measure(mlp(), BATCHES), expected)


def test_inputs_made_in_inference_mode_are_measured() -> None:
    with torch.inference_mode():
        batches = [(x.clone(), y.clone()) for x, y in BATCHES]
    assert_alike(measure(mlp(), batches), measure(mlp(), BATCHES))


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.model, self.reentrant = mlp(), reentrant

    def forward(self, x: Tensor) -> Tensor:
        h = self.model[0](x)
        h = checkpoint(self.model[1:4], h, use_reentrant=self.reentrant)
        return self.model[4](h)


def test_activation_checkpointing_changes_nothing() -> None:
    table, expected = measure(Checkpointed(False), BATCHES), measure(mlp(), BATCHES)
    for row, other in zip(table, expected, strict=True):
        assert numbers(row) == pytest.approx(numbers(other), rel=1e-12, nan_ok=True)


def test_reentrant_checkpointing_is_refused_with_the_layer_and_the_remedy() -> None:
    message = "model.2: .*use_reentrant=False"
    with pytest.raises(ValueError, match=message) as error:
        measure(Checkpointed(True), BATCHES)
    assert "\n" not in str(error.value)


def test_a_compiled_model_is_measured_as_the_model_inside() -> None:
    compiled = torch.compile(mlp(), backend="eager")
    compiled(X)
    assert_alike(measure(compiled, BATCHES), measure(mlp(), BATCHES))
    inside = nn.Sequential(torch.compile(mlp(), backend="eager"))
    inside(X)
    table = measure(inside, BATCHES)
    assert [row.residual for row in table] == [row.residual for row in measure(mlp(), BATCHES)]


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)
        self.head = nn.Linear(6, CLASSES)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x).mean(1))


@pytest.mark.parametrize("frozen", [False, True])
def test_an_attention_whose_projections_are_not_called_is_named(frozen: bool) -> None:
    """Frozen, torch would take a fast path that calls no layer at all."""
    model = Attends().requires_grad_(not frozen)
    table = measure(model, [(draw(N, 3, 6), Y)])
    assert [row.name for row in table] == ["block.linear1", "block.linear2", "head"]
    assert table.notes["left out, never called"] == ["block.self_attn.out_proj"]
    others = table.notes["left out, parameters of no linear layer or convolution"]
    assert others == ["block.self_attn.in_proj_weight"]


def test_names_of_layers_that_are_not_called_say_so() -> None:
    with pytest.raises(
        ValueError, match=r"nothing was measured: left out, never called: .*out_proj"
    ):
        measure(Attends(), [(draw(N, 3, 6), Y)], names="out_proj")


def test_a_model_without_layers_says_so() -> None:
    with pytest.raises(ValueError, match="no linear layer or convolution"):
        measure(nn.LSTM(6, 4), BATCHES)


def test_inside_autocast_the_model_runs_as_there_and_the_measures_as_outside() -> None:
    model, batches = mlp().float(), [(x.float(), y) for x, y in BATCHES]
    with torch.autocast("cpu", torch.bfloat16):
        table = measure(model, batches)
    hidden = model[:2](X.float())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model[:2](X.float())
    assert (rounded - hidden).abs().max() > 1e-4
    assert table[0].tl_in == pytest.approx(target_linearity(X.float(), Y), rel=1e-12)
    assert table[1].tl_in == pytest.approx(target_linearity(rounded.detach(), Y), rel=1e-12)
    for row, exact in zip(table, measure(model, batches), strict=True):
        assert 1e-5 < row.residual < 0.02  # bfloat16's rounding
        assert row.cosine_vc == pytest.approx(exact.cosine_vc, abs=0.02)
        assert row.effective_rank == exact.effective_rank


def test_a_model_that_accelerate_prepared_in_half_precision_gives_a_table() -> None:
    model = mlp().float()
    exact = measure(copy.deepcopy(model), [(x.float(), y) for x, y in BATCHES])
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare(model)
    table = measure(prepared, [(x.float(), y) for x, y in BATCHES])
    for row, other in zip(table, exact, strict=True):
        assert row.tl_out == pytest.approx(other.tl_out, abs=0.05)  # rounding adds dimensions
        assert 0 < row.residual < 0.02
    assert prepared(X.float()).dtype == torch.float32  # its forward is accelerate's again
    assert "forward" in vars(prepared)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_measured(dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    table = measure(model, [(x.to(dtype), y) for x, y in BATCHES])
    for row, exact in zip(table, measure(model.double(), BATCHES), strict=True):
        assert row.residual < 0.02
        assert row.tl_out == pytest.approx(exact.tl_out, abs=0.05)


class Waits(nn.parallel.DistributedDataParallel):
    def forward(self, *_: object) -> None:
        raise AssertionError("it would wait here for the other processes")


def test_inside_of_distributed_data_parallel_the_module_is_measured(tmp_path) -> None:
    """Its own forward sends buffers about, so that uneven batches wait for ever."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)).double()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert_alike(measure(Waits(model), BATCHES), measure(model, BATCHES))
        merged = measure(Waits(model), BATCHES, all_reduce=True)
    finally:
        dist.destroy_process_group()
    assert_alike(merged, measure(model, BATCHES), rel=1e-9)


NOT_FINITE = ("tl_in", "nc1", "cka_in", "surrogate")


def quiet(model: nn.Module, batches: list) -> tuple[LayerTable, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = measure(model, batches)
    return table, [str(warning.message) for warning in caught]


def test_a_weight_that_is_not_finite_leaves_nan_and_a_warning() -> None:
    model = mlp()
    model[2].weight.data[0, 0] = math.nan
    table, messages = quiet(model, BATCHES)
    assert "weights that are not finite: 2" in messages
    assert any(message.startswith("features are not finite: 2, 4") for message in messages)
    assert table[0].tl_in == measure(mlp(), BATCHES)[0].tl_in
    assert math.isnan(table[1].effective_rank)
    assert all(math.isnan(row.residual) for row in table)
    assert all(math.isnan(getattr(table[2], name)) for name in NOT_FINITE)
    assert table.notes["weights that are not finite"] == ["2"]


def test_features_whose_squares_leave_float64_leave_nan_and_a_warning() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, CLASSES)).double()
    model[0].weight.data.mul_(1e160)
    table, messages = quiet(model, BATCHES)
    assert any(message.startswith("features of size") for message in messages)
    assert math.isnan(table[0].tl_out)
    assert not math.isnan(table[0].tl_in)


def test_a_batch_of_one_class_leaves_nan_and_a_warning() -> None:
    table, messages = quiet(mlp(), [(X, torch.zeros_like(Y))])
    assert messages == ["the targets are constant: Target Linearity has no meaning: 0, 2, 4"]
    for row in table:
        assert all(math.isnan(value) for value in (row.tl_in, row.tl_out, row.nc1, row.cka_in))
        assert 0 < row.residual < 1e-12


def test_a_dead_layer_is_not_said_to_have_collapsed() -> None:
    model = mlp()
    model[0].weight.data.zero_()
    model[0].bias.data.zero_()
    table, _ = quiet(model, BATCHES)
    first, second, _ = table
    assert second.tl_in == 0  # nothing is linear in a constant
    assert math.isnan(second.nc1)
    assert math.isnan(second.cka_in)
    assert math.isnan(first.cosine_vc)
    assert math.isnan(first.effective_rank)


def test_a_layer_without_a_gradient_has_no_perfect_residual() -> None:
    """Behind a ReLU that never opens."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES)).double()
    model[0].bias.data.fill_(-1e3)
    assert math.isnan(measure(model, BATCHES)[0].residual)


@pytest.mark.filterwarnings("ignore:features are not finite")
@pytest.mark.filterwarnings("ignore:weights that are not finite")
@pytest.mark.filterwarnings("ignore:the targets are constant")
def test_a_bad_moment_does_not_end_training() -> None:
    model, moments = mlp(), iter([BATCHES, [(X, torch.ones_like(Y))], BATCHES])

    class Changing(list):
        def __iter__(self):
            return iter(next(moments))

    watch = MeasureEvery(1, model, Changing())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for epoch in range(3):
        watch(epoch)
        optimizer.zero_grad()
        functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
        if epoch == 1:
            model[0].weight.data.fill_(math.inf)
    assert list(watch.tables) == [0, 1, 2]
    assert math.isnan(watch.tables[2][1].tl_in)


@pytest.mark.parametrize("offset", [1e14, 5e15])
def test_lost_digits_are_warned_of_and_stand_in_the_notes(offset: float) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, CLASSES)).double()
    table, messages = quiet(model, [(X + offset, Y)])
    assert any("vary by a few roundings" in message for message in messages)
    assert any("vary by a few roundings" in note for note in table.notes)


def test_short_directions_are_warned_of_and_stand_in_the_notes() -> None:
    short = X * torch.logspace(0, -6, 6, dtype=torch.float64) @ X[:6].mT
    targets = torch.linalg.lstsq(X, torch.nn.functional.one_hot(Y).double()).solution
    table, messages = quiet(nn.Linear(6, CLASSES).double(), [(short, X @ targets)])
    assert any("hardly vary" in message for message in messages)
    assert [names for note, names in table.notes.items() if "hardly vary" in note] == [[""]]
    assert not quiet(mlp(), BATCHES)[1]


def test_collapse_that_is_rounding_is_warned_of() -> None:
    points = torch.eye(CLASSES, 6, dtype=torch.float64)[Y] + 1e-8 * X
    table, messages = quiet(nn.Linear(6, CLASSES).double(), [(points, Y)])
    assert any(message.startswith("NC1") for message in messages)
    assert any(note.startswith("NC1") for note in table.notes)
