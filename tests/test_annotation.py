"""The annotation loop without a server: label configurations, offsets, tasks, merging, splitting, scores, secrets."""

import json
import os
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import REAL

from annotation import client as client_module
from annotation.client import Client, ServerError, ServerOptions
from annotation.config import main as write_config
from annotation.corrections import NO_SUGGESTIONS, corrections
from annotation.fit import divide, make_dataset
from annotation.labelling import Labelling, label_config, parse_labelling, spoken
from annotation.merging import MergeOptions, merge
from annotation.offsets import Utf16, code_points
from annotation.private import read_secret, redact
from annotation.pull import main as pull_main
from annotation.regions import annotation, mentions_of, prediction, region
from annotation.scoring import comparison, count
from annotation.suggestions import suggestions
from annotation.tasks import DOCUMENT, TEXT, UID, text_of
from annotation.tasks import main as write_tasks
from annotation.work import Work, rank
from common.data.dataset import load_dataset, make_sentence
from common.data.text import Mention
from common.errors import InputError
from common.files import read_json, write_json
from common.inference import Entity
from common.paths import PROJECT_ROOT
from dataset_generation.options import ReadOptions
from dataset_generation.sources import read_local

SAMPLES = REAL / "labelstudio"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the recorded samples are not here")
MEDICAL = ("Medication/Vaccine", "MedicalProcedure", "AnatomicalStructure", "Symptom", "Disease")
LABELLING = Labelling("label", "text", "text", MEDICAL)
ODD_TEXTS = st.text(st.sampled_from("aé\u0301\u200d\u00a0 \r\n.,日\U0001f637\U0001f469"), min_size=1, max_size=40)


def task(number, text, *annotations, **more):
    return {"id": number, "data": {"text": text, "doc_id": f"d{number}"}, "annotations": list(annotations), **more}


def made(text, *entities, **more):
    """An annotation as a person saves it: entities are texts with their labels."""
    mentions = [Mention(text.index(part), text.index(part) + len(part), label) for part, label in entities]
    item = annotation(mentions, text, LABELLING) | {"completed_by": 1, "lead_time": 3.0, "updated_at": "1"}
    return item | more


# -- label configurations ---------------------------------------------------------------------------------------------


def test_a_label_configuration_says_what_was_asked_for():
    xml = label_config(['A "b" <c> & d', "Symptom", *map(str, range(12))])
    labelling = parse_labelling(xml)
    assert labelling == Labelling("label", "text", "text", ('A "b" <c> & d', "Symptom", *map(str, range(12))))
    assert xml.count("hotkey=") == 9
    assert len({line for line in xml.splitlines() if "hotkey" in line}) == 9


@needs_samples
def test_a_real_label_configuration():
    assert parse_labelling((SAMPLES / "label_config.xml").read_text("utf-8")) == LABELLING


def test_a_name_means_the_label_of_the_same_words():
    xml = label_config(MEDICAL).replace('value="Symptom"', 'value="Symptom" alias="sy"')
    labelling = parse_labelling(xml)
    names = ["medical procedure", "Medical_Procedure", "sy", "Symptom", "medication/vaccine", "sign"]
    assert [labelling.label(name) for name in names] == [
        "MedicalProcedure", "MedicalProcedure", "Symptom", "Symptom", "Medication/Vaccine", None,
    ]  # fmt: skip
    assert [spoken(label) for label in ("MedicalProcedure", "DNA", "cell_type")] == [
        "medical procedure",
        "dna",
        "cell type",
    ]


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<View>", "is no XML"),
        ("<View/>", "one <Labels> over one <Text>"),
        (
            '<View><Labels name="a" toName="t"/><Labels name="b" toName="t"/><Text name="t" value="$t"/></View>',
            "2 (a, b)",
        ),
        ('<View><Labels name="a" toName="u"><Label value="x"/></Labels><Text name="t" value="$t"/></View>', "over 'u'"),
        (
            '<View><Labels name="a" toName="t"><Label value="x"/></Labels><Text name="t" value="t"/></View>',
            "name a field",
        ),
        ('<View><Labels name="a" toName="t"/><Text name="t" value="$t"/></View>', "no <Label value"),
        ('<View><Labels name="a"><Label value="x"/></Labels><Text value="$t"/></View>', "over None, the text is None"),
        (label_config(["x y"]).replace("</Labels>", '<Label value="X_Y"/></Labels>'), "there twice"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View/>', "document type"),
        ("<View>\ud800</View>", "is no XML"),
    ],
)
def test_what_is_no_label_configuration(xml, message):
    with pytest.raises(InputError) as caught:
        parse_labelling(xml)
    assert message in str(caught.value)


