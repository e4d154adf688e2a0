"""How our GLiNER models read sentences: words, sub-words, padded batches, and a text branch that may be frozen.

Legend: B sentences, S sub-words, W words, D hidden size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from common.approach import Batch, FrozenPart, TrainedPart, refuse_nan, set_mode
from common.data.dataset import Sentence
from common.data.labels import LabelSet
from common.data.spans import ScoredSpan, Span
from common.models.base import Base
from common.models.span_head import span_mask

_TOKENISE_AT_ONCE = 256
_NO_TARGETS = torch.empty(0, dtype=torch.int64)
TEXT_BRANCH = ("core.token_rep_layer.bert_layer", "core.token_rep_layer.projection")
"""Where a bi-encoder's text encoder and text projection are."""


@dataclass(frozen=True, eq=False)
class EncodedWords:
    """The S sub-words of one sentence."""

    sentence: Sentence
    input_ids: Tensor
    """Sub-word ids with special tokens, int32, shape ``(S,)``."""
    word_index: Tensor
    """The 1-based word of each sub-word, 0 for none (GLiNER's ``words_mask``), int32, shape ``(S,)``."""
    n_words: int
    """Words that the model reads; fewer than the sentence has if it was truncated."""
    targets: Tensor
    """Training targets, int64, in the approach's own layout."""

    @property
    def length(self) -> int:
        """The number of its sub-words."""
        return len(self.input_ids)

    @property
    def content(self) -> bytes:
        """Everything that a text encoder's output for it depends on, as bytes."""
        sizes = repr((self.n_words, len(self.input_ids))).encode()
        return sizes + self.input_ids.numpy().tobytes() + self.word_index.numpy().tobytes()


@dataclass(eq=False)
class WordBatch(Batch):
    """Padded sentences; B of them, S sub-words, W words."""

    inputs: dict[str, Tensor]
    """Model inputs by gliner's names: ``input_ids``, ``attention_mask``, ``words_mask``, each ``(B, S)``."""
    n_words: Tensor
    """Words of each sentence, int64, shape ``(B,)``."""
    targets: Tensor
    """Training targets, in the approach's own layout."""
    types: Tensor | None = None
    """Which types each sentence is asked for, bool, shape ``(B, C)``; None if all are asked for all."""
    features: Tensor | None = None
    """Stored output of the frozen text encoder for these sentences, if there is any; shape ``(B, W or S, D)``."""


