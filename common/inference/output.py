"""Writes tagged documents as JSON Lines, CoNLL or BRAT, whole or not at all; a killed run resumes where it stopped.

An unfinished output is ``NAME.partial``: a line with the run's settings, then one for each finished document.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from filelock import FileLock, Timeout

from common.config import differences, require
from common.data.spans import Span, spans_to_tags
from common.errors import InputError
from common.files import WINDOWS, atomic_text, remove_lock, write_text
from common.inference.documents import Document
from common.inference.tagger import Tagged

OutputFormat = Literal["jsonl", "conll", "brat"]
SUFFIXES: Mapping[str, OutputFormat] = {".jsonl": "jsonl", ".conll": "conll", "": "brat"}
"""Format by the output's suffix; a folder has none."""

_NOT_ON_WINDOWS = re.compile(r'.*[<>:"|?*].*|.*[ .]|(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?', re.IGNORECASE)
"""A name that Windows refuses, or takes for another place than a file of the folder: a drive, a stream, a device."""
_FOLDS_NAMES = sys.platform in ("win32", "darwin")
"""Whether two names that differ in the case of letters alone (macOS: or in how an accent is written) are one file's."""
_LONGEST_NAME = 255 - len("..txt.12345678.tmp")
"""Bytes of a document's name: a file system takes 255, and the file is written under a longer temporary one."""


def check_output(path: Path, form: OutputFormat | None) -> OutputFormat:
    """The format of an output that can be written.

    Raises:
        InputError: If it is there already, its folder is a file, or nothing says its format.
    """
    require(path != Path("-"), "--output -: nothing is written to standard output; name a file, or a folder for BRAT")
    require(not path.exists(), f"--output {path}: exists; give another name or remove it")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    require(above.is_dir(), f"--output {path}: {above} is no folder")
    found = form or SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise InputError(
            f"--output {path}: ends neither in .jsonl nor .conll, and is no folder's name; "
            "name the format with --output-format"
        )
    return found


def write_tagged(
    documents: Iterator[Document],
    tag: Callable[[Iterable[Document]], Iterator[Tagged]],
    output: Path,
    form: OutputFormat,
    settings: Mapping[str, Any],
) -> tuple[int, int]:
    """Tags documents and writes the output; a partial one of the same settings and documents is gone on with.

    Args:
        documents: All documents, also those that are done.
        tag: Gives the entities of documents.
        output: File, or folder of BRAT; must not exist.
        form: Its format.
        settings: What the entities depend on beside the documents; ``model`` stands in each record of JSON Lines.

    Returns:
        The numbers of documents and of entities.

    Raises:
        InputError: If a document is bad, the partial output is another run's, or the output cannot be written.
    """
    partial = output.with_name(f"{output.name}.partial")
    lock = FileLock(output.with_name(f".{output.name}.lock"))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with lock.acquire(timeout=0):
            if form == "brat":
                documents = _named_for_brat(documents)
            _skip_done(partial, documents, dict(settings))
            with partial.open("a", encoding="utf-8", newline="\n", buffering=1) as stream:
                for tagged in tag(documents):
                    stream.write(_line(_record(tagged, with_words=form == "conll")))
            counts = [len(record["entities"]) for record in _records(partial)]
            _WRITERS[form](_records(partial), output, str(settings["model"]))
            partial.unlink()
            remove_lock(Path(lock.lock_file))
    except Timeout:
        raise InputError(f"--output {output}: is being written by another process") from None
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written: {error.strerror or error}") from error
    return len(counts), sum(counts)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _record(tagged: Tagged, *, with_words: bool) -> dict[str, Any]:
    document = tagged.document
    entities = [item._asdict() | {"score": round(item.score, 4)} for item in tagged.entities]
    record: dict[str, Any] = {"id": document.id, "text": document.text, "entities": entities}
    if with_words:
        record["words"] = [[(word.start, word.end) for word in words] for words in document.sentences()]
    return record


def _skip_done(partial: Path, documents: Iterator[Document], settings: dict[str, Any]) -> None:
    """Repairs a partial output of this run and takes the documents that it has; begins one if there is none."""
    lengths = []
    if partial.is_file():
        with partial.open("rb+") as stream:
            # A killed process may have left a part of its last line.
            lengths = [len(line) for line in stream if line.endswith(b"\n")]
            stream.truncate(sum(lengths))
    if len(lengths) < 2:  # no document is done
        write_text(partial, _line(settings))
        return
    way_out = f"remove {partial} to begin anew"
    lines = _lines(partial)
    header = next(lines)
    changed = differences(header, settings) if isinstance(header, dict) else ["it is no partial output"]
    require(not changed, f"{partial}: was begun differently: {'; '.join(changed)}; {way_out}")
    for record in lines:
        document = next(documents, None)
        if document is None or (document.id, document.text) != (record["id"], record["text"]):
            raise InputError(f"{partial}: document {record['id']!r} is no longer that of the input; {way_out}")


