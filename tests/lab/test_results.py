"""Result files: what goes in comes out, whole or not at all; no two configurations share one."""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lab import provenance, results
from lab.errors import ResultError
from lab.results import Result

DATA = SimpleNamespace(name="mine", fingerprint="0123456789abcdef")
AXES = {"accuracy": ("seed", "epoch"), "seed": ("seed",), "total": ()}
ARRAYS = {
    "accuracy": np.random.default_rng(0).random((2, 4)).astype(np.float32),
    "seed": np.array([0, 7]),
    "total": np.array(0.1),
}
CONFIG = {"learning_rate": 0.1, "seeds": (0, 7), "folder": Path("a/b"), "epochs": 3}


def make(arrays: dict = ARRAYS, config: dict = CONFIG, name: str = "mine-plain") -> Result:
    return Result(arrays, results.make_meta("whiten", name, config, AXES, DATA, "cpu", 1.25))


def saved(root: Path, config: dict = CONFIG, name: str = "mine-plain", file: str = "") -> Path:
    path = root / "quick" / "whiten" / f"{file or name}.npz"
    results.write(path, make(config=config, name=name))
    return path


def refusal(path: Path) -> str:
    """The message of the ResultError that reading raises: one line that names the file."""
    with pytest.raises(ResultError) as caught:
        results.read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    """Both hold the same bits."""
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape)
        assert a[name].tobytes() == b[name].tobytes()


class TestRoundTrip:
    def test_arrays_and_meta_come_back_bit_for_bit(self, tmp_path):
        found = results.read(saved(tmp_path))
        assert_same(found.arrays, ARRAYS)
        assert found.meta == make().meta
        assert found.config == {
            "learning_rate": 0.1,
            "seeds": [0, 7],
            "folder": "a/b",
            "epochs": 3,
        }
        assert (found.name, found.label) == ("mine-plain", "mine")
        assert found["accuracy"] is found.arrays["accuracy"]

    def test_meta_says_what_made_it(self, tmp_path):
        meta = results.read(saved(tmp_path)).meta
        assert (meta["schema"], meta["experiment"]) == (results.SCHEMA, "whiten")
        assert meta["axes"] == {name: list(axes) for name, axes in AXES.items()}
        assert meta["data"] == {"name": "mine", "fingerprint": DATA.fingerprint}
        packages = {"python", "numpy", "torch", "torchvision", "scikit-learn", "scipy"}
        assert packages == meta["versions"].keys()
        assert meta["versions"]["numpy"] == np.__version__
        assert meta["device"].startswith("cpu")
        assert meta["seconds"] == pytest.approx(1.25, abs=0.06)
        assert (meta["commit"], meta["sources"]) == (provenance.commit(), provenance.sources())

    def test_numpy_alone_reads_it_without_pickle(self, tmp_path):
        with np.load(saved(tmp_path), allow_pickle=False) as file:
            assert set(file.files) == {*ARRAYS, "meta"}
            assert make().meta.items() <= json.loads(str(file["meta"])).items()
            assert np.array_equal(file["accuracy"], ARRAYS["accuracy"])

    def test_a_result_replaces_the_one_before(self, tmp_path):
        path = saved(tmp_path)
        results.write(path, make({"total": np.array(2.0)}))
        assert_same(results.read(path).arrays, {"total": np.array(2.0)})
        assert list(path.parent.iterdir()) == [path]


UNNAMED = {
    "an axis too few": {"accuracy": np.zeros(2)},
    "an axis too many": {"accuracy": np.zeros((2, 4, 3))},
    "no axes": {"loss": np.zeros((2, 4))},
    "a reserved name": {"meta": np.zeros(())},
    "a name that numpy takes": {"file": np.zeros(())},
    "objects": {"seed": np.array([2**64], dtype=object)},
}


