"""Text in, entities out: offsets, windows, formats of input and output, resuming, and wrong input."""

import json
import shutil
import subprocess
import sys
from itertools import chain, pairwise

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import ENTITIES, LABELS, MAX_WIDTH, RUNTIME, predictions, set_threshold, spans_of

import common.inference.tagger
from common.data.dataset import make_sentence
from common.data.spans import ScoredSpan, Span
from common.entry import ExportConfig, export
from common.errors import InputError
from common.files import read_json, write_json
from common.inference import Document, Entity, Tagged, Tagger
from common.inference import output as output_module
from common.inference.documents import InputOptions, read_documents
from common.inference.output import write_tagged
from common.inference.windows import OVERLAP, Window, join, windows_of
from common.models.span_model import SpanModel
from common.paths import PROJECT_ROOT
from common.predict import Config, main
from common.registry import spec
from common.training.records import RUN_FILE
from dataset_generation.formats import FORMATS
from dataset_generation.options import ReadOptions
from dataset_generation.sources import read_local

TEXT = (
    "IL-2 binds T cells.  Fever was seen in patients"
    "\r\nwith Sj\u00f6gren's syndrome \U0001f469\u200d\U0001f52c after p53/mdm2.\n\n"
    "\u03b1-actin and CD4+ lymphocytes: acute liver failure, na\u00efve B cells (10 \u00b0C)."
)
ODD = st.text(st.sampled_from("aB\u00e9\u0301\u200d\u00a0\u3000\u2028 \n\r.,-/\u65e5\U0001f44d\u3002"), max_size=200)
TEXTS = st.one_of(
    ODD,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    st.lists(st.sampled_from([*chain(*ENTITIES.values()), "the", ".", "\n", "\U0001f469"]), max_size=120).map(" ".join),
)


@pytest.fixture(scope="session")
def models(load):
    """A span model of each kind of encoder, and a token model."""
    token = spec("softprompt_base")
    made = {
        "bi": SpanModel(load("bi-bert"), LABELS, LABELS.names),
        "cross": SpanModel(load("cross-deberta"), LABELS, LABELS.names),
        "token": token.build(token.plain_config("bi"), load("bi-bert"), LABELS),
    }
    for model in made.values():
        set_threshold(model, [make_sentence(["the", "IL-2", "binds", "T", "cells"], [])])
    return made


every_model = pytest.mark.parametrize("kind", ["bi", "cross", "token"])


def check_entities(text, entities):
    end = 0
    for entity in entities:
        assert text[entity.start : entity.end] == entity.text != ""
        assert entity.text == entity.text.strip()
        assert entity.start >= end
        assert entity.label in LABELS.names
        assert 0 <= entity.score <= 1
        end = entity.end


# -- offsets and windows ----------------------------------------------------------------------------------------------


@every_model
@given(text=TEXTS)
def test_an_entity_is_where_it_says(models, kind, text):
    check_entities(text, Tagger(models[kind], "tiny", RUNTIME).tag([text])[0])


@every_model
def test_entities_are_those_of_the_model(models, kind):
    """Sentence by sentence, word by word, without the tagger's batches, windows and offsets."""
    document = Document("d", TEXT)
    sentences = list(document.sentences())
    assert [words[0].text for words in sentences] == ["IL", "Fever", "with", "\u03b1"]
    found = predictions(models[kind], [make_sentence([word.text for word in words], []) for words in sentences], 1)
    expected = [
        (words[item.span.start].start, words[item.span.end].end, item.span.label, pytest.approx(item.score, abs=1e-5))
        for words, spans in zip(sentences, found, strict=True)
        for item in sorted(spans)
    ]
    assert expected
    entities = Tagger(models[kind], "tiny", RUNTIME).tag(["", TEXT, " \n"])
    assert [(item.start, item.end, item.label, item.score) for item in entities[1]] == expected
    assert entities[0] == entities[2] == []


