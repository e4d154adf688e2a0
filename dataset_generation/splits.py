"""From the splits that a source has to train, validation and test of the wanted sizes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from common.data.dataset import SPLITS, Sentence, Split, sample
from common.errors import InputError

logger = logging.getLogger(__name__)

HoldOut = Literal["random", "tail"]
SplitBy = Literal["sentence", "document"]

VALIDATION_SHARE = 0.2
"""Share of the train split that becomes validation, where a corpus has no validation split."""
ONE_FILE_SHARES = {"validation": 0.1, "test": 0.2}
"""Shares of a corpus that is one file; the rest is train."""

_GIVEN = "as the source has them"


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
    split_by: SplitBy = "sentence"
    """What stays together when we split: sentences with the same words, or all sentences of a document."""
    allow_overlap: bool = False
    """Allow sentences with the same words in different splits."""


def make_splits(source: Mapping[Split, list[Sentence]], plan: SplitPlan) -> tuple[dict[Split, list[Sentence]], str]:
    """Train, validation and test, and one sentence that says how they came to be.

    Raises:
        InputError: If a size is out of range or a split is empty.
    """
    train, validation, test = source["train"], source.get("validation"), source.get("test")
    train_size = plan.train_size
    how = _GIVEN
    if validation is not None and plan.hold_out == "tail":
        raise InputError("--split tail has nothing to do: the corpus has its own validation split")
    if validation is not None and test is not None and plan.split_by == "document":
        raise InputError("--split-by document has nothing to do: the corpus has all three splits")
    group = _group(train, plan)
    rows = _shuffled(train, plan) if plan.hold_out == "random" else train
    if test is None:
        if len(train) < 10:
            raise InputError(
                f"{len(train)} sentences are too few to cut into train, validation and test (at least 10 are needed); "
                "give train, dev and test files"
            )
        n_validation, n_test = (int(len(train) * share) for share in ONE_FILE_SHARES.values())
        rest, test = _cut(rows, n_test, group, end=True)
        train, validation = _cut(rest, n_validation, group, end=True)
        how = f"one file, {plan.hold_out} 70/10/20 %"
    elif validation is None and plan.hold_out == "tail":
        n_validation = int(len(train) * VALIDATION_SHARE) if plan.tail is None else plan.tail
        train, validation = _cut(rows, n_validation, group, end=True)
        how = f"validation is the last {n_validation} train sentences"
    elif validation is None:
        # The thesis's procedure, row by row: shuffle, cut the pool, its first fifth is validation.
        if train_size is not None and train_size > len(rows):
            raise InputError(f"--train-size must be between 1 and {len(rows)}, got {train_size}")
        pool = rows[:train_size]
        train, validation = _cut(pool, int(len(pool) * VALIDATION_SHARE), group, end=False)
        train_size = None
        how = f"validation is 20 % of the {len(pool)} shuffled train sentences"
    if group is not None and how != _GIVEN:
        how += ", whole documents" if plan.split_by == "document" else ", sentences of the same words in one split"
    if plan.split_by == "sentence" and how != _GIVEN and train and train[0].document is not None:
        logger.info("the corpus names its documents: --split-by document keeps each of them in one split")
    splits: dict[Split, list[Sentence]] = {"train": train, "validation": validation or [], "test": test}
    for name, sentences in splits.items():
        if not sentences:
            way_out = ""
            if group is not None and how != _GIVEN:
                way_out = "; give files for each split" + (
                    "" if plan.split_by == "document" else ", or --allow-overlap"
                )
            raise InputError(f"the {name} split is empty ({how}){way_out}")
    logger.info("splits: %s", how)
    sizes = {"train": train_size, "validation": plan.validation_size, "test": plan.test_size}
    return {name: sample(rows, sizes[name], plan.seed, f"--{name}-size") for name, rows in splits.items()}, how


def _group(sentences: Sequence[Sentence], plan: SplitPlan) -> Callable[[Sentence], Hashable] | None:
    """The key that sentences share if they must stay together; None if each stands alone."""
    if plan.split_by == "document":
        if all(sentence.document is None for sentence in sentences):
            raise InputError("--split-by document: the corpus does not say which sentences are of one document")
        return lambda sentence: sentence.document
    repeats = len({sentence.words for sentence in sentences}) < len(sentences)
    return (lambda sentence: sentence.words) if repeats and not plan.allow_overlap else None


def _shuffled(sentences: list[Sentence], plan: SplitPlan) -> list[Sentence]:
    """The sentences in random order, or the documents in random order with their sentences as they are."""
    import pandas

    members: dict[Hashable, list[Sentence]] = {}
    for index, sentence in enumerate(sentences):
        members.setdefault(sentence.document if plan.split_by == "document" else index, []).append(sentence)
    groups = list(members.values())
    # As the thesis's code draws.
    order = pandas.Series(range(len(groups))).sample(frac=1, random_state=plan.seed)
    return [sentence for index in order for sentence in groups[index]]


def _cut(
    rows: Sequence[Sentence], size: int, group: Callable[[Sentence], Hashable] | None, *, end: bool
) -> tuple[list[Sentence], list[Sentence]]:
    """The rest, and ``size`` rows from the start or end; more where whole groups must stay together."""
    key: Callable[[Sentence], Hashable] = group or id
    sizes = Counter(map(key, rows))
    taken: set[Hashable] = set()
    n_taken = 0
    for row in reversed(rows) if end else rows:
        if n_taken >= size:
            break
        if key(row) not in taken:
            taken.add(key(row))
            n_taken += sizes[key(row)]
    return [row for row in rows if key(row) not in taken], [row for row in rows if key(row) in taken]


def shared_sentences(splits: Mapping[Split, Sequence[Sentence]]) -> dict[str, int]:
    """How many sentences of one split also occur in an earlier one, word for word: ``{"test in train": 21, ...}``."""
    words = {split: {sentence.words for sentence in splits[split]} for split in SPLITS}
    return {
        f"{later} in {earlier}": sum(sentence.words in words[earlier] for sentence in splits[later])
        for earlier, later in combinations(SPLITS, 2)
    }
