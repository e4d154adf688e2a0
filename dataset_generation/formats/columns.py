"""Finds the columns of words and tags in a file with a word per line, by what the columns hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain

from common.data.spans import OUTSIDE, PREFIXES
from common.errors import InputError, shown
from dataset_generation.options import ReadOptions

Rows = Sequence[Sequence[str]]
"""The columns of each line of a sentence."""
Column = Sequence[Sequence[str]]
"""The values of a column, sentence by sentence."""

_PREFIX = f"[{''.join(sorted(PREFIXES))}]"
TAG = re.compile(rf"{_PREFIX}-\S.*")
_TWO_TAGS = re.compile(rf"[;,|/]\s*{_PREFIX}-")
_CHUNKS = frozenset({"NP", "VP", "PP", "ADJP", "ADVP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"})
_NUMBER = re.compile(r"[-+]?\d+(?:[.,:]\d+)*(?:[eE][-+]?\d+)?")
_LISTED = 4
"""Columns that a message names."""
_MOST = 0.9
"""Share of a column's values that must be tags, so that one bad tag is an error of its record, not of the column."""
_LEAST_OUTSIDE = 0.3
"""Share of a column's values that must be O where tags have no prefix to know them by."""


def is_tag(value: str) -> bool:
    """Whether a value is O, a prefix alone, or a prefix and a type."""
    return value == OUTSIDE or value in PREFIXES or bool(TAG.fullmatch(value))


def find_columns(sentences: Sequence[Rows], where: str, options: ReadOptions) -> tuple[int, int]:
    """The columns of words and of tags.

    What ``--columns`` names is taken; the rest is found by what the columns hold: tags follow a tag scheme and are not
    chunks; words are neither tags nor numbers, nor the same throughout a sentence.

    Raises:
        InputError: If more than one reading fits, or none does.
    """
    widths = Counter(len(row) for row in chain.from_iterable(sentences))
    width = widths.most_common(1)[0][0]
    given = {role: _index(column, width, where) for role, column in options.roles.items() if role in {"word", "tag"}}
    if len(given) == 2:
        return given["word"], given["tag"]
    table = [[row for row in rows if len(row) == width] for rows in sentences]
    columns = [[[row[index] for row in rows] for rows in table if rows] for index in range(width)]
    if width == 1:
        raise InputError(
            f"{where}: one column alone, {shown(columns[0][0][0])}: expected a word and a tag in each line"
        )
    tag = given["tag"] if "tag" in given else _tag_column(columns, where, options, given.get("word"))
    word = given["word"] if "word" in given else _word_column(columns, where, tag)
    return word, tag


def _index(column: str, width: int, where: str) -> int:
    if not re.fullmatch(r"-?\d{1,6}", column) or not -width <= int(column) < width:
        raise InputError(
            f"{where}: --columns {column}: the lines have {width} columns, numbered from 0 (-1 is the last)"
        )
    return int(column) % width


def _values(column: Column) -> list[str]:
    return list(chain.from_iterable(column))


def _tag_column(columns: Sequence[Column], where: str, options: ReadOptions, word: int | None) -> int:
    candidates, empty, chunks = [], [], []
    for index, column in enumerate(columns):
        values = _values(column)
        distinct = set(values)
        if index == word or distinct == {""}:
            continue
        if options.tag_scheme == "io":
            likely = values.count(OUTSIDE) / len(values) >= _LEAST_OUTSIDE
        else:
            likely = sum(map(is_tag, values)) / len(values) >= _MOST
        if not likely:
            continue
        types = {value[2:] for value in distinct if TAG.fullmatch(value)}
        several = next((value for value in distinct if _TWO_TAGS.search(value)), None)
        if several is not None:
            raise InputError(
                f"{where}: column {index} holds several tags in one, as in {shown(several)}; give each a column"
            )
        if types and types <= _CHUNKS:
            chunks.append(index)
        elif distinct == {OUTSIDE}:
            empty.append(index)
        else:
            candidates.append(index)
    if len(candidates) > 1:
        raise InputError(
            f"{where}: columns {_listed(candidates, columns)} all hold tags; name the one to read: "
            f"--columns tag={candidates[0]}"
        )
    if candidates or empty:
        return (candidates or empty[-1:])[0]
    if chunks:
        raise InputError(
            f"{where}: column {_listed(chunks, columns)} holds chunks (NP, VP, ...), not entities, and no other holds "
            f"tags; name the tags' column if it does: --columns tag={chunks[-1]}"
        )
    # No column holds tags: the first bad tag of the last column then becomes an error of its record.
    return len(columns) - 1


def _word_column(columns: Sequence[Column], where: str, tag: int) -> int:
    others = [index for index in range(len(columns)) if index != tag]
    candidates = [index for index in others if _may_hold_words(columns[index])]
    if not candidates:
        if len(others) == 1 and not _counts_up(columns[others[0]]):
            return others[0]
        raise InputError(
            f"{where}: no column holds words: {_listed(others, columns)} are numbers, tags or the same throughout a "
            f"sentence; name the words' column: --columns word={others[0]}"
        )
    if len(candidates) > 1:
        # Parts of speech: a small set of values where the words are many.
        sizes = {index: len(set(_values(columns[index]))) for index in candidates}
        largest = max(sizes.values())
        candidates = [
            index for index in candidates if not (sizes[index] <= 60 and largest >= max(50, 5 * sizes[index]))
        ]
    if len(candidates) > 1:
        raise InputError(
            f"{where}: columns {_listed(candidates, columns)} may all hold the words; name them: "
            f"--columns word={candidates[0]}"
        )
    return candidates[0]


def _may_hold_words(column: Column) -> bool:
    values = _values(column)
    if not any(values) or _counts_up(column) or all(_NUMBER.fullmatch(value) for value in values):
        return False
    if any(len(sentence) > 1 for sentence in column) and all(len(set(sentence)) == 1 for sentence in column):
        return False
    if all(value == OUTSIDE or TAG.fullmatch(value) for value in values):
        return False
    # Parts of speech and fillers: no lower-case letter and no digit anywhere.
    return any(
        character.islower() or character.isdigit() or not character.isascii() for value in values for character in value
    )


def _counts_up(column: Column) -> bool:
    """Whether the column is 1, 2, 3, ... or 0, 1, 2, ... in each sentence."""
    if not any(len(sentence) > 1 for sentence in column):
        return False
    return any(
        all(list(sentence) == [str(first + place) for place in range(len(sentence))] for sentence in column)
        for first in (0, 1)
    )


def _listed(indices: Sequence[int], columns: Sequence[Column]) -> str:
    """``1 ('B-Disease') and 2 ('B-NP')``: columns with a value of each that is not O."""
    parts = []
    for index in indices[:_LISTED]:
        values = _values(columns[index])
        parts.append(f"{index} ({shown(next((value for value in values if value != OUTSIDE), OUTSIDE))})")
    return " and ".join([*parts, "others"] if len(indices) > _LISTED else parts)
