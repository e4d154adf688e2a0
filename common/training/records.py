"""Run records: the content of ``run.json``, which runs exist, which checkpoint is meant. Imports nothing heavy.

<approach>/savings/<dataset>_<YYYYmmdd_HHMMSS>/
    run.json                  what was trained, on what data, how, and how it went
    trainable.safetensors     trained tensors of the best validation
    state_<step>/             while training: everything to resume from that step
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from common import registry
from common.config import require
from common.data.labels import LabelSet
from common.errors import InputError
from common.files import read_json, unique_keys
from common.schema import Count, FileName, Seconds, Seed, Share, Texts, check
from common.spec import ApproachSpec

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
"""1: the variant is a text, the base model's kind is called ``encoder``, parameters have the names of
:attr:`ApproachSpec.renamed`."""

RUN_FILE = "run.json"
WEIGHTS_FILE = "trainable.safetensors"


class BaseRecord(TypedDict):
    """The base model of a run."""

    name: str
    revision: str
    source: str
    kind: str


class MemberRecord(TypedDict):
    """A data set of a mixture."""

    name: FileName
    types: list[str]


class DatasetRecord(TypedDict):
    """The data set of a run, or the mixture."""

    name: FileName
    sha256: NotRequired[str]
    train: NotRequired[Count]
    validation: NotRequired[Count]
    test: NotRequired[Count]
    members: NotRequired[list[MemberRecord]]


class LabelsRecord(TypedDict):
    """The entity types of a run."""

    names: list[str]
    descriptions: list[str]
    outside_description: str


class BestRecord(TypedDict):
    """The best validation of a run."""

    epoch: Count
    by: str
    score: float | None


class ParametersRecord(TypedDict):
    """Numbers of weights."""

    total: Count
    trainable: Count
    with_gradient: Count | None


class HistoryEntry(TypedDict):
    """One validation."""

    epoch: Count
    epochs: NotRequired[float]
    step: NotRequired[Count]
    train_loss: float
    train_seconds: Seconds
    validation: dict[str, float]
    type_thresholds: NotRequired[dict[str, Share]]


class _Started(TypedDict):
    """``run.json`` of a run that has been started."""

    status: Literal["running", "finished", "interrupted", "failed"]
    created: str
    approach: str
    variant: Texts
    base_model: BaseRecord
    dataset: DatasetRecord
    labels: LabelsRecord
    config: dict[str, Any]
    seed: Seed
    provenance: dict[str, Any]


class _Old(TypedDict):
    """What of a record of format 1 is read to make it one of today."""

    base_model: dict[str, Any]
    config: dict[str, Any]


class RunRecord(_Started, total=False):
    """``run.json``; what a run has only after its first validation may be missing."""

    precision: Literal["fp32", "bf16", "fp16"]
    best: BestRecord
    parameters: ParametersRecord
    threshold: Share | None
    untrained: dict[str, float] | None
    type_thresholds: dict[str, Share]
    history: list[HistoryEntry]
    steps: Count
    epochs: Count
    train_seconds: Seconds
    seconds_per_epoch: Seconds
    feature_seconds: Seconds
    peak_memory_mb: dict[str, float]
    earlier_provenance: list[dict[str, Any]]
    supplements: list[dict[str, Any]]
    processes: Count


VALIDATED = (
    "precision", "best", "parameters", "history", "steps", "train_seconds", "seconds_per_epoch", "feature_seconds",
    "peak_memory_mb",
)  # fmt: skip
"""What a run has from its first validation on."""


class ProgressRecord(TypedDict):
    """Where a training stands.

    Format 1 has no ``batch``, no ``waited`` and no thresholds, and its history stands beside.
    """

    epoch: Count
    batch: NotRequired[Count]
    step: Count
    best_epoch: Count
    best_score: float | None
    waited: NotRequired[Count]
    waited_since: NotRequired[Count]
    untrained: NotRequired[dict[str, float] | None]
    threshold: NotRequired[Share | None]
    type_thresholds: NotRequired[dict[str, Share]]
    seconds: Seconds
    with_gradient: Count | None
    history: NotRequired[list[HistoryEntry]]


class StateRecord(TypedDict):
    """``state.json``."""

    progress: ProgressRecord
    history: NotRequired[list[HistoryEntry]]
    optimizer: NotRequired[dict[str, float]]
    scaler: dict[str, float] | None
    provenance: list[dict[str, Any]]


def approach_of(run: Path) -> ApproachSpec[Any]:
    """The approach that a run folder is of.

    Raises:
        InputError: If there is no record, or it names no approach that is here.
    """
    record = read_json(run / RUN_FILE)
    require(isinstance(record, dict) and "approach" in record, f"{run}: its {RUN_FILE} names no approach")
    return registry.spec(record["approach"])


def read_run(path: Path, spec: ApproachSpec[Any]) -> dict[str, Any]:
    """The record of a run folder, of this or the earlier format; ``format_version`` tells which its files have.

    Raises:
        InputError: If it is missing, not of a known format or of another approach, lacks a field or has one that is
            something else; the message names the field and its value.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such run folder")
    file = path / RUN_FILE
    record = read_json(file, unique_keys)
    if not isinstance(record, dict) or record.get("format_version") not in range(1, FORMAT_VERSION + 1):
        raise InputError(f"{file}: is no run record of format 1 to {FORMAT_VERSION}")
    if record.get("approach") != spec.name and isinstance(record.get("approach"), str):
        raise InputError(f"{path}: is a run of {record['approach']!r}, not of {spec.name!r}")
    if record["format_version"] == 1:
        record = _upgraded(record, spec, file)
    check(record, RunRecord, str(file))
    spec.stored_config(record["config"], str(path))
    labels_of(record, path)
    return record


