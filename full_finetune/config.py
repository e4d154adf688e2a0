"""Configuration of full fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.config import DataConfig, RuntimeConfig, TrainConfig, require_rate
from common.data.labels import LabelText
from common.models.config import check_span_settings
from common.models.published import DEFAULT_BASE


@dataclass(frozen=True)
class Config:
    """Fully fine-tune a GLiNER model."""

    data: DataConfig
    train: TrainConfig = TrainConfig(epochs=5, batch_size=16, patience=2)
    runtime: RuntimeConfig = RuntimeConfig()
    encoder: Literal["bi", "cross"] = "bi"
    """Kind of GLiNER model."""
    base_model: str = ""
    """GLiNER model: hub id[@revision], folder, demo-bi / demo-cross, or new:ENCODER for a fresh one on an encoder
    (hub id[@revision], folder or demo-minilm); if not given, the published small one of its kind."""
    trainer: Literal["common", "gliner"] = "common"
    """common: the loop of all approaches; gliner: gliner's own Trainer, for comparison (it cannot resume)."""
    labels: LabelText = "names"
    """What the model reads for each entity type."""
    encoder_lr: float = 5e-5
    """Peak learning rate of the encoders."""
    others_lr: float = 1e-4
    """Peak learning rate of everything after the encoders."""
    focal_gamma: float = 0.0
    """Focusing exponent of the span loss; 0 is plain binary cross-entropy."""
    focal_alpha: float | None = None
    """Loss weight of positive spans; if not given, positives and negatives weigh the same."""
    threshold: float | None = None
    """Minimum probability of a predicted span; if not given, the best on the validation split (see --thresholds)."""

    def __post_init__(self) -> None:
        if not self.base_model:
            object.__setattr__(self, "base_model", DEFAULT_BASE[self.encoder])
        require_rate("encoder_lr", self.encoder_lr)
        require_rate("others_lr", self.others_lr)
        check_span_settings(self.focal_gamma, self.focal_alpha, self.threshold)
