"""NERLlama3.1: marks and their reading, prompts, votes, and the model on a tiny Llama."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import ENTITIES, LABELS, WORDS, generated_split, long_sentence, write_dataset

from common.config import DataConfig
from common.data.dataset import make_sentence
from common.data.labels import LabelSet
from common.data.spans import ScoredSpan, Span
from common.errors import InputError
from common.files import read_json, write_json, write_json_records
from common.models.generation import answer_key
from nerllama import test as nerllama_test
from nerllama import train
from nerllama.config import Config, Options
from nerllama.marks import PROBLEMS, Found, Mark, Reading, marked, named_marks, plain_mark, read
from nerllama.prompts import Pool, example, question
from nerllama.spec import SPEC
from nerllama.voting import vote

ONE = (plain_mark("disease"),)
TWO = named_marks(["cell line", "disease"])
SENTENCE = ("IL-2", "causes", "acute", "liver", "failure", "or", "fever")


def spans(reading):
    return [tuple(span) for span in reading.spans]


# -- marks ------------------------------------------------------------------------------------------------------------


def test_marks_of_a_sentence():
    found = [Span(2, 4, "disease"), Span(6, 6, "disease")]
    assert marked(SENTENCE, found, ONE) == "IL-2 causes @@acute liver failure## or @@fever##"
    assert marked(SENTENCE, [*found, Span(0, 0, "cell line")], TWO) == (
        "@cell_line@IL-2#cell_line# causes @disease@acute liver failure#disease# or @disease@fever#disease#"
    )


def test_names_in_marks_are_told_apart():
    names = ["cell_line", "cell line", "Ünit", "+"]
    befores = [mark.before for mark in named_marks(names)]
    assert befores == ["@cell_line1@", "@cell_line2@", "@ünit@", "@4@"]
    # A number must not make the name of another type.
    befores = [mark.before for mark in named_marks(["CD4+", "CD4-", "CD42", "CD", "cd", "CD5"])]
    assert befores == ["@cd41@", "@cd42_@", "@cd42@", "@cd4_@", "@cd5_@", "@cd5@"]


@pytest.mark.parametrize(
    ("answer", "expected", "state", "problems"),
    [
        ("IL-2 causes @@acute liver failure## or @@fever##", [(2, 4), (6, 6)], "faithful", {}),
        ("IL-2 causes acute liver failure or fever", [], "faithful", {}),
        (" IL - 2 causes\n@@ acute liver failure ##or@@fever##", [(2, 4), (6, 6)], "faithful", {}),
        # The last entity is opened and never closed.
        ("IL-2 causes acute liver failure or @@fever", [], "repaired", {"unclosed": 1}),
        ("IL-2 causes @@acute liver @@failure## or fever##", [(4, 4)], "repaired", {"unclosed": 1, "unopened": 1}),
        ("IL-2 causes @@## acute liver failure or fever", [], "repaired", {"empty": 1}),
        ("IL-@@2## causes acute liver failure or fever", [(0, 0)], "repaired", {"inside a word": 1}),
        ("@@IL##-@@2## causes acute liver failure or fever", [(0, 0)], "repaired", {"inside a word": 2, "overlap": 1}),
        # A word is missing, one is there twice, one is spelled otherwise.
        ("IL-2 @@acute liver failure## or @@fever##", [(2, 4), (6, 6)], "repaired", 1),
        ("IL-2 causes causes @@acute liver failure## or fever", [(2, 4)], "repaired", 1),
        ("IL-2 causes @@acute liver failures## or fever", [(2, 4)], "repaired", 1),
        ("IL-2 causes @@acute liver failure## or @@high fever##", [(2, 4)], "repaired", 2),
        # It goes on behind the sentence.
        ("IL-2 causes @@acute liver failure## or fever. @@IL-2## causes", [(2, 4)], "repaired", 2),
        # What is no copy is refused, whatever it marks.
        ("@@fever##", [], "refused", {"no copy": 1}),
        ("", [], "refused", {"no copy": 1}),
        ("There are no @@entities## in this sentence.", [], "refused", {"no copy": 1}),
    ],
)
def test_reading(answer, expected, state, problems):
    reading = read(answer, SENTENCE, ONE)
    assert [span[:2] for span in reading.spans] == expected
    assert reading.state == state
    if isinstance(problems, dict):
        assert reading.problems == problems
    else:
        assert reading.problems["words changed, left out or added"] == 1
        assert sum(reading.problems.values()) == problems


def test_an_entity_has_its_place_in_the_answer():
    answer = "IL-2 causes @@acute liver failure## or @@fever##"
    found = read(answer, SENTENCE, ONE).found
    assert [answer[item.start : item.end] for item in found] == ["@@acute liver failure##", "@@fever##"]


def test_types_are_read_by_their_marks():
    answer = "@cell_line@IL-2#cell_line# causes @disease@acute liver failure#cell_line# or @disease@fever#disease#"
    reading = read(answer, SENTENCE, TWO)
    assert spans(reading) == [(0, 0, "cell line"), (6, 6, "disease")]
    assert reading.problems == {"unclosed": 1}


def test_a_cut_answer_counts_as_far_as_it_goes():
    assert spans(read("IL-2 causes @@acute liver failure## or", SENTENCE, ONE, complete=False)) == [(2, 4, "disease")]
    refused = read("IL-2 causes @@acute", SENTENCE, ONE, complete=False)
    assert refused == Reading("refused", (), {"no copy": 1, "cut": 1})


def test_marks_that_the_text_has_itself():
    words = ("x", "##", "y", "@@", "z")
    assert read("x ## y @@ z", words, ONE) == Reading("faithful")
    assert spans(read("@@x## ## y @@ @@z##", words, ONE)) == [(0, 0, "disease"), (4, 4, "disease")]


ANY_WORD = st.one_of(
    st.sampled_from([*WORDS, "a#", "@b", "x@y.z", "\u00a0n", "(", "e\u0301"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
        lambda text: text.strip() and not set(text) & set(" \t\n\r@#")
    ),
)


@st.composite
def sentences(draw, words=ANY_WORD):
    tokens = draw(st.lists(words, min_size=1, max_size=14))
    labels = ["cell line", "disease"]
    found, at = [], 0
    while at < len(tokens):
        end = at + draw(st.integers(0, 3))
        if end < len(tokens) and draw(st.booleans()):
            found.append(Span(at, end, draw(st.sampled_from(labels))))
        at = end + 1
    return make_sentence(tokens, found)


SAFE = st.sampled_from([*WORDS, *(word for names in ENTITIES.values() for name in names for word in name.split())])


@given(sentences(SAFE), st.randoms())
def test_what_is_marked_is_read(sentence, generator):
    """Also with other white space between words and around marks."""
    for marks in (ONE, TWO, (Mark("@@", "##", "cell line"),)):
        answer = marked(sentence.words, sentence.spans, marks)
        asked = {mark.label for mark in marks}
        expected = tuple(span for span in sentence.spans if span.label in asked)
        reading = read(answer, sentence.words, marks)
        assert (reading.state, reading.spans) == ("faithful", expected)
        spaced = "".join(letter * generator.choice([1, 1, 3]) if letter == " " else letter for letter in answer)
        assert read(f" {spaced}\n", sentence.words, marks).spans == expected


PIECES = [
    "@@",
    "##",
    "@disease@",
    "#disease#",
    "@cell_line@",
    "#cell_line#",
    " ",
    "\n",
    "#",
    "@",
    *SENTENCE,
    "é",
    "\u2028",
]
ANSWERS = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PIECES), max_size=24).map("".join))


@given(ANSWERS, sentences(), st.sampled_from([ONE, TWO]), st.booleans())
def test_any_text_gives_spans_or_a_counted_refusal(answer, sentence, marks, complete):
    reading = read(answer, sentence.words, marks, complete=complete)
    make_sentence(sentence.words, reading.spans)
    assert {span.label for span in reading.spans} <= {mark.label for mark in marks}
    assert set(reading.problems) <= set(PROBLEMS)
    assert all(count > 0 for count in reading.problems.values())
    assert (reading.state == "faithful") == (not reading.problems)
    assert (reading.state == "refused") == ("no copy" in reading.problems)
    for item in reading.found:
        assert 0 <= item.start < item.end <= len(answer)


@given(sentences(), st.lists(st.tuples(st.integers(0, 200), st.sampled_from(PIECES)), max_size=4), st.booleans())
def test_any_damaged_copy_is_read(sentence, insertions, drop):
    answer = marked(sentence.words, sentence.spans, TWO)
    for at, piece in insertions:
        answer = answer[:at] + piece + answer[at + drop :]
    reading = read(answer, sentence.words, TWO)
    make_sentence(sentence.words, reading.spans)
    assert (reading.state == "faithful") == (not reading.problems)


# -- prompts ----------------------------------------------------------------------------------------------------------


def test_a_question_shows_type_marks_and_examples():
    sentence = make_sentence(SENTENCE, [Span(6, 6, "disease")])
    before, after = question(ONE, [example(sentence, ONE)])
    assert '"disease"' in before
    assert "@@ before and ## after" in before
    assert f"Input:\n{' '.join(SENTENCE)}\nOutput:\nIL-2 causes acute liver failure or @@fever##\n\n" in before
    assert before.endswith("Input:\n")
    assert after == "\nOutput:"
    many, _ = question(TWO, [])
    assert "@cell_line@ and #cell_line#: cell line" in many
    assert "Output:" not in many


def test_examples_are_drawn_alike_and_hold_entities():
    pool = Pool(generated_split(60, seed=3))
    drawn = pool.draw(5, ["disease"], "1")
    assert drawn == pool.draw(5, ["disease"], "1")
    assert drawn != pool.draw(5, ["disease"], "2")
    assert len({sentence.words for sentence in drawn}) == 5
    assert sum(any(span.label == "disease" for span in sentence.spans) for sentence in drawn) >= 3
    for number in range(60):
        without = pool.sentences[number]
        assert without.words not in {sentence.words for sentence in pool.draw(5, ["disease"], "1", without)}
    assert len(Pool(pool.sentences[:2]).draw(5, ["disease"], "1")) == 2
    assert Pool([]).draw(5, ["disease"], "1") == []


# -- votes ------------------------------------------------------------------------------------------------------------


def test_votes_are_shares_of_valid_answers():
    fever, failure = (
        read(answer, SENTENCE, ONE)
        for answer in (
            "IL-2 causes acute liver failure or @@fever##",
            "IL-2 causes @@acute liver failure## or @@fever##",
        )
    )
    found = dict(vote([fever, failure, failure, read("no copy", SENTENCE, ONE)]))
    assert found == {Span(6, 6, "disease"): 1.0, Span(2, 4, "disease"): pytest.approx(2 / 3)}
    assert vote([read("no copy", SENTENCE, ONE)] * 3) == []
    assert vote([]) == []


@given(
    st.lists(st.lists(st.sampled_from([Span(0, 1, "a"), Span(1, 1, "a"), Span(1, 1, "b")]), unique=True), max_size=5)
)
def test_a_share_is_of_all_valid_answers(answers):
    readings = [Reading("repaired", tuple(Found(span, 0, 1) for span in of)) for of in answers]
    for span, share in vote(readings):
        assert math.isclose(share * len(answers), sum(span in of for of in answers))
    assert {item.span for item in vote(readings)} == {span for of in answers for span in of}
    assert all(isinstance(item, ScoredSpan) for item in vote(readings))


# -- the model --------------------------------------------------------------------------------------------------------

TINY = {"max_sentence": 24, "max_length": 512, "adapter_lr": 2e-3}
TYPES = ("protein", "cell type", "disease")


@pytest.fixture
def made(trial):
    """A model on the tiny Llama with examples, and what made it."""

    def build(**settings):
        attempt = trial(SPEC, "causal-llama", **(TINY | settings))
        model = attempt.model()
        model.begin_training(model.encode(attempt.data.train))
        model._trains = False
        return attempt, model

    return build


def answer(model, item, number, text, sample=0, probability=0.5, complete=True):
    """Puts an answer in place of one that the tiny model would generate."""
    ids = model.chat.ids(text)
    model.generator.store.add(
        [
            {
                "key": answer_key(model.prompt(item, number), sample, model.sampling),
                "ids": [*ids, *model.chat.end_ids] if complete else ids,
                "probabilities": [probability] * (len(ids) + complete),
                "complete": complete,
                "seconds": 0.25,
            }
        ]
    )


def predict(model, item):
    return model.predict(model.collate([item]))[0]


def test_a_training_row_is_an_answered_prompt(made):
    attempt, model = made()
    item = model.encode([make_sentence(SENTENCE, [Span(6, 6, "disease"), Span(0, 0, "protein")])])[0]
    decode = model.chat.tokenizer.decode
    for number, right in enumerate(["@@IL-2## causes acute liver failure or fever", " ".join(SENTENCE),
                                    "IL-2 causes acute liver failure or @@fever##"]):  # fmt: skip
        ids, asked = model.training_row(item, number)
        assert decode(ids[asked:]) == f"{right}</s>"
        prompt = decode(ids[:asked])
        assert prompt.startswith("<|user|>\nYou find named entities.")
        assert prompt.count("Input:") == 6
        assert f'"{TYPES[number]}"' in prompt
        assert prompt.endswith(f"Input:\n{' '.join(SENTENCE)}\nOutput:</s>\n<|assistant|>\n")
        assert (ids, asked) == model.training_row(item, number)
    # What is to be answered has the same examples for all sentences.
    prompts = [decode([*model.prompt(other, 2).head]) for other in model.encode(attempt.data.test[:3])]
    assert len(set(prompts)) == 1
    assert prompts[0].count("Input:") == 4


def test_all_types_in_one_prompt(made):
    _, model = made(form="multi")
    item = model.encode([make_sentence(SENTENCE, [Span(6, 6, "disease"), Span(0, 0, "protein")])])[0]
    ids, asked = model.training_row(item, 0)
    text = "@protein@IL-2#protein# causes acute liver failure or @disease@fever#disease#"
    assert model.chat.tokenizer.decode(ids[asked:]) == f"{text}</s>"
    answer(model, item, 0, text)
    assert sorted(predict(model, item)) == [
        (Span(0, 0, "protein"), pytest.approx(0.5)), (Span(6, 6, "disease"), pytest.approx(0.5))
    ]  # fmt: skip


def test_a_sentence_of_a_mixture_is_asked_for_its_own_types_with_examples_that_have_them(made):
    attempt, model = made()
    of_one = [replace(sentence, types=("protein", "disease")) for sentence in attempt.data.train[:4]]
    of_other = [replace(sentence, types=("cell type",)) for sentence in attempt.data.train[4:8]]
    encoded = model.encode([*of_one, *of_other])
    assert [sorted(item.answers) for item in encoded] == [[0, 2]] * 4 + [[1]] * 4
    model.begin_training(encoded)
    for number, shown in ((0, of_one), (1, of_other), (2, of_one)):
        assert model._examples[number]
        assert all(item in shown for item in model._examples[number])
    one = model(model.collate(encoded[:1])).item()
    rows = [model.training_row(encoded[0], number) for number in (0, 2)]
    assert math.isfinite(one)
    assert all(asked < len(ids) for ids, asked in rows)
    (item,), mark = encoded[4:5], plain_mark("cell type")
    answer(model, item, 1, marked(item.sentence.words, [Span(0, 0, "cell type")], (mark,)))
    assert predict(model, item) == [(Span(0, 0, "cell type"), 0.5)]
    with pytest.raises(InputError, match="--form multi asks for all types in one prompt"):
        Config(DataConfig(("a", "b")), form="multi")


@pytest.mark.parametrize("loss", ["answer", "all"])
def test_loss_is_the_mean_over_what_is_learned(made, loss):
    """Against one row at a time, without padding."""
    attempt, model = made(loss=loss)
    torch.nn.init.normal_(next(p for name, p in model.named_parameters() if "lora_B" in name))
    batch = model.collate(model.encode(attempt.data.train[2:4]))
    total, count = 0.0, 0
    for item in batch.encoded:
        for number in range(3):
            ids, asked = model.training_row(item, number)
            with torch.no_grad():
                likely = model.network(torch.tensor([ids])).logits[0].log_softmax(-1)
            first = asked if loss == "answer" else 1
            total -= sum(float(likely[place - 1, ids[place]]) for place in range(first, len(ids)))
            count += len(ids) - first
    assert model(batch).item() == pytest.approx(total / count, rel=1e-4)


def test_examples_are_left_out_where_there_is_no_room(made):
    _, roomy = made()
    item = roomy.encode([make_sentence(SENTENCE, [])])[0]
    needed = len(roomy.prompt(item, 0).head) + len(roomy._tails[0]) + 24 + roomy.longest(24, 0)
    for length, shown in ((needed, 3), (needed - 1, 2)):
        _, model = made(max_length=length)
        text = model.chat.tokenizer.decode([*model.prompt(model.encode([item.sentence])[0], 0).head])
        assert text.count("Input:") == shown + 1
        ids, _ = model.training_row(item, 0)
        assert len(ids) <= model.limit


@pytest.mark.parametrize("form", ["single", "multi"])
def test_entities_beyond_the_longest_answer_are_unreachable(made, form):
    """Where every word is an entity, an answer is longer than is generated."""
    _, model = made(form=form)
    number = 2 if form == "single" else 0
    for count, lost in ((1, False), (20, True)):
        spans = [Span(index, index, "disease") for index in range(count)]
        item = model.encode([make_sentence(["fever"] * 20, spans)])[0]
        assert (len(item.answers[number]) > model.longest(len(item.ids), number)) == lost
        assert 0 <= model.unreachable(item)["no faithful copy"] <= count
        assert (model.unreachable(item)["no faithful copy"] > 0) == lost


def test_no_room_for_a_prompt_is_bad_input(made):
    with pytest.raises(InputError, match=r"--max-length: 100 tokens, but instruction, a sentence of --max-sentence 24"):
        made(max_length=100)
    # The tiny model has 512 positions.
    with pytest.raises(InputError, match=r"--max-length: 512 tokens \(the base model reads no more\), but"):
        made(max_length=4096, max_sentence=400)


def test_a_long_sentence_is_read_as_far_as_it_fits(made):
    _, model = made()
    sentence = long_sentence()
    item = model.encode([sentence])[0]
    assert 1 < item.n_words < len(sentence.words)
    assert len(item.ids) <= 24
    assert model.chat.tokenizer.decode(item.ids) == " ".join(sentence.words[: item.n_words])
    assert model.unreachable(item) == {"truncation": 1, "no faithful copy": 0}
    assert model.oracle(item) == [sentence.spans[0]]
    odd = model.encode([make_sentence(["@@", "x", "y"], [Span(0, 1, "protein")])])[0]
    assert model.unreachable(odd) == {"truncation": 0, "no faithful copy": 1}
    endless = model.encode([make_sentence(["x" * 400, "y"], [Span(1, 1, "protein")])])[0]
    assert (endless.n_words, len(endless.ids)) == (1, 24)


def test_a_word_is_read_with_all_tokens_of_its_last_character(made):
    for size in range(8, 20):
        _, model = made(max_sentence=size)
        item = model.encode([make_sentence(["fever", "日本語", "was", "肝不全", "seen"], [])])[0]
        assert model.chat.tokenizer.decode(item.ids) == " ".join(item.sentence.words[: item.n_words])


def test_the_score_of_a_greedy_answer_is_its_probability(made):
    _, model = made(threshold=0.4)
    item = model.encode([make_sentence(SENTENCE, [])])[0]
    answer(model, item, 0, "@@IL-2## causes acute liver failure or fever", probability=0.75)
    answer(model, item, 1, "IL-2 causes @@acute liver failure## or fever", probability=0.5)
    answer(model, item, 2, "IL-2 causes acute liver failure or @@fever##", probability=0.4)
    assert predict(model, item) == [(Span(0, 0, "protein"), 0.75), (Span(2, 4, "cell type"), 0.5)]
    # Of two that overlap, the likelier.
    answer(model, item, 2, "IL-2 causes acute @@liver## failure or @@fever##", probability=0.625)
    assert [(entry.span[:2], entry.score) for entry in predict(model, item)] == [
        ((0, 0), 0.75),
        ((3, 3), 0.625),
        ((6, 6), 0.625),
    ]


def test_votes_decide_and_the_greedy_answer_stands_beside(made):
    _, model = made(samples=3, vote=2 / 3)
    item = model.encode([make_sentence(SENTENCE, [])])[0]
    with_fever, both, nothing = (
        "IL-2 causes acute liver failure or @@fever##",
        "IL-2 causes @@acute liver failure## or @@fever##",
        "There is none.",
    )
    for number in range(3):
        for sample, text in enumerate([both, with_fever, both, nothing] if number == 2 else [" ".join(SENTENCE)] * 4):
            answer(model, item, number, text, sample)
    model.begin_account()
    # Two valid samples: fever has both votes, failure has one.
    assert predict(model, item) == [(Span(6, 6, "disease"), 1.0)]
    account = model.account([item])
    assert [entry.span[:2] for entry in account.beside["greedy"][0]] == [(2, 4), (6, 6)]
    copies = account.report["copies"]
    assert (copies["greedy"]["answers"], copies["greedy"]["faithful"]) == (3, 1.0)
    assert (copies["samples"]["answers"], copies["samples"]["refused"]) == (9, pytest.approx(1 / 9))
    assert copies["samples"]["problems"] == {"no copy": 1}
    assert account.report["seconds"] == account.stored_seconds == 12 * 0.25
    assert account.report["tokens_per_second"] == pytest.approx(account.report["tokens"] / 3)
    assert account.report["examples"] == [3, 3, 3]
    # A share that is just reached counts.
    answer(model, item, 2, both, 3)
    assert predict(model, item) == [(Span(2, 4, "disease"), 2 / 3), (Span(6, 6, "disease"), 1.0)]
    # In training it is the greedy answer alone, all of it.
    model._trains = True
    assert [entry.span[:2] for entry in predict(model, item)] == [(2, 4), (6, 6)]


def test_a_sentence_that_is_there_twice_takes_the_time_of_one(made):
    _, model = made()
    item = model.encode([make_sentence(SENTENCE, [])])[0]
    model.begin_account()
    first, second = (model.predict(model.collate([item])) for _ in range(2))
    account = model.account([item, item])
    assert first == second
    assert account.stored_seconds == 0
    answers = list(model.generator.store._lines.values())
    assert account.report["tokens"] == sum(len(line["ids"]) for line in answers)
    assert account.report["seconds"] == pytest.approx(sum(line["seconds"] for line in answers))
    assert account.report["copies"]["greedy"]["answers"] == 2 * len(answers)


def test_a_checkpoint_keeps_its_examples(made, data):
    attempt, model = made()
    other = attempt.model()
    item = model.encode(data.test[2:3])[0]
    assert other.prompt(item, 0) != model.prompt(item, 0)
    other.restore(json.loads(json.dumps(model.kept())))
    assert [other.prompt(item, number) for number in range(3)] == [model.prompt(item, number) for number in range(3)]
    # Types are known by name, whatever the corpus's spelling; others have no examples.
    unseen = attempt.model(LabelSet(("Disease", "Species"), ("An illness.", "A kind of being."), "Other."))
    unseen.restore(model.kept())
    heads = [unseen.chat.tokenizer.decode([*unseen.prompt(item, number).head]) for number in range(2)]
    assert (heads[0].count("Input:"), heads[1].count("Input:")) == (4, 1)
    assert "@@" in heads[0].split("Input:")[2] + heads[0].split("Input:")[1] + heads[0].split("Input:")[3]
    for kept in (None, {}, [{"labels": ["disease"]}], [{"labels": ["disease"], "examples": [{"ner": []}]}]):
        with pytest.raises(InputError, match="kept examples"):
            other.restore(kept)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vote": 1.5}, "vote must be between 0 and 1"),
        ({"samples": -1}, "samples must be at least 0"),
        ({"samples": 2, "threshold": 0.5}, "with --samples it is --vote"),
        ({"adapter_lr": 0.0}, "adapter_lr must be positive"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(InputError, match=message):
        Config(DataConfig("any"), **settings)
    for name, value in (("temperature", 0.0), ("top_p", 0.0), ("top_k", -1)):
        with pytest.raises(InputError, match=f"{name} must be"):
            Options("any", **{name: value})


# -- the commands -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_mixture_is_trained_on_and_each_of_its_data_sets_tested(gliner_folder, dataset_path, output, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(dataset_path, other)
    options = ["--device", "cpu", "--precision", "fp32", "--no-progress"]
    tiny = ["--base-model", str(gliner_folder("causal-llama")), "--max-sentence", "24", "--max-length", "512"]
    sizes = ["--train-size", "3", "--validation-size", "2", "--batch-size", "3", "--epochs", "1"]
    both = ["--dataset", str(dataset_path), str(other)]
    run = train.main([*both, *tiny, *sizes, *options, "--map", "protein=gene"])
    path = nerllama_test.main([*both, "--checkpoint", str(run), *options, "--samples", "1", "--examples", "own"])
    result = read_json(path)
    assert (result["dataset"], result["mixture"]) == ("other", "tiny+other")
    assert (result["variant"]["data"], result["variant"]["shown"]) == ("tiny+other", "examples of other")
    assert result["labels"] == list(LABELS.names)
    assert result["account"]["examples"] == [3, 3, 3]


@pytest.mark.slow
def test_trained_tested_with_votes_and_on_an_unseen_corpus(gliner_folder, dataset_path, output, tmp_path, caplog):
    options = ["--device", "cpu", "--precision", "fp32", "--no-progress"]
    sizes = ["--train-size", "6", "--validation-size", "3", "--batch-size", "3", "--epochs", "1"]
    tiny = ["--base-model", str(gliner_folder("causal-llama")), "--max-sentence", "24", "--max-length", "512"]
    run = train.main(["--dataset", str(dataset_path), *tiny, *sizes, *options, "--form", "multi", "--loss", "all"])
    record = read_json(run / "run.json")
    assert record["variant"]["loss"] == "loss on all"
    assert [len(item["examples"]) for item in record["kept"]] == [3]
    assert record["history"][-1]["train_loss"] > 0

    def tested(*more):
        result = read_json(nerllama_test.main(["--checkpoint", str(run), *options, *more]))
        return result, result["variant"], result["account"]

    greedy, variant, account = tested("--dataset", str(dataset_path))
    assert variant == record["variant"]
    assert account["tokens"] > 0
    assert account["copies"]["greedy"]["answers"] == 16
    assert greedy["speed"]["peak_memory_mb"]["cpu"] > 0
    assert greedy["beside"] == {}
    # The greedy answers are there already, and the time is that of the first test.
    caplog.set_level("INFO")
    voted, variant, account = tested("--dataset", str(dataset_path), "--samples", "2", "--vote", "0.6", "--top-k", "5")
    assert "16 answers found" in caplog.text
    assert variant["answers"] == "2 samples, vote 0.6"
    assert (voted["config"]["samples"], voted["config"]["sampling"]["top_k"]) == (2, 5)
    assert account["copies"]["samples"]["answers"] == 32
    assert voted["beside"]["greedy"]["scores"]["micro"].keys() == greedy["scores"]["micro"].keys()
    assert voted["speed"]["seconds"] > account["seconds"] * 0.9

    labels = LabelSet(("Disease", "Species"), ("An illness.", "A kind of being."), "Other.")
    unseen = write_unseen(tmp_path / "unseen", labels)
    with pytest.raises(InputError, match="was trained on the types"):
        tested("--dataset", str(unseen))
    for examples, shown in (
        ("training", "examples of tiny"), ("own", "examples of unseen"), ("none", "no examples")
    ):  # fmt: skip
        result, variant, account = tested("--dataset", str(unseen), "--unseen", "--examples", examples)
        assert (variant["corpus"], variant["shown"]) == ("unseen, trained on tiny", shown)
        assert account["examples"] == [3 if examples == "own" else 0]
        assert result["labels"] == ["Disease", "Species"]
    result, variant, account = tested("--dataset", str(unseen), "--unseen", "--examples", "own", "--shots", "1")
    assert (variant["examples"], account["examples"]) == ("5 and 1 examples", [1])
    with pytest.raises(InputError, match="--shots 4: the checkpoint keeps 3 examples"):
        tested("--dataset", str(dataset_path), "--shots", "4")
    with pytest.raises(InputError, match="--vote"):
        tested("--dataset", str(dataset_path), "--samples", "2", "--threshold", "0.5")
    with pytest.raises(InputError, match="--vote, --top-p: of sampled answers"):
        tested("--dataset", str(dataset_path), "--vote", "0.9", "--top-p", "0.5")


def write_unseen(folder, labels):
    """A small data set of other types."""
    write_dataset(folder, LABELS, {"train": 8, "validation": 4, "test": 4})
    names = {"protein": "Species", "disease": "Disease"}
    for path in folder.glob("*dataset_span_*.json"):
        records = read_json(path)
        for record in records:
            record["ner"] = [[start, end, names[label]] for start, end, label in record["ner"] if label in names]
        write_json_records(path, records)
    (folder / "manifest.json").unlink()
    write_json(folder / "label2id.json", labels.label2id)
    write_json(folder / "label2desc.json", labels.label2desc)
    return folder
