"""Raw text with entities by character: the exports of doccano, Prodigy, Label Studio, and spaCy's form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from common.data.text import Mention
from common.errors import shown
from dataset_generation.formats.base import Annotated, Item, LeftOut, read_each
from dataset_generation.formats.words import DOCUMENT_FIELDS, document_of, find_field
from dataset_generation.options import ReadOptions

_DOCUMENT_FIELDS = (*DOCUMENT_FIELDS, "id")
SPAN_FIELDS = ("entities", "spans", "label", "labels")
_START, _END = ("start", "start_offset"), ("end", "end_offset")
_TYPE = ("label", "labels", "type")
_OF_ANNOTATION = frozenset({"annotation_id", "annotator", "created_at", "updated_at", "lead_time"})
"""Fields of JSON_MIN about the annotation, not the text."""
_REGIONS = ("labels", "hypertextlabels", "paragraphlabels")


def parse_text(record: Mapping[str, Any], text_field: str, options: ReadOptions) -> list[Item]:
    """One text of doccano (``label``, ``entities``), Prodigy (``spans``), spaCy (``entities``) or Label Studio.

    Raises:
        ValueError: If the record is malformed; the message names the field and the value.
    """
    answer = record.get("answer")
    if answer in ("reject", "ignore"):
        return [LeftOut(f"answer {answer!r}")]
    field = find_field(list(record), "spans", SPAN_FIELDS, options)
    if field is None and "annotation_id" not in record:  # JSON_MIN leaves the field out where there is no entity
        raise ValueError(f"no field of entities: found {shown(sorted(record))}; name it with --columns spans=...")
    entries = record[field] if field is not None else []
    if not isinstance(entries, list):
        raise ValueError(f"field {field!r} must be a list, got {shown(entries)}")
    text = record[text_field]
    mentions, bad = read_mentions(entries, text)
    return [Annotated(text, mentions, bad, document_of(record, options, _DOCUMENT_FIELDS))]


def parse_task(task: Mapping[str, Any], options: ReadOptions) -> list[Item]:
    """One task of Label Studio's JSON export: its only annotation that was not skipped, or the ground truth.

    Raises:
        ValueError: If the task is malformed or has annotations that differ.
    """
    data, annotations = task["data"], task["annotations"]
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise ValueError(
            f"a task needs an object data and a list annotations, got {shown(data)} and {shown(annotations)}"
        )
    if not all(isinstance(entry, dict) for entry in annotations):
        raise ValueError(f"the annotations of a task must be objects, got {shown(annotations)}")
    field = find_field(list(data), "text", ("text",), options)
    text = data.get(field) if field is not None else None
    if not isinstance(text, str):
        raise ValueError(f"data has no text: found {shown(sorted(data))}; name its field with --columns text=...")
    given = [entry for entry in annotations if not entry.get("was_cancelled")]
    if len(given) > 1:
        given = [entry for entry in given if entry.get("ground_truth")] or given
    if not given:
        return [LeftOut("no annotation, or skipped")]
    readings = [read_mentions(regions_of(entry), text) for entry in given]
    if any((set(mentions), bad) != (set(readings[0][0]), readings[0][1]) for mentions, bad in readings[1:]):
        raise ValueError(f"{len(given)} annotations that differ and none alone marked as ground truth")
    mentions, bad = readings[0]
    document = document_of({"id": task.get("id"), **data}, options, _DOCUMENT_FIELDS)
    return [Annotated(text, mentions, bad, document)]


def check_one_annotation(records: Sequence[Any]) -> None:
    """Raises ``ValueError`` if a task of Label Studio's JSON_MIN, a record per annotation, has two that differ."""
    first: dict[Any, tuple[int, Any]] = {}
    for number, record in enumerate(records):
        if not isinstance(record, dict) or "annotation_id" not in record or type(record.get("id")) is not int:
            continue
        content = {
            name: sorted(map(repr, value)) if isinstance(value, list) else value
            for name, value in record.items()
            if name not in _OF_ANNOTATION
        }
        before, other = first.setdefault(record["id"], (number, content))
        if content != other:
            raise ValueError(
                f"records {before} and {number} (counted from 0) are annotations of task {record['id']} that differ; "
                "keep one, or export the project as JSON, which says what is ground truth"
            )


def regions_of(annotation: Mapping[str, Any]) -> list[Any]:
    """The entities of one of Label Studio's annotations or predictions, for :func:`read_mentions`.

    Raises:
        ValueError: If it has no list of regions.
    """
    result = annotation.get("result")
    if not isinstance(result, list):
        raise ValueError(f"field 'result' of an annotation must be a list, got {shown(result)}")
    # Relations, and choices about the text as a whole, have no offsets. Entities of HyperText and Paragraphs count them
    # in another way, which read_mentions refuses.
    return [
        region.get("value") if isinstance(region, dict) else region
        for region in result
        if not isinstance(region, dict) or region.get("type") in _REGIONS
    ]


def read_mentions(entries: Iterable[Any], text: str) -> tuple[list[Mention], list[str]]:
    """The entities of a text, and what is wrong with those that cannot be read.

    An entity is ``[start, end, type]`` or an object with ``start`` and ``end`` (``start_offset``, ``end_offset``),
    ``label``, ``labels`` or ``type``, and perhaps its ``text``, which must match.
    """
    found, bad = read_each(entries, lambda entry: _mentions(entry, text))
    return list(chain.from_iterable(found)), bad


def _mentions(entry: Any, text: str) -> list[Mention]:
    surface = None
    if isinstance(entry, list) and len(entry) == 3:
        start, end, labels = entry
    elif isinstance(entry, dict):
        start, end, labels = (_first(entry, names) for names in (_START, _END, _TYPE))
        surface = entry.get("text")
    else:
        raise ValueError(f"an entity must be [start, end, type] or an object, got {shown(entry)}")
    names = labels if isinstance(labels, list) else [labels]
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"the type of an entity must be a non-empty string, got {shown(entry)}")
    return [make_mention(start, end, name, text, surface) for name in names]


def _first(entry: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((entry[name] for name in names if name in entry), None)


def make_mention(start: Any, end: Any, label: str, text: str, surface: Any = None) -> Mention:
    """A checked entity of a text.

    Raises:
        ValueError: If it lies outside the text, or ``surface``, where that is a string, is not what stands there.
    """
    if type(start) is not int or type(end) is not int:
        raise ValueError(f"start and end of an entity must be integers, got {shown(start)} and {shown(end)}")
    what = f"entity {shown((start, end, label))}"
    if not 0 <= start < end <= len(text):
        raise ValueError(f"{what} is out of range for {len(text)} characters")
    # Tools write line ends inside an entity as spaces.
    if isinstance(surface, str) and surface.split() != text[start:end].split():
        hint = ""
        if any(character > "\uffff" for character in text[:end]):
            hint = "; offsets must count characters, not UTF-16 units"
        raise ValueError(f"{what} says {shown(surface)} but {shown(text[start:end])} stands there{hint}")
    return Mention(start, end, label)
