"""The token family: classes and spans, what sub-words are compared with, what SP-Cross puts before the text, and
learning.
"""

import logging
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from test_losses import JNLPBA_WORDS
from tiny import (
    LABEL_WIDTH,
    LABELS,
    MAX_WIDTH,
    MAX_WORDS,
    REAL_DATA,
    RUNTIME,
    TEXT_LIMIT,
    TEXT_WIDTH,
    Trial,
    generated_split,
    needs_real_data,
    predictions,
    save_gliner,
    spans_of,
)
from transformers import ModernBertConfig

import glinerev.spec
import injection_bi.model
import injection_bi.spec
import injection_cross.model
import injection_cross.spec
import ldsa.model
import ldsa.spec
import softprompt_base.model
import softprompt_base.spec
from common.bases import load_base
from common.data.dataset import make_sentence
from common.data.labels import LabelSet
from common.data.spans import Span
from common.device import make_accelerator
from common.errors import InputError
from common.evaluation.metrics import count_spans, span_scores
from common.evaluation.predict_split import unreachable_gold
from common.models.features import FeatureCache
from common.models.losses import IGNORED, class_balanced_weights
from common.models.prompts import PromptConfig
from common.models.token_model import FocalConfig, TokenConfig, cosine_logits, first_subwords, word_spans
from dataset_generation.sources import BENCHMARKS, read_local

LDSA, SP_BASE = ldsa.spec.SPEC, softprompt_base.spec.SPEC
SP_BI, SP_CROSS = injection_bi.spec.SPEC, injection_cross.spec.SPEC
N_TYPES = len(LABELS)
OUTSIDE_ID = LABELS.outside_id
BIO = {"token": TokenConfig(scheme="bio")}
PROMPTS = {"prompts": PromptConfig("conv1d", 4)}
ZERO_WIDTH = "\u200b"
"""A word of which the tiny BERT tokenizer makes no sub-word."""

CROSS = {
    f"{level} {backbone}": (f"cross-{backbone}", {"level": level, **PROMPTS})
    for level in ("token", "span")
    for backbone in ("bert", "deberta")
}


@pytest.fixture(params=CROSS)
def cross(request, trial):
    """SP-Cross at each level on each backbone, untrained, with prompts as far from the words as training may take
    them.
    """
    base, options = CROSS[request.param]
    return stirred(trial(SP_CROSS, base, **options).model())


@pytest.fixture(params=["io", "bio"])
def tagger(request, trial):
    """LDSA in both schemes, untrained."""
    return trial(LDSA, "bi-bert", token=TokenConfig(scheme=request.param)).model()


def stirred(model):
    """The model with noise on what starts at a neutral value."""
    torch.manual_seed(3)
    torch.nn.init.normal_(model.comparison.prompts.encoder.mlp[3].weight, std=0.3)
    return model.eval()


def batch_of(model, *sentences):
    """The batch of sentences given as (words, spans) or as words."""
    made = [make_sentence(*(s if isinstance(s, tuple) else (s.split(), []))) for s in sentences]
    return model.collate(model.encode(made))


@pytest.fixture(scope="module")
def mixed():
    """Sentences of all the kinds that ``generated_split`` makes."""
    return generated_split(40, seed=5)


# -- classes of words -> spans ----------------------------------------------------------------------------------------


def spans_by_a_loop(rows: list[list[int]], n_types: int) -> list[list[int]]:
    """``word_spans`` word by word."""
    spans = []
    for number, row in enumerate(rows):
        opened = None
        for word, of_word in enumerate([*row, n_types]):
            begins, of_type = of_word > n_types, of_word - n_types - 1 if of_word > n_types else of_word
            if opened and (of_type != opened[1] or begins):
                spans.append([number, opened[0], word - 1, opened[1]])
                opened = None
            if of_type < n_types and not opened:
                opened = (word, of_type)
    return spans


@given(st.data(), st.integers(1, 4), st.sampled_from(["io", "bio"]), st.integers(1, 4), st.integers(1, 9))
def test_word_spans_are_those_of_a_loop(data, n_types, scheme, n_rows, n_words):
    of_word = st.integers(0, n_types if scheme == "io" else 2 * n_types)
    rows = [data.draw(st.lists(of_word, min_size=n_words, max_size=n_words)) for _ in range(n_rows)]
    assert word_spans(torch.tensor(rows), n_types).tolist() == spans_by_a_loop(rows, n_types)


def test_word_spans_by_hand():
    # Two types: A 0, B 1, O 2, begin A 3, begin B 4.
    rows = torch.tensor([[0, 0, 1, 2, 0, 2], [3, 0, 3, 4, 1, 0], [2, 2, 2, 2, 2, 2]])
    assert word_spans(rows, 2).tolist() == [
        [0, 0, 1, 0], [0, 2, 2, 1], [0, 4, 4, 0],
        [1, 0, 1, 0], [1, 2, 2, 0], [1, 3, 4, 1], [1, 5, 5, 0],
    ]  # fmt: skip


@pytest.mark.parametrize(("scheme", "found"), [("io", [(0, 1), (3, 3)]), ("bio", [(0, 0), (1, 1), (3, 3)])])
def test_only_bio_parts_touching_entities(trial, scheme, found):
    model = trial(LDSA, "bi-bert", token=TokenConfig(scheme=scheme)).model()
    gold = [Span(0, 0, "protein"), Span(1, 1, "protein"), Span(3, 3, "protein")]
    (encoded,) = model.encode([make_sentence(["IL-2", "p53/mdm2", "binds", "IL-2"], gold)])
    assert [span[:2] for span in model.oracle(encoded)] == found
    assert model.unreachable(encoded) == {"truncation": 0, "touching": 2 * (scheme == "io"), "no sub-word": 0}