def _lines(partial: Path) -> Iterator[Any]:
    with partial.open(encoding="utf-8", newline="\n") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise InputError(f"{partial}: line {number} is no JSON; remove it to begin anew") from error


def _records(partial: Path) -> Iterator[dict[str, Any]]:
    lines = _lines(partial)
    next(lines)
    yield from lines


def _write_jsonl(records: Iterator[dict[str, Any]], output: Path, model: str) -> None:
    with atomic_text(output) as stream:
        for record in records:
            stream.write(_line(record | {"model": model}))


def _write_conll(records: Iterator[dict[str, Any]], output: Path, model: str) -> None:  # noqa: ARG001 - as the others
    """A word and its tag (IOB2) in each line."""
    with atomic_text(output) as stream:
        for record in records:
            stream.write(f"# newdoc id = {record['id']}\n")
            for words in record["words"]:
                tags = spans_to_tags(_word_spans(words, record["entities"]), len(words))
                rows = (f"{record['text'][start:end]}\t{tag}\n" for (start, end), tag in zip(words, tags, strict=True))
                stream.write("".join(rows) + "\n")


def _word_spans(words: Sequence[Sequence[int]], entities: Sequence[Mapping[str, Any]]) -> list[Span]:
    """The entities of one sentence, by word; entities are in order and begin and end where words do."""
    first = bisect_left(entities, words[0][0], key=lambda entity: entity["start"])
    after = bisect_left(entities, words[-1][1], key=lambda entity: entity["start"])
    starts = {start: index for index, (start, _) in enumerate(words)}
    ends = {end: index for index, (_, end) in enumerate(words)}
    return [Span(starts[item["start"]], ends[item["end"]], item["label"]) for item in entities[first:after]]


def _named_for_brat(documents: Iterable[Document]) -> Iterator[Document]:
    """The documents, whose ids are checked before they are tagged: at the end all tagging would be lost."""
    names: set[str] = set()
    folders: set[str] = set()
    for document in documents:
        name = PurePosixPath(document.id)
        require(
            not name.is_absolute()
            and ".." not in name.parts
            and bool(name.parts)
            and "\\" not in document.id
            and not (WINDOWS and any(map(_NOT_ON_WINDOWS.fullmatch, name.parts)))
            and max(len(part.encode()) for part in name.parts) <= _LONGEST_NAME,
            f"document {document.id!r}: its id cannot be a file's name in a folder of BRAT",
        )
        own, *above = map(_folded, (name, *name.parents))
        require(own not in names, f"document {document.id!r}: two documents have this id, and BRAT one file for each")
        files_of_others = {folder[:-4] for folder in above if folder.endswith((".txt", ".ann"))} & names
        require(
            not files_of_others and folders.isdisjoint({f"{own}.txt", f"{own}.ann"}),
            f"document {document.id!r}: BRAT would need a folder of the same name as a file of another document",
        )
        names.add(own)
        folders.update(above)
        yield document


def _folded(name: PurePosixPath) -> str:
    """What the file system compares of a path."""
    return unicodedata.normalize("NFC", str(name).casefold()) if _FOLDS_NAMES else str(name)


def _write_brat(records: Iterator[dict[str, Any]], output: Path, model: str) -> None:  # noqa: ARG001 - as the others
    """A text and its entities for each document, scores as notes; BRAT has an entity over a line end in pieces."""
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for record in records:
        name = PurePosixPath(record["id"])
        text = temporary.joinpath(*name.parts[:-1], f"{name.name}.txt")
        write_text(text, record["text"])
        lines = []
        for number, item in enumerate(record["entities"], start=1):
            pieces = [match.span() for match in re.finditer(r"\S(?:[^\r\n]*\S)?", item["text"])]
            places = ";".join(f"{item['start'] + start} {item['start'] + end}" for start, end in pieces)
            surface = " ".join(item["text"][start:end] for start, end in pieces)
            label = "_".join(item["label"].split())
            lines.append(f"T{number}\t{label} {places}\t{surface}\n")
            lines.append(f"#{number}\tAnnotatorNotes T{number}\tscore {item['score']:.4f}\n")
        write_text(text.with_suffix(".ann"), "".join(lines))
    temporary.rename(output)


_WRITERS: Mapping[OutputFormat, Callable[[Iterator[dict[str, Any]], Path, str], None]] = {
    "jsonl": _write_jsonl,
    "conll": _write_conll,
    "brat": _write_brat,
}
