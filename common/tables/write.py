"""Writes all tables and figures for a set of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.files import put_between_markers, split_at_markers
from common.tables import documents
from common.tables.drawings import write_figures
from common.tables.groups import benchmarks, with_approaches
from common.tables.papers import papers_table
from common.tables.render import remove_table, write_table
from common.tables.results import own_places, read_results
from common.tables.transfers import read_transfers, transfer_table

OF_APPROACHES = (documents.main_table, documents.types_table, documents.errors_table, documents.unreachable_table)
"""Tables whose rows are approaches, in their default variants."""
OF_VARIANTS = (documents.differences_table, documents.controls_table, documents.few_shot_table)
"""Those that have other variants too."""
MARKERS = ("answer", "results")
"""Of the places in a Markdown file."""


def write_tables(
    places: Sequence[Path], folder: Path, *, dataset: str | None = None, readme: Path | None = None
) -> str:
    """Writes the tables and the figures.

    Args:
        places: Result files, or folders to search for them; the user's own results if there are none.
        folder: Where tables and figures go.
        dataset: Only results on this data set.
        readme: Also put the answer in three rows and the table at a glance into this file, between its markers.

    Returns:
        The table at a glance as Markdown.

    Raises:
        InputError: If a place does not exist, no result is there or all of them are bad.
    """
    if readme is not None:
        for name in MARKERS:
            split_at_markers(readme, name)  # before anything is written
    results = read_results(places or own_places(), dataset)
    found = benchmarks(results, read_transfers(places))
    written = {"transfer": transfer_table(found), "language_models": papers_table(results)}
    found = with_approaches(found, 1)
    with_defaults = [item for item in found if item.shown] or found
    tables = [build(with_defaults) for build in OF_APPROACHES] + [build(found) for build in OF_VARIANTS]
    written |= {table.name: table for table in (*tables, documents.runs_table(results))}
    for name, table in written.items():
        if table is not None and any(section.rows for section in table.sections):
            write_table(table, folder)
        else:
            remove_table(name, folder)
    write_figures(found, folder)
    side_by_side = with_approaches(found, 2)
    glance = documents.glance(side_by_side)
    if readme is not None:
        for name, text in zip(MARKERS, (documents.answer(side_by_side), glance), strict=True):
            put_between_markers(readme, name, text)
    return glance
