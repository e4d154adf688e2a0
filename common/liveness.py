"""Whether the process that took some work is still at it, across machines that share only the record of the work."""

from __future__ import annotations

import contextlib
import logging
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil

logger = logging.getLogger(__name__)

SIGN_OF_LIFE, DEAD_AFTER = 15.0, 120.0
"""Seconds between two signs of life, and without one until a process counts as killed."""


def this_process() -> dict[str, Any]:
    """Host, id and time of start of this process: together they name no other one, whatever ids are used again."""
    process = psutil.Process()
    return {"host": platform.node(), "pid": process.pid, "created": process.create_time()}


def is_dead(owner: Mapping[str, Any] | None, alive: float | None) -> bool:
    """Whether a process is gone: it is of this machine and no longer there, or has long shown no sign of life.

    Args:
        owner: As :func:`this_process` gave it; None if nobody said whose the work is.
        alive: Time of the last sign of life, in seconds since the epoch; None if there was none.
    """
    if alive is None or owner is None:
        return False
    if time.time() - alive > DEAD_AFTER:
        return True
    if owner["host"] != platform.node():
        return False
    try:
        return psutil.Process(owner["pid"]).create_time() != owner["created"]
    except psutil.NoSuchProcess:
        return True


@contextlib.contextmanager
def signs_of_life(note: Callable[[float], None], passing: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Calls ``note`` with the time every :data:`SIGN_OF_LIFE` seconds, from a thread of its own.

    Args:
        note: Keeps the sign where others see it.
        passing: Errors of ``note`` that may be over the next time; they are logged.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SIGN_OF_LIFE):
            try:
                note(time.time())
            except passing as error:
                logger.warning("no sign of life could be given: %s", error)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
