"""SIGTERM and SIGINT as a request to stop: the program ends after it has finished and saved what it is working on."""

from __future__ import annotations

import signal
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

SECONDS_BEFORE_A_SECOND_SIGINT = 1.0  # sooner, it is the first one again, passed on by a launcher


class StopAsked(BaseException):
    """A stop was asked for while something was waited for."""


@dataclass(eq=False)
class StopRequest:
    """A request to stop: true once a signal has asked for it. No two are the same one."""

    number: int | None = None
    asked_at: float = 0.0  # when it was first asked for
    is_waiting: bool = False

    def __bool__(self) -> bool:
        return self.number is not None

    @property
    def name(self) -> str:
        """The signal that asked, as in SIGTERM."""
        return signal.Signals(self.number).name if self.number is not None else "another process"

    def ask(self, number: int, at: float) -> None:
        """Ask by signal `number`, which came `at` a time of `time.monotonic`; the first one's time is kept."""
        if not self:
            self.asked_at = at
        self.number = number

    @property
    def is_old(self) -> bool:
        """Whether it was asked for so long ago that a SIGINT now is another one, not the first passed on."""
        return bool(self) and time.monotonic() - self.asked_at > SECONDS_BEFORE_A_SECOND_SIGINT

    @contextmanager
    def ending_waits(self) -> Iterator[None]:
        """Wait for something within the block; a signal ends the wait, whatever it hangs in, by `StopAsked`.

        Nothing must be left half done by that.
        """
        self.is_waiting = True
        try:
            yield
        finally:
            self.is_waiting = False


@dataclass
class Minding:
    """What this process does about signals just now."""

    requests: list[StopRequest] = field(default_factory=list)  # of the blocks it is in, the innermost last
    is_command: bool = False  # whether the process ends once a signal has stopped its work


MINDING = Minding()


@contextmanager
def ending_once_stopped() -> Iterator[None]:
    """Within the block, work that a signal has asked to stop is the last: later signals are ignored, for good.

    For a command, whose process ends then with an exit code of its own: a second SIGTERM must not take its place.
    """
    MINDING.is_command = True
    try:
        yield
    finally:
        MINDING.is_command = False


@contextmanager
def minding_signals() -> Iterator[StopRequest]:
    """Yield a request that SIGTERM and SIGINT set within the block.

    A second SIGINT, more than a second after the first, raises `KeyboardInterrupt`. A second SIGTERM changes nothing:
    batch systems signal a launcher and its children, and the launcher signals the children again. Python allows signal
    handlers in the main thread only; in another thread the request is never set.

    Behind the block the handlers are those of before; where it lies within another, what was asked for is asked of that
    as well. In a command that was asked to stop, none is given back (`ending_once_stopped`).
    """
    request = StopRequest()
    in_a_hurry = False

    # The handlers: the first signal sets the request, an impatient person stops at once.
    def ask(number: int, frame: types.FrameType | None) -> None:
        nonlocal in_a_hurry
        if number == signal.SIGINT and request.is_old:
            in_a_hurry = True
            restore()
            raise KeyboardInterrupt
        request.ask(number, time.monotonic())
        if request.is_waiting:
            request.is_waiting = False  # the next signal must not end what the first one's end sets in order
            raise StopAsked

    def restore() -> None:
        for each, handler in previous.items():
            signal.signal(each, handler)

    def leave() -> None:
        MINDING.requests.remove(request)
        if request.number is not None and MINDING.requests:
            MINDING.requests[-1].ask(request.number, request.asked_at)
        elif request and MINDING.is_command and not in_a_hurry:
            for each in previous:
                signal.signal(each, signal.SIG_IGN)
            return
        restore()

    # Take over both signals for the block, and give them back to their handlers afterwards.
    previous: dict[int, Any] = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        for each in previous:
            signal.signal(each, ask)
    except ValueError:  # not the main thread
        yield request
        return
    MINDING.requests.append(request)
    try:
        yield request
    finally:
        leave()
