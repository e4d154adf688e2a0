"""Data sets of the Hugging Face hub."""

from __future__ import annotations

from typing import Any, NamedTuple

from common.errors import InputError
from common.hub import TEXT_FILES, snapshot, split_revision

_FILES = (
    *TEXT_FILES,
    *("README.md", ".huggingface.yaml"),
    *(f"*.{suffix}" for suffix in ("parquet", "jsonl", "csv", "tsv", "arrow", "gz", "zip", "xz", "bz2", "zst")),
)
"""What a data set is made of: its card, which says which file is what, and the files that datasets reads."""


class HubDataset(NamedTuple):
    """A loaded data set."""

    tables: Any
    """A ``DatasetDict``, or a dict of tables by split."""
    repository: str
    """Its name, ``owner/name``."""
    commit: str


def load_hub_dataset(source: str, way_out: str) -> HubDataset:
    """A data set of the hub.

    Args:
        source: ``OWNER/NAME``, with ``/CONFIGURATION`` if it has several, and with ``@REVISION`` if another than the
            newest is wanted.
        way_out: What to do instead if the hub is unreachable; the end of the error message.

    Raises:
        InputError: If neither the hub nor its cache has it, or it cannot be read.
    """
    name, revision = split_revision(source)
    repository, configuration = name, None
    if name.count("/") == 2:
        repository, _, configuration = name.rpartition("/")
    try:
        folder = snapshot(repository, _FILES, revision, "dataset")
    except InputError as error:
        raise InputError(f"cannot load {repository} from the hub: {error}. Else {way_out}") from error

    import pyarrow
    from datasets.exceptions import DatasetsError
    from datasets.load import load_dataset
    from yaml import YAMLError

    try:
        tables = load_dataset(str(folder), configuration)
    except (
        *(DatasetsError, OSError, ValueError, LookupError, TypeError, AttributeError),
        *(YAMLError, pyarrow.ArrowException),
    ) as error:
        # The error is often no more than that there was one.
        reason = " ".join(f"{error}: {error.__cause__ or ''}".replace(str(folder), repository).split()).strip(": ")
        if configuration is None and "Config name is missing" in reason:
            way_out = f"name one: {repository}/CONFIGURATION"
        raise InputError(f"{repository} of the hub cannot be read: {reason[:400]}. Else {way_out}") from error
    return HubDataset(tables, repository, folder.name)
