"""Predicts and sends: ``python -m annotation.push --project Medical --model RUN``.

The way to suggest that needs neither an open port nor any setting of the server. Suggestions of the same version are
the same: those that are there stay, and with them what the server knows of the annotations that began with them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annotation.client import CHUNK, Opened, ServerOptions, chunks
from annotation.regions import objects
from annotation.suggester import ModelOptions, Suggester
from annotation.suggestions import suggestions
from annotation.tasks import document_of
from annotation.work import Work, WorkOptions
from common.config import parse, require, require_share
from common.errors import InputError
from common.script import run_script

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(ServerOptions, ModelOptions, WorkOptions):
    """Send suggestions for a project's tasks, shown at once; existing ones of the same version are not sent again."""

    annotated_too: bool = False
    """Also suggest for tasks that have annotations."""
    blind_fraction: float = 0.0
    """Share of documents whose tasks get no suggestions, now or later: their annotations owe nothing to a model."""
    replace: bool = False
    """Delete this version's suggestions and send all anew; annotations then forget that they began with one."""
    chunk: int = CHUNK
    """Tasks per upload."""

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
    annotated_too: bool = False,
    replace: bool = False,
) -> Pushed:
    """Predicts tasks and stores the predictions under the model's version, which the project then shows.

    Args:
        project: The project.
        suggester: The model.
        tasks: All its tasks.
        blind: Documents whose tasks get no predictions.
        size: Tasks in an upload.
        annotated_too: Whether tasks that have annotations get predictions.
        replace: Whether predictions of this version are deleted first; otherwise they stay.

    Raises:
        InputError: If the server refuses, holds several predictions of the version for a task, or afterwards shows
            another version or holds another number of predictions.
    """
    client, version = project.client, suggester.version(project.labelling)
    wanted = [task for task in tasks if annotated_too or not task.get("total_annotations")]
    seen = [task for task in wanted if document_of(task["data"], task["id"]) not in blind]
    there, have = client.versions(project.id).get(version, 0), sum(_has(task, version) for task in tasks)
    if there != have and not replace:
        raise InputError(
            f"project {project.id}: the server has {there} predictions of {version} for {have} tasks; --replace sends "
            "them anew"
        )
    kept = 0 if replace else there
    todo = [task for task in seen if replace or not _has(task, version)]
    entities, bad, sent = 0, [], 0
    for number, chunk in enumerate(chunks(todo, size)):
        made = suggestions(suggester, chunk, project.labelling)
        bad += [task["id"] for task, item in zip(chunk, made, strict=True) if item.problem]
        body = [
            {"task": task["id"], **item.prediction} for task, item in zip(chunk, made, strict=True) if not item.problem
        ]
        if number == 0 and there and replace:
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
    return Pushed(version, sent, entities, kept, len(wanted) - len(seen), tuple(bad))


def make_blind(project: Opened, work: Work, tasks: list[dict[str, Any]], share: float) -> frozenset[str]:
    """Chooses blind documents among those without annotations; suggestions that their tasks have are deleted."""
    free = [task for task in tasks if not task.get("total_annotations")]
    begun = {document_of(task["data"], task["id"]) for task in tasks if task.get("total_annotations")}
    blind = work.make_blind({document_of(task["data"], task["id"]) for task in free} - begun, share)
    shown = [t for t in free if document_of(t["data"], t["id"]) in blind and objects(t.get("predictions"))]
    if shown:
        project.client.drop_predictions(project.id, [task["id"] for task in shown])
        for task in shown:
            task["predictions"] = []
        logger.info("%d tasks are blind now: their suggestions are deleted", len(shown))
    return blind


def _has(task: Mapping[str, Any], version: str) -> bool:
    return any(item.get("model_version") == version for item in objects(task.get("predictions")))


def main(argv: Sequence[str] | None = None) -> str:
    """Pushes and returns the version."""
    config = parse(Config, argv)
    project, work = config.open(), config.folder
    work.claim(project.id, project.made)
    suggester = config.load(work, project.labelling)
    tasks = list(project.client.tasks(project.id))
    blind = work.blind()
    if config.blind_fraction:
        blind = make_blind(project, work, tasks, config.blind_fraction)
    unknown = suggester.unknown_to(project.labelling)
    if unknown:
        logger.warning("not suggested, as the project has no such labels: %s", ", ".join(unknown))
    if work.current() is None:
        work.set_current({**suggester.record, "version": suggester.version(project.labelling)})
    done = push(
        project, suggester, tasks, blind, config.chunk, annotated_too=config.annotated_too, replace=config.replace
    )
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
