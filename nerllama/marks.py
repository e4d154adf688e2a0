"""Marks around entities in a copy of a sentence: writing them, and reading what a model has written.

A model's copy is text of a machine that errs: it changes words, leaves some out, runs on, forgets marks. :func:`read`
takes any text. What can be aligned with the sentence without a guess counts, and all else is counted by its kind.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import accumulate
from typing import Literal, NamedTuple

from common.data.labels import normalise_type
from common.data.spans import Span

LEAST_COPIED = 0.5
"""Share of a sentence's characters that an answer must hold, in order; one with less is no copy and is refused."""

State = Literal["faithful", "repaired", "refused"]
STATES: tuple[State, ...] = ("faithful", "repaired", "refused")


class Mark(NamedTuple):
    """What stands before and after an entity of a type."""

    before: str
    after: str
    label: str


def plain_mark(label: str) -> Mark:
    """The marks of a prompt that asks for one type."""
    return Mark("@@", "##", label)


def named_marks(labels: Sequence[str]) -> tuple[Mark, ...]:
    """The marks of a prompt that asks for all types, each with its name in them: ``@cell_line@`` and ``#cell_line#``.

    Types whose names differ in letters that a mark does not keep get their number behind it.
    """
    names = ["_".join(re.findall(r"\w+", normalise_type(label))) for label in labels]
    unique: list[str] = []
    for number, name in enumerate(names, 1):
        own = name if name and names.count(name) == 1 else f"{name}{number}"
        while own != name and own in (*names, *unique):
            own += "_"
        unique.append(own)
    return tuple(Mark(f"@{name}@", f"#{name}#", label) for name, label in zip(unique, labels, strict=True))


def marked(words: Sequence[str], spans: Sequence[Span], marks: Sequence[Mark]) -> str:
    """The sentence, its words joined by spaces, with the entities of the marks' types marked."""
    by_label = {mark.label: mark for mark in marks}
    parts = list(words)
    for span in spans:
        if span.label in by_label:
            mark = by_label[span.label]
            parts[span.start] = mark.before + parts[span.start]
            parts[span.end] = parts[span.end] + mark.after
    return " ".join(parts)


class Found(NamedTuple):
    """An entity in an answer: its span, and the range of the answer's characters that it takes, marks included."""

    span: Span
    start: int
    end: int


@dataclass(frozen=True)
class Reading:
    """What an answer says."""

    state: State
    """``faithful``: the sentence, white space aside, and each mark in its place; ``refused``: no copy of the sentence;
    ``repaired``: all between."""
    found: tuple[Found, ...] = ()
    """Flat entities, in order."""
    problems: Mapping[str, int] = field(default_factory=dict)
    """What was repaired or refused, by kind; see ``PROBLEMS``."""

    @property
    def spans(self) -> tuple[Span, ...]:
        """The entities without their places."""
        return tuple(item.span for item in self.found)


PROBLEMS = {
    "no copy": "too little of the sentence is in the answer: refused",
    "cut": "the answer reached its longest length: what it holds counts",
    "words changed, left out or added": "the copy differs: entities are aligned by what is equal around the difference",
    "inside a word": "a mark in a word: the entity has the whole word",
    "entity not aligned": "what is marked does not lie side by side in the sentence: the entity is refused",
    "unclosed": "a mark before an entity without one after it: refused",
    "unopened": "a mark after an entity without one before it: refused",
    "empty": "marks with nothing between them: refused",
    "overlap": "two entities that share a word: the second one is refused",
}
"""The kinds of problems, and what is done with them."""


def read(answer: str, words: Sequence[str], marks: Sequence[Mark], *, complete: bool = True) -> Reading:
    """The entities that an answer marks, as spans of the sentence.

    Args:
        answer: Any text.
        words: The sentence's words.
        marks: The marks that the prompt asked for.
        complete: Whether the model ended the answer itself.
    """
    problems: Counter[str] = Counter()
    if not complete:
        problems["cut"] += 1
    sentence = _Letters.of(words)
    copy, entities = _scan(answer, sentence.text, marks, problems)
    if copy.text == sentence.text:
        begins: Sequence[int | None] = range(len(sentence.text))
        ends = begins
    else:
        begins, ends, copied = _align(copy, sentence)
        if copied < LEAST_COPIED:
            return Reading("refused", (), {"no copy": 1} | ({"cut": 1} if not complete else {}))
        problems["words changed, left out or added"] += 1
    found: list[Found] = []
    for entity in entities:
        span = _span(entity, begins, ends, sentence, problems)
        if span is None:
            continue
        if found and span.start <= found[-1].span.end:
            problems["overlap"] += 1
            continue
        found.append(Found(span, entity.start, entity.end))
    # Only what there is.
    problems = +problems
    return Reading("repaired" if problems else "faithful", tuple(found), dict(problems))