def _upgraded(record: dict[str, Any], spec: ApproachSpec[Any], file: Path) -> dict[str, Any]:
    """A record of format 1 with the fields of today."""
    check(record, _Old, str(file))
    base = dict(record["base_model"])
    if "encoder" in base:
        base["kind"] = base.pop("encoder")
    return record | {"variant": spec.variant(spec.stored_config(record["config"], str(file))), "base_model": base}


def labels_of(record: dict[str, Any], path: Path) -> LabelSet:
    """The label set of a run.

    Raises:
        InputError: If it is none.
    """
    labels = record["labels"]
    try:
        return LabelSet(tuple(labels["names"]), tuple(labels["descriptions"]), labels["outside_description"])
    except ValueError as error:
        raise InputError(f"{path / RUN_FILE}: labels: {error}") from error


def lock_path(run: Path) -> Path:
    """The lock that a process holds while it trains a run."""
    return run.with_name(f".{run.name}.lock")


def runs_of(
    spec: ApproachSpec[Any], dataset: str | None, savings: Path | None = None
) -> list[tuple[Path, dict[str, Any]]]:
    """Run folders of an approach and their records, oldest first; a folder without a whole record is passed over.

    Args:
        spec: The approach.
        dataset: Only runs on this data set.
        savings: Where its runs are, if not among this process's output.
    """
    runs = []
    for path in sorted((savings or spec.savings).glob("*/" + RUN_FILE)):
        try:
            record = read_run(path.parent, spec)
        except InputError as error:
            logger.warning("passed over: %s", error)
            continue
        if dataset is None or record["dataset"]["name"] == dataset:
            runs.append((path.parent, record))
    return sorted(runs, key=lambda run: run[1]["created"])


def find_checkpoint(spec: ApproachSpec[Any], which: str, dataset: str | None = None) -> Path:
    """The folder of a run with trained weights.

    Args:
        spec: The approach.
        which: ``latest`` or the path of a run folder.
        dataset: For ``latest``: only runs on this data set.

    Raises:
        InputError: If there is none.
    """
    if which != "latest":
        if not Path(which).is_dir():
            raise InputError(f"{which}: no such run folder")
        return Path(which).resolve()
    unfinished = None
    for path, record in reversed(runs_of(spec, dataset)):
        status = record["status"]
        # Without a validation of trained weights the file holds untrained ones.
        if (path / WEIGHTS_FILE).is_file() and "best" in record:
            if status in ("finished", "interrupted"):
                return path
            unfinished = unfinished or path
        logger.warning("passed over %s: status %s", path, status)
    on = f" on {dataset}" if dataset else ""
    way = "train one with: python -m {0}.train"
    if unfinished is not None:
        way = f"resume {unfinished.name}: python -m {{0}}.train --resume latest, or name it as it is with --checkpoint"
    raise InputError(f"no finished run of {spec.name}{on} in {spec.savings}; {way.format(spec.name)}")
