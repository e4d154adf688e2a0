"""Speed and memory beside GLiNER's own: ``python -m common.benchmark --dataset bc5cdr --base-model BI --cross-base-model CROSS``.

Each figure is measured in a process of its own, one after another, so that neither memory nor warm caches of one reach the next.
A ratio compares two figures of the same run.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from common.bases import load_base
from common.checkpoint import start_run
from common.config import Precision, RuntimeConfig, parse, parse_training, require
from common.data.dataset import Dataset, Encoder, Sentence, load_dataset, make_sentence, sample
from common.data.labels import LabelSet
from common.data.spans import Span
from common.device import (
    make_accelerator,
    peak_memory_mb,
    precision_name,
    provenance,
    reset_peak_memory,
    seed_everything,
)
from common.errors import InputError, TrainingError
from common.evaluation.predict_split import flat, predict_split
from common.files import put_between_markers, read_json, split_at_markers, write_json, write_text
from common.models.features import EncodedSplit
from common.models.published import DEFAULT_BASE
from common.models.span_model import SpanModel
from common.paths import OUTPUT_VARIABLE, PROJECT_ROOT, now
from common.registry import TRAINED, spec
from common.script import run_script
from common.training.loop import fit

logger = logging.getLogger(__name__)

SEED = 42
FROZEN_TEXT = ("ldsa", "softprompt_base", "injection_bi", "glinerev")
"""Approaches that train on stored features."""
WARM_UP_STEPS = 2
SIZES = (1000, 4000, 16000)
LABELS = (2, 6, 30)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
_KINDS_OF_BASE: tuple[Encoder, ...] = ("bi", "cross")


@dataclass(frozen=True)
class Config:
    """Benchmark of every approach beside GLiNER's own training and evaluation."""

    dataset: str = "bc5cdr"
    """Name or folder of the data set."""
    base_model: str = DEFAULT_BASE["bi"]
    """Bi-encoder GLiNER."""
    cross_base_model: str = DEFAULT_BASE["cross"]
    """Cross-encoder GLiNER."""
    sentences: int = 320
    """Training sentences of the measures without stored features, GLiNER's among them."""
    batch_size: int = 16
    """Sentences in a batch where both sides have the same settings."""
    output: Path = PROJECT_ROOT / "results" / "benchmark.json"
    """Where the rows go; the table is written beside it."""
    scaling: bool = True
    """Also measure how time grows with sentences and labels."""
    readme: Path | None = None
    """Markdown file that gets the tables, between <!-- speed --> and <!-- /speed -->."""
    show: Path | None = None
    """A JSON file of an earlier run: makes the tables of it, and measures nothing."""
    profile: str | None = None
    """An approach: shows where the time of its training goes, and measures nothing else."""

    def __post_init__(self) -> None:
        require(self.sentences >= 4 * self.batch_size, f"sentences must be at least 4 batches, got {self.sentences}")
        require(
            self.profile is None or self.profile in TRAINED,
            f"--profile: {self.profile!r} is not one of {list(TRAINED)}",
        )


@dataclass(frozen=True)
class Measure:
    """One figure: what a child process is asked for."""

    kind: str
    """``train``, ``gliner train``, ``evaluate`` or ``gliner evaluate``."""
    encoder: Encoder
    precision: str
    """fp32, bf16, fp16, or auto as a user has it."""
    batch_size: int | None
    """None: the approach's own default."""
    sentences: int | None
    """Training sentences, None for all; more than there are are drawn again."""
    approach: str = ""
    labels: int | None = None
    """Number of entity types, made-up ones beside those of the data; None for those of the data alone."""
    dataset: str = ""
    base_model: str = ""


# -- in a child process -----------------------------------------------------------------------------------------------


def _data(measure: Measure) -> Dataset:
    """The data set with as many sentences and entity types as were asked for."""
    data = load_dataset(measure.dataset, measure.encoder)
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
    """The peak on the device that computes."""
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
    if "encoder" in approach.config.__dataclass_fields__:
        options += ["--encoder", measure.encoder]
    if measure.batch_size is not None:
        options += ["--batch-size", str(measure.batch_size)]
    return parse_training(approach.config, approach.name, options)[0]


