"""Runs the whole study: ``python -m common.study --dataset jnlpba bc5cdr --seeds 42 43 44``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.config import parse
from common.script import run_script
from common.study.plan import StudyConfig

if TYPE_CHECKING:
    from common.study.runner import Study

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a study from the command line, or prints its plan.

    Returns:
        The exit status: 1 if a cell failed.
    """
    config = parse(StudyConfig, argv)

    from common.study.runner import Study

    study = Study(config)
    if config.dry_run:
        print(study.outline())
        return 0
    return complete(study)


def complete(study: Study) -> int:
    """Does what is left of a study, and writes its tables.

    Returns:
        The exit status: 1 if a cell failed.
    """
    ended = study.run()
    print(study.summary(ended))
    if study.config.part is None and any(study.results.glob("*.json")):
        from common.tables.write import write_tables

        folder = study.folder / "tables"
        print(write_tables([study.results], folder))
        logger.info("tables and figures: %s", folder)
    return int("failed" in ended.values())


def script() -> None:
    """The command: ends with the exit status of :func:`main`."""
    if status := main():
        raise SystemExit(status)


if __name__ == "__main__":
    run_script(script)
