"""The native span model against gliner's own forward pass, decoder and evaluation, on the same words."""

import random
from dataclasses import replace

import pytest
import torch
from tiny import (
    ENTITIES,
    LABELS,
    MAX_WIDTH,
    MAX_WORDS,
    MODELS,
    REAL_BASES,
    RUNTIME,
    TEXT_LIMIT,
    TEXT_WIDTH,
    generated_sentence,
    needs_real_bases,
    predictions,
    set_threshold,
    spans_of,
)

from common.approach import TrainedPart, count_parameters
from common.bases import load_base
from common.data.dataset import Sentence, make_sentence
from common.data.labels import LabelSet
from common.data.spans import Span
from common.device import make_accelerator
from common.errors import InputError
from common.evaluation.metrics import count_spans, span_scores
from common.evaluation.predict_split import predict_split, unreachable_gold
from common.models.features import FeatureCache
from common.models.span_head import span_mask
from common.models.span_model import SpanModel

VARIANTS = [
    *((name, ()) for name in MODELS),
    ("bi-bert", (("post_fusion_schema", "l2l-l2t-t2t"),)),
    ("bi-deberta", (("subtoken_pooling", "mean"), ("num_rnn_layers", 0))),
    ("bi-bert", (("span_mode", "marker"),)),
    ("cross-bert", (("span_mode", "conv_max"),)),
    ("cross-deberta", (("subtoken_pooling", "last"), ("num_rnn_layers", 0))),
    ("bi-bert", (("hidden_size", TEXT_WIDTH),)),
    ("bi-bert", (("fuse_layers", True),)),
]
IDS = [" ".join([name, *(f"{key}={value}" for key, value in settings)]) for name, settings in VARIANTS]


@pytest.fixture(params=VARIANTS, ids=IDS)
def model(request, load, data):
    """Each tiny model, and each way in which gliner's configuration changes the forward pass."""
    name, settings = request.param
    model = SpanModel(load(name, **dict(settings)), LABELS, LABELS.names)
    set_threshold(model, data.test)
    return model


@pytest.fixture(params=MODELS)
def plain(request, load, data):
    """The four tiny models."""
    model = SpanModel(load(request.param), LABELS, LABELS.names)
    set_threshold(model, data.test)
    return model


def whole_sentences(model: SpanModel, sentences: list[Sentence]) -> list[Sentence]:
    """Those that nothing cuts: gliner goes on to score words behind the tokenizer's cut, as zero vectors."""
    kept = [item.sentence for item in model.encode(sentences) if item.n_words == len(item.sentence.words)]
    assert len(kept) >= len(sentences) - 2
    return kept


def gliners_batch(model: SpanModel, sentences: list[Sentence]) -> dict:
    gliner = model.base.gliner
    collator = gliner.data_collator_class(
        gliner.config,
        data_processor=gliner.data_processor,
        return_tokens=True,
        return_id_to_classes=True,
        prepare_labels=True,
    )
    records = [{"tokenized_text": list(s.words), "ner": [list(span) for span in s.spans]} for s in sentences]
    return collator(records, entity_types=[list(model.label_texts)] * len(records))


def gliners_output(model: SpanModel, batch: dict, **loss_settings):
    with torch.no_grad():
        return model.base.gliner.model(**batch, **loss_settings)


@pytest.mark.parametrize("loss_settings", [{}, {"focal_gamma": 2.0, "focal_alpha": 0.75}], ids=["bce", "focal"])
def test_logits_and_loss_equal_gliners(model, data, loss_settings):
    sentences = whole_sentences(model, data.test)
    batch = model.collate(model.encode(sentences))
    vars(model).update(loss_settings)
    gamma, alpha = loss_settings.get("focal_gamma", 0.0), loss_settings.get("focal_alpha", -1.0)
    theirs = gliners_output(model, gliners_batch(model, sentences), gamma=gamma, alpha=alpha)
    with torch.no_grad():
        logits, loss = model.logits(batch), model(batch)
    assert logits.shape == theirs.logits.shape
    inside = span_mask(batch.n_words, logits.shape[1], MAX_WIDTH)
    assert inside.sum() > 100
    assert theirs.logits[inside].std() > 0.1
    torch.testing.assert_close(logits[inside], theirs.logits[inside], rtol=1e-4, atol=1e-4)
    # gliner sums over the batch, we average over its sentences.
    torch.testing.assert_close(loss * len(sentences), theirs.loss, rtol=1e-4, atol=1e-3)