def _gliner_records(sentences: Sequence[Sentence], labels: LabelSet, encoder: Encoder) -> list[dict[str, Any]]:
    key = "ner_label" if encoder == "bi" else "ner_labels"
    return [
        {"tokenized_text": list(s.words), "ner": [list(span) for span in s.spans], key: list(labels.names)}
        for s in sentences
    ]


def _gliner_train(measure: Measure) -> dict[str, Any]:
    """Sentences a second of gliner's ``train_model``, its first steps not in it."""
    from transformers import TrainerCallback

    data = _data(measure)
    accelerator = make_accelerator(_runtime(measure))
    precision = precision_name(accelerator)
    base = load_base(measure.base_model, measure.encoder)
    batch_size = measure.batch_size or 16
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
    """Gives the trainer that ``train_model`` makes one more callback; it takes none itself."""
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
    data, base = load_dataset(measure.dataset, measure.encoder), load_base(measure.base_model, measure.encoder)
    runtime = replace(_runtime(measure), eval_batch_size=measure.batch_size or RuntimeConfig.eval_batch_size)
    accelerator = make_accelerator(runtime)
    model = SpanModel(base, data.labels, data.labels.names, threshold=0.5).to(accelerator.device)
    predict_split(model, EncodedSplit(model.encode(data.test[:64])), runtime, accelerator)
    reset_peak_memory()
    start = time.perf_counter()
    found = flat(predict_split(model, EncodedSplit(model.encode(data.test)), runtime, accelerator))
    return _evaluated(measure, data, [sorted(spans) for spans in found], start, precision_name(accelerator))


def _gliner_evaluate(measure: Measure) -> dict[str, Any]:
    """The same by gliner's ``evaluate``."""
    data, base = load_dataset(measure.dataset, measure.encoder), load_base(measure.base_model, measure.encoder)
    accelerator = make_accelerator(_runtime(measure))
    base.core.to(accelerator.device)
    records = _gliner_records(data.test, data.labels, measure.encoder)
    found: list[list[Span]] = []
    original = base.gliner._process_batches

    def keep(*arguments: Any, **options: Any) -> Any:
        predictions = original(*arguments, **options)
        found.extend(sorted(Span(p.start, p.end, p.entity_type) for p in spans) for spans in predictions)
        return predictions

    options = {"flat_ner": True, "threshold": 0.5, "batch_size": measure.batch_size or 12}
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
        "batch_size": measure.batch_size or (12 if "gliner" in measure.kind else RuntimeConfig.eval_batch_size),
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
    """Measures what the first file says and writes the second."""
    measure = Measure(**read_json(Path(argv[0])))
    write_json(Path(argv[1]), _KINDS[measure.kind](measure), indent=None)


# -- in the parent process --------------------------------------------------------------------------------------------


