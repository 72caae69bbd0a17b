"""Weights that are elsewhere, in pieces or in a graph; inputs of a classifier that are kept."""

import copy

import accelerate
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.fx import symbolic_trace

from cases import draw
from core import layer_sums
from core.layer_table import LayerTable
from core.measure import measure

N, CLASSES = 64, 4
X, Y = draw(N, 6), torch.arange(N) % CLASSES
BATCHES = [(X[:40], Y[:40]), (X[40:], Y[40:])]


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)).double()


def numbers(table: LayerTable) -> list[float]:
    return [v for row in table for v in vars(row).values() if isinstance(v, float)]


@pytest.mark.parametrize("buffers", [False, True])
def test_weights_that_are_offloaded_are_fetched(buffers: bool) -> None:
    model, expected = mlp(), measure(mlp(), BATCHES)
    cpu = torch.device("cpu")
    model = accelerate.cpu_offload(model, execution_device=cpu, offload_buffers=buffers)
    table = measure(model, BATCHES)
    assert numbers(table) == pytest.approx(numbers(expected), rel=1e-12, nan_ok=True)
    assert {p.device.type for p in model.parameters()} == {"meta"}  # as before
    torch.testing.assert_close(model.eval()(X), mlp().eval()(X))


def test_some_of_the_weights_may_be_on_disk(tmp_path) -> None:
    device_map = {"0": "cpu", "1": "cpu", "2": "disk"}
    model = accelerate.dispatch_model(
        mlp(), device_map, main_device="cpu", offload_dir=tmp_path, force_hooks=True
    )
    table = measure(model, BATCHES)
    assert numbers(table) == pytest.approx(numbers(measure(mlp(), BATCHES)), nan_ok=True)


def test_weights_without_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"meta.*load them"):
        measure(mlp().to("meta"), BATCHES)


@pytest.mark.filterwarnings("ignore:FSDP is switching")
def test_weights_in_pieces_are_refused(tmp_path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/x", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        part, whole = mlp(), mlp()
        fully_shard(part[2], mesh=mesh)
        fully_shard(whole, mesh=mesh)
        wrapped = FullyShardedDataParallel(mlp(), device_id=torch.device("cpu"))
        for model in (part, whole, nn.Sequential(whole), wrapped):
            with pytest.raises(ValueError, match="in pieces") as error:
                measure(model, BATCHES)
            assert "\n" not in str(error.value)
    finally:
        dist.destroy_process_group()


GRAPHS = {
    "scripted": lambda m: torch.jit.script(m),
    "traced": lambda m: torch.jit.trace(m, X),
    "exported": lambda m: torch.export.export(m, (X,)).module(),
    "frozen": lambda m: torch.jit.freeze(torch.jit.script(m)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS)
def test_a_model_without_layers_says_what_it_is(make) -> None:
    model = make(mlp().eval())
    with pytest.raises(ValueError, match=r"torch\.(jit|export)\).* without layers") as error:
        measure(model, BATCHES)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
def test_layers_that_are_still_called_as_modules_are_measured() -> None:
    expected = measure(mlp(), BATCHES)
    table = measure(symbolic_trace(mlp()), BATCHES)
    assert numbers(table) == pytest.approx(numbers(expected), nan_ok=True)
    part = nn.Sequential(torch.jit.script(nn.Linear(6, 6).double()), mlp())
    table = measure(part, BATCHES)
    assert [row.name for row in table] == ["1.0", "1.2"]
    assert "0.weight" in table.notes["left out, parameters of no linear layer or convolution"]


@pytest.mark.parametrize("several", [False, True])
def test_a_classifier_of_more_inputs_than_are_kept_has_no_nc4(monkeypatch, several: bool) -> None:
    batches = BATCHES if several else [(X, Y)]
    expected = measure(mlp(), batches)
    for limit, within in ((N * 8, True), (N * 8 - 1, False)):
        monkeypatch.setattr(layer_sums, "MOST_KEPT", limit)
        table = measure(mlp(), batches)
        notes = [names for note, names in table.notes.items() if note.startswith("no NC4")]
        assert notes == ([] if within else [["2"]])
        head = copy.copy(vars(table[1]))
        assert head.pop("nc4") == pytest.approx(
            expected[1].nc4 if within else float("nan"), nan_ok=True
        )
        for name, value in head.items():
            assert value == pytest.approx(getattr(expected[1], name), nan_ok=True)


def test_what_is_kept_is_dropped_at_the_limit(monkeypatch) -> None:
    monkeypatch.setattr(layer_sums, "MOST_KEPT", 100)
    sums = layer_sums.LayerSums(torch.ones(1, 2, 5))
    kept = []
    for _ in range(4):
        sums.add_predictions(torch.ones(8, 5), torch.zeros(8))
        kept.append(sums.predictions and len(sums.predictions))
    assert kept == [1, 2, None, None]
