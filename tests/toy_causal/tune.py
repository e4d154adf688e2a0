"""Searches the causal tagger's settings: ``python -m toy_causal.tune --dataset bc5cdr --trials 5``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.script import run_script
from common.sweeps.command import run_tuning
from common.sweeps.space import Float
from toy_causal.spec import SPEC

SPACES = {"training": (Float("learning_rate", 1e-3, 1e-1, log=True),)}


def main(argv: Sequence[str] | None = None) -> Path:
    """Runs or continues a sweep and returns what it wrote."""
    return run_tuning(SPEC, SPACES, argv)


if __name__ == "__main__":
    run_script(main)
