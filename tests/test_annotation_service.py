"""The live backend over HTTP: the recorded requests of a real server, its limits of time, and what must not happen."""

import functools
import http.client
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_annotation import JSON, LABELLING, MEDICAL, STRANGE, Words, task
from tiny import REAL, wait_until

from annotation import backend as backend_module
from annotation import jobs as jobs_module
from annotation.backend import Backend
from annotation.labelling import label_config
from annotation.private import redact
from annotation.service import LARGEST, Service, basic
from common.errors import InputError
from common.files import read_json

RECORDED = REAL / "labelstudio" / "backend_requests.jsonl"
CONFIG = label_config(MEDICAL)
WORDS = {"aspirin": "Medication/Vaccine", "ibuprofen": "Medication/Vaccine", "fever": "Symptom", "headache": "Symptom"}


class Jobs:
    """Counts how often it is asked; the second job waits."""

    def __init__(self):
        self.asked = 0

    def start(self):
        self.asked += 1
        return str(min(self.asked, 2)), self.asked < 3

    def jobs(self):
        return [{"job": "1", "status": "running"}]


class Running:
    """A service in threads, and requests to it over one connection that is kept."""

    def __init__(self, backend, **more):
        self.service = Service(backend, port=0, **more)
        threading.Thread(target=self.service.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.connection = self.connect()

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.service.server_address[1], timeout=30)

    def ask(self, method, path, body=None, headers=None, connection=None):
        connection = connection or self.connection
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def begin(self, body):
        """Asks for predictions over another connection; the thread that does it, and where the answer comes."""
        done, connection = [], self.connect()
        ask = functools.partial(self.ask, "POST", "/predict", body, connection=connection)
        thread = threading.Thread(target=lambda: done.append(ask()[1]))
        thread.start()
        return thread, done

    def close(self):
        self.service.shutdown()
        self.service.server_close()


@pytest.fixture
def run():
    running = []

    def start(backend=None, **more):
        running.append(Running(backend or Backend(Words(WORDS), Jobs()), **more))
        return running[-1]

    yield start
    for one in running:
        one.close()


def predict(tasks, context=None, config=CONFIG):
    return {"tasks": tasks, "project": "1.1", "label_config": config, "params": {"login": None, "context": context}}


# -- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not RECORDED.is_file(), reason="the recorded requests are not here")
def test_the_requests_of_a_real_server(run):
    service, versions, predicted = run(), set(), 0
    for line in RECORDED.read_text("utf-8").splitlines():
        record = json.loads(line)
        if "step" in record:
            continue
        path, body = record["path"], record["body"]
        status, answer = service.ask(record["method"], path, body)
        action = body.get("action") if isinstance(body, dict) else None
        assert status == (201 if action == "START_TRAINING" else 200), (path, answer)
        if path == "/setup":
            versions.add(answer["model_version"])
        if path == "/predict":
            assert len(answer["results"]) == len(body["tasks"])
            for sent, result in zip(body["tasks"], answer["results"], strict=True):
                text = sent["data"]["text"]
                versions.add(result["model_version"])
                assert 0 <= result["score"] <= 1
                for item in result["result"]:
                    value = item["value"]
                    assert text[value["start"] : value["end"]] == value["text"]
                    assert value["labels"][0] in MEDICAL
                    assert (item["from_name"], item["to_name"], item["type"]) == ("label", "text", "labels")
                    assert item["id"]
                    predicted += 1
    assert predicted > 3
    assert len(versions) == 1, "setup and every result name the same version"
    assert service.ask("GET", "/versions")[1] == {"versions": list(versions)}


def test_one_prediction_for_each_task_in_order_and_a_bad_task_is_empty(run):
    service = run()
    tasks = [
        task(1, "no entity"),
        {"id": 2, "data": {}},
        task(3, "fever"),
        "nonsense",
        task(5, "explode"),
        task(6, "fever"),
    ]
    tasks[0]["annotations"] = [{"result": [{"value": {"start": 0, "end": 2, "labels": ["Symptom"]}}]}]
    status, answer = service.ask("POST", "/predict", predict(tasks))
    assert status == 200
    found = [[item["value"]["text"] for item in result["result"]] for result in answer["results"]]
    assert found == [[], [], ["fever"], [], [], ["fever"]]
    again = service.ask("POST", "/predict", predict(tasks))[1]
    assert again == answer, "the same regions have the same ids"
    counts = service.ask("GET", "/status")[1]["counts"]
    assert (counts["tasks"], counts["bad tasks"]) == (12, 6)


