"""Data set files: what is read back, the public thesis repository's forms of them, and every way they can be bad."""

import json
import re

import pytest

from common.data.dataset import (
    SPLITS,
    Sentence,
    count_types,
    existing_dataset_dir,
    load_dataset,
    make_sentence,
    parse_span_record,
    read_span_file,
    sample,
    span_file,
    token_file,
)
from common.data.labels import LabelSet
from common.data.spans import Span
from common.files import InputError, atomic_text, read_json, sha256_file, write_json, write_json_records

LABELS = LabelSet(("dna", "protein"), ("A piece of DNA.", "A protein."), "Anything else.")
RECORD = {"tokenized_text": ["the", "NF-kappa", "B", "site"], "ner": [[1, 2, "protein"]]}
SENTENCE = Sentence(("the", "NF-kappa", "B", "site"), (Span(1, 2, "protein"),))


@pytest.fixture
def dataset(tmp_path):
    """A folder as another tool would leave it: no manifest."""
    directory = tmp_path / "tiny"
    for split in ("train", "validation", "test"):
        for encoder in ("bi", "cross"):
            write_json_records(directory / span_file(split, encoder), [RECORD, {"tokenized_text": ["no"], "ner": []}])
    write_json(directory / "label2id.json", LABELS.label2id)
    write_json(directory / "label2desc.json", LABELS.label2desc)
    return directory


def test_file_names():
    assert [span_file(s, "bi") for s in ("train", "validation", "test")] == [
        "dataset_span_bi.json",
        "val_dataset_span_bi.json",
        "test_dataset_span_bi.json",
    ]
    assert token_file("validation", "cross") == "val_dataset_tknlvl_cross.json"


def test_load_dataset(dataset):
    data = load_dataset(str(dataset))
    assert data.name == "tiny"
    assert data.labels == LABELS
    assert data.train == data.validation == data.test == [SENTENCE, Sentence(("no",), ())]
    assert count_types(data.train) == {"protein": 1}
    for split in SPLITS:
        (dataset / span_file(split, "bi")).unlink()
    assert load_dataset(str(dataset)).sha256 == data.sha256, "the cross-encoder's files are alike"
    assert data.limited(1, None, seed=1).test == data.test
    assert len(data.limited(1, None, seed=1).train) == 1


def test_the_public_repositorys_files_are_read(dataset):
    record = {
        "tokenized_text": RECORD["tokenized_text"],
        "ner": [[0, 0, "2"], [1, 2, "1"], [3, 3, "2"]],
    }
    for split in ("train", "validation", "test"):
        for encoder in ("bi", "cross"):
            (dataset / span_file(split, encoder)).unlink()
        write_json(dataset / span_file(split, "mono"), [record])
    assert load_dataset(str(dataset)).train == [SENTENCE]


def test_named_outside_spans_are_dropped():
    record = {**RECORD, "ner": [[0, 0, "O"], *RECORD["ner"]]}
    assert parse_span_record(record) == SENTENCE


def test_sample_is_seeded_keeps_order_and_checks_its_size():
    sentences = [Sentence((str(i),), ()) for i in range(50)]
    chosen = sample(sentences, 20, 42, "--test-size")
    assert chosen == sample(sentences, 20, 42, "--test-size")
    assert chosen != sample(sentences, 20, 43, "--test-size")
    assert [int(s.words[0]) for s in chosen] == sorted(int(s.words[0]) for s in chosen)
    assert sample(sentences, None, 42, "--test-size") == sentences
    for size in (0, 51):
        with pytest.raises(InputError, match=f"--test-size must be between 1 and 50, got {size}"):
            sample(sentences, size, 42, "--test-size")


