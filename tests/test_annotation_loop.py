"""The loop against a small stand-in for the server: import, push, annotate, pull, fit, serve, train by the button."""

import json
import logging
import shutil
import threading
import time
from pathlib import Path

import httpx
import pytest
from fake_label_studio import PERSONAL, TOKEN, FakeLabelStudio
from tiny import ENTITIES, RUNTIME, enlarge_head

from annotation import client as client_module
from annotation import connect, disconnect, doctor, fit, jobs, pull, push, report, serve, setup, status
from annotation.client import TOKEN_VARIABLE, Client
from annotation.labelling import Labelling, label_config
from annotation.regions import annotation
from annotation.suggester import fingerprint, load_suggester
from annotation.tasks import document_of
from annotation.work import Work
from common.data.text import Mention
from common.errors import InputError
from common.files import read_json, write_json
from common.training.records import RUN_FILE

LABELS = ("Protein", "CellType", "Disease")
LABELLING = Labelling("label", "text", "text", LABELS)
KINDS = dict(zip(LABELS, ENTITIES, strict=True))


def corpus(size):
    """Tasks and their true entities by task name."""
    tasks, truth = [], {}
    for number in range(size):
        text, mentions = "😷 ", []
        for label in LABELS[: number % 4]:
            entity = ENTITIES[KINDS[label]][number % 4]
            mentions.append(Mention(len(text), len(text) + len(entity), label))
            text += f"{entity} was seen in {number}, "
        tasks.append({"data": {"text": text + "with the patients.", "doc_id": f"d{number}", "uid": f"u{number}"}})
        truth[f"u{number}"] = mentions
    return tasks, truth


@pytest.fixture
def studio(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    with FakeLabelStudio() as server:
        yield server


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


@pytest.fixture
def project(studio, tmp_path):
    """A project with 30 tasks, as the command line makes it; returns options of the other commands, and the truth."""
    tasks, truth = corpus(30)
    write_json(tmp_path / "tasks.json", tasks)
    (tmp_path / "labels.xml").write_text(label_config(LABELS))
    options = ["--url", studio.url, "--project", "Medical"]
    more = ["--label-config", str(tmp_path / "labels.xml"), "--tasks", str(tmp_path / "tasks.json")]
    setup.main([*options, *more])
    return options, more, truth


def annotate(studio, truth, tasks, **more):
    for task in tasks:
        text = task["data"]["text"]
        studio.annotate(task["id"], annotation(truth[task["data"]["uid"]], text, LABELLING)["result"], **more)


@pytest.fixture(scope="session")
def model(gliner_folder, load):
    """A tiny GLiNER that suggests something."""
    folder = gliner_folder("bi-bert")
    base = load("bi-bert")
    enlarge_head(base.core, 1.4)
    loud = folder.with_name("loud")
    base.gliner.save_pretrained(loud, safe_serialization=True)
    return loud


def of_model(model, threshold="0.3"):
    return ["--model", str(model), "--threshold", threshold, "--device", "cpu"]


# -- import -----------------------------------------------------------------------------------------------------------


def test_setup_adds_only_what_is_missing(studio, project, tmp_path):
    options, more, _ = project
    assert len(studio.tasks) == 30
    number = setup.main([*options, *more])
    assert (len(studio.tasks), len(studio.projects)) == (30, 1)
    write_json(tmp_path / "tasks.json", corpus(33)[0])
    assert (
        setup.main(["--url", studio.url, "--project", str(number), "--tasks", str(tmp_path / "tasks.json")]) == number
    )
    assert len(studio.tasks) == 33
    (tmp_path / "other.xml").write_text(label_config(["Other"]))
    with pytest.raises(InputError, match="is labelled differently"):
        setup.main([*options, "--label-config", str(tmp_path / "other.xml")])
    (tmp_path / "other.xml").write_text(label_config(LABELS).replace('name="label"', 'name="ner"'))
    with pytest.raises(InputError, match=r"it has .*tags 'label' over 'text'.*, the file .*tags 'ner' over 'text'"):
        setup.main([*options, "--label-config", str(tmp_path / "other.xml")])
    with pytest.raises(InputError, match="no such project"):
        setup.main(["--url", studio.url, "--project", "Another"])


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({}, "expected a list"),
        ([{"data": {"text": "a"}}], "record 0 .*data.uid must be a text"),
        ([{"data": {"text": "a", "uid": "x"}}, {"data": {"text": "b", "uid": "x"}}], "record 1 .*'x' is there twice"),
        ([{"data": {"body": "a", "uid": "x"}}], "bad.json: record 0 .*no text 'text'"),
    ],
)
def test_bad_tasks_are_named(project, tmp_path, tasks, message):
    write_json(tmp_path / "bad.json", tasks)
    with pytest.raises(InputError, match=message):
        setup.main([*project[0], "--tasks", str(tmp_path / "bad.json")])


