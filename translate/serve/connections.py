"""Connections that nothing arrives on, or that take nothing, are aborted: uvicorn itself waits for them for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from translate.serve.limits import Limits

ABORT = "abort"  # the name, in the state of a request, of what ends its connection at once


def impatient(limits: Limits) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with a time for the head of a request: from connecting, and from the last answer.

    It counts to the end of the head, so that one byte a second does not hold a connection. One connection too many is
    closed at once. So is one that takes nothing of what waits to be sent: after `answer_seconds`, and sooner once the
    server is to end, which would wait for it.
    """
    class Impatient(H11Protocol):
        _giving_up: asyncio.TimerHandle | None = None
        _untaken: asyncio.TimerHandle | None = None
        _patience = limits.answer_seconds

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.app_state = {**self.app_state, ABORT: transport.abort}
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
            self._is_taken()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._untaken = self.loop.call_later(self._patience, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._is_taken()

        def shutdown(self) -> None:
            super().shutdown()
            self._patience = limits.idle_seconds
            if self._untaken is not None:
                self._is_taken()
                self._untaken = self.loop.call_later(self._patience, self.transport.abort)

        def _is_taken(self) -> None:
            if self._untaken is not None:
                self._untaken.cancel()
                self._untaken = None

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
