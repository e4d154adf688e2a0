"""Reads annotations: ``python -m annotation.pull --project Medical``, into a file that every reader of ours knows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict

from annotation.client import Opened, ServerOptions, TaskRecord
from annotation.labelling import Labelling, parse_labelling
from annotation.merging import MergeOptions, Report, merge
from annotation.work import Work, WorkOptions
from common.config import parse, require
from common.files import read_json, write_json, write_json_records
from common.schema import check, read_record
from common.script import run_script
from dataset_generation.formats.base import read_text

logger = logging.getLogger(__name__)

OVERLAP = timedelta(hours=1)
"""What is read again of the time before the newest known change; reading all pages takes less."""
TASKS, ANNOTATED, REPORT = "tasks.json", "annotated.json", "pull_report.json"


class AnnotatedTask(TypedDict):
    """What every task with annotations has; those of JSON_MIN have not."""

    data: dict[str, Any]
    annotations: list[dict[str, Any]]


class ExportedTask(AnnotatedTask):
    """What every task of an export as JSON has."""

    id: int


@dataclass(frozen=True, kw_only=True)
class Config(ServerOptions, WorkOptions, MergeOptions):
    """Read a project's annotations: those new since the last time, or all anew."""

    all: bool = False
    """Read all tasks anew; this also forgets those deleted on the server."""
    export: Path | None = None
    """JSON export to read instead of the server; old exports' offsets, in UTF-16 units, are converted."""
    label_config: Path | None = None
    """Label configuration of the exported project."""

    def __post_init__(self) -> None:
        require((self.export is None) == (self.label_config is None), "--export and --label-config belong together")


def pull(
    project: Opened, work: Work, options: MergeOptions, *, everything: bool
) -> tuple[list[dict[str, Any]], Report]:
    """Brings the work folder's tasks up to date and merges their annotations.

    Returns:
        Annotated tasks, one annotation each, and the account of the others.

    Raises:
        InputError: If the server does not answer, or the folder is another project's.
    """
    work.claim(project.id, project.made)
    file = work.path / TASKS
    known: Any = [] if everything or not file.is_file() else read_record(file, list[TaskRecord])
    stored = {task["id"]: task for task in known}
    since = _since(stored.values())
    read = 0
    for task in project.client.tasks(project.id, changed_since=since):
        stored[task["id"]] = task
        read += 1
    logger.info("%d tasks read", read)
    tasks = [stored[number] for number in sorted(stored)]
    write_json_records(file, tasks)
    return _merge(tasks, project.labelling, work, options)


def _since(stored: Iterable[dict[str, Any]]) -> str | None:
    """From when on changes are read: well before the newest known one.

    A task that was changed while later pages were read has an older time than what those pages had.

    Args:
        stored: The tasks of the last time.

    Returns:
        The time in the only form that the server reads; None if there is none, or a time is written in another form.
    """
    try:
        newest = max((datetime.fromisoformat(task["updated_at"]) for task in stored), default=None)
        return None if newest is None else (newest - OVERLAP).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, TypeError, OverflowError):
        return None


def _merge(
    tasks: Sequence[dict[str, Any]], labelling: Labelling, work: Work, options: MergeOptions
) -> tuple[list[dict[str, Any]], Report]:
    annotated, report = merge(tasks, labelling, options)
    write_json_records(work.path / ANNOTATED, annotated)
    write_json(work.path / REPORT, report.as_dict())
    logger.info("%s", report)
    for kind in ("mismatches", "disagreements"):
        for place in report.places.get(kind, ())[:5]:
            logger.warning("%s: %s", kind, place)
    return annotated, report


def read_export(path: Path, kind: type = ExportedTask) -> list[dict[str, Any]]:
    """The tasks of an export, or with ``AnnotatedTask`` of a file of tasks that no server has numbered.

    Raises:
        InputError: If the file is no list of tasks with their annotations; the message names the record.
    """
    tasks = read_json(path)
    require(isinstance(tasks, list), f"{path}: expected a list of tasks, got {type(tasks).__name__}")
    for number, task in enumerate(tasks):
        check(task, kind, f"{path}: record {number} (counted from 0)")
    return tasks


def main(argv: Sequence[str] | None = None) -> Report:
    """Pulls and returns the account."""
    config = parse(Config, argv)
    work = config.folder
    if config.export is not None and config.label_config is not None:
        labelling = parse_labelling(read_text(config.label_config))
        _, report = _merge(read_export(config.export), labelling, work, config)
    else:
        _, report = pull(config.open(), work, config, everything=config.all)
    logger.info("annotations: %s; account: %s", work.path / ANNOTATED, work.path / REPORT)
    return report


if __name__ == "__main__":
    run_script(main)
