"""What a benchmark's child process measures: training and evaluation, ours and GLiNER's own."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from common.bases import load_base
from common.checkpoint import start_run
from common.config import RuntimeConfig
from common.data.dataset import Dataset, Sentence, load_dataset, make_sentence, sample, span_record
from common.data.labels import LabelSet
from common.data.spans import Span
from common.device import make_accelerator, peak_memory_mb, precision_name, reset_peak_memory, seed_everything
from common.errors import TrainingError
from common.evaluation.predict_split import flat, predict_split
from common.files import read_json, write_json
from common.models.features import EncodedSplit
from common.models.span_model import SpanModel
from common.paths import OUTPUT_VARIABLE
from common.registry import spec
from common.settings import parse_training
from common.training.loop import fit

SEED = 42
WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Measure:
    """One measurement, done by a child process."""

    kind: str
    """``train``, ``gliner train``, ``evaluate`` or ``gliner evaluate``."""
    encoder: str
    precision: str
    """fp32, bf16, fp16, or auto, a user's default."""
    batch_size: int | None
    """None, of our training alone: the approach's own default."""
    sentences: int | None
    """Training sentences, None for all; if the data has too few, they are repeated."""
    approach: str = ""
    labels: int | None = None
    """Number of entity types, made-up ones where the data has too few; None for those of the data."""
    dataset: str = ""
    base_model: str = ""


def _data(measure: Measure) -> Dataset:
    """The data set with as many sentences and entity types as were asked for."""
    data = load_dataset(measure.dataset)
    if measure.sentences is not None:
        times = math.ceil(measure.sentences / len(data.train))
        data = replace(data, train=sample(data.train * times, measure.sentences, SEED, "sentences"))
    if measure.labels is not None:
        names = [*data.labels.names, *(f"type {number}" for number in range(measure.labels))][: measure.labels]
        texts = [*data.labels.descriptions, *(f"Made-up type number {number}." for number in range(measure.labels))]
        labels = LabelSet(tuple(names), tuple(texts[: measure.labels]), data.labels.outside_description)
        train = [_within(sentence, labels) for sentence in data.train]
        data = replace(data, labels=labels, train=train, validation=[_within(s, labels) for s in data.validation])
    return data


def _within(sentence: Sentence, labels: LabelSet) -> Sentence:
    return make_sentence(sentence.words, [span for span in sentence.spans if span.label in labels.names])


def _peak(peak: dict[str, float] | None = None) -> float:
    """Peak memory of the device that computes, in MiB."""
    peak = peak or peak_memory_mb()
    return peak.get("gpu", peak["cpu"])


def _runtime(measure: Measure) -> RuntimeConfig:
    return RuntimeConfig(precision=measure.precision, progress=False)  # type: ignore[arg-type]


def _train(measure: Measure) -> dict[str, Any]:
    """Sentences a second of the second epoch of our loop; the first warms up."""
    approach = spec(measure.approach)
    data = _data(measure)
    data = replace(data, validation=data.validation[:32])
    base = load_base(measure.base_model, measure.encoder)
    config = _training_config(measure, data)
    seed_everything(SEED)
    model = approach.build(config, base, data.labels)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[OUTPUT_VARIABLE] = folder
        run = fit(model, data, config.train, config.runtime, start_run(approach, config, data, base))
    last = run.record["history"][-1]
    return {
        "sentences_per_second": last["sentences_per_second"],
        "seconds_per_epoch": last["train_seconds"],
        "feature_seconds": run.record["feature_seconds"],
        "peak_memory_mb": _peak(run.record["peak_memory_mb"]),
        "batch_size": config.train.batch_size,
        "precision": run.record["precision"],
    }


def _training_config(measure: Measure, data: Dataset) -> Any:
    approach = spec(measure.approach)
    options = ["--dataset", data.name, "--base-model", measure.base_model, "--precision", measure.precision]
    options += ["--epochs", "2", "--patience", "0", "--no-progress", "--seed", str(SEED)]
    if len(approach.kinds) > 1:
        options += ["--encoder", measure.encoder]
    if measure.batch_size is not None:
        options += ["--batch-size", str(measure.batch_size)]
    return parse_training(approach, options)[0]


def _gliner_records(sentences: Sequence[Sentence], labels: LabelSet, encoder: str) -> list[dict[str, Any]]:
    key = "ner_label" if encoder == "bi" else "ner_labels"
    return [span_record(sentence) | {key: list(labels.names)} for sentence in sentences]


