"""Takes a service away from a project: ``python -m annotation.disconnect --project Medical``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from annotation.client import ServerOptions
from annotation.connection import Removed, disconnect
from annotation.private import redact
from common.config import parse
from common.script import run_script

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(ServerOptions):
    """Remove a backend and the webhook that the server would leave behind."""

    backend: str = "http://127.0.0.1:9090"
    """URL of the service, as given to annotation.connect."""


def main(argv: Sequence[str] | None = None) -> Removed:
    """Disconnects and returns what was removed."""
    config = parse(Config, argv)
    removed = disconnect(config.open(), config.backend)
    logger.info("%s: %d backends and %d webhooks removed", redact(config.backend), removed.backends, removed.webhooks)
    return removed


if __name__ == "__main__":
    run_script(main)
