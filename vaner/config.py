"""Configuration of VANER."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.config import DataConfig, RuntimeConfig, TrainConfig, require, require_rate, require_share, type_and_name
from common.models.config import Attention, LoraConfig, Quantization

DEFAULT_BASE = "meta-llama/Llama-2-7b-hf"
"""The paper's base model."""

Dbr = Literal["knowledge", "random", "off"]


@dataclass(frozen=True)
class Config:
    """Train VANER."""

    data: DataConfig
    train: TrainConfig = TrainConfig(epochs=20, batch_size=8, warmup_ratio=0.0, schedule="constant")
    runtime: RuntimeConfig = RuntimeConfig()
    base_model: str = DEFAULT_BASE
    """Causal language model: hub id[@revision], folder, or demo-llm."""
    attention: Attention = "bidirectional"
    """bidirectional: a word's state also depends on the words after it; causal: the control."""
    adapters: LoraConfig = LoraConfig(rank=12, alpha=32.0, dropout=0.1)
    quantization: Quantization = "none"
    """nf4: frozen weights in 4 bits, by bitsandbytes."""
    adapter_lr: float = 1e-4
    """Peak learning rate of the adapters."""
    head_lr: float = 1e-4
    """Peak learning rate of the tagging layer."""
    type_names: tuple[str, ...] = ()
    """TYPE=NAME, such as protein=Gene: what the instruction calls a type; if not given, the data set's own names."""
    name_datasets: bool = True
    """Name the data set in the instruction, as its annotators had rules of their own."""
    negatives: float = 1.0
    """Share of a training sentence's absent types to train on, drawn anew in each epoch."""
    max_length: int = 256
    """Maximum sub-words of instruction and sentence; words beyond are not read."""
    dbr: Dbr = "knowledge"
    """Dense recognition of a knowledge base's names, alongside each sentence; off: none.
    knowledge: names like the sentence's phrases, found by python -m vaner.knowledge;
    random: any names of that knowledge base, the control."""
    knowledge: tuple[str, ...] = ()
    """Folders made by python -m vaner.knowledge; if not given, those of the data sets in vaner/knowledge/."""
    dbr_weight: float = 1.0
    """Weight of the loss on names relative to that on sentences."""
    names_of_type: int = 10
    """Maximum number of names of the type asked for in a list of names."""
    names_of_others: int = 5
    """Maximum number of names of other types in a list of names."""
    redraw_names: bool = True
    """Draw new names each time a sentence is seen; off: draw them once."""
    threshold: float | None = None
    """Minimum probability of a predicted span; if not given, the best on the validation split (see --thresholds)."""

    def __post_init__(self) -> None:
        require_rate("adapter_lr", self.adapter_lr)
        require_rate("head_lr", self.head_lr)
        require_share("negatives", self.negatives)
        require(0 <= self.dbr_weight < float("inf"), f"dbr_weight must be at least 0, got {self.dbr_weight}")
        require(self.max_length >= 16, f"max_length must be at least 16, got {self.max_length}")
        for name in ("names_of_type", "names_of_others"):
            require(getattr(self, name) >= 0, f"{name} must be at least 0, got {getattr(self, name)}")
        if self.threshold is not None:
            require_share("threshold", self.threshold)
        require(
            len(self.shown_names) == len(self.type_names),
            f"--type-names: a type has two names: {' '.join(self.type_names)}",
        )

    @property
    def shown_names(self) -> dict[str, str]:
        """What the instruction calls the types that have another name there."""
        return dict(type_and_name(text, "--type-names") for text in self.type_names)
