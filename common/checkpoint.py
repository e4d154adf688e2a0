"""Run folders: ``trainable.safetensors`` (best trained tensors), ``run.json`` (all else) and the state to resume from.

    <approach>/savings/<dataset>_<YYYYmmdd_HHMMSS>/
        run.json                  what was trained on what, how, and how it went
        trainable.safetensors     trained tensors of the best epoch
        state_<epoch>/            while training: everything to go on after that epoch

Nothing in it is a pickle. Each file appears whole or not at all.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from common.approach import freeze_all_but
from common.bases import load_base
from common.config import differences, from_dict, to_dict
from common.data.dataset import Dataset
from common.data.labels import LabelSet
from common.device import provenance
from common.errors import InputError
from common.files import read_json, write_json
from common.models.base import Base
from common.paths import new_run_dir, now
from common.spec import ApproachSpec
from common.training.run_folder import FORMAT_VERSION, RUN_FILE, WEIGHTS_FILE, Run, load_tensors, load_weights

logger = logging.getLogger(__name__)

C = TypeVar("C")

ADAPTATION_FILE = "adaptation.json"
_RECORD_FIELDS = ("status", "created", "approach", "variant", "base_model", "dataset", "labels", "config", "seed")


def start_run(spec: ApproachSpec[C], config: Any, data: Dataset, base: Base, savings: Path | None = None) -> Run:
    """Creates the folder and the record of a new run, in ``savings`` if not among the approach's own."""
    state = PartialState()
    # The processes of one run share the folder that the main one makes.
    shared = [new_run_dir(savings or spec.savings, data.name) if state.is_main_process else None]
    run = Run(broadcast_object_list(shared)[0], {}, main_process=state.is_main_process)
    run.claim()
    run.update(
        format_version=FORMAT_VERSION,
        status="running",
        created=now(),
        approach=spec.name,
        variant=spec.variant(config),
        base_model={
            "name": base.name,
            "source": base.location,
            "revision": base.revision,
            "encoder": base.encoder,
        },
        dataset=dataset_record(data),
        labels={
            "names": list(data.labels.names),
            "descriptions": list(data.labels.descriptions),
            "outside_description": data.labels.outside_description,
        },
        config=to_dict(config),
        seed=config.train.seed,
        provenance=provenance(),
    )
    logger.info("run folder: %s", run.path)
    return run


def dataset_record(data: Dataset) -> dict[str, Any]:
    """Name, content hash and sizes of a data set."""
    return {
        "name": data.name,
        "sha256": data.sha256,
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
    }


