"""Checkpoints: starts and resumes runs, and rebuilds trained models."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from common.approach import BaseModel, Keeping, freeze_all_but
from common.config import differences, to_dict
from common.data.dataset import Dataset
from common.data.labels import LabelSet
from common.data.mixture import mixture_variant
from common.device import provenance, seed_everything
from common.errors import InputError
from common.paths import new_run_dir, now
from common.spec import ApproachSpec
from common.training.records import FORMAT_VERSION, VALIDATED, labels_of, read_run, runs_of
from common.training.run_folder import Run, tidy_runs

logger = logging.getLogger(__name__)

C = TypeVar("C")

ADAPTATION_FILE = "adaptation.json"
"""In an exported folder: what to ask the model, and with which thresholds."""


def start_run(spec: ApproachSpec[C], config: Any, data: Dataset, base: BaseModel, savings: Path | None = None) -> Run:
    """Creates the folder and the record of a new run, in ``savings`` if not among the approach's own."""
    state = PartialState()
    if state.is_main_process:
        tidy_runs(savings or spec.savings)
    # The processes of one run share the folder that the main one makes.
    shared = [new_run_dir(savings or spec.savings, data.name) if state.is_main_process else None]
    run = Run(broadcast_object_list(shared)[0], {}, main_process=state.is_main_process)
    run.claim()
    with contextlib.ExitStack() as undo:
        undo.callback(run.discard)
        _begin(run, spec, config, data, base)
        undo.pop_all()
    logger.info("run folder: %s", run.path)
    if state.is_main_process and (newest := runs_of(spec, data.name, savings)[-1][0]) != run.path:
        logger.warning("by this machine's clock %s is newer than this run: latest means that one", newest.name)
    return run


