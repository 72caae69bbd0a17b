"""Checkpoints: what goes in comes out, whole or not at all; a file that cannot be used is one line with the remedy."""

import os
import pickle
import re
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

import checkpoints
import results
import training
from models import MLP, VAE
from results import ResultError

MADE = {"settings": {"beta": 0.5, "seeds": (0, 1), "epochs": 3.0}, "seed": 1, "data": "0123456789abcdef"}


def build(seed=0, widths=(6, 5, 4)):
    return MLP(widths, [training.generator(seed, "weights")])


def saved(folder, model=None, **further):
    path = folder / "below" / "seed0-epoch001.pt"
    checkpoints.save(path, (model or build()).state_dict(), MADE | further)
    return path


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(some, others):
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


def refusal(path, model=None, made=MADE):
    """The message of the ResultError that restoring raises: one line that names the file and the remedy."""
    with pytest.raises(ResultError) as caught:
        checkpoints.restore(model or build(), path, made, "vae_train")
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert "run src/experiment/vae_train.py" in message
    assert "--overwrite" in message
    return message


class TestRoundTrip:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_model_comes_back_bit_for_bit_into_one_with_other_weights(self, tmp_path, dtype):
        model, other = build(seed=0).to(dtype), build(seed=1).to(dtype)
        assert not same(bits(model), bits(other))
        checkpoints.restore(other, saved(tmp_path, model), MADE, "vae_train")
        assert same(bits(other), bits(model))

    def test_what_made_it_comes_back_as_json_holds_it(self, tmp_path):
        found = checkpoints.restore(build(), saved(tmp_path, epoch=7), MADE, "vae_train")
        assert found == {**results.plain(MADE), "epoch": 7}
        assert found["settings"]["seeds"] == [0, 1]

    def test_saving_again_replaces_the_first(self, tmp_path):
        saved(tmp_path, build(seed=0))
        path, model = saved(tmp_path, build(seed=1)), build(seed=2)
        checkpoints.restore(model, path, MADE, "vae_train")
        assert same(bits(model), bits(build(seed=1)))
        assert list(path.parent.iterdir()) == [path]

    def test_a_slice_of_replicas_is_saved_without_the_others(self, tmp_path):
        model = MLP((600, 50, 4), [training.generator(seed, "weights") for seed in range(8)])
        state = {name: value[3:4].clone() for name, value in model.state_dict().items()}
        checkpoints.save(tmp_path / "a.pt", state, MADE)
        alone = build(seed=3, widths=(600, 50, 4))
        restored = build(seed=0, widths=(600, 50, 4))
        checkpoints.restore(restored, tmp_path / "a.pt", MADE, "vae_train")
        assert same(bits(restored), bits(alone))
        assert (tmp_path / "a.pt").stat().st_size < 1.1 * 4 * sum(p.numel() for p in alone.parameters()) + 10_000

    def test_torch_alone_reads_it_without_code(self, tmp_path):
        content = torch.load(saved(tmp_path), weights_only=True)
        assert content.keys() == {"state", "made"}
        assert same(content["state"], bits(build()))

    def test_is_readable_by_others_as_a_result_file_is(self, tmp_path):
        results.write_npz(tmp_path / "result.npz", {"x": np.zeros(2)})
        modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (saved(tmp_path), tmp_path / "result.npz")]
        assert modes[0] == modes[1]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["disk full", "interrupted"])
class TestAtomic:
    @pytest.fixture(autouse=True)
    def old(self, tmp_path, monkeypatch, error):
        path = saved(tmp_path)

        def half(_, file):
            file.write(b"PK\x03\x04 half a file")
            file.flush()
            raise error

        monkeypatch.setattr(torch, "save", half)
        return path

    def test_a_write_that_fails_leaves_the_old_file_alone(self, old, tmp_path, error):
        before = old.read_bytes()
        with pytest.raises(type(error)):
            saved(tmp_path, build(seed=1))
        assert old.read_bytes() == before
        assert list(old.parent.iterdir()) == [old]

    def test_a_write_that_fails_leaves_no_file(self, tmp_path, error):
        with pytest.raises(type(error)):
            checkpoints.save(tmp_path / "new" / "a.pt", build().state_dict(), MADE)
        assert list((tmp_path / "new").iterdir()) == []


