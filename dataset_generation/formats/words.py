"""Records that hold words: words with tags, or words with entities by word; in JSON, Parquet and the hub's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.data.dataset import parse_span
from common.data.spans import OUTSIDE, Span
from common.errors import shown
from dataset_generation.formats.base import Item, Spanned, Tagged, read_each
from dataset_generation.options import ReadOptions

WORD_FIELDS = ("tokenized_text", "tokens", "words")
TAG_FIELDS = ("ner_tags", "tags", "ner", "labels")
DOCUMENT_FIELDS = ("document", "doc_id", "document_id")


def find_field(names: Sequence[str], role: str, known: Sequence[str], options: ReadOptions) -> str | None:
    """The field of a role: the one that ``--columns`` names, else the first known name that occurs.

    Raises:
        ValueError: If ``--columns`` names a field that does not occur.
    """
    given = options.roles.get(role)
    if given is not None:
        if given not in names:
            raise ValueError(f"no field {given!r} (--columns {role}={given}), found {sorted(names)}")
        return given
    return next((name for name in known if name in names), None)


def document_of(record: Mapping[str, Any], options: ReadOptions, known: Sequence[str] = DOCUMENT_FIELDS) -> str | None:
    """The document that a record says it is from, in one of the known fields."""
    field = find_field(list(record), "document", known, options)
    value = None if field is None else record[field]
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def parse_words(
    record: Mapping[str, Any], word: str, options: ReadOptions, class_names: Sequence[str] | None = None
) -> list[Item]:
    """One sentence of words.

    Args:
        record: The record.
        word: Its field of words.
        options: Options of reading.
        class_names: Tags by class id, where the file's schema names them.

    Raises:
        ValueError: If the record is malformed; the message names the field and the value.
    """
    words = record[word]
    if not isinstance(words, list):
        raise ValueError(f"field {word!r} must be a list, got {shown(words)}")
    document = document_of(record, options)
    if "spans" in options.roles or (word == "tokenized_text" and "tag" not in options.roles):
        field = find_field(list(record), "spans", ("ner",), options)
        entries = record.get(field or "ner")
        if not isinstance(entries, list):
            raise ValueError(f"field {field or 'ner'!r} must be a list, got {shown(entries)}")
        spans, bad = read_spans(entries)
        return [Spanned(words, spans, bad, document)]
    field = find_field(list(record), "tag", TAG_FIELDS, options)
    if field is None:
        raise ValueError(
            f"no field of tags: found {sorted(record)}, known are {', '.join(TAG_FIELDS)}; "
            "name it with --columns tag=..."
        )
    tags = record[field]
    if not isinstance(tags, list):
        raise ValueError(f"field {field!r} must be a list, got {shown(tags)}")
    # Without an entity, "ner" is empty.
    if (tags or field == "ner") and all(isinstance(entry, list) for entry in tags):
        spans, bad = read_spans(tags)
        return [Spanned(words, spans, bad, document)]
    names = options.classes or class_names
    return [Tagged(words, [_tag(value, index, names) for index, value in enumerate(tags)], document)]


def read_spans(entries: Sequence[Any]) -> tuple[list[Span], list[str]]:
    """Entities ``[first word, last word, type]``, and what is wrong with those that cannot be read; O is dropped."""
    spans, bad = read_each(entries, parse_span)
    return [span for span in spans if span.label != OUTSIDE], bad


def _tag(value: Any, index: int, names: Sequence[str] | None) -> str:
    if isinstance(value, str):
        return value
    if type(value) is not int:
        raise ValueError(f"word {index}: a tag must be a string, got {shown(value)}")
    if not names:
        raise ValueError(
            f"word {index}: tag {shown(value)} is a number and nothing names the classes; name them in order: "
            "--classes O B-Disease I-Disease"
        )
    if not 0 <= value < len(names):
        raise ValueError(f"word {index}: tag {shown(value)} is none of the {len(names)} classes that are named")
    return names[value]
