"""A model's probability thresholds, chosen from validation predictions made at a low threshold.

Overlaps come first: of overlapping spans the most probable one stays, whatever its type, and it is predicted if its
probability is above its type's threshold. Flat decoding takes spans in order of score, so the predictions at any
thresholds are those at a lower one without the spans that do not pass, and one type's threshold does not affect what
another type finds.

Legend: T thresholds of the grid, C types.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.config import Metric
from common.data.spans import ScoredSpan, Span
from common.evaluation.metrics import METRICS, Counts, f1_of

logger = logging.getLogger(__name__)

GRID: NDArray[np.float64] = np.arange(1, 100) / 100
"""The thresholds to choose from."""
LEAST_GOLD = 30
"""Gold spans that a type must have for a threshold of its own: one chosen on fewer fits chance."""


def best_threshold(
    gold: Sequence[Sequence[Span]],
    predicted: Sequence[Sequence[ScoredSpan]],
    types: Sequence[str],
    *,
    by: Metric,
    default: float = 0.5,
    parts: Sequence[tuple[int, Sequence[str]]] = (),
) -> tuple[float, float]:
    """The one threshold of :data:`GRID` with the highest F1.

    Args:
        gold: Gold spans of each sentence.
        predicted: Predictions of the same sentences at the lowest threshold of the grid.
        types: The label set's types.
        by: Which F1.
        default: Taken among equals if it is one of them; else the one next to it is.
        parts: Numbers of sentences and types of the data sets whose sentences these are, one after another: the F1 is
            then the mean over them.

    Returns:
        The threshold and its F1.
    """
    curves, first = [], 0
    for size, own in parts or [(len(gold), types)]:
        part = slice(first, first + size)
        true_positives, found, support = _counts(gold[part], predicted[part], own)
        curves.append(METRICS[by].of_counts(true_positives, found, np.broadcast_to(support, found.shape)))
        first += size
    f1 = np.mean(curves, axis=0)
    chosen = _nearest(f1[:, None], default)[0]
    return float(GRID[chosen]), float(f1[chosen])


def best_type_thresholds(
    gold: Sequence[Sequence[Span]],
    predicted: Sequence[Sequence[ScoredSpan]],
    types: Sequence[str],
    *,
    by: Metric,
    threshold: float,
    least_gold: int = LEAST_GOLD,
) -> dict[str, float]:
    """The thresholds of :data:`GRID` with which the types together have the highest F1.

    Both maxima are exact. Macro F1 is a mean over types, each of which has its own best threshold. Micro F1 is a ratio
    of sums over types, which Dinkelbach's iteration (Management Science 13, 1967) maximises: with F the ratio so far,
    each type takes the threshold with the highest 2 tp - F * predicted, until F rises no more.

    Args:
        gold: Gold spans of each sentence.
        predicted: Predictions of the same sentences at the lowest threshold of the grid.
        types: The label set's types.
        by: Which F1.
        threshold: That of types with too few gold spans; among equals the one next to it is taken.
        least_gold: Gold spans that a type must have for a threshold of its own.

    Returns:
        The threshold of each type that has enough gold spans.
    """
    true_positives, found, support = _counts(gold, predicted, types)
    enough, columns = support >= least_gold, np.arange(len(types))
    common = int(np.argmin(np.abs(GRID - threshold)))

    def chosen(gain: Counts) -> NDArray[np.intp]:
        return np.where(enough, _nearest(gain, threshold), common)

    if METRICS[by].average == "macro":
        rows = chosen(f1_of(true_positives, found, support))
    else:
        rows, score, better = np.full(len(types), common), -1.0, 0.0
        while better > score:
            score = better
            rows = chosen(2 * true_positives - score * found)
            better = float(f1_of(true_positives[rows, columns].sum(), found[rows, columns].sum(), support.sum()))
    return {name: float(GRID[row]) for name, row, own in zip(types, rows, enough, strict=True) if own}


def at_edge(threshold: float, type_thresholds: Mapping[str, float]) -> list[str]:
    """Which thresholds are the first or the last of :data:`GRID`, so that the best one may lie outside."""
    named = {"all types": threshold, **type_thresholds}
    return [f"{value:.2f} of {name}" for name, value in named.items() if value in (GRID[0], GRID[-1])]


def thresholds_text(threshold: float | None, type_thresholds: Mapping[str, float]) -> str:
    """The thresholds for a log or a page: ``0.31 (chemical 0.27, disease 0.44)``."""
    own = ", ".join(f"{name} {value:g}" for name, value in type_thresholds.items())
    return f"{threshold}" + (f" ({own})" if own else "")


def _counts(
    gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[ScoredSpan]], types: Sequence[str]
) -> tuple[Counts, Counts, Counts]:
    """True positives and predictions above each threshold, both of shape ``(T, C)``, and gold spans, ``(C,)``."""
    column = {name: index for index, name in enumerate(types)}
    right: list[list[float]] = [[] for _ in types]
    every: list[list[float]] = [[] for _ in types]
    support = np.zeros(len(types))
    for gold_spans, spans in zip(gold, predicted, strict=True):
        gold_set = set(gold_spans)
        for span in gold_set:
            support[column[span.label]] += 1
        for item in spans:
            every[column[item.span.label]].append(item.score)
            if item.span in gold_set:
                right[column[item.span.label]].append(item.score)
    return _above(right), _above(every), support


def _above(scores: Sequence[Sequence[float]]) -> Counts:
    """How many scores of each type are above each threshold, shape ``(T, C)``."""
    counts = [len(row) - np.searchsorted(np.sort(row), GRID, side="right") for row in scores]
    return np.stack(counts, axis=1).astype(float)


def _nearest(gain: Counts, threshold: float) -> NDArray[np.intp]:
    """Rows of :data:`GRID` with the highest gain in each column ``(T, C)``; of equals the one next to a threshold."""
    best = gain >= gain.max(axis=0) - 1e-9
    return np.where(best, np.abs(GRID - threshold)[:, None], np.inf).argmin(axis=0)
