"""Tests whether two settings differ: a paired bootstrap over test sentences, and over seeds if there are several.

``python -m common.compare FIRST.json SECOND.json``, or, with the files of several seeds,
``python -m common.compare --first A42.json A43.json --second B42.json B43.json``
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common.config import parse, require
from common.errors import InputError
from common.script import run_script

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Compare results on the same sentences by paired bootstrap: two files, or several seeds on each side."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Two result files (JSON), with their counts (.npz) beside them."""
    first: tuple[Path, ...] = ()
    """Result files of one setting, one per seed."""
    second: tuple[Path, ...] = ()
    """Result files of the setting to compare with."""

    def __post_init__(self) -> None:
        two = len(self.files) == 2 and not self.first + self.second
        require(
            two or bool(not self.files and self.first and self.second),
            "give two result files, or --first and --second with the files of each side",
        )


def compare(first: Sequence[Path], second: Sequence[Path]) -> str:
    """A sentence for micro and for macro F1: the difference, its 95 % interval and its p-value.

    Raises:
        InputError: If a file is no result or lacks its counts, a seed is there twice, or not all are of the same
            sentences.
    """
    from common.evaluation.metrics import METRICS, paired_bootstrap, span_scores
    from common.evaluation.results import counts_path, read_counts
    from common.tables.groups import Group, not_alike
    from common.tables.results import read_one

    sides, groups = [], []
    for name, paths in (("first", first), ("second", second)):
        results = {result.seed: result for result in map(read_one, paths)}
        require(
            len(results) == len(paths),
            f"{name}: each file must be of another seed, got {len(paths)} of {list(results)}",
        )
        if len({result.identity for result in results.values()}) > 1:
            logger.warning("%s: the files differ in more than the seed", name)
        sides.append({seed: read_counts(result.path) for seed, result in results.items()})
        for seed, result in results.items():
            # Not macro F1, which other versions took over other types.
            own = METRICS["micro_f1"].of(span_scores(sides[-1][seed]))
            require(
                abs(own - result.micro_f1) <= 1e-6,
                f"{counts_path(result.path)}: is not of {result.path.name}: its micro F1 is {own:.6f}, the result's "
                f"{result.micro_f1:.6f}; test again to make both",
            )
        groups.append(Group(tuple(results.values())))
    for text in not_alike(dict(zip(("first", "second"), groups, strict=True))):
        logger.warning("not alike: %s", text)
    try:
        differences = paired_bootstrap(*sides)
    except ValueError as error:
        raise InputError(f"{', '.join(map(str, (*first, *second)))}: {error}") from error
    paired = len(first) > 1 and sides[0].keys() == sides[1].keys()
    seeds = f", {len(first)} and {len(second)} seeds{' in pairs' * paired}" if len(first) + len(second) > 2 else ""
    over = f"over {len(next(iter(sides[0].values())))} sentences{seeds}"
    return "\n".join(
        f"{name}: first - second = {100 * found.difference:+.2f} points, "
        f"95 % interval [{100 * found.low:+.2f}, {100 * found.high:+.2f}] {over}, p = {found.p_value:.4f}"
        for name, found in differences.items()
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the comparison."""
    config = parse(Config, argv)
    print(compare(config.first or config.files[:1], config.second or config.files[1:]))


if __name__ == "__main__":
    run_script(main)
