"""Data sets: the bundled digits, .npz files, torchvision's formats, and how each can be wrong."""

import contextlib
import gzip
import itertools
import pickle
import shutil
import struct
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets
from PIL import Image
from sklearn.datasets import load_digits

from lab import data
from lab.data import TORCHVISION, Images
from lab.errors import DataError, ResultError


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and nothing remembered from the test before."""

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    data.load_images.cache_clear()


def arrays(kind: str = "uint8 N×H×W") -> dict[str, np.ndarray]:
    """Five training and four test samples, of 2×3 pixels or 6 features."""
    dtype, layout = kind.split()
    shape = {"N×H×W": (2, 3), "N×H×W×C": (2, 3, 3), "N×d": (6,)}[layout]
    rng = np.random.default_rng(0)
    parts = {}
    for part, n in (("train", 5), ("test", 4)):
        pixels = rng.integers(0, 200, (n, *shape))
        parts[f"x_{part}"] = (pixels if dtype == "uint8" else pixels / 200).astype(dtype)
        parts[f"y_{part}"] = np.arange(n) % 3
    return parts


def write(path: Path, kind: str = "uint8 N×H×W", **changes: np.ndarray | None) -> Path:
    """A good .npz with some arrays replaced, or left out where None."""
    path.parent.mkdir(exist_ok=True)
    parts = {name: array for name, array in (arrays(kind) | changes).items() if array is not None}
    np.savez_compressed(path, **parts)
    return path


def refusal(name: str | Path, root: Path = Path("data")) -> str:
    """The message of the DataError that loading raises, which is one line."""
    with pytest.raises(DataError) as caught:
        data.load_images(str(name), root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestDigits:
    def test_has_the_sizes_types_and_scale_that_the_figures_expect(self):
        digits = data.load_images("digits")
        assert digits.x_train.shape == (1437, 1, 8, 8)
        assert digits.x_test.shape == (360, 1, 8, 8)
        assert (digits.classes, digits.shape, digits.name) == (10, (1, 8, 8), "digits")
        assert digits.x_train.dtype == digits.x_test.dtype == torch.uint8
        assert digits.y_train.dtype == digits.y_test.dtype == torch.int64
        x = digits.scale(digits.x_train)
        assert x.dtype == torch.float32
        assert (x.min(), x.max()) == (0, 1)

    def test_split_is_the_same_every_time(self):
        first = data.load_images("digits")
        data.load_images.cache_clear()
        second = data.load_images("digits")
        assert first is not second
        for split in ("train", "test"):
            for a, b in zip(first.split(split), second.split(split), strict=True):
                assert torch.equal(a, b)

    def test_halves_together_hold_every_sample_once(self):
        def rows(x: np.ndarray, y: np.ndarray) -> list[bytes]:
            return sorted(np.column_stack([x.reshape(len(x), -1), y]).astype(np.uint8).tolist())

        digits, source = data.load_images("digits"), load_digits()
        x = np.concatenate([digits.x_train, digits.x_test])
        y = np.concatenate([digits.y_train, digits.y_test])
        assert rows(x, y) == rows(source.images, source.target)

    def test_split_is_stratified(self):
        digits = data.load_images("digits")
        train, test = (torch.bincount(digits.split(part)[1]) for part in ("train", "test"))
        assert ((train - 0.8 * (train + test)).abs() < 1).all()


class TestNpz:
    @pytest.mark.parametrize(
        ("kind", "planted", "found"),
        [
            ("uint8 N×H×W", (3, 1, 2), (3, 0, 1, 2)),
            ("uint8 N×H×W×C", (3, 1, 2, 0), (3, 0, 1, 2)),
            ("float64 N×H×W", (3, 1, 2), (3, 0, 1, 2)),
            ("float32 N×H×W×C", (3, 0, 2, 1), (3, 1, 0, 2)),
            ("float64 N×d", (3, 4), (3, 4)),
        ],
    )
    def test_a_planted_value_ends_up_where_it_should(self, tmp_path, kind, planted, found):
        x = arrays(kind)["x_train"]
        x[planted] = 250  # above all others
        images = data.load_images(str(write(tmp_path / "a.npz", kind, x_train=x)))
        assert images.x_train.dtype == (torch.uint8 if x.dtype == np.uint8 else torch.float32)
        assert torch.argwhere(images.x_train == 250).tolist() == [list(found)]

    @pytest.mark.parametrize(
        ("kind", "shape"),
        [
            ("uint8 N×H×W", (1, 2, 3)),
            ("uint8 N×H×W×C", (3, 2, 3)),
            ("float16 N×H×W", (1, 2, 3)),
            ("float64 N×d", (6,)),
        ],
    )
    def test_shapes_labels_and_name_are_those_of_the_file(self, tmp_path, kind, shape):
        images = data.load_images(str(write(tmp_path / "mine.npz", kind)))
        assert (images.name, images.shape, images.classes) == ("mine", shape, 3)
        assert (len(images.x_train), len(images.x_test)) == (5, 4)
        assert images.y_train.tolist() == [0, 1, 2, 0, 1]
        assert images.y_test.tolist() == [0, 1, 2, 0]

    @pytest.mark.parametrize(
        ("shape", "first"),
        [
            ((3, 32, 32), True),
            ((1, 28, 28), True),
            ((4, 8, 5), True),
            ((32, 32, 3), False),
            ((3, 8, 4), False),  # as documented where both could be
            ((8, 8, 12), False),
            ((28, 28, 1), False),
        ],
    )
    def test_channels_may_come_first_where_they_cannot_be_last(self, tmp_path, shape, first):
        x = np.random.default_rng(0).integers(1, 200, (5, *shape)).astype(np.uint8)
        path = write(tmp_path / "a.npz", x_train=x, x_test=x[:4])
        loaded = data.load_images(str(path)).x_train
        np.testing.assert_array_equal(loaded, x if first else x.transpose(0, 3, 1, 2))

    def test_bytes_scale_from_0_and_255_to_0_and_1(self, tmp_path):
        x = arrays()["x_train"]
        x[0, 0, 0], x[0, 0, 1] = 0, 255
        images = data.load_images(str(write(tmp_path / "a.npz", x_train=x)))
        scaled = images.scale(images.x_train)
        assert (scaled.min(), scaled.max()) == (0, 1)
        torch.testing.assert_close(scaled[:, 0], torch.from_numpy(x).float() / 255)

    def test_floats_are_taken_as_they_are(self, tmp_path):
        images = data.load_images(str(write(tmp_path / "a.npz", "float64 N×H×W")))
        expected = torch.from_numpy(arrays("float64 N×H×W")["x_train"]).float()
        torch.testing.assert_close(images.scale(images.x_train)[:, 0], expected, rtol=0, atol=0)

    def test_scale_gives_the_precision_asked_for(self, tmp_path):
        images = data.load_images(str(write(tmp_path / "a.npz")))
        scaled = images.scale(images.x_train, torch.float64)
        np.testing.assert_allclose(scaled[:, 0], arrays()["x_train"] / 255, rtol=1e-15)


GOOD = arrays()
FLOAT = arrays("float64 N×H×W")
MALFORMED = {  # what is wrong -> the arrays that make it so
    "pixels are int64": {"x_train": GOOD["x_train"].astype(np.int64)},
    "pixels are bool": {"x_test": GOOD["x_test"] > 9},
    "pixels are complex": {"x_train": FLOAT["x_train"] + 1j},
    "pixels are text": {"x_train": GOOD["x_train"].astype(str)},
    "floats for training, bytes for the test": {"x_train": FLOAT["x_train"]},
    "bytes for training, floats for the test": {"x_test": FLOAT["x_test"]},
    "nan": {"x_train": np.full((5, 2, 3), np.nan), "x_test": FLOAT["x_test"]},
    "inf": {"x_train": FLOAT["x_train"], "x_test": np.full((4, 2, 3), np.inf)},
    "beyond float32": {"x_train": FLOAT["x_train"] + 1e300, "x_test": FLOAT["x_test"]},
    "one number a sample": {"x_train": GOOD["x_train"][:, 0, 0]},
    "a scalar": {"x_train": np.uint8(3)},
    "five axes": {"x_train": np.zeros((5, 1, 2, 3, 1)), "x_test": np.zeros((4, 1, 2, 3, 1))},
    "no samples": {"x_train": GOOD["x_train"][:0], "y_train": GOOD["y_train"][:0]},
    "no test samples": {"x_test": GOOD["x_test"][:0], "y_test": GOOD["y_test"][:0]},
    "no features": {"x_train": np.zeros((5, 0)), "x_test": np.zeros((4, 0))},
    "test images are smaller": {"x_test": GOOD["x_test"][:, :, :2]},
    "test images are flat": {"x_test": GOOD["x_test"].reshape(4, 6)},
    "a negative label": {"y_train": GOOD["y_train"] - 1},
    "a label that int64 would wrap": {"y_train": np.array([0, 1, 2, 0, 2**64 - 1], np.uint64)},
    "a label that is no class": {"y_test": np.array([0, 1, 2, 10**9])},
    "a label too few": {"y_train": GOOD["y_train"][:-1]},
    "a stray label": {"y_test": np.array([0, 1, 2, 60])},
    "classes from one up": {"y_train": GOOD["y_train"] + 1, "y_test": GOOD["y_test"] + 1},
    "test samples in other units": {"x_train": FLOAT["x_train"], "x_test": FLOAT["x_test"] * 255},
    "test samples are zero": {"x_test": GOOD["x_test"] * 0},
    "all samples are the same": {"x_train": np.repeat(GOOD["x_train"][:1], 5, 0)},
    "float labels": {"y_test": GOOD["y_test"].astype(float)},
    "one-hot labels": {"y_train": np.eye(3)[GOOD["y_train"]]},
    "text labels": {"y_train": GOOD["y_train"].astype(str)},
    "one class only": {"y_test": np.zeros(4, int)},
}
DAMAGED = {  # what is wrong -> the bytes of a good file, damaged
    "empty": lambda good: b"",
    "text": lambda good: b"not a zip file",
    "truncated": lambda good: good[: len(good) // 2],
    "begins like an .npy": lambda good: b"\x93NUMPY" + good,
}


class TestMalformedNpz:
    def test_missing_arrays_are_named(self, tmp_path):
        message = refusal(write(tmp_path / "a.npz", x_test=None, y_train=None))
        assert "a.npz has no y_train, x_test" in message

    @pytest.mark.parametrize("wrong", MALFORMED)
    def test_bad_arrays_are_one_line_that_names_the_file(self, tmp_path, wrong):
        path = write(tmp_path / "a.npz", **MALFORMED[wrong])
        assert str(path) in refusal(path)

    @pytest.mark.parametrize("wrong", DAMAGED)
    def test_a_damaged_file_is_one_line_that_names_it(self, tmp_path, wrong):
        path = write(tmp_path / "a.npz")
        path.write_bytes(DAMAGED[wrong](path.read_bytes()))
        assert str(path) in refusal(path)

    def test_no_damaged_byte_is_more_than_one_line(self, tmp_path):
        path = write(tmp_path / "a.npz")
        good, escaped = path.read_bytes(), {}
        for i in range(0, len(good), 5):
            path.write_bytes(good[:i] + bytes([good[i] ^ 0xFF]) + good[i + 1 :])
            data.load_images.cache_clear()
            try:
                data.load_images(str(path))  # a byte may not matter
            except Exception as error:
                if not isinstance(error, DataError):
                    escaped[i] = error
        assert not escaped

    def test_an_npy_under_the_name_of_an_npz_is_refused(self, tmp_path):
        path = tmp_path / "a.npz"
        with path.open("wb") as file:
            np.save(file, GOOD["x_train"])
        assert str(path) in refusal(path)

    @pytest.mark.parametrize("name", ["absent.npz", "folder.npz"])
    def test_no_such_file(self, tmp_path, name):
        (tmp_path / "folder.npz").mkdir()
        assert str(tmp_path / name) in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["imagenet", "", "MNIST", "digits.np"])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    message = refusal(name)
    assert repr(name) in message
    assert all(known in message for known in (*TORCHVISION, "digits", ".npz"))


# torchvision's own formats ----------------------------------------------------------------------

N = {"train": 15, "test": 12}
PLANTED = {
    name: (3, 0 if name == "mnist" else 2, 5, 7) for name in TORCHVISION
}  # n, c, row, column


def write_mnist(root: Path, images: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        header = struct.pack(">IIII", 0x0803, len(labels[part]), 28, 28)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images[part][:, 0].tobytes())
        header, y = struct.pack(">II", 0x0801, len(labels[part])), labels[part].astype(np.uint8)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + y.tobytes())


def write_svhn(root: Path, images: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> None:
    root.mkdir()
    for part, y in labels.items():
        ten_for_zero = np.where(y == 0, 10, y).astype(np.uint8)[:, None]
        x = images[part].transpose(2, 3, 1, 0)  # (H, W, C, N)
        scipy.io.savemat(root / f"{part}_32x32.mat", {"X": x, "y": ten_for_zero})


def write_cifar10(root: Path, images: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> None:
    folder = root / "cifar-10-batches-py"
    batches = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    write_pickles(folder, "batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    for part, names in batches.items():
        rows = np.array_split(images[part].reshape(-1, 3072), len(names))  # red, green, blue planes
        for name, x, y in zip(names, rows, np.array_split(labels[part], len(names)), strict=True):
            write_pickles(folder, name, {"data": x, "labels": y.tolist()})


def write_cifar100(
    root: Path, images: dict[str, np.ndarray], labels: dict[str, np.ndarray]
) -> None:
    folder = root / "cifar-100-python"
    write_pickles(folder, "meta", {"fine_label_names": [f"class {i}" for i in range(100)]})
    for part, x in images.items():
        coarse, fine = [0] * len(x), labels[part].tolist()
        content = {"data": x.reshape(-1, 3072), "coarse_labels": coarse, "fine_labels": fine}
        write_pickles(folder, part, content)


def write_pickles(folder: Path, name: str, content: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(content))


WRITERS = {
    "mnist": write_mnist,
    "svhn": write_svhn,
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
}


def write_torchvision(name: str, root: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A tiny data set in torchvision's own files: images (N, C, H, W), one pixel 255; labels."""
    rng = np.random.default_rng(1)
    shape = (1, 28, 28) if name == "mnist" else (3, 32, 32)
    classes = 100 if name == "cifar100" else 10
    images = {part: rng.integers(0, 250, (n, *shape)).astype(np.uint8) for part, n in N.items()}
    images["train"][PLANTED[name]] = 255
    labels = {part: (np.arange(n) * 7 + classes - 1) % classes for part, n in N.items()}
    WRITERS[name](root, images, labels)
    return images, labels


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take torchvision's files without comparing their checksums."""
    monkeypatch.setattr(torchvision.datasets.utils, "check_md5", lambda *_, **__: True)