# -- targets and decoding ---------------------------------------------------------------------------------------------


def test_targets_are_the_words_classes(tagger, mixed):
    several = 0
    for item in tagger.encode(mixed):
        assert len(item.targets) == len(item.input_ids) == len(item.word_index)
        classes = LABELS.word_classes(item.sentence.spans, len(item.sentence.words))
        begins = {span.start for span in item.sentence.spans}
        seen = set()
        for word, target in zip(item.word_index.tolist(), item.targets.tolist(), strict=True):
            if word == 0:
                assert target == IGNORED
                continue
            begin = tagger.scheme == "bio" and word - 1 in begins and word not in seen
            several += word in seen and word - 1 in begins
            seen.add(word)
            assert target == classes[word - 1] + (N_TYPES + 1 if begin else 0)
        assert item.targets[0] == item.targets[-1] == IGNORED
    # First words of entities had further sub-words, which are no begins.
    assert several > 20


def test_targets_by_hand(tagger):
    sentence = make_sentence(["the", "over-expressed", "IL-2", "fever"], [Span(1, 2, "protein"), Span(3, 3, "disease")])
    (item,) = tagger.encode([sentence])
    first = first_subwords(item.word_index[None])[0]
    assert first.sum() == 4
    assert (~first[1:-1]).any()
    begin = N_TYPES + 1 if tagger.scheme == "bio" else 0
    assert item.targets[first].tolist() == [OUTSIDE_ID, begin + 0, 0, begin + 2]
    further = (item.word_index == 2) & ~first
    assert set(item.targets[further].tolist()) == {0}


def with_classes(model, monkeypatch, seed: int = 0):
    """Makes a model answer its own targets on the first sub-word of each word, and at random elsewhere."""

    def logits(batch):
        generator = torch.Generator().manual_seed(seed)
        first = first_subwords(batch.inputs["words_mask"])
        classes = torch.randint(len(model.loss.names), first.shape, generator=generator)
        return 20.0 * F.one_hot(torch.where(first, batch.targets, classes), len(model.loss.names))

    monkeypatch.setattr(model, "logits", logits)


@pytest.mark.parametrize("size", [1, 7])
def test_right_classes_decode_to_the_oracle(tagger, mixed, monkeypatch, size):
    """Words have the class of their first sub-word; what further sub-words, special tokens and padding say is not
    read.
    """
    with_classes(tagger, monkeypatch)
    found = spans_of(predictions(tagger, mixed, size=size))
    assert found == [tagger.oracle(item) for item in tagger.encode(mixed)]
    assert sum(map(len, found)) > 40
    if tagger.scheme == "bio":
        assert found == [[s for s in sentence.spans if s.end < MAX_WORDS] for sentence in mixed]


def test_a_word_without_sub_words_shifts_no_other(tagger, monkeypatch):
    words = ["the", ZERO_WIDTH, "IL-2", ZERO_WIDTH, "over-expressed", "fever", ZERO_WIDTH]
    gold = [Span(2, 2, "protein"), Span(4, 5, "disease"), Span(6, 6, "protein")]
    (item,) = tagger.encode([make_sentence(words, gold)])
    assert set(item.word_index.tolist()) == {0, 1, 3, 5, 6}
    assert item.n_words == len(words)
    with_classes(tagger, monkeypatch)
    batch = tagger.collate(tagger.encode([make_sentence(words, gold), make_sentence(["the"] * 9, [])]))
    assert spans_of(tagger.predict(batch)) == [gold[:2], []]
    assert tagger.unreachable(item) == {"truncation": 0, "touching": 0, "no sub-word": 1}


def test_a_touching_entity_on_a_word_without_sub_words_is_lost_for_that(tagger):
    gold = [Span(0, 0, "protein"), Span(1, 1, "protein")]
    (item,) = tagger.encode([make_sentence([ZERO_WIDTH, "IL-2", "binds"], gold)])
    assert tagger.oracle(item) == gold[1:]
    assert tagger.unreachable(item) == {"truncation": 0, "touching": 0, "no sub-word": 1}


def test_a_score_is_the_mean_probability_of_the_type(tagger, monkeypatch):
    """Over words, not sub-words; in BIO a word is of its type whether it begins it or goes on."""
    sentence = make_sentence(["over-expressed", "IL-2", "binds"], [Span(0, 1, "protein")])
    batch = tagger.collate(tagger.encode([sentence]))
    logits = torch.randn(*batch.targets.shape, len(tagger.loss.names), generator=torch.Generator().manual_seed(0))
    first = first_subwords(batch.inputs["words_mask"])
    chosen = torch.where(first, batch.targets, 1)
    logits += 6 * F.one_hot(chosen, len(tagger.loss.names))
    monkeypatch.setattr(tagger, "logits", lambda _: logits)
    ((found,),) = tagger.predict(batch)
    probabilities = logits.softmax(-1)[first]
    of_type = probabilities[:, 0] + (probabilities[:, N_TYPES + 1] if tagger.scheme == "bio" else 0)
    assert found.span == sentence.spans[0]
    assert found.score == pytest.approx(of_type[:2].mean().item(), rel=1e-6)


