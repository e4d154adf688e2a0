"""From the splits that a source has to train, validation and test of the wanted sizes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas

from common.data.dataset import Sentence, Split, sample
from common.errors import InputError

logger = logging.getLogger(__name__)

HoldOut = Literal["random", "tail"]

VALIDATION_SHARE = 0.2
"""Of the train split, where a corpus has no validation split."""
ONE_FILE_SHARES = {"validation": 0.1, "test": 0.2}
"""Of a corpus that is one file; the rest is train."""


@dataclass(frozen=True)
class SplitPlan:
    """How to split and how many sentences to keep."""

    hold_out: HoldOut = "random"
    """Which sentences become the splits that the source lacks: a seeded shuffle's first ones, or the last ones."""
    tail: int | None = None
    """Sentences that ``tail`` holds out for validation; 20 % if None."""
    seed: int = 42
    train_size: int | None = None
    validation_size: int | None = None
    test_size: int | None = None


def make_splits(source: Mapping[Split, list[Sentence]], plan: SplitPlan) -> tuple[dict[Split, list[Sentence]], str]:
    """Train, validation and test, and one sentence that says how they came to be.

    Raises:
        InputError: If a size is out of range or a split is empty.
    """
    train, validation, test = source["train"], source.get("validation"), source.get("test")
    train_size = plan.train_size
    how = "as the source has them"
    if validation is not None and plan.hold_out == "tail":
        raise InputError("--split tail has nothing to do: the corpus has its own validation split")
    if test is None:
        n_validation, n_test = (int(len(train) * share) for share in ONE_FILE_SHARES.values())
        rows = _shuffled(train, plan.seed) if plan.hold_out == "random" else train
        cut, end = len(rows) - n_validation - n_test, len(rows) - n_test
        train, validation, test = rows[:cut], rows[cut:end], rows[end:]
        how = f"one file, {plan.hold_out} 70/10/20 %"
    elif validation is None and plan.hold_out == "tail":
        n_validation = int(len(train) * VALIDATION_SHARE) if plan.tail is None else plan.tail
        cut = max(len(train) - n_validation, 0)
        train, validation = train[:cut], train[cut:]
        how = f"validation is the last {n_validation} train sentences"
    elif validation is None:
        # The reference's procedure to the row: shuffle, cut the pool, its first fifth is validation.
        pool = _shuffled(train, plan.seed)
        if train_size is not None and train_size > len(pool):
            raise InputError(f"--train-size must be between 1 and {len(pool)}, got {train_size}")
        pool = pool[:train_size]
        cut = int(len(pool) * VALIDATION_SHARE)
        validation, train, train_size = pool[:cut], pool[cut:], None
        how = f"validation is 20 % of the {len(pool)} shuffled train sentences"
    splits: dict[Split, list[Sentence]] = {"train": train, "validation": validation, "test": test}
    for name, sentences in splits.items():
        if not sentences:
            raise InputError(f"the {name} split is empty ({how})")
    logger.info("splits: %s", how)
    sizes = {"train": train_size, "validation": plan.validation_size, "test": plan.test_size}
    return {name: sample(rows, sizes[name], plan.seed, f"--{name}-size") for name, rows in splits.items()}, how


def _shuffled(sentences: list[Sentence], seed: int) -> list[Sentence]:
    order = pandas.Series(range(len(sentences))).sample(frac=1, random_state=seed)
    return [sentences[index] for index in order]
