"""Configuration of LDSA."""

from __future__ import annotations

from dataclasses import dataclass

from common.config import DataConfig, RuntimeConfig, TrainConfig, require_rate
from common.models.config import TokenConfig
from common.models.published import DEFAULT_BASE


@dataclass(frozen=True)
class Config:
    """Train LDSA."""

    data: DataConfig
    train: TrainConfig = TrainConfig(epochs=15, batch_size=128, patience=5)
    runtime: RuntimeConfig = RuntimeConfig()
    token: TokenConfig = TokenConfig(temperature=0.02)
    base_model: str = DEFAULT_BASE["bi"]
    """Bi-encoder GLiNER: hub id[@revision], folder, or demo-bi."""
    learning_rate: float = 3e-4
    """Peak learning rate of the label encoder and its projection."""

    def __post_init__(self) -> None:
        require_rate("learning_rate", self.learning_rate)
