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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from common.approach import freeze_all_but
from common.backbone import Base, load_base
from common.config import differences, from_dict, to_dict
from common.data import Dataset, Encoder
from common.device import provenance
from common.errors import InputError
from common.files import atomic_path, read_json, write_json
from common.labels import LabelSet
from common.paths import new_run_dir, now, output_root

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
RUN_FILE = "run.json"
WEIGHTS_FILE = "trainable.safetensors"
ADAPTATION_FILE = "adaptation.json"
_UNFINISHED_STATE = ".state.tmp"
_RECORD_FIELDS = ("status", "created", "approach", "variant", "base_model", "dataset", "labels", "config", "seed")

C = TypeVar("C")


@dataclass(frozen=True)
class ApproachSpec(Generic[C]):
    """How the shared entry points find an approach."""

    name: str
    """Its folder."""
    title: str
    """Its name in tables."""
    config: type[C]
    """Its configuration; has ``data``, ``train``, ``runtime`` and ``base_model``."""
    build: Callable[[C, Base, LabelSet], Any]
    """Makes the model (an ``Approach``) from configuration, base and label set."""
    variant: Callable[[C], str]
    """Short name of the variant that a configuration asks for."""
    encoder: Callable[[C], Encoder]
    """Kind of base model that a configuration asks for."""

    @property
    def savings(self) -> Path:
        """Where its runs are."""
        return output_root() / self.name / "savings"

    @property
    def test_results(self) -> Path:
        """Where its results are."""
        return output_root() / self.name / "test_results"


@dataclass
class Run:
    """One training run's folder and record."""

    path: Path
    record: dict[str, Any]
    resumed: bool = False
    main_process: bool = field(default=True, repr=False)
    """Only the main process of several writes."""
    lock: FileLock = field(init=False, repr=False)
    """Held while a process trains the run."""

    def __post_init__(self) -> None:
        self.lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))

    def claim(self) -> None:
        """Takes the run for this process.

        Raises:
            InputError: If another process is training it.
        """
        try:
            if self.main_process:
                self.lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"run {self.path} is being trained by another process") from None

    def update(self, **values: Any) -> None:
        """Sets fields of the record and writes it."""
        self.record.update(values)
        if self.main_process:
            write_json(self.path / RUN_FILE, self.record)

    def save_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Stores the trained tensors of the best epoch so far."""
        if self.main_process:
            save_tensors(self.path / WEIGHTS_FILE, tensors)

    def save_state(self, epoch: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Stores what training needs to go on after ``epoch``, then drops the older state."""
        if not self.main_process:
            return
        target, temporary = self.path / f"state_{epoch:04d}", self.path / _UNFINISHED_STATE
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_tensors(temporary / "state.safetensors", tensors)
        write_json(temporary / "state.json", values)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        for old in self._states()[:-1]:
            shutil.rmtree(old)

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest stored state, or None if no epoch was finished."""
        states = self._states()
        if not states:
            return None
        return load_tensors(states[-1] / "state.safetensors"), read_json(states[-1] / "state.json")

    def drop_state(self) -> None:
        """Removes the stored state: the run is finished."""
        if self.main_process:
            for state in self._states():
                shutil.rmtree(state)
            shutil.rmtree(self.path / _UNFINISHED_STATE, ignore_errors=True)

    def _states(self) -> list[Path]:
        return sorted(self.path.glob("state_[0-9][0-9][0-9][0-9]"))


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors as safetensors, atomically."""
    with atomic_path(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads tensors to the CPU.

    Raises:
        InputError: If the file is missing or not whole.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise InputError(f"{path}: no whole safetensors file: {error}") from error


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


@torch.no_grad()
def load_weights(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], where: str) -> None:
    """Copies stored tensors into parameters of the same names.

    Raises:
        InputError: If a name is missing or unexpected, or a shape differs.
    """
    missing, unexpected = sorted(set(parameters) - set(tensors)), sorted(set(tensors) - set(parameters))
    if missing or unexpected:
        raise InputError(f"{where}: does not fit the model: missing {missing[:5]}, unexpected {unexpected[:5]}")
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise InputError(
                f"{where}: {name} has shape {tuple(tensors[name].shape)}, the model {tuple(parameter.shape)}"
            )
        parameter.copy_(tensors[name])


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
