"""SIGTERM and SIGINT as a request: the work in hand is finished and saved first."""

from __future__ import annotations

import signal
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class StopRequest:
    """True once a signal has asked for a stop; `name` says which."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name if self.number is not None else "another process"


@contextmanager
def minding_signals() -> Iterator[StopRequest]:
    """SIGTERM and SIGINT set the request within the block. A second SIGINT, a second later, stops at once.

    A second SIGTERM does not: batch systems signal a launcher and its children, and the launcher signals them again.
    Outside the main thread signals are its owner's to mind, and the request stays unset.
    """
    request = StopRequest()
    asked: list[float] = []

    def ask(number: int, frame: types.FrameType | None) -> None:
        if number == signal.SIGINT and request and time.monotonic() - asked[0] > 1.0:
            restore()
            raise KeyboardInterrupt
        asked.append(time.monotonic())
        request.number = number

    def restore() -> None:
        for each, handler in previous.items():
            signal.signal(each, handler)

    previous: dict[int, Any] = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        for each in previous:
            signal.signal(each, ask)
    except ValueError:
        yield request
        return
    try:
        yield request
    finally:
        restore()
