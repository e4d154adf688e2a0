"""Spans, tag schemes, and how tags are read as spans; the only place that knows B, I, O, E and S."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from common.errors import shown

Scheme = Literal["iob1", "iob2", "bioes"]

OUTSIDE = "O"
"""The tag, and the class name, of a word that belongs to no entity."""
PREFIXES = frozenset("BIESLUMW")
"""What stands before a type in tags."""
_IN_BIOES = {"L": "E", "U": "S", "M": "I", "W": "S"}
"""BILOU, BMES and BMEWO are BIOES under other letters."""


class Span(NamedTuple):
    """One entity mention: indices of its first and last **word**, both inclusive (as in GLiNER), and its type."""

    start: int
    end: int
    label: str


class TagError(ValueError):
    """A tag sequence that its scheme does not allow; the message names the word and the tag."""


def split_tag(tag: str, index: int) -> tuple[str, str]:
    """Splits ``B-cell_type`` into prefix and type; ``O`` has the empty type.

    Raises:
        TagError: If the tag belongs to no known scheme; the message names the word, ``index``, and the tag.
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, separator, label = tag.partition("-")
    if not separator or not label.strip() or prefix not in PREFIXES:
        raise TagError(
            f"word {index}: unknown tag {tag[:60]!r} (expected O or B-, I-, E-, S-, L-, U-, M-, W- and a type)"
        )
    return _IN_BIOES.get(prefix, prefix), label


def detect_scheme(sequences: Iterable[Sequence[str]], places: Sequence[str] | None = None) -> Scheme:
    """The tag scheme that a corpus is written in.

    ``E-`` or ``S-`` (``L-``, ``U-``, ``M-``, ``W-``) anywhere means BIOES. Otherwise an ``I-`` that opens an entity
    means IOB1, and a ``B-`` that does not separate two touching entities of a type means IOB2. A corpus with neither
    reads the same in both schemes and counts as IOB2.

    Args:
        sequences: Tags of each sentence.
        places: Name of each sentence in messages; ``record 0``, ``record 1``, ... if not given.

    Raises:
        TagError: If the corpus shows signs of IOB1 and of IOB2; the message says where.
    """
    iob1_sign = iob2_sign = ""
    for number, tags in enumerate(sequences):
        place = places[number] if places else f"record {number}"
        previous_prefix, previous_label = OUTSIDE, ""
        for index, tag in enumerate(tags):
            prefix, label = split_tag(tag, index)
            if prefix in {"E", "S"} or tag.startswith("M"):
                return "bioes"
            touches = previous_prefix != OUTSIDE and previous_label == label
            if prefix == "I" and not touches:
                iob1_sign = iob1_sign or f"{place} word {index} opens an entity with {tag!r}"
            elif prefix == "B" and not touches:
                iob2_sign = iob2_sign or f"{place} word {index} has {tag!r} where IOB1 would have I-"
            previous_prefix, previous_label = prefix, label
    if iob1_sign and iob2_sign:
        raise TagError(f"tags are neither IOB1 nor IOB2: {iob1_sign}, {iob2_sign}")
    return "iob1" if iob1_sign else "iob2"


def tags_to_spans(tags: Sequence[str], scheme: Scheme = "iob2") -> list[Span]:
    """The spans of one tag sequence, in order; types stay as written.

    Raises:
        TagError: If a tag is unknown or not allowed at its place.
    """
    spans: list[Span] = []
    start: int | None = None
    open_label = ""

    def close(end: int) -> None:
        nonlocal start
        if start is not None:
            spans.append(Span(start, end, open_label))
            start = None

    for index, tag in enumerate(tags):
        prefix, label = split_tag(tag, index)
        if scheme != "bioes" and prefix in {"E", "S"}:
            raise TagError(f"word {index}: {tag!r} is not a tag of {scheme.upper()}")
        continues = prefix in {"I", "E"} and start is not None and label == open_label
        if scheme == "bioes" and start is not None and not continues:
            raise TagError(f"word {index}: {tag!r} after an entity {open_label!r} that no E- has ended")
        if continues:
            if prefix == "E":
                close(index)
            continue
        if prefix in {"I", "E"} and scheme != "iob1":
            raise TagError(f"word {index}: {tag!r} continues no entity of its type")
        close(index - 1)
        if prefix != OUTSIDE:
            start, open_label = index, label
            if prefix == "S":
                close(index)
    if scheme == "bioes" and start is not None:
        raise TagError(f"word {len(tags) - 1}: the sentence ends inside an entity {open_label!r} that no E- has ended")
    close(len(tags) - 1)
    return spans


def spans_to_tags(spans: Iterable[Span], n_words: int, scheme: Scheme = "iob2") -> list[str]:
    """The tag sequence of flat spans over ``n_words`` words."""
    tags = [OUTSIDE] * n_words
    previous: Span | None = None
    for span in sorted(spans):
        touches = previous is not None and previous.end + 1 == span.start and previous.label == span.label
        for index in range(span.start, span.end + 1):
            tags[index] = f"I-{span.label}"
        if scheme == "iob2" or (scheme == "iob1" and touches):
            tags[span.start] = f"B-{span.label}"
        elif scheme == "bioes":
            tags[span.start] = f"B-{span.label}"
            tags[span.end] = f"S-{span.label}" if span.start == span.end else f"E-{span.label}"
        previous = span
    return tags


def check_span(span: Span, n_words: int) -> None:
    """Raises ``ValueError`` unless ``0 <= start <= end < n_words``."""
    if not 0 <= span.start <= span.end < n_words:
        raise ValueError(f"span {shown(tuple(span))} is out of range for {n_words} words")


def check_flat(spans: Sequence[Span]) -> None:
    """Raises ``ValueError`` naming the first two spans that share a word; ``spans`` must be sorted."""
    for left, right in pairwise(spans):
        if right.start <= left.end:
            raise ValueError(f"spans overlap: {tuple(left)} and {tuple(right)}")


def touching_pairs(spans: Sequence[Span]) -> list[tuple[Span, Span]]:
    """Pairs of neighbours of one type with no word between them: what IO decoding fuses. ``spans`` must be sorted."""
    return [
        (left, right) for left, right in pairwise(spans) if left.label == right.label and left.end + 1 == right.start
    ]


class ScoredSpan(NamedTuple):
    """A predicted span and the model's confidence in it, in [0, 1]."""

    span: Span
    score: float


def above(spans: Iterable[ScoredSpan], threshold: float, type_thresholds: Mapping[str, float]) -> list[ScoredSpan]:
    """The spans whose score is above the threshold of their type: ``threshold`` for a type that has none of its own."""
    return [item for item in spans if item.score > type_thresholds.get(item.span.label, threshold)]


def without_overlaps(best_first: Iterable[ScoredSpan], n_words: int) -> list[ScoredSpan]:
    """The spans that share no word with one before them, in reading order.

    Args:
        best_first: Spans, those to be preferred first.
        n_words: Words of the sentence.
    """
    taken = bytearray(n_words)
    kept = []
    for item in best_first:
        start, end, _ = item.span
        if not any(taken[start : end + 1]):
            taken[start : end + 1] = b"\1" * (end + 1 - start)
            kept.append(item)
    return sorted(kept)
