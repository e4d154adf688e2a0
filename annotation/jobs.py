"""Trainings that the service starts: one at a time, each ``annotation.fit`` in a process of its own.

Asked for by the button Start Training, or by :class:`Every` when enough has been annotated.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from common.engine import ending, last_lines, run_module
from common.errors import InputError
from common.files import write_json
from common.paths import now
from common.schema import read_record

logger = logging.getLogger(__name__)

LOG, RECORD = "log.txt", "job.json"
SETTLE = 5.0
"""Seconds after an annotation until annotations are counted: many that come together are counted once."""
PAUSE = 60.0
"""Seconds after a training until the next may begin by itself."""
UNASKED = 300.0
"""Seconds until annotations are counted though no event has told of any: the server repeats none that got lost."""


class JobRecord(TypedDict):
    """``job.json``."""

    job: str
    status: Literal["waiting", "running", "finished", "failed", "stopped", "interrupted"]
    asked: NotRequired[str]


class Trainer:
    """Runs trainings one after another; while one runs, at most one more waits, however often it is asked for.

    What waited or ran when an earlier service ended can be gone on with: :meth:`take_up`.

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
        self._numbers = sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())
        self._last = max(self._numbers, default=0)

    def start(self) -> tuple[str, bool]:
        """Asks for a training; returns its job and whether that is a new one.

        Raises:
            InputError: If the job's record cannot be written.
        """
        with self._lock:
            waiting = next((name for name, job in self._jobs.items() if job["status"] == "waiting"), None)
            if waiting is not None:
                return waiting, False
            self._last += 1
            name = str(self._last)
            self._jobs[name] = {"job": name, "status": "waiting", "asked": now()}
        self._queue(name)
        return name, True

    def take_up(self) -> str | None:
        """Goes on with the training that waited or ran when the service ended; returns its job, None if there is none.

        Of several it is the last: one training is on all annotations that there are.

        Raises:
            InputError: If the record of a job is something else.
        """
        left = []
        for number in self._numbers:
            path = self.folder / str(number) / RECORD
            if path.is_file():
                record = read_record(path, JobRecord)
                if record["status"] in ("waiting", "running", "stopped"):
                    left.append({**record, "job": str(number)})
        for record in left[:-1]:
            write_json(self.folder / record["job"] / RECORD, record | {"status": "interrupted"})
        if not left:
            return None
        name = left[-1]["job"]
        with self._lock:
            self._jobs[name] = {"job": name, "status": "waiting", "asked": left[-1].get("asked", now())}
        self._queue(name)
        return name

    def _queue(self, name: str) -> None:
        # On disk first: whoever is told that a training waits finds it again after the service was killed.
        try:
            self._note(name)
        except OSError as error:
            with self._lock:
                del self._jobs[name]
            raise InputError(f"{self.folder / name}: {error.strerror or error}") from None
        self.pool.submit(self._run, name)

    @property
    def busy(self) -> bool:
        """Whether a training runs or waits."""
        with self._lock:
            return any(job["status"] in ("waiting", "running") for job in self._jobs.values())

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


class Every:
    """Asks for a training whenever a number of annotations is new since the last one.

    Annotations are counted on the server, not by its events: what was annotated while no service ran counts, and
    nothing counts twice. An event only says that it is time to look.

    Args:
        number: New annotations for which a training is asked.
        count: The annotations that the server has.
        trained: Those that it had when the last training read them.
        trainer: What is asked.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        number: int,
        count: Callable[[], int],
        trained: Callable[[], int],
        trainer: Trainer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.number, self.count, self.trained, self.trainer, self._clock = number, count, trained, trainer, clock
        self._event, self._stop = threading.Event(), threading.Event()
        self._asked = 0
        self._rest = -PAUSE

    def event(self) -> None:
        """Says that something was annotated."""
        self._event.set()

    def look(self) -> None:
        """Counts, unless a training runs, waits or has ended just now; then this is to be done again."""
        if self.trainer.busy:
            self._rest = self._clock() + PAUSE
        if self._clock() < self._rest:
            return
        self._event.clear()
        try:
            found = self.count()
            # A training that has failed is not tried again at once: it would fail again.
            new = found - max(self.trained(), self._asked)
            if new >= self.number:
                job, _ = self.trainer.start()
                self._asked = found
                logger.info("job %s: %d new annotations", job, new)
        except InputError as error:
            logger.warning("no training by itself: %s", error)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Looks at once, and then after each event, in a thread of its own."""
        self._event.set()

        def look_on() -> None:
            self._event.wait(UNASKED)
            while not self._stop.wait(SETTLE):
                self.look()
                self._event.wait(UNASKED)

        def end() -> None:
            self._stop.set()
            self._event.set()

        with in_background(look_on, end):
            yield


@contextlib.contextmanager
def in_background(loop: Callable[[], None], end: Callable[[], None]) -> Iterator[None]:
    """Runs a loop in a thread of its own; on leaving, ``end`` has it end, which is waited for."""
    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end()
        thread.join()
