"""Sums of two processes, merged over torch.distributed, against one process with all samples."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from cases import draw, gather
from core.layer_sums import LayerSums
from core.measure import measure
from core.moments import SUMS, FeatureMoments
from core.theories import THEORIES
from oracles import difference

pytestmark = pytest.mark.slow

CASES = {  # kind of data, samples of the first process, diagonal_targets
    "classes, uneven": ("classes", 17, False),
    "classes, diagonal, one sample": ("classes", 1, True),
    "columns, one empty": ("columns", 0, False),
    "columns, diagonal, uneven": ("columns", 17, True),
    "replicas of classes, uneven": ("replicas", 17, False),
    "replicas of classes, diagonal, one empty": ("replicas", 0, True),
}


def data(kind: str) -> tuple[Tensor, Tensor]:
    """Features far from zero; class 4 is among the first rows only, which one process holds."""
    features = 1e5 + draw(*((2, 3) if kind == "replicas" else ()), 101, 6)
    labels = torch.cat([torch.full((3,), 4), torch.arange(98) % 4])
    if kind == "replicas":
        labels = torch.stack([labels, labels.flip(0), 4 - labels])
        return features, labels.expand(2, 3, 101)
    return features, labels if kind == "classes" else features[:, :2].sin()


def merged_moments(case: str, rank: int) -> dict[str, Tensor]:
    kind, first, diagonal = CASES[case]
    features, targets = data(kind)
    rows = slice(first, None) if rank else slice(first)
    targets = targets[rows] if kind == "columns" else targets[..., rows]
    return gather(features[..., rows, :], targets, 10, diagonal).all_reduce().state_dict()


def refusal(rank: int) -> str:
    """What processes say whose targets are of different kinds."""
    features, targets = data("classes")
    try:
        FeatureMoments().update(features, targets if rank else features).all_reduce()
    except ValueError as error:
        return str(error)
    return ""


def layer_sums(rank: int | None) -> LayerSums:
    """Sums of one of two processes, of which the second has no gradients of outputs; or of both."""
    ranks = (0, 1) if rank is None else (rank,)
    sums = LayerSums(draw(2, 3, 4))
    for r in ranks:
        sums.add_weight_gradient(draw(2, 3, 4, seed=r + 1))
        sums.residual = (1e-3, 2e-3)[r]
        sums.reduction_error += (0.5, 0.25)[r]
        sums.reduced_samples += (3, 2)[r]
    if 0 in ranks:
        sums.add_output_gradient(draw(2, 7, 3, seed=3))
    return sums


def reduced_sums(rank: int) -> dict[str, object]:
    sums = layer_sums(rank)
    sums.all_reduce()
    names = ("weight_gradient", "output_outer", "residual", "reduction_error", "reduced_samples")
    return {name: getattr(sums, name) for name in names}


def table(rank: int | None) -> list[dict[str, object]]:
    """Rows of `measure` from one of two processes, or from all samples; class 0 is in one only."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)).double()
    x, y = draw(160, 6), torch.cat([3 - torch.arange(13) % 3, torch.arange(147) % 4])
    rows = {None: slice(160), 0: slice(13), 1: slice(13, None)}[rank]
    batches = list(zip(x[rows].split(17), y[rows].split(17), strict=True))
    others = [(x[:13] + draw(6), y[:13])] if rank != 1 else []  # all in one of the processes
    options = {"theories": THEORIES, "all_reduce": rank is not None}
    return [vars(row) for row in measure(model, batches, others, **options)]


def idle_process(rank: int) -> str:
    """What processes say of which one has no batches."""
    model, x = nn.Linear(6, 3), torch.ones(4, 6)
    try:
        measure(model, [(x, torch.arange(4) % 3)] if rank else [], all_reduce=True)
    except ValueError as error:
        return str(error)
    return ""


def work(rank: int, folder: str) -> None:
    """Everything in one pair of processes, for to start them takes seconds."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = {
        "moments": {case: merged_moments(case, rank) for case in CASES},
        "refusal": refusal(rank),
        "samples": FeatureMoments().all_reduce().n,  # where no process has one
        "sums": reduced_sums(rank),
        "table": table(rank),
        "idle": idle_process(rank),
    }
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each process ends with."""
    folder: Path = tmp_path_factory.mktemp("processes")
    mp.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_with_the_moments_of_one(results, case):
    kind, _, diagonal = CASES[case]
    alone = gather(*data(kind), diagonal_targets=diagonal)
    for result in results:
        merged = FeatureMoments.from_state_dict(result["moments"][case])
        assert (merged.n, merged.one_hot) == (alone.n, alone.one_hot)
        assert merged.batch_shape == alone.batch_shape
        for name in SUMS:
            assert difference(getattr(merged, name), getattr(alone, name)) < 1e-10, name


def test_moments_of_different_kinds_are_refused_by_every_process(results):
    assert all("different kinds" in result["refusal"] for result in results)


def test_processes_without_samples_end_without_samples(results):
    assert [result["samples"] for result in results] == [0, 0]


def test_two_processes_end_with_the_layer_sums_of_one(results):
    alone = layer_sums(None)
    for result in results:
        for name, value in result["sums"].items():
            assert difference(value, getattr(alone, name)) < 1e-14, name


def test_a_process_without_batches_is_an_error_in_every_process(results):
    assert all("give each process one or more batches" in result["idle"] for result in results)


def test_two_processes_give_the_table_of_one(results):
    alone = table(None)
    for result in results:
        for row, expected in zip(result["table"], alone, strict=True):
            assert row.pop("residual") < 1e-12 > expected["residual"]  # rounding
            assert (row.pop("name"), row.pop("kind")) == (expected["name"], expected["kind"])
            numbers = {name: expected[name] for name in row}
            assert row == pytest.approx(numbers, rel=1e-10, abs=1e-12, nan_ok=True)
