"""VANER: instructions, first sub-words, tags to spans, negatives, and DBR's lists of names."""

import itertools
import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import LABELS, RUNTIME, generated_sentence, generated_split, predictions

import vaner.knowledge
import vaner.test
import vaner.train
from common.approach import freeze_all_but
from common.config import DataConfig
from common.data.dataset import make_sentence
from common.data.labels import LabelSet
from common.data.spans import Span
from common.errors import InputError
from common.inference import Tagger
from common.models.config import LoraConfig
from common.models.losses import IGNORED
from common.names.knowledge import Knowledge
from common.names.reading import Name
from common.training.loop import checkpoint_gradients
from vaner.config import Config
from vaner.model import BEGIN, INSIDE, NO_SUBWORD, OUTSIDE, first_subwords, instruction, tags_of
from vaner.names import NameLists, is_same_type, require_knowledge
from vaner.spans import span_probabilities
from vaner.spec import SPEC


@pytest.fixture
def tagger(trial):
    """Makes an untrained model: ``tagger(negatives=0.5)``."""
    return lambda **more: trial(SPEC, "causal-llama", **({"dbr": "off", "adapters": LoraConfig(rank=2)} | more)).model()


# -- spans ------------------------------------------------------------------------------------------------------------


def spans_by_hand(tags):
    """Spans of a tag sequence; an I behind an O starts one."""
    spans, start = [], None
    for word, tag in enumerate([*tags, OUTSIDE]):
        if start is not None and tag != INSIDE:
            spans.append((start, word - 1))
            start = None
        if tag == BEGIN or (tag == INSIDE and start is None):
            start = word
    return spans


