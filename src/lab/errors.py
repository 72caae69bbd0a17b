"""Errors of the user's: each message is one line that says what is wrong and what to do."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class UserError(Exception):
    """Ends a program with its message and exit status 2; see program.run."""


class ConfigError(UserError):
    """A hyperparameter that cannot be."""


class DataError(UserError):
    """Data, or a pre-trained model, that cannot be had."""


class ResultError(UserError):
    """A result or a checkpoint that cannot be read or written."""


class Diverged(UserError):
    """Training left the finite numbers.

    Attributes:
        epoch: the first in which a number was not finite.
        arrays: of one replica, what was measured before that epoch: name -> (epochs, …).
    """

    def __init__(
        self, message: str, epoch: int = 0, arrays: "Mapping[str, np.ndarray] | None" = None
    ) -> None:
        super().__init__(message)
        self.epoch, self.arrays = epoch, dict(arrays or {})

    @classmethod
    def at(
        cls, where: str, epoch: int, arrays: "Mapping[str, np.ndarray] | None" = None
    ) -> "Diverged":
        """With the usual message; where: the data and the replica."""
        message = f"{where}: training diverged in epoch {epoch}; lower the learning rate"
        return cls(message, epoch, arrays)


def first_line(error: BaseException) -> str:
    """The first line of a library's message, or the name of the error where there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
