"""The metric: against seqeval, against a table made by hand, and its intervals and error kinds."""

import itertools
import random
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from common.data.spans import Span, spans_to_tags
from common.evaluation.error_kinds import error_report
from common.evaluation.metrics import (
    Difference,
    SpanCounts,
    bootstrap_intervals,
    count_spans,
    holm,
    interval_of,
    mean_over_drawn_seeds,
    paired_bootstrap,
    resampled_f1,
    span_scores,
)
from common.tables import documents

TYPES = ("protein", "dna", "cell type")


def random_spans(generator: random.Random, n_words: int) -> list[Span]:
    """Flat spans, touching ones included."""
    spans, position = [], generator.randint(0, 2)
    while position < n_words and generator.random() < 0.7:
        end = min(position + generator.randint(0, 2), n_words - 1)
        spans.append(Span(position, end, generator.choice(TYPES)))
        position = end + 1 + generator.randint(0, 2)
    return spans


def disturbed(generator: random.Random, gold: list[Span], n_words: int) -> list[Span]:
    """A tagger's output: half of the time right, else without a span or with another type, or something of its own."""
    if generator.random() < 0.3:
        return random_spans(generator, n_words)
    return [
        Span(span.start, span.end, generator.choice(TYPES)) if generator.random() < 0.3 else span
        for span in gold
        if generator.random() < 0.8
    ]


def random_corpus(seed: int, size: int) -> tuple[list[list[Span]], list[list[Span]], list[int]]:
    generator = random.Random(seed)
    lengths = [generator.randint(1, 12) for _ in range(size)]
    gold = [random_spans(generator, length) for length in lengths]
    return gold, [disturbed(generator, *pair) for pair in zip(gold, lengths, strict=True)], lengths


def assert_equals_seqeval(gold: list[list[Span]], predicted: list[list[Span]], lengths: list[int]) -> None:
    scores = span_scores(count_spans(gold, predicted, TYPES))
    true, found = (
        [spans_to_tags(spans, length) for spans, length in zip(side, lengths, strict=True)]
        for side in (gold, predicted)
    )
    strict = {"mode": "strict", "scheme": IOB2, "zero_division": 0}
    ours = scores.micro
    assert (ours.precision, ours.recall, ours.f1) == pytest.approx(
        tuple(
            float(measure(true, found, average="micro", **strict))
            for measure in (precision_score, recall_score, f1_score)
        )
    )
    report = classification_report(true, found, output_dict=True, **strict)
    # seqeval reports the types that it met; ours all that were configured.
    for name in TYPES:
        row = report.get(name, {"precision": 0, "recall": 0, "f1-score": 0, "support": 0})
        mine = scores.per_type[name]
        assert (mine.precision, mine.recall, mine.f1, mine.support) == pytest.approx(
            (row["precision"], row["recall"], row["f1-score"], row["support"])
        )
    macro = report["macro avg"]
    assert (scores.macro.precision, scores.macro.recall, scores.macro.f1) == pytest.approx(
        (macro["precision"], macro["recall"], macro["f1-score"])
    )


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([1, 2, 3, 4, 5, 300]))
def test_equal_to_seqeval(seed, size):
    gold, predicted, lengths = random_corpus(seed, size)
    if any(gold) or any(predicted):  # seqeval cannot report on no entity at all
        assert_equals_seqeval(gold, predicted, lengths)


GOLD = [
    [Span(0, 1, "protein"), Span(2, 2, "protein")],  # touching, one type
    [Span(0, 0, "dna"), Span(3, 4, "protein")],
    [],
]
PREDICTED = [
    [Span(0, 1, "protein"), Span(2, 2, "dna")],  # right; wrong type
    [Span(0, 0, "dna"), Span(3, 3, "protein")],  # right; wrong boundary
    [Span(5, 5, "protein")],  # where there is nothing
]