probabilities = st.lists(
    st.tuples(*[st.floats(0.01, 1)] * 3).map(lambda three: [value / sum(three) for value in three]),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(probabilities)
def test_a_spans_probability_is_that_of_the_tag_sequences_that_hold_it(tags):
    wanted = Counter()
    for sequence in itertools.product(range(3), repeat=len(tags)):
        weight = np.prod([tags[word][tag] for word, tag in enumerate(sequence)])
        for span in spans_by_hand(sequence):
            wanted[span] += weight
    found = {(start, end): p for _, start, end, p in span_probabilities(torch.tensor([tags], dtype=torch.float64), 0.0)}
    assert found == pytest.approx(wanted)
    for threshold in (0.05, 0.5):
        passed = span_probabilities(torch.tensor([tags], dtype=torch.float64), threshold)
        assert {(start, end) for _, start, end, _ in passed} == {s for s, p in found.items() if p > threshold}
    assert not any(a[2] >= b[1] for a, b in itertools.pairwise(sorted(passed)))


def test_spans_stay_in_their_row():
    certain = torch.eye(3, dtype=torch.float64)
    rows = torch.stack([certain[[1, 2, 0, 0]], certain[[0, 2, 2, 1]]])
    assert span_probabilities(rows, 0.5) == [(1, 3, 3, 1.0), (0, 0, 1, 1.0), (1, 1, 2, 1.0)]


# -- input ------------------------------------------------------------------------------------------------------------


def test_first_subwords_are_found_whatever_a_tokenizer_does_with_spaces():
    text, starts = "ask: ab c de", [5, 8, 10]
    for offsets, wanted in (
        # Each space by itself, before its word, behind a word.
        ([(0, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9), (9, 10), (10, 12)], [2, 5, 7]),
        ([(0, 0), (0, 4), (4, 6), (6, 7), (7, 9), (9, 12)], [2, 4, 5]),
        ([(0, 5), (5, 8), (8, 10), (10, 12)], [1, 2, 3]),
        # One sub-word over two words is the first one's; cut before the last word.
        ([(0, 4), (4, 9), (9, 12)], [1, NO_SUBWORD, 2]),
        ([(0, 4), (4, 7), (7, 9)], [1, 2, NO_SUBWORD]),
    ):
        assert first_subwords(text, starts, offsets) == wanted


def test_rows_have_one_instruction_for_each_type_and_the_words_behind_it(tagger):
    model = tagger()
    words = ("naïve", "B", "cells", "α-actin", "in", "10\u00a0mg")
    sentence = make_sentence(words, [Span(0, 2, "cell type"), Span(3, 3, "protein")])
    (item,) = model.encode([sentence])
    for row, name in zip(item.rows, LABELS.names, strict=True):
        text = model.tokenizer.decode(row.input_ids, skip_special_tokens=True)
        assert text == f"{instruction(name, 'tiny')} {' '.join(words)}"
        assert f"every {name} that this sentence of tiny" in text
        # From one first sub-word to the next is a word.
        edges = [*row.first.tolist(), len(row.input_ids)]
        parts = [model.tokenizer.decode(row.input_ids[a:b]).strip(" ") for a, b in itertools.pairwise(edges)]
        assert tuple(parts) == words
    assert [row.tags.tolist() for row in item.rows] == [[0, 0, 0, 1, 0, 0], [1, 2, 2, 0, 0, 0], [0] * 6]
    assert item.length == sum(len(row.input_ids) for row in item.rows)


def test_the_instruction_shows_other_names_and_no_data_set_where_asked(tagger):
    model = tagger(type_names=("protein=Gene",), name_datasets=False)
    (item,) = model.encode(SENTENCES[:1])
    text = model.tokenizer.decode(item.rows[0].input_ids)
    assert instruction("Gene", None) in text
    assert "tiny" not in text
    with pytest.raises(InputError, match="--type-names: the data set has no type 'gene'"):
        tagger(type_names=("gene=Gene",)).begin_training([])
    with pytest.raises(InputError, match="--type-names: a type has two names: protein=Gene protein=Protein"):
        tagger(type_names=("protein=Gene", "protein=Protein"))
    with pytest.raises(InputError, match=r"--max-length 40: the instruction alone has \d+ sub-words"):
        tagger(max_length=40)


def test_words_behind_the_limit_are_unreachable_and_never_dropped(tagger):
    model = tagger(max_length=100)
    words = ["IL-2", *["the"] * 60, "fever"]
    (item,) = model.encode([make_sentence(words, [Span(0, 0, "protein"), Span(61, 61, "disease")])])
    assert max(len(row.input_ids) for row in item.rows) == 100
    assert item.n_words == min(len(row.first) for row in item.rows) < 61
    assert model.unreachable(item) == {"truncation": 1, "touching": 0, "no sub-word": 0}
    assert model.oracle(item) == [Span(0, 0, "protein")]
    assert item.sentence.spans[1].end == 61
    # Of whatever is predicted, nothing lies behind what is read for all types.
    model.threshold = 0.0
    (found,) = predictions(model, [item.sentence])
    assert max(span.span.end for span in found) < item.n_words


def test_a_later_word_changes_an_earlier_tag_only_in_both_directions(tagger):
    first, second = (make_sentence(["IL-2", "binds", word], []) for word in ("fever", "the"))
    for attention in ("bidirectional", "causal"):
        model = tagger(attention=attention)
        one, other = (model.logits(model.collate(model.encode([s]))) for s in (first, second))
        change = (one[:, :2] - other[:, :2]).abs()
        assert change.min() > 1e-4 if attention == "bidirectional" else change.max() < 1e-5


def test_other_types_can_be_asked_for(trial, data):
    made = trial(
        SPEC, "causal-llama", dbr="off", threshold=0.0, adapters=LoraConfig(rank=2), type_names=("protein=Gene",)
    )
    other = LabelSet(("organ",), ("A part of the body.",), "Other.")
    model = made.model(labels=other)
    assert {span.span.label for spans in predictions(model, data.test[:3]) for span in spans} == {"organ"}


# -- negatives --------------------------------------------------------------------------------------------------------


def test_negatives_are_a_share_of_the_missing_types_in_training_alone(tagger):
    sentences = [generated_sentence(random.Random(number), 1) for number in range(60)]
    for share, least, most in ((1.0, 180, 180), (0.5, 100, 140), (0.0, 60, 60)):
        model = tagger(negatives=share)
        encoded = model.encode(sentences)
        assert len(model.collate(encoded).asked) == 180
        model.train()
        batch = model.collate(encoded)
        assert least <= len(batch.asked) <= most
        positive = {(n, LABELS.names.index(s.spans[0].label)) for n, s in enumerate(sentences)}
        assert positive <= set(batch.asked)
        if share == 0.5:
            assert model.collate(encoded).asked != batch.asked
            torch.manual_seed(5)
            once = model.collate(encoded).asked
            torch.manual_seed(5)
            assert model.collate(encoded).asked == once
    # A batch is never empty.
    model = tagger(negatives=0.0)
    model.train()
    assert len(model.collate(model.encode([make_sentence(["the"], [])])).asked) == 1


# -- DBR --------------------------------------------------------------------------------------------------------------

PROTEINS = [Name(f"gene {number}", "Gene or protein") for number in range(30)]
OTHERS = [Name(f"heart-{number}", "anatomy") for number in range(20)]


def knowledge_of(sentences, extra=()):
    names = [*PROTEINS, *OTHERS, *extra]
    public = np.arange(len(names)) < len(PROTEINS) + len(OTHERS)
    rows = list(range(0, len(names), 2)) + list(range(50, len(names)))
    return Knowledge(names, public, {sentence.words: rows for sentence in sentences})


def lists(sentences, knowledge=None, **more):
    config = Config(DataConfig(("tiny",)), runtime=RUNTIME, **more)
    return NameLists(knowledge or knowledge_of(sentences), config, LABELS, LABELS.names, sentences)


def names_of(made, sentence):
    """The names of a list, as texts, and its entities' texts."""
    text = " ".join(sentence.words)
    return text, [" ".join(sentence.words[span.start : span.end + 1]) for span in sentence.spans]


SENTENCES = generated_split(12, seed=3)


def test_lists_hold_at_most_so_many_names_and_mark_those_of_the_type():
    made = lists(SENTENCES)
    generator = random.Random(1)
    for _ in range(20):
        text, marked = names_of(made, made.draw(SENTENCES[3], 0, generator))
        assert len(marked) == len(set(marked)) == 10
        assert all(name.startswith("gene ") for name in marked)
        assert text.count("heart-") == 5
        # Near names alone: those of even numbers.
        assert all(int(name.split()[1]) % 2 == 0 for name in marked)
    few = lists(SENTENCES, names_of_type=2, names_of_others=0)
    text, marked = names_of(few, few.draw(SENTENCES[3], 0, generator))
    assert len(marked) == 2
    assert "heart" not in text
    # No name of the knowledge base is of this type.
    assert made.draw(SENTENCES[3], 2, generator).spans == ()
    assert lists(SENTENCES, names_of_others=0).draw(SENTENCES[3], 2, generator) is None


def test_lists_are_drawn_anew_or_once():
    anew, once = lists(SENTENCES), lists(SENTENCES, redraw_names=False)
    generator = random.Random(1)
    assert len({anew.draw(SENTENCES[3], 0, generator).words for _ in range(10)}) == 10
    assert len({once.draw(SENTENCES[3], 0, generator).words for _ in range(10)}) == 1
    assert once.draw(SENTENCES[3], 0, generator) != once.draw(SENTENCES[4], 0, generator)


def test_random_lists_are_of_all_names():
    made = lists(SENTENCES, dbr="random")
    generator = random.Random(1)
    seen = set()
    for _ in range(60):
        seen |= set(names_of(made, made.draw(SENTENCES[3], 0, generator))[1])
    assert len(seen) == 30


def test_a_name_of_training_sentences_alone_is_used_if_one_of_those_trained_on_has_it():
    """The annotations of sentences that a few-shot training does not see stay unseen."""
    own = SENTENCES[3].spans[0]
    seen = Name(" ".join(SENTENCES[3].words[own.start : own.end + 1]), own.label)
    unseen = Name("secret protein", "protein")
    knowledge = knowledge_of(SENTENCES, [seen, unseen])
    for dbr in ("knowledge", "random"):
        made = lists(SENTENCES, knowledge, dbr=dbr, names_of_type=99, names_of_others=99)
        text, _ = names_of(made, made.draw(SENTENCES[3], 0, random.Random(1)))
        assert "secret" not in text
        assert seen.text in text


def test_names_of_a_data_set_of_a_mixture_have_the_joint_names_of_its_types():
    labels = LabelSet(("Gene",), ("A gene.",), "Any other word.")
    sentence = make_sentence(["p53", "binds"], [Span(0, 0, "Gene")])
    config = Config(DataConfig(("a", "b"), map=("protein=Gene",)))
    names = [Name("p53", "protein"), Name("mdm2", "Protein"), Name("heart", "anatomy")]
    knowledge = Knowledge(names, np.array([False, True, True]), {sentence.words: [0, 1, 2]})
    made = NameLists(knowledge, config, labels, labels.names, [sentence])
    text, entities = names_of(made, made.draw(sentence, 0, random.Random(1)))
    assert sorted(text.split()) == ["heart", "mdm2", "p53"]
    assert sorted(entities) == ["mdm2", "p53"]


def test_names_are_split_into_words_as_the_corpus_is():
    words = [["IL", "-", "2", "binds", "TNF", "-", "alpha", "."], ["fever", "is", "seen"]]
    split = [make_sentence(sentence, []) for sentence in words]
    for sentences, wanted in ((split, "heart - "), (SENTENCES, "heart-")):
        made = lists(sentences)
        assert wanted in " ".join(made.draw(sentences[0], 0, random.Random(1)).words)


def test_types_are_one_where_one_is_part_of_the_other():
    assert is_same_type("Gene or protein", "protein")
    assert is_same_type("disease", "Disease")
    assert is_same_type("cell line", "Cell_Line")
    assert not is_same_type("gene", "protein")
    shown = ("gene", "cell type", "disease")
    config = Config(DataConfig(("tiny",)), type_names=("protein=gene",))
    knowledge = knowledge_of(SENTENCES, [Name("BRCA1", "gene")])
    made = NameLists(knowledge, config, LABELS, shown, SENTENCES)
    assert made.types_of[0] == {"Gene or protein", "gene"}


def test_lists_of_other_sentences_are_refused():
    with pytest.raises(InputError, match="made for other training sentences, without"):
        lists(SENTENCES, knowledge_of(SENTENCES[1:]))


def test_the_loss_on_names_is_added_with_its_weight(tagger):
    losses = {}
    for weight in (0.0, 0.5, 1.0):
        model = tagger(dbr_weight=weight, adapters=LoraConfig(rank=2, dropout=0.0))
        model.lists = lists(SENTENCES)
        model.train()
        torch.manual_seed(3)
        batch = model.collate(model.encode(SENTENCES[2:6]))
        assert batch.is_list.sum() == len(batch.asked) == 12
        text = model.tokenizer.decode(batch.input_ids[-1])
        assert "that this sentence mentions" in text
        assert (batch.tags[batch.is_list] == BEGIN).sum() == 4 * 10
        losses[weight] = model(batch).item()
    assert losses[0.5] == pytest.approx((losses[0.0] + losses[1.0]) / 2)
    plain = tagger(adapters=LoraConfig(rank=2, dropout=0.0))
    assert losses[0.0] == pytest.approx(plain(plain.collate(plain.encode(SENTENCES[2:6]))).item())
    # In evaluation there are no lists.
    model.eval()
    assert not model.collate(model.encode(SENTENCES[2:6])).is_list.any()


def test_words_without_a_subword_are_ignored_and_outside(tagger):
    model = tagger(threshold=0.0)
    (item,) = model.encode(
        [make_sentence(["IL-2", "binds", "the", "p53"], [Span(1, 1, "protein"), Span(3, 3, "disease")])]
    )
    gap = torch.tensor([False, True, False, False])
    rows = tuple(
        replace(row, first=row.first.masked_fill(gap, NO_SUBWORD), tags=row.tags.masked_fill(gap, IGNORED))
        for row in item.rows
    )
    item = replace(item, rows=rows)
    assert model.unreachable(item) == {"truncation": 0, "touching": 0, "no sub-word": 1}
    assert model.oracle(item) == [Span(3, 3, "disease")]
    (found,) = model.predict(model.collate([item]))
    assert found
    assert not any(span.span.start <= 1 <= span.span.end for span in found)


def test_tags_of_touching_entities():
    sentence = make_sentence(list("abcd"), [Span(0, 1, "protein"), Span(2, 2, "protein"), Span(3, 3, "disease")])
    assert tags_of(sentence, "protein") == [BEGIN, INSIDE, BEGIN, OUTSIDE]


def test_gradient_checkpointing_computes_layers_twice_and_the_same_gradients(tagger):
    found = []
    for checkpointing in (False, True):
        model = tagger(adapters=LoraConfig(rank=2, dropout=0.0))
        freeze_all_but(model, model.parts)
        if checkpointing:
            checkpoint_gradients(model)
        calls = []
        model.network.layers[0].self_attn.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model.train()
        model(model.collate(model.encode(SENTENCES[2:5]))).backward()
        found.append(({n: p.grad for n, p in model.named_parameters() if p.requires_grad}, len(calls)))
    (plain, once), (recomputed, twice) = found
    assert (once, twice) == (1, 2)
    assert all(torch.allclose(plain[name], recomputed[name], atol=1e-6) for name in plain)
    assert any(gradient.any() for gradient in plain.values())


# -- commands ---------------------------------------------------------------------------------------------------------


def test_training_without_a_knowledge_base_says_how_to_make_it(dataset_path, gliner_folder):
    arguments = ["--dataset", str(dataset_path), "--base-model", str(gliner_folder("causal-llama"))]
    with pytest.raises(InputError, match=r"has no knowledge base; make it with: python -m vaner\.knowledge --dataset"):
        vaner.train.main(arguments)


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        ({"data": DataConfig(("/corpora/my own",))}, "--dataset '/corpora/my own' --names"),
        (
            {"data": DataConfig(("bc5cdr",)), "knowledge": ("/names/umls",)},
            "/names/umls has no .* --dataset NAME --names",
        ),
    ],
)
def test_a_missing_knowledge_base_is_made_by_the_command_that_is_shown(settings, how):
    with pytest.raises(InputError, match=how):
        require_knowledge(Config(**settings))


