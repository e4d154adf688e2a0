"""Spans and tag schemes: conversions as properties, the errors as a table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, Entities

from common.data.spans import Span, TagError, check_flat, detect_scheme, spans_to_tags, tags_to_spans, touching_pairs

SCHEMES = ("iob1", "iob2", "bioes")


@st.composite
def flat_spans(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Random flat spans, touching ones included, and the number of words."""
    spans, position = [], 0
    for _ in range(draw(st.integers(0, 6))):
        start = position + draw(st.integers(0, 2))
        end = start + draw(st.integers(0, 3))
        spans.append(Span(start, end, draw(st.sampled_from(["protein", "cell type", "B-cell"]))))
        position = end + 1
    return spans, position + draw(st.integers(0 if spans else 1, 2))


@pytest.mark.parametrize("scheme", SCHEMES)
@given(case=flat_spans())
def test_round_trip(scheme, case):
    spans, n_words = case
    assert tags_to_spans(spans_to_tags(spans, n_words, scheme), scheme) == spans


@given(case=flat_spans())
def test_bilou_is_bioes(case):
    spans, n_words = case
    tags = [tag.replace("E-", "L-", 1) if tag[0] == "E" else tag for tag in spans_to_tags(spans, n_words, "bioes")]
    tags = [tag.replace("S-", "U-", 1) if tag[0] == "S" else tag for tag in tags]
    assert tags_to_spans(tags, "bioes") == spans


@given(case=flat_spans())
def test_seqeval_strict_reads_the_same_spans(case):
    spans, n_words = case
    tags = spans_to_tags(spans, n_words)
    strict = [(e.start, e.end - 1, e.tag) for e in Entities([tags], IOB2).entities[0]]
    assert strict == spans
    assert [(start, end, label) for label, start, end in get_entities(tags)] == spans


@given(cases=st.lists(flat_spans(), min_size=1, max_size=5), scheme=st.sampled_from(SCHEMES))
def test_detected_scheme_reads_the_spans(cases, scheme):
    sequences = [spans_to_tags(spans, n_words, scheme) for spans, n_words in cases]
    detected = detect_scheme(sequences)
    assert detected == scheme or not any(spans for spans, _ in cases)
    assert [tags_to_spans(tags, detected) for tags in sequences] == [spans for spans, _ in cases]


@pytest.mark.parametrize(
    ("sequences", "scheme"),
    [
        ([["O", "O"]], "iob2"),
        ([["B-a", "I-a"], ["O"]], "iob2"),
        ([["I-a", "I-a"], ["O"]], "iob1"),
        ([["I-a", "B-a"]], "iob1"),
        ([["O"], ["B-a", "E-a"]], "bioes"),
        ([["U-a"]], "bioes"),
    ],
)
def test_detect_scheme(sequences, scheme):
    assert detect_scheme(sequences) == scheme


def test_a_corpus_of_two_schemes_is_an_error_that_says_where():
    with pytest.raises(TagError, match=r"neither IOB1 nor IOB2: record 1 word 1 .*'I-b', record 0 word 0 .*'B-a'"):
        detect_scheme([["B-a"], ["O", "I-b"]])
    with pytest.raises(TagError, match=r"x\.tsv 7 word 0 .*'I-b', x\.tsv 4 word 0"):
        detect_scheme([["B-a"], ["I-b"]], ["x.tsv 4", "x.tsv 7"])


@pytest.mark.parametrize(
    ("tags", "scheme", "message"),
    [
        (["O", "I-a"], "iob2", r"word 1: 'I-a' continues no entity"),
        (["B-a", "I-b"], "iob2", r"word 1: 'I-b' continues no entity"),
        (["B-a", "E-a"], "iob2", r"word 1: 'E-a' is not a tag of IOB2"),
        (["S-a"], "iob1", r"word 0: 'S-a' is not a tag of IOB1"),
        (["B-a", "O"], "bioes", r"word 1: 'O' after an entity 'a'"),
        (["B-a"], "bioes", r"word 0: the sentence ends inside an entity 'a'"),
        (["E-a"], "bioes", r"word 0: 'E-a' continues no entity"),
        (["X-a"], "iob2", r"word 0: unknown tag 'X-a'"),
        (["B-"], "iob2", r"word 0: unknown tag 'B-'"),
        (["B"], "iob2", r"word 0: unknown tag 'B'"),
        (["o"], "iob2", r"word 0: unknown tag 'o'"),
    ],
)
def test_tags_that_the_scheme_does_not_allow(tags, scheme, message):
    with pytest.raises(TagError, match=message):
        tags_to_spans(tags, scheme)


def test_touching_pairs():
    spans = [Span(0, 1, "a"), Span(2, 2, "a"), Span(3, 3, "b"), Span(5, 5, "b")]
    assert touching_pairs(spans) == [(spans[0], spans[1])]
    check_flat(spans)
