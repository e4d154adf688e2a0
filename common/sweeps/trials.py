"""A sweep's worker: trains trials until the study has enough."""

from __future__ import annotations

import itertools
import json
import logging
import os
import platform
import tempfile
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial
from sqlalchemy.exc import InterfaceError, OperationalError

from common.checkpoint import start_run
from common.config import from_dict, merge, to_dict
from common.data.mixture import load_training
from common.device import make_accelerator, provenance, seed_everything
from common.errors import InputError, TrainingError
from common.models.features import FeatureCache
from common.sweeps.space import suggest
from common.sweeps.sweep import RETRY_OF, Sweep, public
from common.training.loop import fit

logger = logging.getLogger(__name__)

PAUSE = 5.0
"""Seconds between two looks whether another worker's trial has ended or was cut off."""


class Worker:
    """This process's part in a sweep.

    Args:
        sweep: The sweep.
        number: Number of the worker among those of its command.
    """

    def __init__(self, sweep: Sweep, number: int = 0) -> None:
        self.sweep, self.study = sweep, sweep.study
        training = sweep.training
        self.data = load_training(training.data, training.train.seed)
        self.cache = FeatureCache(training.runtime)
        # The workers of one command share a folder for temporary files: one at a time counts trials and starts one.
        self.starting = FileLock(Path(tempfile.gettempdir()) / f"{sweep.name}.lock")
        if not isinstance(self.study.sampler, optuna.samplers.BruteForceSampler):
            # Seeded alike, a sweep that goes on, or a machine that joins, would draw the first random trials again.
            n_trials = len(self.study.get_trials(deepcopy=False))
            joined = [n_trials, os.getpid(), zlib.crc32(platform.node().encode())] if n_trials > 1 else []
            seed = int(np.random.SeedSequence([training.train.seed, number, *joined]).generate_state(1)[0])
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, group=True)

    def run(self, seconds: float | None = None) -> None:
        """Trains trials until the study has enough, and the last ones of other workers have ended.

        Args:
            seconds: Time after which no further trial starts.

        Raises:
            InputError: If the storage is lost on the way.
        """
        try:
            self._run(seconds)
        except (OperationalError, InterfaceError, StorageInternalError) as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())[:200]
            raise InputError(
                f"--storage {self.sweep.opened.shown}: lost in the middle of the sweep ({reason}); when it is back the "
                "same command goes on, and what was cut off is tried again"
            ) from error

    def _run(self, seconds: float | None) -> None:
        start = time.monotonic()
        while seconds is None or time.monotonic() - start < seconds:
            # Of a database: what has had no heartbeat is queued again.
            fail_stale_trials(self.study)
            with self.starting:
                if self.sweep.missing():
                    self.study.optimize(
                        self.objective,
                        n_trials=1,
                        catch=(TrainingError, InputError, torch.OutOfMemoryError),
                        callbacks=[self.report],
                    )
                    continue
            if not (self.sweep.opened.heartbeat and self.sweep.running()):
                return
            time.sleep(PAUSE)
        logger.info("time is over: no further trial starts")

    def objective(self, trial: Trial) -> float:
        """Trains one configuration and returns its score.

        Raises:
            TrialPruned: If the pruner stops it.
            InputError: If the configuration does not fit base or data.
            TrainingError: If training fails.
            KeyboardInterrupt: As it came; the trial is queued again.
        """
        self.starting.release()
        try:
            return self._train(trial)
        except (TrainingError, InputError, torch.OutOfMemoryError) as error:
            trial.set_user_attr("error", str(error))
            raise
        except KeyboardInterrupt:
            stored = self.study.get_trials(deepcopy=False)[trial.number]
            parameters = stored.system_attrs.get("fixed_params", {}) | trial.params
            kept = {"default": True} if trial.user_attrs.get("default") else {}
            self.study.enqueue_trial(parameters, user_attrs=kept | {RETRY_OF: trial.number})
            raise

    def _train(self, trial: Trial) -> float:
        sweep = self.sweep
        settings = merge(to_dict(sweep.training), suggest(trial, sweep.space))
        config = from_dict(sweep.spec.config, settings, f"trial {trial.number}")
        config = replace(config, train=replace(config.train, select_by=sweep.config.objective))
        trial.set_user_attr("config", public(to_dict(config)))
        trial.set_user_attr("seed", config.train.seed)
        trial.set_user_attr("provenance", provenance())

        validations = itertools.count(1)  # epochs, unless ``eval_every`` says otherwise

        def on_validation(entry: dict[str, Any]) -> None:
            trial.report(entry["validation"][sweep.config.objective], next(validations))
            if trial.should_prune() and entry["epoch"] < config.train.epochs:
                raise optuna.TrialPruned

        make_accelerator(config.runtime)
        base = sweep.spec.load_base(config)
        seed_everything(config.train.seed)
        model = sweep.spec.build(config, base, self.data.labels)
        with tempfile.TemporaryDirectory() as folder:
            run = start_run(sweep.spec, config, self.data, base, savings=Path(folder))
            fit(model, self.data, config.train, config.runtime, run, on_validation=on_validation, cache=self.cache)
        best = run.record["best"]
        trial.set_user_attr("parameters", run.record["parameters"])
        trial.set_user_attr("train_seconds", run.record["train_seconds"])
        # As training chooses: the untrained weights take part, and of equals the longest trained ones win.
        scores = [run.record["untrained"], *(entry["validation"] for entry in run.record["history"])]
        chosen = max(reversed(scores), key=lambda validation: validation[sweep.config.objective])
        trial.set_user_attr("micro_f1", chosen["micro_f1"])
        return float(best["score"])

    def report(self, _: Study, trial: FrozenTrial) -> None:
        """Logs how a trial went and writes the best settings so far."""
        self.sweep.write_best()
        score = (
            f"{self.sweep.config.objective} {trial.value:.4f}"
            if trial.values
            else trial.user_attrs.get("error", "no score")
        )
        logger.info(
            "trial %d (%d wanted): %s, %s, %s", trial.number, self.sweep.n_trials, trial.state.name.lower(), score,
            json.dumps(trial.params),
        )  # fmt: skip