def test_a_personal_token_works_where_legacy_ones_are_off(monkeypatch):
    with FakeLabelStudio(personal_only=True) as studio:
        assert list(Client(studio.url, PERSONAL).projects()) == []
        with pytest.raises(InputError, match="legacy token was sent"):
            list(Client(studio.url, TOKEN).projects())


# -- push -------------------------------------------------------------------------------------------------------------


def test_push_sends_a_version_once_and_leaves_blind_documents_alone(studio, project, work, model):
    options = [*project[0], "--work", str(work), *of_model(model)]
    studio.uploads.clear()
    version = push.main([*options, "--blind-fraction", "0.3", "--chunk", "8"])
    blind = Work(work).blind()
    assert 0 < len(blind) < 30
    stored = {studio.tasks[item["task"]]["data"]["doc_id"] for item in studio.predictions.values()}
    assert stored == {f"d{number}" for number in range(30)} - blind
    assert max(studio.uploads) == 8
    (medical,) = studio.projects.values()
    assert medical["model_version"] == version
    results = [item["result"] for item in studio.predictions.values()]
    assert any(results), "the model has found something"
    before = dict(studio.predictions)
    assert push.main(options) == version, "the same model is the same version"
    assert studio.predictions == before, "neither doubled nor sent again; blind documents stay blind"
    assert push.main([*options, "--replace"]) == version
    assert not studio.predictions.keys() & before.keys()
    assert [item["result"] for item in studio.predictions.values()] == results
    other = push.main([*project[0], "--work", str(work), *of_model(model, "0.9")])
    assert other != version
    assert medical["model_version"] == other


def test_a_version_is_of_weights_labels_and_thresholds(model, gliner_folder):
    def load(**more):
        return load_suggester({"model": str(model), "labels": ["protein"], **more}, None, RUNTIME)

    one = load()
    assert load().version(LABELLING) == one.version(LABELLING)
    others = [load(threshold=0.3), load(labels=["protein", "disease"]), load(model=str(gliner_folder("bi-bert")))]
    versions = {item.version(LABELLING) for item in (one, *others)}
    versions.add(one.version(Labelling("label", "text", "text", ("Protein",))))
    # Entities of a type that no label names are suggested under the label whose alias does.
    versions.add(one.version(Labelling("label", "text", "text", LABELS, {"protein family": "Protein"})))
    assert len(versions) == 6
    one.tagger.model.type_thresholds = {"protein": 0.9}
    assert fingerprint(str(model), one.tagger) != one.fingerprint


def test_a_push_that_was_cut_off_goes_on(studio, project, work, model, monkeypatch):
    options = [*project[0], "--work", str(work), *of_model(model), "--chunk", "10"]
    store, left = studio.store_prediction, iter(range(15))

    def cut_off(*arguments):
        if next(left, None) is None:
            raise OSError("the server is gone")
        store(*arguments)

    monkeypatch.setattr(studio, "store_prediction", cut_off)
    with pytest.raises(InputError, match="does not answer"):
        push.main(options)
    monkeypatch.setattr(studio, "store_prediction", store)
    studio.uploads.clear()
    version = push.main(options)
    assert sum(studio.uploads) == 15, "only what was missing"
    stored = [item["task"] for item in studio.predictions.values() if item["model_version"] == version]
    assert sorted(stored) == sorted(studio.tasks)