def test_words_are_those_of_training(tmp_path):
    texts = [TEXT, "\u65e5\u672c\u3002\u0301\u65e5 gene.\u200b Next one.", "A title\n\nThe text. It goes\non."]
    lines = [json.dumps({"text": text, "label": [[0, 1, "x"]], "id": n}) + "\n" for n, text in enumerate(texts)]
    (tmp_path / "train.jsonl").write_text("".join(lines))
    trained = read_local(tmp_path / "train.jsonl", ReadOptions(off_edges="snap")).splits["train"]
    words = [tuple(w.text for w in words) for n, t in enumerate(texts) for words in Document(str(n), t).sentences()]
    assert [sentence.words for sentence in trained] == words


LONG = ["p53/mdm2" if index % 7 == 0 else f"binds{index}" for index in range(2500)]


@every_model
def test_windows_leave_no_word_out_and_overlap(models, kind):
    model = models[kind]
    windows = [window for window in windows_of(model, [["the"], LONG, ["the"]]) if window.sentence == 1]
    assert windows[0].first == 0
    assert windows[-1].after == len(LONG)
    assert len(windows) > 50
    for left, right in pairwise(windows):
        seen = left.after - left.first
        assert left.after - right.first >= max(MAX_WIDTH, min(OVERLAP, seen // 2))
        assert right.first > left.first
    for window in windows:
        assert list(window.encoded.sentence.words[: window.encoded.n_words]) == LONG[window.first : window.after]


@every_model
def test_nothing_is_lost_at_the_end_of_a_long_sentence(models, kind, monkeypatch):
    text = " ".join([*["the"] * 500, *(word for words in ENTITIES.values() for word in words)])
    tagger = Tagger(models[kind], "tiny", RUNTIME)
    entities = tagger.tag([text, TEXT, text])
    check_entities(text, entities[0])
    assert entities[0] == entities[2]
    # However many sentences are taken together.
    monkeypatch.setattr(common.inference.tagger, "_SENTENCES_AT_ONCE", 2)
    again = tagger.tag([text, TEXT, text])
    assert [[item[:4] for item in found] for found in again] == [[item[:4] for item in found] for found in entities]


def test_spans_of_two_windows_are_joined():
    def spans(*found):
        return [ScoredSpan(Span(start, end, label), score) for start, end, label, score in found]

    windows = [Window(0, 0, 10, None), Window(1, 0, 5, None), Window(0, 4, 14, None)]
    found = [
        # Word 9 is the last that the first window sees of the sentence's 14: what ends there may go on.
        spans((0, 1, "a", 0.4), (5, 6, "a", 0.6), (8, 9, "a", 0.95)),
        spans((3, 4, "b", 0.5)),
        # Counted from word 4. The first is the same as above, the second whole, the third the sentence's own end.
        spans((1, 2, "a", 0.7), (4, 7, "b", 0.8), (9, 9, "b", 0.3)),
    ]
    assert join(windows, found, [14, 5]) == [
        spans((0, 1, "a", 0.4), (5, 6, "a", 0.7), (8, 11, "b", 0.8), (13, 13, "b", 0.3)),
        spans((3, 4, "b", 0.5)),
    ]
    # Where both have seen all of it the score decides, and what is only seen at an edge stays.
    found = [spans((5, 6, "a", 0.6), (9, 9, "a", 0.2)), [], spans((2, 3, "b", 0.7))]
    assert join(windows, found, [14, 5])[0] == spans((6, 7, "b", 0.7), (9, 9, "a", 0.2))


def test_half_a_surrogate_pair_is_no_text(models):
    with pytest.raises(InputError, match=r"text 1: .*surrogate"):
        Tagger(models["bi"], "tiny", RUNTIME).tag(["a", "a\ud800"])


@pytest.mark.parametrize("name", ["9.00\u202fAM", "Note\u00a01", "\u0645\u06cc\u200c\u062e\u0648", "soft\u00adhyphen"])
def test_names_of_documents_may_hold_what_texts_hold(tagger, tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"{name}.txt").write_text("Fever.")
    (document,) = read(tmp_path / "in")
    assert document.id == name
    for form in ("jsonl", "conll", "brat"):
        write(tagger, tmp_path / f"out-{form}", form, [document])
    assert (tmp_path / "out-brat" / f"{name}.txt").read_text() == "Fever."
    assert read_local(tmp_path / "out-conll", ReadOptions(format="conll")).splits["train"][0].document == name


@pytest.mark.parametrize("name", ["", "a\nb", "a\u2028b", "\x85", "\ud800"])
def test_what_cannot_be_a_documents_name(name):
    with pytest.raises(ValueError, match="cannot be a document's id"):
        Document(name, "Fever.")


# -- input ------------------------------------------------------------------------------------------------------------


def read(path, **options):
    return list(read_documents(str(path), InputOptions(**options)))


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path, caplog):
    for name in ("one.txt", "two.docx", ".hidden"):
        (tmp_path / name).write_text("Fever.")
    assert read(tmp_path) == [Document("one", "Fever.")]
    assert f"--input {tmp_path}: not read, no .txt files: 1, such as two.docx" in caplog.text
    caplog.clear()
    (tmp_path / "two.docx").unlink()
    read(tmp_path)
    assert not caplog.text


def test_every_format_gives_the_text(tmp_path, monkeypatch):
    (tmp_path / "notes" / "old").mkdir(parents=True)
    (tmp_path / "notes" / "one.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    (tmp_path / "notes" / "old" / "two.txt").write_text("Fever.")
    rows = [{"id": 7, "body": TEXT}, {"id": None, "body": "Fever."}]
    (tmp_path / "rows.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    table = pyarrow.table({"body": [TEXT, "Fever."], "pmid": ["7", None], "tokens": [["T", "cells"], ["Fever", "."]]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")

    one, two = Document("one", TEXT), Document("rows-3", "Fever.")
    assert read(tmp_path / "notes" / "one.txt") == [one]
    assert read(tmp_path / "notes") == [Document("old/two", "Fever."), one]
    (tmp_path / "notes" / "old" / "two.txt").rename(tmp_path / "notes" / "old" / "two.TXT")
    (tmp_path / "notes" / "folder.txt").mkdir()
    assert read(tmp_path / "notes") == [Document("old/two", "Fever."), one]
    assert read(tmp_path / "rows.jsonl", text_field="body") == [Document("7", TEXT), two]
    found = read(tmp_path / "rows.parquet", text_field="body", id_field="pmid")
    assert found == [Document("7", TEXT), Document("rows-1", "Fever.")]
    found = read(tmp_path / "rows.parquet", text_field="tokens")
    assert [(item.id, item.text) for item in found] == [("rows-0", "T cells"), ("rows-1", "Fever .")]

    for name, options in (("notes/one.txt", {}), ("rows.jsonl", {"input_format": "jsonl", "text_field": "body"})):
        with (tmp_path / name).open() as stream:
            monkeypatch.setattr(sys, "stdin", stream)
            assert next(read_documents("-", InputOptions(**options))).text == TEXT


def test_words_of_conll_stay_as_they_are(tmp_path):
    path = tmp_path / "some.conll"
    path.write_text("1\tIL-2\n2\tbinds\n\n1\tp53/mdm2\n\n# newdoc id = x\n1\t10\u00a0mg\n")
    first, second = read(path, word_column=1)
    assert (first.id, first.text) == ("some", "IL-2 binds\np53/mdm2")
    assert (second.id, second.text) == ("x", "10\u00a0mg")
    assert [[word.text for word in words] for words in first.sentences()] == [["IL-2", "binds"], ["p53/mdm2"]]
    for words in first.sentences():
        assert all(first.text[word.start : word.end] == word.text for word in words)


def test_words_alone_may_begin_like_comments(tmp_path):
    path = tmp_path / "some.conll"
    path.write_text("Stop\n#covid\n#\nnow\n\n# a comment\n###MEDLINE:95\nno\n")
    assert [(item.id, item.text) for item in read(path)] == [("some", "Stop #covid # now"), ("95", "no")]


def test_the_examples_are_one_text_in_three_forms():
    folder = PROJECT_ROOT / "examples" / "corpora"
    notes, records, words = (read(folder / name) for name in ("brat", "doccano.jsonl", "words.conll"))
    assert [(item.id, item.text.rstrip("\n")) for item in notes] == [(item.id, item.text) for item in records]
    assert len(notes) == len(words) == 3
    for note, as_words in zip(notes, words, strict=True):
        expected = [[word.text for word in sentence] for sentence in note.sentences()]
        assert [[word.text for word in sentence] for sentence in as_words.sentences()] == expected


# -- output and resuming ----------------------------------------------------------------------------------------------

SETTINGS = {"model": "tiny", "threshold": 0.5}
DOCUMENTS = [Document(f"d/{number}", text) for number, text in enumerate([TEXT, "", "Fever.", TEXT[20:]])]


@pytest.fixture
def tagger(models):
    return Tagger(models["bi"], "tiny", RUNTIME)


def write(tagger, output, form, documents=DOCUMENTS, tag=None, **settings):
    return write_tagged(iter(documents), tag or tagger.tag_documents, output, form, SETTINGS | settings)


def test_json_lines(tagger, tmp_path):
    counts = write(tagger, tmp_path / "new" / "out.jsonl", "jsonl")
    records = [json.loads(line) for line in (tmp_path / "new" / "out.jsonl").read_text("utf-8").splitlines()]
    entities = tagger.tag([document.text for document in DOCUMENTS])
    assert counts == (4, sum(map(len, entities)))
    assert [record["id"] for record in records] == ["d/0", "d/1", "d/2", "d/3"]
    for record, document, found in zip(records, DOCUMENTS, entities, strict=True):
        assert record["text"] == document.text
        assert record["model"] == "tiny"
        assert record["entities"] == [item._asdict() | {"score": round(item.score, 4)} for item in found]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.jsonl"]


def test_our_reader_finds_in_conll_what_was_written(tagger, tmp_path):
    path = tmp_path / "out.conll"
    write(tagger, path, "conll")
    corpus = read_local(path).splits["train"]
    sentences = [words for document in DOCUMENTS for words in document.sentences()]
    assert [sentence.words for sentence in corpus] == [tuple(word.text for word in words) for words in sentences]
    spans = spans_of(predictions(tagger.model, [make_sentence([w.text for w in words], []) for words in sentences]))
    assert [list(sentence.spans) for sentence in corpus] == spans
    assert [sentence.document for sentence in corpus][-1] == "d/3"


def test_our_reader_finds_in_brat_what_was_written(tagger, tmp_path):
    write(tagger, tmp_path / "out", "brat")
    for document, found in zip(DOCUMENTS, tagger.tag([item.text for item in DOCUMENTS]), strict=True):
        path = tmp_path / "out" / f"{document.id}.ann"
        [(_, raw)] = FORMATS["brat"].read(path, ReadOptions())
        [item] = FORMATS["brat"].parse(raw, ReadOptions())
        assert item.text == document.text
        assert not item.bad
        assert [(m.start, m.end, m.label) for m in item.mentions] == [
            (e.start, e.end, e.label.replace(" ", "_")) for e in found
        ]
        assert path.read_text("utf-8").count("score 0.") == len(found)


def test_brat_has_an_entity_over_a_line_end_in_pieces(tmp_path):
    text = "In breast\r\n cancer."
    tagged = Tagged(Document("d", text), (Entity(3, 18, text[3:18], "cell type", 0.75),))
    write(None, tmp_path / "out", "brat", tag=lambda _: iter([tagged]))
    path = tmp_path / "out" / "d.ann"
    assert path.read_bytes() == b"T1\tcell_type 3 9;12 18\tbreast cancer\n#1\tAnnotatorNotes T1\tscore 0.7500\n"
    assert path.with_suffix(".txt").read_bytes() == text.encode()
    [(_, raw)] = FORMATS["brat"].read(path, ReadOptions())
    [item] = FORMATS["brat"].parse(raw, ReadOptions())
    assert item.mentions == [(3, 18, "cell_type")]


@pytest.mark.parametrize("name", ["../d", "/d", "..", "a/../../d", "a\\d", "d" * 238])
def test_no_id_leaves_the_folder_of_brat(tagger, tmp_path, name):
    with pytest.raises(InputError, match="cannot be a file's name"):
        write(tagger, tmp_path / "in" / "out", "brat", [Document(name, "Fever.")])
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".ann", ".txt") and ".out.tmp" not in str(path)]


