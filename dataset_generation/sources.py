"""Reading a corpus: the hub, Parquet, CoNLL, JSON and JSONL files. Every record is checked."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from common.data.dataset import SPLITS, Sentence, Split, make_sentence, parse_span_record
from common.data.labels import normalise_type
from common.data.spans import OUTSIDE, Scheme, Span, TagError, detect_scheme, split_tag, tags_to_spans
from common.errors import InputError
from common.files import read_json, sha256_file
from dataset_generation.hub import load_hub_dataset

logger = logging.getLogger(__name__)

TagScheme = Literal["auto", "iob1", "iob2", "bioes"]


@dataclass(frozen=True)
class Benchmark:
    """A corpus that the project knows by name."""

    hub: str
    """Its repository on the hub."""
    types: tuple[str, ...]
    """Its entity types, in label order."""
    tail: int | None = None
    """Rows at the end of its train split that are the customary validation split, where it has no official one."""


BENCHMARKS: Mapping[str, Benchmark] = {
    # 1,739 rows are the sentences of the last 200 training abstracts: the development set of MTL-Bioinformatics-2016.
    "jnlpba": Benchmark("disi-unibo-nlp/JNLPBA", ("cell line", "cell type", "dna", "protein", "rna"), tail=1739),
    "bc5cdr": Benchmark("disi-unibo-nlp/bc5cdr", ("chemical", "disease")),
}


class Tagged(NamedTuple):
    """The words of a sentence and their tags, not yet read as spans."""

    words: Sequence[str]
    tags: Sequence[str]


@dataclass(frozen=True)
class Corpus:
    """A corpus as read, types normalised."""

    splits: Mapping[Split, list[Sentence]]
    """What the source has: train and test, perhaps validation; train alone if the source is one file."""
    origin: Mapping[str, Any]
    """Where it came from, for the manifest; no path of this machine."""
    scheme: Scheme | None = None
    """Tag scheme; None if the source has spans, no tags."""
    type_map: Mapping[str, str] = field(default_factory=dict)
    """Normalised type by the type as the source writes it."""
    skipped: Mapping[Split, int] = field(default_factory=dict)
    """Bad records left out, by split."""


# Each format is a reader of numbered raw records and a parser of one of them. A reader fails for the file as a whole
# (InputError), a parser for one record (ValueError), which --skip-invalid can skip.
Records = Iterator[tuple[str, Any]]


def _read_table(table: Any, columns: Sequence[str], features: Any, where: str) -> Records:
    """The rows of a Parquet table or a hub split: words, tags and, if tags are class ids, the classes' names."""
    missing = [name for name in ("tokens", "ner_tags") if name not in columns]
    if missing:
        raise InputError(f"{where}: no column {missing[0]!r}, found {list(columns)}")
    names = getattr(getattr(features["ner_tags"], "feature", None), "names", None)
    for number, row in enumerate(table):
        yield f"record {number} (counted from 0)", (row["tokens"], row["ner_tags"], names)


def _read_parquet(path: Path) -> Records:
    import pyarrow
    import pyarrow.parquet
    from datasets.features import Features

    try:
        table = pyarrow.parquet.read_table(path)
        features = Features.from_arrow_schema(table.schema)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a whole Parquet file: {' '.join(str(error).split())[:200]}") from error
    columns = table.column_names
    rows = table.select([name for name in columns if name in {"tokens", "ner_tags"}]).to_pylist()
    return _read_table(rows, columns, features, str(path))


def _parse_row(row: tuple[Any, Any, Sequence[str] | None]) -> Tagged:
    words, tags, names = row
    for column, value in (("tokens", words), ("ner_tags", tags)):
        if not isinstance(value, list):
            raise ValueError(f"column {column!r} must be a list, got {value!r}")
    return Tagged(words, [_tag(value, index, names) for index, value in enumerate(tags)])


def _tag(value: Any, index: int, names: Sequence[str] | None) -> str:
    if isinstance(value, str):
        return value
    if type(value) is not int:
        raise ValueError(f"word {index}: a tag must be a string, got {value!r}")
    if names is None:
        raise ValueError(f"word {index}: tag {value} is a number and the file's schema does not name the classes")
    if not 0 <= value < len(names):
        raise ValueError(f"word {index}: tag {value} is none of the {len(names)} classes of the file's schema")
    return names[value]


def _read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file without their ends; a byte order mark is dropped."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error
    # Not splitlines(): a word may be a character that it takes for a line's end, such as U+2028.
    yield from text.split("\n")


