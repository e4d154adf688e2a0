"""Settings of the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.config import require
from common.data.dataset import ENCODERS
from common.models.published import DEFAULT_BASE
from common.registry import spec, trained


@dataclass(frozen=True)
class Config:
    """Benchmark every approach against GLiNER's own training and evaluation."""

    dataset: str = "bc5cdr"
    """Name or folder of the data set."""
    base_model: str = DEFAULT_BASE["bi"]
    """Bi-encoder GLiNER."""
    cross_base_model: str = DEFAULT_BASE["cross"]
    """Cross-encoder GLiNER."""
    sentences: int = 320
    """Training sentences for measures without stored features, GLiNER's included."""
    batch_size: int = 16
    """Sentences per batch where both sides have the same settings."""
    output: Path | None = None
    """File for the rows, with the tables beside it; if not given, results/benchmark.json in the output root."""
    scaling: tuple[str, ...] = ()
    """Approaches for which to measure how time grows with sentences and labels."""
    readme: Path | None = None
    """Markdown file to put the tables into, between <!-- speed --> and <!-- /speed -->."""
    show: Path | None = None
    """JSON file of an earlier run to make the tables from, without measuring anything."""
    profile: str | None = None
    """Approach whose training to profile, without measuring anything else."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}")
        # GLiNER's trainer is also measured with batches twice as large, from its third step on.
        require(self.sentences >= 6 * self.batch_size, f"sentences must be at least 6 batches, got {self.sentences}")
        known = [name for name in trained() if set(spec(name).kinds) <= set(ENCODERS)]
        for name in self.scaling:
            require(name in known, f"--scaling: {name!r} is not one of {known}")
        require(self.profile is None or self.profile in known, f"--profile: {self.profile!r} is not one of {known}")
