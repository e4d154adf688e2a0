"""Merges a trained SP-GLiNER into a plain GLiNER: ``python -m glinerev.export --checkpoint latest --output exported/plain``."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from common.checkpoint import find_checkpoint, load_checkpoint
from common.config import parse
from common.errors import InputError
from common.script import run_script
from glinerev.model import SPEC, PromptEmbedding

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Export of an SP-GLiNER checkpoint as a plain GLiNER folder."""

    output: Path
    """Folder to write; must be new or empty."""
    checkpoint: str = "latest"
    """A run folder, or latest: the newest finished run."""
    dataset: str | None = None
    """For latest: only runs on this data set."""


def export(checkpoint: Path, output: Path) -> None:
    """Writes a GLiNER folder whose label embedding table has the prompt encoder merged in.

    ``GLiNER.from_pretrained(output)`` loads it without any code of ours and gives the adapted model's scores for the labels
    that it was trained on, and for all others.

    Args:
        checkpoint: A run folder of SP-GLiNER.
        output: Folder to write.

    Raises:
        InputError: If ``output`` has files already or the checkpoint cannot be loaded.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output {output}: exists and is no empty folder")
    base = load_checkpoint(SPEC, checkpoint).base
    label_encoder = base.part("label encoder").model
    embedding: nn.Module = label_encoder.get_input_embeddings()
    if isinstance(embedding, PromptEmbedding):
        label_encoder.set_input_embeddings(embedding.merged())
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    base.gliner.save_pretrained(temporary, safe_serialization=True)
    if output.exists():
        output.rmdir()
    temporary.rename(output)
    logger.info("plain GLiNER: %s", output)


def main(argv: Sequence[str] | None = None) -> Path:
    """Exports and returns the folder."""
    config = parse(Config, argv)
    export(find_checkpoint(SPEC, config.checkpoint, config.dataset), config.output)
    return config.output


if __name__ == "__main__":
    run_script(main)
