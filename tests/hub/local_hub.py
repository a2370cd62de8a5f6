"""A hub of our own on 127.0.0.1: repositories in memory, and every fault that the real one and its lines can have.

It answers what huggingface_hub and `ltx2rt.hub` ask: the listing of a repository, ``resolve`` with HEAD and GET, files
of Git LFS on another host (a second port) to which it sends on, ranges, and the error codes of gated and private ones.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import numpy as np

_LISTING = re.compile(r"/api/models/([^/]+/[^/]+)/revision/(.+)")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_BLOCK = 1 << 16
NAME = "org/model"  # what the tests' hub has


def content(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@dataclass
class Repository:
    """Files of one commit. ``readers``: tokens that may read it; None: everybody, also without a token."""

    files: dict[str, bytes]
    readers: set[str] | None = None
    gated: bool = True  # with readers: others hear of a licence, and not of nothing

    @property
    def commit(self) -> str:
        text = "".join(f"{path} {hashlib.sha256(data).hexdigest()}\n" for path, data in sorted(self.files.items()))
        return hashlib.sha1(text.encode()).hexdigest()


def is_lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".gguf"))


def etag(path: str, data: bytes) -> str:
    """The checksum that names a file: SHA-256 for one of Git LFS, else Git's."""
    if is_lfs(path):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Request:
    """One that was answered. ``body``: bytes of content that were sent for a GET of a file."""

    method: str
    path: str
    range: str
    token: str
    status: int = 0
    body: int = 0


@dataclass
class LocalHub:
    """What the servers serve, and the faults they have at the moment."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    break_after: list[int] = field(default_factory=list)  # each cuts one transfer of content after so many bytes
    status: int | None = None  # answer everything with it
    ignores_ranges: bool = False
    page: bytes | None = None  # answer everything with it, as networks do that want a login
    tail: bytes = b""  # sent behind every file
    damages: set[str] = field(default_factory=set)  # paths that are sent with one wrong byte
    known_tokens: set[str] = field(default_factory=set)
    pause_at: int | None = None  # a transfer waits here, once, until it may go on
    go_on: threading.Event = field(default_factory=threading.Event)
    endpoint: str = ""
    content: str = ""

    @property
    def content_bytes(self) -> int:
        """Bytes of files that were sent so far."""
        return sum(request.body for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[LocalHub]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.request_ = Request(self.command, path, self.headers.get("Range", ""), token)
        hub.requests.append(self.request_)
        if hub.status is not None:
            self._send(hub.status)
        elif hub.page is not None:
            self._send(200, {"Content-Type": "text/html"}, hub.page)
        elif path.startswith("/content/"):
            self._content(path.removeprefix("/content/"))
        elif match := _LISTING.fullmatch(path):
            self._listing(match[1], match[2], token)
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(*match.groups(), token)
        else:
            self._send(404)

    def _refused(self, name: str, token: str) -> bool:
        """Say no where it has to be said."""
        repository = self.hub.repositories.get(name)
        if token and token not in self.hub.known_tokens:
            self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repository is None:
            self._send(404 if token else 401, {"X-Error-Code": "RepoNotFound"})
        elif repository.readers is not None and token not in repository.readers:
            code = "GatedRepo" if repository.gated else "RepoNotFound"
            self._send((403 if token else 401) if repository.gated else 404, {"X-Error-Code": code})
        else:
            return False
        return True

    def _listing(self, name: str, revision: str, token: str) -> None:
        repository = self.hub.repositories.get(name)
        # As on the real hub, everybody sees what a gated repository holds.
        if (repository is None or not repository.gated or (token and token not in self.hub.known_tokens)) and (
            self._refused(name, token)
        ):
            return
        assert repository is not None
        if revision not in ("main", repository.commit):
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = []
        for path, data in repository.files.items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            if is_lfs(path):
                entry["lfs"] = {"sha256": etag(path, data), "size": len(data), "pointerSize": 130}
            else:
                entry["blobId"] = etag(path, data)
            siblings.append(entry)
        body = json.dumps({"id": name, "sha": repository.commit, "siblings": siblings}).encode()
        self._send(200, {"Content-Type": "application/json"}, body)

    def _resolve(self, name: str, revision: str, path: str, token: str) -> None:
        if self._refused(name, token):
            return
        repository = self.hub.repositories[name]
        if revision not in ("main", repository.commit):
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        elif path not in repository.files:
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit})
        else:
            data = repository.files[path]
            headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{etag(path, data)}"'}
            if is_lfs(path):
                headers |= {
                    "X-Linked-Size": str(len(data)),
                    "X-Linked-Etag": headers["ETag"],
                    "Location": f"{self.hub.content}/content/{name}/{path}?signature=x",
                }
                self._send(302, headers)
            else:
                self._bytes(path, data, headers)

    def _content(self, name: str) -> None:
        organisation, repository, path = name.split("/", 2)
        self._bytes(path, self.hub.repositories[f"{organisation}/{repository}"].files[path], {})

    def _bytes(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        if path in self.hub.damages:
            data = data[:-1] + bytes([data[-1] ^ 1])
        data += self.hub.tail
        begin = 0
        if (match := re.fullmatch(r"bytes=(\d+)-", self.request_.range)) and not self.hub.ignores_ranges:
            begin = int(match[1])
            headers = {**headers, "Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}
        self._send(206 if begin else 200, headers, data[begin:], counted=True)

    def _send(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", counted: bool = False
    ) -> None:
        self.request_.status = status
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = len(body)
        if counted and self.hub.break_after:
            cut = min(cut, self.hub.break_after.pop(0))
        for begin in range(0, cut, _BLOCK):
            if counted and self.hub.pause_at is not None and begin >= self.hub.pause_at:
                self.hub.pause_at = None
                self.hub.go_on.wait(60)
            try:
                self.wfile.write(body[begin : min(cut, begin + _BLOCK)])
            except ConnectionError:  # nobody reads any more
                self.close_connection = True
                return
            if counted:
                self.request_.body += min(cut, begin + _BLOCK) - begin
        if cut < len(body):
            self.close_connection = True


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    """A running hub."""
    hub = LocalHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.endpoint, hub.content = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()
