"""One sweep: its Optuna study, how many trials are left to run, and its best settings.

<approach>/optuna/<study>.db           the study (SQLite), unless --storage says otherwise
<approach>/optuna/<study>.journal      the study, if several workers share it from the start
<approach>/optuna/<study>_best.json    the best settings, for train.py --config

A trial's score is the best validation score of its epochs, by which training itself chooses its epoch.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import CategoricalDistribution
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL

from common.config import BEHAVIOUR_VERSION, differences, merge, to_dict
from common.data.mixture import load_training
from common.errors import InputError
from common.files import write_json
from common.paths import output_root
from common.settings import parse_training
from common.spec import ApproachSpec
from common.sweeps.config import TuneConfig
from common.sweeps.space import Choice, Space, Switch, combinations, default_parameters, name_of, nested
from common.sweeps.storage import MAX_RETRY, open_storage

logger = logging.getLogger(__name__)

STARTUP_TRIALS, WARMUP_EPOCHS = 5, 1
"""Of the median pruner: complete trials before it starts, and epochs of each trial that it leaves alone."""
RETRY_OF = "retry_of"
"""Attribute of a trial that repeats one that Ctrl-C, or an earlier version, cut off."""


class Sweep:
    """A study of one approach.

    Args:
        spec: The approach.
        space: What is searched.
        config: The sweep's settings.
        training: The configuration that trials start from.

    Raises:
        InputError: If the storage cannot be opened.
    """

    def __init__(self, spec: ApproachSpec[Any], space: Space, config: TuneConfig, training: Any) -> None:
        self.spec, self.space, self.config, self.training = spec, space, config, training
        data = load_training(training.data, training.train.seed)
        self.name = config.study or f"{data.name}_{config.space}"
        self.folder = output_root() / spec.name / "optuna"
        self.folder.mkdir(parents=True, exist_ok=True)
        n_combinations = combinations(space)
        self.n_trials = n_combinations or config.trials
        self.storage = self._own_storage() if config.storage is None else config.storage
        self.opened = open_storage(self.storage)
        if self.opened.sqlite and config.workers > 1:
            raise InputError(
                f"--workers {config.workers}: {self.opened.shown} is SQLite, which is for one; "
                "give --storage with a path ending in .journal or the URL of a database, or another --study"
            )
        self.context = {
            "approach": spec.name,
            "space": config.space,
            "objective": config.objective,
            "dataset": data.name,
            "dataset_sha256": data.sha256,
            "base_model": spec.bases.revision(training.base_model),
            "settings": public(to_dict(training)),
            "behaviour": BEHAVIOUR_VERSION,
        }
        self.study = optuna.create_study(
            storage=self.opened.storage,
            study_name=self.name,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, WARMUP_EPOCHS + 1),
        )
        if n_combinations:
            self.study.sampler = optuna.samplers.BruteForceSampler(training.train.seed)

    def _own_storage(self) -> str:
        """The file that the study is in, or is going to be in."""
        journal, database = (self.folder / f"{self.name}.{suffix}" for suffix in ("journal", "db"))
        if journal.is_file() or (self.config.workers > 1 and not database.is_file()):
            return str(journal)
        return URL.create("sqlite", database=str(database)).render_as_string()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """This command has the study's file for itself; a database server may serve several.

        Raises:
            InputError: If another command is at work on the file.
        """
        file = self.opened.file
        lock = None if file is None else FileLock(file.with_name(f".{file.name}.sweep.lock"), timeout=0)
        try:
            with lock or contextlib.nullcontext():
                yield
        except Timeout:
            raise InputError(
                f"{file}: another command is at work on it; a file is for one, with several --workers"
            ) from None

    def begin(self) -> None:
        """Fills a new study with its first trial; checks that an old one is of the same kind.

        Raises:
            InputError: If it is not.
        """
        study = self.study
        # Its first trial comes last: without one, a killed process may have left a part of the rest.
        if not study.user_attrs or not study.get_trials(deepcopy=False):
            for key, value in self.context.items():
                study.set_user_attr(key, value)
            study.set_user_attr("metric", f"validation {self.config.objective.replace('_f1', ' F1')}")
            first = default_parameters(self.space, self.training)
            study.enqueue_trial(first, user_attrs={"default": True}, skip_if_exists=True)
            logger.info("study %s in %s", self.name, self.opened.shown)
            return
        begun = {"behaviour": 1} | {key: value for key, value in study.user_attrs.items() if key in self.context}
        # Settings that are newer than the study had their defaults in it.
        stored = self.spec.stored_config(begun.get("settings", {}), f"study {self.name!r}")
        begun["settings"] = public(to_dict(stored))
        changed = differences(begun, self.context) + self._other_choices()
        if changed:
            raise InputError(
                f"study {self.name!r} was started differently: {'; '.join(changed)}; "
                "give this sweep another name with --study"
            )
        done = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
        logger.info("study %s goes on after %d trials in %s", self.name, done, self.opened.shown)

    def _other_choices(self) -> list[str]:
        """Choices of parameters that are others than the study began with, which Optuna does not allow."""
        now = {name_of(p): list(p.options) for p in self.space if isinstance(p, Choice)}
        then = {
            name: list(distribution.choices)
            for trial in self.study.get_trials(deepcopy=False)
            for name, distribution in trial.distributions.items()
            if isinstance(distribution, CategoricalDistribution) and name in now
        }
        return differences(then, {name: now[name] for name in then}, "choices of ")

    # -- trials -------------------------------------------------------------------------------------------------------

    def missing(self) -> bool:
        """Whether trials have yet to be started; of one that was cut off only the retry counts."""
        trials = self.study.get_trials(deepcopy=False)
        retried = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
        retried |= {trial.user_attrs.get(RETRY_OF) for trial in trials}
        started = [t for t in trials if t.state != TrialState.WAITING and t.number not in retried]
        return len(started) < self.n_trials

    def running(self) -> list[FrozenTrial]:
        """Trials that somebody is at work on, or was when a process ended."""
        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def retry_cut_off(self) -> None:
        """Queues the trials of ended processes again, at most :data:`MAX_RETRY` times; only inside :meth:`alone`."""
        for trial in self.running():
            logger.warning("trial %d was cut off", trial.number)
            self.study.tell(trial.number, state=TrialState.FAIL)
            RetryHeartbeatStaleTrialCallback(MAX_RETRY)(self.study, trial)

    # -- the best settings --------------------------------------------------------------------------------------------

    @property
    def best_path(self) -> Path:
        """The file with the best settings."""
        return self.folder / f"{self.name}_best.json"

    def write_best(self) -> FrozenTrial | None:
        """Writes the best settings and returns their trial; None if no trial is complete."""
        best = best_of(self.study.get_trials(deepcopy=False))
        if best is not None:
            write_json(self.best_path, self.best_settings(best))
        return best

    def best_settings(self, best: FrozenTrial) -> dict[str, Any]:
        """The settings that the trial chose and those of the sweep's command line, for train.py's ``--config``.

        Data, base model, runtime, the length of training and what chooses its best weights are left to train.py.
        """
        plain = parse_training(self.spec, ["--dataset", *self.training.data.dataset])[0]
        settings = _other(to_dict(self.training), to_dict(plain))
        for name in ("data", "base_model", "runtime"):
            settings.pop(name, None)
        for name in ("epochs", "patience", "select_by"):
            settings.get("train", {}).pop(name, None)
        chosen = best.user_attrs["config"]
        for parameter in self.space:
            if not isinstance(parameter, Switch):
                value = reduce(getitem, parameter.path.split("."), chosen)
                settings = merge(settings, nested(parameter.path, value))
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


def public(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without paths of the machine and without what changes no score."""
    kept = dict(config)
    kept["base_model"] = Path(config["base_model"]).name
    kept["data"] = config["data"] | {"dataset": [Path(name).name for name in config["data"]["dataset"]]}
    kept.pop("runtime")
    return kept
