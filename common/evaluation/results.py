"""Result files: for each test run a JSON file, its Markdown page, its predictions and its per-sentence counts."""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from filelock import FileLock

from common.data.dataset import Dataset, Sentence, parse_span_record, span_record
from common.data.spans import ScoredSpan, Span, check_flat, check_span
from common.errors import InputError
from common.evaluation.metrics import METRICS, SpanCounts, count_spans, span_scores
from common.evaluation.thresholds import thresholds_text
from common.files import (
    atomic_path,
    atomic_text,
    json_problem,
    leftovers,
    parse_json,
    read_json,
    unique_keys,
    write_json,
    write_text,
)
from common.markdown import escape_markdown
from common.paths import now, timestamp
from common.schema import Count, FileName, Seconds, Seed, Share, Texts, check
from common.spec import Variant, variant_text

if TYPE_CHECKING:
    from common.evaluation.predict_split import Evaluation

logger = logging.getLogger(__name__)


class _Scores(TypedDict, total=False):
    precision: Share | None
    recall: Share | None
    f1: Share | None
    support: Count


class _Overall(TypedDict):
    micro: _Scores
    macro: _Scores


class _AllScores(_Overall, total=False):
    per_type: dict[str, _Scores]
    defined_types: Count


class _Base(TypedDict, total=False):
    name: str
    revision: str
    kind: str
    encoder: str


class _Speed(TypedDict, total=False):
    sentences: Count
    sentences_per_second: float


class _Parameters(TypedDict, total=False):
    total: Count
    trainable: Count


class _Start(TypedDict, total=False):
    machine: dict[str, Any]


class _Sizes(TypedDict, total=False):
    train: Count
    validation: Count
    test: Count


class _Training(TypedDict, total=False):
    dataset: _Sizes
    best: dict[str, Any]
    steps: Count
    epochs: Count
    train_seconds: Seconds
    seconds_per_epoch: Seconds
    feature_seconds: Seconds
    precision: str
    peak_memory_mb: dict[str, float]
    provenance: _Start
    earlier_provenance: list[_Start]
    checkpoint: str
    checkpoint_bytes: Count


class _PredictionRecord(TypedDict):
    predicted: list[list[Any]]


class _Prediction(TypedDict):
    start: Count
    end: Count
    type: str
    score: Share


class _Required(TypedDict):
    created: str
    approach: str
    variant: Texts | str
    dataset: FileName
    base_model: _Base
    seed: Seed | None
    scores: _AllScores
    parameters: _Parameters
    speed: _Speed
    config: dict[str, Any]
    provenance: dict[str, Any]


class ResultRecord(_Required, total=False):
    """A result file; in format 1 the variant is a text, and ``encoder`` says what kind the base model is."""

    training: _Training | None
    split: str
    threshold: Share | None
    type_thresholds: dict[str, Share]
    given_threshold: Share
    """That of the test's command line, in place of the checkpoint's own thresholds."""
    precision: str
    labels: list[str]
    mixture: FileName
    """Name of the mixture that the model was trained on; its data sets are in ``training``."""
    intervals: dict[str, list[float]]


REQUIRED = tuple(_Required.__annotations__)


def write_result(
    folder: Path, record: Mapping[str, Any], evaluation: Evaluation, sentences: Sequence[Sentence]
) -> Path:
    """Writes ``<dataset>_<timestamp>.json``, ``.md``, ``_predictions.jsonl`` and ``_counts.npz``.

    Args:
        folder: ``<approach>/test_results``.
        record: What was tested; the evaluation's report is added to it.
        evaluation: The scored split.
        sentences: Its sentences.

    Returns:
        The path of the JSON file.
    """
    result = dict(record) | evaluation.report
    folder.mkdir(parents=True, exist_ok=True)
    # Two tests that end in the same second must not take the same name.
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        # What killed processes have left; who writes holds the lock.
        for path in leftovers(folder, r".+_\d{8}_\d{6}(-\d+)?(\.json|\.md|_predictions\.jsonl|_counts\.npz)"):
            path.unlink(missing_ok=True)
        stem = f"{record['dataset']}_{timestamp()}"
        suffix = 1
        while (folder / f"{stem}{'' if suffix == 1 else f'-{suffix}'}.json").exists():
            suffix += 1
        stem += "" if suffix == 1 else f"-{suffix}"
        path = folder / f"{stem}.json"
        with atomic_text(predictions_path(path)) as stream:
            for sentence, spans in zip(sentences, evaluation.predictions, strict=True):
                stream.write(json.dumps(_prediction_record(sentence, spans), ensure_ascii=False) + "\n")
        write_counts(path, evaluation.counts)
        write_text(path.with_suffix(".md"), render(result))
        write_json(path, result)
    logger.info("result: %s", path)
    return path


