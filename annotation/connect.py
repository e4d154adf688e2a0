"""Registers a running service with a project: ``python -m annotation.connect --project Medical``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from annotation.client import ServerOptions
from annotation.connection import connect
from annotation.private import redact
from annotation.serve import BackendOptions
from common.config import parse
from common.script import run_script

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(ServerOptions, BackendOptions):
    """Register annotation.serve with a project; --host, --port, --user and the password are those of the service."""

    title: str = "adapted model"
    """Name of the backend in the project."""
    interactive: bool = True
    """Also suggest while a region is being drawn (Auto-Annotation)."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Connects and returns what the server says of the backend."""
    config = parse(Config, argv)
    backend = connect(config.open(), config.address, config.title, config.credentials, config.interactive)
    logger.info(
        "%s: %s, version %s", redact(config.address), backend.get("readable_state"), backend.get("model_version")
    )
    logger.info(
        "leave the project's setting to start training on each annotation off; new tasks are suggested for as they are "
        "opened in the label stream"
    )
    return backend


if __name__ == "__main__":
    run_script(main)
