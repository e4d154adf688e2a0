"""The metric: strict exact match of (sentence, start, end, type), per type, micro and macro, with bootstrap intervals.

Counts are kept for each sentence, so that intervals and comparisons resample them, and seeds where there are several.
Legend: N sentences, C types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.config import Metric
from common.data.dataset import Sentence
from common.data.labels import LabelSet
from common.data.spans import Span

N_RESAMPLES = 1000
"""Bootstrap resamples of the interval in a result file."""

N_COMPARED = 10_000
"""Bootstrap resamples of tables and comparisons: 250 of the smallest p-value, 0.0002, would stand :func:`holm`."""

_DRAWN_AT_ONCE = 2_500_000
"""Sentences, in as many resamples as there is room for: 50 MB. Threads of a matrix product wait for each other at its
end, which takes long on a busy machine, so the products are few."""


@dataclass(frozen=True)
class Scores:
    """Precision, recall and F1, each in [0, 1] and 0 where undefined."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class TypeScores(Scores):
    """The scores of one type and its number of gold spans."""

    support: int


@dataclass(frozen=True)
class SpanScores:
    """The scores of a split."""

    micro: Scores
    """From the counts of all types together."""
    macro: Scores
    """Unweighted means over the types that are defined: those with a gold or a predicted span, as in seqeval."""
    per_type: dict[str, TypeScores]
    defined_types: int
    """Types that the macro means are over."""

    def as_dict(self) -> dict[str, object]:
        """As stored in a result file."""
        return asdict(self)


@dataclass(frozen=True)
class SpanCounts:
    """True positives, predicted and gold spans of each sentence and type, each int64 of shape ``(N, C)``."""

    types: tuple[str, ...]
    true_positives: NDArray[np.int64]
    predicted: NDArray[np.int64]
    gold: NDArray[np.int64]

    def __len__(self) -> int:
        """The number of sentences."""
        return len(self.gold)


