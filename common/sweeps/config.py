"""Settings of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from common.config import Metric, require
from common.paths import check_name

PASSWORD_VARIABLE = "GLINER_ADAPTATION_STORAGE_PASSWORD"
"""Environment variable with the password for a storage URL: arguments can be read by every user of a machine."""
PASSWORD_OPTIONS = ("password", "passwd", "pwd")
"""What drivers call the password among the options of a storage URL."""


@dataclass(frozen=True)
class TuneConfig:
    """Run a sweep. All options of train.py are accepted too and hold for every trial, except the searched ones."""

    space: str = "training"
    """What to search: training (rates, loss and the like) or architecture (prompts or adapters); not all have both."""
    trials: int = 20
    """Trials of the study in total, pruned and failed ones included; a space of choices is searched completely."""
    timeout: float | None = None
    """Minutes after which no new trial starts."""
    objective: Metric = "macro_f1"
    """Validation score over spans to maximise."""
    study: str | None = None
    """Name of the study; if not given, <dataset>_<space>. An existing study is continued."""
    storage: str | None = None
    """A path ending in .journal, sqlite:///FILE, or a database URL (postgresql://USER@HOST/NAME);
    a file in optuna/ if not given. A password goes into the environment variable GLINER_ADAPTATION_STORAGE_PASSWORD."""
    workers: int = 1
    """Processes on this machine that work on the study together; SQLite is for one only."""

    def __post_init__(self) -> None:
        require(self.trials >= 1, f"trials must be at least 1, got {self.trials}")
        require(self.workers >= 1, f"workers must be at least 1, got {self.workers}")
        require(self.timeout is None or self.timeout > 0, f"timeout must be positive, got {self.timeout}")
        if self.study is not None:
            check_name(self.study, "--study")
