"""Computes a causal language model's memory in training and inference: ``python -m common.models.memory``.

It counts what torch allocates on the device; CUDA's own context (about half a GiB) and fragments come on top. Weights
in 4 bits: Dettmers et al. 2023, "QLoRA", arXiv 2305.14314, section 3 (blocks of 64, constants of 8 bits in blocks of
256). Optimizer: Loshchilov and Hutter 2019, two moments. Activations: what the backward pass of a Llama block (Touvron
et al. 2023, arXiv 2302.13971) with frozen weights keeps, counted tensor by tensor as Korthikanti et al. 2022, arXiv
2205.05198, do for trained ones; with gradient checkpointing (Chen et al. 2016, arXiv 1604.06174) the input of each
block and all of one block. Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from common.config import Optimizer, parse, require
from common.errors import InputError
from common.files import put_between_markers
from common.models.config import LoraConfig, Quantization
from common.schema import Positive, read_record
from common.script import run_script

GIB = 2**30
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in 4 bits with double quantisation: QLoRA's 0.127 bits beside the four."""
_STATES: dict[Optimizer, float] = {"adamw": 8, "paged_adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2}
"""Bytes of the optimizer's state of a weight."""


class _Llama(TypedDict):
    """What a model's ``config.json`` has to say."""

    vocab_size: Positive
    hidden_size: Positive
    intermediate_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    head_dim: NotRequired[Positive | None]
    tie_word_embeddings: NotRequired[bool]


@dataclass(frozen=True)
class Shape:
    """The shape of a Llama: what of its configuration decides about memory."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    tie_word_embeddings: bool = False

    @property
    def key_width(self) -> int:
        """Width of keys and of values."""
        return self.hidden_size // self.num_attention_heads * self.num_key_value_heads

    def linear(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers of a block."""
        wide, inner, keys = self.hidden_size, self.intermediate_size, self.key_width
        return {
            "q_proj": (wide, wide), "k_proj": (wide, keys), "v_proj": (wide, keys), "o_proj": (wide, wide),
            "gate_proj": (wide, inner), "up_proj": (wide, inner), "down_proj": (inner, wide),
        }  # fmt: skip


PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": Shape(32_000, 4096, 11_008, 32, 32, 32),
    "meta-llama/Llama-2-13b-hf": Shape(32_000, 5120, 13_824, 40, 40, 40),
    "meta-llama/Llama-3.1-8B-Instruct": Shape(128_256, 4096, 14_336, 32, 32, 8),
}
"""Shapes out of the configurations of models that ask for a licence before they can be loaded."""


@dataclass(frozen=True)
class Memory:
    """Bytes, by what they are for."""

    weights: float
    adapters: float
    optimizer: float = 0.0
    """Gradients and states."""
    activations: float = 0.0
    output: float = 0.0
    """Logits and their gradient."""
    cache: float = 0.0
    """Keys and values."""

    @property
    def total(self) -> float:
        """All of them."""
        return float(sum(dataclasses.astuple(self)))


