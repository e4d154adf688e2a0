"""Tables from result files: ``python -m common.tables`` shows the newest result of each approach, variant and data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import parse
from common.errors import InputError
from common.files import atomic_text
from common.paths import output_root
from common.results import read_result
from common.script import run_script

COLUMNS = (
    "data set", "approach", "variant", "base", "seed", "trained on", "epochs", "micro F1", "95 %", "macro F1", "95 %",
    "trained", "trained %", "with gradient %", "s/epoch", "features s", "peak MiB",
    "precision", "sentences/s",
)  # fmt: skip
_N_TEXT_COLUMNS = 5
MARKERS = ("<!-- results -->", "<!-- /results -->")


@dataclass(frozen=True)
class Config:
    """Comparison table of test results."""

    results: tuple[Path, ...] = ()
    """Result files, or folders to search for them; all test_results folders of the project if not given."""
    dataset: str | None = None
    """Only results on this data set."""
    output: Path | None = None
    """Also write the table to this file."""
    readme: Path | None = None
    """Also put the table into this file, between its results markers."""


def comparison(paths: Sequence[Path]) -> str:
    """A Markdown table with one row for each result, best micro F1 of a data set last.

    Args:
        paths: Result files.

    Raises:
        InputError: If there is none, or one is no result file.
    """
    if not paths:
        raise InputError("no results to compare")
    results = sorted((read_result(path) for path in paths), key=_order)
    ruler = "|" + " --- |" * _N_TEXT_COLUMNS + " ---: |" * (len(COLUMNS) - _N_TEXT_COLUMNS)
    lines = ["| " + " | ".join(COLUMNS) + " |", ruler]
    lines += ["| " + " | ".join(_row(result)) + " |" for result in results]
    return "\n".join(lines) + "\n"


def _order(result: dict[str, Any]) -> tuple[str, float]:
    return result["dataset"], result["scores"]["micro"]["f1"]


def _row(result: dict[str, Any]) -> list[str]:
    scores, intervals, parameters = result["scores"], result["intervals"], result["parameters"]
    training = result.get("training")

    def share(value: int | None) -> str:
        return "-" if value is None else f"{100 * value / parameters['total']:.2f}"

    return [
        result["dataset"],
        result["approach"],
        result["variant"],
        result["base_model"]["name"],
        "-" if result["seed"] is None else str(result["seed"]),
        f"{training['dataset']['train']:,}" if training else "-",
        str(training["epochs"]) if training else "-",
        f"{scores['micro']['f1']:.4f}",
        "{:.3f}-{:.3f}".format(*intervals["micro_f1"]),
        f"{scores['macro']['f1']:.4f}",
        "{:.3f}-{:.3f}".format(*intervals["macro_f1"]),
        f"{parameters['trainable']:,}",
        share(parameters["trainable"]),
        share(parameters["with_gradient"]),
        f"{training['seconds_per_epoch']:.1f}" if training else "-",
        f"{training['feature_seconds']:.1f}" if training and training["feature_seconds"] is not None else "-",
        " + ".join(f"{value:.0f} {kind.upper()}" for kind, value in training["peak_memory_mb"].items())
        if training
        else "-",
        result["precision"],
        f"{result['speed']['sentences_per_second']:.0f}",
    ]


def find_results(places: Sequence[Path], dataset: str | None) -> list[Path]:
    """The newest result file of each approach, variant, data set, split, base, seed and number of training sentences.

    Raises:
        InputError: If a place does not exist or there is no result.
    """
    files: list[Path] = []
    for place in places or sorted(output_root().glob("*/test_results")):
        if not place.exists():
            raise InputError(f"{place}: no such file or folder")
        files += sorted(place.rglob("*.json")) if place.is_dir() else [place]
    newest: dict[tuple[Any, ...], Path] = {}
    for result, path in sorted(((read_result(path), path) for path in files), key=lambda item: item[0]["created"]):
        if dataset is None or result["dataset"] == dataset:
            training = result.get("training")
            key = [result[name] for name in ("approach", "variant", "dataset", "dataset_sha256", "split", "seed")]
            size = training["dataset"]["train"] if training else None
            newest[(*key, result["base_model"]["name"], size)] = path
    if not newest:
        raise InputError("no results found" + (f" on {dataset}" if dataset else ""))
    return list(newest.values())


def put_between_markers(path: Path, table: str) -> None:
    """Replaces what stands between the results markers of a Markdown file.

    Raises:
        InputError: If the file does not have the two markers, in order.
    """
    text = path.read_text(encoding="utf-8")
    head, start, rest = text.partition(MARKERS[0])
    _, end, tail = rest.partition(MARKERS[1])
    if not (start and end):
        raise InputError(f"{path}: needs the lines {MARKERS[0]} and {MARKERS[1]}")
    write_comparison(f"{head}{start}\n{table}{end}{tail}", path)


def write_comparison(table: str, path: Path) -> None:
    """Writes a table atomically."""
    with atomic_text(path) as stream:
        stream.write(table)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, and writes it if asked to."""
    config = parse(Config, argv)
    table = comparison(find_results(config.results, config.dataset))
    if config.output is not None:
        write_comparison(table, config.output)
    if config.readme is not None:
        put_between_markers(config.readme, table)
    print(table)


if __name__ == "__main__":
    run_script(main)
