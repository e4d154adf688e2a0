"""BioC as JSON: documents of passages with entities by character, as PubTator 3 and other services give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from common.data.text import Mention
from common.errors import shown
from dataset_generation.formats.base import Annotated, Item, read_each
from dataset_generation.formats.offsets import make_mention

COLLECTIONS = ("documents", "PubTator3")
"""Fields that hold a collection's documents."""


def parse_document(document: Mapping[str, Any]) -> list[Item]:
    """The passages of a document; a passage that is given as sentences gives its sentences.

    Raises:
        ValueError: If the document is malformed; the message names the field and the value.
    """
    if document.get("annotations"):
        raise ValueError(
            "a document has annotations of its own; only its passages or their sentences can hold entities"
        )
    name = document.get("id")
    identifier = str(name) if isinstance(name, str | int) else None
    return [_parse_part(part, identifier) for passage in document["passages"] for part in _parts(passage)]


def _parts(passage: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(passage, dict):
        raise ValueError(f"a passage must be an object, got {shown(passage)}")
    sentences = passage.get("sentences") or []
    if not isinstance(sentences, list) or not all(isinstance(sentence, dict) for sentence in sentences):
        raise ValueError(f"field 'sentences' of a passage must be a list of objects, got {shown(sentences)}")
    if not sentences:
        if passage.get("text") or passage.get("annotations"):
            yield passage
        return
    if passage.get("annotations"):
        raise ValueError("a passage has sentences and annotations of its own; only one of them can hold the entities")
    yield from sentences


def _parse_part(part: Mapping[str, Any], document: str | None) -> Annotated:
    text, offset, annotations = part.get("text"), part.get("offset", 0), part.get("annotations", [])
    if not isinstance(text, str) or type(offset) is not int or not isinstance(annotations, list):
        raise ValueError(
            f"a passage needs a string text, an integer offset and a list annotations, got {shown(text)}, "
            f"{shown(offset)} and {shown(annotations)}"
        )
    mentions, bad = read_each(annotations, lambda annotation: _mention(annotation, text, offset))
    return Annotated(text, mentions, bad, document)


def _mention(annotation: Any, text: str, offset: int) -> Mention:
    infons = annotation.get("infons") if isinstance(annotation, dict) else None
    label = infons.get("type") if isinstance(infons, dict) else None
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"an annotation must be an object with a string infons.type, got {shown(annotation)}")
    locations = annotation.get("locations")
    if not isinstance(locations, list) or not all(isinstance(location, dict) for location in locations):
        raise ValueError(f"field 'locations' of an annotation must be a list of objects, got {shown(locations)}")
    if len(locations) != 1:
        raise ValueError(
            f"entity {shown(annotation.get('text'))} has {len(locations)} places; only contiguous entities can be read"
        )
    start, length = locations[0].get("offset"), locations[0].get("length")
    if type(start) is not int or type(length) is not int:
        raise ValueError(f"offset and length of a location must be integers, got {shown(locations[0])}")
    return make_mention(start - offset, start - offset + length, label, text, annotation.get("text"))
