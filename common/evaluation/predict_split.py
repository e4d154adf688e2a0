"""Predictions for a split, and everything that a result reports about them."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from common.approach import Accounting, Predictor
from common.config import RuntimeConfig
from common.data.batching import evaluation_batches
from common.data.dataset import Sentence
from common.data.mixture import Asked
from common.data.spans import ScoredSpan
from common.device import peak_memory_mb, prefetch, reset_peak_memory
from common.evaluation.error_kinds import error_report
from common.evaluation.metrics import (
    METRICS,
    SpanCounts,
    bootstrap_intervals,
    count_spans,
    span_scores,
    token_report,
)
from common.models.features import EncodedSplit

logger = logging.getLogger(__name__)

_WARM_UP_BATCHES = 3


def predict_split(
    model: Predictor, split: EncodedSplit, runtime: RuntimeConfig, accelerator: Accelerator, what: str = "predict"
) -> list[list[ScoredSpan]]:
    """The predicted spans of each sentence, in the split's order; with several processes, each gets all of them."""
    model.eval()  # type: ignore[attr-defined]
    batches = evaluation_batches(split.lengths, runtime.eval_batch_size)
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    predicted: list[tuple[int, list[ScoredSpan]]] = []
    progress = runtime.bars and accelerator.is_main_process
    loaded = prefetch(lambda indices: split.batch(model, indices), mine, accelerator.device)
    for indices, batch in zip(tqdm(mine, desc=what, disable=not progress, leave=False), loaded, strict=True):
        with torch.no_grad(), accelerator.autocast():
            predicted += zip(indices, model.predict(batch), strict=True)
    by_index = dict(gather_object(predicted) if accelerator.num_processes > 1 else predicted)
    return [by_index[index] for index in range(len(split.encoded))]


@torch.no_grad()
def split_loss(model: Any, split: EncodedSplit, runtime: RuntimeConfig, accelerator: Accelerator) -> float:
    """The mean loss of a split's sentences in evaluation mode; processes share the work and all get the result."""
    model.eval()
    batches = evaluation_batches(split.lengths, runtime.eval_batch_size)
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    total = 0.0
    for batch in prefetch(lambda indices: split.batch(model, indices), mine, accelerator.device):
        with accelerator.autocast():
            total += float(model(batch)) * len(batch)
    totals = gather_object([total]) if accelerator.num_processes > 1 else [total]
    return sum(totals) / len(split.encoded)


def flat(predictions: Sequence[Sequence[ScoredSpan]]) -> list[list]:
    """Predictions without their scores."""
    return [[item.span for item in spans] for spans in predictions]


def unreachable_gold(model: Predictor, encoded: Sequence[Any], types: Sequence[str] | None = None) -> dict[str, Any]:
    """Gold spans that the model cannot predict: by reason, as a share of all, and the F1 that they leave possible.

    Args:
        model: The model.
        encoded: The sentences.
        types: Those that an F1 is over; all of the model if not given.
    """
    reasons: Counter[str] = Counter()
    for item in encoded:
        reasons.update(model.unreachable(item))
    n_gold = sum(len(item.sentence.spans) for item in encoded)
    lost = sum(reasons.values())
    best = count_spans(
        [item.sentence.spans for item in encoded],
        [model.oracle(item) for item in encoded],
        model.labels.names if types is None else types,
    )
    ceiling = span_scores(best)
    return {
        "gold": n_gold,
        "lost": lost,
        "share": lost / n_gold if n_gold else 0.0,
        "by_reason": dict(reasons),
        "ceiling": {name: metric.of(ceiling) for name, metric in METRICS.items()},
    }


@dataclass(frozen=True)
class Evaluation:
    """A scored split."""

    predictions: list[list[ScoredSpan]]
    counts: SpanCounts
    report: dict[str, Any]
    """``scores``, ``intervals``, ``errors``, ``token_report``, ``unreachable_gold`` and ``speed`` of a result file;
    ``account`` and ``beside`` where the model gives an account."""


def evaluate(
    model: Predictor,
    sentences: Sequence[Sentence],
    runtime: RuntimeConfig,
    accelerator: Accelerator,
    asked: Asked | None = None,
) -> Evaluation:
    """Predicts and scores sentences.

    The time is that of tokenising and predicting all of them, after a few warm-up batches and without scoring; what an
    earlier process has made counts with the time that it took there.

    Args:
        model: The model.
        sentences: The sentences.
        runtime: Batch size.
        accelerator: Device and precision.
        asked: Which of the model's types they are annotated with, if not with all.
    """
    model.eval()  # type: ignore[attr-defined]
    labels = model.labels if asked is None else asked.labels
    given = sentences if asked is None else [asked.to_model(sentence) for sentence in sentences]
    accounting = model if isinstance(model, Accounting) else None
    if accounting is None:
        warm_up = EncodedSplit(model.encode(given[: _WARM_UP_BATCHES * runtime.eval_batch_size]))
        predict_split(model, warm_up, runtime, accelerator, "warm-up")
    else:
        accounting.begin_account()
    _synchronise(accelerator)
    reset_peak_memory()
    start = time.perf_counter()
    split = EncodedSplit(model.encode(given))
    predictions = predict_split(model, split, runtime, accelerator)
    _synchronise(accelerator)
    seconds = time.perf_counter() - start
    memory = peak_memory_mb()
    account = None if accounting is None else accounting.account(split.encoded)
    seconds += account.stored_seconds if account else 0.0
    beside = account.beside if account else {}
    if asked is not None:
        predictions = asked.from_model(predictions)
        beside = {name: asked.from_model(spans) for name, spans in beside.items()}

    gold = [sentence.spans for sentence in sentences]
    found = flat(predictions)
    counts = count_spans(gold, found, labels.names)
    others = {name: _scored(count_spans(gold, flat(spans), labels.names)) for name, spans in beside.items()}
    return Evaluation(
        predictions=predictions,
        counts=counts,
        report={
            **_scored(counts),
            "errors": asdict(error_report(gold, found, labels.names)),
            "token_report": token_report(sentences, found, labels),
            "unreachable_gold": unreachable_gold(model, split.encoded, None if asked is None else asked.types),
            "speed": {
                "sentences": len(sentences),
                "seconds": seconds,
                "sentences_per_second": len(sentences) / seconds,
                "batch_size": runtime.eval_batch_size,
                "processes": accelerator.num_processes,
                "peak_memory_mb": memory,
            },
            **({} if account is None else {"account": account.report, "beside": others}),
        },
    )


def _scored(counts: SpanCounts) -> dict[str, Any]:
    """Scores and intervals, as a result file has them."""
    intervals = {metric: list(interval) for metric, interval in bootstrap_intervals(counts).items()}
    return {"scores": span_scores(counts).as_dict(), "intervals": intervals}


def _synchronise(accelerator: Accelerator) -> None:
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize()
