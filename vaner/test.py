"""Tests a VANER checkpoint: ``python -m vaner.test --dataset bc5cdr --checkpoint latest``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.entry import run_test
from common.script import run_script
from vaner.spec import SPEC


def main(argv: Sequence[str] | None = None) -> Path:
    """Tests and returns the path of the result file."""
    return run_test(SPEC, argv)


if __name__ == "__main__":
    run_script(main)
