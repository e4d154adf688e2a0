"""Optuna sweeps: what every tune.py shares.

    <approach>/optuna/<study>.db           the study (SQLite), unless --storage says otherwise
    <approach>/optuna/<study>.json         its summary: every trial with its settings, scores by epoch, time and error
    <approach>/optuna/<study>_best.json    the best settings, for train.py --config

The score of a trial is the best validation score of its epochs, the score by which training itself chooses its epoch.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from filelock import FileLock
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial, Trial, TrialState

from common.checkpoint import start_run
from common.config import differences, from_dict, merge, to_dict
from common.data.dataset import Dataset, load_dataset
from common.device import make_accelerator, provenance, seed_everything
from common.errors import InputError, TrainingError
from common.files import write_json
from common.liveness import is_dead, signs_of_life, this_process
from common.models.features import FeatureCache
from common.paths import now, output_root
from common.settings import parse_training
from common.spec import ApproachSpec
from common.sweeps.command import TuneConfig
from common.sweeps.space import Space, Switch, _nested, default_parameters, grid, suggest
from common.sweeps.storage import PASSING_ERRORS, open_storage
from common.training.loop import fit

logger = logging.getLogger(__name__)

STARTUP_TRIALS, WARMUP_EPOCHS = 5, 1
"""Of the median pruner: complete trials before it starts, and epochs of each trial that it leaves alone."""
_DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_ALIVE, _PROCESS, _FOLDER = "alive", "process", "folder"


# -- search spaces ----------------------------------------------------------------------------------------------------


# -- one study --------------------------------------------------------------------------------------------------------


class Sweep:
    """A study of one approach, and this process's part in it.

    Args:
        spec: The approach.
        space: What is searched.
        config: The sweep's settings.
        training: The configuration that trials start from.
        worker: Number of this process among those of this machine.
    """

    def __init__(
        self, spec: ApproachSpec[Any], space: Space, config: TuneConfig, training: Any, worker: int = 0
    ) -> None:
        self.spec, self.space, self.config, self.training = spec, space, config, training
        self.data: Dataset = load_dataset(training.data.dataset).limited(
            training.data.train_size, training.data.validation_size, training.train.seed
        )
        self.name = config.study or f"{self.data.name}_{config.space}"
        self.folder = output_root() / spec.name / "optuna"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / f".{self.name}.lock")
        self.cells = grid(space)
        self.n_trials = config.trials if self.cells is None else len(self.cells)
        self.cache = FeatureCache(training.runtime)
        self.context = {
            "approach": spec.name,
            "space": config.space,
            "objective": config.objective,
            "dataset": self.data.name,
            "dataset_sha256": self.data.sha256,
            "base_model": spec.bases.revision(training.base_model),
            "settings": _public(to_dict(training)),
        }
        with self.lock:
            storage, shown = open_storage(config.storage or f"sqlite:///{self.folder / self.name}.db")
            self.study = optuna.create_study(
                storage=storage,
                study_name=self.name,
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, WARMUP_EPOCHS + 1),
            )
            # Seeded alike, a sweep that goes on, or another machine that joins, would draw the first random trials again.
            joined = (
                [len(self.study.trials), os.getpid(), zlib.crc32(platform.node().encode())] if self.study.trials else []
            )
            seed = int(np.random.SeedSequence([training.train.seed, worker, *joined]).generate_state(1)[0])
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
            self._begin(shown)

    def _begin(self, storage: str) -> None:
        """Fills a new study with its first trials; checks that an old one is of the same kind."""
        first = default_parameters(self.space, self.training)
        if not self.study.user_attrs:
            for key, value in self.context.items():
                self.study.set_user_attr(key, value)
            self.study.set_user_attr("metric", f"validation {self.config.objective.replace('_f1', ' F1')}")
            cells = [] if self.cells is None else [cell for cell in self.cells if cell != first]
            for number, parameters in enumerate([first, *cells]):
                self.study.enqueue_trial(parameters, user_attrs={"default": True} if number == 0 else None)
            logger.info("study %s in %s", self.name, storage)
            return
        begun = {key: value for key, value in self.study.user_attrs.items() if key in self.context}
        # Settings that are newer than the study had their defaults in it.
        begun["settings"] = _public(to_dict(self.spec.stored_config(begun["settings"], f"study {self.name!r}")))
        changed = differences(begun, self.context)
        if changed:
            raise InputError(
                f"study {self.name!r} was started differently: {'; '.join(changed)}; give this sweep another name with --study"
            )
        done = sum(trial.state in _DONE for trial in self.study.trials)
        logger.info("study %s goes on after %d trials in %s", self.name, done, storage)

    def run(self) -> None:
        """Works on the study until it has all its trials or the time is over."""
        start = time.monotonic()
        while self.config.timeout is None or time.monotonic() - start < 60 * self.config.timeout:
            trial = self._next()
            if trial is None:
                return
            self._run(trial)
        logger.info("time is over: no further trial starts")

    def _next(self) -> Trial | None:
        """Starts a trial, one of those that a killed process left first; None if the study has enough."""
        with self.lock:
            self._take_over()
            trials = self.study.get_trials(deepcopy=False)
            again = {trial.user_attrs.get("retry_of") for trial in trials}
            counted = [t for t in trials if t.number not in again and t.state != TrialState.WAITING]
            if len(counted) >= self.n_trials:
                return None
            trial = self.study.ask()
            trial.set_user_attr(_PROCESS, this_process())
            trial.set_user_attr(_ALIVE, time.time())
            return trial

    def _take_over(self) -> None:
        """Marks trials of killed processes as failed and queues them again."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if is_dead(trial.user_attrs.get(_PROCESS), trial.user_attrs.get(_ALIVE)):
                self._retry(trial)

    def _retry(self, trial: FrozenTrial) -> None:
        """Marks a trial that was cut off as failed and queues its parameters once more; only the new one counts."""
        logger.warning("trial %d was cut off; it is tried again", trial.number)
        owner, folder = trial.user_attrs.get(_PROCESS), trial.user_attrs.get(_FOLDER)
        if owner is not None and folder is not None and owner["host"] == platform.node():
            shutil.rmtree(folder, ignore_errors=True)
        self.study.tell(trial.number, state=TrialState.FAIL)
        parameters = trial.system_attrs.get("fixed_params", {}) | trial.params
        kept = {"default": True} if trial.user_attrs.get("default") else {}
        self.study.enqueue_trial(parameters, user_attrs=kept | {"retry_of": trial.number})

    def _run(self, trial: Trial) -> None:
        """Trains with a trial's settings and tells the study how it went; after a defect the trial counts as killed."""
        start = time.perf_counter()
        try:
            with signs_of_life(partial(trial.set_user_attr, _ALIVE), PASSING_ERRORS):
                score = self._train(trial)
        except optuna.TrialPruned:
            self._tell(trial, start, state=TrialState.PRUNED)
        except (TrainingError, InputError, torch.OutOfMemoryError) as error:
            trial.set_user_attr("error", str(error))
            self._tell(trial, start, state=TrialState.FAIL)
            logger.warning("trial %d failed: %s", trial.number, error)
        except KeyboardInterrupt:
            self._retry(self.study.get_trials(deepcopy=False)[trial.number])
            raise
        else:
            self._tell(trial, start, score)

    def _tell(self, trial: Trial, start: float, score: float | None = None, state: TrialState | None = None) -> None:
        trial.set_user_attr("seconds", time.perf_counter() - start)
        self.study.tell(trial, score, state=state)
        with self.lock:
            self.write()
        logger.info(
            "trial %d (%d wanted): %s, %s, %s", trial.number, self.n_trials,
            "no score" if score is None else f"{self.config.objective} {score:.4f}",
            (state or TrialState.COMPLETE).name.lower(), json.dumps(trial.params),
        )  # fmt: skip

    def _train(self, trial: Trial) -> float:
        """Trains one configuration and returns its score.

        Raises:
            TrialPruned: If the pruner stops it.
            InputError: If the configuration does not fit base or data.
            TrainingError: If training fails.
        """
        settings = merge(to_dict(self.training), suggest(trial, self.space))
        config = from_dict(self.spec.config, settings, f"trial {trial.number}")
        config = replace(config, train=replace(config.train, select_by=self.config.objective))
        trial.set_user_attr("config", _public(to_dict(config)))
        trial.set_user_attr("seed", config.train.seed)
        trial.set_user_attr("provenance", provenance())

        def on_validation(entry: dict[str, Any]) -> None:
            trial.report(entry["validation"][self.config.objective], entry["epoch"])
            if trial.should_prune() and entry["epoch"] < config.train.epochs:
                raise optuna.TrialPruned

        make_accelerator(config.runtime)
        base = self.spec.load_base(config)
        seed_everything(config.train.seed)
        model = self.spec.build(config, base, self.data.labels)
        with tempfile.TemporaryDirectory(prefix=f".{self.name}_trial_", dir=self.folder) as folder:
            trial.set_user_attr(_FOLDER, folder)
            run = start_run(self.spec, config, self.data, base, savings=Path(folder))
            fit(model, self.data, config.train, config.runtime, run, on_validation=on_validation, cache=self.cache)
        trial.set_user_attr("parameters", run.record["parameters"])
        trial.set_user_attr("train_seconds", run.record["train_seconds"])
        trial.set_user_attr(
            "micro_f1", run.record["history"][run.record["best"]["epoch"] - 1]["validation"]["micro_f1"]
        )
        return float(run.record["best"]["score"])

    # -- what is left of it -------------------------------------------------------------------------------------------

    @property
    def summary_path(self) -> Path:
        """The file with all trials."""
        return self.folder / f"{self.name}.json"

    @property
    def best_path(self) -> Path:
        """The file with the best settings."""
        return self.folder / f"{self.name}_best.json"

    def write(self) -> None:
        """Writes the summary and, if a trial is complete, the best settings."""
        trials = self.study.get_trials(deepcopy=False)
        best = best_of(trials)
        write_json(
            self.summary_path,
            {
                "study_name": self.name,
                "updated": now(),
                "direction": "maximize",
                **self.study.user_attrs,
                "n_trials": self.n_trials,
                "best_trial": None
                if best is None
                else {"number": best.number, "value": best.value, "params": best.params},
                "distributions": {
                    name: json.loads(distribution_to_json(distribution))
                    for trial in trials
                    for name, distribution in trial.distributions.items()
                },
                "all_trials": [_trial_record(trial) for trial in trials],
            },
        )
        if best is not None:
            write_json(self.best_path, self.best_settings(best))

    def best_settings(self, best: FrozenTrial) -> dict[str, Any]:
        """The settings that the trial chose, and those given on the sweep's command line, as train.py's ``--config`` takes them.

        Data, base model, runtime and the length of training are left to train.py.
        """
        plain = parse_training(self.spec, ["--dataset", self.training.data.dataset])[0]
        settings = _other(to_dict(self.training), to_dict(plain))
        for name in ("data", "base_model", "runtime"):
            settings.pop(name, None)
        for name in ("epochs", "patience", "select_by"):
            settings.get("train", {}).pop(name, None)
        chosen = best.user_attrs["config"]
        for parameter in self.space:
            if not isinstance(parameter, Switch):
                value = chosen
                for part in parameter.path.split("."):
                    value = value[part]
                settings = merge(settings, _nested(parameter.path, value))
        return {name: value for name, value in settings.items() if value != {}}