def test_a_second_push_leaves_annotations_what_they_began_with(studio, project, work, model):
    options = [*project[0], "--work", str(work), *of_model(model)]
    version = push.main(options)
    annotate(studio, project[2], list(studio.tasks.values())[:10])
    first = report.main(project[0])
    assert first["seconds"][version]["annotations"] == 10
    push.main(options)
    assert report.main(project[0]) == first


def test_several_predictions_of_a_version_for_a_task_are_noticed(studio, project, work, model):
    options = [*project[0], "--work", str(work), *of_model(model)]
    push.main(options)
    one = next(iter(studio.predictions.values()))
    studio.store_prediction(one["task"], {key: value for key, value in one.items() if key not in ("id", "task")})
    with pytest.raises(InputError, match=r"31 predictions .* for 30 tasks; --replace"):
        push.main(options)
    push.main([*options, "--replace"])
    assert len(studio.predictions) == 30


def test_documents_that_become_blind_lose_their_suggestions(studio, project, work, model):
    options = [*project[0], "--work", str(work), *of_model(model)]
    push.main(options)
    done = list(studio.tasks.values())[:10]
    annotate(studio, project[2], done)
    push.main([*options, "--blind-fraction", "0.3"])
    blind = Work(work).blind()
    assert blind
    assert not blind & {task["data"]["doc_id"] for task in done}, "what is annotated began with suggestions"
    assert {studio.tasks[item["task"]]["data"]["doc_id"] for item in studio.predictions.values()} == {
        task["data"]["doc_id"] for task in studio.tasks.values()
    } - blind


def test_a_document_that_was_begun_with_suggestions_never_becomes_blind(studio, project, work, model):
    tasks = list(studio.tasks.values())
    for task in tasks:
        task["data"]["doc_id"] = "begun" if task is tasks[0] else "free" if task is tasks[1] else task["data"]["doc_id"]
    tasks[2]["data"]["doc_id"] = "begun"
    options = [*project[0], "--work", str(work), *of_model(model)]
    push.main(options)
    annotate(studio, project[2], tasks[:1])
    push.main([*options, "--blind-fraction", "1"])
    assert "free" in Work(work).blind()
    assert "begun" not in Work(work).blind()


def test_push_is_only_for_tasks_without_annotations_unless_told(studio, project, work, model):
    options = [*project[0], "--work", str(work), *of_model(model)]
    annotate(studio, project[2], list(studio.tasks.values())[:10])
    push.main(options)
    assert len(studio.predictions) == 20
    push.main([*options, "--annotated-too"])
    assert len(studio.predictions) == 30


def test_a_server_that_loses_predictions_is_noticed(studio, project, work, model, monkeypatch):
    monkeypatch.setattr(studio, "store_prediction", lambda *_: None)
    with pytest.raises(InputError, match=r"doesn't exist"):
        push.main([*project[0], "--work", str(work), *of_model(model)])


# -- pull, fit, report ------------------------------------------------------------------------------------------------


def test_pull_reads_what_is_new_and_forgets_what_is_deleted_when_told(studio, project, work):
    options, _, truth = project
    tasks = list(studio.tasks.values())
    annotate(studio, truth, tasks[:5])
    options = [*options, "--work", str(work)]
    assert pull.main(options).annotated == 5
    studio.requests.clear()
    annotate(studio, truth, tasks[5:7], was_cancelled=True)
    annotate(studio, truth, tasks[7:8])
    report = pull.main(options)
    assert (report.annotated, report.skipped, report.tasks) == (6, 2, 30)
    studio.annotations.clear()
    write_json(work / pull.TASKS, [{"id": 1}])
    with pytest.raises(InputError, match=r"tasks.json: \[0\] lacks \['data', 'updated_at'\]"):
        pull.main(options)
    assert pull.main([*options, "--all"]).annotated == 0


def between_pages(studio, monkeypatch, act):
    """Pages of ten tasks, and something that happens on the server after the first."""
    monkeypatch.setattr(client_module, "PAGE", 10)
    page, asked = studio.page, []

    def slow(query):
        found = page(query)
        if not asked:
            asked.append(query)
            act()
        return found

    monkeypatch.setattr(studio, "page", slow)