class TextModel(nn.Module):
    """A base model with a label set and trained parts; subclasses say what they predict.

    Args:
        base: The base model; it is used in place, not copied.
        labels: Entity types.
        limit: Sub-words that a sentence is truncated to, special tokens included; the tokenizer's limit if not given.
    """

    def __init__(self, base: Base, labels: LabelSet, limit: int | None = None) -> None:
        super().__init__()
        self.base = base
        self.core = base.core
        self.labels = labels
        self.limit = int(self._tokenizer.model_max_length) if limit is None else limit
        self.parts: tuple[TrainedPart, ...] = ()

    def declare(self, *parts: TrainedPart) -> None:
        """Declares what is trained; the loop freezes everything else. Leaves the model in evaluation mode."""
        self.parts = parts
        self.eval()

    # -- for subclasses -----------------------------------------------------------------------------------------------

    def _tokenise(self, words: Sequence[Sequence[str]], sentences: Sequence[Sentence]) -> Any:  # noqa: ARG002
        """A ``BatchEncoding`` of the words of sentences, truncated to the limit; words are tokenised as they are."""
        return self._tokenizer(
            [list(sentence) for sentence in words],
            is_split_into_words=True,
            return_tensors="pt",
            truncation=True,
            max_length=self.limit,
            padding="longest",
        )

    def _word_index(self, word_ids: Sequence[int | None], sentence: Sentence) -> list[int]:  # noqa: ARG002
        """The 1-based word of each sub-word, 0 for none."""
        return [0 if word is None else word + 1 for word in word_ids]

    def _targets(self, encoded: EncodedWords) -> Tensor:
        """The training targets of a sentence; those in ``encoded`` are not set yet."""
        raise NotImplementedError

    def _collate_targets(self, encoded: Sequence[EncodedWords]) -> Tensor:
        """The targets of a batch."""
        raise NotImplementedError

    # -- data ---------------------------------------------------------------------------------------------------------

    @property
    def _tokenizer(self) -> Any:
        return self.base.gliner.data_processor.transformer_tokenizer

    def encode(self, sentences: Sequence[Sentence]) -> list[EncodedWords]:
        """Tokenises sentences; words are never joined and split again."""
        encoded = []
        for first in range(0, len(sentences), _TOKENISE_AT_ONCE):
            chunk = sentences[first : first + _TOKENISE_AT_ONCE]
            words = [sentence.words[: self.base.config.max_len] for sentence in chunk]
            tokens = self._tokenise(words, chunk)
            for row, sentence in enumerate(chunk):
                attended = tokens["attention_mask"][row].bool()
                word_index = torch.tensor(self._word_index(tokens.word_ids(row), sentence))[attended]
                # Words behind the truncation are not read. A word without any sub-word counts as read.
                cut = len(word_index) >= self.limit
                n_words = max(1, int(word_index.max()) if cut else len(words[row]))
                item = EncodedWords(
                    sentence, tokens["input_ids"][row][attended].int(), word_index.int(), n_words, _NO_TARGETS
                )
                encoded.append(replace(item, targets=self._targets(item)))
        return encoded

    def collate(self, encoded: Sequence[EncodedWords]) -> WordBatch:
        """Pads sentences to the longest one."""
        padding = self._tokenizer.pad_token_id
        return WordBatch(
            encoded=encoded,
            inputs={
                "input_ids": pad_sequence([e.input_ids for e in encoded], True, padding).long(),
                "attention_mask": pad_sequence([torch.ones_like(e.input_ids) for e in encoded], True).long(),
                "words_mask": pad_sequence([e.word_index for e in encoded], True).long(),
            },
            n_words=torch.tensor([e.n_words for e in encoded]),
            targets=self._collate_targets(encoded),
            types=self._asked(encoded),
        )

    def _asked(self, encoded: Sequence[EncodedWords]) -> Tensor | None:
        """Which types each sentence is asked for."""
        types = [item.sentence.types for item in encoded]
        if all(names is None for names in types):
            return None
        own = [self.labels.names if names is None else names for names in types]
        return torch.tensor([[name in names for name in self.labels.names] for names in own])

    def begin_training(self, encoded: Sequence[EncodedWords]) -> None:
        """Does nothing: by default the loss needs no statistics of the training sentences."""

    # -- model --------------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> TextModel:
        """Sets the mode of the trained parts; frozen modules stay in evaluation mode."""
        set_mode(self, self.parts, mode)
        return self

    def path_of(self, module: nn.Module) -> str:
        """The path of a module inside this model, as ``TrainedPart`` takes it."""
        return next(name for name, found in self.named_modules() if found is module)

    def frozen_part(self) -> FrozenPart | None:
        """None: nothing in the forward pass can be stored, unless a subclass overrides this."""
        return None

    def _check_evaluation_mode(self) -> None:
        if self.training:
            raise RuntimeError("predict needs evaluation mode: call eval() first")

    def _frozen_text(
        self, rows: Callable[[EncodedWords], int], compute: Callable[[WordBatch], Tensor], pooling: str
    ) -> FrozenPart | None:
        """The text branch of a bi-encoder if no part of it is trained, else None."""
        paths = [path for part in self.parts for path in part.modules]
        trained = any(
            own == path or own.startswith(f"{path}.") or path.startswith(f"{own}.")
            for path in paths
            for own in TEXT_BRANCH
        )
        if self.base.kind != "bi" or trained:
            return None
        settings = f"{pooling} {self.base.encoder_settings}"
        width = self.base.config.hidden_size
        return FrozenPart("text encoder", width, TEXT_BRANCH, settings, rows, lambda item: item.content, compute)


