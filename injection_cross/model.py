"""SP-Cross: soft prompts made from the descriptions stand before the text in the frozen backbone's input.

    [CLS] prompts of all labels [SEP] text [SEP] padding

Legend: B sentences, S sub-words, W words, K maximum width, C types, P prompt vectors of a label, D backbone width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.approach import TrainedPart
from common.data.labels import LabelSet
from common.data.spans import OUTSIDE, ScoredSpan, Span
from common.errors import InputError
from common.models.base import NO_LIMIT, Base
from common.models.prompts import DescriptionPrompts, between_special_tokens
from common.models.span_head import span_mask
from common.models.text_model import EncodedWords, SpanScorer, WordBatch
from common.models.token_model import ClassLoss, TokenModel, WeightedLoss, cosine_logits
from injection_cross.config import Config

logger = logging.getLogger(__name__)

SHORT_TEXT = 64
"""A warning is logged if fewer sub-words are left for the text."""


class InjectedPrompts(nn.Module):
    """The frozen backbone's outputs for prompts and text together.

    Prompts and the word embeddings of the text enter together through ``inputs_embeds``: the backbone, of whatever
    kind, adds positions, types and its LayerNorm itself.

    Args:
        base: A cross-encoder.
        labels: Entity types.
        config: The approach's settings.

    Raises:
        InputError: If the prompts leave no room for text.
    """

    def __init__(self, base: Base, labels: LabelSet, config: Config) -> None:
        super().__init__()
        self._base = base
        self._tokenizer = base.gliner.data_processor.transformer_tokenizer
        self.prompts = DescriptionPrompts(
            list(labels.label2desc.values()), self._tokenizer, self._embedding, config.prompts
        )
        n_labels, length = len(labels) + 1, config.prompts.prompt_length
        self.width = int(base.part("text encoder").model.config.hidden_size)
        limit = int(self._tokenizer.model_max_length)
        # [CLS] is one of the text's own special tokens.
        self.text_limit = limit - n_labels * length - 1
        if self.text_limit < 3:
            raise InputError(
                f"{n_labels} labels with --prompt-length {length} take {n_labels * length} of the {limit} positions of "
                f"base model {base.source!r} and leave no room for text"
            )
        left = self.text_limit - 2
        if limit < NO_LIMIT:
            log = logger.warning if left < SHORT_TEXT else logger.info
            vectors = n_labels * length
            log("%d prompt vectors (%d labels) leave %d of %d positions for text", vectors, n_labels, left, limit)

    @property
    def _embedding(self) -> nn.Embedding:
        return self._base.part("text encoder").model.get_input_embeddings()

    def forward(self, batch: WordBatch) -> tuple[Tensor, Tensor]:
        """Outputs of the text's sub-words ``(B, S, D)``, and mean outputs of the labels' prompts ``(B, C + 1, D)``."""
        embedding, inputs = self._embedding, batch.inputs
        prompts = self.prompts(embedding)
        prefix = between_special_tokens(prompts.flatten(0, 1)[None], self._tokenizer, embedding)
        text = embedding(inputs["input_ids"][:, 1:])
        n_prefix = prefix.shape[1]
        outputs = (
            self._base.part("text encoder")
            .model(
                inputs_embeds=torch.cat([prefix.expand(len(batch), -1, -1).to(text.dtype), text], dim=1),
                attention_mask=nn.functional.pad(inputs["attention_mask"], (n_prefix - 1, 0), value=1),
            )
            .last_hidden_state
        )
        of_prompts = outputs[:, 1 : n_prefix - 1].unflatten(1, prompts.shape[:2]).mean(dim=2)
        return torch.cat([outputs[:, :1], outputs[:, n_prefix:]], dim=1), of_prompts


class SpanLevel(SpanScorer):
    """Classifies all spans up to the maximum width; a span is the mean of its sub-words' unit vectors.

    Every span inside the sentence that is no entity is an example of ``O``, in training and in validation. A span is
    predicted where a type is its best class; of overlapping ones the most probable stays.

    Args:
        base: A cross-encoder.
        labels: Entity types.
        config: The approach's settings.
        loss: The loss; its class weights come from the training data.
        comparison: Makes the vectors.
    """

    def __init__(
        self, base: Base, labels: LabelSet, config: Config, loss: ClassLoss, comparison: InjectedPrompts
    ) -> None:
        super().__init__(base, labels, comparison.text_limit)
        self.comparison = comparison
        self.temperature = config.token.temperature
        self.loss = WeightedLoss(loss, [*labels.names, OUTSIDE])

    def begin_training(self, encoded: Sequence[EncodedWords]) -> None:
        """Computes the class weights from all spans of the training sentences."""
        entities = torch.bincount(torch.cat([item.targets[:, 2] for item in encoded]), minlength=len(self.labels) + 1)
        n_words = torch.tensor([item.n_words for item in encoded])
        spans = sum(int((n_words - width).clamp(min=0).sum()) for width in range(self.max_width))
        entities[self.labels.outside_id] = spans - int(entities.sum())
        self.loss.count(entities)

    def oracle(self, encoded: EncodedWords) -> list[Span]:
        """The gold spans that have a score and a sub-word: without one a span has no direction and is no entity."""
        read = set(encoded.word_index.tolist())
        return [span for span in self._scored(encoded) if not read.isdisjoint(range(span.start + 1, span.end + 2))]

    def unreachable(self, encoded: EncodedWords) -> dict[str, int]:
        """Gold spans lost by truncation, by their width, or because none of their words has a sub-word."""
        unread = len(self._scored(encoded)) - len(self.oracle(encoded))
        return super().unreachable(encoded) | {"no sub-word": unread}

    def logits(self, batch: WordBatch) -> Tensor:
        """Class scores, shape ``(B, W, K, C + 1)``, float32; only spans inside their sentence count."""
        subwords, classes = self.comparison(batch)
        word_index, n_words = batch.inputs["words_mask"], int(batch.n_words.max())
        subwords = nn.functional.normalize(subwords.float(), dim=-1)
        # Row 0 takes what belongs to no word.
        words = subwords.new_zeros(len(batch), n_words + 1, subwords.shape[-1])
        words = words.scatter_add(1, word_index.unsqueeze(-1).expand_as(subwords), subwords)[:, 1:]
        logits = words.new_zeros(len(batch), n_words, self.max_width, classes.shape[1])
        sums = words
        for width in range(min(self.max_width, n_words)):
            if width:
                sums = sums[:, :-1] + words[:, width:]
            logits[:, : n_words - width, width] = cosine_logits(sums, classes, self.temperature)
        return logits

    def forward(self, batch: WordBatch) -> Tensor:
        """The loss of a batch over its spans, a scalar in float32."""
        logits = self.logits(batch)
        targets = torch.full(logits.shape[:-1], self.labels.outside_id, device=logits.device)
        *where, classes = batch.targets.T
        targets[tuple(where)] = classes
        mask = span_mask(batch.n_words, logits.shape[1], self.max_width)
        return self.loss(logits[mask], targets[mask])

    @torch.no_grad()
    def predict(self, batch: WordBatch) -> list[list[ScoredSpan]]:
        """Flat spans whose best class is a type.

        Raises:
            RuntimeError: If the model is in training mode, where dropout would change the scores.
        """
        self._check_evaluation_mode()
        logits = self.logits(batch)
        probabilities = logits.softmax(dim=-1)
        # Words without any sub-word have no direction and score 0 for every class: they are not entities.
        classes = logits.argmax(dim=-1).where(logits.any(dim=-1), self.labels.outside_id)
        best = nn.functional.one_hot(classes, logits.shape[-1]).bool()
        scores = probabilities.logit().masked_fill(~best, float("-inf"))[..., : len(self.labels)]
        return self._decode(batch, scores, threshold=0.0)


def build(config: Config, base: Base, labels: LabelSet) -> TokenModel | SpanLevel:
    """The model, its prompt encoder declared as trained.

    Raises:
        InputError: As :class:`InjectedPrompts`.
    """
    injected = InjectedPrompts(base, labels, config)
    loss = ClassLoss.focal(config.focal)
    model: TokenModel | SpanLevel
    if config.level == "token":
        model = TokenModel(base, labels, config.token, loss, injected, injected.text_limit)
    else:
        model = SpanLevel(base, labels, config, loss, injected)
    model.declare(TrainedPart("prompt encoder", (model.path_of(injected.prompts),), config.learning_rate))
    return model
