"""Configuration of NERLlama3.1."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from common.config import DataConfig, RuntimeConfig, TestConfig, TrainConfig, require, require_rate, require_share
from common.models.config import LoraConfig, Quantization

DEFAULT_BASE = "meta-llama/Llama-3.1-8B-Instruct"
"""The paper's base model."""

Form = Literal["single", "multi"]
LossOn = Literal["answer", "all"]
ExamplesFrom = Literal["training", "own", "none"]


@dataclass(frozen=True)
class SamplingConfig:
    """How answers are sampled."""

    temperature: float = 1.0
    """Sampling temperature."""
    top_p: float = 0.95
    """Draw each token from the fewest tokens that together have this probability."""
    top_k: int = 30
    """Draw each token from this many of the likeliest; 0: from all."""
    sampling_seed: int = 42
    """Seed of the samples."""

    def __post_init__(self) -> None:
        require(0 < self.temperature < float("inf"), f"temperature must be positive, got {self.temperature}")
        require(0 < self.top_p <= 1, f"top_p must be above 0 and at most 1, got {self.top_p}")
        require(self.top_k >= 0, f"top_k must be at least 0, got {self.top_k}")
        require(self.sampling_seed >= 0, f"sampling_seed must be at least 0, got {self.sampling_seed}")


@dataclass(frozen=True)
class Config:
    """Train NERLlama3.1."""

    data: DataConfig
    train: TrainConfig = TrainConfig(epochs=5, batch_size=4, schedule="cosine")
    runtime: RuntimeConfig = RuntimeConfig()
    base_model: str = DEFAULT_BASE
    """Causal language model: hub id[@revision], folder, or demo-llm."""
    quantization: Quantization = "none"
    """nf4: frozen weights in 4 bits, by bitsandbytes (QLoRA, as in the paper)."""
    adapters: LoraConfig = LoraConfig(
        rank=64, alpha=16.0, dropout=0.1, modules=("q_proj", "k_proj", "v_proj", "o_proj")
    )
    adapter_lr: float = 2e-5
    """Peak learning rate of the adapters; the default is the paper's, for an 8B model. Small models need more."""
    form: Form = "single"
    """single: one prompt for each type of a data set; multi: one prompt for all types."""
    loss: LossOn = "answer"
    """answer: the model learns only the answer; all: it learns the prompt too, as in the paper's code."""
    training_shots: int = 5
    """Examples in a training prompt, from the training split, different for each sentence."""
    shots: int = 3
    """Examples in a prompt to be answered, from the training split, the same for all sentences."""
    max_sentence: int = 256
    """Maximum tokens of a sentence; words beyond are not read."""
    max_length: int = 2048
    """Maximum tokens of a prompt with its answer; examples that do not fit are left out."""
    samples: int = 0
    """Sampled answers, besides the greedy one, whose votes decide; 0: the greedy answer decides.
    Validation during training is always greedy."""
    vote: float = 0.5
    """Minimum share of the valid samples that must contain a span."""
    sampling: SamplingConfig = SamplingConfig()
    rows: int = 32
    """Answers to generate together."""
    threshold: float | None = None
    """Minimum mean probability of an entity's tokens in the greedy answer; 0: every marked entity, as in the paper.
    If not given, the best one on the validation split after training."""

    def __post_init__(self) -> None:
        require_rate("adapter_lr", self.adapter_lr)
        require(
            self.form == "single" or len(self.data.dataset) == 1,
            "--form multi asks for all types in one prompt; on several data sets each type has its own: --form single",
        )
        for name, least in (("training_shots", 0), ("shots", 0), ("samples", 0), ("rows", 1), ("max_sentence", 1)):
            require(getattr(self, name) >= least, f"{name} must be at least {least}, got {getattr(self, name)}")
        require_share("vote", self.vote)
        if self.threshold is not None:
            require_share("threshold", self.threshold)
            require(not self.samples, "--threshold is that of the greedy answer; with --samples it is --vote")


@dataclass(frozen=True)
class Options(TestConfig):
    """Test a trained checkpoint, on its own corpus or on one it has not seen."""

    samples: int | None = None
    """Sampled answers whose votes decide; 0: the greedy answer decides. If not given, the checkpoint's own."""
    vote: float | None = None
    """Minimum share of the valid samples that must contain a span; if not given, the checkpoint's own."""
    temperature: float | None = None
    """Sampling temperature; if not given, the checkpoint's own, like the next three."""
    top_p: float | None = None
    """Draw each token from the fewest tokens that together have this probability."""
    top_k: int | None = None
    """Draw each token from this many of the likeliest; 0: from all."""
    sampling_seed: int | None = None
    """Seed of the samples."""
    unseen: bool = False
    """Allow a data set with types other than those trained on; the result says so."""
    examples: ExamplesFrom = "training"
    """Where the prompts' examples come from. training: the checkpoint's own training data;
    own: the tested data set's training split; none: no examples."""
    shots: int | None = None
    """Examples in a prompt; if not given, the checkpoint's --shots, the most that it keeps of its own."""
    rows: int | None = None
    """Answers to generate together; if not given, the checkpoint's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.samples is None or self.samples >= 0, f"samples must be at least 0, got {self.samples}")
        require(self.shots is None or self.shots >= 0, f"shots must be at least 0, got {self.shots}")
        require(self.rows is None or self.rows >= 1, f"rows must be at least 1, got {self.rows}")
        if self.vote is not None:
            require_share("vote", self.vote)
        self.sampling(SamplingConfig())

    def sampling(self, own: SamplingConfig) -> SamplingConfig:
        """How samples are drawn: as a checkpoint draws them, but for what is given."""
        given = {field.name: getattr(self, field.name) for field in fields(own)}
        return replace(own, **{name: value for name, value in given.items() if value is not None})