def test_annotations_made_while_pages_are_read_are_read_the_next_time(studio, project, work, monkeypatch):
    first, *_, last = studio.tasks.values()
    options = [*project[0], "--work", str(work)]
    between_pages(studio, monkeypatch, lambda: annotate(studio, project[2], [first, last]))
    assert pull.main(options).annotated == 1, "the first page was read before"
    assert pull.main(options).annotated == 2


def test_tasks_deleted_while_pages_are_read_hide_no_others(studio, project, work, monkeypatch):
    tasks = list(studio.tasks.values())
    annotate(studio, project[2], tasks)
    between_pages(studio, monkeypatch, lambda: studio.tasks.pop(tasks[0]["id"]))
    assert pull.main([*project[0], "--work", str(work)]).annotated == 30, "29 and the one that was read before"


def test_a_last_page_that_is_gone_ends_nothing(studio, project, monkeypatch):
    tasks = list(studio.tasks.values())

    def delete():
        for task in tasks[5:26]:
            del studio.tasks[task["id"]]

    between_pages(studio, monkeypatch, delete)
    found = [task["id"] for task in Client(studio.url, TOKEN).tasks(tasks[0]["project"])]
    assert set(found) == {task["id"] for task in (*tasks[:10], *tasks[26:])}
    assert len(found) == len(set(found))


def test_pages_that_never_come_are_not_asked_for_without_end(studio, project, monkeypatch):
    page = studio.page
    monkeypatch.setattr(client_module, "PAGE", 10)
    monkeypatch.setattr(studio, "page", lambda query: page(query) | ({} if query["page"] == "1" else {"tasks": []}))
    with pytest.raises(InputError, match="Invalid page"):
        list(Client(studio.url, TOKEN).tasks(next(iter(studio.projects))))


@pytest.mark.parametrize(
    ("times", "since"),
    [
        (["2026-11-25T17:00:00Z", "2026-11-25T16:00:00.5Z"], "2026-11-25T16:00:00.000000Z"),
        (["2026-11-25T17:00:00.000001+02:00"], "2026-11-25T14:00:00.000001Z"),
        (["yesterday"], None),
        ([], None),
    ],
)
def test_the_time_from_which_changes_are_read_is_in_the_servers_form(times, since):
    assert pull._since([{"updated_at": time} for time in times]) == since


def test_fit_trains_scores_and_promotes(studio, project, work, model, gliner_folder, monkeypatch):
    options, _, truth = project
    options = [*options, "--work", str(work)]
    push.main([*options, *of_model(model), "--blind-fraction", "0.15"])
    before = Work(work).current()
    annotate(studio, truth, studio.tasks.values())
    training = ["--approach", "glinerev", "--base-model", str(gliner_folder("bi-bert")), "--epochs", "1"]
    training += ["--precision", "fp32", "--device", "cpu", "--no-progress", "--batch-size", "4"]
    record = fit.main([*options, *training, "--promote", "never"])
    assert Work(work).current() == before
    assert record["parent"] == before["version"] != record["version"]
    parts = read_json(work / "parts.json")
    assert record["tasks"] == {part: list(parts.values()).count(part) for part in ("train", "validation", "held out")}
    assert record["held_out"]["new"]["tasks"] == record["held_out"]["old"]["tasks"] == record["tasks"]["held out"]
    assert record["blind"]["new"]["tasks"] == len(Work(work).blind())
    assert set(record["held_out"]["difference"]) == {"micro_f1", "macro_f1"}
    # The same data and settings: nothing is trained again, and it is the same version.
    again = fit.main([*options, *training, "--promote", "always"])
    assert (again["model"], again["version"]) == (record["model"], record["version"])
    assert Work(work).current()["version"] == record["version"]
    # Now it is in service, and is not compared with itself.
    studio.annotate(next(iter(studio.tasks)), [], lead_time=None, was_cancelled=True)
    same = fit.main([*options, *training, "--promote", "if-better"])
    assert same == again
    assert Work(work).current()["version"] == record["version"]
    annotated = {document_of(task["data"], task["id"]) for task in read_json(work / "annotated.json")}
    assert annotated == set(parts)
    assert push.main([*options, "--annotated-too", "--device", "cpu"]) == record["version"]
    # One that was cut off is gone on with.
    run = Path(record["model"])
    write_json(run / RUN_FILE, read_json(run / RUN_FILE) | {"status": "interrupted"})
    _, approach, rest = fit.check_training([*options, *training])
    data_set = work / "datasets" / read_json(run / RUN_FILE)["dataset"]["name"]
    # If it cannot be, as it was started otherwise, another takes its place.
    other = fit.train(approach, data_set, [*rest, "--eval-batch-size", "3"])
    assert read_json(other / RUN_FILE)["status"] == "finished" != read_json(run / RUN_FILE)["status"]
    shutil.rmtree(other)
    given = []
    monkeypatch.setattr("glinerev.train.main", given.append)
    fit.train(approach, data_set, rest)
    assert given[0][-2:] == ["--resume", str(run)]
    fit.train(approach, data_set, [*rest, "--seed", "7"])
    assert "--resume" not in given[1], "other settings are another training"
    # So is that of a base model whose weights have changed where they lie.
    record = read_json(run / RUN_FILE)
    other = record["base_model"] | {"revision": f"sha256:{'0' * 64}"}
    write_json(run / RUN_FILE, record | {"status": "finished", "base_model": other})
    fit.train(approach, data_set, rest)
    assert len(given) == 3, "it is trained anew"


