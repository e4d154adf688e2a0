"""The token family on our data path: each sub-word is compared with one vector for each class, ``O`` among them.

Legend: B sentences, S sub-words, W words, C entity types, K classes, D width in which text and labels are compared.

    score(sub-word, class) = cosine(h, m_class) / temperature

Class ids are those of the label set: entity types 0..C-1, ``O`` C. Scheme BIO adds a begin class for each type, id C + 1 + type, whose
vector is the type's plus a learned offset. A word has the class of its first sub-word; runs of one type become spans.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from common.approach import Batch, Encoded, FrozenPart, TrainedPart
from common.config import require
from common.data.labels import LabelSet
from common.data.spans import OUTSIDE, ScoredSpan, Span
from common.models.base import Base
from common.models.losses import (
    IGNORED,
    class_balanced_weights,
    inverse_frequency_weights,
    token_cross_entropy,
    token_focal_loss,
)
from common.models.text_model import TEXT_BRANCH, TextModel

logger = logging.getLogger(__name__)

TokenScheme = Literal["io", "bio"]
Weighting = Literal["none", "inverse_frequency", "class_balanced"]


@dataclass(frozen=True)
class TokenConfig:
    """How sub-words are classified."""

    temperature: float = 0.05
    """Cosines are divided by it before the softmax."""
    scheme: TokenScheme = "io"
    """io: one class for each type, touching entities of one type fuse; bio: a begin class more for each type."""

    def __post_init__(self) -> None:
        require(0 < self.temperature < float("inf"), f"temperature must be positive, got {self.temperature}")


@dataclass(frozen=True)
class FocalConfig:
    """Focal loss with class-balanced weights."""

    gamma: float = 2.0
    """Focusing exponent; 0 is cross-entropy."""
    beta: float = 0.9999
    """Class-balanced weights: 0 weighs all classes alike, towards 1 they become inverse frequencies."""

    def __post_init__(self) -> None:
        require(0 <= self.gamma < float("inf"), f"gamma must be at least 0, got {self.gamma}")
        require(0 <= self.beta < 1, f"beta must be at least 0 and less than 1, got {self.beta}")


@dataclass(frozen=True)
class ClassLoss:
    """A loss over classes whose weights come from the training data."""

    weighting: Weighting = "none"
    gamma: float | None = None
    """Focal loss with this exponent; None is cross-entropy, divided by the sum of the weights."""
    beta: float = 0.0
    """Of class-balanced weights."""

    @classmethod
    def focal(cls, config: FocalConfig) -> ClassLoss:
        """Focal loss with class-balanced weights."""
        return cls("class_balanced", config.gamma, config.beta)

    def weights(self, counts: Tensor) -> Tensor:
        """Weight of each class from its occurrences, both of shape ``(K,)``."""
        if self.weighting == "inverse_frequency":
            return inverse_frequency_weights(counts)
        if self.weighting == "class_balanced":
            return class_balanced_weights(counts, self.beta)
        return torch.ones(len(counts))

    def __call__(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """The loss of logits ``(N, K)`` and targets ``(N,)``, a scalar."""
        if self.gamma is None:
            return token_cross_entropy(logits, targets, weights=weights)
        return token_focal_loss(logits, targets, gamma=self.gamma, weights=weights)


class WeightedLoss(nn.Module):
    """A class loss with the weights of its classes, 1 until :meth:`count` has seen the training data.

    The weights are no part of a checkpoint: only training needs them, and it counts anew.

    Args:
        loss: The loss.
        names: Name of each class, for the log.
    """

    def __init__(self, loss: ClassLoss, names: Sequence[str]) -> None:
        super().__init__()
        self.loss, self.names = loss, tuple(names)
        self.weights: Tensor
        self.register_buffer("weights", torch.ones(len(names)), persistent=False)

    def count(self, counts: Tensor) -> None:
        """Sets the weights from the occurrences of each class, shape ``(K,)``."""
        self.weights = self.loss.weights(counts).to(self.weights.device)
        weighed = zip(self.names, counts.tolist(), self.weights.tolist(), strict=True)
        logger.info("class weights: %s", ", ".join(f"{name} {weight:.3f} ({n:,})" for name, n, weight in weighed))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits ``(N, K)`` and targets ``(N,)``, a scalar."""
        return self.loss(logits, targets, self.weights)