def test_labels_are_those_of_the_request(run):
    service = run()
    config = label_config(["Symptom"]).replace('name="label"', 'name="kind"')
    found = service.ask("POST", "/predict", predict([task(1, "aspirin for fever")], config=config))[1]["results"][0]
    assert [(item["from_name"], item["value"]["labels"]) for item in found["result"]] == [("kind", ["Symptom"])]
    setup = service.ask("POST", "/setup", {"schema": config})[1]
    assert setup["model_version"] == found["model_version"] != Words(WORDS).version(LABELLING)


def test_beside_a_region_that_is_drawn_only_what_is_free_is_suggested(run):
    service, text = run(), "aspirin and ibuprofen for fever"
    drawn = {"result": [{"id": "x", "type": "labels", "value": {"start": 2, "end": 9, "labels": ["Symptom"]}}]}
    one = task(1, text, drafts=[{"result": [{"value": {"start": 26, "end": 31}}]}])
    found = service.ask("POST", "/predict", predict([one], drawn))[1]["results"][0]["result"]
    assert [item["value"]["text"] for item in found] == ["ibuprofen"]
    assert len(service.ask("POST", "/predict", predict([one]))[1]["results"][0]["result"]) == 3


def test_blind_documents_get_nothing(run):
    service = run(Backend(Words(WORDS), blind=frozenset({"d1"})))
    results = service.ask("POST", "/predict", predict([task(1, "fever"), task(2, "fever")]))[1]["results"]
    assert [len(result["result"]) for result in results] == [0, 1]


def test_start_training_is_queued_and_events_are_counted(run):
    service = run()
    answers = [service.ask("POST", "/webhook", {"action": "START_TRAINING"}) for _ in range(3)]
    assert answers == [(201, {"job": "1"}), (201, {"job": "2"}), (202, {"job": "2"})]
    assert service.ask("POST", "/webhook", {"action": "ANNOTATION_CREATED", "task": {}})[0] == 200
    assert service.ask("GET", "/status")[1]["counts"]["event ANNOTATION_CREATED"] == 1
    other = run(Backend(Words(WORDS)))
    assert other.ask("POST", "/webhook", {"action": "START_TRAINING"})[0] == 409


# -- time -------------------------------------------------------------------------------------------------------------


class Slow(Words):
    """Computes, in Python, until it is let go."""

    def __init__(self):
        super().__init__(WORDS)
        self.began, self.enough = threading.Event(), threading.Event()

    def suggest(self, texts):
        self.began.set()
        while not self.enough.is_set():
            sum(range(1000))
        return super().suggest(texts)


def test_a_prediction_that_computes_delays_nothing_else(run):
    model = Slow()
    service = run(Backend(model, Jobs()))
    thread, done = service.begin(predict([task(1, "fever")]))
    assert model.began.wait(10)
    requests = [("GET", "/health", None), ("POST", "/setup", {"schema": CONFIG}), ("POST", "/webhook", {"action": "X"})]
    try:
        answers = [service.ask(method, path, body)[0] for method, path, body in requests]
        assert answers == [200, 200, 200]
        assert not done, "the prediction is still being computed"
    finally:
        model.enough.set()
        thread.join()
    assert done[0]["results"][0]["result"], "and it is answered in the end"


class Steps(Words):
    """Suggests when it is allowed to, and counts."""

    def __init__(self):
        super().__init__(WORDS)
        self.allowed, self.began = threading.Semaphore(0), threading.Event()

    def suggest(self, texts):
        self.began.set()
        assert self.allowed.acquire(timeout=30)
        return super().suggest(texts)


def test_a_long_request_lets_a_short_one_in_between(run, monkeypatch):
    monkeypatch.setattr(backend_module, "_TOGETHER", 1)
    model = Steps()
    service, done = run(Backend(model)), []

    def ask(name, tasks):
        service.ask("POST", "/predict", predict(tasks), connection=service.connect())
        done.append(name)

    long = threading.Thread(target=ask, args=("long", [task(number, f"fever {number}") for number in range(6)]))
    long.start()
    assert model.began.wait(10)
    short = threading.Thread(target=ask, args=("short", [task(9, "headache")]))
    short.start()
    while "headache" not in model.seen:
        model.allowed.release()
        assert len(model.seen) < 6, "all of the long request came first"
        short.join(0.05)
    for _ in range(6):
        model.allowed.release()
    for thread in (short, long):
        thread.join(30)
    assert done == ["short", "long"]


