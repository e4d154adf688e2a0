"""Making a data set: source formats, splits, descriptions, tokens, demo corpora, and a table of bad input."""

import functools
import json
import os
import random
import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import REAL_DATA, message_of, needs_real_data, python
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import common.hub
from common.data.dataset import SPLITS, Sentence, count_types, load_dataset, span_file, token_file
from common.data.labels import LabelSet
from common.data.spans import Span, spans_to_tags
from common.errors import InputError
from common.files import read_json, write_json
from common.models import published
from common.script import run_script
from dataset_generation import demo, descriptions, generate, hub, sources, tokens
from dataset_generation.generate import GenerateConfig
from dataset_generation.options import ReadOptions
from dataset_generation.sources import BENCHMARKS, read_local
from dataset_generation.splits import SplitPlan, make_splits, shared_sentences

WORDS = [("IL-2", "binds", "T", "cells", "."), ("No", "entity", "here"), ("p50", "p65", "bind", "IL-2")]
SPANS = [((0, 0, "protein"), (2, 3, "cell_type")), (), ((0, 0, "protein"), (1, 1, "protein"), (3, 3, "protein"))]
EXPECTED = [
    Sentence(WORDS[0], (Span(0, 0, "protein"), Span(2, 3, "cell type"))),
    Sentence(WORDS[1], ()),
    Sentence(WORDS[2], (Span(0, 0, "protein"), Span(1, 1, "protein"), Span(3, 3, "protein"))),
]


def tags_of(scheme: str) -> list[list[str]]:
    pairs = zip(WORDS, SPANS, strict=True)
    return [spans_to_tags([Span(*span) for span in spans], len(words), scheme) for words, spans in pairs]


def conll(tags: list[list[str]], separator: str = "\t", middle: str = "") -> str:
    sentences = [
        "".join(f"{word}{separator}{middle}{tag}\n" for word, tag in zip(words, row, strict=True))
        for words, row in zip(WORDS, tags, strict=True)
    ]
    return "\n".join(sentences)


def parquet(path: Path, words: list, tags: list, classes: list[str] | None = None) -> None:
    table = pa.table({"tokens": words, "ner_tags": tags})
    if classes is not None:
        names = {"tokens": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}}
        names["ner_tags"] = {"feature": {"names": classes, "_type": "ClassLabel"}, "_type": "List"}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": names}})})
    pq.write_table(table, path)


def write_split(directory: Path, split: str, kind: str) -> None:
    """One split in one of the formats; all of them hold EXPECTED."""
    records = [
        {"tokenized_text": words, "ner": [list(span) for span in spans]}
        for words, spans in zip(WORDS, SPANS, strict=True)
    ]
    if kind.startswith("parquet"):
        tags: list = tags_of("iob2")
        classes = sorted({tag for row in tags for tag in row}) if kind == "parquet ids" else None
        if classes:
            tags = [[classes.index(tag) for tag in row] for row in tags]
        parquet(directory / f"{split}.parquet", WORDS, tags, classes)
    elif kind == "json":
        write_json(directory / f"{split}.json", records)
    elif kind == "jsonl":
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        text = {
            "conll iob1": conll(tags_of("iob1"), " "),
            "tsv bioes": conll(tags_of("bioes")),
            "iob2 columns": "-DOCSTART- -X- O\n\n" + conll(tags_of("iob2"), " ", "NN  B-NP "),
            "txt crlf": "\ufeff" + conll(tags_of("iob2")).replace("\n", "\r\n") + "\r\n\r\n",
        }[kind]
        (directory / f"{split}.{kind.split()[0]}").write_bytes(text.encode())


KINDS = ("parquet", "parquet ids", "json", "jsonl", "conll iob1", "tsv bioes", "iob2 columns", "txt crlf")


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory) -> Path:
    """A character-level WordPiece tokenizer that drops U+200B, so that a word can come to nothing."""
    from transformers import PreTrainedTokenizerFast

    letters = sorted({letter for words in WORDS for word in words for letter in word.lower()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *("##" + letter for letter in letters)]
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("\u200b", "")])
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(path)
    return path


@pytest.fixture
def corpus_dir(tmp_path) -> Path:
    directory = tmp_path / "corpus"
    directory.mkdir()
    for split in SPLITS:
        write_split(directory, split, "jsonl")
    return directory


@pytest.fixture
def make(tmp_path, corpus_dir, tokenizer_dir):
    """Generates a data set from ``corpus_dir`` and returns its folder."""

    def run(**options) -> Path:
        settings = {
            "dataset": "mine",
            "source": str(corpus_dir),
            "descriptions": "names",
            "tokenizer": str(tokenizer_dir),
            "output_dir": tmp_path / "out",
        }
        return generate.generate(GenerateConfig(**{**settings, **options}))

    return run


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# Sources


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_sentences(tmp_path, kind):
    for split in ("train", "devel", "test"):
        write_split(tmp_path, split, kind)
    corpus = read_local(tmp_path)
    assert corpus.splits == dict.fromkeys(SPLITS, EXPECTED)
    assert corpus.type_map == {"cell_type": "cell type", "protein": "protein"}
    assert corpus.scheme == {"json": None, "jsonl": None, "conll iob1": "iob1", "tsv bioes": "bioes"}.get(kind, "iob2")


@pytest.mark.parametrize("name", ["validation", "valid", "val", "devel", "Dev"])
def test_names_of_the_validation_file(tmp_path, name):
    write_split(tmp_path, "train", "jsonl")
    write_split(tmp_path, f"{name}-01", "parquet")
    write_split(tmp_path, "test", "iob2 columns")
    (tmp_path / "README.md").write_text("not a split")
    assert read_local(tmp_path).splits == dict.fromkeys(SPLITS, EXPECTED)


