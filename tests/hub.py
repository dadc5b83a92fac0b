"""A Hub on loopback: as much of its interface as creating a repository, uploading to it and downloading from it need.

Repositories are kept in memory; every commit stays, as a revision of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

TOKEN = "hf_of_the_tests"
Files = dict[str, bytes]


@dataclass
class Repository:
    """What a repository holds: the files of each commit, by its hash, and the newest of them."""

    private: bool = False
    newest: str = "0" * 40
    commits: dict[str, Files] = field(default_factory=lambda: {"0" * 40: {}})

    def commit(self, changed: Mapping[str, bytes | None]) -> str:
        """A file without content is deleted."""
        held = {name: content for name, content in {**self.commits[self.newest], **changed}.items()
                if content is not None}
        about = json.dumps([(name, sha256(content)) for name, content in sorted(held.items())])
        self.newest = hashlib.sha1(about.encode()).hexdigest()
        self.commits[self.newest] = held
        return self.newest

    def at(self, revision: str) -> tuple[str, Files] | None:
        commit = self.newest if revision == "main" else revision
        return (commit, self.commits[commit]) if commit in self.commits else None


class Hub(ThreadingHTTPServer):
    """The server. `cut_after`: it breaks off every download of more bytes there."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.uploads: Files = {}
        self.requests: list[str] = []
        self.cut_after: int | None = None
        self.connections: list[socket.socket] = []
        self.thread = threading.Thread(target=lambda: self.serve_forever(0.02), daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        if self.thread.is_alive():
            self.shutdown()
            self.thread.join()
        self.server_close()
        for connection in self.connections:  # a client keeps its own open, and would still be answered
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_POST = do_PUT = do_HEAD = do_GET

    def answer(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        body = self.body()
        if path == "/api/repos/create":
            self.create(json.loads(body))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)/([^/]+).*)?", path):
            self.about(found[1], found[2] or "revision", found[3] or "main", body)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self.say({"transfer": "basic", "objects": [
                each | {"actions": {"upload": {"href": f"{self.server.address}/upload/{each['oid']}", "header": {}}}}
                for each in json.loads(body)["objects"]]})
        elif path.startswith("/upload/"):
            assert sha256(body) == path.removeprefix("/upload/")
            self.server.uploads[sha256(body)] = body
            self.say({})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.download(found[1], found[2], found[3])
        elif path in ("/api/validate-yaml", "/api/whoami-v2"):
            self.say({"errors": [], "warnings": [], "name": "org", "type": "user"})
        else:
            self.say({"error": f"the fake Hub knows no {path}"}, 404)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def say(self, answer: Any, status: int = 200, **headers: Any) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": len(content)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        if not isinstance(answer, bytes):
            self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.server.cut_after
        if isinstance(answer, bytes) and cut is not None and len(content) > cut:
            self.wfile.write(content[:cut])
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(content)

    def has_token(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.say({"error": "Invalid credentials"}, 401)
        return False

    def repository(self, name: str) -> Repository | None:
        found = self.server.repositories.get(name)
        if found is None or (found.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            self.say({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            return None
        return found

    def create(self, asked: dict[str, Any]) -> None:
        if not self.has_token():
            return
        name = f"{asked.get('organization') or 'org'}/{asked['name']}"
        if name in self.server.repositories:
            self.say({"error": "You already created this model repo", "url": f"{self.server.address}/{name}"}, 409)
            return
        self.server.repositories[name] = Repository(private=asked.get("private") or False)
        self.say({"url": f"{self.server.address}/{name}", "name": name, "id": name})

    def about(self, name: str, what: str, revision: str, body: bytes) -> None:
        found = self.repository(name)
        if found is None:
            return
        if what == "preupload" and self.has_token():
            self.say({"files": [{"path": each["path"], "shouldIgnore": False, "uploadMode": "lfs" if is_lfs(
                each["path"]) else "regular"} for each in json.loads(body)["files"]]})
        elif what == "commit" and self.has_token():
            commit = found.commit(self.changed(body))
            self.say({"success": True, "commitOid": commit, "hookOutput": "",
                      "commitUrl": f"{self.server.address}/{name}/commit/{commit}"})
        elif what in ("tree", "revision"):
            state = found.at(revision)
            if state is None:
                self.say({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
            elif what == "tree":
                self.say([listed(path, content) for path, content in state[1].items()])
            else:
                self.say({"id": name, "modelId": name, "sha": state[0], "private": found.private, "tags": [],
                          "siblings": [{"rfilename": path} for path in state[1]]})

    def changed(self, body: bytes) -> dict[str, bytes | None]:
        lines = [json.loads(line) for line in body.splitlines()]
        small = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines
                 if line["key"] == "file"}
        return small | {line["value"]["path"]: self.server.uploads[line["value"]["oid"]] for line in lines
                        if line["key"] == "lfsFile"} | {line["value"]["path"]: None for line in lines
                                                        if line["key"] == "deletedFile"}

    def download(self, name: str, revision: str, path: str) -> None:
        found = self.repository(name)
        state = found and found.at(revision)
        if found is None:
            return
        if state is None:
            self.say({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        elif path not in state[1]:
            self.say({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=state[0])
        else:
            content, begin = state[1][path], re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            headers = {"ETag": f'"{sha256(content) if is_lfs(path) else git_hash(content)}"', "X_Repo_Commit": state[0]}
            if begin:
                headers["Content_Range"] = f"bytes {begin[1]}-{len(content) - 1}/{len(content)}"
                self.say(content[int(begin[1]):], 206, **headers)
            else:
                self.say(content, **headers)


def is_lfs(path: str) -> bool:
    return path.endswith(".safetensors")


def listed(path: str, content: bytes) -> dict[str, Any]:
    large = {"lfs": {"oid": sha256(content), "size": len(content), "pointerSize": 130}} if is_lfs(path) else {}
    return {"type": "file", "oid": git_hash(content), "size": len(content), "path": path} | large


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
