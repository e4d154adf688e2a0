"""The contents of a ``common.transfer`` record. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from common.schema import Amount, Count, FileName, Rule, Seed, Share, Texts

TRANSFER_FOLDER = "transfer"
"""Name of the folders with such files, in an approach's output and beside results."""


class _Base(TypedDict):
    name: str
    revision: str
    kind: str


class _TrainedOn(TypedDict):
    name: FileName


class ModelRecord(TypedDict):
    """The adapted model."""

    approach: str
    variant: Texts
    base_model: _Base
    seed: Seed
    trained_on: _TrainedOn
    checkpoint: FileName
    weights_sha256: str
    interpolate: Share
    precision: str


class F1Record(TypedDict):
    """F1 at one threshold."""

    micro_f1: Share
    macro_f1: Share


class SideRecord(TypedDict):
    """The untouched base or the adapted model on a corpus."""

    at_half: F1Record
    best: F1Record
    threshold: Share


_Difference = Annotated[
    list[float], Rule("three numbers from -1 to 1", lambda value: len(value) == 3 and all(abs(n) <= 1 for n in value))
]


class DifferenceRecord(TypedDict):
    """After less before, with both ends of the 95 % interval."""

    micro_f1: _Difference
    macro_f1: _Difference


class _Foreign(TypedDict):
    before: Amount | None
    after: Amount | None


class CorpusRecord(TypedDict):
    """One corpus."""

    dataset_sha256: str
    sentences: Count
    types: list[str]
    before: SideRecord
    after: SideRecord
    difference_at_half: DifferenceRecord
    difference_best: DifferenceRecord
    foreign_types: list[str]
    predictions_per_100_sentences: _Foreign


class UntouchedRecord(TypedDict):
    """What is kept of an untouched base on a corpus, beside the counts at both thresholds."""

    threshold: Share
    predictions_per_100_sentences: Amount | None


class _Provenance(TypedDict):
    behaviour: NotRequired[Count]


class TransferRecord(TypedDict):
    """The file."""

    created: str
    model: ModelRecord
    provenance: _Provenance
    corpora: dict[str, CorpusRecord]