def test_knowledge_is_built_and_trained_with(dataset_path, gliner_folder, tiny_encoder, tmp_path, output):
    pytest.importorskip("faiss")
    table = tmp_path / "names.tsv"
    table.write_text("IL-2\tprotein\ninterleukin 2\tprotein\nheart\tanatomy\nhigh fever\tdisease\n", "utf-8")
    made = ["--dataset", str(dataset_path), "--names", str(table), "--encoder", str(tiny_encoder), "--no-progress"]
    folder = vaner.knowledge.main([*made, "--device", "cpu"])
    assert folder == output / "vaner" / "knowledge" / "tiny"
    manifest = json.loads((folder / "knowledge.json").read_text("utf-8"))
    assert (manifest["sources"], manifest["public"]) == (["names.tsv"], 4)
    run = vaner.train.main(
        [
            *("--dataset", str(dataset_path), "--base-model", str(gliner_folder("causal-llama")), "--rank", "2"),
            *("--epochs", "1", "--batch-size", "16", "--device", "cpu", "--precision", "fp32", "--no-progress"),
        ]
    )
    record = json.loads((run / "run.json").read_text("utf-8"))
    assert record["status"] == "finished"
    assert record["variant"] == {"dbr": "DBR"}
    (base,) = record["supplements"]
    assert (base["kind"], base["sources"], base["public"]) == ("names", ["names.tsv"], 4)
    path = vaner.test.main(["--dataset", str(dataset_path), "--device", "cpu", "--no-progress"])
    assert json.loads(path.read_text("utf-8"))["training"]["supplements"] == [base]


