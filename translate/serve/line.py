"""Whose turn it is: one image at a time, in the order in which their uploads end, and no more places than there are."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

from translate.serve.limits import Refused

T = TypeVar("T")
MOST_RETRY_SECONDS = 300
NEWEST = 0.3  # the share of the newest in the average of the seconds that an image takes


@dataclass(eq=False)
class Ticket:
    """Where one request stands. `expected`: seconds from `began` to its end, where images before it let it be told."""

    state: Literal["uploading", "waiting", "working", "sending"] = "uploading"
    began: float = 0.0
    expected: float | None = None

    def seconds(self) -> float:
        """Return for how long it has been in this state."""
        return time.monotonic() - self.began


class Line:
    """Places for requests, one of which is worked for at a time, in a thread of its own.

    For one event loop. Once it `is_closing`, whoever is not being worked for is refused.
    """

    def __init__(self, places: int, name: str):
        self.places, self.is_closing = places, False
        self.tickets: list[Ticket] = []
        self._turn = asyncio.Lock()  # whoever waits gets it in their order
        self._thread = ThreadPoolExecutor(1, name)
        self._seconds = 1.0  # that an image has taken, the newest counting most

    @contextmanager
    def place(self) -> Iterator[Ticket]:
        """Hold a place for the block. Raises `Refused` where none is free."""
        self.check()
        if len(self.tickets) >= self.places:
            raise self._full("all places are taken")
        ticket = Ticket()
        self.tickets.append(ticket)
        try:
            yield ticket
        finally:
            self.tickets.remove(ticket)

    def check(self) -> None:
        """Raise `Refused` where the server is about to end."""
        if self.is_closing:
            raise self._full("the server is ending")

    async def run(self, ticket: Ticket, work: Callable[[], T]) -> T:
        """Do the work when it is this ticket's turn. What has begun is finished, also where nobody waits for it."""
        ticket.state, ticket.began = "waiting", time.monotonic()
        async with self._turn:
            self.check()
            ticket.state, ticket.began = "working", time.monotonic()
            running = asyncio.get_running_loop().run_in_executor(self._thread, work)
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                with suppress(Exception):
                    await asyncio.wait([running])
                raise
            finally:
                self._seconds += NEWEST * (time.monotonic() - ticket.began - self._seconds)
                ticket.state, ticket.began = "sending", time.monotonic()

    def ahead_of(self, ticket: Ticket) -> int:
        """Return how many are before a waiting ticket."""
        return sum(each.state == "working" or (each.state == "waiting" and each.began < ticket.began)
                   for each in self.tickets)

    def close(self) -> None:
        """End the thread, after the work in hand."""
        self._thread.shutdown()

    def _full(self, why: str) -> Refused:
        seconds = math.ceil(self._seconds * max(1, len(self.tickets)))
        return Refused(503, f"{why}; try again later", retry_after=str(min(seconds, MOST_RETRY_SECONDS)))