def test_other_tasks_are_scored_beside_the_held_out_ones(studio, project, work, model, gliner_folder, tmp_path, caplog):
    options, _, truth = project
    options = [*options, "--work", str(work)]
    push.main([*options, *of_model(model)])
    tasks = list(studio.tasks.values())
    annotate(studio, truth, tasks[:20])
    gold = [
        {"data": task["data"], "annotations": [annotation(truth[task["data"]["uid"]], task["data"]["text"], LABELLING)]}
        for task in tasks
    ]
    renamed = {"data": {"text": tasks[0]["data"]["text"]}, "annotations": [{"result": []}]}
    write_json(tmp_path / "gold.json", [*gold, renamed])
    training = ["--approach", "glinerev", "--base-model", str(gliner_folder("bi-bert")), "--epochs", "1"]
    training += ["--precision", "fp32", "--device", "cpu", "--no-progress", "--test", str(tmp_path / "gold.json")]
    record = fit.main([*options, *training])
    known = {task["data"]["text"] for task in tasks[:20]}
    new = [task for task in tasks[20:] if task["data"]["text"] not in known]
    assert record["test"]["new"]["tasks"] == record["test"]["old"]["tasks"] == len(new) == 7
    support = {name: scores["support"] for name, scores in record["test"]["new"]["per_type"].items()}
    left = [mention.label for task in new for mention in truth[task["data"]["uid"]]]
    assert support == {label: left.count(label) for label in LABELS}
    assert any(line.startswith("test, 7 tasks with") for line in fit.told(record))
    write_json(tmp_path / "gold.json", gold[:20])
    with pytest.raises(InputError, match="none of its 20 annotated tasks is new"):
        fit.main([*options, *training])
    write_json(tmp_path / "gold.json", [{"data": {}}])
    with pytest.raises(InputError, match=r"gold.json: record 0 .*annotations"):
        fit.main([*options, *training])


@pytest.mark.parametrize(
    ("rule", "better", "maybe", "worse", "first"),
    [
        ("if-better", True, True, False, True),
        ("if-surely-better", True, False, False, True),
        ("always", True, True, True, True),
        ("never", False, False, False, False),
    ],
)
def test_the_rule_says_what_goes_into_service(rule, better, maybe, worse, first):
    config = fit.Config(approach="glinerev", promote=rule)

    def promotes(low, middle):
        return fit.promotes(config, {"micro_f1": {"difference": middle, "low": low}, "macro_f1": {}})

    assert (promotes(0.1, 0.2), promotes(-0.1, 0.1), promotes(-0.2, -0.1)) == (better, maybe, worse)
    assert fit.promotes(config, None) is first


