"""Whether two results differ: ``python -m common.compare FIRST.json SECOND.json``, a paired bootstrap over sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common.config import parse
from common.errors import InputError
from common.metrics import SpanCounts, count_spans, paired_bootstrap
from common.results import predictions_path, read_result
from common.script import run_script
from common.spans import Span


@dataclass(frozen=True)
class Config:
    """Paired bootstrap of two results on the same sentences."""

    first: Annotated[Path, tyro.conf.Positional]
    """Result file (JSON), with its predictions beside it."""
    second: Annotated[Path, tyro.conf.Positional]
    """Result file to compare with."""


def read_counts(path: Path) -> SpanCounts:
    """The counts of a result from the predictions beside it.

    Raises:
        InputError: If the result or its predictions cannot be read; the message names file and line.
    """
    types = read_result(path)["labels"]
    source = predictions_path(path)
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{source}: no such file; the comparison needs the predictions of both results") from None
    gold, predicted = [], []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            gold.append([Span(*span) for span in record["ner"]])
            predicted.append([Span(*span[:3]) for span in record["predicted"]])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{source}: line {number} is no prediction record: {error}") from error
    return count_spans(gold, predicted, types)


def compare(first: Path, second: Path) -> str:
    """A sentence for micro and for macro F1: the difference, its 95 % interval and its p-value.

    Raises:
        InputError: If the results are not of the same sentences.
    """
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
