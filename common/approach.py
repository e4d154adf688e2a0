"""What the shared loop and the shared evaluation ask of an approach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from common.data.dataset import Sentence
from common.data.labels import LabelSet
from common.data.spans import ScoredSpan, Span


@dataclass(frozen=True, eq=False)
class Encoded:
    """One sentence, tokenised once; S sub-words."""

    sentence: Sentence
    input_ids: Tensor
    """Sub-word ids with special tokens, int32, shape ``(S,)``."""
    word_index: Tensor
    """For each sub-word the 1-based word that it stands for, 0 for none (GLiNER's ``words_mask``), int32, shape ``(S,)``."""
    n_words: int
    """Words that the model sees; fewer than the sentence's where it was cut."""
    targets: Tensor
    """What the approach trains on, int64; its layout is the approach's own."""


@dataclass(eq=False)
class Batch:
    """Padded sentences; B of them, S sub-words, W words."""

    encoded: Sequence[Encoded]
    inputs: dict[str, Tensor]
    """Model inputs by gliner's names: ``input_ids``, ``attention_mask``, ``words_mask``, each ``(B, S)``."""
    n_words: Tensor
    """Words of each sentence, int64, shape ``(B,)``."""
    targets: Tensor
    """Training targets, the approach's own layout."""
    features: Tensor | None = None
    """Output of the approach's frozen part for these sentences, if it was computed before; shape ``(B, W or S, D)``."""

    def __len__(self) -> int:
        """The number of sentences."""
        return len(self.encoded)

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on ``device``."""
        return Batch(
            encoded=self.encoded,
            inputs={name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()},
            n_words=self.n_words.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            features=None if self.features is None else self.features.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class TrainedPart:
    """A group of modules that is trained at one learning rate; the unit in which an approach declares what it trains."""

    name: str
    """Name of the group in logs and in the optimizer."""
    modules: tuple[str, ...]
    """Paths of modules (or single parameters) inside the approach, as in ``named_modules()``."""
    learning_rate: float
    """Peak learning rate."""


@dataclass(frozen=True)
class FrozenPart:
    """The part of the forward pass that never changes while the approach trains, so that its output can be stored."""

    name: str
    """What it is, for logs and cache keys."""
    unit: str
    """``word`` or ``subword``: what one row of its output stands for."""
    width: int
    """Size of one row, D."""
    modules: tuple[str, ...]
    """Paths of the modules that compute it; those that a model lacks are none."""
    settings: str
    """What else its output depends on beside weights, tokens and precision."""
    compute: Callable[[Batch], Tensor] = field(compare=False)
    """Its output for a batch, shape ``(B, W or S, D)``; ``Batch.features`` takes its place."""


class Predictor(Protocol):
    """Tags sentences with spans: all that evaluation needs. Implemented by an ``nn.Module``."""

    labels: LabelSet

    def encode(self, sentences: Sequence[Sentence]) -> list[Encoded]:
        """Tokenises sentences, once for all epochs."""

    def collate(self, encoded: Sequence[Encoded]) -> Batch:
        """Pads sentences to a batch on the CPU."""

    def predict(self, batch: Batch) -> list[list[ScoredSpan]]:
        """Flat word spans of each sentence, in evaluation mode and without gradients."""

    def unreachable(self, encoded: Encoded) -> dict[str, int]:
        """Gold spans of the sentence that no prediction can match, counted by reason."""

    def oracle(self, encoded: Encoded) -> list[Span]:
        """What the model's output would say of the sentence if every score were right: its ceiling."""


@runtime_checkable
class Approach(Predictor, Protocol):
    """A predictor that the shared loop can train: ``forward(batch)`` is its loss."""

    @property
    def parts(self) -> Sequence[TrainedPart]:
        """What is trained."""

    def forward(self, batch: Batch) -> Tensor:
        """The loss, a scalar that does not grow with the batch."""

    def begin_training(self, encoded: Sequence[Encoded]) -> None:
        """Called once before the first step with all training sentences, for what the loss needs to know of them."""

    def frozen_part(self) -> FrozenPart | None:
        """The frozen start of the forward pass that reads text only, or None if text is encoded by trained weights."""

    def named_parameters(self) -> Any:
        """As ``nn.Module`` has it."""


def declared_parameters(model: nn.Module, parts: Sequence[TrainedPart]) -> dict[str, dict[str, nn.Parameter]]:
    """The parameters of each part by name, in the model's order; where paths nest, the longer one has the parameter.

    Raises:
        ValueError: If a declared path matches no parameter, or two parts declare the same path.
    """
    owner: dict[str, str] = {}
    for part in parts:
        for path in part.modules:
            if path in owner:
                raise ValueError(f"{path!r} is declared by part {owner[path]!r} and by part {part.name!r}")
            owner[path] = part.name
    found: dict[str, dict[str, nn.Parameter]] = {part.name: {} for part in parts}
    matched = set()
    for name, parameter in model.named_parameters():
        paths = [path for path in owner if name == path or name.startswith(f"{path}.")]
        matched.update(paths)
        if paths:
            found[owner[max(paths, key=len)]][name] = parameter
    for path, part_name in owner.items():
        if path not in matched:
            raise ValueError(f"trained part {part_name!r}: {path!r} matches no parameter of the model")
    return found


def freeze_all_but(model: nn.Module, parts: Sequence[TrainedPart]) -> dict[str, nn.Parameter]:
    """Freezes every parameter that no part declares; returns the trained ones by name, in the model's order.

    Raises:
        ValueError: As :func:`declared_parameters`.
    """
    declared = {name for parameters in declared_parameters(model, parts).values() for name in parameters}
    trained = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in declared)
        if name in declared:
            trained[name] = parameter
    return trained


def set_mode(model: nn.Module, parts: Sequence[TrainedPart], training: bool) -> None:
    """Puts trained modules in train or evaluation mode; frozen ones stay in evaluation mode, without dropout.

    A frozen encoder then gives the same output in every epoch, which is what makes its output storable.
    """
    for module in model.modules():
        module.training = False
    modules = dict(model.named_modules())
    for part in parts:
        for path in part.modules:
            if path in modules:
                modules[path].train(training)
    model.training = training


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, total) parameters, nothing left out; shared parameters count once."""
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return trainable, sum(parameter.numel() for parameter in model.parameters())
