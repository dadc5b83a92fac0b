"""Connections that nothing arrives on are closed: uvicorn itself waits for a request for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from translate.serve.limits import Limits


def impatient(limits: Limits) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with a time for the head of a request: from connecting, and from the last answer.

    It counts to the end of the head, so that one byte a second does not hold a connection. One connection too many is
    closed at once.
    """
    class Impatient(H11Protocol):
        _giving_up: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._forget()

        def _watch(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._forget()
            elif self._giving_up is None:
                self._giving_up = self.loop.call_later(limits.head_seconds, self.transport.abort)

        def _forget(self) -> None:
            if self._giving_up is not None:
                self._giving_up.cancel()
                self._giving_up = None

    return Impatient