def test_what_takes_too_long_is_done_when_it_is_asked_again(run, monkeypatch):
    monkeypatch.setattr(backend_module, "_TOGETHER", 1)
    ticks = iter(range(0, 10_000, 40))
    model = Words(WORDS)
    service = run(Backend(model, clock=lambda: next(ticks)))
    tasks = [task(number, f"fever {number}") for number in range(4)]
    status, answer = service.ask("POST", "/predict", predict(tasks))
    assert status == 503
    assert "tasks are not done yet" in answer["error"]
    for _ in range(5):
        if status == 503:
            status, answer = service.ask("POST", "/predict", predict(tasks))
    assert status == 200
    assert len(answer["results"]) == 4
    assert sorted(model.seen) == sorted(t["data"]["text"] for t in tasks), "nothing is computed twice"


def test_another_model_is_used_from_the_next_request_on(run):
    model = Slow()
    backend = Backend(model)
    service = run(backend)
    thread, done = service.begin(predict([task(1, "fever")]))
    assert model.began.wait(10)
    backend.use(Words({}, "second"))
    assert service.ask("POST", "/setup", {"schema": CONFIG})[1]["model_version"] == "second-5"
    model.enough.set()
    thread.join()
    assert done[0]["results"][0]["model_version"] == "words-5"
    assert service.ask("POST", "/predict", predict([task(1, "fever")]))[1]["results"][0]["model_version"] == "second-5"


# -- training -----------------------------------------------------------------------------------------------------


def test_one_training_runs_and_one_waits_however_they_end(tmp_path, monkeypatch):
    endings, started, go = [0, 1, -9, None], [], threading.Semaphore(0)

    def run_module(module, arguments, log):
        started.append((module, arguments))
        log.write_text("a line\nthe last line\n")
        assert go.acquire(timeout=30)
        if not endings:
            raise OSError(28, "no space")
        return endings.pop(0)

    monkeypatch.setattr(jobs_module, "run_module", run_module)
    ended = []
    with ThreadPoolExecutor(1) as pool:
        trainer = jobs_module.Trainer(tmp_path, ["--approach", "x"], pool, lambda: ended.append(len(started)))

        def until(status, number):
            wait_until(lambda: trainer.jobs()[number - 1]["status"] == status)

        assert trainer.start() == ("1", True)
        until("running", 1)
        assert trainer.start() == ("2", True)
        assert trainer.start() == ("2", False), "one waits already"
        for number, status in enumerate(["finished", "failed", "failed", "stopped", "failed"], start=1):
            go.release()
            until(status, number)
            trainer.start()
        go.release(9)
    jobs = [read_json(tmp_path / str(number) / "job.json") for number in range(1, 6)]
    assert [job["message"] for job in jobs] == ["the last line"] * 4 + ["[Errno 28] no space"]
    assert started[0] == ("annotation.fit", ["--approach", "x"])
    assert len(ended) == 4, "told of each training that has run"
    assert jobs_module.Trainer(tmp_path, [], pool, lambda: None)._last >= 5, "numbers go on after a restart"


def written(folder, number, status):
    (folder / str(number)).mkdir(parents=True)
    record = {"job": str(number), "status": status, "asked": "2026-11-25T17:00:00+00:00"}
    (folder / str(number) / "job.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("left", "goes_on", "after"),
    [
        ([], None, []),
        (["finished", "failed"], None, ["finished", "failed"]),
        (["finished", "running"], "2", ["finished", "finished"]),
        (["running", "waiting"], "2", ["interrupted", "finished"]),
        (["stopped"], "1", ["finished"]),
    ],
)
def test_a_training_that_was_not_over_when_the_service_ended_goes_on(tmp_path, monkeypatch, left, goes_on, after):
    ran = []
    monkeypatch.setattr(jobs_module, "run_module", lambda *arguments: ran.append(arguments) or 0)
    for number, status in enumerate(left, start=1):
        written(tmp_path, number, status)
    with ThreadPoolExecutor(1) as pool:
        trainer = jobs_module.Trainer(tmp_path, [], pool, lambda: None)
        assert trainer.take_up() == goes_on
    assert len(ran) == (goes_on is not None)
    statuses = [read_json(tmp_path / str(number) / "job.json")["status"] for number in range(1, len(left) + 1)]
    assert statuses == after
    assert jobs_module.Trainer(tmp_path, [], pool, lambda: None).take_up() is None, "nothing goes on twice"


