"""Entities to Label Studio's regions and back. Offsets are code points, as Python counts; ends are exclusive."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from annotation.labelling import Labelling
from common.data.text import Mention
from common.inference import Entity
from dataset_generation.formats.offsets import read_mentions, regions_of

NOTHING_FOUND = 1.0
"""Score of a prediction without entities: it has none to doubt."""


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; none of whatever else, as a server may send."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text_of(task: Any, field: str) -> str | None:
    """The text of a task; None if it has none."""
    data = task.get("data") if isinstance(task, Mapping) else None
    text = data.get(field) if isinstance(data, Mapping) else None
    return text if isinstance(text, str) else None


def region_id(start: int, end: int, label: str) -> str:
    """The same entity always has the same id: a suggestion that comes again replaces the one that is there."""
    return hashlib.sha1(f"{start},{end},{label}".encode(), usedforsecurity=False).hexdigest()[:10]


def region(start: int, end: int, label: str, text: str, labelling: Labelling) -> dict[str, Any]:
    """A region over ``text[start:end]``."""
    assert 0 <= start < end <= len(text)
    return {
        "id": region_id(start, end, label),
        "from_name": labelling.from_name,
        "to_name": labelling.to_name,
        "type": "labels",
        "value": {"start": start, "end": end, "text": text[start:end], "labels": [label]},
    }


def prediction(entities: Sequence[Entity], text: str, labelling: Labelling, version: str) -> dict[str, Any]:
    """A prediction of a task; its score is that of its most doubtful entity."""
    result = []
    for entity in entities:
        label = labelling.label(entity.label)
        if label is not None:
            score = round(entity.score, 4)
            result.append(region(entity.start, entity.end, label, text, labelling) | {"score": score})
    score = min((item["score"] for item in result), default=NOTHING_FOUND)
    return {"model_version": version, "score": score, "result": result}


def annotation(mentions: Iterable[Mention], text: str, labelling: Labelling) -> dict[str, Any]:
    """The annotation of a task."""
    return {"result": [region(*mention, text, labelling) for mention in mentions]}


def mentions_of(item: Mapping[str, Any], text: str) -> tuple[list[Mention], list[str]]:
    """The entities of an annotation or a prediction, one for each label of a region, and what is wrong with others.

    Raises:
        ValueError: If it has no list of regions.
    """
    return read_mentions(regions_of(item), text)
