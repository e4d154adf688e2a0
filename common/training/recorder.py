"""What every trainer ends an epoch with: validation, best weights, the run's record."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from common.approach import count_parameters
from common.config import RuntimeConfig, TrainConfig
from common.data.dataset import Dataset, Sentence
from common.device import (
    peak_memory_mb,
    precision_name,
    reset_peak_memory,
)
from common.errors import TrainingError
from common.evaluation.metrics import best_threshold, count_spans, span_scores
from common.evaluation.predict_split import flat, predict_split, split_loss, unreachable_gold
from common.models.features import EncodedSplit, FeatureCache
from common.paths import now
from common.training.run_folder import WEIGHTS_FILE, Run, load_tensors, load_weights

logger = logging.getLogger(__name__)

LOWEST_THRESHOLD = 0.01
"""Predictions down to here are kept when the threshold is chosen."""


@dataclass
class Progress:
    """Where a training run stands; stored after each epoch."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Optimizer steps done."""
    best_epoch: int = 0
    best_score: float = -math.inf
    seconds: float = 0.0
    """Training time so far, evaluation not in it."""
    with_gradient: int | None = None


class Recorder:
    """Validates each epoch, keeps the best weights and writes the run's record; what every trainer ends an epoch with.

    Args:
        model: The approach, its parts frozen and declared, on its device.
        data: Whose validation split is scored.
        config: Says by which score to choose and when to stop.
        runtime: Batch size and feature cache.
        accelerator: Device and precision.
        run: The run folder.
        cache: Features shared with other runs; an own cache if not given.
    """

    def __init__(
        self,
        model: Any,
        data: Dataset,
        config: TrainConfig,
        runtime: RuntimeConfig,
        accelerator: Accelerator,
        run: Run,
        cache: FeatureCache | None = None,
    ) -> None:
        self.model, self.data, self.config, self.runtime, self.accelerator = model, data, config, runtime, accelerator
        self.run, self.cache = run, cache or FeatureCache(runtime)
        self.trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        model.eval()
        reset_peak_memory()
        self.feature_seconds = 0.0
        self.validation_split = self.encode(data.validation, "validation")
        self.progress = Progress()
        # A gradient can be zero in the first step only: a layer behind a map that starts at zero.
        self.without_gradient = dict(self.trained)
        self.history: list[dict[str, Any]] = []
        run.record["precision"] = precision_name(accelerator)
        run.record["unreachable_gold"] = {}
        self.report_unreachable("validation", self.validation_split)

    def encode(self, sentences: list[Sentence], what: str) -> EncodedSplit:
        """Tokenises a split and stores the features of the frozen part."""
        split = self.cache.encode(self.model, sentences, self.accelerator, what)
        self.feature_seconds += split.seconds
        return split

    def report_unreachable(self, name: str, split: EncodedSplit) -> None:
        """Logs and records the gold spans of a split that the model cannot predict."""
        unreachable = unreachable_gold(self.model, split.encoded)
        self.run.record["unreachable_gold"][name] = unreachable
        if unreachable["lost"]:
            logger.warning(
                "%s: %d of %d gold spans (%.2f %%) are out of the model's reach: %s",
                name, unreachable["lost"], unreachable["gold"], 100 * unreachable["share"], unreachable["by_reason"],
            )  # fmt: skip

    def log_plan(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Logs what is trained, how and on what."""
        trainable, total = count_parameters(self.model)
        logger.info(
            "%s trainable of %s parameters (%.2f %%), %s, %s",
            f"{trainable:,}", f"{total:,}", 100 * trainable / total, precision_name(self.accelerator),
            self.accelerator.device,
        )  # fmt: skip
        for group in groups:
            size = sum(parameter.numel() for parameter in group["params"])
            logger.info(
                "  %s: %s parameters, lr %g, weight decay %g",
                group.get("name", "group"), f"{size:,}", group["lr"], group["weight_decay"],
            )  # fmt: skip

    def count_gradients(self) -> None:
        """After each backward pass: counts the parameters that have received a gradient so far."""
        for name, parameter in list(self.without_gradient.items()):
            if parameter.grad is not None and bool(parameter.grad.any()):
                del self.without_gradient[name]
        without = sum(parameter.numel() for parameter in self.without_gradient.values())
        self.progress.with_gradient = sum(parameter.numel() for parameter in self.trained.values()) - without

    def validate(self) -> dict[str, float]:
        """Scores of the validation split."""
        start = time.perf_counter()
        predictions = predict_split(self.model, self.validation_split, self.runtime, self.accelerator, "validation")
        gold = [sentence.spans for sentence in self.data.validation]
        scores = span_scores(count_spans(gold, flat(predictions), self.data.labels.names))
        result = {"macro_f1": scores.macro.f1, "micro_f1": scores.micro.f1}
        if self.config.select_by == "loss":
            # Each process computes it; they must not part ways over its last digit.
            loss = split_loss(self.model, self.validation_split, self.runtime, self.accelerator)
            result["loss"] = broadcast_object_list([loss])[0]
        return result | {"seconds": time.perf_counter() - start}

    def end_epoch(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Validates, keeps the weights if they are the best so far, and records the epoch.

        Args:
            entry: ``epoch``, ``train_loss``, ``train_seconds`` and what else the trainer says of the epoch.

        Returns:
            The entry with its validation scores.
        """
        self.progress.epoch = entry["epoch"]
        self.progress.seconds += entry["train_seconds"]
        validation = self.validate()
        entry = entry | {"validation": validation}
        score = validation[self.config.select_by] * (-1 if self.config.select_by == "loss" else 1)
        improved = score > self.progress.best_score
        if improved:
            self.progress.best_epoch, self.progress.best_score = self.progress.epoch, score
            self.run.save_weights(self.trained)
        self.history.append(entry)
        self.run.update(**self.report("running"))
        logger.info(
            "epoch %d: loss %.4f, validation macro-F1 %.4f, micro-F1 %.4f, %.1f s + %.1f s%s",
            entry["epoch"], entry["train_loss"], validation["macro_f1"], validation["micro_f1"],
            entry["train_seconds"], validation["seconds"], ", best so far" if improved else "",
        )  # fmt: skip
        return entry

    def out_of_patience(self) -> bool:
        """Whether the best epoch is ``patience`` epochs ago."""
        waited = self.progress.epoch - self.progress.best_epoch
        return bool(self.config.patience) and self.progress.epoch > 0 and waited >= self.config.patience

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Records how training ended if it did not end by itself: ``interrupted`` by the user, or ``failed``."""
        try:
            yield
        except KeyboardInterrupt:
            self._interrupted()
            raise
        except TrainingError:
            self.run.update(**self.report("failed"))
            raise
        finally:
            self.run.lock.release()

    def _interrupted(self) -> None:
        self.run.update(**self.report("interrupted"))
        if self.progress.best_epoch:
            logger.warning(
                "interrupted; best checkpoint so far (epoch %d): %s", self.progress.best_epoch, self.run.path
            )
        else:
            logger.warning("interrupted before the first epoch ended; no checkpoint")

    def finish(self) -> None:
        """Puts the best epoch's weights back into the model and closes the record."""
        if self.out_of_patience():
            logger.info("stopped early: no better epoch since %d", self.progress.best_epoch)
        self.accelerator.wait_for_everyone()
        path = self.run.path / WEIGHTS_FILE
        load_weights(self.trained, load_tensors(path), str(path))
        self.model.eval()
        if getattr(self.model, "tunes_threshold", False):
            self._tune_threshold()
        self.run.update(**self.report("finished"))
        self.run.drop_state()
        logger.info(
            "best epoch %d, %s %.4f; checkpoint: %s",
            self.progress.best_epoch, self.config.select_by, self.run.record["best"]["score"], self.run.path,
        )  # fmt: skip

    def _tune_threshold(self) -> None:
        """Chooses the threshold with the best validation F1; the epochs were all scored at the default one."""
        by: Literal["macro_f1", "micro_f1"] = "micro_f1" if self.config.select_by == "micro_f1" else "macro_f1"
        default, self.model.threshold = self.model.threshold, LOWEST_THRESHOLD
        predictions = predict_split(self.model, self.validation_split, self.runtime, self.accelerator, "threshold")
        gold = [sentence.spans for sentence in self.data.validation]
        self.model.threshold, score = best_threshold(gold, predictions, self.data.labels.names, by=by, default=default)
        logger.info("threshold %.2f: validation %s %.4f", self.model.threshold, by, score)

    def report(self, status: str) -> dict[str, Any]:
        """What the run's record says of the training."""
        trainable, total = count_parameters(self.model)
        best = _finite(self.progress.best_score)
        return {
            "status": status,
            "best": {
                "epoch": self.progress.best_epoch,
                "by": self.config.select_by,
                "score": -best if best is not None and self.config.select_by == "loss" else best,
            },
            "parameters": {"total": total, "trainable": trainable, "with_gradient": self.progress.with_gradient},
            "threshold": getattr(self.model, "threshold", None),
            "history": self.history,
            "steps": self.progress.step,
            "train_seconds": self.progress.seconds,
            "feature_seconds": self.feature_seconds,
            "processes": self.accelerator.num_processes,
            "updated": now(),
            "seconds_per_epoch": self.progress.seconds / max(1, self.progress.epoch),
            "peak_memory_mb": peak_memory_mb(),
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
