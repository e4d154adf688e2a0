"""The embedded demo corpora: sentence frames with slots, and banks of names to fill them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from common.data.dataset import SPLITS, Sentence, Split, make_sentence
from common.data.spans import Span
from common.errors import InputError
from common.files import errors_at, read_json, unique_keys
from dataset_generation.sources import BENCHMARKS

DEMO_PREFIX = "demo-"
MIN_SENTENCES: Mapping[Split, int] = {"train": 600, "validation": 150, "test": 200}
"""A demo corpus with fewer sentences is an error: its scores would mean nothing."""

_NAMES_FILE, _FRAMES_FILE = "names.json", "sentences.txt"
_SLOT = re.compile(r"\{(?P<type>[^{}:/]+)(?:/(?P<bank>[^{}:/]+)|:(?P<name>[^{}]+))?\}")
_PIECE = re.compile(r"\{[^{}]*\}(?!\S)|\S+")
_USES = "tetstetsttetstetstet"
"""Use of a bank's names, in the order of their hashes: t train and validation (55 %), e test (25 %), s all (20 %)."""


class Slot(NamedTuple):
    """A place for a name: of a bank, of any bank of a type, or one fixed name."""

    type: str
    bank: str | None
    name: str | None


class Frame(NamedTuple):
    """A sentence with slots, and its place in the file."""

    place: str
    pieces: tuple[str | Slot, ...]


@dataclass(frozen=True)
class DemoCorpus:
    """The content of a demo corpus's folder."""

    banks: Mapping[tuple[str, str | None], Sequence[str]]
    """Names by type and bank; all of a type's names under the bank None."""
    frames: Mapping[Split, Sequence[Frame]]


def demo_dir(corpus: str) -> Path:
    """The folder of a demo corpus inside the package."""
    return Path(str(files("dataset_generation") / "demo_corpora" / corpus))


def demo_sentences(corpus: str, directory: Path | None = None) -> dict[Split, list[Sentence]]:
    """The splits of a demo corpus, annotated with the benchmark's types alone.

    Args:
        corpus: ``jnlpba`` or ``bc5cdr``.
        directory: Where its two files are; the package if not given.

    Raises:
        InputError: If a line is bad or a split too small.
    """
    directory = directory or demo_dir(corpus)
    types = BENCHMARKS[corpus].types
    rendered = render(read_demo_corpus(directory))
    for split, least in MIN_SENTENCES.items():
        if len(rendered[split]) < least:
            raise InputError(f"{directory}: {len(rendered[split])} {split} sentences, at least {least} are needed")
    return {split: [_with_types(sentence, types) for sentence in sentences] for split, sentences in rendered.items()}


def pretraining_sentences(copies: int) -> list[Sentence]:
    """What the demo bases learn from: general sentences with many types of names, none of them of a benchmark.

    With them go the demo corpora's train sentences that mention nothing: a model that sees a chemical left without an
    annotation learns that it is nothing to be found.

    Args:
        copies: How often each general frame is filled, each time with other names.
    """
    general = read_demo_corpus(demo_dir("general"))
    wheels = {key: _Wheel(sorted(names, key=_stable_hash)) for key, names in general.banks.items()}
    filled = [_fill(frame, wheels, set()) for _ in range(copies) for frame in general.frames["train"]]
    plain = [
        sentence
        for corpus in BENCHMARKS
        for sentence in render(read_demo_corpus(demo_dir(corpus)))["train"]
        if not sentence.spans
    ]
    return [*dict.fromkeys(filled), *plain]


def read_demo_corpus(directory: Path) -> DemoCorpus:
    """Reads the names and frames of a demo corpus.

    Raises:
        InputError: If a line is bad, naming file and line.
    """
    banks = _read_banks(directory / _NAMES_FILE)
    return DemoCorpus(banks, _read_frames(directory / _FRAMES_FILE, banks))


def _read_banks(path: Path) -> dict[tuple[str, str | None], list[str]]:
    content = read_json(path, unique_keys)
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise InputError(f"{path}: expected an object of types, each an object of banks")
    banks: dict[tuple[str, str | None], list[str]] = {}
    for type_name, type_banks in content.items():
        banks[type_name, None] = []
        for bank, names in type_banks.items():
            if not isinstance(names, list) or not names:
                raise InputError(f"{path}: bank {type_name}/{bank} must be a non-empty list of names, got {names!r}")
            for name in names:
                if not isinstance(name, str) or not name or name != " ".join(name.split()):
                    raise InputError(
                        f"{path}: bank {type_name}/{bank}: a name is words with single spaces, got {name!r}"
                    )
            banks[type_name, bank] = names
            banks[type_name, None] += names
    return banks