@pytest.mark.parametrize("wrong", UNNAMED)
def test_an_array_that_cannot_be_named_is_not_written(wrong, tmp_path):
    with pytest.raises(ResultError, match=next(iter(UNNAMED[wrong]))):
        results.write(tmp_path / "a" / "b.npz", make(UNNAMED[wrong]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, error):
    def half(file, **_):
        file.write(b"PK\x03\x04 half a file")
        file.flush()
        raise error

    path = saved(tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(np, "savez_compressed", half)
    kind = ResultError if isinstance(error, OSError) else KeyboardInterrupt
    for target in (path, tmp_path / "new" / "a.npz"):
        with pytest.raises(kind, match="disk full" if kind is ResultError else None):
            results.write(target, make({"total": np.array(2.0)}))
    assert path.read_bytes() == before
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


@dataclass(frozen=True)
class Inner:
    width: int = 8


EQUAL = {
    "order of the keys": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "tuple and list": ({"a": (1, 2)}, {"a": [1, 2]}),
    "path and string": ({"a": Path("b/c")}, {"a": "b/c"}),
    "int and float": ({"a": 1}, {"a": 1.0}),
    "ints and floats in a tuple": ({"a": (0, 1)}, {"a": (0.0, 1.0)}),
    "float and numpy float": ({"a": 0.1}, {"a": np.float64(0.1)}),
    "int and numpy int": ({"a": 3}, {"a": np.int64(3)}),
    "dataclass and dict": ({"a": Inner(8)}, {"a": {"width": 8}}),
}
UNEQUAL = {
    "value in the tenth digit": ({"a": 0.1}, {"a": 0.1000000001}),
    "key": ({"a": 1}, {"b": 1}),
    "one more key": ({"a": 1}, {"a": 1, "b": None}),
    "order in a tuple": ({"a": (1, 2)}, {"a": (2, 1)}),
    "tuple of one and number": ({"a": (1,)}, {"a": 1}),
    "where digits part": ({"a": (1, 23)}, {"a": (12, 3)}),
    "number and text": ({"a": 1}, {"a": "1"}),
    "None and text": ({"a": None}, {"a": "None"}),
    "None and zero": ({"a": None}, {"a": 0}),
    "truth and text": ({"a": True}, {"a": "True"}),
    "inside a dataclass": ({"a": Inner(8)}, {"a": Inner(9)}),
}


class TestDigest:
    @pytest.mark.parametrize("pair", EQUAL)
    def test_is_the_same_for_the_same_configuration(self, pair):
        assert len({results.digest(settings) for settings in EQUAL[pair]}) == 1

    @pytest.mark.parametrize("pair", UNEQUAL)
    def test_differs_where_configurations_differ(self, pair):
        assert len({results.digest(settings) for settings in UNEQUAL[pair]}) == 2

    def test_of_a_thousand_configurations_are_a_thousand(self):
        assert len({results.digest({"seed": seed}) for seed in range(1000)}) == 1000

    def test_a_setting_added_later_does_not_count_at_its_earlier_value_and_counts_at_others(self):
        before, earlier = {"epochs": 3}, {"depth": 4, "seeds": (0, 1)}
        same = before | {"depth": 4.0, "seeds": [0, 1]}
        assert results.digest(same, earlier) == results.digest(before)
        others = [same | {"depth": 5}, same | {"seeds": (0,)}, same | {"depth": None}]
        digests = {results.digest(settings, earlier) for settings in (before, *others)}
        assert len(digests) == 4


def npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


META = np.array(json.dumps(make().meta))


def without(key: str, *replacement: object) -> np.ndarray:
    """META with a key left out, or with another value."""
    meta = {name: value for name, value in make().meta.items() if name != key}
    return np.array(json.dumps(meta | dict.fromkeys([key] * len(replacement), *replacement)))


UNUSABLE = {  # what is wrong -> makes it so
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"text"),
    "an npy": npy,
    "truncated at the end": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "truncated in an array": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "foreign": lambda path: np.savez(path, x_train=np.zeros(3)),
    "numbers for meta": lambda path: np.savez(path, meta=np.zeros(3)),
    "a list for meta": lambda path: np.savez(path, meta=np.array("[1, 2]")),
    "null for meta": lambda path: np.savez(path, meta=np.array("null")),
    "an array needs pickle": lambda path: np.savez(path, meta=META, a=np.array([None])),
    "an array without axes": lambda path: np.savez(path, meta=META, a=np.zeros(3)),
    **{
        f"no {key} in meta": lambda path, key=key: np.savez(path, meta=without(key))
        for key in ("experiment", "name", "config", "axes", "data", "commit", "device", "seconds")
    },
    "no fingerprint": lambda path: np.savez(path, meta=without("data", {"name": "mine"})),
    **{
        f"{wrong!a} for what has diverged": lambda path, wrong=wrong: np.savez(
            path, meta=without("diverged", wrong)
        )
        for wrong in ({}, [{}], [{"seed": 0}], [{"seed": "0", "epoch": 1}], [[0, 1]], [True])
    },
    **{
        f"escape codes in {key}": lambda path, key=key: np.savez(
            path, meta=without(key, "\x1b[2J\x1b]0;mine\x07")
        )
        for key in ("commit", "name", "device", "experiment")
    },
    "escape codes in a setting": lambda path: np.savez(path, meta=without("config", {"a": ["\r"]})),
    "escape codes in a setting's name": lambda path: np.savez(
        path, meta=without("config", {"\x9b2J": 1})
    ),
    "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
}


class TestUnusableFiles:
    @pytest.mark.parametrize("wrong", UNUSABLE)
    def test_are_one_line_that_names_the_file(self, tmp_path, wrong):
        path = saved(tmp_path)
        UNUSABLE[wrong](path)
        assert "is not a result file of this project" in refusal(path)

    def test_any_flipped_bit_gives_one_line_or_the_same_result(self, tmp_path):
        path = saved(tmp_path)
        whole = path.read_bytes()
        for i in range(0, len(whole), 11):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
            with contextlib.suppress(ResultError):
                found = results.read(path)  # a bit that says nothing, as of a time
                assert_same(found.arrays, ARRAYS)
                assert found.meta == make().meta

    @pytest.mark.parametrize("change", [{"total": np.array(0.2)}, {"seed": np.array([0, 8])}])
    def test_content_that_is_not_what_was_written_is_named(self, tmp_path, change):
        path = saved(tmp_path)
        with np.load(path) as file:
            content = dict(file) | change
        np.savez(path, **content)
        assert "was damaged after it was written" in refusal(path)

    def test_results_of_before_have_no_digest(self, tmp_path):
        path = tmp_path / "before.npz"
        np.savez(path, **ARRAYS, meta=META)
        assert_same(results.read(path).arrays, ARRAYS)

    @pytest.mark.parametrize("schema", [results.SCHEMA + 1, None])
    def test_another_schema_is_named(self, tmp_path, schema):
        meta = make().meta | {"schema": schema}
        np.savez(tmp_path / "a.npz", meta=np.array(json.dumps(meta)))
        assert f"schema {schema}" in refusal(tmp_path / "a.npz")

    def test_an_array_that_is_missing_is_one_line(self, tmp_path):
        with pytest.raises(ResultError) as caught:
            _ = results.read(saved(tmp_path))["absent"]
        line = "result whiten/mine-plain has no array absent: run its experiment with --overwrite"
        assert str(caught.value) == line

    def test_a_missing_file_is_one_line_with_the_remedy(self, tmp_path):
        assert "run its experiment" in refusal(tmp_path / "absent.npz")


class TestFind:
    @pytest.fixture
    def root(self, tmp_path) -> Path:
        saved(tmp_path, {"seeds": (0, 1), "rate": 0.1, "epochs": 3}, "b")
        saved(tmp_path, {"seeds": (0, 1), "rate": 0.2, "epochs": 3}, "a")
        saved(tmp_path, {"seeds": (0,), "rate": 0.1, "epochs": 3}, "c")
        return tmp_path

    @pytest.mark.parametrize(
        ("wanted", "names"),
        [
            ({}, ["a", "b", "c"]),
            ({"rate": 0.1}, ["b", "c"]),
            ({"seeds": (0, 1)}, ["a", "b"]),
            ({"seeds": [0, 1], "rate": 0.1}, ["b"]),
            ({"rate": 0.1000001}, []),
            ({"width": None}, []),
        ],
        ids=str,
    )
    def test_keeps_those_that_hold_every_wanted_value_sorted_by_name(self, root, wanted, names):
        found = results.find(root, "quick", "whiten", wanted)
        assert [result.name for result in found] == names

    def test_of_one_name_several_are_refused_with_their_files_and_what_they_differ_in(self, root):
        other = {"seeds": (0, 1), "rate": 0.1, "epochs": 5, "width": 8}
        saved(root, other, "b", file="b-again")
        with pytest.raises(ResultError) as caught:
            results.find(root, "quick", "whiten", {"rate": 0.1}, {"depth": 4})
        for part in ("b.npz", "b-again.npz", "named b", "by its epochs or width,"):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)
        (found,) = results.find(root, "quick", "whiten", {"rate": 0.1, "epochs": 5})
        assert found.config == results.plain(other)

    def test_two_files_of_one_configuration_are_refused(self, root):
        saved(root, {"seeds": (0, 1), "rate": 0.1, "epochs": 3}, "b", file="copy")
        with pytest.raises(ResultError, match=r"b\.npz and copy\.npz .*move one away"):
            results.find(root, "quick", "whiten", {})

    def test_results_from_before_a_setting_was_added_have_its_earlier_value(self, root):
        saved(root, {"rate": 0.4, "depth": 5}, "d")

        def names(depth: int) -> list[str]:
            found = results.find(root, "quick", "whiten", {"depth": depth}, {"depth": 4})
            return [result.name for result in found]

        assert (names(4), names(5), names(6)) == (["a", "b", "c"], ["d"], [])
        assert results.find(root, "quick", "whiten", {"depth": 4}) == []

    @pytest.mark.parametrize("folder", [("paper", "whiten"), ("quick", "whiten_cnn")], ids=str)
    def test_looks_in_one_folder_only(self, root, folder):
        assert results.find(root, *folder, {}) == []

    def test_does_not_see_replicas_and_files_that_are_being_written(self, root):
        folder = root / "quick" / "whiten"
        results.write_npz(folder / ".partial" / "d" / "e" / "f.npz", ARRAYS, {})
        (folder / "left.tmp").write_bytes(b"half")
        assert len(results.find(root, "quick", "whiten", {})) == 3