def test_a_hub_dataset_with_class_ids(monkeypatch):
    tags = tags_of("iob2")
    classes = datasets.ClassLabel(names=sorted({tag for row in tags for tag in row}))
    features = datasets.Features(tokens=[datasets.Value("string")], ner_tags=[classes], id=datasets.Value("string"))
    rows = {"tokens": WORDS, "ner_tags": [classes.str2int(row) for row in tags], "id": ["0", "1", "2"]}
    table = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(
        sources, "load_hub_dataset", lambda *_: hub.HubDataset({"train": table, "test": table}, "owner/name", "c0")
    )
    corpus = sources.read_hub("owner/name")
    assert corpus.splits == {"train": EXPECTED, "test": EXPECTED}
    assert corpus.origin == {"kind": "hub", "repository": "owner/name", "commit": "c0"}
    with pytest.raises(InputError, match=r"owner/name/train: record 0 \(counted from 0\): unknown type 'protein'"):
        sources.read_hub("owner/name", known_types=["dna"])
    monkeypatch.setattr(sources, "load_hub_dataset", lambda *_: hub.HubDataset({"train": table}, "owner/name", "c0"))
    with pytest.raises(InputError, match=r"owner/name: has no test split, found \['train'\]"):
        sources.read_hub("owner/name")


def test_the_scheme_is_one_for_the_whole_corpus(tmp_path):
    (tmp_path / "train.tsv").write_text("a\tS-x\n")
    (tmp_path / "test.tsv").write_text("a\tB-x\n\nb\tS-x\n")
    with pytest.raises(InputError, match=r"test\.tsv: record 0 .*ends inside an entity 'x'"):
        read_local(tmp_path)


def test_a_fixed_scheme_overrides_the_detected_one(tmp_path):
    (tmp_path / "one.tsv").write_text("a\tB-x\nb\tB-x\n\nc\tI-x\n")
    with pytest.raises(
        InputError,
        match=r"record 1 \(counted from 0; begins at line 4\) word 0 .*which allows both, with --tag-scheme iob1",
    ):
        read_local(tmp_path / "one.tsv")
    assert read_local(tmp_path / "one.tsv", ReadOptions(tag_scheme="iob1")).splits["train"][1].spans == (
        Span(0, 0, "x"),
    )


# The files


def test_generated_files(make, tmp_path):
    directory = make()
    manifest = read_json(directory / "manifest.json")
    expected = {
        kind(split, encoder) for kind in (span_file, token_file) for split in SPLITS for encoder in ("bi", "cross")
    }
    assert set(contents(directory)) == {*expected, "label2id.json", "label2desc.json", "manifest.json"}
    assert set(manifest["files"]) == {*expected, "label2id.json", "label2desc.json"}
    assert manifest["files"]["val_dataset_span_bi.json"]["records"] == 3
    assert manifest["entities"]["test"] == {"cell type": 1, "protein": 4}
    assert manifest["entity_free_sentences"] == dict.fromkeys(SPLITS, 1)
    assert manifest["touching_same_type_pairs"] == dict.fromkeys(SPLITS, 1)
    assert manifest["arguments"]["source"] == "corpus"
    assert str(tmp_path) not in (directory / "manifest.json").read_text()
    data = load_dataset(str(directory))
    assert data.train == data.validation == data.test == EXPECTED
    assert data.labels.names == ("cell type", "protein")
    assert read_json(directory / "dataset_span_bi.json")[0] == {
        "tokenized_text": list(WORDS[0]),
        "ner": [[0, 0, "protein"], [2, 3, "cell type"]],
    }


def test_a_second_run_gives_the_same_bytes(make, corpus_dir, tmp_path, monkeypatch):
    first = contents(make(train_size=2))
    monkeypatch.chdir(tmp_path)
    assert contents(make(train_size=2, source="corpus", output_dir=Path("again"))) == first


def test_another_run_leaves_no_stale_file(make):
    directory = make(encoder="both")
    make(encoder="cross", descriptions="names", test_size=1)
    assert not [name for name in contents(directory) if name.endswith("_bi.json")]
    assert len(load_dataset(str(directory)).test) == 1


