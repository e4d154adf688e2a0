"""Tags text with a trained model: ``python -m common.predict --checkpoint RUN --input FILE --output tagged.jsonl``.

A plain GLiNER works too: ``--model FOLDER_OR_HUB_ID --labels chemical disease``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import Device, Precision, RuntimeConfig, parse, require
from common.errors import InputError
from common.files import content_hash
from common.inference.documents import InputOptions, read_documents
from common.inference.output import OutputFormat, check_output, write_tagged
from common.inference.tagger import Tagger, weights_of
from common.registry import spec
from common.script import run_script
from common.training.records import RUN_FILE, find_checkpoint, read_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(InputOptions):
    """Tag text with a trained model or a plain GLiNER."""

    input: str
    """A file, a folder of .txt files, or - for standard input."""
    output: Path
    """A file ending in .jsonl or .conll, or a new folder for BRAT. A killed run resumes where it stopped."""
    output_format: OutputFormat | None = None
    """Format of the output, if its name does not show it."""
    checkpoint: str | None = None
    """A run folder of any approach, or latest: the newest finished or interrupted run of --approach."""
    approach: str | None = None
    """For latest: the approach whose run to use."""
    dataset: str | None = None
    """For latest: only runs on this data set."""
    model: str | None = None
    """A plain GLiNER instead of a checkpoint: folder or hub id[@revision]."""
    labels: tuple[str, ...] = ()
    """Entity types to find, for a plain GLiNER and for approaches that can find types they were not trained on."""
    base_model: str | None = None
    """Where the base model is now, if it has moved since training."""
    threshold: float | None = None
    """Minimum probability of an entity of any type; if not given, the checkpoint's own thresholds."""
    device: Device = "auto"
    """Device; auto: the GPU if there is one."""
    precision: Precision = "auto"
    """Precision; auto: the checkpoint's."""
    batch_size: int = 32
    """Sentences per forward pass."""
    progress: bool = True
    """Show a progress bar with words per second in a terminal or a notebook."""

    def source(self) -> str:
        """The run folder, or the GLiNER.

        Raises:
            InputError: If not exactly one is named, or there is no such run.
        """
        if self.model is not None:
            require(
                self.checkpoint is None and self.approach is None, "--model is in place of --checkpoint and --approach"
            )
            return self.model
        approach = None if self.approach is None else spec(self.approach)
        if approach is not None and not approach.trains:
            raise InputError(f"--approach {approach.name}: nothing is trained, so it has no runs; use --model")
        if self.checkpoint in (None, "latest"):
            if approach is None:
                raise InputError(
                    "which model? --checkpoint RUN, --checkpoint latest --approach NAME, or --model GLINER"
                )
            return str(find_checkpoint(approach, "latest", self.dataset and Path(self.dataset).name))
        path = Path(str(self.checkpoint))
        require((path / RUN_FILE).is_file(), f"--checkpoint {path}: is no run folder, it has no {RUN_FILE}")
        if approach is not None:
            read_run(path, approach)
        return str(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Tags and writes."""
    config = parse(Config, argv)
    form = check_output(config.output, config.output_format)
    documents = read_documents(config.input, config)
    source = config.source()

    runtime = RuntimeConfig(
        precision=config.precision,
        device=config.device,
        eval_batch_size=config.batch_size,
        progress=config.progress,
    )
    tagger = Tagger.load(
        source, labels=config.labels, threshold=config.threshold, base_model=config.base_model, runtime=runtime
    )
    # A model of the same name may have been changed since a run was killed.
    settings: dict[str, Any] = {"model": tagger.name, "weights": content_hash(weights_of(source))}
    settings |= {"precision": tagger.precision, "threshold": tagger.threshold}
    settings |= {"labels": list(tagger.labels), "format": form}
    settings |= {"type_thresholds": tagger.type_thresholds} if tagger.type_thresholds else {}
    n_documents, n_entities = write_tagged(documents, tagger.tag_documents, config.output, form, settings)
    logger.info("%d documents, %d entities by %s: %s", n_documents, n_entities, tagger.name, config.output)


if __name__ == "__main__":
    run_script(main)
