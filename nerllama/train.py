"""Trains NERLlama3.1: ``python -m nerllama.train --dataset bc5cdr``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.entry import Training
from common.script import run_script
from nerllama.spec import SPEC


def main(argv: Sequence[str] | None = None) -> Path:
    """Trains and returns the run folder."""
    training = Training(SPEC, argv)
    data = training.data()
    model = training.model(data)
    return training.fit(model, data)


if __name__ == "__main__":
    run_script(main)