def count_spans(
    gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]], types: Sequence[str]
) -> SpanCounts:
    """Compares predictions with the gold spans of the same sentences; a span repeated in a sentence counts once.

    Raises:
        ValueError: If the numbers of sentences differ or a span has a type that is not in ``types``.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold sentences but {len(predicted)} predicted ones")
    column = {name: index for index, name in enumerate(types)}
    counts = np.zeros((3, len(gold), len(types)), dtype=np.int64)
    for row, (gold_spans, predicted_spans) in enumerate(zip(gold, predicted, strict=True)):
        gold_set, predicted_set = set(gold_spans), set(predicted_spans)
        for plane, spans in enumerate((gold_set & predicted_set, predicted_set, gold_set)):
            for span in spans:
                if span.label not in column:
                    raise ValueError(f"sentence {row}: type {span.label!r} is not one of {list(types)}")
                counts[plane, row, column[span.label]] += 1
    return SpanCounts(tuple(types), *counts)


Counts = NDArray[np.float64]
"""Numbers of spans, the types on the last axis."""


def _divide(numerator: NDArray[np.float64], denominator: NDArray[Any]) -> NDArray[np.float64]:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def f1_of(true_positives: Counts, predicted: Counts, gold: Counts) -> NDArray[np.float64]:
    """F1 = 2 tp / (predicted + gold), 0 where that is 0 / 0."""
    return _divide(2 * true_positives, predicted + gold)


def _prf(true_positives: Counts, predicted: Counts, gold: Counts) -> NDArray[np.float64]:
    """Precision, recall, F1 stacked on a new first axis."""
    precision, recall = _divide(true_positives, predicted), _divide(true_positives, gold)
    return np.stack([precision, recall, f1_of(true_positives, predicted, gold)])


def _macro(values: NDArray[np.float64], predicted: Counts, gold: Counts) -> NDArray[np.float64]:
    """The mean over the last axis of the types with a gold or a predicted span: 0 / 0 is no score. 0 without any."""
    defined = (predicted + gold) > 0
    return _divide(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


@dataclass(frozen=True)
class F1:
    """A score over spans that something is chosen or compared by."""

    title: str
    """Name in tables and logs."""
    average: Literal["micro", "macro"]
    """Which part of :class:`SpanScores` it is the F1 of."""
    of_counts: Callable[[Counts, Counts, Counts], Counts]
    """From true positives, predicted and gold spans, each of shape ``(..., C)``, to shape ``(...)``."""

    def of(self, scores: SpanScores) -> float:
        """Its value among the scores of a split."""
        found: Scores = getattr(scores, self.average)
        return found.f1


METRICS: dict[Metric, F1] = {
    "micro_f1": F1("micro F1", "micro", lambda *counts: f1_of(*(plane.sum(axis=-1) for plane in counts))),
    "macro_f1": F1("macro F1", "macro", lambda *counts: _macro(f1_of(*counts), *counts[1:])),
}
"""The metrics by their names in settings, result files and CSV tables."""


def span_scores(counts: SpanCounts) -> SpanScores:
    """Micro, macro and per-type scores."""
    totals = [plane.sum(axis=0).astype(float) for plane in (counts.true_positives, counts.predicted, counts.gold)]
    per_type = _prf(*totals)
    micro = _prf(*(total.sum(keepdims=True) for total in totals))[:, 0]
    return SpanScores(
        micro=Scores(*(float(value) for value in micro)),
        macro=Scores(*(float(value) for value in _macro(per_type, *totals[1:]))),
        per_type={
            name: TypeScores(
                precision=float(per_type[0, index]),
                recall=float(per_type[1, index]),
                f1=float(per_type[2, index]),
                support=int(totals[2][index]),
            )
            for index, name in enumerate(counts.types)
        },
        defined_types=int(((totals[1] + totals[2]) > 0).sum()),
    )


def resampled_f1(counts: Sequence[SpanCounts], n_resamples: int, seed: int) -> NDArray[np.float64]:
    """F1 of each run on the same bootstrap samples of sentences, shape ``(runs, metrics, n_resamples)``."""
    n_sentences, n_types = counts[0].gold.shape
    generator = np.random.default_rng(seed)
    # One matrix product for all runs. Single precision is exact here: the sums are whole numbers far below 2 ** 24.
    planes = np.stack([(run.true_positives, run.predicted, run.gold) for run in counts]).astype(np.float32)
    columns = np.moveaxis(planes, 2, 0).reshape(n_sentences, -1)
    result = np.empty((len(counts), len(METRICS), n_resamples))
    at_once = max(1, _DRAWN_AT_ONCE // n_sentences)
    for first in range(0, n_resamples, at_once):
        size = min(at_once, n_resamples - first)
        # How often each sentence is drawn: multinomial weights.
        drawn = generator.integers(n_sentences, size=(size, n_sentences)) + n_sentences * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * n_sentences).reshape(size, n_sentences)
        totals = (weights.astype(np.float32) @ columns).astype(np.float64).reshape(size, len(counts), 3, n_types)
        for row, metric in enumerate(METRICS.values()):
            result[:, row, first : first + size] = metric.of_counts(*np.moveaxis(totals, 2, 0)).T
    return result


def mean_over_drawn_seeds(f1: NDArray[np.float64], seeds: Sequence[int | None]) -> NDArray[np.float64]:
    """The second level of a two-level bootstrap: in each resample the mean over runs that are drawn with replacement.

    All runs keep the same sentences, which they share. Runs of the same seeds are drawn alike, so that a difference
    between two settings is paired by seed where both have the same ones; other seeds are drawn independently.

    Args:
        f1: Of each run on the resampled sentences, shape ``(runs, metrics, n_resamples)``.
        seeds: The seed of each run. One run is all there is to draw.

    Returns:
        Shape ``(metrics, n_resamples)``.
    """
    if len(seeds) == 1:
        return f1[0]
    order = sorted(range(len(seeds)), key=lambda run: seeds[run] or 0)
    generator = np.random.default_rng([seeds[run] or 0 for run in order])
    weights = generator.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=f1.shape[2]) / len(seeds)
    return np.einsum("smb,bs->mb", f1[order], weights)


def interval_of(samples: NDArray[np.float64], level: float = 0.95) -> NDArray[np.float64]:
    """Both ends of the percentile interval (Efron 1979) of bootstrap samples on the last axis, on a new first axis."""
    return np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=-1)


def bootstrap_intervals(
    counts: SpanCounts, *, n_resamples: int = N_RESAMPLES, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of micro and macro F1 of one run over sentences.

    Raises:
        ValueError: If there is no sentence.
    """
    if not len(counts):
        raise ValueError("no sentences to resample")
    low, high = interval_of(resampled_f1([counts], n_resamples, seed)[0], level)
    return {name: (float(low[index]), float(high[index])) for index, name in enumerate(METRICS)}


