"""Tables that set our results beside the figures reported in the approaches' papers.

If an approach's paper has tables, they are in ``reported.json`` in its folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import mean
from typing import Any, NotRequired, TypedDict

from common.data.labels import normalise_type
from common.registry import specs
from common.schema import read_record
from common.spec import ApproachSpec, variant_text
from common.tables.groups import Group
from common.tables.render import Column, Section, Table
from common.tables.results import Result

REPORTED_FILE = "reported.json"


class Corpus(TypedDict):
    """A column: a type of a corpus."""

    title: str
    datasets: list[str]
    """Names of the data set, in small letters."""
    type: str


class Own(TypedDict):
    """Which of our results stand below a reported row."""

    title: str
    """What is ours alone; empty if it is what the paper did."""
    mixture: bool
    aspects: dict[str, str]
    """Of the variant; all others are the default's."""


class ReportedRow(TypedDict):
    """A row of the paper's table: F1 in percent in each column, null where there is none."""

    title: str
    values: list[float | None]
    own: NotRequired[list[Own]]


class PaperTable(TypedDict):
    """A table of the paper."""

    title: str
    columns: list[Corpus]
    rows: list[ReportedRow]


class Reported(TypedDict):
    """``reported.json``."""

    paper: str
    base: str
    tables: list[PaperTable]


def papers_table(results: Sequence[Result]) -> Table | None:
    """The papers' tables with our results on test splits, for approaches that have any; None if none has."""
    columns = (
        Column("row", "row", left=True),
        Column("of", "of", left=True),
        Column("base", "base", left=True),
        Column("F1", "f1", ".2f", absent="-"),
    )
    sections = []
    for spec in specs():
        own = [item for item in results if item.approach == spec.name and item.split == "test"]
        path = Path(str(files(spec.name))) / REPORTED_FILE
        if own and path.is_file():
            stored: Any = read_record(path, Reported)
            sections += [
                Section(table["title"], _rows(table, stored, spec, own), _notes(stored, own))
                for table in stored["tables"]
            ]
    across = Column("corpus", "corpus")
    return Table("language_models", "Papers and their figures", columns, tuple(sections), across) if sections else None


def _notes(stored: Reported, results: Sequence[Result]) -> list[str]:
    tested = sorted({f"{item.dataset} {item.n_test:,}" for item in results if item.n_test is not None})
    return [
        f"Strict F1 over spans in percent, of the type that a column names. Reported: {stored['paper']}, on "
        f"{stored['base']}. Ours: the mean over seeds; -: no figure. Test sentences of ours: {', '.join(tested)}.",
        "Only rows of one base are to be compared: a smaller base is far from the figures of a larger one.",
        *(
            f"{item.dataset}, {variant_text(item.variant)}, seed {item.seed}: {' '.join(item.account)}"
            for item in sorted(results, key=lambda item: str(item.path))
            if item.account
        ),
    ]


def _rows(
    table: PaperTable, stored: Reported, spec: ApproachSpec[Any], results: Sequence[Result]
) -> list[dict[str, Any]]:
    """A line for each figure; of a base of ours only where there is a result in the row."""
    rows = []
    for reported in table["rows"]:
        # The other rows are of models that the paper compares its own with.
        base_of_paper = stored["base"] if "own" in reported else ""
        titles = [(corpus["title"], value) for corpus, value in zip(table["columns"], reported["values"], strict=True)]
        rows += [
            {"row": reported["title"], "of": "reported", "base": base_of_paper, "corpus": title, "f1": value}
            for title, value in titles
        ]
        for own in reported.get("own", ()):
            matching = [item for item in results if _is_meant(item, own, spec)]
            for base in sorted({_base(item) for item in matching}):
                of_base = [item for item in matching if _base(item) == base]
                name = " - ".join(filter(None, (reported["title"], own["title"])))
                rows += [
                    {"row": name, "of": "ours", "base": base, "corpus": corpus["title"], "f1": _f1(of_base, corpus)}
                    for corpus in table["columns"]
                ]
    return rows


def _is_meant(result: Result, own: Own, spec: ApproachSpec[Any]) -> bool:
    wanted = {**spec.default_variant(result.kind), **own["aspects"]}
    found = {name: value for name, value in result.variant.items() if name != "data"}
    return (result.mixture is not None) == own["mixture"] and found == wanted


def _base(result: Result) -> str:
    part = "" if result.train_size is None else f", {result.train_size:,} training sentences"
    return f"{result.base}{part}"


def _f1(results: Sequence[Result], corpus: Corpus) -> float | None:
    """The mean F1 of a type in percent, of the group with the most seeds or the newest; None if no result has it."""
    found: dict[str, list[tuple[Result, float]]] = {}
    for result in results:
        scores: Mapping[str, Mapping[str, float]] = {normalise_type(n): s for n, s in result.per_type.items()}
        if result.dataset.lower() in corpus["datasets"] and corpus["type"] in scores:
            found.setdefault(result.identity, []).append((result, scores[corpus["type"]]["f1"]))
    # Other settings or another mixture are no other seeds.
    best = max(found.values(), key=lambda own: Group(tuple(result for result, _ in own)).rank, default=[])
    return 100 * mean(f1 for _, f1 in best) if best else None
