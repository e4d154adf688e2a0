"""The work folder of a project: what was read from the server, which documents are held out, which model is served.

<work>/
    project.json          whose folder it is
    tasks.json            tasks with annotations, as the server has them
    annotated.json        one checked annotation for each, in Label Studio's form: any tool of the project reads it
    pull_report.json      what was left out, and where annotators differ
    parts.json            the part of each document: train, validation or held out, for ever
    blind.json            documents whose tasks get no suggestions
    datasets/<content>/   what was trained on
    versions/<version>.json
                          a trained version: its model, its scores, and those of the one before
    current.json          the version that is served; replaced in one step
    jobs/<number>/        trainings that the service has started: log.txt, job.json
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from filelock import FileLock, Timeout

from common.errors import InputError
from common.files import write_json
from common.paths import output_root
from common.schema import Count, Share, read_record

Part = Literal["train", "validation", "held out"]


class CurrentRecord(TypedDict):
    """``current.json``: how the model that is served is loaded."""

    version: str
    model: str
    labels: NotRequired[list[str]]
    threshold: NotRequired[Share | None]
    base_model: NotRequired[str | None]


class VersionRecord(TypedDict):
    """``versions/<version>.json``, in so far as it is read."""

    version: str
    annotations: NotRequired[Count | None]


class ProjectRecord(TypedDict):
    """``project.json``: whose folder it is."""

    project: int
    created: str | None


class BlindRecord(TypedDict):
    """``blind.json``."""

    share: Share
    documents: list[str]


@dataclass(frozen=True, kw_only=True)
class WorkOptions:
    """Where the annotation loop keeps its files."""

    work: Path | None = None
    """Folder of the loop, one per project; if not given, annotation/work in the output root."""

    @property
    def folder(self) -> Work:
        """The work folder."""
        return Work((self.work or output_root() / "annotation" / "work").absolute())


@dataclass(frozen=True)
class Work:
    """Paths and small records of a work folder."""

    path: Path

    def claim(self, project: int, created: str | None) -> None:
        """Makes the folder one project's for ever: documents, versions and parts of two would be mixed.

        Raises:
            InputError: If it is another's.
        """
        file = self.path / "project.json"
        ours = {"project": project, "created": created}
        found = self._record(file, ProjectRecord)
        if found is None:
            write_json(file, ours)
        elif found != ours:
            raise InputError(
                f"{self.path}: is the folder of project {found['project']} (made {found['created']}), this is project "
                f"{project} (made {created}); give another --work"
            )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Only one training at a time.

        Raises:
            InputError: If another process trains.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".fit.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{self.path}: another annotation.fit is at work here") from None
        try:
            yield
        finally:
            lock.release()

    @property
    def current_file(self) -> Path:
        """The pointer to the model that is served."""
        return self.path / "current.json"

    def current(self) -> dict[str, Any] | None:
        """The model that is served; None if there is none yet.

        Raises:
            InputError: If the record is something else.
        """
        return self._record(self.current_file, CurrentRecord)

    def set_current(self, record: dict[str, Any]) -> None:
        """Makes a model the one that is served, in one step."""
        write_json(self.current_file, record)

    def write_version(self, record: dict[str, Any]) -> None:
        """Keeps what is known of a version."""
        write_json(self.path / "versions" / f"{record['version']}.json", record)

    def version(self, name: str) -> dict[str, Any] | None:
        """What is known of a version; None if it was not trained here.

        Raises:
            InputError: If the record is something else.
        """
        return self._record(self.path / "versions" / f"{name}.json", VersionRecord)

    def trained(self) -> int:
        """How many annotations the server had when the last training began; 0 if there was none.

        Raises:
            InputError: If the record of a version is something else.
        """
        records = [self._record(path, VersionRecord) for path in (self.path / "versions").glob("*.json")]
        return max((record.get("annotations") or 0 for record in records), default=0)

    def blind(self) -> frozenset[str]:
        """The documents whose tasks get no suggestions."""
        record = self._record(self.path / "blind.json", BlindRecord)
        return frozenset(record["documents"]) if record else frozenset()

    def make_blind(self, documents: Iterable[str], share: float) -> frozenset[str]:
        """Chooses blind documents among some, beside those that are blind already: once blind, always blind."""
        found = self.blind() | {name for name in documents if rank(name) < share}
        write_json(self.path / "blind.json", {"share": share, "documents": sorted(found)})
        return found

    def parts(self, documents: Iterable[str], held_out: float, validation: float) -> dict[str, Part]:
        """The part of each document. One that has a part keeps it; nothing trained on is ever held out, or the reverse.

        Args:
            documents: Names of documents.
            held_out: Share of new documents that are held out: those of the lowest ranks, the blind ones first.
            validation: Share of the rest that is for validation.
        """
        file = self.path / "parts.json"
        parts: dict[str, Part] = self._record(file, dict[str, Literal["train", "validation", "held out"]]) or {}
        blind, wanted = self.blind(), sorted(set(documents), key=rank)
        new = [name for name in wanted if name not in parts]
        for name in new:
            place = (rank(name) - held_out) / max(1 - held_out, 1e-9)
            parts[name] = "held out" if name in blind or place < 0 else "validation" if place < validation else "train"
        # A handful of documents may leave a part without any: the new one of the next rank goes there.
        for part in ("held out", "validation"):
            spare = [name for name in new if parts[name] == "train"]
            if not any(parts[name] == part for name in wanted) and len(spare) > 1:
                parts[spare[0]] = part
        write_json(file, dict(sorted(parts.items())))
        return {name: parts[name] for name in wanted}

    def _record(self, path: Path, kind: Any) -> Any:
        return read_record(path, kind) if path.is_file() else None


def rank(document: str) -> float:
    """A number in [0, 1) that a document always has: its place in every choice of documents."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:6], "big") / 2**48
