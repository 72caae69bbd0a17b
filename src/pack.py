"""Pack a data set of images into one .npz, which every script reads in seconds.

    python src/pack.py --source CIFAR-10-images --target cifar10_jpeg.npz

The source is whatever `--datasets` takes; lab/data.py says how an .npz is laid out. It prints the
fingerprint, which is that of the source, as results have it in their meta.
"""

from lab import files, program

program.begin(__name__, "stopped")

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from lab import cli
from lab.data import load_images
from lab.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is packed, and where to."""

    source: str  # a folder of images by class, hf:NAME, or any other data set
    target: Path  # an .npz that is not there yet
    data: Path = cli.ROOT / "data"  # folder of torchvision's data sets

    def __post_init__(self) -> None:
        if self.target.suffix != ".npz" or files.exists(self.target):
            raise ConfigError(f"target must be an .npz that is not there yet, not {self.target}")


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    files.check_writable(config.target.parent)
    images = load_images(config.source, config.data)
    if images.unit not in (1.0, 255.0):
        raise ConfigError(f"source {config.source}: its scale is none that an .npz has")
    arrays = {}
    for part in ("train", "test"):
        x, y = (values.numpy() for values in images.split(part))
        arrays |= {f"x_{part}": x.transpose(0, 2, 3, 1) if x.ndim == 4 else x, f"y_{part}": y}
    files.write_whole(config.target, functools.partial(np.savez_compressed, **arrays))
    print(f"wrote {config.target}: {images.name}, fingerprint {images.fingerprint}")


if __name__ == "__main__":
    program.run(main)
