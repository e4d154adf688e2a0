"""Creates or finds a project and imports tasks: ``python -m annotation.setup --project Medical --tasks tasks.json``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotation.client import Client, Numbered, Opened, ServerOptions, chunks
from annotation.labelling import Labelling, parse_labelling
from annotation.private import redact
from annotation.tasks import UID
from common.config import parse
from common.errors import InputError
from common.files import read_json, unique_keys
from common.script import run_script
from dataset_generation.formats.base import read_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(ServerOptions):
    """Create a project with tasks. What exists stays: the same command again adds only what is missing."""

    label_config: Path | None = None
    """Label configuration of a new project, as written by annotation.config."""
    tasks: Path | None = None
    """Tasks to import, as written by annotation.tasks."""


def read_tasks(path: Path) -> list[dict[str, Any]]:
    """Tasks to import.

    Raises:
        InputError: If the file is no list of tasks, or one has no id of its own; the message names it.
    """
    records = read_json(path, unique_keys)
    if not isinstance(records, list):
        raise InputError(f"{path}: expected a list of tasks, got {type(records).__name__}")
    seen: set[str] = set()
    for number, record in enumerate(records):
        place = f"{path}: record {number} (counted from 0)"
        data = record.get("data") if isinstance(record, dict) else None
        if not isinstance(data, dict):
            raise InputError(f"{place}: a task needs an object data, got {data!r:.80}")
        uid = data.get(UID)
        if not isinstance(uid, str) or not uid:
            raise InputError(f"{place}: data.{UID} must be a text that no other task has, got {uid!r:.80}")
        if uid in seen:
            raise InputError(f"{place}: data.{UID} {uid!r:.80} is there twice")
        seen.add(uid)
    return records


def set_up(client: Client, name: str, label_config: str | None) -> tuple[Opened, bool]:
    """The project of a title or number, made if there is none of the title; and whether it is new.

    Raises:
        InputError: If it is new and has no label configuration, or an existing one labels otherwise.
    """
    wanted = None if label_config is None else parse_labelling(label_config)
    record = client.find_project(name)
    if record is None:
        if label_config is None or wanted is None:
            raise InputError(f"--project {name}: no such project; give --label-config FILE to make it")
        record = client.call("POST", "/api/projects/", {"title": name, "label_config": label_config}, kind=Numbered)
        return Opened(client, record["id"], record, wanted), True
    found = parse_labelling(record.get("label_config") or "")
    if wanted is not None and wanted != found:
        raise InputError(
            f"--label-config: project {record['id']} is labelled differently: it has {_shown(found)}, the file "
            f"{_shown(wanted)}; change the project's settings, or leave the option out"
        )
    return Opened(client, record["id"], record, found), False


def _shown(labelling: Labelling) -> str:
    aliases = "".join(f", alias {alias!r} of {label!r}" for alias, label in labelling.aliases.items())
    tags = f"tags {labelling.from_name!r} over {labelling.to_name!r}"
    return f"{', '.join(labelling.labels)} over ${labelling.field} ({tags}{aliases})"


def import_missing(project: Opened, tasks: Sequence[dict[str, Any]], path: Path | None) -> tuple[int, int]:
    """Imports the tasks of a file that the project does not have; returns their number and that of those that it has.

    Raises:
        InputError: If a task lacks the field that the project labels.
    """
    field = project.labelling.field
    for number, task in enumerate(tasks):
        if not isinstance(task["data"].get(field), str):
            raise InputError(
                f"{path}: record {number} (counted from 0): data has no text {field!r}, which the project labels"
            )
    there = {task["data"].get(UID) for task in project.client.tasks(project.id)}
    missing = [task for task in tasks if task["data"][UID] not in there]
    for chunk in chunks(missing):
        project.client.import_tasks(project.id, chunk)
    return len(missing), len(tasks) - len(missing)


def main(argv: Sequence[str] | None = None) -> int:
    """Sets the project up and returns its number."""
    config = parse(Config, argv)
    name, client = config.project_name, config.client()
    tasks = read_tasks(config.tasks) if config.tasks else []
    text = read_text(config.label_config) if config.label_config else None
    project, is_new = set_up(client, name, text)
    added, kept = import_missing(project, tasks, config.tasks)
    logger.info(
        "project %d %s: %d tasks imported, %d were there; %s/projects/%d/data",
        project.id, "created" if is_new else "found", added, kept, redact(client.url), project.id,
    )  # fmt: skip
    return project.id


if __name__ == "__main__":
    run_script(main)
