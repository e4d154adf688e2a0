"""The folder of a data set's knowledge base: its names, and which of them are near each training sentence.

names.tsv        a name, its type and its source on each line
near.json        for each training sentence, the line numbers of names that resemble its phrases
knowledge.json   what it was made from; written last
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from common.data.dataset import Sentence, iter_records
from common.errors import InputError
from common.files import atomic_text, errors_at, sha256_file, write_json, write_json_records
from common.names import MANIFEST_FILE
from common.names.phrases import phrases_of
from common.names.reading import Name
from common.names.vectors import Embedder
from common.schema import read_record

NAMES_FILE, NEAR_FILE = "names.tsv", "near.json"
PUBLIC, TRAINING = "public", "training"
"""Where a name is from: a public collection, or the entities of training sentences alone."""


class Manifest(TypedDict):
    """``knowledge.json``."""

    dataset: str
    dataset_sha256: str
    encoder: str
    encoder_sha256: str
    pooling: str
    precision: NotRequired[str]
    sources: list[str]
    public: int
    training: int
    sentences: int
    phrases: int
    nearest: int
    longest_phrase: int


@dataclass(frozen=True, eq=False)
class Knowledge:
    """Names, and those near each training sentence."""

    names: Sequence[Name]
    is_public: np.ndarray
    """Whether each name stands in a public collection, bool, shape ``(names,)``."""
    near: Mapping[tuple[str, ...], Sequence[int]]
    """Numbers of the names near a sentence, the nearest of each phrase first, by its words."""
    facts: Sequence[Mapping[str, Any]] = ()
    """For a run's record, of each folder: a hash of its names and what is near, their numbers and sources."""


def build_knowledge(
    folder: Path,
    sentences: Sequence[Sentence],
    public: Sequence[Name],
    training: Sequence[Name],
    embedder: Embedder,
    *,
    nearest: int,
    longest_phrase: int,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Finds the names near the phrases of sentences and writes the folder.

    Args:
        folder: Where to write.
        sentences: Training sentences.
        public: Names of public collections.
        training: Names that occur in training sentences; those that are public too are left out.
        embedder: Makes vectors and keeps them.
        nearest: Names for each phrase.
        longest_phrase: Words of a phrase, at most.
        facts: What else the manifest says.

    Returns:
        The :class:`Manifest`.
    """
    public = sorted(set(public))
    training = sorted(set(training) - set(public))
    names = [*public, *training]
    of_sentence = [phrases_of(sentence.words, longest_phrase) for sentence in sentences]
    phrases = sorted(set(chain.from_iterable(of_sentence)))
    groups = [[name.text for name in group] for group in (public, training)]
    found = embedder.nearest(phrases, groups, nearest)
    number = {phrase: row for row, phrase in enumerate(phrases)}
    with atomic_text(folder / NAMES_FILE) as stream:
        for group, origin in ((public, PUBLIC), (training, TRAINING)):
            stream.writelines(f"{name.text}\t{name.type}\t{origin}\n" for name in group)
    write_json_records(
        folder / NEAR_FILE,
        (
            {
                "tokenized_text": sentence.words,
                "names": list(dict.fromkeys(chain.from_iterable(found[number[p]].tolist() for p in own))),
            }
            for sentence, own in zip(sentences, of_sentence, strict=True)
        ),
    )
    manifest: dict[str, Any] = {
        **facts,
        "encoder_sha256": embedder.encoder.revision,
        "pooling": embedder.encoder.pooling,
        "precision": embedder.encoder.precision,
        "public": len(public),
        "training": len(training),
        "sentences": len(sentences),
        "phrases": len(phrases),
        "nearest": min(nearest, len(names)),
        "longest_phrase": longest_phrase,
    }
    write_json(folder / MANIFEST_FILE, manifest)
    return manifest


def read_knowledge(folder: Path) -> Knowledge:
    """What :func:`build_knowledge` has written.

    Raises:
        InputError: If a file is missing, not whole or something else.
    """
    manifest = read_record(folder / MANIFEST_FILE, Manifest)
    names, is_public = _read_names(folder / NAMES_FILE)
    expected = manifest["public"] + manifest["training"]
    if len(names) != expected:
        raise InputError(f"{folder / NAMES_FILE}: has {len(names)} names, {MANIFEST_FILE} says {expected}")
    kept = ("dataset", "public", "training", "sources", "encoder", "nearest")
    facts = {
        "sha256": hashlib.sha256(
            "".join(sha256_file(folder / name) for name in (NAMES_FILE, NEAR_FILE)).encode()
        ).hexdigest(),
        **{name: manifest[name] for name in kept},
    }
    return Knowledge(names, is_public, _read_near(folder / NEAR_FILE, len(names)), [facts])


def joined(parts: Sequence[Knowledge]) -> Knowledge:
    """Several knowledge bases as one; a sentence that two have has the names of both near it."""
    near: dict[tuple[str, ...], list[int]] = {}
    first = 0
    for part in parts:
        for words, rows in part.near.items():
            near.setdefault(words, []).extend(first + row for row in rows)
        first += len(part.names)
    return Knowledge(
        [name for part in parts for name in part.names],
        np.concatenate([part.is_public for part in parts]),
        near,
        [facts for part in parts for facts in part.facts],
    )


def _read_names(path: Path) -> tuple[list[Name], np.ndarray]:
    names, is_public = [], []
    with errors_at(path):
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t")
        if len(fields) != 3 or fields[2] not in (PUBLIC, TRAINING):
            raise InputError(f"{path}: line {number}: expected name, type and origin, got {line[:80]!r}")
        names.append(Name(fields[0], fields[1]))
        is_public.append(fields[2] == PUBLIC)
    return names, np.array(is_public, dtype=bool)


def _read_near(path: Path, n_names: int) -> dict[tuple[str, ...], list[int]]:
    near = {}
    for number, record in iter_records(path):
        fields = record if isinstance(record, dict) else {}
        words, rows = fields.get("tokenized_text"), fields.get("names")
        if not (isinstance(words, list) and all(isinstance(word, str) for word in words) and isinstance(rows, list)):
            raise InputError(f"{path}: record {number}: needs tokenized_text and names, both lists")
        wrong = next((row for row in rows if type(row) is not int or not 0 <= row < n_names), None)
        if wrong is not None:
            raise InputError(f"{path}: record {number}: names must be numbers below {n_names}, got {wrong!r}")
        near[tuple(words)] = rows
    return near
