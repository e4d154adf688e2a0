"""Predicts and sends: ``python -m annotation.push --project Medical --model RUN``.

The way to suggest that needs neither an open port nor any setting of the server.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annotation.client import CHUNK, Opened, ServerOptions, chunks
from annotation.merging import listed
from annotation.suggester import ModelOptions, Suggester
from annotation.suggestions import suggestions
from annotation.tasks import document_of
from annotation.work import WorkOptions
from common.config import parse, require, require_share
from common.errors import InputError
from common.script import run_script

# Not __name__, which is __main__ when this file runs as a script.
logger = logging.getLogger("annotation.push")


@dataclass(frozen=True, kw_only=True)
class Config(ServerOptions, ModelOptions, WorkOptions):
    """Suggestions for the tasks of a project, shown at once; those of the same version are replaced."""

    annotated_too: bool = False
    """Also for tasks that have annotations."""
    blind_fraction: float = 0.0
    """Share of documents whose tasks get none, now and later: what is annotated there owes nothing to a model."""
    resume: bool = False
    """Keep what is there of this version and send the rest: goes on with a push that was cut off."""
    chunk: int = CHUNK
    """Tasks in an upload."""

    def __post_init__(self) -> None:
        require_share("blind_fraction", self.blind_fraction)
        require(1 <= self.chunk <= CHUNK, f"chunk must be between 1 and {CHUNK}, got {self.chunk}")


@dataclass(frozen=True)
class Pushed:
    """What was sent."""

    version: str
    tasks: int
    entities: int
    kept: int
    """Predictions of the version that were there and stay."""
    blind: int
    """Tasks left without suggestions."""
    bad: tuple[int, ...]
    """Tasks whose text is missing or cannot be tagged."""


def push(
    project: Opened,
    suggester: Suggester,
    tasks: Sequence[dict[str, Any]],
    blind: frozenset[str],
    size: int = CHUNK,
    *,
    resume: bool = False,
) -> Pushed:
    """Predicts tasks and stores the predictions under the model's version, which the project then shows.

    Args:
        project: The project.
        suggester: The model.
        tasks: Its tasks.
        blind: Documents whose tasks get no predictions.
        size: Tasks in an upload.
        resume: Whether predictions of this version stay; otherwise they are replaced.

    Raises:
        InputError: If the server refuses, or shows another version or holds another number of predictions afterwards.
    """
    client, version = project.client, suggester.version(project.labelling)
    seen = [task for task in tasks if document_of(task["data"], task["id"]) not in blind]
    there = client.versions(project.id).get(version, 0)
    kept = there if resume else 0
    todo = [task for task in seen if not (resume and _has(task, version))]
    entities, bad, sent = 0, [], 0
    for number, chunk in enumerate(chunks(todo, size)):
        made = suggestions(suggester, chunk, project.labelling)
        bad += [task["id"] for task, item in zip(chunk, made, strict=True) if item.problem]
        body = [
            {"task": task["id"], **item.prediction} for task, item in zip(chunk, made, strict=True) if not item.problem
        ]
        if number == 0 and there and not resume:
            client.drop_version(project.id, version)
        if body:
            sent += client.add_predictions(project.id, body)
        entities += sum(len(item["result"]) for item in body)
        logger.info("%d of %d tasks", min((number + 1) * size, len(todo)), len(todo))
    if sent + kept:
        shown = client.change_project(project.id, model_version=version).get("model_version")
        stored = client.versions(project.id).get(version, 0)
        if shown != version or stored != sent + kept:
            raise InputError(
                f"project {project.id}: {sent} predictions of {version} were sent to {kept} kept ones; the server has "
                f"{stored} and shows {shown!r}"
            )
    return Pushed(version, sent, entities, kept, len(tasks) - len(seen), tuple(bad))


def _has(task: Mapping[str, Any], version: str) -> bool:
    given = [item for item in listed(task.get("predictions")) if isinstance(item, Mapping)]
    return any(item.get("model_version") == version for item in given)


def main(argv: Sequence[str] | None = None) -> str:
    """Pushes and returns the version."""
    config = parse(Config, argv)
    project, work = config.open(), config.folder
    work.claim(project.id, project.made)
    tasks = [
        task for task in project.client.tasks(project.id) if config.annotated_too or not task.get("total_annotations")
    ]
    blind = work.blind()
    if config.blind_fraction:
        blind = work.make_blind((document_of(task["data"], task["id"]) for task in tasks), config.blind_fraction)
    suggester = config.load(work, project.labelling)
    unknown = suggester.unknown_to(project.labelling)
    if unknown:
        logger.warning("not suggested, as the project has no such labels: %s", ", ".join(unknown))
    if work.current() is None:
        work.set_current({**suggester.record, "version": suggester.version(project.labelling)})
    done = push(project, suggester, tasks, blind, config.chunk, resume=config.resume)
    if done.bad:
        logger.warning("%d tasks got no suggestions, their text is bad: %s", len(done.bad), done.bad[:10])
    kept = f" beside {done.kept} tasks that had them" if done.kept else ""
    logger.info(
        "%s: %d tasks, %d entities%s; %d tasks stay blind; the project shows it now",
        done.version, done.tasks, done.entities, kept, done.blind,
    )  # fmt: skip
    return done.version


if __name__ == "__main__":
    run_script(main)
