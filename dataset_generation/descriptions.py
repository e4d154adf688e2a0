"""The texts that describe entity types: our own, those of the hub, a file's, or the names themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from common.data.dataset import check_encodable
from common.data.labels import LabelSet, normalise_type
from common.data.spans import OUTSIDE
from common.errors import InputError
from common.files import errors_at, read_json, unique_keys
from dataset_generation.formats.base import record_place
from dataset_generation.hub import load_hub_dataset

logger = logging.getLogger(__name__)

HUB_DESCRIPTIONS = "disi-unibo-nlp/Pile-NER-biomed-descriptions"


def make_label_set(types: Sequence[str], source: str, corpus: str) -> LabelSet:
    """The label set of ``types``, in their order, with descriptions.

    Args:
        types: Normalised names.
        source: ``own``, ``hub``, ``names``, or the path of a JSON file: an object of texts by type, or a list of
            objects with ``entity_type`` and ``description``.
        corpus: ``jnlpba`` or ``bc5cdr``, whose class ``O`` has its own text; any other name gets a text that names its
            types.

    Raises:
        InputError: If a type has no description or two.
    """
    own = read_json(Path(str(files("dataset_generation") / "descriptions.json")))
    outside = own["O"].get(corpus) or f"A word that belongs to no mention of any of these: {', '.join(types)}."
    if source == "names":
        return LabelSet(tuple(types), tuple(types), outside)
    if source == "own":
        texts = own["types"]
        way_out = "give --descriptions FILE, hub, or names (each type's name is its description)"
    elif source == "hub":
        texts = _read_hub(types)
        way_out = "give --descriptions FILE, own or names"
    else:
        texts = _read_file(Path(source), types)
        outside = texts.get(OUTSIDE, outside)
        way_out = "add it to the file"
    missing = [name for name in types if name not in texts]
    if missing:
        raise InputError(f"no description ({source}) for {', '.join(map(repr, missing))}: {way_out}")
    return LabelSet(tuple(types), tuple(texts[name] for name in types), outside)


def _read_hub(types: Sequence[str]) -> dict[str, str]:
    tables = load_hub_dataset(HUB_DESCRIPTIONS, "use --descriptions own, names or FILE").tables
    for table in tables.values():
        if not {"entity_type", "description"} <= set(table.column_names):
            raise InputError(
                f"{HUB_DESCRIPTIONS}: needs the columns entity_type and description, found {table.column_names}"
            )
    rows = (row for table in tables.values() for row in table if isinstance(row["entity_type"], str))
    pairs = {(normalise_type(row["entity_type"]), row["description"]): None for row in rows}
    # Only the types that are wanted must be unique: the collection has thousands of others.
    return _unique((pair for pair in pairs if pair[0] in types), HUB_DESCRIPTIONS)


def _read_file(path: Path, types: Sequence[str]) -> dict[str, str]:
    texts = _unique(_file_pairs(path), str(path))
    unused = sorted(set(texts) - {*types, OUTSIDE})
    if unused:
        logger.info("%s: descriptions of types that the corpus does not have are not used: %s", path, ", ".join(unused))
    return texts


def _file_pairs(path: Path) -> list[tuple[Any, Any]]:
    """The types and texts of a description file, repeated ones included, of any kind."""
    # Objects are read as tuples of pairs, because a dict would hide a repeated key.
    value = read_json(path, object_pairs_hook=tuple)
    if isinstance(value, tuple):
        pairs = list(value)
    elif isinstance(value, list):
        pairs = []
        for number, entry in enumerate(value):
            with errors_at(f"{path}: {record_place(number)}"):
                fields = unique_keys(list(entry)) if isinstance(entry, tuple) else {}
            if set(fields) != {"entity_type", "description"}:
                raise InputError(
                    f"{path}: {record_place(number)}: expected an object with entity_type and description, "
                    f"got {fields or entry!r}"
                )
            pairs.append((fields["entity_type"], fields["description"]))
    else:
        raise InputError(f"{path}: expected a JSON object or list of descriptions, got {type(value).__name__}")
    return pairs


def _unique(pairs: Iterable[tuple[Any, Any]], where: str) -> dict[str, str]:
    """The texts by normalised type.

    Raises:
        InputError: If a type or a text is none, or a type has two.
    """
    texts: dict[str, str] = {}
    for raw, text in pairs:
        if not isinstance(raw, str) or not raw.strip():
            raise InputError(f"{where}: a type must be a non-empty string, got {raw!r}")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: the description of {raw!r} must be a non-empty string, got {text!r}")
        with errors_at(where):
            for part in (raw, text):
                check_encodable(part, f"the description of {raw!r}")
        name = raw if raw == OUTSIDE else normalise_type(raw)
        if name in texts:
            raise InputError(f"{where}: type {name!r} has two descriptions: {texts[name]!r} and {text!r}")
        texts[name] = text
    return texts