def test_a_training_that_waits_is_on_disk_before_anyone_is_told(tmp_path):
    class Never:
        def submit(self, *_):
            assert read_json(tmp_path / "1" / "job.json")["status"] == "waiting"

    trainer = jobs_module.Trainer(tmp_path, [], Never(), lambda: None)
    assert trainer.start() == ("1", True)
    assert trainer.busy
    (tmp_path / "full").write_text("")
    full = jobs_module.Trainer(tmp_path / "full", [], Never(), lambda: None)
    answer = Backend(Words(WORDS), full).handle("POST", "/webhook", {"action": "START_TRAINING"})
    assert (answer.status, full.busy) == (400, False), "what cannot be kept is refused"


def test_the_record_of_a_job_is_checked(tmp_path):
    written(tmp_path, 1, "elsewhere")
    with pytest.raises(InputError, match=r"job.json.*status"):
        jobs_module.Trainer(tmp_path, [], None, lambda: None).take_up()


class Asked:
    """Trainings that are asked for, and nothing else."""

    def __init__(self):
        self.started, self.busy = 0, False

    def start(self):
        self.started += 1
        self.busy = True
        return str(self.started), True


class Counting:
    """:class:`annotation.jobs.Every` with 10, and all that it looks at."""

    def __init__(self, trained=0):
        self.annotations, self.trained, self.seconds, self.trainer, self.counts = 0, trained, 0.0, Asked(), 0
        self.every = jobs_module.Every(10, self.count, lambda: self.trained, self.trainer, lambda: self.seconds)

    def count(self):
        self.counts += 1
        if self.annotations is None:
            raise InputError("Label Studio does not answer")
        return self.annotations

    def look(self, annotations):
        self.annotations = annotations
        self.every.look()
        return self.trainer.started

    def end(self, trained=None):
        self.trainer.busy = False
        self.trained = self.trained if trained is None else trained


def test_enough_new_annotations_ask_for_one_training():
    one = Counting()
    assert [one.look(count) for count in (0, 9, 10)] == [0, 0, 1]
    assert one.look(25) == 1, "it runs; what is new is counted when it has ended"
    assert one.counts == 3, "and not before"
    one.end(trained=11)
    assert one.look(25) == 1, "not at once"
    one.seconds += jobs_module.PAUSE
    assert one.look(20) == 1, "9 are new since it began to read"
    assert one.look(21) == 2


def test_a_training_that_fails_waits_for_as_many_again():
    one = Counting()
    assert one.look(10) == 1
    one.end()
    one.seconds += jobs_module.PAUSE
    assert [one.look(count) for count in (10, 19, 20)] == [1, 1, 2]


def test_after_a_restart_only_what_is_new_counts_and_what_was_missed_counts():
    assert Counting(trained=100).look(109) == 0
    assert Counting(trained=100).look(110) == 1


def test_a_server_that_does_not_answer_ends_nothing(caplog):
    one = Counting()
    assert one.look(None) == 0
    assert "does not answer" in caplog.text
    assert one.look(10) == 1


def test_an_event_makes_it_look_soon_and_many_make_it_look_once(monkeypatch):
    monkeypatch.setattr(jobs_module, "SETTLE", 0.05)
    one = Counting()
    backend = Backend(Words(WORDS), annotated=one.every.event)

    with one.every.looking():
        wait_until(lambda: one.counts >= 1)
        one.annotations = 10
        for _ in range(200):
            backend.handle("POST", "/webhook", {"action": "ANNOTATION_CREATED"})
        backend.handle("POST", "/webhook", {"action": "PROJECT_UPDATED"})
        wait_until(lambda: one.counts >= 2)
        assert one.counts < 100
        assert one.trainer.started == 1
    assert one.counts < 100


# -- what must not happen ---------------------------------------------------------------------------------------------


def test_every_route_asks_for_the_password(run):
    service = run(credentials=("ann", "pässword"))
    for method, path in (("GET", "/health"), ("POST", "/setup"), ("POST", "/predict"), ("GET", "/status")):
        body = {} if method == "POST" else None
        assert service.ask(method, path, body)[0] == 401
        assert service.ask(method, path, body, {"Authorization": basic("ann", "wrong")})[0] == 401
    assert service.ask("GET", "/health", None, {"Authorization": basic("ann", "pässword")})[0] == 200