class Code:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


FOREIGN = {  # writes something that is no checkpoint of this project to a path
    "text": lambda path: path.write_text("not a checkpoint\n"),
    "nothing": lambda path: path.write_bytes(b""),
    "half a checkpoint": lambda path: path.write_bytes(saved(path.parent).read_bytes()[:500]),
    "a state dict": lambda path: torch.save(build().state_dict(), path),
    "a tensor": lambda path: torch.save(torch.ones(3), path),
    "a list": lambda path: torch.save([1, 2], path),
    "no state": lambda path: torch.save({"made": results.plain(MADE)}, path),
    "not made": lambda path: torch.save({"state": build().state_dict()}, path),
    "made of a string": lambda path: torch.save({"state": build().state_dict(), "made": "by hand"}, path),
    "a result": lambda path: results.write_npz(path, {"x": np.zeros(3)}),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"state": {}, "made": {}})),
    "a whole module": lambda path: torch.save({"state": build(), "made": results.plain(MADE)}, path),
    "a pickle with code": lambda path: path.write_bytes(pickle.dumps(Code(path.parent / "touched"))),
    "a checkpoint with code": lambda path: torch.save(
        {"state": build().state_dict(), "made": results.plain(MADE), "x": Code(path.parent / "touched")}, path
    ),
}


OTHERS = {
    "wider": build(widths=(6, 7, 4)),
    "deeper": build(widths=(6, 5, 5, 4)),
    "shallower": build(widths=(6, 4)),
    "of two replicas": MLP((6, 5, 4), [torch.Generator(), torch.Generator()]),
    "of another kind": VAE(6, 5, 2, [torch.Generator()]),
}


class TestRefused:
    def test_missing(self, tmp_path):
        assert "no checkpoint" in refusal(tmp_path / "absent.pt")
        assert "no checkpoint" in refusal(tmp_path / "absent" / "seed0-best.pt")

    def test_folder_in_its_place(self, tmp_path):
        (tmp_path / "seed0-best.pt").mkdir()
        refusal(tmp_path / "seed0-best.pt")

    @pytest.mark.parametrize("content", FOREIGN)
    def test_foreign_and_none_of_its_code_has_run(self, content, tmp_path):
        FOREIGN[content](tmp_path / "foreign.pt")
        model = build(seed=3)
        assert "is not a checkpoint of this project" in refusal(tmp_path / "foreign.pt", model)
        assert same(bits(model), bits(build(seed=3)))
        assert not (tmp_path / "touched").exists()

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("seed", 2),
            ("data", "f" * 16),
            ("settings", MADE["settings"] | {"beta": 0.25}),
            ("settings", MADE["settings"] | {"seeds": (0,)}),
            ("settings", {}),
            ("further", 0),
        ],
        ids=str,
    )
    def test_made_otherwise_says_what_differs(self, key, value, tmp_path):
        model = build(seed=3)
        message = refusal(saved(tmp_path), model, MADE | {key: value})
        assert re.search(rf"made with another {key}:", message)
        assert same(bits(model), bits(build(seed=3)))

    def test_made_otherwise_in_two_ways_names_both(self, tmp_path):
        assert "another seed and data:" in refusal(saved(tmp_path), made=MADE | {"seed": 2, "data": "f" * 16})

    def test_numbers_that_are_equal_and_tuples_for_lists_are_no_difference(self, tmp_path):
        made = {"settings": {"epochs": 3, "seeds": [0.0, 1], "beta": np.float64(0.5)}, "seed": 1.0}
        checkpoints.restore(build(), saved(tmp_path), made, "vae_train")

    @pytest.mark.parametrize("model", OTHERS.values(), ids=OTHERS)
    def test_another_architecture(self, model, tmp_path):
        assert "architecture" in refusal(saved(tmp_path), model)