def test_a_run_killed_behind_its_manifest_leaves_no_stale_file(make, monkeypatch):
    directory = make(encoder="both")

    def replace(source, target, replace=os.replace):
        replace(source, target)
        if Path(target).name == "manifest.json" and Path(target).parent == directory:
            raise KeyboardInterrupt

    monkeypatch.setattr(generate.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        make(encoder="cross", test_size=1)
    assert len(load_dataset(str(directory)).test) == 1


def test_an_error_leaves_the_earlier_files(make, corpus_dir):
    directory = make()
    before = contents(directory)
    (corpus_dir / "test.jsonl").write_text("{")
    with pytest.raises(InputError):
        make()
    assert contents(directory) == before


def test_an_error_while_writing_leaves_the_earlier_files(make, monkeypatch):
    directory = make()
    (directory / "notes.txt").write_text("the user's own")
    before = contents(directory)
    written = []

    def full(path: Path, value: object) -> None:
        written.append(path)
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(generate, "write_json", full)
    with pytest.raises(InputError, match=r"label2id\.json: No space left on device \(an earlier data set"):
        make(test_size=1)
    assert written
    assert contents(directory) == before
    assert [path.name for path in directory.parent.iterdir() if path.is_dir()] == ["mine"]
    monkeypatch.undo()
    make(test_size=1)
    assert (directory / "notes.txt").exists()
    assert contents(directory)["test_dataset_span_bi.json"] != before["test_dataset_span_bi.json"]


def test_a_new_data_set_appears_as_a_whole(make, tmp_path, monkeypatch):
    directory, moved = tmp_path / "out" / "mine", []

    def replace(source, target, replace=os.replace):
        replace(source, target)
        if directory in (Path(target), Path(target).parent):
            moved.append({path.name for path in directory.iterdir()})

    monkeypatch.setattr(generate.os, "replace", replace)
    make()
    assert moved == [{path.name for path in directory.iterdir()}]


def test_leftovers_of_a_killed_run_are_removed_and_nothing_else(make, tmp_path):
    left, foreign = tmp_path / "out" / ".mine.abc.tmp", tmp_path / "out" / ".mine.own.tmp"
    for folder in (left, foreign):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    (left / generate._MARK).touch()
    make()
    assert not left.exists()
    assert (foreign / "file").exists()


def test_the_manifest_shows_what_was_read(make, corpus_dir, capsys):
    (corpus_dir / "scores.jsonl").touch()
    directory = make()
    manifest = read_json(directory / "manifest.json")
    assert manifest["examples"] == [
        "[IL-2](protein) binds [T cells](cell type) .",
        "No entity here",
        "[p50](protein) [p65](protein) bind [IL-2](protein)",
    ]
    assert manifest["shared_sentences"] == {"validation in train": 3, "test in train": 3, "test in validation": 3}
    assert manifest["source"]["ignored"] == ["scores.jsonl"]
    assert manifest["read"]["test"] == {"records": 3, "sentences": 3, "entities_read": 5, "entities": 5}
    generate.print_counts(directory)
    assert "  [IL-2](protein) binds [T cells](cell type) .\n" in capsys.readouterr().out


def test_documents_are_kept_in_the_span_files(make, corpus_dir):
    record = {"text": "Gout fell. It rose.", "label": [[0, 4, "D"]], "id": 7}
    (corpus_dir / "train.jsonl").write_text(json.dumps(record))
    data = load_dataset(str(make()))
    assert [sentence.document for sentence in data.train] == ["7", "7"]
    assert data.test == EXPECTED
    assert data.test[0].document is None


def test_skip_invalid_counts_what_it_skips(make, corpus_dir, caplog):
    with (corpus_dir / "train.jsonl").open("a") as stream:
        stream.write('{"tokenized_text": ["a"], "ner": [[0, 7, "protein"]]}\n{"tokenized\n')
    directory = make(skip_invalid=True)
    manifest = read_json(directory / "manifest.json")
    assert manifest["skipped"] == {"train": 1, "validation": 0, "test": 0}
    # A bad entity costs the entity; its sentence stays.
    assert load_dataset(str(directory)).train == [*EXPECTED, Sentence(("a",), ())]
    assert manifest["read"]["train"] == {
        "records": 5,
        "records_invalid": 1,
        "sentences": 4,
        "entities_read": 6,
        "entities_invalid": 1,
        "entities": 5,
    }
    assert "record 3 (counted from 0): span (0, 7, 'protein') is out of range" in caplog.text
    assert "train: skipped 1 invalid of 5 records" in caplog.text


def test_a_type_that_train_lacks_is_a_label(make, corpus_dir, caplog):
    (corpus_dir / "test.jsonl").write_text('{"tokenized_text": ["a"], "ner": [[0, 0, "Anatomy"]]}\n')
    labels = load_dataset(str(make(train_size=1, seed=1))).labels
    assert labels.names == ("cell type", "protein", "anatomy")
    assert "type 'anatomy' has no entity in the train split" in caplog.text


def test_command_line(make, corpus_dir, tokenizer_dir, tmp_path, capsys):
    arguments = ["--dataset", "mine", "--source", str(corpus_dir), "--tokenizer", str(tokenizer_dir)]
    arguments += ["--output-dir", str(tmp_path / "cli"), "--descriptions"]
    assert generate.main([*arguments, "names"]).name == "mine"
    printed = capsys.readouterr().out
    assert re.search(r"test +3 +1 +5 +1 +4\n", printed)
    with pytest.raises(InputError, match=r"^no\.json: no such file$"):
        generate.main([*arguments, "no.json"])


@pytest.mark.slow
def test_runs_as_a_script_from_any_folder(corpus_dir, tmp_path):
    script = Path(generate.__file__)
    # The path is what `pip install -e .` gives.
    options = ["--dataset", "mine", "--source", "corpus/missing"]
    run = python(script, *options, cwd=tmp_path, PYTHONPATH=str(script.parent.parent))
    assert (run.returncode, run.stderr) == (2, "error: corpus/missing: no such file or folder (--source)\n")


# Splits


def numbered(n: int) -> list[Sentence]:
    return [Sentence((str(i),), ()) for i in range(n)]


def numbers(sentences: list[Sentence]) -> list[int]:
    return [int(sentence.words[0]) for sentence in sentences]


def test_random_validation_is_the_references():
    import pandas

    source = {"train": numbered(100), "test": numbered(10)}
    splits, _ = make_splits(source, SplitPlan(train_size=50))
    order = pandas.DataFrame({"row": range(100)}).sample(frac=1, random_state=42)["row"].tolist()[:50]
    assert (numbers(splits["validation"]), numbers(splits["train"])) == (order[:10], order[10:])


def test_tail_validation():
    source = {"train": numbered(100), "test": numbered(10)}
    assert numbers(make_splits(source, SplitPlan("tail"))[0]["validation"]) == list(range(80, 100))
    splits, how = make_splits(source, SplitPlan("tail", tail=5, train_size=7))
    assert (numbers(splits["validation"]), len(splits["train"])) == ([95, 96, 97, 98, 99], 7)
    assert how == "validation is the last 5 train sentences"
    with pytest.raises(InputError, match="the train split is empty"):
        make_splits(source, SplitPlan("tail", tail=100))
    with pytest.raises(InputError, match="has its own validation split"):
        make_splits({**source, "validation": numbered(3)}, SplitPlan("tail"))


def test_the_tail_of_jnlpba_without_the_sentences_of_other_types(make, tmp_path):
    """Its 1,739 rows are whole abstracts of the whole corpus alone."""
    source = tmp_path / "jnlpba"
    source.mkdir()
    for split, size in (("train", 40), ("test", 4)):
        names = ["dna", "rna"] * (size // 2)
        write_json(
            source / f"{split}.json",
            [{"tokenized_text": [f"{split}{i}"], "ner": [[0, 0, name]]} for i, name in enumerate(names)],
        )
    settings = {"dataset": "jnlpba", "source": str(source), "split": "tail", "types": ("rna",)}
    manifest = read_json(make(**settings) / "manifest.json")
    assert (manifest["splits"], manifest["sizes"]["train"]) == ("validation is the last 4 train sentences", 16)
    with pytest.raises(InputError, match=r"the train split is empty \(validation is the last 1739"):
        make(**settings, empty_sentences=True)


@pytest.mark.parametrize("hold_out", ["random", "tail"])
def test_one_file_is_split(hold_out):
    splits, how = make_splits({"train": numbered(50)}, SplitPlan(hold_out))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 35, "validation": 5, "test": 10}
    assert sorted(number for rows in splits.values() for number in numbers(rows)) == list(range(50))
    assert (numbers(splits["test"]) == list(range(40, 50))) == (hold_out == "tail")
    assert how.startswith("one file")


def repeated(n: int, times: int) -> list[Sentence]:
    return [Sentence((str(i),), ()) for _ in range(times) for i in range(n)]


@pytest.mark.parametrize("hold_out", ["random", "tail"])
@pytest.mark.parametrize("one_file", [True, False])
def test_repeats_stay_together(hold_out, one_file):
    source = {"train": repeated(40, 3)} if one_file else {"train": repeated(40, 3), "test": numbered(3)}
    splits, how = make_splits(source, SplitPlan(hold_out))
    parts = [splits["train"], splits["validation"], *([splits["test"]] if one_file else [])]
    assert sorted(map(len, parts)) == ([12, 24, 84] if one_file else [24, 96])
    assert sum(len(set(numbers(part))) for part in parts) == 40
    assert how.endswith("sentences of the same words in one split")
    apart, _ = make_splits(source, SplitPlan(hold_out, allow_overlap=True))
    assert shared_sentences(apart)["validation in train"] > 0


def test_documents_stay_together():
    rows = [Sentence((str(i),), (), document=f"d{i // 5}") for i in range(100)]
    for source in ({"train": rows}, {"train": rows, "test": numbered(3)}):
        splits, how = make_splits(source, SplitPlan(split_by="document"))
        documents = [{row.document for row in part} for part in splits.values() if part[0].document]
        assert sum(map(len, documents)) == len(set.union(*documents)) == 20
        assert how.endswith("whole documents")
        assert {len(splits["validation"])} == ({10} if len(source) == 1 else {20})
    with pytest.raises(InputError, match=r"the train split is empty .*whole documents\); give files for each split$"):
        make_splits({"train": rows[:5] * 2}, SplitPlan(split_by="document"))
    with pytest.raises(
        InputError, match=r"the train split is empty .*; give files for each split, or --allow-overlap$"
    ):
        make_splits({"train": repeated(1, 10)}, SplitPlan())
    with pytest.raises(InputError, match="does not say which sentences are of one document"):
        make_splits({"train": numbered(30)}, SplitPlan(split_by="document"))
    with pytest.raises(InputError, match="has all three splits"):
        make_splits(dict.fromkeys(SPLITS, rows), SplitPlan(split_by="document"))


# Descriptions


def test_own_descriptions_and_the_label_order_of_the_benchmarks():
    for corpus, benchmark in BENCHMARKS.items():
        labels = descriptions.make_label_set(benchmark.types, "own", corpus)
        assert labels.names == benchmark.types
        assert "word that belongs to no name of" in labels.outside_description
    assert BENCHMARKS["jnlpba"].types == ("cell line", "cell type", "dna", "protein", "rna")


def test_descriptions_by_name_and_by_file(tmp_path, caplog):
    assert descriptions.make_label_set(["gene"], "names", "x") == LabelSet(
        ("gene",), ("gene",), "A word that belongs to no mention of any of these: gene."
    )
    path = tmp_path / "d.json"
    caplog.set_level("INFO")
    for value in (
        {"Cell_Type": "C.", "gene": "G.", "O": "Else.", "lipid": "L."},
        [{"entity_type": t, "description": d} for t, d in (("gene", "G."), ("O", "Else."), ("cell type", "C."))],
    ):
        write_json(path, value)
        labels = descriptions.make_label_set(["gene", "cell type"], str(path), "jnlpba")
        assert labels == LabelSet(("gene", "cell type"), ("G.", "C."), "Else.")
    assert "not used: lipid" in caplog.text
    write_json(path, {"gene": "G."})
    assert "cell line" in descriptions.make_label_set(["gene"], str(path), "jnlpba").outside_description


def test_descriptions_of_the_hub(monkeypatch):
    rows = [("Protein", "P."), ("Protein", "P."), ("lipid", "1"), ("lipid", "2"), ("DNA", "D."), ("DNA", "E.")]
    rows += [(None, "N."), ("RNA", None)]
    table = datasets.Dataset.from_list([{"entity_type": name, "description": text} for name, text in rows])
    monkeypatch.setattr(descriptions, "load_hub_dataset", lambda *_: hub.HubDataset({"train": table}, "o/n", "c0"))
    assert descriptions.make_label_set(["protein"], "hub", "x").descriptions == ("P.",)
    with pytest.raises(InputError, match=r"Pile-NER.*'dna' has two descriptions: 'D\.' and 'E\.'"):
        descriptions.make_label_set(["dna"], "hub", "x")
    with pytest.raises(InputError, match="the description of 'rna' must be a non-empty string, got None"):
        descriptions.make_label_set(["rna"], "hub", "x")
    with pytest.raises(InputError, match=r"no description \(hub\) for 'gene'.*own or names"):
        descriptions.make_label_set(["gene"], "hub", "x")


# Tokens


def test_token_records(tokenizer_dir):
    labels = LabelSet(("cell type", "protein"), ("c", "p"), "o")
    loaded = tokens.load_tokenizer(str(tokenizer_dir), "bi")
    assert (loaded.name, loaded.fallback) == (tokenizer_dir.name, False)
    sentence = Sentence(("No", "\u200b", "IL-2", "T"), (Span(2, 2, "protein"), Span(3, 3, "cell type")))
    (record,) = tokens.token_records([sentence], labels, loaded.tokenizer)
    assert record == {
        "tokens": ["[CLS]", "n", "##o", "i", "##l", "##-", "##2", "t", "[SEP]"],
        "labels": [-100, 2, 2, 1, 1, 1, 1, 0, -100],
        "word_ids": [None, 0, 0, 2, 2, 2, 2, 3, None],
    }
    assert tokens.lost_words([sentence], [record]) == 1


def test_a_gliner_folder_without_a_tokenizer_names_its_text_encoder(tokenizer_dir, tmp_path):
    write_json(tmp_path / "gliner_config.json", {"model_name": str(tokenizer_dir)})
    assert tokens.load_tokenizer(str(tmp_path), "cross").tokenizer.is_fast


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(common.hub, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr(common.hub, "_silent", {})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    # Never in a cache, on any machine.
    monkeypatch.setattr(tokens, "DEFAULT_BASE", {"bi": "no-such-owner/bi", "cross": "no-such-owner/cross"})


def test_without_the_hub_auto_falls_back(no_hub, tokenizer_dir, tmp_path, monkeypatch, caplog):
    package = tmp_path / published.MINILM_PACKAGE
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model").symlink_to(tokenizer_dir)
    monkeypatch.syspath_prepend(tmp_path)
    loaded = tokens.load_tokenizer("auto", "bi")
    assert (loaded.name, loaded.fallback) == (published.MINILM_PACKAGE, True)
    assert "http://127.0.0.1:9 does not answer" in caplog.text


def test_without_the_hub_errors_are_one_line_with_the_ways_out(no_hub, monkeypatch, capsys):
    monkeypatch.setattr(published, "MINILM_PACKAGE", "no_such_package")
    with pytest.raises(InputError, match=r"Connect to the hub; or give --tokenizer PATH.*pip install -e '\.\[demo\]'"):
        tokens.load_tokenizer("auto", "cross")
    with pytest.raises(InputError, match=r"'no-such-owner/x' cannot be loaded: http://127\.0\.0\.1:9 does not answer"):
        tokens.load_tokenizer("no-such-owner/x", "bi")
    with pytest.raises(SystemExit, match="2"):
        run_script(lambda: generate.main(["--dataset", "jnlpba"]))
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "disi-unibo-nlp/JNLPBA" in error
    assert "--source PATH, or use a demo corpus" in error


@pytest.mark.skipif(find_spec(published.MINILM_PACKAGE) is None, reason="the extra 'demo' is not installed")
def test_the_real_fallback_tokenizer(no_hub):
    tokenizer = tokens.load_tokenizer("auto", "bi").tokenizer
    assert tokenizer(["NF-kappa", "B"], is_split_into_words=True).word_ids() == [None, 0, 0, 0, 0, 1, None]


# Bad input: file name, its content, and what the message must hold after the file's name.


def rows(words: list, tags: list):
    return lambda path: parquet(path, words, tags)


def other_columns(path: Path) -> None:
    pq.write_table(pa.table({"tokens": [["a"]], "marks": [["O"]]}), path)


def not_utf8(path: Path) -> None:
    words = pa.array([b"a", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"tokens": pa.ListArray.from_arrays([0, 1, 2], words), "ner_tags": [["O"]] * 2}), path)


def far_future(path: Path) -> None:
    pq.write_table(
        pa.table({"tokens": [["a"]], "ner_tags": [["O"]], "read": pa.array([2**62], pa.timestamp("us"))}), path
    )


def truncated_parquet(path: Path) -> None:
    parquet(path, WORDS, tags_of("iob2"))
    path.write_bytes(path.read_bytes()[:-9])


GOOD = json.dumps({"tokenized_text": ["a"], "ner": []})
BAD_INPUT = [
    # Parquet
    ("train.parquet", rows([["a"], ["a", "b"]], [["O"], ["O"]]), "record 1 (counted from 0): 2 words but 1 tags"),
    ("train.parquet", rows([["a", None]], [["O", "O"]]), "record 0 (counted from 0): word 1 is no string: None"),
    (
        "train.parquet",
        rows([["a"], None], [["O"], ["O"]]),
        "record 1 (counted from 0): field 'tokens' must be a list, got None",
    ),
    ("train.parquet", rows([["a"]], [[None]]), "record 0 (counted from 0): word 0: a tag must be a string, got None"),
    (
        "train.parquet",
        rows([["a"]], [[3]]),
        "record 0 (counted from 0): word 0: tag 3 is a number and nothing names the classes; name them in order",
    ),
    ("train.parquet", rows([["a"]], [["B_x"]]), "record 0 (counted from 0): word 0: unknown tag 'B_x'"),
    ("train.parquet", rows([["a"]], [["B-o"]]), "record 0 (counted from 0): 'o' cannot be an entity type"),
    ("train.parquet", lambda path: parquet(path, [["a"]], [[7]], ["O"]), "word 0: tag 7 is none of the 1 classes"),
    (
        "train.parquet",
        other_columns,
        "no column of tags (ner_tags, tags, ner, labels), found ['tokens', 'marks']; name it: --columns tag=",
    ),
    ("train.parquet", rows([], []), "the file holds no records"),
    (
        "train.parquet",
        not_utf8,
        "record 1 (counted from 0): column 'tokens' cannot be read: 'utf-8' codec can't decode byte 0xff",
    ),
    ("train.parquet", far_future, "record 0 (counted from 0): column 'read' cannot be read: "),
    ("train.parquet", truncated_parquet, "not a whole Parquet file"),
    ("train.parquet", "PAR1", "not a whole Parquet file"),
    # CoNLL
    (
        "train.conll",
        "a O\n\nb O\nc\n",
        "record 1 (counted from 0; begins at line 3): word 1 (line 4): expected a word and a tag, got 'c'",
    ),
    ("train.conll", "a O\nb X-y\n", "record 0 (counted from 0; begins at line 1): word 1: unknown tag 'X-y'"),
    ("train.tsv", "a\tB-x\n\tO\n", "record 0 (counted from 0; begins at line 1): word 1 is empty: ''"),
    ("train.tsv", "word\ttag\n\na\tO\n", "record 0 (counted from 0; begins at line 1): word 0: unknown tag 'tag'"),
    ("train.iob2", "a B-x\nb I-y\n", "record 0 (counted from 0; begins at line 1) word 1 opens an entity with 'I-y'"),
    (
        "train.bio",
        "a B-x\nb E-x\n\nc B-x\nd O\n",
        "record 1 (counted from 0; begins at line 4): word 1: 'O' after an entity 'x'",
    ),
    ("train.txt", "\n\n", "the file holds no records"),
    ("train.txt", "-DOCSTART- O\n", "the file holds no records"),
    ("train.iob", b"\xff O\n", "not UTF-8 text (byte 0)"),
    # JSON, JSONL
    ("train.json", f"[{GOOD}, ", "not whole JSON, line 1 column"),
    ("train.json", "", "not whole JSON, line 1 column 1"),
    ("train.json", "5", "expected a JSON list of records, got int"),
    ("train.json", "[]", "the file holds no records"),
    ("train.json", f"[{GOOD}, 5]", "record 1 (counted from 0): expected an object, got int"),
    (
        "train.json",
        '[{"tokenized_text": ["a"], "ner": [[0, 0, "_"]]}]',
        "record 0 (counted from 0): '_' cannot be an entity",
    ),
    (
        "train.json",
        '[{"tokenized_text": ["\\ud800"], "ner": []}]',
        "record 0 (counted from 0): word 0 holds half of a surrogate pair: '\\ud800'",
    ),
    ("train.jsonl", f'{GOOD}\n\n{{"tokenized_text": ["a"\n', "record 1 (counted from 0): not whole JSON, column"),
    (
        "train.jsonl",
        f'{GOOD}\n{{"tokenized_text": ["a"]}}\n',
        "record 1 (counted from 0): field 'ner' must be a list, got None",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_INPUT, ids=[f"{n} {m[:60]}" for n, _, m in BAD_INPUT])
def test_bad_input_names_file_record_and_value(make, corpus_dir, name, content, message):
    (corpus_dir / "train.jsonl").unlink()
    path = corpus_dir / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = message_of(make)
    assert str(path) in found
    assert message in found
    assert not (corpus_dir.parent / "out").exists()


def test_bad_folders(make, corpus_dir):
    error = functools.partial(message_of, make)
    assert "no such file or folder" in error(source=str(corpus_dir / "none"))
    (corpus_dir / "notes.docx").touch()
    assert "unknown kind of file '.docx'" in error(source=str(corpus_dir / "notes.docx"))
    (corpus_dir / "training-2.json").touch()
    assert "two train files, train.jsonl and training-2.json" in error()
    (corpus_dir / "training-2.json").unlink()
    (corpus_dir / "out").touch()
    assert f"{corpus_dir / 'out'}: is no folder" in error(output_dir=corpus_dir, dataset="out")
    assert "out/deep: Not a directory" in error(output_dir=corpus_dir / "out" / "deep")
    assert "a: File name too long" in error(source="a" * 5000)
    (corpus_dir / "test.jsonl").unlink()
    assert "no test file; a folder needs files" in error()


def test_bad_corpora(make, corpus_dir):
    error = functools.partial(message_of, make)
    assert "--test-size must be between 1 and 3, got 4" in error(test_size=4)
    assert "no description (own) for 'gene': give --descriptions FILE" in error(
        descriptions="own",
        source=str(
            write(
                corpus_dir / "one.jsonl",
                "".join(f'{{"tokenized_text":["{i}"],"ner":[[0,0,"gene"]]}}\n' for i in range(10)),
            )
        ),
    )
    assert "1 sentences are too few to cut into train, validation and test (at least 10 are needed)" in error(
        source=str(write(corpus_dir / "one.jsonl", GOOD + "\n"))
    )
    assert "all 1 records are invalid" in error(source=str(write(corpus_dir / "one.jsonl", "{\n")), skip_invalid=True)
    assert "the corpus has no entity" in error(
        source=str(write(corpus_dir / "one.jsonl", (GOOD + "\n") * 20)), allow_overlap=True
    )
    assert "record 0 (counted from 0): unknown type 'protein', this corpus has ['chemical', 'disease']" in error(
        dataset="bc5cdr"
    )
    assert "tokenizer './none': no such folder" in error(tokenizer="./none")
    assert "cannot be loaded" in error(tokenizer=str(corpus_dir))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"protein": "P.", "protein": "Q.", "cell type": "C."}', "type 'protein' has two descriptions: 'P.' and 'Q.'"),
        ('{"cell_type": "C.", "cell type": "D."}', "type 'cell type' has two descriptions: 'C.' and 'D.'"),
        ('{"protein": "P."}', "for 'cell type': add it to the file"),
        ('{"protein": ""}', "the description of 'protein' must be a non-empty string, got ''"),
        ('{"protein": 3}', "the description of 'protein' must be a non-empty string, got 3"),
        ('{"": "P."}', "a type must be a non-empty string, got ''"),
        (
            '[{"entity_type": "protein"}]',
            "record 0 (counted from 0): expected an object with entity_type and description",
        ),
        (
            '["protein"]',
            "record 0 (counted from 0): expected an object with entity_type and description, got 'protein'",
        ),
        (
            '[{"entity_type": "protein", "description": "P.", "description": "Q."}]',
            "record 0 (counted from 0): repeated key 'description'",
        ),
        ("5", "expected a JSON object or list of descriptions, got int"),
        ('{"protein": "a\\ud800"}', "the description of 'protein' holds half of a surrogate pair: 'a\\ud800'"),
        ("[" * 100_000, "cannot be read as JSON: nested too deep"),
        ("9" * 5000, "cannot be read as JSON: Exceeds the limit"),
        ('{"protein": ', "not whole JSON"),
    ],
)
def test_bad_descriptions(tmp_path, text, message):
    path = write(tmp_path / "d.json", text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        descriptions.make_label_set(["protein", "cell type"], str(path), "x")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "../x"}, "data set name must be letters"),
        ({"dataset": "mine"}, "'mine' is none of ['jnlpba', 'bc5cdr', 'demo-jnlpba', 'demo-bc5cdr']; give its files"),
        ({"dataset": "demo-bc5cdr", "source": "x"}, "demo-bc5cdr is embedded and takes no --source, got 'x'"),
        ({"dataset": "jnlpba", "train_size": 0}, "train_size must be at least 1, got 0"),
        ({"dataset": "jnlpba", "seed": -1}, "seed must be between 0 and 2^32 - 1, got -1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        GenerateConfig(**options)


# Demo corpora

FRAMES = """train\t{protein/factor} binds the {dna} in {species} .
train\t{protein:IL-2} was added .
train\tCells were washed .
validation\tWe saw {protein/factor} and {protein/factor} .
test\tLoss of {protein/factor} kills {species/animal} .
"""


@pytest.fixture
def demo_source(tmp_path) -> Path:
    names = {
        "protein": {"factor": [f"factor {i}" for i in range(20)]},
        "dna": {"site": [f"site-{i}" for i in range(20)]},
        "species": {"animal": ["mice", "rats", "human T cells", "factor 3", *(f"strain {i}" for i in range(16))]},
    }
    write_json(tmp_path / "names.json", names)
    (tmp_path / "sentences.txt").write_text(FRAMES)
    return tmp_path


def test_demo_rendering(demo_source):
    splits = demo.render(demo.read_demo_corpus(demo_source))
    assert splits == demo.render(demo.read_demo_corpus(demo_source))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 4, "validation": 2, "test": 2}
    first, second, fixed, plain = splits["train"]
    assert [span.label for span in first.spans] == ["protein", "dna", "species"]
    drawn = [" ".join(s.words[a : b + 1]) for s in (first, second) for a, b, _ in s.spans]
    assert len(set(drawn)) == 6
    assert fixed == Sentence(("IL-2", "was", "added", "."), (Span(0, 0, "protein"),))
    assert plain.spans == ()


