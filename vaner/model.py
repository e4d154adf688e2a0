"""VANER's model: an instruction that names an entity type, then the sentence; a language model's states are tagged.

Bian et al. 2024, "VANER: Leveraging Large Language Model for Versatile and Adaptive Biomedical Named Entity
Recognition", arXiv 2404.17835. Legend: B sentences, R rows (a sentence and a type each, or a list of names), S
sub-words, W words.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from common.approach import Batch, TrainedPart, refuse_nan, set_mode
from common.data.dataset import Sentence, dataset_dir
from common.data.labels import LabelSet
from common.data.spans import ScoredSpan, Span, above, without_overlaps
from common.errors import InputError
from common.models.adapters import add_lora, lora_part, set_adapter_dropout
from common.models.causal_lm import LanguageModel, frozen_dtype, kind_of_device
from common.models.losses import IGNORED
from vaner.config import Config
from vaner.names import NameLists
from vaner.spans import span_probabilities

OUTSIDE, BEGIN, INSIDE = range(3)
"""Tags of words."""
NO_SUBWORD = -1
_LEAST_SENTENCE = 8
"""Sub-words that an instruction must leave for a sentence."""


@dataclass(frozen=True, eq=False)
class Row:
    """The input for one type: an instruction that names it, then words."""

    type_id: int
    input_ids: Tensor
    """int32, shape ``(S,)``."""
    first: Tensor
    """Place of each read word's first sub-word, :data:`NO_SUBWORD` for a word without one, int32, shape ``(W,)``."""
    tags: Tensor
    """Gold tag of each read word, int64, shape ``(W,)``; a word without a sub-word is ignored."""


@dataclass(frozen=True, eq=False)
class EncodedSentence:
    """A sentence with its rows, one for each type that it is asked for."""

    sentence: Sentence
    rows: tuple[Row, ...]
    n_words: int
    """Words that the model reads, whatever the type."""

    @property
    def length(self) -> int:
        """The number of sub-words of all its rows."""
        return sum(len(row.input_ids) for row in self.rows)


@dataclass(eq=False)
class RowBatch(Batch):
    """Rows of some sentences, padded; lists of names behind them."""

    input_ids: Tensor
    """int64, shape ``(R, S)``."""
    attention_mask: Tensor
    """int64, shape ``(R, S)``."""
    first: Tensor
    """As in :class:`Row`, shape ``(R, W)``."""
    tags: Tensor
    """Gold tags, :data:`IGNORED` behind a row's end, shape ``(R, W)``."""
    is_list: Tensor
    """True for lists of names, shape ``(R,)``."""
    asked: Sequence[tuple[int, int]]
    """The sentence's number in the batch, and the type, of each row that is no list."""
    longest: Sequence[int]
    """Sub-words of the longest sentence and of the longest list of names, 0 if there is none."""


