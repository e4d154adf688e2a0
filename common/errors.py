"""Errors meant for the user: an entry script prints only their message."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input of the user's: the message names the file, the record and the value."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the sentences of the batch."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: the end that a batch system or ``kill`` asks for, as clean as Ctrl-C's."""
