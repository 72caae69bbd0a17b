"""Where image data sets come from: each reader gives the arrays x_train, y_train, x_test, y_test.

`data` says what they are named and checks what they give.
"""

import gzip
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lab import files
from lab.errors import DataError, ResultError, first_line

TORCHVISION = ("mnist", "svhn", "cifar10", "cifar100")
KEYS = ("x_train", "y_train", "x_test", "y_test")
TEST = ("test", "validation", "valid", "val")  # names of a test set, the first that is there
MNIST = tuple(  # in the order of KEYS
    f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")
)
SAVED = "dataset_dict.json"  # in what `save_to_disk` of a Hugging Face data set writes
HUB = "hf:"  # before the name of a data set on the Hugging Face hub


def read_digits() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x = digits.images.astype(np.uint8)  # (1797, 8, 8), 0 … 16
    x_train, x_test, y_train, y_test = train_test_split(
        x, digits.target, test_size=0.2, random_state=0, stratify=digits.target
    )
    return dict(zip(KEYS, (x_train, y_train, x_test, y_test), strict=True))


def read_torchvision(name: str, root: Path) -> dict[str, np.ndarray]:
    from torchvision import datasets

    def fetch(train: bool, download: bool) -> tuple[np.ndarray, np.ndarray]:
        if name == "svhn":
            split = "train" if train else "test"
            part = datasets.SVHN(root, split=split, download=download)
            return part.data, np.asarray(part.labels)
        kind = {
            "mnist": datasets.MNIST,
            "cifar10": datasets.CIFAR10,
            "cifar100": datasets.CIFAR100,
        }[name]
        part = kind(root, train=train, download=download)
        return np.asarray(part.data), np.asarray(part.targets)

    def fetch_both(download: bool) -> dict[str, np.ndarray]:
        with _in_use(root, name, shared=not download):
            parts = *fetch(True, download), *fetch(False, download)
        return dict(zip(KEYS, parts, strict=True))

    below = (root / name.upper(), root / name.upper() / "raw")
    absent = [
        folder
        for folder in (*reversed(root.absolute().parents), root, *below)
        if not folder.exists()
    ]
    with suppress(Exception):  # what torchvision raises where it is not there, or damaged
        return fetch_both(download=False)
    try:
        return fetch_both(download=True)
    except Exception as error:  # torchvision and pickle raise nearly anything on a damaged file
        for folder in reversed(absent):  # torchvision makes its folders before it downloads
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise DataError(
            f"{name} is not in {root} and could not be downloaded ({first_line(error)}): put "
            "torchvision's files there, or take digits, an .npz or a folder"
        ) from error


@contextmanager
def _in_use(root: Path, name: str, shared: bool) -> Iterator[None]:
    """Inside, nobody downloads this data set into the folder, or nobody else reads it either."""
    with ExitStack() as stack:
        with suppress(ResultError):  # where no lock can be made, nothing can be downloaded either
            lock = root / f".{name}.lock"
            what = f"{name} in {root}"
            stack.enter_context(files.locked(lock, what, wait=True, shared=shared))
        yield


def read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with files.open_plain(path) as stream, np.load(stream, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file]
            if missing:
                raise DataError(f"{path} has no {', '.join(missing)}: it needs {', '.join(KEYS)}")
            return {key: file[key] for key in KEYS}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise nearly anything on a damaged file
        raise DataError(
            f"{path} cannot be read as an .npz of plain arrays: write it with numpy.savez"
        ) from error


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """MNIST's four files, images by class, or a Hugging Face data set, whichever a folder holds."""
    if has_mnist(folder):
        return read_mnist(folder)
    by_class = any(path.is_dir() for path in folder.glob("train/*"))
    test = next((folder / name for name in TEST if (folder / name).is_dir()), None)
    if by_class and test is not None:
        return _read_classes(folder / "train", test)
    # of a folder that is neither, nothing below is looked for: there may be a whole disk
    if not by_class and any(any(folder.glob(name)) for name in ("train*", "data/train*", SAVED)):
        return read_hugging_face(folder)
    raise DataError(
        f"{folder} has neither folders train and test with a folder of images for each class, nor "
        "a Hugging Face data set, nor MNIST's four files"
    )


def is_folder(name: str) -> bool:
    """Whether a name is a folder's; one that no file can have is not."""
    try:
        return bool(name) and Path(name).is_dir()
    except (OSError, ValueError):
        return False


def find_mnist(root: Path) -> Path | None:
    """The folder of MNIST's files where they are not as torchvision has them."""
    return next(
        (place for place in (root, root / "mnist", root / "MNIST") if has_mnist(place)), None
    )


def has_mnist(folder: Path) -> bool:
    """Whether MNIST's four files, or others of its format, lie in a folder, packed or not."""
    return all(_packed(folder / name) for name in MNIST)


def _packed(path: Path) -> Path | None:
    """A file, or the same as .gz; None where neither is there."""
    return next((p for p in (path, path.with_name(f"{path.name}.gz")) if p.is_file()), None)


