"""JSON and JSON Lines; the fields of a record tell its form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError, shown
from common.files import json_problem
from dataset_generation.formats import bioc, offsets
from dataset_generation.formats.base import (
    Format,
    Item,
    Records,
    read_text,
    record_place,
    strict_json,
    strict_json_line,
)
from dataset_generation.formats.words import TAG_FIELDS, WORD_FIELDS, find_field, parse_words
from dataset_generation.options import ReadOptions


def _read(path: Path, options: ReadOptions) -> Records:
    text = read_text(path)
    lines = [line for line in text.split("\n") if line.strip()]
    if (path.suffix.lower() == ".jsonl" and not text.lstrip().startswith("[")) or _is_json_lines(lines):
        yield from ((record_place(number), line) for number, line in enumerate(lines))
        return
    try:
        value = strict_json(text)
    except ValueError as error:
        raise InputError(f"{path}: {json_problem(error)}") from error
    if isinstance(value, dict):
        value = next((value[name] for name in bioc.COLLECTIONS if isinstance(value.get(name), list)), [value])
    if not isinstance(value, list):
        raise InputError(f"{path}: expected a JSON list of records, got {type(value).__name__}")
    try:
        offsets.check_one_annotation(value)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    yield from ((record_place(number), record) for number, record in enumerate(value))


def _is_json_lines(lines: list[str]) -> bool:
    """Whether each line of a file is a JSON object, whatever its name: it has several, and the first is complete."""
    if len(lines) < 2 or not lines[0].lstrip().startswith("{"):
        return False
    try:
        json.loads(lines[0])
    except (ValueError, RecursionError):
        return False
    return True


def _parse(record: Any, options: ReadOptions) -> list[Item]:
    if isinstance(record, str):
        record = strict_json_line(record)
    return parse_record(record, options)


def parse_record(record: Any, options: ReadOptions, class_names: Sequence[str] | None = None) -> list[Item]:
    """One record of any of the forms that JSON and tables can have.

    Args:
        record: The JSON value.
        options: Options of reading.
        class_names: Tags by class id, where the file's schema names them.

    Raises:
        ValueError: If it has none of the forms, or is malformed; the message names the field and the value.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, got {type(record).__name__}")
    if isinstance(record.get("passages"), list):
        return bioc.parse_document(record)
    if "data" in record and "annotations" in record:
        return offsets.parse_task(record, options)
    names = list(record)
    text = find_field(names, "text", ("text",), options)
    word = find_field(names, "word", WORD_FIELDS, options)
    if text is not None and isinstance(record[text], str) and not _has_tagged_words(record, word, options):
        return offsets.parse_text(record, text, options)
    if word is not None:
        return parse_words(record, word, options, class_names)
    raise ValueError(
        f"none of the known forms: fields {shown(sorted(record))}; words are in {', '.join(WORD_FIELDS)}, raw text in "
        "text; name other fields with --columns"
    )


def _has_tagged_words(record: Mapping[str, Any], word: str | None, options: ReadOptions) -> bool:
    """Whether a record with a text also has words and tags; Prodigy's tokens are objects, not words."""
    if word is None or "text" in options.roles:
        return False
    words, tag = record[word], find_field(list(record), "tag", TAG_FIELDS, options)
    kinds = set(map(type, record[tag])) if tag is not None and isinstance(record[tag], list) else set()
    # Lists and objects beside a text count characters where texts have entities in a field of this name.
    of_text = tag in offsets.SPAN_FIELDS and kinds <= {list, dict}
    tagged = word == "tokenized_text" or (tag is not None and not of_text)
    return tagged and isinstance(words, list) and all(isinstance(entry, str) for entry in words)


JSON = Format(_read, _parse)
