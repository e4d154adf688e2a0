"""Data set files: their names, reading them with every record checked, and the data set for training."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from common.data.labels import LabelSet
from common.data.spans import OUTSIDE, Span, check_flat, check_span
from common.errors import InputError, shown
from common.files import is_encodable, read_json, sha256_file
from common.paths import check_name, datasets_dir
from common.schema import read_record

Encoder = Literal["bi", "cross"]
ENCODERS: tuple[Encoder, ...] = ("bi", "cross")
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

LABEL2ID_FILE = "label2id.json"
LABEL2DESC_FILE = "label2desc.json"
MANIFEST_FILE = "manifest.json"

_PREFIX: dict[Split, str] = {"train": "", "validation": "val_", "test": "test_"}


class _File(TypedDict):
    sha256: str


class _Manifest(TypedDict):
    """What of a data set's manifest is read here."""

    files: dict[str, _File]


def span_file(split: Split, encoder: str) -> str:
    """``val_dataset_span_bi.json``: one record per sentence, with words and spans."""
    return f"{_PREFIX[split]}dataset_span_{encoder}.json"


def token_file(split: Split, encoder: str) -> str:
    """``val_dataset_tknlvl_bi.json``: sub-words, their classes and words; for other tools, never read here."""
    return f"{_PREFIX[split]}dataset_tknlvl_{encoder}.json"


@dataclass(frozen=True)
class Sentence:
    """The words of one sentence and its gold spans, sorted and flat."""

    words: tuple[str, ...]
    spans: tuple[Span, ...]
    document: str | None = field(default=None, compare=False)
    """The document that it is from, if the corpus names one."""
    types: tuple[str, ...] | None = field(default=None, compare=False)
    """The entity types that it is annotated with, if they are not all of the label set."""
    text: str | None = field(default=None, compare=False)
    """The raw text that the words are from, if the corpus is one of raw text; as read, not in data set files."""
    dataset: str | None = field(default=None, compare=False)
    """The data set that it is of, in a mixture."""


def make_sentence(
    words: Sequence[str], spans: Sequence[Span], document: str | None = None, text: str | None = None
) -> Sentence:
    """Checks and returns one sentence.

    Raises:
        ValueError: If there is no word; if a word is empty, not a string, holds a tab, space or line end; if a word or
            the document's name cannot be written as UTF-8; or if a span is out of range, repeated or overlaps another.
    """
    if not words:
        raise ValueError("the sentence has no words")
    for index, word in enumerate(words):
        if not isinstance(word, str):
            raise ValueError(f"word {index} is no string: {word!r}")
        if not word.strip():
            raise ValueError(f"word {index} is empty: {word!r}")
        # Not str.split(): a word of a corpus may hold a no-break space, as in "10\u00a0mg".
        if any(character in word for character in " \t\n\r"):
            raise ValueError(f"word {index} holds white space: {word!r}")
        check_encodable(word, f"word {index}")
    ordered = sorted(spans)
    for span in ordered:
        check_span(span, len(words))
    check_flat(ordered)
    if document is not None:
        check_encodable(document, "the name of its document")
    return Sentence(tuple(words), tuple(ordered), document, text=text)


def check_encodable(text: str, what: str) -> None:
    """Raises ``ValueError`` if a text holds half of a surrogate pair."""
    if not is_encodable(text):
        raise ValueError(f"{what} holds half of a surrogate pair: {text[:80]!r}")


