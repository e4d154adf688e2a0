"""Base models of GLiNER: a demo base, a folder or the hub. gliner itself is imported when one is loaded."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from huggingface_hub import HfApi, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from common.errors import InputError
from common.files import sha256_file
from common.models.base import Base
from common.models.published import DEFAULT_BASE, DEMO_BASES
from common.spec import BaseSource

logger = logging.getLogger(__name__)


def load_base(source: str, kind: str, revision: str | None = None) -> Base:
    """Loads a span-level GLiNER model on the CPU in float32.

    Args:
        source: Hub id, folder of a saved GLiNER model, or ``demo-bi`` / ``demo-cross``.
        kind: ``bi`` or ``cross``, the kind of encoder that the approach needs.
        revision: Commit of a hub model; its newest if None.

    Raises:
        InputError: If it cannot be found or is of another kind.
    """
    from gliner import GLiNER
    from gliner.model import BiEncoderSpanGLiNER, UniEncoderSpanGLiNER
    from safetensors import SafetensorError

    place = _locate(source)
    commit = None if place.local else _hub_commit(source, revision)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            # A bi-encoder has no embeddings to resize, and gliner says so each time.
            warnings.filterwarnings("ignore", message="Resizing embeddings")
            gliner = GLiNER.from_pretrained(
                place.location, revision=commit, local_files_only=place.local, map_location="cpu"
            )
    except (OSError, HfHubHTTPError, SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
        # Whatever a broken file makes gliner, transformers or torch raise, the user's answer is the same; a defect of
        # ours would look alike, so the whole error is kept for --log-level debug.
        logger.debug("loading %s failed", source, exc_info=True)
        raise _unavailable(source, error) from error
    wanted = BiEncoderSpanGLiNER if kind == "bi" else UniEncoderSpanGLiNER
    if type(gliner) is not wanted:
        raise InputError(
            f"base model {source!r} is a {type(gliner).__name__}; "
            f"the {kind}-encoder approaches need a {wanted.__name__}"
        )
    gliner.float().eval()
    _limit_length(gliner)
    stored_as = source if source in DEMO_BASES or not place.local else str(Path(source).resolve())
    return Base(gliner, kind, source, stored_as, commit or _weights_hash(place.location))


def base_revision(source: str) -> str:
    """The revision that :func:`load_base` would give, without loading any weights.

    Raises:
        InputError: If there is no such base model.
    """
    place = _locate(source)
    return _weights_hash(place.location) if place.local else _hub_commit(source, None)


GLINER = BaseSource(load_base, base_revision, DEFAULT_BASE)
"""GLiNER models."""


class _Place(NamedTuple):
    location: str
    """Hub id or folder."""
    local: bool


def _locate(source: str) -> _Place:
    """Where a base model is; a demo base is built if it is not there yet."""
    if source in DEMO_BASES:
        from common.demo_base import demo_base_dir

        return _Place(str(demo_base_dir(source)), True)
    if Path(source).is_dir():
        if not (Path(source) / "gliner_config.json").is_file():
            raise InputError(f"base model folder {source!r} has no gliner_config.json, so it holds no GLiNER model")
        return _Place(source, True)
    if Path(source).is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise InputError(
            f"base model {source!r} is neither a folder nor a hub id (owner/name) nor one of {sorted(DEMO_BASES)}"
        )
    return _Place(source, False)


def _unavailable(source: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:300]
    return InputError(
        f"base model {source!r} could not be loaded: {reason}. Without the hub, give a folder of a saved GLiNER model "
        f"or one of {sorted(DEMO_BASES)} as --base-model"
    )


def _hub_commit(repository: str, revision: str | None) -> str:
    """The commit of a hub model: what the hub says, or what the cache has where the hub is out of reach.

    Raises:
        InputError: If neither knows it.
    """
    cached = try_to_load_from_cache(repository, "gliner_config.json", revision=revision)
    # .../snapshots/<commit>/gliner_config.json
    known = Path(cached).parent.name if isinstance(cached, str) else None
    if known is not None and (revision is not None or is_offline_mode()):
        return known
    try:
        return str(HfApi().model_info(repository, revision=revision).sha)
    except (OSError, HfHubHTTPError, httpx.HTTPError) as error:
        if known is not None:
            return known
        raise _unavailable(repository, error) from error


def _weights_hash(folder: str) -> str:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (Path(folder) / name).is_file():
            return f"sha256:{sha256_file(Path(folder) / name)}"
    raise InputError(f"base model folder {folder!r} has no weights file")


def _limit_length(gliner: Any) -> None:
    """Makes the tokenizers cut at the encoders' last position, which some of them do not know."""
    pairs = [(gliner.data_processor.transformer_tokenizer, gliner.config.encoder_config)]
    if getattr(gliner.config, "labels_encoder", None) is not None:
        pairs.append((gliner.data_processor.labels_tokenizer, gliner.config.labels_encoder_config))
    for tokenizer, config in pairs:
        # DeBERTa-v2 has relative positions alone unless its input is biased by absolute ones.
        if getattr(config, "position_biased_input", True):
            tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings)