def test_wrong_options_of_fit_are_told_before_anything_is_done(studio, project, work):
    options = [*project[0], "--work", str(work)]
    for more, message in (
        (["--approach", "nothing"], "unknown approach"),
        (["--approach", "zeroshot_baseline"], "nothing is trained"),
        (["--approach", "glinerev", "--dataset", "x"], "set by annotation.fit itself"),
        (["--approach", "glinerev", "--held-out", "1"], "held_out must be between"),
    ):
        with pytest.raises(InputError, match=message):
            fit.main([*options, *more])
    with pytest.raises(SystemExit):
        fit.main([*options, "--approach", "glinerev", "--epoks", "1"])
    with pytest.raises(InputError, match="0 annotated documents"):
        fit.main([*options, "--approach", "glinerev"])


def test_report_and_status(studio, project, work, model, capsys, tmp_path, monkeypatch):
    options, _, truth = project
    push.main([*options, "--work", str(work), *of_model(model)])
    tasks = list(studio.tasks.values())
    annotate(studio, truth, tasks[:10])
    annotate(studio, truth, tasks[:1], user=2)
    found = report.main([*options, "--output", str(tmp_path / "report.json")])
    assert read_json(tmp_path / "report.json") == json.loads(json.dumps(found))
    (version,) = found["outcomes"]
    added = sum(
        counts["added"] + counts["accepted"] + counts["changed"] for counts in found["outcomes"][version].values()
    )
    assert added >= sum(len(truth[task["data"]["uid"]]) for task in tasks[:10])
    assert found["agreement"] == {"pairs": 1, "f1": None if not truth["u0"] else 1.0}
    assert found["seconds"][version]["annotations"] == 11
    status.main([*options, "--work", str(work), "--port", "1"])
    out = capsys.readouterr().out
    assert f"in service: {version}" in out
    assert "30 tasks, 10 annotated" in out
    assert "annotations: 11, 11 more than the last training has read" in out
    assert "service http://127.0.0.1:1: does not answer" in out
    monkeypatch.setattr(status.httpx, "get", lambda *_, **__: httpx.Response(200, json={"jobs": []}))
    status.main([*options, "--work", str(work), "--backend", "http://other/"])
    assert "service http://other: is not annotation.serve" in capsys.readouterr().out


# -- the live service -------------------------------------------------------------------------------------------------


@pytest.fixture
def service():
    """Starts the service that a command line asks for, in this process."""
    import contextlib

    with contextlib.ExitStack() as stack:

        def start(arguments):
            running = stack.enter_context(
                serve.serving(arguments if "--port" in arguments else [*arguments, "--port", "0"])
            )
            threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            stack.callback(running.shutdown)
            return running.address

        yield start


def test_connect_and_disconnect_leave_nothing(studio, project, work, model, service, monkeypatch):
    options = [*project[0], "--work", str(work)]
    monkeypatch.setenv(serve.PASSWORD_VARIABLE, "secret")
    address = service([*options, *of_model(model), "--user", "ann"])
    with pytest.raises(InputError, match="valid ML backend"):
        connect.main([*project[0], "--backend", address])
    assert not studio.backends | studio.webhooks
    for _ in range(2):
        connect.main([*project[0], "--backend", address, "--user", "ann", "--title", "mine"])
    assert (len(studio.backends), len(studio.webhooks)) == (1, 1)
    (medical,) = studio.projects.values()
    assert medical["model_version"] == "mine"
    annotate(studio, project[2], list(studio.tasks.values())[:2])
    (hook,) = studio.webhooks.values()
    assert "failures" not in hook, "events bring the password"
    studio.retrieve(medical["id"])
    studio.retrieve(medical["id"])
    assert len(studio.predictions) == 30, "one version in setup and results: nothing is stored twice"
    removed = disconnect.main([*project[0], "--backend", address])
    assert (removed.backends, removed.webhooks) == (1, 1)
    assert not studio.backends | studio.webhooks
    assert medical["model_version"] == ""


def test_a_refused_local_backend_is_cleaned_up_and_explained(studio, project, work, model):
    studio.block_local = True
    with pytest.raises(InputError) as caught:
        connect.main([*project[0], "--backend", "http://127.0.0.1:9"])
    assert "LABEL_STUDIO_ML_BLOCK_LOCAL_IP=false" in str(caught.value)
    assert "LABEL_STUDIO_SSRF_PROTECTION_ENABLED=false" in str(caught.value)
    assert not studio.backends


