"""Moments of two processes, merged over torch.distributed, against one process with all samples."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from core.linearity import report
from core.moments import FeatureMoments

SUMS = ("feature_mean", "target_mean", "scatter", "cross", "target_scatter")


def data(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Features far from zero; class 4 is among the first rows only, which one process holds."""
    g = torch.Generator().manual_seed(0)
    features = 1e5 + torch.randn(101, 6, generator=g, dtype=torch.float64)
    labels = torch.cat([torch.full((3,), 4), torch.randint(4, (98,), generator=g)])
    return features, labels if kind == "classes" else features[:, :2].sin()


SHARDS = {"uneven": slice(0, 17), "one sample": slice(0, 1), "empty": slice(0, 0)}


CASES = list(itertools.product(("classes", "columns"), SHARDS, (False, True)))


def work(rank: int, folder: str) -> None:
    """Every case in one pair of processes, for starting them takes seconds; then moments of unlike kinds."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for kind, shard, diagonal in CASES:
        features, targets = data(kind)
        part = slice(SHARDS[shard].stop, None) if rank else SHARDS[shard]
        moments = FeatureMoments(diagonal)
        for h, y in zip(features[part].split(10), targets[part].split(10), strict=True):
            moments.update(h, y)
        torch.save(moments.all_reduce().state_dict(), f"{folder}/{kind}-{shard}-{diagonal}-{rank}.pt")
    features, targets = data("classes")
    try:
        FeatureMoments().update(features, targets if rank else features).all_reduce()
    except ValueError as error:
        Path(folder, f"refused-{rank}").write_text(str(error))
    assert FeatureMoments().all_reduce().n == 0  # where no process has samples
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("processes")
    mp.spawn(work, (str(path),), nprocs=2)
    return path


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("kind", "shard", "diagonal"), CASES)
def test_two_processes_end_with_the_moments_of_one(
    folder: Path, kind: str, shard: str, diagonal: bool, rank: int
) -> None:
    alone = FeatureMoments(diagonal).update(*data(kind))
    state = torch.load(folder / f"{kind}-{shard}-{diagonal}-{rank}.pt", weights_only=True)
    merged = FeatureMoments.from_state_dict(state)
    assert merged.n == alone.n == 101
    for name in SUMS:
        expected = getattr(alone, name).numpy()
        error = np.abs(getattr(merged, name).numpy() - expected).max()
        assert error <= 1e-10 * np.abs(expected).max(), name
    assert report(merged).value == pytest.approx(report(alone).value, abs=1e-10)


@pytest.mark.parametrize("rank", [0, 1])
def test_moments_of_different_kinds_are_refused_by_every_process(folder: Path, rank: int) -> None:
    assert "different kinds" in (folder / f"refused-{rank}").read_text()
