"""Shared by the loading of all base models: settings that name code, errors of broken files, transformers' remarks."""

from __future__ import annotations

import contextlib
from _pickle import UnpicklingError
from collections.abc import Iterator
from typing import Any

import httpx
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from common.errors import InputError

OF_BROKEN_FILES = (
    OSError,
    httpx.HTTPError,
    StrictDataclassError,
    SafetensorError,
    UnpicklingError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    EOFError,
    ImportError,
    MemoryError,
)
"""What gliner, transformers and torch raise of broken files."""


def code_in(values: Any) -> str | None:
    """The first setting that makes transformers import what is not its own."""
    waiting = [("", values)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, list):
            waiting += [(f"{place}[{number}]", item) for number, item in enumerate(value)]
        elif isinstance(value, dict):
            for name, item in value.items():
                inside = f"{place}.{name}" if place else name
                # The last: attention from a repository of the hub.
                if (name in ("auto_map", "trust_remote_code") and item) or (
                    name.endswith("_implementation") and isinstance(item, str) and "/" in item
                ):
                    return f"{inside}: {str(item)[:80]}"
                waiting.append((inside, item))
    return None


def reason_of(error: Exception) -> str:
    """An error's message in one line; one of ours is whole."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, InputError) else text[:300]


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' progress bars and its remarks on tensors, which are looked at here."""
    from transformers.utils import logging as of_transformers

    bars, level = of_transformers.is_progress_bar_enabled(), of_transformers.get_verbosity()
    of_transformers.disable_progress_bar()
    of_transformers.set_verbosity_error()
    try:
        yield
    finally:
        of_transformers.set_verbosity(level)
        if bars:
            of_transformers.enable_progress_bar()