# -- offsets ----------------------------------------------------------------------------------------------------------


@given(text=ODD_TEXTS, data=st.data())
def test_text_to_region_and_back_also_from_utf16(text, data):
    edges = sorted(data.draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=6)))
    mentions = [Mention(start, end, "Symptom") for start, end in pairwise(edges)]
    item = annotation(mentions, text, LABELLING)
    assert mentions_of(item, text) == (mentions, [])
    assert [value["value"]["text"] for value in item["result"]] == [text[m.start : m.end] for m in mentions]
    units = Utf16(text)
    assert units.starts[-1] == len(text.encode("utf-16-le")) // 2
    assert [units.code_point(offset) for offset in units.starts] == list(range(len(text) + 1))


def test_offsets_in_utf16_units_are_recognised_and_converted():
    text = "😷 After the biopsy 🩺 aspirin"
    good = made(text, ("biopsy", "MedicalProcedure"), ("aspirin", "Medication/Vaccine"))
    old = json.loads(json.dumps(good))
    for item, shift in zip(old["result"], (1, 2), strict=True):
        item["value"]["start"] += shift
        item["value"]["end"] += shift
    nameless = json.loads(json.dumps(old))
    del nameless["result"][0]["value"]["text"]
    tasks, converted = code_points([task(1, text, old), task(2, text, nameless), task(3, "no astral")], "text")
    assert converted == 4
    assert [mentions_of(t["annotations"][0], text) for t in tasks[:2]] == [mentions_of(good, text)] * 2
    assert old["result"][0]["value"]["start"] == 13, "the input is as it was"
    # One region that is right in code points: the export counts those, and what differs is an error.
    assert code_points([task(1, text, old), task(2, text, good)], "text")[1] == 0
    assert code_points([task(1, text, good)], "text")[1] == 0


@needs_samples
@pytest.mark.parametrize("name", ["export_JSON.json", "export_snapshot_no_skipped.json"])
def test_old_and_new_exports_of_the_same_project(name):
    new, account = merge(read_json(SAMPLES / name), LABELLING, MergeOptions())
    old, before = merge(read_json(SAMPLES / "legacy_utf16" / name), LABELLING, MergeOptions())
    assert (account.converted, account.mismatches) == (0, 0)
    assert before.converted > 0
    assert before.mismatches == 0
    surfaces = [
        {(t["data"]["text"], r["value"]["text"]) for t in tasks for r in t["annotations"][0]["result"]}
        for tasks in (new, old)
    ]
    after_astral = {surface for surface in surfaces[1] if "😷" in surface[0]}
    assert after_astral
    assert after_astral <= surfaces[0]


@needs_samples
def test_every_recorded_region_is_where_it_says():
    seen = 0
    for path in [*SAMPLES.glob("export_*.json"), SAMPLES / "multiconer_like_tasks_with_gold.json"]:
        for record in read_json(path):
            if path.stem == "export_JSON_MIN":
                continue
            text = record["data"]["text"]
            for item in (*record["annotations"], *(p for p in record.get("predictions", ()) if isinstance(p, dict))):
                mentions, bad = mentions_of(item, text)
                assert not bad, (path.name, bad)
                for mention in mentions:
                    again = region(*mention, text, LABELLING)
                    assert mentions_of({"result": [again]}, text) == ([mention], [])
                    assert mention[:2] in [(r["value"]["start"], r["value"]["end"]) for r in item["result"]]
                    seen += 1
    assert seen > 50


# -- tasks ------------------------------------------------------------------------------------------------------------

