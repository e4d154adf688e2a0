"""What annotators did with the suggestions: ``python -m annotation.report --project Medical``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotation.client import ServerOptions
from annotation.corrections import OUTCOMES, corrections
from annotation.offsets import code_points
from common.config import parse
from common.files import write_json
from common.script import run_script

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(ServerOptions):
    """Report suggestions accepted, changed, deleted and added, seconds per annotation, and annotator agreement."""

    output: Path | None = None
    """JSON file to write besides the tables on the screen."""


def tables(found: Mapping[str, Any]) -> str:
    """The counts as Markdown."""
    lines = ["| version | label | " + " | ".join(OUTCOMES) + " |", "| --- | --- |" + " ---: |" * len(OUTCOMES)]
    for version, labels in found["outcomes"].items():
        lines += [
            f"| {version} | {label} | " + " | ".join(str(counts[name]) for name in OUTCOMES) + " |"
            for label, counts in labels.items()
        ]
    lines += ["", "| suggestions | annotations | median s | mean s |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {row['annotations']} | {row['median']:.1f} | {row['mean']:.1f} |"
        for name, row in found["seconds"].items()
    ]
    agreement = found["agreement"]
    f1 = "none to compare" if agreement["f1"] is None else f"F1 {agreement['f1']:.3f}"
    return "\n".join([*lines, "", f"Agreement of annotators over {agreement['pairs']} pairs: {f1}."])


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Prints the tables and returns the counts."""
    config = parse(Config, argv)
    project = config.open()
    tasks, _ = code_points(project.client.tasks(project.id), project.labelling.field)
    found = corrections(tasks, project.labelling).as_dict()
    print(tables(found))
    if config.output is not None:
        write_json(config.output, found)
        logger.info("written: %s", config.output)
    return found


if __name__ == "__main__":
    run_script(main)
