"""Checkpoints: what goes in comes out, whole or not at all; an unusable file is one line."""

import contextlib
import os
import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lab import checkpoints, cli, results, runs
from lab.cli import Common
from lab.errors import ResultError
from lab.models import MLP, VAE
from lab.replicas import Replica, generator
from lab.runs import Run

DATA = SimpleNamespace(name="mine", fingerprint="0123456789abcdef")
SETTINGS = {"beta": 0.5, "seeds": (0, 1), "epochs": 3.0}


def plan(settings=SETTINGS, source=DATA, root=Path("results")):
    return Run(Common(results=root), "vae_train", "mine-beta0.5", settings, source, {}, ())


ORIGIN = checkpoints.identity(plan(), seed=1)


def build(seed=0, widths=(6, 5, 4)):
    return MLP(widths, [generator(seed, "weights")])


def written(folder, model=None, **further):
    path = folder / "below" / "seed0-epoch001.pt"
    checkpoints.write(path, (model or build()).state_dict(), ORIGIN | further)
    return path


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(some, others):
    return some.keys() == others.keys() and all(torch.equal(some[k], others[k]) for k in some)


def refusal(path, model=None, wanted=ORIGIN):
    """The message of the ResultError of restoring: one line that names the file and the remedy."""
    with pytest.raises(ResultError) as caught:
        checkpoints.restore(model or build(), path, wanted, "vae_train")
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert message.endswith(checkpoints.remedy("vae_train"))
    assert "run src/experiment/vae_train.py" in message
    assert "--overwrite" in message
    return message


class TestNames:
    def test_are_below_the_results_and_differ_by_result_seed_and_number(self):
        run, other = plan(), plan({"beta": 0.25})
        path = checkpoints.checkpoint(run, 3, 12)
        assert path == run.path.with_suffix("") / "seed3" / "checkpoint-12"
        best = checkpoints.checkpoint(run, 3, "best", ".pt")
        assert best == path.with_name("checkpoint-best.pt")
        paths = [
            checkpoints.checkpoint(r, s, n) for r in (run, other) for s in (0, 1) for n in (1, 2)
        ]
        assert len(set(paths)) == 8

    def test_identity_is_the_settings_the_seed_and_the_data(self):
        equal = {"epochs": 3, "seeds": [0.0, 1], "beta": np.float64(0.5)}
        assert checkpoints.identity(plan(equal), 1) == ORIGIN
        others = [
            checkpoints.identity(plan(), 2),
            checkpoints.identity(plan(SETTINGS | {"beta": 0.25}), 1),
            checkpoints.identity(plan(source=SimpleNamespace(fingerprint="f" * 16)), 1),
        ]
        assert all(other != ORIGIN for other in others)


class TestRoundTrip:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_model_comes_back_bit_for_bit_into_one_with_other_weights(self, tmp_path, dtype):
        model, other = build(seed=0).to(dtype), build(seed=1).to(dtype)
        assert not same(bits(model), bits(other))
        checkpoints.restore(other, written(tmp_path, model), ORIGIN, "vae_train")
        assert same(bits(other), bits(model))


def whole(state):
    return {"state": state, "origin": ORIGIN}


FOREIGN = {  # what lies there instead of a checkpoint -> writes it
    "text": lambda path: path.write_text("not a checkpoint\n"),
    "nothing": lambda path: path.write_bytes(b""),
    "half a checkpoint": lambda path: path.write_bytes(written(path.parent).read_bytes()[:500]),
    "a state dict": lambda path: torch.save(build().state_dict(), path),
    "a list": lambda path: torch.save([1, 2], path),
    "no state": lambda path: torch.save({"origin": ORIGIN}, path),
    "no origin": lambda path: torch.save({"state": build().state_dict()}, path),
    "a string for the origin": lambda path: torch.save({"state": {}, "origin": "by hand"}, path),
    "a result": lambda path: results.write_npz(path, {"x": np.zeros(3)}, {}),
    "a checkpoint without a digest": lambda path: torch.save(whole(build().state_dict()), path),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(whole({}))),
    "a whole module": lambda path: torch.save(whole(build()), path),
}
OTHERS = {
    "wider": build(widths=(6, 7, 4)),
    "deeper": build(widths=(6, 5, 5, 4)),
    "two replicas": MLP((6, 5, 4), [torch.Generator(), torch.Generator()]),
    "another kind": VAE(6, 5, 2, [torch.Generator()]),
}


