"""A small stand-in for Label Studio: what the loop asks of it, as it was seen to answer, in memory."""

import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qs, urlsplit

TOKEN = "0123456789abcdef0123456789abcdef01234567"
PERSONAL = "aaaa.bbbb.cccc"


class FakeLabelStudio(ThreadingHTTPServer):
    """Answers at ``url``; its state can be looked at and changed."""

    daemon_threads = True

    def __init__(self, block_local=False, personal_only=False):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.block_local, self.personal_only = block_local, personal_only
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.ids, self.clock, self.state = count(1), count(1), threading.RLock()
        self.projects, self.tasks, self.annotations, self.predictions = {}, {}, {}, {}
        self.backends, self.webhooks = {}, {}
        self.requests, self.uploads, self.access = [], [], set()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def now(self):
        return f"2026-11-25T17:00:00.{next(self.clock):06d}Z"

    # -- what annotators do -------------------------------------------------------------------------------------------

    def annotate(self, task, result, user=1, **more):
        """Saves an annotation; it begins with the prediction that the project shows, as the editor does."""
        with self.state:
            record = self.tasks[task]
            shown = self.projects[record["project"]]["model_version"]
            parent = next((p["id"] for p in self.of(task, self.predictions) if p["model_version"] == shown), None)
            item = {
                "id": next(self.ids), "task": task, "result": result, "completed_by": user, "was_cancelled": False,
                "ground_truth": False, "lead_time": 4.0, "parent_prediction": parent, "updated_at": self.now(),
                "prediction": {}, **more,
            }  # fmt: skip
            self.annotations[item["id"]] = item
            record["updated_at"] = self.now()
        self.send_event(
            record["project"], {"action": "ANNOTATION_CREATED", "annotation": item, "task": self.shown(task)}
        )
        return item

    def of(self, task, kind):
        return [item for item in kind.values() if item["task"] == task]

    def shown(self, number):
        task, given = self.tasks[number], self.of(number, self.annotations)
        return {
            **task,
            "annotations": given,
            "predictions": self.of(number, self.predictions),
            "drafts": [],
            "total_annotations": sum(not item["was_cancelled"] for item in given),
        }

    # -- the backend's side -------------------------------------------------------------------------------------------

    def ask(self, address, method, path, body=None, headers=None, timeout=3.0):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address + path, data, {"Content-Type": "application/json", **(headers or {})})
        request.method = method
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.loads(answer.read())

    def send_event(self, project, event):
        for hook in [hook for hook in self.webhooks.values() if hook["project"] == project]:
            try:
                self.ask(hook["url"].removesuffix("/webhook"), "POST", "/webhook", event, hook["headers"], 1.0)
            except (OSError, urllib.error.URLError):
                hook["failures"] = hook.get("failures", 0) + 1

    def headers_of(self, backend):
        if backend.get("auth_method") != "BASIC_AUTH":
            return {}
        import base64

        pair = f"{backend['basic_auth_user']}:{backend['basic_auth_pass']}"
        return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}

    def check(self, backend):
        """Health, then setup, with the server's own limits of time."""
        project = self.projects[backend["project"]]
        headers = self.headers_of(backend)
        try:
            self.ask(backend["url"], "GET", "/health", None, headers, 1.0)
            setup = {"project": f"{project['id']}.1", "schema": project["label_config"], "hostname": self.url}
            setup |= {"access_token": TOKEN, "extra_params": None}
            backend["model_version"] = self.ask(backend["url"], "POST", "/setup", setup, headers)[1]["model_version"]
            backend["state"], backend["readable_state"], backend["error_message"] = "CO", "Connected", None
        except (OSError, urllib.error.URLError) as error:
            backend["state"], backend["readable_state"], backend["error_message"] = "ER", "Error", str(error)

    def retrieve(self, project, tasks=None):
        """The action Retrieve Predictions: one request for all tasks without a prediction of the backend's version."""
        for backend in [item for item in self.backends.values() if item["project"] == project]:
            self.check(backend)
            if backend["state"] != "CO":
                return
            version = backend["model_version"]
            numbers = [
                number
                for number, task in self.tasks.items()
                if task["project"] == project
                and (tasks is None or number in tasks)
                and version not in [item["model_version"] for item in self.of(number, self.predictions)]
            ]
            body = {
                "tasks": [self.shown(number) for number in numbers],
                "project": f"{project}.1",
                "label_config": self.projects[project]["label_config"],
                "params": {"login": None, "password": None, "context": None},
            }
            answer = self.ask(backend["url"], "POST", "/predict", body, self.headers_of(backend), 100.0)[1]
            if len(answer["results"]) == len(numbers):
                for number, item in zip(numbers, answer["results"], strict=True):
                    self.store_prediction(number, item)

    def store_prediction(self, task, item):
        number = next(self.ids)
        self.predictions[number] = {"id": number, "task": task, **item}

    # -- routes -------------------------------------------------------------------------------------------------------

    def answer(self, method, path, query, body):
        parts = [part for part in path.split("/") if part]
        match method, parts:
            case "GET", ["api", "version"]:
                return 200, {"release": "1.23.2"}
            case "GET", ["api", "jwt", "settings"]:
                return 200, {"api_tokens_enabled": True, "legacy_api_tokens_enabled": not self.personal_only}
            case "GET", ["api", "projects"]:
                return 200, {"count": len(self.projects), "next": None, "results": list(self.projects.values())}
            case "POST", ["api", "projects"]:
                project = {"id": next(self.ids), "model_version": "", **body}
                self.projects[project["id"]] = project
                return 201, project
            case _, ["api", "projects", number, *rest] if int(number) in self.projects:
                return self.of_project(method, self.projects[int(number)], rest, body)
            case "POST", ["api", "dm", "actions"] if query["id"] == "delete_tasks_predictions":
                for number in [
                    n for n, item in self.predictions.items() if item["task"] in body["selectedItems"]["included"]
                ]:
                    del self.predictions[number]
                return 200, {}
            case "GET", ["api", "tasks"]:
                page = self.page(query)
                return (200, page) if page["tasks"] or query["page"] == "1" else (404, {"detail": "Invalid page."})
            case "GET", ["api", "ml"]:
                for backend in self.backends.values():
                    self.check(backend)
                return 200, [self.public(item) for item in self.backends.values()]
            case "POST", ["api", "ml"]:
                return self.add_backend(body)
            case "DELETE", ["api", "ml", number]:
                del self.backends[int(number)]
                return 204, None
            case "POST", ["api", "ml", number, "train"]:
                backend = self.backends[int(number)]
                event = {"action": "START_TRAINING", "project": {"id": backend["project"], "token": TOKEN}}
                try:
                    self.ask(backend["url"], "POST", "/webhook", event, self.headers_of(backend), 100.0)
                except urllib.error.URLError as error:
                    self.requests.append(("train failed", str(error)))
                return 200, {}
            case "GET", ["api", "webhooks"]:
                return 200, list(self.webhooks.values())
            case "PATCH", ["api", "webhooks", number]:
                self.webhooks[int(number)] |= body
                return 200, self.webhooks[int(number)]
            case "DELETE", ["api", "webhooks", number]:
                del self.webhooks[int(number)]
                return 204, None
        return 404, {"detail": "Not found."}

    def of_project(self, method, project, rest, body):
        number = project["id"]
        mine = [task for task in self.tasks.values() if task["project"] == number]
        held = [item for item in self.predictions.values() if self.tasks[item["task"]]["project"] == number]
        versions = [item["model_version"] for item in held]
        match method, rest:
            case "GET", []:
                done = sum(bool(self.of(task["id"], self.annotations)) for task in mine)
                counted = [item for item in self.annotations.values() if self.tasks[item["task"]]["project"] == number]
                counted = [item for item in counted if not item["was_cancelled"]]
                return 200, {
                    **project,
                    "task_number": len(mine),
                    "num_tasks_with_annotations": done,
                    "total_annotations_number": len(counted),
                }
            case "PATCH", []:
                wanted = body.get("model_version")
                titles = [item["title"] for item in self.backends.values()]
                if wanted and wanted not in (*versions, *titles):
                    return 400, {"detail": "Model version doesn't exist"}
                project.update(body)
                return 200, project
            case "POST", ["import"]:
                self.uploads.append(len(body))
                for task in body:
                    made = {"id": next(self.ids), "project": number, "data": task["data"], "updated_at": self.now()}
                    self.tasks[made["id"]] = made
                    for item in task.get("annotations", ()):
                        self.annotate(made["id"], item["result"], lead_time=None, ground_truth=item["ground_truth"])
                return 201, {"task_count": len(body)}
            case "POST", ["import", "predictions"]:
                self.uploads.append(len(body))
                if any(item["task"] not in self.tasks for item in body):
                    return 400, {"detail": "unknown task"}
                for item in body:
                    self.store_prediction(item["task"], {k: v for k, v in item.items() if k != "task"})
                return 201, {"created": len(body)}
            case "GET", ["model-versions"]:
                return 200, {version: versions.count(version) for version in dict.fromkeys(versions)}
            case "DELETE", ["model-versions"]:
                gone = [item["id"] for item in held if item["model_version"] == body["model_version"]]
                for prediction in gone:
                    del self.predictions[prediction]
                for item in self.annotations.values():
                    if item["parent_prediction"] in gone:
                        item["parent_prediction"] = None
                return 200, {"deleted_predictions": len(gone)}
        return 404, {"detail": "Not found."}

    def page(self, query):
        numbers = [n for n, task in self.tasks.items() if task["project"] == int(query["project"])]
        if "query" in query:
            (item,) = json.loads(query["query"])["filters"]["items"]
            assert (item["filter"], item["operator"]) == ("filter:tasks:updated_at", "greater_or_equal")
            numbers = [n for n in numbers if self.tasks[n]["updated_at"] >= item["value"]]
        size, page = int(query["page_size"]), int(query["page"])
        chosen = numbers[(page - 1) * size : page * size]
        return {"total": len(numbers), "tasks": [self.shown(number) for number in chosen]}

    def public(self, backend):
        return {key: value for key, value in backend.items() if key != "basic_auth_pass"}

    def add_backend(self, body):
        backend = {"id": next(self.ids), **body}
        self.backends[backend["id"]] = backend
        if self.block_local:
            return 403, {"detail": "URL resolves to a reserved network address (block: 127.0.0.0/8)"}
        self.check(backend)
        if backend["state"] != "CO":
            del self.backends[backend["id"]]
            return 400, {"detail": f"doesn't look like a valid ML backend: {backend['error_message']}"}
        number = next(self.ids)
        self.webhooks[number] = {
            "id": number, "project": body["project"], "url": body["url"] + "/webhook", "headers": {},
        }  # fmt: skip
        return 201, self.public(backend)

    def allowed(self, header):
        kind, _, token = header.partition(" ")
        return (kind == "Token" and token == TOKEN and not self.personal_only) or (
            kind == "Bearer" and token in self.access
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        server = self.server
        if url.path == "/api/token/refresh/":
            status, answer = 401, {"detail": "Token is invalid"}
            if body == {"refresh": PERSONAL}:
                access = f"access-{len(server.access)}"
                server.access.add(access)
                status, answer = 200, {"access": access}
        elif not server.allowed(self.headers.get("Authorization", "")):
            status, answer = 401, {"detail": f"Invalid token {self.headers.get('Authorization')}"}
        else:
            server.requests.append((self.command, url.path))
            with server.state:
                status, answer = server.answer(self.command, url.path, query, body)
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any

    def log_message(self, *_):
        pass