BAD_RECORDS = {
    "no object": ([], "expected an object, got list"),
    "no words": ({"tokenized_text": [], "ner": []}, "the sentence has no words"),
    "words missing": ({"ner": []}, "field 'tokenized_text' must be a list, got None"),
    "ner no list": ({**RECORD, "ner": {}}, "field 'ner' must be a list, got {}"),
    "number as word": ({"tokenized_text": ["a", 3], "ner": []}, "word 1 is no string: 3"),
    "empty word": ({"tokenized_text": ["a", ""], "ner": []}, "word 1 is empty: ''"),
    "two words": ({"tokenized_text": ["a b"], "ner": []}, "word 0 holds white space: 'a b'"),
    "short entity": ({**RECORD, "ner": [[1, 2]]}, "an entity must be [start, end, type], got [1, 2]"),
    "float index": ({**RECORD, "ner": [[1.0, 2, "protein"]]}, "must be integers, got [1.0, 2, 'protein']"),
    "boolean index": ({**RECORD, "ner": [[True, 2, "protein"]]}, "must be integers, got [True, 2, 'protein']"),
    "no type": ({**RECORD, "ner": [[1, 2, ""]]}, "must be a non-empty string, got [1, 2, '']"),
    "beyond the end": ({**RECORD, "ner": [[1, 4, "protein"]]}, "span (1, 4, 'protein') is out of range for 4 words"),
    "huge": ({**RECORD, "ner": [[1, 10**200, "protein"]]}, f"span (1, 1{92 * '0'}... is out of range for 4 words"),
    "negative": ({**RECORD, "ner": [[-1, 0, "protein"]]}, "span (-1, 0, 'protein') is out of range for 4 words"),
    "backwards": ({**RECORD, "ner": [[2, 1, "protein"]]}, "span (2, 1, 'protein') is out of range for 4 words"),
    "overlap": ({**RECORD, "ner": [[0, 1, "dna"], [1, 2, "dna"]]}, "overlap: (0, 1, 'dna') and (1, 2, 'dna')"),
    "unknown type": ({**RECORD, "ner": [[1, 2, "lipid"]]}, "unknown type 'lipid', known are ['dna', 'protein']"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_bad_records_name_file_record_and_value(tmp_path, case):
    record, message = BAD_RECORDS[case]
    path = tmp_path / "x.json"
    write_json(path, [RECORD, record])
    with pytest.raises(InputError, match=re.escape(f"{path}: record 1: ") + ".*" + re.escape(message)):
        read_span_file(path, LABELS)


def test_make_sentence_sorts_spans():
    assert make_sentence(["a", "b"], [Span(1, 1, "x"), Span(0, 0, "y")]).spans == (Span(0, 0, "y"), Span(1, 1, "x"))


def test_bad_files(dataset):
    path = dataset / span_file("train", "bi")
    whole = path.read_bytes()

    def error() -> str:
        with pytest.raises(InputError) as caught:
            load_dataset(str(dataset))
        return str(caught.value)

    path.write_bytes(whole[:-20])
    assert str(path) in error()
    assert "is the file truncated?" in error()
    path.write_bytes(b'["\xff"]')
    assert "not UTF-8 text (byte 2)" in error()
    path.write_text("{}")
    assert "expected a JSON list of records, got dict" in error()
    path.write_text("[]")
    assert "the file holds no records" in error()
    path.unlink()
    (dataset / span_file("train", "cross")).unlink()
    assert (
        "has no train file: none of ['dataset_span_bi.json', 'dataset_span_cross.json', 'dataset_span_mono.json']"
        in error()
    )
    path.write_bytes(whole)
    write_json(dataset / "manifest.json", {"files": {path.name: {"sha256": "0" * 64}}})
    assert f"{path}: differs from manifest.json" in error()
    write_json(dataset / "manifest.json", [])
    assert "manifest.json: the record must be an object, got []" in error()
    write_json(dataset / "manifest.json", {"files": {path.name: {}}})
    assert f"manifest.json: files.{path.name} lacks ['sha256']" in error()
    (dataset / "manifest.json").unlink()
    write_json(dataset / "label2id.json", {"dna": "0", "O": "1"})
    assert "label2id.json: dna must be a whole number, got '0'" in error()
    write_json(dataset / "label2id.json", {"dna": 0, "O": 1})
    assert "descriptions of labels that do not exist: ['protein']" in error()
    (dataset / "label2id.json").unlink()
    assert "label2id.json: no such file" in error()


def test_a_missing_data_set_says_how_to_make_it():
    with pytest.raises(InputError, match=r"python -m dataset_generation\.generate --dataset no-such-set"):
        load_dataset("no-such-set")


@pytest.mark.parametrize("name", ["./tiny", "tiny/", "../{}/tiny", "{}"])
def test_a_path_of_a_data_set_is_one_however_it_is_written(dataset, monkeypatch, name):
    monkeypatch.chdir(dataset.parent)
    path = name.format(dataset if name == "{}" else dataset.parent.name)
    assert (load_dataset(path).name, existing_dataset_dir(path).resolve()) == ("tiny", dataset.resolve())
    for other in ("tiny", ".", "./", ""):
        with pytest.raises(InputError, match="data set"):
            load_dataset(other)


def test_writing_is_atomic(tmp_path):
    path = tmp_path / "new" / "x.json"
    write_json(path, {"old": 1})

    def fail_half_way() -> None:
        with atomic_text(path) as stream:
            stream.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert read_json(path) == {"old": 1}
    assert list(path.parent.iterdir()) == [path]
    write_json_records(path, [{"a": "ü"}, {"b": 2}])
    assert json.loads(path.read_text(encoding="utf-8")) == [{"a": "ü"}, {"b": 2}]
    assert len(sha256_file(path)) == 64


def test_types_that_are_numbers_are_not_read_as_ids(tmp_path):
    """Ids as strings, which other tools write, must not hide types that are called 1 and 2."""
    labels = LabelSet(("1", "2"), ("first", "second"), "other")
    path = tmp_path / "spans.json"
    path.write_text('[{"tokenized_text": ["a", "b", "c"], "ner": [[0, 0, "1"], [2, 2, "2"], [1, 1, "0"]]}]')
    # "0" is no type here, so it is the id of the first one.
    assert read_span_file(path, labels)[0].spans == (Span(0, 0, "1"), Span(1, 1, "1"), Span(2, 2, "2"))
