"""Configuration of SP-GLiNER."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.config import DataConfig, RuntimeConfig, TrainConfig, require, require_rate, require_share
from common.data.labels import LabelText
from common.models.config import check_span_settings
from common.models.published import DEFAULT_BASE

PromptForm = Literal["post_norm", "residual"]
SubwordPooling = Literal["first", "last", "mean", "max", "base"]


@dataclass(frozen=True)
class Config:
    """Train SP-GLiNER."""

    data: DataConfig
    train: TrainConfig = TrainConfig(epochs=15, batch_size=16, patience=4)
    runtime: RuntimeConfig = RuntimeConfig()
    base_model: str = DEFAULT_BASE["bi"]
    """Bi-encoder GLiNER: hub id[@revision], folder, or demo-bi."""
    labels: LabelText = "names"
    """What the label encoder reads for each entity type."""
    prompt_form: PromptForm = "residual"
    """Map of a label token's embedding e. post_norm: LayerNorm(e + W e + b), as in the thesis;
    residual: e + W LayerNorm(e) + b, which is the base model itself at step 0."""
    prompt_encoder: bool = True
    """Train the prompt encoder; off: the control that trains only the span head."""
    prompt_layers: int = 1
    """Linear layers of the map, with GELU between them."""
    prompt_hidden: int | None = None
    """Width between the map's layers; if not given, that of the label encoder's word embeddings."""
    head: bool = True
    """Train the span head (span_rep_layer, prompt_rep_layer); off: the control that trains only the prompt encoder."""
    unfreeze_head_after: int = 0
    """Epochs that train only the prompt encoder before the span head is unfrozen."""
    prompt_encoder_lr: float = 1e-3
    """Peak learning rate of the prompt encoder."""
    downstream_lr: float = 5e-4
    """Peak learning rate of the span head."""
    rest_lr: float = 0.0
    """Peak learning rate of the text and label encoders; 0 freezes them, which keeps the approach light."""
    focal_gamma: float = 0.0
    """Focusing exponent of the span loss; 0 is plain binary cross-entropy."""
    focal_alpha: float | None = None
    """Loss weight of positive spans; if not given, positives and negatives weigh the same."""
    word_dropout: float = 0.3
    """Dropout on the frozen text encoder's word representations."""
    subword_pooling: SubwordPooling = "mean"
    """How sub-words are pooled into a word's representation; base: as in the base model's training. Exports keep it."""
    threshold: float | None = None
    """Minimum probability of a predicted span; if not given, the best on the validation split (see --thresholds)."""

    def __post_init__(self) -> None:
        require(
            self.prompt_encoder or self.head, "nothing to train: --no-prompt-encoder and --no-head exclude each other"
        )
        require(1 <= self.prompt_layers <= 100, f"prompt_layers must be between 1 and 100, got {self.prompt_layers}")
        if self.prompt_hidden is not None:
            require(self.prompt_layers > 1, "prompt_hidden: a map of one layer has none, see --prompt-layers")
            require(
                1 <= self.prompt_hidden <= 2**16,
                f"prompt_hidden must be between 1 and {2**16}, got {self.prompt_hidden}",
            )
        require(
            self.unfreeze_head_after >= 0, f"unfreeze_head_after must be at least 0, got {self.unfreeze_head_after}"
        )
        if self.unfreeze_head_after:
            require(
                self.prompt_encoder and self.head,
                "unfreeze_head_after: needs prompt encoder and head, of which one is off",
            )
            require(
                self.unfreeze_head_after < self.train.epochs,
                f"unfreeze_head_after {self.unfreeze_head_after}: the head would never be trained in "
                f"{self.train.epochs} epochs",
            )
        require_rate("prompt_encoder_lr", self.prompt_encoder_lr)
        require_rate("downstream_lr", self.downstream_lr)
        require(0 <= self.rest_lr < float("inf"), f"rest_lr must be at least 0, got {self.rest_lr}")
        check_span_settings(self.focal_gamma, self.focal_alpha, self.threshold)
        require_share("word_dropout", self.word_dropout)
