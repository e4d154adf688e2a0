"""The contract: what the shared loop and evaluation require of an approach, its base model and its batches.

Nothing here depends on a model library. GLiNER's side of the contract is in ``common.models``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from common.data.dataset import Sentence
from common.data.labels import LabelSet
from common.data.spans import ScoredSpan, Span
from common.errors import InputError


class BaseModel(Protocol):
    """A pretrained model that an approach adapts, of whatever library."""

    @property
    def name(self) -> str:
        """Hub id or folder name, as results show it."""

    @property
    def kind(self) -> str:
        """Kind of model: ``bi`` or ``cross`` for GLiNER, another word for other families."""

    @property
    def location(self) -> str:
        """Hub id, demo name or absolute path: what loads it again from any working directory."""

    @property
    def revision(self) -> str:
        """Commit of a hub model, or ``sha256:`` of a local model's weights."""


class Encoded(Protocol):
    """One sentence, tokenised once for all epochs; what else it holds is the approach's own."""

    @property
    def sentence(self) -> Sentence:
        """The sentence, with the words that the model does not read."""

    @property
    def length(self) -> int:
        """The number of sub-words in all its inputs; sentences of similar length are batched together."""

    @property
    def n_words(self) -> int:
        """Words that the model sees, at least 1; fewer than the sentence's where it was cut."""


