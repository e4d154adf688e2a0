"""PubTator: ``PMID|t|title``, ``PMID|a|abstract``, then a line for each entity by character."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from common.data.text import Mention
from dataset_generation.formats.base import Annotated, Format, Item, Records, read_lines, record_place
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
    mentions: list[Mention] = []
    bad: list[str] = []
    for line in block[len(parts) :]:
        fields = line.split("\t")
        if fields[0] != document:
            raise ValueError(f"a line of another document inside {document}: {line[:80]!r} (is a blank line missing?)")
        if len(fields) < 5 or not fields[1].isdecimal():
            if len(fields) in (4, 5) and fields[1][:1].isalpha():
                continue  # a relation: ID, its type, two concepts, and in BioRED whether it is novel
            bad.append(f"an entity must be ID, start, end, text and type, cut by tabs, got {line[:80]!r}")
            continue
        try:
            start, end = (int(field) if re.fullmatch(r"[0-9]{1,9}", field) else None for field in fields[1:3])
            mentions.append(make_mention(start, end, fields[4], text, fields[3]))
        except ValueError as error:
            bad.append(str(error))
    return [Annotated(text, mentions, bad, document, (len(title) + 1,))]


PUBTATOR = Format(_read, _parse)
