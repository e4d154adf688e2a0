"""What Label Studio asks of a machine-learning backend, without HTTP: six routes, and two of ours.

The answers to all but ``/predict`` come from small values in memory: a model that computes or is trained delays none.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from annotation.labelling import Labelling, parse_labelling
from annotation.regions import NOTHING_FOUND, objects, text_of
from annotation.suggestions import Suggestion, Suggests, suggestions
from annotation.tasks import document_of
from common.errors import InputError

logger = logging.getLogger(__name__)

DEADLINE = 90.0
"""Seconds after which a request is answered with 503: Label Studio gives up at 100, and the next try finds what was
done.
"""
_TOGETHER = 32
"""Tasks that are predicted before another request has its turn."""
_REMEMBERED = 50_000
"""Predictions that are kept for a request that comes again."""


class Answer(NamedTuple):
    """Status and body of an answer."""

    status: int
    body: dict[str, Any]


class Jobs(Protocol):
    """What starts trainings; :class:`annotation.jobs.Trainer`."""

    def start(self) -> tuple[str, bool]:
        """Asks for a training; its job and whether that is a new one."""

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs."""


class Backend:
    """Answers requests; any number of threads may ask at a time.

    Args:
        model: Makes the suggestions; replaced by :meth:`use`.
        jobs: Starts trainings; None if Start Training is not offered.
        blind: Documents whose tasks get empty predictions.
        annotated: Called, quickly, when the server tells of annotations.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        model: Suggests,
        jobs: Jobs | None = None,
        blind: frozenset[str] = frozenset(),
        annotated: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.jobs, self.blind, self.annotated = model, jobs, blind, annotated
        self._clock = clock
        # Who has computed waits at the first lock behind who holds it, so that a long request starves no short one.
        self._next, self._computing = threading.Lock(), threading.Lock()
        self._memory: OrderedDict[tuple[str, str], Suggestion] = OrderedDict()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._versions: dict[str, None] = {}
        self._slowest: dict[str, float] = {}

    def use(self, model: Suggests) -> None:
        """Takes another model from the next request on; a request that is being answered keeps the one it has."""
        self.model = model

    def handle(self, method: str, path: str, body: Any) -> Answer:
        """The answer to a request.

        Args:
            method: GET or POST.
            path: Path without query.
            body: The JSON value of a POST.
        """
        start = self._clock()
        route = path.rstrip("/") or "/"
        found = _ROUTES.get((method, route))
        if found is None:
            known = any(route == name for _, name in _ROUTES)
            return Answer(405 if known else 404, {"error": f"{method} {path}: no such route"})
        if method == "POST" and not isinstance(body, Mapping):
            return Answer(400, {"error": f"{path}: expected a JSON object"})
        try:
            answer = found(self, body)
        except InputError as error:
            answer = Answer(400, {"error": str(error)})
        seconds = self._clock() - start
        with self._lock:
            self._counts[f"{route} {answer.status}"] += 1
            self._slowest[route] = max(seconds, self._slowest.get(route, 0.0))
        return answer

    # -- routes -------------------------------------------------------------------------------------------------------

    def _health(self, _: Any) -> Answer:
        return Answer(200, {"status": "UP"})

    def _setup(self, body: Mapping[str, Any]) -> Answer:
        labelling = _labelling(body.get("schema"))
        return Answer(200, {"model_version": self._version(self.model, labelling)})

    def _version(self, model: Suggests, labelling: Labelling) -> str:
        version = model.version(labelling)
        with self._lock:
            self._versions[version] = None
        return version

    def _known_versions(self, _: Any) -> Answer:
        with self._lock:
            return Answer(200, {"versions": list(self._versions)})

    def _predict(self, body: Mapping[str, Any]) -> Answer:
        start, model = self._clock(), self.model
        tasks, labelling = body.get("tasks"), _labelling(body.get("label_config"))
        if not isinstance(tasks, list):
            raise InputError("/predict: tasks must be a list")
        params = body.get("params")
        context = params.get("context") if isinstance(params, Mapping) else None
        version = self._version(model, labelling)
        keys = [(version, _digest(task, labelling.field)) for task in tasks]
        with self._lock:
            done = {key: self._memory[key] for key in keys if key in self._memory}
        missing = [number for number, key in enumerate(keys) if key not in done]
        for first in range(0, len(missing), _TOGETHER):
            if self._clock() - start > DEADLINE:
                left = len(missing) - first
                return Answer(503, {"error": f"{left} of {len(tasks)} tasks are not done yet: ask again, or use push"})
            numbers = missing[first : first + _TOGETHER]
            with self._turn():
                made = suggestions(model, [tasks[number] for number in numbers], labelling)
            with self._lock:
                for number, item in zip(numbers, made, strict=True):
                    done[keys[number]] = item
                    # What was at fault may not be the next time.
                    if not item.problem:
                        self._memory[keys[number]] = item
                while len(self._memory) > _REMEMBERED:
                    self._memory.popitem(last=False)
        results, bad = [], 0
        for task, key in zip(tasks, keys, strict=True):
            item = done[key]
            bad += bool(item.problem)
            results.append(self._shown(task, item.prediction, context))
        with self._lock:
            self._counts["tasks"] += len(tasks)
            self._counts["bad tasks"] += bad
        return Answer(200, {"results": results})

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One request computes at a time, and the others in between."""
        with self._next:
            self._computing.acquire()
        try:
            yield
        finally:
            self._computing.release()

    def _shown(self, task: Any, prediction: dict[str, Any], context: Any) -> dict[str, Any]:
        """A prediction as it goes out: none for a blind task; beside regions that are being drawn, what is free."""
        data = task.get("data") if isinstance(task, Mapping) else None
        if self.blind and isinstance(data, Mapping) and document_of(data, task.get("id", 0)) in self.blind:
            return prediction | {"result": [], "score": NOTHING_FOUND}
        if not isinstance(context, Mapping):
            return prediction
        drawn = list(_places(context))
        for kind in ("annotations", "drafts") if isinstance(task, Mapping) else ():
            for item in objects(task.get(kind)):
                drawn += _places(item)
        free = [
            region
            for region in prediction["result"]
            if not any(region["value"]["start"] < end and start < region["value"]["end"] for start, end in drawn)
        ]
        return prediction | {"result": free}

    def _webhook(self, body: Mapping[str, Any]) -> Answer:
        action = body.get("action")
        with self._lock:
            self._counts[f"event {action!s:.40}"] += 1
        if self.annotated is not None and isinstance(action, str) and action.startswith("ANNOTATION"):
            self.annotated()
        if action != "START_TRAINING":
            return Answer(200, {})
        if self.jobs is None:
            return Answer(409, {"error": "this service does not train: start it with --approach"})
        job, new = self.jobs.start()
        logger.info("job %s: %s", job, "queued" if new else "is waiting already")
        return Answer(201 if new else 202, {"job": job})

    def _status(self, _: Any) -> Answer:
        with self._lock:
            counts, slowest, versions = dict(self._counts), dict(self._slowest), list(self._versions)
        return Answer(
            200,
            {
                "versions": versions,
                "counts": counts,
                "slowest_seconds": {name: round(seconds, 4) for name, seconds in slowest.items()},
                "jobs": [] if self.jobs is None else self.jobs.jobs(),
            },
        )


_ROUTES: Mapping[tuple[str, str], Callable[[Backend, Any], Answer]] = {
    ("GET", "/"): Backend._health,
    ("GET", "/health"): Backend._health,
    ("POST", "/setup"): Backend._setup,
    ("POST", "/predict"): Backend._predict,
    ("POST", "/webhook"): Backend._webhook,
    ("GET", "/versions"): Backend._known_versions,
    ("GET", "/status"): Backend._status,
}


def _labelling(xml: Any) -> Labelling:
    if not isinstance(xml, str):
        raise InputError("the request holds no label configuration")
    return parse_labelling(xml)


def _digest(task: Any, field: str) -> str:
    """What a prediction depends on beside the version: the text."""
    text = text_of(task, field)
    known = "none" if text is None else f"text {text}"
    return hashlib.sha256(known.encode("utf-8", errors="surrogatepass")).hexdigest()


def _places(item: Mapping[str, Any]) -> Sequence[tuple[int, int]]:
    """Where the regions of an annotation, a draft or a context are."""
    values = [region["value"] for region in objects(item.get("result")) if isinstance(region.get("value"), dict)]
    places = [(value.get("start"), value.get("end")) for value in values]
    return [(start, end) for start, end in places if type(start) is int and type(end) is int]
