"""Result files: what goes in comes out, whole or not at all, and no two configurations share one."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import results
from results import Partial, Result, ResultError

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


def saved(root: Path, config: dict = CONFIG, name: str = "mine-plain") -> Path:
    path = results.path_for(root, "quick", "whiten", name, config)
    results.save(path, make(config=config, name=name))
    return path


def refusal(path: Path) -> str:
    """The message of the ResultError that loading raises, which is one line and names the file."""
    with pytest.raises(ResultError) as caught:
        results.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Whether two dicts of arrays hold the same bits."""
    return a.keys() == b.keys() and all(
        (a[k].dtype, a[k].shape, a[k].tobytes()) == (b[k].dtype, b[k].shape, b[k].tobytes()) for k in a
    )


class TestRoundTrip:
    def test_arrays_come_back_bit_for_bit(self, tmp_path):
        assert same(results.load(saved(tmp_path)).arrays, ARRAYS)

    def test_meta_comes_back(self, tmp_path):
        loaded = results.load(saved(tmp_path))
        assert loaded.meta == make().meta
        assert loaded.config == {"learning_rate": 0.1, "seeds": [0, 7], "folder": "a/b", "epochs": 3}
        assert loaded.label == "mine"
        assert np.array_equal(loaded["accuracy"], ARRAYS["accuracy"])

    def test_meta_says_what_made_it(self, tmp_path):
        meta = results.load(saved(tmp_path)).meta
        assert (meta["schema"], meta["experiment"], meta["name"]) == (results.SCHEMA, "whiten", "mine-plain")
        assert meta["axes"] == {name: list(axes) for name, axes in AXES.items()}
        assert meta["data"] == {"name": "mine", "fingerprint": DATA.fingerprint}
        assert {"python", "numpy", "torch", "torchvision", "scikit-learn"} <= meta["versions"].keys()
        assert meta["versions"]["numpy"] == np.__version__
        assert meta["device"].startswith("cpu")
        assert meta["seconds"] == pytest.approx(1.25, abs=0.06)
        assert meta["commit"]

    def test_numpy_alone_reads_it_without_pickle(self, tmp_path):
        with np.load(saved(tmp_path), allow_pickle=False) as file:
            assert set(file.files) == {*ARRAYS, "meta"}
            assert json.loads(str(file["meta"])) == make().meta
            assert np.array_equal(file["accuracy"], ARRAYS["accuracy"])


class TestAxes:
    @pytest.mark.parametrize(
        "arrays",
        [
            pytest.param({"accuracy": np.zeros(2)}, id="an axis too few"),
            pytest.param({"accuracy": np.zeros((2, 4, 3))}, id="an axis too many"),
            pytest.param({"loss": np.zeros((2, 4))}, id="an array without axes"),
        ],
    )
    def test_an_array_whose_axes_have_no_names_is_not_saved(self, tmp_path, arrays):
        with pytest.raises(ResultError, match=next(iter(arrays))):
            results.save(tmp_path / "a" / "b.npz", make(arrays))
        assert list(tmp_path.iterdir()) == []


def break_writing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def half(file, **_):
        file.write(b"PK\x03\x04 half a file")
        file.flush()
        raise error

    monkeypatch.setattr(np, "savez_compressed", half)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["disk full", "interrupted"])
class TestAtomic:
    def test_a_write_that_fails_leaves_the_old_file_alone(self, tmp_path, monkeypatch, error):
        path = saved(tmp_path)
        before = path.read_bytes()
        break_writing(monkeypatch, error)
        with pytest.raises(type(error)):
            results.save(path, make({"total": np.array(2.0)}))
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_a_write_that_fails_leaves_no_file(self, tmp_path, monkeypatch, error):
        break_writing(monkeypatch, error)
        with pytest.raises(type(error)):
            saved(tmp_path)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_result_replaces_the_one_before(tmp_path):
    path = saved(tmp_path)
    results.save(path, make({"total": np.array(2.0)}))
    assert same(results.load(path).arrays, {"total": np.array(2.0)})
    assert list(path.parent.iterdir()) == [path]


@dataclass(frozen=True)
class Inner:
    width: int = 8


def path_of(config: dict) -> Path:
    return results.path_for(Path("results"), "quick", "whiten", "mine", config)


