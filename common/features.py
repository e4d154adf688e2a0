"""Stored output of an approach's frozen part: computed once, read in every epoch."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from common.approach import Approach, Batch, Encoded, FrozenPart, Predictor
from common.batching import evaluation_batches
from common.config import RuntimeConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """Rows of all sentences, one after another, in half precision on the CPU."""

    rows: Tensor
    """float16, shape ``(all rows, D)``."""
    offsets: Sequence[int]
    """Where each sentence's rows start, and the end of the last."""

    def padded(self, indices: Sequence[int]) -> Tensor:
        """The features of a batch, shape ``(B, longest, D)``, zero behind a sentence's end."""
        return pad_sequence([self.rows[self.offsets[index] : self.offsets[index + 1]] for index in indices], True)


@dataclass(eq=False)
class EncodedSplit:
    """The tokenised sentences of a split, with the stored features of a model's frozen part if it has one."""

    encoded: list[Encoded]
    store: FeatureStore | None = None
    seconds: float = 0.0
    """What computing the features took."""

    @property
    def lengths(self) -> list[int]:
        """Sub-words of each sentence."""
        return [len(item.input_ids) for item in self.encoded]

    def batch(self, model: Predictor, indices: Sequence[int]) -> Batch:
        """The padded batch of some sentences."""
        batch = model.collate([self.encoded[index] for index in indices])
        if self.store is not None:
            batch.features = self.store.padded(indices)
        return batch


def encode_split(
    model: Predictor, sentences: Sequence, runtime: RuntimeConfig, accelerator: Accelerator, what: str
) -> EncodedSplit:
    """Tokenises a split and, if the model has a frozen part and the cache is on, computes its features.

    Args:
        model: The approach, on its device and in evaluation mode.
        sentences: Sentences of the split.
        runtime: Says whether to cache and at which batch size.
        accelerator: Device and precision.
        what: Name of the split, for logs.
    """
    split = EncodedSplit(model.encode(sentences))
    part = model.frozen_part() if isinstance(model, Approach) else None
    if part is None or runtime.feature_cache == "off":
        return split
    start = time.perf_counter()
    split.store = _compute(model, split, part, runtime, accelerator, what)
    split.seconds = time.perf_counter() - start
    size = split.store.rows.numel() * split.store.rows.element_size() / 2**20
    logger.info(
        "%s: %s features of %d sentences in %.1f s, %.0f MiB",
        what,
        part.name,
        len(split.encoded),
        split.seconds,
        size,
    )
    return split


@torch.no_grad()
def _compute(
    model: Predictor, split: EncodedSplit, part: FrozenPart, runtime: RuntimeConfig, accelerator: Accelerator, what: str
) -> FeatureStore:
    rows_of = [item.n_words if part.unit == "word" else len(item.input_ids) for item in split.encoded]
    offsets = torch.tensor([0, *rows_of]).cumsum(0).tolist()
    rows = torch.empty(offsets[-1], part.width, dtype=torch.float16)
    batches = evaluation_batches(split.lengths, runtime.eval_batch_size)
    for indices in tqdm(batches, desc=f"{part.name}: {what}", disable=not runtime.progress, leave=False):
        batch = model.collate([split.encoded[index] for index in indices]).to(accelerator.device)
        with accelerator.autocast():
            output = part.compute(batch)
        output = output.to("cpu", torch.float16)
        for row, index in enumerate(indices):
            rows[offsets[index] : offsets[index + 1]] = output[row, : rows_of[index]]
    return FeatureStore(rows, offsets)
