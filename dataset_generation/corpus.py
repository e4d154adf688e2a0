"""A corpus as read, with an account of what was changed and lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.data.dataset import Sentence, Split
from dataset_generation.options import TagScheme


@dataclass(frozen=True)
class Corpus:
    """A corpus as read, types normalised."""

    splits: Mapping[Split, list[Sentence]]
    """What the source has: train and test, perhaps validation; train alone if the source is one file."""
    origin: Mapping[str, Any]
    """Where it came from, for the manifest; without paths of this machine."""
    scheme: TagScheme | None = None
    """Tag scheme; None if the source has spans instead of tags."""
    type_map: Mapping[str, str] = field(default_factory=dict)
    """Normalised type by the spelling in the source."""
    counts: Mapping[Split, Mapping[str, int]] = field(default_factory=dict)
    """What was read, changed and lost, by split; see README."""

    @property
    def skipped(self) -> dict[Split, int]:
        """Bad records left out, by split."""
        return {split: counts.get("records_invalid", 0) for split, counts in self.counts.items()}

    @property
    def merged_types(self) -> dict[str, list[str]]:
        """The spellings of each type that has several."""
        spellings: dict[str, list[str]] = {}
        for written, name in self.type_map.items():
            spellings.setdefault(name, []).append(written)
        return {name: written for name, written in spellings.items() if len(written) > 1}


_LOSSES = {
    "records_invalid": "skipped {n} invalid of {records} records",
    "records_left_out": "left out {n} of {records} records that are no gold annotation",
    "entities_invalid": "left out {n} invalid of {entities_read} entities",
    "entities_repeated": "merged {n} exact repeats among {entities_read} entities",
    "entities_overlapping": "left out {n} of {entities_read} entities that share words with another (--overlaps)",
    "entities_off_edges_widened": "widened {n} of {entities_read} entities to whole words (--off-edges snap)",
    "entities_off_edges_dropped": "left out {n} of {entities_read} entities that end inside a word (--off-edges drop)",
    "sentence_ends_inside_entities": "kept {n} sentence ends from cutting an entity",
}


def losses(corpus: Corpus) -> list[str]:
    """What was changed and lost, in words."""
    lines = [
        f"{split}: " + text.format(n=f"{counts[name]:,}", **{k: f"{v:,}" for k, v in counts.items()})
        for split, counts in corpus.counts.items()
        for name, text in _LOSSES.items()
        if counts.get(name)
    ]
    lines += [
        f"type {name!r} is written in {len(written)} ways, which are one type now: {', '.join(map(ascii, written))}"
        for name, written in corpus.merged_types.items()
    ]
    return lines
