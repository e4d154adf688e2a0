"""Corpora of all formats: what is read as what, what is refused, and what a bad entity costs."""

import json
import re
from pathlib import Path

import pytest
from tiny import REAL_DATA, message_of, needs_real_data

from common.data.dataset import count_types
from common.data.spans import Span
from common.errors import InputError
from common.paths import PROJECT_ROOT
from dataset_generation.corpus import Corpus
from dataset_generation.formats import FORMATS, format_name
from dataset_generation.generate import marked
from dataset_generation.options import ReadOptions
from dataset_generation.reading import flatten
from dataset_generation.sources import read_local

EXAMPLES = PROJECT_ROOT / "examples" / "corpora"
EXAMPLE_FILES = sorted(path for path in EXAMPLES.iterdir() if path.name != "README.md")
WITHOUT_DOCUMENTS = ("bmes.tsv", "multiconer.conll", "one_type.tsv", "words.csv")
EXAMPLE = [
    "[Colchicine](chemical) shortens attacks of [gout](disease)",
    "Twelve men with [gout](disease) took [colchicine](chemical) at a dose of 0 . 5 mg .",
    "Two of them had [diarrhoea](disease) on the first day .",
    "No [allopurinol](chemical) - induced [rash](disease) was seen .",
    "Loss of [KLT4](gene) in [bowel cancer](disease)",
    "The [KLT4](gene) gene was lost in 9 of 30 tumours .",
    "[Zinc](chemical) did not bind its product ( Fig . 2 ) .",
    "Mice without [KLT4](gene) developed [bowel cancer](disease) within a year .",
    "[Salbutamol](chemical) and [tremor](disease) in children with [asthma](disease)",
    "We followed 40 children with [asthma](disease) / [hay fever](disease) .",
    "Inhaled [salbutamol](chemical) caused [tremor](disease) in three .",
    "The [VRN9](gene) variant made no difference .",
]


def read(tmp_path: Path, name: str, text: str | bytes, **options) -> Corpus:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_local(path, ReadOptions(**options))


def sentences(corpus: Corpus) -> list[str]:
    return [marked(sentence) for sentence in corpus.splits["train"]]


def error(tmp_path: Path, name: str, text: str | bytes, **options) -> str:
    return message_of(read, tmp_path, name, text, **options).removeprefix(f"{tmp_path / name}: ")


def lines(*sentences: str, separator: str = "\t") -> str:
    """One sentence a string, one word a blank-separated part, columns by slashes."""
    return "\n".join("".join(row.replace("/", separator) + "\n" for row in sentence.split()) for sentence in sentences)


# The examples


@pytest.mark.parametrize("path", EXAMPLE_FILES, ids=lambda path: path.name)
def test_every_example_holds_the_same_corpus(path):
    one_type = path.stem == "one_type"
    corpus = read_local(path, ReadOptions(type="Disease" if one_type else None))
    expected = [re.sub(r"\[([^]]*)\]\((?!disease)\w+\)", r"\1", line) for line in EXAMPLE] if one_type else EXAMPLE
    assert sentences(corpus) == expected
    documents = [sentence.document for sentence in corpus.splits["train"]]
    if path.name in WITHOUT_DOCUMENTS:
        assert set(documents) == {None}
    else:
        assert [len(set(documents[first : first + 4])) for first in (0, 4, 8)] == [1, 1, 1]
        assert len(set(documents)) == 3


def test_the_examples_are_of_every_format_that_is_text():
    options = ReadOptions()
    found = {format_name(path, options) for path in EXAMPLE_FILES if path.is_file()} | {"brat"}
    assert found == set(FORMATS) - {"parquet"}


# Columns


@pytest.mark.parametrize(
    "text",
    [
        lines("1/Gout/B-D 2/fell/O", "1/No/O 2/asthma/B-D"),  # an index
        lines("0/Gout/B-D 1/fell/O", "0/No/O 1/asthma/B-D"),
        lines("7/Gout/B-D 7/fell/O", "8/No/O 8/asthma/B-D"),  # a sentence's number
        lines("doc1/Gout/B-D doc1/fell/O", "doc1/No/O doc1/asthma/B-D"),
        lines("Gout/NN/B-D fell/VBD/O", "No/DT/O asthma/NN/B-D"),  # parts of speech
        lines("Gout/B-D/B-NP fell/O/B-VP", "No/O/B-NP asthma/B-D/I-NP"),  # chunks
        lines("Gout/B-D/0.91 fell/O/0.5", "No/O/1e-3 asthma/B-D/1"),  # scores
        lines("B-D/Gout O/fell", "O/No B-D/asthma"),  # the tag first
        lines("Gout/B-D/O fell/O/O", "No/O/O asthma/B-D/O"),  # a layer of tags that is empty
        lines("Gout/_/_/B-D fell/_/_/O", "No/_/_/O asthma/_/_/B-D", separator=" "),
        lines("Gout/B-D/ fell/O/", "No/O/ asthma/B-D/"),  # a trailing tab
        lines("Gout/B-D fell/O", "No/O asthma/B-D").replace("\n", "  \n"),  # trailing spaces
        lines("Gout/B-D fell/O", "No/O asthma/B-D", separator="  ").replace("\n", "  \n"),
    ],
)
def test_columns_are_found_by_what_they_hold(tmp_path, text):
    assert sentences(read(tmp_path, "x.tsv", text)) == ["[Gout](d) fell", "No [asthma](d)"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            lines("gout/Gout/B-D fall/fell/O"),
            "columns 0 ('gout') and 1 ('Gout') may all hold the words; name them: --columns word=0",
        ),
        (
            lines("Gout/B-D/B-X fell/O/O"),
            "columns 1 ('B-D') and 2 ('B-X') all hold tags; name the one to read: --columns tag=1",
        ),
        (lines("Gout/B-NP fell/B-VP"), "column 1 ('B-NP') holds chunks (NP, VP, ...), not entities"),
        (lines("Gout/B-D;B-X fell/O"), "column 1 holds several tags in one, as in 'B-D;B-X'"),
        (lines("1/B-D 2/O"), "no column holds words: 0 ('1') are numbers, tags or the same throughout a sentence"),
        (lines("Gout fell"), "one column alone, 'Gout': expected a word and a tag in each line"),
    ],
)
def test_columns_that_fit_two_readings_or_none(tmp_path, text, message):
    assert error(tmp_path, "x.tsv", text).startswith(message)


