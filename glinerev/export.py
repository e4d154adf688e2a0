"""Merges a trained SP-GLiNER into a plain GLiNER: ``python -m glinerev.export --checkpoint latest --output exported/plain``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from common.entry import run_export
from common.models.base import Base
from common.script import run_script
from glinerev.model import SPEC, PromptEmbedding


def merge(base: Base) -> None:
    """Puts the prompt encoder into the label embedding table: it depends on the token id alone."""
    label_encoder = base.part("label encoder").model
    embedding: nn.Module = label_encoder.get_input_embeddings()
    if isinstance(embedding, PromptEmbedding):
        label_encoder.set_input_embeddings(embedding.merged())


def main(argv: Sequence[str] | None = None) -> Path:
    """Exports and returns the folder."""
    return run_export(SPEC, argv, merge)


if __name__ == "__main__":
    run_script(main)
