"""The formats that a corpus can have, one reader a module; :data:`FORMATS` is the table of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dataset_generation.formats.base import Format, read_lines
from dataset_generation.formats.brat import BRAT
from dataset_generation.formats.conll import CONLL
from dataset_generation.formats.pubtator import HEADER, PUBTATOR
from dataset_generation.formats.records import JSON
from dataset_generation.formats.tables import CSV, PARQUET
from dataset_generation.options import ReadOptions

FORMATS: Mapping[str, Format] = {
    "conll": CONLL,
    "json": JSON,
    "parquet": PARQUET,
    "csv": CSV,
    "brat": BRAT,
    "pubtator": PUBTATOR,
}

SUFFIXES: Mapping[str, str] = {
    ".parquet": "parquet",
    **dict.fromkeys((".conll", ".iob", ".iob2", ".bio", ".bioes", ".tsv", ".txt", ".conllu"), "conll"),
    **dict.fromkeys((".train", ".dev", ".test", ".testa", ".testb"), "conll"),  # CoNLL-2003 calls its files eng.testa
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".ann": "brat",
    ".pubtator": "pubtator",
}
"""Format by suffix; a text file is PubTator or JSON if it begins so."""


def format_name(path: Path, options: ReadOptions) -> str:
    """The format of a file: what ``--format`` says, or its suffix, or, for text, its first line."""
    if options.format != "auto":
        return options.format
    name = SUFFIXES[path.suffix.lower()]
    if name == "conll":
        first = next((line for line in read_lines(path) if line.strip()), "")
        if first.lstrip().startswith(('{"', "[{")):
            return "json"
        return "pubtator" if HEADER.fullmatch(first) else name
    return name