def test_two_documents_of_one_id_are_no_folder_of_brat(tagger, tmp_path):
    with pytest.raises(InputError, match="two documents have this id"):
        write(tagger, tmp_path / "out", "brat", [Document("d", "Fever."), Document("d", "Gout.")])


@pytest.mark.parametrize("ids", [("d", "d.txt/e"), ("d.ann/e", "d"), ("a/d.x", "a/d.x.txt/e/f")])
def test_no_file_of_brat_stands_in_the_place_of_a_folder(tagger, tmp_path, ids):
    with pytest.raises(InputError, match=f"document '{ids[1]}': BRAT would need a folder of the same name as a file"):
        write(tagger, tmp_path / "out", "brat", [Document(name, "Fever.") for name in ids])


def test_other_systems_have_other_names_of_files(monkeypatch):
    """On Windows ``C:d`` lies outside the folder, and ``a:b`` is no file that anybody sees."""

    def names(*ids):
        return [document.id for document in output_module._named_for_brat(Document(name, "Fever.") for name in ids)]

    monkeypatch.setattr(output_module, "WINDOWS", True)
    for name in ("C:d", "PMID:1", "a/b?", "a|b", "d.", "d /e", "NUL", "con.d", "x/Lpt1"):
        with pytest.raises(InputError, match="cannot be a file's name"):
            names(name)
    assert names("a/b+c", "console", "d.e") == ["a/b+c", "console", "d.e"]
    monkeypatch.setattr(output_module, "WINDOWS", False)
    monkeypatch.setattr(output_module, "_FOLDS_NAMES", False)
    assert names("PMID:1", "d", "D") == ["PMID:1", "d", "D"]
    monkeypatch.setattr(output_module, "_FOLDS_NAMES", True)
    for one, other in (("d", "D"), ("\u00e9", "e\u0301")):
        with pytest.raises(InputError, match=f"{other!r}: two documents have this id"):
            names(one, other)


