"""LoRA and its relatives in GLiNER's encoders, by peft; everything else of the base model is frozen but the span head.

Each method changes the linear layers W of frozen encoders by a few trained weights; x is a layer's input. All start
from the base model as it is, and all but BitFit, which has nothing to merge, can be merged into W.

========  ==============================================  ==========================================================
lora      (W + alpha/r B A) x, B zero at first            Hu et al. 2021, arXiv:2106.09685, eq. 3
rslora    the same, scaled by alpha/sqrt(r)               Kalajdzievski 2023, arXiv:2312.03732
dora      m V / ||V|| x, V = W + alpha/r B A, m = ||W||   Liu et al. 2024, arXiv:2402.09353, eq. 5; norms of V's rows
loha      (W + alpha/r (B1 A1 * B2 A2)) x                 Hyeon-Woo et al. 2022 (FedPara), arXiv:2108.06098
lokr      (W + alpha/r C (x) B A) x, a Kronecker product  Yeh et al. 2024 (LyCORIS), arXiv:2309.14859
ia3       l * (W x) of keys and values, W (l * x) of the  Liu et al. 2022, arXiv:2205.05638, section 3.3
          feed-forward output; l one at first
bitfit    the encoder's own biases are trained            Ben Zaken et al. 2022, arXiv:2106.10199
========  ==============================================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, PeftConfig
from peft.functional import inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from common.approach import TrainedPart
from common.config import require
from common.data.labels import LabelSet
from common.models.base import Base
from common.models.span_model import SpanModel
from lora.config import Config

KEYS_AND_VALUES = frozenset(f"{name}{end}" for name in ("k", "v", "key", "value") for end in ("", "_proj", "_lin"))
"""What transformers' encoders call the two layers."""
HEAD = ("core.span_rep_layer", "core.prompt_rep_layer")
SCALES = frozenset({"ia3_l", "lora_magnitude_vector"})
"""Parameters of peft that multiply: their neutral value is not zero, so nothing may pull them there."""


class AdaptedModel(SpanModel):
    """A span model with adapters in its encoders."""

    noisy: tuple[nn.Module, ...] = ()
    """Encoders whose own dropout acts in training."""

    def train(self, mode: bool = True) -> AdaptedModel:
        """Sets the mode of the trained parts, of the adapters with their dropout and of noisy encoders."""
        super().train(mode)
        for encoder in self.noisy:
            encoder.train(mode)
        for _, layer in adapted_layers(self):
            layer.train(mode)
            layer.get_base_layer().eval()
        return self


def build(config: Config, base: Base, labels: LabelSet) -> AdaptedModel:
    """The base model with adapters put into its encoders, and the trained parts declared.

    Raises:
        InputError: If the base has no such encoder, or an encoder has no such layers or no biases.
    """
    targets = ("text", "label") if config.target == "both" else (config.target,)
    encoders = {target: base.part(f"{target} encoder").model for target in targets}
    if config.method == "bitfit":
        trained = {target: bias_paths(encoder) for target, encoder in encoders.items()}
    else:
        trained = {}
        for target, layers in chosen_layers(config, encoders).items():
            inject_adapter_in_model(adapter_config(config, layers), encoders[target])
            trained[target] = adapter_paths(encoders[target])
    for target, paths in trained.items():
        require(bool(paths), f"--method {config.method}: the {target} encoder of {base.source!r} has no biases")
    model = AdaptedModel(
        base,
        labels,
        labels.texts(config.labels),
        focal_gamma=config.focal_gamma,
        focal_alpha=config.focal_alpha,
        threshold=config.threshold,
        word_dropout=config.word_dropout,
    )
    model.noisy = tuple(encoders.values()) if config.encoder_dropout else ()
    inside = [f"{model.path_of(encoders[target])}.{path}" for target, paths in trained.items() for path in paths]
    scales = tuple(path for path in inside if path.rpartition(".")[2] in SCALES)
    adapters = tuple(path for path in inside if path not in scales)
    rate = float(config.adapter_lr or 0)
    parts = [TrainedPart("adapters", adapters, rate)] if adapters else []
    parts += [TrainedPart("scales", scales, rate, decays=False)] if scales else []
    parts += [TrainedPart("head", HEAD, config.head_lr)] if config.head else []
    model.declare(*parts)
    return model


