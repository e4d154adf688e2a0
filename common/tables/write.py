"""All tables and figures of some results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.files import put_between_markers
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
from common.tables.runs import corpora, default_places, read_runs


def write_tables(
    results: Sequence[Path], folder: Path, *, dataset: str | None = None, readme: Path | None = None
) -> str:
    """Writes the tables and the figures.

    Args:
        results: Result files, or folders to search for them; the project's own places if there are none.
        folder: Where tables and figures go.
        dataset: Only results on this data set.
        readme: Also put the scores at a glance into this file, between its markers.

    Returns:
        The main table and the list of runs as Markdown.

    Raises:
        InputError: If a place does not exist, a result file is broken or there is no result.
    """
    runs = read_runs(results or default_places(), dataset)
    found = corpora(runs)
    main_document, runs_document = main_table(found), runs_table(runs)
    builders = (types_table, errors_table, differences_table, controls_table, unreachable_table, few_shot_table)
    for document in (main_document, *(build(found) for build in builders), runs_document):
        write_document(document, folder)
    write_figures(found, folder)
    if readme is not None:
        put_between_markers(readme, "results", readme_block(main_document))
    return f"{overview(main_document)}\nAll runs:\n\n{markdown_table(runs_document.sections[0])}"