def _read_conll(path: Path) -> Records:
    lines: list[str] = []
    number = first_line = 0
    for line_number, line in enumerate((*_read_lines(path), ""), start=1):
        if line.startswith("-DOCSTART-"):
            continue
        if line.strip():
            if not lines:
                first_line = line_number
            lines.append(line)
        elif lines:
            yield f"record {number} (counted from 0; line {first_line})", lines
            number += 1
            lines = []


def _parse_conll(lines: Sequence[str]) -> Tagged:
    rows = []
    for index, line in enumerate(lines):
        columns = line.split("\t") if "\t" in line else line.split()
        if len(columns) < 2:
            raise ValueError(f"word {index}: expected a word and a tag, got {line!r}")
        rows.append((columns[0], columns[-1]))
    words, tags = zip(*rows, strict=True)
    return Tagged(words, tags)


def _read_json_list(path: Path) -> Records:
    records = read_json(path)
    if not isinstance(records, list):
        raise InputError(f"{path}: expected a JSON list of records, got {type(records).__name__}")
    for number, record in enumerate(records):
        yield f"record {number} (counted from 0)", record


def _read_jsonl(path: Path) -> Records:
    lines = (line for line in _read_lines(path) if line.strip())
    for number, line in enumerate(lines):
        yield f"record {number} (counted from 0)", line


def _parse_jsonl(line: str) -> Sentence:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"not whole JSON, column {error.colno}: {error.msg} (is the file truncated?): {line[:60]!r}"
        ) from error
    return parse_span_record(record)


_CONLL = (_read_conll, _parse_conll)
_FORMATS: Mapping[str, tuple[Callable[[Path], Records], Callable[[Any], Tagged | Sentence]]] = {
    ".parquet": (_read_parquet, _parse_row),
    **dict.fromkeys((".conll", ".iob", ".iob2", ".bio", ".tsv", ".txt"), _CONLL),
    ".json": (_read_json_list, parse_span_record),
    ".jsonl": (_read_jsonl, _parse_jsonl),
}

_FILE_NAMES: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("val", "dev"), "test": ("test",)}


def find_files(source: Path) -> dict[Split, Path]:
    """The file of each split in a folder; ``{"train": source}`` if the source is one file.

    Raises:
        InputError: If there is nothing at ``source``, or a folder has no train or test file or two files for one split.
    """
    if source.is_file():
        if source.suffix.lower() not in _FORMATS:
            raise InputError(f"{source}: unknown kind of file {source.suffix!r}, known are {sorted(_FORMATS)}")
        return {"train": source}
    if not source.is_dir():
        raise InputError(f"{source}: no such file or folder (--source)")
    files: dict[Split, Path] = {}
    for path in sorted(source.iterdir()):
        if path.suffix.lower() not in _FORMATS or not path.is_file():
            continue
        for split, prefixes in _FILE_NAMES.items():
            if path.name.lower().startswith(prefixes):
                if split in files:
                    raise InputError(f"{source}: two {split} files, {files[split].name} and {path.name}; keep one")
                files[split] = path
    for split in ("train", "test"):
        if split not in files:
            raise InputError(
                f"{source}: no {split} file; a folder needs files whose names start with train, test and perhaps "
                f"validation (or valid, val, devel, dev), of the kinds {sorted(_FORMATS)}"
            )
    return files


def read_local(
    source: Path,
    *,
    tag_scheme: TagScheme = "auto",
    skip_invalid: bool = False,
    known_types: Sequence[str] | None = None,
) -> Corpus:
    """Reads a folder of split files, or one file.

    Args:
        source: Folder or file.
        tag_scheme: How tags are written; auto finds out over all splits together.
        skip_invalid: Leave bad records out and count them, instead of ending at the first.
        known_types: The normalised types that may occur; any if None.

    Raises:
        InputError: At the first bad record (unless skipped), naming file, record and value.
    """
    files = find_files(source)
    parsed, skipped = {}, {}
    for split, path in files.items():
        reader, parser = _FORMATS[path.suffix.lower()]
        parsed[split], skipped[split] = _parse_records(str(path), reader(path), parser, skip_invalid)
    hashes = {path.name: sha256_file(path) for path in files.values()}
    return _corpus(parsed, skipped, {"kind": "files", "sha256": hashes}, tag_scheme, skip_invalid, known_types)