def test_named_columns(tmp_path):
    text = lines("gout/Gout/B-D/B-X fall/fell/O/O")
    assert sentences(read(tmp_path, "x.tsv", text, columns="word=1,tag=2")) == ["[Gout](d) fell"]
    assert sentences(read(tmp_path, "x.tsv", text, columns="word=0,tag=-1")) == ["[gout](x) fall"]
    assert "--columns 4: the lines have 4 columns, numbered from 0" in error(tmp_path, "x.tsv", text, columns="tag=4")
    for bad in ("", "word", "word=", "name=1", "word=1,word=2"):
        with pytest.raises(InputError, match="--columns must be ROLE=COLUMN"):
            ReadOptions(columns=bad)


def test_columns_are_those_of_all_files_together(tmp_path):
    (tmp_path / "train.tsv").write_text(lines("Gout/O/B-D fell/O/O"))
    (tmp_path / "test.tsv").write_text(lines("fever/B-X/O fell/O/O"))
    with pytest.raises(InputError, match=r"columns 1 .* and 2 .* all hold tags"):
        read_local(tmp_path)


# Lines that are no words


def test_document_marks_and_comments_are_no_words(tmp_path):
    text = (
        "-DOCSTART- -X- O\ngout I-D\n-DOCSTART- -X- O\nfever I-D\nfell O\n# text = Lack of B-12\n# O\nit O\n"
        "###MEDLINE:90001\n\ngout I-D\n# newdoc id = d4\n# id 02-ab domain=med\ngout I-D\n"
    )
    corpus = read(tmp_path, "x.conll", text)
    assert sentences(corpus) == ["[gout](d)", "[fever](d) fell", "# it", "[gout](d)", "[gout](d)"]
    assert [sentence.document for sentence in corpus.splits["train"]] == ["x:1", "x:2", "x:2", "90001", "d4"]


def test_a_comment_with_as_many_columns_as_a_word(tmp_path):
    text = "# id 01-ab domain=med\nasthma _ _ B-D\n\n# _ _ O\nof _ _ O\n"
    assert sentences(read(tmp_path, "x.conll", text)) == ["[asthma](d)", "# of"]
    # No other word has this tag, but others have its type.
    assert sentences(read(tmp_path, "x.tsv", lines("C/B-lang #/I-lang runs/O"))) == ["[C #](lang) runs"]


@pytest.mark.parametrize("tag", ["_", "O"])
def test_multiword_tokens_and_empty_nodes_of_conllu_are_no_words(tmp_path, tag):
    text = (
        f"# text = don't cough\n1-2\tdon't\t{tag}\n1\tdo\tO\n2\tn't\tO\n2.1\tyou\t{tag}\n3\tcough\tB-D\n\n"
        "# text = gout\n1\tGout\tB-D\n2\tfell\tO\n"
    )
    assert sentences(read(tmp_path, "x.conllu", text)) == ["do n't [cough](d)", "[Gout](d) fell"]
    # A tag of its own is not lost.
    tagged = read(tmp_path, "x.conllu", text.replace(f"2.1\tyou\t{tag}", "2.1\tyou\tB-D"), columns="word=1,tag=2")
    assert sentences(tagged) == ["do n't [you](d) [cough](d)", "[Gout](d) fell"]
    # Where lines have no numbers, these are words.
    for rows, expected in (("2-3/x/O of/y/O 5/x/B-D", "2-3 of [5](d)"), ("2.5/x/O", "2.5")):
        assert sentences(read(tmp_path, "x.tsv", lines(rows), columns="word=0,tag=2")) == [expected]


def test_lines_of_conllu_are_counted_with_those_that_are_no_words(tmp_path):
    text = "1-2\tdon't\t_\n1\tdo\tO\n2\tn't\n"
    assert "word 1 (line 3): expected a word and a tag" in error(tmp_path, "x.conllu", text, columns="word=1,tag=2")


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_only_tabs_spaces_and_line_ends_cut(tmp_path, separator):
    odd = "\u00a0\u202f\u3000\u0085\u001c\u2028"
    text = "".join(f"a{character}b{separator}B-D\n" for character in odd)
    (sentence,) = read(tmp_path, "x.conll", text).splits["train"]
    assert sentence.words == tuple(f"a{character}b" for character in odd)