@pytest.mark.parametrize("name", ["LDSA", "SP-Cross"])
def test_a_cut_sentence_keeps_ids_classes_and_words_together(trial, name):
    """Cut by sub-words: the closing special token stays, and gold behind the cut stays gold."""
    options = PROMPTS | {"token": TokenConfig(scheme="bio")}
    made = trial(LDSA, "bi-bert", **BIO) if name == "LDSA" else trial(SP_CROSS, "cross-bert", **options)
    model = made.model()
    limit = TEXT_LIMIT if name == "LDSA" else TEXT_LIMIT - 4 * 4 - 1
    words = ["over-expressed"] * 36
    gold = [Span(number, number, "protein") for number in range(0, 36, 2)]
    (item,) = model.encode([make_sentence(words, gold)])
    assert len(item.input_ids) == len(item.targets) == len(item.word_index) == limit
    assert item.input_ids[-1] == model._tokenizer.sep_token_id
    assert item.n_words == item.word_index.max() < 36
    lost = [span for span in gold if span.end >= item.n_words]
    assert model.unreachable(item) == {"truncation": len(lost), "touching": 0, "no sub-word": 0}
    assert model.oracle(item) == gold[: -len(lost)]
    report = unreachable_gold(model, [item])
    recall = 1 - len(lost) / len(gold)
    assert report["ceiling"]["micro_f1"] == pytest.approx(2 * recall / (1 + recall))
    # The whole input is as long as the backbone's positions allow.
    with torch.no_grad():
        assert model.logits(model.collate([item])).shape == (1, limit, 2 * N_TYPES + 1)


# -- ceilings of the benchmarks ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_reader(gliner_folder):
    """A model that cuts nothing; the tiny tokenizer reads most words as unknown, which is one sub-word."""

    def make(labels: LabelSet, scheme: str):
        base = load_base(str(gliner_folder("bi-bert", max_len=10_000)), "bi")
        base.gliner.data_processor.transformer_tokenizer.model_max_length = 10**6
        config = LDSA.config(data=None, token=TokenConfig(scheme=scheme))
        return LDSA.build(config, base, labels)

    return make


@needs_real_data
@pytest.mark.parametrize(
    ("corpus", "micro", "per_type"),
    [
        (
            "jnlpba",
            "0.9856",
            {"protein": "0.9788", "cell type": "0.9992", "dna": "0.9915", "cell line": "0.9849", "rna": "1.0000"},
        ),
        ("bc5cdr", "0.9942", {}),
    ],
)
def test_ceilings_of_the_benchmarks(whole_reader, corpus, micro, per_type):
    """IO loses what was worked out for the public repository, BIO nothing."""
    types = BENCHMARKS[corpus].types
    source = read_local(REAL_DATA / corpus, known_types=types)
    labels = LabelSet(types, types, "other")
    sentences = source.splits["test"]
    gold = [sentence.spans for sentence in sentences]
    encoded = whole_reader(labels, "io").encode(sentences)
    for scheme in ("io", "bio"):
        model = whole_reader(labels, scheme)
        items = encoded if scheme == "io" else [replace(item, targets=model._targets(item)) for item in encoded]
        report = unreachable_gold(model, items)
        if scheme == "bio":
            assert (report["lost"], report["ceiling"]) == (0, {"micro_f1": 1.0, "macro_f1": 1.0})
            continue
        assert f"{report['ceiling']['micro_f1']:.4f}" == micro
        assert report["by_reason"] == {"truncation": 0, "touching": report["lost"], "no sub-word": 0}
        if per_type:
            assert report["lost"] == 166
            scores = span_scores(count_spans(gold, [model.oracle(item) for item in items], types))
            assert {name: f"{scores.per_type[name].f1:.4f}" for name in types} == per_type
    if corpus == "jnlpba":
        words: Counter[str] = Counter()
        for sentence in source.splits["train"]:
            words["O"] += len(sentence.words)
            for start, end, label in sentence.spans:
                words[label] += end - start + 1
                words["O"] -= end - start + 1
        assert words == JNLPBA_WORDS


# -- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_sentence", [False, True])
def test_logits_are_cosines_over_temperature(per_sentence):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, 7, 6, generator=generator)
    classes = torch.randn(*([3] if per_sentence else []), 4, 6, generator=generator)
    logits = cosine_logits(vectors, classes, 0.05)
    expected = F.cosine_similarity(vectors[:, :, None], classes[:, None] if per_sentence else classes, dim=-1) / 0.05
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        under = cosine_logits(vectors, classes, 0.05)
    assert under.dtype == torch.float32
    assert torch.equal(under, logits)


def test_half_precision_vectors_are_compared_in_float32():
    vectors, classes = torch.randn(2, 5, 6), torch.randn(4, 6)
    rounded = cosine_logits(vectors.bfloat16(), classes.bfloat16(), 0.1)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, cosine_logits(vectors.bfloat16().float(), classes.bfloat16().float(), 0.1))


@pytest.mark.parametrize("name", ["LDSA", "SP-Cross token", "SP-Cross span"])
def test_scores_under_autocast_are_float32(trial, data, name):
    made = trial(LDSA, "bi-bert") if name == "LDSA" else trial(SP_CROSS, "cross-bert", level=name.split()[1], **PROMPTS)
    model = made.model().eval()
    batch = model.collate(model.encode(data.test[3:7]))
    with torch.no_grad():
        exact = model.logits(batch)
        with torch.autocast("cpu", torch.bfloat16):
            model.eval()
            half = model.logits(batch)
            assert model(batch).dtype == torch.float32
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, rtol=0, atol=0.5)


def test_the_temperature_is_part_of_the_model(trial, data):
    cold, one = (trial(LDSA, "bi-bert", token=TokenConfig(temperature=value)).model() for value in (0.02, 1.0))
    batch = cold.collate(cold.encode(data.test[:6]))
    with torch.no_grad():
        torch.testing.assert_close(cold.logits(batch) * 0.02, one.logits(batch))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none(temperature):
    with pytest.raises(InputError, match=f"temperature must be positive, got {temperature}"):
        TokenConfig(temperature=temperature)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": -1.0}, "gamma must be at least 0, got -1.0"),
        ({"gamma": float("nan")}, "gamma must be at least 0, got nan"),
        ({"beta": 1.0}, "beta must be at least 0 and less than 1, got 1.0"),
    ],
)
def test_focal_settings_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        FocalConfig(**settings)


