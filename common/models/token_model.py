"""The token family on our data path: each sub-word is compared with one vector per class, including ``O``.

Legend: B sentences, S sub-words, W words, C entity types, K classes, D width in which text and labels are compared.

    score(sub-word, class) = cosine(h, m_class) / temperature

Class ids are those of the label set: entity types 0..C-1, ``O`` C. Scheme BIO adds a begin class for each type, id
C + 1 + type, whose vector is the type's plus a learned offset. A word takes the class of its first sub-word; runs of
one type become spans.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from common.approach import FrozenPart, TrainedPart, refuse_nan
from common.data.labels import LabelSet
from common.data.spans import OUTSIDE, ScoredSpan, Span
from common.errors import InputError
from common.models.base import Base
from common.models.config import FocalConfig, TokenConfig
from common.models.losses import (
    IGNORED,
    class_balanced_weights,
    inverse_frequency_weights,
    token_cross_entropy,
    token_focal_loss,
)
from common.models.text_model import EncodedWords, TextModel, WordBatch, encode_text

logger = logging.getLogger(__name__)

Weighting = Literal["inverse_frequency", "class_balanced"]


@dataclass(frozen=True)
class ClassLoss:
    """A loss over classes whose weights come from the training data."""

    weighting: Weighting
    gamma: float | None = None
    """Focal loss with this exponent; None is cross-entropy, divided by the sum of the weights."""
    beta: float = 0.0
    """Parameter of class-balanced weights."""

    @classmethod
    def focal(cls, config: FocalConfig) -> ClassLoss:
        """Focal loss with class-balanced weights."""
        return cls("class_balanced", config.gamma, config.beta)

    def weights(self, counts: Tensor) -> Tensor:
        """Weight of each class from its occurrences, both of shape ``(K,)``."""
        if self.weighting == "inverse_frequency":
            return inverse_frequency_weights(counts)
        return class_balanced_weights(counts, self.beta)

    def __call__(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """The loss of logits ``(N, K)`` and targets ``(N,)``, a scalar."""
        if self.gamma is None:
            return token_cross_entropy(logits, targets, weights=weights)
        return token_focal_loss(logits, targets, gamma=self.gamma, weights=weights)


class WeightedLoss(nn.Module):
    """A class loss with the weights of its classes, 1 until :meth:`count` has seen the training data.

    The weights are not part of a checkpoint: only training needs them, and it counts again.

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
    """Cosines over temperature, in float32 even under autocast.

    A low temperature would multiply the rounding errors of half precision.

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
    """Maximal runs of words of one type; in BIO, a begin class always starts a new run.

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


class Comparison(Protocol):
    """Makes the vectors that a token model compares; an ``nn.Module``."""

    width: int
    """D."""

    def __call__(self, batch: WordBatch) -> tuple[Tensor, Tensor]:
        """Vectors of sub-words ``(B, S, D)`` and of types and ``O``, ``(C + 1, D)`` or ``(B, C + 1, D)``."""


