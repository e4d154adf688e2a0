"""What every trainer does at each validation: scores, best weights, patience, the run's record."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator

from common.approach import Keeping, Supplemented, count_parameters, parameter_count
from common.config import Metric, RuntimeConfig, TrainConfig
from common.data.dataset import Dataset, Sentence
from common.data.spans import ScoredSpan, above
from common.device import peak_memory_mb, precision_name, reset_peak_memory
from common.errors import InputError, TrainingError
from common.evaluation.metrics import METRICS, SpanScores, count_spans, span_scores
from common.evaluation.predict_split import flat, predict_split, split_loss, unreachable_gold
from common.evaluation.thresholds import (
    GRID,
    LEAST_GOLD,
    at_edge,
    best_threshold,
    best_type_thresholds,
    thresholds_text,
)
from common.models.features import EncodedSplit, FeatureCache
from common.paths import now
from common.training.run_folder import Run

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """Where a training stands; stored after each validation."""

    epoch: int = 0
    """Epochs done."""
    batch: int = 0
    """Batches of the next epoch done, on each process."""
    step: int = 0
    """Optimizer steps done."""
    best_epoch: int = 0
    """Epoch of the best validation; 0 is the untrained model."""
    best_score: float = -math.inf
    waited: int = 0
    """Validations since the last that was better than all before it."""
    waited_since: int = 0
    """The step of that one."""
    untrained: dict[str, float] | None = None
    """Validation scores before the first step."""
    threshold: float | None = None
    """That of the best validation; None if none is chosen."""
    type_thresholds: dict[str, float] = field(default_factory=dict)
    """Those of single types of the best validation."""
    seconds: float = 0.0
    """Training time so far, evaluation not in it."""
    with_gradient: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    """An entry for each validation."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self) | {"best_score": _finite(self.best_score)}

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> Progress:
        """From what :meth:`as_dict` gave, in this or an earlier version."""
        score = values["best_score"]
        waited = values.get("waited", values["epoch"] - values["best_epoch"])
        known = {item.name: values[item.name] for item in fields(cls) if item.name in values}
        return cls(**(known | {"best_score": -math.inf if score is None else score, "waited": waited}))


