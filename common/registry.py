"""The approaches by name: the one place in ``common`` that knows which there are."""

from __future__ import annotations

import importlib
from typing import Any

from common.spec import ApproachSpec

TRAINED = ("ldsa", "softprompt_base", "injection_cross", "injection_bi", "glinerev", "full_finetune")
"""Approaches with a train script, in the thesis's order."""


def spec(name: str) -> ApproachSpec[Any]:
    """The specification of a trained approach."""
    return importlib.import_module(f"{name}.model").SPEC
