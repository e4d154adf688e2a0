"""Makes the files of a data set: ``python -m dataset_generation.generate --dataset jnlpba``."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from common.config import parse, require
from common.data.dataset import (
    ENCODERS,
    LABEL2DESC_FILE,
    LABEL2ID_FILE,
    MANIFEST_FILE,
    SPLITS,
    Encoder,
    Sentence,
    Split,
    count_types,
    span_file,
    span_record,
    token_file,
)
from common.data.labels import LabelSet
from common.data.spans import touching_pairs
from common.errors import InputError
from common.files import read_json, sha256_file, write_json, write_json_records
from common.paths import check_name, datasets_dir
from common.script import run_script
from dataset_generation.corpus import Corpus
from dataset_generation.demo import DEMO_PREFIX, demo_sentences
from dataset_generation.descriptions import make_label_set
from dataset_generation.options import ReadOptions
from dataset_generation.sources import BENCHMARKS, read_hub, read_local
from dataset_generation.splits import HoldOut, SplitBy, SplitPlan, make_splits, shared_sentences
from dataset_generation.tokens import LoadedTokenizer, load_tokenizer, lost_words, token_records

logger = logging.getLogger(__name__)

DEMOS = tuple(DEMO_PREFIX + name for name in BENCHMARKS)
HUB_PREFIX = "hub:"

_EXAMPLES = 5
"""Sentences that the manifest and the screen show as they were read."""

_MOST_COLUMNS = 8
"""With more types than this, the counts on the screen have a row for each type."""

_MARK, _FILES = "of-dataset-generation", "files"
"""In a temporary folder: the file that marks it as ours, and the folder of the files."""


@dataclass(frozen=True)
class GenerateConfig(ReadOptions):
    """Generate a data set from a hub corpus, local files or an embedded demo corpus."""

    dataset: str
    """jnlpba, bc5cdr, demo-jnlpba, demo-bc5cdr, or a name of your own for the corpus at --source."""
    source: str | None = None
    """A folder of train/validation/test files, one file, hub:OWNER/NAME[/CONFIGURATION][@REVISION],
    or hub, the default of jnlpba and bc5cdr."""
    encoder: Literal["bi", "cross", "both"] = "both"
    """Kind of encoder to write files for; the token files differ in their sub-words."""
    descriptions: str = "own"
    """Descriptions of the types: own, hub, names (a type's name describes it), or a JSON file by type."""
    train_size: int | None = None
    """Training sentences (a seeded sample), taken before a random validation split is cut from them."""
    validation_size: int | None = None
    """Validation sentences (a seeded sample); all if not given."""
    test_size: int | None = None
    """Test sentences (a seeded sample); all if not given."""
    split: HoldOut = "random"
    """Validation if the corpus has none: a random 20 % of train, or its tail (JNLPBA's last 1,739 rows, else 20 %)."""
    split_by: SplitBy = "sentence"
    """What stays together in our splits: sentences with the same words, or documents if the corpus names them."""
    allow_overlap: bool = False
    """Allow sentences with the same words in two of our splits (JNLPBA keeps the thesis's splits, row by row)."""
    seed: int = 42
    """Seed for shuffling and sampling."""
    tokenizer: str = "auto"
    """Tokenizer for the token files: hub id[@REVISION], local folder,
    or auto: that of each encoder's default base model."""
    output_dir: Path | None = None
    """Parent folder of the data set; if not given, datasets/ in the output root."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.dataset, "data set name")
        for name in ("train_size", "validation_size", "test_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be at least 1, got {value}")
        require(0 <= self.seed < 2**32, f"seed must be between 0 and 2^32 - 1, got {self.seed}")
        if self.dataset in DEMOS:
            require(self.source is None, f"{self.dataset} is embedded and takes no --source, got {self.source!r}")
            for field in dataclasses.fields(ReadOptions):
                option = f"--{field.name.replace('_', '-')}"
                require(getattr(self, field.name) == field.default, f"{self.dataset} is embedded and takes no {option}")
        elif self.dataset not in BENCHMARKS:
            require(
                self.source not in {None, "hub", HUB_PREFIX},
                f"data set {self.dataset!r} is none of {[*BENCHMARKS, *DEMOS]}; give its files with --source PATH",
            )

    @property
    def corpus(self) -> str:
        """The benchmark whose types the data set has, or its own name."""
        return self.dataset.removeprefix(DEMO_PREFIX) if self.dataset in DEMOS else self.dataset


@contextlib.contextmanager
def _system_errors_in_one_line() -> Iterator[None]:
    """Turns errors of the operating system into an InputError."""
    try:
        yield
    except OSError as error:
        place = f"{str(error.filename)[:200]}: " if error.filename is not None else ""
        raise InputError(f"{place}{error.strerror or error} (an earlier data set of this name is as it was)") from error


@_system_errors_in_one_line()
def generate(cfg: GenerateConfig) -> Path:
    """Writes a data set and returns its folder.

    Raises:
        InputError: If anything about the input is wrong; the files of an earlier run are then as they were.
    """
    directory = (cfg.output_dir or datasets_dir()) / cfg.dataset
    if not (directory.is_dir() or not directory.exists()):
        raise InputError(f"{directory}: is no folder")
    corpus = read_corpus(cfg)
    benchmark = BENCHMARKS.get(cfg.corpus)
    plan = SplitPlan(
        hold_out=cfg.split,
        # Rows of the whole corpus: they are no abstracts where sentences without --types are left out.
        tail=benchmark.tail if benchmark and (cfg.empty_sentences or not cfg.types) else None,
        seed=cfg.seed,
        train_size=cfg.train_size,
        validation_size=cfg.validation_size,
        test_size=cfg.test_size,
        split_by=cfg.split_by,
        # The thesis split JNLPBA without regard to repeats; its rows are kept.
        allow_overlap=cfg.allow_overlap or benchmark is not None,
    )
    splits, how = make_splits(corpus.splits, plan)
    types = _types_of(corpus.splits)
    if benchmark and not cfg.map:
        types = tuple(name for name in benchmark.types if name in types or not cfg.types)
    labels = make_label_set(types, cfg.descriptions, cfg.corpus)
    for where, count in shared_sentences(splits).items():
        if count:
            n_sentences = len(splits[next(split for split in SPLITS if where.startswith(split))])
            logger.warning("%s: %d of %d sentences, word for word", where, count, n_sentences)
    for name in types:
        if not count_types(splits["train"])[name]:
            logger.warning("type %r has no entity in the train split", name)
    encoders = ENCODERS if cfg.encoder == "both" else (cfg.encoder,)
    tokenizers = {encoder: load_tokenizer(cfg.tokenizer, encoder) for encoder in encoders}
    write_dataset(directory, splits, labels, tokenizers, _provenance(cfg, corpus, how))
    return directory


def read_corpus(cfg: GenerateConfig) -> Corpus:
    """The corpus that the configuration names, from where it says."""
    if cfg.dataset in DEMOS:
        return Corpus(demo_sentences(cfg.corpus), {"kind": "embedded"})
    benchmark = BENCHMARKS.get(cfg.dataset)
    known_types = benchmark.types if benchmark else None
    if benchmark and cfg.source in {None, "hub"}:
        return read_hub(benchmark.hub, cfg, known_types=known_types)
    source = str(cfg.source)
    if source.startswith(HUB_PREFIX):
        return read_hub(source.removeprefix(HUB_PREFIX), cfg, known_types=known_types)
    return read_local(Path(source), cfg, known_types=known_types)


def _types_of(splits: Mapping[Split, Sequence[Sentence]]) -> tuple[str, ...]:
    """The types of a corpus before any sampling: those of train, sorted, then those that train lacks."""
    train = set(count_types(splits["train"]))
    rest = {name for sentences in splits.values() for name in count_types(sentences)} - train
    if not train | rest:
        raise InputError("the corpus has no entity")
    return (*sorted(train), *sorted(rest))


def _provenance(cfg: GenerateConfig, corpus: Corpus, how: str) -> dict[str, Any]:
    """What the manifest says about the input: nothing that depends on the machine or the time."""
    arguments = dataclasses.asdict(cfg)
    del arguments["output_dir"]
    for name in ("source", "descriptions", "tokenizer"):
        if arguments[name] is not None and Path(arguments[name]).exists():
            arguments[name] = Path(arguments[name]).resolve().name
    return {
        "dataset": cfg.dataset,
        "arguments": arguments,
        "seed": cfg.seed,
        "source": corpus.origin,
        "tag_scheme": corpus.scheme,
        "type_map": corpus.type_map,
        "merged_types": corpus.merged_types,
        "skipped": corpus.skipped,
        "read": corpus.counts,
        "splits": how,
    }


def write_dataset(
    directory: Path,
    splits: Mapping[Split, Sequence[Sentence]],
    labels: LabelSet,
    tokenizers: Mapping[Encoder, LoadedTokenizer | None],
    provenance: Mapping[str, Any],
) -> None:
    """Writes the files of a data set, the manifest last; removes files of encoders that are not in ``tokenizers``.

    An encoder without a tokenizer gets no token files, which only other tools read.

    All files are written into a temporary folder beside the data set. A new data set is that folder, renamed: it is
    there as a whole. For an earlier one the files are moved into it, so an error leaves it as it was; until the new
    manifest is there, the old one does not match the new files, and reading the data set reports that.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.with_name(f".{directory.name}.writing.lock")), _temporary_folder(directory) as temporary:
        _write_files(temporary, splits, labels, tokenizers, provenance)
        if not directory.exists():
            os.replace(temporary, directory)
            return
        written = sorted(temporary.iterdir(), key=lambda path: (path.name == MANIFEST_FILE, path.name))
        known = {kind(split, encoder) for kind in (span_file, token_file) for split in SPLITS for encoder in ENCODERS}
        # First: beside the new manifest, which does not list them, they would be read as if they were of it.
        for name in known - {path.name for path in written}:
            (directory / name).unlink(missing_ok=True)
        for path in written:
            os.replace(path, directory / path.name)


