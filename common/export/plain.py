"""Writes a checkpoint as a folder that ``GLiNER.from_pretrained`` loads without our code."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from common.checkpoint import ADAPTATION_FILE, Checkpoint
from common.data.dataset import Sentence
from common.export.card import model_card
from common.export.checks import check_free
from common.files import write_json, write_text
from common.spec import variant_text
from common.training.run_folder import refusals_of

logger = logging.getLogger(__name__)


def thresholds_of(model: Any) -> dict[str, float]:
    """The threshold of each label text, the one for all types where a type has none of its own."""
    texts = zip(model.labels.names, model.label_texts, strict=True)
    return {text: model.type_thresholds.get(name, model.threshold) for name, text in texts}


def save_plain(
    checkpoint: Checkpoint[Any],
    output: Path,
    *,
    name: str,
    result: dict[str, Any] | None = None,
    data_license: str | None = None,
    test_sentences: list[Sentence] | None = None,
) -> None:
    """Writes the folder: the weights, ``adaptation.json`` that says what to ask the model and how, and a model card.

    Args:
        checkpoint: The trained model; what it adds to its base is merged into it.
        output: Folder to write; appears whole or not at all.
        name: What the model card calls the model: its hub id, or the folder's name.
        result: A result of this checkpoint, for the figures of the model card.
        data_license: Licence of the training data, for the model card.
        test_sentences: If given, ``model.onnx`` is written too, and compared with the model on these sentences.

    Raises:
        InputError: If ``output`` exists and is no empty folder, or the ONNX graph cannot be made.
    """
    output = output.resolve()
    check_free(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    model, record = checkpoint.model, checkpoint.record
    thresholds = thresholds_of(model)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.", suffix=".tmp") as folder:
        temporary = Path(folder) / "plain"
        with refusals_of(output):
            checkpoint.base.gliner.save_pretrained(temporary, safe_serialization=True)
        # safetensors makes the file its owner's alone.
        (temporary / "model.safetensors").chmod((temporary / "gliner_config.json").stat().st_mode)
        graph = None
        if test_sentences is not None:
            from common.export.onnx import REPORT_FILE, write_graph

            graph = write_graph(model, temporary, test_sentences)
            write_json(temporary / REPORT_FILE, graph)
        write_json(
            temporary / ADAPTATION_FILE,
            {
                "approach": record["approach"],
                "variant": variant_text(record["variant"]),
                "base_model": {key: record["base_model"][key] for key in ("name", "revision")},
                "dataset": record["dataset"],
                "labels": dict(zip(checkpoint.labels.names, model.label_texts, strict=True)),
                "threshold": model.threshold,
                "thresholds": thresholds,
            },
        )
        write_text(temporary / "README.md", model_card(checkpoint, thresholds, name, result, data_license, graph))
        # Windows replaces no folder.
        if output.exists():
            output.rmdir()
        temporary.rename(output)
    logger.info("plain GLiNER: %s; its labels and their thresholds: %s", output, thresholds)
