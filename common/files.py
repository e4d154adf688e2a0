"""Writes files whole or not at all, and gives clear errors if one cannot be read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from common.errors import InputError

WINDOWS = os.name == "nt"
_PATIENCE = 2.0
"""Seconds that Windows has to let go of a file."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` that replaces it when the block ends without an exception.

    A reader (or a killed writer, or a power loss) therefore sees the old file or the new one, never a part of it.

    Raises:
        OSError: If the system refuses to write; it names ``path``.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # mkstemp makes the file private; give it what a plain open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        sync(temporary)
        _replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        # Nobody knows the temporary name, and a failed write names no file at all.
        unnamed = error.errno is not None and error.filename is None
        if unnamed or temporary is None or error.filename == str(temporary):
            error.filename = str(path)
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def built_once(folder: Path, proof: str, build: Callable[[Path], None]) -> Path:
    """A folder, built first if it is not there; it appears whole or not at all.

    Args:
        folder: The folder.
        proof: Name of a file that it has if it is there.
        build: Writes the folder under the path that it is given.
    """
    if not (folder / proof).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            build(Path(temporary) / "built")
            try:
                _replace(Path(temporary) / "built", folder)
            except OSError:
                # Another process was faster; what it built is as good.
                if not (folder / proof).is_file():
                    raise
    return folder


def _replace(source: Path, target: Path) -> None:
    """As :func:`os.replace`. On Windows it fails while anybody reads the target, so there it waits a moment."""
    end = time.monotonic() + _PATIENCE if WINDOWS else 0.0
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if not WINDOWS or time.monotonic() > end:
                raise
            time.sleep(0.01)


def remove_lock(path: Path) -> None:
    """Removes the file of a lock that this process holds; filelock looks whether what it has locked is still there.

    Windows refuses to remove an open file: there filelock removes it when it lets go.
    """
    with contextlib.suppress(PermissionError):
        path.unlink(missing_ok=True)


_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp")


def leftovers(folder: Path, names: str) -> list[Path]:
    """What killed writers of :func:`atomic_path` have left in a folder.

    Args:
        folder: The folder.
        names: Regular expression of the names of the files that they wrote.
    """
    found = ((path, _TEMPORARY.fullmatch(path.name)) for path in folder.iterdir())
    return [path for path, match in found if match and re.fullmatch(names, match[1]) and path.is_file()]


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk: a power loss after that takes nothing."""
    if path.is_dir() and WINDOWS:
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems know no such thing.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_text(path: Path) -> Iterator[IO[str]]:
    """Opens a UTF-8 text file that appears under ``path`` only when the block ends without an exception."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        yield stream


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with atomic_text(path) as stream:
        stream.write(text)


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Writes one JSON value atomically, with a final newline; NaN and infinity are refused."""
    with atomic_text(path) as stream:
        json.dump(value, stream, ensure_ascii=False, indent=indent, allow_nan=False)
        stream.write("\n")


def write_json_records(path: Path, records: Iterable[Any]) -> None:
    """Writes a JSON list with one record a line: valid JSON that stays readable and diffable."""
    with atomic_text(path) as stream:
        stream.write("[")
        separator = "\n"
        for record in records:
            stream.write(separator + json.dumps(record, ensure_ascii=False, allow_nan=False))
            separator = ",\n"
        stream.write("\n]\n")


@contextlib.contextmanager
def errors_at(place: object) -> Iterator[None]:
    """Puts a file, or a place in one, before what is wrong with it.

    Raises:
        InputError: In place of what the system or a reader's ``ValueError`` says; one of the block's own stays.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{place}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{place}: is a folder, a file is needed") from None
    except OSError as error:
        raise InputError(f"{place}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8 text (byte {error.start})") from error
    except ValueError as error:
        raise InputError(f"{place}: {error}") from error


def parse_json(
    text: str,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
    parse_constant: Callable[[str], Any] | None = None,
) -> Any:
    """One JSON value; the hooks are those of :func:`json.loads`.

    Raises:
        ValueError: If it is incomplete, nested too deep or holds a number of thousands of digits, or a hook refuses it;
            :func:`json_problem` says what it is in one line.
    """
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook, parse_constant=parse_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None


def json_problem(error: ValueError, *, one_line: bool = False) -> str:
    """What is wrong with a JSON text, in one line."""
    if isinstance(error, json.JSONDecodeError):
        place = f"column {error.colno}" if one_line else f"line {error.lineno} column {error.colno}"
        return f"not whole JSON, {place}: {error.msg} (is the file truncated?)"
    return f"cannot be read as JSON: {str(error).split(';')[0]}"


def read_json(path: Path, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Reads one JSON value; a byte order mark before it is dropped.

    Args:
        path: File to read.
        object_pairs_hook: What makes a value of each object's pairs, as in :func:`json.loads`; dict if not given.

    Raises:
        InputError: If the file is missing, cannot be read, is not UTF-8 or is not whole JSON.
    """
    with errors_at(path):
        text = path.read_text(encoding="utf-8-sig")
        try:
            return parse_json(text, object_pairs_hook)
        except ValueError as error:
            raise ValueError(json_problem(error)) from error


def is_encodable(text: str) -> bool:
    """Whether a text can be written: JSON can express half of a surrogate pair, UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's pairs as a dict, for :func:`read_json` and :func:`parse_json`.

    Raises:
        ValueError: If a key is repeated.
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"repeated key {next(name for name in names if names.count(name) > 1)[:80]!r}")
    return value


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_hash(value: Any) -> str:
    """The SHA-256 of a JSON value, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is what Git leaves of a large one where Git LFS is not installed."""
    start = b"version https://git-lfs.github.com/spec/"
    with path.open("rb") as stream:
        return stream.read(len(start)) == start


def split_at_markers(path: Path, name: str) -> tuple[str, str]:
    """What a Markdown file has up to ``<!-- name -->`` and from ``<!-- /name -->`` on, the markers included.

    Raises:
        InputError: If there is no such file, or it does not have the two markers, in order.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    with errors_at(path):
        head, found, rest = path.read_text(encoding="utf-8").partition(start)
    _, found_end, tail = rest.partition(end)
    if not (found and found_end):
        raise InputError(f"{path}: needs the lines {start} and {end}")
    return head + start, end + tail


def put_between_markers(path: Path, name: str, text: str) -> None:
    """Replaces what stands between two markers of a Markdown file.

    Raises:
        InputError: As :func:`split_at_markers`.
    """
    head, tail = split_at_markers(path, name)
    write_text(path, f"{head}\n{text}{tail}")
