"""Settings that several approaches share; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.config import require, require_share
from common.data.labels import LabelText

TokenScheme = Literal["io", "bio"]
Quantization = Literal["none", "nf4"]
Attention = Literal["bidirectional", "causal"]
Pooling = Literal["adaptive_avg", "adaptive_max", "attention", "conv1d", "conv1d_strided"]


@dataclass(frozen=True)
class TokenConfig:
    """How sub-words are classified."""

    temperature: float = 0.05
    """Cosines are divided by this before the softmax."""
    scheme: TokenScheme = "io"
    """io: one class per type, so touching entities of a type merge; bio: an additional begin class per type."""

    def __post_init__(self) -> None:
        require(0 < self.temperature < float("inf"), f"temperature must be positive, got {self.temperature}")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on linear layers (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = 16
    """Rank of each adapter."""
    alpha: float = 32.0
    """Adapter outputs are scaled by alpha / rank."""
    dropout: float = 0.1
    """Dropout on the adapters' input."""
    modules: tuple[str, ...] = ("all-linear",)
    """Layers with an adapter, by the last part of their name (q_proj v_proj); all-linear: all but the output layer."""

    def __post_init__(self) -> None:
        require(self.rank >= 1, f"rank must be at least 1, got {self.rank}")
        require(0 < self.alpha < float("inf"), f"alpha must be positive, got {self.alpha}")
        require(0 <= self.dropout < 1, f"dropout must be at least 0 and less than 1, got {self.dropout}")
        require(bool(self.modules), "modules needs at least one name")


@dataclass(frozen=True)
class FocalConfig:
    """Focal loss with class-balanced weights."""

    gamma: float = 2.0
    """Focusing exponent; 0 is plain cross-entropy."""
    beta: float = 0.9999
    """Class-balanced weights: at 0 all classes weigh the same; towards 1 the weights approach inverse frequencies."""

    def __post_init__(self) -> None:
        require(0 <= self.gamma < float("inf"), f"gamma must be at least 0, got {self.gamma}")
        require(0 <= self.beta < 1, f"beta must be at least 0 and less than 1, got {self.beta}")


@dataclass(frozen=True)
class PromptConfig:
    """Soft prompts."""

    pooling: Pooling = "conv1d"
    """How a description of any length is pooled into prompt_length vectors."""
    prompt_length: int = 32
    """Prompt vectors per label."""
    dropout: float = 0.1
    """Dropout inside the prompt encoder."""
    train_embedding_table: bool = False
    """Train a copy of the word embeddings used to read descriptions, as the thesis does; it counts as trained."""

    def __post_init__(self) -> None:
        require(self.prompt_length >= 1, f"prompt_length must be at least 1, got {self.prompt_length}")
        require_share("dropout", self.dropout)


PROMPT_SETTINGS = frozenset(f"prompts.{name}" for name in ("pooling", "prompt_length", "train_embedding_table"))
"""Settings that :func:`prompt_variant` shows."""


def prompt_variant(config: PromptConfig) -> dict[str, str]:
    """The aspects of a variant that the injections share."""
    aspects = {"prompts": f"{config.pooling} {config.prompt_length}"}
    return aspects | ({"table": "table trained"} if config.train_embedding_table else {})


def check_span_settings(focal_gamma: float, focal_alpha: float | None, threshold: float | None) -> None:
    """Raises ``InputError`` unless the loss and the threshold of a native span approach can be these."""
    require(0 <= focal_gamma < float("inf"), f"focal_gamma must be at least 0, got {focal_gamma}")
    for name, value in (("focal_alpha", focal_alpha), ("threshold", threshold)):
        if value is not None:
            require_share(name, value)


def span_variant(labels: LabelText, focal_gamma: float, focal_alpha: float | None) -> dict[str, str]:
    """The aspects of a variant that the native span approaches share: none for names and plain cross-entropy."""
    aspects = {"labels": "descriptions"} if labels == "descriptions" else {}
    return aspects | ({"loss": "focal"} if focal_gamma or focal_alpha is not None else {})
