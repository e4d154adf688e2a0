"""Writes a label configuration: ``python -m annotation.config --labels Symptom Disease --output labels.xml``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from annotation.labelling import label_config
from annotation.tasks import TEXT, corpus_of, spelling
from common.config import parse, require
from common.files import write_text
from common.script import run_script
from dataset_generation.options import ReadOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(ReadOptions):
    """Write a project's label configuration, from a list of labels or the types of a corpus."""

    output: Path
    """XML file to write, for annotation.setup or a project's settings."""
    labels: tuple[str, ...] = ()
    """Labels, in the order of their hotkeys."""
    source: str | None = None
    """A corpus instead of --labels, as in annotation.tasks; with --types, only these types."""


def main(argv: Sequence[str] | None = None) -> Path:
    """Writes the configuration and returns its file."""
    config = parse(Config, argv)
    require(bool(config.labels) != bool(config.source), "give --labels or --source, one of them")
    labels = config.labels
    if config.source:
        labels = tuple(sorted(spelling(corpus_of(config.source, config)).values()))
    write_text(config.output, label_config(labels, TEXT))
    logger.info("%d labels: %s", len(labels), config.output)
    return config.output


if __name__ == "__main__":
    run_script(main)