class _Entity(NamedTuple):
    """Letters ``first`` to ``after - 1`` of a copy, and the range of the answer's characters with the marks."""

    first: int
    after: int
    label: str
    start: int
    end: int


@dataclass(frozen=True)
class _Letters:
    """A text without white space, and the places where its words begin."""

    text: str
    starts: tuple[int, ...]

    @classmethod
    def of(cls, words: Sequence[str]) -> _Letters:
        bare = ["".join(word.split()) for word in words]
        return cls("".join(bare), tuple(accumulate(map(len, bare[:-1]), initial=0)) if bare else ())

    def word(self, letter: int) -> int:
        return bisect_right(self.starts, letter) - 1

    def pieces(self) -> list[tuple[int, int]]:
        """Ranges of runs of letters and digits, and of every other character; none goes over a word's edge."""
        edges = [*self.starts, len(self.text)]
        return [
            (match.start(), match.end())
            for index, start in enumerate(self.starts)
            for match in _PIECE.finditer(self.text, start, edges[index + 1])
        ]


_PIECE = re.compile(r"\w+|\W")


def _scan(answer: str, sentence: str, marks: Sequence[Mark], problems: Counter[str]) -> tuple[_Letters, list[_Entity]]:
    """Parts an answer into its letters and its entities.

    A mark that the sentence itself has at this place is text, unless it can close an entity.
    """
    openers, closers = ({getattr(mark, side): mark.label for mark in marks} for side in ("before", "after"))
    pattern = re.compile("|".join(map(re.escape, sorted([*openers, *closers], key=len, reverse=True))))
    letters: list[str] = []
    starts: list[int] = []
    entities: list[_Entity] = []
    opened: tuple[int, str, int] | None = None
    gap = True
    position = 0
    while position < len(answer):
        match = pattern.match(answer, position)
        mark = match[0] if match else ""
        can_close = mark in closers and opened is not None and opened[0] < len(letters)
        if not mark or (not can_close and sentence.startswith(mark, len(letters))):
            text = mark or answer[position]
            if text.isspace():
                gap = True
            else:
                if gap:
                    starts.append(len(letters))
                letters += text
                gap = False
            position += len(text)
            continue
        gap = True
        after = position + len(mark)
        if mark in openers:
            problems["unclosed"] += opened is not None
            opened = (len(letters), openers[mark], position)
        else:
            label = closers[mark]
            if opened is None:
                problems["unopened"] += 1
            elif opened[1] != label:
                problems["unclosed"] += 1
            elif opened[0] == len(letters):
                problems["empty"] += 1
            else:
                entities.append(_Entity(opened[0], len(letters), label, opened[2], after))
            opened = None
        position = after
    problems["unclosed"] += opened is not None
    return _Letters("".join(letters), tuple(starts)), entities


def _align(copy: _Letters, sentence: _Letters) -> tuple[list[int | None], list[int | None], float]:
    """Where letters of a copy are in the sentence, and the share of the sentence's letters that the copy has.

    Runs of equal pieces are aligned (Ratcliff and Obershelp 1988); as many pieces in place of others between two equal
    runs are taken for these, each for its own.

    Returns:
        For each letter of the copy the sentence's letter if an entity begins with it, and if one ends with it; None
        where that is unknown.
    """
    ours, theirs = sentence.pieces(), copy.pieces()
    matcher = SequenceMatcher(
        None,
        [sentence.text[start:end] for start, end in ours],
        [copy.text[start:end] for start, end in theirs],
        autojunk=False,
    )
    begins: list[int | None] = [None] * len(copy.text)
    ends = list(begins)
    copied = 0
    for kind, first, after, copy_first, copy_after in matcher.get_opcodes():
        if after - first != copy_after - copy_first:
            continue
        for (start, end), (copy_start, copy_end) in zip(ours[first:after], theirs[copy_first:copy_after], strict=True):
            # Of a changed piece only its two ends are known.
            begins[copy_start], ends[copy_end - 1] = start, end - 1
            if kind == "equal":
                begins[copy_start:copy_end] = ends[copy_start:copy_end] = range(start, end)
                copied += end - start
    return begins, ends, copied / len(sentence.text)


def _span(
    entity: _Entity,
    begins: Sequence[int | None],
    ends: Sequence[int | None],
    sentence: _Letters,
    problems: Counter[str],
) -> Span | None:
    first, last = begins[entity.first], ends[entity.after - 1]
    if first is None or last is None or last < first:
        problems["entity not aligned"] += 1
        return None
    start, end = sentence.word(first), sentence.word(last)
    after = sentence.starts[end + 1] if end + 1 < len(sentence.starts) else len(sentence.text)
    problems["inside a word"] += sentence.starts[start] != first or after != last + 1
    return Span(start, end, entity.label)
