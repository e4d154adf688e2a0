"""Kinds of errors: what became of each gold span and each prediction, with counts by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from common.data.spans import Span

ErrorKind = Literal["correct", "type", "boundary", "boundary_and_type", "missed", "spurious"]
KINDS: dict[ErrorKind, tuple[str, str]] = {
    "correct": ("correct", "The same boundaries, the same type."),
    "type": ("wrong type", "The same boundaries, another type."),
    "boundary": ("wrong boundaries", "Both share words and have the same type."),
    "boundary_and_type": ("wrong boundaries and type", "Both share words, and their types differ."),
    "missed": ("missed", "A gold span that shares no word with a prediction."),
    "spurious": ("spurious", "A prediction that shares no word with a gold span."),
}
"""Title and meaning of each kind; the first four from best to worst."""


class Pair(NamedTuple):
    """A gold span and a prediction side by side, or one of them alone."""

    kind: ErrorKind
    gold: int | None
    """Index of the gold span; None if spurious."""
    predicted: int | None
    """Index of the prediction; None if missed."""
    counts_gold: bool
    """Whether the gold span is counted here: each is in one pair, and may be shown in others."""
    counts_predicted: bool
    """Whether the prediction is counted here, as for gold spans."""


def pair_spans(gold: Sequence[Span], predicted: Sequence[Span]) -> list[Pair]:
    """Puts the gold spans and the predictions of one sentence side by side, each counted once.

    Each span takes its partner among those of the other side that share a word with it, greedily: the first kind that
    fits (same boundaries and type: correct; same boundaries: type; same type: boundary; else boundary and type), among
    equals the one that shares most words with it, then the first one. A span without a partner is missed or spurious.
    Two that choose each other are one pair. A prediction whose partner has a better one is a pair of its own, which
    shows the gold span without counting it again.

    The true positives are the correct ones, the false negatives all other gold spans that are counted, and the false
    positives all other predictions that are counted.

    Args:
        gold: Gold spans, none of them twice.
        predicted: Predicted spans, none of them twice.

    Returns:
        A pair for each gold span, in their order, then one for each prediction that those do not count.
    """
    of_gold = [_partner(span, predicted) for span in gold]
    of_predicted = [_partner(span, gold) for span in predicted]
    pairs = []
    for index, (kind, partner) in enumerate(of_gold):
        mutual = partner is not None and of_predicted[partner][1] == index
        pairs.append(Pair(kind or "missed", index, partner, counts_gold=True, counts_predicted=mutual))
    counted = {pair.predicted for pair in pairs if pair.counts_predicted}
    for index, (kind, partner) in enumerate(of_predicted):
        if index not in counted:
            pairs.append(Pair(kind or "spurious", partner, index, counts_gold=False, counts_predicted=True))
    return pairs


def _partner(span: Span, others: Sequence[Span]) -> tuple[ErrorKind | None, int | None]:
    """The kind of a span and the index of its partner, both None if it shares a word with none."""
    best: tuple[int, int, int] | None = None
    for index, other in enumerate(others):
        shared = min(span.end, other.end) - max(span.start, other.start) + 1
        if shared > 0:
            rank = 2 * (span[:2] != other[:2]) + (span.label != other.label)
            best = min(best or (rank, -shared, index), (rank, -shared, index))
    return (None, None) if best is None else (tuple(KINDS)[best[0]], best[2])


@dataclass(frozen=True)
class ErrorReport:
    """What became of the gold spans that no prediction matches, and of the predictions that match none."""

    confusion: dict[str, dict[str, int]]
    """Right boundaries, by gold type and predicted type; the diagonal holds the true positives."""
    boundary: int
    """Missed gold spans that overlap a wrong prediction of their type."""
    type: int
    """Missed gold spans predicted with the right boundaries and another type."""
    boundary_and_type: int
    """Missed gold spans that overlap only predictions of other types, with other boundaries."""
    missed: int
    """Missed gold spans that overlap no prediction."""
    spurious: int
    """Predictions that overlap no gold span."""


def error_report(
    gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]], types: Sequence[str]
) -> ErrorReport:
    """Counts the errors of a split by kind, as :func:`pair_spans` tells them.

    Each missed gold span counts once, by the first kind that fits: type, boundary, boundary and type, missed.
    """
    confusion: dict[str, dict[str, int]] = {name: dict.fromkeys(types, 0) for name in types}
    kinds: Counter[str] = Counter()
    for gold_spans, predicted_spans in zip(gold, predicted, strict=True):
        for pair in pair_spans(gold_spans, predicted_spans):
            if pair.counts_gold or pair.kind == "spurious":
                kinds[pair.kind] += 1
            if pair.kind in ("correct", "type") and pair.gold is not None and pair.predicted is not None:
                confusion[gold_spans[pair.gold].label][predicted_spans[pair.predicted].label] += 1
    return ErrorReport(confusion, **{kind: kinds[kind] for kind in KINDS if kind != "correct"})
