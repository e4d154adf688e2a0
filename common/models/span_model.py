"""GLiNER's native span model on our data path: what zero-shot, SP-GLiNER and full fine-tuning share.

Legend: B sentences, S sub-words, W words, K maximum width, C entity types, D hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gliner.modeling.span_rep import SpanMarkerV0
from gliner.modeling.utils import extract_word_embeddings
from torch import Tensor

from common.approach import FrozenPart
from common.data.dataset import Sentence
from common.data.labels import LabelSet
from common.data.spans import ScoredSpan, above
from common.errors import InputError
from common.models.base import Base
from common.models.dropout import fast_dropout
from common.models.losses import binary_focal_loss
from common.models.span_head import dense_logits, factored_logits, span_mask
from common.models.text_model import SpanScorer, WordBatch, encode_text

logger = logging.getLogger(__name__)

DEFAULT_THRESHOLD = 0.5
"""gliner's own."""


class SpanModel(SpanScorer):
    """A GLiNER model asked for a closed set of entity types; ``forward`` is its loss.

    The loss is the sum of the binary (focal) cross-entropy over all spans inside the sentence and all types that the
    sentence is asked for, averaged over the sentences of the batch. gliner sums over the batch too, so its loss depends
    on the batch size.

    Args:
        base: The base model; it is used in place, not copied.
        labels: Entity types.
        label_texts: What the model reads for each type, in the same order.
        focal_gamma: Focusing exponent of the loss; 0 is plain cross-entropy.
        focal_alpha: Weight of the positives; None weighs positives and negatives alike.
        threshold: Minimum probability of a predicted span; None means that training chooses it on the validation split,
            and ``type_thresholds`` for single types too if it is asked to.
        word_dropout: Dropout on the word representations that the span head reads, in training. A frozen encoder has
            none of its own, and a head overfits to representations that never change.

    Raises:
        InputError: If two label texts are equal, or the texts leave no room for words in the input of a cross-encoder.
    """

    def __init__(
        self,
        base: Base,
        labels: LabelSet,
        label_texts: Sequence[str],
        *,
        focal_gamma: float = 0.0,
        focal_alpha: float | None = None,
        threshold: float | None = None,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__(base, labels)
        self.label_texts = list(label_texts)
        repeated = sorted({text for text in self.label_texts if self.label_texts.count(text) > 1})
        if repeated:
            raise InputError(f"entity types need different texts, repeated are: {repeated}")
        self.focal_gamma, self.focal_alpha = focal_gamma, focal_alpha
        self.tunes_threshold = threshold is None
        self.threshold = DEFAULT_THRESHOLD if threshold is None else threshold
        self.type_thresholds: Mapping[str, float] = {}
        self.word_dropout = word_dropout
        self._shared_labels: Tensor | None = None
        if base.kind == "bi":
            tokens = base.gliner.data_processor.labels_tokenizer(
                self.label_texts, return_tensors="pt", truncation=True, padding="longest"
            )
            self.register_buffer("label_input_ids", tokens["input_ids"], persistent=False)
            self.register_buffer("label_attention_mask", tokens["attention_mask"], persistent=False)
        else:
            self._check_prompt()
        self._prompt_lengths: dict[tuple[str, ...] | None, int] = {}
        if not self._factors:
            logger.info("span mode %r is scored by gliner's own layer, not in factored form", base.config.span_mode)
        self.eval()

    # -- data ---------------------------------------------------------------------------------------------------------

    def _tokenise(self, words: Sequence[Sequence[str]], sentences: Sequence[Sentence]) -> Any:
        """By gliner's own processor, which puts the texts of a sentence's types before its words in a cross-encoder."""
        prompts = None if self.base.kind == "bi" else [self._texts(sentence.types) for sentence in sentences]
        return self.base.gliner.data_processor.tokenize_inputs(list(map(list, words)), prompts)

    def _texts(self, types: tuple[str, ...] | None) -> list[str]:
        """The texts of some types, all if None, in the order of the label set."""
        texts = zip(self.labels.names, self.label_texts, strict=True)
        return [text for name, text in texts if types is None or name in types]

    def _prompt_length(self, types: tuple[str, ...] | None) -> int:
        """The length in words of what stands before a sentence that is asked for some types."""
        if self.base.kind == "bi":
            return 0
        if types not in self._prompt_lengths:
            _, lengths = self.base.gliner.data_processor.prepare_inputs([["word"]], [self._texts(types)])
            self._prompt_lengths[types] = int(lengths[0])
        return self._prompt_lengths[types]

    def _word_index(self, word_ids: Sequence[int | None], sentence: Sentence) -> list[int]:
        """The 1-based word of each sub-word, 0 for none and for sub-words that pooling leaves out.

        gliner's own mask counts the words that it encounters, so a word without any sub-word shifts all later ones.
        """
        n_prompt, pooling = self._prompt_length(sentence.types), self.base.config.subtoken_pooling
        index = [0 if word is None else max(0, word - n_prompt + 1) for word in word_ids]
        if pooling == "first":
            return [0 if index[i - 1 : i] == [word] else word for i, word in enumerate(index)]
        if pooling == "last":
            return [0 if index[i + 1 : i + 2] == [word] else word for i, word in enumerate(index)]
        return index

    # -- forward ------------------------------------------------------------------------------------------------------

    def forward(self, batch: WordBatch) -> Tensor:
        """The loss of a batch, a scalar in float32."""
        logits = self.logits(batch)
        mask = span_mask(batch.n_words, logits.shape[1], self.max_width)
        if batch.types is not None:
            mask = mask[..., None] & batch.types[:, None, None]
        targets = torch.zeros_like(logits, dtype=torch.float32)
        targets[tuple(batch.targets.T)] = 1.0
        losses = binary_focal_loss(logits[mask], targets[mask], gamma=self.focal_gamma, alpha=self.focal_alpha)
        return losses.sum() / len(batch)

    @torch.no_grad()
    def predict(self, batch: WordBatch) -> list[list[ScoredSpan]]:
        """Flat spans above the threshold, or their type's own threshold, decoded by gliner's own decoder.

        Raises:
            RuntimeError: If the model is in training mode, where dropout would change the scores.
        """
        self._check_evaluation_mode()
        return self.decode(batch, self.logits(batch))

    def decode(self, batch: WordBatch, logits: Tensor) -> list[list[ScoredSpan]]:
        """The spans that :meth:`predict` finds with some scores before the sigmoid, shape ``(B, W, K, C)``."""
        found = self._decode(batch, logits, min([self.threshold, *self.type_thresholds.values()]))
        return [above(spans, self.threshold, self.type_thresholds) for spans in found]

    def logits(self, batch: WordBatch) -> Tensor:
        """Scores before the sigmoid, shape ``(B, W, K, C)``; only spans inside their sentence count.

        Types that a sentence is not asked for have ``-inf`` and no gradient.
        """
        logits = self._scores(batch)
        if batch.types is None:
            return logits
        if self.base.kind == "cross":
            # A sentence's n-th column is the n-th type that it is asked for.
            columns = (batch.types.cumsum(dim=1) - 1).clamp(min=0)
            logits = logits.gather(-1, columns[:, None, None].expand(*logits.shape[:-1], -1))
        return logits.masked_fill(~batch.types[:, None, None], float("-inf"))

    def _scores(self, batch: WordBatch) -> Tensor:
        """Scores of all types; of a cross-encoder, those of the types that each sentence is asked for."""
        core = self.core
        words_mask = torch.arange(int(batch.n_words.max()), device=batch.n_words.device) < batch.n_words[:, None]
        if self.base.kind == "bi":
            words = self._words(batch) if batch.features is None else batch.features
            labels = self._label_vectors()
            # Stored features may be half precision.
            words = words.to(labels.dtype)
            if self.base.has("cross fuser"):
                labels = labels.expand(len(batch), -1, -1)
                asked = torch.ones_like(labels[..., 0]) if batch.types is None else batch.types.to(labels.dtype)
                words, labels = core.features_enhancement(words, labels, text_mask=words_mask, labels_mask=asked)
        else:
            representations = core.get_representations(
                **batch.inputs, text_lengths=batch.n_words[:, None], word_lengths=batch.n_words.tolist()
            )
            words, labels = representations.words_embedding, representations.prompts_embedding
        labels = core.prompt_rep_layer(labels)
        words = fast_dropout(words, self.word_dropout, self.training)
        words = core.span_rep_layer.context_encoder(words, words_mask)
        if self._factors:
            return factored_logits(core.span_rep_layer.span_rep_layer, words, labels)
        mask = span_mask(batch.n_words, words.shape[1], self.max_width)
        return dense_logits(core.span_rep_layer.span_rep_layer, words, labels, mask)

    def frozen_part(self) -> FrozenPart | None:
        """The text branch of a bi-encoder, if nothing in it is trained."""
        return self._frozen_text(lambda item: item.n_words, self._words, self.base.config.subtoken_pooling)

    def train(self, mode: bool = True) -> SpanModel:
        """Sets the mode of the trained parts; frozen modules stay in evaluation mode."""
        self._shared_labels = None
        super().train(mode)
        return self

    def _words(self, batch: WordBatch) -> Tensor:
        """Word representations of a bi-encoder, shape ``(B, W, D)``; zero behind a sentence's end."""
        subwords = encode_text(self.base, batch)
        words, _ = extract_word_embeddings(
            subwords,
            batch.inputs["words_mask"],
            batch.inputs["attention_mask"],
            len(batch),
            int(batch.n_words.max()),
            subwords.shape[-1],
            batch.n_words[:, None],
            self.base.config.subtoken_pooling,
        )
        return words

    def _label_vectors(self) -> Tensor:
        """Label representations of a bi-encoder, shape ``(C, D)``; cached in evaluation until the mode is set again."""
        if not self.training and not torch.is_grad_enabled() and self._shared_labels is not None:
            return self._shared_labels
        vectors = self.core.token_rep_layer.encode_labels(self.label_input_ids, self.label_attention_mask)
        if not self.training and not torch.is_grad_enabled():
            self._shared_labels = vectors
        return vectors

    @property
    def _factors(self) -> bool:
        return type(self.core.span_rep_layer.span_rep_layer) is SpanMarkerV0

    def _check_prompt(self) -> None:
        """A cross-encoder's prompt of all label texts must leave room for the sentence."""
        processor = self.base.gliner.data_processor
        limit = processor.transformer_tokenizer.model_max_length
        prompt, _ = processor.prepare_inputs([["word"]], [self.label_texts])
        needed = len(processor.transformer_tokenizer(prompt, is_split_into_words=True)["input_ids"][0])
        if needed >= limit:
            raise InputError(
                f"the {len(self.label_texts)} label texts take {needed} sub-words, the base model {self.base.source!r} "
                f"reads {limit}: use shorter texts (--labels names)"
            )
