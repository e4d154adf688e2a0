"""Label sets: order, texts and the files they are stored in."""

import pytest

from common.data.labels import LabelSet, normalise_type

LABELS = LabelSet(("rna", "cell type"), ("An RNA.", "A kind of cell."), "Anything else.")


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("cell_type", "cell type"),
        ("Chemical", "chemical"),
        (" DNA ", "dna"),
        ("Cell__Line", "cell line"),
        ("Me\u0301dicament", "m\u00e9dicament"),
        ("\u0130", "i\u0307"),
    ],
)
def test_normalise_type(raw, name):
    assert normalise_type(raw) == name
    assert normalise_type(name) == name


def test_outside_is_the_last_class_and_no_type():
    assert len(LABELS) == LABELS.outside_id == 2
    assert LABELS.label2id == {"rna": 0, "cell type": 1, "O": 2}
    assert list(LABELS.label2desc) == ["rna", "cell type", "O"]
    assert LABELS.texts("names") == ("rna", "cell type")
    assert LABELS.texts("descriptions") == ("An RNA.", "A kind of cell.")


def test_round_trip_through_the_mappings():
    shuffled = dict(reversed(LABELS.label2desc.items()))
    assert LabelSet.from_mappings(dict(reversed(LABELS.label2id.items())), shuffled) == LABELS


@pytest.mark.parametrize(
    ("names", "descriptions", "outside", "message"),
    [
        ((), (), "x", "at least one"),
        (("a", "a"), ("x", "y"), "x", r"repeated: \['a'\]"),
        (("O",), ("x",), "x", "'O' is the class outside"),
        (("o",), ("x",), "x", "'O' is the class outside"),
        (("a", "b"), ("x",), "x", "2 entity types but 1 descriptions"),
        (("a", "b"), ("x", " "), "x", "'b' has no description"),
        (("a",), ("x",), "", "'O' has no description"),
    ],
)
def test_bad_label_sets(names, descriptions, outside, message):
    with pytest.raises(ValueError, match=message):
        LabelSet(names, descriptions, outside)


@pytest.mark.parametrize(
    ("label2id", "label2desc", "message"),
    [
        ({"a": 0}, {"a": "x"}, "no 'O'"),
        ({"a": 0, "O": 5}, {"a": "x", "O": "y"}, r"must be 0..1 with 'O' last"),
        ({"a": 1, "O": 0}, {"a": "x", "O": "y"}, r"must be 0..1 with 'O' last"),
        ({"a": 0, "O": 1}, {"O": "y"}, r"without a description: \['a'\]"),
        ({"a": 0, "O": 1}, {"a": "x", "b": "z", "O": "y"}, r"do not exist: \['b'\]"),
    ],
)
def test_bad_mappings(label2id, label2desc, message):
    with pytest.raises(ValueError, match=message):
        LabelSet.from_mappings(label2id, label2desc)