def test_doctor_looks_at_everything(studio, project, work, model, service, capsys):
    options = [*project[0], "--work", str(work)]
    address = service([*options, *of_model(model)])
    connect.main([*project[0], "--backend", address])
    annotate(studio, project[2], studio.tasks.values())
    doctor.main([*options, "--backend", address])
    out = capsys.readouterr().out
    assert "bad" not in {line.split()[0] for line in out.splitlines()}
    for text in ("Label Studio 1.23.2", "a legacy token", "code points", "/setup: 200 in", "Connected"):
        assert text in out
    moved = next(iter(studio.annotations.values()))
    moved["result"] = json.loads(json.dumps(list(studio.annotations.values())[3]["result"]))
    for task in studio.annotations.values():
        for item in task["result"]:
            item["value"]["start"] += 1
            item["value"]["end"] += 1
    studio.annotations.pop(moved["id"])
    with pytest.raises(InputError, match="of these are bad"):
        doctor.main([*options, "--backend", address])
    assert "UTF-16 units in" in capsys.readouterr().out
    with pytest.raises(InputError, match="of these are bad"):
        doctor.main([*options, "--backend", "http://localhost:port"])
    assert "bad   service: http://localhost:port: Invalid port: 'port'" in capsys.readouterr().out


def test_no_password_of_an_address_is_shown(studio, project, work, model, service, monkeypatch, capsys, caplog):
    options = [*project[0], "--work", str(work)]
    monkeypatch.setenv(serve.PASSWORD_VARIABLE, "s3cret")
    backend = ["--backend", service([*options, *of_model(model), "--user", "ann"]).replace("//", "//ann:s3cret@")]
    caplog.set_level("INFO")
    # httpx says what it sends.
    logging.getLogger("httpx").setLevel("ERROR")
    doctor.main([*options, *backend])
    status.main([*options, *backend])
    disconnect.main([*project[0], *backend])
    studio.block_local = True
    with pytest.raises(InputError) as caught:
        connect.main([*project[0], *backend])
    shown = capsys.readouterr().out + caplog.text + str(caught.value)
    assert shown.count("//ann:***@127.0.0.1") == 5
    assert "s3cret" not in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--train-every", "5"], "without --approach nothing is trained"),
        (["--train-every", "0", "--approach", "glinerev"], "at least 1, got 0"),
        (["--", "--epochs", "1"], "without --approach nothing is trained"),
    ],
)
def test_wrong_options_of_the_service_are_told_before_a_model_is_loaded(more, message):
    with pytest.raises(InputError, match=message), serve.serving(["--model", "nowhere", *more]):
        pass


@pytest.mark.processes
def test_the_button_trains_in_another_process_and_the_new_version_is_served(
    studio, project, work, model, service, gliner_folder
):
    options, _, truth = project
    annotate(studio, truth, studio.tasks.values())
    training = ["--approach", "glinerev", "--port", "0", "--", "--base-model", str(gliner_folder("bi-bert"))]
    training += ["--promote", "always", "--epochs", "1", "--precision", "fp32", "--no-progress"]
    address = service([*options, "--work", str(work), *of_model(model), *training])
    connect.main([*options, "--backend", address])
    (backend,) = studio.backends.values()
    first = backend["model_version"]
    client = Client(studio.url, TOKEN)
    client.call("POST", f"/api/ml/{backend['id']}/train")
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        jobs = httpx.get(f"{address}/status").json()["jobs"]
        studio.check(backend)
        assert backend["state"] == "CO", "the old version serves on"
        if jobs and jobs[0]["status"] not in ("waiting", "running") and backend["model_version"] != first:
            break
        assert not (jobs and jobs[0]["status"] == "failed"), (work / "jobs" / "1" / "log.txt").read_text()
        time.sleep(0.5)
    assert jobs[0]["status"] == "finished"
    assert backend["model_version"] == Work(work).current()["version"] != first
    studio.retrieve(next(iter(studio.projects)))
    assert {item["model_version"] for item in studio.predictions.values()} == {backend["model_version"]}


