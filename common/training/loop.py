"""The one training loop."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from common.approach import Approach, Batch, declared_parameters, freeze_all_but
from common.config import RuntimeConfig, TrainConfig, require
from common.data.batching import training_batches
from common.data.dataset import Dataset
from common.device import as_trained, make_accelerator, prefetch, provenance, seed_everything, trackers
from common.errors import InputError, TrainingError
from common.models.attention import use_lean_attention
from common.models.dropout import make_dropout_fast
from common.models.features import FeatureCache
from common.training.optimizer import make_optimizer, optimizer_groups, schedule_factor, stored_state
from common.training.recorder import Progress, Recorder
from common.training.records import WEIGHTS_FILE
from common.training.run_folder import Run, load_weights
from common.training.used_rows import UsedRows

logger = logging.getLogger(__name__)

V = TypeVar("V")

LOG_EVERY = 600.0
"""Seconds between two lines of the log inside an epoch that shows no progress bar."""


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
        self.accelerator = make_accelerator(runtime, config.track, run.path)
        seed_everything(config.seed)
        freeze_all_but(model, model.parts)
        use_lean_attention(model)
        make_dropout_fast(model)
        if config.gradient_checkpointing:
            checkpoint_gradients(model)
        model.to(self.accelerator.device)
        self.approach = model
        self.recorder = Recorder(model, data, config, runtime, self.accelerator, run, cache)
        self.trained = self.recorder.trained
        self.train_split, self.drawn = self.recorder.encode(data.train, "train"), data.drawn
        self.recorder.report_unreachable("train", self.train_split)
        model.begin_training(self.train_split.encoded)
        self.recorder.record_supplements()
        groups = optimizer_groups(model, model.parts, config.weight_decay)
        self.recorder.log_plan(groups)
        # accelerate patches forward for its precision; on one process the model stays the same object.
        self.model, self.optimizer = self.accelerator.prepare(model, make_optimizer(config.optimizer, groups))
        # Several processes would have to add up the rows' gradients; on a GPU the gain is not measured.
        local = self.accelerator.device.type == "cpu" and self.accelerator.num_processes == 1
        self.used_rows = UsedRows(self.model, self.optimizer, enabled=local and config.optimizer == "adamw")
        self.batches_per_epoch = len(self._batches(1))
        self.steps_per_epoch = math.ceil(self.batches_per_epoch / config.grad_accumulation)
        steps = self.steps_per_epoch * config.epochs
        self.total_steps = min(steps, config.max_steps or steps)
        for part in model.parts:
            frozen = part.starts_after * self.steps_per_epoch
            require(
                frozen < self.total_steps,
                f"max_steps {config.max_steps}: {part.name} would never be trained, it is frozen for {frozen} steps",
            )

    @property
    def progress(self) -> Progress:
        """Where the training stands."""
        return self.recorder.progress

    def _batches(self, epoch: int) -> list[list[int]]:
        """This process's batches of an epoch; every process gets the same number, the first ones filling up."""
        seed = self.config.seed
        batches = training_batches(
            self.train_split.lengths, self.config.batch_size, seed=seed, epoch=epoch, drawn=self.drawn(seed, epoch)
        )
        processes = self.accelerator.num_processes
        batches += itertools.islice(itertools.cycle(batches), -len(batches) % processes)
        return batches[self.accelerator.process_index :: processes]

    # -- state --------------------------------------------------------------------------------------------------------

    def save_state(self) -> None:
        """Stores everything that training needs to resume here, and ends with the weights of an uninterrupted one."""
        tensors = {name: get() for name, (get, _) in _generators().items()}
        names = {id(parameter): name for name, parameter in self.trained.items()}
        numbers: dict[str, float] = {}
        for parameter, state in self.optimizer.state.items():
            for key, value in state.items():
                place = f"optimizer/{key}/{names[id(parameter)]}"
                if isinstance(value, Tensor):
                    tensors[place] = value
                else:
                    numbers[place] = value
        tensors |= {f"model/{name}": parameter for name, parameter in self.trained.items()}
        scaler = self.accelerator.scaler
        values = {
            "progress": self.progress.as_dict(),
            "optimizer": numbers,
            "scaler": None if scaler is None else scaler.state_dict(),
            "provenance": self.provenances,
        }
        self.run.save_state(self.progress.step, tensors, values)

    def load_state(self) -> None:
        """Goes to where the stored state is; to the start if none was stored."""
        stored, here = self.run.load_state(), self.provenances[-1]
        if stored is None:
            logger.info("the run had reached no validation: it starts again")
            # One whose state could not be stored: its weights give way to the untrained ones.
            self.run.record.pop("best", None)
            self.run.update(provenance=here, earlier_provenance=[])
            return
        tensors, values = stored
        earlier = [there for there in values["provenance"] if there != here]
        self.provenances = [*earlier, here]
        self.run.update(provenance=here, earlier_provenance=earlier)
        where = str(self.run.path)
        load_weights(self.trained, _below(tensors, "model/"), where)
        # In states of format 1 the history stands beside the progress.
        history = {"history": values["history"]} if "history" in values else {}
        progress = Progress.restored(values["progress"] | history)
        if progress.epoch > self.config.epochs or progress.batch >= self.batches_per_epoch:
            raise InputError(
                f"{where}: the stored state is of epoch {progress.epoch}, batch {progress.batch}; the run has "
                f"{self.config.epochs} epochs of {self.batches_per_epoch} batches"
            )
        if math.isfinite(progress.best_score) and not (self.run.path / WEIGHTS_FILE).is_file():
            raise InputError(
                f"{self.run.path / WEIGHTS_FILE}: no such file; the weights of epoch {progress.best_epoch}"
            )
        moments = _below(tensors, "optimizer/") | _below(values.get("optimizer", {}), "optimizer/")
        states = stored_state(self.config.optimizer, moments, self.trained, progress.with_gradient or 0, where)
        for name, state in states.items():
            parameter = self.trained[name]
            self.optimizer.state[parameter].update(
                {
                    key: value.to(parameter.device) if isinstance(value, Tensor) else value
                    for key, value in state.items()
                }
            )
        try:
            for name, (_, put) in _generators().items():
                # A run may go on on a machine with another GPU.
                if name in tensors or name == "rng":
                    put(tensors[name])
        except (KeyError, RuntimeError, TypeError) as error:
            raise InputError(f"{where}: the state of the random numbers is missing or none: {error}") from error
        if values["scaler"] and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(values["scaler"])
        self.recorder.progress = progress
        logger.info("resumed at step %d of %d", self.progress.step, self.total_steps)

    # -- training -----------------------------------------------------------------------------------------------------

    def over(self) -> bool:
        """Whether training has ended: by its steps, its epochs or its patience."""
        done = self.progress.step >= self.total_steps or self.progress.epoch >= self.config.epochs
        return done or self.recorder.out_of_patience()

    def train_on(self) -> dict[str, Any]:
        """Trains until the next validation: to the end of the epoch, at most ``eval_every`` steps."""
        progress, accumulation = self.progress, self.config.grad_accumulation
        epoch = progress.epoch + 1
        batches = self._batches(epoch)
        left = math.ceil((len(batches) - progress.batch) / accumulation)
        limits = (left, self.total_steps - progress.step, self.config.eval_every or left)
        groups = [batches[first : first + accumulation] for first in range(progress.batch, len(batches), accumulation)][
            : min(limits)
        ]
        start = told = time.perf_counter()
        loss_sum, n_sentences = 0.0, 0
        bar = tqdm(
            total=sum(map(len, groups)), desc=f"epoch {epoch}/{self.config.epochs}", leave=False,
            disable=not (self.runtime.bars and self.accelerator.is_main_process),
        )  # fmt: skip
        with self._mode_of(epoch), self.used_rows, bar, contextlib.closing(self._loaded(groups)) as loaded:
            for group in groups:
                group_loss = self._step(group, loaded)
                size = sum(map(len, group))
                loss_sum, n_sentences = loss_sum + group_loss * size, n_sentences + size
                bar.update(len(group))
                bar.set_postfix(loss=f"{group_loss:.4f}", refresh=False)
                if not self.runtime.bars and time.perf_counter() - told > LOG_EVERY:
                    told = time.perf_counter()
                    logger.info(
                        "epoch %d: step %d of %d, loss %.4f", epoch, progress.step, self.total_steps, group_loss
                    )
        seconds = time.perf_counter() - start
        progress.batch += sum(map(len, groups))
        done = progress.epoch + progress.batch / len(batches)
        if progress.batch >= len(batches):
            progress.epoch, progress.batch = epoch, 0
        return {
            "epoch": epoch,
            "epochs": done,
            "step": progress.step,
            "train_loss": loss_sum / n_sentences,
            "learning_rates": {group["name"]: group["lr"] for group in self.optimizer.param_groups},
            "train_seconds": seconds,
            "sentences_per_second": n_sentences * self.accelerator.num_processes / seconds,
        }

    @contextlib.contextmanager
    def _mode_of(self, epoch: int) -> Iterator[None]:
        """Training mode in an epoch, but for the parts that are trained later: those are as frozen as all else."""
        self.model.train()
        later = [part for part in self.approach.parts if part.starts_after >= epoch]
        declared = declared_parameters(self.approach, self.approach.parts)
        waiting = [parameter for part in later for parameter in declared[part.name].values()]
        modules = dict(self.approach.named_modules())
        for path in (path for part in later for path in part.modules if path in modules):
            modules[path].eval()
        for parameter in waiting:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in waiting:
                parameter.requires_grad_(True)

    def _loaded(self, groups: list[list[list[int]]]) -> Generator[Batch]:
        """The batches of all groups on the device, on a GPU each prepared while the one before is computed."""
        device = self.accelerator.device
        indices = (batch for group in groups for batch in group)
        return prefetch(lambda batch: self.train_split.batch(self.approach, batch), indices, device)

    def _step(self, group: list[list[int]], loaded: Iterator[Batch]) -> float:
        """One optimizer step over a group of batches; returns the mean loss of their sentences."""
        size = sum(map(len, group))
        losses, batches = [], []
        for position in range(len(group)):
            batch = next(loaded)
            last = position == len(group) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.model(batch) * (len(batch) / size)
                self.accelerator.backward(loss)
            losses.append(loss.detach())
            batches.append(batch)
        # The only transfer from the device in a step, before anything has changed a weight.
        values = torch.stack(losses).tolist()
        for value, batch in zip(values, batches, strict=True):
            self._check_finite(value, batch)
        self._set_learning_rates()
        self.recorder.count_gradients()
        self.used_rows.gather()
        self.accelerator.clip_grad_norm_(self.used_rows.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        return sum(values)

    def _set_learning_rates(self) -> None:
        for group in self.optimizer.param_groups:
            frozen = group["starts_after"] * self.steps_per_epoch
            total, step = self.total_steps - frozen, self.progress.step + 1 - frozen
            warmup = math.ceil(total * self.config.warmup_ratio)
            # Before its first step a part has none; a schedule says nothing of that time.
            group["lr"] = 0.0
            if step > 0:
                factor = schedule_factor(step, total=total + 1, warmup=warmup, schedule=self.config.schedule)
                group["lr"] = group["initial_lr"] * factor

    def _check_finite(self, loss: float, batch: Batch) -> None:
        if math.isfinite(loss):
            return
        numbers = {id(item): index for index, item in enumerate(self.train_split.encoded)}
        shown = "; ".join(
            f"{numbers[id(item)]}: {' '.join(item.sentence.words[:8])}" for item in list(batch.encoded)[:4]
        )
        raise TrainingError(
            f"loss is {loss} at step {self.progress.step + 1} in a batch of {len(batch)} training sentences "
            f"({shown} ...); lower the learning rate or use --precision fp32"
        )

    def run_all(self, on_validation: Callable[[dict[str, Any]], None] | None) -> None:
        """Trains until the last step or until patience is over."""
        with trackers(self.accelerator, self.config.track, self.run.record):
            self.recorder.score_untrained()
            while not self.over():
                entry = self.recorder.validated(self.train_on())
                self.save_state()
                scores = {f"validation/{name}": value for name, value in entry["validation"].items()}
                self.accelerator.log({"loss/train": entry["train_loss"], **scores}, step=self.progress.step)
                if on_validation is not None:
                    on_validation(entry)


def _generators() -> dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], None]]]:
    """What gives and what sets the state of torch's random numbers, by the states' names: of the CPU and of the GPU."""
    found: dict[str, Any] = {"rng": (torch.get_rng_state, torch.set_rng_state)}
    if torch.cuda.is_available():
        found["rng.cuda"] = torch.cuda.get_rng_state, torch.cuda.set_rng_state
    if torch.backends.mps.is_available():
        found["rng.mps"] = torch.mps.get_rng_state, torch.mps.set_rng_state
    return found


