"""Tests a NERLlama3.1 checkpoint: ``python -m nerllama.test --dataset bc5cdr --checkpoint latest``.

On a corpus that it has not seen: ``--unseen --checkpoint RUN``, with ``--examples training``, ``own`` or ``none``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.entry import run_test
from common.script import run_script
from nerllama.answering import prepare
from nerllama.config import Options
from nerllama.spec import SPEC


def main(argv: Sequence[str] | None = None) -> Path:
    """Tests and returns the path of the result file."""
    return run_test(SPEC, argv, Options, prepare)


if __name__ == "__main__":
    run_script(main)