@dataclass(frozen=True)
class MemoryConfig:
    """Compute a causal language model's memory in training and inference from its configuration."""

    base_model: tuple[str, ...] = tuple(PUBLISHED)
    """Folders with a config.json, or names of published models whose shape is known."""
    quantization: Quantization = "nf4"
    """nf4: frozen weights in 4 bits; none: in 16 bits."""
    adapters: LoraConfig = LoraConfig()
    rows: int = 16
    """Rows per forward pass in training."""
    predicted_rows: int = 32
    """Rows that are predicted, or whose answers are generated, together."""
    tokens: int = 128
    """Tokens per row, including its answer."""
    answer: int = 0
    """Tokens per answer, for a model that generates; 0: without the output layer."""
    optimizer: Optimizer = "adamw"
    """Optimizer, as in training."""
    gpu_gib: float = 24.0
    """Memory of the GPU, in GiB."""
    output: Path | None = None
    """Also put the table into this Markdown file, between the markers <!-- memory --> and <!-- /memory -->."""

    def __post_init__(self) -> None:
        require(bool(self.base_model), "--base-model needs at least one value")
        for name in ("rows", "predicted_rows", "tokens"):
            value = getattr(self, name)
            require(1 <= value <= 2**32, f"{name} must be between 1 and 2^32, got {value}")
        require(self.adapters.rank <= 2**32, f"rank must be between 1 and 2^32, got {self.adapters.rank}")
        layers = ["all-linear", *next(iter(PUBLISHED.values())).linear()]
        unknown = sorted(set(self.adapters.modules) - {*layers})
        require(not unknown, f"--modules: {unknown}: the layers of a Llama's blocks are {layers[1:]}")
        require(0 < self.gpu_gib < float("inf"), f"gpu_gib must be positive, got {self.gpu_gib}")
        require(0 <= self.answer < self.tokens, f"answer must be from 0 to below {self.tokens}, got {self.answer}")


def shape_of(source: str) -> Shape:
    """The shape of a model.

    Raises:
        InputError: If it is no folder with a configuration of a Llama's form, and no known name.
    """
    if source in PUBLISHED:
        return PUBLISHED[source]
    path = Path(source) / "config.json"
    if not path.is_file():
        raise InputError(f"--base-model {source!r}: no folder with a config.json, and none of {list(PUBLISHED)}")
    values = read_record(path, _Llama)
    shape = Shape(**{field.name: values[field.name] for field in dataclasses.fields(Shape) if field.name in values})
    width, heads = shape.hidden_size, shape.num_attention_heads
    if width % heads or values.get("head_dim") not in (None, width // heads):
        raise InputError(
            f"{path}: head_dim {values.get('head_dim')}: a Llama's {heads} num_attention_heads share its hidden_size "
            f"{width} evenly"
        )
    return shape


def weights(shape: Shape, adapters: LoraConfig, quantization: Quantization, size: float, output: bool) -> Memory:
    """Bytes of frozen weights and of adapters, which are in 4 bytes.

    Args:
        shape: The model's.
        adapters: Rank and layers.
        quantization: Of the linear layers of blocks.
        size: Bytes of a weight that is not quantised.
        output: With the layer that predicts the next token.
    """
    linear = shape.num_hidden_layers * sum(wide * out for wide, out in shape.linear().values())
    tables = 1 + (output and not shape.tie_word_embeddings)
    rest = tables * shape.vocab_size * shape.hidden_size + (2 * shape.num_hidden_layers + 1) * shape.hidden_size
    ranks = sum(sum(sides) for name, sides in shape.linear().items() if _adapted(name, adapters))
    return Memory(
        weights=linear * (_NF4 if quantization == "nf4" else size) + rest * size,
        adapters=4 * shape.num_hidden_layers * adapters.rank * ranks,
    )


def training(
    shape: Shape,
    adapters: LoraConfig,
    *,
    rows: int,
    tokens: int,
    answer: int = 0,
    quantization: Quantization = "none",
    optimizer: Optimizer = "adamw",
    checkpointing: bool = False,
    size: float = 2,
    mask: float = 1,
) -> Memory:
    """Bytes at the end of a forward pass, when they are most.

    Args:
        shape: The model's.
        adapters: Adapters.
        rows: Rows in a forward pass.
        tokens: Tokens of each.
        answer: Tokens whose logits the loss needs; 0: no output layer.
        quantization: Of the linear layers.
        optimizer: The optimizer.
        checkpointing: Whether blocks are computed twice.
        size: Bytes of a number in the forward pass.
        mask: Bytes of a number in a dropout's mask; on a CPU it is as long as ``size``.
    """
    fixed = weights(shape, adapters, quantization, size, output=answer > 0)
    block = rows * tokens * _kept_by_block(shape, adapters, size, mask)
    inputs = rows * tokens * shape.num_hidden_layers * size * shape.hidden_size
    return dataclasses.replace(
        fixed,
        optimizer=fixed.adapters / 4 * (4 + _STATES[optimizer]),
        activations=inputs + block if checkpointing else shape.num_hidden_layers * block,
        # Logits, the same in float32, their logarithms, and the gradient of these.
        output=rows * answer * shape.vocab_size * (size + 12),
    )


def inference(
    shape: Shape, adapters: LoraConfig, *, rows: int, tokens: int, answer: int = 0,
    quantization: Quantization = "none", size: float = 2,
) -> Memory:  # fmt: skip
    """As :func:`training`, for predictions: no gradient, but keys and values where an answer is generated."""
    fixed = weights(shape, adapters, quantization, size, output=answer > 0)
    # The feed-forward part has most at a time: its input, gate, its activation and what is multiplied with it.
    widest = size * (2 * shape.hidden_size + 3 * shape.intermediate_size)
    cached = 2 * size * shape.key_width * shape.num_hidden_layers if answer else 0
    return dataclasses.replace(
        fixed,
        activations=rows * tokens * widest,
        output=rows * shape.vocab_size * (size + 12) if answer else 0,
        cache=rows * tokens * cached,
    )


def _kept_by_block(shape: Shape, adapters: LoraConfig, size: float, mask: float) -> float:
    """Bytes of a token that a block keeps for its backward pass."""
    wide, inner = shape.hidden_size, shape.intermediate_size
    # Each of the two norms: what it is of, in float32. Attention: queries, keys and values repeated for all heads, its
    # result. Feed-forward part: gate, its activation, and what is multiplied with it.
    kept = 2 * 4 * wide + 4 * size * wide + 3 * size * inner
    inputs = 0.0
    # Layers of one group have one input; dropout makes it another one for each, with a mask.
    for group in (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)):
        own = [name for name in group if _adapted(name, adapters)]
        numbers = shape.linear()[group[0]][0]
        kept += len(own) * size * adapters.rank
        inputs += numbers * (len(own) * (size + mask) if adapters.dropout else bool(own) * size)
    return kept + inputs


