"""Errors of the user's: each message is one line that says what is wrong and what to do."""


class UserError(Exception):
    """Ends a program with its message and exit status 2; see cli.run."""


class ConfigError(UserError):
    """A hyperparameter that cannot be."""


class DataError(UserError):
    """Data, or a pre-trained model, that cannot be had."""


class ResultError(UserError):
    """A result or a checkpoint that cannot be read or written."""


class Diverged(UserError):
    """Training left the finite numbers."""
