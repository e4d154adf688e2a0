"""Label Studio over HTTP: the dozen calls that the loop makes, with both kinds of token."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar

import httpx

from annotation.labelling import Labelling, parse_labelling
from annotation.private import read_secret, redact
from common.config import require
from common.errors import InputError
from common.schema import check, check_value

URL_VARIABLE, PROJECT_VARIABLE = "LABEL_STUDIO_URL", "LABEL_STUDIO_PROJECT"
TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"
PAGE = 100
"""Tasks in a page of an answer."""
ROUNDS = 10
"""How often all pages are read, at most, if tasks are deleted meanwhile."""
CHUNK = 500
"""Tasks in an upload, at most: the server stores it while the client waits."""
FRESH = 240.0
"""Seconds for which an access token is used; it lives for 300."""
_TIMEOUT = 120.0
_TRIES = 3
_BUSY = frozenset({502, 503, 504})

T = TypeVar("T")


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """Lists of at most ``size`` items."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


class TaskRecord(TypedDict):
    """What every task of a server has."""

    id: int
    data: dict[str, Any]
    updated_at: str


class Numbered(TypedDict):
    """What every project of a server has."""

    id: int


class _Projects(TypedDict):
    results: list[Numbered]


class _Tasks(TypedDict):
    tasks: list[Any]
    total: int


class _Imported(TypedDict):
    task_count: int


class _Predicted(TypedDict):
    created: int


class _Access(TypedDict):
    access: str


class ServerError(InputError):
    """Label Studio has refused a request."""

    def __init__(self, message: str, status: int, detail: str) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail
        """What it says, without secrets."""