def _read_frames(path: Path, banks: Mapping[tuple[str, str | None], Sequence[str]]) -> dict[Split, list[Frame]]:
    with errors_at(path):
        lines = path.read_text(encoding="utf-8").split("\n")
    frames: dict[Split, list[Frame]] = {split: [] for split in SPLITS}
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        place = f"{path}: line {number}"
        name, separator, text = line.partition("\t")
        split = next((split for split in SPLITS if split == name), None)
        if split is None or not separator:
            raise InputError(f"{place}: expected train, validation or test, a tab and a frame, got {line[:60]!r}")
        pieces = _PIECE.findall(text)
        if not pieces or " ".join(pieces) != text:
            raise InputError(f"{place}: words and slots must be separated by single spaces: {text!r}")
        frames[split].append(Frame(place, tuple(_parse_piece(piece, banks, place) for piece in pieces)))
    return frames


def _parse_piece(piece: str, banks: Mapping[tuple[str, str | None], Sequence[str]], place: str) -> str | Slot:
    if "{" not in piece and "}" not in piece:
        return piece
    match = _SLOT.fullmatch(piece)
    if match is None:
        raise InputError(f"{place}: not a slot {{type/bank}}, {{type}} or {{type:name}} standing by itself: {piece!r}")
    slot = Slot(**match.groupdict())
    if (slot.type, slot.bank) not in banks:
        raise InputError(f"{place}: {piece!r} names no bank of {_NAMES_FILE}")
    if slot.name is not None and slot.name != " ".join(slot.name.split()):
        raise InputError(f"{place}: a name is words with single spaces, got {slot.name!r}")
    return slot


def render(corpus: DemoCorpus) -> dict[Split, list[Sentence]]:
    """All sentences, annotated with all types; the same every time.

    A frame whose slots draw names becomes two sentences, with no name drawn twice for them; any other becomes one.

    Raises:
        InputError: If a bank has too few names for a frame, or a sentence comes out twice.
    """
    uses = _name_uses(corpus.banks)
    splits: dict[Split, list[Sentence]] = {}
    seen: dict[tuple[str, ...], str] = {}
    for split, frames in corpus.frames.items():
        allowed = "es" if split == "test" else "ts"
        wheels = {
            key: _Wheel([name for name in names if uses[name.lower()] in allowed])
            for key, names in corpus.banks.items()
        }
        splits[split] = []
        for frame in frames:
            slots = [piece for piece in frame.pieces if isinstance(piece, Slot)]
            taken = {slot.name.lower() for slot in slots if slot.name is not None}
            for _ in range(2 if any(slot.name is None for slot in slots) else 1):
                sentence = _fill(frame, wheels, taken)
                if sentence.words in seen:
                    raise InputError(f"{frame.place}: gives the same sentence as {seen[sentence.words]}")
                seen[sentence.words] = frame.place
                splits[split].append(sentence)
    return splits


def _name_uses(banks: Mapping[tuple[str, str | None], Sequence[str]]) -> dict[str, str]:
    """Which letter of :data:`_USES` each name has, by the name in lower case; a name of two banks has one use."""
    uses: dict[str, str] = {}
    for (_, bank), names in banks.items():
        if bank is None:
            continue
        new = sorted({name.lower() for name in names} - set(uses), key=_stable_hash)
        uses.update((name, _USES[index % len(_USES)]) for index, name in enumerate(new))
    return uses


def _stable_hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


class _Wheel:
    """Hands out the names of a bank in turn, so that all of them are used about equally often."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.position = 0

    def draw(self, taken: set[str]) -> str | None:
        """The next name that is not among ``taken`` (lower case), or None if there is none."""
        for _ in self.names:
            name = self.names[self.position % len(self.names)]
            self.position += 1
            if name.lower() not in taken:
                return name
        return None


def _fill(frame: Frame, wheels: Mapping[tuple[str, str | None], _Wheel], taken: set[str]) -> Sentence:
    """The frame with a name in each slot; names that are drawn are added to ``taken``."""
    words: list[str] = []
    spans: list[Span] = []
    for piece in frame.pieces:
        if isinstance(piece, str):
            words.append(piece)
            continue
        name = piece.name or wheels[piece.type, piece.bank].draw(taken)
        if name is None:
            raise InputError(f"{frame.place}: bank {piece.type}/{piece.bank or '*'} has too few names for this split")
        taken.add(name.lower())
        parts = name.split(" ")
        spans.append(Span(len(words), len(words) + len(parts) - 1, piece.type))
        words += parts
    return make_sentence(words, spans)


def _with_types(sentence: Sentence, types: Container[str]) -> Sentence:
    return Sentence(sentence.words, tuple(span for span in sentence.spans if span.label in types))