def write_knowledge(folder, sentences):
    """A knowledge base as ``vaner.knowledge`` writes it."""
    names = [*PROTEINS, *OTHERS]
    lines = [f"{name.text}\t{name.type}\tpublic\n" for name in names]
    near = [{"tokenized_text": s.words, "names": list(range(0, len(names), 2))} for s in sentences]
    counts = dict.fromkeys(("training", "sentences", "phrases", "nearest", "longest_phrase"), 0)
    texts = dict.fromkeys(("dataset", "dataset_sha256", "encoder", "encoder_sha256", "pooling"), "")
    folder.mkdir()
    (folder / "names.tsv").write_text("".join(lines), "utf-8")
    (folder / "near.json").write_text(json.dumps(near), "utf-8")
    manifest = counts | texts | {"public": len(names), "sources": []}
    (folder / "knowledge.json").write_text(json.dumps(manifest), "utf-8")
    return folder


def test_a_resumed_training_draws_the_same_names_and_negatives(trial, data, tmp_path):
    few = replace(data, train=data.train[2:18], validation=data.validation[2:6])
    folder = write_knowledge(tmp_path / "knowledge", few.train)
    made = trial(
        SPEC, "causal-llama", adapters=LoraConfig(rank=2, dropout=0.5), knowledge=(str(folder),), negatives=0.5,
        threshold=0.5, train={"epochs": 2, "patience": 0},
    ).but(data=few)  # fmt: skip

    whole, _ = made.train()
    resumed, _ = made.resume(made.killed().path)
    for (name, one), (_, other) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_a_training_is_not_resumed_with_other_names(trial, data, tmp_path):
    few = replace(data, train=data.train[2:6], validation=data.validation[2:4])
    folder = write_knowledge(tmp_path / "knowledge", few.train)
    made = trial(SPEC, "causal-llama", adapters=LoraConfig(rank=2), knowledge=(str(folder),), train={"epochs": 2}).but(
        data=few
    )

    run = made.killed()
    names = folder / "names.tsv"
    names.write_text(names.read_text("utf-8").replace("protein", "gene", 1), "utf-8")
    with pytest.raises(InputError, match=r"was started with .*'sha256'.*, resumed with"):
        made.resume(run.path)


