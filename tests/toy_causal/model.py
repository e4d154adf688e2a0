"""The causal tagger's model: it knows transformers, and nothing of gliner."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.approach import Batch, TrainedPart, set_mode
from common.data.dataset import Sentence
from common.data.labels import LabelSet
from common.data.spans import ScoredSpan, Span
from toy_causal.config import Config


class LanguageModel:
    """A base model: what the contract asks of one, and its weights."""

    def __init__(self, folder: Path, kind: str, revision: str) -> None:
        self.name, self.kind, self.location, self.revision = folder.name, kind, str(folder.resolve()), revision
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.network = AutoModelForCausalLM.from_pretrained(folder)


@dataclass(frozen=True, eq=False)
class EncodedTokens:
    """A sentence's token ids, and where each word ends."""

    sentence: Sentence
    ids: Tensor
    ends: Tensor
    classes: Tensor

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def n_words(self) -> int:
        return len(self.ends)


@dataclass(eq=False)
class TokenBatch(Batch):
    """Padded ids, the last token of each word, and the words' classes (-100 behind a sentence's end)."""

    ids: Tensor
    attended: Tensor
    ends: Tensor
    classes: Tensor


class CausalTagger(nn.Module):
    """Each word has the best class of its last token; runs of a class are spans."""

    def __init__(self, base: LanguageModel, labels: LabelSet, config: Config) -> None:
        super().__init__()
        self.tokenizer, self.network, self.labels, self.scale = base.tokenizer, base.network, labels, config.scale
        self.head = nn.Linear(base.network.config.hidden_size, len(labels) + 1)
        self.parts = (TrainedPart("head", ("head",), config.learning_rate),)
        self.eval()

    def train(self, mode: bool = True) -> CausalTagger:
        set_mode(self, self.parts, mode)
        return self

    def encode(self, sentences: Sequence[Sentence]) -> list[EncodedTokens]:
        encoded = []
        for sentence in sentences:
            words = [self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in sentence.words]
            ends = torch.tensor([len(word) for word in words]).cumsum(0) - 1
            classes = torch.tensor(self.labels.word_classes(sentence.spans, len(words)))
            ids = torch.tensor(list(itertools.chain.from_iterable(words)))
            encoded.append(EncodedTokens(sentence, ids, ends, classes))
        return encoded

    def collate(self, encoded: Sequence[EncodedTokens]) -> TokenBatch:
        return TokenBatch(
            encoded,
            pad_sequence([item.ids for item in encoded], True),
            pad_sequence([torch.ones_like(item.ids) for item in encoded], True),
            pad_sequence([item.ends for item in encoded], True),
            pad_sequence([item.classes for item in encoded], True, -100),
        )

    def logits(self, batch: TokenBatch) -> Tensor:
        with torch.no_grad():
            states = self.network.model(batch.ids, attention_mask=batch.attended).last_hidden_state
        words = states.gather(1, batch.ends.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        return self.scale * self.head(words)

    def forward(self, batch: TokenBatch) -> Tensor:
        return nn.functional.cross_entropy(self.logits(batch).flatten(0, 1).float(), batch.classes.flatten())

    @torch.no_grad()
    def predict(self, batch: TokenBatch) -> list[list[ScoredSpan]]:
        best = self.logits(batch).softmax(-1).max(-1)
        found = []
        for row, item in enumerate(batch.encoded):
            n_words = len(item.sentence.words)
            spans = self._spans(best.indices[row, :n_words].tolist())
            found.append([ScoredSpan(s, float(best.values[row, s.start : s.end + 1].mean())) for s in spans])
        return found

    def _spans(self, classes: list[int]) -> list[Span]:
        spans: list[Span] = []
        for index, found in enumerate(classes):
            if found == self.labels.outside_id:
                continue
            if spans and spans[-1].end == index - 1 and classes[index - 1] == found:
                spans[-1] = spans[-1]._replace(end=index)
            else:
                spans.append(Span(index, index, self.labels.names[found]))
        return spans

    def oracle(self, encoded: EncodedTokens) -> list[Span]:
        return self._spans(encoded.classes.tolist())

    def unreachable(self, encoded: EncodedTokens) -> dict[str, int]:
        return {"touching": len(set(encoded.sentence.spans) - set(self.oracle(encoded)))}

    def begin_training(self, encoded: Sequence[EncodedTokens]) -> None:
        """Nothing."""

    def frozen_part(self) -> None:
        return None


def build(config: Config, base: LanguageModel, labels: LabelSet) -> CausalTagger:
    return CausalTagger(base, labels, config)