def test_an_open_address_needs_a_password():
    for host in ("0.0.0.0", "::", ""):
        with pytest.raises(InputError, match="can be reached from other machines"):
            Service(Backend(Words({})), host, 0)
    with Service(Backend(Words({})), "0.0.0.0", 0, ("ann", "x")) as service, pytest.raises(InputError, match="in use"):
        Service(Backend(Words({})), "127.0.0.1", service.server_address[1])


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", "/nothing", None, 404, "no such route"),
        ("GET", "/predict", None, 405, "no such route"),
        ("POST", "/setup", b"{", 400, "no JSON"),
        ("POST", "/setup", b"[" * 100_000, 400, "no JSON"),
        ("POST", "/setup", [], 400, "JSON object"),
        ("POST", "/setup", {"schema": "<View/>"}, 400, "one <Labels>"),
        ("POST", "/setup", {"schema": None}, 400, "no label configuration"),
        ("POST", "/predict", {"label_config": CONFIG, "tasks": {}}, 400, "must be a list"),
    ],
)
def test_bad_requests_are_refused_in_words(run, method, path, body, status, message):
    service = run()
    found, answer = service.ask(method, path, body)
    assert (found, message in answer["error"]) == (status, True), answer
    assert service.ask("GET", "/health")[0] == 200


@given(st.lists(STRANGE | JSON, max_size=3) | JSON, JSON)
def test_whatever_is_asked_is_answered(tasks, context):
    backend = Backend(Words(WORDS), blind=frozenset({"d1"}))
    for path in ("/predict", "/setup", "/webhook"):
        body = {"tasks": tasks, "label_config": CONFIG, "params": {"context": context}, "action": context}
        answer = backend.handle("POST", path, body)
        assert answer.status in (200, 400)
        json.dumps(answer.body, allow_nan=False)
    if isinstance(tasks, list):
        assert len(backend.handle("POST", "/predict", body).body["results"]) == len(tasks)


def test_a_body_has_a_limit(run):
    service = run()
    connection = service.connect()
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(LARGEST + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413


def test_who_has_no_password_is_not_read_for_long(run):
    service = run(credentials=("ann", "x"))
    for length, kept in ((2, True), (LARGEST, False)):
        connection = service.connect()
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(length))
        connection.endheaders(b"{}" if kept else None)
        answer = connection.getresponse()
        # The longer one is not waited for.
        assert (answer.status, answer.getheader("Connection")) == (401, None if kept else "close")


def test_a_page_in_a_browser_starts_no_training(run):
    """It may send whatever it likes to this machine, and the browser says of whom it is."""
    jobs = Jobs()
    service = run(Backend(Words(WORDS), jobs))
    headers = {"Origin": "https://example.org", "Content-Type": "text/plain"}
    assert service.ask("POST", "/webhook", {"action": "START_TRAINING"}, headers)[0] == 403
    assert jobs.asked == 0
    assert service.ask("POST", "/webhook", {"action": "START_TRAINING"})[0] == 201


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:9090", True),
        ("[::1]:9090", True),
        ("localhost", True),
        ("host.docker.internal:9090", True),
        ("rebound.example.org:9090", False),
        ("backend:9090", True),
        ("", False),
        ("[", False),
    ],
)
def test_a_page_whose_domain_stands_for_this_machine_reads_nothing(run, host, known):
    service = run()
    assert service.ask("GET", "/status", None, {"Host": host})[0] == (200 if known else 403)
    assert service.ask("POST", "/webhook", {"action": "X"}, {"Host": host})[0] == (200 if known else 403)
    # No page knows the password.
    closed = run(credentials=("ann", "x"))
    assert closed.ask("GET", "/status", None, {"Host": host, "Authorization": basic("ann", "x")})[0] == 200


def test_nothing_secret_is_logged(run, caplog):
    caplog.set_level(logging.DEBUG)
    service = run()
    setup = {"schema": "<View/>", "hostname": "http://x", "access_token": "a" * 40, "extra_params": None}
    service.ask("POST", "/setup", setup)
    service.ask("POST", "/webhook", {"action": "X", "project": {"token": "b" * 40}})
    service.ask("GET", "/health?access_token=c0ffee", None, {"Authorization": "Basic c2VjcmV0c2VjcmV0"})
    assert "/setup" in caplog.text
    assert not any(secret in caplog.text for secret in ("aaaa", "bbbb", "c0ffee", "c2Vj"))
    assert redact(json.dumps({"access_token": "a" * 40})) == '{"access_token": "***"}'
