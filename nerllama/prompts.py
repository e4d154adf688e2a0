"""What the model is asked: instruction, examples, the sentence.

The NERLlama3.1 paper's order, in words of ours: what to mark and how, then examples as pairs of input and output, then
a word of caution and the sentence. Its released code has a backslash and an n where a line should end; here lines
end.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from common.data.dataset import Sentence
from common.data.labels import normalise_type
from nerllama.marks import Mark, marked

Example = tuple[str, str]
"""An input and its output."""


def example(sentence: Sentence, marks: Sequence[Mark]) -> Example:
    """A sentence as it is, and with its entities marked."""
    return " ".join(sentence.words), marked(sentence.words, sentence.spans, marks)


def question(marks: Sequence[Mark], examples: Sequence[Example]) -> tuple[str, str]:
    """The text of a prompt before and after the sentence."""
    if len(marks) == 1:
        (mark,) = marks
        kind = normalise_type(mark.label)
        task = (
            f"You find named entities. Copy the input, with {mark.before} before and {mark.after} after every mention "
            f'of the type "{kind}". If it has none, copy it as it is.'
        )
    else:
        kinds = "\n".join(f"{mark.before} and {mark.after}: {normalise_type(mark.label)}" for mark in marks)
        task = (
            "You find named entities. Copy the input, with the marks of its type before and after every mention of "
            f"these types. If it has none, copy it as it is.\n{kinds}"
        )
    shown = "".join(f"Input:\n{given}\nOutput:\n{wanted}\n\n" for given, wanted in examples)
    caution = "Mark only what you are sure of, and change no word."
    return f"{task}\n\n{shown}{caution}\n\nInput:\n", "\nOutput:"


class Pool:
    """Sentences from which examples are drawn.

    Args:
        sentences: With their entities.
    """

    def __init__(self, sentences: Sequence[Sentence]) -> None:
        self.sentences = list(sentences)
        self._of_types: dict[tuple[str, ...], tuple[list[int], list[int]]] = {}

    def draw(self, count: int, labels: Sequence[str], seed: str, without: Sentence | None = None) -> list[Sentence]:
        """Examples of a prompt: at random, half of them (rounded up) with an entity of the types, if there are any.

        The same arguments give the same examples, none of them twice.

        Args:
            count: How many; all if there are fewer.
            labels: The types that are asked for.
            seed: Of the draw.
            without: A sentence that must not be its own example.
        """
        types = tuple(labels)
        if types not in self._of_types:
            # A sentence of a mixture is no example for types that its data set does not mark.
            asked = [
                index
                for index, sentence in enumerate(self.sentences)
                if sentence.types is None or any(name in sentence.types for name in types)
            ]
            marked = [index for index in asked if any(span.label in types for span in self.sentences[index].spans)]
            self._of_types[types] = marked, asked
        with_entity, asked = self._of_types[types]
        generator = random.Random(seed)
        chosen: list[Sentence] = []
        seen = {() if without is None else without.words}
        for indices, wanted in ((with_entity, (count + 1) // 2), (asked, count)):
            # As many as can be lost to repetitions, and some: a corpus has few sentences more than twice.
            for index in generator.sample(indices, min(len(indices), 2 * count + 8)):
                sentence = self.sentences[index]
                if len(chosen) < wanted and sentence.words not in seen:
                    chosen.append(sentence)
                    seen.add(sentence.words)
        generator.shuffle(chosen)
        return chosen


def sentence_seed(seed: int, sentence: Sentence) -> str:
    """A seed of a sentence's own, the same wherever it stands."""
    return f"{seed}/{hashlib.sha256(chr(10).join(sentence.words).encode()).hexdigest()}"