def test_a_checkpoint_tags_texts_of_any_length_and_other_types(trial, data):
    few = replace(data, train=data.train[2:6], validation=data.validation[2:4])
    made = trial(SPEC, "causal-llama", dbr="off", adapters=LoraConfig(rank=2), threshold=0.01, train={"epochs": 1}).but(
        data=few
    )
    _, run = made.train()
    text = "IL-2 binds the patients after fever " * 40
    tagger = Tagger.load(str(run.path), runtime=RUNTIME)
    (found,) = tagger.tag([text])
    assert all(text[entity.start : entity.end] == entity.text for entity in found)
    # It reads about sixty words at once.
    assert max(entity.end for entity in found) > 0.9 * len(text)
    (other,) = Tagger.load(str(run.path), labels=["organ"], runtime=RUNTIME).tag(["IL-2 binds the patients"])
    assert {entity.label for entity in other} == {"organ"}


def test_a_sentence_of_a_mixture_is_asked_for_its_own_types_of_its_own_data_set(tagger):
    model = tagger()
    model.named_datasets |= {"other"}
    sentence = replace(make_sentence(["IL-2", "binds"], [Span(0, 0, "protein")]), types=("protein", "disease"))
    item, unseen = model.encode([replace(sentence, dataset=name) for name in ("other", "unseen")])
    assert [row.type_id for row in item.rows] == [0, 2]
    assert "this sentence of other mentions" in model.tokenizer.decode(item.rows[1].input_ids)
    # A data set that it was not trained on is not named.
    assert "this sentence mentions" in model.tokenizer.decode(unseen.rows[1].input_ids)
    model.threshold = 0.0
    (found,) = model.predict(model.collate([item]))
    assert {span.span.label for span in found} == {"protein", "disease"}


def test_types_have_thresholds_of_their_own(tagger):
    model = tagger(threshold=0.05)
    free = predictions(model, SENTENCES)
    model.type_thresholds = {"disease": 1.0}
    kept = predictions(model, SENTENCES)
    assert kept == [[item for item in spans if item.span.label != "disease"] for spans in free]
    assert kept != free