@pytest.mark.usefixtures("trusting")
class TestTorchvision:
    @pytest.mark.parametrize("name", TORCHVISION)
    def test_pixels_and_labels_are_those_written(self, tmp_path, name):
        images, labels = write_torchvision(name, tmp_path / "data")
        loaded = data.load_images(name, tmp_path / "data")
        assert loaded.name == name
        for part in ("train", "test"):
            x, y = loaded.split(part)
            assert (x.dtype, y.dtype) == (torch.uint8, torch.int64)
            np.testing.assert_array_equal(x, images[part])  # (N, C, H, W)
            np.testing.assert_array_equal(y, labels[part])
        assert torch.argwhere(loaded.x_train == 255).tolist() == [list(PLANTED[name])]

    @pytest.mark.parametrize(("name", "label"), [("mnist", 200), ("mnist", 10), ("svhn", 11)])
    def test_a_label_that_is_no_class_is_one_line(self, tmp_path, name, label):
        images, labels = write_torchvision(name, tmp_path / "data")
        labels["test"][0] = label
        shutil.rmtree(tmp_path / "data")
        WRITERS[name](tmp_path / "data", images, labels)
        assert "labels that are none of its 10 classes" in refusal(name, tmp_path / "data")

    @pytest.mark.parametrize("part", ["train", "test"])
    @pytest.mark.parametrize("more", [-3, 3])
    def test_more_or_fewer_labels_than_images_are_one_line(self, tmp_path, part, more):
        _, labels = write_torchvision("mnist", tmp_path / "data")
        labels[part] = np.resize(labels[part], N[part] + more)
        path = next((tmp_path / "data").rglob(f"{'train' if part == 'train' else 't10k'}-labels*"))
        header = struct.pack(">II", 0x0801, len(labels[part]))
        path.write_bytes(header + labels[part].astype(np.uint8).tobytes())
        line = refusal("mnist", tmp_path / "data")
        assert f"y_{part} must be {N[part]} class indices" in line
        assert f"({N[part] + more},)" in line

    def test_images_of_another_size_for_the_test_are_one_line(self, tmp_path):
        write_torchvision("mnist", tmp_path / "data")
        path = next((tmp_path / "data").rglob("t10k-images*"))
        path.write_bytes(struct.pack(">IIII", 0x0803, N["test"], 14, 14) + bytes(14 * 14 * 12))
        assert "differ in shape, (28, 28) and (14, 14)" in refusal("mnist", tmp_path / "data")

    def test_a_download_is_waited_for(self, tmp_path, monkeypatch):
        """A program that reads while another downloads sees all or nothing of the files."""
        root, written = tmp_path / "data", tmp_path / "written"
        write_torchvision("mnist", written)
        begun = threading.Event()

        def download(self) -> None:
            for path in sorted((written / "MNIST" / "raw").iterdir()):
                copy = root / "MNIST" / "raw" / path.name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.touch()
                begun.set()
                time.sleep(0.05)  # in which the other would read an empty file
                copy.write_bytes(path.read_bytes())

        def exists(self) -> bool:
            return len(list((root / "MNIST" / "raw").glob("*"))) == 4

        monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
        monkeypatch.setattr(torchvision.datasets.MNIST, "_check_exists", exists)
        with ThreadPoolExecutor(1) as other:
            first = other.submit(data.load_images, "mnist", root)
            begun.wait()
            second = data.load_images("mnist", root, "cpu")
        assert first.result().fingerprint == second.fingerprint
        assert not list(root.glob(".*"))

    def test_a_folder_that_cannot_be_written_to_is_read(self, tmp_path, monkeypatch):
        write_torchvision("mnist", tmp_path / "data")

        def refuse(path: Path, *_: object, **__: object) -> None:
            raise ResultError(f"{path} cannot be locked: Read-only file system")

        monkeypatch.setattr(data.sources.files, "locked", refuse)
        assert len(data.load_images("mnist", tmp_path / "data").x_train) == N["train"]

    def test_svhn_calls_the_digit_zero_zero(self, tmp_path):
        write_torchvision("svhn", tmp_path / "data")
        svhn = data.load_images("svhn", tmp_path / "data")
        assert sorted(set(svhn.y_train.tolist())) == list(range(10))
        assert svhn.classes == 10

    @pytest.mark.parametrize(
        ("name", "low"), [("mnist", 0), ("svhn", 0), ("cifar10", 0), ("cifar100", -1)]
    )
    def test_scale_is_to_0_and_1_but_cifar100_has_mean_and_std_one_half(self, tmp_path, name, low):
        write_torchvision(name, tmp_path / "data")
        loaded = data.load_images(name, tmp_path / "data")
        ends = torch.tensor([0, 255], dtype=torch.uint8)
        assert loaded.scale(ends).tolist() == [low, 1]


