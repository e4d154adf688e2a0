"""A GLiNER with pretrained encoders and nothing else trained: what the training of a base starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from gliner.config import BiEncoderSpanConfig, UniEncoderSpanConfig
from gliner.model import BiEncoderSpanGLiNER, UniEncoderSpanGLiNER
from transformers import AutoConfig, AutoModel, AutoTokenizer

from common.errors import InputError
from common.models.sources import quiet_transformers

MAX_WIDTH = 12
"""Words of the widest span, as in the published models."""


def fresh_gliner(kind: str, folder: Path, name: str, **settings: Any) -> BiEncoderSpanGLiNER | UniEncoderSpanGLiNER:
    """A span-level GLiNER as wide as its encoder, random behind it; a bi-encoder reads text and labels by a copy each.

    Args:
        kind: ``bi`` or ``cross``.
        folder: Of the encoder: configuration, tokenizer, weights.
        name: What the model's configuration calls the encoder, a place on no machine.
        settings: Of gliner's configuration, where they are not gliner's own defaults.

    Raises:
        InputError: If the encoder's weights are not whole.
        OSError: Or whatever else transformers raises of files that are no encoder.
    """
    with quiet_transformers():
        gliner = _built(kind, folder, settings)
    # The encoders were loaded from a folder of this machine.
    gliner.config.model_name = gliner.config.encoder_config._name_or_path = name
    if kind == "bi":
        gliner.config.labels_encoder = gliner.config.labels_encoder_config._name_or_path = name
    return gliner


def _built(kind: str, folder: Path, settings: dict[str, Any]) -> Any:
    _check_weights(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    width = AutoConfig.from_pretrained(folder).hidden_size
    shape = {"max_width": MAX_WIDTH, "hidden_size": width, "model_name": str(folder), **settings}
    gliner: Any
    if kind == "bi":
        config = BiEncoderSpanConfig(**shape, labels_encoder=str(folder))
        gliner = BiEncoderSpanGLiNER(config, tokenizer=tokenizer, backbone_from_pretrained=True)
    else:
        config = UniEncoderSpanConfig(**shape)
        gliner = UniEncoderSpanGLiNER(config, tokenizer=tokenizer, backbone_from_pretrained=True)
        tokenizer.add_tokens([gliner.config.ent_token, gliner.config.sep_token], special_tokens=True)
        gliner.resize_embeddings()
    return gliner


def _check_weights(folder: Path) -> None:
    """Refuses an encoder whose file lacks weights: transformers would fill gaps at random."""
    with torch.random.fork_rng(devices=[]):
        model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    # GLiNER reads words, so nothing of it goes through a pooler of whole texts.
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        size = len(model.state_dict())
        raise InputError(f"encoder {folder.name}: lacks {len(missing)} of {size} tensors, such as {missing[0]}")
