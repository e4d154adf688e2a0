"""Makes tasks of a corpus: ``python -m annotation.tasks --source corpus.conll --output tasks.json``."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from annotation.labelling import Labelling
from annotation.regions import annotation
from common.config import parse, require
from common.data.dataset import Sentence, Split, sample
from common.data.text import Mention
from common.files import write_json_records
from common.script import run_script
from dataset_generation.corpus import Corpus
from dataset_generation.generate import DEMOS, GenerateConfig, read_corpus
from dataset_generation.options import ReadOptions
from dataset_generation.sources import BENCHMARKS

logger = logging.getLogger(__name__)

UID, DOCUMENT, TEXT = "uid", "doc_id", "text"
"""Fields of a task's data: what names it wherever it is imported, the document that it is from, and its text."""


@dataclass(frozen=True, kw_only=True)
class Config(ReadOptions):
    """Make Label Studio tasks from a corpus: one per sentence, or one per text with --sentences whole."""

    source: str
    """A file, a folder of files, hub:OWNER/NAME, or one of jnlpba, bc5cdr, demo-jnlpba, demo-bc5cdr."""
    output: Path
    """JSON file of tasks to write, for annotation.setup or Label Studio's import dialog."""
    splits: tuple[Split, ...] = ()
    """Splits of the corpus to take; all if not given."""
    size: int | None = None
    """Number of sentences (a seeded sample); all if not given."""
    order: Literal["random", "corpus"] = "random"
    """Order in which people get the documents. random: what is annotated first stands for all;
    corpus: the corpus's own, which may be sorted."""
    seed: int = 42
    """Seed of the sample and the order."""
    with_gold: bool = False
    """Include the corpus's entities as annotations (ground truth); otherwise people annotate from scratch."""


def corpus_of(source: str, options: ReadOptions) -> Corpus:
    """The corpus that ``--source`` names.

    Raises:
        InputError: If it cannot be read.
    """
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(ReadOptions)}
    if source in (*BENCHMARKS, *DEMOS):
        return read_corpus(GenerateConfig(dataset=source, **given))
    return read_corpus(GenerateConfig(dataset="tasks", source=source, **given))


def spelling(corpus: Corpus) -> dict[str, str]:
    """How the corpus writes each type: the first spelling in alphabetical order."""
    written = {span.label: span.label for sentences in corpus.splits.values() for s in sentences for span in s.spans}
    return written | {name: first for first, name in reversed(list(corpus.type_map.items()))}


def text_of(sentence: Sentence) -> tuple[str, list[int]]:
    """The text of a sentence, and where each word begins: raw text as it was, words that came as words with spaces."""
    text, starts, offset = sentence.text, [], 0
    if text is None:
        text = " ".join(sentence.words)
    for word in sentence.words:
        # What is between two words is white space and invisible characters, with which no word begins.
        offset = text.index(word, offset)
        starts.append(offset)
        offset += len(word)
    return text, starts


def make_tasks(sentences: Sequence[Sentence], labelling: Labelling | None = None) -> Iterator[dict[str, Any]]:
    """The tasks of some sentences.

    A sentence without a document is one by itself, so that equal texts always are in one part of the data.

    Args:
        sentences: Sentences whose types are labels of ``labelling``.
        labelling: If given, entities are taken along as ground truth.
    """
    numbers: Counter[tuple[str, str]] = Counter()
    for sentence in sentences:
        text, starts = text_of(sentence)
        document = sentence.document or _digest(text)
        # A text that a document has again is another task; which others were chosen changes no name.
        number = numbers[document, text]
        numbers[document, text] += 1
        task: dict[str, Any] = {"data": {TEXT: text, DOCUMENT: document, UID: _digest(f"{document}\n{number}\n{text}")}}
        if labelling is not None:
            mentions = [
                Mention(starts[span.start], starts[span.end] + len(sentence.words[span.end]), span.label)
                for span in sentence.spans
            ]
            task["annotations"] = [annotation(mentions, text, labelling) | {"ground_truth": True}]
        yield task


def shuffled(sentences: Sequence[Sentence], seed: int) -> list[Sentence]:
    """Documents in random order, each with its sentences as they were; a sentence without one is one by itself."""
    documents: defaultdict[str, list[Sentence]] = defaultdict(list)
    for number, sentence in enumerate(sentences):
        documents[f"document {sentence.document}" if sentence.document else f"sentence {number}"].append(sentence)
    return [s for name in random.Random(seed).sample(list(documents), len(documents)) for s in documents[name]]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main(argv: Sequence[str] | None = None) -> Path:
    """Writes the tasks and returns their file."""
    config = parse(Config, argv)
    corpus = corpus_of(config.source, config)
    missing = set(config.splits) - set(corpus.splits)
    require(not missing, f"--splits: the corpus has {list(corpus.splits)}, not {sorted(missing)}")
    sentences = [s for split, part in corpus.splits.items() if split in (config.splits or corpus.splits) for s in part]
    chosen = sample(sentences, config.size, config.seed, "--size")
    if config.order == "random":
        chosen = shuffled(chosen, config.seed)
    labelling = None
    if config.with_gold:
        written = spelling(corpus)
        chosen = [
            dataclasses.replace(s, spans=tuple(x._replace(label=written[x.label]) for x in s.spans)) for s in chosen
        ]
        labelling = Labelling("label", "text", TEXT, tuple(sorted(written.values())))
    write_json_records(config.output, make_tasks(chosen, labelling))
    entities = sum(len(s.spans) for s in chosen)
    with_gold = f" with {entities} entities" if labelling else f"; their {entities} entities stay behind (--with-gold)"
    logger.info("%d tasks%s: %s", len(chosen), with_gold, config.output)
    return config.output


def document_of(data: Mapping[str, Any], task: int) -> str:
    """The document that a task is from; one that names none is a document by itself."""
    name = data.get(DOCUMENT)
    return str(name) if isinstance(name, str | int) and str(name) else f"task {task}"


if __name__ == "__main__":
    run_script(main)
