"""Configuration of the zero-shot baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.config import RuntimeConfig, require_share
from common.data.labels import LabelText
from common.models.published import DEFAULT_BASE


@dataclass(frozen=True)
class Config:
    """Test a GLiNER model zero-shot."""

    dataset: str
    """Name of a generated data set (a folder of datasets/) or the path of such a folder."""
    encoder: Literal["bi", "cross"] = "bi"
    """Kind of GLiNER model."""
    base_model: str = ""
    """GLiNER model: hub id[@revision], folder, or demo-bi / demo-cross; if not given, the published one of its kind."""
    labels: LabelText = "names"
    """What the model reads for each entity type."""
    split: Literal["test", "validation"] = "test"
    """Split to score."""
    threshold: float = 0.5
    """Minimum probability of a predicted span."""
    runtime: RuntimeConfig = RuntimeConfig()

    def __post_init__(self) -> None:
        if not self.base_model:
            object.__setattr__(self, "base_model", DEFAULT_BASE[self.encoder])
        require_share("threshold", self.threshold)
