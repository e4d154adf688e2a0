"""Thresholds: the best ones by brute force, chosen with the epoch, stored, and used by whatever predicts."""

import itertools
import logging
import random

import numpy as np
import pytest
from tiny import LABELS, RUNTIME, predictions

import common.evaluation.thresholds
import common.training.recorder
import full_finetune.spec
import glinerev.spec
from common.checkpoint import load_checkpoint
from common.data.spans import ScoredSpan, Span, above
from common.entry import run_test
from common.evaluation.metrics import METRICS, count_spans, span_scores
from common.evaluation.predict_split import flat
from common.evaluation.results import read_result
from common.evaluation.thresholds import GRID, at_edge, best_threshold, best_type_thresholds
from common.files import read_json, write_json
from common.inference import Tagger
from common.models.span_model import SpanModel
from common.training.records import RUN_FILE
from common.training.run_folder import Run

pytestmark = pytest.mark.slow

SP, FT = glinerev.spec.SPEC, full_finetune.spec.SPEC
BY = ("macro_f1", "micro_f1")


def score(gold, predicted, threshold, own, by) -> float:
    """F1 of the spans that pass, counted span by span."""
    kept = [[item.span for item in spans if item.score > own.get(item.span.label, threshold)] for spans in predicted]
    return METRICS[by].of(span_scores(count_spans(gold, kept, LABELS.names)))


def random_case(seed: int, n_sentences: int = 30):
    """Gold and flat predictions, a third of them of a wrong type or place; one type's scores are low, one's high."""
    generator = random.Random(seed)
    gold = [[Span(index, index, generator.choice(LABELS.names)) for index in range(4)] for _ in range(n_sentences)]
    shift = dict(zip(LABELS.names, (0.3, 1.0, 0.7), strict=True))
    predicted = []
    for spans in gold:
        found = []
        for span in spans:
            label = generator.choice([span.label, span.label, *LABELS.names])
            right = label == span.label and generator.random() > 0.2
            place = span.start if right else span.start + 10
            found.append(
                ScoredSpan(Span(place, place, label), shift[label] * generator.uniform(0.3 if right else 0, 1))
            )
        predicted.append(found)
    return gold, predicted


# -- the best ones ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", BY)
def test_best_threshold_by_brute_force(by):
    gold, predicted = random_case(0)
    scores = {step / 100: score(gold, predicted, step / 100, {}, by) for step in range(1, 100)}
    threshold, found = best_threshold(gold, predicted, LABELS.names, by=by)
    assert found == pytest.approx(max(scores.values()))
    assert scores[threshold] == pytest.approx(found)


def test_the_default_threshold_wins_ties():
    gold = [[Span(0, 0, "protein")]]
    predicted = [[ScoredSpan(Span(0, 0, "protein"), 0.9), ScoredSpan(Span(2, 2, "protein"), 0.3)]]
    # Anything from 0.3 to 0.89 is right.
    assert best_threshold(gold, predicted, ("protein",), by="micro_f1") == (0.5, 1.0)
    assert best_threshold(gold, predicted, ("protein",), by="micro_f1", default=0.1) == (0.3, 1.0)


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("seed", range(8))
def test_best_type_thresholds_by_brute_force(monkeypatch, by, seed):
    """All combinations of a coarse grid."""
    grid = np.arange(1, 10) / 10
    monkeypatch.setattr(common.evaluation.thresholds, "GRID", grid)
    gold, predicted = random_case(seed, n_sentences=12)
    threshold, common_score = best_threshold(gold, predicted, LABELS.names, by=by)
    own = best_type_thresholds(gold, predicted, LABELS.names, by=by, threshold=threshold, least_gold=1)
    assert set(own) == set(LABELS.names)
    every = (dict(zip(LABELS.names, row, strict=True)) for row in itertools.product(grid.tolist(), repeat=3))
    best = max(score(gold, predicted, threshold, row, by) for row in every)
    assert score(gold, predicted, threshold, own, by) == pytest.approx(best)
    assert best >= common_score
    if seed == 0:
        assert best > common_score + 0.01, "the case needs thresholds of its types"


@pytest.mark.parametrize("by", BY)
def test_a_type_with_few_entities_keeps_the_common_threshold(by):
    gold, predicted = random_case(1)
    support = {name: sum(span.label == name for spans in gold for span in spans) for name in LABELS.names}
    least = min(support.values()) + 1
    threshold = best_threshold(gold, predicted, LABELS.names, by=by)[0]
    own = best_type_thresholds(gold, predicted, LABELS.names, by=by, threshold=threshold, least_gold=least)
    assert set(own) == {name for name, n_gold in support.items() if n_gold >= least} < set(support)
    # The best of the others, given that.
    grid = GRID[4::10].tolist()
    for row in itertools.product(grid, repeat=len(own)):
        others = dict(zip(own, row, strict=True))
        assert score(gold, predicted, threshold, own, by) >= score(gold, predicted, threshold, others, by) - 1e-9


