"""An S3 server of moto on this machine, and before it a door that is busy, cuts connections and refuses keys."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WRONG_KEY = "AKIAWRONGWRONGWRONG0"
SECRET = "a-secret-that-nobody-may-ever-print"


def error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


class Door(ThreadingHTTPServer):
    """Hands requests on to a server. `busy`, `cut`: how many of the next puts it answers with 503, or breaks off."""

    daemon_threads = True

    def __init__(self, port: int):
        self.behind, self.busy, self.cut, self.num_faults = port, 0, 0, 0
        super().__init__(("127.0.0.1", 0), Passing)


class Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Door

    def pass_on(self) -> None:
        if self.command == "PUT" and self.server.cut > 0:  # in the middle of an upload
            self.server.cut, self.server.num_faults = self.server.cut - 1, self.server.num_faults + 1
            self.rfile.read(10)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if WRONG_KEY in self.headers.get("Authorization", ""):
            self.answer(403, error("InvalidAccessKeyId"))
        elif self.command == "PUT" and self.server.busy > 0:
            self.server.busy, self.server.num_faults = self.server.busy - 1, self.server.num_faults + 1
            self.answer(503, error("SlowDown"))
        else:
            behind = http.client.HTTPConnection("127.0.0.1", self.server.behind)
            behind.request(self.command, self.path, body, dict(self.headers))
            got = behind.getresponse()
            self.answer(got.status, got.read(), dict(got.getheaders()))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {"Content-Type": "application/xml"}).items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        length = (headers or {}).get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):  # a client that was killed
                self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@contextmanager
def s3(log: Path) -> Iterator[Door]:
    """Run both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                              stdout=log.open("w"), stderr=subprocess.STDOUT)
    door = Door(port)
    threading.Thread(target=door.serve_forever, daemon=True).start()
    try:
        until = time.monotonic() + 90
        while time.monotonic() < until:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.1)
        yield door
    finally:
        door.shutdown()
        server.kill()
        server.wait()
