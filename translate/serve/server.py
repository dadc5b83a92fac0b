"""The server itself: a socket, its loop, and signals that end it after what is in hand."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import uvicorn

from translate.errors import UsageError
from translate.host.signals import StopRequest, minding_signals
from translate.serve.admission import Admission, is_local
from translate.serve.app import Service
from translate.serve.connections import impatient
from translate.serve.limits import Limits
from translate.serve.models import Models
from translate.serve.workplace import workplace

TOKEN_BYTES = 24
LEAST_TOKEN_LETTERS = 16
LOOK_SECONDS = 0.1  # between two looks at whether a signal has asked to stop


@dataclass(frozen=True)
class Place:
    """Where a server listens: an open socket, and who is let in."""

    socket: socket.socket
    admission: Admission
    is_local: bool

    @classmethod
    def open(cls, host: str, port: int, names: Sequence[str] = (), token: str | None = None) -> Place:
        """Listen at an address. One that other machines reach has a token, made here where none is given.

        Raises `UsageError` for an address that is not this machine's or is in use, and for a token that is too short.
        """
        local = is_local(host)
        if token is not None and (len(token) < LEAST_TOKEN_LETTERS or not token.isascii() or not token.isprintable()):
            raise UsageError(f"the token has {len(token)} letters; expected {LEAST_TOKEN_LETTERS} or more, of ASCII")
        if token is None and not local:
            token = secrets.token_urlsafe(TOKEN_BYTES)
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            opened = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as error:
            raise UsageError(f"cannot listen at port {port}: {getattr(error, 'strerror', None) or error}", host,
                             "choose another with --host and --port") from None
        return cls(opened, Admission(frozenset(name.lower() for name in (*names, socket.gethostname())), token), local)

    @property
    def address(self) -> str:
        """The address of the page, with the token behind `#`, which a browser does not send and no log keeps."""
        host, port = self.socket.getsockname()[:2]
        name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
        token = f"#{self.admission.token}" if self.admission.token else ""
        return f"http://{f'[{name}]' if ':' in name else name}:{port}/{token}"


class Server(uvicorn.Server):
    """uvicorn's server, ended by a request to stop rather than by handlers of its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(models: Models, place: Place, limits: Limits | None = None, log: Callable[[str], None] = lambda line: None,
          ready: Callable[[StopRequest], None] = lambda stop: None) -> None:
    """Serve until SIGTERM or SIGINT: then what is with the generator is finished and sent, and all others refused.

    `ready` is called once requests are taken, with what a signal sets; another thread may set it as well.
    """
    limits = limits or Limits()
    with workplace() as folder, minding_signals() as stop:
        service = Service(models, place.admission, folder, limits, log)
        try:
            asyncio.run(_serve(service, place, limits, stop, ready))
        finally:
            service.close()


async def _serve(service: Service, place: Place, limits: Limits, stop: StopRequest,
                 ready: Callable[[StopRequest], None]) -> None:
    config = uvicorn.Config(service.app, http=impatient(limits), ws="none", lifespan="off", log_config=None,
                            access_log=False, server_header=False, limit_concurrency=limits.connections,
                            proxy_headers=False)
    server = Server(config)
    running = asyncio.ensure_future(server.serve(sockets=[place.socket]))
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    ready(stop)
    while not stop and not running.done():
        await asyncio.sleep(LOOK_SECONDS)
    service.end()
    server.should_exit = True
    await running
