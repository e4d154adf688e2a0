"""What all tune.py scripts share: the command line and the workers it starts. Optuna is imported late."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.config import parse_known
from common.data.dataset import existing_dataset_dir
from common.engine import REFUSED, ending, executor, run_module
from common.errors import InputError, TrainingError
from common.settings import parse_training
from common.spec import ApproachSpec
from common.sweeps.config import PASSWORD_OPTIONS, PASSWORD_VARIABLE, TuneConfig
from common.sweeps.space import Space

if TYPE_CHECKING:
    from common.sweeps.sweep import Sweep

logger = logging.getLogger(__name__)

_PASSWORD = re.compile(rf"://[^/@\s]*:[^@\s]+@|[?&](?:{'|'.join(PASSWORD_OPTIONS)})=")
_WORKER = "GLINER_ADAPTATION_WORKER"


def run_tuning(spec: ApproachSpec[Any], spaces: Mapping[str, Space], argv: Sequence[str] | None = None) -> Path:
    """Runs a sweep from the command line and returns the path of its best settings.

    Args:
        spec: The approach.
        spaces: What is searched, by the names that ``--space`` takes.
        argv: Arguments; those of the process if not given.

    Raises:
        InputError: If an option is wrong or an existing study is of another kind.
        TrainingError: If its workers die, or no trial is complete.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Before anything repeats them in a message.
    if any(_PASSWORD.search(argument) for argument in arguments):
        raise InputError(
            f"a password among the arguments can be read by others: leave it out of the URL and set {PASSWORD_VARIABLE}"
        )
    description = (
        f"{TuneConfig.__doc__}\nSpaces of {spec.title}: {', '.join(spaces)}. For train.py's options see its --help."
    )
    config, rest = parse_known(TuneConfig, arguments, description=description)
    if config.space not in spaces:
        raise InputError(f"--space {config.space}: {spec.title} has {', '.join(spaces)}")
    training, resume = parse_training(spec, rest)
    if resume:
        raise InputError("--resume is an option of train.py; a sweep goes on when its command is given again")
    for name in training.data.dataset:
        existing_dataset_dir(name)

    import optuna

    from common.sweeps.sweep import Sweep

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Retries, heartbeats and settings that depend on a switch are what Optuna calls experimental.
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    sweep = Sweep(spec, spaces[config.space], config, training)
    if _WORKER in os.environ:
        from common.sweeps.trials import Worker

        Worker(sweep, int(os.environ[_WORKER])).run(None if config.timeout is None else 60 * config.timeout)
        return sweep.best_path
    with sweep.alone():
        sweep.begin()
        _run_workers(sweep, arguments)
        best = sweep.write_best()
    if best is None:
        raise TrainingError(f"no trial of study {sweep.name!r} is complete; its trials have their errors")
    logger.info("best: trial %d, %s %.4f; %s", best.number, config.objective, best.values[0], sweep.best_path)
    return sweep.best_path


def _run_workers(sweep: Sweep, arguments: Sequence[str]) -> None:
    """Has processes of their own train the trials; one that dies is started again, and so is the trial that it was at.

    Raises:
        TrainingError: If they end without having started a trial, or by an error that comes again.
    """
    config, start = sweep.config, time.monotonic()
    arguments = [*arguments, "--storage", sweep.storage]
    if config.workers > 1 and sweep.training.runtime.feature_cache != "off":
        # Workers read one store of features instead of computing one each.
        arguments += ["--feature-cache", "disk"]

    def minutes_left() -> float | None:
        return None if config.timeout is None else config.timeout - (time.monotonic() - start) / 60

    def work(number: int, folder: str) -> int | None:
        """Runs one worker as long as it starts trials; returns the last exit status."""
        while True:
            left, before = minutes_left(), len(sweep.study.get_trials(deepcopy=False))
            if left is not None and left <= 0:
                return 0
            more = [] if left is None else ["--timeout", str(left)]
            environment = {_WORKER: str(number), "TMPDIR": folder}
            status = run_module(f"{sweep.spec.name}.tune", [*arguments, *more], environment=environment)
            if status in (0, REFUSED, None):
                return status
            logger.warning("worker %d %s", number, ending(status))
            if len(sweep.study.get_trials(deepcopy=False)) == before:
                return status

    while True:
        if sweep.opened.file is not None:
            sweep.retry_cut_off()
        left = minutes_left()
        if not sweep.missing() or (left is not None and left <= 0):
            return
        with (
            tempfile.TemporaryDirectory(prefix=f".{sweep.name}_", dir=sweep.folder) as folder,
            executor(config.workers) as pool,
        ):
            statuses = list(pool.map(work, range(config.workers), [folder] * config.workers))
        if all(statuses):
            raise TrainingError(f"the workers of the sweep ended with exit statuses {statuses}")