class TokenModel(TextModel):
    """Tags words by comparing their first sub-word with class vectors; ``forward`` is the loss over all sub-words.

    Args:
        base: The base model; it is used in place, not copied.
        labels: Entity types.
        config: Temperature and tag scheme.
        loss: The loss; its class weights come from the training data.
        comparison: Makes the vectors.
        limit: As of :class:`TextModel`.
    """

    def __init__(
        self,
        base: Base,
        labels: LabelSet,
        config: TokenConfig,
        loss: ClassLoss,
        comparison: Comparison,
        limit: int | None = None,
    ) -> None:
        super().__init__(base, labels, limit)
        self.comparison = comparison
        self.temperature, self.scheme = config.temperature, config.scheme
        begins = [f"begin {name}" for name in labels.names] if config.scheme == "bio" else []
        self.loss = WeightedLoss(loss, [*labels.names, OUTSIDE, *begins])
        bio = config.scheme == "bio"
        self.begin_offset = nn.Parameter(torch.zeros(comparison.width)) if bio else None

    def declare(self, *parts: TrainedPart) -> None:
        """Declares what is trained; BIO's begin offset joins the last part."""
        *others, last = parts
        if self.begin_offset is not None:
            last = TrainedPart(last.name, (*last.modules, "begin_offset"), last.learning_rate)
        super().declare(*others, last)

    # -- data ---------------------------------------------------------------------------------------------------------

    def _targets(self, encoded: EncodedWords) -> Tensor:
        """The class of each sub-word, shape ``(S,)``; special tokens are ignored."""
        sentence, word_index = encoded.sentence, encoded.word_index
        classes = self.labels.word_classes(sentence.spans, len(sentence.words))
        targets = torch.tensor([IGNORED, *classes])[word_index]
        if self.scheme == "bio":
            begins = torch.zeros(len(sentence.words) + 1, dtype=torch.bool)
            begins[[span.start + 1 for span in sentence.spans]] = True
            targets[first_subwords(word_index[None])[0] & begins[word_index]] += len(self.labels) + 1
        return targets

    def _collate_targets(self, encoded: Sequence[EncodedWords]) -> Tensor:
        return pad_sequence([item.targets for item in encoded], True, IGNORED)

    def begin_training(self, encoded: Sequence[EncodedWords]) -> None:
        """Computes the class weights from all sub-words of the training sentences.

        Raises:
            InputError: If no word has a sub-word.
        """
        targets = torch.cat([item.targets for item in encoded])
        if not bool((targets != IGNORED).any()):
            words = " ".join(encoded[0].sentence.words[:5])
            raise InputError(
                f"the tokenizer of base model {self.base.source!r} has no sub-word for any word of the "
                f"{len(encoded)} training sentences ({words} ...)"
            )
        self.loss.count(torch.bincount(targets[targets != IGNORED], minlength=len(self.loss.names)))

    def oracle(self, encoded: EncodedWords) -> list[Span]:
        """The spans that the gold classes decode to."""
        first = first_subwords(encoded.word_index[None])
        return self._spans(self._word_classes(encoded.targets[None], encoded.word_index[None], first, encoded.n_words))[
            0
        ]

    def unreachable(self, encoded: EncodedWords) -> dict[str, int]:
        """Gold spans that the gold classes do not decode to: truncated, merged with a neighbour, or unread."""
        lost = set(encoded.sentence.spans) - set(self.oracle(encoded))
        truncated = {span for span in lost if span.end >= encoded.n_words}
        with_subword = set(encoded.word_index.tolist())
        unread = {span for span in lost - truncated if not with_subword.issuperset(range(span.start + 1, span.end + 2))}
        # The rest can only have merged with a neighbour.
        return {
            "truncation": len(truncated),
            "touching": len(lost) - len(truncated) - len(unread),
            "no sub-word": len(unread),
        }

    # -- forward ------------------------------------------------------------------------------------------------------

    def logits(self, batch: WordBatch) -> Tensor:
        """Class scores of all sub-words, shape ``(B, S, K)``, float32."""
        vectors, classes = self.comparison(batch)
        if self.begin_offset is not None:
            # Normalised first, so that the offset means the same whatever the length of the type's vector.
            classes = nn.functional.normalize(classes.float(), dim=-1)
            begin = classes[..., : len(self.labels), :] + self.begin_offset
            classes = torch.cat([classes, begin], dim=-2)
        return cosine_logits(vectors, classes, self.temperature)

    def forward(self, batch: WordBatch) -> Tensor:
        """The loss of a batch over its sub-words, a scalar in float32; 0 if none of its words has one."""
        logits = self.logits(batch)
        if not any(item.word_index.any() for item in batch.encoded):
            return logits.float().sum() * 0.0
        return self.loss(logits.flatten(0, 1), batch.targets.flatten())

    @torch.no_grad()
    def predict(self, batch: WordBatch) -> list[list[ScoredSpan]]:
        """Spans of each sentence; a span's score is the mean probability of its type over its words.

        Raises:
            RuntimeError: If the model is in training mode, where dropout would change the scores.
        """
        self._check_evaluation_mode()
        logits = self.logits(batch)
        probabilities = logits.softmax(dim=-1)
        n_types = len(self.labels)
        if self.scheme == "bio":
            # A word is of a type whether it begins an entity or continues one.
            probabilities = torch.cat(
                [probabilities[..., :n_types] + probabilities[..., n_types + 1 :], probabilities[..., n_types, None]],
                -1,
            )
        best = logits.argmax(dim=-1)
        of_type = probabilities.gather(-1, (best % (n_types + 1)).unsqueeze(-1)).squeeze(-1)
        # The rest is little, and Apple's GPU knows no double precision.
        best, of_type, word_index = best.cpu(), of_type.cpu(), batch.inputs["words_mask"].cpu()
        first, n_words = first_subwords(word_index), int(batch.n_words.max())
        refuse_nan(of_type[first], batch.encoded)
        classes = self._word_classes(best, word_index, first, n_words)
        scores = torch.zeros(classes.shape, dtype=torch.float64)
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

    def frozen_part(self) -> FrozenPart | None:
        """The text branch of a bi-encoder, sub-word by sub-word."""
        return self._frozen_text(lambda item: item.length, lambda batch: encode_text(self.base, batch), "sub-words")

    def train(self, mode: bool = True) -> TokenModel:
        """Sets the mode of the trained parts; frozen modules stay in evaluation mode."""
        if isinstance(self.comparison, LabelComparison):
            self.comparison.kept_classes = None
        super().train(mode)
        return self


