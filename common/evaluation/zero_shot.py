"""How well a model finds types it was not trained on, and how often its own types where those are not annotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.approach import Predictor
from common.config import RuntimeConfig
from common.data.dataset import Dataset, Sentence
from common.data.spans import ScoredSpan, above
from common.device import make_accelerator
from common.evaluation.metrics import METRICS, SpanCounts, count_spans, span_scores
from common.evaluation.predict_split import flat, predict_split
from common.evaluation.thresholds import GRID, best_threshold
from common.models.features import EncodedSplit

HALF = 0.5
"""GLiNER's own threshold."""


@dataclass(frozen=True)
class Answer:
    """What a model found of a corpus's types in its test split."""

    at_half: SpanCounts
    """At a threshold of 0.5."""
    best: SpanCounts
    """At the threshold with the best micro F1 on the corpus's validation split."""
    threshold: float
    """That one."""

    def scores(self) -> dict[str, Any]:
        """As a record keeps them."""
        scores = {place: span_scores(counts) for place, counts in (("at_half", self.at_half), ("best", self.best))}
        found = {place: {name: metric.of(item) for name, metric in METRICS.items()} for place, item in scores.items()}
        return found | {"threshold": self.threshold}


def _predictions(
    model: Any, sentences: Sequence[Sentence], runtime: RuntimeConfig, what: str, threshold: float | None
) -> list[list[ScoredSpan]]:
    accelerator = make_accelerator(runtime)
    model.to(accelerator.device)
    if threshold is not None:
        model.threshold, model.type_thresholds = threshold, {}
    return predict_split(model, EncodedSplit(model.encode(sentences)), runtime, accelerator, what)


def answer(model: Predictor, data: Dataset, runtime: RuntimeConfig) -> Answer:
    """Asks a model with a threshold for the types of a corpus, whose label set it was built for.

    The threshold is chosen on all validation sentences, the counts are of all test sentences.
    """
    types = data.labels.names
    validation = _predictions(model, data.validation, runtime, "validation", float(GRID[0]))
    threshold, _ = best_threshold([item.spans for item in data.validation], validation, types, by="micro_f1")
    test = _predictions(model, data.test, runtime, "test", float(GRID[0]))
    gold = [item.spans for item in data.test]
    at_half, best = (
        count_spans(gold, flat([above(spans, value, {}) for spans in test]), types) for value in (HALF, threshold)
    )
    return Answer(at_half, best, threshold)


def foreign_predictions(
    model: Any, sentences: Sequence[Sentence], types: Sequence[str], runtime: RuntimeConfig
) -> float:
    """Spans of some types that a model finds, for each 100 sentences of a corpus that does not annotate them.

    At the model's own thresholds.
    """
    # Their entities are of types that the model is not asked for.
    unmarked = [replace(sentence, spans=()) for sentence in sentences]
    predictions = _predictions(model, unmarked, runtime, "foreign types", None)
    found = sum(item.span.label in types for spans in predictions for item in spans)
    return 100 * found / len(sentences)
