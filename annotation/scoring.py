"""Scores of suggestions against annotations: strict exact match of text, start, end and label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from annotation.labelling import Labelling
from annotation.regions import mentions_of
from annotation.suggestions import Suggests, suggestions

if TYPE_CHECKING:
    from common.evaluation.metrics import SpanCounts


def count(gold: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], labelling: Labelling) -> SpanCounts:
    """Compares annotations, or predictions, of the same tasks.

    Args:
        gold: Tasks of :func:`annotation.merging.merge`.
        found: For each an object with ``result``.
        labelling: Labels of the project.
    """
    from common.data.spans import Span
    from common.evaluation.metrics import count_spans

    def spans(item: Mapping[str, Any], text: str) -> list[Span]:
        # Places of characters instead of words; the metric compares them alike.
        return [Span(*mention) for mention in mentions_of(item, text)[0]]

    texts = [task["data"][labelling.field] for task in gold]
    return count_spans(
        [spans(task["annotations"][0], text) for task, text in zip(gold, texts, strict=True)],
        [spans(item, text) for item, text in zip(found, texts, strict=True)],
        labelling.labels,
    )


def counts_of(model: Suggests, tasks: Sequence[Mapping[str, Any]], labelling: Labelling) -> SpanCounts:
    """What a model suggests for annotated tasks, against their annotations."""
    return count(tasks, [item.prediction for item in suggestions(model, tasks, labelling)], labelling)


def scores(counts: SpanCounts) -> dict[str, Any]:
    """Scores as stored: of all, by label, with 95 % bootstrap intervals over tasks."""
    from common.evaluation.metrics import bootstrap_intervals, span_scores

    intervals = {name: list(interval) for name, interval in bootstrap_intervals(counts).items()}
    return {"tasks": len(counts), **span_scores(counts).as_dict(), "intervals": intervals}


def comparison(new: SpanCounts, old: SpanCounts | None) -> dict[str, Any]:
    """Both models' scores on the same tasks, and the difference, paired by task; ``old`` may be missing."""
    from common.evaluation.metrics import paired_bootstrap

    found: dict[str, Any] = {"new": scores(new)}
    if old is not None:
        found["old"] = scores(old)
        differences = paired_bootstrap({None: new}, {None: old})
        found["difference"] = {name: asdict(difference) for name, difference in differences.items()}
    return found
