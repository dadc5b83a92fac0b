"""What the tests of the server share: one in a thread of this process, and requests to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from translate.host.signals import StopRequest
from translate.serve.limits import Limits
from translate.serve.models import Models, Offer
from translate.serve.server import Place, serve
from translate.serve.workplace import LOCK, START

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

    def __init__(self, port: int, end: Callable[[], None] = lambda: None, lines: list[str] | None = None):
        self.port, self.address = port, f"http://127.0.0.1:{port}"
        self.end, self.lines = end, [] if lines is None else lines

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


@contextmanager
def running(offers: list[Offer], limits: Limits | None = None, token: str | None = None) -> Iterator[Running]:
    """A server in a thread, which has ended after the block; `end` asks it to, as a signal does."""
    place = Place.open("127.0.0.1", 0, token=token)
    port = place.socket.getsockname()[1]
    ready, lines, stops = threading.Event(), list[str](), list[StopRequest]()

    def begin(stop: StopRequest) -> None:
        stops.append(stop)
        ready.set()

    def end() -> None:
        stops[0].number = signal.SIGTERM

    thread = threading.Thread(target=serve, args=(Models(offers), place, limits, lines.append, begin), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield Running(port, end, lines)
    finally:
        end()
        thread.join(30)
        assert not thread.is_alive(), "the server does not end"


def new_ticket() -> str:
    return uuid.uuid4().hex


def left_in(folder: Path) -> list[str]:
    """What servers that keep their images in folders of `folder` have there, but for what says that they live.

    Folders that they remove meanwhile are passed over, which `rglob` does not do.
    """
    return sorted(os.path.relpath(Path(inside) / name, folder) for each in folder.glob(f"{START}*")
                  for inside, folders, files in os.walk(each) for name in [*folders, *files] if name != LOCK)
