"""Configuration of the causal tagger."""

from __future__ import annotations

from dataclasses import dataclass

from common.config import DataConfig, RuntimeConfig, TrainConfig, require_rate


@dataclass(frozen=True)
class Config:
    """Training of the causal tagger."""

    data: DataConfig
    train: TrainConfig = TrainConfig(epochs=8, batch_size=8)
    runtime: RuntimeConfig = RuntimeConfig()
    base_model: str = "nowhere"
    """Folder of a causal language model."""
    scale: float = 1.0
    """Scores are multiplied by it."""
    learning_rate: float = 5e-2
    """Peak learning rate of the head."""

    def __post_init__(self) -> None:
        require_rate("learning_rate", self.learning_rate)
