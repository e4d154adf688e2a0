"""Settings of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from common.config import Metric, require
from common.paths import check_name

PASSWORD_VARIABLE = "GLINER_ADAPTATION_STORAGE_PASSWORD"
"""Environment variable with the password for a storage URL: arguments can be read by every user of a machine."""


@dataclass(frozen=True)
class TuneConfig:
    """A sweep. All options of train.py can be given too: they hold for every trial, but for what is searched."""

    space: str = "training"
    """What is searched: training (learning rates and the loss), or architecture (the prompts)."""
    trials: int = 20
    """Trials of the study in all, pruned and failed ones among them; a small space is tried whole instead."""
    timeout: float | None = None
    """Minutes after which no further trial starts."""
    objective: Metric = "macro_f1"
    """Validation score over spans that is maximised."""
    study: str | None = None
    """Name of the study; <dataset>_<space> if not given. An existing study goes on."""
    storage: str | None = None
    """A path ending in .journal, sqlite:///FILE, or the URL of a database (postgresql://USER@HOST/NAME), its password
    in the environment's GLINER_ADAPTATION_STORAGE_PASSWORD; a file in optuna/ if not given."""
    workers: int = 1
    """Processes on this machine that work on the study together; SQLite is for one."""

    def __post_init__(self) -> None:
        require(self.trials >= 1, f"trials must be at least 1, got {self.trials}")
        require(self.workers >= 1, f"workers must be at least 1, got {self.workers}")
        require(self.timeout is None or self.timeout > 0, f"timeout must be positive, got {self.timeout}")
        if self.study is not None:
            check_name(self.study, "--study")