def read_hub(
    repository: str,
    *,
    tag_scheme: TagScheme = "auto",
    skip_invalid: bool = False,
    known_types: Sequence[str] | None = None,
) -> Corpus:
    """Reads a dataset of the hub; the arguments are those of :func:`read_local`.

    Raises:
        InputError: If the hub is out of reach or a record is bad.
    """
    splits = load_hub_dataset(
        repository, "give the corpus as files with --source PATH, or use a demo corpus (--dataset demo-...)"
    )
    parsed, skipped = {}, {}
    for split in SPLITS:
        if split in splits:
            table, where = splits[split], f"{repository}/{split}"
            records = _read_table(table, table.column_names, table.features, where)
            parsed[split], skipped[split] = _parse_records(where, records, _parse_row, skip_invalid)
    for split in ("train", "test"):
        if split not in parsed:
            raise InputError(f"{repository}: has no {split} split, found {sorted(splits)}")
    return _corpus(parsed, skipped, {"kind": "hub", "repository": repository}, tag_scheme, skip_invalid, known_types)


_Parsed = list[tuple[str, Tagged | Sentence]]


def _bad(place: str, error: ValueError, skip_invalid: bool) -> None:
    """Raises for a bad record, or logs that it is skipped."""
    if not skip_invalid:
        raise InputError(f"{place}: {error}") from error
    logger.warning("skipped %s: %s", place, error)


def _parse_records(
    where: str, records: Records, parser: Callable[[Any], Tagged | Sentence], skip_invalid: bool
) -> tuple[_Parsed, int]:
    """The well-formed records of a file with their places, and the number of skipped ones."""
    parsed: _Parsed = []
    n_skipped = n_records = 0
    for number, raw in records:
        n_records += 1
        place = f"{where}: {number}"
        try:
            item = parser(raw)
            if isinstance(item, Tagged):
                if len(item.words) != len(item.tags):
                    raise ValueError(f"{len(item.words)} words but {len(item.tags)} tags")
                for index, tag in enumerate(item.tags):
                    split_tag(tag, index)
            parsed.append((place, item))
        except ValueError as error:
            _bad(place, error, skip_invalid)
            n_skipped += 1
    if not n_records:
        raise InputError(f"{where}: the file holds no records")
    if not parsed:
        raise InputError(f"{where}: all {n_records} records are invalid")
    return parsed, n_skipped


def _corpus(
    parsed: Mapping[Split, _Parsed],
    skipped: dict[Split, int],
    origin: Mapping[str, Any],
    tag_scheme: TagScheme,
    skip_invalid: bool,
    known_types: Sequence[str] | None,
) -> Corpus:
    """Reads tags as spans, with one scheme for the whole corpus, and normalises types."""
    scheme = _find_scheme(parsed) if tag_scheme == "auto" else tag_scheme
    has_tags = any(isinstance(item, Tagged) for records in parsed.values() for _, item in records)
    type_map: dict[str, str] = {}
    splits: dict[Split, list[Sentence]] = {}
    for split, records in parsed.items():
        splits[split] = []
        for place, item in records:
            try:
                spans = tags_to_spans(item.tags, scheme) if isinstance(item, Tagged) else item.spans
                sentence = make_sentence(item.words, [_normalised(span, known_types) for span in spans])
                " ".join(sentence.words).encode("utf-8")  # JSON can hold lone surrogates, which no file can
            except ValueError as error:
                _bad(place, error, skip_invalid)
                skipped[split] += 1
                continue
            splits[split].append(sentence)
            type_map.update((span.label, normalise_type(span.label)) for span in spans)
    for split, n_skipped in skipped.items():
        if n_skipped:
            logger.warning("%s: skipped %d invalid of %d records", split, n_skipped, n_skipped + len(splits[split]))
    return Corpus(splits, origin, scheme if has_tags else None, dict(sorted(type_map.items())), skipped)


def _find_scheme(parsed: Mapping[Split, _Parsed]) -> Scheme:
    tagged = [(place, item.tags) for records in parsed.values() for place, item in records if isinstance(item, Tagged)]
    try:
        return detect_scheme([tags for _, tags in tagged], [place for place, _ in tagged])
    except TagError as error:
        raise InputError(f"{error}; correct the corpus, or name its scheme with --tag-scheme") from error


def _normalised(span: Span, known_types: Sequence[str] | None) -> Span:
    name = normalise_type(span.label)
    if name in {"", normalise_type(OUTSIDE)}:
        raise ValueError(f"{span.label!r} cannot be an entity type")
    if known_types is not None and name not in known_types:
        raise ValueError(f"unknown type {span.label!r}, this corpus has {list(known_types)}")
    return span._replace(label=name)