class Recorder:
    """Validates, keeps the best weights and writes the run's record.

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
        self.chooses = bool(getattr(model, "tunes_threshold", False))
        # Of the last validation: the threshold for all types, and those of single ones.
        self.chosen: tuple[float | None, dict[str, float]] = (None, {})
        # Until then the run is not whole, and patience does not count.
        self.whole_after = max((part.starts_after for part in model.parts), default=0)
        # A gradient can be zero in the first step only: a layer behind a map that starts at zero.
        self.without_gradient = dict(self.trained)
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
                "%s: %d of %d gold spans (%.2f %%) are unreachable for the model: %s",
                name, unreachable["lost"], unreachable["gold"], 100 * unreachable["share"], unreachable["by_reason"],
            )  # fmt: skip

    def record_supplements(self) -> None:
        """Records what the model is trained with beside its data set.

        Raises:
            InputError: If a resumed run was started with something else.
        """
        found = self.model.supplements() if isinstance(self.model, Supplemented) else []
        before = self.run.record.get("supplements", found)
        if self.run.resumed and before != found:
            raise InputError(f"{self.run.path}: was started with {before}, resumed with {found}")
        if found:
            self.run.record["supplements"] = found

    def log_plan(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Logs what is trained, how and on what."""
        trainable, total = count_parameters(self.model)
        logger.info(
            "%s trainable of %s parameters (%.2f %%), %s, %s",
            f"{trainable:,}", f"{total:,}", 100 * trainable / total, precision_name(self.accelerator),
            self.accelerator.device,
        )  # fmt: skip
        for group in groups:
            size = sum(map(parameter_count, group["params"]))
            logger.info(
                "  %s: %s parameters, lr %g, weight decay %g%s",
                group.get("name", "group"), f"{size:,}", group["lr"], group["weight_decay"],
                f", frozen until epoch {after} is over" if (after := group.get("starts_after")) else "",
            )  # fmt: skip

    def count_gradients(self) -> None:
        """After each backward pass: counts the parameters that have received a gradient so far."""
        waiting = {name: p.grad.any() for name, p in self.without_gradient.items() if p.grad is not None}
        if waiting:
            # One transfer from the device for all of them.
            for name, reached in zip(waiting, torch.stack(list(waiting.values())).tolist(), strict=True):
                if reached:
                    del self.without_gradient[name]
        without = sum(map(parameter_count, self.without_gradient.values()))
        found = sum(map(parameter_count, self.trained.values())) - without
        # After a resumption the number of before stands: a table whose rows are trained apart has a gradient in its
        # first step only.
        self.progress.with_gradient = max(self.progress.with_gradient or 0, found)

    def validate(self) -> dict[str, float]:
        """Scores of the validation split, at its best thresholds if the model's are to be chosen.

        Of a mixture they are means over its data sets, and beside them stand the scores of each.
        """
        start = time.perf_counter()
        found, scores = iter(flat(self._predict())), dict[str, SpanScores]()
        for part in self.data.parts:
            gold = [sentence.spans for sentence in part.validation]
            scores[part.name] = span_scores(count_spans(gold, list(islice(found, len(gold))), part.labels.names))
        result: dict[str, float] = {name: fmean(map(metric.of, scores.values())) for name, metric in METRICS.items()}
        if len(scores) > 1:
            result |= {f"{part}/{name}": m.of(scores[part]) for part in scores for name, m in METRICS.items()}
        if self.config.select_by == "loss":
            result["loss"] = split_loss(self.model, self.validation_split, self.runtime, self.accelerator)
            if not math.isfinite(result["loss"]):
                raise TrainingError(f"the validation loss is {result['loss']} after {self.progress.step} steps")
        if self.chosen[0] is not None:
            result["threshold"] = self.chosen[0]
        return result | {"seconds": time.perf_counter() - start}

    def _predict(self) -> list[list[ScoredSpan]]:
        """The predictions of the validation split; where thresholds are chosen, at the best ones, now in ``chosen``."""
        if not self.chooses:
            return predict_split(self.model, self.validation_split, self.runtime, self.accelerator, "validation")
        # One prediction serves all thresholds: see common.evaluation.thresholds.
        default, self.model.threshold = self.model.threshold, float(GRID[0])
        predictions = predict_split(self.model, self.validation_split, self.runtime, self.accelerator, "validation")
        self.model.threshold = default
        gold, types = [sentence.spans for sentence in self.data.validation], self.data.labels.names
        by: Metric = "micro_f1" if self.config.select_by == "micro_f1" else "macro_f1"
        parts = [(len(part.validation), part.labels.names) for part in self.data.parts]
        threshold = best_threshold(gold, predictions, types, by=by, default=default, parts=parts)[0]
        own = {}
        if self.config.thresholds == "per-type":
            own = best_type_thresholds(gold, predictions, types, by=by, threshold=threshold)
        self.chosen = threshold, own
        return [above(spans, threshold, own) for spans in predictions]

    def score_untrained(self) -> None:
        """Validates before the first step: an adaptation that makes the model no better must not win unnoticed."""
        # A run of an earlier version may be resumed without such scores.
        if self.progress.step == 0:
            scores = self.validate()
            self._take_if_best(0, scores)
            self.progress.untrained = scores
            self.run.update(untrained=scores)
            logger.info("before training: validation %s", _shown(scores, self.chosen))

    def _take_if_best(self, epoch: int, scores: Mapping[str, float]) -> bool:
        """Keeps weights and thresholds unless earlier ones were better; of equals the longer trained ones stay."""
        progress = self.progress
        score = scores[self.config.select_by] * (-1 if self.config.select_by == "loss" else 1)
        if score > progress.best_score:
            progress.waited, progress.waited_since = 0, progress.step
        best = score >= progress.best_score
        if best:
            progress.best_epoch, progress.best_score = epoch, score
            progress.threshold, progress.type_thresholds = self.chosen
            self.run.save_weights(self.trained)
        return best

    def validated(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Validates, keeps the weights if they are the best so far, and records it.

        Args:
            entry: ``epoch``, ``train_loss``, ``train_seconds`` and what else the trainer says of the training since the
                last validation.

        Returns:
            The entry with its validation scores.
        """
        progress = self.progress
        progress.seconds += entry["train_seconds"]
        validation = self.validate()
        own = self.chosen[1]
        entry = entry | {"validation": validation} | ({"type_thresholds": own} if own else {})
        progress.waited += 1
        best = self._take_if_best(entry["epoch"], validation)
        if entry["epoch"] <= self.whole_after:
            progress.waited, progress.waited_since = 0, progress.step
        progress.history.append(entry)
        self.run.update(**self.report("running"))
        at = f"epoch {entry['epoch']}" + (f", step {progress.step}" if self.config.eval_every else "")
        logger.info(
            "%s: loss %.4f, validation %s, %.1f s + %.1f s%s",
            at, entry["train_loss"], _shown(validation, self.chosen),
            entry["train_seconds"], validation["seconds"], ", best so far" if best else "",
        )  # fmt: skip
        return entry

    def out_of_patience(self) -> bool:
        """Whether the last better validation is ``patience`` validations and ``patience_steps`` steps ago."""
        config, progress = self.config, self.progress
        steps = progress.step - progress.waited_since
        return bool(config.patience) and progress.waited >= config.patience and steps >= config.patience_steps

    def finish(self) -> None:
        """Puts the best weights and their thresholds into the model and closes the record."""
        if not self.progress.best_epoch:
            logger.warning("no epoch was as good as the untrained model, whose weights the checkpoint therefore holds")
        if self.out_of_patience():
            logger.info("stopped early: no better validation since epoch %d", self.progress.best_epoch)
        self.accelerator.wait_for_everyone()
        self.run.load_weights_into(self.trained)
        self.model.eval()
        if self.chooses:
            self._set_thresholds()
        self.run.update(**self.report("finished"))
        self.run.drop_state()
        # One process writes; the others may look for the finished run at once.
        self.accelerator.wait_for_everyone()
        logger.info(
            "best epoch %d, %s %.4f; checkpoint: %s",
            self.progress.best_epoch, self.config.select_by, self.run.record["best"]["score"], self.run.path,
        )  # fmt: skip

    def _set_thresholds(self) -> None:
        progress = self.progress
        if progress.threshold is None:
            logger.warning(
                "epoch %d was chosen by an earlier version, at threshold %g; its threshold is chosen now",
                progress.best_epoch, self.model.threshold,
            )  # fmt: skip
            self._predict()
            progress.threshold, progress.type_thresholds = self.chosen
        threshold, own = progress.threshold, progress.type_thresholds
        assert threshold is not None
        self.model.threshold, self.model.type_thresholds = threshold, own
        common = [name for name in self.data.labels.names if name not in own]
        if self.config.thresholds == "per-type" and common:
            logger.info(
                "threshold %g for all types is that of %s, which have fewer than %d validation entities",
                threshold, ", ".join(common), LEAST_GOLD,
            )  # fmt: skip
        for text in at_edge(threshold, own):
            logger.warning("threshold %s is at the edge of the grid: the best one may lie outside", text)

    def report(self, status: str) -> dict[str, Any]:
        """What the run's record says of the training."""
        trainable, total = count_parameters(self.model)
        progress = self.progress
        best = _finite(progress.best_score)
        last = progress.history[-1] if progress.history else {"epoch": 0}
        epochs = last.get("epochs", last["epoch"])
        return {
            "status": status,
            "best": {
                "epoch": progress.best_epoch,
                "by": self.config.select_by,
                "score": -best if best is not None and self.config.select_by == "loss" else best,
            },
            "parameters": {"total": total, "trainable": trainable, "with_gradient": progress.with_gradient},
            "threshold": progress.threshold if self.chooses else getattr(self.model, "threshold", None),
            "type_thresholds": progress.type_thresholds,
            "untrained": progress.untrained,
            "history": progress.history,
            "steps": progress.step,
            "epochs": last["epoch"],
            "train_seconds": progress.seconds,
            "feature_seconds": self.feature_seconds,
            "processes": self.accelerator.num_processes,
            "updated": now(),
            "seconds_per_epoch": progress.seconds / epochs if epochs else 0.0,
            "peak_memory_mb": peak_memory_mb(),
            **({"kept": self.model.kept()} if isinstance(self.model, Keeping) else {}),
        }


def _shown(scores: Mapping[str, float], chosen: tuple[float | None, dict[str, float]]) -> str:
    at = "" if chosen[0] is None else f" at threshold {thresholds_text(*chosen)}"
    return f"macro-F1 {scores['macro_f1']:.4f}, micro-F1 {scores['micro_f1']:.4f}{at}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