def test_demo_names_are_split(demo_source):
    uses = demo._name_uses(demo.read_demo_corpus(demo_source).banks)
    assert Counter(uses[f"site-{i}"] for i in range(20)) == {"t": 11, "e": 5, "s": 4}
    assert len(uses) == 59  # "factor 3" stands in two banks and has one use


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dev\tx .", "expected train, validation or test, a tab and a frame, got 'dev\\tx .'"),
        ("train x", "expected train, validation or test, a tab and a frame"),
        ("train\tx  y", "must be separated by single spaces: 'x  y'"),
        ("train\t", "must be separated by single spaces: ''"),
        ("train\t{dna}-like x", "not a slot {type/bank}, {type} or {type:name} standing by itself: '{dna}-like'"),
        ("train\t{dna x", "standing by itself: '{dna'"),
        ("train\t{lipid} x", "'{lipid}' names no bank of names.json"),
        ("train\t{protein/none} x", "'{protein/none}' names no bank of names.json"),
        ("train\t{protein: p50} x", "a name is words with single spaces, got ' p50'"),
        ("train\tCells were washed .", "gives the same sentence as"),
        ("test\t" + "{dna} " * 5 + ".", "bank dna/* has too few names for this split"),
    ],
)
def test_bad_frames_name_file_and_line(demo_source, line, message):
    (demo_source / "sentences.txt").write_text(FRAMES + line + "\n")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        demo.render(demo.read_demo_corpus(demo_source))
    assert f"{demo_source / 'sentences.txt'}: line 6: " in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected an object of types"),
        ('{"a": {"b": []}}', "bank a/b must be a non-empty list of names, got []"),
        ('{"a": {"b": ["x  y"]}}', "bank a/b: a name is words with single spaces, got 'x  y'"),
        ('{"a": {"b": ["x"], "b": ["y"]}}', "repeated key 'b'"),
    ],
)
def test_bad_names(demo_source, text, message):
    (demo_source / "names.json").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        demo.read_demo_corpus(demo_source)