CONLL = """
# id 1\tdomain=en
a _ _ O
lumbar _ _ B-MedicalProcedure
puncture _ _ I-MedicalProcedure
in _ _ O
paris _ _ B-HumanSettlement


# id 2\tdomain=en
nothing _ _ O
here _ _ O


# id 3\tdomain=en
fever _ _ B-Symptom
"""


def test_tasks_of_a_subset_of_types_with_gold(tmp_path):
    (tmp_path / "train.conll").write_text(CONLL)
    arguments = ["--source", str(tmp_path / "train.conll"), "--output", str(tmp_path / "tasks.json")]
    subset = ["--types", "MedicalProcedure", "Symptom"]
    tasks = read_json(write_tasks([*arguments, *subset, "--with-gold", "--order", "corpus"]))
    assert [task["data"][TEXT] for task in tasks] == ["a lumbar puncture in paris", "fever"]
    (first,) = tasks[0]["annotations"]
    assert first["ground_truth"] is True
    assert [r["value"] for r in first["result"]] == [
        {"start": 2, "end": 17, "text": "lumbar puncture", "labels": ["MedicalProcedure"]}
    ]
    assert len({task["data"][UID] for task in tasks}) == 2
    plain = read_json(write_tasks([*arguments, *subset, "--order", "corpus"]))
    assert [task["data"] for task in plain] == [task["data"] for task in tasks], "the same corpus, the same names"
    assert all("annotations" not in task for task in plain)
    xml = write_config(["--source", arguments[1], *subset, "--output", str(tmp_path / "l.xml")]).read_text()
    assert parse_labelling(xml).labels == ("MedicalProcedure", "Symptom")


