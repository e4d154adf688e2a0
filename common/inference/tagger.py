"""The tagger: finds entities with character offsets in text, with a trained model or a plain GLiNER."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict

from tqdm.auto import tqdm

from common.config import RuntimeConfig, require, require_share
from common.data.labels import LabelSet
from common.errors import InputError
from common.files import read_json, sha256_file
from common.inference.documents import UNWRITABLE, Document
from common.schema import Share, Texts, read_record
from common.training.records import RUN_FILE, WEIGHTS_FILE, approach_of

if TYPE_CHECKING:
    from common.approach import Predictor
    from common.data.spans import ScoredSpan
    from common.data.text import Word

_SENTENCES_AT_ONCE = 512
"""Sentences that are in memory as tensors, however long a document is; their windows are sorted by length into
batches."""


class Entity(NamedTuple):
    """A mention: ``document[start:end] == text``, in code points."""

    start: int
    end: int
    text: str
    label: str
    score: float


class Tagged(NamedTuple):
    """A document and its entities, in order; no two overlap."""

    document: Document
    entities: tuple[Entity, ...]


class Tagger:
    """Finds entities in text of any length.

    In three lines::

        tagger = Tagger.load("glinerev/savings/bc5cdr_20260101_120000")
        for entity in tagger.tag(["Naloxone reverses the effect of clonidine."])[0]:
            print(entity.start, entity.end, entity.text, entity.label, entity.score)

    Args:
        model: The model; it goes to the device that ``runtime`` says.
        name: What results call it.
        runtime: Device, precision, batch size and whether progress is shown.

    Raises:
        InputError: If the device or the precision is not available.
    """

    def __init__(self, model: Predictor, name: str, runtime: RuntimeConfig | None = None) -> None:
        from common.device import make_accelerator

        self.model, self.name = model, name
        self._runtime = runtime or RuntimeConfig(progress=False)
        self._accelerator = make_accelerator(self._runtime)
        model.to(self._accelerator.device)  # type: ignore[attr-defined]

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        labels: Sequence[str] = (),
        threshold: float | None = None,
        base_model: str | None = None,
        runtime: RuntimeConfig | None = None,
    ) -> Tagger:
        """A tagger from a run folder, a folder of a plain GLiNER, or the hub id of one.

        Args:
            source: A run folder of any approach, or a plain GLiNER.
            labels: Entity types to find; those trained on if none, which a GLiNER that was not exported here does not
                know.
            threshold: Least probability of an entity of any type; the model's own thresholds if None.
            base_model: Where a run's base model is now, if not where it was in training.
            runtime: Device, precision and batch size.

        Raises:
            InputError: If the model cannot be loaded, the labels are no label set, or the model answers no others than
            its own.
        """
        if threshold is not None:
            require_share("threshold", threshold)
        asked = _label_set(labels) if labels else None
        runtime = runtime or RuntimeConfig(progress=False)
        if not (Path(source) / RUN_FILE).is_file():
            require(base_model is None, f"--base-model: {source} is a model itself, not a run folder")
            return cls(*_gliner(str(source), asked, threshold), runtime)

        from common.checkpoint import load_checkpoint
        from common.device import as_trained

        approach = approach_of(Path(source))
        loaded = load_checkpoint(approach, Path(source), base_model, threshold=threshold, labels=asked)
        name = f"{approach.name}/{loaded.path.resolve().name}"
        return cls(loaded.model, name, as_trained(runtime, loaded.record.get("precision", "auto")))

    @property
    def labels(self) -> tuple[str, ...]:
        """The entity types that it finds."""
        return self.model.labels.names

    @property
    def threshold(self) -> float | None:
        """Least probability of an entity; None for a model that takes the best class of each word."""
        return getattr(self.model, "threshold", None)

    @property
    def type_thresholds(self) -> dict[str, float]:
        """Least probabilities of entities of types that have their own."""
        return dict(getattr(self.model, "type_thresholds", {}))

    @property
    def precision(self) -> str:
        """The precision that it computes in."""
        from common.device import precision_name

        return precision_name(self._accelerator)

    def tag(self, texts: Iterable[str]) -> list[list[Entity]]:
        """The entities of each text.

        Raises:
            InputError: If a text holds half of a surrogate pair.
        """
        return [list(tagged.entities) for tagged in self.tag_documents(_numbered(texts))]

    def tag_documents(self, documents: Iterable[Document]) -> Iterator[Tagged]:
        """The documents with their entities, in order, as they are done; a bounded part of them is in memory."""
        stream = _sentences(documents)
        entities: list[Entity] = []
        with tqdm(desc="tag", unit=" words", unit_scale=True, disable=not self._runtime.bars) as progress:
            while chunk := list(islice(stream, _SENTENCES_AT_ONCE)):
                tagged = iter(self._tag([[word.text for word in words] for _, words in chunk if words is not None]))
                for document, words in chunk:
                    if words is None:
                        yield Tagged(document, tuple(entities))
                        entities = []
                        continue
                    progress.update(len(words))
                    for span, score in next(tagged):
                        start, end = words[span.start].start, words[span.end].end
                        entities.append(Entity(start, end, document.text[start:end], span.label, score))

    def _tag(self, sentences: Sequence[Sequence[str]]) -> list[list[ScoredSpan]]:
        from common.evaluation.predict_split import predict_split
        from common.inference.windows import join, windows_of
        from common.models.features import EncodedSplit

        windows = windows_of(self.model, sentences)
        split = EncodedSplit([window.encoded for window in windows])
        predictions = predict_split(self.model, split, replace(self._runtime, progress=False), self._accelerator)
        return join(windows, predictions, [len(words) for words in sentences])


def weights_of(source: str) -> list[Any]:
    """What tells the weights of a run folder or a GLiNER, and what it is asked, from all others.

    Raises:
        InputError: If there is no such model.
    """
    place = Path(source)
    if (place / RUN_FILE).is_file():
        run = read_json(place / RUN_FILE)
        return [sha256_file(place / WEIGHTS_FILE), run["base_model"]["revision"], run["approach"], run["variant"]]
    from common.bases import base_revision

    adapted = adaptation_file(source)
    return [base_revision(source), "" if adapted is None else sha256_file(adapted)]


def adaptation_file(source: str) -> Path | None:
    """What a GLiNER that was exported here says of its labels; None for any other."""
    from common.bases import base_file
    from common.checkpoint import ADAPTATION_FILE

    return base_file(source, ADAPTATION_FILE)


class _Adaptation(TypedDict):
    """What of :data:`common.checkpoint.ADAPTATION_FILE` is read; earlier exports have no thresholds by label text."""

    labels: Texts
    threshold: NotRequired[Share | None]
    thresholds: NotRequired[dict[str, Share]]


def _gliner(source: str, labels: LabelSet | None, threshold: float | None) -> tuple[Predictor, str]:
    """A GLiNER as it is and its name; an export of ours says itself what to ask it for, and how."""
    from common.bases import load_base
    from common.models.span_model import SpanModel

    file = adaptation_file(source)
    known = {"labels": {}} if file is None else read_record(file, _Adaptation)
    texts = known["labels"]
    if labels is None:
        require(bool(texts), f"--labels is missing: {source} does not say which entity types to find")
        labels = _label_set(list(texts))
    base = load_base(source, None)
    given = known.get("threshold") if threshold is None else threshold
    model = SpanModel(base, labels, [texts.get(name, name) for name in labels.names], threshold=given)
    if threshold is None:
        own = known.get("thresholds", {})
        named = zip(labels.names, model.label_texts, strict=True)
        model.type_thresholds = {name: own[text] for name, text in named if own.get(text, given) != given}
    return model, base.name


def _sentences(documents: Iterable[Document]) -> Iterator[tuple[Document, Sequence[Word] | None]]:
    """The sentences of all documents, and None behind the last one of each."""
    for document in documents:
        for words in document.sentences():
            yield document, words
        yield document, None


def _numbered(texts: Iterable[str]) -> Iterator[Document]:
    for number, text in enumerate(texts):
        try:
            yield Document(str(number), text)
        except ValueError as error:
            raise InputError(f"text {number}: {error}") from error


def _label_set(labels: Sequence[str]) -> LabelSet:
    """Entity types whose names are all that the model reads of them."""
    for name in labels:
        require(not UNWRITABLE.search(name), f"--labels: {name!r} holds a line end or the like")
    try:
        return LabelSet(tuple(labels), tuple(labels), "Any other word.")
    except ValueError as error:
        raise InputError(f"--labels: {error}") from error
