"""The thesis's tables and figures from result files alone: ``python -m common.tables --results results --readme README.md``.

Written are Markdown, CSV and LaTeX, and the figures. The same result files give the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config import parse, require
from common.files import put_between_markers
from common.paths import output_root
from common.script import run_script
from common.tables.documents import (
    controls_table,
    differences_table,
    errors_table,
    few_shot_table,
    main_table,
    overview,
    readme_block,
    runs_table,
    types_table,
    unreachable_table,
)
from common.tables.drawings import write_figures
from common.tables.render import markdown_table, write_document
from common.tables.runs import (
    corpora,
    default_places,
    read_runs,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Tables and figures of test results."""

    results: tuple[Path, ...] = ()
    """Result files, or folders to search for them; results/ and all test_results folders of the project if not given."""
    dataset: str | None = None
    """Only results on this data set."""
    output: Path | None = None
    """Folder of the tables and figures; results/tables if not given."""
    readme: Path | None = None
    """Also put the scores at a glance, and the main table folded away, into this file, between <!-- results --> and <!-- /results -->."""


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the tables and the figures, and prints the main table and the list of runs."""
    config = parse(Config, argv)
    folder = config.output if config.output is not None else output_root() / "results" / "tables"
    require(not folder.is_file(), f"--output {folder}: is a file, a folder is needed")
    runs = read_runs(config.results or default_places(), config.dataset)
    found = corpora(runs)
    main_document, runs_document = main_table(found), runs_table(runs)
    builders = (types_table, errors_table, differences_table, controls_table, unreachable_table, few_shot_table)
    for document in (main_document, *(build(found) for build in builders), runs_document):
        write_document(document, folder)
    write_figures(found, folder)
    if config.readme is not None:
        put_between_markers(config.readme, "results", readme_block(main_document))
    print(f"{overview(main_document)}\nAll runs:\n\n{markdown_table(runs_document.sections[0])}")
    logger.info("tables and figures: %s", folder)


if __name__ == "__main__":
    run_script(main)
