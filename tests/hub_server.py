"""A small Hugging Face hub: the routes that huggingface_hub, datasets and transformers call to read and to push.

Repositories are dicts of files by commit. Large files are redirected to another host, as the hub does it, and a token
must never reach that one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN, STRANGER = "hf_" + "s" * 34, "hf_" + "x" * 34
"""The first may read what is private, and write; the other may not. Any other token is not valid."""

LARGE = (".safetensors", ".bin", ".parquet", ".model", ".npz", ".onnx")
"""Files that are stored as Git LFS objects."""

Files = dict[str, bytes]


@dataclass
class Repository:
    """A repository and its history."""

    kind: str
    name: str
    private: bool = False
    gated: bool = False
    moved_to: str | None = None
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, *, branch: str = "main", tag: str | None = None) -> str:
        """Replaces all files; returns the commit."""
        digest = hashlib.sha1(f"{self.name}{branch}{len(self.commits)}".encode()).hexdigest()
        self.commits[digest] = dict(files)
        self.refs[branch] = digest
        if tag is not None:
            self.refs[tag] = digest
        return digest

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, tag or (abbreviated) commit."""
        if revision in self.refs:
            return self.refs[revision]
        full = [commit for commit in self.commits if len(revision) >= 7 and commit.startswith(revision)]
        return full[0] if len(full) == 1 else None


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    host: str
    path: str
    authorization: str | None


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class Redirection(Exception):
    """The repository is called otherwise now."""


