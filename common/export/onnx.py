"""Exports a span model as an ONNX graph, with gliner's own exporter, and checks that it gives the model's scores.

Legend: B sentences, W words, K maximum width, C entity types.
"""

from __future__ import annotations

import importlib.metadata
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import RuntimeConfig
from common.data.batching import evaluation_batches
from common.data.dataset import Sentence
from common.errors import InputError
from common.evaluation.metrics import METRICS, count_spans, span_scores
from common.evaluation.predict_split import flat
from common.export.checks import ONNX_PACKAGES
from common.models.span_head import span_mask
from common.models.span_model import SpanModel
from common.models.text_model import WordBatch

logger = logging.getLogger(__name__)

GRAPH_FILE = "model.onnx"
REPORT_FILE = "onnx_report.json"


def write_graph(model: SpanModel, folder: Path, sentences: Sequence[Sentence]) -> dict[str, Any]:
    """Writes ``model.onnx`` into an exported folder and compares it with the model, both on the CPU in fp32.

    The graph of a bi-encoder holds its label encoder and reads label texts as the model does, so any labels can be
    asked for; that of a cross-encoder reads them before the words.

    Args:
        model: The model, in evaluation mode.
        folder: A folder of the same model that gliner can load.
        sentences: On which both are compared.

    Returns:
        The report: the largest difference of two probabilities of one span and type, sentences with other predictions,
        and F1 by metric of both.

    Raises:
        InputError: If gliner's exporter cannot make a graph of this model.
    """
    import onnxruntime

    model.to("cpu").eval()
    with warnings.catch_warnings():
        # Tracing warns of every size that it takes for a constant; whether one matters is what the comparison shows.
        warnings.simplefilter("ignore")
        try:
            model.base.gliner.export_to_onnx(folder, onnx_filename=GRAPH_FILE)
        except (torch.onnx.errors.OnnxExporterError, RuntimeError, NotImplementedError) as error:
            raise InputError(
                f"--onnx: gliner cannot export this model: {' '.join(str(error).split())[:300]}"
            ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Errors alone: it warns of each size that tracing took for a constant.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / GRAPH_FILE, options, providers=["CPUExecutionProvider"])
    return compare(model, session, sentences)


@torch.no_grad()
def compare(model: SpanModel, session: Any, sentences: Sequence[Sentence]) -> dict[str, Any]:
    """The report of :func:`write_graph`; ``session`` is of onnxruntime."""
    encoded = model.encode(sentences)
    largest = 0.0
    found: tuple[dict[int, list], dict[int, list]] = {}, {}
    for indices in evaluation_batches([item.length for item in encoded], RuntimeConfig.eval_batch_size):
        batch = model.collate([encoded[index] for index in indices])
        both = model.logits(batch), graph_logits(model, session, batch)
        inside = span_mask(batch.n_words, both[0].shape[1], model.max_width)
        scores = [logits[inside].sigmoid() for logits in both]
        largest = max(largest, float((scores[0] - scores[1]).abs().max()))
        for side, logits in zip(found, both, strict=True):
            side.update(zip(indices, model.decode(batch, logits), strict=True))
    gold = [sentence.spans for sentence in sentences]
    spans = [flat([side[index] for index in range(len(sentences))]) for side in found]
    f1 = [span_scores(count_spans(gold, side, model.labels.names)) for side in spans]
    report: dict[str, Any] = {
        "sentences": len(sentences),
        "largest_difference": largest,
        "predicted_otherwise": sum(sorted(ours) != sorted(theirs) for ours, theirs in zip(*spans, strict=True)),
        "f1": {name: metric.of(f1[0]) for name, metric in METRICS.items()},
        "f1_onnx": {name: metric.of(f1[1]) for name, metric in METRICS.items()},
        "packages": {name: importlib.metadata.version(name) for name in (*ONNX_PACKAGES, "torch", "gliner")},
    }
    log = logger.warning if report["predicted_otherwise"] else logger.info
    log(
        "ONNX: largest difference of a score %.1e, %d of %d sentences predicted otherwise, macro F1 %.4f and %.4f",
        largest, report["predicted_otherwise"], len(sentences), report["f1"]["macro_f1"], report["f1_onnx"]["macro_f1"],
    )  # fmt: skip
    return report


def graph_logits(model: SpanModel, session: Any, batch: WordBatch) -> Tensor:
    """Scores before the sigmoid by an ONNX graph, shape ``(B, W, K, C)``; only spans inside their sentence count."""
    n_words = batch.n_words
    starts = torch.arange(int(n_words.max())).repeat_interleave(model.max_width)
    ends = starts + torch.arange(model.max_width).repeat(int(n_words.max()))
    inputs: dict[str, Any] = {
        **batch.inputs,
        "text_lengths": n_words[:, None],
        "span_idx": torch.stack([starts, ends], dim=-1).expand(len(batch), -1, -1),
        "span_mask": ends < n_words[:, None],
    }
    if model.base.kind == "bi":
        inputs |= {"labels_input_ids": model.label_input_ids, "labels_attention_mask": model.label_attention_mask}
    names = [item.name for item in session.get_inputs()]
    return torch.from_numpy(session.run(["logits"], {name: inputs[name].contiguous().numpy() for name in names})[0])