@dataclass(eq=False)
class Batch:
    """Sentences padded to tensors; what an approach adds are tensors, dictionaries of them, or stays on the CPU."""

    encoded: Sequence[Any]
    """The sentences, each an :class:`Encoded`."""

    def __len__(self) -> int:
        """The number of sentences."""
        return len(self.encoded)

    def pin(self) -> Self:
        """The batch in memory from which a copy to the GPU does not wait."""
        return self._map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> Self:
        """The batch with its tensors on ``device``."""
        # For Apple's GPU the copy has to be waited for: it may read memory that is free already (pytorch issue 189690).
        return self._map(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        changed: dict[str, Any] = {}
        for name in (item.name for item in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                changed[name] = function(value)
            elif isinstance(value, dict):
                changed[name] = {key: function(tensor) for key, tensor in value.items()}
        return replace(self, **changed)


@dataclass(frozen=True)
class TrainedPart:
    """Modules that are trained at one learning rate: the unit in which an approach declares what it trains."""

    name: str
    """Name of the group in logs and in the optimizer."""
    modules: tuple[str, ...]
    """Paths of modules (or single parameters) inside the approach, as in ``named_modules()``."""
    learning_rate: float
    """Peak learning rate."""
    decays: bool = True
    """Whether weight decay acts on it, biases and LayerNorms aside; not on scales, whose neutral value is not zero."""
    starts_after: int = 0
    """Epochs in which it stays frozen first; its schedule is of the steps in which it is trained, warm-up included."""


@dataclass(frozen=True)
class FrozenPart:
    """The part of the forward pass that never changes while the approach trains, so that its output can be stored."""

    name: str
    """Name in logs and cache keys."""
    width: int
    """Size of one row of its output, D."""
    modules: tuple[str, ...]
    """Paths of the modules that compute it; a path that a model does not have is skipped."""
    settings: str
    """What its output depends on besides weights, sentences and precision: configuration and pooling."""
    rows: Callable[[Any], int] = field(compare=False)
    """Number of output rows for an encoded sentence: its words, or its sub-words."""
    content: Callable[[Any], bytes] = field(compare=False)
    """Everything in an encoded sentence that its output depends on."""
    compute: Callable[[Any], Tensor] = field(compare=False)
    """Its output for a batch, shape ``(B, longest, D)``; in training, the batch's ``features`` replace it."""


class Predictor(Protocol):
    """Predicts the spans of sentences: all that evaluation needs. Implemented by an ``nn.Module``."""

    labels: LabelSet

    def encode(self, sentences: Sequence[Sentence]) -> Sequence[Any]:
        """Tokenises sentences, once for all epochs; returns an :class:`Encoded` for each."""

    def collate(self, encoded: Sequence[Any]) -> Any:
        """Pads encoded sentences to a :class:`Batch` on the CPU."""

    def predict(self, batch: Any) -> list[list[ScoredSpan]]:
        """Flat word spans of each sentence, in evaluation mode and without gradients."""

    def unreachable(self, encoded: Any) -> dict[str, int]:
        """Gold spans of the sentence that no prediction can match, counted by reason."""

    def oracle(self, encoded: Any) -> list[Span]:
        """The spans that the model would predict if every score were right: its upper bound."""


@runtime_checkable
class Approach(Predictor, Protocol):
    """A predictor that the shared loop can train: ``forward(batch)`` is its loss."""

    @property
    def parts(self) -> Sequence[TrainedPart]:
        """What is trained."""

    def forward(self, batch: Any) -> Tensor:
        """The loss, a scalar that does not grow with the batch."""

    def begin_training(self, encoded: Sequence[Any]) -> None:
        """Called once with all training sentences before the first step, for statistics that the loss needs."""

    def frozen_part(self) -> FrozenPart | None:
        """The frozen start of the forward pass that reads text only, or None if text is encoded by trained weights."""

    def named_parameters(self) -> Any:
        """As in ``nn.Module``."""


@runtime_checkable
class Keeping(Protocol):
    """A model that keeps something of its training data beside its weights; the checkpoint's record has it."""

    def kept(self) -> Any:
        """What it keeps, as JSON has it."""

    def restore(self, kept: Any) -> None:
        """Takes what a checkpoint has kept.

        Raises:
            InputError: If it is something else.
        """


@runtime_checkable
class Supplemented(Protocol):
    """A model that is trained with more than its data set; the run's record and its results say with what."""

    def supplements(self) -> list[dict[str, Any]]:
        """What that is, by content, as JSON has it; asked after ``begin_training``."""


@dataclass(frozen=True)
class Account:
    """What a predictor says of how it came to its predictions."""

    report: dict[str, Any]
    """For the result file; ``summary`` has lines for the result's page."""
    beside: dict[str, list[list[ScoredSpan]]]
    """Other predictions of the same sentences by name, to be scored beside the main ones."""
    stored_seconds: float
    """What those parts of the predictions took that a process before this one had made."""


@runtime_checkable
class Accounting(Protocol):
    """A predictor that gives an account; its predictions are dear, so they are timed without a warm-up."""

    def begin_account(self) -> None:
        """Called before the predictions."""

    def account(self, encoded: Sequence[Any]) -> Account:
        """The account of the predictions of sentences; with several processes, of all of theirs."""


def refuse_nan(scores: Tensor, encoded: Sequence[Any]) -> None:
    """Raises ``InputError`` if scores of a batch's sentences are no numbers.

    Every comparison with one is false: a model that overflows in half precision would find nothing, without a word.
    """
    if bool(scores.isnan().any()):
        shown = "; ".join(" ".join(item.sentence.words[:8]) for item in list(encoded)[:4])
        raise InputError(
            f"scores of {len(encoded)} sentences are no numbers ({shown} ...); use --precision fp32, or lower rates"
        )


def declared_parameters(model: nn.Module, parts: Sequence[TrainedPart]) -> dict[str, dict[str, nn.Parameter]]:
    """The parameters of each part by name, in the model's order; of nested paths, the longest owns the parameter.

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
    modules = dict(model.named_modules())
    for module in modules.values():
        # A layer with gradient checkpointing looks at its own mode only; the dropout inside it stays off.
        checkpointed = bool(getattr(module, "gradient_checkpointing", False))
        # cuDNN computes the gradient through a recurrent layer in train mode alone; without dropout it is the same.
        undropped = isinstance(module, nn.RNNBase) and (module.num_layers == 1 or not module.dropout)
        module.training = training and (checkpointed or undropped)
    for part in parts:
        for path in part.modules:
            if path in modules:
                modules[path].train(training)
    model.training = training


def parameter_count(parameter: nn.Parameter) -> int:
    """The number of weights in a parameter; 4-bit quantisation packs two of them into each byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """The numbers of trainable and of all weights; tied ones count once, quantised ones as the weights they encode."""
    counts = [(parameter_count(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, trained in counts if trained), sum(count for count, _ in counts)
