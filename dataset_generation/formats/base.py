"""What every format's reader works with: the kinds of record that a file can hold, and reading text and JSON safely."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from common.data.spans import Span
from common.data.text import Mention
from common.errors import InputError, shown
from common.files import is_lfs_pointer, json_problem, parse_json, unique_keys
from dataset_generation.options import ReadOptions

Entry = TypeVar("Entry")
Entity = TypeVar("Entity")


class Tagged(NamedTuple):
    """The words of a sentence and their tags, not yet read as spans."""

    words: Sequence[Any]
    tags: Sequence[str]
    document: str | None = None


class Spanned(NamedTuple):
    """The words of a sentence and its entities by word; they may overlap."""

    words: Sequence[Any]
    spans: Sequence[Span]
    bad: Sequence[str] = ()
    """What is wrong with each entity that could not be read."""
    document: str | None = None
    text: str | None = None
    """The raw text that the words are from, where there is one."""


class Annotated(NamedTuple):
    """Raw text and its entities by character; they may overlap."""

    text: str
    mentions: Sequence[Mention]
    bad: Sequence[str] = ()
    """What is wrong with each entity that could not be read."""
    document: str | None = None
    breaks: Sequence[int] = ()
    """Offsets where a sentence ends in any case."""


class LeftOut(NamedTuple):
    """A record that is no gold annotation, such as a rejected one."""

    reason: str


Item = Tagged | Spanned | Annotated | LeftOut
Records = Iterator[tuple[str, Any]]
"""Raw records with their places in the file."""


@dataclass(frozen=True)
class Format:
    """A reader of raw records and a parser of one of them.

    The reader fails for the file as a whole (InputError), the parser for one record (ValueError), which
    ``--skip-invalid`` can leave out.
    """

    read: Callable[[Path, ReadOptions], Records]
    parse: Callable[[Any, ReadOptions], list[Item]]
    prepare: Callable[[Sequence[Path], ReadOptions], ReadOptions] = lambda _, options: options
    """Completes the options from all files of the corpus."""
    files: Callable[[Path], Sequence[Path]] = lambda path: [path]
    """All files that are read for one."""


def read_each(entries: Iterable[Entry], read: Callable[[Entry], Entity]) -> tuple[list[Entity], list[str]]:
    """What is read of each entry, and what is wrong with those that ``read`` refuses with a ``ValueError``."""
    found: list[Entity] = []
    bad: list[str] = []
    for entry in entries:
        try:
            found.append(read(entry))
        except ValueError as error:
            bad.append(str(error))
    return found, bad


def record_place(number: int, line: int | None = None) -> str:
    """The name of a record in messages."""
    return f"record {number} (counted from 0{'' if line is None else f'; begins at line {line}'})"


def check_no_pointer(path: Path) -> None:
    """Raises InputError if the file is the stand-in that Git LFS leaves for a file that was not fetched."""
    if is_lfs_pointer(path):
        raise InputError(f"{path}: is a Git LFS pointer, not the data; fetch it with: git lfs pull")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file with its line ends as they are; a byte order mark is dropped."""
    check_no_pointer(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file without their ends."""
    # Not splitlines(): a word may be a character that splitlines takes for a line end, such as U+2028.
    return [line.removesuffix("\r") for line in read_text(path).split("\n")]


def strict_json(text: str) -> Any:
    """One JSON value of a corpus.

    Raises:
        ValueError: As :func:`common.files.parse_json`; also if it repeats a key or holds a number that JSON lacks.
    """
    return parse_json(text, unique_keys, _no_constant)


def strict_json_line(text: str) -> Any:
    """The JSON value of a line.

    Raises:
        ValueError: As :func:`strict_json`; the message says what is wrong and shows the line's beginning.
    """
    try:
        return strict_json(text)
    except ValueError as error:
        raise ValueError(f"{json_problem(error, one_line=True)}: {shown(text[:60])}") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