class TestPath:
    def test_names_scale_experiment_and_result(self):
        path = results.path_for(Path("results"), "quick", "whiten", "mine-plain", CONFIG)
        assert path.parent == Path("results/quick/whiten")
        assert path.name == f"mine-plain-{results.digest(CONFIG)}.npz"

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            pytest.param({"a": 1, "b": 2}, {"b": 2, "a": 1}, id="order of the keys"),
            pytest.param({"a": (1, 2)}, {"a": [1, 2]}, id="tuple and list"),
            pytest.param({"a": Path("b/c")}, {"a": "b/c"}, id="path and string"),
            pytest.param({"a": 1}, {"a": 1.0}, id="int and float"),
            pytest.param({"a": (0, 1)}, {"a": (0.0, 1.0)}, id="ints and floats in a tuple"),
            pytest.param({"a": 0.1}, {"a": np.float64(0.1)}, id="float and numpy float"),
            pytest.param({"a": 3}, {"a": np.int64(3)}, id="int and numpy int"),
            pytest.param({"a": Inner(8)}, {"a": {"width": 8}}, id="dataclass and dict"),
        ],
    )
    def test_is_the_same_for_the_same_configuration(self, one, other):
        assert path_of(one) == path_of(other)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            pytest.param({"a": 0.1}, {"a": 0.1000000001}, id="value in the tenth digit"),
            pytest.param({"a": 1}, {"b": 1}, id="key"),
            pytest.param({"a": 1}, {"a": 1, "b": None}, id="one more key"),
            pytest.param({"a": (1, 2)}, {"a": (2, 1)}, id="order in a tuple"),
            pytest.param({"a": (1,)}, {"a": 1}, id="tuple of one and number"),
            pytest.param({"a": (1, 23)}, {"a": (12, 3)}, id="where digits part"),
            pytest.param({"a": 1}, {"a": "1"}, id="number and text"),
            pytest.param({"a": None}, {"a": "None"}, id="None and text"),
            pytest.param({"a": True}, {"a": "True"}, id="truth and text"),
            pytest.param({"a": Inner(8)}, {"a": Inner(9)}, id="inside a dataclass"),
        ],
    )
    def test_differs_where_configurations_differ(self, one, other):
        assert path_of(one) != path_of(other)

    def test_of_a_thousand_configurations_are_a_thousand(self):
        assert len({path_of({"seed": seed}) for seed in range(1000)}) == 1000

    def test_differs_by_root_scale_experiment_and_name(self):
        words = ("results", "quick", "whiten", "mine")
        variants = [words, *((*words[:i], "other", *words[i + 1 :]) for i in range(4))]
        assert len({results.path_for(Path(root), *rest, CONFIG) for root, *rest in variants}) == 5


def npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


META = np.array(json.dumps(make().meta))


class TestUnusableFiles:
    @pytest.mark.parametrize(
        "write",
        [
            pytest.param(lambda path: path.write_bytes(b""), id="empty"),
            pytest.param(lambda path: path.write_bytes(b"text"), id="text"),
            pytest.param(npy, id="an npy"),
            pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-30]), id="truncated at the end"),
            pytest.param(lambda path: path.write_bytes(path.read_bytes()[:200]), id="truncated in an array"),
            pytest.param(lambda path: np.savez(path, x_train=np.zeros(3)), id="foreign"),
            pytest.param(lambda path: np.savez(path, meta=np.zeros(3)), id="numbers for meta"),
            pytest.param(lambda path: np.savez(path, meta=np.array("[1, 2]")), id="a list for meta"),
            pytest.param(lambda path: np.savez(path, meta=np.array("null")), id="null for meta"),
            pytest.param(lambda path: np.savez(path, meta=META, a=np.array([None])), id="an array needs pickle"),
        ],
    )
    def test_are_one_line_that_names_the_file(self, tmp_path, write):
        path = saved(tmp_path)
        write(path)
        refusal(path)

    @pytest.mark.parametrize("schema", [results.SCHEMA + 1, None])
    def test_another_schema_is_named(self, tmp_path, schema):
        np.savez(tmp_path / "a.npz", meta=np.array(json.dumps(make().meta | {"schema": schema})))
        assert f"schema {schema}" in refusal(tmp_path / "a.npz")


