"""Image data sets as tensors: the whole set lives on the device, batches are index slices.

    images = load_images("mnist", root=Path("data"))
    batch = images.scale(images.x_train[index])  # uint8 -> float32 in [0, 1]

Names: mnist, svhn, cifar10, cifar100 (torchvision, downloaded on first use), digits (bundled with
scikit-learn, no network), or the path of an .npz file with x_train, y_train, x_test, y_test.
"""

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lab import files
from lab.errors import DataError

TORCHVISION = ("mnist", "svhn", "cifar10", "cifar100")
CLASSES = {"cifar100": 100}  # of torchvision's sets; all others have ten
NAMES = (*TORCHVISION, "digits")
MOST_CLASSES = 100_000  # of an .npz file; a label above is no class index


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

    def to(self, device: torch.device) -> "Images":
        moved = {
            key: getattr(self, key).to(device) for key in ("x_train", "y_train", "x_test", "y_test")
        }
        return replace(self, **moved)


def fingerprint(*arrays: Tensor) -> str:
    """First 16 hexadecimal digits of the SHA-256 of arrays, with their dtypes and shapes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.dtype, tuple(array.shape))).encode())
        digest.update(array.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def label(name: str) -> str:
    """The name that results carry: the data set's own, or the stem of an .npz file."""
    return Path(name).stem if name.endswith(".npz") else name


def check_name(name: str) -> None:
    """Raise DataError unless `name` is a known data set or an existing .npz file."""
    if name.endswith(".npz"):
        if not Path(name).is_file():
            raise DataError(
                f"no file {name}: give the path of an .npz with x_train, y_train, x_test, y_test"
            )
    elif name not in NAMES:
        raise DataError(
            f"unknown data set {name!r}: one of {', '.join(NAMES)}, or the path of an .npz file"
        )


@functools.lru_cache(maxsize=2)
def load_images(name: str, root: Path = Path("data"), device: str = "cpu") -> Images:
    """Load a data set onto a device; the same arguments give the same object.

    Args:
        name: see the module's docstring.
        root: folder of torchvision's data sets.
        device: "cpu" or "cuda".

    Raises:
        DataError: unknown name, missing or malformed file, or a download that failed.
    """
    check_name(name)
    if name.endswith(".npz"):
        images = _load_npz(Path(name))
    elif name == "digits":
        images = _load_digits()
    else:
        images = _load_torchvision(name, root)
    return images.to(torch.device(device))


def _load_digits() -> Images:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x = digits.images.astype(np.uint8)[:, None]  # (1797, 1, 8, 8), 0 … 16
    x_train, x_test, y_train, y_test = train_test_split(
        x, digits.target, test_size=0.2, random_state=0, stratify=digits.target
    )
    arrays = [
        torch.from_numpy(a)
        for a in (x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64))
    ]
    return Images("digits", *arrays, unit=16.0)


def _load_torchvision(name: str, root: Path) -> Images:
    from torchvision import datasets

    def fetch(train: bool) -> tuple[Tensor, Tensor]:
        if name == "svhn":
            part = datasets.SVHN(root, split="train" if train else "test", download=True)
            return torch.from_numpy(part.data), torch.as_tensor(part.labels)
        kind = {
            "mnist": datasets.MNIST,
            "cifar10": datasets.CIFAR10,
            "cifar100": datasets.CIFAR100,
        }[name]
        part = kind(root, train=train, download=True)
        x = torch.as_tensor(part.data)
        x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)  # (N, C, H, W)
        return x.contiguous(), torch.as_tensor(part.targets)

    below = (root / name.upper(), root / name.upper() / "raw")
    absent = [
        folder
        for folder in (*reversed(root.absolute().parents), root, *below)
        if not folder.exists()
    ]
    try:
        (x_train, y_train), (x_test, y_test) = fetch(True), fetch(False)
    except Exception as error:  # torchvision and pickle raise nearly anything on a damaged file
        for folder in reversed(absent):  # torchvision makes its folders before it downloads
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{name} is not in {root} and could not be downloaded ({reason}): put torchvision's "
            "files there, or take digits or an .npz"
        ) from error
    images = Images(name, x_train, y_train.long(), x_test, y_test.long())
    classes = CLASSES.get(name, 10)
    if images.classes > classes or min(images.y_train.min(), images.y_test.min()) < 0:
        raise DataError(f"{name} in {root} has labels that are none of its {classes} classes")
    return replace(images, mean=0.5, std=0.5) if name == "cifar100" else images


def _load_npz(path: Path) -> Images:
    keys = ("x_train", "y_train", "x_test", "y_test")
    try:
        with files.open_plain(path) as stream, np.load(stream, allow_pickle=False) as file:
            missing = [key for key in keys if key not in file]
            if missing:
                raise DataError(f"{path} has no {', '.join(missing)}: it needs {', '.join(keys)}")
            arrays = {key: file[key] for key in keys}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise nearly anything on a damaged file
        raise DataError(
            f"{path} cannot be read as an .npz of plain arrays: write it with numpy.savez"
        ) from error
    for part in ("train", "test"):
        _check_arrays(path, part, arrays[f"x_{part}"], arrays[f"y_{part}"])
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        shapes = f"{arrays['x_train'].shape[1:]} and {arrays['x_test'].shape[1:]}"
        raise DataError(f"{path}: training and test samples differ in shape, {shapes}")
    if (arrays["x_train"].dtype == np.uint8) != (arrays["x_test"].dtype == np.uint8):
        raise DataError(f"{path}: x_train and x_test must both be uint8 or both be floating point")
    (x_train, unit), (x_test, _) = _to_tensor(arrays["x_train"]), _to_tensor(arrays["x_test"])
    y_train, y_test = (
        torch.from_numpy(arrays[key].astype(np.int64)) for key in ("y_train", "y_test")
    )
    return Images(path.stem, x_train, y_train, x_test, y_test, unit=unit)


def _check_arrays(path: Path, part: str, x: np.ndarray, y: np.ndarray) -> None:
    if x.ndim not in (2, 3, 4) or x.size == 0:
        raise DataError(
            f"{path}: x_{part} must be (N, H, W), (N, H, W, C) or (N, d), not {x.shape}"
        )
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise DataError(f"{path}: x_{part} must be uint8 or floating point, not {x.dtype}")
    if x.dtype.kind == "f" and not (np.abs(x) <= np.finfo(np.float32).max).all():
        raise DataError(f"{path}: x_{part} has values that are not finite in float32")
    if y.dtype.kind not in "iu" or y.shape != (len(x),) or y.min() < 0:
        raise DataError(
            f"{path}: y_{part} must be {len(x)} class indices from 0 up, not {y.dtype} {y.shape}"
        )
    if y.max() >= MOST_CLASSES:
        raise DataError(
            f"{path}: y_{part} has a label {y.max()}, of {MOST_CLASSES} classes at most"
        )
    if y.min() == y.max():
        raise DataError(f"{path}: y_{part} has one class only, there is nothing to tell apart")


def _to_tensor(x: np.ndarray) -> tuple[Tensor, float]:
    """uint8 images become (N, C, H, W) with unit 255; floats are taken as they are, in float32."""
    tensor = torch.from_numpy(x if x.dtype == np.uint8 else x.astype(np.float32))
    if tensor.ndim == 3:
        tensor = tensor[:, None]
    elif tensor.ndim == 4:
        tensor = tensor.permute(0, 3, 1, 2).contiguous()
    return tensor, 255.0 if x.dtype == np.uint8 else 1.0
