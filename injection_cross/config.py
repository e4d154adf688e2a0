"""Configuration of SP-Cross."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.config import DataConfig, RuntimeConfig, TrainConfig, require, require_rate
from common.models.config import FocalConfig, PromptConfig, TokenConfig
from common.models.published import DEFAULT_BASE

Level = Literal["token", "span"]


@dataclass(frozen=True)
class Config:
    """Train SP-Cross."""

    data: DataConfig
    train: TrainConfig = TrainConfig(epochs=20, batch_size=8, patience=5)
    runtime: RuntimeConfig = RuntimeConfig()
    token: TokenConfig = TokenConfig()
    focal: FocalConfig = FocalConfig()
    prompts: PromptConfig = PromptConfig(pooling="conv1d", prompt_length=32)
    base_model: str = DEFAULT_BASE["cross"]
    """Cross-encoder GLiNER: hub id[@revision], folder, or demo-cross."""
    level: Level = "token"
    """token: classify sub-words; span: classify all spans up to the base model's maximum width."""
    learning_rate: float = 1e-3
    """Peak learning rate of the prompt encoder."""

    def __post_init__(self) -> None:
        require_rate("learning_rate", self.learning_rate)
        require(
            self.level == "token" or self.token.scheme == "io", "--scheme bio needs --level token; spans have no tags"
        )
