"""Spans written as tags: the inverse of ``tags_to_spans``, which the project itself does not need."""

from __future__ import annotations

from collections.abc import Iterable

from common.data.spans import OUTSIDE, Scheme, Span

SCHEMES: tuple[Scheme, ...] = ("iob1", "iob2", "bioes")


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
