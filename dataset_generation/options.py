"""How a corpus is read: the options that every reader gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from common.config import require
from common.data.labels import normalise_type
from common.data.mixture import joint_names
from common.data.spans import OUTSIDE
from common.data.text import SentenceRule

TagScheme = Literal["auto", "iob1", "iob2", "bioes", "io"]
FormatName = Literal["auto", "conll", "json", "parquet", "csv", "brat", "pubtator"]
Overlaps = Literal["error", "longest", "first"]
OffEdges = Literal["error", "snap", "drop"]

ROLES = ("word", "tag", "text", "spans", "sentence", "document")
"""What a column or field can be."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How a corpus is read; the same for every format."""

    format: FormatName = "auto"
    """Format of the files, if names and content do not show it; json covers JSON Lines, BioC and Label Studio."""
    columns: str | None = None
    """Which column or field holds what, as in word=1,tag=3 (from 0; -1 is the last) or text=body,spans=marks."""
    tag_scheme: TagScheme = "auto"
    """How the corpus writes tags. auto: detect it; io: types without B- and I-."""
    type: str | None = None
    """The only entity type of a corpus whose tags are bare B, I and O."""
    classes: tuple[str, ...] = ()
    """Tags by class id, if tags are numbers without names, such as O B-Disease I-Disease."""
    types: tuple[str, ...] = ()
    """Keep only these entity types, and only sentences that contain one; all if not given."""
    empty_sentences: bool = False
    """Also keep sentences that contain none of --types, with nothing to find in them."""
    map: tuple[str, ...] = ()
    """TYPE=NAME: rename entity types; types with the same name become one type."""
    overlaps: Overlaps = "error"
    """Entities that share words: refuse them, keep the longest, or keep the one that the corpus names first."""
    off_edges: OffEdges = "error"
    """Entities that begin or end inside a word: refuse them, widen them to whole words, or leave them out."""
    sentences: SentenceRule = "split"
    """How raw text becomes sentences: split it at punctuation, or take each line or the whole text as one."""
    skip_invalid: bool = False
    """Leave out and count bad records and bad entities instead of stopping at the first."""

    def __post_init__(self) -> None:
        _ = self.roles
        for name in (self.type, *self.types, *joint_names(self.map).values()):
            require(
                name is None or normalise_type(name) not in ("", normalise_type(OUTSIDE)),
                f"{name!r} cannot be an entity type",
            )
        require(
            self.type is None or self.tag_scheme != "io",
            "--type is for tags B, I and O, which --tag-scheme io does not have",
        )
        require(bool(self.types) or not self.empty_sentences, "--empty-sentences is for --types")
        require(len(set(self.classes)) == len(self.classes), f"--classes has a repeated tag: {' '.join(self.classes)}")

    @property
    def roles(self) -> Mapping[str, str]:
        """Column or field by role, as ``--columns`` gives them."""
        roles: dict[str, str] = {}
        if self.columns is None:
            return roles
        for part in self.columns.split(","):
            role, separator, column = part.partition("=")
            role, column = role.strip(), column.strip()
            require(
                bool(separator and column) and role in ROLES and role not in roles,
                f"--columns must be ROLE=COLUMN,... with roles among {', '.join(ROLES)}, each once, "
                f"got {self.columns!r}",
            )
            roles[role] = column
        return roles
