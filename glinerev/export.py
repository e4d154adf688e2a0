"""Merges an SP-GLiNER into a plain GLiNER: ``python -m glinerev.export --checkpoint latest --output plain``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.entry import run_export
from common.script import run_script
from glinerev.spec import SPEC


def main(argv: Sequence[str] | None = None) -> Path:
    """Exports and returns the folder."""
    return run_export(SPEC, argv)


if __name__ == "__main__":
    run_script(main)
