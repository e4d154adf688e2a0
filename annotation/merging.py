"""From what annotators did to one checked annotation for each task, with an account of what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from annotation.labelling import Labelling
from annotation.offsets import code_points
from annotation.regions import annotation, mentions_of, objects, text_of
from common.data.text import Mention
from common.errors import shown
from dataset_generation.formats.offsets import regions_of

_SHOWN = 50
"""Places of a kind that a report lists; all are counted."""


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """What counts as the annotation of a task."""

    annotators: Literal["latest", "majority", "union"] = "latest"
    """If several people annotated a task, take what was saved last, entities that more than half have, or all entities.
    If one annotation is marked as ground truth, it alone counts."""
    accepted_too: bool = False
    """Also count predictions that were turned into annotations in bulk, without anyone looking at them."""


@dataclass
class Report:
    """What was read and what was left out; counts, and for some the tasks."""

    tasks: int = 0
    annotated: int = 0
    entities: int = 0
    no_annotation: int = 0
    skipped: int = 0
    """Tasks that annotators have skipped and none has annotated."""
    empty: int = 0
    """Annotated tasks in which there is nothing to mark; they are kept."""
    accepted_unseen: int = 0
    """Annotations left out, as they are predictions that nobody looked at."""
    duplicates: int = 0
    """Repeats of an entity in one annotation."""
    two_labels: int = 0
    """Regions with several labels, an entity for each."""
    overlapping: int = 0
    """Entities that share text with another; all are kept here, training takes the longest."""
    other_regions: int = 0
    """Regions that are no labelled text, such as relations."""
    converted: int = 0
    """Regions whose offsets were UTF-16 units."""
    disagreements: int = 0
    """Tasks whose annotations differ."""
    mismatches: int = 0
    """Entities left out: outside the text, another text than they say, or a label that the project does not have."""
    places: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, task: Any, text: str = "") -> None:
        """Counts something of a task and lists it."""
        setattr(self, kind, getattr(self, kind) + 1)
        listed = self.places.setdefault(kind, [])
        if len(listed) < _SHOWN:
            listed.append(f"task {task}{': ' if text else ''}{text}")

    def as_dict(self) -> dict[str, Any]:
        """As stored."""
        return asdict(self)

    def __str__(self) -> str:
        counts = {name: value for name, value in self.as_dict().items() if isinstance(value, int) and value}
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in counts.items()) or "no tasks"


def accepted_unseen(item: Mapping[str, Any]) -> bool:
    """Whether an annotation is a prediction that was made one by an action on many tasks: nobody spent time on it."""
    touched = any(region.get("origin") for region in objects(item.get("result")))
    return item.get("lead_time") is None and item.get("parent_prediction") is not None and not touched


def merge(
    tasks: Iterable[Mapping[str, Any]], labelling: Labelling, options: MergeOptions
) -> tuple[list[dict[str, Any]], Report]:
    """One annotation for each annotated task.

    Returns:
        Tasks in Label Studio's form with one annotation each, and the account of the rest. ``suggested`` of an
        annotation says whether the annotator began with a model's suggestions.
    """
    report = Report()
    tasks, report.converted = code_points(tasks, labelling.field)
    merged = []
    for task in tasks:
        report.tasks += 1
        made = _merged(task, labelling, options, report)
        if made is not None:
            report.annotated += 1
            merged.append(made)
    return merged, report


def _merged(
    task: Mapping[str, Any], labelling: Labelling, options: MergeOptions, report: Report
) -> dict[str, Any] | None:
    number, text = task.get("id"), text_of(task, labelling.field)
    if text is None:
        report.note("mismatches", number, f"data has no text {labelling.field!r}")
        return None
    given = objects(task.get("annotations"))
    if not given:
        report.no_annotation += 1
        return None
    kept = [item for item in given if not item.get("was_cancelled")]
    if not kept:
        report.note("skipped", number)
        return None
    if not options.accepted_too:
        seen = [item for item in kept if not accepted_unseen(item)]
        report.accepted_unseen += len(kept) - len(seen)
        kept = seen
    kept = [item for item in kept if item.get("ground_truth")] or kept
    if not kept:
        return None
    readings = [_entities(item, text, number, labelling, report) for item in kept]
    if any(set(entities) != set(readings[0]) for entities in readings[1:]):
        report.note("disagreements", number, f"{len(kept)} annotations")
    entities = _one(kept, readings, options)
    report.entities += len(entities)
    report.empty += not entities
    report.overlapping += sum(_overlaps(entity, entities) for entity in entities)
    suggested = any(_began_with_regions(item, task) for item in kept)
    return {
        "id": number,
        "data": dict(task["data"]),
        "annotations": [annotation(entities, text, labelling) | {"suggested": suggested}],
    }


def _began_with_regions(item: Mapping[str, Any], task: Mapping[str, Any]) -> bool:
    """Whether an annotator was shown suggestions; an empty prediction, such as of a blind task, shows none."""
    if item.get("parent_prediction") is None:
        return False
    shown = shown_prediction(item, task)
    return shown is None or bool(shown.get("result"))


def shown_prediction(item: Mapping[str, Any], task: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The prediction that an annotation began with; None if it is neither in the task nor in the annotation.

    One that has been replaced since lives on in the annotation.
    """
    given = objects(task.get("predictions"))
    stored = next((found for found in given if found.get("id") == item.get("parent_prediction")), None)
    snapshot = item.get("prediction")
    return stored or (snapshot if isinstance(snapshot, Mapping) and snapshot else None)


def _entities(item: Mapping[str, Any], text: str, number: Any, labelling: Labelling, report: Report) -> list[Mention]:
    """The entities of an annotation, each once, under the project's labels."""
    try:
        mentions, bad = mentions_of(item, text)
        regions = regions_of(item)
    except ValueError as error:
        report.note("mismatches", number, str(error))
        return []
    report.other_regions += len(item["result"]) - len(regions)
    several = [value["labels"] for value in regions if isinstance(value, dict) and "labels" in value]
    report.two_labels += sum(isinstance(labels, list) and len(labels) > 1 for labels in several)
    for problem in bad:
        report.note("mismatches", number, problem)
    entities = []
    for mention in mentions:
        label = labelling.label(mention.label)
        if label is None:
            report.note("mismatches", number, f"the project has no label {shown(mention.label)}")
        else:
            entities.append(mention._replace(label=label))
    unique = list(dict.fromkeys(entities))
    report.duplicates += len(entities) - len(unique)
    return sorted(unique)


def _one(
    items: Sequence[Mapping[str, Any]], readings: Sequence[Sequence[Mention]], options: MergeOptions
) -> list[Mention]:
    if options.annotators == "latest":
        latest = max(range(len(items)), key=lambda place: (str(items[place].get("updated_at") or ""), place))
        return list(readings[latest])
    votes = Counter(entity for reading in readings for entity in reading)
    needed = len(readings) / 2 if options.annotators == "majority" else 0
    return sorted(entity for entity, count in votes.items() if count > needed)


def _overlaps(entity: Mention, others: Iterable[Mention]) -> bool:
    return any(other != entity and other.start < entity.end and entity.start < other.end for other in others)