def test_an_id_that_brat_cannot_have_costs_no_tagging(tagger, tmp_path):
    def one_by_one(documents):
        for document in documents:
            done.append(document.id)
            yield from tagger.tag_documents([document])

    done, texts = [], [Document("d", "Fever."), Document("e" * 237, "Gout."), Document("./d", "Gout.")]
    with pytest.raises(InputError, match=r"'\./d': two documents have this id"):
        write(tagger, tmp_path / "out", "brat", texts, tag=one_by_one)
    assert write(tagger, tmp_path / "out", "brat", [*texts[:2], Document("f", "Gout.")], tag=one_by_one)[0] == 3
    assert done == ["d", "e" * 237, "f"]


@pytest.mark.parametrize("form", ["jsonl", "conll"])
@pytest.mark.parametrize("left", [b"", b'{"id": "d/2", "te', b"\xc3"])
def test_a_killed_run_goes_on(tagger, tmp_path, form, left):
    def killed(documents):
        for number, tagged in enumerate(tagger.tag_documents(documents)):
            if number == 2:
                raise KeyboardInterrupt
            yield tagged

    asked = []

    def noted(documents):
        return tagger.tag_documents(asked.append(item.id) or item for item in documents)

    output, whole = tmp_path / "out", tmp_path / "whole"
    write(tagger, whole, form)
    with pytest.raises(KeyboardInterrupt):
        write(tagger, output, form, tag=killed)
    assert not output.exists()
    with (tmp_path / "out.partial").open("ab") as stream:
        stream.write(left)
    with pytest.raises(InputError, match=r"begun differently: threshold: 0.5 != 0.7; remove .*out.partial"):
        write(tagger, output, form, threshold=0.7)
    with pytest.raises(InputError, match="'d/1' is no longer that of the input"):
        write(tagger, output, form, [DOCUMENTS[0], Document("d/1", "other")])
    assert write(tagger, output, form, tag=noted)[0] == 4
    assert asked == ["d/2", "d/3"]
    assert output.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "out.partial").exists()


