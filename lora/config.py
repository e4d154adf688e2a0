"""Configuration of LoRA and its relatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from common.config import DataConfig, RuntimeConfig, TrainConfig, require, require_rate, require_share
from common.data.labels import LabelText
from common.models.config import check_span_settings
from common.models.published import DEFAULT_BASE

Method = Literal["lora", "dora", "rslora", "loha", "lokr", "ia3", "bitfit"]
Target = Literal["text", "label", "both"]

_LOW_RANK = {"rank": 8, "alpha": 16, "adapter_lr": 1e-3}
DEFAULTS: Mapping[Method, Mapping[str, float]] = {
    "lora": {**_LOW_RANK, "dropout": 0.1},
    # With dropout each layer is computed twice.
    "dora": {**_LOW_RANK, "dropout": 0.0},
    "rslora": {**_LOW_RANK, "dropout": 0.1},
    "loha": _LOW_RANK,
    "lokr": _LOW_RANK,
    "ia3": {"adapter_lr": 5e-3},
    "bitfit": {"adapter_lr": 1e-3},
}
"""What each method takes for a setting that is not given; it has no setting that is not here."""


@dataclass(frozen=True)
class Config:
    """Train GLiNER's encoders with LoRA, DoRA, (IA)³, BitFit and others."""

    data: DataConfig
    train: TrainConfig = TrainConfig(epochs=5, batch_size=16, patience=2)
    runtime: RuntimeConfig = RuntimeConfig()
    encoder: Literal["bi", "cross"] = "bi"
    """Kind of GLiNER model."""
    base_model: str = ""
    """GLiNER model: hub id[@revision], folder, or demo-bi / demo-cross; if not given, the published one of its kind."""
    method: Method = "lora"
    """lora, dora, rslora, loha, lokr: low-rank updates of the layers' weights;
    ia3: learned scales of keys, values and feed-forward activations; bitfit: the encoder's own biases."""
    target: Target = "text"
    """Which encoder to adapt; a cross-encoder model has only a text encoder."""
    modules: tuple[str, ...] = ()
    """Names of linear layers to adapt, such as query value; if not given,
    all those of attention and feed-forward blocks (ia3: keys, values and the feed-forward output)."""
    rank: int | None = None
    """Rank of the weight update; 8 if not given. Not for ia3 and bitfit."""
    alpha: int | None = None
    """The update is scaled by alpha / rank (rslora: alpha / sqrt(rank)); 16 if not given. Not for ia3 and bitfit."""
    dropout: float | None = None
    """Dropout on the input of the low-rank path; 0.1 (dora: 0) if not given. Only for lora, dora and rslora."""
    encoder_dropout: bool = False
    """Also apply the adapted encoders' own dropout in training, as full fine-tuning does."""
    head: bool = True
    """Also train the span head (span_rep_layer, prompt_rep_layer)."""
    adapter_lr: float | None = None
    """Peak learning rate of the weights trained inside the encoders; 1e-3 (ia3: 5e-3) if not given."""
    head_lr: float = 5e-4
    """Peak learning rate of the span head."""
    labels: LabelText = "names"
    """What the model reads for each entity type."""
    focal_gamma: float = 0.0
    """Focusing exponent of the span loss; 0 is plain binary cross-entropy."""
    focal_alpha: float | None = None
    """Loss weight of positive spans; if not given, positives and negatives weigh the same."""
    word_dropout: float = 0.0
    """Dropout on the word representations that the span head reads."""
    threshold: float | None = None
    """Minimum probability of a predicted span; if not given, the best on the validation split (see --thresholds)."""

    def __post_init__(self) -> None:
        if not self.base_model:
            object.__setattr__(self, "base_model", DEFAULT_BASE[self.encoder])
        for name in ("rank", "alpha", "dropout", "adapter_lr"):
            default = DEFAULTS[self.method].get(name)
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
            require(getattr(self, name) is None or default is not None, f"{name}: {self.method} has none")
        require(
            self.encoder == "bi" or self.target == "text",
            f"target {self.target}: a cross-encoder model has no label encoder; use --target text",
        )
        require(not (self.modules and self.method == "bitfit"), "modules: bitfit trains all biases of an encoder")
        require(self.rank is None or self.rank >= 1, f"rank must be at least 1, got {self.rank}")
        require(self.alpha is None or self.alpha >= 1, f"alpha must be at least 1, got {self.alpha}")
        require(self.dropout is None or 0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
        require_rate("adapter_lr", self.adapter_lr or 0.0)
        require_rate("head_lr", self.head_lr)
        check_span_settings(self.focal_gamma, self.focal_alpha, self.threshold)
        require_share("word_dropout", self.word_dropout)