def parse_span_record(record: Any, id2label: Mapping[str, str] | None = None) -> Sentence:
    """One record ``{"tokenized_text": [...], "ner": [[start, end, type], ...]}``.

    Args:
        record: The JSON value.
        id2label: Types by their id as a string, for files that store ``"4"`` where we store ``"protein"``. Spans of
            ``O``, which such files also hold, are dropped.

    Raises:
        ValueError: If the record is malformed; the message names the field and the value.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, got {type(record).__name__}")
    for name in ("tokenized_text", "ner"):
        if not isinstance(record.get(name), list):
            raise ValueError(f"field {name!r} must be a list, got {shown(record.get(name))}")
    names = id2label or {}
    spans = [Span(start, end, names.get(label, label)) for start, end, label in map(parse_span, record["ner"])]
    document = record.get("document")
    return make_sentence(
        record["tokenized_text"],
        [span for span in spans if span.label != OUTSIDE],
        document if isinstance(document, str) else None,
    )


def span_record(sentence: Sentence) -> dict[str, Any]:
    """A sentence in GLiNER's own form, as :func:`parse_span_record` reads it; its document is left out."""
    return {"tokenized_text": list(sentence.words), "ner": [list(span) for span in sentence.spans]}


def parse_span(entry: Any) -> Span:
    """One entity ``[first word, last word, type]``, as written.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(entry, list) or len(entry) != 3:
        raise ValueError(f"an entity must be [start, end, type], got {shown(entry)}")
    start, end, label = entry
    if type(start) is not int or type(end) is not int:
        raise ValueError(f"start and end of an entity must be integers, got {shown(entry)}")
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"the type of an entity must be a non-empty string, got {shown(entry)}")
    return Span(start, end, label)


def iter_records(path: Path) -> Iterator[tuple[int, Any]]:
    """The numbered records of a JSON list.

    Raises:
        InputError: If the file is not a JSON list, or is an empty one.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise InputError(f"{path}: expected a JSON list of records, got {type(records).__name__}")
    if not records:
        raise InputError(f"{path}: the file holds no records")
    yield from enumerate(records)


def read_span_file(path: Path, labels: LabelSet) -> list[Sentence]:
    """The sentences of a span file, whose types are all in ``labels``.

    Raises:
        InputError: At the first bad record, naming file, record and value.
    """
    known = set(labels.names)
    # A type may itself be called "1": a known name is never read as an id.
    id2label = {str(index): name for name, index in labels.label2id.items() if str(index) not in known}
    sentences = []
    for number, record in iter_records(path):
        try:
            sentence = parse_span_record(record, id2label)
        except ValueError as error:
            raise InputError(f"{path}: record {number}: {error}") from error
        for span in sentence.spans:
            if span.label not in known:
                raise InputError(f"{path}: record {number}: unknown type {span.label!r}, known are {sorted(known)}")
        sentences.append(sentence)
    return sentences


def count_types(sentences: Sequence[Sentence]) -> Counter[str]:
    """Gold entities by type."""
    return Counter(span.label for sentence in sentences for span in sentence.spans)


def sample(sentences: Sequence[Sentence], size: int | None, seed: int, what: str) -> list[Sentence]:
    """``size`` sentences drawn without replacement, in their original order; all of them if ``size`` is None.

    Raises:
        InputError: If ``size`` is not between 1 and the number of sentences.
    """
    if size is None:
        return list(sentences)
    if not 1 <= size <= len(sentences):
        raise InputError(f"{what} must be between 1 and {len(sentences)}, got {size}")
    chosen = sorted(random.Random(seed).sample(range(len(sentences)), size))
    return [sentences[index] for index in chosen]


