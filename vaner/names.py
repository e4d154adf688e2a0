"""Dense recognition of biomedical entities (DBR): made-up sentences of names out of a knowledge base."""

from __future__ import annotations

import logging
import random
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.data.dataset import Sentence, dataset_dir, make_sentence
from common.data.labels import LabelSet, normalise_type
from common.data.mixture import joint_names
from common.data.spans import Span
from common.data.text import words_of
from common.errors import InputError
from common.names import MANIFEST_FILE
from common.paths import output_root
from vaner.config import Config

if TYPE_CHECKING:
    from common.names.knowledge import Knowledge

logger = logging.getLogger(__name__)


def knowledge_root() -> Path:
    """Where the knowledge bases of data sets are, and the vectors that they share."""
    return output_root() / "vaner" / "knowledge"


def knowledge_dirs(config: Config) -> list[Path]:
    """The folders of the knowledge bases that a configuration names."""
    own = [knowledge_root() / dataset_dir(name).name for name in config.data.dataset]
    return [Path(folder) for folder in config.knowledge] or own


def require_knowledge(config: Config) -> None:
    """Raises ``InputError`` if DBR has no names; the message says how to find them."""
    # Of folders that are given nothing says what they are to be made of.
    datasets = ["NAME"] * len(config.knowledge) or [shlex.quote(name) for name in config.data.dataset]
    for folder, dataset in zip(knowledge_dirs(config), datasets, strict=True) if config.dbr != "off" else ():
        if not (folder / MANIFEST_FILE).is_file():
            raise InputError(
                f"--dbr {config.dbr}: {folder} has no knowledge base; make it with: "
                f"python -m vaner.knowledge --dataset {dataset} --names FILE, or train with --dbr off"
            )


class NameLists:
    """Draws lists of names for a sentence and a type.

    A name that only training sentences hold is used if one of the sentences trained on does: training on fewer
    sentences sees no annotation of the others.

    Args:
        knowledge: Names, and those near each training sentence.
        config: How many names, which, and whether anew each time.
        labels: Entity types.
        shown: What the instruction calls each type.
        sentences: The sentences trained on.

    Raises:
        InputError: If the knowledge base was made for other sentences.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        config: Config,
        labels: LabelSet,
        shown: Sequence[str],
        sentences: Sequence[Sentence],
    ) -> None:
        from common.names.reading import names_in

        self.config, self.labels = config, labels
        # The knowledge base of each data set of a mixture has the data set's own names of types.
        joint, names = joint_names(config.data.map), knowledge.names
        if joint:
            names = [name._replace(type=joint.get(normalise_type(name.type), name.type)) for name in names]
        self.names = names
        self.facts = knowledge.facts
        missing = next((sentence for sentence in sentences if sentence.words not in knowledge.near), None)
        if missing is not None:
            raise InputError(
                f"{', '.join(map(str, knowledge_dirs(config)))}: made for other training sentences, without "
                f"{' '.join(missing.words[:8])!r}"
            )
        own = set(names_in(sentences))
        allowed = [bool(public) or name in own for name, public in zip(self.names, knowledge.is_public, strict=True)]
        self.near = {
            sentence.words: [row for row in knowledge.near[sentence.words] if allowed[row]] for sentence in sentences
        }
        self.splits = splits_punctuation(sentences)
        types = {name.type for name in self.names}
        self.types_of = [
            {name for name in types if any(is_same_type(name, asked) for asked in {label, text})}
            for label, text in zip(labels.names, shown, strict=True)
        ]
        for label, found in zip(labels.names, self.types_of, strict=True):
            if not found:
                logger.warning(
                    "no name of the knowledge base is of type %r; its types are %s: --type-names %s=NAME names one",
                    label, sorted(types), label,
                )  # fmt: skip
        self.all_rows: list[list[list[int]]] = []
        if config.dbr == "random":
            rows = [row for row, use in enumerate(allowed) if use]
            self.all_rows = [self._by_type(rows, type_id) for type_id in range(len(labels))]

    @classmethod
    def read(cls, config: Config, labels: LabelSet, shown: Sequence[str], sentences: Sequence[Sentence]) -> NameLists:
        """As the class, with the knowledge bases that the configuration names.

        Raises:
            InputError: If there is none, or it was made for other sentences.
        """
        from common.names.knowledge import joined, read_knowledge

        require_knowledge(config)
        knowledge = joined([read_knowledge(folder) for folder in knowledge_dirs(config)])
        logger.info("DBR: %s names of %s", f"{len(knowledge.names):,}", ", ".join(map(str, knowledge_dirs(config))))
        return cls(knowledge, config, labels, shown, sentences)

    def _by_type(self, rows: Sequence[int], type_id: int) -> list[list[int]]:
        """The rows of names that are of a type, and of those that are not."""
        found: list[list[int]] = [[], []]
        for row in rows:
            found[self.names[row].type not in self.types_of[type_id]].append(row)
        return found

    def draw(self, sentence: Sentence, type_id: int, generator: random.Random) -> Sentence | None:
        """A made-up sentence of names in random order, those of the type its entities; None if there is no name.

        Args:
            sentence: A training sentence.
            type_id: The type asked for.
            generator: Draws, unless names are drawn once.
        """
        if not self.config.redraw_names:
            generator = random.Random(f"{self.config.train.seed} {type_id} {' '.join(sentence.words)}")
        groups = self.all_rows[type_id] if self.all_rows else self._by_type(self.near[sentence.words], type_id)
        of_type, others = (
            generator.sample(rows, min(most, len(rows)))
            for rows, most in zip(groups, (self.config.names_of_type, self.config.names_of_others), strict=True)
        )
        chosen = [(row, True) for row in of_type] + [(row, False) for row in others]
        generator.shuffle(chosen)
        words: list[str] = []
        spans: list[Span] = []
        for row, is_of_type in chosen:
            text = self.names[row].text
            name = [word.text for word in words_of(text)] if self.splits else text.split()
            if name and is_of_type:
                spans.append(Span(len(words), len(words) + len(name) - 1, self.labels.names[type_id]))
            words += name
        return make_sentence(words, spans) if words else None


def splits_punctuation(sentences: Sequence[Sentence]) -> bool:
    """Whether the words of a corpus are split at punctuation, ``IL - 2``, so that names are to be split alike."""
    words = {word for sentence in sentences for word in sentence.words if any(map(str.isalpha, word))}
    return sum(len(words_of(word)) > 1 for word in words) < 0.01 * len(words)


def is_same_type(name: str, asked: str) -> bool:
    """Whether a knowledge base's type and the type asked for are one: one is part of the other (the authors' rule)."""
    first, second = normalise_type(name), normalise_type(asked)
    return first in second or second in first
