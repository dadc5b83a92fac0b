"""What the tests of the server share: one in a thread of this process, and requests to it."""

from __future__ import annotations

import http.client
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from translate.serve.limits import Limits
from translate.serve.models import Models, Offer
from translate.serve.server import Place, serve
from translate.signals import StopRequest

BOUNDARY = "b0undary"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


def form(image: bytes | None, name: str = "image.png", **values: object) -> bytes:
    """A body of multipart/form-data. The name of the file stands in it as it is."""
    parts = [f'Content-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
             for key, value in values.items()]
    if image is not None:
        parts.append(f'Content-Disposition: form-data; name="image"; filename="{name}"\r\n'
                     "Content-Type: application/octet-stream\r\n\r\n".encode() + image + b"\r\n")
    return b"".join(b"--" + BOUNDARY.encode() + b"\r\n" + part for part in parts) + f"--{BOUNDARY}--\r\n".encode()


class Running:
    """A server that listens on this machine, and what it has said."""

    def __init__(self, place: Place, stop: StopRequest, thread: threading.Thread, lines: list[str]):
        self.port = place.socket.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.lines, self._stop, self._thread = lines, stop, thread

    def ask(self, method: str, path: str, body: bytes | None = None, seconds: float = 60.0,
            **headers: str) -> Answer:
        """The answer to a request; `X_Ticket` becomes the header X-Ticket."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if method == "POST":
            named = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"} | named
        try:
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def translate(self, image: bytes, name: str = "image.png", seconds: float = 60.0, headers: dict[str, str] | None
                  = None, **values: object) -> Answer:
        return self.ask("POST", "/translate", form(image, name, **values), seconds, **headers or {})

    def end(self) -> None:
        """Ask it to stop, as a signal does."""
        self._stop.number = 15

    def has_ended(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()


@contextmanager
def running(offers: list[Offer], limits: Limits | None = None, token: str | None = None, host: str = "127.0.0.1",
            log: Callable[[str], None] | None = None) -> Iterator[Running]:
    """A server in a thread, which has ended after the block."""
    place = Place.open(host, 0, token=token)
    ready, lines, stops = threading.Event(), list[str](), list[StopRequest]()

    def begin(stop: StopRequest) -> None:
        stops.append(stop)
        ready.set()

    thread = threading.Thread(target=serve, args=(Models(offers), place, limits, log or lines.append, begin))
    thread.start()
    assert ready.wait(30)
    server = Running(place, stops[0], thread, lines)
    try:
        yield server
    finally:
        server.end()
        assert server.has_ended(30), "the server does not end"


def new_ticket() -> str:
    return uuid.uuid4().hex


def left_in(folder: Path) -> list[str]:
    """What servers have left in a folder for temporary files."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
