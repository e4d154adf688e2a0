"""Tasks in, one prediction for each out, in order: what push and the live service share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from annotation.labelling import Labelling
from annotation.regions import prediction, text_of
from common.inference import Document, Entity

logger = logging.getLogger(__name__)

_OF_A_TEXT = (ValueError, RuntimeError, LookupError, TypeError, ArithmeticError)
"""What a text can make a tokenizer or a model raise."""


class Suggests(Protocol):
    """A model with versions; :class:`annotation.suggester.Suggester`."""

    def version(self, labelling: Labelling) -> str:
        """Name of what it suggests in a project."""

    def suggest(self, texts: Sequence[str]) -> list[list[Entity]]:
        """The entities of each text."""


class Suggestion(NamedTuple):
    """A prediction, and why it is empty if the task is at fault."""

    prediction: dict[str, Any]
    problem: str = ""


def suggestions(model: Suggests, tasks: Sequence[Any], labelling: Labelling) -> list[Suggestion]:
    """A prediction for each task, from its text alone: annotations and drafts that it may hold are never looked at.

    A task without a text, or with one that cannot be tagged, gets an empty prediction, and the others theirs.
    """
    version = model.version(labelling)
    read = [_read(task, labelling.field) for task in tasks]
    texts = [text for text, problem in read if not problem]
    tagged = iter(_tag(model, texts))
    found = []
    for task, (text, problem) in zip(tasks, read, strict=True):
        entities, problem = (None, problem) if problem else next(tagged)
        if problem:
            number = task.get("id") if isinstance(task, Mapping) else None
            logger.warning("task %s: no suggestions: %s", number, problem)
        found.append(Suggestion(prediction(entities or [], text, labelling, version), problem))
    return found


def _read(task: Any, field: str) -> tuple[str, str]:
    """The text of a task, and what is wrong with it."""
    text = text_of(task, field)
    if text is None:
        return "", f"data has no text {field!r}"
    try:
        Document("task", text)
    except ValueError as error:
        return "", str(error)
    return text, ""


def _tag(model: Suggests, texts: Sequence[str]) -> list[tuple[list[Entity] | None, str]]:
    if not texts:
        return []
    try:
        return [(entities, "") for entities in model.suggest(texts)]
    except _OF_A_TEXT as error:
        if len(texts) == 1:
            return [(None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")]
    # One of them is at fault; the others get theirs.
    middle = len(texts) // 2
    return _tag(model, texts[:middle]) + _tag(model, texts[middle:])