class Client:
    """A connection to a server.

    A legacy token goes with each request. A personal access token is a refresh token: it gets an access token that
    lives for five minutes, and another before that has ended, or when the server no longer takes it.

    Args:
        url: Address of the server.
        token: API token of either kind.
        transport: Stands in for the network.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        url: str,
        token: str,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url.rstrip("/")
        self._token, self._clock = token, clock
        self._access: tuple[str, float] | None = None
        self._http = httpx.Client(base_url=self.url, timeout=_TIMEOUT, transport=transport)

    @property
    def token_kind(self) -> Literal["legacy", "personal"]:
        """A personal token is a JWT: three parts between points."""
        return "personal" if self._token.count(".") == 2 else "legacy"

    def _authorization(self) -> dict[str, str]:
        if self.token_kind == "legacy":
            return {"Authorization": f"Token {self._token}"}
        if self._access is None or self._clock() - self._access[1] > FRESH:
            asked = self._clock()
            answer = self._send("POST", "/api/token/refresh/", {}, {"refresh": self._token}, None)
            self._access = (self._json(answer, "POST", "/api/token/refresh/", _Access)["access"], asked)
        return {"Authorization": f"Bearer {self._access[0]}"}

    def _send(
        self, method: str, path: str, headers: Mapping[str, str], body: Any, params: Mapping[str, Any] | None
    ) -> httpx.Response:
        # Asking again is safe only where nothing is stored.
        tries = _TRIES if method == "GET" else 1
        for attempt in range(1, tries + 1):
            try:
                response = self._http.request(method, path, headers=dict(headers), json=body, params=params)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if attempt == tries or isinstance(error, httpx.InvalidURL):
                    reason = redact(str(error)) or type(error).__name__
                    raise InputError(f"{redact(self.url)}: Label Studio does not answer: {reason}") from None
            else:
                if response.status_code not in _BUSY or attempt == tries:
                    return response
            time.sleep(0.5 * attempt)
        raise AssertionError

    def call(
        self, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None, kind: Any = Any
    ) -> Any:
        """The JSON answer to a request; None if it has no body.

        Args:
            method: HTTP method.
            path: Path on the server.
            body: JSON value to send.
            params: Query.
            kind: What the answer has to be, as for :func:`common.schema.check`.

        Raises:
            InputError: If the server does not answer, or with something else.
            ServerError: If it refuses; messages hold no secret.
        """
        response = self._send(method, path, self._authorization(), body, params)
        if response.status_code == 401 and self._access is not None:
            self._access = None
            response = self._send(method, path, self._authorization(), body, params)
        return self._json(response, method, path, kind)

    def _json(self, response: httpx.Response, method: str, path: str, kind: Any) -> Any:
        where = f"{method} {redact(self.url)}{path}"
        if response.is_success:
            try:
                answer = response.json() if response.content else None
            except ValueError:
                raise InputError(f"{where}: the answer is no JSON; is that Label Studio?") from None
            try:
                check_value(answer, kind, where, "")
            except InputError as error:
                raise InputError(redact(f"{error}; is that Label Studio?")) from None
            return answer
        detail = redact(" ".join(response.text.split())).replace(self._token, "***")[:300]
        way = ""
        if response.status_code == 401:
            way = (
                f" (a {self.token_kind} token was sent; the server may have that kind switched off: "
                "Organization > API tokens settings)"
            )
        raise ServerError(
            f"{where}: {response.status_code} {response.reason_phrase}: {detail}{way}",
            response.status_code,
            detail,
        )

    # -- projects -----------------------------------------------------------------------------------------------------

    def projects(self) -> Iterator[dict[str, Any]]:
        """All projects that the token's user sees."""
        page = 1
        while True:
            params = {"page": page, "page_size": PAGE}
            answer = self.call("GET", "/api/projects/", params=params, kind=_Projects | list[Numbered])
            found = answer["results"] if isinstance(answer, dict) else answer
            yield from found
            if not isinstance(answer, dict) or not answer.get("next"):
                return
            page += 1

    def find_project(self, which: str) -> dict[str, Any] | None:
        """A project by number or title; None if there is none of that title.

        Raises:
            InputError: If several have the title.
            ServerError: If there is none of the number.
        """
        if which.isdecimal():
            return self.call("GET", f"/api/projects/{which}/", kind=Numbered)
        found = [project for project in self.projects() if project.get("title") == which]
        require(len(found) < 2, f"--project {which}: {len(found)} projects have that title; give the number of one")
        return self.find_project(str(found[0]["id"])) if found else None

    # -- tasks --------------------------------------------------------------------------------------------------------

    def tasks(self, project: int, *, changed_since: str | None = None) -> Iterator[dict[str, Any]]:
        """Tasks with their annotations and predictions, each once, in order of their numbers.

        Args:
            project: The project's number.
            changed_since: Only those changed at this time or after it, as the server writes times.

        Raises:
            InputError: If it refuses, or tasks are deleted again and again meanwhile.
        """
        params: dict[str, Any] = {"project": project, "page_size": PAGE, "fields": "all", "ordering": "id"}
        if changed_since is not None:
            item = {
                "filter": "filter:tasks:updated_at",
                "operator": "greater_or_equal",
                "type": "Datetime",
                "value": changed_since,
            }
            params["query"] = json.dumps({"filters": {"conjunction": "and", "items": [item]}})
        page, seen, there, rounds = 1, 0, 0, 1
        given: set[int] = set()
        while True:
            try:
                answer = self.call("GET", "/api/tasks/", params=params | {"page": page}, kind=_Tasks)
            except ServerError as error:
                if page == 1 or error.status != 404 or rounds == ROUNDS:
                    raise
                # The page is no longer there.
                answer = {"tasks": [], "total": 0}
            if answer["total"] < there:
                # Tasks were deleted meanwhile, and those behind them have moved to pages that were read before.
                require(rounds < ROUNDS, f"project {project}: tasks are deleted faster than they are read; try again")
                page, seen, there, rounds = 1, 0, 0, rounds + 1
                continue
            found, there = answer["tasks"], answer["total"]
            for task in found:
                check(
                    task, TaskRecord, f"{redact(self.url)}: task {task.get('id') if isinstance(task, dict) else task}"
                )
                if task["id"] not in given:
                    given.add(task["id"])
                    yield task
            seen += len(found)
            if not found or seen >= there:
                return
            page += 1

    def import_tasks(self, project: int, tasks: list[dict[str, Any]]) -> int:
        """Adds tasks and returns how many."""
        return self.call("POST", f"/api/projects/{project}/import", tasks, kind=_Imported)["task_count"]

    # -- predictions --------------------------------------------------------------------------------------------------

    def versions(self, project: int) -> dict[str, int]:
        """Stored predictions by model version."""
        answer = self.call("GET", f"/api/projects/{project}/model-versions/")
        return {str(name): int(count) for name, count in answer.items()} if isinstance(answer, dict) else {}

    def drop_version(self, project: int, version: str) -> None:
        """Deletes all predictions of a version."""
        self.call("DELETE", f"/api/projects/{project}/model-versions/", {"model_version": version})

    def drop_predictions(self, project: int, tasks: list[int]) -> None:
        """Deletes all predictions of some tasks."""
        selected = {"selectedItems": {"all": False, "included": tasks}}
        action = {"id": "delete_tasks_predictions", "project": project}
        self.call("POST", "/api/dm/actions/", selected, action)

    def add_predictions(self, project: int, predictions: list[dict[str, Any]]) -> int:
        """Stores predictions and returns how many."""
        path = f"/api/projects/{project}/import/predictions"
        return self.call("POST", path, predictions, kind=_Predicted)["created"]

    def change_project(self, project: int, **values: Any) -> dict[str, Any]:
        """Changes settings of a project and returns it."""
        return self.call("PATCH", f"/api/projects/{project}/", values, kind=Numbered)


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Server and project. The API token comes from the environment variable LABEL_STUDIO_API_KEY or a file."""

    url: str | None = None
    """Address of Label Studio; if not given, the environment variable LABEL_STUDIO_URL, else http://localhost:8080."""
    project: str | None = None
    """Number or title of the project; if not given, the environment variable LABEL_STUDIO_PROJECT."""
    token_file: Path | None = None
    """File with the API token; no one else may be able to read it (mode 600)."""

    def client(self) -> Client:
        """The connection.

        Raises:
            InputError: If there is no token, its file can be read by others, or the arguments hold a password.
        """
        if self.url is not None and redact(self.url) != self.url:
            raise InputError(
                f"--url {redact(self.url)}: lists of processes show it; set {URL_VARIABLE} to one with a password"
            )
        url = self.url or os.environ.get(URL_VARIABLE) or "http://localhost:8080"
        require(
            url.startswith(("http://", "https://")), f"--url must begin with http:// or https://, got {redact(url)!r}"
        )
        token = read_secret(TOKEN_VARIABLE, self.token_file, "the API token")
        if token is None:
            raise InputError(f"no API token: set {TOKEN_VARIABLE}, or give --token-file")
        place = self.token_file or TOKEN_VARIABLE
        require(token.isascii() and token.isprintable(), f"{place}: holds characters that no token has")
        try:
            return Client(url, token)
        except httpx.InvalidURL as error:
            raise InputError(f"--url {redact(url)}: {error}") from None

    @property
    def names_project(self) -> bool:
        """Whether a project is named, here or in the environment."""
        return bool(self.project or os.environ.get(PROJECT_VARIABLE))

    @property
    def project_name(self) -> str:
        """Number or title of the project.

        Raises:
            InputError: If there is none.
        """
        name = self.project or os.environ.get(PROJECT_VARIABLE)
        if not name:
            raise InputError(f"which project? give --project NUMBER_OR_TITLE, or set {PROJECT_VARIABLE}")
        return name

    def open(self) -> Opened:
        """The project that is meant.

        Raises:
            InputError: If there is none, or it labels something else than one text.
        """
        client = self.client()
        record = client.find_project(self.project_name)
        if record is None:
            raise InputError(
                f"--project {self.project_name}: no such project; make it with: python -m annotation.setup"
            )
        return Opened(client, record["id"], record, parse_labelling(record.get("label_config") or ""))


def annotations_of(project: Mapping[str, Any]) -> int:
    """How many annotations a project has by its record; skipped ones do not count."""
    found = project.get("total_annotations_number")
    return found if isinstance(found, int) else 0


@dataclass(frozen=True)
class Opened:
    """A project on a server."""

    client: Client
    id: int
    record: Mapping[str, Any]
    labelling: Labelling

    def record_now(self) -> dict[str, Any]:
        """Its record as it is now."""
        return self.client.call("GET", f"/api/projects/{self.id}/", kind=Numbered)

    def annotations(self) -> int:
        """How many annotations it has now."""
        return annotations_of(self.record_now())

    @property
    def made(self) -> str | None:
        """When it was made: with its number what tells it from every other."""
        created = self.record.get("created_at")
        return created if isinstance(created, str) else None
