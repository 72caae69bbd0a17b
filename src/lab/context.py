"""What a process knows of the program that it works for.

It is asked deep inside of models, data sets and progress bars, so it is not handed from function to
function: `current` is what holds for whoever calls, `within` changes it for a while, and
workers.work hands each process its own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from lab.errors import UserError


@dataclass(frozen=True)
class Context:
    """Of a program that does all itself, unless it is told otherwise."""

    line: int = 0  # of the progress bar; the number of a process among those that work side by side
    processes: int = 1  # that need as much memory at the same time
    data: Mapping[str, str] = field(default_factory=dict)  # name -> the fingerprint it must have
    # whether a result that lacks its checkpoints gets them; not where nobody is about to read them
    repairs: bool = True
    deferred: list[UserError] = field(default_factory=list)  # see program.defer


_CURRENT: ContextVar[Context] = ContextVar("context")


def current() -> Context:
    return _CURRENT.get(Context())


@contextmanager
def within(**changes: Any) -> Iterator[Context]:
    """Inside, the context with some fields changed."""
    token = _CURRENT.set(replace(current(), **changes))
    try:
        yield current()
    finally:
        _CURRENT.reset(token)
