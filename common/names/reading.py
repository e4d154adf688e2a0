"""Reads names with their types from tables, the UMLS's own files and training sentences."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.data.dataset import Sentence
from common.errors import InputError

SHORTEST, LONGEST = 2, 60
"""Characters of a name of the UMLS that is taken."""

_CONCEPTS, _TYPES = "MRCONSO.RRF", "MRSTY.RRF"
_TYPE_OF_GROUP = {
    "chemical": "T103 T104 T109 T114 T116 T120 T121 T122 T123 T125 T126 T127 T129 T130 T131 T192 T195 T196 T197 T200",
    "disease": "T019 T020 T037 T046 T047 T048 T049 T050 T184 T190 T191",
    "gene": "T028 T085 T086 T087 T088",
    "species": "T001 T002 T004 T005 T007 T008 T010 T011 T012 T013 T014 T015 T016 T194 T204",
    "anatomy": "T017 T018 T021 T022 T023 T024 T029 T030 T031",
    "cell": "T025 T026",
}
"""Semantic types of the UMLS after its semantic groups (McCray et al. 2001): what a corpus of the field annotates."""
TYPE_OF_TUI = {tui: name for name, tuis in _TYPE_OF_GROUP.items() for tui in tuis.split()}


class Name(NamedTuple):
    """A name of an entity."""

    text: str
    type: str


def read_names(path: Path) -> list[Name]:
    """The names of a table, one a line: the name, a tab, its type; ``.gz`` is unpacked.

    Raises:
        InputError: If it cannot be read or a line is something else.
    """
    found = []
    for number, line in _lines(path):
        fields = line.split("\t")
        if len(fields) != 2 or not all(field.strip() for field in fields):
            raise InputError(f"{path}: line {number}: expected a name, a tab and a type, got {line[:80]!r}")
        found.append(Name(fields[0].strip(), fields[1].strip()))
    if not found:
        raise InputError(f"{path}: the file holds no names")
    return found


def read_umls(folder: Path) -> list[Name]:
    """The English names of the UMLS, from ``MRCONSO.RRF`` and ``MRSTY.RRF`` of its Metathesaurus.

    A concept's semantic types become the types of corpora where they are of one, else stay as the UMLS names them.
    Suppressed names, and names without a letter or of other lengths than 2 to 60, are left out.

    Raises:
        InputError: If a file cannot be read or a line has too few fields.
    """
    types: dict[str, dict[str, None]] = {}
    for fields in _table(folder / _TYPES, least=4):
        types.setdefault(fields[0], {})[TYPE_OF_TUI.get(fields[1], fields[3].lower())] = None
    found: dict[Name, None] = {}
    for fields in _table(folder / _CONCEPTS, least=17):
        concept, language, text, suppressed = fields[0], fields[1], fields[14], fields[16]
        wanted = SHORTEST <= len(text) <= LONGEST and any(map(str.isalpha, text))
        if language == "ENG" and suppressed == "N" and wanted:
            found |= {Name(text, name): None for name in types.get(concept, {})}
    if not found:
        raise InputError(f"{folder}: {_CONCEPTS} and {_TYPES} hold no English name with a type")
    return list(found)


def names_in(sentences: Iterable[Sentence]) -> list[Name]:
    """The entities of sentences, each once, in their order."""
    return list(
        dict.fromkeys(
            Name(" ".join(sentence.words[span.start : span.end + 1]), span.label)
            for sentence in sentences
            for span in sentence.spans
        )
    )


def _table(path: Path, least: int) -> Iterator[Sequence[str]]:
    for number, line in _lines(path):
        fields = line.split("|")
        if len(fields) < least:
            raise InputError(f"{path}: line {number}: expected at least {least} fields, got {line[:80]!r}")
        yield fields


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a text file that are not empty."""
    number = 0
    opened: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: line {number + 1} or after: not UTF-8 text") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
