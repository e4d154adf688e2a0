"""Registering the service with a project, and everything that the server leaves behind when it is taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from annotation.client import Numbered, Opened, ServerError
from annotation.private import redact
from annotation.service import basic
from common.errors import InputError

REFUSED_HINT = (
    "Label Studio 1.23.1 and later refuse backends on this machine or a private network. Start it with both\n"
    "  LABEL_STUDIO_ML_BLOCK_LOCAL_IP=false\n"
    "  LABEL_STUDIO_SSRF_PROTECTION_ENABLED=false\n"
    "or use annotation.push, which needs neither."
)


def is_refusal(text: str) -> bool:
    """Whether the server has refused a local backend."""
    return "reserved network address" in text


class Registered(Numbered):
    """What every backend and webhook of a server has."""

    url: str


def backends(project: Opened) -> list[dict[str, Any]]:
    """The backends of a project."""
    return project.client.call("GET", "/api/ml/", params={"project": project.id}, kind=list[Registered])


def webhooks(project: Opened) -> list[dict[str, Any]]:
    """The webhooks of a project."""
    return project.client.call("GET", "/api/webhooks/", params={"project": project.id}, kind=list[Registered])


@dataclass(frozen=True)
class Removed:
    """What was taken away."""

    backends: int
    webhooks: int


def disconnect(project: Opened, address: str) -> Removed:
    """Removes the backends of an address, and the webhooks that the server has made for them and keeps."""
    address = address.rstrip("/")
    ours = [item for item in backends(project) if item["url"].rstrip("/") == address]
    for item in ours:
        project.client.call("DELETE", f"/api/ml/{item['id']}")
    hooks = [item for item in webhooks(project) if item["url"] == f"{address}/webhook"]
    for item in hooks:
        project.client.call("DELETE", f"/api/webhooks/{item['id']}/")
    titles = {item.get("title") for item in ours}
    if titles and project.record_now().get("model_version") in titles:
        # The project would go on asking a backend that it has no more.
        project.client.change_project(project.id, model_version="")
    return Removed(len(ours), len(hooks))


def connect(
    project: Opened, address: str, title: str, credentials: tuple[str, str] | None = None, interactive: bool = True
) -> dict[str, Any]:
    """Registers the service, in place of an earlier registration of the same address.

    The server makes a webhook of its own, which brings no credentials: it gets them here.

    Args:
        project: The project.
        address: URL of the service, as the server reaches it.
        title: Name of the backend, which the project then shows as its source of predictions.
        credentials: User and password of the service.
        interactive: Whether it also suggests while a region is being drawn.

    Returns:
        The backend as the server has it.

    Raises:
        InputError: If the server refuses; nothing is left behind.
    """
    address = address.rstrip("/")
    disconnect(project, address)
    body: dict[str, Any] = {"url": address, "project": project.id, "title": title, "is_interactive": interactive}
    if credentials is not None:
        body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": credentials[0], "basic_auth_pass": credentials[1]}
    try:
        backend = project.client.call("POST", "/api/ml/", body, kind=dict)
    except ServerError as error:
        disconnect(project, address)
        if is_refusal(error.detail):
            raise InputError(f"{redact(address)}: refused as a local address. {REFUSED_HINT}") from None
        raise
    if backend.get("error_message"):
        disconnect(project, address)
        raise InputError(redact(f"{address}: {backend['error_message']}"))
    if credentials is not None:
        for item in webhooks(project):
            if item["url"] == f"{address}/webhook":
                header = {"headers": {"Authorization": basic(*credentials)}}
                project.client.call("PATCH", f"/api/webhooks/{item['id']}/", header)
    project.client.change_project(project.id, model_version=title)
    return backend