def test_a_partial_output_without_a_document_is_begun_anew(tagger, tmp_path):
    def fails(documents):
        raise InputError("bad")

    with pytest.raises(InputError, match="bad"):
        write(tagger, tmp_path / "out", "jsonl", tag=fails)
    assert write(tagger, tmp_path / "out", "jsonl", threshold=0.7)[0] == 4


# -- models -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(trial):
    """The folder of a short training, by approach."""

    def made(name):
        base = "cross-bert" if spec(name).kinds == ("cross",) else "bi-bert"
        _, run = trial(spec(name), base, train={"epochs": 1}).train()
        return run.path

    return made


def test_a_run_knows_its_approach_and_an_export_its_labels(run, tmp_path):
    path = run("full_finetune")
    tagger = Tagger.load(path, threshold=0.3, runtime=RUNTIME)
    entities = tagger.tag([TEXT])
    assert entities[0]
    assert tagger.name == f"full_finetune/{path.name}"
    # The types trained on, asked for as any others.
    assert Tagger.load(path, labels=LABELS.names, threshold=0.3, runtime=RUNTIME).tag([TEXT]) == entities
    other = Tagger.load(path, labels=["organ"], threshold=0.01, runtime=RUNTIME)
    assert {entity.label for entity in other.tag([TEXT])[0]} == {"organ"}

    export(spec("full_finetune"), ExportConfig(tmp_path / "plain", str(path)))
    plain = Tagger.load(tmp_path / "plain", runtime=RUNTIME)
    assert plain.labels == LABELS.names
    # A joiner inside a word, as Persian has them.
    assert Tagger.load(tmp_path / "plain", labels=["\u0645\u06cc\u200c\u062e\u0648"], runtime=RUNTIME).tag([TEXT])
    assert plain.threshold == Tagger.load(path, runtime=RUNTIME).threshold == read_json(path / RUN_FILE)["threshold"]
    found = Tagger.load(tmp_path / "plain", threshold=0.3, runtime=RUNTIME).tag([TEXT])
    assert [item[:4] for item in found[0]] == [item[:4] for item in entities[0]]