def test_gradients_equal_gliners(plain, data):
    sentences = whole_sentences(plain, data.train)[:6]
    parameters = dict(plain.core.named_parameters())
    gradients = []
    for loss in (
        plain(plain.collate(plain.encode(sentences))) * len(sentences),
        plain.base.gliner.model(**gliners_batch(plain, sentences)).loss,
    ):
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        gradients.append(dict(zip(parameters, found, strict=True)))
    ours, theirs = gradients
    assert sum(gradient is not None for gradient in theirs.values()) > 30
    largest = max(gradient.abs().max() for gradient in theirs.values() if gradient is not None)
    for name, expected in theirs.items():
        assert (ours[name] is None) == (expected is None), name
        if expected is not None:
            # An attention's key bias has no gradient but rounding.
            scale = expected.abs().max().clamp(min=1e-4 * largest)
            torch.testing.assert_close(ours[name] / scale, expected / scale, rtol=1e-3, atol=1e-3, msg=name)


def test_predictions_equal_gliners_decoder_and_score(model, data):
    sentences = whole_sentences(model, data.test)
    gliner = model.base.gliner
    found = predictions(model, sentences, size=5)
    assert sum(map(len, found)) > 10
    batch = gliners_batch(model, sentences)
    logits = gliners_output(model, batch).logits
    decoded = gliner.decoder.decode(
        batch["tokens"], batch["id_to_classes"], logits, flat_ner=True, threshold=model.threshold
    )
    theirs = [sorted(Span(span.start, span.end, span.entity_type) for span in spans) for spans in decoded]
    assert spans_of(found) == theirs
    records = [{"tokenized_text": list(s.words), "ner": [list(span) for span in s.spans]} for s in sentences]
    _, micro_f1 = gliner.evaluate(
        records, flat_ner=True, threshold=model.threshold, batch_size=5, entity_types=[*LABELS.names]
    )
    ours = span_scores(count_spans([s.spans for s in sentences], spans_of(found), LABELS.names))
    assert ours.micro.f1 == pytest.approx(float(micro_f1))


def test_words_are_not_split_again(plain):
    words = ("p53/mdm2", "over-expressed", "IL-2", "CD4+", "Sjögren's", "10", "°C", "(A)", "x.y.z")
    (encoded,) = plain.encode([make_sentence(words, [])])
    assert encoded.n_words == len(words)
    assert set(encoded.word_index.tolist()) == set(range(len(words) + 1))
    # gliner's own splitter would have cut them.
    assert len(list(plain.base.gliner.data_processor.words_splitter(" ".join(words)))) > len(words)
    logits = plain.logits(plain.collate([encoded]))
    assert logits.shape == (1, len(words), MAX_WIDTH, len(LABELS))


def test_alone_and_padded_give_the_same_scores(model, data):
    encoded = model.encode(data.test)
    with torch.no_grad():
        together = model.logits(model.collate(encoded))
        for row, item in enumerate(encoded):
            alone = model.logits(model.collate([item]))[0]
            inside = span_mask(torch.tensor([item.n_words]), item.n_words, MAX_WIDTH)[0]
            torch.testing.assert_close(together[row, : item.n_words][inside], alone[inside], rtol=1e-4, atol=1e-4)
    assert spans_of(predictions(model, data.test, size=1)) == spans_of(predictions(model, data.test, size=16))


def test_each_label_has_its_own_score_by_its_own_text(load, data):
    """Swapping the texts of two types swaps their scores."""
    base = load("bi-bert")
    swapped = (LABELS.names[1], LABELS.names[0], LABELS.names[2])
    first, second = SpanModel(base, LABELS, LABELS.names), SpanModel(base, LABELS, swapped)
    batch = first.collate(first.encode(data.test[3:8]))
    with torch.no_grad():
        one, other = first.logits(batch), second.logits(batch)
    inside = span_mask(batch.n_words, one.shape[1], MAX_WIDTH)
    torch.testing.assert_close(one[..., [1, 0, 2]][inside], other[inside])
    assert not torch.allclose(one[..., 0][inside], one[..., 1][inside])


def test_gold_out_of_reach_is_counted(plain):
    last = MAX_WORDS + 10
    words = ["the"] * (last + 1)
    cut = make_sentence(
        words, [Span(0, 0, "protein"), Span(last, last, "disease"), Span(last - 3, last - 2, "disease")]
    )
    wide = make_sentence(words[:10], [Span(0, MAX_WIDTH - 1, "disease"), Span(5, 5 + MAX_WIDTH, "disease")])
    encoded = plain.encode([cut, wide])
    assert encoded[0].n_words <= MAX_WORDS
    assert plain.unreachable(encoded[0]) == {"truncation": 2, "maximum width": 0}
    assert plain.unreachable(encoded[1]) == {"truncation": 0, "maximum width": 1}
    assert [len(item.targets) for item in encoded] == [1, 1]
    assert unreachable_gold(plain, encoded) == {
        "gold": 5,
        "lost": 3,
        "share": 0.6,
        "by_reason": {"truncation": 2, "maximum width": 1},
        # Two of five gold spans are left: precision 1, recall 0.4. Protein 1, disease 2/5; cell type has no gold.
        "ceiling": {"micro_f1": pytest.approx(4 / 7), "macro_f1": pytest.approx((1 + 2 / 5) / 2)},
    }
    # The last word that is seen, and the first that is not.
    edge = encoded[0].n_words
    limit = make_sentence(words, [Span(edge - 1, edge - 1, "protein"), Span(edge, edge, "protein")])
    (encoded,) = plain.encode([limit])
    assert plain.unreachable(encoded) == {"truncation": 1, "maximum width": 0}
    assert encoded.targets.tolist() == [[edge - 1, 0, 0]]


