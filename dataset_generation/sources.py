"""Reads a corpus from where it is: a file, a folder of files, or the hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.dataset import SPLITS, Split
from common.errors import InputError
from common.files import sha256_file
from dataset_generation.corpus import Corpus
from dataset_generation.files import find_files, split_named
from dataset_generation.formats import FORMATS, format_name
from dataset_generation.formats.tables import parse_row, read_table
from dataset_generation.hub import load_hub_dataset
from dataset_generation.options import ReadOptions
from dataset_generation.reading import CorpusReader

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """A corpus that the project knows by name."""

    hub: str
    """Its repository on the hub."""
    types: tuple[str, ...]
    """Its entity types, in label order."""
    tail: int | None = None
    """Rows at the end of its train split that usually serve as validation, if it has no official validation split."""


BENCHMARKS: Mapping[str, Benchmark] = {
    # 1,739 rows are the sentences of the last 200 training abstracts: the development set of MTL-Bioinformatics-2016.
    "jnlpba": Benchmark("disi-unibo-nlp/JNLPBA", ("cell line", "cell type", "dna", "protein", "rna"), tail=1739),
    "bc5cdr": Benchmark("disi-unibo-nlp/bc5cdr", ("chemical", "disease")),
}


def read_local(source: Path, options: ReadOptions | None = None, *, known_types: Sequence[str] | None = None) -> Corpus:
    """Reads a folder of split files, or one file.

    Args:
        source: Folder or file.
        options: How to read.
        known_types: The normalised types that may occur; any if None.

    Raises:
        InputError: At the first bad record or entity (unless skipped), naming file, record and value.
    """
    options = options or ReadOptions()
    if (source / "dataset_dict.json").is_file():
        return _read_tables(_load_saved(source), source.resolve().name, {"kind": "saved"}, options, known_types)
    files = find_files(source, options)
    if files.ignored:
        logger.warning("%s: not read, of no split or no known kind: %s", source, ", ".join(files.ignored))
    for split, paths in files.splits.items():
        if len(paths) > 1:
            logger.info("%s: %d files, %s to %s", split, len(paths), files.name(paths[0]), files.name(paths[-1]))
    formats = {path: format_name(path, options) for paths in files.splits.values() for path in paths}
    reader = CorpusReader(options, known_types)
    prepared = {
        name: FORMATS[name].prepare([path for path, format_ in formats.items() if format_ == name], options)
        for name in dict.fromkeys(formats.values())
    }
    for split, paths in files.splits.items():
        for path in paths:
            form, how = FORMATS[formats[path]], prepared[formats[path]]
            reader.add(split, str(path), form.read(path, how), form.parse, how)
    read = [path for first, name in formats.items() for path in FORMATS[name].files(first)]
    origin: dict[str, Any] = {"kind": "files", "sha256": {files.name(path): sha256_file(path) for path in read}}
    if files.ignored:
        origin["ignored"] = files.ignored
    if set(formats.values()) != {"parquet"}:
        origin["formats"] = sorted(set(formats.values()))
    if "conll" in prepared:
        origin["columns"] = prepared["conll"].columns
    return reader.corpus(origin)


def read_hub(source: str, options: ReadOptions | None = None, *, known_types: Sequence[str] | None = None) -> Corpus:
    """Reads a dataset of the hub.

    Args:
        source: ``OWNER/NAME[/CONFIGURATION][@REVISION]``.
        options: How to read.
        known_types: The normalised types that may occur; any if None.

    Raises:
        InputError: If neither the hub nor its cache has it or a record is bad.
    """
    found = load_hub_dataset(source, "give the corpus as files with --source PATH, or use a demo corpus (demo-...)")
    origin = {"kind": "hub", "repository": found.repository, "commit": found.commit}
    return _read_tables(found.tables, found.repository, origin, options or ReadOptions(), known_types)


def _load_saved(source: Path) -> Any:
    """What ``DatasetDict.save_to_disk`` has written."""
    import pyarrow
    from datasets.load import load_from_disk

    try:
        return load_from_disk(str(source))
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise InputError(f"{source}: cannot be loaded: {' '.join(str(error).split())[:200]}") from error


def _read_tables(
    tables: Mapping[str, Any],
    name: str,
    origin: Mapping[str, Any],
    options: ReadOptions,
    known_types: Sequence[str] | None,
) -> Corpus:
    names: dict[Split, str] = {}
    for table_name in tables:
        split = split_named(table_name)
        if split in names:
            raise InputError(f"{name}: two splits for {split}: {names[split]} and {table_name}")
        if split is not None:
            names[split] = table_name
    ignored = sorted(set(tables) - set(names.values()))
    if ignored:
        logger.warning("%s: splits that are not read: %s", name, ", ".join(ignored))
        origin = {**origin, "ignored": ignored}
    for split in ("train", "test"):
        if split not in names:
            raise InputError(f"{name}: has no {split} split, found {sorted(tables)}")
    reader = CorpusReader(options, known_types)
    for split in SPLITS:
        if split in names:
            table, where = tables[names[split]], f"{name}/{names[split]}"
            records = read_table(table, table.column_names, table.features, where, options)
            reader.add(split, where, records, parse_row)
    return reader.corpus(origin)
