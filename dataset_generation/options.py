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
    """Options of reading; they mean the same for every format."""

    format: FormatName = "auto"
    """Kind of the files, if their names and content do not say it; json is also JSON Lines, BioC and Label Studio."""
    columns: str | None = None
    """Which column or field is what, as in word=1,tag=3 (counted from 0, -1 is the last) or text=body,spans=marks."""
    tag_scheme: TagScheme = "auto"
    """How the corpus writes tags; auto finds out, io is types without B- and I-."""
    type: str | None = None
    """The one entity type of a corpus whose tags are bare B, I and O."""
    classes: tuple[str, ...] = ()
    """Tags by class id, for tags that are numbers without names: O B-Disease I-Disease."""
    types: tuple[str, ...] = ()
    """Keep only these entity types, and only the sentences that have one; all if not given."""
    empty_sentences: bool = False
    """Keep the sentences that have none of --types, too: there is nothing to find in them."""
    map: tuple[str, ...] = ()
    """TYPE=NAME: other names of entity types; types of one name become one."""
    overlaps: Overlaps = "error"
    """Entities that share words: refuse them, keep the longest, or the one that the corpus names first."""
    off_edges: OffEdges = "error"
    """Entities that begin or end inside a word: refuse them, widen them to whole words, or leave them out."""
    sentences: SentenceRule = "split"
    """Raw text to sentences: split at punctuation, take each line as one, or the whole text as one."""
    skip_invalid: bool = False
    """Leave bad records and bad entities out and count them, instead of ending at the first."""

    def __post_init__(self) -> None:
        _ = self.roles
        for name in (self.type, *self.types, *joint_names(self.map).values()):
            require(
                name is None or normalise_type(name) not in ("", normalise_type(OUTSIDE)),
                f"{name!r} cannot be an entity type",
            )
        require(bool(self.types) or not self.empty_sentences, "--empty-sentences is for --types")
        require(len(set(self.classes)) == len(self.classes), f"--classes has a repeated tag: {' '.join(self.classes)}")

    @property
    def roles(self) -> Mapping[str, str]:
        """Column or field by role, as ``--columns`` gives them."""
        roles: dict[str, str] = {}
        for part in (self.columns or "").split(",") if self.columns is not None else ():
            role, separator, column = part.partition("=")
            role, column = role.strip(), column.strip()
            require(
                bool(separator and column) and role in ROLES and role not in roles,
                f"--columns must be ROLE=COLUMN,... with roles among {', '.join(ROLES)}, each once, "
                f"got {self.columns!r}",
            )
            roles[role] = column
        return roles