def test_byte_order_marks_and_line_ends(tmp_path):
    assert sentences(read(tmp_path, "x.tsv", b"\xef\xbb\xbfGout\tB-D\r\nfell\tO\r\n\r\nNo\tO\r\n")) == [
        "[Gout](d) fell",
        "No",
    ]
    record = '{"tokenized_text": ["Gout"], "ner": [[0, 0, "d"]]}'
    for text in (f"\ufeff[{record}]", f"{record}\n{record}\n", f"\ufeff{record}"):
        assert set(sentences(read(tmp_path, "x.json", text))) == {"[Gout](d)"}
    assert sentences(read(tmp_path, "x.jsonl", f"[{record}]")) == ["[Gout](d)"]


# Schemes and forms


def test_tags_without_type(tmp_path):
    text = lines("lung/B cancer/I fell/O")
    assert sentences(read(tmp_path, "x.tsv", text, type="Disease")) == ["[lung cancer](disease) fell"]
    assert "word 0: tag 'B' names no type; if the corpus has but one, give it with --type NAME" in error(
        tmp_path, "x.tsv", text
    )
    assert "--type x: every tag of the corpus names its type" in error(tmp_path, "x.tsv", lines("a/B-D"), type="x")


def test_tags_without_prefix(tmp_path):
    text = lines("lung/D cancer/D of/O KLT4/G", "No/O")
    assert sentences(read(tmp_path, "x.tsv", text, tag_scheme="io")) == ["[lung cancer](d) of [KLT4](g)", "No"]
    assert "word 0: unknown tag 'D'" in error(tmp_path, "x.tsv", text)
    assert "tag 'B-D' has a prefix" in error(tmp_path, "x.tsv", lines("a/B-D b/O"), tag_scheme="io")
    with pytest.raises(InputError, match="--type is for tags B, I and O, which --tag-scheme io does not have"):
        ReadOptions(tag_scheme="io", type="D")


@pytest.mark.parametrize("tags", ["B-D M-D E-D S-D O", "B-D I-D L-D U-D O", "B-D M-D E-D W-D O", "B-D I-D E-D S-D O"])
def test_schemes_that_mark_the_end(tmp_path, tags):
    corpus = read(tmp_path, "x.tsv", "".join(f"{w}\t{t}\n" for w, t in zip("abcde", tags.split(), strict=True)))
    assert (sentences(corpus), corpus.scheme) == (["[a b c](d) [d](d) e"], "bioes")


def test_records_of_words(tmp_path):
    expected = ["[Gout](d) fell"]
    record = {"tokens": ["Gout", "fell"], "ner_tags": ["B-D", "O"]}
    assert sentences(read(tmp_path, "x.json", json.dumps([record]))) == expected
    assert (
        sentences(read(tmp_path, "x.jsonl", json.dumps({"words": ["Gout", "fell"], "labels": ["B-D", "O"]})))
        == expected
    )
    both = {"text": "Gout fell", "tokens": ["Gout", "fell"], "ner_tags": ["B-D", "O"]}
    assert sentences(read(tmp_path, "x.jsonl", json.dumps(both))) == expected
    prodigy = {"text": "Gout fell", "tokens": [{"text": "Gout"}], "spans": [{"start": 0, "end": 4, "label": "D"}]}
    assert sentences(read(tmp_path, "x.jsonl", json.dumps(prodigy))) == expected
    other = json.dumps({"form": ["Gout", "fell"], "mark": [1, 0], "tokens": [5, 6]})
    named = {"columns": "word=form,tag=mark", "classes": ("O", "B-D")}
    assert sentences(read(tmp_path, "x.jsonl", other, **named)) == expected
    assert "tag 1 is a number and nothing names the classes" in error(
        tmp_path, "x.jsonl", other, columns="word=form,tag=mark"
    )
    assert "no field 'none' (--columns word=none)" in error(tmp_path, "x.jsonl", other, columns="word=none")
    assert (
        sentences(read(tmp_path, "x.json", json.dumps([{"tokens": ["Gout", "fell"], "ner": [[0, 0, "D"]]}])))
        == expected
    )
    none = json.dumps([{"tokens": ["Gout", "fell"], "ner": []}])
    assert sentences(read(tmp_path, "x.json", none)) == ["Gout fell"]
    # As doccano writes it: the lists count characters.
    offsets = {"text": "Gout fell twice", "tokens": ["Gout", "fell", "twice"], "labels": [[0, 2, "D"]]}
    assert "entity (0, 2, 'D') begins or ends inside a word" in error(tmp_path, "x.jsonl", json.dumps(offsets))
    offsets["labels"] = [{"start": 0, "end": 4, "label": "D"}]
    assert sentences(read(tmp_path, "x.jsonl", json.dumps(offsets))) == ["[Gout](d) fell twice"]
    assert sentences(read(tmp_path, "x.jsonl", json.dumps(offsets | {"labels": []}))) == ["Gout fell twice"]


def test_a_table_with_a_sentence_column(tmp_path):
    text = 'Sentence #;Word;POS;Tag\n1;Gout;N;B-D\n;fell;V;O\n2;"a;b";N;O\n'
    assert sentences(read(tmp_path, "x.csv", text)) == ["[Gout](d) fell", "a;b"]
    named = {"columns": "sentence=S,word=W,tag=T"}
    assert sentences(read(tmp_path, "x.csv", "S,W,T,Word\n1,Gout,B-D,x\n1,fell,O,x\n", **named)) == ["[Gout](d) fell"]
    assert "no column of sentences, found ['word', 'tag']; name it: --columns sentence=" in error(
        tmp_path, "x.csv", "word,tag\na,O\n"
    )
    assert "row 2 (counted from 0): sentence '1' continues after another one" in error(
        tmp_path, "x.csv", "sentence,word,tag\n1,a,O\n2,b,O\n1,c,O\n"
    )
    assert "row 0 (counted from 0): 2 values for 3 columns" in error(tmp_path, "x.csv", "sentence,word,tag\n1,a\n")


