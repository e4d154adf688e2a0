"""Raw text to words and sentences: offsets, Unicode, and what no sentence end may cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.text import Alignment, align, sentences_of, words_of

# Texts in which marks, joiners, spaces of many kinds, ideographs and punctuation meet.
ODD = st.text(
    st.sampled_from("aBé1_-/.,;(\u0301\u093f\u200d\u200b\u00ad\u00a0\u3000\u2028 \t\n\r日カ👍\u2640\ufe0f\x00'μ"),
    max_size=40,
)
TEXTS = st.one_of(ODD, st.text(st.characters(exclude_categories=["Cs"]), max_size=40))


@given(TEXTS)
def test_words_are_where_they_say(text):
    words = words_of(text)
    end = 0
    for word in words:
        assert text[word.start : word.end] == word.text != ""
        assert word.start >= end
        assert not any(character.isspace() for character in word.text)
        end = word.end
    covered = {index for word in words for index in range(word.start, word.end)}
    assert {index for index, character in enumerate(text) if character.isalnum()} <= covered


@given(TEXTS)
def test_words_of_words_are_the_same(text):
    words = [word.text for word in words_of(text)]
    assert [word.text for word in words_of(" ".join(words))] == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("IL-2/CD28-induced (10\u00a0mg).", "IL - 2 / CD28 - induced ( 10 mg ) ."),
        ("p < 0.05, 5'-UTR", "p < 0 . 05 , 5 ' - UTR"),
        ("NF-\u03baB c-Myc_2", "NF - \u03baB c - Myc_2"),
        ("cafe\u0301 \u0939\u093f\u0928\u094d\u0926\u0940", "cafe\u0301 \u0939\u093f\u0928\u094d\u0926\u0940"),
        ("日本の gene", "日 本 の gene"),
        ("\u200bgene\u200b x\u00ady\x00z", "gene x\u00ady z"),
        ("\U0001f468\u200d\U0001f469 \u2600\ufe0f.", "\U0001f468\u200d\U0001f469 \u2600\ufe0f ."),
        (" \n\t ", ""),
    ],
)
def test_words(text, words):
    assert [word.text for word in words_of(text)] == words.split(" " if words else None)


def test_alignment():
    words = words_of("colchicine-like drug")  # colchicine, -, like, drug
    assert align(words, 0, 10) == Alignment(0, 0, True)
    assert align(words, 0, 15) == Alignment(0, 2, True)
    assert align(words, 3, 12) == Alignment(0, 2, False)
    assert align(words, 15, 20) == Alignment(3, 3, True)  # white space at the ends does not count
    assert align(words, 15, 16) is None
    assert align(words, 4, 4) is None
    assert align([], 0, 3) is None


@pytest.mark.parametrize(
    "text",
    [
        "Gout fell.| It rose (Fig. 2).| Smith et al. 2010 saw E. coli vs. B. subtilis in vitamin C.| The end!| Is it?",
        'He said: "Yes."| She did not.| Dr. J. Smith came at 5 p.m. and left.',
        "It was 0.5 mg.| 12 men had it, i.e. half.| See ref. 3 and No. 5.",
        "p < . 05 and 0 . 05 mg .| Next one .",
        "A title\n|\nThe text under it. |\nA line that goes on\nand on.",
        "Results\n|We wrapped this paragraph to a width of\n"
        "about forty characters, so that each line\nends where it must.| Next.",
        "今日は。|明日！|あ",
    ],
)
def test_sentences(text):
    expected = [part.strip() for part in text.split("|")]
    text = text.replace("|", "")
    assert [text[start:end] for start, end in sentences_of(text)] == [part for part in expected if part]


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n", "\t\r\n"])
def test_white_space_before_a_line_end_changes_no_sentence(end):
    """The third line's first word would not have fitted on the second, but would on a line of eleven."""
    assert len(sentences_of(end.join(["aaaa bbbbb", "cccc d", "eeee f"]))) == 1
    assert len(sentences_of(end.join(["aaaa bbbbb", "cccc d", "eee f"]))) == 2


def test_other_rules_of_sentences():
    text = "One. Two\r\nthree.\n\nFour"
    parts = {rule: [text[a:b] for a, b in sentences_of(text, rule)] for rule in ("lines", "whole")}
    assert parts == {"lines": ["One. Two", "three.", "Four"], "whole": [text]}
    assert [text[a:b] for a, b in sentences_of(text, "whole", breaks=[5])] == ["One.", text[5:]]
    assert sentences_of(" \n ") == []


@given(ODD, st.sampled_from(["split", "lines", "whole"]), st.data())
def test_sentences_cover_the_text_and_cut_no_entity(text, rule, data):
    places = st.integers(0, len(text))
    keep = [tuple(sorted(pair)) for pair in data.draw(st.lists(st.tuples(places, places), max_size=3))]
    breaks = data.draw(st.lists(places, max_size=2))
    ranges = sentences_of(text, rule, breaks=breaks, keep=keep)
    end = 0
    for start, stop in ranges:
        assert not text[end:start].strip()
        assert text[start:stop] == text[start:stop].strip() != ""
        end = stop
    assert not text[end:].strip()
    words = words_of(text)
    for start, stop in keep:
        inside = [word for word in words if word.start >= start and word.end <= stop]
        homes = {index for word in inside for index, (a, b) in enumerate(ranges) if a <= word.start < b}
        assert len(homes) <= 1