def test_wrong_models(run, tmp_path, gliner_folder):
    path, base = run("softprompt_base"), str(gliner_folder("cross-bert"))
    for source, options, message in (
        (path, {"labels": ["organ"]}, "SP-Base finds only the types that it was trained on"),
        (path, {"threshold": 0.5}, "takes the best class"),
        (path, {"threshold": 1.5}, "threshold must be between 0 and 1"),
        (base, {}, "--labels is missing"),
        (base, {"labels": ["O"]}, "--labels: 'O' is the class outside"),
        (base, {"labels": ["a", "a"]}, r"--labels: entity types are repeated: \['a'\]"),
        (base, {"labels": ["a\nb"]}, "--labels: .* holds a line end"),
        (base, {"labels": ["a"], "base_model": base}, "--base-model: .* is a model itself"),
        ("no/such/thing", {"labels": ["a"]}, "neither a folder nor a hub id"),
    ):
        with pytest.raises(InputError, match=message):
            Tagger.load(source, runtime=RUNTIME, **options)
    write_json(path / RUN_FILE, read_json(path / RUN_FILE) | {"approach": "os"})
    with pytest.raises(InputError, match="unknown approach 'os'"):
        Tagger.load(path)


# -- the command line -------------------------------------------------------------------------------------------------

CPU = ["--device", "cpu", "--precision", "fp32", "--no-progress"]