def test_rows_before_the_first_sentence_are_a_record(tmp_path):
    text = "sentence,word,tag\n,a,O\n1,b,B-D\n2,c,X\n"
    assert "record 2 (counted from 0): word 0: unknown tag 'X'" in error(tmp_path, "x.csv", text)
    assert "record 0 (counted from 0): word 0: unknown tag 'X'" in error(tmp_path, "x.csv", text.replace("a,O", "a,X"))


# Raw text


def text_record(text: str, *mentions: list, **more) -> str:
    return json.dumps({"text": text, "label": mentions, **more}) + "\n"


def test_entities_off_word_edges(tmp_path):
    text = text_record("Paracetamolum helps.", [0, 11, "Drug"], [14, 19, "Act"])
    message = "record 0 (counted from 0): entity (0, 11, 'Drug') begins or ends inside a word: 'Paracetamol' in 'Parace"
    assert error(tmp_path, "x.jsonl", text).startswith(message)
    snapped, dropped = (read(tmp_path, "x.jsonl", text, off_edges=rule) for rule in ("snap", "drop"))
    assert sentences(snapped) == ["[Paracetamolum](drug) [helps](act) ."]
    assert snapped.counts["train"]["entities_off_edges_widened"] == 1
    assert sentences(dropped) == ["Paracetamolum [helps](act) ."]
    assert (dropped.counts["train"]["entities_read"], dropped.counts["train"]["entities_off_edges_dropped"]) == (2, 1)


def test_no_sentence_end_cuts_an_entity(tmp_path):
    corpus = read(tmp_path, "x.jsonl", text_record("The end! Gene. Rare.", [4, 13, "G"]))
    assert sentences(corpus) == ["The [end ! Gene](g) .", "Rare ."]
    assert corpus.counts["train"]["sentence_ends_inside_entities"] == 1


@pytest.mark.parametrize(
    ("mention", "message"),
    [
        ([0, 99, "D"], "entity (0, 99, 'D') is out of range for 12 characters"),
        ([3, 3, "D"], "entity (3, 3, 'D') is out of range"),
        ([0, 1.5, "D"], "start and end of an entity must be integers, got 0 and 1.5"),
        ([4, 5, "D"], "entity (4, 5, 'D') holds no word: ' '"),
        ([0, 4, ""], "the type of an entity must be a non-empty string"),
        ([0, 4, "\ud800"], "an entity type holds half of a surrogate pair: '\\ud800'"),
        ([0, 4, "o"], "'o' cannot be an entity type"),
        ([0, 4, "9" * 5000], "'999"),
        (
            {"start": 0, "end": 4, "label": "D", "text": "Gift"},
            "entity (0, 4, 'D') says 'Gift' but 'Gout' stands there",
        ),
        ("Gout", "an entity must be [start, end, type] or an object, got 'Gout'"),
    ],
)
def test_a_bad_entity_costs_the_entity(tmp_path, mention, message):
    text = text_record("Gout fell. A", [5, 9, "V"], mention)
    assert error(tmp_path, "x.jsonl", text).startswith(f"record 0 (counted from 0): {message}")
    corpus = read(tmp_path, "x.jsonl", text, skip_invalid=True)
    assert sentences(corpus) == ["Gout [fell](v) .", "A"]
    assert (corpus.counts["train"]["entities_invalid"], corpus.skipped) == (1, {"train": 0})


def test_offsets_in_utf16_are_recognised(tmp_path):
    record = text_record("\U0001f637 Gout fell.", {"start": 3, "end": 7, "labels": ["D"], "text": "Gout"})
    assert "offsets must count characters, not UTF-16 units" in error(tmp_path, "x.jsonl", record)


def test_texts_as_they_are_cut(tmp_path):
    text = text_record("One. Two\nthree.", doc_id=7)
    assert sentences(read(tmp_path, "x.jsonl", text, sentences="whole")) == ["One . Two three ."]
    corpus = read(tmp_path, "x.jsonl", text, sentences="lines")
    assert sentences(corpus) == ["One . Two", "three ."]
    assert {sentence.document for sentence in corpus.splits["train"]} == {"7"}


def test_other_fields_of_texts(tmp_path):
    record = json.dumps(
        {"body": "Gout fell.", "marks": [{"start_offset": 0, "end_offset": 4, "type": "D"}], "pmid": 12}
    )
    corpus = read(tmp_path, "x.jsonl", record, columns="text=body,spans=marks,document=pmid")
    assert [(marked(s), s.document) for s in corpus.splits["train"]] == [("[Gout](d) fell .", "12")]
    assert "none of the known forms: fields ['body', 'marks', 'pmid']" in error(tmp_path, "x.jsonl", record)
    assert "no field of entities: found ['text']" in error(tmp_path, "x.jsonl", '{"text": "a"}')
    answered = text_record("Gout fell.", [0, 4, "D"], answer=["accept"])
    assert sentences(read(tmp_path, "x.jsonl", answered)) == ["[Gout](d) fell ."]


