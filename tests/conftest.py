"""What all tests share: the source on the path, one torch thread, no GPU, the quick reproduction.

The README's first command runs beside the tests; those that need it come last. A GPU is out of
sight, for tests and their processes, unless test_gpu.py is asked for by name.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]
torch.set_num_threads(1)

from reproduction import Reproduction

REPRODUCTION = pytest.StashKey[Reproduction]()


def _waits(item: pytest.Item) -> bool:
    return "reproduced" in getattr(item, "fixturenames", ())


def pytest_configure(config: pytest.Config) -> None:
    if not any("test_gpu.py" in argument for argument in config.args):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=_waits)
    if any(map(_waits, items)) and not config.option.collectonly:
        config.stash[REPRODUCTION] = Reproduction()


def pytest_unconfigure(config: pytest.Config) -> None:
    if REPRODUCTION in config.stash:
        config.stash[REPRODUCTION].end()


@pytest.fixture(scope="session")
def reproduced(pytestconfig: pytest.Config) -> Reproduction:
    """The README's first command, when it has ended."""
    reproduction = pytestconfig.stash[REPRODUCTION]
    reproduction.wait()
    return reproduction