def test_a_demo_corpus_must_be_large_enough(demo_source):
    with pytest.raises(InputError, match="4 train sentences, at least 600 are needed"):
        demo.demo_sentences("jnlpba", demo_source)


@pytest.mark.parametrize("corpus", BENCHMARKS)
def test_the_shipped_demo_corpora(corpus):
    splits = demo.demo_sentences(corpus)
    every = [sentence.words for rows in splits.values() for sentence in rows]
    assert len(set(every)) == len(every)
    mentions = {
        split: {" ".join(s.words[a : b + 1]).lower() for s in rows for a, b, _ in s.spans}
        for split, rows in splits.items()
    }
    for rows in splits.values():
        assert set(count_types(rows)) == set(BENCHMARKS[corpus].types)
        assert 0 < sum(not sentence.spans for sentence in rows) < len(rows) / 3
    # Most of the names of the test split are new to a model that was trained on the train split.
    assert len(mentions["test"] - mentions["train"]) > len(mentions["test"]) / 2


def test_the_pretraining_of_the_demo_bases_sees_no_benchmark_type():
    sentences = demo.pretraining_sentences(2)
    types = count_types(sentences)
    assert sentences == demo.pretraining_sentences(2)
    assert len(types) >= 60
    assert min(types.values()) >= 4
    assert {sentence for sentence in sentences if not sentence.spans}
    seen = {" ".join(s.words[a : b + 1]).lower() for s in sentences for a, b, _ in s.spans}
    held_back = {name for benchmark in BENCHMARKS.values() for name in benchmark.types}
    assert not set(types) & held_back
    for corpus in BENCHMARKS:
        banks = demo.read_demo_corpus(demo.demo_dir(corpus)).banks
        names = {name.lower() for (kind, _), bank in banks.items() if kind in held_back for name in bank}
        assert names
        assert not names & seen
        tests = demo.demo_sentences(corpus)["test"]
        assert not {sentence.words for sentence in sentences} & {sentence.words for sentence in tests}