def test_annotations_of_label_studio(tmp_path):
    def annotation(end: int, **more) -> dict:
        value = {"start": 0, "end": end, "labels": ["D", "E"] if end == 4 else ["D"]}
        return {"result": [{"type": "labels", "value": value}, {"type": "choices", "value": {}}], **more}

    def task(*annotations: dict) -> str:
        return json.dumps([{"id": 5, "data": {"text": "Gout fell"}, "annotations": annotations}])

    both = read(tmp_path, "x.json", task(annotation(4)), overlaps="first")
    assert (sentences(both), both.splits["train"][0].document) == (["[Gout](d) fell"], "5")
    assert both.counts["train"]["entities_overlapping"] == 1
    assert "2 annotations that differ" in error(tmp_path, "x.json", task(annotation(4), annotation(9)))
    chosen = task(annotation(4), annotation(9, ground_truth=True), annotation(4, was_cancelled=True))
    assert sentences(read(tmp_path, "x.json", chosen)) == ["[Gout fell](d)"]
    hypertext = {"type": "hypertextlabels", "value": {"start": "/p[1]/text()[1]", "hypertextlabels": ["D"]}}
    assert "the type of an entity must be a non-empty string, got {'start': '/p[1]" in error(
        tmp_path, "x.json", task({"result": [hypertext]})
    )
    for annotations, message in (
        ([None], "the annotations of a task must be objects, got [None]"),
        ([{"result": ["Gout"]}], "an entity must be [start, end, type] or an object, got 'Gout'"),
    ):
        assert message in error(tmp_path, "x.json", task(*annotations))
    left_out = read(tmp_path, "x.json", task(annotation(4, was_cancelled=True))[:-1] + "," + task(annotation(9))[1:])
    assert (sentences(left_out), left_out.counts["train"]["records_left_out"]) == (["[Gout fell](d)"], 1)


def test_an_annotation_that_cannot_be_read_is_not_passed_over_for_another(tmp_path):
    region = {"type": "labels", "value": {"start": 0, "end": 4, "labels": ["D"], "text": "Bout"}}
    annotations = [{"result": []}, {"result": [region]}]
    task = json.dumps([{"id": 5, "data": {"text": "Gout fell"}, "annotations": annotations}])
    assert "2 annotations that differ" in error(tmp_path, "x.json", task)


def test_annotations_of_a_task_as_records(tmp_path):
    def record(number: int, *starts: int) -> dict:
        label = [{"start": start, "end": start + 4, "labels": ["D"]} for start in starts]
        return {"id": 7, "text": "Gout fell", "label": label, "annotation_id": number, "annotator": number}

    assert "records 0 and 2 (counted from 0) are annotations of task 7 that differ" in error(
        tmp_path, "x.json", json.dumps([record(1, 0, 5), record(2, 5, 0), record(3, 0)])
    )
    assert len(sentences(read(tmp_path, "x.json", json.dumps([record(1, 0), record(2, 0)])))) == 2


def test_the_passages_of_a_document_are_of_one_document_and_one_record(tmp_path):
    def document(*texts: str) -> dict:
        return {"passages": [{"offset": 0, "text": text} for text in texts]}

    text = json.dumps({"documents": [document("Gout", "It fell", " ", "\n"), document("Fever")]})
    corpus = read(tmp_path, "x.json", text, skip_invalid=True)
    assert [sentence.document for sentence in corpus.splits["train"]] == ["0", "0", "1"]
    assert (corpus.counts["train"]["records"], corpus.skipped["train"]) == (2, 1)
    assert "all 1 records are invalid" in error(
        tmp_path, "x.json", json.dumps({"documents": [document(" ", " ")]}), skip_invalid=True
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "x.pubtator",
            "1|t|Gout\n2|a|fell\n",
            "record 0 (counted from 0; begins at line 1): a document begins with ID|t|title and ID|a|abstract",
        ),
        ("x.txt", "1|t|Gout\n1|a|\n2|t|x\n", "a line of another document inside 1: '2|t|x' (is a blank line missing?)"),
        (
            "x.pubtator",
            "1|t|Gout\n1|a|fell\n1\t0\t3\tGout\tD\n",
            "entity (0, 3, 'D') says 'Gout' but 'Gou' stands there",
        ),
        (
            "x.pubtator",
            "1|t|Gout\n1|a|fell\n1\t0\t9\tGout fell\tD\n",
            "entity (0, 9, 'D') goes over the end of a title or passage",
        ),
        ("x.pubtator", "1|t|Gout\n1|a|fell\n1\t0\tx\tGout\tD\n", "start and end of an entity must be integers"),
        ("x.pubtator", "1|t|Gout\n1|a|fell\n1\t-1\t4\tGout\tD\n", "an entity must be ID, start, end, text and type"),
        ("x.json", '{"documents": [{"id": "1", "passages": [{"text": 5}]}]}', "a passage needs a string text"),
        (
            "x.json",
            '{"documents": [{"passages": [{"text": "a b c", "annotations": [{"infons": {"type": "D"}, "locations": '
            '[{"offset": 0, "length": 1}, {"offset": 4, "length": 1}]}]}]}]}',
            "has 2 places; only contiguous entities can be read",
        ),
        (
            "x.json",
            '{"documents": [{"passages": [{"text": "a"}], "annotations": [{"infons": {"type": "D"}}]}]}',
            "a document has annotations of its own; only its passages or their sentences can hold entities",
        ),
        ("x.jsonl", '{"a": 1, "a": 2}', "record 0 (counted from 0): cannot be read as JSON: repeated key 'a'"),
        ("x.jsonl", '{"a": ' * 50_000, "record 0 (counted from 0): cannot be read as JSON: nested too deep"),
        ("x.json", "[" * 100_000, "cannot be read as JSON: nested too deep"),
        ("x.json", f"[{'9' * 5000}]", "cannot be read as JSON: Exceeds the limit"),
        ("x.json", "[NaN]", "cannot be read as JSON: NaN is no JSON number"),
        ("x.jsonl", '{"text": "\\ud800", "label": []}', "the text holds half of a surrogate pair"),
        ("x.jsonl", '{"text": " ", "label": []}', "the text has no words"),
        (
            "x.jsonl",
            '{"tokens": ["Gout"], "tags": ["O"], "document": "\\ud800"}',
            "record 0 (counted from 0): the name of its document holds half of a surrogate pair: '\\ud800'",
        ),
        (
            "x.conll",
            "Gout\tB-D\r\rfell\tO\r",
            "word 0 (line 1): a carriage return alone ends no line: 'B-D\\r\\rfell'",
        ),
        (
            "x.csv",
            "sentence,word,tag,Tag\n1,Gout,O,B-D\n",
            "several columns of tags are called 'tag', found ['sentence', 'word', 'tag', 'Tag']; rename one",
        ),
        (
            "x.tsv",
            "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n",
            "is a Git LFS pointer, not the data",
        ),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    found = error(tmp_path, name, text)
    assert message in found
    assert len(found) < 400


