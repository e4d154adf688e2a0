"""Low-rank adapters on a frozen network, through peft: how they are trained, and their dropout."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from common.approach import TrainedPart
from common.errors import InputError
from common.models.config import LoraConfig

_ALL = "all-linear"
_WEIGHTS, _DROPOUT = (".lora_A", ".lora_B"), ".lora_dropout"
"""In the paths of what peft adds."""


def add_lora(network: PreTrainedModel, config: LoraConfig) -> None:
    """Puts adapters on a network's linear layers, in place; its output does not change, as they start at zero.

    W x becomes W x + alpha / rank B A x, with A (rank x inputs) random and B (outputs x rank) zero. Adapters are in
    float32 whatever the network is in.

    Raises:
        InputError: If the network has no layers of the names asked for.
    """
    import peft
    from peft.tuners.tuners_utils import cast_adapter_dtype

    named = list(config.modules)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=_ALL if named == [_ALL] else named,
    )
    # GPT-2 has its linear layers transposed, as those of a class of its own.
    linear = {name.rpartition(".")[2] for name, m in network.named_modules() if isinstance(m, (nn.Linear, Conv1D))}
    unknown = sorted(set(named) - linear - {_ALL})
    if unknown or (_ALL in named and len(named) > 1):
        raise InputError(f"--modules: {unknown or named}: the base model's linear layers are {sorted(linear)}")
    peft.inject_adapter_in_model(settings, network)
    cast_adapter_dtype(network, "default")
    # What peft adds would start in training mode.
    network.eval()


def lora_part(model: nn.Module, learning_rate: float) -> TrainedPart:
    """All adapters inside a model as one trained part."""
    paths = (path for path, _ in model.named_modules() if path.endswith(_WEIGHTS))
    return TrainedPart("adapters", tuple(paths), learning_rate)


def set_adapter_dropout(model: nn.Module, training: bool) -> None:
    """Sets the mode of the adapters' dropout, which has no weights and is thus in no trained part.

    Comes after :func:`common.approach.set_mode`.
    """
    for path, module in model.named_modules():
        if _DROPOUT in path:
            module.training = training
