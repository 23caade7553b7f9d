"""A small stand-in for the Hub's HTTP interface: one data set repository, served from memory by ranges."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "c" * 40


class Server(ThreadingHTTPServer):
    """Serves ``files`` (path -> bytes) of ``owner/name``; notes the ranges that are asked for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.ranges, self.failing, self.requests = files, [], 0, 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._answer(json.dumps(value).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        self.server.requests += 1
        path = unquote(self.path).partition("?")[0]
        if path.startswith("/api/datasets/owner/name/revision") or path == "/api/datasets/owner/name":
            siblings = [{"rfilename": name} for name in self.server.files]
            self._json({"id": "owner/name", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})
            return
        if path.startswith("/api/datasets/owner/name/tree/"):
            self._json([self._about(name) for name in self.server.files])
            return
        match = re.fullmatch(r"/datasets/owner/name/resolve/[^/]+/(.+)", path)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if self.server.failing and match:
            self.server.failing -= 1
            self.close_connection = True  # the line breaks in the middle of an answer
            self.send_response(206)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only these")
        elif match and wanted and match[1] in self.server.files:
            start, end = int(wanted[1]), int(wanted[2]) + 1
            self.server.ranges.append((match[1], start, end))
            self._answer(self.server.files[match[1]][start:end], 206)
        else:
            self._answer(b"{}", 404, X_Error_Code="EntryNotFound")

    def do_POST(self) -> None:
        self.server.requests += 1
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        if "/paths-info/" not in self.path:
            self._answer(b"{}", 404)
            return
        names = json.loads(body)["paths"] if body.startswith("{") else re.findall(r"paths=([^&]+)", unquote(body))
        self._json([self._about(name) for name in names if name in self.server.files])

    def _about(self, name: str) -> dict[str, object]:
        return {"type": "file", "path": name, "size": len(self.server.files[name]), "oid": "0" * 40}


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Server]:
    server = Server(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