def test_bio_begins_start_as_their_types_and_learn(trial, data):
    made = trial(LDSA, "bi-bert", **BIO, learning_rate=1e-3)
    model = made.model()
    assert not model.begin_offset.any()
    batch = model.collate(model.encode(data.test[:6]))
    with torch.no_grad():
        logits = model.logits(batch)
    assert logits.shape[-1] == 2 * N_TYPES + 1
    torch.testing.assert_close(logits[..., N_TYPES + 1 :], logits[..., :N_TYPES], rtol=1e-5, atol=1e-5)
    model, _ = made.train()
    assert model.begin_offset.abs().max() > 1e-4
    # It is one vector for all types: a begin class is its type's unit vector plus the offset.
    with torch.no_grad():
        vectors, classes = model.comparison(batch)
        begins = F.normalize(classes, dim=-1)[:N_TYPES] + model.begin_offset
        expected = F.cosine_similarity(vectors[:, :, None], begins, dim=-1) / model.temperature
        torch.testing.assert_close(model.logits(batch)[..., N_TYPES + 1 :], expected, rtol=1e-4, atol=1e-4)


def test_io_has_no_begin_offset(trial):
    model = trial(LDSA, "bi-bert").model()
    assert model.begin_offset is None
    assert not [name for name, _ in model.named_parameters() if "begin" in name]


# -- loss and class weights -------------------------------------------------------------------------------------------

WEIGHED = {
    "LDSA": (LDSA, "bi-bert", {}, "inverse"),
    "SP-Base v1": (SP_BASE, "bi-bert", {"variant": "v1"}, "inverse"),
    "SP-Base focal": (SP_BASE, "bi-bert", {"variant": "focal"}, "inverse"),
    "SP-Base focal_cb": (SP_BASE, "bi-bert", {"variant": "focal_cb", "focal": FocalConfig(2.0, 0.99)}, 0.99),
    "SP-Bi": (SP_BI, "bi-bert", {**PROMPTS, "focal": FocalConfig(2.0, 0.9)}, 0.9),
    "SP-Cross": (SP_CROSS, "cross-bert", {**PROMPTS, "focal": FocalConfig(1.0, 0.999)}, 0.999),
}


@pytest.mark.parametrize("name", WEIGHED)
def test_class_weights_come_from_the_training_sentences_alone_and_are_logged(trial, caplog, name):
    spec, base, options, kind = WEIGHED[name]
    made = trial(spec, base, train={"epochs": 1}, **options)
    caplog.set_level(logging.INFO)
    only_fever = [make_sentence(["fever", "fever"], [Span(0, 1, "disease")])] * 16
    weights = []
    for validation in (made.data.validation, only_fever):
        model, _ = made.but(data=replace(made.data, validation=validation)).train()
        weights.append(model.loss.weights)
    assert torch.equal(*weights)

    counts: Counter[int] = Counter()
    for item in model.encode(made.data.train):
        words = LABELS.word_classes(item.sentence.spans, len(item.sentence.words))
        counts.update(words[word - 1] for word in item.word_index.tolist() if word)
    ordered = [counts[number] for number in range(N_TYPES + 1)]
    if kind == "inverse":
        targets = torch.arange(N_TYPES + 1).repeat_interleave(torch.tensor(ordered)).numpy()
        expected = compute_class_weight("balanced", classes=np.arange(N_TYPES + 1), y=targets).tolist()
    else:
        expected = class_balanced_weights(torch.tensor(ordered), kind).tolist()
    assert weights[0].tolist() == pytest.approx(expected, rel=1e-5)
    logged = ", ".join(
        f"{label} {weight:.3f} ({n:,})"
        for label, weight, n in zip([*LABELS.names, "O"], expected, ordered, strict=True)
    )
    assert f"class weights: {logged}" in caplog.messages
    # They follow from the data and are no part of a checkpoint.
    assert not [key for key in model.state_dict() if "weights" in key]


def test_bio_weighs_begins_by_themselves(trial, data, caplog):
    caplog.set_level(logging.INFO)
    model = trial(SP_BASE, "bi-bert", variant="v1", **BIO).model()
    encoded = model.encode(data.train)
    model.begin_training(encoded)
    counts = torch.bincount(torch.cat([item.targets[item.targets >= 0] for item in encoded]), minlength=2 * N_TYPES + 1)
    spans = Counter(span.label for item in encoded for span in item.sentence.spans if span.end < item.n_words)
    assert counts[N_TYPES + 1 :].tolist() == [spans[name] for name in LABELS.names]
    assert model.loss.weights.tolist() == pytest.approx((counts.sum() / (len(counts) * counts)).tolist())
    (message,) = [message for message in caplog.messages if message.startswith("class weights: ")]
    assert f"begin disease {model.loss.weights[-1]:.3f} ({spans['disease']:,})" in message


