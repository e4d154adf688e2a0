"""Whether two results differ: ``python -m common.compare FIRST.json SECOND.json``, a paired bootstrap over sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common.config import parse
from common.errors import InputError
from common.evaluation.metrics import paired_bootstrap
from common.evaluation.results import read_counts, read_result
from common.script import run_script


@dataclass(frozen=True)
class Config:
    """Paired bootstrap of two results on the same sentences."""

    first: Annotated[Path, tyro.conf.Positional]
    """Result file (JSON), with its counts (.npz) beside it."""
    second: Annotated[Path, tyro.conf.Positional]
    """Result file to compare with."""


def compare(first: Path, second: Path) -> str:
    """A sentence for micro and for macro F1: the difference, its 95 % interval and its p-value.

    Raises:
        InputError: If one is no result or lacks its counts, or the results are not of the same sentences.
    """
    for path in (first, second):
        read_result(path)
    try:
        differences = paired_bootstrap(read_counts(first), read_counts(second))
    except ValueError as error:
        raise InputError(f"{first} and {second}: {error}") from error
    return "\n".join(
        f"{name}: first - second = {100 * found.difference:+.2f} points, "
        f"95 % interval [{100 * found.low:+.2f}, {100 * found.high:+.2f}], p = {found.p_value:.3f}"
        for name, found in differences.items()
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the comparison."""
    config = parse(Config, argv)
    print(compare(config.first, config.second))


if __name__ == "__main__":
    run_script(main)
