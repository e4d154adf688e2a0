"""Errors meant for the user: an entry script prints only their message."""

from __future__ import annotations

import re
from typing import Any

# A password may hold an "@" itself; a "/" too, unless what is before that is a port.
_CREDENTIALS = re.compile(r"(?P<user>://(?:[^/\s:@\[]*:)?)(?:[^/\s]+|(?<=:)(?!\d+[/?#])\S+)(?=@)")


class InputError(ValueError):
    """Bad input of the user's: the message names the file, the record and the value."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the sentences of the batch."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: the end that a batch system or ``kill`` asks for, as clean as Ctrl-C's."""


def shown(value: Any) -> str:
    """``repr`` for messages, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def hide_credentials(text: str) -> str:
    """A text without the passwords, or tokens alone, of the addresses in it."""
    return _CREDENTIALS.sub(r"\g<user>***", text)
