"""From the records of a corpus to checked sentences; everything changed or lost on the way is counted."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from common.data.dataset import SPLITS, Sentence, Split, check_encodable, make_sentence
from common.data.labels import normalise_type
from common.data.mixture import joint_names
from common.data.spans import OUTSIDE, PREFIXES, Span, TagError, check_span, detect_scheme
from common.data.text import Mention, Word, align, first_words, sentences_of, words_of
from common.errors import InputError, shown
from dataset_generation.corpus import Corpus, losses
from dataset_generation.formats.base import Annotated, Item, LeftOut, Records, Spanned, Tagged
from dataset_generation.options import Overlaps, ReadOptions, TagScheme
from dataset_generation.tags import check_tags, tag_spans, typed

logger = logging.getLogger(__name__)

_LONGEST_TYPE = 200
_LOGGED = 10
"""Messages of a kind that are logged."""

Parsed = list[tuple[str, Item]]
"""The well-formed records of a split with their places."""


class CorpusReader:
    """Collects the records of a corpus, split by split, then makes its sentences.

    Args:
        options: How to read.
        known_types: The normalised types that may occur; any if None.
    """

    def __init__(self, options: ReadOptions, known_types: Sequence[str] | None = None) -> None:
        self.options = options
        self.known_types = known_types
        self.wanted = {normalise_type(name) for name in options.types}
        self.names = {name: normalise_type(joint) for name, joint in joint_names(options.map).items()}
        self.parsed: dict[Split, Parsed] = {}
        self.counts: dict[Split, Counter[str]] = {}
        self.type_map: dict[str, str] = {}
        self.seen_types: set[str] = set()
        self.problems: Counter[str] = Counter()
        self.invalid: set[str] = set()
        self.where: dict[Split, str] = {}

    def add(
        self,
        split: Split,
        where: str,
        records: Records,
        parse: Callable[[Any, ReadOptions], list[Item]],
        options: ReadOptions | None = None,
    ) -> None:
        """Parses the records of a file, by the options that its format has completed if they are given.

        Raises:
            InputError: If there is none, or at the first bad one unless those are skipped.
        """
        parsed, counts = self.parsed.setdefault(split, []), self.counts.setdefault(split, Counter())
        before = counts["records"]
        self.where.setdefault(split, where)
        for number, raw in records:
            place = f"{where}: {number}"
            counts["records"] += 1
            try:
                items = parse(raw, options or self.options)
                for item in items:
                    if isinstance(item, Tagged):
                        check_tags(item, self.options)
            except ValueError as error:
                self._bad_record(split, place, error)
                continue
            parsed += [(place, item) for item in items]
        if counts["records"] == before:
            raise InputError(f"{where}: the file holds no records")

    def corpus(self, origin: Mapping[str, Any]) -> Corpus:
        """The sentences of all records, with one tag scheme for the whole corpus.

        Raises:
            InputError: If a record is bad (unless skipped), a split has none, or an option names an unknown type.
        """
        scheme = self._scheme()
        splits = {split: list(self._sentences(split, scheme)) for split in SPLITS if split in self.parsed}
        for option, names in (("--types", self.wanted), ("--map", set(self.names))):
            if unknown := names - self.seen_types:
                raise InputError(
                    f"{option}: the corpus has no {', '.join(sorted(unknown))}; it has {sorted(self.seen_types)}"
                )
        for split, sentences in splits.items():
            counts = self.counts[split]
            if not sentences and counts["records_invalid"] == counts["records"]:
                raise InputError(f"{self.where[split]}: all {counts['records']} records are invalid")
            counts["sentences"] = len(sentences)
            counts["entities"] = sum(len(sentence.spans) for sentence in sentences)
        corpus = Corpus(
            splits,
            origin,
            scheme,
            dict(sorted(self.type_map.items())),
            {split: {name: n for name, n in counts.items() if n} for split, counts in self.counts.items()},
        )
        for line in losses(corpus):
            logger.warning("%s", line)
        return corpus

    def _scheme(self) -> TagScheme | None:
        tagged = [
            (place, item.tags) for split in self.parsed.values() for place, item in split if isinstance(item, Tagged)
        ]
        if not tagged:
            return None
        if self.options.type is not None and all(PREFIXES.isdisjoint(tags) for _, tags in tagged):
            raise InputError(f"--type {self.options.type}: every tag of the corpus names its type")
        if self.options.tag_scheme != "auto":
            return self.options.tag_scheme
        try:
            return detect_scheme([typed(tags, self.options) for _, tags in tagged], [place for place, _ in tagged])
        except TagError as error:
            raise InputError(
                f"{error}; correct the corpus, or read it as IOB1, which allows both, with --tag-scheme iob1"
            ) from error

    def _sentences(self, split: Split, scheme: TagScheme | None) -> Iterator[Sentence]:
        counts = self.counts[split]
        # A record of several texts, such as the passages of a document, is one document.
        places = dict.fromkeys(place for place, _ in self.parsed[split])
        numbers = {place: number for number, place in enumerate(places)}
        for place, item in self.parsed[split]:
            before = counts.copy()
            try:
                if isinstance(item, LeftOut):
                    counts["records_left_out"] += 1
                    self._report("record left out", f"{place}: {item.reason}")
                    continue
                if isinstance(item, Annotated):
                    parts = self._cut(split, item, numbers[place])
                elif isinstance(item, Tagged):
                    assert scheme is not None
                    parts = [Spanned(item.words, tag_spans(item.tags, scheme, self.options), (), item.document)]
                else:
                    parts = [item]
                sentences = [self._sentence(split, place, part) for part in parts]
            except ValueError as error:
                # Entities of what is left out as a whole are not counted as read.
                self.counts[split] = counts = before
                self._bad_record(split, place, error)
                continue
            for sentence in sentences:
                if self.wanted and not sentence.spans and not self.options.empty_sentences:
                    counts["sentences_without_wanted_type"] += 1
                else:
                    yield sentence

    def _sentence(self, split: Split, place: str, part: Spanned) -> Sentence:
        counts = self.counts[split]
        counts["entities_read"] += len(part.spans) + len(part.bad)
        for problem in part.bad:
            self._bad_entity(split, place, problem)
        spans: list[Span] = []
        for span in part.spans:
            try:
                check_span(span, len(part.words))
                name = self._type(span.label)
            except ValueError as error:
                self._bad_entity(split, place, str(error))
                continue
            if self.wanted and name not in self.wanted:
                counts["entities_of_other_types"] += 1
                continue
            name = self.type_map[span.label] = self.names.get(name, name)
            spans.append(span._replace(label=name))
        unique = list(dict.fromkeys(spans))
        counts["entities_repeated"] += len(spans) - len(unique)
        flat = flatten(unique, self.options.overlaps)
        counts["entities_overlapping"] += len(unique) - len(flat)
        return make_sentence(part.words, flat, part.document, part.text)

    def _type(self, label: str) -> str:
        check_encodable(label, "an entity type")
        name = normalise_type(label)
        if name in {"", normalise_type(OUTSIDE)} or len(name) > _LONGEST_TYPE:
            raise ValueError(f"{shown(label)} cannot be an entity type")
        if self.known_types is not None and name not in self.known_types:
            raise ValueError(f"unknown type {label!r}, this corpus has {list(self.known_types)}")
        self.seen_types.add(name)
        return name

    def _cut(self, split: Split, item: Annotated, number: int) -> list[Spanned]:
        """The sentences of a raw text, in words."""
        check_encodable(item.text, "the text")
        counts, words = self.counts[split], words_of(item.text)
        if not words:
            raise ValueError("the text has no words")
        bad = list(item.bad)
        spans = [span for mention in item.mentions if (span := self._word_span(mention, item, words, counts, bad))]
        keep = [(words[span.start].start, words[span.end].end) for span in spans]
        ranges = sentences_of(item.text, self.options.sentences, breaks=item.breaks, keep=keep)
        counts["sentence_ends_inside_entities"] += len(
            sentences_of(item.text, self.options.sentences, breaks=item.breaks)
        ) - len(ranges)
        document = item.document if item.document is not None else str(number)
        starts = first_words(words, ranges)
        grouped: list[list[Span]] = [[] for _ in ranges]
        for span in spans:
            index = bisect_right(starts, span.start) - 1
            grouped[index].append(Span(span.start - starts[index], span.end - starts[index], span.label))
        parts: list[Spanned] = []
        for index, (first, after) in enumerate(zip(starts, [*starts[1:], len(words)], strict=True)):
            inside = words[first:after]
            if inside:
                text, texts = item.text[inside[0].start : inside[-1].end], [word.text for word in inside]
                # Bad entities of the text are reported once, with its first sentence.
                parts.append(Spanned(texts, grouped[index], () if parts else bad, document, text))
        return parts

    def _word_span(
        self, mention: Mention, item: Annotated, words: Sequence[Word], counts: Counter[str], bad: list[str]
    ) -> Span | None:
        """The words of an entity by ``--off-edges``; None, with the problem added to ``bad``, if it has none."""
        place = align(words, mention.start, mention.end)
        what = f"entity ({mention.start}, {mention.end}, {mention.label!r})"
        if place is None:
            bad.append(f"{what} holds no word: {item.text[mention.start : mention.end]!r}")
            return None
        first, last = words[place.first], words[place.last]
        if any(first.start < edge < last.end for edge in item.breaks):
            bad.append(f"{what} goes over the end of a title or passage")
            return None
        if not place.exact:
            inside = f"{item.text[mention.start : mention.end]!r} in {item.text[first.start : last.end]!r}"
            if self.options.off_edges == "error":
                bad.append(
                    f"{what} begins or ends inside a word: {inside}; widen it with --off-edges snap, or leave it out "
                    "with drop"
                )
                return None
            done = "widened to whole words" if self.options.off_edges == "snap" else "left out"
            self._report(f"entity {done}", f"{inside}, {mention.label}")
            if self.options.off_edges == "drop":
                counts["entities_read"] += 1
                counts["entities_off_edges_dropped"] += 1
                return None
            counts["entities_off_edges_widened"] += 1
        return Span(place.first, place.last, mention.label)

    def _bad_record(self, split: Split, place: str, error: ValueError) -> None:
        """Raises for a bad record, or counts that it is left out."""
        if isinstance(error, InputError):
            raise error
        if not self.options.skip_invalid:
            raise InputError(f"{place}: {error}") from error
        self._report("skipped", f"{place}: {error}")
        # A record of several texts counts once.
        self.counts[split]["records_invalid"] += place not in self.invalid
        self.invalid.add(place)

    def _bad_entity(self, split: Split, place: str, problem: str) -> None:
        """Raises for a bad entity, or counts that it is left out; its sentence stays."""
        if not self.options.skip_invalid:
            raise InputError(f"{place}: {problem}")
        self._report("entity left out", f"{place}: {problem}")
        self.counts[split]["entities_invalid"] += 1

    def _report(self, kind: str, message: str) -> None:
        """Logs the first of each kind and counts all."""
        self.problems[kind] += 1
        if (number := self.problems[kind]) <= _LOGGED:
            more = " (more of these are only counted)" if number == _LOGGED else ""
            logger.warning("%s: %s%s", kind, message, more)


def flatten(spans: Sequence[Span], rule: Overlaps) -> list[Span]:
    """Spans of which no two share a word.

    Args:
        spans: Without repeats, in the order of the source.
        rule: What to do with those that do: an error, keep the longest (of equals the earlier in the source), or keep
            the one that the source names first.

    Raises:
        ValueError: If two overlap and the rule is ``error``.
    """
    order = sorted(spans, key=lambda span: span.start - span.end) if rule == "longest" else spans
    kept: list[Span] = []
    taken: dict[int, Span] = {}
    for span in order:
        other = next((taken[index] for index in range(span.start, span.end + 1) if index in taken), None)
        if other is None:
            kept.append(span)
            taken.update(dict.fromkeys(range(span.start, span.end + 1), span))
        elif rule == "error":
            left, right = sorted((other, span))
            raise ValueError(
                f"spans overlap: {tuple(left)} and {tuple(right)}; keep one of each such pair with --overlaps longest "
                "or first"
            )
    return sorted(kept)
