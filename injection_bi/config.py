"""Configuration of SP-Bi."""

from __future__ import annotations

from dataclasses import dataclass

from common.config import DataConfig, RuntimeConfig, TrainConfig, require_rate
from common.models.config import FocalConfig, PromptConfig, TokenConfig
from common.models.published import DEFAULT_BASE


@dataclass(frozen=True)
class Config:
    """Train SP-Bi."""

    data: DataConfig
    train: TrainConfig = TrainConfig(epochs=25, batch_size=128, patience=5)
    runtime: RuntimeConfig = RuntimeConfig()
    token: TokenConfig = TokenConfig()
    focal: FocalConfig = FocalConfig()
    prompts: PromptConfig = PromptConfig(pooling="attention", prompt_length=64)
    base_model: str = DEFAULT_BASE["bi"]
    """Bi-encoder GLiNER: hub id[@revision], folder, or demo-bi."""
    prompt_encoder_lr: float = 1e-3
    """Peak learning rate of the prompt encoder."""
    projection_lr: float = 1e-3
    """Peak learning rate of the label projection."""

    def __post_init__(self) -> None:
        require_rate("prompt_encoder_lr", self.prompt_encoder_lr)
        require_rate("projection_lr", self.projection_lr)
