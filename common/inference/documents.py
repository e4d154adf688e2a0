"""Documents to tag: plain text, JSON Lines, Parquet and CoNLL, read one after another."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import IO, Any, Literal

from common.config import require
from common.data.dataset import check_encodable, make_sentence
from common.data.text import Word, first_words, sentences_of, words_of
from common.errors import InputError, shown
from common.files import errors_at
from dataset_generation.formats import SUFFIXES
from dataset_generation.formats.base import check_no_pointer, strict_json_line
from dataset_generation.formats.conll import CONLL
from dataset_generation.formats.tables import numbered, rows_of
from dataset_generation.options import ReadOptions

logger = logging.getLogger(__name__)

InputFormat = Literal["auto", "text", "jsonl", "conll", "parquet"]
STDIN = "-"
UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""In the name of a type or a document; joiners inside a word, as in Persian, and spaces that break no line are none."""


@dataclass(frozen=True)
class Document:
    """A text to tag.

    Raises:
        ValueError: If the text holds half of a surrogate pair, or the id is empty or holds a line end or the like.
    """

    id: str
    text: str
    words: tuple[tuple[Word, ...], ...] | None = None
    """The words of each sentence where the source gives them; otherwise they are found in the text."""

    def __post_init__(self) -> None:
        check_encodable(self.text, "the text")
        if not self.id or UNWRITABLE.search(self.id):
            raise ValueError(f"{shown(self.id)} cannot be a document's id")

    def sentences(self) -> Iterator[Sequence[Word]]:
        """The words of each sentence, as training gets them from raw text; no sentence is empty."""
        if self.words is not None:
            yield from self.words
            return
        words = words_of(self.text)
        for first, after in pairwise([*first_words(words, sentences_of(self.text)), len(words)]):
            if first < after:
                yield words[first:after]


def document_of_words(name: str, sentences: Iterable[Sequence[Any]]) -> Document:
    """The document of sentences that are words already: a space between two words, a line for each sentence.

    Raises:
        ValueError: If a sentence has no words, or a word is empty, no string or holds white space.
    """
    lines, placed, offset = [], [], 0
    for words in sentences:
        make_sentence(words, [])
        row = []
        for word in words:
            row.append(Word(word, offset, offset + len(word)))
            offset += len(word) + 1
        placed.append(tuple(row))
        lines.append(" ".join(words))
    return Document(name, "\n".join(lines), tuple(placed))


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """How documents are read."""

    input_format: InputFormat = "auto"
    """Input format; auto: by the file's suffix; standard input is plain text."""
    text_field: str = "text"
    """Field (JSON Lines) or column (Parquet) with the text, or with a list of words, which stay as they are."""
    id_field: str = "id"
    """Field or column that names the document; a record without one is named by file name and number."""
    word_column: int = 0
    """Column of the words in CoNLL files, counted from 0."""


def read_documents(source: str, options: InputOptions) -> Iterator[Document]:
    """The documents of a file, of a folder's ``.txt`` files (at any depth), or of standard input (``-``).

    Whether the source exists and what format it has is seen at once; documents are read one after another.

    Raises:
        InputError: At the first document that is bad, naming file, record and value.
    """
    path, form = Path(source), options.input_format
    if source == STDIN:
        require(form in {"auto", "text", "jsonl"}, f"--input -: standard input is text or jsonl, not {form}")
        return _READERS["text" if form == "auto" else form](None, "stdin", options)
    if path.is_dir():
        require(form in {"auto", "text"}, f"--input {source}: a folder is one of text files; give a file for {form}")
        # By letters: paths of Windows sort without regard to case.
        everything = sorted((file for file in path.rglob("*") if not file.is_dir()), key=lambda file: file.parts)
        files = [file for file in everything if file.suffix.lower() == ".txt"]
        require(bool(files), f"--input {source}: the folder holds no .txt file")
        others = [file for file in everything if file.suffix.lower() != ".txt" and not file.name.startswith(".")]
        if others:
            first = others[0].relative_to(path).as_posix()
            logger.warning("--input %s: not read, no .txt files: %d, such as %s", source, len(others), first)
        return chain.from_iterable(
            _read_text(file, file.relative_to(path).with_suffix("").as_posix(), options) for file in files
        )
    require(path.exists(), f"--input {source}: no such file or folder")
    require(path.is_file(), f"--input {source}: is a pipe or a device; give what it holds by standard input, --input -")
    suffix = path.suffix.lower()
    if form == "auto":
        form = {".txt": "text", ".jsonl": "jsonl"}.get(suffix, SUFFIXES.get(suffix, ""))  # type: ignore[assignment]
    require(
        form in _READERS,
        f"--input {source}: its suffix is none of .txt, .jsonl, .parquet, .conll; name the format with --input-format",
    )
    with errors_at(source):
        check_no_pointer(path)
    return _READERS[form](path, path.stem, options)


