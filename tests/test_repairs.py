"""Checkpoints that are missing, training that diverges or is in use, from start to end."""

import dataclasses
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import reproduce
import tiny
from experiment import bert_target_linearity, bert_train, vae_target_linearity, vae_train
from lab import checkpoints, data, program, runs
from lab.errors import Diverged
from lab.results import Result
from lab.text import fine_tuning

PAIRS = {"vae": (vae_train, vae_target_linearity), "bert": (bert_train, bert_target_linearity)}
each_pair = pytest.mark.parametrize(
    "pair", [pytest.param("vae"), pytest.param("bert", marks=pytest.mark.slow)]
)


def call(config: Any) -> int:
    """Run the script of a configuration in this process; returns the exit status."""
    script = sys.modules[type(config).__module__]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script.__file__, *tiny.command(config)])
        try:
            program.run(script.main)
        except SystemExit as stop:
            return stop.code
    return 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with the results of both scripts of a pair."""
    root, made = tmp_path_factory.mktemp("whole"), set()
    tiny.write_data(root / "tiny.npz")

    def make(pair: str) -> Path:
        if pair not in made:
            for script in PAIRS[pair]:
                assert call(configure(script, root)) == 0
            made.add(pair)
        return root

    return make


def configure(script: ModuleType, root: Path, **changes: Any) -> Any:
    places = {"datasets": (str(root / "tiny.npz"),), "results": root / "results", "jobs": 1}
    return tiny.tiny(script, **places, tasks=("toy_sst2",), betas=(0.5,), shown_beta=0.5, **changes)


@pytest.fixture
def pair_in(tmp_path: Path, whole: Callable[[str], Path]) -> Callable[[str], list[Any]]:
    """The configurations of a pair in a copy of its results."""

    def copy(pair: str) -> list[Any]:
        shutil.copytree(whole(pair), tmp_path, dirs_exist_ok=True)
        return [configure(script, tmp_path) for script in PAIRS[pair]]

    return copy


def folder(config: Any) -> Path:
    return config.results / "quick" / tiny.name(sys.modules[type(config).__module__])


def only_result(config: Any) -> Result:
    (result,) = tiny.read(folder(config)).values()
    return result


def seed_folder(config: Any, seed: int) -> Path:
    (found,) = folder(config).glob(f"*/seed{seed}")
    return found


@each_pair
def test_a_result_without_some_checkpoints_gets_them_and_only_them(pair, pair_in, capsys):
    train, measure = pair_in(pair)
    original = {p: p.read_bytes() for p in seed_folder(train, 3).rglob("*") if p.is_file()}
    result = next(folder(train).glob("*.npz"))
    untouched = [result, *(p for p in seed_folder(train, 0).rglob("*") if p.is_file())]
    before = {path: path.stat().st_mtime_ns for path in untouched}
    first = sorted(seed_folder(train, 3).iterdir())[0]
    shutil.rmtree(first) if first.is_dir() else first.unlink()
    measure = dataclasses.replace(measure, overwrite=True)
    assert call(measure) == 2
    line = capsys.readouterr().err
    assert re.fullmatch(rf"error: no checkpoint {first}: run src/experiment/{pair}_train.+\n", line)
    assert call(train) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^made the checkpoints of seed 3.* again: {result}$", out, re.MULTILINE)
    assert {path: path.stat().st_mtime_ns for path in untouched} == before
    for path, content in original.items():
        if path.suffix in (".pt", ".safetensors"):
            assert path.read_bytes() == content
    expected = only_result(measure)
    assert call(measure) == 0
    tiny.assert_same_bits({"": only_result(measure)}, {"": expected})


def test_reproduce_trains_nothing_for_checkpoints_that_nobody_reads(pair_in, monkeypatch, capsys):
    train, _ = pair_in("vae")
    shutil.rmtree(seed_folder(train, 0))
    monkeypatch.setattr(runs, "deal", lambda *_, **__: pytest.fail("it trains"))
    words = (vae_train.__file__, *tiny.command(train))
    assert reproduce.run_script("vae_train", words)
    assert capsys.readouterr().out.startswith("already there: ")


def diverge(pair: str, patch: pytest.MonkeyPatch) -> None:
    """Let the second replica diverge in its second epoch."""
    calls = []
    if pair == "vae":
        mean_terms = vae_train.mean_terms

        def terms(*arguments: Any) -> dict:
            calls.append(1)
            measures = mean_terms(*arguments)
            wrong = len(calls) > 5  # epochs 0, 1, 2 of the first, 0, 1 of the second
            return {name: value + (np.nan if wrong else 0) for name, value in measures.items()}

        patch.setattr(vae_train, "mean_terms", terms)
        return
    scores = fine_tuning.scores

    def scored(*arguments: Any) -> dict:
        calls.append(1)
        if len(calls) > 10:  # of two splits
            raise Diverged("training diverged; lower the learning rate")
        return scores(*arguments)

    patch.setattr(fine_tuning, "scores", scored)


@each_pair
def test_a_replica_that_diverges_is_nan_from_there_on_and_measured_as_far_as_it_goes(
    pair, pair_in, capsys
):
    configs = pair_in(pair)
    expected = [only_result(config) for config in configs]
    for config in configs:
        shutil.rmtree(folder(config))
    with pytest.MonkeyPatch.context() as patch:
        diverge(pair, patch)
        assert call(configs[0]) == 2
    line = capsys.readouterr().err
    assert re.fullmatch(r"error: .*diverged in epoch 2; lower the learning rate\n", line), line
    assert call(configs[1]) == 2
    line = capsys.readouterr().err
    assert re.fullmatch(r"error: .*seed 3: training diverged in epoch 2; .*\n", line), line
    for config, whole_result in zip(configs, expected, strict=True):
        found = only_result(config)
        assert [(d["seed"], d["epoch"]) for d in found.diverged] == [(3, 2)]
        axes = found.meta["axes"]
        checked = 0
        for name, values in found.arrays.items():
            along = next((a for a in ("epoch", "stage") if a in axes[name]), None)
            if along is None or "seed" not in axes[name]:
                continue
            seed, place = axes[name].index("seed"), axes[name].index(along)
            before = 2 if along == "epoch" else 3  # epochs 0 and 1; two stages and epoch 1
            mine, other = (
                np.moveaxis(a, (seed, place), (0, 1)) for a in (values, whole_result[name])
            )
            np.testing.assert_array_equal(mine[0], other[0])
            np.testing.assert_array_equal(mine[1, :before], other[1, :before])
            assert np.isnan(mine[1, before:]).all()
            checked += 1
        assert checked
        assert call(config) == 0  # it is there, and says so
        assert "; seed 3 diverged in epoch 2" in capsys.readouterr().out


@each_pair
def test_what_is_in_use_is_neither_made_nor_measured(pair, pair_in, capsys):
    train, measure = (dataclasses.replace(config, overwrite=True) for config in pair_in(pair))
    texts_or_images = (
        train.load_texts("toy_sst2") if pair == "bert" else data.load_images(train.datasets[0])
    )
    plan = PAIRS[pair][0].plan(train, texts_or_images)
    (run,) = plan.values() if pair == "vae" else [plan]
    kept = run.path.with_suffix("")
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    for holder, users in (
        (run.partial.in_use(), (train, measure)),
        (checkpoints.reading([run]), (train,)),
    ):
        with holder:
            for config in users:
                assert call(config) == 2
                assert re.fullmatch(r"error: .+ is in use by .+\n", capsys.readouterr().err)
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before
