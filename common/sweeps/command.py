"""The command of every tune.py."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from common.config import Metric, parse_known, require
from common.data.dataset import existing_dataset_dir
from common.errors import InputError, TrainingError
from common.paths import check_name
from common.settings import parse_training
from common.spec import ApproachSpec
from common.sweeps.space import Space

logger = logging.getLogger(__name__)

SpaceName = Literal["training", "architecture"]


@dataclass(frozen=True)
class TuneConfig:
    """A sweep. All options of train.py can be given too: they hold for every trial, but for what is searched."""

    space: SpaceName = "training"
    """What is searched: learning rates and the loss, or the prompts' architecture."""
    trials: int = 20
    """Trials of the study in all, pruned and failed ones among them; a search of few combinations tries each of them once instead."""
    timeout: float | None = None
    """Minutes after which no further trial starts."""
    objective: Metric = "macro_f1"
    """Validation score over spans that is maximised."""
    study: str | None = None
    """Name of the study; <dataset>_<space> if not given. An existing study goes on."""
    storage: str | None = None
    """Any Optuna storage: sqlite:///FILE, postgresql://..., mysql://..., or a path ending in .journal; SQLite in optuna/ if not given."""
    workers: int = 1
    """Processes on this machine that work on the study together."""

    def __post_init__(self) -> None:
        require(self.trials >= 1, f"trials must be at least 1, got {self.trials}")
        require(self.workers >= 1, f"workers must be at least 1, got {self.workers}")
        require(self.timeout is None or self.timeout > 0, f"timeout must be positive, got {self.timeout}")
        if self.study is not None:
            check_name(self.study, "--study")


def run_tuning(spec: ApproachSpec[Any], spaces: Mapping[str, Space], argv: Sequence[str] | None = None) -> Path:
    """Runs a sweep from the command line and returns the path of its summary.

    Args:
        spec: The approach.
        spaces: What is searched, by the names that ``--space`` takes.
        argv: Arguments; those of the process if not given.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    description = (
        f"{TuneConfig.__doc__}\nSpaces of {spec.title}: {', '.join(spaces)}. For train.py's options see its --help."
    )
    config, rest = parse_known(TuneConfig, arguments, description=description)
    if config.space not in spaces:
        raise InputError(f"--space {config.space}: {spec.title} has {', '.join(spaces)}")
    training, resume = parse_training(spec, rest)
    if resume:
        raise InputError("--resume is of train.py; a sweep goes on by itself when its command is given again")
    existing_dataset_dir(training.data.dataset)
    worker = int(os.environ.get(_WORKER, "0"))

    import optuna

    from common.sweeps.sweep import Sweep, best_of

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Settings that depend on a switch need groups, which Optuna calls experimental.
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    if config.workers > 1 and _WORKER not in os.environ:
        # Workers read one store of features instead of computing one each.
        training = replace(training, runtime=replace(training.runtime, feature_cache=_shared(training.runtime)))
        sweep = Sweep(spec, spaces[config.space], config, training)
        _run_workers(spec, config, arguments, training.runtime.feature_cache)
    else:
        sweep = Sweep(spec, spaces[config.space], config, training, worker)
        sweep.run()
    with sweep.lock:
        sweep.write()
    best = best_of(sweep.study.trials)
    if best is None:
        raise TrainingError(f"no trial of study {sweep.name!r} is complete; their errors are in {sweep.summary_path}")
    logger.info("best: trial %d, %s %.4f; %s", best.number, config.objective, best.values[0], sweep.best_path)
    return sweep.summary_path


_WORKER = "GLINER_ADAPTATION_WORKER"


def _shared(runtime: Any) -> str:
    return "off" if runtime.feature_cache == "off" else "disk"


def _run_workers(spec: ApproachSpec[Any], config: TuneConfig, arguments: Sequence[str], feature_cache: str) -> None:
    """Starts the workers and waits for them.

    Raises:
        TrainingError: If one of them failed.
    """
    import torch

    threads = str(max(1, torch.get_num_threads() // config.workers))
    command = [sys.executable, "-m", f"{spec.name}.tune", *arguments, "--feature-cache", feature_cache]
    workers = [
        subprocess.Popen(command, env=os.environ | {_WORKER: str(number + 1), "OMP_NUM_THREADS": threads})
        for number in range(config.workers)
    ]
    try:
        codes = [worker.wait() for worker in workers]
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()
                worker.wait()
    if any(codes):
        raise TrainingError(f"workers of the sweep ended with exit codes {codes}")
