"""Merges a trained SP-GLiNER into a plain GLiNER: ``python -m glinerev.export --checkpoint latest --output exported/plain``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from common.checkpoint import find_checkpoint, load_checkpoint, save_plain
from common.config import parse
from common.script import run_script
from glinerev.model import SPEC, PromptEmbedding


@dataclass(frozen=True)
class Config:
    """Export of an SP-GLiNER checkpoint as a plain GLiNER folder."""

    output: Path
    """Folder to write; must be new or empty."""
    checkpoint: str = "latest"
    """A run folder, or latest: the newest finished or interrupted run."""
    dataset: str | None = None
    """For latest: only runs on this data set."""
    base_model: str | None = None
    """Where the base model is now, if it is no longer where it was in training."""


def export(checkpoint: Path, output: Path, base_model: str | None = None) -> None:
    """Writes a GLiNER folder whose label embedding table has the prompt encoder merged in.

    ``GLiNER.from_pretrained(output)`` loads it without any code of ours and gives the adapted model's scores for the labels
    that it was trained on, and for all others.

    Args:
        checkpoint: A run folder of SP-GLiNER.
        output: Folder to write.
        base_model: Where the base model is now, if not where it was in training.

    Raises:
        InputError: If ``output`` has files already or the checkpoint cannot be loaded.
    """
    loaded = load_checkpoint(SPEC, checkpoint, base_model)
    label_encoder = loaded.base.part("label encoder").model
    embedding: nn.Module = label_encoder.get_input_embeddings()
    if isinstance(embedding, PromptEmbedding):
        label_encoder.set_input_embeddings(embedding.merged())
    save_plain(loaded, output)


def main(argv: Sequence[str] | None = None) -> Path:
    """Exports and returns the folder."""
    config = parse(Config, argv)
    export(find_checkpoint(SPEC, config.checkpoint, config.dataset), config.output, config.base_model)
    return config.output


if __name__ == "__main__":
    run_script(main)
