"""Old exports count UTF-16 units, in which every character beyond U+FFFF is two: recognised by text, and converted."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from annotation.regions import objects, text_of


class Utf16:
    """Translates offsets of a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.starts = [0, *accumulate(2 if character > "\uffff" else 1 for character in text)]
        """Where each character, and the end, is in UTF-16 units."""

    def code_point(self, offset: Any) -> int | None:
        """A UTF-16 offset in code points; None if it is inside a character or the text does not have it."""
        if type(offset) is not int:
            return None
        place = bisect_left(self.starts, offset)
        return place if place < len(self.starts) and self.starts[place] == offset else None

    def span(self, value: Mapping[str, Any]) -> tuple[int, int] | None:
        """A region's place in code points, if its offsets are UTF-16 units."""
        start, end = self.code_point(value.get("start")), self.code_point(value.get("end"))
        return None if start is None or end is None else (start, end)


def _values(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for item in (*objects(task.get("annotations")), *objects(task.get("predictions"))):
        for region in objects(item.get("result")):
            if isinstance(region.get("value"), dict):
                yield region["value"]


def _says(value: Mapping[str, Any], text: str, place: tuple[Any, Any] | None) -> bool:
    """Whether the text at a place is the one that the region has been given."""
    surface = value.get("text")
    if not isinstance(surface, str) or place is None or not all(type(edge) is int for edge in place):
        return False
    return surface.split() == text[place[0] : place[1]].split()


def code_points(tasks: Iterable[Mapping[str, Any]], text_field: str) -> tuple[list[Mapping[str, Any]], int]:
    """The tasks with offsets in code points, and how many regions had UTF-16 offsets.

    An export is one or the other: it counts UTF-16 units if some regions behind a character beyond U+FFFF say so by
    their text, and none says the opposite.
    """
    tasks = list(tasks)
    texts = [text_of(task, text_field) or "" for task in tasks]
    units = old = new = 0
    for task, text in zip(tasks, texts, strict=True):
        if text.isascii() or max(text) <= "\uffff":
            continue
        translate = Utf16(text)
        for value in _values(task):
            place = (value.get("start"), value.get("end"))
            moved = translate.span(value)
            if moved == place:
                continue
            old += _says(value, text, moved) and not _says(value, text, place)
            new += _says(value, text, place)
    if not old or new:
        return tasks, 0
    converted: list[Mapping[str, Any]] = []
    for task, text in zip(tasks, texts, strict=True):
        copied, translate = copy.deepcopy(task), Utf16(text)
        for value in _values(copied):
            moved = translate.span(value)
            if moved is not None and moved != (value["start"], value["end"]):
                value["start"], value["end"] = moved
                units += 1
        converted.append(copied)
    return converted, units