def test_text_files_are_what_they_begin_like(tmp_path):
    assert sentences(read(tmp_path, "x.txt", text_record("Gout fell", [0, 4, "D"]))) == ["[Gout](d) fell"]
    assert sentences(read(tmp_path, "x.txt", "1|t|Gout\n1\t0\t4\tGout\tD\n")) == ["[Gout](d)"]
    assert sentences(read(tmp_path, "x.data", "Gout B-D\nfell O\n", format="conll")) == ["[Gout](d) fell"]


def test_relations_of_pubtator_are_passed_over(tmp_path):
    """BC5CDR's have four columns, BioRED's five."""
    relations = "1\tCID\tD1\tD2\n1\tAssociation\t672\tD2\tNovel\n"
    corpus = read(tmp_path, "x.pubtator", f"1|t|Gout\n1|a|fell\n1\t0\t4\tGout\tD\tD1\n{relations}")
    assert (sentences(corpus), corpus.counts["train"]["entities_read"]) == (["[Gout](d)", "fell"], 1)


def test_a_tab_inside_an_entity_of_brat(tmp_path):
    (tmp_path / "a.txt").write_text("Gout\tpain fell")
    (tmp_path / "a.ann").write_text("T1\tD 0 9\tGout\tpain\n")
    assert sentences(read_local(tmp_path)) == ["[Gout pain](d) fell"]


def test_brat_files(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"Gout\r\nfell twice.")
    (tmp_path / "a.ann").write_text("T1\tD 0 4\tGout\nA1\tNegated T1\nT2\tV 6 16\tfell twice\n#1\tNote T1\tB-12\n")
    (tmp_path / "notes.txt").write_text("not annotated")
    corpus = read_local(tmp_path)
    assert sentences(corpus) == ["[Gout](d)", "[fell twice](v) ."]
    assert corpus.origin["ignored"] == ["notes.txt"]
    with (tmp_path / "a.ann").open("a") as stream:
        stream.write("T3\tD 0 4;11 16\tGout twice\n")
    with pytest.raises(InputError, match=r"a\.ann: the document: line 5: entity T3 is in 2 pieces"):
        read_local(tmp_path)
    for line in (" T3\tD 0 4\tGout", "{}"):
        (tmp_path / "a.ann").write_text(f"*\tEquiv T1 T2\n\n{line}\n")
        with pytest.raises(InputError, match=re.escape(f"line 3: no annotation of BRAT begins like this: {line!r}")):
            read_local(tmp_path)
    (tmp_path / "b.ann").touch()
    with pytest.raises(InputError, match=r"b\.ann: has no text b\.txt beside it"):
        read_local(tmp_path, ReadOptions(skip_invalid=True))


def test_the_texts_of_brat_are_hashed(tmp_path):
    (tmp_path / "a.ann").write_text("T1\tD 0 4\tGout\n")
    (tmp_path / "a.txt").write_text("Gout fell")
    before = read_local(tmp_path).origin["sha256"]
    (tmp_path / "a.txt").write_text("Gout rose")
    after = read_local(tmp_path).origin["sha256"]
    assert set(before) == set(after) == {"a.ann", "a.txt"}
    assert {name for name in before if before[name] != after[name]} == {"a.txt"}


# Overlaps and types


def test_overlapping_entities(tmp_path):
    record = {"tokenized_text": ["lung", "cancer", "gene", "loss", "here"]}
    record["ner"] = [[0, 1, "D"], [0, 2, "G"], [0, 1, "d"], [2, 3, "E"], [4, 4, "X"], [4, 4, "X"]]
    text = json.dumps([record])
    assert (
        "spans overlap: (0, 1, 'd') and (0, 2, 'g'); keep one of each such pair with --overlaps longest or first"
        in error(tmp_path, "x.json", text)
    )
    longest = read(tmp_path, "x.json", text, overlaps="longest")
    assert sentences(longest) == ["[lung cancer gene](g) loss [here](x)"]
    assert longest.counts["train"] == {
        "records": 1,
        "sentences": 1,
        "entities_read": 6,
        "entities_repeated": 2,
        "entities_overlapping": 2,
        "entities": 2,
    }
    assert sentences(read(tmp_path, "x.json", text, overlaps="first")) == ["[lung cancer](d) [gene loss](e) [here](x)"]