class Tagger(nn.Module):
    """A language model without its output layer, with adapters and a linear layer to three tags.

    Args:
        base: The base model.
        labels: Entity types.
        config: The configuration.

    Raises:
        InputError: If the base model does not fit, or an instruction leaves no room for a sentence.
    """

    tunes_threshold: bool
    scheme = "bio"

    def __init__(self, base: LanguageModel, labels: LabelSet, config: Config) -> None:
        super().__init__()
        self.tokenizer, self.labels, self.config = base.tokenizer, labels, config
        self.limit = min(config.max_length, base.limit)
        self.shown = tuple(config.shown_names.get(name, name) for name in labels.names)
        names = [dataset_dir(name).name for name in config.data.dataset]
        self.only_dataset = names[0] if len(names) == 1 else None
        self.named_datasets = frozenset(names) if config.name_datasets else frozenset()
        for name, dataset in itertools.product(self.shown, names):
            text = instruction(name, dataset if config.name_datasets else None)
            length = len(self.tokenizer(text)["input_ids"])
            if length + _LEAST_SENTENCE > self.limit:
                most = " (the base model reads no more)" if self.limit < config.max_length else ""
                raise InputError(
                    f"--max-length {self.limit}{most}: the instruction alone has {length} sub-words ({text!r})"
                )
        self.network = base.network(
            output_layer=False,
            attention=config.attention,
            quantization=config.quantization,
            dtype=frozen_dtype(config.runtime),
            device=kind_of_device(config.runtime),
        )
        add_lora(self.network, config.adapters)
        self.head = nn.Linear(base.config.get_text_config().hidden_size, 3)
        self.threshold = 0.5 if config.threshold is None else config.threshold
        self.type_thresholds: Mapping[str, float] = {}
        self.tunes_threshold = config.threshold is None
        self.parts = (
            lora_part(self, config.adapter_lr),
            TrainedPart("head", ("head",), config.head_lr),
        )
        self.lists: NameLists | None = None
        self.eval()

    def train(self, mode: bool = True) -> Tagger:
        """Sets the mode of what is trained; the frozen network stays in evaluation mode."""
        set_mode(self, self.parts, mode)
        set_adapter_dropout(self, mode)
        return self

    # -- data ---------------------------------------------------------------------------------------------------------

    def encode(self, sentences: Sequence[Sentence]) -> list[EncodedSentence]:
        """Tokenises each sentence for each type that it is asked for; words that a row cannot hold are read in none."""
        encoded = []
        for sentence in sentences:
            types = [self.labels.label2id[name] for name in sentence.types or self.labels.names]
            dataset = sentence.dataset or self.only_dataset
            # A name that it was not trained with would say nothing.
            known = dataset if dataset in self.named_datasets else None
            rows = self._rows([(sentence, type_id) for type_id in types], known)
            n_words = max(1, min(len(row.first) for row in rows))
            encoded.append(EncodedSentence(sentence, tuple(rows), n_words))
        return encoded

    def _rows(self, asked: Sequence[tuple[Sentence, int]], dataset: str | None) -> list[Row]:
        texts, starts = [], []
        for sentence, type_id in asked:
            text, places = instruction(self.shown[type_id], dataset), []
            for word in sentence.words:
                places.append(len(text) + 1)
                text = f"{text} {word}"
            texts.append(text)
            starts.append(places)
        tokens = self.tokenizer(texts, return_offsets_mapping=True, verbose=False)
        rows = []
        for (sentence, type_id), text, places, ids, offsets in zip(
            asked, texts, starts, tokens["input_ids"], tokens["offset_mapping"], strict=True
        ):
            first = first_subwords(text, places, offsets[: self.limit])
            if len(ids) > self.limit:
                # The last word with a sub-word is the last that is read.
                read = [index for index, place in enumerate(first) if place != NO_SUBWORD]
                first = first[: read[-1] + 1 if read else 0]
            places_of = torch.tensor(first, dtype=torch.int32)
            tags = torch.tensor(tags_of(sentence, self.labels.names[type_id]))[: len(first)]
            tags[places_of == NO_SUBWORD] = IGNORED
            rows.append(Row(type_id, torch.tensor(ids[: self.limit], dtype=torch.int32), places_of, tags))
        return rows

    def collate(self, encoded: Sequence[EncodedSentence]) -> RowBatch:
        """Pads the rows of sentences; in training those that are asked for, with a list of names for each."""
        rows = [(number, row) for number, item in enumerate(encoded) for row in item.rows]
        lists: list[Row] = []
        if self.training:
            # Of torch's random numbers, whose state a resumed run has.
            generator = random.Random(int(torch.randint(2**31, ())))
            rows = self._drawn(rows, generator)
            if self.lists is not None:
                made = [
                    (names, row.type_id)
                    for number, row in rows
                    if (names := self.lists.draw(encoded[number].sentence, row.type_id, generator)) is not None
                ]
                lists = self._rows(made, None) if made else []
        padded = [*(row for _, row in rows), *lists]
        return RowBatch(
            encoded=encoded,
            input_ids=pad_sequence([row.input_ids for row in padded], True, self.tokenizer.pad_token_id).long(),
            attention_mask=pad_sequence([torch.ones_like(row.input_ids) for row in padded], True).long(),
            first=pad_sequence([row.first for row in padded], True, NO_SUBWORD).long(),
            tags=pad_sequence([row.tags for row in padded], True, IGNORED),
            is_list=torch.arange(len(padded)) >= len(rows),
            asked=[(number, row.type_id) for number, row in rows],
            longest=[
                max((len(row.input_ids) for row in group), default=0) for group in ([row for _, row in rows], lists)
            ],
        )

    def _drawn(self, rows: list[tuple[int, Row]], generator: random.Random) -> list[tuple[int, Row]]:
        """The rows with entities and a share of the others; one of those if there would be none."""
        if self.config.negatives == 1:
            return rows
        drawn = [
            item for item in rows
            if bool((item[1].tags == BEGIN).any()) or generator.random() < self.config.negatives
        ]  # fmt: skip
        return drawn or [generator.choice(rows)]

    def begin_training(self, encoded: Sequence[EncodedSentence]) -> None:
        """Reads the names of DBR.

        Raises:
            InputError: If ``python -m vaner.knowledge`` has not found them for these sentences, or a type that is to
                have another name is none of the data set's.
        """
        # Not where the model is built: one that is trained may be asked for types that it was not trained on.
        unknown = sorted(set(self.config.shown_names) - set(self.labels.names))
        if unknown:
            raise InputError(f"--type-names: the data set has no type {unknown[0]!r}, only {list(self.labels.names)}")
        if self.config.dbr != "off":
            sentences = [item.sentence for item in encoded]
            self.lists = NameLists.read(self.config, self.labels, self.shown, sentences)

    def supplements(self) -> list[dict[str, Any]]:
        """The knowledge bases of DBR."""
        return [] if self.lists is None else [{"kind": "names", **facts} for facts in self.lists.facts]

    # -- forward ------------------------------------------------------------------------------------------------------

    def logits(self, batch: RowBatch) -> Tensor:
        """Scores of the tags of each word, float32, shape ``(R, W, 3)``; of no meaning for a word without sub-word."""
        n_sentences, scores = len(batch.asked), []
        # Lists of names are longer than sentences, which are not padded to their length.
        for rows, longest in zip((slice(n_sentences), slice(n_sentences, None)), batch.longest, strict=True):
            if longest:
                states = self.network(
                    input_ids=batch.input_ids[rows, :longest],
                    attention_mask=batch.attention_mask[rows, :longest],
                    use_cache=False,
                ).last_hidden_state
                places = batch.first[rows].clamp(min=0).unsqueeze(-1).expand(-1, -1, states.shape[-1])
                scores.append(self.head(states.gather(1, places).to(self.head.weight.dtype)).float())
        return torch.cat(scores)

    def forward(self, batch: RowBatch) -> Tensor:
        """The mean cross-entropy of the sentences' words, and the weighted one of the words of lists."""
        logits = self.logits(batch)
        loss = _mean_loss(logits, batch.tags, ~batch.is_list)
        return loss + self.config.dbr_weight * _mean_loss(logits, batch.tags, batch.is_list)

    @torch.no_grad()
    def predict(self, batch: RowBatch) -> list[list[ScoredSpan]]:
        """Spans whose probability is above the threshold, or their type's own; of overlapping ones the most probable.

        Raises:
            RuntimeError: If the model is in training mode, where dropout would change the scores.
        """
        if self.training:
            raise RuntimeError("predict needs evaluation mode: call eval() first")
        # On the CPU: Apple's GPU knows no double precision.
        probabilities = self.logits(batch).cpu().double().softmax(-1)
        # A word without a sub-word is outside.
        probabilities[batch.first.cpu() == NO_SUBWORD] = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
        refuse_nan(probabilities, batch.encoded)
        found: list[list[ScoredSpan]] = [[] for _ in batch.encoded]
        lowest = min([self.threshold, *self.type_thresholds.values()])
        for row, start, end, score in span_probabilities(probabilities, lowest):
            number, type_id = batch.asked[row]
            if end < batch.encoded[number].n_words:
                found[number].append(ScoredSpan(Span(start, end, self.labels.names[type_id]), score))
        kept = (
            without_overlaps(sorted(spans, key=lambda item: (-item.score, item.span)), item.n_words)
            for spans, item in zip(found, batch.encoded, strict=True)
        )
        return [above(spans, self.threshold, self.type_thresholds) for spans in kept]

    # -- reach --------------------------------------------------------------------------------------------------------

    def oracle(self, encoded: EncodedSentence) -> list[Span]:
        """The gold spans that are read and whose words have sub-words."""
        readable = encoded.rows[0].first != NO_SUBWORD
        return [
            span
            for span in encoded.sentence.spans
            if span.end < encoded.n_words and bool(readable[span.start : span.end + 1].all())
        ]

    def unreachable(self, encoded: EncodedSentence) -> dict[str, int]:
        """Gold spans lost because the sentence was truncated or a word has no sub-word; touching ones never merge."""
        truncated = sum(span.end >= encoded.n_words for span in encoded.sentence.spans)
        lost = len(encoded.sentence.spans) - len(self.oracle(encoded))
        return {"truncation": truncated, "touching": 0, "no sub-word": lost - truncated}

    def frozen_part(self) -> None:
        """None: adapters are in every layer."""
        return


