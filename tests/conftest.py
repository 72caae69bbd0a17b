"""Puts the source on the path, keeps torch to one thread, and runs beside the tests what takes minutes."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the README's first command come last: it is started before the first test."""
    items.sort(key=_waits)


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in filter(_waits, [] if session.config.option.collectonly else session.items):
        item.module.reproduction()


def _waits(item: pytest.Item) -> bool:
    return "reproduced" in item.fixturenames