def predictions_path(result: Path) -> Path:
    """The file with a result's predictions, one sentence a line."""
    return result.with_name(f"{result.stem}_predictions.jsonl")


def counts_path(result: Path) -> Path:
    """The file with the counts of each test sentence: all that intervals need, without a word of the corpus."""
    return result.with_name(f"{result.stem}_counts.npz")


def companions(result: Path) -> tuple[Path, ...]:
    """The files of a result, its JSON file last: where that is, the others are."""
    return predictions_path(result), counts_path(result), result.with_suffix(".md"), result


def write_counts(result: Path, counts: SpanCounts) -> None:
    """Writes the counts of a result; the same counts give the same bytes."""
    with atomic_path(counts_path(result)) as temporary, temporary.open("wb") as stream:
        planes = (counts.true_positives, counts.predicted, counts.gold)
        np.savez_compressed(stream, types=np.array(counts.types), counts=np.stack(planes).astype(np.uint16))


def read_counts(result: Path) -> SpanCounts:
    """The counts of a result.

    Raises:
        InputError: If the file is missing or something else.
    """
    path = counts_path(result)
    try:
        with np.load(path, allow_pickle=False) as file:
            types, counts = tuple(map(str, file["types"].tolist())), file["counts"].astype(np.int64)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; it belongs beside {result.name}, test again to make it") from None
    except (KeyError, TypeError, ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        # RuntimeError: a damaged head of a ZIP file may ask for a password or an unknown compression.
        raise InputError(f"{path}: is no file of counts: {error}") from error
    if counts.ndim != 3 or counts.shape[0] != 3 or counts.shape[2] != len(types) or not counts.shape[1]:
        raise InputError(
            f"{path}: is no file of counts: shape {counts.shape}, expected (3, sentences, {len(types)} types)"
        )
    if bool((counts < 0).any() or (counts[0] > counts[1:]).any()):
        raise InputError(f"{path}: is no file of counts: more true positives than predicted or gold spans")
    return SpanCounts(types, *counts)


def _prediction_record(sentence: Sentence, spans: Sequence[ScoredSpan]) -> dict[str, Any]:
    record = span_record(sentence) | {"predicted": [(*item.span, round(item.score, 4)) for item in spans]}
    return record | ({} if sentence.document is None else {"document": sentence.document})


def read_predictions(path: Path) -> list[tuple[Sentence, list[ScoredSpan]]]:
    """The sentences of a result with their gold spans, and the predictions of each, sorted.

    Args:
        path: The result's JSON file.

    Raises:
        InputError: If there are none beside the result, a record is bad, or their scores are not the result's.
    """
    result, beside = read_result(path), predictions_path(path)
    types = types_of(result)
    found = []
    try:
        with beside.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    found.append(_parse_prediction(line.decode("utf-8"), types))
                except UnicodeDecodeError as error:
                    raise InputError(f"{beside}: line {number}: not UTF-8 text (byte {error.start})") from error
                except ValueError as error:
                    raise InputError(f"{beside}: line {number}: {error}") from error
    except FileNotFoundError:
        raise InputError(
            f"{beside}: no such file; it belongs beside {path.name} and holds the sentences, test again to make it"
        ) from None
    except OSError as error:
        raise InputError(f"{beside}: cannot be read: {error.strerror or error}") from error
    wanted = result["speed"].get("sentences", len(found))
    if not found or len(found) != wanted:
        raise InputError(f"{beside}: holds {len(found)} sentences, {path.name} is of {wanted}; test again to make both")
    counts = count_spans(
        [sentence.spans for sentence, _ in found], [[item.span for item in spans] for _, spans in found], types
    )
    scores, stored = span_scores(counts), result["scores"]
    # Not the macro means, which other versions took over other types.
    rows = [("micro", scores.micro, stored["micro"])]
    rows += [(name, scores.per_type[name], row) for name, row in stored.get("per_type", {}).items() if name in types]
    for name, own, other in rows:
        for measure, value in asdict(own).items():
            if abs(value - (other.get(measure) or 0)) > 1e-6:
                raise InputError(
                    f"{beside}: is not of {path.name}: its {measure} of {name} is {value:.6f}, the result's "
                    f"{other.get(measure)}; test again to make both"
                )
    return found


def _parse_prediction(line: str, types: Sequence[str]) -> tuple[Sentence, list[ScoredSpan]]:
    """One line of a file of predictions.

    Raises:
        ValueError: If it is something else; the message names the field and the value.
    """
    try:
        record = parse_json(line, unique_keys)
    except ValueError as error:
        raise ValueError(json_problem(error, one_line=True)) from error
    sentence = parse_span_record(record)
    check(record, _PredictionRecord, "the record")
    spans = []
    for entry in record["predicted"]:
        if len(entry) != 4:
            raise ValueError(f"a prediction must be [start, end, type, score], got {entry!r}")
        check(dict(zip(_Prediction.__annotations__, entry, strict=True)), _Prediction, f"prediction {entry!r}")
        spans.append(ScoredSpan(Span(*entry[:3]), float(entry[3])))
        check_span(spans[-1].span, len(sentence.words))
    spans.sort()
    check_flat([item.span for item in spans])
    for span in (*sentence.spans, *(item.span for item in spans)):
        if span.label not in types:
            raise ValueError(f"unknown type {span.label!r}, the result has {list(types)}")
    return sentence, spans


def read_result(path: Path) -> dict[str, Any]:
    """One result.

    Raises:
        InputError: If the file is no result file, or a field is something else; the message names it and its value.
    """
    result: dict[str, Any] = read_json(path, unique_keys)
    missing = [key for key in REQUIRED if not isinstance(result, dict) or key not in result]
    if missing:
        raise InputError(f"{path}: is no result file, it lacks {missing}")
    check(result, ResultRecord, str(path))
    return result


def types_of(result: Mapping[str, Any]) -> list[str]:
    """The types of the label set that a result was scored on."""
    return list(result.get("labels") or result["scores"].get("per_type", {}))


def result_record(
    *,
    approach: str,
    variant: Variant,
    data: Dataset,
    base: Mapping[str, Any],
    seed: int | None,
    config: Mapping[str, Any],
    parameters: Mapping[str, Any],
    provenance: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """The part of a result that says what was tested; no path of the machine is in it."""
    public = dict(config)
    public["base_model"] = base["name"]
    trained_on = (more.get("training") or {}).get("dataset", {})
    members = [member["name"] for member in trained_on.get("members", ())]
    if "data" in public:
        public["data"] = public["data"] | {"dataset": members or [data.name]}
    else:
        public["dataset"] = data.name
    return {
        "created": now(),
        "approach": approach,
        "variant": dict(variant),
        "dataset": data.name,
        "dataset_sha256": data.sha256,
        **({"mixture": trained_on["name"]} if members else {}),
        "base_model": {key: base[key] for key in ("name", "revision", "kind")},
        "seed": seed,
        "labels": list(data.labels.names),
        "parameters": dict(parameters),
        "config": public,
        "provenance": dict(provenance),
        **more,
    }


def render(result: Mapping[str, Any]) -> str:
    """A result as a Markdown page."""
    scores, base = result["scores"], result["base_model"]
    shown = escape_markdown
    lines = [
        shown(f"# {result['approach']} ({variant_text(result['variant'])}) on {result['dataset']}"),
        "",
        *([f"Trained on the mixture {shown(result['mixture'])}.", ""] if "mixture" in result else []),
        f"Base model {shown(base['name'])}, seed {result['seed']}, {result['split']} split, threshold "
        f"{shown(thresholds_text(result['threshold'], result.get('type_thresholds', {})))}.",
        "",
        "| type | precision | recall | F1 | support |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    total = sum(row["support"] for row in scores["per_type"].values())
    rows = [(shown(name), row, row["support"]) for name, row in scores["per_type"].items()]
    rows += [("**micro**", scores["micro"], total), ("**macro**", scores["macro"], total)]
    lines += [
        f"| {name} | {row['precision']:.4f} | {row['recall']:.4f} | {row['f1']:.4f} | {support} |"
        for name, row, support in rows
    ]
    without_gold = [name for name, row in scores["per_type"].items() if not row["support"]]
    if without_gold:
        lines += [
            "",
            f"The macro means are over {scores['defined_types']} of {len(scores['per_type'])} types, those with a gold "
            f"or a predicted span; {len(without_gold)} without gold: {shown(', '.join(without_gold))}.",
        ]
    intervals, speed, errors = result["intervals"], result["speed"], result["errors"]
    lost, tokens = result["unreachable_gold"], result["token_report"]
    parameters = result["parameters"]
    lines += [
        "",
        "95 % bootstrap intervals over sentences: "
        + ", ".join("{} [{:.4f}, {:.4f}]".format(metric.title, *intervals[name]) for name, metric in METRICS.items())
        + ".",
        "",
        f"Trained: {parameters['trainable']:,} of {parameters['total']:,} parameters "
        f"({100 * parameters['trainable'] / parameters['total']:.2f} %).",
        "",
        f"Speed: {speed['sentences_per_second']:.1f} sentences/s at batch size {speed['batch_size']}, "
        f"{result['precision']}.",
        "",
        f"Unreachable gold spans: {lost['lost']} of {lost['gold']} ({100 * lost['share']:.2f} %): {lost['by_reason']}; "
        f"the best possible micro F1 is {lost['ceiling']['micro_f1']:.4f}.",
        "",
        f"By words instead of spans: micro F1 {tokens['micro']['f1']:.4f}, macro F1 {tokens['macro']['f1']:.4f}.",
        "",
        f"Errors: {errors['missed']} missed, {errors['spurious']} spurious, "
        f"{errors['boundary']} with wrong boundaries, "
        f"{errors['type']} with a wrong type, {errors['boundary_and_type']} with both.",
        "",
        "| gold \\ predicted, right boundaries | " + " | ".join(map(shown, errors["confusion"])) + " |",
        "| --- |" + " ---: |" * len(errors["confusion"]),
    ]
    lines += [
        f"| {shown(name)} | " + " | ".join(str(row[other]) for other in errors["confusion"]) + " |"
        for name, row in errors["confusion"].items()
    ]
    for name, other in result.get("beside", {}).items():
        f1 = (f"{metric.title} {other['scores'][metric.average]['f1']:.4f}" for metric in METRICS.values())
        lines += ["", f"Beside these, {name}: {', '.join(f1)}."]
    for line in result.get("account", {}).get("summary", []):
        lines += ["", line]
    return "\n".join(lines) + "\n"


def mean_report(results: Sequence[Path]) -> str:
    """Micro and macro F1 of each of several results, and their means, as a Markdown table."""
    lines = ["| data set | micro F1 | macro F1 |", "| --- | ---: | ---: |"]
    rows = []
    for path in results:
        result = read_result(path)
        rows.append((result["dataset"], result["scores"]["micro"]["f1"], result["scores"]["macro"]["f1"]))
    rows.append(("**mean**", fmean(row[1] for row in rows), fmean(row[2] for row in rows)))
    return "\n".join([*lines, *(f"| {name} | {micro:.4f} | {macro:.4f} |" for name, micro, macro in rows)])