def test_documents_come_in_random_order_each_with_its_sentences_in_theirs(tmp_path):
    records = [{"text": f"First of {n}. Then {n}. Same. Same.", "id": f"d{n}", "label": []} for n in range(20)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    arguments = ["--source", str(tmp_path / "train.jsonl"), "--output", str(tmp_path / "t.json")]

    def written(*more):
        return [task["data"] for task in read_json(write_tasks([*arguments, *more]))]

    plain, mixed = written("--order", "corpus"), written()
    assert [data[DOCUMENT] for data in plain] == [f"d{n}" for n in range(20) for _ in range(4)]
    assert mixed == written() != written("--seed", "7") != plain
    for n in range(20):
        mine = [place for place, data in enumerate(mixed) if data[DOCUMENT] == f"d{n}"]
        assert mine == list(range(mine[0], mine[0] + 4)), "a document stays together"
        assert [mixed[place] for place in mine] == plain[4 * n : 4 * n + 4]
    assert len({data[UID] for data in plain}) == 80
    names = {data[TEXT]: data[UID] for data in plain if data[TEXT] != "Same."}
    part = written("--size", "30")
    assert all(data[UID] == names[data[TEXT]] for data in part if data[TEXT] in names), "a sample changes no names"


def test_tasks_of_raw_text_keep_it(tmp_path):
    text = "IL-2\u200b binds  T-cells\r\nin Ωmice. Next 😷one."
    record = {"text": text, "id": "d7", "label": [[0, 4, "gene"], [text.index("😷"), text.index("😷") + 4, "x"]]}
    (tmp_path / "train.jsonl").write_text(json.dumps(record) + "\n")
    arguments = ["--source", str(tmp_path / "train.jsonl"), "--output", str(tmp_path / "t.json"), "--off-edges", "snap"]
    tasks = read_json(write_tasks([*arguments, "--with-gold"]))
    assert [task["data"][TEXT] for task in tasks] == ["IL-2\u200b binds  T-cells\r\nin Ωmice.", "Next 😷one."]
    assert {task["data"][DOCUMENT] for task in tasks} == {"d7"}
    surfaces = [r["value"]["text"] for t in tasks for r in t["annotations"][0]["result"]]
    assert surfaces == ["IL-2", "😷one"]
    whole = read_json(write_tasks([*arguments, "--sentences", "whole"]))
    assert [task["data"][TEXT] for task in whole] == [text]


@given(st.lists(st.sampled_from(["a", "aa", "b", ".", "é\u0301"]), min_size=1, max_size=12))
def test_words_are_found_in_their_text(words):
    text, starts = text_of(make_sentence(words, []))
    assert [text[start : start + len(word)] for start, word in zip(starts, words, strict=True)] == words


@needs_samples
def test_the_recorded_corpus_gives_the_recorded_tasks(tmp_path):
    output = tmp_path / "tasks.json"
    source = str(SAMPLES / "multiconer_like.conll")
    arguments = ["--source", source, "--output", str(output), "--with-gold", "--order", "corpus", "--types", *MEDICAL]
    tasks = read_json(write_tasks(arguments))
    recorded = read_json(SAMPLES / "multiconer_like_tasks_with_gold.json")

    def gold(records):
        return [
            (r["data"]["text"], sorted((v["value"]["start"], v["value"]["end"], *v["value"]["labels"]) for v in
             r["annotations"][0]["result"]))
            for r in records
        ]  # fmt: skip

    assert gold(tasks) == gold(recorded)


def test_the_notebook_is_kept_without_outputs_and_its_corpus_can_be_read(tmp_path):
    notebook = read_json(PROJECT_ROOT / "examples" / "label_studio.ipynb")
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            compile("".join(cell["source"]), "cell", "exec")
    source = str(PROJECT_ROOT / "examples" / "medical.conll")
    tasks = read_json(write_tasks(["--source", source, "--output", str(tmp_path / "t.json"), "--types", *MEDICAL]))
    assert len(tasks) == 33


# -- merging ----------------------------------------------------------------------------------------------------------


def merged(*tasks, **options):
    return merge(tasks, LABELLING, MergeOptions(**options))


def entities_of(record):
    return mentions_of(record["annotations"][0], record["data"]["text"])[0]


def test_what_is_left_out_is_counted():
    text = "aspirin for fever and more fever"
    aspirin, fever = ("aspirin", "Medication/Vaccine"), ("fever", "Symptom")
    double = made(text, aspirin)
    double["result"] += [dict(double["result"][0]), {"type": "relation", "from_id": "a", "to_id": "b"}]
    double["result"][0] = json.loads(json.dumps(double["result"][0]))
    double["result"][0]["value"]["labels"].append("Disease")
    wrong = made(text, aspirin, fever)
    wrong["result"][0]["value"]["text"] = "ibuprofen"
    wrong["result"][1]["value"]["labels"] = ["Unheard"]
    unseen = made(text, aspirin, lead_time=None, parent_prediction=9)
    tasks, report = merged(
        task(1, text), task(2, text, made(text, fever, was_cancelled=True)), task(3, text, made(text)),
        task(4, text, double), task(5, text, wrong), task(6, text, unseen),
        task(7, text, made(text, fever, was_cancelled=True), made(text, aspirin)),
    )  # fmt: skip
    assert [record["id"] for record in tasks] == [3, 4, 5, 7]
    counts = {name: value for name, value in report.as_dict().items() if isinstance(value, int)}
    assert counts == {
        "tasks": 7, "annotated": 4, "entities": 3, "no_annotation": 1, "skipped": 1, "empty": 2, "accepted_unseen": 1,
        "duplicates": 1, "two_labels": 1, "overlapping": 2, "other_regions": 1, "converted": 0, "disagreements": 0,
        "mismatches": 2,
    }  # fmt: skip
    assert report.places["skipped"] == ["task 2"]
    assert ["task 5" in place for place in report.places["mismatches"]] == [True, True]
    assert len(merged(task(6, text, unseen), accepted_too=True)[0]) == 1


def test_annotators_that_differ():
    text = "aspirin for fever"
    aspirin, fever = ("aspirin", "Medication/Vaccine"), ("fever", "Symptom")
    first, second = made(text, aspirin, updated_at="2"), made(text, aspirin, fever, updated_at="1", completed_by=2)
    third = made(text, updated_at="0", completed_by=3)
    one = task(1, text, first, second, third)
    labels = {
        name: [entity.label for entity in entities_of(merged(one, annotators=name)[0][0])]
        for name in ("latest", "majority", "union")
    }
    one_of_two = ["Medication/Vaccine"]
    assert labels == {"latest": one_of_two, "majority": one_of_two, "union": [*one_of_two, "Symptom"]}
    assert merged(one)[1].disagreements == 1
    truth = task(1, text, first, second | {"ground_truth": True})
    assert len(entities_of(merged(truth)[0][0])) == 2
    assert merged(truth)[1].disagreements == 0


def test_an_export_is_pulled_without_a_server_and_readable(tmp_path):
    text = "😷 aspirin"
    item = made(text, ("aspirin", "Medication/Vaccine"))
    for edge in ("start", "end"):
        item["result"][0]["value"][edge] += 1
    write_json(tmp_path / "export.json", [task(1, text, item)])
    (tmp_path / "labels.xml").write_text(label_config(MEDICAL))
    arguments = ["--export", str(tmp_path / "export.json"), "--label-config", str(tmp_path / "labels.xml")]
    report = pull_main([*arguments, "--work", str(tmp_path / "work")])
    assert (report.converted, report.entities) == (1, 1)
    corpus = read_local(tmp_path / "work" / "annotated.json", ReadOptions())
    assert [(s.words, [tuple(x) for x in s.spans]) for s in corpus.splits["train"]] == [
        (("😷", "aspirin"), [(1, 1, "medication/vaccine")])
    ]
    write_json(tmp_path / "export.json", [{"id": 1, "text": text, "label": []}])
    with pytest.raises(InputError, match=r"record 0 .*lacks \['annotations', 'data'\]"):
        pull_main(arguments)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 20)
    | st.floats(0, 9)
    | st.sampled_from(["", "fever", "labels", "Symptom"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["value", "result", "start", "end", "labels", "text", "id"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
REGION = st.fixed_dictionaries({"type": st.just("labels"), "value": JSON, "id": JSON})
ITEM = st.dictionaries(st.sampled_from(["id", "parent_prediction", "lead_time", "prediction", "updated_at"]), JSON)
ITEM = (
    st.builds(lambda item, result: item | {"result": result}, ITEM, st.lists(REGION | JSON, max_size=3) | JSON) | JSON
)
STRANGE = st.fixed_dictionaries(
    {"id": st.integers(), "data": st.just({"text": "fever 😷 and fever"}) | JSON},
    optional={"annotations": st.lists(ITEM, max_size=3) | JSON, "predictions": st.lists(ITEM, max_size=2) | JSON},
)


@given(st.lists(STRANGE, max_size=3), st.sampled_from(["latest", "majority", "union"]))
def test_whatever_a_task_holds_it_is_counted_and_ends_nothing(tasks, annotators):
    found, report = merged(*tasks, annotators=annotators)
    assert report.tasks == len(tasks)
    assert report.annotated == len(found)
    for record in found:
        mentions, bad = mentions_of(record["annotations"][0], record["data"]["text"])
        assert not bad
        assert {mention.label for mention in mentions} <= set(MEDICAL)
    corrections(tasks, LABELLING).as_dict()


def test_an_empty_prediction_suggests_nothing():
    text = "fever"
    item = made(text, ("fever", "Symptom"), parent_prediction=7)

    def suggested(**more):
        return merged(task(1, text, item | more.pop("item", {}), **more))[0][0]["annotations"][0]["suggested"]

    full = {"id": 7, "result": item["result"], "model_version": "v"}
    assert suggested(predictions=[full])
    assert not suggested(predictions=[full | {"result": []}])
    assert suggested(item={"prediction": full})
    assert suggested(predictions=[7]), "unknown, so perhaps"
    assert not suggested(item={"parent_prediction": None})


# -- parts ------------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.lists(st.text("abcdef", min_size=1), min_size=3, max_size=60, unique=True), st.integers(1, 50))
def test_a_document_keeps_its_part(tmp_path_factory, names, cut):
    work = Work(tmp_path_factory.mktemp("work"))
    blind = work.make_blind(names[:cut], 0.1)
    before = work.parts(names[:cut], 0.2, 0.15)
    after = work.parts(names, 0.2, 0.15)
    assert {name: after[name] for name in before} == before
    assert all(after[name] == "held out" for name in blind)
    assert blind == {name for name in names[:cut] if rank(name) < 0.1}
    assert set(after) == set(names)


def test_a_work_folder_is_of_one_project_and_one_training(tmp_path):
    work = Work(tmp_path / "work")
    work.claim(3, "2026")
    work.claim(3, "2026")
    with pytest.raises(InputError, match=r"folder of project 3 .* give another --work"):
        work.claim(3, "2027")
    with work.alone(), pytest.raises(InputError, match="another annotation"), work.alone():
        pass
    with work.alone():
        pass


def test_each_part_has_a_document_and_a_data_set_is_made_of_them(tmp_path):
    work, text = Work(tmp_path), "fever after a lumbar puncture"
    item = made(text, ("fever", "Symptom"), ("lumbar puncture", "MedicalProcedure"))
    tasks, _ = merged(*(task(number, f"{text}", item) for number in range(3)))
    divided = divide(tasks, work, 0.001, 0.001)
    assert sorted(len(part) for part in divided.values()) == [1, 1, 1]
    directory = make_dataset(divided, LABELLING, work, "names")
    data = load_dataset(str(directory))
    assert data.labels.names == LABELLING.types()
    assert [span.label for span in data.train[0].spans] == ["symptom", "medical procedure"]
    assert data.train[0].document == f"d{divided['train'][0]['id']}"
    assert make_dataset(divided, LABELLING, work, "names") == directory
    with pytest.raises(InputError, match="2 annotated documents"):
        divide(tasks[:2], work, 0.2, 0.1)


# -- scores and corrections -------------------------------------------------------------------------------------------


class Words:
    """Suggests each word that is in its list."""

    def __init__(self, words, name="words"):
        self.words, self.name, self.seen = words, name, []

    def version(self, labelling):
        return f"{self.name}-{len(labelling.labels)}"

    def suggest(self, texts):
        self.seen += texts
        if any("explode" in text for text in texts):
            raise RuntimeError("too long")
        return [
            [
                Entity(text.index(word), text.index(word) + len(word), word, label, 0.75)
                for word, label in self.words.items()
                if word in text
            ]
            for text in texts
        ]


def test_scores_are_of_characters_and_labels():
    text = "fever and cough after aspirin"
    tasks, _ = merged(
        task(1, text, made(text, ("fever", "Symptom"), ("cough", "Symptom"), ("aspirin", "Medication/Vaccine"))),
        task(2, text, made(text)),
    )
    found = [item.prediction for item in suggestions(Words({"fever": "symptom", "cough": "disease"}), tasks, LABELLING)]
    counts = count(tasks, found, LABELLING)
    # Task 1: one of two is right, of three; task 2: both are wrong.
    assert (counts.true_positives.sum(), counts.predicted.sum(), counts.gold.sum()) == (1, 4, 3)
    scores = comparison(counts, counts)
    assert scores["new"]["micro"]["f1"] == pytest.approx(2 * 1 / (4 + 3))
    assert scores["difference"]["micro_f1"]["difference"] == 0


def test_a_task_at_fault_is_empty_and_the_others_are_not():
    model = Words({"fever": "Symptom", "foot": "Unheard"})
    tasks = [{"id": 1}, task(2, "fever"), task(3, "explode fever"), task(4, "\ud83d"), None, task(6, "foot fever")]
    tasks[3]["data"]["text"] = "\ud83d"
    found = suggestions(model, tasks, LABELLING)
    assert [[r["value"]["text"] for r in item.prediction["result"]] for item in found] == [
        [], ["fever"], [], [], [], ["fever"],
    ]  # fmt: skip
    assert [bool(item.problem) for item in found] == [True, False, True, True, True, False]
    assert {item.prediction["model_version"] for item in found} == {"words-5"}
    assert [item.prediction["score"] for item in found[:2]] == [1.0, 0.75]


def test_what_annotators_did():
    text = "fever and cough after aspirin"
    found = [
        Entity(0, 5, "fever", "Symptom", 0.9),
        Entity(10, 15, "cough", "Disease", 0.8),
        Entity(6, 9, "and", "Symptom", 0.7),
    ]
    shown = prediction(found, text, LABELLING, "v1") | {"id": 7}
    kept = made(text, ("fever", "Symptom"), ("cough", "Symptom"), ("aspirin", "Medication/Vaccine"))
    tasks = [
        task(1, text, kept | {"parent_prediction": 7, "lead_time": 2.0}, predictions=[shown]),
        task(2, text, made(text, lead_time=9.0), made(text, was_cancelled=True)),
        task(3, text, kept | {"parent_prediction": 8, "prediction": shown}, kept | {"completed_by": 2}),
        task(4, text, made(text, lead_time=None, ground_truth=True), made(text, lead_time=None, completed_by=3)),
    ]
    account = corrections(tasks, LABELLING).as_dict()
    twice = {
        "Disease": [0, 1, 0, 0], "Medication/Vaccine": [0, 0, 0, 1], "Symptom": [1, 0, 1, 0],
    }  # fmt: skip
    assert {label: list(counts.values()) for label, counts in account["outcomes"]["v1"].items()} == {
        label: [2 * n for n in counts] for label, counts in twice.items()
    }
    assert account["seconds"]["v1"] == {"annotations": 2, "median": 2.5, "mean": 2.5}
    assert account["seconds"][NO_SUGGESTIONS]["annotations"] == 2
    assert account["agreement"] == {"pairs": 1, "f1": 1.0}


# -- tokens and secrets -----------------------------------------------------------------------------------------------


def answering(handler, token, **more):
    return Client("http://ls.example", token, transport=httpx.MockTransport(handler), **more)


def test_a_legacy_token_goes_with_each_request():
    seen = []

    def handler(request):
        seen.append(request.headers["Authorization"])
        return httpx.Response(200, json={"release": "1"})

    assert answering(handler, "f" * 40).call("GET", "/api/version") == {"release": "1"}
    assert seen == ["Token " + "f" * 40]


def test_a_personal_token_is_refreshed_in_time_and_when_refused():
    now, access, log = [0.0], [], []

    def handler(request):
        if request.url.path == "/api/token/refresh/":
            assert json.loads(request.content) == {"refresh": "a.b.c"}
            access.append(f"x{len(access)}")
            return httpx.Response(200, json={"access": access[-1]})
        good = request.headers["Authorization"] == f"Bearer {access[-1]}" and "revoked" not in log
        log.append(request.headers["Authorization"])
        if not good:
            log.remove("revoked")
        return httpx.Response(200 if good else 401, json={})

    client = answering(handler, "a.b.c", clock=lambda: now[0])
    assert client.token_kind == "personal"
    for seconds in (0, 100, client_module.FRESH - 1):
        now[0] = seconds
        client.call("GET", "/api/version")
    assert access == ["x0"]
    now[0] = client_module.FRESH + 1
    client.call("GET", "/api/version")
    assert access == ["x0", "x1"], "before the 300 seconds are over"
    log.append("revoked")
    client.call("GET", "/api/version")
    assert access == ["x0", "x1", "x2"]


def test_no_secret_is_in_a_message(monkeypatch):
    token = "f" * 40
    jwt = "eyJhbGciOi.eyJleHAi.c2ln"

    def handler(request):
        body = {"detail": f"bad {request.headers['Authorization']}", "access_token": "s3cret", "refresh": jwt}
        return httpx.Response(403, text=json.dumps(body))

    with pytest.raises(ServerError) as caught:
        answering(handler, token).call("GET", "/api/version")
    assert caught.value.status == 403
    assert not any(secret in str(caught.value) for secret in (token, "s3cret", jwt))

    def down(request):
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(client_module.time, "sleep", lambda _: None)
    with pytest.raises(InputError, match="does not answer: refused"):
        answering(down, token).call("GET", "/api/version")
    assert redact("http://u:pw@host/x password=abc") == "http://u:***@host/x password=***"
    assert redact("http://tokenalone@host/x") == "http://***@host/x"
    assert redact("http://u:p@ss@host/x") == "http://u:***@host/x"
    assert redact("http://u:pa/ss@host/x?passwd=abc&pwd=de") == "http://u:***@host/x?passwd=***&pwd=***"
    assert redact("http://[::1]:8080/a@b http://host:8080/a@b") == "http://[::1]:8080/a@b http://host:8080/a@b"
    assert redact("http://u:a@b@one http://c:d@two/e@f") == "http://u:***@one http://c:***@two/e@f"


@pytest.mark.parametrize(
    ("ask", "answer", "message"),
    [
        (lambda client: client.import_tasks(7, []), {"import": 3}, r"POST .*/7/import: lacks \['task_count'\]"),
        (lambda client: client.add_predictions(7, []), {"created": "1"}, r"created must be a whole number, got '1'"),
        (lambda client: list(client.tasks(7)), [], r"/api/tasks/: the record must be an object, got \[\]"),
        (lambda client: client.find_project("x"), {"results": [5]}, r"results\[0\] must be an object, got 5"),
        (lambda client: client.find_project("3"), None, r"/api/projects/3/: the record must be an object, got None"),
        (
            lambda client: client.find_project("3"),
            [{"token": "s3cret"}],
            r"must be an object, got \[\{'token': '\*\*\*",
        ),
    ],
)
def test_what_a_server_must_not_answer(ask, answer, message):
    """As another version of it may, or another server."""
    client = answering(lambda _: httpx.Response(200, json=answer), "f" * 40)
    with pytest.raises(InputError, match=message):
        ask(client)


def test_an_address_that_is_none_is_told(monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "abc")
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://u:secret@localhost:port")
    with pytest.raises(InputError, match=r"--url http://u:\*\*\*@localhost:port: Invalid port: 'port'"):
        ServerOptions().client()


def test_a_password_among_the_arguments_is_refused(monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "abc")
    with pytest.raises(InputError, match=r"--url http://u:\*\*\*@localhost: .*set LABEL_STUDIO_URL"):
        ServerOptions(url="http://u:secret@localhost").client()
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://u:secret@localhost")
    ServerOptions().client()


@pytest.mark.parametrize("token", ["t\u00f6ken", "abc\r", "abc\ndef"])
def test_what_no_token_is_is_told_without_it(token, monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
    with pytest.raises(InputError, match="LABEL_STUDIO_API_KEY: holds characters that no token has") as caught:
        ServerOptions(url="http://127.0.0.1:9").client()
    assert token not in str(caught.value)


def test_a_token_file_is_private(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("abc\n")
    file.chmod(0o600)
    assert read_secret("LABEL_STUDIO_API_KEY", file, "the API token") == "abc"
    if os.name == "posix":
        file.chmod(0o640)
        with pytest.raises(InputError, match="mode 640"):
            read_secret("LABEL_STUDIO_API_KEY", file, "the API token")
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    with pytest.raises(InputError, match="no API token"):
        ServerOptions().client()
    with pytest.raises(InputError, match="cannot be read"):
        read_secret("X", Path(tmp_path / "none"), "the API token")


def test_the_figures_in_the_documentation_are_those_of_the_stored_scores():
    stored = read_json(PROJECT_ROOT / "results" / "annotation" / "multiconer_200.json")["fit"]
    text = (PROJECT_ROOT / "docs" / "annotation.md").read_text("utf-8")
    for part in ("held_out", "blind", "test"):
        found = stored[part]
        sides = [
            f"{side['micro']['f1']:.3f} [{', '.join(f'{edge:.3f}' for edge in side['intervals']['micro_f1'])}]"
            for side in (found["old"], found["new"])
        ]
        difference = found["difference"]["micro_f1"]
        entities = sum(scores["support"] for scores in found["new"]["per_type"].values())
        cells = [str(found["new"]["tasks"]), str(entities), *sides]
        cells.append("{difference:+.3f} [{low:+.3f}, {high:+.3f}]".format(**difference))
        assert f" | {' | '.join(cells)} |\n" in text