def test_equal_thresholds_stay_next_to_the_common_one():
    gold = [[Span(0, 0, "protein"), Span(1, 1, "disease")]]
    predicted = [[ScoredSpan(Span(0, 0, "protein"), 0.9)]]
    # What a type is never predicted for has no better threshold than any other.
    for by in BY:
        own = best_type_thresholds(gold, predicted, LABELS.names, by=by, threshold=0.42, least_gold=1)
        assert own == {"protein": 0.42, "disease": 0.42}


def test_no_prediction_and_no_gold():
    for gold, predicted in (([[]], [[]]), ([[Span(0, 0, "protein")]], [[]])):
        for by in BY:
            assert best_threshold(gold, predicted, LABELS.names, by=by) == (0.5, 0.0)
            assert set(best_type_thresholds(gold, predicted, LABELS.names, by=by, threshold=0.5).values()) <= {0.5}


def test_a_threshold_at_the_edge_is_named():
    assert at_edge(0.5, {"protein": 0.02}) == []
    assert at_edge(0.01, {"protein": 0.99, "disease": 0.5}) == ["0.01 of all types", "0.99 of protein"]


# -- a model's own ----------------------------------------------------------------------------------------------------


@pytest.fixture
def learned(trial):
    """Runs of a model that finds entities at low thresholds only."""

    def made(**train):
        train = {"epochs": 4, "batch_size": 4, "patience": 0} | train
        rates = {"encoder_lr": 5e-3, "others_lr": 5e-3}
        return trial(FT, "bi-bert", train=train, base_settings={"dropout": 0.0}, **rates)

    return made


def test_type_thresholds_pass_what_the_model_finds_at_the_lowest(load, data):
    """The model's own decoder at a low threshold, and what is left by hand; no type's threshold changes another's."""
    model, sentences = SpanModel(load("bi-bert"), LABELS, LABELS.names), data.validation
    model.threshold = 0.0
    everything = predictions(model, sentences)
    scores = {
        name: np.sort([item.score for spans in everything for item in spans if item.span.label == name])
        for name in ("cell type", "disease")
    }
    assert min(map(len, scores.values())) > 10
    own, rest = {"disease": float(np.quantile(scores["disease"], 0.3))}, float(np.quantile(scores["cell type"], 0.6))
    model.threshold, model.type_thresholds = rest, own
    found = predictions(model, sentences)
    assert found == [above(spans, rest, own) for spans in everything]
    counts = {name: sum(item.span.label == name for spans in found for item in spans) for name in scores}
    assert all(0 < counts[name] < len(scores[name]) for name in scores)
    model.type_thresholds = {"disease": 0.99}
    fewer = predictions(model, sentences)
    assert [[item for item in spans if item.span.label != "disease"] for spans in fewer] == [
        [item for item in spans if item.span.label != "disease"] for spans in found
    ]


@pytest.fixture
def coarse(monkeypatch):
    """A grid of few thresholds, so that the model can be asked at each of them."""
    grid = np.array([0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5])
    for module in (common.evaluation.thresholds, common.training.recorder):
        monkeypatch.setattr(module, "GRID", grid)
    return grid.tolist()


def validation_scores(made, model, thresholds) -> dict[float, float]:
    gold = [sentence.spans for sentence in made.data.validation]
    scores = {}
    for model.threshold in thresholds:
        found = flat(predictions(model, made.data.validation))
        scores[model.threshold] = span_scores(count_spans(gold, found, LABELS.names)).macro.f1
    return scores


def test_each_epoch_is_scored_at_its_best_threshold(learned, coarse):
    """By the model's predictions at every threshold of the grid after each epoch."""
    made = learned(epochs=4)
    model, seen = made.model(), []

    def look(entry):
        before = model.threshold
        scores = validation_scores(made, model, coarse)
        model.threshold = before
        model.train()
        seen.append((max(scores.values()), scores[entry["validation"]["threshold"]], scores[0.5]))

    run = made.fit(model, made.start(), on_validation=look)
    history = [entry["validation"] for entry in run.record["history"]]
    for validation, (best, at_threshold, at_half) in zip(history, seen, strict=True):
        assert validation["macro_f1"] == best == at_threshold >= at_half
    assert any(best > at_half for best, _, at_half in seen)
    chosen = max(range(4), key=lambda epoch: (history[epoch]["macro_f1"], epoch))
    assert history[chosen]["macro_f1"] > run.record["untrained"]["macro_f1"]
    assert run.record["best"]["epoch"] == chosen + 1
    assert run.record["threshold"] == model.threshold == history[chosen]["threshold"]
    assert run.record["type_thresholds"] == {}
    assert validation_scores(made, model, [model.threshold])[model.threshold] == history[chosen]["macro_f1"]