def instruction(name: str, dataset: str | None) -> str:
    """What stands before the words: the type, and the data set where it is to be named."""
    where = f"this sentence of {dataset}" if dataset else "this sentence"
    return f"Mark every {name} that {where} mentions.\nSentence:"


def tags_of(sentence: Sentence, name: str) -> list[int]:
    """The tag of each word for one type."""
    tags = [OUTSIDE] * len(sentence.words)
    for span in sentence.spans:
        if span.label == name:
            tags[span.start : span.end + 1] = [BEGIN] + [INSIDE] * (span.end - span.start)
    return tags


def first_subwords(text: str, starts: Sequence[int], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The place of each word's first sub-word among those of a text, :data:`NO_SUBWORD` where there is none.

    Args:
        text: The text.
        starts: Where each word starts in it.
        offsets: Where each sub-word is in it; white space before a sub-word may belong to it.
    """
    first = [NO_SUBWORD] * len(starts)
    word = 0
    for place, (start, end) in enumerate(offsets):
        while start < end and text[start] == " ":
            start += 1
        if start == end or start < starts[0]:
            continue
        while word + 1 < len(starts) and starts[word + 1] <= start:
            word += 1
        if first[word] == NO_SUBWORD:
            first[word] = place
    return first


def _mean_loss(logits: Tensor, tags: Tensor, rows: Tensor) -> Tensor:
    """The mean cross-entropy of some rows' words; 0 if they have none."""
    targets = torch.where(rows.unsqueeze(1), tags, IGNORED).flatten()
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum")
    return losses / (targets != IGNORED).sum().clamp(min=1)


def build(config: Config, base: Any, labels: LabelSet) -> Tagger:
    """The base model with adapters and a tagging layer.

    Raises:
        InputError: If the base model does not fit.
    """
    return Tagger(base, labels, config)
