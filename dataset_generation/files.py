"""Finds the files of each split in a source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.data.dataset import SPLITS, Split
from common.errors import InputError
from dataset_generation.formats import SUFFIXES
from dataset_generation.options import ReadOptions

_PREFIXES: tuple[tuple[str, Split], ...] = (
    ("testa", "validation"),  # CoNLL-2003's names
    ("train", "train"),
    ("val", "validation"),
    ("dev", "validation"),
    ("eval", "validation"),
    ("test", "test"),
)
_NAMES: dict[str, Split] = {
    "train": "train",
    **dict.fromkeys(("validation", "valid", "val", "devel", "dev", "eval", "testa"), "validation"),
    **dict.fromkeys(("test", "testb"), "test"),
}
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d+)-of-(?P<total>\d+)\.[^.]+")


def split_named(name: str) -> Split | None:
    """The split that a folder or a table is called by, None if the name is no split's."""
    return _NAMES.get(name.lower())


@dataclass(frozen=True)
class SourceFiles:
    """The files of a source."""

    root: Path
    splits: dict[Split, list[Path]]
    """The files of each split, in order; those of train alone if the source has yet to be split."""
    ignored: list[str]
    """Files of known kinds that belong to no split, files of a split that are of no known kind, and folders of files
    that are not read."""

    def name(self, path: Path) -> str:
        """The name of a file inside the source, without paths of this machine."""
        return path.name if path == self.root else path.relative_to(self.root).as_posix()


def find_files(source: Path, options: ReadOptions) -> SourceFiles:
    """The files of each split.

    A folder has files or folders whose names say their split, or ``.ann`` files with their texts, or all this in its
    folder ``data``.

    Raises:
        InputError: If there is nothing at ``source``, a split is missing, or two files claim to be one.
    """
    if source.is_file():
        if options.format == "auto" and source.suffix.lower() not in SUFFIXES:
            raise InputError(
                f"{source}: unknown kind of file {source.suffix!r}, known are {sorted(SUFFIXES)} (or give --format)"
            )
        return SourceFiles(source, {"train": [source]}, [])
    if not source.is_dir():
        raise InputError(f"{source}: no such file or folder (--source)")
    found: dict[Split, list[Path]] = {}
    ignored: list[Path] = []
    for folder in (source, source / "data"):
        if folder.is_dir() and not found:
            named, others = _split_folder(folder, options)
            found.update(named)
            ignored += others
    splits = {split: found[split] for split in SPLITS if split in found}
    standoff = [path for path in ignored if path.suffix.lower() == ".ann"]
    if not splits and standoff:
        ignored = [path for path in ignored if path not in standoff]
        splits = {"train": standoff}
    elif not {"train", "test"} <= set(splits):
        missing = "test" if "train" in splits else "train"
        raise InputError(
            f"{source}: no {missing} file; a folder needs files or folders whose names start with train, test and "
            f"perhaps validation (or valid, val, devel, dev, eval), of the kinds {sorted(SUFFIXES)}"
        )
    files = SourceFiles(source, splits, [])
    unread = [f"{files.name(folder)}/" for folder in _unread_folders(source, splits)]
    files.ignored.extend(sorted([*map(files.name, ignored), *unread]))
    return files


def _unread_folders(source: Path, splits: Mapping[Split, Sequence[Path]]) -> list[Path]:
    """The folders beside and below what is read that hold files of known kinds, but nothing that is read."""
    read = {path.parent for paths in splits.values() for path in paths}
    opened = {source, *read, *(above for folder in read for above in folder.parents if source in above.parents)}
    return [
        child
        for folder in opened
        for child in folder.iterdir()
        if child.is_dir() and not child.name.startswith(".") and child not in opened
        if any(path.suffix.lower() in SUFFIXES for path in child.rglob("*"))
    ]


def _split_folder(folder: Path, options: ReadOptions) -> tuple[dict[Split, list[Path]], list[Path]]:
    """The files of each split in a folder and in its folders that are named for a split, and those not to be read."""
    found: dict[Split, list[Path]] = {}
    ignored: list[Path] = []
    readable = _readable(folder, options)
    standoff = any(path.suffix.lower() == ".ann" for path in readable)
    for path in readable:
        # The names of documents name no split.
        split = None if standoff else _split_of(path.name)
        (ignored if split is None else found.setdefault(split, [])).append(path)
    for split, paths in found.items():
        _check_parts(folder, split, paths)
    for child in _inside(folder):
        split = split_named(child.name) if child.is_dir() else None
        if split is None:
            continue
        parts = _readable(child, options)
        texts = [path for path in parts if path.suffix.lower() == ".ann"]
        if split in found and parts:
            raise InputError(
                f"{folder}: two sources of {split}, {found[split][0].name} and the folder {child.name}; keep one"
            )
        ignored += [] if texts else _files(child, options, known=False)
        if parts:
            found[split] = texts or parts
            ignored += [path for path in parts if path not in found[split]]
    if found:
        ignored += [path for path in _files(folder, options, known=False) if _split_of(path.name) is not None]
    return found, ignored


def _inside(folder: Path) -> list[Path]:
    """What a folder holds, in the same order on all systems: paths of Windows sort without regard to case."""
    return sorted(folder.iterdir(), key=lambda path: path.name)


def _readable(folder: Path, options: ReadOptions) -> list[Path]:
    """The files of known kinds in a folder, sorted; a text with an ``.ann`` file is part of that."""
    known = _files(folder, options)
    annotated = {path.stem for path in known if path.suffix.lower() == ".ann"}
    return [path for path in known if not (path.suffix.lower() == ".txt" and path.stem in annotated)]


def _files(folder: Path, options: ReadOptions, *, known: bool = True) -> list[Path]:
    """The files of known kinds in a folder or the others, sorted; also links to what is not there, not to miss any."""
    files = [path for path in _inside(folder) if path.is_file() or (path.is_symlink() and not path.exists())]
    visible = (path for path in files if not path.name.startswith("."))
    return [path for path in visible if (options.format != "auto" or path.suffix.lower() in SUFFIXES) == known]


def _split_of(name: str) -> Split | None:
    lower = name.lower()
    for prefix, split in _PREFIXES:
        if lower.startswith(prefix):
            return split
    named = {_NAMES[part] for part in re.split(r"[^a-z]+", lower) if part in _NAMES}
    return named.pop() if len(named) == 1 else None


def _check_parts(folder: Path, split: Split, paths: Sequence[Path]) -> None:
    """Raises InputError unless the files of a split are one file or all numbered parts of one."""
    matches = [_SHARD.fullmatch(path.name) for path in paths]
    shards = [match for match in matches if match]
    if len(paths) > 1 and (len(shards) < len(paths) or len({(match["stem"], match["total"]) for match in shards}) > 1):
        raise InputError(
            f"{folder}: two {split} files, {paths[0].name} and {paths[1].name}; keep one, put the parts of a split "
            f"into a folder {split}/, or number them {split}-00000-of-00002, ..."
        )
    if shards:
        total, present = int(shards[0]["total"]), Counter(int(match["number"]) for match in shards)
        repeated = next((number for number, times in present.items() if times > 1), None)
        if repeated is not None:
            raise InputError(f"{folder}: part {repeated} of the {total} of {shards[0]['stem']} is there twice")
        missing = next((number for number in range(min(total, 10**6)) if number not in present), None)
        if missing is not None:
            raise InputError(f"{folder}: part {missing} of the {total} of {shards[0]['stem']} is missing")
