"""The tables of a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired, TypedDict

from common.config import require
from common.errors import InputError
from common.files import read_json
from common.schema import Amount, Count, Seconds, check


class _Side(TypedDict):
    sentences_per_second: Amount
    peak_memory_mb: Amount
    batch_size: Count
    precision: str
    feature_seconds: NotRequired[Seconds | None]


class _Ours(_Side):
    seconds_per_epoch: Seconds


class _Row(TypedDict):
    measure: str
    approach: str
    ours: _Ours
    gliner: _Side | None
    ratio: Amount | None
    sentences_with_other_predictions: NotRequired[Count]


class _Bases(TypedDict):
    bi: str
    cross: str


class _Provenance(TypedDict):
    machine: dict[str, Any]


class _Benchmark(TypedDict):
    dataset: str
    base_models: _Bases
    threads: Count
    provenance: _Provenance
    rows: list[_Row]


def read_benchmark(path: Path) -> dict[str, Any]:
    """The record of an earlier run.

    Raises:
        InputError: If the file is not a benchmark's, or a field is something else; the message names it.
    """
    record = read_json(path)
    if not isinstance(record, dict) or not {"rows", "base_models", "provenance"} <= record.keys():
        raise InputError(f"{path}: is no file of a benchmark")
    check(record, _Benchmark, str(path))
    for number, row in enumerate(record["rows"]):
        known = row["gliner"] is None or row["ratio"] is not None
        require(known, f"{path}: rows[{number}].ratio must be a number, got null")
    return record


def render(record: dict[str, Any]) -> str:
    """The rows as two Markdown tables: against GLiNER's own, and by the number of sentences and of labels."""
    bases, machine = record["base_models"], record["provenance"]["machine"].get("gpu") or "CPU"
    head = (
        f"Data {record['dataset']}, bases {bases['bi']} and {bases['cross']}, {record['threads']} threads, {machine}."
    )
    tables = [
        "| measure | approach | ours, sentences/s | GLiNER's own | ratio | peak MiB, ours | GLiNER's own | features, s "
        "| ours: batch, precision | GLiNER's own | sentences predicted otherwise |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- | ---: |\n",
        "| measure | approach | sentences/s | s/epoch | features, s | peak MiB |\n"
        "| --- | --- | ---: | ---: | ---: | ---: |\n",
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