def cosine_logits(vectors: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Cosines over temperature, in float32 whatever the autocast: a low temperature multiplies what half precision rounds off.

    Args:
        vectors: Shape ``(B, N, D)``.
        classes: One vector for each class, shape ``(K, D)``, or ``(B, K, D)`` where they differ between sentences.
        temperature: Divisor.

    Returns:
        Shape ``(B, N, K)``.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        vectors = nn.functional.normalize(vectors.float(), dim=-1)
        classes = nn.functional.normalize(classes.float(), dim=-1)
        return vectors @ classes.transpose(-1, -2) / temperature


def first_subwords(word_index: Tensor) -> Tensor:
    """True for the first sub-word of each word; both ``(B, S)``."""
    return (word_index > 0) & (word_index != nn.functional.pad(word_index[:, :-1], (1, 0)))


def word_spans(classes: Tensor, n_types: int) -> Tensor:
    """Maximal runs of words of one type; in BIO a begin class starts a new one, and a type after another class does too.

    Args:
        classes: Class of each word, ``O`` behind a sentence's end, int64, shape ``(B, W)``.
        n_types: C.

    Returns:
        Rows (sentence, first word, last word, type), int64, shape ``(N, 4)``, in reading order.
    """
    types = classes % (n_types + 1)
    inside = types != n_types
    before = nn.functional.pad(types[:, :-1], (1, 0), value=n_types)
    starts = inside & ((types != before) | (classes > n_types))
    ends = inside & nn.functional.pad(starts[:, 1:] | ~inside[:, 1:], (0, 1), value=True)
    first, last = starts.nonzero(), ends.nonzero()
    return torch.cat([first, last[:, 1:], types[starts].unsqueeze(1)], dim=1)


class TokenModel(TextModel):
    """Tags words by comparing their first sub-word with class vectors; ``forward`` is the loss over all sub-words.

    A subclass says what the vectors are, in :meth:`representations`.

    Args:
        base: The base model; it is used in place, not copied.
        labels: Entity types.
        config: Temperature and tag scheme.
        loss: The loss; its class weights come from the training data.
        width: D.
    """

    def __init__(self, base: Base, labels: LabelSet, config: TokenConfig, loss: ClassLoss, width: int) -> None:
        super().__init__(base, labels)
        self.temperature, self.scheme = config.temperature, config.scheme
        begins = [f"begin {name}" for name in labels.names] if config.scheme == "bio" else []
        self.loss = WeightedLoss(loss, [*labels.names, OUTSIDE, *begins])
        self.begin_offset = nn.Parameter(torch.zeros(width)) if config.scheme == "bio" else None

    def representations(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sub-word vectors ``(B, S, D)`` and the vectors of the types and ``O``, ``(C + 1, D)`` or ``(B, C + 1, D)``."""
        raise NotImplementedError

    def declare(self, parts: Sequence[TrainedPart]) -> None:
        """Declares what is trained; BIO's begin offset joins the last part."""
        *others, last = parts
        if self.begin_offset is not None:
            last = TrainedPart(last.name, (*last.modules, "begin_offset"), last.learning_rate)
        self.parts = (*others, last)
        self.eval()

    # -- data ---------------------------------------------------------------------------------------------------------

    def _targets(self, encoded: Encoded) -> Tensor:
        """The class of each sub-word, shape ``(S,)``; special tokens are ignored."""
        sentence, word_index = encoded.sentence, encoded.word_index
        classes = self.labels.word_classes(sentence.spans, len(sentence.words))
        targets = torch.tensor([IGNORED, *classes])[word_index]
        if self.scheme == "bio":
            begins = torch.zeros(len(sentence.words) + 1, dtype=torch.bool)
            begins[[span.start + 1 for span in sentence.spans]] = True
            targets[first_subwords(word_index[None])[0] & begins[word_index]] += len(self.labels) + 1
        return targets

    def _collate_targets(self, encoded: Sequence[Encoded]) -> Tensor:
        return pad_sequence([item.targets for item in encoded], True, IGNORED)

    def begin_training(self, encoded: Sequence[Encoded]) -> None:
        """Computes the class weights from all sub-words of the training sentences."""
        targets = torch.cat([item.targets for item in encoded])
        self.loss.count(torch.bincount(targets[targets != IGNORED], minlength=len(self.loss.names)))

    def oracle(self, encoded: Encoded) -> list[Span]:
        """The spans that the gold classes themselves decode to."""
        first = first_subwords(encoded.word_index[None])
        return self._spans(self._word_classes(encoded.targets[None], encoded.word_index[None], first, encoded.n_words))[
            0
        ]

    def unreachable(self, encoded: Encoded) -> dict[str, int]:
        """Gold spans that the gold classes do not decode to: behind the cut, fused with a neighbour, or on a word without sub-word."""
        lost = set(encoded.sentence.spans) - set(self.oracle(encoded))
        truncated = {span for span in lost if span.end >= encoded.n_words}
        with_subword = set(encoded.word_index.tolist())
        unread = {span for span in lost - truncated if not with_subword.issuperset(range(span.start + 1, span.end + 2))}
        # What is left can only have fused with its neighbour.
        return {
            "truncation": len(truncated),
            "touching": len(lost) - len(truncated) - len(unread),
            "no sub-word": len(unread),
        }

    # -- forward ------------------------------------------------------------------------------------------------------

    def logits(self, batch: Batch) -> Tensor:
        """Class scores of all sub-words, shape ``(B, S, K)``, float32."""
        vectors, classes = self.representations(batch)
        if self.begin_offset is not None:
            # A begin class lies beside its type, whatever the length of the type's vector.
            classes = nn.functional.normalize(classes.float(), dim=-1)
            begin = classes[..., : len(self.labels), :] + self.begin_offset
            classes = torch.cat([classes, begin], dim=-2)
        return cosine_logits(vectors, classes, self.temperature)

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch over its sub-words, a scalar in float32."""
        return self.loss(self.logits(batch).flatten(0, 1), batch.targets.flatten())

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[list[ScoredSpan]]:
        """Spans of each sentence; a span's score is the mean probability of its type over its words.

        Raises:
            RuntimeError: If the model is in training mode, where dropout would change the scores.
        """
        self._check_evaluation_mode()
        logits = self.logits(batch)
        probabilities = logits.softmax(dim=-1)
        n_types = len(self.labels)
        if self.scheme == "bio":
            # A word is of a type whether it begins there or goes on.
            probabilities = torch.cat(
                [probabilities[..., :n_types] + probabilities[..., n_types + 1 :], probabilities[..., n_types, None]],
                -1,
            )
        best = logits.argmax(dim=-1)
        word_index = batch.inputs["words_mask"]
        first, n_words = first_subwords(word_index), int(batch.n_words.max())
        classes = self._word_classes(best, word_index, first, n_words)
        of_type = probabilities.gather(-1, (best % (n_types + 1)).unsqueeze(-1)).squeeze(-1)
        scores = torch.zeros(classes.shape, dtype=torch.float64, device=classes.device)
        scores[torch.where(first)[0], word_index[first] - 1] = of_type[first].double()
        return self._spans(classes, scores)

    def _word_classes(self, classes: Tensor, word_index: Tensor, first: Tensor, n_words: int) -> Tensor:
        """The class of each word's first sub-word, ``O`` for a word without one, shape ``(B, W)``."""
        words = torch.full((len(classes), n_words), self.labels.outside_id, device=classes.device)
        words[torch.where(first)[0], word_index[first] - 1] = classes[first]
        return words

    def _spans(self, classes: Tensor, scores: Tensor | None = None) -> list[list[Any]]:
        """The spans of each sentence, with the mean of their words' scores if there are any."""
        rows = word_spans(classes, len(self.labels))
        found: list[list[Any]] = [[] for _ in range(len(classes))]
        means = [0.0] * len(rows)
        if scores is not None and len(rows):
            sums = nn.functional.pad(scores.cumsum(dim=1), (1, 0))
            sentence, start, end, _ = rows.T
            means = ((sums[sentence, end + 1] - sums[sentence, start]) / (end + 1 - start)).clamp(0, 1).tolist()
        for (sentence, start, end, label), mean in zip(rows.tolist(), means, strict=True):
            span = Span(start, end, self.labels.names[label])
            found[sentence].append(span if scores is None else ScoredSpan(span, mean))
        return found


class BiTokenModel(TokenModel):
    """A token model on a bi-encoder: class vectors are projected label vectors, text comes from the frozen text branch.

    A subclass makes the label vectors, in :meth:`label_vectors`. Where the widths agree gliner has no label projection; one is then
    put into the base model, and starts as the identity.

    Args:
        base: A bi-encoder.
        labels: Entity types.
        config: Temperature and tag scheme.
        loss: The loss.

    Raises:
        InputError: If the base has no label encoder.
    """

    def __init__(self, base: Base, labels: LabelSet, config: TokenConfig, loss: ClassLoss) -> None:
        # Raises before anything of the base is changed.
        base.part("label encoder")
        hidden = base.config.hidden_size
        if not base.has("label projection"):
            projection = nn.Linear(hidden, hidden)
            nn.init.eye_(projection.weight)
            nn.init.zeros_(projection.bias)
            base.core.token_rep_layer.labels_projection = projection
        super().__init__(base, labels, config, loss, hidden)
        self._shared_classes: Tensor | None = None

    def label_vectors(self) -> Tensor:
        """One vector for each type and ``O``, shape ``(C + 1, E)``, E the label encoder's width."""
        raise NotImplementedError

    def encode_descriptions(self) -> Tensor:
        """Mean of the label encoder's last hidden states over the sub-words of each description, shape ``(C + 1, E)``."""
        tokens = self.base.gliner.data_processor.labels_tokenizer(
            list(self.labels.label2desc.values()), return_tensors="pt", truncation=True, padding="longest"
        ).to(self.loss.weights.device)
        layer = self.core.token_rep_layer
        hidden = layer.labels_encoder(tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return layer.mean_pooling(hidden, tokens["attention_mask"])

    def representations(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Text and class vectors; the latter are computed once between two calls of ``train`` or ``eval``."""
        vectors = self._subwords(batch) if batch.features is None else batch.features
        if self.training or torch.is_grad_enabled():
            return vectors, self._classes()
        if self._shared_classes is None:
            self._shared_classes = self._classes()
        return vectors, self._shared_classes

    def _classes(self) -> Tensor:
        return self.base.part("label projection")(self.label_vectors())

    def frozen_part(self) -> FrozenPart | None:
        """The text branch."""
        if not self._reads_frozen_text():
            return None
        return FrozenPart("text encoder", "subword", self.base.config.hidden_size, TEXT_BRANCH, "", self._subwords)

    def train(self, mode: bool = True) -> BiTokenModel:
        """Sets the mode of the trained parts; frozen modules stay in evaluation mode."""
        self._shared_classes = None
        super().train(mode)
        return self