class Bench:
    """Runs measures in child processes and collects the rows.

    Args:
        config: The benchmark's settings.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.rows: list[dict[str, Any]] = []

    def measure(self, kind: str, encoder: Encoder, **settings: Any) -> dict[str, Any]:
        """One figure.

        Raises:
            InputError: If the child failed; the message is its last line.
        """
        base_model = self.config.base_model if encoder == "bi" else self.config.cross_base_model
        measure = Measure(kind, encoder, dataset=self.config.dataset, base_model=base_model, **settings)
        logger.info("%s", ", ".join(f"{k} {v}" for k, v in asdict(measure).items() if v not in ("", None)))
        with tempfile.TemporaryDirectory() as folder:
            asked, answer = Path(folder) / "measure.json", Path(folder) / "answer.json"
            write_json(asked, asdict(measure))
            done = subprocess.run(
                [sys.executable, "-c", f"from common import benchmark; benchmark.child({[str(asked), str(answer)]!r})"],
                cwd=PROJECT_ROOT,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                said = done.stderr.strip().splitlines() or ["it said nothing"]
                raise InputError(f"{measure} failed with exit code {done.returncode}: {said[-1]}")
            figures = read_json(answer)
        logger.info("  %.1f sentences/s, peak %.0f MiB", figures["sentences_per_second"], figures["peak_memory_mb"])
        return figures

    def row(
        self, measure: str, approach: str, ours: dict[str, Any], gliner: dict[str, Any] | None, **more: Any
    ) -> None:
        """Adds a row that compares two figures, and keeps what there is in case the run is stopped."""
        kept = (
            "sentences_per_second",
            "batch_size",
            "precision",
            "feature_seconds",
            "seconds_per_epoch",
            "peak_memory_mb",
        )
        sides = [None if side is None else {k: side[k] for k in kept if k in side} for side in (ours, gliner)]
        ratio = None if gliner is None else ours["sentences_per_second"] / gliner["sentences_per_second"]
        memory = None if gliner is None else ours["peak_memory_mb"] / gliner["peak_memory_mb"]
        self.rows.append(
            {"measure": measure, "approach": approach, "ours": sides[0], "gliner": sides[1], "ratio": ratio}
            | {"memory_ratio": memory, **more}
        )
        write_json(self.partial, self.record())

    def training(self) -> None:
        """Every approach against ``train_model`` on the same kind of base: the same settings, and each side at its best."""
        size, n = self.config.batch_size, self.config.sentences
        same = precision_name(make_accelerator(RuntimeConfig()))
        for encoder in _KINDS_OF_BASE:
            theirs = {
                (precision, batch): self.measure(
                    "gliner train", encoder, precision=precision, batch_size=batch, sentences=n
                )
                for precision, batch in sorted({("fp32", size), (same, size), (same, 2 * size)})
            }
            best = max(theirs.values(), key=lambda side: side["sentences_per_second"])
            for approach in TRAINED:
                if encoder not in _encoders(approach):
                    continue
                title = f"{spec(approach).title}, {encoder}"
                settings: dict[str, Any] = {"approach": approach, "precision": same}
                settings["sentences"] = None if approach in FROZEN_TEXT else n
                ours = self.measure("train", encoder, **settings, batch_size=size)
                self.row("training, same settings", title, ours, theirs[same, size])
                ours = self.measure("train", encoder, **settings, batch_size=None)
                self.row("training, each at its best", title, ours, best)

    def evaluation(self) -> None:
        """The base model on the whole test split against ``model.evaluate``."""
        for encoder in _KINDS_OF_BASE:
            for precision in PRECISIONS:
                settings: dict[str, Any] = {"precision": precision, "batch_size": 32, "sentences": None}
                ours = self.measure("evaluate", encoder, **settings)
                theirs = self.measure("gliner evaluate", encoder, **settings)
                differing = sum(a != b for a, b in zip(ours["predictions"], theirs["predictions"], strict=True))
                self.row(
                    f"evaluation, same settings, {precision}", f"span model, {encoder}", ours, theirs,
                    sentences_with_other_predictions=differing,
                )  # fmt: skip

    def scaling(self) -> None:
        """Seconds of an epoch by the number of sentences and of labels."""
        for approach in ("injection_bi", "glinerev"):
            settings: dict[str, Any] = {"approach": approach, "precision": "auto", "batch_size": None}
            for n in SIZES:
                self.row(
                    f"{n} sentences", spec(approach).title, self.measure("train", "bi", **settings, sentences=n), None
                )
            for n in LABELS:
                figures = self.measure("train", "bi", **settings, sentences=SIZES[0], labels=n)
                self.row(f"{n} labels, {SIZES[0]} sentences", spec(approach).title, figures, None)

    @property
    def partial(self) -> Path:
        """The file of a run that is not at its end; an earlier run's output stays until then."""
        return self.config.output.with_suffix(".partial.json")

    def record(self) -> dict[str, Any]:
        """What the JSON file says."""
        return {
            "created": now(),
            "dataset": Path(self.config.dataset).name,
            "base_models": {
                "bi": Path(self.config.base_model).name,
                "cross": Path(self.config.cross_base_model).name,
            },
            "threads": torch.get_num_threads(),
            "provenance": provenance(),
            "rows": self.rows,
        }

    def write(self) -> dict[str, Any]:
        """Writes the rows and their tables; returns what the JSON file says."""
        record = self.record()
        write_json(self.config.output, record)
        write_text(self.config.output.with_suffix(".md"), render(record))
        self.partial.unlink(missing_ok=True)
        return record


