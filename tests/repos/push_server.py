"""A Hub on loopback for tests: model repositories over the Hub's HTTP protocol, with faults that can be planted."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
from hub_repositories import Commit, Refusal, Repository, card_faults, front_matter, is_large, sha256

REPO = r"(?P<repo>[^/]+/[^/]+)"
MODEL = rf"/api/models/{REPO}"
Answer = tuple[int, bytes, dict[str, str]]  # status, content, headers


class ModelHub:
    """A server thread; ``with ModelHub() as hub:``. Everything that came over the wire is kept.

    Attributes:
        token: may write to repositories of ``owner`` and ``team``; ``read_token`` may only read.
        repos: id -> Repository.
        store: content of large files by its sha256, as uploaded.
        requests: (method, path with query, headers) of each request, in order.
        bodies: the body of each request, in the same order.
    """

    user, organisations = "owner", ("team",)

    def __init__(self) -> None:
        self.token, self.read_token = "hf_" + "w" * 34, "hf_" + "r" * 34
        self.repos: dict[str, Repository] = {}
        self.store: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[bytes] = []
        self.faults: list[SimpleNamespace] = []
        self.lock = threading.RLock()

    def __enter__(self) -> ModelHub:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads, self._server.hub = True, self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, repo_id: str, files: dict[str, bytes] | Path, *, private: bool = False) -> str:
        """Put a repository there without a push; ``files`` may be a folder. Returns its commit."""
        if isinstance(files, Path):
            paths = sorted(path for path in files.rglob("*") if path.is_file())
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        repository = self.repos.setdefault(repo_id, Repository(repo_id, private))
        lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "planted"}}]
        for path, content in files.items():
            if is_large(path, len(content)):
                self.store[sha256(content)] = content
                lines.append({"key": "lfsFile", "value": {"path": path, "oid": sha256(content)}})
            else:
                lines.append({"key": "file", "value": {"path": path, "content": base64.b64encode(content)}})
        repository.add("main", lines, self.store, pull_request=False)
        return repository.at("main").sha

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Path -> content at a branch, pull request (``refs/pr/1``) or commit."""
        return dict(self.repos[repo_id].at(revision).files)

    def commits(self, repo_id: str, revision: str = "main") -> list[Commit]:
        """Commits of a branch, oldest first; the first is the empty repository's."""
        return list(self.repos[repo_id].branches[revision])

    def fail(self, method: str, pattern: str, status: int | str = 500, times: int = 1) -> None:
        """Plant a fault for requests whose path holds ``pattern`` (a regular expression).

        ``status``: a number to answer with; "cut" to break the line in the middle (of an upload: half of the body was
        read; of a download: half was sent); "cut after" to do what was asked and break the line before the answer.
        """
        self.faults.append(SimpleNamespace(method=method, pattern=re.compile(pattern), status=status, times=times))

    def asked(self, method: str, pattern: str) -> list[str]:
        """Paths of the requests so far with this method and ``pattern`` in the path."""
        return [path for name, path, _ in self.requests if name == method and re.search(pattern, path)]

    def take_fault(self, method: str, path: str) -> int | str | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and fault.pattern.search(path):
                    fault.times -= 1
                    return fault.status
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm, wbufsize = True, -1  # else each small answer waits for the client to acknowledge

    @property
    def hub(self) -> ModelHub:
        return self.server.hub

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, BrokenPipeError):
            self.close_connection = True  # the client hung up

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _serve(self) -> None:
        fault = self.hub.take_fault(self.command, unquote(self.path))
        body = self._read_body(half=fault == "cut" and self.command == "PUT")
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path, dict(self.headers)))
            self.hub.bodies.append(body)
        self.cut = fault == "cut"
        if self.cut and self.command in ("PUT", "POST"):
            self.close_connection = True
            return
        try:
            if isinstance(fault, int):
                raise Refusal(fault, {403: "Forbidden"}.get(fault, "planted fault"))
            with self.hub.lock:
                answer = self._route(body)
        except Refusal as refusal:
            answer = _refused(refusal)
        if fault == "cut after":
            self.close_connection = True
            return
        self._answer(*answer)

    def _read_body(self, *, half: bool) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                if half:
                    return b"".join(parts)
            self.rfile.readline()
            return b"".join(parts)
        length = int(self.headers.get("content-length", 0))
        return self.rfile.read(length // 2 if half else length)

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if wanted and status == 200 and self.command == "GET":
            start, end = int(wanted[1]), int(wanted[2] or len(content) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{min(end, len(content)) - 1}/{len(content)}"
            status, content = 206, content[start:end]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if self.cut else content)
        self.wfile.flush()
        self.close_connection |= self.cut

    # What each address does. A method answers (status, content, headers).

    def _route(self, body: bytes) -> Answer:
        path, _, query = self.path.partition("?")
        self.query = {name: values[0] for name, values in parse_qs(query).items()}
        for method, pattern, name in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                named = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                return getattr(self, f"_{name}")(body, **named)
        return _json({"error": "no such address"}, 404)

    def _who(self) -> str | None:
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in (self.hub.token, self.hub.read_token):
            raise Refusal(401, "Invalid credentials in Authorization header")
        return token or None

    def _repository(self, repo: str, *, write: bool = False) -> Repository:
        token, found = self._who(), self.hub.repos.get(repo)
        if found is None or (found.private and token is None):
            raise Refusal(401 if token is None else 404, "Repository not found", "RepoNotFound")
        if write and token is None:
            raise Refusal(401, "Invalid username or password.")
        if write:
            self._may_write(repo.partition("/")[0])
        return found

    def _may_write(self, namespace: str) -> None:
        if self._who() != self.hub.token or namespace not in (self.hub.user, *self.hub.organisations):
            raise Refusal(403, f"You don't have the rights to write in the namespace {namespace!r}")

    def _whoami(self, body: bytes) -> Answer:
        if self._who() is None:
            raise Refusal(401, "Invalid username or password.")
        orgs = [{"type": "org", "name": name} for name in self.hub.organisations]
        return _json({"type": "user", "name": self.hub.user, "orgs": orgs, "auth": {"type": "access_token"}})

    def _create(self, body: bytes) -> Answer:
        if self._who() is None:
            raise Refusal(401, "Invalid username or password.")
        wanted = json.loads(body)
        repo_id = f"{wanted.get('organization') or self.hub.user}/{wanted['name']}"
        self._may_write(repo_id.partition("/")[0])
        url = f"{self.hub.endpoint}/{repo_id}"
        if repo_id in self.hub.repos:
            raise Refusal(409, "You already created this model repo", url=url)
        self.hub.repos[repo_id] = Repository(repo_id, private=wanted.get("visibility") == "private")
        return _json({"url": url, "name": repo_id})

    def _validate(self, body: bytes) -> Answer:
        faults = card_faults(json.loads(body)["content"])
        errors = [{"message": fault} for fault in faults]
        return _json({"errors": errors, "warnings": []}, 400 if faults else 200)

    def _preupload(self, body: bytes, repo: str, revision: str) -> Answer:
        commit = self._repository(repo, write=True).at(revision)
        files = []
        for file in json.loads(body)["files"]:
            mode = "lfs" if is_large(file["path"], file["size"]) else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False,
                          "oid": commit.remote_oid(file["path"])})  # fmt: skip
        return _json({"files": files, "commitOid": commit.sha})

    def _lfs_batch(self, body: bytes, repo: str) -> Answer:
        self._repository(repo, write=True)
        objects = []
        for wanted in json.loads(body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.store:
                entry["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{wanted['oid']}"}}
            objects.append(entry)
        return _json({"transfer": "basic", "objects": objects})

    def _lfs_put(self, body: bytes, oid: str) -> Answer:
        if sha256(body) != oid:
            raise Refusal(400, "the content does not match its sha256")
        self.hub.store[oid] = body
        return _json({})

    def _commit(self, body: bytes, repo: str, revision: str) -> Answer:
        repository = self._repository(repo, write=True)
        lines = [json.loads(line) for line in body.splitlines()]
        pull_request = self.query.get("create_pr") == "1"
        branch = repository.add(revision, lines, self.hub.store, pull_request=pull_request)
        sha = repository.at(branch).sha
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{sha}"}
        if pull_request:
            answer["pullRequestUrl"] = f"{self.hub.endpoint}/{repo}/discussions/{branch.rpartition('/')[2]}"
        return _json(answer)

    def _branch(self, body: bytes, repo: str, revision: str) -> Answer:
        self._repository(repo, write=True).new_branch(revision, json.loads(body or b"{}").get("startingPoint", "main"))
        return _json({})

    def _info(self, body: bytes, repo: str, revision: str = "main") -> Answer:
        repository = self._repository(repo)
        commit = repository.at(revision)
        data = front_matter(commit.files.get("README.md", b"").decode())
        about = {name: data[name] for name in ("library_name", "pipeline_tag") if name in data}
        return _json({"id": repo, "modelId": repo, "sha": commit.sha, "private": repository.private, **about,
                      "tags": data.get("tags", []), "cardData": data, "gated": False, "disabled": False,
                      "siblings": [{"rfilename": path} for path in sorted(commit.files)]})  # fmt: skip

    def _refs(self, body: bytes, repo: str) -> Answer:
        branches = self._repository(repo).branches.items()
        own = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": commits[-1].sha}
               for name, commits in branches if not name.startswith("refs/")]  # fmt: skip
        asked = [{"name": name.removeprefix("refs/"), "ref": name, "targetCommit": commits[-1].sha}
                 for name, commits in branches if name.startswith("refs/")]  # fmt: skip
        return _json({"tags": [], "converts": [], "branches": own, "pullRequests": asked})

    def _tree(self, body: bytes, repo: str, revision: str, path: str | None = None) -> Answer:
        commit = self._repository(repo).at(revision)
        prefix = f"{path}/" if path else ""
        below = [name for name in sorted(commit.files) if name.startswith(prefix)]
        if path and not below:
            raise Refusal(404, f"{path} does not exist", "EntryNotFound")
        if self.query.get("recursive", "").lower() in ("1", "true"):
            return _json([commit.about(name) for name in below])
        folders = {prefix + name[len(prefix) :].partition("/")[0] for name in below if "/" in name[len(prefix) :]}
        entries = [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in sorted(folders)]
        return _json(entries + [commit.about(name) for name in below if "/" not in name[len(prefix) :]])

    def _paths_info(self, body: bytes, repo: str, revision: str) -> Answer:
        commit, text = self._repository(repo).at(revision), body.decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
        return _json([commit.about(path) for path in wanted if path in commit.files])

    def _resolve(self, body: bytes, repo: str, revision: str, path: str) -> Answer:
        commit = self._repository(repo).at(revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            status, content, more = _refused(Refusal(404, "Entry not found", "EntryNotFound"))
            return status, content, headers | more
        content = commit.files[path]
        if path in commit.large:  # large files come from elsewhere, as the Hub's do
            digest = sha256(content)
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            if self.command == "GET":
                return 302, b"", headers | {"Location": f"{self.hub.endpoint}/lfs/{digest}"}
        return 200, content, headers | {"ETag": f'"{commit.about(path)["oid"]}"'}

    def _lfs_get(self, body: bytes, oid: str) -> Answer:
        if oid not in self.hub.store:
            raise Refusal(404, "no such object")
        return 200, self.hub.store[oid], {"ETag": f'"{oid}"'}


_ROUTES = [
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "validate"),
    ("POST", rf"{MODEL}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>\w+)", "lfs_put"),
    ("GET HEAD", r"/lfs/(?P<oid>\w+)", "lfs_get"),
    ("POST", rf"{MODEL}/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", rf"{MODEL}/branch/(?P<revision>[^/]+)", "branch"),
    ("GET", rf"{MODEL}(?:/revision/(?P<revision>[^/]+))?", "info"),
    ("GET", rf"{MODEL}/refs", "refs"),
    ("GET", rf"{MODEL}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", "tree"),
    ("POST", rf"{MODEL}/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("GET HEAD", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


def _json(value: object, status: int = 200) -> Answer:
    return status, json.dumps(value).encode(), {"Content-Type": "application/json"}


def _refused(refusal: Refusal) -> Answer:
    status, content, headers = _json({"error": refusal.message, **refusal.body}, refusal.status)
    headers["X-Error-Message"] = refusal.message
    if refusal.code:
        headers["X-Error-Code"] = refusal.code
    return status, content, headers


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHub]:
    """A Hub that huggingface_hub, and every library above it, talks to in this process and in those it starts."""
    with ModelHub() as server:
        home = tmp_path_factory.mktemp("hf_home")
        use_hub(monkeypatch, server, home)
        yield server
        from huggingface_hub.utils import close_session

        close_session()


def use_hub(monkeypatch: pytest.MonkeyPatch, server: ModelHub, home: Path) -> None:
    """Point this process at ``server``, with ``home`` for what is cached and ``server.token`` to log in."""
    from huggingface_hub import constants, file_download, hf_api
    from huggingface_hub.utils import _detect_agent, _http, close_session

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    variables = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": server.token, "HF_HUB_DISABLE_XET": "1",
                 "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "NO_PROXY": "127.0.0.1"}  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # These are read once, at import.
    values = {
        "ENDPOINT": server.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(hf_api.api, "endpoint", server.endpoint)
    monkeypatch.setattr(_detect_agent, "_registry", {"standardEnvVars": [], "harnesses": {}}, raising=False)
    # A client waits before it tries again; nobody is served by waiting here.
    impatient = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", impatient)
    close_session()