def test_wrong_input(tmp_path, gliner_folder):
    files = {
        "bad.txt": b"Fever\xff",
        "field.jsonl": b'{"text": "Fever."}\n{"body": "Gout."}\n',
        "cut.jsonl": b'{"text": "Fever."}\n{"text": "Go',
        "number.jsonl": b'{"text": 3}\n',
        "list.jsonl": b"[1]\n",
        "id.jsonl": b'{"text": "Fever.", "id": [1]}\n',
        "utf8.jsonl": b'{"text": "Fever."}\n{"text": "\xff"}\n',
        "half.jsonl": b'{"text": "\\ud800"}\n',
        "words.jsonl": b'{"text": ["a", "b c"]}\n',
        "bad.parquet": b"PAR1",
        "some.conll": b"Fever\n",
        "some.pdf": b"%PDF",
        "lfs.jsonl": b"version https://git-lfs.github.com/spec/v1\n",
        "taken": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "empty").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"body": ["Fever."]}), tmp_path / "field.parquet")
    texts = pyarrow.array([b"Fever.", b"F\xff"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "utf8.parquet")
    model = ["--model", str(gliner_folder("bi-bert")), "--labels", "disease", *CPU]
    for name, options, message in (
        ("bad.txt", [], r"bad.txt: not UTF-8 text \(byte 5\)"),
        ("field.jsonl", [], r"field.jsonl: line 2: no field 'text', found \['body'\]; name it with --text-field"),
        ("cut.jsonl", [], "cut.jsonl: line 2: not whole JSON, column 10"),
        ("number.jsonl", [], "line 1: field 'text' must be a text or a list of words, got 3"),
        ("list.jsonl", [], "line 1: expected an object, got list"),
        ("id.jsonl", [], r"line 1: field 'id' must be a string or an integer, got \[1\]"),
        ("utf8.jsonl", [], r"utf8.jsonl: line 2: not UTF-8 text"),
        ("half.jsonl", [], "line 1: the text holds half of a surrogate pair"),
        ("words.jsonl", [], "line 1: word 1 holds white space: 'b c'"),
        ("bad.parquet", [], "bad.parquet: not a whole Parquet file"),
        ("utf8.parquet", [], r"record 1 \(counted from 0\): column 'text' cannot be read: 'utf-8' codec can't decode"),
        ("field.parquet", [], r"field.parquet: no field 'text', found \['body'\]"),
        ("some.conll", ["--word-column", "1"], r"some.conll: sentence at line 1: no column 1 \(--word-column\)"),
        ("some.pdf", [], "its suffix is none of .txt"),
        ("lfs.jsonl", [], "Git LFS pointer"),
        ("empty", [], "holds no .txt file"),
        ("none.txt", [], "no such file or folder"),
        ("/dev/null", [], "is a pipe or a device"),
        ("bad.txt", ["--output", str(tmp_path / "taken")], "taken: exists"),
        ("bad.txt", ["--output", str(tmp_path / "taken" / "out.jsonl")], "taken is no folder"),
        ("bad.txt", ["--output", "-"], "--output -: nothing is written to standard output"),
        ("bad.txt", ["--output", str(tmp_path / "out.xml")], "ends neither in .jsonl nor .conll"),
        ("bad.txt", ["--checkpoint", "latest"], "in place of --checkpoint"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            main(["--input", str(tmp_path / name), "--output", str(tmp_path / "out.jsonl"), *model, *options])
        assert "\n" not in str(caught.value)
    for options, message in (
        ([], "which model"),
        (["--checkpoint", "latest"], "which model"),
        (["--approach", "ldsa"], "no finished run of ldsa"),
        (["--approach", "zeroshot_baseline"], "nothing is trained"),
        (["--approach", "os"], "unknown approach"),
        (["--checkpoint", str(tmp_path)], "is no run folder"),
    ):
        with pytest.raises(InputError, match=message):
            main(["--input", str(tmp_path / "bad.txt"), "--output", str(tmp_path / "out.jsonl"), *options])


def test_from_the_newest_run_to_a_file(run, tmp_path, caplog):
    path = run("glinerev")
    (tmp_path / "note.txt").write_bytes(TEXT.encode())
    output = tmp_path / "tagged.jsonl"
    main(["--approach", "glinerev", "--threshold", "0.2", "--input", str(tmp_path), "--output", str(output), *CPU])
    record = json.loads(output.read_text("utf-8"))
    assert record["model"] == f"glinerev/{path.name}"
    assert record["entities"]
    # As for every script, a data set may be named by its folder.
    dataset = json.loads((path / "run.json").read_text("utf-8"))["dataset"]["name"]
    named = Config(input="-", output=output, approach="glinerev", dataset=str(tmp_path / dataset))
    assert named.source() == str(path)
    for item in record["entities"]:
        assert record["text"][item["start"] : item["end"]] == item["text"]
    main(
        [
            "--checkpoint",
            str(path),
            "--threshold",
            "0.2",
            "--input",
            str(tmp_path),
            "--output",
            str(tmp_path / "b"),
            *CPU,
        ]
    )
    assert (tmp_path / "b" / "note.txt").read_bytes() == TEXT.encode()
    with pytest.raises(InputError, match="is a run of 'glinerev', not of 'ldsa'"):
        main(
            ["--checkpoint", str(path), "--approach", "ldsa", "--input", str(tmp_path), "--output", str(tmp_path / "c")]
        )


def test_what_was_begun_with_other_weights_or_another_precision_is_not_gone_on_with(
    gliner_folder, tmp_path, monkeypatch
):
    def killed(self, documents):
        yield Tagged(next(iter(documents)), ())
        raise KeyboardInterrupt

    model, output = tmp_path / "model", tmp_path / "out.jsonl"
    shutil.copytree(gliner_folder("bi-bert"), model)
    (tmp_path / "notes.jsonl").write_text('{"text": "Fever."}\n{"text": "Gout."}\n')
    options = ["--model", str(model), "--labels", "disease", "--input", str(tmp_path / "notes.jsonl"), *CPU]
    options += ["--output", str(output)]
    with monkeypatch.context() as patch:
        patch.setattr(Tagger, "tag_documents", killed)
        with pytest.raises(KeyboardInterrupt):
            main(options)
    with pytest.raises(InputError, match=r'precision: "fp32" != "bf16"; remove'):
        main([*options, "--precision", "bf16"])
    tensors = load_file(model / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    save_file(tensors | {name: tensors[name] + 1}, model / "model.safetensors")
    with pytest.raises(InputError, match=r'begun differently: weights: "[0-9a-f]+" != "[0-9a-f]+"; remove'):
        main(options)
    assert not output.exists()


@pytest.mark.slow
def test_the_shell_answers_bad_input_without_loading_torch(tmp_path):
    code = (
        "import sys; from common.script import run_script; from common.predict import main\n"
        "try: run_script(main)\nfinally: print(sorted({'torch', 'gliner', 'pandas'} & set(sys.modules)))"
    )
    arguments = ["--model", "x/y", "--input", str(tmp_path / "none.txt"), "--output", str(tmp_path / "out.jsonl")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert done.stdout == "[]\n"
    assert done.stderr == f"error: --input {tmp_path / 'none.txt'}: no such file or folder\n"