def checkpoint_gradients(model: nn.Module) -> None:
    """Switches gradient checkpointing on in every pretrained encoder inside a model.

    Raises:
        InputError: If there is none that supports it.
    """
    encoders: list[Any] = [
        module for module in model.modules() if getattr(module, "supports_gradient_checkpointing", False)
    ]
    if not encoders:
        raise InputError("--gradient-checkpointing: no encoder of this model supports it")
    for encoder in encoders:
        encoder.gradient_checkpointing_enable({"use_reentrant": False})


def _below(values: Mapping[str, V], prefix: str) -> dict[str, V]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def fit(
    model: Approach,
    data: Dataset,
    config: TrainConfig,
    runtime: RuntimeConfig,
    run: Run,
    *,
    on_validation: Callable[[dict[str, Any]], None] | None = None,
    cache: FeatureCache | None = None,
) -> Run:
    """Trains a model, keeps and restores its best weights, and writes the run folder.

    Args:
        model: The approach; it ends in evaluation mode with its best weights.
        data: Training and validation sentences; the test split is not touched.
        config: The loop's settings.
        runtime: Device and precision.
        run: The run folder; a resumed one resumes after its last validation.
        on_validation: Called with the history's entry after each validation; may raise to stop.
        cache: Features shared with other runs; an own cache if not given.

    Returns:
        The run with its record complete.

    Raises:
        InputError: If a setting needs what is not here.
        TrainingError: If the loss is not finite.
        KeyboardInterrupt: As it came; the best checkpoint so far is kept, and the log says where.
    """
    if run.resumed:
        runtime = as_trained(runtime, run.record.get("precision", runtime.precision))
    with run.session():
        loop = _Loop(model, data, config, runtime, run, cache)
        if run.resumed:
            loop.load_state()
        loop.run_all(on_validation)
        loop.recorder.finish()
    return run
