"""Sentences of any length: a model reads long ones in overlapping windows, so nothing is cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.approach import Predictor
from common.data.dataset import Sentence
from common.data.spans import ScoredSpan, Span, without_overlaps

OVERLAP = 16
"""Words that two windows share, but at most half a window; never fewer than the widest span that a model scores."""
LONGEST = 1024
"""Words that are tokenised for one window; a model that reads more gets no more."""


@dataclass(frozen=True, eq=False)
class Window:
    """Words ``first`` to ``after - 1`` of a sentence."""

    sentence: int
    first: int
    after: int
    encoded: Any


def windows_of(model: Predictor, sentences: Sequence[Sequence[str]]) -> list[Window]:
    """The windows of some sentences. Each begins where the model stopped reading the one before, less the overlap."""
    found = []
    waiting = [(number, 0) for number in range(len(sentences))]
    while waiting:
        encoded = model.encode([Sentence(tuple(sentences[n][first : first + LONGEST]), ()) for n, first in waiting])
        rest = []
        for (number, first), item in zip(waiting, encoded, strict=True):
            after = first + item.n_words
            found.append(Window(number, first, after, item))
            if after < len(sentences[number]):
                overlap = max(min(OVERLAP, item.n_words // 2), getattr(model, "max_width", 0))
                rest.append((number, max(first + 1, after - overlap)))
        waiting = rest
    return found


def join(
    windows: Sequence[Window], predictions: Sequence[Sequence[ScoredSpan]], lengths: Sequence[int]
) -> list[list[ScoredSpan]]:
    """The flat spans of each sentence from those of its windows, in order.

    What two windows have found counts once, with its higher score. Of overlapping spans the one with the higher score
    stays; one that ends where its window does, and may go on behind it, gives way to one that another window has seen
    whole.

    Args:
        windows: Windows of all sentences.
        predictions: Flat spans of each window.
        lengths: Words of each sentence.
    """
    # By sentence: whether each span is at an edge in all its windows, and its score.
    candidates: list[dict[Span, tuple[bool, float]]] = [{} for _ in lengths]
    for window, spans in zip(windows, predictions, strict=True):
        of_sentence, length = candidates[window.sentence], lengths[window.sentence]
        for item in spans:
            span = item.span._replace(start=item.span.start + window.first, end=item.span.end + window.first)
            at_edge = span.start == window.first > 0 or span.end + 1 == window.after < length
            before = of_sentence.get(span, (True, 0.0))
            of_sentence[span] = (at_edge and before[0], max(item.score, before[1]))
    return [_flat(of_sentence, length) for of_sentence, length in zip(candidates, lengths, strict=True)]


def _flat(candidates: dict[Span, tuple[bool, float]], length: int) -> list[ScoredSpan]:
    order = sorted(candidates.items(), key=lambda item: (item[1][0], -item[1][1], item[0]))
    return without_overlaps((ScoredSpan(span, score) for span, (_, score) in order), length)
