"""Trainings that the service starts: one at a time, each ``annotation.fit`` in a process of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from common.engine import ending, last_lines, run_module
from common.files import write_json
from common.paths import now

logger = logging.getLogger(__name__)

LOG, RECORD = "log.txt", "job.json"


class Trainer:
    """Runs trainings one after another; while one runs, at most one more waits, however often it is asked for.

    Args:
        folder: Where each job has its folder.
        arguments: Command line of ``annotation.fit``.
        pool: An executor of :func:`common.engine.executor` with one worker.
        ended: Called when a training has ended, before its job counts as over.
    """

    def __init__(self, folder: Path, arguments: Sequence[str], pool: Executor, ended: Callable[[], None]) -> None:
        self.folder, self.arguments, self.pool, self.ended = folder, list(arguments), pool, ended
        self._lock = threading.Lock()
        self._jobs: dict[str, dict[str, Any]] = {}
        numbers = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
        self._last = max(numbers, default=0)

    def start(self) -> tuple[str, bool]:
        """Asks for a training; returns its job and whether that is a new one."""
        with self._lock:
            waiting = next((name for name, job in self._jobs.items() if job["status"] == "waiting"), None)
            if waiting is not None:
                return waiting, False
            self._last += 1
            name = str(self._last)
            self._jobs[name] = {"job": name, "status": "waiting", "asked": now()}
        self.pool.submit(self._run, name)
        return name, True

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs of this service, in order."""
        with self._lock:
            return [dict(job) for job in self._jobs.values()]

    def _note(self, name: str, **values: Any) -> None:
        with self._lock:
            self._jobs[name].update(values)
            record = dict(self._jobs[name])
        write_json(self.folder / name / RECORD, record)

    def _run(self, name: str) -> None:
        log, how, message = self.folder / name / LOG, "failed", ""
        try:
            self._note(name, status="running", started=now())
            status = run_module("annotation.fit", self.arguments, log)
            how = "stopped" if status is None else "finished" if status == 0 else "failed"
            message = "".join(last_lines(log, 1)) or ("" if status is None else ending(status))
            # A training is over when what it has made is in service.
            self.ended()
        except OSError as error:
            message = str(error)
        finally:
            self._note(name, status=how, ended=now(), message=message)
            logger.info("job %s %s: %s", name, how, message)