def test_scores_by_hand():
    scores = span_scores(count_spans(GOLD, PREDICTED, TYPES))
    # protein: 1 right of 3 predicted and 3 gold; dna: 1 right of 2 predicted and 1 gold; cell type: none of either.
    third, half = pytest.approx(1 / 3), pytest.approx(1 / 2)
    assert asdict(scores.per_type["protein"]) == {"precision": third, "recall": third, "f1": third, "support": 3}
    assert asdict(scores.per_type["dna"]) == {
        "precision": half,
        "recall": 1.0,
        "f1": pytest.approx(2 / 3),
        "support": 1,
    }
    assert asdict(scores.per_type["cell type"]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert asdict(scores.micro) == {"precision": pytest.approx(2 / 5), "recall": half, "f1": pytest.approx(4 / 9)}
    # The type with neither gold nor predicted spans is not in the mean.
    assert scores.defined_types == 2
    assert asdict(scores.macro) == {
        "precision": pytest.approx((1 / 3 + 1 / 2) / 2),
        "recall": pytest.approx((1 / 3 + 1) / 2),
        "f1": pytest.approx((1 / 3 + 2 / 3) / 2),
    }
    assert scores.as_dict()["per_type"]["dna"]["support"] == 1


def test_a_type_that_is_predicted_but_has_no_gold_counts_as_zero():
    predicted = [[*PREDICTED[0], Span(4, 4, "cell type")], *PREDICTED[1:]]
    scores = span_scores(count_spans(GOLD, predicted, TYPES))
    assert (scores.defined_types, scores.macro.f1) == (3, pytest.approx((1 / 3 + 2 / 3 + 0) / 3))


def test_a_type_absent_from_a_resample_does_not_lower_it():
    gold = [[Span(0, 0, "protein")]] * 49 + [[Span(0, 0, "dna")]]
    counts = count_spans(gold, gold, TYPES)
    assert span_scores(counts).macro.f1 == 1.0
    assert bootstrap_intervals(counts)["macro_f1"] == (1.0, 1.0)


def test_touching_spans_of_a_type_are_not_merged():
    assert span_scores(count_spans(GOLD, GOLD, TYPES)).micro.f1 == 1.0
    merged = [[Span(0, 2, "protein")], *GOLD[1:]]
    assert span_scores(count_spans(GOLD, merged, TYPES)).micro.f1 == pytest.approx(2 * 2 / (3 + 4))


def test_a_repeated_span_counts_once():
    twice = [[*spans, *spans] for spans in PREDICTED]
    assert span_scores(count_spans(GOLD, twice, TYPES)) == span_scores(count_spans(GOLD, PREDICTED, TYPES))


def test_the_same_span_with_two_types_is_a_hit_and_a_false_alarm():
    scores = span_scores(count_spans([[Span(0, 0, "dna")]], [[Span(0, 0, "dna"), Span(0, 0, "protein")]], TYPES))
    assert (scores.micro.precision, scores.micro.recall) == (0.5, 1.0)


def test_nothing_predicted_or_no_gold_is_zero_not_nan():
    for gold, predicted in (([[]], [[]]), (GOLD, [[], [], []]), ([[], [], []], PREDICTED)):
        scores = span_scores(count_spans(gold, predicted, TYPES))
        assert asdict(scores.micro) == asdict(scores.macro) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_bad_input_names_sentence_and_type():
    with pytest.raises(ValueError, match=r"sentence 1: type 'lipid' is not one of \['protein', 'dna', 'cell type'\]"):
        count_spans([[], []], [[], [Span(0, 0, "lipid")]], TYPES)
    with pytest.raises(ValueError, match="sentence 0: type 'lipid'"):
        count_spans([[Span(0, 0, "lipid")]], [[]], TYPES)
    with pytest.raises(ValueError, match="2 gold sentences but 1 predicted ones"):
        count_spans([[], []], [[]], TYPES)


# -- intervals --------------------------------------------------------------------------------------------------------


def corpus_counts(seed: int, size: int = 150):
    gold, predicted, _ = random_corpus(seed, size)
    return count_spans(gold, predicted, TYPES)


def test_interval_contains_the_estimate_and_narrows_with_more_sentences():
    widths = []
    for size in (60, 600):
        counts = corpus_counts(3, size)
        intervals = bootstrap_intervals(counts, n_resamples=400)
        scores = span_scores(counts)
        for name, estimate in (("micro_f1", scores.micro.f1), ("macro_f1", scores.macro.f1)):
            low, high = intervals[name]
            assert 0 <= low < estimate < high <= 1
        widths.append(intervals["micro_f1"][1] - intervals["micro_f1"][0])
    # 10 times the sentences: about a third of the width.
    assert 2 < widths[0] / widths[1] < 5


def test_interval_is_reproducible_and_follows_seed_and_level():
    counts = corpus_counts(4)
    first = bootstrap_intervals(counts, n_resamples=333)
    assert first == bootstrap_intervals(counts, n_resamples=333)
    assert first != bootstrap_intervals(counts, n_resamples=333, seed=1)
    narrow = bootstrap_intervals(counts, n_resamples=333, level=0.5)
    assert first["micro_f1"][0] < narrow["micro_f1"][0] < narrow["micro_f1"][1] < first["micro_f1"][1]


def test_interval_of_identical_sentences_is_a_point():
    counts = count_spans([GOLD[1]] * 20, [PREDICTED[1]] * 20, TYPES)
    scores = span_scores(counts)
    intervals = bootstrap_intervals(counts, n_resamples=100)
    assert intervals["micro_f1"] == pytest.approx((scores.micro.f1, scores.micro.f1))
    assert intervals["macro_f1"] == pytest.approx((scores.macro.f1, scores.macro.f1))


def test_interval_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no sentences"):
        bootstrap_intervals(count_spans([], [], TYPES))


def alone(*runs):
    """Each run as a setting with one seed."""
    return [{0: counts} for counts in runs]


def test_paired_bootstrap_of_equal_runs():
    counts = corpus_counts(5)
    none = dict.fromkeys(("micro_f1", "macro_f1"), Difference(0.0, 0.0, 0.0, 1.0))
    assert paired_bootstrap(*alone(counts, counts)) == none


def test_paired_bootstrap_has_sign_interval_and_p_value():
    gold, predicted, _ = random_corpus(7, 200)
    mixed = [a if index % 3 else b for index, (a, b) in enumerate(zip(gold, predicted, strict=True))]
    better, worse = (count_spans(gold, side, TYPES) for side in (mixed, predicted))
    forward, backward = (
        paired_bootstrap(*alone(*pair), n_resamples=500)["micro_f1"] for pair in ((better, worse), (worse, better))
    )
    expected = span_scores(better).micro.f1 - span_scores(worse).micro.f1
    assert (forward.difference, backward.difference) == pytest.approx((expected, -expected))
    assert 0 < forward.low < forward.difference < forward.high
    assert (backward.low, backward.high) == pytest.approx((-forward.high, -forward.low))
    # No resample of 500 is on the other side; the observed one counts as one that is.
    assert forward.p_value == backward.p_value == pytest.approx(2 / 501)


def test_paired_bootstrap_of_a_coin_flip_is_not_significant():
    gold, predicted, _ = random_corpus(8, 200)
    generator = random.Random(0)
    sides: tuple[list, list] = ([], [])
    for right, wrong in zip(gold, predicted, strict=True):
        lucky = generator.randint(0, 1)
        sides[lucky].append(right)
        sides[1 - lucky].append(wrong)
    first, second = (count_spans(gold, side, TYPES) for side in sides)
    result = paired_bootstrap(*alone(first, second))["micro_f1"]
    assert result.low < 0 < result.high
    assert 0.05 < result.p_value <= 1
    rows = np.random.default_rng(0).integers(0, len(gold), (4000, len(gold)))
    f1 = [
        2 * run.true_positives[rows].sum((1, 2)) / (run.predicted[rows].sum((1, 2)) + run.gold[rows].sum((1, 2)))
        for run in (first, second)
    ]
    share = min(np.mean(f1[0] <= f1[1]), np.mean(f1[0] >= f1[1]))
    assert result.p_value == pytest.approx(2 * share, rel=0.2)


def test_paired_bootstrap_needs_the_same_gold():
    first = count_spans(GOLD, PREDICTED, TYPES)
    for other in (
        count_spans([*GOLD[:2], [Span(5, 5, "dna")]], PREDICTED, TYPES),
        count_spans(GOLD, PREDICTED, TYPES[:2]),
        count_spans(GOLD[:2], PREDICTED[:2], TYPES),
    ):
        with pytest.raises(ValueError, match="not scored on the same sentences, types and gold spans"):
            paired_bootstrap({0: first}, {0: first, 1: other})


# -- seeds and sentences ----------------------------------------------------------------------------------------------


def one_type(hits):
    """A run that predicts as many spans as there are, so that its F1 is the share of hits. ``(N, 2)``: hits, gold."""
    found, gold = np.hsplit(np.asarray(hits), 2)
    return SpanCounts(("disease",), found, gold, gold)


def test_two_level_bootstrap_is_that_of_all_draws():
    """Two seeds and three sentences: 4 draws of seeds by 27 of sentences, all equally likely, written out."""
    runs = [one_type([(1, 1), (0, 2), (2, 2)]), one_type([(0, 1), (1, 2), (0, 2)])]
    exact: Counter[float] = Counter()
    for seeds in itertools.product(range(2), repeat=2):
        for rows in itertools.product(range(3), repeat=3):
            f1 = [
                sum(runs[s].true_positives[r, 0] for r in rows) / sum(runs[s].gold[r, 0] for r in rows) for s in seeds
            ]
            exact[round(sum(f1) / 2, 9)] += 1
    n = 40_000
    samples = mean_over_drawn_seeds(resampled_f1(runs, n, seed=0), [42, 43])
    found = Counter(np.round(samples[0], 9).tolist())
    assert found.keys() == exact.keys()
    assert len(exact) > 10
    for value, count in exact.items():
        p = count / 108
        # Five standard deviations of a binomial share.
        assert found[value] / n == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / n)), value