class TestFind:
    @pytest.fixture
    def root(self, tmp_path) -> Path:
        for name, config in (
            ("b", {"seeds": (0, 1), "rate": 0.1, "epochs": 3}),
            ("a", {"seeds": (0, 1), "rate": 0.2, "epochs": 3}),
            ("c", {"seeds": (0,), "rate": 0.1, "epochs": 3}),
        ):
            saved(tmp_path, config, name)
        return tmp_path

    @pytest.mark.parametrize(
        ("wanted", "names"),
        [
            ({}, ["a", "b", "c"]),
            ({"rate": 0.1}, ["b", "c"]),
            ({"seeds": (0, 1)}, ["a", "b"]),
            ({"seeds": [0, 1], "rate": 0.1}, ["b"]),
            ({"rate": 0.3}, []),
            ({"width": 3}, []),
        ],
    )
    def test_keeps_those_that_have_the_wanted_values_sorted_by_name(self, root, wanted, names):
        assert [found.meta["name"] for found in results.find(root, "quick", "whiten", {}, **wanted)] == names

    @pytest.mark.parametrize("epochs", [2, 3, 5])
    def test_of_one_name_takes_the_configuration_most_alike(self, root, epochs):
        for other in (2, 5):
            saved(root, {"seeds": (0, 1), "rate": 0.1, "epochs": other}, "b")
        found = results.find(root, "quick", "whiten", {"epochs": epochs, "seeds": (0, 1)}, rate=0.1)
        assert [(r.meta["name"], r.config["epochs"]) for r in found] == [("b", epochs), ("c", 3)]

    @pytest.mark.parametrize(("scale", "experiment"), [("paper", "whiten"), ("quick", "whiten_cnn")])
    def test_looks_in_one_folder_only(self, root, scale, experiment):
        assert list(results.find(root, scale, experiment, {})) == []

    def test_does_not_see_unfinished_runs(self, root):
        path = root / "quick" / "whiten" / "d.npz"
        Partial(results.partial_folder(path, DATA)).put({"seed": 0}, ARRAYS)
        (path.parent / "left.tmp").write_bytes(b"half")
        assert len(list(results.find(root, "quick", "whiten", {}))) == 3


class TestIsThere:
    def test_not_where_nothing_is(self, tmp_path):
        assert results.is_there(tmp_path / "a.npz", DATA) is False

    def test_where_the_same_data_made_it_and_says_so(self, tmp_path, capsys):
        path = saved(tmp_path)
        assert results.is_there(path, DATA) is True
        assert capsys.readouterr().out == f"already there: {path}\n"

    def test_other_data_of_the_same_name_are_refused_with_the_remedy(self, tmp_path):
        path = saved(tmp_path)
        with pytest.raises(ResultError, match=r"other data named mine.*--overwrite") as caught:
            results.is_there(path, SimpleNamespace(name="mine", fingerprint="f" * 16))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


class TestPartial:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        return results.partial_folder(tmp_path / "quick" / "whiten" / "mine.npz", DATA)

    def test_resumes_with_what_was_put(self, folder):
        Partial(folder).put({"seed": 0, "options": {"lr": 0.1}}, ARRAYS)
        found = Partial(folder).get({"seed": 0, "options": {"lr": 0.1}})
        assert same(found, ARRAYS)

    @pytest.mark.parametrize("piece", [{"seed": 1, "options": {"lr": 0.1}}, {"seed": 0, "options": {"lr": 0.2}}])
    def test_has_nothing_for_another_replica(self, folder, piece):
        partial = Partial(folder)
        partial.put({"seed": 0, "options": {"lr": 0.1}}, ARRAYS)
        assert partial.get(piece) is None

    def test_fresh_discards_what_was_left(self, folder):
        Partial(folder).put({"seed": 0}, ARRAYS)
        assert Partial(folder, fresh=True).get({"seed": 0}) is None
        assert Partial(folder).get({"seed": 0}) is None

    def test_fresh_keeps_what_is_put_from_then_on(self, folder):
        partial = Partial(folder, fresh=True)
        partial.put({"seed": 0}, ARRAYS)
        assert same(partial.get({"seed": 0}), ARRAYS)

    def test_a_write_that_fails_leaves_no_replica(self, folder, monkeypatch):
        break_writing(monkeypatch, OSError("disk full"))
        with pytest.raises(OSError, match="disk full"):
            Partial(folder).put({"seed": 0}, ARRAYS)
        assert Partial(folder).get({"seed": 0}) is None
        assert list(folder.iterdir()) == []

    def test_two_results_do_not_share_a_folder(self, tmp_path):
        paths = [tmp_path / e / f"{n}.npz" for e in ("x", "y") for n in ("a", "b")]
        other = SimpleNamespace(name="mine", fingerprint="f" * 16)
        folders = {results.partial_folder(path, images) for path in paths for images in (DATA, other)}
        assert len(folders) == 8


class TestWritable:
    def test_a_folder_that_is_not_there_yet_is_fine_and_is_not_made(self, tmp_path):
        results.check_writable(tmp_path / "a" / "b")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("below", ["file", "file/results", "file/a/results"])
    def test_a_file_in_the_way_is_one_line(self, tmp_path, below):
        (tmp_path / "file").write_text("in the way")
        (tmp_path / "file").chmod(0o755)
        with pytest.raises(ResultError) as caught:
            results.check_writable(tmp_path / below)
        assert str(tmp_path / below) in str(caught.value)
        assert "\n" not in str(caught.value)
