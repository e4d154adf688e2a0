"""The steps that every train.py, every test.py and every export.py share."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list

from common.bases import load_base
from common.checkpoint import find_checkpoint, load_checkpoint, resume_run, save_plain, start_run
from common.config import RuntimeConfig, TestConfig, parse, parse_training
from common.data.dataset import Dataset, Split, dataset_dir, load_dataset
from common.device import as_trained, make_accelerator, precision_name, provenance, seed_everything
from common.errors import InputError
from common.evaluation.predict_split import evaluate
from common.evaluation.results import read_result, render, result_record, write_result
from common.models.base import Base
from common.spec import ApproachSpec
from common.training.loop import fit
from common.training.run_folder import WEIGHTS_FILE, Run

logger = logging.getLogger(__name__)

C = TypeVar("C")


def prepare_run(spec: ApproachSpec[C], argv: Sequence[str] | None) -> tuple[C, Run, Dataset, Any]:
    """The steps of every train.py before ``fit``: configuration, data, base, model and run folder.

    Returns:
        Configuration, run, data set and model.
    """
    config: Any
    config, resume = parse_training(spec.config, spec.name, sys.argv[1:] if argv is None else argv)
    # Asked for first: a device or precision that is not to be had is better known before the data is read.
    if not make_accelerator(config.runtime).is_main_process:
        logging.getLogger("common").setLevel(logging.WARNING)
    encoder = spec.encoder(config)
    data = load_dataset(config.data.dataset, encoder).limited(
        config.data.train_size, config.data.validation_size, config.train.seed
    )
    base = load_base(config.base_model, encoder)
    seed_everything(config.train.seed)
    model = spec.build(config, base, data.labels)
    run = resume_run(spec, config, data, base, resume) if resume else start_run(spec, config, data, base)
    return config, run, data, model


def run_training(spec: ApproachSpec[C], argv: Sequence[str] | None = None) -> Path:
    """Trains an approach from the command line and returns its run folder."""
    config: Any
    config, run, data, model = prepare_run(spec, argv)
    return fit(model, data, config.train, config.runtime, run).path


def run_test(spec: ApproachSpec[C], argv: Sequence[str] | None = None) -> Path:
    """Scores a checkpoint from the command line and returns the path of the result file."""
    config = parse(TestConfig, argv, description=f"Test of a trained {spec.title} checkpoint.")
    name = dataset_dir(config.dataset).name
    checkpoint = load_checkpoint(spec, find_checkpoint(spec, config.checkpoint, name), config.base_model)
    record = checkpoint.record
    data = load_dataset(config.dataset, checkpoint.base.encoder)
    if data.labels.names != checkpoint.labels.names:
        raise InputError(
            f"{checkpoint.path}: was trained on the types {list(checkpoint.labels.names)}, "
            f"data set {data.name!r} has {list(data.labels.names)}"
        )
    if config.threshold is not None:
        if not hasattr(checkpoint.model, "threshold"):
            raise InputError(f"--threshold: {spec.title} takes the best class and has no threshold")
        checkpoint.model.threshold = config.threshold
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
                "epochs": len(record["history"]),
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
    """Scores a model on a split, writes the result and prints its page.

    Args:
        folder: Where results of the approach are.
        model: The approach.
        data: The data set.
        record: What the result says of the model, from :func:`common.results.result_record`.
        split: Split to score.
        runtime: Device, precision and batch size.

    Returns:
        The path of the result's JSON file.
    """
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
    merge: Callable[[Base], None] | None = None,
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
    loaded = load_checkpoint(spec, checkpoint, base_model)
    if merge is not None:
        merge(loaded.base)
    save_plain(loaded, output)


def run_export(
    spec: ApproachSpec[C], argv: Sequence[str] | None = None, merge: Callable[[Base], None] | None = None
) -> Path:
    """Exports what the command line names and returns the folder; for the arguments see :func:`export_plain`."""
    config = parse(ExportConfig, argv)
    export_plain(
        spec, find_checkpoint(spec, config.checkpoint, config.dataset), config.output, config.base_model, merge
    )
    return config.output
