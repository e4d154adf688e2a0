"""What annotators did with suggestions, how long they took, and how far they agree."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import Any

from annotation.labelling import Labelling
from annotation.merging import accepted_unseen, shown_prediction
from annotation.regions import mentions_of, objects, text_of
from common.data.text import Mention

OUTCOMES = ("accepted", "changed", "deleted", "added")
"""Suggestions left as they were, given another label or other edges, removed; and entities that were not suggested."""


@dataclass
class Corrections:
    """Counts over all annotated tasks."""

    outcomes: dict[str, dict[str, Counter[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Counter))
    )
    """By version and label, where a changed suggestion counts for the label that was suggested."""
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of each annotation, by version; without suggestions under ``no suggestions``."""
    pairs: int = 0
    """Pairs of annotations of a task by different people."""
    agreed: int = 0
    """Entities that both have."""
    entities: int = 0
    """Entities of both, added up."""

    @property
    def agreement(self) -> float | None:
        """F1 between annotators over all pairs; None if there are none."""
        return 2 * self.agreed / self.entities if self.entities else None

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "outcomes": {
                version: {label: {name: counts[name] for name in OUTCOMES} for label, counts in sorted(labels.items())}
                for version, labels in sorted(self.outcomes.items())
            },
            "seconds": {
                name: {"annotations": len(values), "median": median(values), "mean": sum(values) / len(values)}
                for name, values in sorted(self.seconds.items())
            },
            "agreement": {"pairs": self.pairs, "f1": self.agreement},
        }


NO_SUGGESTIONS = "no suggestions"


def corrections(tasks: Iterable[Mapping[str, Any]], labelling: Labelling) -> Corrections:
    """Compares each annotation with the prediction that it began with.

    Skipped annotations, ground truth that was imported, and predictions that nobody looked at do not count.
    """
    found = Corrections()
    for task in tasks:
        text, given = text_of(task, labelling.field), objects(task.get("annotations"))
        if text is None:
            continue
        done = [
            item for item in given if not (item.get("was_cancelled") or accepted_unseen(item) or _is_imported(item))
        ]
        for item in done:
            parent = item.get("parent_prediction")
            shown = None if parent is None else shown_prediction(item, task)
            version = NO_SUGGESTIONS if parent is None else str((shown or {}).get("model_version") or "unknown version")
            seconds = item.get("lead_time")
            if isinstance(seconds, int | float) and math.isfinite(seconds):
                found.seconds[version].append(float(seconds))
            if shown is not None:
                _compare(shown, item, text, labelling, found.outcomes[version])
        _agreement(done, text, labelling, found)
    return found


def _is_imported(item: Mapping[str, Any]) -> bool:
    """Whether an annotation is ground truth that came with its task: nobody spent time on it here."""
    return bool(item.get("ground_truth")) and item.get("lead_time") is None


def _named(item: Mapping[str, Any], text: str, labelling: Labelling) -> dict[Mention, str]:
    """The entities of an annotation or prediction, and the id of each one's region."""
    named = {}
    for region in objects(item.get("result")):
        for mention in mentions_of({"result": [region]}, text)[0]:
            label = labelling.label(mention.label)
            if label is not None:
                named[mention._replace(label=label)] = str(region.get("id"))
    return named


def _compare(
    suggested: Mapping[str, Any],
    annotated: Mapping[str, Any],
    text: str,
    labelling: Labelling,
    counts: dict[str, Counter[str]],
) -> None:
    before, after = _named(suggested, text, labelling), _named(annotated, text, labelling)
    for mention in before.keys() & after.keys():
        counts[mention.label]["accepted"] += 1
    added = [mention for mention in sorted(after) if mention not in before]
    for mention in sorted(before.keys() - after.keys()):
        # The same region, or one that shares text with it.
        same = [other for other in added if after[other] == before[mention]]
        near = [other for other in added if other.start < mention.end and mention.start < other.end]
        match = next(iter((*same, *near)), None)
        counts[mention.label]["deleted" if match is None else "changed"] += 1
        if match is not None:
            added.remove(match)
    for mention in added:
        counts[mention.label]["added"] += 1


def _agreement(done: Sequence[Mapping[str, Any]], text: str, labelling: Labelling, found: Corrections) -> None:
    for first, second in combinations(done, 2):
        if first.get("completed_by") == second.get("completed_by"):
            continue
        left, right = (set(_named(item, text, labelling)) for item in (first, second))
        found.pairs += 1
        found.agreed += len(left & right)
        found.entities += len(left) + len(right)