class LabelComparison(nn.Module):
    """A bi-encoder's comparison: text from its text branch, class vectors projected from label vectors.

    Args:
        base: A bi-encoder with a label projection; see :func:`label_projection`.
        labels: Makes the label vectors, ``() -> (C + 1, E)``, E the label encoder's width.
    """

    def __init__(self, base: Base, labels: nn.Module) -> None:
        super().__init__()
        self._base = base
        self.labels = labels
        self.width = int(base.config.hidden_size)
        self.kept_classes: Tensor | None = None
        """The class vectors, cached in evaluation until the mode is set again."""

    def forward(self, batch: WordBatch) -> tuple[Tensor, Tensor]:
        """Text vectors ``(B, S, D)`` and class vectors ``(C + 1, D)``, which are computed once per evaluation."""
        vectors = encode_text(self._base, batch) if batch.features is None else batch.features
        if self.training or torch.is_grad_enabled():
            return vectors, self._classes()
        if self.kept_classes is None:
            self.kept_classes = self._classes()
        return vectors, self.kept_classes

    def _classes(self) -> Tensor:
        return self._base.part("label projection")(self.labels())


def label_projection(base: Base) -> nn.Module:
    """The base's label projection; gliner has none where the widths agree, so an identity is inserted there.

    Raises:
        InputError: If the base has no label encoder.
    """
    # Raises before anything of the base is changed.
    base.part("label encoder")
    if not base.has("label projection"):
        width = base.config.hidden_size
        projection = nn.Linear(width, width)
        nn.init.eye_(projection.weight)
        nn.init.zeros_(projection.bias)
        base.core.token_rep_layer.labels_projection = projection
    return base.part("label projection")


class Descriptions(nn.Module):
    """Label vectors of the descriptions, each encoded alone by the label encoder.

    Args:
        base: A bi-encoder.
        labels: Entity types.
    """

    def __init__(self, base: Base, labels: LabelSet) -> None:
        super().__init__()
        self._base = base
        tokens = base.gliner.data_processor.labels_tokenizer(
            list(labels.label2desc.values()), return_tensors="pt", truncation=True, padding="longest"
        )
        self.input_ids: Tensor
        self.mask: Tensor
        self.register_buffer("input_ids", tokens["input_ids"], persistent=False)
        self.register_buffer("mask", tokens["attention_mask"], persistent=False)

    def forward(self) -> Tensor:
        """Mean of the last hidden states over the sub-words of each description, shape ``(C + 1, E)``."""
        layer = self._base.core.token_rep_layer
        return layer.mean_pooling(layer.labels_encoder(self.input_ids, attention_mask=self.mask), self.mask)
