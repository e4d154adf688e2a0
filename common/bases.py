"""GLiNER base models: loading, and access to their parts by the field's names."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from gliner import GLiNER
from gliner.model import BiEncoderSpanGLiNER, UniEncoderSpanGLiNER
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError

from common.data.dataset import Encoder
from common.errors import InputError
from common.files import sha256_file
from common.models.base import Base

logger = logging.getLogger(__name__)


def load_base(source: str, encoder: Encoder, revision: str | None = None) -> Base:
    """Loads a span-level GLiNER model on the CPU in float32.

    Args:
        source: Hub id, folder of a saved GLiNER model, or ``demo-bi`` / ``demo-cross``.
        encoder: The kind that the approach needs.
        revision: Commit of a hub model; its newest if None.

    Raises:
        InputError: If it cannot be found or is of another kind.
    """
    from common.demo_base import DEMO_BASES, demo_base_dir

    location = source
    if source in DEMO_BASES:
        location = str(demo_base_dir(source))
    elif Path(source).is_dir():
        if not (Path(source) / "gliner_config.json").is_file():
            raise InputError(f"base model folder {source!r} has no gliner_config.json, so it holds no GLiNER model")
    elif Path(source).is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise InputError(
            f"base model {source!r} is neither a folder nor a hub id (owner/name) nor one of {sorted(DEMO_BASES)}"
        )
    local = Path(location).is_dir()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            # A bi-encoder has no embeddings to resize, and gliner says so each time.
            warnings.filterwarnings("ignore", message="Resizing embeddings")
            gliner = GLiNER.from_pretrained(
                location, revision=None if local else revision, local_files_only=local, map_location="cpu"
            )
    except (OSError, HfHubHTTPError, SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
        # Whatever a broken file makes gliner, transformers or torch raise, the user's answer is the same.
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"base model {source!r} could not be loaded: {reason}. Without the hub, give a folder of a saved GLiNER model "
            f"or one of {sorted(DEMO_BASES)} as --base-model"
        ) from error
    wanted = BiEncoderSpanGLiNER if encoder == "bi" else UniEncoderSpanGLiNER
    if type(gliner) is not wanted:
        raise InputError(
            f"base model {source!r} is a {type(gliner).__name__}; the {encoder}-encoder approaches need a {wanted.__name__}"
        )
    gliner.float().eval()
    _limit_length(gliner)
    stored_as = source if source in DEMO_BASES or not local else str(Path(source).resolve())
    return Base(gliner, encoder, source, stored_as, _revision(location, local, revision))


def _limit_length(gliner: Any) -> None:
    """Makes the tokenizers cut at the encoders' last position, which some of them do not know."""
    pairs = [(gliner.data_processor.transformer_tokenizer, gliner.config.encoder_config)]
    if getattr(gliner.config, "labels_encoder", None) is not None:
        pairs.append((gliner.data_processor.labels_tokenizer, gliner.config.labels_encoder_config))
    for tokenizer, config in pairs:
        # DeBERTa-v2 has relative positions alone unless its input is biased by absolute ones.
        if getattr(config, "position_biased_input", True):
            tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings)


def _revision(location: str, local: bool, revision: str | None) -> str:
    if local:
        for name in ("model.safetensors", "pytorch_model.bin"):
            if (Path(location) / name).is_file():
                return f"sha256:{sha256_file(Path(location) / name)}"
        raise InputError(f"base model folder {location!r} has no weights file")
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(location, "gliner_config.json", revision=revision)
    # .../snapshots/<commit>/gliner_config.json
    return Path(cached).parent.name if isinstance(cached, str) else "unknown"