def _encoders(approach: str) -> tuple[Encoder, ...]:
    if "encoder" in spec(approach).config.__dataclass_fields__:
        return ("bi", "cross")
    return (spec(approach).encoder(None),)


def read_benchmark(path: Path) -> dict[str, Any]:
    """The record of an earlier run.

    Raises:
        InputError: If the file is none.
    """
    record = read_json(path)
    if not isinstance(record, dict) or not {"rows", "base_models", "provenance"} <= record.keys():
        raise InputError(f"{path}: is no file of a benchmark")
    return record


def render(record: dict[str, Any]) -> str:
    """The rows as two Markdown tables: beside GLiNER's own, and by the number of sentences and of labels."""
    head = "Data {dataset}, bases {bi} and {cross}, {threads} threads, {machine}.".format(
        dataset=record["dataset"], **record["base_models"], threads=record["threads"],
        machine=record["provenance"]["machine"].get("gpu") or "CPU",
    )  # fmt: skip
    tables = [
        "| measure | approach | ours, sentences/s | GLiNER's own | ratio | peak MiB, ours | GLiNER's own | features, s | ours: batch, precision | GLiNER's own | sentences predicted otherwise |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- | ---: |\n",
        "| measure | approach | sentences/s | s/epoch | features, s | peak MiB |\n| --- | --- | ---: | ---: | ---: | ---: |\n",
    ]
    for row in record["rows"]:
        ours, gliner = row["ours"], row["gliner"]
        features = format(ours["feature_seconds"], ".0f") if ours.get("feature_seconds") else "-"
        if gliner is None:
            cells = [f"{ours['sentences_per_second']:,.0f}", f"{ours['seconds_per_epoch']:.1f}", features]
            cells += [f"{ours['peak_memory_mb']:,.0f}"]
        else:
            sides = (ours, gliner)
            cells = [*(_speed(side) for side in sides), f"{row['ratio']:.1f}"]
            cells += [f"{side['peak_memory_mb']:,.0f}" for side in sides]
            cells += [features, *(f"{side['batch_size']}, {side['precision']}" for side in sides)]
            cells += [str(row.get("sentences_with_other_predictions", "-"))]
        tables[gliner is None] += f"| {row['measure']} | {row['approach']} | {' | '.join(cells)} |\n"
    return "\n".join([head, "", *(table for table in tables if table.count("\n") > 2)])


def _speed(side: dict[str, Any]) -> str:
    return format(side["sentences_per_second"], ",.0f" if side["sentences_per_second"] >= 100 else ".1f")


def profile(config: Config) -> str:
    """Where the time of an approach's training goes, as torch's profiler sees it."""
    approach = config.profile or ""
    encoder = _encoders(approach)[0]
    base_model = config.base_model if encoder == "bi" else config.cross_base_model
    measure = Measure("train", encoder, "auto", None, config.sentences, approach, None, config.dataset, base_model)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        _train(measure)
    return profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60)


def run_benchmark(config: Config) -> dict[str, Any]:
    """Measures everything that is asked for and returns what the JSON file says."""
    bench = Bench(config)
    bench.training()
    bench.evaluation()
    if config.scaling:
        bench.scaling()
    return bench.write()


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes and prints."""
    config = parse(Config, argv)
    if config.profile is not None:
        print(profile(config))
        return
    if config.readme is not None:
        # Before hours of measuring, not after.
        split_at_markers(config.readme, "speed")
    tables = render(read_benchmark(config.show) if config.show is not None else run_benchmark(config))
    if config.readme is not None:
        put_between_markers(config.readme, "speed", tables)
    print(tables)


if __name__ == "__main__":
    run_script(main)