@contextlib.contextmanager
def _temporary_folder(directory: Path) -> Iterator[Path]:
    """An empty folder beside a data set's, removed in the end; those left by killed processes are removed too.

    The caller holds the lock, so no other process is writing the data set.
    """
    for path in directory.parent.glob(f".{directory.name}.*.tmp"):
        if (path / _MARK).is_file():
            shutil.rmtree(path)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", suffix=".tmp", dir=directory.parent) as name:
        (Path(name) / _MARK).touch()
        folder = Path(name) / _FILES
        folder.mkdir()
        yield folder


def _write_files(
    directory: Path,
    splits: Mapping[Split, Sequence[Sentence]],
    labels: LabelSet,
    tokenizers: Mapping[Encoder, LoadedTokenizer | None],
    provenance: Mapping[str, Any],
) -> None:
    entries: dict[str, dict[str, Any]] = {}

    def record(name: str, n_records: int) -> None:
        entries[name] = {"sha256": sha256_file(directory / name), "records": n_records}

    without_subword: dict[str, dict[str, int]] = {}
    for encoder, loaded in tokenizers.items():
        without_subword[encoder] = {}
        for split, sentences in splits.items():
            files = {span_file(split, encoder): [_span_record(sentence) for sentence in sentences]}
            if loaded is not None:
                tokens = files[token_file(split, encoder)] = list(token_records(sentences, labels, loaded.tokenizer))
                lost = without_subword[encoder][split] = lost_words(sentences, tokens)
                if lost:
                    logger.warning("%s: %d words have no sub-word in the tokenizer of %s", split, lost, loaded.name)
            for name, records in files.items():
                write_json_records(directory / name, records)
                record(name, len(records))
    for name, mapping in ((LABEL2ID_FILE, labels.label2id), (LABEL2DESC_FILE, labels.label2desc)):
        write_json(directory / name, mapping)
        record(name, len(mapping))
    manifest = {
        **provenance,
        "labels": list(labels.names),
        "sizes": {split: len(sentences) for split, sentences in splits.items()},
        "entities": {
            split: {name: count_types(sentences)[name] for name in labels.names} for split, sentences in splits.items()
        },
        "entity_free_sentences": {
            split: sum(not sentence.spans for sentence in sentences) for split, sentences in splits.items()
        },
        "touching_same_type_pairs": {
            split: sum(len(touching_pairs(sentence.spans)) for sentence in sentences)
            for split, sentences in splits.items()
        },
        "shared_sentences": shared_sentences(splits),
        "examples": [marked(sentence) for sentence in splits["train"][:_EXAMPLES]],
        "tokenizers": {
            encoder: {
                "name": loaded.name,
                "commit": loaded.commit,
                "fallback": loaded.fallback,
                "words_without_subword": without_subword[encoder],
            }
            for encoder, loaded in tokenizers.items()
            if loaded is not None
        },
        "files": entries,
    }
    write_json(directory / MANIFEST_FILE, manifest)


