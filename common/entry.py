"""The steps that every train.py, every test.py and every export.py share.

The command line is read and the data set is looked for before torch and the model libraries are imported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from common.config import RuntimeConfig, TestConfig, parse
from common.data.dataset import Dataset, Split, existing_dataset_dir, load_dataset
from common.errors import InputError
from common.settings import parse_training
from common.spec import ApproachSpec
from common.training.records import WEIGHTS_FILE, find_checkpoint

if TYPE_CHECKING:
    from common.training.run_folder import Run

logger = logging.getLogger(__name__)

C = TypeVar("C")


class Training(Generic[C]):
    """The steps of a train.py: settings, data, model, fit.

    Args:
        spec: The approach.
        argv: Arguments; those of the process if not given.

    Raises:
        InputError: If a setting is wrong or the data set does not exist.
    """

    def __init__(self, spec: ApproachSpec[C], argv: Sequence[str] | None = None) -> None:
        self.spec = spec
        self.config: Any
        self.config, self.resume = parse_training(spec, argv)
        existing_dataset_dir(self.config.data.dataset)

    def data(self) -> Dataset:
        """The data set, its training and validation sentences limited to the sizes asked for.

        Raises:
            InputError: If a record is bad or a size is larger than the split.
        """
        data = self.config.data
        return load_dataset(data.dataset).limited(data.train_size, data.validation_size, self.config.train.seed)

    def model(self, data: Dataset) -> Any:
        """The base model with what the approach adds to it, its trained parts declared.

        Raises:
            InputError: If device, precision or base model are not available or do not fit the approach.
        """
        from common.device import make_accelerator, seed_everything

        if not make_accelerator(self.config.runtime).is_main_process:
            logging.getLogger("common").setLevel(logging.WARNING)
        self.base = self.spec.load_base(self.config)
        seed_everything(self.config.train.seed)
        return self.spec.build(self.config, self.base, data.labels)

    def run(self, data: Dataset) -> Run:
        """The new run folder, or the one to resume. Comes after :meth:`model`.

        Raises:
            InputError: If the run to resume does not exist, is finished or was started differently.
        """
        from common.checkpoint import resume_run, start_run

        if self.resume:
            return resume_run(self.spec, self.config, data, self.base, self.resume)
        return start_run(self.spec, self.config, data, self.base)

    def fit(self, model: Any, data: Dataset) -> Path:
        """Trains and returns the run folder, which holds the best weights.

        Raises:
            TrainingError: If the loss is not finite.
        """
        from common.training.loop import fit

        return fit(model, data, self.config.train, self.config.runtime, self.run(data)).path


def run_test(spec: ApproachSpec[C], argv: Sequence[str] | None = None) -> Path:
    """Scores a checkpoint from the command line and returns the path of the result file."""
    config = parse(TestConfig, argv, description=f"Test of a trained {spec.title} checkpoint.")
    name = existing_dataset_dir(config.dataset).name
    path = find_checkpoint(spec, config.checkpoint, name)
    data = load_dataset(config.dataset)

    from common.checkpoint import load_checkpoint
    from common.device import as_trained, provenance
    from common.evaluation.results import result_record

    checkpoint = load_checkpoint(spec, path, config.base_model, threshold=config.threshold)
    record = checkpoint.record
    if data.labels.names != checkpoint.labels.names:
        raise InputError(
            f"{checkpoint.path}: was trained on the types {list(checkpoint.labels.names)}, "
            f"data set {data.name!r} has {list(data.labels.names)}"
        )
    return score(
        spec.test_results,
        checkpoint.model,
        data,
        result_record(
            approach=spec.name,
            variant=record["variant"],
            data=data,
            base=record["base_model"],
            seed=record["seed"],
            config=record["config"],
            parameters=record["parameters"],
            provenance=provenance(),
            training={
                **{
                    key: record[key]
                    for key in ("best", "steps", "train_seconds", "seconds_per_epoch", "precision", "feature_seconds")
                },
                **{key: record[key] for key in ("peak_memory_mb", "provenance", "dataset")},
                "earlier_provenance": record.get("earlier_provenance", []),
                "epochs": record.get("epochs", len(record["history"])),
                "checkpoint": checkpoint.path.name,
                "checkpoint_bytes": (checkpoint.path / WEIGHTS_FILE).stat().st_size,
            },
        ),
        split=config.split,
        runtime=as_trained(config.runtime, record["precision"]),
    )


def score(
    folder: Path, model: Any, data: Dataset, record: dict[str, Any], *, split: Split, runtime: RuntimeConfig
) -> Path:
    """Scores a model on a split, writes the result and prints its report.

    Args:
        folder: Where results of the approach are.
        model: The approach.
        data: The data set.
        record: What the result says of the model, from :func:`common.evaluation.results.result_record`.
        split: Split to score.
        runtime: Device, precision and batch size.

    Returns:
        The path of the result's JSON file.
    """
    from accelerate.utils import broadcast_object_list

    from common.device import make_accelerator, precision_name
    from common.evaluation.predict_split import evaluate
    from common.evaluation.results import read_result, render, write_result

    accelerator = make_accelerator(runtime)
    model.to(accelerator.device)
    sentences = data.split(split)
    evaluation = evaluate(model, sentences, runtime, accelerator)
    record |= {
        "split": split,
        "threshold": getattr(model, "threshold", None),
        "precision": precision_name(accelerator),
    }
    # Every process has all predictions; one writes.
    path = write_result(folder, record, evaluation, sentences) if accelerator.is_main_process else None
    path = broadcast_object_list([path])[0]
    if accelerator.is_main_process:
        print(render(read_result(path)))
    return path


@dataclass(frozen=True)
class ExportConfig:
    """Export of a checkpoint as a plain GLiNER folder."""

    output: Path
    """Folder to write; must be new or empty."""
    checkpoint: str = "latest"
    """A run folder, or latest: the newest finished or interrupted run."""
    dataset: str | None = None
    """For latest: only runs on this data set."""
    base_model: str | None = None
    """Where the base model is now, if it is no longer where it was in training."""


def export_plain(
    spec: ApproachSpec[C],
    checkpoint: Path,
    output: Path,
    base_model: str | None = None,
    merge: Callable[[Any], None] | None = None,
) -> None:
    """Writes a GLiNER folder that ``GLiNER.from_pretrained`` loads without any code of ours.

    It has the adapted model's scores for the labels that it was trained on, and for all others.

    Args:
        spec: The approach; one whose adapted model is a GLiNER.
        checkpoint: A run folder.
        output: Folder to write.
        base_model: Where the base model is now, if not where it was in training.
        merge: Turns what the approach has added to the base into weights of the base.

    Raises:
        InputError: If ``output`` has files already or the checkpoint cannot be loaded.
    """
    from common.checkpoint import load_checkpoint, save_plain

    loaded = load_checkpoint(spec, checkpoint, base_model)
    if merge is not None:
        merge(loaded.base)
    save_plain(loaded, output)


def run_export(
    spec: ApproachSpec[C], argv: Sequence[str] | None = None, merge: Callable[[Any], None] | None = None
) -> Path:
    """Exports what the command line names and returns the folder; for the arguments see :func:`export_plain`."""
    config = parse(ExportConfig, argv)
    path = find_checkpoint(spec, config.checkpoint, config.dataset)
    export_plain(spec, path, config.output, config.base_model, merge)
    return config.output