@dataclass(frozen=True)
class Difference:
    """The F1 of one setting minus that of another on the same sentences, each the mean over its seeds."""

    difference: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    p_value: float
    """Two-sided: twice the share of resamples on the other side of 0, at most 1."""


def paired_bootstrap(
    first: Mapping[int | None, SpanCounts],
    second: Mapping[int | None, SpanCounts],
    *,
    n_resamples: int = N_COMPARED,
    seed: int = 0,
) -> dict[Metric, Difference]:
    """Paired bootstrap of ``first - second`` over sentences (Berg-Kirkpatrick et al. 2012, D12-1091) and seeds.

    Args:
        first: The counts of a setting's runs by seed.
        second: Those of the other setting.
        n_resamples: Bootstrap samples.
        seed: Of the resampling.

    Raises:
        ValueError: If not all runs were scored on the same gold spans.
    """
    runs = [*first.values(), *second.values()]
    if any(run.types != runs[0].types or not np.array_equal(run.gold, runs[0].gold) for run in runs):
        raise ValueError("the runs were not scored on the same sentences, types and gold spans")
    samples = resampled_f1(runs, n_resamples, seed)
    deltas = mean_over_drawn_seeds(samples[: len(first)], list(first))
    deltas = deltas - mean_over_drawn_seeds(samples[len(first) :], list(second))

    def mean(side: Mapping[int | None, SpanCounts], metric: F1) -> float:
        return float(np.mean([metric.of(span_scores(counts)) for counts in side.values()]))

    return {
        name: difference_of(mean(first, metric) - mean(second, metric), deltas[index])
        for index, (name, metric) in enumerate(METRICS.items())
    }


def difference_of(observed: float, deltas: NDArray[np.float64]) -> Difference:
    """A difference with interval and p-value from the differences on bootstrap samples, shape ``(n_resamples,)``."""
    low, high = interval_of(deltas)
    # One is added to both counts, so that a finite number of resamples never proves p = 0 (Davison & Hinkley 1997).
    tail = (1 + min(np.sum(deltas <= 0), np.sum(deltas >= 0))) / (1 + len(deltas))
    return Difference(observed, float(low), float(high), float(min(1.0, 2 * tail)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in their order: bounds the chance of any false finding."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    factors = np.arange(len(p_values), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * np.asarray(p_values)[order]), 1.0)
    return corrected.tolist()


def token_report(
    sentences: Sequence[Sentence], predicted: Sequence[Sequence[Span]], labels: LabelSet
) -> dict[str, dict[str, object]]:
    """Precision, recall and F1 over words, by scikit-learn: each word has the type of the span that it lies in.

    It forgives wrong boundaries, which the span metric does not. ``O`` counts in neither average, nor does a type with
    neither a gold nor a predicted word.

    Args:
        sentences: Sentences with their gold spans.
        predicted: Flat spans predicted for each.
        labels: Entity types.

    Returns:
        ``per_type`` by name, ``micro`` and ``macro``; the support is a number of words.
    """
    from sklearn.metrics import precision_recall_fscore_support

    n_words = [len(sentence.words) for sentence in sentences]
    gold = [c for s, n in zip(sentences, n_words, strict=True) for c in labels.word_classes(s.spans, n)]
    found = [c for spans, n in zip(predicted, n_words, strict=True) for c in labels.word_classes(spans, n)]
    types = list(range(len(labels)))
    defined = sorted({*gold, *found} & {*types}) or types

    def scores(average: str | None) -> Any:
        over = types if average is None else defined
        return precision_recall_fscore_support(gold, found, labels=over, average=average, zero_division=0)

    per_type = zip(labels.names, *(column.tolist() for column in scores(None)), strict=True)
    return {
        "per_type": {
            name: asdict(TypeScores(precision, recall, f1, support))
            for name, precision, recall, f1, support in per_type
        },
        **{average: asdict(Scores(*map(float, scores(average)[:3]))) for average in ("micro", "macro")},
    }
