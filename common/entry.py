"""The steps that all train.py, test.py and export.py scripts share.

The command line is parsed and the data set looked up before torch and the model libraries are imported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from common.config import RuntimeConfig, TestConfig, parse, require, to_dict
from common.data.dataset import Dataset, Split, existing_dataset_dir, load_dataset
from common.data.mixture import Asked, as_asked, joint_names, load_training, mixture_name
from common.errors import InputError
from common.settings import parse_training
from common.spec import ApproachSpec, Variant
from common.training.records import WEIGHTS_FILE, find_checkpoint, read_run

if TYPE_CHECKING:
    from common.checkpoint import Checkpoint
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
        for name in self.config.data.dataset:
            existing_dataset_dir(name)

    def data(self) -> Dataset:
        """The data set or mixture, its training and validation sentences limited to the sizes asked for.

        Raises:
            InputError: If a record is bad, a size is larger than the split or types cannot be joined.
        """
        return load_training(self.config.data, self.config.train.seed)

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


def run_training(spec: ApproachSpec[C], argv: Sequence[str] | None = None) -> Path:
    """Trains what the command line says and returns the run folder; for the arguments see :class:`Training`."""
    training = Training(spec, argv)
    data = training.data()
    return training.fit(training.model(data), data)


class Tested(NamedTuple):
    """What is tested, where a test's options change how a checkpoint predicts."""

    config: Any
    """The settings of the prediction; those of the training stand in the same configuration."""
    aspects: Variant
    """Aspects of the variant beside those of the configuration."""


_OF_TRAINING = (
    "best", "steps", "train_seconds", "seconds_per_epoch", "precision", "feature_seconds", "peak_memory_mb",
    "provenance", "dataset",
)  # fmt: skip
"""What a result says of the training as the run's record does."""


def run_test(
    spec: ApproachSpec[C],
    argv: Sequence[str] | None = None,
    options: type[TestConfig] = TestConfig,
    prepare: Callable[[Checkpoint[C], Any, Dataset], Tested] | None = None,
) -> Path:
    """Scores a checkpoint from the command line.

    Args:
        spec: The approach.
        argv: Arguments; those of the process if not given.
        options: The options. Where they have ``unseen`` and it is set, the data set may have other types than those
            trained on.
        prepare: Changes the checkpoint's model as the options say; of an approach that has such options.

    Returns:
        The path of the result file, of several data sets that of the last.
    """
    config: Any = parse(options, argv, description=f"Test a trained {spec.title} checkpoint.")
    names = [existing_dataset_dir(name).name for name in config.dataset]
    path = find_checkpoint(spec, config.checkpoint, mixture_name(names))
    datasets = [load_dataset(name) for name in config.dataset]

    from common.checkpoint import load_checkpoint
    from common.device import as_trained, provenance
    from common.evaluation.results import mean_report, result_record

    unseen = getattr(config, "unseen", False)
    require(not unseen or len(datasets) == 1, f"--unseen takes one data set, got {list(config.dataset)}")
    labels = datasets[0].labels if unseen else None
    checkpoint = load_checkpoint(spec, path, config.base_model, threshold=config.threshold, labels=labels)
    record = checkpoint.record
    # All are looked at before the first is scored.
    tests = [_asked(data, checkpoint) for data in datasets]
    own = spec.variant(checkpoint.config)
    of_mixture = {name: value for name, value in record["variant"].items() if name not in own}
    results = []
    for data, asked in tests:
        if prepare is not None:
            changed = prepare(checkpoint, config, data)
            variant = dict(spec.variant(changed.config)) | of_mixture | dict(changed.aspects)
            record |= {"config": to_dict(changed.config), "variant": variant}
        tested = result_record(
            approach=spec.name,
            variant=record["variant"],
            data=data,
            base=record["base_model"],
            seed=record["seed"],
            config=record["config"],
            parameters=record["parameters"],
            provenance=provenance(),
            training={
                **{key: record[key] for key in _OF_TRAINING},
                "earlier_provenance": record.get("earlier_provenance", []),
                **{key: record[key] for key in ("supplements",) if key in record},
                "epochs": record.get("epochs", len(record["history"])),
                "checkpoint": checkpoint.path.name,
                "checkpoint_bytes": (checkpoint.path / WEIGHTS_FILE).stat().st_size,
            },
            **({} if config.threshold is None else {"given_threshold": config.threshold}),
        )
        runtime = as_trained(config.runtime, record["precision"])
        results.append(
            score(spec.test_results, checkpoint.model, data, tested, split=config.split, runtime=runtime, asked=asked)
        )
    if len(results) > 1:
        print(mean_report(results))
    return results[-1]