def _opened(path: Path | None) -> IO[bytes]:
    return sys.stdin.buffer if path is None else path.open("rb")


def _place(path: Path | None) -> str:
    return "standard input" if path is None else str(path)


def _read_text(path: Path | None, name: str, options: InputOptions) -> Iterator[Document]:  # noqa: ARG001 - as the other readers
    with errors_at(_place(path)), _opened(path) as stream:
        # Line ends stay as they are: offsets count what the file holds. A byte order mark is no part of the text.
        document = Document(name, stream.read().decode("utf-8-sig"))
    yield document


def _read_jsonl(path: Path | None, name: str, options: InputOptions) -> Iterator[Document]:
    with errors_at(_place(path)):
        stream = _opened(path)
    with stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            with errors_at(f"{_place(path)}: line {number}"):
                record = strict_json_line(line.decode("utf-8-sig"))
                document = _from_record(record, f"{name}-{number}", options)
            yield document


def _read_parquet(path: Path, name: str, options: InputOptions) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = [field for field in (options.text_field, options.id_field) if field in file.schema_arrow.names]
            require(options.text_field in columns, f"{path}: {_no_field(options.text_field, file.schema_arrow.names)}")
            rows = chain.from_iterable(map(rows_of, file.iter_batches(_ROWS_AT_ONCE, columns=columns)))
            for number, (place, row) in enumerate(numbered(rows, str(path))):
                with errors_at(f"{path}: {place}"):
                    document = _from_record(row, f"{name}-{number}", options)
                yield document
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a whole Parquet file: {' '.join(str(error).split())[:200]}") from error


def _from_record(record: Any, name: str, options: InputOptions) -> Document:
    """The document of a JSON object or a table's row.

    Raises:
        ValueError: If it has no text, or a field is of a wrong kind.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, got {type(record).__name__}")
    if options.text_field not in record:
        raise ValueError(_no_field(options.text_field, record))
    text, given = record[options.text_field], record.get(options.id_field)
    if isinstance(given, bool) or not isinstance(given, str | int | None):
        raise ValueError(f"field {options.id_field!r} must be a string or an integer, got {shown(given)}")
    name = name if given is None else str(given)
    if isinstance(text, list):
        return document_of_words(name, [text])
    if not isinstance(text, str):
        raise ValueError(f"field {options.text_field!r} must be a text or a list of words, got {shown(text)}")
    return Document(name, text)


def _no_field(name: str, found: Iterable[str]) -> str:
    return f"no field {name!r}, found {shown(sorted(found))}; name it with --text-field"


def _read_conll(path: Path, name: str, options: InputOptions) -> Iterator[Document]:
    column = options.word_column
    sentences = (raw for _, raw in CONLL.read(path, ReadOptions()))
    for document, group in groupby(sentences, key=lambda raw: raw.document):
        rows = []
        for raw in group:
            place = f"{path}: sentence at line {raw.line}"
            short = next((row for row in raw.rows if len(row) <= column), None)
            require(short is None, f"{place}: no column {column} (--word-column) in {shown(short)}")
            rows.append([row[column] for row in raw.rows])
        with errors_at(f"{path}: document {document or name}"):
            made = document_of_words(document or name, rows)
        yield made


_ROWS_AT_ONCE = 256
_READERS: Mapping[str, Callable[[Any, str, InputOptions], Iterator[Document]]] = {
    "text": _read_text,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "conll": _read_conll,
}