@pytest.mark.parametrize(("n_seeds", "at_least"), [(3, 0.79), (5, 0.85), (10, 0.91)])
def test_two_level_interval_covers_where_that_of_sentences_does_not(n_seeds, at_least):
    """Runs whose seeds matter more than sentences: of 200 studies 95 % are to cover the true F1, 0.7, less what few
    cost.
    """
    generator = np.random.default_rng(0)
    covered = np.zeros(2)
    for _ in range(200):
        chance = 0.7 + generator.uniform(-0.1, 0.1, (n_seeds, 1)) + generator.uniform(-0.2, 0.2, 300)
        hits = (generator.random(chance.shape) < chance).astype(int)
        f1 = resampled_f1([one_type(np.stack([row, np.ones_like(row)], axis=1)) for row in hits], 500, seed=0)
        for place, samples in enumerate((mean_over_drawn_seeds(f1, range(n_seeds)), f1.mean(axis=0))):
            low, high = interval_of(samples[0])
            covered[place] += low <= 0.7 <= high
    two_level, sentences_alone = covered / 200
    assert at_least < two_level <= 1
    assert sentences_alone < 0.7


@pytest.mark.parametrize(
    ("n_seeds", "share", "said"),
    [(2, 0.5, "50 % of the intervals of 2"), (3, 0.75, "75 % of 3"), (5, 0.82, "some 80 % of 5")],
)
def test_what_the_tables_say_of_intervals_of_few_seeds(n_seeds, share, said):
    """Where seeds alone differ. Of 2 and 3 the interval reaches from the lowest to the highest, on one side of which
    all lie with probability 2 / 2 ** n.
    """
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        f1 = np.broadcast_to(generator.normal(0.7, 0.01, (n_seeds, 1, 1)), (n_seeds, 1, 1000))
        low, high = interval_of(mean_over_drawn_seeds(f1, generator.integers(2**32, size=n_seeds).tolist())[0])
        covered += low <= 0.7 <= high
    assert covered / 600 == pytest.approx(share, abs=0.05)
    assert said in documents.INTERVALS