@dataclass(frozen=True)
class Dataset:
    """A generated corpus."""

    name: str
    labels: LabelSet
    train: list[Sentence]
    validation: list[Sentence]
    test: list[Sentence]
    sha256: str
    """Hash of the content, the same for the files of bi- and cross-encoders."""

    @property
    def parts(self) -> tuple[Dataset, ...]:
        """The data sets that are scored apart: of a mixture, all of it."""
        return (self,)

    def drawn(self, seed: int, epoch: int) -> list[int]:  # noqa: ARG002 - a mixture's depends on them
        """The training sentences that an epoch goes through, by their number; as many in each epoch."""
        return list(range(len(self.train)))

    def split(self, name: Split) -> list[Sentence]:
        """The sentences of one split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def limited(self, train_size: int | None, validation_size: int | None, seed: int) -> Dataset:
        """The data set with seeded samples of its training and validation sentences; the test split stays whole."""
        return replace(
            self,
            train=sample(self.train, train_size, seed, f"{self.name}: train size"),
            validation=sample(self.validation, validation_size, seed, f"{self.name}: validation size"),
        )


def dataset_dir(name: str) -> Path:
    """The folder of a generated data set: ``datasets/<name>``, or ``name`` itself if it is a path to such a folder."""
    path = Path(name)
    if path.name and ("/" in name or os.sep in name):
        # "./mine" is "mine" as a Path, which would be a name.
        return path if len(path.parts) > 1 else path.absolute()
    return datasets_dir() / check_name(name, "data set name")


def read_labels(directory: Path) -> LabelSet:
    """The label set stored in a data set's folder.

    Raises:
        InputError: If a label file is missing or the two do not fit together.
    """
    label2id = read_record(directory / LABEL2ID_FILE, dict[str, int])
    label2desc = read_record(directory / LABEL2DESC_FILE, dict[str, str])
    try:
        return LabelSet.from_mappings(label2id, label2desc)
    except ValueError as error:
        raise InputError(f"{directory}: {LABEL2ID_FILE} and {LABEL2DESC_FILE}: {error}") from error


def existing_dataset_dir(name: str) -> Path:
    """The folder of a data set that has been generated.

    Raises:
        InputError: If it does not exist; the message says how to generate it.
    """
    directory = dataset_dir(name)
    if not directory.is_dir():
        raise InputError(
            f"data set {name!r} does not exist ({directory}); make it with: "
            f"python -m dataset_generation.generate --dataset {directory.name} "
            "(with --source and --descriptions for a corpus of your own)"
        )
    return directory


def load_dataset(name: str) -> Dataset:
    """Reads a generated data set.

    The span files for bi- and cross-encoders are equal; whichever exist are read. So are files of the public thesis
    repository: ``mono`` in file names for ``cross``, type ids as strings, spans of O.

    Args:
        name: Name under ``datasets/``, or the path of a data set's folder.

    Raises:
        InputError: If the data set does not exist, a record is bad or a file differs from its manifest.
    """
    directory = existing_dataset_dir(name)
    expected = _manifest_hashes(directory)
    for name_of_file in (LABEL2ID_FILE, LABEL2DESC_FILE):
        _check_hash(directory / name_of_file, expected)
    labels = read_labels(directory)
    splits: dict[Split, list[Sentence]] = {}
    digest = hashlib.sha256(json.dumps([labels.label2id, labels.label2desc]).encode())
    for split in SPLITS:
        candidates = [directory / span_file(split, kind) for kind in (*ENCODERS, "mono")]
        path = next((path for path in candidates if path.exists()), None)
        if path is None:
            raise InputError(f"data set {name!r} has no {split} file: none of {[path.name for path in candidates]}")
        file_hash = _check_hash(path, expected)
        splits[split] = read_span_file(path, labels)
        digest.update(file_hash.encode())
    return Dataset(
        name=directory.name,
        labels=labels,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        sha256=digest.hexdigest(),
    )


def _check_hash(path: Path, expected: Mapping[str, str]) -> str:
    """The SHA-256 of a file, checked against the manifest if that lists the file."""
    if not path.is_file():
        return ""
    file_hash = sha256_file(path)
    if expected.get(path.name, file_hash) != file_hash:
        raise InputError(f"{path}: differs from {MANIFEST_FILE} (sha256 {file_hash[:12]}); generate the data set again")
    return file_hash


def _manifest_hashes(directory: Path) -> dict[str, str]:
    """The recorded SHA-256 of each data file; empty where there is no manifest (files made by other tools)."""
    path = directory / MANIFEST_FILE
    files = read_record(path, _Manifest)["files"] if path.exists() else {}
    return {name: entry["sha256"] for name, entry in files.items()}
