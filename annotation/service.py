"""HTTP for :class:`annotation.backend.Backend`: the standard library's threads, basic authentication, JSON."""

from __future__ import annotations

import base64
import hmac
import json
import logging
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from annotation.backend import Answer, Backend
from annotation.private import redact
from common.errors import InputError

logger = logging.getLogger(__name__)

LARGEST = 64 * 2**20
"""Bytes of a request, at most."""
_LARGEST_UNKNOWN = 2**16
"""Bytes that are read, at most, of a request that does not bring the password."""
_UNKNOWN = Answer(401, {"error": "wrong or no user and password"})
_OTHER_NAME = Answer(
    403, {"error": "without a password, only requests to an IP address or a name without a dot are answered"}
)
_IDLE = 75.0
"""Seconds after which a connection that sends nothing is closed."""


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_private_name(host: str) -> bool:
    """Whether a ``Host`` header has an IP address or a name that no domain of the internet has.

    Such are names without a dot, and ``host.docker.internal``, as Docker calls the machine that it runs on.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        known = bool(name) and ("." not in name or name.endswith((".localhost", ".internal")))
        return known or bool(ip_address(name))
    except ValueError:
        return False


def check_closed(host: str, credentials: tuple[str, str] | None) -> None:
    """Raises ``InputError`` if other machines can reach an address and need no password."""
    if credentials is None and not is_loopback(host):
        raise InputError(
            f"--host {host} can be reached from other machines: give --user and a password, or listen on 127.0.0.1"
        )


def basic(user: str, password: str) -> str:
    """The header of basic authentication."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Service(ThreadingHTTPServer):
    """The service, bound to its port; ``serve_forever`` runs it.

    Args:
        backend: Answers requests.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        credentials: User and password that every request must bring; None asks for none.

    Raises:
        InputError: If the address can be reached from elsewhere and there are no credentials, or it is in use.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, backend: Backend, host: str = "127.0.0.1", port: int = 9090, credentials: tuple[str, str] | None = None
    ) -> None:
        check_closed(host, credentials)
        self.backend = backend
        self.expected = None if credentials is None else basic(*credentials)
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"--host {host} --port {port}: {getattr(error, 'strerror', None) or error}") from None

    @property
    def address(self) -> str:
        """The URL of the service."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the library's signature
        """Clients that hang up are no news."""
        logger.debug("a connection ended in an error", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: Service
    protocol_version = "HTTP/1.1"
    server_version = "annotation"
    sys_version = ""
    timeout = _IDLE
    # Headers and body are two writes, and the second would wait for the other side's acknowledgement.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._send(self._refusal() or self._answer("GET", None))

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return self._refuse(Answer(411, {"error": "a request needs its Content-Length"}))
        if int(length) > LARGEST:
            return self._refuse(Answer(413, {"error": f"a request has at most {LARGEST} bytes; use push"}))
        refusal = self._refusal()
        if refusal and int(length) > _LARGEST_UNKNOWN:
            return self._refuse(refusal)
        data = self.rfile.read(int(length))
        if refusal:
            return self._send(refusal)
        if "Origin" in self.headers:
            # Without a password any page that is open in a browser on this machine could start trainings.
            return self._send(Answer(403, {"error": "requests of web pages are refused"}))
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            return self._send(Answer(400, {"error": "the request is no JSON"}))
        return self._send(self._answer("POST", body))

    def _refusal(self) -> Answer | None:
        """What a request gets that does not bring the password or, if none is asked for, is not meant for this service.

        A web page can have its own domain stand for this machine, and would read answers as its own (DNS rebinding).
        """
        expected = self.server.expected
        if expected is not None:
            given = self.headers.get("Authorization", "")
            return None if hmac.compare_digest(given.encode(), expected.encode()) else _UNKNOWN
        return None if _is_private_name(self.headers.get("Host", "localhost")) else _OTHER_NAME

    def _answer(self, method: str, body: Any) -> Answer:
        start = time.perf_counter()
        path = urlsplit(self.path).path
        answer = self.server.backend.handle(method, path, body)
        tasks = body.get("tasks") if isinstance(body, dict) else None
        n_tasks = f", {len(tasks)} tasks" if isinstance(tasks, list) else ""
        milliseconds = 1000 * (time.perf_counter() - start)
        logger.debug("%s %s%s: %d in %.0f ms", method, redact(path), n_tasks, answer.status, milliseconds)
        if answer.status >= 400:
            logger.warning("%s %s: %d %s", method, redact(path), answer.status, redact(str(answer.body["error"])))
        return answer

    def _refuse(self, answer: Answer) -> None:
        """Answers a request whose body is left unread: the connection cannot be used again."""
        self.close_connection = True
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        body = json.dumps(answer.body, ensure_ascii=False, allow_nan=False).encode("utf-8")
        self.send_response(answer.status)
        if answer.status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="annotation"')
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are logged by :meth:`_answer`, without bodies and headers."""