class Broken(contextlib.AbstractContextManager):
    """A response that stops with an error after its first bytes."""

    length, url = 1000, None

    def __init__(self) -> None:
        self.chunks = iter([b"begun"])

    def __exit__(self, *_: object) -> None: ...

    def read(self, _: int) -> bytes:
        for chunk in self.chunks:
            return chunk
        raise ConnectionResetError("connection reset by peer")


class TestNoNetwork:
    @pytest.mark.parametrize("name", TORCHVISION)
    def test_a_failed_download_is_one_line_and_leaves_nothing(self, tmp_path, name):
        message = refusal(name, tmp_path / "new" / "data")
        assert name in message
        assert str(tmp_path / "new" / "data") in message
        assert list(tmp_path.iterdir()) == []

    def test_what_was_in_the_folder_stays(self, tmp_path):
        (tmp_path / "data" / "mine").mkdir(parents=True)
        (tmp_path / "data" / "mine.txt").write_text("mine")
        refusal("mnist", tmp_path / "data")
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "mine", "mine.txt"]

    @pytest.mark.parametrize("name", TORCHVISION)
    def test_damaged_files_are_one_line(self, tmp_path, name):
        write_torchvision(name, tmp_path / "data")
        for path in (tmp_path / "data").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert name in refusal(name, tmp_path / "data")

    def test_a_download_that_breaks_off_is_one_line(self, tmp_path, monkeypatch):
        monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Broken())
        assert "mnist" in refusal("mnist", tmp_path / "data")

    def test_a_folder_that_cannot_be_made_is_one_line(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        assert "mnist" in refusal("mnist", tmp_path / "file" / "data")


class TestFingerprint:
    def test_is_stable_between_loads(self, tmp_path):
        path = write(tmp_path / "a.npz")
        first = data.load_images(str(path)).fingerprint
        data.load_images.cache_clear()
        assert data.load_images(str(path)).fingerprint == first
        assert len(first) == 16
        assert int(first, 16) >= 0

    @pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test"])
    def test_changes_with_one_value(self, tmp_path, key):
        array = arrays()[key].copy()
        array.flat[-1] += 1
        before = data.load_images(str(write(tmp_path / "before.npz")))
        after = data.load_images(str(write(tmp_path / "after.npz", **{key: array})))
        assert before.fingerprint != after.fingerprint

    def test_changes_with_the_shape_and_the_type(self, tmp_path):
        images = data.load_images(str(write(tmp_path / "a.npz")))
        turned = replace(images, x_train=images.x_train.reshape(5, 1, 3, 2))
        halves = replace(images, x_train=images.x_train.view(torch.int8))
        assert len({images.fingerprint, turned.fingerprint, halves.fingerprint}) == 3

    def test_does_not_depend_on_the_layout_in_memory(self, tmp_path):
        images = data.load_images(str(write(tmp_path / "a.npz")))
        strided = replace(images, x_train=images.x_train.mT.contiguous().mT)
        assert not strided.x_train.is_contiguous()
        assert strided.fingerprint == images.fingerprint


def test_the_same_arguments_load_once(tmp_path):
    path = str(write(tmp_path / "a.npz"))
    assert data.load_images(path) is data.load_images(path)


@pytest.mark.parametrize(
    ("name", "expected"), [("mnist", "mnist"), ("some/where/mine.npz", "mine")]
)
def test_label_is_the_name_or_the_stem(name, expected):
    assert data.label(name) == expected


def test_to_keeps_everything_but_the_device():
    x, y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    moved = Images("a", x, y, x, y, unit=2.0, mean=0.5, std=0.25).to(torch.device("meta"))
    tensors = (*moved.split("train"), *moved.split("test"))
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert (moved.name, moved.unit, moved.mean, moved.std) == ("a", 2.0, 0.5, 0.25)


# folders ------------------------------------------------------------------------------------------


def write_classes(root: Path, part: str = "train", test: str = "test", mode: str = "RGB") -> Path:
    """Two images of each of two classes in each part; the first of training has a pixel 255."""
    rng = np.random.default_rng(2)
    for name in (part, test):
        for label, i in itertools.product(("dog", "ant"), (1, 0)):
            shape = (4, 6) if mode == "L" else (4, 6, 3)
            pixels = rng.integers(0, 250, shape).astype(np.uint8)
            if (name, label, i) == (part, "ant", 0):
                pixels[2, 5] = 255
            folder = root / name / label
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


class TestImagesByClass:
    @pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
    @pytest.mark.parametrize("test", ["test", "validation", "val"])
    def test_classes_and_images_are_in_the_order_of_their_names(
        self, tmp_path, mode, channels, test
    ):
        images = data.load_images(str(write_classes(tmp_path / "mine", test=test, mode=mode)))
        assert (images.name, images.shape, images.classes) == ("mine", (channels, 4, 6), 2)
        assert images.y_train.tolist() == images.y_test.tolist() == [0, 0, 1, 1]
        found = torch.argwhere(images.x_train == 255)
        assert found.tolist() == [[0, c, 2, 5] for c in range(channels)]

    def test_grey_among_colours_counts_as_colour(self, tmp_path):
        folder = write_classes(tmp_path / "mine")
        grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
        Image.fromarray(grey).save(folder / "train" / "ant" / "0.png")
        images = data.load_images(str(folder))
        np.testing.assert_array_equal(images.x_train[0], np.stack([grey] * 3))

    @pytest.mark.parametrize(
        ("break_it", "said"),
        [
            (lambda root: shutil.rmtree(root / "test"), "neither folders train and test"),
            (lambda root: shutil.rmtree(root / "test" / "dog"), "class dog is in one of"),
            (lambda root: (root / "train" / "cat").mkdir(), "classes cat"),
            (lambda root: (root / "train/dog/1.png").write_bytes(b"no"), "is no image"),
            (
                lambda root: Image.new("RGB", (6, 5)).save(root / "train/dog/1.png"),
                "differs in size from others, 4 × 6 and 5 × 6",
            ),
            (
                lambda root: Image.fromarray(np.zeros((4, 6), np.uint16)).save(
                    root / "train/dog/1.png"
                ),
                "more than 8 bits",
            ),
        ],
    )
    def test_what_is_wrong_is_one_line(self, tmp_path, break_it, said):
        break_it(write_classes(tmp_path / "mine"))
        assert said in refusal(tmp_path / "mine")

    def test_parts_of_two_sizes_are_one_line(self, tmp_path):
        write_classes(tmp_path / "mine")
        for path in (tmp_path / "mine" / "test").rglob("*.png"):
            Image.new("RGB", (5, 5), (9, 9, 9)).save(path)
        assert "differ in shape" in refusal(tmp_path / "mine")


class TestMnistsFiles:
    def write(self, folder: Path, pack: bool) -> tuple[dict, dict]:
        images, labels = write_torchvision("mnist", folder.parent / "raw")
        folder.mkdir(parents=True)
        for path in (folder.parent / "raw" / "MNIST" / "raw").iterdir():
            content = path.read_bytes()
            name = f"{path.name}.gz" if pack else path.name
            (folder / name).write_bytes(gzip.compress(content) if pack else content)
        shutil.rmtree(folder.parent / "raw")
        return images, labels

    @pytest.mark.parametrize("pack", [True, False])
    @pytest.mark.parametrize("place", ["anywhere", "data", "data/mnist"])
    def test_are_read_wherever_they_lie(self, tmp_path, pack, place):
        images, labels = self.write(tmp_path / place, pack)
        name = str(tmp_path / place) if place == "anywhere" else "mnist"
        loaded = data.load_images(name, tmp_path / "data")
        assert loaded.name == Path(name).name
        for part in ("train", "test"):
            x, y = loaded.split(part)
            np.testing.assert_array_equal(x, images[part])
            np.testing.assert_array_equal(y, labels[part])

    @pytest.mark.parametrize("damage", [lambda c: c[:-9], lambda c: b"\x01" + c, lambda _: b""])
    def test_a_damaged_one_is_one_line(self, tmp_path, damage):
        self.write(tmp_path / "mine", pack=False)
        path = tmp_path / "mine" / "train-images-idx3-ubyte"
        path.write_bytes(damage(path.read_bytes()))
        assert str(path) in refusal(tmp_path / "mine")


class TestHuggingFace:
    def write(self, folder: Path, how: str, **columns: str) -> None:
        """Grey images i·10 of class i % 3, in a data set that is saved, or as parquet."""
        names = {"image": "image", "label": "label"} | columns
        features = {
            names["image"]: datasets.Image(),
            names["label"]: datasets.ClassLabel(names=["a", "b", "c"]),
            "id": datasets.Value("int64"),
        }
        parts = {}
        for part, n in (("train", 6), ("test", 3)):
            rows = {
                names["image"]: [Image.new("L", (5, 4), 10 * i + 1) for i in range(n)],
                names["label"]: [i % 3 for i in range(n)],
                "id": list(range(n)),
            }
            parts[part] = datasets.Dataset.from_dict(rows, datasets.Features(features))
        if how == "saved":
            datasets.DatasetDict(parts).save_to_disk(folder)
            return
        folder.mkdir()
        for part, rows in parts.items():
            rows.to_parquet(folder / f"{part}.parquet")

    @pytest.fixture(autouse=True)
    def _quiet(self, tmp_path, monkeypatch):
        datasets.disable_progress_bars()
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    @pytest.mark.parametrize("how", ["saved", "parquet"])
    @pytest.mark.parametrize("columns", [{}, {"image": "picture", "label": "kind"}])
    def test_images_and_classes_are_those_written(self, tmp_path, how, columns):
        self.write(tmp_path / "mine", how, **columns)
        images = data.load_images(str(tmp_path / "mine"))
        assert (images.name, images.shape) == ("mine", (1, 4, 5))
        assert images.x_train[:, 0, 0, 0].tolist() == [1, 11, 21, 31, 41, 51]
        assert images.y_train.tolist() == [0, 1, 2, 0, 1, 2]
        assert images.y_test.tolist() == [0, 1, 2]

    def test_one_of_the_hub_is_asked_for_by_its_name(self, tmp_path, monkeypatch):
        self.write(tmp_path / "mine", "saved")
        here = datasets.load_from_disk(tmp_path / "mine")
        monkeypatch.setattr("datasets.load_dataset", {"somebody/pictures": here}.__getitem__)
        assert data.load_images("hf:somebody/pictures").name == "pictures"
        assert "KeyError" not in refusal("hf:somebody/others").split("(")[0]

    def test_text_is_one_line(self, tmp_path):
        (tmp_path / "mine").mkdir()
        text = datasets.Dataset.from_dict({"sentence": ["a", "b"], "label": [0, 1]})
        for part in ("train", "test"):
            text.to_parquet(tmp_path / "mine" / f"{part}.parquet")
        said = refusal(tmp_path / "mine")
        assert "which of its columns has images? sentence, label" in said

    def test_a_split_too_few_is_one_line(self, tmp_path):
        self.write(tmp_path / "mine", "parquet")
        (tmp_path / "mine" / "test.parquet").unlink()
        assert "no split test: there are train" in refusal(tmp_path / "mine")

    def test_damaged_files_are_one_line(self, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "train.parquet").write_bytes(b"PAR1 and no more")
        assert str(tmp_path / "mine") in refusal(tmp_path / "mine")


@pytest.mark.parametrize("name", ["hf:", "/", ".", "\0", "x" * 5000])
def test_a_name_that_none_can_have_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refusal(name)