def _adapted(name: str, adapters: LoraConfig) -> bool:
    return "all-linear" in adapters.modules or name in adapters.modules


def table(config: MemoryConfig) -> str:
    """A Markdown table: a row for each model and use."""
    size: Any = {"tokens": config.tokens, "answer": config.answer, "quantization": config.quantization}
    lines = [
        f"GiB for {config.rows} rows of {config.tokens} tokens in training, {config.predicted_rows} in inference, "
        f"{config.quantization}, rank {config.adapters.rank} on "
        f"{' '.join(config.adapters.modules)}:",
        "",
        f"| base | use | weights | adapters, optimizer | activations | logits | cache | sum | {config.gpu_gib:g} GiB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name in config.base_model:
        shape = shape_of(name)
        uses = {
            what: training(
                shape, config.adapters, rows=config.rows, optimizer=config.optimizer, checkpointing=again, **size
            )
            for what, again in (("training", False), ("training, gradient checkpointing", True))
        } | {"inference": inference(shape, config.adapters, rows=config.predicted_rows, **size)}
        for use, found in uses.items():
            parts = (found.weights, found.adapters + found.optimizer, found.activations, found.output, found.cache)
            cells = [f"{value / GIB:.2f}" for value in (*parts, found.total)]
            # Half a GiB is CUDA's own.
            fits = "fits" if found.total / GIB + 0.5 <= config.gpu_gib else "too large"
            lines.append(f"| {name} | {use} | {' | '.join(cells)} | {fits} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> str:
    """Prints the table."""
    config = parse(MemoryConfig, argv)
    text = table(config)
    if config.output is not None:
        put_between_markers(config.output, "memory", text)
    print(text, end="")
    return text


if __name__ == "__main__":
    run_script(main)