def test_entities_of_a_record_that_is_left_out_are_not_counted(tmp_path):
    text = text_record("Gout fell. Bowel cancer came.", [0, 4, "D"], [11, 23, "D"], [17, 23, "E"])
    corpus = read(tmp_path, "x.jsonl", text + text_record("Gout rose.", [0, 4, "D"]), skip_invalid=True)
    counts = corpus.counts["train"]
    assert (counts["records"], counts["records_invalid"]) == (2, 1)
    assert counts["entities_read"] == counts["entities"] == 1


def test_of_equally_long_ones_the_earlier_in_the_source_stays():
    spans = [Span(1, 2, "b"), Span(0, 1, "a"), Span(3, 3, "c")]
    assert flatten(spans, "longest") == [Span(1, 2, "b"), Span(3, 3, "c")]
    assert flatten(spans, "first") == [Span(1, 2, "b"), Span(3, 3, "c")]
    assert flatten(spans[1:], "error") == [Span(0, 1, "a"), Span(3, 3, "c")]


def test_some_types_alone(tmp_path):
    text = lines("gout/B-Disease of/O KLT4/B-Gene_X", "No/O", "KLT4/B-Gene_X")
    corpus = read(tmp_path, "x.tsv", text, types=("gene x",))
    assert sentences(corpus) == ["gout of [KLT4](gene x)", "[KLT4](gene x)"]
    assert corpus.counts["train"]["sentences_without_wanted_type"] == 1
    assert corpus.counts["train"]["entities_of_other_types"] == 1
    assert "--types: the corpus has no cell; it has ['disease', 'gene x']" in error(
        tmp_path, "x.tsv", text, types=("cell",)
    )
    whole = read(tmp_path, "x.tsv", text, types=("gene x",), empty_sentences=True)
    assert sentences(whole) == ["gout of [KLT4](gene x)", "No", "[KLT4](gene x)"]
    assert "sentences_without_wanted_type" not in whole.counts["train"]
    with pytest.raises(InputError, match="--empty-sentences is for --types"):
        ReadOptions(empty_sentences=True)


def test_other_names_of_types(tmp_path):
    text = lines("gout/B-Disease of/O KLT4/B-Gene_X in/O men/B-Taxon", "No/O")
    corpus = read(tmp_path, "x.tsv", text, map=("gene x=Gene_product", "TAXON=gene product"))
    assert sentences(corpus) == ["[gout](disease) of [KLT4](gene product) in [men](gene product)", "No"]
    assert corpus.type_map == {"Disease": "disease", "Gene_X": "gene product", "Taxon": "gene product"}
    chosen = read(tmp_path, "x.tsv", text, map=("taxon=species",), types=("taxon",))
    assert sentences(chosen) == ["gout of KLT4 in [men](species)"]
    for names, message in (
        (("cell=x",), "--map: the corpus has no cell; it has ['disease', 'gene x', 'taxon']"),
        (("taxon",), "--map: expected TYPE=NAME, got 'taxon'"),
        (("taxon=a", "Taxon=b"), "--map: type 'taxon' has two names"),
        (("taxon=_",), "'_' cannot be an entity type"),
        (("taxon=o",), "'o' cannot be an entity type"),
    ):
        assert message in error(tmp_path, "x.tsv", text, map=names)


def test_spellings_that_become_one_type_are_named(tmp_path, caplog):
    corpus = read(tmp_path, "x.tsv", lines("a/B-RNA b/B-rna c/B-D d/B-D\u200b"))
    assert corpus.merged_types == {"rna": ["RNA", "rna"], "d": ["D", "D\u200b"]}
    assert "type 'd' is written in 2 ways, which are one type now: 'D', 'D\\u200b'" in caplog.text


# Folders


def test_shards_and_folders(tmp_path, caplog):
    for name, word in (("train-00000-of-00002", "a"), ("train-00001-of-00002", "b"), ("test-00000-of-00001", "c")):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{name}.tsv").write_text(f"{word}\tB-D\n")
    (tmp_path / "data" / "dictionary.tsv").write_text("x")
    corpus = read_local(tmp_path)
    assert sentences(corpus) == ["[a](d)", "[b](d)"]
    assert set(corpus.origin["sha256"]) == {
        f"data/{s}.tsv" for s in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")
    }
    assert corpus.origin["ignored"] == ["data/dictionary.tsv"]
    assert "not read, of no split or no known kind: data/dictionary.tsv" in caplog.text
    (tmp_path / "data" / "train-0-of-00002.tsv").write_text("a\tB-D\n")
    with pytest.raises(InputError, match="part 0 of the 2 of train is there twice"):
        read_local(tmp_path)
    (tmp_path / "data" / "train-0-of-00002.tsv").unlink()
    (tmp_path / "data" / "train-00000-of-00002.tsv").unlink()
    with pytest.raises(InputError, match="part 0 of the 2 of train is missing"):
        read_local(tmp_path)


def write_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("a\tB-D\n")


@pytest.mark.parametrize("names", [("train.tsv", "test.tsv"), ("train/a.tsv", "test/a.tsv")])
@pytest.mark.parametrize("packed", ["dev.tsv.gz", "dev/a.tsv.gz", "train/b.tsv.gz"])
def test_what_is_of_a_split_and_cannot_be_read_is_named(tmp_path, names, packed, caplog):
    write_files(tmp_path, *names, packed, "licence.gz")
    assert read_local(tmp_path).origin["ignored"] == [packed]
    assert f"not read, of no split or no known kind: {packed}" in caplog.text


