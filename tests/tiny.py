"""Every script at tiny size: configurations, command lines, data, and results to compare."""

import dataclasses
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lab import cli, results
from lab.results import Result
from lab.text.toy_bert import ToyBert

SOURCE = Path(cli.__file__).parents[1]
NAMES = [*sorted(path.stem for path in (SOURCE / "experiment").glob("[!_]*.py")), "_example"]
SCRIPTS = [importlib.import_module(f"experiment.{name}") for name in NAMES]

READS = {f"{kind}_target_linearity": f"{kind}_train" for kind in ("vae", "bert")}

TRAIN, TEST, CLASSES = 60, 40, 10  # samples and classes of the tiny data
TINY = {  # field -> a value that makes a run short, in every script that has the field
    "device": "cpu",
    "seeds": (0, 3),
    "epochs": 2,
    "every": 1,
    "batch_size": 16,
    "width": 8,
    "widths": (8, 6),
    "depth": 2,
    "channels": 4,
    "hidden": 8,
    "latent": 3,
    "samples": 30,
    "surrogate_samples": 20,
    "learning_rates": (0.1, 0.01),
    "rates": (0.1, 0.05),
    "probabilities": (0.0, 0.5),
    "weight_decays": (0.0, 1.0),
    "betas": (0.5, 1.0),
    "time": 2.0,
    "points": 2,
    "measurements": 1,
    "modulus": 7,
    "pairs": 5,
    "steps": 4,
    "tasks": ("toy_sst2", "toy_ner"),
    "toy": ToyBert(examples=40, width=16, depth=1, corpus=40, epochs=1, batch_size=20),
}


def name(script: ModuleType) -> str:
    return script.__name__.rpartition(".")[2]


def sources(script: ModuleType) -> list[ModuleType]:
    """The scripts whose checkpoints a script reads."""
    return [other for other in SCRIPTS if name(other) == READS.get(name(script))]


def tiny(script: ModuleType, **changes: Any) -> Any:
    """The configuration of a tiny run at quick scale."""
    own = script.Config.__dataclass_fields__
    return cli.preset(script, "quick", **{k: v for k, v in (TINY | changes).items() if k in own})


def flags(settings: Any, given: Any, prefix: str = "--") -> list[str]:
    """The words that give a configuration, where it differs from another of its kind."""
    words = []
    for field in dataclasses.fields(settings):
        value, flag = getattr(settings, field.name), prefix + field.name.replace("_", "-")
        if value == getattr(given, field.name):
            continue
        if dataclasses.is_dataclass(value):
            words += flags(value, getattr(given, field.name), f"{flag}.")
        elif value is True:
            words.append(flag)
        else:
            words += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def write_data(path: Path, seed: int = 0, shape: tuple[int, ...] = (8, 8)) -> Path:
    """A few dozen random images, or rows of floats where the shape has one axis."""
    rng = np.random.default_rng(seed)
    parts = {}
    for part, n in (("train", TRAIN), ("test", TEST)):
        x = rng.integers(0, 256, (n, *shape)).astype(np.uint8)
        parts |= {
            f"x_{part}": x if len(shape) > 1 else x / 255,
            f"y_{part}": np.arange(n) % CLASSES,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **parts)
    return path


def command(config: Any) -> list[str]:
    """The words that give a configuration of quick scale."""
    script = sys.modules[type(config).__module__]
    return ["--scale", "quick", *flags(config, cli.preset(script, "quick"))]


def read(folder: Path) -> dict[str, Result]:
    """All results of a folder by file name."""
    return {path.name: results.read(path) for path in folder.glob("*.npz")}


def assert_same_bits(some: dict[str, Result], others: dict[str, Result]) -> None:
    assert some.keys() == others.keys()
    for file in some:
        a, b = some[file].arrays, others[file].arrays
        assert a.keys() == b.keys()
        for array in a.keys() - {"surrogate_seconds"}:  # the time it took
            assert a[array].dtype == b[array].dtype, (file, array)
            assert a[array].tobytes() == b[array].tobytes(), (file, array)


def assert_same_models(some: Path, others: Path) -> None:
    """Checkpoints below two folders hold the same bits."""
    for pattern in ("*.pt", "*.safetensors"):
        names = {path.relative_to(others) for path in others.rglob(pattern)}
        assert {path.relative_to(some) for path in some.rglob(pattern)} == names
        assert all((some / file).read_bytes() == (others / file).read_bytes() for file in names)