def read_mnist(folder: Path) -> dict[str, np.ndarray]:
    """The four files of MNIST, as published (.gz) or unpacked, wherever they lie."""
    return {key: _read_idx(_packed(folder / name)) for key, name in zip(KEYS, MNIST, strict=True)}


def _read_idx(path: Path) -> np.ndarray:
    """An array of bytes in the IDX format: 0, 0, 8, the number of axes, their sizes, entries."""
    try:
        with files.open_plain(path) as file:
            content = file.read()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        zeros, kind, axes = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{axes}I", content, 4)
        if (zeros, kind) != (0, 8):
            raise ValueError
        return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()
    except Exception as error:  # gzip, zlib, struct and numpy, on a damaged file
        raise DataError(f"{path} is not a file of MNIST's format, or damaged") from error


def _read_classes(train: Path, test: Path) -> dict[str, np.ndarray]:
    """Folders of images, one a class, in the order of their names, as are the images in them."""
    from torchvision.datasets import ImageFolder

    try:
        parts = [ImageFolder(str(part)) for part in (train, test)]
    except FileNotFoundError as error:
        raise DataError(f"{train.parent}: {first_line(error)}") from error
    classes = [part.classes for part in parts]
    if classes[0] != classes[1]:
        unlike = sorted(set(classes[0]) ^ set(classes[1]))[0]
        raise DataError(f"{train.parent}: class {unlike} is in one of {train.name}, {test.name}")
    columns = ([*zip(*part.samples, strict=True)] for part in parts)
    arrays = [(stack_images(map(_open, paths)), np.array(y)) for paths, y in columns]
    return dict(zip(KEYS, (*arrays[0], *arrays[1]), strict=True))


def _open(path: str) -> tuple[str, Image.Image]:
    try:
        with files.open_plain(Path(path)) as file:
            image = Image.open(file)
            image.load()
    except Exception as error:  # PIL raises nearly anything on a damaged file
        raise DataError(f"{path} is no image that can be read") from error
    return path, image


def stack_images(images: Iterable[tuple[str, Image.Image]]) -> np.ndarray:
    """(N, H, W) of grey images, else (N, H, W, 3), uint8.

    Args:
        images: pairs of a name, for messages, and an image.

    Raises:
        DataError: images of several sizes, or of more than 8 bits.
    """
    pixels: list[np.ndarray] = []
    for name, image in images:
        if image.mode.startswith(("I", "F")):
            raise DataError(f"{name} has more than 8 bits a channel: convert it")
        array = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        if pixels and array.shape[:2] != pixels[0].shape[:2]:
            shapes = " and ".join(f"{h} × {w}" for h, w in (pixels[0].shape[:2], array.shape[:2]))
            raise DataError(f"{name} differs in size from others, {shapes}: bring all to one")
        pixels.append(array)
    if {array.ndim for array in pixels} == {2, 3}:
        pixels = [np.broadcast_to(a.reshape(*a.shape[:2], -1), (*a.shape[:2], 3)) for a in pixels]
    return np.stack(pixels)


def read_hugging_face(source: Path | str) -> dict[str, np.ndarray]:
    """Images of the hub, by name, or of a folder that `datasets` reads.

    Of its splits it takes train, and test or else validation; of its columns the one of images, and
    that of classes or else `label`.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        if isinstance(source, Path) and (source / SAVED).is_file():
            parts = datasets.load_from_disk(str(source))
        else:
            parts = datasets.load_dataset(str(source))
    except Exception as error:  # datasets and pyarrow raise nearly anything
        raise DataError(f"{source}: no data set that can be read ({first_line(error)})") from error
    splits = ["train", next((name for name in TEST if name in parts), "test")]
    if absent := [name for name in splits if name not in parts]:
        raise DataError(f"{source} has no split {absent[0]}: there are {', '.join(parts)}")
    features = parts["train"].features
    image = _column(source, features, datasets.Image, ("image", "img"), "images")
    label = _column(source, features, datasets.ClassLabel, ("label", "labels"), "classes")
    arrays = []
    try:
        for split in splits:
            rows = parts[split]
            named = ((f"{source}, {split} image {i}", row) for i, row in enumerate(rows[image]))
            arrays += [stack_images(named), np.array(rows[label])]
    except DataError:
        raise
    except Exception as error:  # as above, and PIL, where an image is damaged
        raise DataError(f"{source}: an image or a class cannot be read") from error
    return dict(zip(KEYS, arrays, strict=True))


def _column(
    source: Path | str, features: Mapping[str, Any], kind: type, names: tuple[str, ...], what: str
) -> str:
    """The column of a kind, which has one of these names where there are several or none."""
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        found = [name for name in names if name in features][:1]
    if not found:
        columns = ", ".join(features)
        raise DataError(f"{source}: which of its columns has {what}? {columns}; name it {names[0]}")
    return found[0]
