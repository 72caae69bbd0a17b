"""Image data sets as tensors: the whole set lives on the device, batches are index slices.

    images = load_images("mnist", root=Path("data"))
    batch = images.scale(images.x_train[index])  # uint8 -> float32 in [0, 1]

A data set is named by one of these:

    mnist, svhn, cifar10, cifar100  torchvision's, downloaded into `root` on first use; MNIST's four
                         .gz files are also taken from `root` itself, or its folder mnist
    digits               bundled with scikit-learn: no network
    PATH.npz             arrays x_train, y_train, x_test, y_test. x: (N, H, W), (N, H, W, C) or,
                         where the second axis is as short as a number of channels and the last is
                         not, (N, C, H, W), or rows of features (N, d); uint8, which is divided by
                         255, or floats, which are taken as they are. y: class indices (N,) from 0
    FOLDER               train/CLASS/* and test/CLASS/* (or validation): images of one size, classes
                         numbered in the order of their names; or MNIST's four files; or a Hugging
                         Face data set, as `save_to_disk` writes it or `load_dataset` reads it
    hf:NAME              a data set of images of the Hugging Face hub

Results carry its label: the name, the file's without .npz, the folder's, or what follows the last
slash.
"""

import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lab import sources
from lab.errors import DataError
from lab.sources import HUB, KEYS, TORCHVISION

CLASSES = {"cifar100": 100}  # of torchvision's sets; all others have ten
NAMES = (*TORCHVISION, "digits")
MOST_CHANNELS = 4  # of images whose channels come first
MOST_RATIO = 100  # of the mean sizes of training and test samples