ZERO_WIDTH = "\u200b"


def test_a_word_without_sub_words_shifts_no_other(plain):
    """gliner numbers the words that have sub-words, so that such a word moves all later ones to the left."""
    if plain.base.gliner.data_processor.transformer_tokenizer(ZERO_WIDTH, add_special_tokens=False)["input_ids"]:
        pytest.skip("this tokenizer has a sub-word for it")
    words = ["the", ZERO_WIDTH, "the", "over-expressed", ZERO_WIDTH]
    (encoded,) = plain.encode([make_sentence(words, [Span(3, 3, "disease"), Span(4, 4, "protein")])])
    assert sorted(set(encoded.word_index.tolist()) - {0}) == [1, 3, 4]
    assert encoded.n_words == len(words)
    assert encoded.targets.tolist() == [[3, 0, LABELS.label2id["disease"]], [4, 0, LABELS.label2id["protein"]]]
    assert plain.unreachable(encoded) == {"truncation": 0, "maximum width": 0}
    # Without the empty words the same words have the same representations.
    if plain.base.kind == "bi":
        (bare,) = plain.encode([make_sentence(["the", "the", "over-expressed"], [])])
        with torch.no_grad():
            with_gaps = plain.frozen_part().compute(plain.collate([encoded]))[0]
            without = plain.frozen_part().compute(plain.collate([bare]))[0]
        torch.testing.assert_close(with_gaps[[0, 2, 3]], without)
        assert not with_gaps[1].any()


def test_cut_by_sub_words(load):
    """DeBERTa's pieces are so short here that the tokenizer cuts before the words do."""
    model = SpanModel(load("bi-deberta"), LABELS, LABELS.names)
    words = ["over-expressed"] * 30
    (encoded,) = model.encode([make_sentence(words, [Span(29, 29, "disease")])])
    assert len(encoded.input_ids) == TEXT_LIMIT
    assert encoded.n_words < 30
    assert encoded.n_words == encoded.word_index.max()
    assert model.unreachable(encoded)["truncation"] == 1


def test_a_trained_head_has_its_dropout_in_training(load, data):
    model = SpanModel(load("bi-bert"), LABELS, LABELS.names)
    model.declare(TrainedPart("head", ("core.span_rep_layer",), 1e-3))
    batch = model.collate(model.encode(data.test[3:6]))
    model.train()
    assert not torch.equal(model.logits(batch), model.logits(batch))
    model.eval()
    assert torch.equal(model.logits(batch), model.logits(batch))


# -- stored features --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"post_fusion_schema": "l2l-l2t-t2t"}, {"subtoken_pooling": "mean"}], ids=str)
def test_stored_features_give_the_same_predictions(load, data, settings):
    model = SpanModel(load("bi-bert", **settings), LABELS, LABELS.names)
    set_threshold(model, data.test)
    model.parts = (TrainedPart("head", ("core.span_rep_layer", "core.prompt_rep_layer"), 1e-3),)
    accelerator = make_accelerator(RUNTIME)
    without = FeatureCache(replace(RUNTIME, feature_cache="off")).encode(model, data.test, accelerator, "test")
    stored = FeatureCache(RUNTIME).encode(model, data.test, accelerator, "test")
    assert without.store is None
    assert stored.store is not None
    assert stored.store.rows.dtype == torch.float32
    assert stored.store.rows.shape == (sum(item.n_words for item in stored.encoded), model.base.config.hidden_size)
    with torch.no_grad():
        logits, direct = (model.logits(split.batch(model, [5, 0, 9])) for split in (stored, without))
    inside = direct.isfinite()
    torch.testing.assert_close(logits[inside], direct[inside], rtol=1e-4, atol=1e-4)
    found, expected = (predict_split(model, split, RUNTIME, accelerator) for split in (stored, without))
    assert sum(map(len, expected)) > 10
    assert spans_of(found) == spans_of(expected)


