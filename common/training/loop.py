"""The one training loop."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from common.approach import Approach, Batch, TrainedPart, declared_parameters, freeze_all_but
from common.config import RuntimeConfig, Schedule, TrainConfig
from common.data.batching import training_batches
from common.data.dataset import Dataset
from common.device import (
    make_accelerator,
    provenance,
    seed_everything,
)
from common.errors import InputError, TrainingError
from common.models.features import FeatureCache
from common.training.recorder import Progress, Recorder, _finite
from common.training.run_folder import Run, load_weights

logger = logging.getLogger(__name__)


def schedule_factor(step: int, *, total: int, warmup: int, schedule: Schedule = "linear") -> float:
    """Share of the peak learning rate at a step: linear from 0 to 1 over ``warmup`` steps, then by the schedule to 0 at ``total``."""
    if step < warmup:
        return step / warmup
    if schedule == "constant":
        return 1.0
    left = max(0.0, (total - step) / max(1, total - warmup))
    return left if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * (1 - left)))


def optimizer_groups(model: nn.Module, parts: Sequence[TrainedPart], weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: for each part one with and one without weight decay (biases and LayerNorm weights), empty ones left out."""
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.LayerNorm)
        for parameter in module.parameters(recurse=False)
    }
    groups = []
    declared = declared_parameters(model, parts)
    for part in parts:
        parameters = declared[part.name]
        plain = {name for name, p in parameters.items() if id(p) in norms or "bias" in name.rpartition(".")[2]}
        for suffix, names, decay in (
            ("", [name for name in parameters if name not in plain], weight_decay),
            (", no decay", [name for name in parameters if name in plain], 0.0),
        ):
            if names:
                groups.append(
                    {
                        "name": f"{part.name}{suffix}",
                        "params": [parameters[name] for name in names],
                        "lr": part.learning_rate,
                        "initial_lr": part.learning_rate,
                        "weight_decay": decay,
                    }
                )
    return groups