def losses_of(model, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the targets that count, and the targets."""
    with torch.no_grad():
        logits = model.logits(batch)
    labelled = batch.targets != IGNORED
    targets = batch.targets[labelled]
    return logits[labelled].log_softmax(-1).gather(1, targets[:, None])[:, 0], targets


@pytest.mark.parametrize("name", WEIGHED)
def test_the_loss_is_the_documented_one_over_all_sub_words(trial, data, name):
    spec, base, options, _ = WEIGHED[name]
    model = trial(spec, base, **options).model()
    model.begin_training(model.encode(data.train))
    batch = model.collate(model.encode(data.test[:9]))
    log_p, targets = losses_of(model, batch)
    assert len(targets) == sum(int((item.word_index > 0).sum()) for item in batch.encoded)
    weights = model.loss.weights[targets]
    gamma = {"LDSA": None, "SP-Base v1": None}.get(name, options.get("focal", FocalConfig()).gamma)
    if gamma is None:
        expected = -(weights * log_p).sum() / weights.sum()
    else:
        expected = -(weights * (1 - log_p.exp()) ** gamma * log_p).mean()
    with torch.no_grad():
        assert model(batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert len(set(weights.tolist())) == N_TYPES + 1


# -- class vectors of the bi-encoders ---------------------------------------------------------------------------------


def test_descriptions_are_means_over_their_own_sub_words(trial):
    model = trial(LDSA, "bi-bert").model()
    tokenizer = model.base.gliner.data_processor.labels_tokenizer
    encoder = model.base.part("label encoder").model
    with torch.no_grad():
        found = model.comparison.labels()
        for vector, text in zip(found, LABELS.label2desc.values(), strict=True):
            alone = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
            torch.testing.assert_close(vector, alone, rtol=1e-4, atol=1e-5)
    assert found.shape == (N_TYPES + 1, LABEL_WIDTH)


def test_sp_base_starts_where_ldsa_does(trial, data):
    table, described = (trial(spec, "bi-bert", token=TokenConfig(0.1)).model() for spec in (SP_BASE, LDSA))
    batch = described.collate(described.encode(data.test[:6]))
    with torch.no_grad():
        torch.testing.assert_close(table.comparison.labels.table.weight, described.comparison.labels())
        torch.testing.assert_close(table.logits(batch), described.logits(batch))
    # From there on the table is its own: the label encoder is not asked again.
    with torch.no_grad():
        for parameter in table.base.part("label encoder").parameters():
            parameter.zero_()
        table.eval()
        torch.testing.assert_close(table.logits(batch), described.logits(batch))


def test_sp_bi_is_the_label_encoders_reading_of_prompts(trial):
    """``[CLS] prompts [SEP]`` as word embeddings, the mean over all positions."""
    model = trial(SP_BI, "bi-bert", **PROMPTS).model()
    encoder = model.base.part("label encoder").model
    words, tokenizer = encoder.get_input_embeddings().weight, model.base.gliner.data_processor.labels_tokenizer
    with torch.no_grad():
        prompts = model.comparison.labels.prompts(encoder.get_input_embeddings())
        for vector, own in zip(model.comparison.labels(), prompts, strict=True):
            inputs = torch.cat([words[tokenizer.cls_token_id][None], own, words[tokenizer.sep_token_id][None]])
            expected = encoder(inputs_embeds=inputs[None]).last_hidden_state[0].mean(dim=0)
            torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-5)


BI = {"LDSA": (LDSA, {}), "SP-Base": (SP_BASE, {}), "SP-Bi": (SP_BI, PROMPTS)}


@pytest.mark.parametrize("name", BI)
def test_where_widths_agree_the_projection_starts_as_the_identity_and_is_trained(trial, name):
    spec, options = BI[name]
    made = trial(spec, "bi-bert", base_settings={"hidden_size": LABEL_WIDTH}, train={"epochs": 1}, **options)
    assert not made.base().has("label projection")
    model = made.model()
    with torch.no_grad():
        assert torch.equal(model.comparison._classes(), model.comparison.labels())
    size = LABEL_WIDTH * (LABEL_WIDTH + 1)
    path = "core.token_rep_layer.labels_projection"
    assert sum(p.numel() for n, p in model.named_parameters() if n.startswith(path)) == size
    trained, run = made.train()
    projection = trained.base.part("label projection")
    assert not torch.equal(projection.weight, torch.eye(LABEL_WIDTH))
    assert projection.bias.any()
    plain = sum(p.numel() for p in made.base().core.parameters())
    own = sum(p.numel() for n, p in trained.named_parameters() if n.startswith("comparison"))
    assert run.record["parameters"]["total"] == plain + size + own
    encoder = sum(p.numel() for p in trained.base.part("label encoder").parameters()) if name == "LDSA" else 0
    assert run.record["parameters"]["trainable"] == size + own + encoder
    # And a checkpoint brings it back.
    assert predictions(made.load(run), made.data.test) == predictions(trained, made.data.test)


def test_class_vectors_are_computed_once_an_evaluation(trial, data, monkeypatch):
    model = trial(LDSA, "bi-bert").model()
    calls = []
    label_vectors = model.comparison.labels.forward
    monkeypatch.setattr(model.comparison.labels, "forward", lambda: calls.append(1) or label_vectors())
    before = predictions(model, data.test, size=2)
    assert len(calls) == 1
    with torch.no_grad():
        model.base.part("label projection").weight.neg_()
    # A change shows after the next train() or eval().
    assert predictions(model, data.test, size=2) != before
    assert len(calls) == 2
    model.train()
    for _ in range(2):
        model(model.collate(model.encode(data.test[:2]))).backward()
    assert len(calls) == 4


@pytest.mark.parametrize("spec", [LDSA, SP_BASE, SP_BI, glinerev.spec.SPEC], ids=lambda spec: spec.title)
def test_a_base_without_a_label_encoder(trial, gliner_folder, data, spec):
    made = trial(spec, "bi-bert")
    with pytest.raises(InputError, match=r"\(UniEncoderSpanGLiNER\) has no label encoder"):
        spec.build(made.config, load_base(str(gliner_folder("cross-bert")), "cross"), data.labels)


@pytest.mark.parametrize(
    ("precision", "dtype", "tolerance"), [("fp32", torch.float32, 1e-5), ("bf16", torch.float16, 0.03)]
)
def test_stored_features_give_the_same_logits(trial, data, precision, dtype, tolerance):
    model, _ = trial(LDSA, "bi-bert", train={"epochs": 4}).train()
    model.eval()
    runtime = replace(RUNTIME, precision=precision)
    accelerator = make_accelerator(runtime)
    without = FeatureCache(replace(runtime, feature_cache="off")).encode(model, data.test, accelerator, "test")
    stored = FeatureCache(runtime).encode(model, data.test, accelerator, "test")
    assert without.store is None
    assert stored.store.rows.dtype == dtype
    assert stored.store.rows.shape == (
        sum(map(len, (e.input_ids for e in stored.encoded))),
        model.base.config.hidden_size,
    )
    with torch.no_grad(), accelerator.autocast():
        found, expected = (model.logits(split.batch(model, [5, 0, 9])) for split in (stored, without))
    real = without.batch(model, [5, 0, 9]).inputs["attention_mask"].bool()
    largest = expected[real].abs().max().item()
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=tolerance * largest)


def test_stored_features_skip_the_text_encoder(trial, data, monkeypatch):
    model = trial(LDSA, "bi-deberta").model()
    split = FeatureCache(RUNTIME).encode(model, data.test[:4], make_accelerator(RUNTIME), "test")

    def fail(*_args, **_kwargs):
        raise AssertionError("the text encoder was called")

    monkeypatch.setattr(model.core.token_rep_layer, "encode_text", fail)
    assert model(split.batch(model, [2, 0])).isfinite()


def test_sp_cross_stores_nothing(cross, data):
    """Its text is read together with prompts that change."""
    assert FeatureCache(RUNTIME).encode(cross, data.test[:4], make_accelerator(RUNTIME), "test").store is None


# -- what SP-Cross reads ----------------------------------------------------------------------------------------------


def encoder_calls(model, batch) -> dict[str, torch.Tensor]:
    """What the text encoder was given for a batch."""
    calls = []
    handle = model.base.part("text encoder").model.register_forward_pre_hook(
        lambda _module, _args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        model.logits(batch)
    handle.remove()
    (call,) = calls
    return call


def test_prompts_stand_before_the_text_and_its_end_right_behind_it(cross):
    """``[CLS] prompts [SEP] text [SEP] padding``, for each sentence of a batch, in training and elsewhere."""
    batch = batch_of(cross, "IL-2 binds over-expressed cells", "the fever", "was")
    words = cross.base.part("text encoder").model.get_input_embeddings().weight
    tokenizer = cross._tokenizer
    for mode in (True, False):
        cross.train(mode)
        call = encoder_calls(cross, batch)
        assert set(call) == {"inputs_embeds", "attention_mask"}
        inputs, mask = call["inputs_embeds"], call["attention_mask"]
        n_prompts = 4 * 4
        assert inputs.shape[:2] == mask.shape == (3, n_prompts + 1 + batch.inputs["input_ids"].shape[1])
        for row, own_mask, item in zip(inputs, mask, batch.encoded, strict=True):
            n = len(item.input_ids)
            assert own_mask.tolist() == [1] * (n_prompts + 1 + n) + [0] * (len(row) - n_prompts - 1 - n)
            assert torch.equal(row[0], words[tokenizer.cls_token_id])
            assert torch.equal(row[1 + n_prompts], words[tokenizer.sep_token_id])
            # The text with the [SEP] at its own end.
            assert item.input_ids[-1] == tokenizer.sep_token_id
            assert torch.equal(row[2 + n_prompts : 1 + n_prompts + n], words[item.input_ids[1:].long()])
    with torch.no_grad():
        expected = cross.comparison.prompts(cross.base.part("text encoder").model.get_input_embeddings())
    torch.testing.assert_close(inputs[:, 1 : 1 + n_prompts].unflatten(1, (4, 4)), expected.expand(3, -1, -1, -1))


def test_outputs_are_those_of_their_sub_words_and_prompts(cross, monkeypatch):
    """With a backbone that changes nothing, what comes out is what went in at each place."""
    batch = batch_of(cross, "IL-2 binds over-expressed cells", "the fever", "was")
    encoder = cross.base.part("text encoder").model
    words = encoder.get_input_embeddings()
    monkeypatch.setattr(
        encoder, "forward", lambda inputs_embeds, attention_mask: SimpleNamespace(last_hidden_state=inputs_embeds)
    )
    with torch.no_grad():
        subwords, classes = cross.comparison(batch)
        prompts = cross.comparison.prompts(words)
    assert torch.equal(subwords, words.weight[batch.inputs["input_ids"]])
    torch.testing.assert_close(classes, prompts.mean(dim=1).expand(3, -1, -1))


def test_label_vectors_are_the_sentences_own(trial):
    """Prompts are read together with the text, so that each sentence has its own class vectors."""
    model = stirred(trial(SP_CROSS, "cross-bert", **PROMPTS).model())
    batch = batch_of(model, "IL-2 binds", "the fever")
    with torch.no_grad():
        _, classes = model.comparison(batch)
    assert classes.shape == (2, N_TYPES + 1, TEXT_WIDTH)
    assert not torch.allclose(classes[0], classes[1], atol=1e-3)


@pytest.mark.parametrize("backbone", ["bert", "deberta"])
def test_a_descriptions_change_changes_its_own_class_most(trial, data, backbone):
    made = trial(SP_CROSS, f"cross-{backbone}", **PROMPTS)
    changed = replace(LABELS, descriptions=(*LABELS.descriptions[:2], "severe acute respiratory distress of patients"))
    first, second = made.model(), made.model(changed)
    sentence = "IL-2 binds over-expressed cells"
    with torch.no_grad():
        moved = (
            1
            - F.cosine_similarity(
                first.comparison(batch_of(first, sentence))[1], second.comparison(batch_of(second, sentence))[1], dim=-1
            )[0]
        )
    assert moved.argmax() == 2


# -- span level -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["cross-bert", "cross-deberta"])
def span_level(request, trial):
    return stirred(trial(SP_CROSS, request.param, level="span", **PROMPTS, focal=FocalConfig(2.0, 0.9)).model())


def test_span_scores_are_those_of_a_loop(span_level):
    """Each sub-word counts alike, however long its vector is."""
    for module in span_level.base.part("text encoder").modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.uniform_(module.weight, 0.1, 3)
    sentences = [
        (["IL-2", "binds", "over-expressed", "NF-kappa", "B", "."], []),
        (["the", ZERO_WIDTH, "fever", "was"], []),
        (["Sjögren's"], []),
    ]
    batch = batch_of(span_level, *sentences)
    with torch.no_grad():
        logits = span_level.logits(batch)
        subwords, classes = span_level.comparison(batch)
    lengths = subwords[0].norm(dim=-1)
    assert lengths.max() > 1.2 * lengths.min()
    assert logits.shape == (3, 6, MAX_WIDTH, N_TYPES + 1)
    compared = 0
    for row, item in enumerate(batch.encoded):
        for start in range(item.n_words):
            for width in range(min(MAX_WIDTH, item.n_words - start)):
                rows = [
                    F.normalize(subwords[row, place], dim=0)
                    for place, word in enumerate(item.word_index.tolist())
                    if start < word <= start + width + 1
                ]
                if not rows:
                    continue
                vector = torch.stack(rows).mean(dim=0)
                expected = F.cosine_similarity(vector[None], classes[row], dim=-1) / span_level.temperature
                torch.testing.assert_close(logits[row, start, width], expected, rtol=1e-4, atol=1e-4)
                compared += 1
    assert compared > 20


def spans_inside(n_words: int) -> int:
    return sum(max(0, n_words - width) for width in range(MAX_WIDTH))


def test_every_span_of_a_sentence_is_an_example_and_padding_is_none(span_level, data, monkeypatch):
    """All spans inside the sentence that are no entity are ``O``, in training as in evaluation."""
    encoded = span_level.encode([*data.train[:6], make_sentence(["the"], [])])
    reachable = [
        [s for s in item.sentence.spans if s.end < item.n_words and s.end - s.start < MAX_WIDTH] for item in encoded
    ]
    seen = []
    loss = span_level.loss
    monkeypatch.setattr(
        loss, "forward", lambda logits, targets: seen.append(targets) or loss.loss(logits, targets, loss.weights)
    )
    for mode in (True, False):
        span_level.train(mode)
        span_level(span_level.collate(encoded))
    for targets in seen:
        assert len(targets) == sum(spans_inside(item.n_words) for item in encoded)
        counted = Counter(targets.tolist())
        assert sum(n for of_type, n in counted.items() if of_type != OUTSIDE_ID) == sum(map(len, reachable))
        for number, name in enumerate(LABELS.names):
            assert counted[number] == sum(span.label == name for spans in reachable for span in spans)
    # A batch's loss is the mean over its spans, however they are padded.
    with torch.no_grad():
        alone = [(spans_inside(item.n_words), span_level(span_level.collate([item])).item()) for item in encoded]
        together = span_level(span_level.collate(encoded)).item()
    assert together == pytest.approx(sum(n * value for n, value in alone) / sum(n for n, _ in alone), rel=1e-4)


def test_gold_spans_have_their_class_at_their_place(span_level, monkeypatch):
    sentence = (["the", "NF-kappa", "B", "fever", "."], [Span(1, 2, "protein"), Span(3, 3, "disease")])
    batch = batch_of(span_level, sentence)
    logits = torch.zeros(1, 5, MAX_WIDTH, N_TYPES + 1)
    logits[..., OUTSIDE_ID] = 30
    for start, width, of_type in ((1, 1, 0), (3, 0, 2)):
        logits[0, start, width] = 30 * F.one_hot(torch.tensor(of_type), N_TYPES + 1)
    monkeypatch.setattr(span_level, "logits", lambda _: logits)
    assert span_level(batch).item() == pytest.approx(0, abs=1e-6)
    assert spans_of(span_level.predict(batch)) == [list(sentence[1])]
    # One of them elsewhere is an error of both places.
    logits[0, 3, 1], logits[0, 3, 0] = logits[0, 3, 0].clone(), logits[0, 3, 1].clone()
    assert span_level(batch).item() > 1


def test_class_weights_of_spans_count_all_spans(span_level, data, caplog):
    caplog.set_level(logging.INFO)
    encoded = span_level.encode(data.train)
    span_level.begin_training(encoded)
    entities = Counter(
        s.label for item in encoded for s in item.sentence.spans if s.end < item.n_words and s.end - s.start < MAX_WIDTH
    )
    outside = sum(spans_inside(item.n_words) for item in encoded) - sum(entities.values())
    counts = [*(entities[name] for name in LABELS.names), outside]
    expected = class_balanced_weights(torch.tensor(counts), 0.9)
    torch.testing.assert_close(span_level.loss.weights, expected)
    assert any("class weights" in message and f"({outside:,})" in message for message in caplog.messages)


def test_of_overlapping_spans_the_most_probable_stays(span_level, monkeypatch):
    batch = batch_of(span_level, "a b c d e")
    logits = torch.zeros(1, 5, MAX_WIDTH, N_TYPES + 1)
    logits[..., OUTSIDE_ID] = 5
    logits[0, 0, 2] = torch.tensor([9.0, 0, 0, 5])
    logits[0, 1, 0] = torch.tensor([0.0, 8, 0, 5])
    logits[0, 3, 1] = torch.tensor([0.0, 0, 6, 5])
    # A type that is not the best class is none, however probable.
    logits[0, 4, 0] = torch.tensor([0.0, 4.9, 0, 5])
    monkeypatch.setattr(span_level, "logits", lambda _: logits)
    (found,) = span_level.predict(batch)
    assert sorted(item.span for item in found) == [Span(0, 2, "protein"), Span(3, 4, "disease")]
    scores = {item.span: item.score for item in found}
    assert scores[Span(0, 2, "protein")] == pytest.approx(logits[0, 0, 2].softmax(-1)[0].item(), rel=1e-4)
    assert scores[Span(3, 4, "disease")] == pytest.approx(logits[0, 3, 1].softmax(-1)[2].item(), rel=1e-4)


def test_a_span_of_words_without_sub_words_is_no_entity(trial):
    model = trial(SP_CROSS, "cross-bert", level="span", **PROMPTS).model().eval()
    assert model.predict(batch_of(model, ([ZERO_WIDTH], []))) == [[]]
    gold = [Span(0, 0, "protein"), Span(1, 2, "disease")]
    (item,) = model.encode([make_sentence([ZERO_WIDTH, ZERO_WIDTH, "fever"], gold)])
    assert model.oracle(item) == gold[1:]
    assert model.unreachable(item) == {"truncation": 0, "maximum width": 0, "no sub-word": 1}


def test_spans_have_no_tags():
    with pytest.raises(InputError, match="--scheme bio needs --level token; spans have no tags"):
        SP_CROSS.config(data=None, level="span", **BIO)


# -- learning ---------------------------------------------------------------------------------------------------------

LEARNING = {
    "LDSA": (LDSA, "bi-bert", {"learning_rate": 5e-3}),
    "LDSA bio": (LDSA, "bi-bert", {"learning_rate": 5e-3, **BIO}),
    "SP-Base": (SP_BASE, "bi-bert", {"table_lr": 0.1, "projection_lr": 0.05, "variant": "v1"}),
    "SP-Bi": (
        SP_BI,
        "bi-bert",
        {"prompt_encoder_lr": 1e-2, "projection_lr": 5e-2, "prompts": PromptConfig("attention", 4)},
    ),
    "SP-Cross token": (SP_CROSS, "cross-bert", {"learning_rate": 1e-2, **PROMPTS}),
    "SP-Cross span": (SP_CROSS, "cross-deberta", {"learning_rate": 1e-2, "level": "span", **PROMPTS}),
}
WORDS = {"IL-2": "protein", "monocytes": "cell type", "fever": "disease"}
FEW = [
    make_sentence(words, [Span(number, number, WORDS[word]) for number, word in enumerate(words) if word in WORDS])
    for words in (
        text.split()
        for text in (
            "IL-2 binds monocytes .", "fever was seen .", "the monocytes", "IL-2 was seen with fever",
            "the patients", "monocytes and fever", "IL-2 and the fever .", "was seen in monocytes .",
        )
    )
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNING)
def test_training_fits_a_few_sentences(trial, data, name):
    spec, base, options = LEARNING[name]
    loop = {"patience": 0, "batch_size": 8, "epochs": 30, "select_by": "micro_f1"}
    made = trial(spec, base, train=loop, **options)
    made = made.but(data=replace(made.data, train=FEW, validation=FEW))

    def f1(model) -> float:
        found = spans_of(predictions(model, FEW))
        return span_scores(count_spans([sentence.spans for sentence in FEW], found, LABELS.names)).micro.f1

    untrained = f1(made.model())
    model, run = made.train()
    assert f1(model) > max(0.8, untrained + 0.4)
    assert run.record["history"][-1]["train_loss"] < run.record["history"][0]["train_loss"] / 2


# -- another text encoder ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modernbert(tmp_path_factory):
    """Folder of a tiny GLiNER with a ModernBERT text encoder, by the kind of GLiNER."""
    vocabulary = 300
    shape = ModernBertConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LIMIT,
        # Layers 0 and 2 read everything, layer 1 its neighbourhood.
        global_attn_every_n_layers=2,
        local_attention=16,
        initializer_range=0.1,
        initializer_cutoff_factor=3.0,
        pad_token_id=0, cls_token_id=2, bos_token_id=2, sep_token_id=3, eos_token_id=3,
    )  # fmt: skip
    parent = tmp_path_factory.mktemp("modernbert")
    return {kind: save_gliner(parent / kind, kind, "bert", encoder_config=shape.to_dict()) for kind in ("bi", "cross")}


MODERN = {
    "LDSA": (LDSA, {"learning_rate": 2e-3}),
    "SP-Cross token": (SP_CROSS, PROMPTS),
    "SP-Cross span": (SP_CROSS, {**PROMPTS, "level": "span"}),
}


@pytest.mark.parametrize("name", MODERN)
def test_modernbert(modernbert, data, dataset_path, name):
    """Its positions are rotary, its attention partly local: padding and prompts must not disturb them."""
    spec, options = MODERN[name]
    kind = "bi" if spec is LDSA else "cross"
    made = Trial(spec, modernbert[kind], data, dataset_path, **options)
    assert type(made.base().part("text encoder").model).__name__ == "ModernBertModel"
    model, run = made.train()
    assert predictions(made.load(run), data.test) == predictions(model, data.test)
    assert sum(map(len, predictions(model, data.test))) > 5
    history = run.record["history"]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    encoded = model.encode(data.test)
    with torch.no_grad():
        together = model.logits(model.collate(encoded))
        for row, item in zip(together, encoded, strict=True):
            alone = model.logits(model.collate([item]))[0]
            first, second = (row[: len(alone)], alone) if alone.dim() == 2 else (row[: item.n_words, 0], alone[:, 0])
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
