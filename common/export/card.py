"""The model card of an exported model, with the hub's own classes: what it is, how to use it, its figures, its data."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.checkpoint import Checkpoint
from common.config import require
from common.errors import InputError
from common.evaluation.metrics import METRICS
from common.evaluation.results import read_result
from common.markdown import escape_markdown
from common.models.published import NEW_BASE
from common.registry import spec
from common.spec import ApproachSpec, variant_text

logger = logging.getLogger(__name__)

_USE = """```python
import re

from gliner import GLiNER

model = GLiNER.from_pretrained({name!r})
# Words as in training: gliner's own splitter leaves those with hyphens, such as IL-2, whole.
model.data_processor.words_splitter = lambda text: ((m[0], *m.span()) for m in re.finditer(r"\\w+|[^\\w\\s]", text))
thresholds = {thresholds!r}
found = model.predict_entities("Text.", list(thresholds), threshold=min(thresholds.values()))
entities = [entity for entity in found if entity["score"] > thresholds[entity["label"]]]
```"""


def result_for(approach: ApproachSpec[Any], checkpoint: Checkpoint[Any], file: Path | None) -> dict[str, Any] | None:
    """The result that a model card shows.

    Args:
        approach: The approach.
        checkpoint: The model.
        file: A result file; the newest result of the test split in ``test_results`` if None.

    Returns:
        The result, None if there is none of this checkpoint with its own thresholds.

    Raises:
        InputError: If the file is no result, or one of something else.
    """
    if file is not None:
        result = read_result(file)
        require(_belongs(result, checkpoint), f"--result {file}: is no result of {checkpoint.path} as it is exported")
        return result
    found = []
    for path in sorted(approach.test_results.glob("*.json")):
        try:
            result = read_result(path)
        except InputError as error:
            logger.warning("passed over: %s", error)
            continue
        if _belongs(result, checkpoint) and result.get("split") == "test":
            found.append(result)
    return max(found, key=lambda result: result["created"], default=None)


def _belongs(result: Mapping[str, Any], checkpoint: Checkpoint[Any]) -> bool:
    model, training = checkpoint.model, result.get("training") or {}
    same_run = (result["approach"], training.get("checkpoint")) == (checkpoint.record["approach"], checkpoint.path.name)
    thresholds = (result.get("threshold"), result.get("type_thresholds", {}))
    return same_run and thresholds == (model.threshold, dict(model.type_thresholds))


def model_card(
    checkpoint: Checkpoint[Any],
    thresholds: Mapping[str, float],
    name: str,
    result: Mapping[str, Any] | None,
    data_license: str | None,
    graph: Mapping[str, Any] | None,
) -> str:
    """A model card with its metadata.

    Args:
        checkpoint: The model.
        thresholds: By label text.
        name: Hub id, or the folder.
        result: A result of the checkpoint.
        data_license: Licence of the training data.
        graph: The report on the ONNX graph.
    """
    from huggingface_hub import ModelCard, ModelCardData

    record, labels, base = checkpoint.record, checkpoint.labels, checkpoint.record["base_model"]
    approach = spec(record["approach"])
    data, title = record["dataset"], name.rpartition("/")[2]
    local = base["revision"].startswith("sha256:")
    metadata = ModelCardData(
        base_model=None if local else base["name"].removeprefix(NEW_BASE),
        library_name="gliner",
        pipeline_tag="token-classification",
        tags=["gliner", "named-entity-recognition"],
        model_name=title if result else None,
        eval_results=_eval_results(result) if result else None,
    )
    sizes = ", ".join(f"{data[split]:,} {split}" for split in ("train", "validation", "test") if split in data)
    sections = [
        f"# {title}",
        "A [GLiNER](https://github.com/urchade/GLiNER) model adapted to "
        f"{escape_markdown(data['name'])}: {approach.title} "
        f"({variant_text(record['variant'])}) of {escape_markdown(base['name'])}, revision `{base['revision']}`.",
        "## Use",
        _USE.format(name=name, thresholds=dict(thresholds)),
        "Give it one sentence at a time, as in training; gliner cuts off what is longer than it reads.",
        "Overlaps are resolved before the thresholds: of overlapping spans the most probable one stays.",
        "## Labels",
        "Thresholds were chosen on the validation split, together with the epoch."
        if checkpoint.model.tunes_threshold
        else "The threshold was given for the training.",
        _table(
            ("type", "label to ask for", "threshold", "description"),
            (
                (*map(escape_markdown, (name, text, f"{thresholds[text]:.2f}", description)),)
                for name, text, description in zip(
                    labels.names, checkpoint.model.label_texts, labels.descriptions, strict=True
                )
            ),
        ),
        "## Figures",
        _figures(result) if result else "This model was exported before it was tested.",
        *([_graph_text(graph)] if graph else []),
        "## Training data",
        f"{escape_markdown(data['name'])}, sentences: {sizes or 'unknown'}; SHA-256 `{data.get('sha256', 'unknown')}`.",
        f"Licence of the training data: {escape_markdown(data_license)}."
        if data_license
        else "The licence of the training data was not given.",
    ]
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"))


def _eval_results(result: Mapping[str, Any]) -> list[Any]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="token-classification",
            task_name="Named entity recognition",
            dataset_type=result["dataset"],
            dataset_name=result["dataset"],
            dataset_split=result.get("split", "test"),
            metric_type="f1",
            metric_name=f"{metric.title}, exact match",
            metric_value=result["scores"][metric.average]["f1"],
        )
        for metric in METRICS.values()
    ]


def _figures(result: Mapping[str, Any]) -> str:
    scores, intervals = result["scores"], result.get("intervals", {})
    rows = [(f"**{metric.average}**", scores[metric.average], intervals.get(key)) for key, metric in METRICS.items()]
    rows += [(escape_markdown(name), row, None) for name, row in scores["per_type"].items()]
    table = _table(
        ("type", "precision", "recall", "F1", "95 % interval of F1", "entities"),
        (
            (
                name,
                *(f"{row[key]:.4f}" for key in ("precision", "recall", "f1")),
                "" if interval is None else f"[{interval[0]:.4f}, {interval[1]:.4f}]",
                f"{row['support']:,}" if "support" in row else "",
            )
            for name, row, interval in rows
        ),
    )
    about = (
        f"{result['speed']['sentences']:,} sentences of the {result.get('split', 'test')} split of "
        f"{escape_markdown(result['dataset'])}; exact match of boundaries and type. "
        "Intervals are from a bootstrap over sentences."
    )
    return f"{about}\n\n{table}"


def _graph_text(graph: Mapping[str, Any]) -> str:
    pairs = (f"{METRICS[name].title} {f1:.4f} and {graph['f1_onnx'][name]:.4f}" for name, f1 in graph["f1"].items())
    return (
        f"`model.onnx` gives each span of {graph['sentences']:,} test sentences the score of this model, with a "
        f"difference of at most {graph['largest_difference']:.1e}. This model and the graph: {', '.join(pairs)}."
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
