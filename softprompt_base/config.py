"""Configuration of SP-Base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.config import DataConfig, RuntimeConfig, TrainConfig, require_rate
from common.models.config import FocalConfig, TokenConfig
from common.models.published import DEFAULT_BASE

LossVariant = Literal["v1", "focal", "focal_cb"]


@dataclass(frozen=True)
class Config:
    """Train SP-Base."""

    data: DataConfig
    train: TrainConfig = TrainConfig(epochs=15, batch_size=32, patience=4)
    runtime: RuntimeConfig = RuntimeConfig()
    token: TokenConfig = TokenConfig()
    focal: FocalConfig = FocalConfig()
    base_model: str = DEFAULT_BASE["bi"]
    """Bi-encoder GLiNER: hub id[@revision], folder, or demo-bi."""
    variant: LossVariant = "focal_cb"
    """Loss. v1: cross-entropy with inverse-frequency weights; focal: focal loss with the same weights;
    focal_cb: focal loss with class-balanced weights."""
    table_lr: float = 1e-3
    """Peak learning rate of the table of label vectors."""
    projection_lr: float = 1e-3
    """Peak learning rate of the label projection."""

    def __post_init__(self) -> None:
        require_rate("table_lr", self.table_lr)
        require_rate("projection_lr", self.projection_lr)
