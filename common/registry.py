"""The approaches by name: the only list of them in the code, except for the figures that the thesis reports."""

from __future__ import annotations

import importlib
from typing import Any

from common.errors import InputError
from common.spec import ApproachSpec

APPROACHES = (
    "zeroshot_baseline",
    "ldsa",
    "softprompt_base",
    "injection_cross",
    "injection_bi",
    "glinerev",
    "full_finetune",
    "lora",
    "vaner",
    "nerllama",
)
"""In the order of tables and figures: the thesis's, then what was added."""


def spec(name: str) -> ApproachSpec[Any]:
    """The specification of an approach.

    Raises:
        InputError: If there is none of this name; a name read from a file can import nothing else.
    """
    if name not in APPROACHES:
        raise InputError(f"unknown approach {name!r}; known are {list(APPROACHES)}")
    return importlib.import_module(f"{name}.spec").SPEC


def specs() -> list[ApproachSpec[Any]]:
    """All of them, in the order of tables."""
    return [spec(name) for name in APPROACHES]


def trained() -> tuple[str, ...]:
    """Names of the approaches that have a train script."""
    return tuple(item.name for item in specs() if item.trains)


def cheapest_first() -> tuple[str, ...]:
    """Names of all approaches, in order of the cost of a run."""
    return tuple(item.name for item in sorted(specs(), key=lambda item: item.cost))


def has_zero_shot(name: str, kind: str) -> bool:
    """Whether a trained model of an approach can be asked for other types, as its kind of base model could before."""
    return spec(name).keeps_zero_shot and kind in untrained().kinds


def untrained() -> ApproachSpec[Any]:
    """The approach that tests a base model as it is."""
    return next(item for item in specs() if not item.trains)
