"""BRAT's stand-off files: ``NAME.txt`` is a document's text, ``NAME.ann`` its entities by character."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from common.data.text import Mention
from common.errors import InputError, shown
from dataset_generation.formats.base import Annotated, Format, Item, Records, read_lines, read_text
from dataset_generation.formats.offsets import make_mention
from dataset_generation.options import ReadOptions

_PLACE = re.compile(r"(?P<type>\S+) (?P<spans>\d{1,9} \d{1,9}(?:;\d{1,9} \d{1,9})*)")
_WITHOUT_TEXT = ("R", "E", "A", "M", "N", "#", "*")
"""How relations, events, attributes, normalisations, notes and equivalences begin: they name no text of their own."""


def _files(path: Path) -> tuple[Path, Path]:
    """An ``.ann`` file and its text."""
    return path, path.with_suffix(".txt")


def _read(path: Path, options: ReadOptions) -> Records:
    """The one document of an ``.ann`` file."""
    _, text = _files(path)
    if not text.is_file():
        raise InputError(f"{path}: has no text {text.name} beside it")
    # Line ends count as the file has them.
    yield "the document", (read_text(text), read_lines(path), path.stem)


def _parse(raw: tuple[str, list[str], str], options: ReadOptions) -> list[Item]:
    text, lines, name = raw
    mentions: list[Mention] = []
    bad: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(_WITHOUT_TEXT):
            continue
        try:
            mentions.append(_mention(line, text))
        except ValueError as error:
            bad.append(f"line {number}: {error}")
    return [Annotated(text, mentions, bad, name)]


def _mention(line: str, text: str) -> Mention:
    if not line.startswith("T"):
        raise ValueError(f"no annotation of BRAT begins like this: {shown(line)}")
    fields = line.split("\t", 2)
    place = _PLACE.fullmatch(fields[1]) if len(fields) >= 2 else None
    if place is None:
        raise ValueError(f"an entity must be ID, type and offsets, text, cut by tabs, got {shown(line)}")
    pieces = [tuple(map(int, piece.split(" "))) for piece in place["spans"].split(";")]
    # BRAT cuts an entity at line ends, and where the annotator has left words out.
    if any(left[1] > right[0] or text[left[1] : right[0]].strip() for left, right in pairwise(pieces)):
        raise ValueError(
            f"entity {fields[0]} is in {len(pieces)} pieces; only contiguous entities can be read: {shown(line)}"
        )
    start, end = pieces[0][0], pieces[-1][1]
    return make_mention(start, end, place["type"], text, fields[2] if len(fields) > 2 else None)


BRAT = Format(_read, _parse, files=_files)