def _other(settings: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """What ``settings`` has other than ``plain``, nested."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            inner = _other(value, plain[name])
            if inner:
                found[name] = inner
        elif value != plain[name]:
            found[name] = value
    return found


def best_of(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """The complete trial with the highest score, the first of several; None if none is complete."""
    complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    return max(complete, key=lambda trial: trial.values[0], default=None)


def _trial_record(trial: FrozenTrial) -> dict[str, Any]:
    """A trial as JSON, in the terms that ``common.studies`` reads."""
    attributes = {key: value for key, value in trial.user_attrs.items() if key not in (_ALIVE, _PROCESS, _FOLDER)}
    return {
        "number": trial.number,
        "state": trial.state.name,
        "value": trial.value,
        "params": trial.params,
        "intermediate_values": trial.intermediate_values,
        "datetime_start": None if trial.datetime_start is None else trial.datetime_start.isoformat(timespec="seconds"),
        "datetime_complete": None
        if trial.datetime_complete is None
        else trial.datetime_complete.isoformat(timespec="seconds"),
        **attributes,
    }


def _public(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without paths of the machine and without what changes no score."""
    public = dict(config)
    public["base_model"] = Path(config["base_model"]).name
    public["data"] = config["data"] | {"dataset": Path(config["data"]["dataset"]).name}
    public.pop("runtime")
    return public