@pytest.mark.parametrize(
    ("read", "unread"),
    [
        (("a.ann", "a.txt"), ("more/b.ann", "more/b.txt")),
        (("train/a.tsv", "test/a.tsv"), ("train/more/b.tsv",)),
        (("train.tsv", "test.tsv"), ("data/train.tsv",)),
        (("data/train.tsv", "data/test.tsv"), ("data/old/deep/train.tsv",)),
        (("data/train/a.tsv", "data/test/a.tsv"), ("other/a.tsv",)),
    ],
)
def test_folders_that_are_not_read_are_named(tmp_path, read, unread, caplog):
    for name in (*read, *unread, ".git/x.tsv", "notes/plan.odt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("T1\tD 0 1\tG\n" if name.endswith(".ann") else "G\tB-D\n")
    expected = {"more": "more/", "train": "train/more/", "other": "other/"}.get(unread[0].split("/")[0])
    expected = expected or ("data/old/" if "old" in unread[0] else "data/")
    assert read_local(tmp_path).origin["ignored"] == [expected]
    assert expected in caplog.text


@pytest.mark.parametrize("name", ["dev.tsv", "train/b.tsv"])
def test_a_link_to_nothing_is_not_passed_over(tmp_path, name):
    write_files(tmp_path, "train/a.tsv", "test/a.tsv")
    (tmp_path / name).symlink_to(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=name):
        read_local(tmp_path)


@pytest.mark.parametrize(
    ("names", "validation"),
    [
        (("eng.train", "eng.testa", "eng.testb"), True),
        (("NER-de-train.tsv", "NER-de-dev.tsv", "NER-de-test.tsv"), True),
        (("train.tsv", "eval.tsv", "test.tsv"), True),
        (("train/x.tsv", "test/x.tsv"), False),
        (("train/x.tsv", "valid/x.tsv", "test/x.tsv"), True),
    ],
)
def test_names_of_splits(tmp_path, names, validation):
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"w{number}\tB-D\n")
    found = {split: rows[0].words[0] for split, rows in read_local(tmp_path).splits.items()}
    assert found == ({"train": "w0", "validation": "w1", "test": "w2"} if validation else {"train": "w0", "test": "w1"})


def test_a_saved_dataset_of_the_library(tmp_path):
    import datasets

    table = datasets.Dataset.from_dict({"tokens": [["Gout", "fell"]], "ner_tags": [["B-D", "O"]]})
    datasets.DatasetDict(train=table, test=table).save_to_disk(tmp_path / "saved")
    corpus = read_local(tmp_path / "saved")
    assert (sentences(corpus), corpus.origin) == (["[Gout](d) fell"], {"kind": "saved"})
    (tmp_path / "saved" / "train" / "state.json").write_text("{}")
    with pytest.raises(InputError, match="saved: cannot be loaded"):
        read_local(tmp_path / "saved")


def test_the_parts_of_a_split_folder_are_read_together(tmp_path):
    for name in ("train/b.tsv", "train/a.tsv", "test/a.tsv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{name[-5]}\tB-D\n")
    assert sentences(read_local(tmp_path)) == ["[a](d)", "[b](d)"]


# The public corpora


@needs_real_data
def test_bc5cdr_as_pubtator_is_bc5cdr(tmp_path):
    original = read_local(REAL_DATA / "bc5cdr").splits["test"]
    blocks = []
    for first in range(0, len(original), 10):
        part, document = original[first : first + 10], f"{first}"
        texts = [" ".join(sentence.words) for sentence in part]
        block = [f"{document}|t|{texts[0]}", f"{document}|a|{' '.join(texts[1:])}"]
        offset = 0
        for sentence, text in zip(part, texts, strict=True):
            for span in sentence.spans:
                start = offset + len("".join(f"{word} " for word in sentence.words[: span.start]))
                mention = " ".join(sentence.words[span.start : span.end + 1])
                block.append(f"{document}\t{start}\t{start + len(mention)}\t{mention}\t{span.label}\t-")
            offset += len(text) + 1
        blocks.append("\n".join(block))
    # One sentence a text gives the same sentences; ten a text give the same words and entities, cut by our own rule.
    lines_of_texts = [text_record(" ".join(s.words), *_characters(s)) for s in original]
    assert read(tmp_path, "x.jsonl", "".join(lines_of_texts), sentences="whole").splits["train"] == original
    corpus = read(tmp_path, "x.pubtator", "\n\n".join(blocks))
    assert " ".join(sentences(corpus)) == " ".join(map(marked, original))
    assert corpus.counts["train"]["entities"] == corpus.counts["train"]["entities_read"] == 9_809
    assert abs(len(corpus.splits["train"]) - len(original)) < 60


def _characters(sentence) -> list[list]:
    starts = [len("".join(f"{word} " for word in sentence.words[:index])) for index in range(len(sentence.words))]
    return [[starts[a], starts[b] + len(sentence.words[b]), label] for a, b, label in sentence.spans]


@needs_real_data
def test_multiconer_has_the_counts_of_its_readme():
    medical = ("AnatomicalStructure", "Disease", "MedicalProcedure", "Medication/Vaccine", "Symptom")
    source = REAL_DATA / "multiconer-v2-en"
    assert read_local(source / "dev.conll").counts["train"]["sentences"] == 871
    for name, n_sentences, counts in (("train", 1_320, (388, 372, 242, 355, 202)), ("dev", 65, (17, 18, 13, 18, 10))):
        corpus = read_local(source / f"{name}.conll", ReadOptions(types=medical))
        assert len(corpus.splits["train"]) == n_sentences
        assert count_types(corpus.splits["train"]) == dict(zip(map(str.lower, medical), counts, strict=True))
