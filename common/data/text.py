"""Raw text to words and sentences, with character offsets; needs no model, and is the same for training and prediction."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

SentenceRule = Literal["split", "lines", "whole"]
"""``split`` ends a sentence at its punctuation and at empty lines, ``lines`` at every line end, ``whole`` nowhere."""


class Word(NamedTuple):
    """A word and its place: ``source[start:end] == text``."""

    text: str
    start: int
    end: int


class Mention(NamedTuple):
    """An entity in raw text: ``source[start:end]``, the end exclusive, and its type."""

    start: int
    end: int
    label: str


# Scripts that put no spaces between words: a character is a word. Ideographs, kana.
_IDEOGRAPH = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_PIECE = re.compile(rf"[{_IDEOGRAPH}]|[^\W{_IDEOGRAPH}]+|[^\w\s]")
_JOINER = "\u200d"


def words_of(text: str) -> list[Word]:
    """The words of a text: runs of letters and digits, and every other visible character by itself.

    Hyphens and slashes are words of their own, as in the biomedical corpora that split all punctuation: ``IL-2`` is three
    words, so that no entity in ``IL-2/CD28-induced`` begins or ends inside a word. Combining marks stay with what they
    modify. Characters that show nothing (format and control characters) only ever stand inside a word.
    """
    words: list[Word] = []
    joins = False  # whether the last word ends in a mark or an invisible character, so that it may go on
    for match in _PIECE.finditer(text):
        piece, start, end = match[0], match.start(), match.end()
        category = unicodedata.category(piece[0])
        touches = bool(words) and words[-1].end == start
        last = words[-1].text if touches else ""
        if category[0] == "M" or category == "Cf":
            if touches:
                words[-1] = Word(last + piece, words[-1].start, end)
                joins = True
            elif category[0] == "M":
                words.append(Word(piece, start, end))
                joins = True
        elif category == "Cc":
            joins = False
        elif joins and touches and (last[-1] == _JOINER or (_is_wordlike(last[0]) and _is_wordlike(piece[0]))):
            words[-1] = Word(last + piece, words[-1].start, end)
            joins = False
        else:
            words.append(Word(piece, start, end))
            joins = False
    return [_without_invisible_end(word) for word in words]


def _is_wordlike(character: str) -> bool:
    return character == "_" or unicodedata.category(character)[0] in "LN"


def _without_invisible_end(word: Word) -> Word:
    text = word.text
    while unicodedata.category(text[-1]) == "Cf":
        text = text[:-1]
    return Word(text, word.start, word.start + len(text))


class Alignment(NamedTuple):
    """Where characters lie among words: the first and last word that they touch, and whether they end at their edges."""

    first: int
    last: int
    exact: bool


def align(words: Sequence[Word], start: int, end: int) -> Alignment | None:
    """The words that ``[start, end)`` touches; None if there are none. ``words`` must be in order.

    White space at either end of the range does not count.
    """
    first = bisect_right(words, start, key=lambda word: word.end)
    last = bisect_left(words, end, key=lambda word: word.start) - 1
    if start >= end or first > last:
        return None
    return Alignment(first, last, start <= words[first].start and end >= words[last].end)


# Lower case, without the final period. A sentence does not end at them.
_ABBREVIATIONS = frozenset(
    [
        "al",
        "approx",
        "ca",
        "cf",
        "co",
        "corp",
        "dept",
        "dr",
        "ed",
        "eds",
        "eq",
        "eqs",
        "esp",
        "etc",
        "exp",
        "fig",
        "figs",
        "inc",
        "incl",
        "jr",
        "lab",
        "ltd",
        "max",
        "med",
        "min",
        "mr",
        "mrs",
        "ms",
        "nat",
        "no",
        "nos",
        "nr",
        "op",
        "pp",
        "prof",
        "proc",
        "ref",
        "refs",
        "resp",
        "sec",
        "sect",
        "sp",
        "spp",
        "sr",
        "ssp",
        "st",
        "subsp",
        "suppl",
        "tab",
        "univ",
        "var",
        "viz",
        "vol",
        "vs",
    ]
)
_CLOSERS = "\"'\u2019\u201d\u00bb)\\]}"
_OPENERS = "\"'\u2018\u201c\u00ab(\\[{"
_END = re.compile(
    rf"[.!?\u2026]+[{_CLOSERS}]*(?P<gap>\s+)(?=[{_OPENERS}]*(?P<next>\w))"  # needs a gap, and a word that can begin one
    rf"|[\u3002\uff01\uff1f][{_CLOSERS}\u300d\u300f]*(?P<full>\s*)"  # full stops of scripts without spaces
    r"|(?P<blank>[^\S\n]*\n\s*\n\s*)"
)
_LINE_END = re.compile(r"\s*[\n\u2028\u2029]\s*|\r(?!\n)\s*")
_LAST_WORD = re.compile(r"(\S+)\s*$")


def sentences_of(
    text: str, rule: SentenceRule = "split", *, breaks: Iterable[int] = (), keep: Iterable[tuple[int, int]] = ()
) -> list[tuple[int, int]]:
    """The sentences of a text as character ranges, in order; they have no white space at their ends and none is empty.

    Args:
        text: Raw text.
        rule: Where a sentence ends.
        breaks: Offsets where one ends in any case, such as the one between title and abstract.
        keep: Character ranges that no sentence end may cut, such as entities; it is left out where it would.
    """
    starts = set(breaks)
    if rule == "lines":
        starts |= {match.end() for match in _LINE_END.finditer(text)}
    elif rule == "split":
        starts |= {match.end() for match in _END.finditer(text) if _ends_sentence(text, match)}
    ordered = sorted(starts)
    for start, end in keep:
        inside = slice(bisect_right(ordered, start), bisect_left(ordered, end))
        del ordered[inside]
    edges = [0, *(edge for edge in ordered if 0 < edge < len(text)), len(text)]
    ranges = []
    for left, right in pairwise(edges):
        part = text[left:right]
        if part.strip():
            ranges.append((left + len(part) - len(part.lstrip()), left + len(part.rstrip())))
    return ranges


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    if match["gap"] is None:
        return True
    if "\n" in match["gap"]:
        return True
    if match["next"].islower():
        return False
    if text[match.start()] != "." or match[0].startswith(".."):
        return True
    before = _LAST_WORD.search(text, max(match.start() - 40, 0), match.start())
    word = before[1].lstrip("\"'(\u201c\u2018[{") if before else ""
    if word.lower() in _ABBREVIATIONS or re.fullmatch(r"(?:[^\W\d_]\.)+[^\W\d_]", word):
        return False
    if len(word) == 1 and word.isupper():
        # "vitamin C. The" ends, "J. Smith" does not.
        previous = _LAST_WORD.search(text, max(match.start() - 40, 0), before.start() if before else 0)
        return bool(previous and previous[1].isalpha() and previous[1].islower())
    return True