def resume_run(spec: ApproachSpec[C], config: Any, data: Dataset, base: Base, which: str) -> Run:
    """Opens an unfinished run.

    Args:
        spec: The approach.
        config: The configuration of the command line.
        data: The data set.
        base: The base model.
        which: ``latest`` (of this data set) or the path of a run folder.

    Raises:
        InputError: If there is no such run, it is finished, or its configuration, data or base model differ.
    """
    if which == "latest":
        runs = [path for path, record in _runs(spec, data.name) if record["status"] != "finished"]
        if not runs:
            raise InputError(f"--resume latest: no unfinished run of {spec.name} on {data.name} in {spec.savings}")
        path = runs[-1]
    else:
        path = Path(which)
    record = _read_run(path, spec)
    if record["status"] == "finished":
        raise InputError(f"--resume: run {path} is finished")
    changed = differences(_comparable(record["config"]), _comparable(to_dict(config)))
    if record["dataset"]["sha256"] != data.sha256:
        changed.append("the data set's content")
    if record["base_model"]["revision"] != base.revision:
        changed.append("the base model's weights")
    if changed:
        raise InputError(f"--resume: run {path} was started differently: {'; '.join(changed)}")
    logger.info("resuming %s", path)
    main_process = PartialState().is_main_process
    run = Run(path, record | {"config": to_dict(config)}, resumed=True, main_process=main_process)
    run.claim()
    return run


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings less those that do not change what is trained; data and base model are compared by content instead."""
    rest = {name: dict(value) if isinstance(value, dict) else value for name, value in settings.items()}
    rest.pop("base_model", None)
    rest["data"].pop("dataset", None)
    rest["runtime"].pop("progress", None)
    return rest


def find_checkpoint(spec: ApproachSpec[C], which: str, dataset: str | None = None) -> Path:
    """The folder of a run with trained weights.

    Args:
        spec: The approach.
        which: ``latest`` or the path of a run folder.
        dataset: For ``latest``: only runs on this data set.

    Raises:
        InputError: If there is none.
    """
    if which != "latest":
        return Path(which)
    for path, record in reversed(_runs(spec, dataset)):
        status = record["status"]
        if (path / WEIGHTS_FILE).is_file() and status in ("finished", "interrupted"):
            return path
        logger.warning("passed over %s: status %s", path, status)
    on = f" on {dataset}" if dataset else ""
    raise InputError(
        f"no finished run of {spec.name}{on} in {spec.savings}; train one with: python -m {spec.name}.train"
    )


@dataclass(frozen=True)
class Checkpoint(Generic[C]):
    """A trained model as it was stored."""

    path: Path
    record: dict[str, Any]
    config: C
    base: Base
    labels: LabelSet
    model: Any


def load_checkpoint(spec: ApproachSpec[C], path: Path, base_model: str | None = None) -> Checkpoint[C]:
    """Rebuilds a trained model from its run folder, which needs nothing beside it but the base model.

    Args:
        spec: The approach.
        path: The run folder.
        base_model: Where the base model is now, if not where it was in training.

    Raises:
        InputError: If the folder is no checkpoint of the approach, the base model's weights are others than those trained on,
            or the stored tensors are not exactly those that the approach trains.
    """
    record = _read_run(path, spec)
    config = from_dict(spec.config, record["config"], str(path / RUN_FILE))
    labels = LabelSet(
        tuple(record["labels"]["names"]),
        tuple(record["labels"]["descriptions"]),
        record["labels"]["outside_description"],
    )
    stored = record["base_model"]
    source = base_model or stored["source"]
    if base_model is None and Path(source).is_absolute() and not Path(source).is_dir():
        raise InputError(f"{path}: base model {source!r} is no longer there; say where it is with --base-model")
    # A hub model is read at the commit that it had; a local one has the hash of its weights instead.
    commit = None if stored["revision"].startswith("sha256:") else stored["revision"]
    base = load_base(source, stored["encoder"], commit)
    if base.revision != stored["revision"]:
        raise InputError(
            f"{path}: was trained on base model {stored['name']!r} at {stored['revision']}, {source!r} is {base.revision}"
        )
    model = spec.build(config, base, labels)
    load_weights(freeze_all_but(model, model.parts), load_tensors(path / WEIGHTS_FILE), str(path / WEIGHTS_FILE))
    model.eval()
    if record.get("threshold") is not None:
        model.threshold = record["threshold"]
    return Checkpoint(path, record, config, base, labels, model)


def save_plain(checkpoint: Checkpoint[C], output: Path) -> None:
    """Writes a checkpoint's model as a GLiNER folder, with ``adaptation.json`` that says what to ask it and how.

    Raises:
        InputError: If ``output`` exists and is no empty folder.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output {output}: exists and is no empty folder")
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    checkpoint.base.gliner.save_pretrained(temporary, safe_serialization=True)
    texts, threshold = checkpoint.model.label_texts, checkpoint.model.threshold
    write_json(
        temporary / ADAPTATION_FILE,
        {
            "approach": checkpoint.record["approach"],
            "variant": checkpoint.record["variant"],
            "base_model": {name: checkpoint.record["base_model"][name] for name in ("name", "revision")},
            "dataset": checkpoint.record["dataset"],
            "labels": dict(zip(checkpoint.labels.names, texts, strict=True)),
            "threshold": threshold,
        },
    )
    if output.exists():
        output.rmdir()
    temporary.rename(output)
    logger.info("plain GLiNER: %s; ask it for %s with threshold=%.2f", output, texts, threshold)


def _runs(spec: ApproachSpec[C], dataset: str | None) -> list[tuple[Path, dict[str, Any]]]:
    """Run folders of an approach and their records, oldest first; a folder without a whole record is passed over."""
    runs = []
    for path in sorted(spec.savings.glob("*/" + RUN_FILE)):
        try:
            record = _read_run(path.parent, spec)
        except InputError as error:
            logger.warning("passed over: %s", error)
            continue
        if dataset is None or record["dataset"]["name"] == dataset:
            runs.append((path.parent, record))
    return sorted(runs, key=lambda run: run[1]["created"])


def _read_run(path: Path, spec: ApproachSpec[C]) -> dict[str, Any]:
    """The record of a run folder.

    Raises:
        InputError: If it is missing, not of this format or of another approach, or lacks a field.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such run folder")
    record = read_json(path / RUN_FILE)
    if not isinstance(record, dict) or record.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path / RUN_FILE}: is no run record of format {FORMAT_VERSION}")
    missing = [name for name in _RECORD_FIELDS if name not in record]
    if missing:
        raise InputError(f"{path / RUN_FILE}: lacks {missing}")
    if record["approach"] != spec.name:
        raise InputError(f"{path}: is a run of {record['approach']!r}, not of {spec.name!r}")
    return record
