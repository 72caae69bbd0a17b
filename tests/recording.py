"""What `core.calls` records of a layer, shared by the tests."""

from typing import Any

from torch import nn

from core.calls import Call, recorded


class Kept:
    """Keeps all that a layer is said to do."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.refused: list[str] = []

    def enter(self) -> None:
        pass

    def keep(self, call: Call) -> None:
        self.calls.append(call)

    def leave(self, is_product: bool) -> None:
        pass

    def refuse(self, reason: str) -> None:
        self.refused.append(reason)


def calls_of(layer: nn.Module, *args: Any, **kwargs: Any) -> list[Call]:
    """The products of one call of a layer."""
    kept = Kept()
    with recorded({layer: kept}):
        layer(*args, **kwargs)
    return kept.calls