@pytest.mark.processes
def test_enough_annotations_train_and_a_killed_training_goes_on(
    studio, project, work, model, service, gliner_folder, monkeypatch
):
    for name, seconds in (("SETTLE", 0.1), ("PAUSE", 0.5)):
        monkeypatch.setattr(jobs, name, seconds)
    options, _, truth = project
    training = ["--approach", "glinerev", "--train-every", "20", "--port", "0", "--"]
    training += ["--base-model", str(gliner_folder("bi-bert")), "--promote", "always", "--epochs", "1"]
    training += ["--precision", "fp32", "--no-progress"]
    command = [*options, "--work", str(work), *of_model(model), *training]
    # As if a service had been killed while its training waited.
    write_json(work / "jobs" / "1" / jobs.RECORD, {"job": "1", "status": "running"})
    annotate(studio, truth, list(studio.tasks.values())[:10])
    address = service(command)
    connect.main([*options, "--backend", address])

    def ended(number):
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            found = httpx.get(f"{address}/status").json()["jobs"]
            if len(found) >= number and found[number - 1]["status"] not in ("waiting", "running"):
                return found[number - 1]
            time.sleep(0.2)
        raise AssertionError(found)

    log = work / "jobs" / "1" / jobs.LOG
    assert ended(1)["status"] == "finished", log.read_text()
    assert Work(work).trained() == 10
    annotate(studio, truth, list(studio.tasks.values())[10:29])
    time.sleep(2)
    assert len(httpx.get(f"{address}/status").json()["jobs"]) == 1, "19 are new"
    annotate(studio, truth, list(studio.tasks.values())[29:])
    assert ended(2)["status"] == "finished", (work / "jobs" / "2" / jobs.LOG).read_text()
    assert Work(work).trained() == 30
    time.sleep(2)
    assert len(httpx.get(f"{address}/status").json()["jobs"]) == 2


def test_what_becomes_current_while_the_service_loads_is_served(studio, project, work, model, monkeypatch):
    options = [*project[0], "--work", str(work)]
    load = serve.Config.load

    def slow(self, folder, labelling):
        before = load(self, folder, labelling)
        folder.set_current({**before.record, "threshold": 0.6, "version": "newer"})
        return before

    monkeypatch.setattr(serve, "LOOK", 0.05)
    push.main([*options, *of_model(model)])
    monkeypatch.setattr(serve.Config, "load", slow)
    with serve.serving([*options, "--port", "0", "--device", "cpu"]) as running:
        deadline = time.monotonic() + 10
        while running.backend.model.tagger.threshold != 0.6:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_documents_that_become_blind_while_the_service_runs_get_nothing(studio, project, work, model):
    options = [*project[0], "--work", str(work)]
    tasks = [studio.shown(number) for number in studio.tasks]
    body = {"tasks": tasks, "label_config": label_config(LABELS)}
    with serve.serving([*options, *of_model(model), "--port", "0"]) as running:
        reloader = serve.Reloader(Work(work), running.backend, LABELLING, RUNTIME, serve.stamp(Work(work)))
        push.main([*options, "--blind-fraction", "0.4", "--device", "cpu"])
        reloader.look()
        found = running.backend.handle("POST", "/predict", body).body["results"]
    shown = {task["data"]["doc_id"] for task, item in zip(tasks, found, strict=True) if item["result"]}
    blind = Work(work).blind()
    assert blind
    assert shown
    assert not shown & blind


def test_a_version_that_cannot_be_loaded_leaves_the_old_one(studio, project, work, model, service, monkeypatch, caplog):
    monkeypatch.setattr(serve, "LOOK", 0.05)
    options = [*project[0], "--work", str(work)]
    address = service([*options, *of_model(model)])
    setup_body = {"schema": label_config(LABELS)}
    before = httpx.post(f"{address}/setup", json=setup_body).json()
    Work(work).set_current({"version": "broken", "model": str(work / "nothing")})
    deadline = time.monotonic() + 30
    while "the version before stays" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert httpx.post(f"{address}/setup", json=setup_body).json() == before
