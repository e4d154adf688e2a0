"""Records of runs: what ``run.json`` holds, which runs there are, which checkpoint is meant. Imports nothing heavy.

<approach>/savings/<dataset>_<YYYYmmdd_HHMMSS>/
    run.json                  what was trained on what, how, and how it went
    trainable.safetensors     trained tensors of the best validation
    state_<step>/             while training: everything to resume from that step
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import read_json
from common.spec import ApproachSpec

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
"""1: the variant is a text, the base model's kind is called ``encoder``, parameters have the names of
:attr:`ApproachSpec.renamed`."""

RUN_FILE = "run.json"
WEIGHTS_FILE = "trainable.safetensors"
_FIELDS = ("status", "created", "approach", "variant", "base_model", "dataset", "labels", "config", "seed")


def read_run(path: Path, spec: ApproachSpec[Any]) -> dict[str, Any]:
    """The record of a run folder, of this or the earlier format; ``format_version`` tells which its files have.

    Raises:
        InputError: If it is missing, not of a known format or of another approach, or lacks a field.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such run folder")
    record = read_json(path / RUN_FILE)
    if not isinstance(record, dict) or record.get("format_version") not in range(1, FORMAT_VERSION + 1):
        raise InputError(f"{path / RUN_FILE}: is no run record of format 1 to {FORMAT_VERSION}")
    missing = [name for name in _FIELDS if name not in record]
    if missing:
        raise InputError(f"{path / RUN_FILE}: lacks {missing}")
    if record["approach"] != spec.name:
        raise InputError(f"{path}: is a run of {record['approach']!r}, not of {spec.name!r}")
    if record["format_version"] == 1:
        config = spec.stored_config(record["config"], str(path / RUN_FILE))
        base = dict(record["base_model"])
        base["kind"] = base.pop("encoder")
        record |= {"variant": spec.variant(config), "base_model": base}
    return record


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
        return Path(which)
    for path, record in reversed(runs_of(spec, dataset)):
        status = record["status"]
        if (path / WEIGHTS_FILE).is_file() and status in ("finished", "interrupted"):
            return path
        logger.warning("passed over %s: status %s", path, status)
    on = f" on {dataset}" if dataset else ""
    raise InputError(
        f"no finished run of {spec.name}{on} in {spec.savings}; train one with: python -m {spec.name}.train"
    )
