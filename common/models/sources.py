"""Shared by the loading of all base models: configurations that run no code, and the errors that broken files raise."""

from __future__ import annotations

from _pickle import UnpicklingError
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