def _span_record(sentence: Sentence) -> dict[str, Any]:
    """A sentence as GLiNER reads it, and its document where the corpus names one."""
    record = span_record(sentence)
    return record if sentence.document is None else {**record, "document": sentence.document}


def marked(sentence: Sentence) -> str:
    """The words of a sentence with its entities: ``[Gout](disease) improved after [colchicine](chemical) .``."""
    starts = {span.start for span in sentence.spans}
    ends = {span.end: span.label for span in sentence.spans}
    return " ".join(
        f"{'[' if index in starts else ''}{word}{f']({ends[index]})' if index in ends else ''}"
        for index, word in enumerate(sentence.words)
    )


def print_counts(directory: Path) -> None:
    """Prints sentences and entities of each split."""
    manifest = read_json(directory / MANIFEST_FILE)
    rows = [["split", "sentences", "without entity", "entities", *manifest["labels"]]]
    for split in SPLITS:
        counts = manifest["entities"][split]
        numbers = (
            manifest["sizes"][split],
            manifest["entity_free_sentences"][split],
            sum(counts.values()),
            *counts.values(),
        )
        rows.append([split, *(f"{number:,}" for number in numbers)])
    if len(manifest["labels"]) > _MOST_COLUMNS:
        rows = [list(column) for column in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        print("  ".join([first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(rest, widths[1:], strict=True))]))
    print("the first sentences of train, as they were read:")
    for example in manifest["examples"]:
        print(f"  {example if len(example) <= 200 else example[:197] + '...'}")
    print(f"written to {directory}")


def main(argv: Sequence[str] | None = None) -> Path:
    """Generates from the command line and returns the data set's folder."""
    directory = generate(parse(GenerateConfig, argv))
    print_counts(directory)
    return directory


if __name__ == "__main__":
    run_script(main)
