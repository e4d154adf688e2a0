"""Joins several data sets into one, to train on together.

What one data set annotates may appear unannotated in another, where it is not a negative. So in each sentence the model
looks only for the types of its own data set (:attr:`Sentence.types`), in the loss and in predictions. Types with the
same name are one type; a map joins types with different names. Nothing here depends on an approach.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from common.config import DataConfig, Sampling, require, type_and_name
from common.data.dataset import Dataset, Sentence, load_dataset
from common.data.labels import LabelSet, normalise_type
from common.data.spans import ScoredSpan, Span
from common.errors import InputError

logger = logging.getLogger(__name__)

LONGEST_NAME = 80
"""Letters of a mixture's name, which starts the names of its run folders."""


@dataclass(frozen=True)
class Mixture(Dataset):
    """Data sets that are trained on together; each split has the sentences of one after those of another."""

    members: tuple[Dataset, ...]
    """The data sets, with joint names of types; the label set of each is a part of the mixture's."""
    sampling: Sampling

    @property
    def parts(self) -> tuple[Dataset, ...]:
        """The data sets."""
        return self.members

    def drawn(self, seed: int, epoch: int) -> list[int]:
        """Every training sentence once; under equal sampling as many, the same number of each data set (or one more).

        A data set that has more is drawn from anew in each epoch; one that has fewer is repeated, and the rest drawn.
        """
        if self.sampling == "size":
            return super().drawn(seed, epoch)
        share, more = divmod(len(self.train), len(self.members))
        chosen: list[int] = []
        first = 0
        for place, member in enumerate(self.members):
            numbers = range(first, first + len(member.train))
            times, rest = divmod(share + (place < more), len(numbers))
            generator = random.Random(f"{seed}/{epoch}/{member.name}")
            chosen += [*numbers] * times + sorted(generator.sample(numbers, rest))
            first = numbers.stop
        return chosen


@dataclass(frozen=True)
class Asked:
    """What a model of a mixture is asked for on a data set, whose own names of types come back."""

    dataset: str
    """The data set's name."""
    labels: LabelSet
    """The data set's types."""
    joint: Mapping[str, str]
    """The model's name of each; all different."""

    @property
    def types(self) -> tuple[str, ...]:
        """The types by the model's names."""
        return tuple(self.joint.values())

    def to_model(self, sentence: Sentence) -> Sentence:
        """A sentence as the model knows it."""
        return renamed(sentence, self.joint, self.types, self.dataset)

    def from_model(self, predictions: Sequence[Sequence[ScoredSpan]]) -> list[list[ScoredSpan]]:
        """Predictions with the data set's names."""
        own = {joint: name for name, joint in self.joint.items()}
        return [
            [ScoredSpan(Span(start, end, own[label]), score) for (start, end, label), score in spans]
            for spans in predictions
        ]


def renamed(sentence: Sentence, names: Mapping[str, str], types: tuple[str, ...], dataset: str) -> Sentence:
    """A sentence of a data set with other names of types, which it is asked for alone."""
    spans = tuple(Span(start, end, names[label]) for start, end, label in sentence.spans)
    return replace(sentence, spans=spans, types=types, dataset=dataset)


def mixture_variant(data: Dataset, config: DataConfig) -> dict[str, str]:
    """What a mixture adds to a variant, so that its runs stand beside those on one data set, not among them."""
    if len(config.dataset) == 1:
        return {}
    return {"data": data.name} | ({"sampling": "equal sampling"} if config.sampling == "equal" else {})


def mixture_name(names: Sequence[str]) -> str:
    """The name of a mixture of data sets: ``a+b+c``; of many, the first, the number of the others and a hash."""
    whole = "+".join(names)
    if len(whole) <= LONGEST_NAME:
        return whole
    return f"{names[0]}+{len(names) - 1}_more_{hashlib.sha256(whole.encode()).hexdigest()[:6]}"


def load_training(config: DataConfig, seed: int) -> Dataset:
    """The data that a configuration names, its training and validation sentences limited to the sizes asked for.

    Raises:
        InputError: If a data set does not exist, a record is bad, a size is larger than a split, or the map is wrong.
    """
    names = joint_names(config.map)
    limited = [load_dataset(name).limited(config.train_size, config.validation_size, seed) for name in config.dataset]
    return limited[0] if len(limited) == 1 else mix(limited, names, config.sampling)