def test_differences_are_paired_by_seed_where_both_have_the_same():
    seeds = {seed: one_type([(int(row < 2 * seed), 1) for row in range(20)]) for seed in (3, 5, 9)}
    other = {seed + 1: counts for seed, counts in seeds.items()}
    reverse = dict(reversed(seeds.items()))
    # The same runs: in pairs there is no difference in any draw, whatever their order; drawn apart there is.
    paired = paired_bootstrap(seeds, reverse)["micro_f1"]
    assert (paired.low, paired.high, paired.p_value) == (0, 0, 1)
    apart = paired_bootstrap(seeds, other)["micro_f1"]
    assert (apart.difference, apart.p_value) == (0, pytest.approx(1, abs=0.1))
    assert apart.low < -0.2 < 0.2 < apart.high


def test_holm_by_hand():
    # In order: .005 * 4 = .02, .01 * 3 = .03, .03 * 2 = .06, and .04 * 1 is not below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


# -- kinds of errors --------------------------------------------------------------------------------------------------


def test_error_report_by_hand():
    gold = [
        [Span(0, 1, "protein"), Span(3, 3, "dna"), Span(5, 7, "protein"), Span(9, 9, "cell type"), Span(11, 12, "dna")],
        [Span(0, 2, "protein")],
        [],
    ]
    predicted = [
        [
            Span(0, 1, "protein"),  # right
            Span(3, 3, "protein"),  # right place, wrong type
            Span(6, 7, "protein"),  # wrong boundary
            # nothing at 9: missed
            Span(12, 13, "protein"),  # overlaps a dna only: boundary and type
            Span(20, 21, "dna"),  # spurious
        ],
        [Span(0, 0, "dna"), Span(2, 2, "protein")],  # both overlap; one has the type: boundary
        [Span(0, 0, "protein")],  # spurious
    ]
    report = error_report(gold, predicted, TYPES)
    assert (report.type, report.boundary, report.boundary_and_type, report.missed, report.spurious) == (1, 2, 1, 1, 2)
    assert report.confusion == {
        "protein": {"protein": 1, "dna": 0, "cell type": 0},
        "dna": {"protein": 1, "dna": 0, "cell type": 0},
        "cell type": {"protein": 0, "dna": 0, "cell type": 0},
    }