@pytest.mark.parametrize(
    ("name", "trained", "stored"),
    [
        ("bi-bert", ("core.span_rep_layer",), True),
        ("bi-bert", ("core.token_rep_layer.labels_encoder",), True),
        ("bi-bert", ("core.token_rep_layer",), False),
        ("bi-bert", ("core.token_rep_layer.bert_layer.model.encoder.layer.1",), False),
        ("bi-bert", ("core.token_rep_layer.projection",), False),
        ("bi-bert", ("core",), False),
        ("cross-bert", ("core.span_rep_layer",), False),
    ],
)
def test_features_are_stored_only_if_the_text_branch_is_frozen(load, name, trained, stored):
    model = SpanModel(load(name), LABELS, LABELS.names)
    model.declare(TrainedPart("part", trained, 1e-3))
    part = model.frozen_part()
    assert (part is not None) == stored
    if part:
        (item,) = model.encode([make_sentence(["α-actin", "binds"], [])])
        assert (part.rows(item), part.width) == (2, model.base.config.hidden_size)


# -- label texts ------------------------------------------------------------------------------------------------------


def test_prompt_that_leaves_no_room(load):
    base = load("cross-bert")
    texts = [f"{text} " * 20 for text in LABELS.descriptions]
    with pytest.raises(InputError, match=rf"the 3 label texts take \d+ sub-words, .*reads {TEXT_LIMIT}: use shorter"):
        SpanModel(base, LABELS, texts)


def test_label_texts_must_differ(load):
    """A cross-encoder would read equal texts once, and every later type would get its neighbour's score."""
    with pytest.raises(InputError, match="'protein'"):
        SpanModel(load("cross-bert"), LABELS, ("protein", "protein", "disease"))


def test_label_vectors_are_computed_once_an_evaluation(load, data, monkeypatch):
    model = SpanModel(load("bi-bert"), LABELS, LABELS.names)
    calls = []
    encode_labels = model.core.token_rep_layer.encode_labels
    monkeypatch.setattr(
        model.core.token_rep_layer, "encode_labels", lambda *a, **k: calls.append(1) or encode_labels(*a, **k)
    )
    before = spans_of(predictions(model, data.test, size=2))
    assert len(calls) == 1
    # A change of the label encoder shows after the next train() or eval().
    with torch.no_grad():
        model.core.token_rep_layer.labels_projection.weight.mul_(-1)
    assert spans_of(predictions(model, data.test, size=2)) != before
    assert len(calls) == 2


def test_random_sentences_have_the_properties_that_the_tests_need(data):
    """Touching entities, entity-free sentences, a span too wide, a sentence too long, non-ASCII words."""
    sentences = data.train + data.validation + data.test
    touching = [
        (a, b) for s in sentences for a, b in zip(s.spans, s.spans[1:], strict=False)
        if a.label == b.label and a.end + 1 == b.start
    ]  # fmt: skip
    assert len(touching) > 5
    for split in (data.train, data.validation, data.test):
        assert any(not s.spans for s in split)
        assert any(span.end - span.start >= MAX_WIDTH for s in split for span in s.spans)
        assert any(len(s.words) > MAX_WORDS for s in split)
        assert any(not word.isascii() for s in split for word in s.words)
        assert {span.label for s in split for span in s.spans} == set(ENTITIES)
    assert generated_sentence(random.Random(3), 2) == generated_sentence(random.Random(3), 2)


def test_parameters_are_counted_whole(plain):
    _, total = count_parameters(plain)
    assert total == sum(p.numel() for p in plain.base.gliner.parameters())


# -- real models ------------------------------------------------------------------------------------------------------


@needs_real_bases
@pytest.mark.parametrize("encoder", ["bi", "cross"])
def test_a_real_base_scores_as_gliner_does_and_finds_entities(encoder):
    base = load_base(str(REAL_BASES / f"gliner-minilm-{encoder}"), encoder)
    model = SpanModel(
        base, (labels := LabelSet(("chemical", "disease"), ("A drug.", "An illness."), "other")), labels.names
    )
    texts = [
        "Tamoxifen caused severe hepatitis in a patient with breast cancer .",
        "No such effect was seen .",
        "IL-2 / anti-CD3 did not change fever after 5-fluorouracil",
    ]
    sentences = [make_sentence(text.split(), []) for text in texts]
    batch = model.collate(model.encode(sentences))
    theirs = gliners_output(model, gliners_batch(model, sentences))
    with torch.no_grad():
        logits = model.logits(batch)
    inside = span_mask(batch.n_words, logits.shape[1], model.max_width)
    torch.testing.assert_close(logits[inside], theirs.logits[inside], rtol=1e-3, atol=1e-3)
    if encoder == "bi":
        found = spans_of(predictions(model, sentences))
        assert Span(0, 0, "chemical") in found[0]
        assert not found[1]