def joint_names(texts: Sequence[str]) -> dict[str, str]:
    """Joint names by type from ``TYPE=NAME``, types in the writing of :func:`normalise_type`.

    Raises:
        InputError: If a type has two, or a text has another form.
    """
    names: dict[str, str] = {}
    for source, target in map(type_and_name, texts):
        name = normalise_type(source)
        require(name not in names, f"--map: type {name!r} has two names")
        names[name] = " ".join(target.split())
    return names


def mix(datasets: Sequence[Dataset], names: Mapping[str, str], sampling: Sampling) -> Mixture:
    """A mixture of data sets.

    Args:
        datasets: The data sets.
        names: Joint names by type, types as :func:`normalise_type` writes them; a type without one keeps its own.
        sampling: As in :class:`DataConfig`.

    Raises:
        InputError: If two data sets have the same name, a mapped type is in none of them, or a joint name is a
            type's in another writing.
    """
    own = [dataset.name for dataset in datasets]
    require(len(set(own)) == len(own), f"--dataset: two data sets have the same name: {', '.join(own)}")
    known = {normalise_type(name) for dataset in datasets for name in dataset.labels.names}
    for name in names:
        require(name in known, f"--map: no data set has the type {name!r}; the types are {', '.join(sorted(known))}")
    members = tuple(with_joint_names(dataset, names) for dataset in datasets)
    descriptions: dict[str, str] = {}
    for member in members:
        for name, text in zip(member.labels.names, member.labels.descriptions, strict=True):
            # A type of several data sets is described as by the first.
            descriptions.setdefault(name, text)
    for name in names.values():
        other = next(
            (kind for kind in descriptions if kind != name and normalise_type(kind) == normalise_type(name)), None
        )
        require(other is None, f"--map: {name!r} would be another type than {other!r}; write it as the data sets do")
    types = ", ".join(descriptions)
    labels = label_set(descriptions, f"A word that belongs to no mention of any of these: {types}.")
    logger.info("mixture of %s: %d types: %s", ", ".join(own), len(descriptions), types)
    content = [[member.sha256, member.labels.label2desc] for member in members]
    return Mixture(
        name=mixture_name(own),
        labels=labels,
        train=[sentence for member in members for sentence in member.train],
        validation=[sentence for member in members for sentence in member.validation],
        test=[sentence for member in members for sentence in member.test],
        sha256=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        members=members,
        sampling=sampling,
    )


def with_joint_names(dataset: Dataset, names: Mapping[str, str]) -> Dataset:
    """A data set under joint names of its types, each of its sentences asked for these alone.

    Raises:
        InputError: If the names are no label set.
    """
    joint = {name: names.get(normalise_type(name), name) for name in dataset.labels.names}
    descriptions: dict[str, str] = {}
    for name, text in zip(dataset.labels.names, dataset.labels.descriptions, strict=True):
        descriptions.setdefault(joint[name], text)
    labels = label_set(descriptions, dataset.labels.outside_description)
    train, validation, test = (
        [renamed(sentence, joint, labels.names, dataset.name) for sentence in sentences]
        for sentences in (dataset.train, dataset.validation, dataset.test)
    )
    return replace(dataset, labels=labels, train=train, validation=validation, test=test)


def as_asked(dataset: Dataset, names: Mapping[str, str], known: Sequence[str]) -> tuple[Dataset, Asked] | None:
    """How a model of a mixture is tested on a data set; None if it does not know all of its types.

    Args:
        dataset: The data set.
        names: The mixture's joint names by type.
        known: The model's types.

    Returns:
        The data set, under joint names where two of its types share one, and what the model is asked for.
    """
    joint = {name: names.get(normalise_type(name), name) for name in dataset.labels.names}
    if not set(joint.values()) <= set(known):
        return None
    if len(set(joint.values())) < len(joint):
        dataset = with_joint_names(dataset, names)
        joint = {name: name for name in dataset.labels.names}
    return dataset, Asked(dataset.name, dataset.labels, joint)


def label_set(descriptions: Mapping[str, str], outside: str) -> LabelSet:
    """Types with their descriptions.

    Raises:
        InputError: If they are no label set, such as with a type named ``O``.
    """
    try:
        return LabelSet(tuple(descriptions), tuple(descriptions.values()), outside)
    except ValueError as error:
        raise InputError(f"--map: {error}") from error