class Hub:
    """A running hub.

    Attributes:
        requests: All requests, in order.
        broken: Endings of paths, and what is wrong with the download: ``cut`` (the connection is closed amid the
            content), ``short`` (less content than the hub says that the file has), or a status such as ``503``.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self.broken: dict[str, str] = {}
        self.objects: Files = {}
        self._start(0)

    def _start(self, port: int) -> None:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT has to be."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def store(self) -> str:
        """The host of large files."""
        return f"http://localhost:{self.port}"

    def stop(self) -> None:
        """Goes away; its port refuses connections."""
        self._server.shutdown()
        self._server.server_close()

    def start(self) -> None:
        """Comes back at the same port."""
        self._start(self.port)

    def add(self, name: str, files: Files, kind: str = "model", **settings: Any) -> Repository:
        """A repository with one commit."""
        repository = self.repositories[kind, name] = Repository(kind, name, **settings)
        repository.commit(files)
        return repository

    def asked(self, pattern: str) -> list[Request]:
        """The requests whose method and path match."""
        return [request for request in self.requests if re.search(pattern, f"{request.method} {request.path}")]


def is_large(path: str) -> bool:
    """Whether a file is a Git LFS object."""
    return path.endswith(LARGE)


def blob_id(content: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    """The name of a Git LFS object."""
    return hashlib.sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    """A connection for each request (HTTP/1.0), so that a hub that is stopped is gone at once."""

    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.body = self._read_body()
        path = unquote(url.path)
        self.hub.requests.append(Request(self.command, self.headers["Host"], path, self.headers.get("Authorization")))
        try:
            if self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}", f"Bearer {STRANGER}"):
                raise Refusal(401, "", "Invalid credentials in Authorization header")
            for pattern, method, handle in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method:
                    handle(self, *match.groups())
                    return
            raise Refusal(404, "", f"no such route: {self.command} {path}")
        except Redirection as redirection:
            self._answer(b"", 307, {"Location": str(redirection)})
        except Refusal as refusal:
            self._answer(
                json.dumps({"error": refusal.message}).encode(),
                refusal.status,
                {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message},
            )
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    # -- who may what

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, kind: str, name: str) -> Repository:
        repository = self.hub.repositories.get((kind, name))
        if repository is not None and repository.moved_to is not None:
            target = self.path.replace(name, repository.moved_to, 1)
            raise Redirection(target)
        if repository is None or (repository.private and not self._known):
            # The hub does not tell strangers what there is.
            raise Refusal(404 if self._known else 401, "RepoNotFound", "Repository not found")
        return repository

    def _commit(self, repository: Repository, revision: str) -> str:
        commit = repository.resolve(revision)
        if commit is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _need_token(self) -> None:
        if not self._known:
            raise Refusal(401, "", "Invalid username or password.")

    # -- reading

    def root(self) -> None:
        self._answer(b"a hub")

    def info(self, kind: str, name: str, revision: str | None) -> None:
        repository = self._repository(kind, name)
        commit = self._commit(repository, revision or "main")
        self._json(
            {
                "id": name,
                "sha": commit,
                "private": repository.private,
                "gated": "manual" if repository.gated else False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": path} for path in repository.commits[commit]],
            }
        )

    def tree(self, kind: str, name: str, revision: str, folder: str | None) -> None:
        repository = self._repository(kind, name)
        files = repository.commits[self._commit(repository, revision)]
        prefix = f"{folder}/" if folder else ""
        inside = {path: content for path, content in files.items() if path.startswith(prefix)}
        if not inside:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist on {revision!r}")
        entries: dict[str, dict[str, Any]] = {}
        for path, content in inside.items():
            top, *rest = path.removeprefix(prefix).split("/", 1)
            if rest and self.query.get("recursive") != ["True"] and self.query.get("recursive") != ["true"]:
                entries[prefix + top] = {"type": "directory", "path": prefix + top, "size": 0, "oid": "0" * 40}
                continue
            entries[path] = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
            if is_large(path):
                entries[path]["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 127}
        self._json(list(entries.values()))

    def resolve(self, prefix: str | None, name: str, revision: str, path: str) -> None:
        repository = self._repository("dataset" if prefix else "model", name)
        if repository.gated:
            if self.headers.get("Authorization") is None:
                raise Refusal(401, "GatedRepo", f"Access to {name} is restricted. You must be authenticated.")
            if not self._known:
                raise Refusal(403, "GatedRepo", f"Access to {name} is restricted and you are not in the list.")
        commit = self._commit(repository, revision)
        content = repository.commits[commit].get(path)
        if content is None:
            self._answer(b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if is_large(path):
            headers |= {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
            self.hub.objects[sha256(content)] = content
            headers["Location"] = f"{self.hub.store}/objects/{sha256(content)}/{path}"
            self._answer(b"", 302, headers)
            return
        self._download(path, content, headers | {"ETag": f'"{blob_id(content)}"'})

    def object(self, oid: str, path: str) -> None:
        self._download(path, self.hub.objects[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def _download(self, path: str, content: bytes, headers: dict[str, str]) -> None:
        fault = next((fault for ending, fault in self.hub.broken.items() if path.endswith(ending)), None)
        if fault is not None and fault.isdigit():
            raise Refusal(int(fault), "", "out of order")
        if self.command == "HEAD" or fault is None:
            status, start = 200, 0
            given = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if given:
                status, start = 206, int(given[1])
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._answer(content[start:], status, headers)
            return
        part = content[: len(content) // 2]
        if fault == "short":
            self._answer(part, 200, headers)
            return
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(part)
        self.close_connection = True

    # -- pushing

    def whoami(self) -> None:
        self._need_token()
        self._json({"type": "user", "name": "someone", "fullname": "Some One", "orgs": [], "auth": {"type": "access"}})

    def create(self) -> None:
        self._need_token()
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        kind = asked.get("type") or "model"
        prefix = "" if kind == "model" else f"{kind}s/"
        exists = (kind, name) in self.hub.repositories
        if not exists:
            private = asked.get("visibility") == "private" or asked.get("private", False)
            self.hub.add(name, {".gitattributes": b""}, kind, private=private)
        url = f"{self.hub.endpoint}/{prefix}{name}"
        self._json({"url": url, "name": name}, 409 if exists else 200)

    def validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        self._need_token()
        self._commit(self._repository(kind, name), revision)
        files = [
            {"path": file["path"], "uploadMode": "lfs" if is_large(file["path"]) else "regular", "shouldIgnore": False}
            for file in json.loads(self.body)["files"]
        ]
        self._json({"files": files})

    def batch(self, prefix: str | None, name: str) -> None:
        self._need_token()
        self._repository("dataset" if prefix else "model", name)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            href = f"{self.hub.store}/objects/{wanted['oid']}/upload"
            actions = {} if wanted["oid"] in self.hub.objects else {"actions": {"upload": {"href": href}}}
            objects.append({**wanted, **actions})
        self._json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        assert sha256(self.body) == oid
        self.hub.objects[oid] = self.body
        self._answer(b"")

    def push(self, kind: str, name: str, revision: str) -> None:
        self._need_token()
        repository = self._repository(kind, name)
        files = dict(repository.commits[self._commit(repository, revision)])
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
            elif key == "deletedFolder":
                files = {path: content for path, content in files.items() if not path.startswith(value["path"])}
        commit = repository.commit(files, branch=revision)
        self._json({"commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit}", "commitOid": commit, "success": True})


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, str, Any]] = [
    (r"/", "HEAD GET", _Handler.root),
    (r"/api/whoami-v2", "GET", _Handler.whoami),
    (r"/api/repos/create", "POST", _Handler.create),
    (r"/api/validate-yaml", "POST", _Handler.validate),
    (rf"/api/(model|dataset)s/{_NAME}(?:/revision/(.+))?", "GET", _Handler.info),
    (rf"/api/(model|dataset)s/{_NAME}/tree/(refs/[^/]+/[^/]+|[^/]+)(?:/(.+))?", "GET", _Handler.tree),
    (rf"/api/(model|dataset)s/{_NAME}/preupload/(.+)", "POST", _Handler.preupload),
    (rf"/api/(model|dataset)s/{_NAME}/commit/(.+)", "POST", _Handler.push),
    (rf"/(datasets/)?{_NAME}\.git/info/lfs/objects/batch", "POST", _Handler.batch),
    (r"/objects/(\w+)/upload", "PUT", _Handler.upload),
    (r"/objects/(\w+)/(.+)", "HEAD GET", _Handler.object),
    (rf"/(datasets/)?{_NAME}/resolve/(refs/[^/]+/[^/]+|[^/]+)/(.+)", "HEAD GET", _Handler.resolve),
]
