"""Looks for what goes wrong with Label Studio: ``python -m annotation.doctor --project Medical``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import httpx

from annotation.client import Client, ServerError, ServerOptions
from annotation.connection import REFUSED_HINT, backends, is_refusal, webhooks
from annotation.labelling import Labelling, label_config
from annotation.merging import MergeOptions, merge
from annotation.private import redact
from annotation.serve import BackendOptions
from annotation.work import WorkOptions
from common.config import parse
from common.errors import InputError
from common.script import run_script

LIMITS: Mapping[str, float] = {"/health": 1.0, "/setup": 3.0}
"""Seconds that Label Studio waits."""


class Finding(NamedTuple):
    """One thing looked at."""

    state: Literal["ok", "note", "bad"]
    what: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Config(ServerOptions, WorkOptions, BackendOptions):
    """Check server, token, project, offsets, backend and its speed; exit status 2 if anything is bad."""


def examine(config: Config) -> Iterator[Finding]:
    """What is found, one after another; what cannot be looked at without something else is left out then."""
    client = config.client()
    try:
        version = client.call("GET", "/api/version", kind=dict)
    except InputError as error:
        yield Finding("bad", "server", str(error))
        return
    release = str(version.get("release") or version.get("label-studio-os-package", {}).get("version") or "unknown")
    yield Finding("ok", "server", f"Label Studio {release} at {client.url}")
    yield from _token(client)
    try:
        project = config.open()
    except InputError as error:
        yield Finding("bad", "project", str(error))
        return
    yield Finding(
        "ok", "project", f"{project.id}: {', '.join(project.labelling.labels)} over ${project.labelling.field}"
    )
    if project.record.get("start_training_on_annotation_update"):
        yield Finding("bad", "project", "trains on each annotation: every save waits for it; switch that off")
    tasks = list(project.client.tasks(project.id))
    yield from _offsets(tasks, project.labelling)
    current = config.folder.current()
    versions = client.versions(project.id)
    shown = str(project.record.get("model_version") or "nothing")
    yield Finding("note", "suggestions", f"shown {shown}; stored {versions or 'none'}")
    if current is not None:
        place = "stored" if current["version"] in versions else "not pushed yet"
        yield Finding("note", "suggestions", f"current version {current['version']}: {place}")
    yield from _backends(config, backends(project), [item["url"] for item in webhooks(project)], project.labelling)


def _token(client: Client) -> Iterator[Finding]:
    yield Finding("ok", "token", f"a {client.token_kind} token, accepted")
    try:
        settings = client.call("GET", "/api/jwt/settings", kind=dict)
    except ServerError:
        return
    yield Finding(
        "note",
        "token",
        f"the server takes personal tokens: {settings.get('api_tokens_enabled')}, "
        f"legacy ones: {settings.get('legacy_api_tokens_enabled')}",
    )


def _offsets(tasks: Sequence[Mapping[str, Any]], labelling: Labelling) -> Iterator[Finding]:
    _, report = merge(tasks, labelling, MergeOptions())
    if report.converted:
        yield Finding("bad", "offsets", f"UTF-16 units in {report.converted} regions; annotation.pull converts them")
    elif report.mismatches:
        yield Finding("bad", "offsets", f"{report.mismatches} entities are wrong: {report.places['mismatches'][:3]}")
    else:
        yield Finding("ok", "offsets", f"code points; {report.entities} entities in {report.annotated} annotated tasks")


def _backends(
    config: Config, found: Sequence[Mapping[str, Any]], hooks: Sequence[str], labelling: Labelling
) -> Iterator[Finding]:
    urls = [item["url"].rstrip("/") for item in found]
    for url, item in zip(urls, found, strict=True):
        error = str(item.get("error_message") or "")
        state: Literal["ok", "bad"] = "ok" if item.get("state") == "CO" else "bad"
        yield Finding(state, "backend", f"{url}: {item.get('readable_state')} {error[:200]}".strip())
        if is_refusal(error) or (state == "bad" and f"{url}/webhook" not in hooks):
            yield Finding("bad", "backend", f"{url}: half registered; annotation.disconnect removes it. {REFUSED_HINT}")
    for hook in hooks:
        if hook.endswith("/webhook") and hook.removesuffix("/webhook") not in urls:
            yield Finding("bad", "backend", f"{hook}: a webhook without its backend; annotation.disconnect removes it")
    yield from measure(config.address, config.credentials, labelling)


def measure(address: str, credentials: tuple[str, str] | None, labelling: Labelling) -> Iterator[Finding]:
    """The service's answers and times against what Label Studio waits for."""
    schema = label_config(labelling.labels, labelling.field)
    try:
        httpx.URL(address)
    except httpx.InvalidURL as error:
        yield Finding("bad", "service", f"{address}: {error}")
        return
    with httpx.Client(base_url=address, auth=credentials, timeout=5.0) as http:
        for path, limit in LIMITS.items():
            start = time.perf_counter()
            try:
                answer = http.get(path) if path == "/health" else http.post(path, json={"schema": schema})
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                yield Finding(
                    "note", "service", f"{address}: no service answers ({type(error).__name__}); push needs none"
                )
                return
            seconds = time.perf_counter() - start
            good = answer.is_success and seconds < limit
            yield Finding(
                "ok" if good else "bad",
                "service",
                f"{address}{path}: {answer.status_code} in {1000 * seconds:.0f} ms; Label Studio waits {limit:.0f} s",
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the findings.

    Raises:
        InputError: If one is bad.
    """
    bad = 0
    for finding in examine(parse(Config, argv)):
        print(f"{finding.state:4}  {finding.what}: {redact(finding.text)}")
        bad += finding.state == "bad"
    if bad:
        raise InputError(f"{bad} of these are bad")


if __name__ == "__main__":
    run_script(main)
