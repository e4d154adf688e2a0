"""PubTator: ``PMID|t|title``, ``PMID|a|abstract``, then a line for each entity by character."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from common.data.text import Mention
from dataset_generation.formats.base import Annotated, Format, Item, Records, read_each, read_lines, record_place
from dataset_generation.formats.offsets import make_mention
from dataset_generation.options import ReadOptions

HEADER = re.compile(r"(?P<id>[^|\t]+)\|(?P<part>[ta])\|(?P<text>.*)")


def _read(path: Path, options: ReadOptions) -> Records:
    block: list[str] = []
    number = first_line = 0
    for line_number, line in enumerate((*read_lines(path), ""), start=1):
        if line.strip():
            first_line = first_line if block else line_number
            block.append(line)
        elif block:
            yield record_place(number, first_line), block
            number += 1
            block = []


def _parse(block: Sequence[str], options: ReadOptions) -> list[Item]:
    parts = [match for line in block[:2] if (match := HEADER.fullmatch(line))]
    if (
        not parts
        or [part["part"] for part in parts] not in (["t"], ["t", "a"])
        or len({part["id"] for part in parts}) > 1
    ):
        raise ValueError(f"a document begins with ID|t|title and ID|a|abstract, got {block[0][:80]!r}")
    title, document = parts[0]["text"], parts[0]["id"]
    # One character, a space or a line end, stands between title and abstract, and counts.
    text = "\n".join(part["text"] for part in parts)
    rows = [line.split("\t") for line in block[len(parts) :]]
    stray = next((row for row in rows if row[0] != document), None)
    if stray is not None:
        line = "\t".join(stray)
        raise ValueError(f"a line of another document inside {document}: {line[:80]!r} (is a blank line missing?)")
    mentions, bad = read_each((row for row in rows if not _is_relation(row)), lambda row: _mention(row, text))
    return [Annotated(text, mentions, bad, document, (len(title) + 1,))]


def _is_relation(row: Sequence[str]) -> bool:
    """Whether a row is ID, type, two concepts, and in BioRED whether the relation is novel."""
    return len(row) in (4, 5) and row[1][:1].isalpha()


def _mention(row: Sequence[str], text: str) -> Mention:
    if len(row) < 5 or not row[1].isdecimal():
        line = "\t".join(row)
        raise ValueError(f"an entity must be ID, start, end, text and type, cut by tabs, got {line[:80]!r}")
    start, end = (int(field) if re.fullmatch(r"[0-9]{1,9}", field) else None for field in row[1:3])
    return make_mention(start, end, row[4], text, row[3])


PUBTATOR = Format(_read, _parse)
