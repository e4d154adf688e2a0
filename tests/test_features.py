"""The store of frozen features: what its key depends on, where it lives, and that it changes nothing."""

from dataclasses import replace

import pytest
import torch
from tiny import REAL_BASES, REAL_DATA, RUNTIME, needs_real_bases, needs_real_data

import glinerev.model
import glinerev.spec
import ldsa.model
import ldsa.spec
import softprompt_base.model
import softprompt_base.spec
from common.bases import load_base
from common.config import RuntimeConfig
from common.data.dataset import make_sentence
from common.data.labels import LabelSet
from common.device import make_accelerator
from common.evaluation.metrics import count_spans, span_scores
from common.evaluation.predict_split import flat, predict_split
from common.models.features import EncodedSplit, FeatureCache
from dataset_generation.sources import BENCHMARKS, read_local

pytestmark = pytest.mark.slow

DISK = replace(RUNTIME, feature_cache="disk")


# One reads rows of sub-words, the other rows of words.
SUBWORDS, WORDS = (softprompt_base.spec.SPEC, "bi-bert"), (glinerev.spec.SPEC, "bi-bert")


@pytest.fixture
def model(trial):
    return trial(*SUBWORDS).model()


def stored(cache, model, sentences):
    return cache.encode(model, sentences, make_accelerator(cache.runtime), "x")


@pytest.mark.parametrize("read", [SUBWORDS, WORDS], ids=["sub-words", "words"])
def test_training_on_disk_and_in_memory_is_the_same(trial, read):
    histories = []
    for runtime in (RUNTIME, DISK, replace(RUNTIME, feature_memory_mb=0)):
        _, run = trial(*read, runtime=runtime).train()
        histories.append([(entry["train_loss"], entry["validation"]["macro_f1"]) for entry in run.record["history"]])
    assert histories[0] == histories[1] == histories[2]


def test_rows_are_the_frozen_parts_output(model, data):
    split = stored(FeatureCache(RUNTIME), model, data.test)
    part = model.frozen_part()
    for index in (0, 1, 5):
        batch = model.collate([split.encoded[index]])
        with torch.no_grad():
            expected = part.compute(batch)[0]
        torch.testing.assert_close(split.store.padded([index])[0], expected, atol=1e-5, rtol=1e-5)
    padded = split.store.padded([2, 1])
    assert not padded[0, split.lengths[2] :].any()


def test_one_cache_computes_equal_splits_once(trial, data, monkeypatch):
    cache = FeatureCache(RUNTIME)
    first = stored(cache, trial(*SUBWORDS).model(), data.test)
    monkeypatch.setattr(cache, "_compute", lambda *_: pytest.fail("computed again"))
    # Another approach that reads the same rows of the same text.
    second = stored(cache, trial(ldsa.spec.SPEC, "bi-bert").model(), data.test)
    assert second.store is first.store
    assert (first.seconds > 0, second.seconds) == (True, 0.0)


def test_files_are_found_again_and_are_whole(model, data, output, monkeypatch):
    first = stored(FeatureCache(DISK), model, data.test)
    files = list((output / "features").glob("*.float32"))
    checksum = 4
    assert [file.stat().st_size for file in files] == [first.store.rows.numel() * 4 + checksum]
    again = FeatureCache(DISK)
    monkeypatch.setattr(again, "_compute", lambda *_: pytest.fail("computed again"))
    second = stored(again, model, data.test)
    assert torch.equal(second.store.rows, first.store.rows)
    assert second.seconds == 0.0


def test_an_interrupted_computation_leaves_no_file(model, data, output, monkeypatch):
    cache = FeatureCache(DISK)

    def interrupted(rows, *_):
        rows[0:3] = torch.ones(3, rows.width)
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_compute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stored(cache, model, data.test)
    assert not [path for path in (output / "features").iterdir() if path.suffix != ".lock"]
    monkeypatch.undo()
    assert stored(FeatureCache(DISK), model, data.test).store is not None


def keys(cache, model, sentences):
    stored(cache, model, sentences)
    return set(cache._stores)


def test_the_key_changes_with_all_that_the_features_depend_on(trial, data):
    made = trial(*SUBWORDS)
    plain = keys(FeatureCache(RUNTIME), made.model(), data.test)
    assert keys(FeatureCache(RUNTIME), made.model(), data.test) == plain
    other_text = [*data.test[:-1], make_sentence(["fever", "was", "seen"], [])]
    weights = made.model()
    with torch.no_grad():
        next(weights.core.token_rep_layer.bert_layer.parameters()).flatten()[0] += 1e-3
    words = trial(*WORDS).model()
    first = trial(*WORDS, subword_pooling="first").model()
    found = [
        plain,
        keys(FeatureCache(RUNTIME), made.model(), data.test[:-1]),
        keys(FeatureCache(RUNTIME), made.model(), other_text),
        keys(FeatureCache(RUNTIME), weights, data.test),
        keys(FeatureCache(RUNTIME), words, data.test),
        keys(FeatureCache(RUNTIME), first, data.test),
        keys(FeatureCache(replace(RUNTIME, precision="bf16")), made.model(), data.test),
    ]
    assert len(set.union(*found)) == len(found)


def test_what_is_trained_is_not_in_the_key(trial, data):
    made = trial(ldsa.spec.SPEC, "bi-bert")
    trained, _ = made.train()
    assert keys(FeatureCache(RUNTIME), trained, data.test) == keys(FeatureCache(RUNTIME), made.model(), data.test)


def test_off_stores_nothing(model, data):
    assert stored(FeatureCache(replace(RUNTIME, feature_cache="off")), model, data.test).store is None


@needs_real_data
@needs_real_bases
def test_on_real_sentences_in_half_precision_stored_features_give_the_same_score():
    types = BENCHMARKS["bc5cdr"].types
    sentences = read_local(REAL_DATA / "bc5cdr", known_types=types).splits["test"][:800]
    base = load_base(str(REAL_BASES / "gliner-minilm-bi"), "bi")
    # Before training it scores as the base does.
    model = glinerev.spec.SPEC.build(glinerev.spec.SPEC.config(data=None), base, LabelSet(types, types, "other"))
    runtime = RuntimeConfig(precision="bf16", progress=False)
    accelerator = make_accelerator(runtime)
    splits = FeatureCache(runtime).encode(model, sentences, accelerator, "x"), EncodedSplit(model.encode(sentences))
    assert [split.store is None for split in splits] == [False, True]
    gold = [sentence.spans for sentence in sentences]
    found = [flat(predict_split(model, split, runtime, accelerator)) for split in splits]
    stored_macro, macro = (span_scores(count_spans(gold, spans, types)).macro.f1 for spans in found)
    assert macro > 0.2
    assert abs(stored_macro - macro) < 0.002
