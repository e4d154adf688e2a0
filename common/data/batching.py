"""Batches sentences of similar length, so that little of a batch is padding."""

from __future__ import annotations

import random
from collections.abc import Sequence

_BUCKET = 50
"""Number of batches sorted by length together; small enough that batches stay random, large enough to pad little."""


def training_batches(
    lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int, drawn: Sequence[int] | None = None
) -> list[list[int]]:
    """The batches of one epoch: batches of similar lengths, in random order.

    They depend on nothing but the arguments, so a resumed run sees the batches of an uninterrupted one.

    Args:
        lengths: Sub-words of each sentence.
        batch_size: Sentences in a batch; the last one of a bucket may be smaller.
        seed: Seed of the run.
        epoch: Number of the epoch.
        drawn: The indices of the epoch; every index once if not given.
    """
    generator = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)) if drawn is None else drawn)
    generator.shuffle(order)
    batches = []
    for first in range(0, len(order), batch_size * _BUCKET):
        bucket = sorted(order[first : first + batch_size * _BUCKET], key=lambda index: lengths[index])
        batches += [bucket[start : start + batch_size] for start in range(0, len(bucket), batch_size)]
    generator.shuffle(batches)
    return batches


def evaluation_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Every index once, longest first, so that a batch too large for the memory fails at once."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
