"""The loop against a real Label Studio: ``make test-labelstudio`` installs it into an environment of its own.

LABEL_STUDIO_PROGRAM names its command; without it these tests are skipped.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from test_annotation_loop import LABELLING, LABELS, corpus
from tiny import REAL_BASES

from annotation import connect, disconnect, doctor, fit, pull, push, report, serve, setup, status
from annotation.client import TOKEN_VARIABLE, Client
from annotation.connection import backends, webhooks
from annotation.labelling import label_config
from annotation.regions import annotation
from annotation.work import Work
from common.errors import InputError
from common.files import read_json, write_json
from common.paths import OUTPUT_VARIABLE, PROJECT_ROOT

PROGRAM = os.environ.get("LABEL_STUDIO_PROGRAM")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PROGRAM, reason="LABEL_STUDIO_PROGRAM is not set: make test-labelstudio"),
]

TOKEN = "0123456789abcdef0123456789abcdef01234567"
USER, PASSWORD = "admin@example.com", "Passw0rd-123"
SETTINGS = {
    "USERNAME": USER,
    "PASSWORD": PASSWORD,
    "USER_TOKEN": TOKEN,
    "ENABLE_LEGACY_API_TOKEN": "true",
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
}
LOCAL_BACKENDS = {"ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false"}
CHECKS_PREDICTIONS = {"fflag_feat_utc_210_prediction_validation_15082025": "true"}
"""Makes the server check labels, names and scores of predictions."""


@contextlib.contextmanager
def label_studio(folder, settings):
    """A server on loopback with SQLite in a folder; ends by its own process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LABEL_STUDIO", "PYTHON"))}
    environment |= {f"LABEL_STUDIO_{key}": value for key, value in settings.items()} | CHECKS_PREDICTIONS
    environment |= {"HOME": str(folder), "LABEL_STUDIO_BASE_DATA_DIR": str(folder)}
    command = [str(PROGRAM), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    log = folder / "server.log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 400
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health", timeout=2).is_success:
                    break
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(1)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("label_studio") / "data"


@pytest.fixture(scope="module")
def server(data):
    with label_studio(data, SETTINGS | LOCAL_BACKENDS) as url:
        yield url


@pytest.fixture
def options(server, tmp_path, monkeypatch, request):
    """A project with 30 tasks; the options of the commands that mean it."""
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    tasks, truth = corpus(30)
    write_json(tmp_path / "tasks.json", tasks)
    (tmp_path / "labels.xml").write_text(label_config(LABELS))
    found = ["--url", server, "--project", request.node.name[:50]]
    more = ["--label-config", str(tmp_path / "labels.xml"), "--tasks", str(tmp_path / "tasks.json")]
    number = setup.main([*found, *more])
    assert setup.main([*found, *more]) == number
    client = Client(server, TOKEN)
    assert len(list(client.tasks(number))) == 30
    return found, number, truth, client


@pytest.fixture
def model(gliner_folder):
    """A small real GLiNER where one is, else a tiny random one."""
    real = REAL_BASES / "gliner-minilm-bi"
    return real if real.is_dir() else gliner_folder("bi-bert")


def people(client, project, truth, skip=()):
    """Annotates all tasks without annotations, as the editor does."""
    for task in [task for task in client.tasks(project) if not task["total_annotations"]]:
        text = task["data"]["text"]
        body = {"result": annotation(truth[task["data"]["uid"]], text, LABELLING)["result"], "lead_time": 4.5}
        if task["predictions"]:
            body["parent_prediction"] = task["predictions"][-1]["id"]
        body["was_cancelled"] = task["data"]["uid"] in skip
        client.call("POST", f"/api/tasks/{task['id']}/annotations/", body)


def test_the_loop(options, tmp_path, model, capsys):
    found, project, truth, client = options
    work = ["--work", str(tmp_path / "work")]
    version = push.main([*found, *work, "--model", str(model), "--blind-fraction", "0.1", "--threshold", "0.2"])
    blind = Work(tmp_path / "work").blind()
    assert push.main([*found, *work, "--model", str(model), "--threshold", "0.2"]) == version
    assert client.versions(project) == {version: 30 - len(blind)}
    assert client.call("GET", f"/api/projects/{project}/")["model_version"] == version
    shown = client.call("POST", "/api/dm/actions/", {}, {"id": "next_task", "project": project})
    assert shown["data"]["uid"] in truth

    people(client, project, truth, skip={"u5"})
    first = next(iter(client.tasks(project)))
    second = {"result": first["annotations"][0]["result"], "lead_time": 2.0}
    client.call("POST", f"/api/tasks/{first['id']}/annotations/", second)
    account = pull.main([*found, *work])
    assert (account.annotated, account.skipped, account.mismatches) == (29, 1, 0)
    texts = {task["data"]["uid"]: task for task in read_json(tmp_path / "work" / "annotated.json")}
    for uid, task in texts.items():
        regions = [
            (r["value"]["start"], r["value"]["end"], *r["value"]["labels"]) for r in task["annotations"][0]["result"]
        ]
        assert regions == [tuple(mention) for mention in truth[uid]]
    assert pull.main([*found, *work]).annotated == 29
    assert sum(report.main(found)["seconds"][name]["annotations"] for name in report.main(found)["seconds"]) >= 29

    training = ["--approach", "glinerev", "--base-model", str(model), "--epochs", "2", "--no-progress"]
    record = fit.main([*found, *work, *training, "--device", "cpu", "--promote", "always"])
    assert record["parent"] == version
    assert record["held_out"]["new"]["tasks"] == record["held_out"]["old"]["tasks"]
    assert push.main([*found, *work, "--annotated-too"]) == record["version"]
    doctor.main([*found, *work, "--port", "1"])
    status.main([*found, *work, "--port", "1"])
    out = capsys.readouterr().out
    assert "Label Studio 1.23.2" in out
    assert f"shown: {record['version']}" in out


def test_the_live_backend_and_the_button(options, tmp_path, model, monkeypatch):
    found, project, truth, client = options
    work = Work(tmp_path / "work")
    monkeypatch.setenv(serve.PASSWORD_VARIABLE, "s3cret")
    people(client, project, truth)
    training = ["--base-model", str(model), "--epochs", "1", "--no-progress", "--promote", "always"]
    command = [
        *found,
        "--work",
        str(work.path),
        "--model",
        str(model),
        "--device",
        "cpu",
        "--port",
        "0",
        "--user",
        "ann",
    ]
    with serve.serving([*command, "--approach", "glinerev", "--", *training]) as service:
        threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            address = ["--backend", service.address]
            backend = connect.main([*found, *address, "--user", "ann", "--title", "mine"])
            version = backend["model_version"]
            selected = {"selectedItems": {"all": True, "excluded": []}}
            for _ in range(2):
                client.call(
                    "POST", "/api/dm/actions/", selected, {"id": "retrieve_tasks_predictions", "project": project}
                )
            assert {name: count for name, count in client.versions(project).items() if count} == {version: 30}

            def answer():
                return httpx.get(f"{service.address}/status", auth=("ann", "s3cret")).json()

            first = next(iter(client.tasks(project)))
            client.call("PATCH", f"/api/annotations/{first['annotations'][0]['id']}/", {"lead_time": 6.0})
            assert answer()["counts"].get("event ANNOTATION_UPDATED") == 1, "the webhook brings the password"
            drawn = {"task": first["id"], "context": {"result": []}}
            suggested = client.call("POST", f"/api/ml/{backend['id']}/interactive-annotating", drawn)
            assert suggested["data"]["model_version"] == version

            client.call("POST", f"/api/ml/{backend['id']}/train", {})
            deadline = time.monotonic() + 400
            while answer()["jobs"][0]["status"] in ("waiting", "running"):
                assert time.monotonic() < deadline
                time.sleep(1)
            log = (work.path / "jobs" / "1" / "log.txt").read_text()
            assert answer()["jobs"][0]["status"] == "finished", log
            assert backends(_project(client, project))[0]["model_version"] == work.current()["version"] != version, log
            assert TOKEN not in log
            removed = disconnect.main([*found, *address])
            assert (removed.backends, removed.webhooks) == (1, 1)
            assert backends(_project(client, project)) == webhooks(_project(client, project)) == []
        finally:
            service.shutdown()


def until(said, seconds=400):
    """Waits until something is true, and returns it."""
    deadline = time.monotonic() + seconds
    while not (found := said()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


@contextlib.contextmanager
def started(log, *command):
    """A command in a process of its own, which is killed at the end."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=stream,
            stderr=stream,
            env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_push_that_is_killed_goes_on(options, tmp_path, model):
    found, project, _, client = options
    command = [*found, "--work", str(tmp_path / "work"), "--model", str(model), "--threshold", "0.2", "--chunk", "1"]
    log = tmp_path / "push.log"
    with started(log, "annotation.push", *command):
        until(lambda: " 5 of 30 tasks" in log.read_text())
    ((version, stored),) = client.versions(project).items()
    assert 5 <= stored < 30
    assert push.main(command) == version
    assert [len(task["predictions"]) for task in client.tasks(project)] == [1] * 30


def test_annotations_train_by_themselves_and_a_killed_service_goes_on(options, tmp_path, model):
    found, project, truth, client = options
    work, log = Work(tmp_path / "work"), tmp_path / "serve.log"
    command = ["annotation.serve", *found, "--work", str(work.path), "--output-root", str(tmp_path / "out")]
    # All is annotated when the training begins: what was cut off is then gone on with.
    command += ["--model", str(model), "--device", "cpu", "--port", "0"]
    command += ["--approach", "glinerev", "--train-every", "30"]
    command += ["--", "--base-model", str(model), "--epochs", "30"]
    command += ["--no-progress", "--promote", "always"]

    def address():
        lines = [line for line in log.read_text().splitlines() if "serving at" in line]
        return lines[-1].split()[4].rstrip(";") if lines else None

    def job():
        file = work.path / "jobs" / "1" / "job.json"
        return read_json(file) if file.is_file() else {"status": None}

    with started(log, *command):
        connect.main([*found, "--backend", until(address)])
        first = work.current()["version"]
        people(client, project, truth)
        until(lambda: job()["status"] == "running" and "epoch 2:" in (work.path / "jobs" / "1" / "log.txt").read_text())
    log.write_text("")
    (run,) = (file.parent for file in (tmp_path / "out" / "glinerev" / "savings").glob("*/run.json"))
    until(lambda: read_json(run / "run.json")["status"] == "interrupted", 60)
    with started(log, *command):
        until(address)
        until(lambda: job()["status"] not in ("waiting", "running"))
        text = (work.path / "jobs" / "1" / "log.txt").read_text()
        assert job()["status"] == "finished", text
        assert httpx.get(f"{address()}/status").json()["jobs"][0]["status"] == "finished"
        assert work.current()["version"] != first
    assert read_json(run / "run.json")["status"] == "finished"
    assert len(list(run.parent.glob("*/run.json"))) == 1, "gone on with, not begun again"
    assert text.count("epoch 1:") == text.count("resumed at step") == 1
    assert [path.name for path in (work.path / "jobs").iterdir()] == ["1"]
    assert work.trained() == 30


def _project(client, number):
    from annotation.client import Opened

    return Opened(client, number, {}, LABELLING)


def test_a_personal_token(server, options, tmp_path, monkeypatch):
    with httpx.Client(base_url=server) as browser:
        browser.get("/user/login/")
        form = {"email": USER, "password": PASSWORD, "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        assert browser.post("/user/login/", data=form, headers={"Referer": server}).status_code == 302
        headers = {"X-CSRFToken": browser.cookies["csrftoken"], "Referer": server}
        token = browser.post("/api/token/", headers=headers).json()["token"]
    file = tmp_path / "token"
    file.write_text(token)
    file.chmod(0o600)
    monkeypatch.delenv(TOKEN_VARIABLE)
    assert pull.main([*options[0], "--token-file", str(file), "--work", str(tmp_path / "work")]).tasks == 30
    assert Client(server, token).token_kind == "personal"


def test_a_local_backend_is_refused_by_default_and_nothing_is_left(data, options, tmp_path, model):
    project = options[1]
    copied = tmp_path / "copied"
    shutil.copytree(data, copied)
    with label_studio(copied, SETTINGS) as url:
        with pytest.raises(InputError, match="LABEL_STUDIO_ML_BLOCK_LOCAL_IP=false"):
            connect.main(["--url", url, "--project", str(project), "--backend", "http://127.0.0.1:9"])
        client = Client(url, TOKEN)
        assert backends(_project(client, project)) == webhooks(_project(client, project)) == []


def test_the_notebook_runs_from_top_to_bottom(server, tmp_path, model):
    notebook = read_json(PROJECT_ROOT / "examples" / "label_studio.ipynb")
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join(cells), encoding="utf-8")
    environment = os.environ | {
        "LABEL_STUDIO_URL": server,
        "LABEL_STUDIO_API_KEY": TOKEN,
        "MODEL": str(model),
        "APPROACH": "glinerev",
        "OPTIONS": f"--base-model {model} --epochs 2 --no-progress",
        "FOLDER": str(tmp_path / "files"),
        OUTPUT_VARIABLE: str(tmp_path / "output"),
        "PYTHONPATH": str(PROJECT_ROOT),
    }
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=PROJECT_ROOT / "examples",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "held out" in done.stdout
    assert Path(tmp_path / "output" / "annotation" / "work" / "pull_report.json").is_file()
    assert json.loads((tmp_path / "output" / "annotation" / "work" / "current.json").read_text())["version"]
