"""Makes tables and figures from result files alone: ``python -m common.tables``, by default from your own results.

It writes Markdown, CSV, LaTeX and figures. The same result files give the same bytes. For the repository's own:
``python -m common.tables --results results --readme README.md --output results/tables``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config import parse, require
from common.paths import output_root
from common.script import run_script

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Make tables and figures from test results."""

    results: tuple[Path, ...] = ()
    """Result files, or folders to search; if not given, test_results folders and study/results in the output root."""
    dataset: str | None = None
    """Use only results on this data set."""
    output: Path | None = None
    """Folder for the tables and figures; if not given, tables/ in the output root."""
    readme: Path | None = None
    """Also put the three-row answer and the overview table into this file, between the markers
    <!-- answer --> and <!-- /answer -->, and <!-- results --> and <!-- /results -->."""


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the tables and the figures, and prints the table at a glance."""
    config = parse(Config, argv)
    folder = config.output if config.output is not None else output_root() / "tables"
    require(not folder.is_file(), f"--output {folder}: is a file, a folder is needed")

    from common.tables.write import write_tables

    print(write_tables(config.results, folder, dataset=config.dataset, readme=config.readme))
    logger.info("tables and figures: %s", folder)


if __name__ == "__main__":
    run_script(main)
