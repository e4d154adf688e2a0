"""The zero-shot baseline: a span model with nothing trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from common.data.labels import LabelSet
from common.models.base import Base
from common.models.span_model import SpanModel
from zeroshot_baseline.config import Config

logger = logging.getLogger(__name__)

TEXT_RESERVE = 150
"""Sub-words of a cross-encoder's input kept for the sentence (as in the thesis), at most half of the input."""


def build(config: Config, base: Base, labels: LabelSet) -> SpanModel:
    """The base model asked for the data set's types."""
    texts = list(labels.texts(config.labels))
    if base.kind == "cross":
        texts = fit_texts(texts, base)
    return SpanModel(base, labels, texts, threshold=config.threshold)


def fit_texts(texts: Sequence[str], base: Base) -> list[str]:
    """Label texts, each truncated to its equal share of what a sentence leaves of a cross-encoder's input."""
    tokenizer = base.gliner.data_processor.transformer_tokenizer
    limit = tokenizer.model_max_length
    # Each text has its marker token before it; [CLS], the separator and [SEP] come on top.
    share = max(1, (limit - min(TEXT_RESERVE, limit // 2) - 3 - len(texts)) // len(texts))
    cut = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) > share:
            logger.warning("label text cut from %d to %d sub-words: %r", len(ids), share, text)
            text = tokenizer.decode(ids[:share])
        cut.append(text)
    return cut