def test_demo_data_set(make):
    directory = make(dataset="demo-bc5cdr", source=None, descriptions="own", encoder="bi")
    data = load_dataset(str(directory))
    assert data.labels.names == ("chemical", "disease")
    assert read_json(directory / "manifest.json")["source"] == {"kind": "embedded"}


# The public corpora


@needs_real_data
def test_jnlpba_counts():
    corpus = read_local(REAL_DATA / "jnlpba", known_types=BENCHMARKS["jnlpba"].types)
    plan = SplitPlan(test_size=2000, allow_overlap=True)
    splits, _ = make_splits(corpus.splits, plan)
    assert len(splits["train"]) + len(splits["validation"]) == 18_546
    assert sum((count_types(splits["train"]) + count_types(splits["validation"])).values()) == 51_301
    assert (len(corpus.splits["test"]), sum(count_types(corpus.splits["test"]).values())) == (3_856, 8_662)
    # The supports that the public repository reports for its test sample.
    reference = {"protein": 2581, "cell type": 1036, "dna": 546, "cell line": 271, "rna": 67}
    assert count_types(splits["test"]) == reference
    assert splits["test"] != random.Random(42).sample(corpus.splits["test"], 2000)  # the same rows in the file's order
    assert set(splits["test"]) == set(random.Random(42).sample(corpus.splits["test"], 2000))
    tail, _ = make_splits(corpus.splits, SplitPlan("tail", tail=BENCHMARKS["jnlpba"].tail, allow_overlap=True))
    assert (len(tail["train"]), len(tail["validation"])) == (16_807, 1_739)


@needs_real_data
def test_bc5cdr_counts():
    corpus = read_local(REAL_DATA / "bc5cdr", known_types=BENCHMARKS["bc5cdr"].types)
    counts = {split: (len(rows), dict(count_types(rows))) for split, rows in corpus.splits.items()}
    assert counts == {
        "train": (4_560, {"chemical": 5_203, "disease": 4_182}),
        "validation": (4_581, {"chemical": 5_347, "disease": 4_246}),
        "test": (4_797, {"chemical": 5_385, "disease": 4_424}),
    }
    assert corpus.scheme == "iob2"
    assert corpus.type_map == {"Chemical": "chemical", "Disease": "disease"}