def chosen_layers(config: Config, encoders: Mapping[str, nn.Module]) -> dict[str, dict[str, nn.Linear]]:
    """The linear layers to adapt in each encoder, by path.

    Raises:
        InputError: If a name that was asked for is that of no layer, or an encoder has none to adapt.
    """
    there = {target: block_layers(encoder) for target, encoder in encoders.items()}
    every = [path for layers in there.values() for path in layers]
    known = sorted({path.rpartition(".")[2] for path in every})
    for name in config.modules:
        require(
            any(_is(path, name) for path in every), f"--modules: no linear layer is called {name!r}; there are {known}"
        )
    chosen = {}
    for target, layers in there.items():
        if config.modules:
            wanted = [path for path in layers if any(_is(path, name) for name in config.modules)]
        elif config.method == "ia3":
            wanted = [path for path, layer in layers.items() if _is_key_or_value(path) or _is_feedforward(path, layer)]
            # Encoders with one layer for queries, keys and values have no scales of keys and values.
            wanted = wanted if any(map(_is_key_or_value, wanted)) else []
        else:
            wanted = list(layers)
        require(
            bool(wanted),
            f"--method {config.method}: the {target} encoder has no layers for it; name some of {known} with --modules",
        )
        chosen[target] = {path: layers[path] for path in wanted}
    return chosen


def block_layers(encoder: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of an encoder's attention and feed-forward blocks, by path.

    Blocks are what stands in a list of modules: poolers and projections of embeddings do not.
    """
    blocks = tuple(f"{path}." for path, module in encoder.named_modules() if isinstance(module, nn.ModuleList))
    return {
        path: module
        for path, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and path.startswith(blocks)
    }


def adapter_config(config: Config, layers: Mapping[str, nn.Linear]) -> PeftConfig:
    """What peft needs to know to adapt some layers."""
    paths: Any = list(layers)
    rank, alpha = config.rank or 0, config.alpha or 0
    if config.method == "ia3":
        feedforward: Any = [path for path, layer in layers.items() if _is_feedforward(path, layer)]
        return IA3Config(target_modules=paths, feedforward_modules=feedforward)
    if config.method == "loha":
        return LoHaConfig(target_modules=paths, r=rank, alpha=alpha)
    if config.method == "lokr":
        return LoKrConfig(target_modules=paths, r=rank, alpha=alpha)
    return LoraConfig(
        target_modules=paths,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=config.dropout or 0.0,
        use_dora=config.method == "dora",
        use_rslora=config.method == "rslora",
    )


def adapted_layers(module: nn.Module) -> list[tuple[str, Any]]:
    """The layers inside a module that peft has put an adapter around, with their paths."""
    return [(path, layer) for path, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)]


def adapter_paths(encoder: nn.Module) -> list[str]:
    """Paths of the adapters' own parameters: all of an adapted layer's but those of the layer that it changes."""
    return [
        f"{path}.{name}"
        for path, layer in adapted_layers(encoder)
        for name, child in layer.named_children()
        if child is not layer.get_base_layer() and any(True for _ in child.parameters())
    ]


def bias_paths(encoder: nn.Module) -> list[str]:
    """Paths of an encoder's biases, those of LayerNorms among them; a pooler takes no part in the forward pass."""
    return [
        path
        for path, _ in encoder.named_parameters()
        if path.rpartition(".")[2] == "bias" and "pooler" not in path.split(".")
    ]


def merge(base: Base) -> None:
    """Merges the adapters into the layers that they change, which then are plain layers again."""
    for path, layer in adapted_layers(base.core):
        layer.merge(safe_merge=True)
        base.core.set_submodule(path, layer.get_base_layer())


def _is(path: str, name: str) -> bool:
    return f".{path}".endswith(f".{name}")


def _is_key_or_value(path: str) -> bool:
    return path.rpartition(".")[2] in KEYS_AND_VALUES


def _is_feedforward(path: str, layer: nn.Linear) -> bool:
    """Whether a layer is the second of a feed-forward block, which reads its activations."""
    return layer.in_features > layer.out_features and "att" not in path.lower()