@dataclass(frozen=True)
class Images:
    """A data set on one device.

    `scale` turns a batch of x into what a network is given: (x / unit − mean) / std.
    """

    name: str
    x_train: Tensor  # (N, C, H, W) or (N, …), uint8 or float32, unscaled
    y_train: Tensor  # (N,) int64
    x_test: Tensor
    y_test: Tensor
    unit: float = 255.0
    mean: float = 0.0
    std: float = 1.0

    @property
    def classes(self) -> int:
        return int(torch.maximum(self.y_train.max(), self.y_test.max())) + 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.x_train.shape[1:])

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.x_train, self.y_train, self.x_test, self.y_test)

    def scale(self, batch: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        x = batch.to(dtype) / self.unit
        return x if (self.mean, self.std) == (0.0, 1.0) else (x - self.mean) / self.std

    def split(self, name: str) -> tuple[Tensor, Tensor]:
        """(x, y) of "train" or "test"."""
        return {"train": (self.x_train, self.y_train), "test": (self.x_test, self.y_test)}[name]

    def shuffled(self, source: torch.Generator) -> "Images":
        """In another order, training set and test set: data may be sorted by class."""
        arrays = {}
        for split in ("train", "test"):
            order = torch.randperm(len(self.split(split)[1]), generator=source)
            arrays |= {f"{key}_{split}": getattr(self, f"{key}_{split}")[order] for key in "xy"}
        return replace(self, **arrays)

    def to(self, device: torch.device) -> "Images":
        return replace(self, **{key: getattr(self, key).to(device) for key in KEYS})


def fingerprint(*arrays: Tensor) -> str:
    """First 16 hexadecimal digits of the SHA-256 of arrays, with their dtypes and shapes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.dtype, tuple(array.shape))).encode())
        digest.update(array.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def label(name: str) -> str:
    """The name that results carry; see the module's docstring."""
    if name in NAMES:
        return name
    if name.startswith(HUB):
        return name.removeprefix(HUB).rpartition("/")[2]
    return Path(name).stem if name.endswith(".npz") else Path(os.path.abspath(name)).name


def check_name(name: str) -> None:
    """Raise DataError unless `name` is one of a data set, or an existing .npz file or folder."""
    if name.endswith(".npz"):
        if not Path(name).is_file():
            raise DataError(f"no file {name}: give the path of an .npz with {', '.join(KEYS)}")
    elif name not in NAMES and not label(name):
        raise DataError(f"unknown data set {name!r}: a folder or data set without a name")
    elif not (name in NAMES or name.startswith(HUB) or sources.is_folder(name)):
        known = f"one of {', '.join(NAMES)}, the path of an .npz file or of a folder, or {HUB}NAME"
        raise DataError(f"unknown data set {name!r}: {known}")


@functools.lru_cache(maxsize=2)
def load_images(name: str, root: Path = Path("data"), device: str = "cpu") -> Images:
    """Load a data set onto a device; the same arguments give the same object.

    Args:
        name: see the module's docstring.
        root: folder of torchvision's data sets, or of MNIST's files.
        device: "cpu" or "cuda".

    Raises:
        DataError: unknown name, missing or malformed file, or a download that failed.
    """
    check_name(name)
    if name.endswith(".npz"):
        images = _assemble(label(name), name, sources.read_npz(Path(name)))
    elif name == "digits":
        images = replace(_assemble(name, name, sources.read_digits()), unit=16.0)
    elif name.startswith(HUB):
        arrays = sources.read_hugging_face(name.removeprefix(HUB))
        images = _assemble(label(name), name, arrays)
    elif name not in NAMES:
        images = _assemble(label(name), name, sources.read_folder(Path(name)))
    else:
        lone = sources.find_mnist(root) if name == "mnist" else None
        arrays = sources.read_mnist(lone) if lone else sources.read_torchvision(name, root)
        classes = CLASSES.get(name, 10)
        images = _assemble(name, f"{name} in {root}", arrays, classes)
        images = replace(images, mean=0.5, std=0.5) if name == "cifar100" else images
    return images.to(torch.device(device))


def _assemble(
    name: str, where: str, arrays: Mapping[str, np.ndarray], classes: int | None = None
) -> Images:
    """Images of arrays that belong together, of whatever source.

    Args:
        name: of the data set.
        where: it is from, for messages.
        arrays: x of shape (N, H, W), (N, H, W, C), (N, C, H, W) or (N, d); y (N,).
        classes: that there are; None: as many as the labels, 0 to the largest, name.
    """
    for part in ("train", "test"):
        _check_part(where, part, arrays[f"x_{part}"], arrays[f"y_{part}"])
    x_train, y_train, x_test, y_test = (arrays[key] for key in KEYS)
    if x_train.shape[1:] != x_test.shape[1:]:
        shapes = f"{x_train.shape[1:]} and {x_test.shape[1:]}"
        raise DataError(f"{where}: training and test samples differ in shape, {shapes}")
    if (x_train.dtype == np.uint8) != (x_test.dtype == np.uint8):
        raise DataError(f"{where}: x_train and x_test must both be uint8 or both be floating point")
    sizes = [float(np.abs(x).mean(dtype=np.float64)) for x in (x_train, x_test)]
    if max(sizes) > MOST_RATIO * min(sizes):
        means = " and ".join(f"{size:.3g}" for size in sizes)
        raise DataError(f"{where}: x_train and x_test differ in scale, |x| is {means} in the mean")
    if (x_train == x_train[:1]).all():
        raise DataError(f"{where}: all samples of x_train are the same")
    present = sorted({*y_train.tolist(), *y_test.tolist()})
    if classes is not None and present[-1] >= classes:
        raise DataError(f"{where} has labels that are none of its {classes} classes")
    if classes is None and present[-1] != len(present) - 1:
        absent = next(i for i, label in enumerate(present) if i != label)
        reason = f"has labels up to {present[-1]} and none that is {absent}"
        raise DataError(f"{where} {reason}: number the classes from 0 without a gap")
    return Images(
        name,
        _to_tensor(x_train),
        torch.from_numpy(y_train.astype(np.int64)),
        _to_tensor(x_test),
        torch.from_numpy(y_test.astype(np.int64)),
        unit=255.0 if x_train.dtype == np.uint8 else 1.0,
    )


def _check_part(where: str, part: str, x: np.ndarray, y: np.ndarray) -> None:
    if x.ndim not in (2, 3, 4) or x.size == 0:
        raise DataError(
            f"{where}: x_{part} must be (N, H, W), (N, H, W, C) or (N, d), not {x.shape}"
        )
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise DataError(f"{where}: x_{part} must be uint8 or floating point, not {x.dtype}")
    if x.dtype.kind == "f" and not (np.abs(x) <= np.finfo(np.float32).max).all():
        raise DataError(f"{where}: x_{part} has values that are not finite in float32")
    if y.dtype.kind not in "iu" or y.shape != (len(x),) or y.min() < 0:
        raise DataError(
            f"{where}: y_{part} must be {len(x)} class indices from 0 up, not {y.dtype} {y.shape}"
        )
    if y.min() == y.max():
        raise DataError(f"{where}: y_{part} has one class only, there is nothing to tell apart")


def _to_tensor(x: np.ndarray) -> Tensor:
    """uint8 stays, floats become float32; images become (N, C, H, W)."""
    tensor = torch.from_numpy(x if x.dtype == np.uint8 else x.astype(np.float32))
    if tensor.ndim == 3:
        tensor = tensor[:, None]
    elif tensor.ndim == 4 and not tensor.shape[1] <= MOST_CHANNELS < tensor.shape[3]:
        tensor = tensor.permute(0, 3, 1, 2)
    return tensor.contiguous()
