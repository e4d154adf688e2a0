"""Splits raw text into words and sentences with character offsets; needs no model, same in training and prediction."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

SentenceRule = Literal["split", "lines", "whole"]
"""Where a sentence ends: ``split`` at punctuation, empty lines and lines that end early, ``lines`` at every line end,
``whole`` nowhere."""


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

    Hyphens and slashes are words of their own, as in the biomedical corpora that split all punctuation: ``IL-2`` is
    three words, so that no entity in ``IL-2/CD28-induced`` begins or ends inside a word. Combining marks stay with what
    they modify. Invisible characters (format and control characters) occur only inside a word.
    """
    ranges: list[list[int]] = []
    joins = False  # whether the last word ends in a mark or an invisible character, so that the next piece may join it
    for match in _PIECE.finditer(text):
        start, end = match.span()
        category = unicodedata.category(text[start])
        touches = bool(ranges) and ranges[-1][1] == start
        if category[0] == "M" or category == "Cf":
            joins = touches or category[0] == "M"
            if touches:
                ranges[-1][1] = end
            elif joins:
                ranges.append([start, end])
            continue
        if joins and touches and (text[start - 1] == _JOINER or _are_wordlike(text[ranges[-1][0]], text[start])):
            ranges[-1][1] = end
        elif category != "Cc":
            ranges.append([start, end])
        joins = False
    return [_word(text, start, end) for start, end in ranges]


def _are_wordlike(*characters: str) -> bool:
    return all(character == "_" or unicodedata.category(character)[0] in "LN" for character in characters)


def _word(text: str, start: int, end: int) -> Word:
    """The word at ``[start, end)`` without invisible characters at its end."""
    while unicodedata.category(text[end - 1]) == "Cf":
        end -= 1
    return Word(text[start:end], start, end)


def first_words(words: Sequence[Word], sentences: Sequence[tuple[int, int]]) -> list[int]:
    """The index of each sentence's first word, where the sentences are those of :func:`sentences_of`."""
    return [bisect_left(words, start, key=lambda word: word.start) for start, _ in sentences]


class Alignment(NamedTuple):
    """The first and last word that a character range touches, and whether it begins and ends at their edges."""

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


# A sentence does not end at their period.
_ABBREVIATION = re.compile(
    "al|approx|ca|cf|co|corp|dept|dr|eds?|eqs?|esp|etc|exp|figs?|inc|incl|jr|lab|ltd|med|mr|mrs|ms|nat|nos?|nr|op|pp|prof|"
    r"proc|refs?|resp|sect?|spp?|sr|ssp|st|subsp|suppl|tab|univ|var|viz|vol|vs|(?:[^\W\d_]\.)+[^\W\d_]",
    re.IGNORECASE,
)
_CLOSERS = "\"'\u2019\u201d\u00bb)\\]}"
_OPENERS = "\"'\u2018\u201c\u00ab(\\[{"
# The lookbehinds keep long runs of points or spaces from being tried from each of their characters.
_END = re.compile(
    # Punctuation needs a gap behind it, and a word that can begin a sentence.
    rf"(?<![.!?\u2026])[.!?\u2026]+[{_CLOSERS}]*(?P<gap>\s+)(?=[{_OPENERS}]*(?P<next>\w))"
    rf"|[\u3002\uff01\uff1f][{_CLOSERS}\u300d\u300f]*\s*"  # full stops of scripts without spaces
    r"|(?<!\s)[^\S\n]*\n\s*\n\s*"
)
_LINE_END = re.compile(r"(?<!\s)\s*[\n\r\u2028\u2029]\s*")
_LAST_WORD = re.compile(r"(\S+)\s*$")


def sentences_of(
    text: str, rule: SentenceRule = "split", *, breaks: Iterable[int] = (), keep: Iterable[tuple[int, int]] = ()
) -> list[tuple[int, int]]:
    """The sentences of a text as character ranges, in order; they have no white space at their ends and none is empty.

    Args:
        text: Raw text.
        rule: Where a sentence ends.
        breaks: Offsets where a sentence always ends, such as between title and abstract.
        keep: Character ranges, such as entities, that no sentence end may cut; one that would is left out.
    """
    starts = set(breaks)
    if rule == "lines":
        starts |= {match.end() for match in _LINE_END.finditer(text)}
    elif rule == "split":
        starts |= {match.end() for match in _END.finditer(text) if _ends_sentence(text, match)}
        starts |= _lines_after_short_ones(text)
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


def _lines_after_short_ones(text: str) -> set[int]:
    """Starts of lines whose first word would have fitted on the line before: that line ends a heading or the like.

    In wrapped text, the first word of a line does not fit on the line before.
    """
    lines = text.split("\n")
    width = max(len(line.rstrip()) for line in lines)
    starts, offset = set(), 0
    for line, following in pairwise(lines):
        offset += len(line) + 1
        word = following.split(maxsplit=1)[:1]
        if line.strip() and word and len(line.rstrip()) + 1 + len(word[0]) <= width:
            starts.add(offset)
    return starts


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    gap, following = match["gap"], match["next"]
    if gap is None or gap.count("\n") > 1:
        return True
    before = _LAST_WORD.search(text, max(match.start() - 40, 0), match.start())
    word = before[1].lstrip("\"'(\u201c\u2018[{") if before else ""
    if text[match.start()] == "." and _ABBREVIATION.fullmatch(word):
        return False
    if "\n" in gap:
        return True
    if following.islower():
        return False
    if match[0][:2] != f".{gap[0]}":
        return True
    if following.isdigit() and text[match.start() - 1].isspace() and (word[-1:].isdigit() or word in {"=", "<", ">"}):
        return False  # "0 . 05" and "p < . 05" in a text that was cut into words
    if len(word) == 1 and word.isupper():
        # "vitamin C. The" ends, "J. Smith" does not.
        previous = _LAST_WORD.search(text, max(match.start() - 40, 0), before.start() if before else 0)
        return bool(previous and previous[1].isalpha() and previous[1].islower())
    return True
