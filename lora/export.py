"""Merges adapters into a plain GLiNER: ``python -m lora.export --checkpoint latest --output plain``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.entry import run_export
from common.script import run_script
from lora.spec import SPEC

if TYPE_CHECKING:
    from common.models.base import Base


def merge(base: Base) -> None:
    """Merges the adapters into the layers that they change."""
    from lora.model import merge

    merge(base)


def main(argv: Sequence[str] | None = None) -> Path:
    """Exports and returns the folder."""
    return run_export(SPEC, argv, merge)


if __name__ == "__main__":
    run_script(main)
