"""A word a line with its tag, a blank line after each sentence: CoNLL, IOB, TSV, MultiCoNER, JNLPBA's own release."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import NamedTuple

from common.data.spans import OUTSIDE, PREFIXES
from common.errors import shown
from dataset_generation.formats.base import Format, Item, Records, Tagged, read_lines, record_place
from dataset_generation.formats.columns import TAG, find_columns, is_tag
from dataset_generation.options import ReadOptions

_DOCUMENT = re.compile(r"-DOCSTART-|###\s*MEDLINE:\s*(?P<medline>\S+)|#\s*newdoc\b(?:\s+id\s*=)?[ \t]*(?P<newdoc>.*)")
_NO_WORD = re.compile(r"\d+[-.]\d+")
"""CoNLL-U's number of a multiword token, whose words have lines of their own, or of an empty node."""


class _Sentence(NamedTuple):
    lines: list[int]
    """The line of each row."""
    rows: list[list[str]]
    document: str | None

    @property
    def line(self) -> int:
        """The line of the first row."""
        return self.lines[0]


def _columns(line: str) -> list[str]:
    """The columns of a line: cut at tabs if it has one, else at spaces; no other character cuts a word."""
    return [cell.strip(" ") for cell in line.split("\t")] if "\t" in line else re.split(" +", line.strip(" "))


def _is_blank(line: str) -> bool:
    return not line.strip(" \t")


def _sentences(path: Path) -> list[_Sentence]:
    """The sentences of a file, of words alone where CoNLL-U has multiword tokens and empty nodes beside them."""
    sentences = list(_blocks(path))
    numbers = ([row[0] for row in sentence.rows if not _is_no_word(row)] for sentence in sentences)
    if not any(_is_no_word(row) for sentence in sentences for row in sentence.rows) or not all(
        own and own == [str(n) for n in range(1, len(own) + 1)] for own in numbers
    ):
        return sentences
    kept: list[_Sentence] = []
    for sentence in sentences:
        # One with an entity's tag stays, not to lose that.
        chosen = [not _is_no_word(row) or any(map(TAG.fullmatch, row[2:])) for row in sentence.rows]
        lines, rows = list(compress(sentence.lines, chosen)), list(compress(sentence.rows, chosen))
        kept.append(_Sentence(lines, rows, sentence.document))
    return kept


def _is_no_word(row: Sequence[str]) -> bool:
    return len(row) > 2 and bool(_NO_WORD.fullmatch(row[0]))


def _blocks(path: Path) -> Iterator[_Sentence]:
    """The sentences of a file with all of their lines.

    Blank lines, comments and document marks end one; only the last begin a document.
    """
    lines = read_lines(path)
    is_row = _row_test(lines)
    rows: list[list[str]] = []
    numbers: list[int] = []
    documents = 0
    document: str | None = None
    for number, line in enumerate((*lines, ""), start=1):
        if is_row(line):
            numbers.append(number)
            rows.append(_columns(line))
            continue
        if rows:
            yield _Sentence(numbers, rows, document)
            numbers, rows = [], []
        mark = _DOCUMENT.match(line)
        if mark:
            documents += 1
            document = mark["medline"] or mark["newdoc"] or f"{path.stem}:{documents}"


def _row_test(lines: Sequence[str]) -> Callable[[str], bool]:
    """Tells a line of word and tag from blank lines, comments and document marks.

    A line that begins with ``#`` is a word only if it has as many columns as the others and its tag is one of theirs,
    or of a type of theirs.
    """
    plain = [_columns(line) for line in lines if not (_is_blank(line) or line.startswith(("#", "-DOCSTART-")))]
    width = Counter(map(len, plain)).most_common(1)[0][0] if plain else 0
    values = [{row[index] for row in plain if len(row) == width} for index in range(width)]
    tag_columns = [index for index in range(width) if all(map(is_tag, values[index]))] or [width - 1]
    for column in values:
        types = {value[2:] for value in column if TAG.fullmatch(value)}
        column |= {OUTSIDE, *(f"{prefix}-{name}" for prefix in PREFIXES for name in types)}

    def is_row(line: str) -> bool:
        if _is_blank(line) or line.startswith("-DOCSTART-"):
            return False
        if not line.startswith("#"):
            return True
        row = _columns(line)
        if width == 1:  # words alone, as prediction reads them: one of them may be #covid
            return len(row) == width and not _DOCUMENT.match(line)
        return len(row) == width and all(row[index] in values[index] for index in tag_columns)

    return is_row


def _prepare(paths: Sequence[Path], options: ReadOptions) -> ReadOptions:
    sentences = [sentence.rows for path in paths for sentence in _sentences(path)]
    if not sentences:
        return options
    where = str(paths[0] if len(paths) == 1 else paths[0].parent)
    word, tag = find_columns(sentences, where, options)
    return replace(options, columns=f"word={word},tag={tag}")


def _read(path: Path, options: ReadOptions) -> Records:
    for number, sentence in enumerate(_sentences(path)):
        yield record_place(number, sentence.line), sentence


def _parse(sentence: _Sentence, options: ReadOptions) -> list[Item]:
    word, tag = int(options.roles["word"]), int(options.roles["tag"])
    for index, row in enumerate(sentence.rows):
        place = f"word {index} (line {sentence.lines[index]})"
        if len(row) <= max(word, tag):
            raise ValueError(f"{place}: expected a word and a tag, got {' '.join(row)[:100]!r}")
        if "\r" in row[tag]:
            raise ValueError(f"{place}: a carriage return alone ends no line: {shown(row[tag])}")
    words, tags = zip(*((row[word], row[tag]) for row in sentence.rows), strict=True)
    return [Tagged(words, tags, sentence.document)]


CONLL = Format(_read, _parse, _prepare)