def _asked(data: Dataset, checkpoint: Checkpoint[Any]) -> tuple[Dataset, Asked | None]:
    """The data set, and what the model is asked for on it if it was trained on a mixture.

    Raises:
        InputError: If the model was trained on other types.
    """
    config: Any = checkpoint.config
    if len(config.data.dataset) > 1 and (
        found := as_asked(data, joint_names(config.data.map), checkpoint.labels.names)
    ):
        return found
    check_types(checkpoint, data)
    return data, None


def check_types(checkpoint: Checkpoint[Any], data: Dataset) -> None:
    """Raises ``InputError`` if a data set has other entity types than a checkpoint was trained on."""
    if data.labels.names != checkpoint.labels.names:
        raise InputError(
            f"{checkpoint.path}: was trained on the types {list(checkpoint.labels.names)}, "
            f"data set {data.name!r} has {list(data.labels.names)}"
        )


def score(
    folder: Path,
    model: Any,
    data: Dataset,
    record: dict[str, Any],
    *,
    split: Split,
    runtime: RuntimeConfig,
    asked: Asked | None = None,
) -> Path:
    """Scores a model on a split, writes the result and prints its report.

    Args:
        folder: Where results of the approach are.
        model: The approach.
        data: The data set.
        record: What the result says of the model, from :func:`common.evaluation.results.result_record`.
        split: Split to score.
        runtime: Device, precision and batch size.
        asked: What a model of a mixture is asked for.

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
    evaluation = evaluate(model, sentences, runtime, accelerator, asked)
    record |= {
        "split": split,
        "threshold": getattr(model, "threshold", None),
        "type_thresholds": dict(getattr(model, "type_thresholds", {})),
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
    """Export a checkpoint as a plain GLiNER folder with a model card."""

    output: Path
    """Folder to write; must be new or empty."""
    checkpoint: str = "latest"
    """A run folder, or latest: the newest finished or interrupted run."""
    dataset: str | None = None
    """For latest: only runs on this data set. For --onnx: where it is now, if it has moved since training."""
    base_model: str | None = None
    """Where the base model is now, if it has moved since training."""
    onnx: bool = False
    """Also write model.onnx and a report that compares it with the model on the test split."""
    result: Path | None = None
    """Result file with the figures for the model card; if not given, the checkpoint's newest on the test split."""
    data_license: str | None = None
    """Licence of the training data, for the model card."""
    push_to_hub: str | None = None
    """Hugging Face hub repository (owner/name) to upload the folder to."""
    private: bool = False
    """Make a new repository private."""


def export(spec: ApproachSpec[Any], config: ExportConfig) -> Path:
    """Writes a GLiNER folder that ``GLiNER.from_pretrained`` loads without any code of ours, and returns it.

    It has the adapted model's scores for the labels that it was trained on, and for all others.

    Args:
        spec: The approach; one whose adapted model is a GLiNER.
        config: What to export and where to.

    Raises:
        InputError: If ``output`` has files already, the checkpoint cannot be loaded, a package, a token or the hub is
            missing, or the result is of something else.
    """
    from common.export.checks import check_free, check_onnx, check_push

    check_free(config.output)
    path = find_checkpoint(spec, config.checkpoint, config.dataset and Path(config.dataset).name)
    data = None
    if config.push_to_hub is not None:
        check_push(config.push_to_hub)
    if config.onnx:
        check_onnx()
        data = _of_training(spec, path) if config.dataset is None else load_dataset(config.dataset)

    from common.checkpoint import load_checkpoint
    from common.export.card import result_for
    from common.export.plain import save_plain
    from common.export.push import push

    loaded = load_checkpoint(spec, path, config.base_model)
    if data is not None:
        check_types(loaded, data)
        if data.sha256 != loaded.record["dataset"].get("sha256"):
            logger.warning(
                "data set %s is not the one of the training: the graph is compared on it all the same", data.name
            )
    result = result_for(spec, loaded, config.result)
    spec.merge(loaded.base)
    save_plain(
        loaded,
        config.output,
        name=config.push_to_hub or config.output.resolve().name,
        result=result,
        data_license=config.data_license,
        # The graph is asked for all types, also for those that a sentence of a mixture is not annotated with.
        test_sentences=None if data is None else [replace(sentence, types=None) for sentence in data.test],
    )
    if config.push_to_hub is not None:
        push(config.output, config.push_to_hub, config.private)
    return config.output


def _of_training(spec: ApproachSpec[Any], run: Path) -> Dataset:
    """The data set or mixture that a run was trained on."""
    config = spec.stored_config(read_run(run, spec)["config"], str(run))
    return load_training(config.data, config.train.seed)


def run_export(spec: ApproachSpec[C], argv: Sequence[str] | None = None) -> Path:
    """Exports what the command line names and returns the folder; for the arguments see :func:`export`."""
    return export(spec, parse(ExportConfig, argv))
