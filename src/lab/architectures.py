"""The networks that `--architecture` names, and those of one's own.

    python src/experiment/target_linearity.py --architecture resnet
    python src/experiment/target_linearity.py --architecture my_network.py:build

A function of one's own, build(shape, classes), takes the shape of an image, (C, H, W), and gives a
torch module with a tuple `hidden`; see `networks`. `mlp` is the paper's, from `models`.
"""

import functools
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import nn

from lab import cli, files, memory, provenance
from lab.data import Images
from lab.errors import ConfigError
from lab.models import MLP
from lab.modules import BUILDERS, HEADS
from lab.networks import Stacked
from lab.replicas import Replica, generators

WIDTHS = {"mlp": 256, "cnn": 32, "resnet": 32, "transformer": 64}


@dataclass(frozen=True, kw_only=True)
class Chosen(cli.Common):
    """A configuration whose network can be chosen."""

    # or PATH.py:function of your own, a function of an image's shape and the number of classes; see
    # lab/networks.py
    architecture: Literal["mlp", "cnn", "resnet", "transformer"] | str = cli.added("mlp", "mlp")
    # units of a hidden layer, channels, or numbers a token; None: 256, the paper's, for the MLP, 32
    # for cnn and resnet, 64 for transformer
    width: int | None = None
    depth: int  # hidden layers of the MLP and cnn, blocks of resnet and transformer

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.architecture not in WIDTHS:
            _read(self.architecture)
        elif self.architecture == "transformer" and (self.width or HEADS) % HEADS:
            raise ConfigError(f"width must be a multiple of {HEADS} for the transformer's heads")

    def hyperparameters(self) -> dict[str, Any]:
        """With the width that is taken; of a network of one's own, the file's digest."""
        settings = super().hyperparameters()
        if self.architecture in WIDTHS:
            return settings | {"width": self.width or WIDTHS[self.architecture]}
        settings["architecture"] = f"{label(self)} {_read(self.architecture)[1]}"
        return {k: v for k, v in settings.items() if k not in ("width", "depth")}


def label(config: Chosen) -> str:
    """The network's name: its own, or FILE.py:function."""
    path, colon, function = config.architecture.rpartition(":")
    return f"{Path(path).name}:{function}" if colon else config.architecture


def suffix(config: Chosen) -> str:
    """What the name of a result of another network than the MLP ends with."""
    if config.architecture == "mlp":
        return ""
    return f"-{label(config).replace('.py:', '-')}"


def inputs(config: Chosen) -> dict[str, str]:
    """What a result is made from beside the data: a file of one's own -> its digest."""
    if config.architecture in WIDTHS:
        return {}
    return {config.architecture: _read(config.architecture)[1]}


def make(config: Chosen, images: Images, replicas: Sequence[Replica]) -> MLP | Stacked:
    """The network of R replicas on the configuration's device.

    Raises:
        ConfigError: the network does not take such images, or is not as `networks` has it.
    """
    width, depth = config.hyperparameters().get("width"), config.depth
    draws = generators(replicas, "weights")
    if config.architecture == "mlp":
        widths = (images.x_train[0].numel(), *[width] * depth, images.classes)
        return MLP(widths, draws).to(config.resolved_device)
    if config.architecture in BUILDERS:
        if len(images.shape) != 3:
            needs = f"--architecture {config.architecture} needs images (C, H, W)"
            raise ConfigError(f"{images.name}: {needs}, not rows of features {images.shape}")
        builder = BUILDERS[config.architecture]
        build = functools.partial(builder, images.shape, images.classes, width, depth)
        with torch.device("meta"):
            parameters = sum(p.numel() for p in build().parameters())
        memory.check_training(len(replicas) * parameters)
    else:
        build = _own(config, images)
    network = Stacked(build, draws, images.shape, images.classes, label(config))
    return network.to(config.resolved_device)


def check(config: Chosen, images: Images) -> tuple[int, ...]:
    """Raise ConfigError, before any work, unless the network can be made for these images.

    Returns:
        shape of what the first weight reads at once: an image, or a patch of one.
    """
    if config.architecture == "mlp":
        return images.shape
    return make(config, images, [Replica(0)]).row


def _own(config: Chosen, images: Images) -> Callable[[], nn.Module]:
    function, digest = _read(config.architecture)
    provenance.check_fingerprint(config.architecture, digest)

    def build() -> nn.Module:
        try:
            return function(tuple(images.shape), images.classes)
        except Exception as error:  # whatever a function may raise
            raise ConfigError(f"architecture {label(config)}: {_in_a_line(error)}") from error

    return build


@functools.cache
def _read(architecture: str) -> tuple[Callable[..., nn.Module], str]:
    """The function that PATH.py:function names, and 16 digits of its file's SHA-256.

    A file is run once, from the bytes that the digest is of.
    """
    path, colon, name = architecture.rpartition(":")
    if not colon or not path.endswith(".py"):
        known = ", ".join(WIDTHS)
        raise ConfigError(f"architecture {architecture!r}: one of {known}, or PATH.py:function")
    module, digest = _run(path)
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"architecture {path} has no function {name!r}")
    return function, digest


@functools.cache
def _run(path: str) -> tuple[ModuleType, str]:
    try:
        with files.open_plain(Path(path)) as file:
            source = file.read()
    except (OSError, ValueError) as error:
        raise ConfigError(f"architecture {path} cannot be read: {_in_a_line(error)}") from error
    digest = hashlib.sha256(source).hexdigest()[:16]
    module = ModuleType(f"architecture_{digest}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # as dataclasses need it
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except Exception as error:
        raise ConfigError(f"architecture {path} cannot be run: {_in_a_line(error)}") from error
    return module, digest


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