class TestRefused:
    def test_missing(self, tmp_path):
        (tmp_path / "folder.pt").mkdir()
        os.mkfifo(tmp_path / "fifo.pt")  # would be waited for
        for name in ("absent/checkpoint-best.pt", "folder.pt", "fifo.pt"):
            path = tmp_path / name
            assert "no checkpoint" in refusal(path)

    @pytest.mark.parametrize("content", FOREIGN)
    def test_foreign(self, content, tmp_path):
        FOREIGN[content](tmp_path / "foreign.pt")
        model = build(seed=3)
        assert "is not a checkpoint of this project" in refusal(tmp_path / "foreign.pt", model)
        assert same(bits(model), bits(build(seed=3)))

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"seed": 2}, "seed"),
            ({"data": "f" * 16}, "data"),
            ({"settings": {}}, "settings"),
            ({"further": 0}, "further"),
            ({"seed": 2, "data": "f" * 16}, "seed and data"),
        ],
        ids=str,
    )
    def test_of_another_origin_says_what_differs(self, changes, named, tmp_path):
        model = build(seed=3)
        message = refusal(written(tmp_path), model, ORIGIN | changes)
        assert f"made with another {named}:" in message
        assert same(bits(model), bits(build(seed=3)))

    def test_with_one_flipped_bit(self, tmp_path):
        path, first = written(tmp_path), build()
        whole = path.read_bytes()
        weights = next(iter(first.state_dict().values())).numpy().tobytes()
        for i in range(0, len(whole), 37):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ 16]) + whole[i + 1 :])
            model = build(seed=3)
            with contextlib.suppress(ResultError):
                checkpoints.restore(model, path, ORIGIN, "vae_train")  # a bit that says nothing
                assert same(bits(model), bits(first))
        i = whole.index(weights) + 5
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 16]) + whole[i + 1 :])
        assert "was damaged after it was written" in refusal(path)

    def test_with_weights_that_are_not_finite(self, tmp_path):
        model = build()
        with torch.no_grad():
            model.layers[1].bias[0, 0] = torch.nan
        assert "has weights that are not finite" in refusal(written(tmp_path, model))

    @pytest.mark.parametrize("model", OTHERS.values(), ids=OTHERS)
    def test_of_another_architecture(self, model, tmp_path):
        assert "architecture" in refusal(written(tmp_path), model)


def test_while_they_are_read_nobody_makes_them(tmp_path):
    run = plan(root=tmp_path)
    with (
        checkpoints.reading([run]),
        checkpoints.reading([run]),
        pytest.raises(ResultError, match="is in use"),
    ):
        run.partial.in_use().__enter__()
    with run.partial.in_use(), pytest.raises(ResultError, match="is in use"):
        checkpoints.reading([run]).__enter__()


def test_how_training_diverged_is_told_to_those_who_measure(tmp_path):
    run = replace(plan(root=tmp_path), replicas=(Replica(0), Replica(1)))
    assert checkpoints.divergence(run, 1) is None
    epochs = {runs.DIVERGED: np.array([-1, 4])}
    run.save({runs.SECONDS: np.zeros(2), **epochs})
    assert checkpoints.divergence(run, 0) is None
    diverged = checkpoints.divergence(run, 1)
    assert diverged.epoch == 4
    assert (
        str(diverged)
        == "mine-beta0.5 seed 1: training diverged in epoch 4; lower the learning rate"
    )


@dataclass(frozen=True)
class Sizes:
    width: int


@dataclass(frozen=True, kw_only=True)
class Training(Common):
    """What a script trains with; its results of before do not say how deep."""

    model: str = "mine"
    seeds: tuple[int, ...] = (0, 1)
    depth: int = cli.added(6, earlier=4)
    sizes: Sizes = field(default_factory=lambda: Sizes(1))


def test_a_training_is_what_its_result_says(tmp_path):
    script = SimpleNamespace(__name__="experiment.mine_train", Config=Training)
    trained = Training(results=tmp_path, seeds=(5, 7), depth=4, sizes=Sizes(9))
    settings = {**trained.hyperparameters(), "model": "folder", "weights": "0123"}
    assert settings.pop("depth") == 4
    run = Run(trained, "mine_train", "mine", settings, DATA, {}, ())
    run.save({runs.SECONDS: np.zeros(1)})

    def find(name, **wanted):
        own = {"model": "a/folder"}
        return checkpoints.training(script, Common(results=tmp_path), name, wanted, **own)

    assert find("mine", seeds=(5, 7)) == replace(trained, model="a/folder")
    for name, seeds in (("mine", (5,)), ("other", (5, 7))):
        with pytest.raises(ResultError, match=rf"^no result {name} .*/mine_train: run src/") as no:
            find(name, seeds=seeds)
        assert "\n" not in str(no.value)
