"""Shows the errors of a test on one HTML page: ``python -m common.errors_page RESULT.json``.

The page holds the figures, the confusion of types and each sentence with gold and predicted spans, with filters. It is
made from the predictions (``_predictions.jsonl``) beside the result, and needs neither the data set nor a network.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import tyro

from common.config import parse, require
from common.evaluation.error_kinds import KINDS, error_report, pair_spans
from common.evaluation.metrics import METRICS
from common.evaluation.results import read_predictions, read_result, types_of
from common.evaluation.thresholds import thresholds_text
from common.files import write_text
from common.script import run_script
from common.spec import variant_text

logger = logging.getLogger(__name__)

_PLACEHOLDER = "{{DATA}}"

_OF_GOLD = ("boundary", "boundary_and_type", "missed")
_OF_PREDICTIONS = ("boundary", "boundary_and_type", "spurious")
"""What is left of each side beside the spans with the same boundaries."""


@dataclass(frozen=True)
class Config:
    """Make a page of a test's errors: figures, confusion, and each sentence with gold and predicted spans."""

    result: Annotated[Path, tyro.conf.Positional]
    """A result file (JSON), with its predictions beside it."""
    output: Path | None = None
    """Page to write, ending in .html; if not given, <result>_errors.html beside the result."""


def page_data(path: Path) -> dict[str, Any]:
    """What the page shows of a result, as its script reads it.

    Raises:
        InputError: As :func:`common.evaluation.results.read_predictions`.
    """
    result, sentences = read_result(path), read_predictions(path)
    types = types_of(result)
    number = {name: index for index, name in enumerate(types)}
    kind_number = {name: index for index, name in enumerate(KINDS)}
    of_gold: Counter[tuple[str, str]] = Counter()
    of_predictions: Counter[tuple[str, str]] = Counter()
    records = []
    for sentence, scored in sentences:
        predicted = [item.span for item in scored]
        pairs = pair_spans(sentence.spans, predicted)
        for pair in pairs:
            if pair.gold is not None and pair.counts_gold:
                of_gold[sentence.spans[pair.gold].label, pair.kind] += 1
            if pair.predicted is not None and pair.counts_predicted:
                of_predictions[predicted[pair.predicted].label, pair.kind] += 1
        record: dict[str, Any] = {
            # No word holds a space.
            "words": " ".join(sentence.words),
            "gold": [(span.start, span.end, number[span.label]) for span in sentence.spans],
            "predicted": [(item.span.start, item.span.end, number[item.span.label], item.score) for item in scored],
            "pairs": [(kind_number[kind], left, right, int(a), int(b)) for kind, left, right, a, b in pairs],
        }
        records.append(record | ({} if sentence.document is None else {"document": sentence.document}))

    gold, found = zip(*((sentence.spans, [item.span for item in spans]) for sentence, spans in sentences), strict=True)
    same_place = error_report(gold, found, types).confusion

    def total(counts: Counter[tuple[str, str]], kind: str, other_side: str) -> int | None:
        return None if kind == other_side else sum(counts[name, kind] for name in types)

    return {
        "title": _title(result),
        "facts": _facts(path, result, len(records)),
        "types": types,
        "scores": _scores(path, result),
        "kinds": [
            {
                "name": kind,
                "title": title,
                "meaning": meaning,
                "gold": total(of_gold, kind, "spurious"),
                "predicted": total(of_predictions, kind, "missed"),
            }
            for kind, (title, meaning) in KINDS.items()
        ],
        "confusion": {
            "same": [[same_place[name][other] for other in types] for name in types],
            "gold_kinds": _OF_GOLD,
            "gold": [[of_gold[name, kind] for kind in _OF_GOLD] for name in types],
            "predicted_kinds": _OF_PREDICTIONS,
            "predicted": [[of_predictions[name, kind] for name in types] for kind in _OF_PREDICTIONS],
        },
        "sentences": records,
    }


def _title(result: Mapping[str, Any]) -> str:
    variant = result["variant"]
    # In format 1 it is a text.
    text = variant if isinstance(variant, str) else variant_text(variant)
    return f"{result['approach']} ({text}) on {result['dataset']}"


def _facts(path: Path, result: Mapping[str, Any], n_sentences: int) -> list[tuple[str, str]]:
    """What was tested, by name."""
    scores, threshold = result["scores"], result.get("threshold")
    n_types, n_defined = len(scores.get("per_type", {})), scores.get("defined_types")
    facts = {
        "base model": result["base_model"].get("name"),
        "seed": result["seed"],
        "split": result.get("split"),
        "threshold": None if threshold is None else thresholds_text(threshold, result.get("type_thresholds", {})),
        "sentences": f"{n_sentences:,}",
        "macro means over": None if n_defined in (None, n_types) else f"{n_defined} of {n_types} types",
        "tested": result["created"][:10],
        "result": path.name,
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _scores(path: Path, result: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    scores, intervals = result["scores"], result.get("intervals", {})
    for name, ends in intervals.items():
        require(len(ends) == 2, f"{path}: intervals.{name} must be a lower and an upper end, got {ends}")
    of_averages = {metric.average: intervals.get(name) for name, metric in METRICS.items()}

    def row(
        name: str, values: Mapping[str, Any], support: int | None, interval: Sequence[float] | None
    ) -> dict[str, Any]:
        figures = {measure: values.get(measure) for measure in ("precision", "recall", "f1")}
        return {"name": name, **figures, "support": support, "interval": interval}

    per_type = scores.get("per_type", {})
    supports = [values.get("support") for values in per_type.values()]
    n_gold = None if None in supports else sum(supports)
    return {
        "types": [row(name, values, values.get("support"), None) for name, values in per_type.items()],
        "averages": [row(name, scores[name], n_gold, of_averages[name]) for name in ("micro", "macro")],
    }


def render_page(data: Mapping[str, Any]) -> str:
    """The page of what :func:`page_data` has found.

    Its JSON holds ASCII alone and no letter that HTML knows, so no text of a corpus can end the script that holds it.
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    template = files("common").joinpath("errors_page.html").read_text("utf-8")
    before, _, after = template.partition(_PLACEHOLDER)
    return before + text + after


def write_page(result: Path, output: Path | None = None) -> Path:
    """Writes the page of a result and returns its path.

    Raises:
        InputError: If ``output`` is no name of a page, the result is none or it has no predictions beside it.
    """
    require(output is None or output.suffix == ".html", f"--output {output}: must end in .html")
    page = render_page(page_data(result))
    place = result.with_name(f"{result.stem}_errors.html") if output is None else output
    write_text(place, page)
    return place


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the page."""
    config = parse(Config, argv)
    logger.info("page: %s", write_page(config.result, config.output))


if __name__ == "__main__":
    run_script(main)