def encode_text(base: Base, batch: WordBatch) -> Tensor:
    """Output of a bi-encoder's text branch, shape ``(B, S, D)``; without gradient if it is frozen."""
    layer = base.core.token_rep_layer
    with gradient_of(layer.bert_layer, getattr(layer, "projection", None)):
        return layer.encode_text(batch.inputs["input_ids"], batch.inputs["attention_mask"])


@contextlib.contextmanager
def gradient_of(*modules: nn.Module | None) -> Iterator[None]:
    """Records gradients only if they are recorded outside it and one of the modules has a trained parameter."""
    trained = any(
        parameter.requires_grad for module in modules if module is not None for parameter in module.parameters()
    )
    with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
        yield


class SpanScorer(TextModel):
    """A model with a score for each span of at most ``max_width`` words; K is that width.

    Args:
        base: The base model; it is used in place, not copied.
        labels: Entity types.
        limit: As of :class:`TextModel`.
    """

    def __init__(self, base: Base, labels: LabelSet, limit: int | None = None) -> None:
        super().__init__(base, labels, limit)
        self.max_width: int = base.config.max_width

    def _targets(self, encoded: EncodedWords) -> Tensor:
        """Rows (start, width - 1, class) of the gold spans that have a score, int64, shape ``(N, 3)``."""
        class_ids = self.labels.label2id
        rows = [(span.start, span.end - span.start, class_ids[span.label]) for span in self._scored(encoded)]
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)

    def _collate_targets(self, encoded: Sequence[EncodedWords]) -> Tensor:
        """The rows of a batch with the sentence's number before them, shape ``(N, 4)``."""
        rows = [torch.cat([torch.full((len(e.targets), 1), row), e.targets], dim=1) for row, e in enumerate(encoded)]
        return torch.cat(rows)

    def _scored(self, encoded: EncodedWords) -> list[Span]:
        """The gold spans that have a score."""
        return [
            span
            for span in encoded.sentence.spans
            if span.end < encoded.n_words and span.end - span.start < self.max_width
        ]

    def oracle(self, encoded: EncodedWords) -> list[Span]:
        """The gold spans that have a score."""
        return self._scored(encoded)

    def unreachable(self, encoded: EncodedWords) -> dict[str, int]:
        """Gold spans lost because the sentence was truncated or because they are wider than the maximum."""
        truncated = sum(span.end >= encoded.n_words for span in encoded.sentence.spans)
        wide = len(encoded.sentence.spans) - len(self._scored(encoded)) - truncated
        return {"truncation": truncated, "maximum width": wide}

    def _decode(self, batch: WordBatch, logits: Tensor, threshold: float) -> list[list[ScoredSpan]]:
        """Flat spans of a batch by gliner's own decoder: of those above the threshold that overlap, the best.

        Args:
            batch: The sentences.
            logits: Scores before the sigmoid, shape ``(B, W, K, C)``; spans outside a sentence are masked here.
            threshold: Minimum probability, exclusive.

        Raises:
            InputError: If a score is no number.
        """
        mask = span_mask(batch.n_words, logits.shape[1], logits.shape[2])
        scores = logits.float().masked_fill(~mask.unsqueeze(-1), float("-inf"))
        refuse_nan(scores, batch.encoded)
        decoded = self.base.gliner.decoder.decode(
            [item.sentence.words[: item.n_words] for item in batch.encoded],
            dict(enumerate(self.labels.names, start=1)),
            scores,
            flat_ner=True,
            threshold=threshold,
        )
        return [
            [ScoredSpan(Span(span.start, span.end, span.entity_type), float(span.score)) for span in spans]
            for spans in decoded
        ]
