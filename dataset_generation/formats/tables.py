"""Tables: Parquet and the hub's, with a sentence per row; CSV, with a word per row."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import InputError, shown
from dataset_generation.formats.base import (
    Format,
    Item,
    Records,
    Tagged,
    check_no_pointer,
    read_text,
    record_place,
)
from dataset_generation.formats.records import parse_record
from dataset_generation.formats.words import TAG_FIELDS, WORD_FIELDS, find_field
from dataset_generation.options import ReadOptions


class _Row(NamedTuple):
    record: dict[str, Any]
    class_names: Sequence[str] | None


def read_table(rows: Iterable[Any], columns: Sequence[str], features: Any, where: str, options: ReadOptions) -> Records:
    """The rows of a Parquet table or a split of the hub."""
    try:
        word = find_field(columns, "word", WORD_FIELDS, options)
        tag = find_field(columns, "tag", TAG_FIELDS, options)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    raw_text = "text" in options.roles or "text" in columns or "spans" in options.roles
    if not raw_text and (word is None or (tag is None and "ner" not in columns)):
        role, known = ("word", WORD_FIELDS) if word is None else ("tag", TAG_FIELDS)
        raise InputError(
            f"{where}: no column of {role}s ({', '.join(known)}), found {list(columns)}; name it: --columns {role}=..."
        )
    names = getattr(getattr(features.get(tag), "feature", None), "names", None) if tag else None
    for place, row in numbered(rows, where):
        yield place, _Row(row, names)


def rows_of(table: Any) -> Iterator[dict[str, Any]]:
    """The rows of a table or batch of pyarrow.

    Raises:
        ValueError: At a value that Python does not have, such as text that is not UTF-8 or a day of the year 12000.
    """
    names = table.schema.names
    for cells in zip(*table.columns, strict=True):
        row: dict[str, Any] = {}
        for name, cell in zip(names, cells, strict=True):
            try:
                row[name] = cell.as_py()
            except (ValueError, OverflowError) as error:
                raise ValueError(f"column {name!r} cannot be read: {error}") from error
        yield row


def numbered(rows: Iterable[Any], where: str) -> Iterator[tuple[str, Any]]:
    """Rows with their places.

    Raises:
        InputError: At the first that cannot be read.
    """
    number = -1
    try:
        for number, row in enumerate(rows):
            yield record_place(number), row
    except (ValueError, OverflowError) as error:
        raise InputError(f"{where}: {record_place(number + 1)}: {error}") from error


def parse_row(row: _Row, options: ReadOptions) -> list[Item]:
    """One row, as a JSON record of the same fields."""
    return parse_record(row.record, options, row.class_names)


def _read_parquet(path: Path, options: ReadOptions) -> Records:
    import pyarrow
    import pyarrow.parquet
    from datasets.features import Features

    check_no_pointer(path)
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a whole Parquet file: {' '.join(str(error).split())[:200]}") from error
    try:
        features: Any = Features.from_arrow_schema(table.schema)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{path}: the schema that its metadata describe cannot be read: {' '.join(str(error).split())[:200]}"
        ) from error
    return read_table(rows_of(table), table.column_names, features, str(path), options)


_SENTENCE = ("sentence #", "sentence_id", "sent_id", "sentence")
_WORD = ("word", "token", *WORD_FIELDS)
_TAG = ("tag", "ner_tag", "label", *TAG_FIELDS)


def _read_csv(path: Path, options: ReadOptions) -> Records:
    """The sentences of a file with a header and a word per row; an empty sentence field continues the sentence."""
    text = read_text(path)
    header_line = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}") from error
    if not rows:
        return
    header = [name.strip() for name in rows[0]]
    where: dict[str, int] = {}
    for role, known in (("sentence", _SENTENCE), ("word", _WORD), ("tag", _TAG)):
        try:
            names = header if role in options.roles else [name.lower() for name in header]
            field = find_field(names, role, known, options)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
        if field is None:
            raise InputError(f"{path}: no column of {role}s, found {shown(header)}; name it: --columns {role}=...")
        if names.count(field) > 1:
            raise InputError(
                f"{path}: several columns of {role}s are called {field!r}, found {shown(header)}; rename one"
            )
        where[role] = names.index(field)
    yield from _csv_sentences(path, rows[1:], where, len(header))


def _csv_sentences(path: Path, rows: Sequence[Sequence[str]], where: dict[str, int], width: int) -> Iterator[Any]:
    seen: set[str] = set()
    records = itertools.count()
    words: list[str] = []
    tags: list[str] = []
    current = ""
    for number, row in enumerate(rows):
        if len(row) != width:
            raise InputError(f"{path}: row {number} (counted from 0): {len(row)} values for {width} columns")
        sentence = row[where["sentence"]].strip()
        if sentence and sentence != current:
            if words:
                yield record_place(next(records)), (words, tags)
                words, tags = [], []
            if sentence in seen:
                raise InputError(
                    f"{path}: row {number} (counted from 0): sentence {sentence!r} continues after another one"
                )
            seen.add(sentence)
            current = sentence
        words.append(row[where["word"]])
        tags.append(row[where["tag"]])
    if words:
        yield record_place(next(records)), (words, tags)


def _parse_csv(row: tuple[list[str], list[str]], options: ReadOptions) -> list[Item]:
    return [Tagged(*row)]


PARQUET = Format(_read_parquet, parse_row)
CSV = Format(_read_csv, _parse_csv)
