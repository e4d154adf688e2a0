"""Label sets: a corpus's entity types in order, with the texts that describe them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from common.data.spans import OUTSIDE, Span

LabelText = Literal["names", "descriptions"]


_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
"""Soft hyphen, zero-width space, word joiner, byte order mark: characters that a name may hold unseen."""


def normalise_type(raw: str) -> str:
    """``cell_type`` -> ``cell type``, ``Chemical`` -> ``chemical``: the words that a label encoder has seen."""
    name = " ".join(raw.translate(_INVISIBLE).replace("_", " ").split()).lower()
    return unicodedata.normalize("NFC", name)  # an accent may be a character of its own


@dataclass(frozen=True)
class LabelSet:
    """The entity types of a corpus; ``O`` is not an entity type but the class after the last one.

    Raises:
        ValueError: If there is no type, one is repeated or named ``O``, or a description is empty or missing.
    """

    names: tuple[str, ...]
    """Entity types in id order."""
    descriptions: tuple[str, ...]
    """One sentence for each type, in the same order."""
    outside_description: str
    """Description of a word outside every entity."""

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a label set needs at least one entity type")
        if len(set(self.names)) != len(self.names):
            repeated = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"entity types are repeated: {repeated}")
        if any(normalise_type(name) == normalise_type(OUTSIDE) for name in self.names):
            raise ValueError(f"{OUTSIDE!r} is the class outside every entity and cannot be an entity type")
        if len(self.names) != len(self.descriptions):
            raise ValueError(f"{len(self.names)} entity types but {len(self.descriptions)} descriptions")
        for name, text in zip((*self.names, OUTSIDE), (*self.descriptions, self.outside_description), strict=True):
            if not text.strip():
                raise ValueError(f"label {name!r} has no description")

    def __len__(self) -> int:
        """The number of entity types, without ``O``."""
        return len(self.names)

    @property
    def outside_id(self) -> int:
        """The class id of ``O``: the one after the last entity type."""
        return len(self.names)

    @property
    def label2id(self) -> dict[str, int]:
        """Class ids by name, ``O`` included and last."""
        return {name: index for index, name in enumerate((*self.names, OUTSIDE))}

    @property
    def label2desc(self) -> dict[str, str]:
        """Descriptions by name, ``O`` included and last."""
        return dict(zip((*self.names, OUTSIDE), (*self.descriptions, self.outside_description), strict=True))

    def word_classes(self, spans: Iterable[Span], n_words: int) -> list[int]:
        """The class id of each of ``n_words`` words under flat spans that lie inside the sentence."""
        label2id = self.label2id
        classes = [self.outside_id] * n_words
        for span in spans:
            classes[span.start : span.end + 1] = [label2id[span.label]] * (span.end + 1 - span.start)
        return classes

    def texts(self, kind: LabelText) -> tuple[str, ...]:
        """What the label encoder reads for each entity type, in id order."""
        return self.names if kind == "names" else self.descriptions

    @classmethod
    def from_mappings(cls, label2id: Mapping[str, int], label2desc: Mapping[str, str]) -> LabelSet:
        """The label set stored in ``label2id.json`` and ``label2desc.json``.

        Raises:
            ValueError: If ids are not 0..C-1 with ``O`` last, or the two files name different labels.
        """
        if OUTSIDE not in label2id:
            raise ValueError(f"label2id has no {OUTSIDE!r}")
        names = sorted((name for name in label2id if name != OUTSIDE), key=lambda name: label2id[name])
        expected = {name: index for index, name in enumerate((*names, OUTSIDE))}
        if dict(label2id) != expected:
            raise ValueError(f"label ids must be 0..{len(names)} with {OUTSIDE!r} last, got {dict(label2id)}")
        missing = sorted(set(label2id) - set(label2desc))
        if missing:
            raise ValueError(f"labels without a description: {missing}")
        unknown = sorted(set(label2desc) - set(label2id))
        if unknown:
            raise ValueError(f"descriptions of labels that do not exist: {unknown}")
        return cls(tuple(names), tuple(label2desc[name] for name in names), label2desc[OUTSIDE])
