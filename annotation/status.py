"""Where a project stands: ``python -m annotation.status --project Medical``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import httpx

from annotation.client import ServerOptions, annotations_of
from annotation.jobs import JobRecord
from annotation.private import redact
from annotation.serve import BackendOptions
from annotation.work import WorkOptions
from common.config import parse
from common.schema import check
from common.script import run_script


@dataclass(frozen=True, kw_only=True)
class Config(ServerOptions, WorkOptions, BackendOptions):
    """Show a project's tasks, suggestions, versions and trainings."""


class StatusRecord(TypedDict):
    """What the service answers to ``/status``, in so far as it is read."""

    counts: dict[str, int]
    slowest_seconds: dict[str, float]
    jobs: list[JobRecord]


def lines(config: Config) -> Iterator[str]:
    """What there is to say."""
    project, work = config.open(), config.folder
    record, current = project.record, work.current()
    yield (
        f"project {project.id} {record.get('title')!r}: {record.get('task_number')} tasks, "
        f"{record.get('num_tasks_with_annotations')} annotated, {record.get('skipped_annotations_number')} skipped"
    )
    annotations = annotations_of(record)
    yield f"annotations: {annotations}, {max(0, annotations - work.trained())} more than the last training has read"
    yield f"shown: {record.get('model_version') or 'no suggestions'}"
    for version, count in project.client.versions(project.id).items():
        yield f"  {version}: {count} suggestions"
    yield f"in service: {current['version'] if current else 'no version yet'} ({work.path})"
    for path in sorted((work.path / "versions").glob("*.json")):
        yield f"  {path.stem}"
    service = f"service {config.address}"
    try:
        answer = httpx.get(f"{config.address}/status", auth=config.credentials, timeout=5.0)
    except (httpx.HTTPError, httpx.InvalidURL):
        yield f"{service}: does not answer"
        return
    if not answer.is_success:
        yield f"{service}: {answer.status_code} {answer.reason_phrase}"
        return
    try:
        found = answer.json()
        check(found, StatusRecord, service)
    except ValueError:
        yield f"{service}: is not annotation.serve"
        return
    yield f"{service}: {found['counts']}, slowest {found['slowest_seconds']}"
    for job in found["jobs"]:
        yield f"  job {job['job']}: {job['status']} {job.get('message', '')}".rstrip()


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the lines."""
    for line in lines(parse(Config, argv)):
        print(redact(line))


if __name__ == "__main__":
    run_script(main)