def test_a_given_threshold_stays(trial):
    model, run = trial(SP, "bi-bert", train={"epochs": 1}, threshold=0.37).train()
    assert run.record["threshold"] == model.threshold == 0.37
    assert "threshold" not in run.record["history"][0]["validation"]


@pytest.fixture
def chosen(monkeypatch):
    """The thresholds of types that each validation chooses, in order: the tiny model finds one type alone."""
    made = []

    def choose(*_, threshold, **__):
        made.append({"cell type": threshold / 2, "disease": 0.4})
        return made[-1]

    monkeypatch.setattr(common.training.recorder, "best_type_thresholds", choose)
    return made


def test_per_type_thresholds_are_stored_and_used(learned, dataset_path, chosen):
    made = learned(epochs=2, thresholds="per-type")
    model, run = made.train()
    own = run.record["type_thresholds"]
    # The untrained model's come first.
    assert own == chosen[run.record["best"]["epoch"]]
    best = run.record["history"][run.record["best"]["epoch"] - 1]
    assert best["type_thresholds"] == own == model.type_thresholds
    gold = [sentence.spans for sentence in made.data.validation]
    found = flat(predictions(model, made.data.validation))
    assert span_scores(count_spans(gold, found, LABELS.names)).macro.f1 == best["validation"]["macro_f1"]

    loaded = load_checkpoint(FT, run.path).model
    assert (loaded.threshold, loaded.type_thresholds) == (run.record["threshold"], own)
    assert predictions(loaded, made.data.test) == predictions(model, made.data.test)
    given = load_checkpoint(FT, run.path, threshold=0.3).model
    assert (given.threshold, given.type_thresholds) == (0.3, {})

    options = ["--dataset", str(dataset_path), "--precision", "fp32", "--device", "cpu", "--no-progress"]
    path = run_test(FT, options)
    result = read_result(path)
    assert (result["threshold"], result["type_thresholds"]) == (run.record["threshold"], own)
    assert f"(cell type {own['cell type']:g}, disease 0.4)" in path.with_suffix(".md").read_text("utf-8")
    other = read_result(run_test(FT, [*options, "--threshold", "0.3"]))
    assert (other["threshold"], other["type_thresholds"]) == (0.3, {})

    assert Tagger.load(run.path, runtime=RUNTIME).type_thresholds == own


@pytest.mark.usefixtures("chosen")
def test_a_resumed_run_keeps_the_best_epochs_thresholds(learned):
    made = learned(epochs=3, thresholds="per-type")
    whole = made.train()[1]

    run = made.killed(lambda entry: entry["epoch"] == 2)
    before = read_json(run.path / RUN_FILE)
    best = before["history"][before["best"]["epoch"] - 1]
    assert before["threshold"] == best["validation"]["threshold"], "an unfinished checkpoint has thresholds, too"
    assert before["type_thresholds"] == best["type_thresholds"]
    resumed = made.resume(run.path)[1]
    for key in ("threshold", "type_thresholds", "best"):
        assert resumed.record[key] == whole.record[key]


def test_a_run_of_before_gets_its_threshold_at_the_end(learned, caplog, coarse):
    """Its state knows no threshold: the epoch was chosen at 0.5."""
    made = learned(epochs=2)
    run = made.killed()
    (state,) = run.path.glob("state_*/state.json")
    values = read_json(state)
    for key in ("threshold", "type_thresholds"):
        del values["progress"][key]
    # So good that the second epoch is not better.
    values["progress"]["best_score"] = 0.99
    write_json(state, values)
    with caplog.at_level(logging.WARNING):
        model, resumed = made.resume(run.path)
    assert resumed.record["best"]["epoch"] == 1
    assert "epoch 1 was chosen by an earlier version, at threshold 0.5; its threshold is chosen now" in caplog.text
    scores = validation_scores(made, model, coarse)
    assert scores[resumed.record["threshold"]] == max(scores.values())
    assert Run(run.path, {}).is_finished()


def test_the_edge_of_the_grid_and_rare_types_are_said(learned, caplog, monkeypatch):
    monkeypatch.setattr(common.training.recorder, "best_threshold", lambda *_, **__: (0.01, 0.0))
    with caplog.at_level(logging.INFO):
        learned(epochs=1, thresholds="per-type").train()
    assert "threshold 0.01 of all types is at the edge of the grid" in caplog.text
    assert "for all types is that of protein, cell type, disease, which have fewer than 30" in caplog.text