def _begin(run: Run, spec: ApproachSpec[C], config: Any, data: Dataset, base: BaseModel) -> None:
    run.update(
        format_version=FORMAT_VERSION,
        status="running",
        created=now(),
        approach=spec.name,
        variant=dict(spec.variant(config)) | mixture_variant(data, config.data),
        base_model=base_record(base) | {"source": base.location},
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


def base_record(base: BaseModel) -> dict[str, str]:
    """What records say of a base model; no path of the machine is in it."""
    return {"name": base.name, "revision": base.revision, "kind": base.kind}


def dataset_record(data: Dataset) -> dict[str, Any]:
    """Name, content hash and sizes of a data set; of a mixture those of its data sets too."""
    record: dict[str, Any] = {
        "name": data.name,
        "sha256": data.sha256,
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
    }
    if len(data.parts) == 1:
        return record
    return record | {"members": [dataset_record(part) | {"types": list(part.labels.names)} for part in data.parts]}


def resume_run(spec: ApproachSpec[C], config: Any, data: Dataset, base: BaseModel, which: str) -> Run:
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
        runs = [path for path, record in runs_of(spec, data.name) if record["status"] != "finished"]
        if not runs:
            raise InputError(f"--resume latest: no unfinished run of {spec.name} on {data.name} in {spec.savings}")
        path = runs[-1]
    else:
        path = Path(which).resolve()
    record = read_run(path, spec)
    if record["status"] == "finished":
        raise InputError(f"--resume: run {path} is finished")
    stored = to_dict(spec.stored_config(record["config"], str(path)))
    changed = differences(_comparable(stored), _comparable(to_dict(config)))
    if record["dataset"].get("sha256") != data.sha256:
        changed.append("the data set's content")
    stored_base = record["base_model"]
    if stored_base["revision"] != base.revision:
        # What is on the hub moves on.
        commit = hub_commit(stored_base)
        pinned = f" (--base-model {stored_base['name']}@{commit})" if commit else ""
        changed.append(f"the base model's weights{pinned}")
    # They share out the batches of an epoch, so with more of them it has fewer steps.
    processes = PartialState().num_processes
    if record.get("processes", processes) != processes:
        changed.append(f"processes: {record['processes']} != {processes}")
    if changed:
        raise InputError(f"--resume: run {path} was started differently: {'; '.join(changed)}")
    logger.info("resuming %s", path)
    main_process = PartialState().is_main_process
    run = Run(
        path, record | {"config": to_dict(config), "format_version": FORMAT_VERSION}, True, spec.renamed, main_process
    )
    run.claim()
    # Until now another process may have had it.
    if run.is_finished():
        run.release()
        raise InputError(f"--resume: run {path} is finished")
    if main_process:
        run.tidy()
    return run


def hub_commit(base_model: Mapping[str, Any]) -> str | None:
    """The commit that a base model of the hub had; None for a local one, which has the hash of its weights instead."""
    revision = str(base_model["revision"])
    return None if revision.startswith("sha256:") else revision


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings less those that do not change what is trained; data and base model are compared by content instead."""
    rest = {name: dict(value) if isinstance(value, dict) else value for name, value in settings.items()}
    rest.pop("base_model", None)
    rest["data"].pop("dataset", None)
    rest["runtime"].pop("progress", None)
    rest["train"].pop("track", None)
    return rest


@dataclass(frozen=True)
class Checkpoint(Generic[C]):
    """A trained model as it was stored."""

    path: Path
    record: dict[str, Any]
    config: C
    base: Any
    labels: LabelSet
    model: Any


def load_checkpoint(
    spec: ApproachSpec[C],
    path: Path,
    base_model: str | None = None,
    *,
    threshold: float | None = None,
    labels: LabelSet | None = None,
    interpolate: float = 1.0,
) -> Checkpoint[C]:
    """Rebuilds a trained model from its run folder, which needs nothing beside it but the base model.

    Args:
        spec: The approach.
        path: The run folder.
        base_model: Where the base model is now, if not where it was in training.
        threshold: Least probability of a predicted span of any type; the checkpoint's own thresholds if None.
        labels: Other entity types than those trained on, for an approach that keeps its zero-shot path.
        interpolate: Share of the trained weights; the rest is what they were before training.

    Raises:
        InputError: If the folder is no checkpoint of the approach, the base model's weights are others than those
            trained on, the stored tensors are not exactly those that the approach trains, or the model has no
            threshold or answers no other types.
    """
    if labels is not None and not spec.keeps_zero_shot:
        raise InputError(f"--labels: {spec.title} finds only the types that it was trained on")
    record = read_run(path, spec)
    missing = [name for name in VALIDATED if name not in record]
    if missing:
        raise InputError(
            f"{path}: has no validation behind it (run.json lacks {missing[:3]}); go on with it: "
            f"python -m {spec.name}.train --resume {path}"
        )
    if record["status"] not in ("finished", "interrupted"):
        logger.warning(
            "%s is unfinished (status %s): its weights and thresholds are those of epoch %d",
            path, record["status"], record["best"]["epoch"],
        )  # fmt: skip
    config = spec.stored_config(record["config"], str(path))
    labels = labels or labels_of(record, path)
    stored = record["base_model"]
    source = base_model or stored["source"]
    if base_model is None and Path(source).is_absolute() and not Path(source).is_dir():
        raise InputError(f"{path}: base model {source!r} is no longer there; say where it is with --base-model")
    commit = hub_commit(stored)
    base = spec.load_base(config, source, commit)
    if base.revision != stored["revision"]:
        raise InputError(
            f"{path}: was trained on base model {stored['name']!r} at {stored['revision']}, "
            f"{source!r} is {base.revision}"
        )
    if interpolate < 1:
        # New weights start as they did in training.
        seed_everything(record["seed"])
    model = spec.build(config, base, labels)
    trained = freeze_all_but(model, model.parts)
    start = {name: parameter.detach().clone() for name, parameter in trained.items()} if interpolate < 1 else {}
    Run(path, record, renamed=spec.renamed).load_weights_into(trained)
    with torch.no_grad():
        for name, before in start.items():
            trained[name].lerp_(before, 1 - interpolate)
    if isinstance(model, Keeping):
        try:
            model.restore(record.get("kept"))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    model.eval()
    if threshold is not None and not hasattr(model, "threshold"):
        raise InputError(f"--threshold: {spec.title} takes the best class and has no threshold")
    if threshold is not None:
        model.threshold = threshold
    elif record.get("threshold") is not None:
        model.threshold, model.type_thresholds = record["threshold"], record.get("type_thresholds", {})
    return Checkpoint(path, record, config, base, labels, model)