def _gliner_train(measure: Measure) -> dict[str, Any]:
    """Sentences a second of gliner's ``train_model``, without its first steps."""
    from transformers import TrainerCallback

    data = _data(measure)
    accelerator = make_accelerator(_runtime(measure))
    precision = precision_name(accelerator)
    base = load_base(measure.base_model, measure.encoder)
    batch_size = measure.batch_size
    assert batch_size is not None
    steps = len(data.train) // batch_size
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    seed_everything(SEED)
    with tempfile.TemporaryDirectory() as folder, _patched_callback(Clock()):
        reset_peak_memory()
        base.gliner.train_model(
            _gliner_records(data.train, data.labels, measure.encoder),
            None,
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            learning_rate=1e-5,
            save_strategy="no",
            logging_strategy="no",
            seed=SEED,
            use_cpu=accelerator.device.type == "cpu",
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
    if len(times) != steps:
        raise TrainingError(f"gliner's trainer made {len(times)} of {steps} steps")
    seconds = times[-1] - times[WARM_UP_STEPS - 1]
    return {
        "sentences_per_second": (steps - WARM_UP_STEPS) * batch_size / seconds,
        "seconds_per_epoch": None,
        "peak_memory_mb": _peak(),
        "batch_size": batch_size,
        "precision": precision,
    }


@contextlib.contextmanager
def _patched_callback(callback: Any) -> Iterator[None]:
    """Adds a callback to the trainer that ``train_model`` makes, which takes none itself."""
    from gliner import training as gliner_training

    original: Callable[..., Any] = gliner_training.Trainer.__init__

    def with_callback(self: Any, *arguments: Any, **options: Any) -> None:
        options["callbacks"] = [*(options.get("callbacks") or []), callback]
        original(self, *arguments, **options)

    gliner_training.Trainer.__init__ = with_callback
    try:
        yield
    finally:
        gliner_training.Trainer.__init__ = original


def _evaluate(measure: Measure) -> dict[str, Any]:
    """Sentences a second of our evaluation of the base model on the test split: tokenising, scores and decoding."""
    data, base = load_dataset(measure.dataset), load_base(measure.base_model, measure.encoder)
    assert measure.batch_size is not None
    runtime = replace(_runtime(measure), eval_batch_size=measure.batch_size)
    accelerator = make_accelerator(runtime)
    model = SpanModel(base, data.labels, data.labels.names, threshold=0.5).to(accelerator.device)
    predict_split(model, EncodedSplit(model.encode(data.test[:64])), runtime, accelerator)
    reset_peak_memory()
    start = time.perf_counter()
    found = flat(predict_split(model, EncodedSplit(model.encode(data.test)), runtime, accelerator))
    return _evaluated(measure, data, [sorted(spans) for spans in found], start, precision_name(accelerator))


def _gliner_evaluate(measure: Measure) -> dict[str, Any]:
    """The same by gliner's ``evaluate``."""
    data, base = load_dataset(measure.dataset), load_base(measure.base_model, measure.encoder)
    accelerator = make_accelerator(_runtime(measure))
    base.core.to(accelerator.device)
    records = _gliner_records(data.test, data.labels, measure.encoder)
    found: list[list[Span]] = []
    original = base.gliner._process_batches

    def keep(*arguments: Any, **options: Any) -> Any:
        predictions = original(*arguments, **options)
        found.extend(sorted(Span(p.start, p.end, p.entity_type) for p in spans) for spans in predictions)
        return predictions

    options = {"flat_ner": True, "threshold": 0.5, "batch_size": measure.batch_size}
    with torch.no_grad(), accelerator.autocast():
        base.gliner.evaluate(records[:64], entity_types=list(data.labels.names), **options)
        base.gliner._process_batches = keep
        reset_peak_memory()
        start = time.perf_counter()
        base.gliner.evaluate(records, entity_types=list(data.labels.names), **options)
    return _evaluated(measure, data, found, start, precision_name(accelerator))


def _evaluated(
    measure: Measure, data: Dataset, found: Sequence[Sequence[Span]], start: float, precision: str
) -> dict[str, Any]:
    seconds = time.perf_counter() - start
    return {
        "sentences_per_second": len(data.test) / seconds,
        "seconds_per_epoch": seconds,
        "peak_memory_mb": _peak(),
        "batch_size": measure.batch_size,
        "precision": precision,
        "predictions": [[list(span) for span in spans] for spans in found],
    }


_KINDS: dict[str, Callable[[Measure], dict[str, Any]]] = {
    "train": _train,
    "gliner train": _gliner_train,
    "evaluate": _evaluate,
    "gliner evaluate": _gliner_evaluate,
}


def child(argv: Sequence[str]) -> None:
    """Does the measurement described in the first file and writes the second."""
    measure = Measure(**read_json(Path(argv[0])))
    write_json(Path(argv[1]), _KINDS[measure.kind](measure), indent=None)


def profile(measure: Measure) -> str:
    """Where a training spends its time, by torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        _train(measure)
    return profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60)