class _Loop:
    """One run of :func:`fit`."""

    def __init__(
        self,
        model: Any,
        data: Dataset,
        config: TrainConfig,
        runtime: RuntimeConfig,
        run: Run,
        cache: FeatureCache | None,
    ) -> None:
        self.config, self.runtime, self.run = config, runtime, run
        # Of all epochs; the last is this process's.
        self.provenances = [provenance()]
        self.accelerator = make_accelerator(runtime)
        seed_everything(config.seed)
        freeze_all_but(model, model.parts)
        model.to(self.accelerator.device)
        self.approach = model
        self.recorder = Recorder(model, data, config, runtime, self.accelerator, run, cache)
        self.progress = self.recorder.progress
        self.trained = self.recorder.trained
        self.train_split = self.recorder.encode(data.train, "train")
        self.recorder.report_unreachable("train", self.train_split)
        model.begin_training(self.train_split.encoded)
        groups = optimizer_groups(model, model.parts, config.weight_decay)
        self.recorder.log_plan(groups)
        # accelerate patches forward for its precision; on one process the model stays the same object.
        self.model, self.optimizer = self.accelerator.prepare(model, torch.optim.AdamW(groups, fused=True))
        self.total_steps = math.ceil(len(self._batches(1)) / config.grad_accumulation) * config.epochs
        self.warmup_steps = math.ceil(self.total_steps * config.warmup_ratio)

    def _batches(self, epoch: int) -> list[list[int]]:
        """This process's batches of an epoch; every process gets the same number, the first ones filling up."""
        batches = training_batches(self.train_split.lengths, self.config.batch_size, seed=self.config.seed, epoch=epoch)
        processes = self.accelerator.num_processes
        batches += itertools.islice(itertools.cycle(batches), -len(batches) % processes)
        return batches[self.accelerator.process_index :: processes]

    # -- state --------------------------------------------------------------------------------------------------------

    def save_state(self) -> None:
        tensors: dict[str, Tensor] = {"rng": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        names = {id(parameter): name for name, parameter in self.trained.items()}
        for parameter, state in self.optimizer.state.items():
            for key, value in state.items():
                tensors[f"optimizer/{key}/{names[id(parameter)]}"] = value
        tensors |= {f"model/{name}": parameter for name, parameter in self.trained.items()}
        scaler = self.accelerator.scaler
        values = {
            "progress": self.progress.__dict__ | {"best_score": _finite(self.progress.best_score)},
            "history": self.recorder.history,
            "scaler": None if scaler is None else scaler.state_dict(),
            "provenance": self.provenances,
        }
        self.run.save_state(self.progress.epoch, tensors, values)

    def load_state(self) -> None:
        stored, here = self.run.load_state(), self.provenances[-1]
        if stored is None:
            logger.info("the run had finished no epoch: it starts again")
            self.run.update(provenance=here, earlier_provenance=[])
            return
        tensors, values = stored
        earlier = [there for there in values["provenance"] if there != here]
        self.provenances = [*earlier, here]
        self.run.update(provenance=here, earlier_provenance=earlier)
        where = str(self.run.path)
        load_weights(self.trained, _below(tensors, "model/"), where)
        for name, parameter in self.trained.items():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = tensors.get(f"optimizer/{key}/{name}")
                if value is not None:
                    self.optimizer.state[parameter][key] = value.to(parameter.device)
        torch.set_rng_state(tensors["rng"])
        if "rng.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["rng.cuda"])
        if values["scaler"] and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(values["scaler"])
        progress = values["progress"]
        if progress["best_score"] is None:
            progress["best_score"] = -math.inf
        self.progress = self.recorder.progress = Progress(**progress)
        self.recorder.history = values["history"]
        logger.info("resumed after epoch %d of %d", self.progress.epoch, self.config.epochs)

    # -- training -----------------------------------------------------------------------------------------------------

    def train_epoch(self) -> dict[str, Any]:
        """One pass over the training sentences."""
        epoch = self.progress.epoch + 1
        self.model.train()
        start = time.perf_counter()
        loss_sum, n_sentences = 0.0, 0
        batches = self._batches(epoch)
        bar = tqdm(
            total=len(batches), desc=f"epoch {epoch}/{self.config.epochs}", leave=False,
            disable=not (self.runtime.progress and self.accelerator.is_main_process),
        )  # fmt: skip
        with bar:
            for first in range(0, len(batches), self.config.grad_accumulation):
                group = batches[first : first + self.config.grad_accumulation]
                group_loss = self._step(group)
                size = sum(map(len, group))
                loss_sum, n_sentences = loss_sum + group_loss * size, n_sentences + size
                bar.update(len(group))
                bar.set_postfix(loss=f"{group_loss:.4f}", refresh=False)
        seconds = time.perf_counter() - start
        return {
            "epoch": epoch,
            "train_loss": loss_sum / n_sentences,
            "learning_rates": {group["name"]: group["lr"] for group in self.optimizer.param_groups},
            "train_seconds": seconds,
            "sentences_per_second": n_sentences * self.accelerator.num_processes / seconds,
        }

    def _step(self, group: list[list[int]]) -> float:
        """One optimizer step over a group of batches; returns the mean loss of their sentences."""
        size = sum(map(len, group))
        total = 0.0
        for position, indices in enumerate(group):
            batch = self.train_split.batch(self.approach, indices).to(self.accelerator.device)
            last = position == len(group) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.model(batch) * (len(indices) / size)
                self._check_finite(loss, batch)
                self.accelerator.backward(loss)
            total += loss.item()
        self._set_learning_rates()
        self.accelerator.clip_grad_norm_(list(self.trained.values()), self.config.max_grad_norm)
        self.recorder.count_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        return total

    def _set_learning_rates(self) -> None:
        factor = schedule_factor(
            self.progress.step + 1, total=self.total_steps + 1, warmup=self.warmup_steps, schedule=self.config.schedule
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def _check_finite(self, loss: Tensor, batch: Batch) -> None:
        if torch.isfinite(loss):
            return
        numbers = {id(item): index for index, item in enumerate(self.train_split.encoded)}
        shown = "; ".join(
            f"{numbers[id(item)]}: {' '.join(item.sentence.words[:8])}" for item in list(batch.encoded)[:4]
        )
        raise TrainingError(
            f"loss is {loss.item()} at step {self.progress.step + 1} in a batch of {len(batch)} training sentences ({shown} ...); "
            "lower the learning rate or use --precision fp32"
        )

    def run_all(self, on_epoch: Callable[[dict[str, Any]], None] | None) -> None:
        """Trains until the last epoch or until patience is over."""
        with self._tensorboard() as write:
            while self.progress.epoch < self.config.epochs and not self.recorder.out_of_patience():
                entry = self.recorder.end_epoch(self.train_epoch())
                self.save_state()
                write(entry)
                if on_epoch is not None:
                    on_epoch(entry)

    @contextlib.contextmanager
    def _tensorboard(self) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        if not (self.config.tensorboard and self.accelerator.is_main_process):
            yield lambda _: None
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard") from error
        with SummaryWriter(str(self.run.path)) as writer:

            def write(entry: Mapping[str, Any]) -> None:
                writer.add_scalar("loss/train", entry["train_loss"], entry["epoch"])
                for name, value in entry["validation"].items():
                    writer.add_scalar(f"validation/{name}", value, entry["epoch"])

            yield write


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def fit(
    model: Approach,
    data: Dataset,
    config: TrainConfig,
    runtime: RuntimeConfig,
    run: Run,
    *,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    cache: FeatureCache | None = None,
) -> Run:
    """Trains a model, keeps and restores its best epoch, and writes the run folder.

    Args:
        model: The approach; it ends in evaluation mode with its best weights.
        data: Training and validation sentences; the test split is not touched.
        config: The loop's settings.
        runtime: Device and precision.
        run: The run folder; a resumed one goes on after its last finished epoch.
        on_epoch: Called with the history's entry after each epoch; may raise to stop.
        cache: Features shared with other runs; an own cache if not given.

    Returns:
        The run with its record complete.

    Raises:
        TrainingError: If the loss is not finite.
        KeyboardInterrupt: As it came; the best checkpoint so far is kept, and the log says where.
    """
    loop = _Loop(model, data, config, runtime, run, cache)
    if run.resumed:
        loop.load_state()
    with loop.recorder.watch():
        loop.run_all(on_epoch)
    loop.recorder.finish()
    return run
