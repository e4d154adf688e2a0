"""Trains SP-Base: ``python -m softprompt_base.train --dataset bc5cdr``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.entry import run_training
from common.script import run_script
from softprompt_base.model import SPEC


def main(argv: Sequence[str] | None = None) -> Path:
    """Trains and returns the run folder."""
    return run_training(SPEC, argv)


if __name__ == "__main__":
    run_script(main)
